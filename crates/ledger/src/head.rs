//! The *head* file: the newest checkpoint that this host has seen, kept outside the log's folder.
//!
//! A log whose folder was put back to an older genuine state is signed and consistent in itself;
//! only memory from outside it can tell. The head is the checkpoint's text, verbatim. It is
//! replaced after each commit, while the log's lock is held, so it is never newer than the log.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    defect::Defect,
    hash::Hash,
    rotation::KeyHistory,
    store::{Disk as _, FileError, RealDisk, read_file},
};

/// What the head says against the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// No head file although one is expected.
    #[error(
        "{path} is missing: without it a log that was put back to an older state cannot be told from the newest one; if you know why it is gone, verify without it and append once"
    )]
    Missing {
        /// The head file.
        path: PathBuf,
    },
    /// The head file cannot be read or is not a regular file.
    #[error("the head file: {0}")]
    File(Defect),
    /// Not a checkpoint signed by the log's key.
    #[error("{path} is not a checkpoint signed by this log's key: {source}")]
    Malformed {
        /// The head file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The log is shorter than it was.
    #[error(
        "the log was put back to an older state: it has {size} entries, this host has seen {seen}"
    )]
    RolledBack {
        /// Entries now.
        size: u64,
        /// Entries this host has seen.
        seen: u64,
    },
    /// The log's history is another one.
    #[error(
        "the log's history was replaced: the root of its first {size} entries is {found}, this host has seen {expected}"
    )]
    Forked {
        /// Size of the head.
        size: u64,
        /// The root in the head.
        expected: Hash,
        /// The root of the log at that size.
        found: Hash,
    },
}

/// Reads the head file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, HeadError> {
    match read_file(path, &path.display().to_string()) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Defect::Missing { .. }) => Ok(None),
        Err(e) => Err(HeadError::File(e)),
    }
}

/// Checks that the log is the head's log, grown. `root_at` gives the log's root at a smaller size.
pub(crate) fn check(
    path: &Path,
    bytes: &[u8],
    keys: &KeyHistory,
    log: &Checkpoint,
    root_at: impl FnOnce(u64) -> Result<Hash, Defect>,
) -> Result<(), HeadError> {
    let head = keys.open(bytes).map_err(|source| HeadError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    if head.size > log.size {
        return Err(HeadError::RolledBack {
            size: log.size,
            seen: head.size,
        });
    }
    let found = if head.size == log.size {
        log.root
    } else {
        root_at(head.size).map_err(HeadError::File)?
    };
    if found != head.root {
        return Err(HeadError::Forked {
            size: head.size,
            expected: head.root,
            found,
        });
    }
    Ok(())
}

/// Replaces a file that holds a checkpoint. The returned file is not durable yet: flushing it is left to a quieter
/// moment, because an older head after a power loss is still true of the newer log.
pub(crate) fn write(path: &Path, checkpoint: &str) -> Result<File, FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let replace = || -> io::Result<File> {
        let file = RealDisk.write(temporary, checkpoint.as_bytes())?;
        fs::rename(temporary, path)?;
        Ok(file)
    };
    replace().map_err(|e| FileError::new("replace", path, e))
}
