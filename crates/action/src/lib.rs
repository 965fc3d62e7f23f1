//! The vocabulary every part of AgentWall speaks.
//!
//! A face (system call, connect, DNS query, commit, hook, command line) builds one [`Action`]; the
//! engine answers with one [`Decision`]; an enforcement point renders it. Nothing in this crate
//! decides anything, touches the file system or knows a policy: it only gives the two ends of that
//! path a common language, so that a rule means the same thing whichever face saw the action.
//!
//! Invariants:
//! * A [`Resource`] holds the *canonical object*, never the text an agent typed: paths are absolute,
//!   with symlinks, `.` and `..` resolved; host names are lower-case ASCII without a trailing dot;
//!   IPv4-mapped IPv6 addresses are unwrapped.
//! * Effects are totally ordered by strictness ([`Effect`]'s `Ord`).

#![forbid(unsafe_code)]

mod decision;
mod facts;
pub mod path_bytes;
mod resource;
mod text;
mod verb;

pub use decision::{Decision, Effect, Hint};
pub use facts::{Auth, Facts, Session};
pub use resource::{
    Endpoint, ObjectKind, PathResource, Protocol, Resource, ResourceParseError, is_within,
};
pub use text::{escape_bytes, escape_text, unescape_bytes};
pub use verb::{UnknownVerb, Verb, VerbFamily};

use serde::{Deserialize, Serialize};

/// Who acts. The textual form (`agent:claude-code`) is what `subject:` globs in a policy match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(pub String);

impl Subject {
    /// The subject for an agent that `agentwall run --name NAME` started.
    pub fn agent(name: &str) -> Self {
        Subject(format!("agent:{name}"))
    }

    /// The textual form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One thing an agent wants to do, as one face saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Who acts.
    pub subject: Subject,
    /// What is done.
    pub verb: Verb,
    /// To which canonical object.
    pub resource: Resource,
    /// What else is known at this moment; the input of `when` and `unless`.
    #[serde(default)]
    pub facts: Facts,
}

impl Action {
    /// An action with no facts beyond its object.
    pub fn new(subject: Subject, verb: Verb, resource: Resource) -> Self {
        Action {
            subject,
            verb,
            resource,
            facts: Facts::default(),
        }
    }
}
