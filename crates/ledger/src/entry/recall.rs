//! From a recorded decision back to the action it was about: what a replay needs.
//!
//! Exact or not at all: whatever the entry, and the start of its session, do not tell to the byte
//! is an error that says so, never a guess. Text comes back through the escaping that wrote it, the
//! arguments of a program are compared with their digest, and the object that was put together must
//! read as the entry does.

use std::{ffi::OsString, net::IpAddr, os::unix::ffi::OsStringExt as _};

use agentwall_action::{
    Action, Auth, Effect, Endpoint, Facts, ObjectKind, PathResource, Protocol, Resource,
    Session as SessionFacts, Subject, Verb, VerbFamily, unescape_bytes,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{DecisionRecord, Entry, Exec, Record, SessionStart, Withheld, argv_sha256, clip};

/// A recorded decision that can be made again.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// What was decided on. Its `args` are null when they are not known.
    pub action: Action,
    /// What the policy answered, whatever was carried out in the end.
    pub effect: Effect,
    /// The rule; `None` when the default said so.
    pub rule: Option<String>,
    /// Whether `action.facts.args` is what the policy saw. If not, only a policy that does not read
    /// the arguments of this verb can be asked.
    pub args: bool,
}

/// Why a recorded decision cannot be made again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecallable {
    /// Format 1.
    #[error("written by an earlier version, without the facts")]
    NoFacts,
    /// The session's start is not before it in the log, is not known, or tells no variables.
    #[error(
        "the start of its session is not in the log, has no text any more, or was written by an earlier version"
    )]
    NoStart,
    /// Its text is not known.
    #[error("{0}")]
    Withheld(Withheld),
    /// A verb or effect that this version does not have.
    #[error("this version does not know the action or the effect")]
    Vocabulary,
    /// Text was cut.
    #[error("a text of it was too long for an entry and was cut")]
    Cut,
    /// The policy was exchanged between the decision and its record.
    #[error("the policy was exchanged while it was recorded: its own answer is not known")]
    NoAnswer,
    /// A host name without the address it led to.
    #[error("the address behind its host name is not recorded")]
    NoAddress,
    /// What was put together is not what the entry shows.
    #[error("it does not read as this version writes it")]
    Shape,
}

impl Record {
    /// The decision in it, if it is about one.
    pub fn decision(&self) -> Option<&DecisionRecord> {
        match self {
            Record::Decision(decision) => Some(decision),
            Record::Exec(exec) => Some(&exec.decision),
            Record::Connect(connect) => Some(&connect.decision),
            _ => None,
        }
    }
}

impl Entry {
    /// The action behind a decision, with all its facts, and what the policy answered. `None` for an
    /// entry without a decision. `start` is the start of the entry's session.
    pub fn recall(&self, start: Option<&SessionStart>) -> Option<Result<Recalled, NotRecallable>> {
        if let Record::Committed(committed) = &self.record
            && ["decision", "exec", "connect"].contains(&&*committed.kind)
        {
            return Some(Err(NotRecallable::Withheld(committed.withheld.clone())));
        }
        let decision = self.record.decision()?;
        Some(recall(self, decision, start))
    }
}

fn recall(
    entry: &Entry,
    decision: &DecisionRecord,
    start: Option<&SessionStart>,
) -> Result<Recalled, NotRecallable> {
    let told = decision.facts.as_ref().ok_or(NotRecallable::NoFacts)?;
    let start = start.ok_or(NotRecallable::NoStart)?;
    if start.variables.is_none() {
        return Err(NotRecallable::NoStart);
    }
    let answer = decision.answer();
    if answer.effect.is_empty() {
        return Err(NotRecallable::NoAnswer);
    }
    let effect = answer
        .effect
        .parse()
        .map_err(|_| NotRecallable::Vocabulary)?;
    if let Some(rule) = &answer.rule {
        uncut(rule)?;
    }
    let verb: Verb = decision
        .action
        .verb
        .parse()
        .map_err(|_| NotRecallable::Vocabulary)?;
    let mut facts = Facts {
        auth: Auth {
            method: text(&told.auth)?,
        },
        session: SessionFacts {
            id: uncut(&entry.session)?.to_owned(),
            name: uncut(&start.name)?.to_owned(),
            workspace: text(&start.workspace)?,
            interactive: told.interactive,
        },
        args: Value::Null,
        labels: told
            .labels
            .iter()
            .map(|l| {
                if l.starts_with("\u{2026}[") {
                    return Err(NotRecallable::Cut);
                }
                text(l)
            })
            .collect::<Result<_, _>>()?,
        risk: told.risk,
        time: told.time,
    };
    let args = match &entry.record {
        Record::Exec(exec) if verb == Verb::ProcessExec => arguments(exec, &mut facts)?,
        _ => verb != Verb::ProcessExec && told.args_sha256.is_none(),
    };
    Ok(Recalled {
        action: Action {
            subject: Subject(text(&told.subject)?),
            verb,
            resource: resource(entry, decision, verb)?,
            facts,
        },
        effect,
        rule: answer.rule,
        args,
    })
}

/// The arguments of a program, if all of them are in the entry.
fn arguments(exec: &Exec, facts: &mut Facts) -> Result<bool, NotRecallable> {
    let all: Option<Vec<String>> = exec
        .argv
        .iter()
        .map(|a| String::from_utf8(unescape_bytes(a)?).ok())
        .collect();
    // What was cut, or escaped in another way, does not have this digest.
    let Some(all) = all.filter(|all| argv_sha256(all) == exec.argv_sha256) else {
        return Ok(false);
    };
    facts.args = all.into_iter().map(Value::String).collect();
    Ok(true)
}

fn resource(
    entry: &Entry,
    decision: &DecisionRecord,
    verb: Verb,
) -> Result<Resource, NotRecallable> {
    let shown = decision.action.resource.as_str();
    let resource = match verb.family() {
        VerbFamily::File | VerbFamily::Process | VerbFamily::Device => {
            Resource::Path(PathResource {
                path: path(decision, shown)?,
                kind: match decision.facts.as_ref().and_then(|f| f.kind.as_deref()) {
                    None => ObjectKind::Unknown,
                    Some("directory") => ObjectKind::Directory,
                    Some("file") => ObjectKind::File,
                    Some(_) => return Err(NotRecallable::Vocabulary),
                },
            })
        }
        VerbFamily::Ipc => {
            let shown = shown.strip_prefix("unix:").ok_or(NotRecallable::Shape)?;
            Resource::Unix(path(decision, shown)?)
        }
        VerbFamily::Dns => {
            let shown = shown.strip_prefix("dns:").ok_or(NotRecallable::Shape)?;
            Resource::Host(text(shown)?)
        }
        VerbFamily::Named => Resource::Named(text(shown)?),
        VerbFamily::Net => endpoint(entry, shown)?,
    };
    match resource.to_string() == decision.action.resource {
        true => Ok(resource),
        false => Err(NotRecallable::Shape),
    }
}

fn path(decision: &DecisionRecord, shown: &str) -> Result<std::path::PathBuf, NotRecallable> {
    let bytes = unescape_bytes(uncut(shown)?).ok_or(NotRecallable::Shape)?;
    if let Some(recorded) = &decision.action.bytes {
        let recorded = STANDARD
            .decode(uncut(recorded)?)
            .map_err(|_| NotRecallable::Shape)?;
        if recorded != bytes {
            return Err(NotRecallable::Shape);
        }
    }
    Ok(OsString::from_vec(bytes).into())
}

fn endpoint(entry: &Entry, shown: &str) -> Result<Resource, NotRecallable> {
    let (protocol, rest) = match shown.split_once("://") {
        Some(("tcp", rest)) => (Protocol::Tcp, rest),
        Some(("udp", rest)) => (Protocol::Udp, rest),
        _ => return Err(NotRecallable::Shape),
    };
    if let Record::Connect(connect) = &entry.record {
        let ip = connect.ip.as_deref().map(str::parse::<IpAddr>);
        return Ok(Resource::Endpoint(Endpoint {
            protocol,
            // The field has the name as it is, the object shows it escaped.
            host: connect
                .host
                .as_deref()
                .map(|h| uncut(h).map(str::to_owned))
                .transpose()?,
            ip: ip.transpose().map_err(|_| NotRecallable::Shape)?,
            port: connect.port,
        }));
    }
    let (host, port) = rest.rsplit_once(':').ok_or(NotRecallable::Shape)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    Ok(Resource::Endpoint(Endpoint {
        protocol,
        host: None,
        ip: Some(bare.parse().map_err(|_| NotRecallable::NoAddress)?),
        port: port.parse().map_err(|_| NotRecallable::Shape)?,
    }))
}

/// Escaped text as it was.
fn text(shown: &str) -> Result<String, NotRecallable> {
    let bytes = unescape_bytes(uncut(shown)?).ok_or(NotRecallable::Shape)?;
    String::from_utf8(bytes).map_err(|_| NotRecallable::Shape)
}

/// A text without the mark of a cut at its end. Text that an agent chose may look like that, too:
/// it is taken as cut.
fn uncut(text: &str) -> Result<&str, NotRecallable> {
    match clip::is_cut(text) {
        true => Err(NotRecallable::Cut),
        false => Ok(text),
    }
}

#[cfg(test)]
#[path = "recall_tests.rs"]
mod tests;
