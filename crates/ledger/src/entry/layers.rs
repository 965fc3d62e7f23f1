//! Layers that leave a host and arrive on one: what is sealed about each.

use serde::{Deserialize, Serialize};

use super::{
    User,
    clip::{self, Clip},
    records::FormatOf,
};

/// A session's layers were written to an archive (`docs/layer-archive.md`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Export {
    /// SHA-256 of the archive before the head of its proof, lower-case hex.
    pub archive: String,
    /// Digest of the change set, as the archive's manifest has it.
    pub changes: String,
    /// Number of layers.
    pub layers: u64,
    /// Number of objects in them.
    pub entries: u64,
    /// Number of originals that they touch.
    pub originals: u64,
}

/// A session began with the layers of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Import {
    /// As [`Export::archive`].
    pub archive: String,
    /// As [`Export::changes`].
    pub changes: String,
    /// The agent's name.
    pub name: String,
    /// The workspace folder here, escaped.
    pub workspace: String,
    /// SHA-256 of the policy that decides on its changes here, lower-case hex.
    pub policy: String,
    /// The session where the archive was made.
    pub from: String,
    /// The key of the log that vouches for the archive, `NAME+ID`.
    pub key: String,
    /// Whether that key was trusted; else the archive vouches for itself.
    pub trusted: bool,
    /// That log as the archive's proof has it.
    pub checkpoint: ForeignCheckpoint,
    /// Number of layers that were taken.
    pub layers: u64,
    /// Number of objects in them.
    pub entries: u64,
    /// Number of originals here that differ from those the layers were made on.
    pub differences: u64,
    /// Who imported it.
    pub user: User,
}

/// A signed checkpoint of another log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ForeignCheckpoint {
    /// The log's name.
    pub origin: String,
    /// Its number of entries.
    pub size: u64,
    /// Its root hash, base64.
    pub root: String,
}

impl FormatOf for Export {}
impl FormatOf for Import {}

impl Clip for Export {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.archive, limit);
        clip::text(&mut self.changes, limit);
    }
}

impl Clip for Import {
    fn clip(&mut self, limit: usize) {
        for text in [
            &mut self.archive,
            &mut self.changes,
            &mut self.name,
            &mut self.workspace,
            &mut self.policy,
            &mut self.from,
            &mut self.key,
            &mut self.checkpoint.origin,
            &mut self.checkpoint.root,
            &mut self.user.name,
        ] {
            clip::text(text, limit);
        }
    }
}
