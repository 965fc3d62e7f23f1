//! What the ledger says about itself: its clock, that somebody keeps it, who read it, and what was
//! removed from it.

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

impl FormatOf for ClockJump {}
impl FormatOf for Heartbeat {}
impl FormatOf for Access {}
impl FormatOf for Prune {}

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
