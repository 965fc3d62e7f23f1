//! What makes a decision repeatable: the facts it was made on, the policy's own answer, the values
//! of the policy's variables, and the bundle the policy came in. Fields of format 2.
//!
//! Facts are recorded as they were given to the policy, except arguments: those of a program start
//! stand in its entry already, those of anything else (a tool, an API call) may hold what must not
//! be copied into a log, so only their digest is here.

use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::{Action, Decision, ObjectKind, Resource, Verb, escape_bytes, escape_text};
use serde::{Deserialize, Serialize};

use super::clip::{self, Clip};
use crate::hash::sha256_hex;

/// The facts of an action, without what the session's start tells. What is absent was neutral.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FactsText {
    /// Who acted, escaped; `agent:NAME` has NAME as the session's name.
    pub subject: String,
    /// `directory` or `file`; absent when nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How the agent proved who it is, escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// A person sat at the terminal.
    #[serde(skip_serializing_if = "is_false")]
    pub interactive: bool,
    /// Names given to the object or the session, escaped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "is_zero_risk")]
    pub risk: u8,
    /// Seconds since the Unix epoch, UTC; absent when the face had no clock.
    #[serde(skip_serializing_if = "is_zero_time")]
    pub time: i64,
    /// SHA-256 over the arguments as JSON, lower-case hex; absent without arguments and for
    /// `process.exec`, whose entry has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_sha256: Option<String>,
}

impl FactsText {
    /// The facts of an action.
    pub fn of(action: &Action) -> Self {
        let facts = &action.facts;
        let kind = match &action.resource {
            Resource::Path(path) => match path.kind {
                ObjectKind::Unknown => None,
                ObjectKind::Directory => Some("directory".to_owned()),
                ObjectKind::File => Some("file".to_owned()),
            },
            _ => None,
        };
        let hidden = !facts.args.is_null() && action.verb != Verb::ProcessExec;
        FactsText {
            subject: escape_text(action.subject.as_str()),
            kind,
            auth: escape_text(&facts.auth.method),
            interactive: facts.session.interactive,
            labels: facts.labels.iter().map(|l| escape_text(l)).collect(),
            risk: facts.risk,
            time: facts.time,
            args_sha256: hidden.then(|| sha256_hex(facts.args.to_string().as_bytes())),
        }
    }
}

/// What the policy itself answers, where something else was carried out: a person's answer, or a
/// refusal for a reason beside the policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyAnswer {
    /// For example `ask`; empty when it cannot be told any more.
    pub effect: String,
    /// The rule; absent when the default said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl PolicyAnswer {
    /// The answer of a decision.
    pub fn of(decision: &Decision) -> Self {
        PolicyAnswer {
            effect: decision.effect.as_str().to_owned(),
            rule: decision.rule.clone(),
        }
    }
}

/// The values of a policy's variables, as paths, escaped. One without a value is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyVariables {
    /// `${workspace}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// `${home}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// `${tmp}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp: Option<String>,
    /// `${state}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

impl PolicyVariables {
    /// The form of one value.
    pub fn text(path: &std::path::Path) -> String {
        escape_bytes(path.as_os_str().as_bytes())
    }

    /// All values by name.
    pub fn named(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("workspace", self.workspace.as_deref()),
            ("home", self.home.as_deref()),
            ("tmp", self.tmp.as_deref()),
            ("state", self.state.as_deref()),
        ]
    }
}

/// A signed bundle that (a part of) a session's policy came in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyBundle {
    /// Name and id of the key that signed it, `NAME+ID`.
    pub key: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its version counter.
    pub counter: u64,
    /// Its digest, lower-case hex.
    pub digest: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature that serde asks for.
fn is_false(b: &bool) -> bool {
    !*b
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero_risk(n: &u8) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero_time(n: &i64) -> bool {
    *n == 0
}

impl Clip for FactsText {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.subject, limit);
        clip::option(&mut self.kind, limit);
        clip::text(&mut self.auth, limit);
        clip::marked_list(&mut self.labels, limit);
        clip::option(&mut self.args_sha256, limit);
    }
}

impl Clip for PolicyAnswer {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.effect, limit);
        clip::option(&mut self.rule, limit);
    }
}

impl Clip for PolicyVariables {
    fn clip(&mut self, limit: usize) {
        for value in [
            &mut self.workspace,
            &mut self.home,
            &mut self.tmp,
            &mut self.state,
        ] {
            clip::option(value, limit);
        }
    }
}

impl Clip for PolicyBundle {
    fn clip(&mut self, limit: usize) {
        for text in [&mut self.key, &mut self.name, &mut self.digest] {
            clip::text(text, limit);
        }
    }
}
