//! The newest checkpoint of a log that witnesses have cosigned: the file `checkpoint.cosigned` beside
//! `checkpoint`.
//!
//! It is the log's checkpoint of then with its signature and theirs. What it covers, the holder of the
//! log's key cannot change any more without contradicting the witnesses; what is after it, they can.
//! So it is checked against the log whenever it is read: a log that is shorter, or has another root there,
//! was put back or rewritten.

use std::path::Path;

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    defect::Defect,
    hash::Hash,
    head,
    note::Note,
    rotation::{KeyHistory, RotationError},
    store::{COSIGNED, FileError, read_file},
    trust::{TrustPolicy, Witnessed},
};

/// A checkpoint of the log with cosignatures, found to be of the log's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// What the log said.
    pub checkpoint: Checkpoint,
    /// The same with the signatures.
    pub note: Note,
    /// Who has cosigned it, by the policy that was given.
    pub witnessed: Option<Witnessed>,
}

impl Cosigned {
    /// How many entries witnesses vouch for, by the policy that was given; 0 if that is not the quorum.
    pub fn size(&self) -> u64 {
        match &self.witnessed {
            Some(witnessed) if witnessed.holds() => self.checkpoint.size,
            _ => 0,
        }
    }
}

/// The file's bytes, `None` if there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<Vec<u8>>, CosignedError> {
    match read_file(&dir.join(COSIGNED), COSIGNED) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Defect::Missing { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Checks the file against the log, whose newest checkpoint is `log`; `root_at` gives the log's root at a
/// smaller size.
pub(crate) fn check(
    bytes: &[u8],
    keys: &KeyHistory,
    trust: Option<&TrustPolicy>,
    log: &Checkpoint,
    root_at: impl FnOnce(u64) -> Result<Hash, Defect>,
) -> Result<Cosigned, CosignedError> {
    let checkpoint = keys.open(bytes)?;
    let (_, note) = Checkpoint::parse_note(bytes)?;
    if checkpoint.size > log.size {
        return Err(CosignedError::RolledBack {
            size: log.size,
            cosigned: checkpoint.size,
        });
    }
    let found = match checkpoint.size == log.size {
        true => log.root,
        false => root_at(checkpoint.size)?,
    };
    if found != checkpoint.root {
        return Err(CosignedError::Forked {
            size: checkpoint.size,
            expected: checkpoint.root,
            found,
        });
    }
    let witnessed = trust
        .map(|trust| trust.witnessed(&checkpoint, &note))
        .transpose()
        .map_err(CheckpointError::from)?;
    Ok(Cosigned {
        checkpoint,
        note,
        witnessed,
    })
}

/// Replaces the file in the log's folder, durably.
pub fn keep(dir: &Path, note: &Note) -> Result<(), FileError> {
    let path = dir.join(COSIGNED);
    let file = head::write(&path, &note.to_text())?;
    file.sync_all()
        .map_err(|e| FileError::new("flush", &path, e))
}

/// What the cosigned checkpoint says against the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CosignedError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] Defect),
    /// It is not canonical, not signed by the log, or a cosignature in it is wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log's keys cannot be followed.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The log is shorter than witnesses have seen it.
    #[error(
        "the log was put back to an older state: it has {size} entries, a cosigned checkpoint has {cosigned}"
    )]
    RolledBack {
        /// Entries now.
        size: u64,
        /// Entries that were cosigned.
        cosigned: u64,
    },
    /// The log's history is another one.
    #[error(
        "the log's history was replaced: the root of its first {size} entries is {found}, a cosigned checkpoint \
         has {expected}"
    )]
    Forked {
        /// Entries that were cosigned.
        size: u64,
        /// The root that was cosigned.
        expected: Hash,
        /// The root of the log at that size.
        found: Hash,
    },
}
