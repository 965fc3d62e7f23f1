//! What a model tells its agent to do: read on the way, and sealed before the agent has it.
//!
//! For the hosts that the policy names (`inspect`). Nothing is decided here: the agent may ask its user first,
//! and the wall decides when it acts.

use std::{
    ffi::OsString,
    path::Path,
    sync::{Arc, OnceLock, Weak},
};

use agentwall_egress::{Carried, Inspect, Outcome};
use agentwall_ledger::{Record, entry::Gap};
use agentwall_observe::{CarryError, Inspector, Sink, ToolCall, Unread};
use rustix::fd::OwnedFd;

use super::Supervisor;
use crate::intent::{Statement, claims};

/// The source of such intents.
pub const SOURCE: &str = "model";

/// Where agents find their model: variable, place when it is not set.
const PLACES: [(&str, &str); 3] = [
    ("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    (
        "GOOGLE_GEMINI_BASE_URL",
        "https://generativelanguage.googleapis.com",
    ),
];

/// The variables that lead an agent to the wall for the hosts in `inspected`: plain HTTP, from which the wall makes TLS.
pub fn places(
    inspected: &[String],
    known: impl Fn(&str) -> Option<OsString>,
) -> Vec<(OsString, OsString)> {
    let each = PLACES.iter().filter_map(|(variable, usual)| {
        let place = match known(variable) {
            Some(set) => set.into_string().ok()?,
            None => (*usual).to_owned(),
        };
        let rest = place.strip_prefix("https://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.strip_suffix(":443").unwrap_or(authority);
        let reads = inspected.iter().any(|name| name.eq_ignore_ascii_case(host));
        reads.then(|| ((*variable).into(), format!("http://{host}{path}").into()))
    });
    each.collect()
}

/// Reads what models say to the agent of a session.
#[derive(Debug)]
pub struct ModelReader {
    supervisor: Weak<Supervisor>,
    broker: u32,
    /// Made when it is needed: it reads the host's certificates.
    inspector: OnceLock<Result<Inspector, String>>,
}

impl ModelReader {
    /// For a session whose broker is this process.
    pub fn new(supervisor: &Arc<Supervisor>, broker: u32) -> ModelReader {
        ModelReader {
            supervisor: Arc::downgrade(supervisor),
            broker,
            inspector: OnceLock::new(),
        }
    }
}

impl Inspect for ModelReader {
    fn reads(&self, host: &str) -> bool {
        let Some(supervisor) = self.supervisor.upgrade() else {
            return false;
        };
        let policy = supervisor.engine.policy();
        policy.inspect().iter().any(|name| name == host)
    }

    fn carry(&self, client: OwnedFd, upstream: OwnedFd, host: &str, stop: &OwnedFd) -> Carried {
        let inspector = self.inspector.get_or_init(|| {
            let sink = Heard {
                supervisor: self.supervisor.clone(),
                broker: self.broker,
            };
            Inspector::new(Arc::new(sink)).map_err(|e| e.to_string())
        });
        let (carried, result) = match inspector {
            Ok(inspector) => inspector.carry(client, upstream, host, stop),
            Err(why) => {
                let outcome = Outcome::Uninspected(why.clone());
                return Carried {
                    up: 0,
                    down: 0,
                    outcome,
                };
            }
        };
        Carried {
            up: carried.up,
            down: carried.down,
            outcome: match result {
                Ok(()) => Outcome::Closed,
                Err(CarryError::Stopped) => Outcome::ShutDown,
                // It broke off, or was cut: then the ledger has failed, which is told where that is noticed.
                Err(CarryError::Agent(_)) => Outcome::Reset,
                Err(error) => Outcome::Uninspected(error.to_string()),
            },
        }
    }
}

struct Heard {
    supervisor: Weak<Supervisor>,
    broker: u32,
}

impl Sink for Heard {
    fn tool_call(&self, _: &str, call: &ToolCall) -> Result<(), String> {
        let supervisor = self.supervisor.upgrade().ok_or("the session is over")?;
        let workspace = supervisor.engine.facts().session.workspace.clone();
        let statement = Statement {
            source: Some(SOURCE.to_owned()),
            tool: Some(call.name.clone()),
            call: (!call.id.is_empty()).then(|| call.id.clone()),
            why: call.why.clone(),
            does: claims::of_tool(&call.name, &call.input, Path::new(&workspace)),
            parameters: call.input.clone(),
        };
        supervisor.model_says(statement, self.broker)
    }

    fn request(&self, _: &str, body: &[u8]) {
        if let Some(supervisor) = self.supervisor.upgrade() {
            supervisor.model_hears(body);
        }
    }

    fn unread(&self, host: &str, why: Unread) {
        if let Some(supervisor) = self.supervisor.upgrade() {
            supervisor.note(Record::Gap(Gap {
                lost: 0,
                reason: format!("what the model at {host} says is not read: {why}"),
                ..Gap::default()
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_led_to_the_wall_for_the_hosts_that_are_read() {
        let named = ["api.anthropic.com".to_owned(), "gate.example".to_owned()];
        let of = |inspected: &[String], set: &[(&str, &str)]| {
            let known = |name: &str| {
                let found = set.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let each = places(inspected, known).into_iter();
            let text = |s: OsString| s.into_string().unwrap();
            each.map(|(n, v)| format!("{}={}", text(n), text(v)))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[], &[]), [""; 0]);
        assert_eq!(
            of(&named, &[]),
            ["ANTHROPIC_BASE_URL=http://api.anthropic.com"]
        );
        assert_eq!(
            of(
                &named,
                &[("OPENAI_BASE_URL", "https://Gate.example:443/v1/x")]
            ),
            [
                "ANTHROPIC_BASE_URL=http://api.anthropic.com",
                "OPENAI_BASE_URL=http://Gate.example/v1/x"
            ]
        );
        // Another place, another port, or plain HTTP that the user wanted: left as it is.
        for other in [
            "https://other.example",
            "https://gate.example:8443",
            "http://gate.example",
        ] {
            assert_eq!(of(&named, &[("ANTHROPIC_BASE_URL", other)]), [""; 0]);
        }
    }
}
