//! What someone else did below an original directory that a session deleted or replaced.
//!
//! The walk stops at the first object that changed since the session began: one is enough to keep the
//! directory. Nothing is left out of it, since the removal that follows leaves nothing out either.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::io::Errno;

use super::absolute;
use crate::change::Conflict;
use crate::dir::{EntryKind, Tree, join, list_sorted, stat_in};
use crate::layer::Layer;
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

/// Walks an original directory; `conflict` is set at the first object changed since the base.
pub(crate) fn below(lower: &Tree, rel: &[u8], layer: &Layer, record: &Record) -> Below {
    let mut out = Below::default();
    let mut stack = vec![rel.to_vec()];
    while let Some(dir) = stack.pop() {
        let names = lower
            .dir(&dir)
            .and_then(|fd| list_sorted(fd.as_fd()).map(|names| (fd, names)));
        let (fd, names) = match names {
            Ok(pair) => pair,
            Err(e) => {
                out.conflict = Some(dir_conflict(absolute(&layer.root, &dir), e));
                return out;
            }
        };
        for name in names {
            let at = join(&dir, &name);
            let found = match stat_in(&fd, &name) {
                Ok(Some(found)) => found,
                Ok(None) | Err(_) => {
                    out.conflict = Some(Conflict::ChangedBelow {
                        path: absolute(&layer.root, &at),
                    });
                    return out;
                }
            };
            out.count += 1;
            if found.ctime >= layer.base && !record.explains(&found) {
                out.conflict = Some(Conflict::ChangedBelow {
                    path: absolute(&layer.root, &at),
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
