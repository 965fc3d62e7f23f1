//! What the console needs of its host, and the words in which it is told.

use std::collections::BTreeMap;

use agentwall_action::{Action, Decision};
use agentwall_engine::Scope;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What ids of questions of the kernel wall begin with, before `-` and a number. A session's suffix has no `o`.
pub const KERNEL_WALL: &str = "host";

/// Whether an id is that of a question of the kernel wall. A gateway may have a name that begins like it.
pub fn is_of_kernel_wall(id: &str) -> bool {
    let number = id
        .strip_prefix(KERNEL_WALL)
        .and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// A question that waits for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingAsk {
    /// `<session suffix>-<n>`, `<gateway>:<n>` or `host-<n>`.
    pub id: String,
    /// The session's id.
    pub session: String,
    /// The agent's name.
    pub name: String,
    /// What would be done.
    pub action: Action,
    /// Why it is asked.
    pub decision: Decision,
    /// The program that would do it, escaped.
    pub exe: String,
    /// Its process id on the host.
    pub pid: u32,
    /// When it was asked, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When it is denied for want of an answer, milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// Digest of what exactly an approval is bound to, lower-case hex.
    pub digest: String,
    /// The text that is bound, as it is hashed. The digest of a gateway's question is the SHA-256 of it and of
    /// `expires_ms` as 8 bytes, the greatest first; that of others of it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    /// What the risk is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risks: Vec<String>,
    /// What the same agent asked about the same capability before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Earlier>,
}

/// An earlier attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// The question's id.
    pub id: String,
    /// Its bound text.
    pub canonical: String,
}

/// An agent of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "serve", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct GatewayAgent {
    /// Which gateway.
    pub gateway: String,
    /// Its host's id.
    pub host: String,
    /// What the host calls itself.
    pub host_name: Option<String>,
    /// `pending`, `active`, `revoked` or `rejected`.
    pub host_status: String,
    /// Its id.
    pub agent: String,
    /// What its host calls it.
    pub name: String,
    /// `pending`, `active`, `expired`, `revoked`, `rejected` or `claimed`.
    pub status: String,
    /// Each capability that it asked for, and `pending`, `active`, `denied` or `revoked`.
    pub capabilities: BTreeMap<String, String>,
    /// When it called last, in seconds since the Unix epoch.
    pub used_at: Option<i64>,
}

/// The questions that wait, the oldest first, and what kept some from being asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Waiting {
    /// The questions.
    pub asks: Vec<PendingAsk>,
    /// Which gateway or session did not answer, and why.
    pub trouble: Vec<String>,
}

/// A person's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It may happen, if the question is still bound to what was shown.
    Approve {
        /// How far.
        scope: Scope,
        /// [`PendingAsk::digest`] of what was shown.
        digest: String,
    },
    /// It shall not happen.
    Reject {
        /// For the agent to read.
        reason: Option<String>,
    },
}

/// An entry of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// Its number in the ledger.
    pub index: u64,
    /// The entry (docs/ledger.md).
    pub entry: Value,
}

/// Something that was done by way of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act<'a> {
    /// For example `approve` or `login`.
    pub act: &'a str,
    /// To what: a question, an agent, an account.
    pub object: &'a str,
    /// `account:NAME` or `token:NAME`.
    pub by: &'a str,
    /// How they proved it: `passkey`, `session`, `token`, `invitation`.
    pub proof: &'a str,
    /// The digest of what was answered.
    pub binding: Option<&'a str>,
}

/// The host did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// What was asked is not so, or not so any more.
    #[error("{0}")]
    Refused(String),
    /// It cannot be asked now.
    #[error("{0}")]
    Unavailable(String),
}

/// What is on this host. Each of these may wait for another process; none is called on a thread that serves.
pub trait Host: Send + Sync + 'static {
    /// The questions that wait.
    fn waiting(&self) -> Result<Waiting, HostError>;
    /// Answers one; says what was done.
    fn answer(&self, id: &str, answer: &Answer) -> Result<String, HostError>;
    /// The agents of the gateways that run.
    fn agents(&self) -> Result<Vec<GatewayAgent>, HostError>;
    /// Ends an agent, or a host with all its agents; says what was done.
    fn revoke(&self, id: &str) -> Result<String, HostError>;
    /// The names of the gateways that run.
    fn gateways(&self) -> Result<Vec<String>, HostError>;
    /// Decisions, the newest first: at most `limit` of those before an entry of the ledger.
    fn decisions(&self, before: Option<u64>, limit: usize) -> Result<Vec<LedgerEntry>, HostError>;
    /// Puts an act into the ledger. It is durable when this returns.
    fn record(&self, act: &Act<'_>) -> Result<(), HostError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_whose_name_begins_like_the_kernel_walls_ids_is_none() {
        for (id, ours) in [
            ("host-1", true),
            ("host-120", true),
            ("host-", false),
            ("host-x:3", false),
            ("host-3:BDGK-RSTZ", false),
            ("host:3", false),
            ("host-+1", false),
            ("a-host-1", false),
            ("k3f9-1", false),
        ] {
            assert_eq!(is_of_kernel_wall(id), ours, "{id}");
        }
    }
}
