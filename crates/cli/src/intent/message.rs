//! What is said at the intent socket: the JSON of requests and answers (docs/intent.md).

use agentwall_action::Decision;
use agentwall_ledger::entry::Finding;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Through what an intent can be told; `command` is also what `run` seals itself.
pub const SOURCES: [&str; 6] = ["claude-code", "codex", "mcp", "api", "command", "model"];

/// What an agent is about to do: the body of `POST /v1/intent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Statement {
    /// Through what it is told, one of [`SOURCES`]; `api` when it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The tool, as the agent calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The agent's id of the tool call; the end can be told by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// Why.
    pub why: String,
    /// The tool's parameters: a text, or any JSON.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
    /// What it will do.
    pub does: Vec<Does>,
}

/// One thing that will be done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Does {
    /// For example `file.write`.
    pub verb: String,
    /// The object as in policies and on the command line: a path, `tcp://host:port`, …
    pub resource: String,
    /// For `process.exec`: all arguments, the program's name with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
}

/// The answer to a [`Statement`]: the intent is in the ledger, durably.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The action's id.
    pub id: String,
    /// The number of the intent's entry in the ledger.
    pub index: u64,
    /// Its leaf hash, base64.
    pub leaf: String,
    /// What the policy says of the claim that it is strictest about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The verb and object that it is about; empty when nothing was claimed.
    pub about: String,
}

/// The body of `POST /v1/intent/ID/end`; `ID` is the action's, or the agent's id of the tool call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ending {
    /// Whether the agent calls it a failure.
    pub failed: bool,
    /// The exit status, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

/// The answer to an [`Ending`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The action's id.
    pub id: String,
    /// How many of the ledger's entries belong to it.
    pub events: u64,
    /// Root of the tree over them, base64.
    pub root: String,
    /// What it said and did not do.
    pub finding: Option<Finding>,
    /// The session's risk, 0 to 100.
    pub risk: u8,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For a person, with the next step.
    pub error: String,
}
