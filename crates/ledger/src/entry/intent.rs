//! What an agent said it would do, and what came of it: the entries of one action.
//!
//! `intent` is sealed before anything of the action happens; `action_start` says that it was let go on,
//! `kernel_summary` what the wall saw of it, `action_end` how it ended, `finding` where the two do not
//! fit. All carry the action's id. `previous` is the number in the session (`seq`) of the entry of the
//! same action before this one, so that one that is missing shows.
//!
//! `why` and `parameters` are the agent's own words: the entry proves that they were said, and when.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Record,
    clip::{self, Clip},
    records::FormatOf,
};

/// An agent said what it is about to do, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Intent {
    /// The action's id, unique in the ledger.
    pub action_id: String,
    /// The agent's name.
    pub agent: String,
    /// Through what it was said: `claude-code` or `codex` (their hooks), `mcp`, `api` (the session's socket),
    /// `command` (the command of `run` or `act` itself).
    pub source: String,
    /// The tool, as the agent calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The agent's id of the tool call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The agent's reasoning, escaped; empty: it gave none.
    pub why: String,
    /// The tool's parameters, as text.
    pub parameters: String,
    /// What it says it will do.
    pub claims: Vec<Claim>,
    /// How many claims are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub claims_cut: u64,
    /// The process that said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
}

/// One thing that an agent says it will do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// For example `process.exec`.
    pub verb: String,
    /// The object, as in a decision.
    pub resource: String,
    /// For `process.exec`: as in an `exec` entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv_sha256: Option<String>,
}

/// A process, in a way that no later process of the same number has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessId {
    /// Its process id on the host.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (proc(5), `starttime`).
    pub start: u64,
}

/// An action was let go on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ActionStart {
    /// The action.
    pub action_id: String,
    /// Its entry before this one.
    pub previous: u64,
    /// The number of its intent in the log, which was durable before.
    pub intent: u64,
}

/// What was seen of an action between its start and its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelSummary {
    /// The action.
    pub action_id: String,
    /// Its entry before this one.
    pub previous: u64,
    /// The number of its events: entries of type `decision`, `exec` and `connect` with its id.
    pub events: u64,
    /// By verb and effect, for example `process.exec allow`.
    pub counts: BTreeMap<String, u64>,
    /// By attribution.
    pub attribution: BTreeMap<String, u64>,
    /// Root of the RFC 6962 tree over the leaf hashes of the events in the order of the log, base64.
    pub root: String,
    /// How many events were lost on the way.
    pub lost: u64,
}

/// An action ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ActionEnd {
    /// The action.
    pub action_id: String,
    /// Its entry before this one.
    pub previous: u64,
    /// `done`, `failed` or `denied`, as far as it is known; `open` when the session ended first.
    pub outcome: String,
    /// The exit status that the agent told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
}

/// Intent and action do not fit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// The action; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<String>,
    /// Its entry before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// `action-without-intent`, `intent-without-action` or `action-broader-than-intent`.
    pub kind: String,
    /// What was done, or what was said and not done.
    pub verb: String,
    /// With which object.
    pub resource: String,
    /// The number in the session of the entry that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// The risk of the session from here on, 0 to 100.
    pub risk: u8,
}

impl From<Intent> for Record {
    fn from(intent: Intent) -> Record {
        Record::Intent(intent)
    }
}

impl Record {
    /// The action that an entry is about, if it names one.
    pub fn action_id(&self) -> Option<&str> {
        match self {
            Record::Intent(r) => Some(&r.action_id),
            Record::ActionStart(r) => Some(&r.action_id),
            Record::KernelSummary(r) => Some(&r.action_id),
            Record::ActionEnd(r) => Some(&r.action_id),
            Record::Finding(r) => r.action_id.as_deref(),
            other => other.decision()?.action_id.as_deref(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature that serde asks for.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl FormatOf for Intent {}
impl FormatOf for ActionStart {}
impl FormatOf for KernelSummary {}
impl FormatOf for ActionEnd {}
impl FormatOf for Finding {}

impl Clip for Intent {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.action_id, limit);
        clip::text(&mut self.agent, limit);
        clip::text(&mut self.source, limit);
        clip::option(&mut self.tool, limit);
        clip::option(&mut self.call, limit);
        clip::text(&mut self.why, limit);
        clip::text(&mut self.parameters, limit);
        let gone = clip::items_only(&mut self.claims, limit);
        self.claims_cut = self.claims_cut.saturating_add(gone);
        for claim in &mut self.claims {
            clip::text(&mut claim.verb, limit);
            clip::text(&mut claim.resource, limit);
            clip::option(&mut claim.argv_sha256, limit);
        }
    }
}

impl Clip for ActionStart {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.action_id, limit);
    }
}

impl Clip for KernelSummary {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.action_id, limit);
        clip::counts(&mut self.counts, limit);
        clip::counts(&mut self.attribution, limit);
        clip::text(&mut self.root, limit);
    }
}

impl Clip for ActionEnd {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.action_id, limit);
        clip::text(&mut self.outcome, limit);
    }
}

impl Clip for Finding {
    fn clip(&mut self, limit: usize) {
        clip::option(&mut self.action_id, limit);
        clip::text(&mut self.kind, limit);
        clip::text(&mut self.verb, limit);
        clip::text(&mut self.resource, limit);
    }
}
