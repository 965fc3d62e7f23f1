//! Questions to a person: held here, shown by `agentwall pending`, answered over the session's
//! approval channel (`channel`), which the agent cannot see.
//!
//! A question is bound to the exact object (path and inode, or destination), the arguments and the
//! policy digest; its digest is what the ledger records, and an answer is used once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agentwall_action::{Decision, Effect, Hint};
use agentwall_engine::{Grant, Scope};
use agentwall_ledger::{Record, entry::Approval, hash::sha256_hex};
use agentwall_wall::wire::Event;

use super::{Supervisor, lock};
use crate::control::{PendingAsk, Response};

type Reply = Box<dyn FnOnce(Decision) + Send>;

struct Open {
    event: Event,
    digest: String,
    since: SystemTime,
    deadline: Instant,
    expires: SystemTime,
    reply: Reply,
}

/// The open questions of a session.
pub struct Asks {
    prefix: String,
    timeout: Duration,
    next: AtomicU64,
    open: Mutex<BTreeMap<String, Open>>,
}

/// How many questions may wait at once: a flood must not bury the one that matters.
const MAX_OPEN: usize = 64;

impl Asks {
    pub(super) fn new(session: &str, timeout: Duration) -> Asks {
        let prefix = session.rsplit('-').next().unwrap_or(session).to_owned();
        Asks {
            prefix,
            timeout,
            next: AtomicU64::new(1),
            open: Mutex::default(),
        }
    }

    /// Puts a question, unless a standing answer covers it by now; `reply` gets the decision.
    pub(super) fn ask(
        &self,
        supervisor: &Arc<Supervisor>,
        event: Event,
        reply: impl FnOnce(Decision) + Send + 'static,
    ) {
        let now = supervisor.engine.decide(&event.action);
        // In the moment of a change the broker may ask by another policy. Then it is asked as well:
        // the rest of the operation was decided by the broker's.
        if now.effect != Effect::Ask && now.policy == event.decision.policy {
            supervisor.record(Event {
                decision: now.clone(),
                ..event
            });
            return reply(now);
        }
        let digest = binding(&event);
        let id = format!(
            "{}-{}",
            self.prefix,
            self.next.fetch_add(1, Ordering::Relaxed)
        );
        let mut open = lock(&self.open);
        if open.len() >= MAX_OPEN {
            drop(open);
            let decision = refusal(&event.decision, "too many questions wait already");
            supervisor.record(Event {
                decision: decision.clone(),
                ..event
            });
            return reply(decision);
        }
        supervisor.record(event.clone());
        let now = SystemTime::now();
        eprintln_notice(&id, &event);
        open.insert(
            id.clone(),
            Open {
                event,
                digest,
                since: now,
                deadline: Instant::now() + self.timeout,
                expires: now + self.timeout,
                reply: Box::new(reply),
            },
        );
        drop(open);
        let me = Arc::clone(supervisor);
        let timeout = self.timeout;
        std::thread::spawn(move || {
            std::thread::sleep(timeout);
            me.asks.expire(&me, &id);
        });
    }

    fn expire(&self, supervisor: &Supervisor, id: &str) {
        let Some(open) = lock(&self.open).remove(id) else {
            return;
        };
        debug_assert!(open.deadline <= Instant::now());
        let refused = refusal(&open.event.decision, "nobody answered in time");
        // What cannot be recorded is refused as well.
        let _ = close(supervisor, id, open, "timeout", Scope::Once, refused, None);
    }

    /// Ends a question that the policy in force decides without a person.
    fn decided(
        &self,
        supervisor: &Supervisor,
        id: &str,
        open: Open,
        decision: Decision,
    ) -> Response {
        let object = &open.event.action.resource;
        let proceeds = decision.effect.proceeds();
        let text = match proceeds {
            true => format!("the policy that is in force by now allows it: {object}"),
            false => format!(
                "the policy that is in force by now denies it: {object}; approving cannot change that"
            ),
        };
        if !proceeds {
            supervisor.record(Event {
                decision: decision.clone(),
                ..open.event.clone()
            });
        }
        match close(supervisor, id, open, "policy", Scope::Once, decision, None) {
            Ok(()) if proceeds => Response::Done { text },
            Ok(()) => Response::Error { text },
            Err(text) => Response::Error { text },
        }
    }

    /// The questions that wait, as the policy in force puts them.
    pub(super) fn pending(&self, supervisor: &Supervisor) -> Vec<PendingAsk> {
        let ms = |t: SystemTime| {
            t.duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_millis() as u64)
        };
        lock(&self.open)
            .iter_mut()
            .map(|(id, open)| {
                open.put_again(supervisor);
                (id, &*open)
            })
            .map(|(id, open)| PendingAsk {
                id: id.clone(),
                session: supervisor.session.clone(),
                name: supervisor.engine.facts().session.name.clone(),
                action: open.event.action.clone(),
                decision: open.event.decision.clone(),
                exe: open.event.actor.exe.clone(),
                pid: open.event.actor.pid,
                since_ms: ms(open.since),
                expires_ms: ms(open.expires),
                digest: open.digest.clone(),
                canonical: Some(bound_text(&open.event)),
                risks: Vec::new(),
                before: None,
            })
            .collect()
    }

    /// A person says yes.
    pub(super) fn approve(
        &self,
        supervisor: &Supervisor,
        id: &str,
        scope: Scope,
        digest: Option<&str>,
    ) -> Response {
        let Some(mut open) = lock(&self.open).remove(id) else {
            return unknown(id);
        };
        if let Some(decided) = open.put_again(supervisor) {
            return self.decided(supervisor, id, open, decided);
        }
        if digest.is_some_and(|shown| shown != open.digest) {
            lock(&self.open).insert(id.to_owned(), open);
            return changed(id);
        }
        let mut grant = None;
        if scope != Scope::Once {
            match Grant::new(&open.event.action, &open.event.decision, scope.clone()) {
                Ok(made) => grant = Some(made),
                Err(e) => {
                    lock(&self.open).insert(id.to_owned(), open);
                    return Response::Error {
                        text: e.to_string(),
                    };
                }
            }
        }
        let text = format!("approved for {scope}: {}", open.event.action.resource);
        let decision = &open.event.decision;
        let allowed = Decision {
            effect: Effect::Allow,
            reason: format!("approved: {}", decision.reason),
            ..decision.clone()
        };
        match close(supervisor, id, open, "approve", scope, allowed, grant) {
            Ok(()) => Response::Done { text },
            Err(text) => Response::Error { text },
        }
    }

    /// A person says no. That holds, whatever another policy says by now.
    pub(super) fn reject(
        &self,
        supervisor: &Supervisor,
        id: &str,
        reason: Option<String>,
    ) -> Response {
        let Some(mut open) = lock(&self.open).remove(id) else {
            return unknown(id);
        };
        open.put_again(supervisor);
        let text = format!("rejected: {}", open.event.action.resource);
        let reason = reason.as_deref().unwrap_or("a person said no");
        let refused = refusal(&open.event.decision, reason);
        match close(supervisor, id, open, "reject", Scope::Once, refused, None) {
            Ok(()) => Response::Done { text },
            Err(text) => Response::Error { text },
        }
    }
}

/// Ends a question. The answer is durable before the action goes on and before it stands for others; one that cannot be
/// recorded refuses the action and leaves nothing behind.
fn close(
    supervisor: &Supervisor,
    id: &str,
    open: Open,
    verdict: &str,
    scope: Scope,
    decision: Decision,
    grant: Option<Grant>,
) -> Result<(), String> {
    let approval = Approval {
        ask: id.to_owned(),
        verdict: verdict.to_owned(),
        scope: match &scope {
            Scope::Once => "once".into(),
            Scope::Session => "session".into(),
            Scope::Pattern(_) => "pattern".into(),
        },
        pattern: match scope {
            Scope::Pattern(p) => Some(p),
            _ => None,
        },
        by: format!("uid:{}", rustix::process::getuid().as_raw()),
        binding: open.digest,
    };
    if let Err(e) = supervisor.seal(Record::Approval(approval)) {
        let why = format!("the answer could not be recorded: {e}");
        (open.reply)(refusal(&decision, &why));
        return Err(format!("{why}; the action is refused"));
    }
    if let Some(grant) = grant {
        supervisor.engine.grant(grant);
    }
    (open.reply)(decision);
    Ok(())
}

impl Open {
    /// Decides again if another policy has come into force since the question was put. If it asks as
    /// well, the question is now its own and an answer bound to it; else this is its decision.
    fn put_again(&mut self, supervisor: &Supervisor) -> Option<Decision> {
        let held = supervisor.engine.hold();
        if held.policy().digest() == self.event.decision.policy {
            return None;
        }
        let decision = held.decide(&self.event.action);
        if decision.effect != Effect::Ask {
            return Some(decision);
        }
        self.event.decision = decision;
        self.digest = binding(&self.event);
        None
    }
}

/// What an answer is bound to: action, object and policy.
pub(crate) fn bound_text(event: &Event) -> String {
    // Serialising values that came from JSON cannot fail.
    serde_json::to_string(&(&event.action, &event.binding, &event.decision.policy))
        .unwrap_or_default()
}

/// The digest of that.
pub(crate) fn binding(event: &Event) -> String {
    sha256_hex(bound_text(event).as_bytes())
}

/// Another question stands under that id than the one that was shown.
pub(crate) fn changed(id: &str) -> Response {
    Response::Error {
        text: format!(
            "question {} is another one by now; look at it again",
            agentwall_action::escape_text(id)
        ),
    }
}

pub(crate) fn unknown(id: &str) -> Response {
    Response::Error {
        text: format!(
            "no question {} is open (answered, expired or mistyped); `agentwall pending` lists \
             the open ones",
            agentwall_action::escape_text(id)
        ),
    }
}

pub(crate) fn refusal(decision: &Decision, why: &str) -> Decision {
    Decision {
        effect: Effect::Deny,
        reason: if decision.reason.is_empty() {
            why.to_owned()
        } else {
            format!("{why} ({})", decision.reason)
        },
        hint: Hint {
            next: Some("ask-user".into()),
            ..decision.hint.clone()
        },
        ..decision.clone()
    }
}

/// A line on the terminal that started the wall, unless the agent is using that terminal.
fn eprintln_notice(id: &str, event: &Event) {
    use std::io::IsTerminal;
    if !std::io::stdin().is_terminal() {
        eprintln!(
            "agentwall: waiting for you: {} {} (agentwall approve {id} | agentwall reject {id})",
            event.action.verb, event.action.resource
        );
    }
}

#[cfg(test)]
#[path = "asks_tests.rs"]
mod tests;
