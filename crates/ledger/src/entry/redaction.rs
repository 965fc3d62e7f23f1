//! Text of the ledger that was destroyed: what is left of it is this.

use serde::{Deserialize, Serialize};

use super::{
    User,
    clip::{self, Clip},
    records::FormatOf,
};

/// The text of entries is about to be destroyed. It is durable before the first byte of that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Redaction {
    /// The sessions of which all earlier entries lose their text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<String>,
    /// The numbers of single entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<u64>,
    /// On what grounds.
    pub basis: String,
    /// Who did it.
    pub by: User,
}

impl Redaction {
    /// So many sessions or entries stand in one record at most; nothing of these is ever cut.
    pub const MOST: usize = 200;
}

impl FormatOf for Redaction {}

impl Clip for Redaction {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.basis, limit);
        clip::text(&mut self.by.name, limit);
    }
}
