//! Offline proof files (c2sp.org/tlog-proof@v1): the artefact to hand to an auditor.
//!
//! Text: the line `c2sp.org/tlog-proof@v1`, optionally `extra <base64>`, `index <n>`, one base64
//! hash per line from the leaf's sibling up, an empty line, and the signed checkpoint verbatim.
//! Read only in this spelling.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    hash::{Hash, leaf_hash},
    note::Verifier,
    proof::{ProofError, verify_inclusion},
    rotation::KeyHistory,
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// An inclusion proof with the checkpoint it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Bytes carried along, authenticated by nothing.
    pub extra: Option<Vec<u8>>,
    /// The entry's number, from 0.
    pub index: u64,
    /// Sibling hashes, from the leaf up.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

impl TlogProof {
    /// Reads a proof file.
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let wrong = |line, expected| TlogProofError::Line { line, expected };
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or(wrong(1, "an empty line before the checkpoint"))?;
        let mut lines = head.split('\n').zip(1usize..).peekable();
        match lines.next() {
            Some((HEADER, _)) => {}
            _ => return Err(wrong(1, HEADER)),
        }
        let mut extra = None;
        if let Some((line, number)) = lines.peek()
            && let Some(blob) = line.strip_prefix("extra ")
        {
            let blob = STANDARD
                .decode(blob)
                .map_err(|_| wrong(*number, "'extra <base64>'"))?;
            extra = Some(blob);
            lines.next();
        }
        let index = lines
            .next()
            .and_then(|(line, _)| line.strip_prefix("index "))
            .and_then(|n| n.parse::<u64>().ok().filter(|i| i.to_string() == n))
            .ok_or(wrong(2 + usize::from(extra.is_some()), "'index <number>'"))?;
        let hashes = lines
            .map(|(line, n)| {
                Hash::from_base64(line).ok_or(wrong(n, "a hash of 32 bytes in base64"))
            })
            .collect::<Result<_, _>>()?;
        Ok(TlogProof {
            extra,
            index,
            hashes,
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// Checks that `entry` is in the log whose key is `key`; returns the checkpoint that says so.
    pub fn verify(&self, entry: &[u8], key: &Verifier) -> Result<Checkpoint, TlogProofError> {
        self.verify_with(entry, &KeyHistory::from(key.clone()))
    }

    /// The same for a log whose key was replaced.
    pub fn verify_with(
        &self,
        entry: &[u8],
        keys: &KeyHistory,
    ) -> Result<Checkpoint, TlogProofError> {
        let checkpoint = keys.open(self.checkpoint.as_bytes())?;
        verify_inclusion(
            &leaf_hash(entry),
            self.index,
            checkpoint.size,
            &self.hashes,
            &checkpoint.root,
        )?;
        Ok(checkpoint)
    }
}

/// The proof file.
impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", hash.to_base64())?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Why a proof file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlogProofError {
    /// A line that is not what the format wants.
    #[error("line {line}: expected {expected}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// The checkpoint in it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The hashes in it.
    #[error(transparent)]
    Proof(#[from] ProofError),
}
