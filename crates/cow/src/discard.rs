//! Dropping what a session wrote, without touching the original tree.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::change::{Change, ChangeKind, ChangeSet, Conflict};
use crate::commit::{CommitError, is_unfinished, relative};
use crate::dir::{EntryKind, Tree, chmod_path_fd, remove_tree, split};
use crate::layer::Layer;
use crate::scan::{ScanError, absolute, open_upper};
use crate::undo::kept::KeptCommit;
use crate::upper::{Removal, entries, opened_up, remove_applied};

/// Why entries could not be dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscardError {
    /// A change does not belong to the layers that were given.
    #[error(transparent)]
    Foreign(#[from] CommitError),
    /// The upper directory cannot be opened.
    #[error(transparent)]
    Tree(#[from] ScanError),
    /// A commit was cut off, and only its record knows where the originals are that it had in hand.
    #[error(
        "a commit was cut off and left originals under temporary names, which {record:?} lists; \
         finish it first with `recover` or `commit`"
    )]
    Unfinished {
        /// The record.
        record: PathBuf,
    },
    /// The record of earlier commits cannot be read.
    #[error("cannot read the commit record {record:?}: {source}")]
    Record {
        /// The record.
        record: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The original tree is away, so it is not known what a directory of the session hides of it.
    #[error(
        "the session made {path:?} anew, and what it deleted there is not known while {root:?} is away; \
         put that back first, or drop all of {path:?}"
    )]
    Away {
        /// The directory, in the original tree.
        path: PathBuf,
        /// The layer's root.
        root: PathBuf,
    },
    /// Something in the session's folder cannot be removed.
    #[error("cannot remove from {path:?}: {source}; check that the session has ended")]
    Remove {
        /// The upper or work directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Drops the changes for which `select` answers true; returns how many. What stays keeps its
/// meaning. The original tree is never opened.
///
/// # Errors
/// See [`DiscardError`]; what was not dropped is still there.
pub fn discard(
    layers: &[Layer],
    set: &ChangeSet,
    mut select: impl FnMut(&Change) -> bool,
) -> Result<usize, DiscardError> {
    let mut count = 0;
    for change in &set.changes {
        relative(layers, change)?;
    }
    for (index, layer) in layers.iter().enumerate() {
        let mut rels = Vec::new();
        for change in set.changes.iter().filter(|c| c.layer == index) {
            rels.push((change, relative(layers, change)?, select(change)));
        }
        let all: Vec<_> = rels
            .iter()
            .map(|(c, rel, gone)| (*c, &rel[..], *gone))
            .collect();
        count += drop_entries(layer, &all)?;
    }
    Ok(count)
}

/// Drops, of all changes of a layer with their paths below its root, those that are to go; returns how
/// many.
pub(crate) fn drop_entries(
    layer: &Layer,
    all: &[(&Change, &[u8], bool)],
) -> Result<usize, DiscardError> {
    // Dropping a new directory drops what is in it.
    let is_dir = |c: &Change| {
        c.new
            .as_ref()
            .is_some_and(|n| n.kind == EntryKind::Directory)
    };
    let roots: HashSet<&[u8]> = all
        .iter()
        .filter(|(c, _, gone)| *gone && is_dir(c) && c.kind != ChangeKind::Meta)
        .map(|(_, rel, _)| *rel)
        .collect();
    let under = |rel: &[u8]| {
        let mut dir = split(rel).0;
        while !dir.is_empty() && !roots.contains(dir) {
            dir = split(dir).0;
        }
        !dir.is_empty()
    };
    let removals: Vec<Removal<'_>> = all
        .iter()
        .map(|(change, rel, gone)| Removal {
            change,
            rel,
            gone: *gone || under(rel),
        })
        .collect();
    let upper = open_upper(layer)?;
    let of_root = |c: &Conflict| c.is_of_root(&layer.root);
    let away = |r: &Removal<'_>| r.change.conflict.as_ref().is_some_and(of_root);
    let fail = |e: Errno| DiscardError::Remove {
        path: layer.upper.clone(),
        source: e.into(),
    };
    if removals.iter().any(away)
        && let Some(rel) = opened_up(&upper, &removals).map_err(fail)?
    {
        return Err(DiscardError::Away {
            path: absolute(&layer.root, &rel),
            root: layer.root.clone(),
        });
    }
    remove_applied(&upper, &removals).map_err(fail)?;
    Ok(removals.iter().filter(|r| r.gone).count())
}

/// Empties the upper and work directories of ended sessions, whatever modes they contain, and removes
/// this crate's record, manifest and kept originals next to them, unless an earlier commit can be undone or
/// there are checkpoints, which need them: they go with the last checkpoint then. The directories
/// themselves stay. Returns the trash folders that still hold other originals which a commit kept: they
/// are the user's data, to be looked at and removed.
///
/// # Errors
/// See [`DiscardError`]; what was not dropped is still there.
pub fn discard_all(layers: &[Layer]) -> Result<Vec<PathBuf>, DiscardError> {
    for layer in layers {
        let record = layer.record_path();
        match is_unfinished(std::slice::from_ref(layer)) {
            Ok(false) => {}
            Ok(true) => return Err(DiscardError::Unfinished { record }),
            Err(source) => return Err(DiscardError::Record { record, source }),
        }
    }
    // A roll-back to a layer that has none empties it, and the one after that brings it back.
    let has_checkpoints = layers.iter().any(|l| l.checkpoints_path().exists());
    let mut kept = Vec::new();
    for layer in layers {
        for path in [layer.upper.clone(), layer.work.clone()] {
            let fail = |e: Errno| DiscardError::Remove {
                path: path.clone(),
                source: e.into(),
            };
            let tree = match Tree::open(&path, false) {
                Ok(tree) => tree,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(fail(e)),
            };
            let names = match entries(&tree, b"") {
                Err(Errno::ACCESS) => {
                    let fd = tree.dir(b"").map_err(fail)?;
                    chmod_path_fd(&fd, 0o700).map_err(fail)?;
                    entries(&tree, b"").map_err(fail)?
                }
                other => other.map_err(fail)?,
            };
            for rel in names {
                if !remove_tree(&tree, &rel, |_, _| false).map_err(fail)? {
                    return Err(fail(Errno::NOTEMPTY));
                }
            }
        }
        match crate::undo::holds_others(layer) {
            Ok(Some(others)) => {
                if others {
                    kept.push(layer.trash_path());
                }
                continue;
            }
            Ok(None) => {
                let removed = KeptCommit::remove(layer);
                removed.map_err(|source| DiscardError::Remove {
                    path: layer.record_path(),
                    source,
                })?;
            }
            Err(source) => {
                let record = layer.record_path();
                return Err(DiscardError::Record { record, source });
            }
        }
        match std::fs::remove_dir(layer.trash_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => kept.push(layer.trash_path()),
            _ => {}
        }
        if !has_checkpoints {
            drop_beside(layer)?;
            continue;
        }
        for path in [
            layer.manifest_temporary(),
            crate::lend::note_path(&layer.upper),
        ] {
            remove_file(path)?;
        }
        let path = layer.dropped_path();
        let marked = OpenOptions::new().create(true).append(true).open(&path);
        marked.map_err(|source| DiscardError::Remove { path, source })?;
    }
    Ok(kept)
}

/// Removes what is known of the originals of layers that were dropped, once no checkpoint needs it. A
/// layer in which something was done since keeps it.
pub(crate) fn forget_dropped(layers: &[Layer]) -> Result<(), DiscardError> {
    if layers.iter().any(|l| l.checkpoints_path().exists()) {
        return Ok(());
    }
    for layer in layers.iter().filter(|l| l.dropped_path().exists()) {
        if layer.is_untouched() {
            drop_beside(layer)?;
        }
    }
    Ok(())
}

/// Removes what is known of the originals of a layer; what says so goes last.
fn drop_beside(layer: &Layer) -> Result<(), DiscardError> {
    let beside = [
        layer.manifest_temporary(),
        layer.manifest_path(),
        layer.differences_path(),
        layer.record_path(),
        crate::lend::note_path(&layer.upper),
        layer.dropped_path(),
    ];
    let removed = crate::originals::remove(layer);
    removed.map_err(|source| DiscardError::Remove {
        path: layer.originals_path(),
        source,
    })?;
    beside.into_iter().try_for_each(remove_file)
}

/// Removes a file; absent is fine.
fn remove_file(path: PathBuf) -> Result<(), DiscardError> {
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DiscardError::Remove { path, source })
        }
        _ => Ok(()),
    }
}
