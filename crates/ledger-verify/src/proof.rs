//! The proof of one entry, c2sp.org/tlog-proof@v1.
//!
//!     c2sp.org/tlog-proof@v1
//!     extra <base64>              may be left out; vouched for by nobody, ignored
//!     index <number>
//!     <base64 hash>               from the leaf's sibling up, one per line
//!
//!     <checkpoint, verbatim>

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::note::{self, Checkpoint, Trust};
use crate::{Answer, read, refuse, tree};

/// Checks that the bytes of the file `entry` are in the log, at the index that the proof names.
pub fn verify(path: &str, entry: &str, trust: &Trust, quorum: usize) -> Answer<Checkpoint> {
    let entry = read(Path::new(entry), entry)?;
    let bytes = read(Path::new(path), path)?;
    let Some((index, hashes, text)) = std::str::from_utf8(&bytes).ok().and_then(parse) else {
        return refuse(path, "not a tlog-proof in its one spelling");
    };
    let log = note::checkpoint(text.as_bytes(), trust, quorum).or_else(|e| refuse(path, e))?;
    match tree::climb(tree::leaf(&entry), index, log.size, &hashes) {
        Some(root) if root == log.root => Ok(log),
        _ => refuse(path, format!("does not prove this entry to be number {index}")),
    }
}

/// Index, hashes and checkpoint.
fn parse(text: &str) -> Option<(u64, Vec<tree::Hash>, &str)> {
    let (head, checkpoint) = text.split_once("\n\n")?;
    let mut lines = head.strip_prefix("c2sp.org/tlog-proof@v1\n")?.split('\n').peekable();
    if let Some(extra) = lines.peek()?.strip_prefix("extra ") {
        STANDARD.decode(extra).ok()?;
        lines.next();
    }
    let index = note::number(lines.next()?.strip_prefix("index ")?)?;
    Some((index, lines.map(note::hash).collect::<Option<_>>()?, checkpoint))
}
