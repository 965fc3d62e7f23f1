//! What someone else did below an original directory that a session deleted or replaced.
//!
//! The walk stops at the first object that changed since the session began: one is enough to keep the
//! directory. Nothing is left out of it, since the removal that follows leaves nothing out either.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Base, absolute};
use crate::change::Conflict;
use crate::dir::{EntryKind, Snapshot, Tree, join, list_sorted, stat_in};
use crate::record::Record;

/// What the walk of a directory that would be deleted found.
#[derive(Debug, Default)]
pub(crate) struct Below {
    pub count: u64,
    pub conflict: Option<Conflict>,
    /// Regular files (path below the layer root, size), for rename guesses; capped.
    pub files: Vec<(Vec<u8>, u64)>,
}

const MAX_BELOW_FILES: usize = 20_000;

/// An original directory that is to go, and what to judge it by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deleted<'a> {
    /// The tree it lies in, and where.
    pub tree: &'a Tree,
    pub rel: &'a [u8],
    /// Its path below the layer's root when the session began.
    pub was_at: &'a [u8],
    pub root: &'a Path,
    pub base: &'a Base,
}

impl Deleted<'_> {
    /// Where something that lies at `at` now was when the session began.
    pub(crate) fn origin(&self, at: &[u8]) -> Vec<u8> {
        let mut origin = self.was_at.to_vec();
        origin.extend_from_slice(at.strip_prefix(self.rel).unwrap_or_default());
        origin
    }

    /// Whether someone else changed what lies at `at` now.
    pub(crate) fn changed(&self, at: &[u8], now: &Snapshot, record: &Record) -> bool {
        self.base.changed(&self.origin(at), now, record)
    }
}

/// Walks an original directory; `conflict` is set at the first object changed since the base.
pub(crate) fn below(directory: Deleted<'_>, record: &Record) -> Below {
    let Deleted {
        tree, rel, root, ..
    } = directory;
    let mut out = Below::default();
    let mut stack = vec![rel.to_vec()];
    while let Some(dir) = stack.pop() {
        let names = tree
            .dir(&dir)
            .and_then(|fd| list_sorted(fd.as_fd()).map(|names| (fd, names)));
        let (fd, names) = match names {
            Ok(pair) => pair,
            Err(e) => {
                out.conflict = Some(dir_conflict(absolute(root, &dir), e));
                return out;
            }
        };
        for name in names {
            let at = join(&dir, &name);
            let found = match stat_in(&fd, &name) {
                Ok(Some(found)) => found,
                Ok(None) | Err(_) => {
                    out.conflict = Some(Conflict::ChangedBelow {
                        path: absolute(root, &at),
                    });
                    return out;
                }
            };
            out.count += 1;
            if directory.changed(&at, &found, record) {
                out.conflict = Some(Conflict::ChangedBelow {
                    path: absolute(root, &at),
                });
                return out;
            }
            match found.kind {
                EntryKind::Directory => stack.push(at),
                EntryKind::File if out.files.len() < MAX_BELOW_FILES => {
                    out.files.push((at, found.size));
                }
                _ => {}
            }
        }
    }
    out
}

/// Why a directory that cannot be opened blocks what is below it.
pub(super) fn dir_conflict(path: PathBuf, e: Errno) -> Conflict {
    match e {
        Errno::XDEV => Conflict::MountPoint { path },
        Errno::NOENT => Conflict::ParentVanished { path },
        Errno::NOTDIR | Errno::LOOP => Conflict::ParentNotDirectory { path },
        _ => Conflict::Unreadable { path },
    }
}
