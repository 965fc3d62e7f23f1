//! Taking a manifest: what may become of it, and why there may be none.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::walk::walk;
use super::write::write;
use crate::layer::Layer;
use crate::scan::ScanError;

/// How large a tree may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most objects, the root included.
    pub objects: u64,
    /// Longest time for the walk of one tree.
    pub time: Duration,
}

impl Default for Limits {
    /// Two million objects, one minute.
    fn default() -> Limits {
        Limits {
            objects: 2_000_000,
            time: Duration::from_secs(60),
        }
    }
}

/// Why a layer has no manifest: originals are then judged by their change times alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// None was written: an older version, or the session was cut off first.
    #[error("none was finished when the session began")]
    None,
    /// More objects than [`Limits::objects`].
    #[error("the tree holds too many objects")]
    TooMany,
    /// More time than [`Limits::time`].
    #[error("walking the tree took too long")]
    TooLong,
    /// The file system's inode numbers do not last.
    #[error("the file system (FUSE) does not promise lasting inode numbers")]
    Inodes,
    /// The clock went back below the base while the tree was walked.
    #[error("the clock was set back while the tree was walked")]
    Clock,
}

impl Refusal {
    pub(super) fn number(self) -> u16 {
        match self {
            Refusal::None => u16::MAX,
            Refusal::TooMany => 1,
            Refusal::TooLong => 2,
            Refusal::Inodes => 3,
            Refusal::Clock => 4,
        }
    }

    pub(super) fn of(number: u16) -> Option<Refusal> {
        [
            Refusal::TooMany,
            Refusal::TooLong,
            Refusal::Inodes,
            Refusal::Clock,
        ]
        .into_iter()
        .find(|r| r.number() == number)
    }
}

/// Why a manifest could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// The original tree cannot be opened.
    #[error(transparent)]
    Root(#[from] ScanError),
    /// Something in the original tree cannot be examined.
    #[error("cannot examine {path:?} for the base manifest: {source}")]
    Walk {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the base manifest {path:?}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Nobody wants it any more.
    #[error("the base manifest was not needed any more")]
    Cancelled,
}

/// Takes the manifest of a layer that has just begun; the file is durable on return. Answers the
/// number of objects, or why there is none; the file then says so too.
///
/// # Errors
/// See [`TakeError`]; no file is left.
pub fn take(layer: &Layer, limits: Limits) -> Result<Result<u64, Refusal>, TakeError> {
    let walked = walk(layer, limits, &Wish::default())?;
    write(layer, walked)
}

/// What whoever asked for a manifest wants by now.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// It is not needed any more.
    pub cancelled: AtomicBool,
    /// Somebody waited for it long enough: rather none.
    pub hurry: AtomicBool,
    /// The session has ended: originals are kept no further than it changed them.
    pub ended: AtomicBool,
}
