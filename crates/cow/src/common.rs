//! Where the state of the originals at a session's base is not what both sides of a change were made of.
//!
//! A three-way merge asks what the session's copy and the original were when they were the same. The
//! base manifest answers that for a copy that the session made of the original on this machine. It does
//! not where the copy was made of something else: then everything that the other side has and the copy
//! has not would look as if the session had removed it, and be dropped without a word.

use std::path::PathBuf;

use crate::layer::Layer;
use crate::portable::{Differences, DifferencesError};
use crate::record::{Record, Rel};

/// Why the base is not what both sides were made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoCommonBase {
    /// The layer came from elsewhere, where the original was another one.
    #[error("the session was imported, and was made on another version of it")]
    Imported,
    /// A commit of the session changed the original: the session went on from there, and what somebody
    /// took back since looks unchanged beside the base.
    #[error("the session has committed a change of it")]
    Committed,
}

/// What the files beside a layer say about that; read once.
#[derive(Debug)]
pub struct CommonBases {
    differences: Differences,
    record: Record,
}

/// The files beside a layer cannot be read or believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommonBaseError {
    /// Those of an imported layer.
    #[error(transparent)]
    Differences(#[from] DifferencesError),
    /// The record of commits.
    #[error("cannot read the commit record {path:?}: {source}")]
    Record {
        /// The record.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl CommonBases {
    /// Of a layer.
    ///
    /// # Errors
    /// See [`CommonBaseError`]. Without an answer nothing may be merged.
    pub fn of(layer: &Layer) -> Result<CommonBases, CommonBaseError> {
        Ok(CommonBases {
            differences: Differences::of(layer)?,
            record: Record::read(layer).map_err(|source| CommonBaseError::Record {
                path: layer.record_path(),
                source,
            })?,
        })
    }

    /// Why the base is none for both sides of the change at `rel`, bytes below the layer's root without
    /// a leading slash; `None` where it is one.
    pub fn lacks(&self, rel: &[u8]) -> Option<NoCommonBase> {
        let Differences {
            changed, missing, ..
        } = &self.differences;
        let path = Rel(rel.to_vec());
        if changed.contains(&path) || missing.contains(&path) {
            return Some(NoCommonBase::Imported);
        }
        let committed = self.record.has_committed(rel);
        committed.then_some(NoCommonBase::Committed)
    }
}
