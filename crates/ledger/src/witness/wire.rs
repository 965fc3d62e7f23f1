//! The body of `add-checkpoint` (c2sp.org/tlog-witness): `old <size>`, up to 63 hashes of a consistency
//! proof in base64, an empty line, the signed checkpoint. Read in this spelling alone.

use std::fmt;

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    hash::Hash,
    note::Note,
};

/// The most hashes of a proof: a tree of fewer than 2^64 leaves needs no more.
const MAX_HASHES: usize = 63;

/// A request to cosign a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the tree that the proof begins with.
    pub old: u64,
    /// The consistency proof from there to the checkpoint.
    pub proof: Vec<Hash>,
    /// What the log says.
    pub checkpoint: Checkpoint,
    /// The same with its signatures; none is verified yet.
    pub note: Note,
}

impl AddCheckpoint {
    /// Reads a request's body.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let end = body.windows(2).position(|w| w == b"\n\n");
        let (head, note) = body.split_at(end.ok_or(RequestError::NoCheckpoint)? + 2);
        let head = std::str::from_utf8(head).map_err(|_| RequestError::Old)?;
        let mut lines = head.trim_end_matches('\n').split('\n');
        let old = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .and_then(|n| n.parse::<u64>().ok().filter(|old| old.to_string() == n))
            .ok_or(RequestError::Old)?;
        let mut proof = Vec::new();
        for (line, number) in lines.zip(1..) {
            if number > MAX_HASHES {
                return Err(RequestError::TooManyHashes);
            }
            proof.push(Hash::from_base64(line).ok_or(RequestError::Hash(number))?);
        }
        let (checkpoint, note) = Checkpoint::parse_note(note)?;
        Ok(AddCheckpoint {
            old,
            proof,
            checkpoint,
            note,
        })
    }
}

/// The body.
impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof {
            writeln!(f, "{}", hash.to_base64())?;
        }
        write!(f, "\n{}", self.note.to_text())
    }
}

/// Why a request is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No empty line.
    #[error("expected an empty line and a signed checkpoint after the proof")]
    NoCheckpoint,
    /// The first line.
    #[error("expected 'old <size>' in decimal without leading zeros in the first line")]
    Old,
    /// A line of the proof, counted from 1.
    #[error("line {0} of the proof is not a hash of 32 bytes in base64")]
    Hash(usize),
    /// A proof that no tree needs.
    #[error("a consistency proof has at most {MAX_HASHES} hashes")]
    TooManyHashes,
    /// The checkpoint.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of the document's example; its signatures are real lines.
    const EXAMPLE: &str = "old 20852014\n\
        PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
        jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n\
        5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
        /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\
        \n\
        example.com/behind-the-sofa\n\
        20852163\n\
        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\
        \n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";

    #[test]
    fn the_example_of_the_document_and_no_other_spelling() {
        let request = AddCheckpoint::parse(EXAMPLE.as_bytes()).expect("a request");
        assert_eq!(request.to_string(), EXAMPLE);
        assert_eq!((request.old, request.proof.len()), (20_852_014, 4));
        assert_eq!(request.checkpoint.size, 20_852_163);
        assert_eq!(request.note.signatures().len(), 2);
        let hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n";
        let full = EXAMPLE.replace(hash, &hash.repeat(60));
        assert_eq!(
            AddCheckpoint::parse(full.as_bytes()).map(|r| r.proof.len()),
            Ok(63)
        );
        for (from, to, error) in [
            ("old 2", "old 02", RequestError::Old),
            ("old 2", "old +2", RequestError::Old),
            ("old ", "old  ", RequestError::Old),
            ("old ", "\nold ", RequestError::Old),
            ("old ", "", RequestError::Old),
            ("20852014\n", "20852014\r\n", RequestError::Old),
            (
                "old 20852014",
                "old 18446744073709551616",
                RequestError::Old,
            ),
            ("Dpkaw=\n", "Dpkaw\n", RequestError::Hash(1)),
            ("Dpkaw=\n", "Dpkax=\n", RequestError::Hash(1)),
            ("/0=\n\n", "/0=\n", RequestError::Hash(5)),
            (hash, &hash.repeat(61), RequestError::TooManyHashes),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE, "{from:?}");
            assert_eq!(AddCheckpoint::parse(text.as_bytes()), Err(error), "{to:?}");
        }
        for cut in 0..EXAMPLE.len() {
            let cut = AddCheckpoint::parse(&EXAMPLE.as_bytes()[..cut]);
            // Without its last signature line it is a request, too.
            assert!(cut.is_err() || cut.is_ok_and(|r| r.note.signatures().len() == 1));
        }
    }
}
