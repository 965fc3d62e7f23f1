//! Reading upper directories: from what overlayfs left on disk to typed changes and conflicts.
//!
//! | module | does |
//! |---|---|
//! | `walk` | goes through an upper directory beside its original |
//! | `examine` | the table of cases in the crate documentation: what one entry is |
//! | `entry` | reads one upper entry and compares it with its original |
//! | `base` | whether an original is what it was when the session began |
//! | `below` | looks for changes of someone else below an original directory |
//! | `relate` | hard-link groups and renames, once every entry is known |
//!
//! Nothing here writes to the original tree or changes what an upper directory means.

mod base;
mod below;
mod entry;
mod examine;
mod relate;
mod walk;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::change::{Change, ChangeSet, Conflict};
use crate::dir::Tree;
use crate::layer::Layer;
use crate::manifest::ReadError;
use crate::portable::DifferencesError;

pub(crate) use base::Base;
use below::dir_conflict;
pub(crate) use below::{Deleted, below};
use walk::Walk;

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The original tree cannot be opened as a directory, free of symlinks. Of a scan only where it cannot
    /// be told whether it is there.
    #[error(
        "cannot open the original tree {root:?}: {source}; put it back, and see that it may be read"
    )]
    Root {
        /// The layer's root.
        root: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another directory is at the root than when the session began, and its commit that was cut off has
    /// to be finished there.
    #[error("{root:?} is another directory than when the session began; move the original back")]
    RootReplaced {
        /// The layer's root.
        root: PathBuf,
    },
    /// The upper directory cannot be opened.
    #[error("cannot open the session's upper directory {upper:?}: {source}")]
    Upper {
        /// The layer's upper directory.
        upper: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process works in the upper directory and has lent modes there.
    #[error("another command works on the session's copies in {upper:?}; wait for its end")]
    Busy {
        /// The layer's upper directory.
        upper: PathBuf,
    },
    /// Something in the upper directory cannot be read.
    #[error(
        "cannot read the session's copy of {path:?}: {source}; if permission is denied, it is another \
         user's: run as that user or as root"
    )]
    Entry {
        /// The path in the original tree it stands for.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The base manifest is there and cannot be read or believed.
    #[error(transparent)]
    Manifest(#[from] ReadError),
    /// What an import wrote beside the layer is there and cannot be read or believed.
    #[error(transparent)]
    Differences(#[from] DifferencesError),
    /// The record of earlier commits cannot be read.
    #[error("cannot read the commit record {path:?}: {source}")]
    Record {
        /// The record.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// How a scan judges doubtful cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Take it that no directory of the original tree was moved since the session began:
    /// [`Conflict::DirectoryMaybeMoved`](crate::Conflict::DirectoryMaybeMoved) is then not raised.
    /// What the base manifest knows is not overruled.
    pub trust_directories: bool,
}

/// Reads the upper directories of unmounted overlays and compares them with the original trees.
///
/// # Errors
/// A tree cannot be opened or an entry of an upper directory cannot be read. Trouble in the original
/// tree is no error but a [`Conflict`] of the change; so is a root that is gone or is another one, of
/// each change of its layer.
pub fn scan(layers: &[Layer]) -> Result<ChangeSet, ScanError> {
    scan_with(layers, ScanOptions::default())
}

/// [`scan`] with options.
///
/// # Errors
/// As [`scan`].
pub fn scan_with(layers: &[Layer], options: ScanOptions) -> Result<ChangeSet, ScanError> {
    let mut changes = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        if layer.is_moot() {
            continue;
        }
        changes.append(&mut Walk::open(layer, index, options)?.changes()?);
    }
    changes.sort_by(|a, b| {
        let key = |c: &Change| (c.path.as_os_str().as_bytes().to_vec(), c.layer);
        key(a).cmp(&key(b))
    });
    Ok(ChangeSet::new(changes))
}

/// Opens the original tree of a layer and checks that it is the one the session began on.
pub(crate) fn open_root(layer: &Layer) -> Result<Tree, ScanError> {
    let root = Tree::open(&layer.root, true).map_err(|e| ScanError::Root {
        root: layer.root.clone(),
        source: e.into(),
    })?;
    let found = root.stat(b"").ok().flatten().map(|s| s.id);
    if layer.root_id.is_some() && layer.root_id != found {
        return Err(ScanError::RootReplaced {
            root: layer.root.clone(),
        });
    }
    Ok(root)
}

/// The original tree of a layer, or why it is away: somebody deleted, renamed or replaced it, which is a
/// conflict of all changes of this layer and hinders no other. No symlink in its place is followed.
///
/// # Errors
/// It cannot be told, as where a directory above may not be searched.
pub(crate) fn find_root(layer: &Layer) -> Result<Result<Tree, Conflict>, ScanError> {
    match open_root(layer) {
        Ok(root) => Ok(Ok(root)),
        Err(ScanError::RootReplaced { root: path }) => {
            Ok(Err(Conflict::DirectoryReplaced { path }))
        }
        Err(ScanError::Root { root, source }) => match Errno::from_io_error(&source) {
            Some(e @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                Ok(Err(dir_conflict(first_away(&root), e)))
            }
            _ => Err(ScanError::Root { root, source }),
        },
        Err(other) => Err(other),
    }
}

/// The topmost directory on the way to a root that is none any more; for what is told only.
fn first_away(root: &Path) -> PathBuf {
    let is_dir = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let mut above: Vec<&Path> = root.ancestors().collect();
    above.reverse();
    let first = above.into_iter().find(|path| !is_dir(path));
    first.unwrap_or(root).to_path_buf()
}

/// Opens the upper directory of a layer.
pub(crate) fn open_upper(layer: &Layer) -> Result<Tree, ScanError> {
    Tree::open_own(&layer.upper, &layer.work).map_err(|e| {
        let upper = layer.upper.clone();
        match e.kind() {
            std::io::ErrorKind::WouldBlock => ScanError::Busy { upper },
            _ => ScanError::Upper { upper, source: e },
        }
    })
}

/// Gives directories of the upper directories the modes back that a process which was killed had lent
/// them. All that reads a layer does so first; this is for a session that goes on in it.
///
/// # Errors
/// An upper directory cannot be opened, or a mode cannot be given back.
pub fn give_back(layers: &[Layer]) -> Result<(), ScanError> {
    for layer in layers {
        if crate::lend::note_path(&layer.upper).exists() {
            open_upper(layer)?;
        }
    }
    Ok(())
}

/// The absolute path of `rel` under `root`.
pub(crate) fn absolute(root: &Path, rel: &[u8]) -> PathBuf {
    if rel.is_empty() {
        root.to_path_buf()
    } else {
        root.join(OsStr::from_bytes(rel))
    }
}
