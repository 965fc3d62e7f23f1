//! Where originals rest until their layer is finished.
//!
//! The trash folder lies beside the upper directory when that is on the same file system; otherwise an
//! original rests under its temporary name in the tree. It is removed only if nobody wrote to it after
//! it had been verified.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::LayerCommit;
use crate::commit::CommitReport;
use crate::dir::{EntryKind, Snapshot, Tree, remove_tree};
use crate::layer::Layer;
use crate::scan::{Deleted, absolute, below};

/// An original that left its name.
pub(super) struct Trashed {
    /// Directory and name below the root, while it lies in the original tree.
    pub rel: Vec<u8>,
    /// Name in the trash folder, once it lies there.
    pub stored: Option<String>,
    pub was: Snapshot,
    pub of: Vec<u8>,
}

impl LayerCommit<'_> {
    /// Moves a verified original to the trash folder if that is on the same file system.
    pub(super) fn store(
        &mut self,
        parent: &OwnedFd,
        temp_rel: Vec<u8>,
        temp: &str,
        was: Snapshot,
        of: &[u8],
    ) {
        if self.trash.is_none() {
            let path = self.layer.trash_path();
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(_) => {
                    return self.trashed.push(Trashed {
                        rel: temp_rel,
                        stored: None,
                        was,
                        of: of.to_vec(),
                    });
                }
            }
            self.trash = Tree::open(&path, false).ok();
        }
        let moved = self
            .trash
            .as_ref()
            .and_then(|t| t.dir(b"").ok())
            .is_some_and(|fd| {
                renameat_with(parent, temp, &fd, temp, RenameFlags::NOREPLACE).is_ok()
            });
        let stored = moved.then(|| temp.to_owned());
        self.trashed.push(Trashed {
            rel: temp_rel,
            stored,
            was,
            of: of.to_vec(),
        });
    }

    /// Removes the originals that nobody wrote to after they had been replaced; names the others.
    pub(super) fn empty_trash(&mut self, report: &mut CommitReport) {
        for t in std::mem::take(&mut self.trashed) {
            match self.remove_unchanged(&t) {
                Ok(true) => {}
                Ok(false) => report.kept.push(self.describe(&t)),
                Err(e) => {
                    report
                        .warnings
                        .push(format!("cannot remove the replaced original: {e}"));
                    report.kept.push(self.describe(&t));
                }
            }
        }
        // Only succeeds when empty.
        let _ = std::fs::remove_dir(self.layer.trash_path());
    }

    /// Removes one original unless it, or anything below it, changed: a program that had it open, or
    /// works in it, may have written to it after the swap. Looks at the whole first, so that one change
    /// keeps all of it, and at each object again just before it goes.
    fn remove_unchanged(&mut self, t: &Trashed) -> Result<bool, Errno> {
        let (tree, rel) = match (&t.stored, &self.trash) {
            (Some(name), Some(trash)) => (trash, name.as_bytes()),
            _ => (&self.lower, t.rel.as_slice()),
        };
        let now = tree.stat(rel).ok().flatten();
        let gone = Deleted {
            tree,
            rel,
            was_at: &t.of,
            root: &self.layer.root,
            base: &self.base,
        };
        let untouched = now.is_some_and(|now| t.was.same_object(&now))
            && (t.was.kind != EntryKind::Directory || below(gone, &self.record).conflict.is_none());
        if !untouched {
            return Ok(false);
        }
        point!("emptying the trash");
        let record = &mut self.record;
        remove_tree(tree, rel, |at, now| {
            let same = match at == rel {
                true => t.was.same_object(now),
                false => !gone.changed(at, now, record),
            };
            // The other names of a hard link get a new change time when this one goes.
            !same || record.touch_links(now).is_err()
        })
    }

    pub(super) fn describe(&self, t: &Trashed) -> String {
        match &t.stored {
            Some(name) => format!(
                "{} keeps the original of {}",
                escape_bytes(self.layer.trash_path().join(name).as_os_str().as_bytes()),
                escape_bytes(&t.of)
            ),
            None => kept(self.layer, &t.rel, &t.of),
        }
    }
}

/// The line of a report about an original in the tree.
pub(super) fn kept(layer: &Layer, at: &[u8], of: &[u8]) -> String {
    format!(
        "{} keeps the original of {}",
        escape_bytes(absolute(&layer.root, at).as_os_str().as_bytes()),
        escape_bytes(of)
    )
}
