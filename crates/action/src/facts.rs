//! Facts: what is known about an action beyond its object. Conditions (`when`, `unless`) read them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The typed set of facts a condition may read. Everything has a neutral default, so that a face
/// fills in only what it knows; a condition that reads an absent fact is an error of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// `auth`: how the agent proved who it is.
    pub auth: Auth,
    /// `session`: the run this action belongs to.
    pub session: Session,
    /// `args`: for `process.exec` the list of arguments (`args[0]` is the program name as given);
    /// for tool and API calls the object of named arguments; else null.
    pub args: Value,
    /// `labels`: names given to the object or the session, for example `secret`.
    pub labels: BTreeSet<String>,
    /// `risk`: 0 (none) to 100.
    pub risk: u8,
    /// `time`: seconds since the Unix epoch, UTC; 0 when the face has no clock.
    pub time: i64,
}

/// How the agent proved who it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// `auth.method`: `oauth`, `jwt`, … or empty when nothing was proved.
    pub method: String,
}

/// The run an action belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// `session.id`.
    pub id: String,
    /// `session.name`: what `--name` gave.
    pub name: String,
    /// `session.workspace`: the workspace folder.
    pub workspace: String,
    /// `session.interactive`: a person sits at the terminal.
    pub interactive: bool,
}
