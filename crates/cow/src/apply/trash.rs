//! Where originals rest until the next commit of their session, so that this one can be undone.
//!
//! The trash folder lies beside the upper directory when that is on the same file system; otherwise an
//! original rests under its temporary name in the tree until its layer is finished. It is removed only
//! if nobody wrote to it after it had been verified.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;
use rustix::fs::{OFlags, RenameFlags, fstat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::LayerCommit;
use super::batch::is_linked;
use crate::commit::CommitReport;
use crate::dir::{EntryKind, Snapshot, Tree, open_in, remove_tree, split};
use crate::layer::Layer;
use crate::record::Record;
use crate::scan::{Base, Deleted, absolute, below};

/// An original that left its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trashed {
    /// Directory and name below the root, while it lies in the original tree.
    #[serde(with = "crate::bytes::raw")]
    pub rel: Vec<u8>,
    /// Name in the trash folder, once it lies there.
    pub stored: Option<String>,
    pub was: Snapshot,
    #[serde(with = "crate::bytes::raw")]
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

    /// Tells of originals that somebody wrote to after they had been replaced, and of those that
    /// cannot stay where they are because something failed.
    pub(super) fn report_written(&self, report: &mut CommitReport) {
        let resting = Resting::new(self.layer, &self.lower, self.trash.as_ref(), &self.base);
        for t in &self.trashed {
            let stays_in_tree = t.stored.is_none() && self.failed.is_some();
            let touched = t.stored.is_some() && !resting.is_untouched(&self.record, t);
            if stays_in_tree || touched {
                report.kept.push(self.describe(t));
            }
        }
    }

    /// Removes originals that nobody wrote to after they had been replaced; names the others.
    pub(super) fn empty_trash(&mut self, stale: Vec<Trashed>, report: &mut CommitReport) {
        if self.trash.is_none() {
            self.trash = Tree::open(&self.layer.trash_path(), false).ok();
        }
        let resting = Resting::new(self.layer, &self.lower, self.trash.as_ref(), &self.base);
        for t in stale {
            match resting.remove_unchanged(&mut self.record, &t) {
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

    pub(super) fn describe(&self, t: &Trashed) -> String {
        described(self.layer, t)
    }
}

/// The line of a report about an original that was kept.
pub(crate) fn described(layer: &Layer, t: &Trashed) -> String {
    match &t.stored {
        Some(name) => format!(
            "{} keeps the original of {}",
            escape_bytes(layer.trash_path().join(name).as_os_str().as_bytes()),
            escape_bytes(&t.of)
        ),
        None => kept(layer, &t.rel, &t.of),
    }
}

/// Where the originals that left their names rest, and what to judge them by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resting<'a> {
    layer: &'a Layer,
    lower: &'a Tree,
    trash: Option<&'a Tree>,
    base: &'a Base,
}

impl<'a> Resting<'a> {
    pub(crate) fn new(
        layer: &'a Layer,
        lower: &'a Tree,
        trash: Option<&'a Tree>,
        base: &'a Base,
    ) -> Self {
        Resting {
            layer,
            lower,
            trash,
            base,
        }
    }

    /// Where an original lies; `None` when the trash folder is gone.
    fn place(self, t: &'a Trashed) -> Option<Deleted<'a>> {
        let (tree, rel) = match &t.stored {
            Some(name) => (self.trash?, name.as_bytes()),
            None => (self.lower, t.rel.as_slice()),
        };
        Some(Deleted {
            tree,
            rel,
            was_at: &t.of,
            root: &self.layer.root,
            base: self.base,
        })
    }

    /// Whether an original, and everything below it, is as it was when it was replaced: a program
    /// that had it open, or works in it, may have written to it.
    fn is_untouched(self, record: &Record, t: &Trashed) -> bool {
        let Some(gone) = self.place(t) else {
            return false;
        };
        let now = gone.tree.stat(gone.rel).ok().flatten();
        now.is_some_and(|now| t.was.same_object(&now))
            && (t.was.kind != EntryKind::Directory || below(gone, record).conflict.is_none())
    }

    /// Whether an original is there and is not as it was when it was replaced.
    pub(crate) fn was_written_to(self, record: &Record, t: &Trashed) -> bool {
        let there = |gone: Deleted<'_>| !matches!(gone.tree.stat(gone.rel), Ok(None));
        self.place(t).is_some_and(there) && !self.is_untouched(record, t)
    }

    /// Removes one original unless it, or anything below it, changed. Looks at the whole first, so that
    /// one change keeps all of it, and at each object again just before it goes. One that is not there
    /// is gone.
    pub(crate) fn remove_unchanged(self, record: &mut Record, t: &Trashed) -> Result<bool, Errno> {
        let Some(gone) = self.place(t) else {
            return Ok(true);
        };
        if gone.tree.stat(gone.rel)?.is_none() {
            return Ok(true);
        }
        if !self.is_untouched(record, t) {
            return Ok(false);
        }
        point!("emptying the trash");
        // One that rests in the original tree is an entry of a directory there.
        let dir = match &t.stored {
            Some(_) => None,
            None => gone.tree.parent(gone.rel).ok(),
        };
        let note = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let held = match dir.as_ref().map(fstat).transpose()? {
            Some(st) => {
                let now = Snapshot::new(&st);
                record
                    .hold(self.base, split(gone.rel).0, now)
                    .map_err(note)?
            }
            None => None,
        };
        // The other names of a hard link get a new change time when this one goes.
        let mut link: Option<OwnedFd> = None;
        let removed = remove_tree(gone.tree, gone.rel, |at, now| {
            know_link(record, link.take());
            let (same, ours) = match at == gone.rel {
                true => (t.was.same_object(now), record.own.knows(now)),
                false => {
                    let same = !gone.changed(at, now, record);
                    (same, same)
                }
            };
            if same && ours && is_linked(now) {
                let parent = gone.tree.parent(at);
                let open = parent.and_then(|fd| open_in(fd, split(at).1, OFlags::PATH));
                let said = record.begin_on(&gone.origin(at), now);
                match (open, said) {
                    (Ok(fd), Ok(())) => link = Some(fd),
                    _ => return true,
                }
            }
            !same
        });
        know_link(record, link.take());
        let now = dir.and_then(|fd| fstat(fd).ok());
        record.changed_own(held, now.map(|st| Snapshot::new(&st)));
        record.note_own().map_err(note)?;
        removed
    }
}

/// What an object is after one of its names went.
fn know_link(record: &mut Record, link: Option<OwnedFd>) {
    if let Some(Ok(st)) = link.map(fstat)
        && st.st_nlink > 0
    {
        record.own.know(&Snapshot::new(&st));
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
