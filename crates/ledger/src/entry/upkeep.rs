//! What the ledger says about itself: its clock, that somebody keeps it, who read it, what was
//! removed from it, whose key it has, and what its host takes for usual.

use serde::{Deserialize, Serialize};

use super::{
    User,
    clip::{self, Clip},
    records::FormatOf,
};

/// The host's clock was set: the times of entries before and after this one cannot be compared. The entry bears the
/// new time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockJump {
    /// By how many milliseconds; negative: it was put back.
    pub jump_ms: i64,
    /// What it would have shown without that, RFC 3339.
    pub expected: String,
}

/// The daemon lives. Where none is for longer than it says, there was no daemon, or its entries were taken away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// When the next one is due at the latest, in seconds.
    pub every_s: u64,
    /// For how long the daemon has been running, in seconds.
    pub uptime_s: u64,
    /// Entries of the log at this moment, this one not among them.
    pub size: u64,
    /// Root hash over them, base64.
    pub root: String,
}

/// Somebody read the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    /// Who.
    pub user: User,
    /// By which command, for example `show` or `export`.
    pub command: String,
    /// Which entries were asked for: the options as they were given, escaped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<String>,
    /// How many entries were handed out.
    pub entries: u64,
    /// Whether the command stayed and handed out more as it came.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

/// Entries were removed, or are going to be, as the retention policy says. Their hashes stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Prune {
    /// The minimum index: bundles wholly below it may be missing. A multiple of 256, not above this entry's own number.
    pub minimum: u64,
    /// All that is below was written before this moment, RFC 3339.
    pub before: String,
    /// SHA-256 of the retention policy, lower-case hex.
    pub policy: String,
    /// Who removed them.
    pub user: User,
}

/// The log's key was replaced: this is the last entry that the old one vouches for, see [`crate::rotation`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRotation {
    /// The key until here, a vkey.
    pub old: String,
    /// The key from here on, a vkey of the same name.
    pub new: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who replaced it.
    pub user: User,
}

/// What is taken for an agent's usual behaviour has changed: decisions after this entry are made against another
/// baseline than those before it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BaselineChange {
    /// Whose behaviour.
    pub agent: String,
    /// `frozen` (the first one), `replaced` or `retired`.
    pub outcome: String,
    /// SHA-256 of the baseline that counts from here on, lower-case hex; empty if none does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub baseline: String,
    /// SHA-256 of the one that counted until here, lower-case hex; empty if none did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replaces: String,
    /// The key that has signed the baseline, a vkey.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Entries of this log that it was made of: from this number on.
    pub first: u64,
    /// And below this one.
    pub end: u64,
    /// How many actions were counted in it.
    pub actions: u64,
    /// Why it was changed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who changed it.
    pub user: User,
}

impl FormatOf for ClockJump {}
impl FormatOf for Heartbeat {}
impl FormatOf for Access {}
impl FormatOf for Prune {}
impl FormatOf for KeyRotation {}
impl FormatOf for BaselineChange {}

impl Clip for ClockJump {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.expected, limit);
    }
}

impl Clip for Heartbeat {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.root, limit);
    }
}

impl Clip for Access {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.user.name, limit);
        clip::text(&mut self.command, limit);
        clip::marked_list(&mut self.filter, limit);
    }
}

impl Clip for Prune {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.before, limit);
        clip::text(&mut self.policy, limit);
        clip::text(&mut self.user.name, limit);
    }
}

impl Clip for KeyRotation {
    fn clip(&mut self, limit: usize) {
        for text in [&mut self.old, &mut self.new, &mut self.reason] {
            clip::text(text, limit);
        }
        clip::text(&mut self.user.name, limit);
    }
}

impl Clip for BaselineChange {
    fn clip(&mut self, limit: usize) {
        for text in [
            &mut self.agent,
            &mut self.outcome,
            &mut self.baseline,
            &mut self.replaces,
            &mut self.key,
            &mut self.reason,
        ] {
            clip::text(text, limit);
        }
        clip::text(&mut self.user.name, limit);
    }
}
