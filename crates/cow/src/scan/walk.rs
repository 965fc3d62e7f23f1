//! The walk: an upper directory beside its original, entry by entry.
//!
//! It keeps relative paths, not descriptors, on its own stack, so depth is bounded by neither the
//! thread's stack nor the descriptor limit. Each frame knows which original directory it stands for,
//! and what to doubt about it.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use super::below::{Below, Deleted, below, dir_conflict};
use super::entry::read_upper;
use super::{Base, ScanError, ScanOptions, absolute, find_root, open_upper};
use crate::change::{Change, ChangeKind, Conflict};
use crate::dir::{
    EntryKind, Snapshot, Tree, is_whiteout, join, list, list_sorted, open_private, stat_in,
};
use crate::layer::{FileId, Layer};
use crate::record::Record;

/// The original directory that corresponds to an upper directory.
#[derive(Debug, Clone)]
pub(super) enum Lower {
    Dir(LowerDir),
    /// The directory is new.
    Absent,
    /// Nothing below can be applied.
    Blocked(Conflict),
}

#[derive(Debug, Clone)]
pub(super) struct LowerDir {
    pub id: FileId,
    /// An entry was added, removed or renamed by someone else since the session began.
    pub changed: bool,
    /// It may be another directory than the session saw.
    pub moved: Option<Conflict>,
}

pub(super) struct Frame {
    pub rel: Vec<u8>,
    pub opaque: bool,
    pub lower: Lower,
}

/// A name of a hard-link group in the upper directory.
pub(super) struct Member {
    pub rel: Vec<u8>,
    pub lower: Option<Snapshot>,
    /// What to emit if the name must become a link although nothing else changed.
    pub change: Change,
    pub emitted: bool,
}

pub(super) struct Walk<'a> {
    pub layer: &'a Layer,
    pub index: usize,
    pub options: ScanOptions,
    pub upper: Tree,
    /// The original tree, or why nothing of the layer can be applied.
    pub lower: Result<Tree, Conflict>,
    pub base: Base,
    pub record: Record,
    pub changes: Vec<Change>,
    pub groups: HashMap<FileId, Vec<Member>>,
    pub deleted_files: Vec<(Vec<u8>, u64)>,
}

impl<'a> Walk<'a> {
    pub(super) fn open(
        layer: &'a Layer,
        index: usize,
        options: ScanOptions,
    ) -> Result<Self, ScanError> {
        Ok(Walk {
            layer,
            index,
            options,
            upper: open_upper(layer)?,
            lower: find_root(layer)?,
            base: Base::of(layer)?,
            record: Record::read(layer).map_err(|source| ScanError::Record {
                path: layer.record_path(),
                source,
            })?,
            changes: Vec::new(),
            groups: HashMap::new(),
            deleted_files: Vec::new(),
        })
    }

    fn error(&self, rel: &[u8], e: Errno) -> ScanError {
        ScanError::Entry {
            path: absolute(&self.layer.root, rel),
            source: e.into(),
        }
    }

    /// Whether someone else changed this original since the session began.
    pub(super) fn changed(&self, rel: &[u8], s: &Snapshot) -> bool {
        self.base.changed(rel, s, &self.record)
    }

    /// What is below an original directory that is to go.
    pub(super) fn below(&self, rel: &[u8]) -> Below {
        let Ok(tree) = &self.lower else {
            return Below::default();
        };
        let directory = Deleted {
            tree,
            rel,
            was_at: rel,
            root: &self.layer.root,
            base: &self.base,
        };
        below(directory, &self.record)
    }

    /// All changes of the layer.
    pub(super) fn changes(mut self) -> Result<Vec<Change>, ScanError> {
        self.run()?;
        self.relate_links();
        self.guess_renames();
        Ok(self.changes)
    }

    /// What stands behind the root of the upper directory.
    fn root(&self) -> Result<Lower, ScanError> {
        let tree = match &self.lower {
            Ok(tree) => tree,
            Err(conflict) => return Ok(Lower::Blocked(conflict.clone())),
        };
        let root = tree
            .stat(b"")
            .map_err(|e| self.error(b"", e))?
            .ok_or_else(|| self.error(b"", Errno::NOENT))?;
        Ok(Lower::Dir(LowerDir {
            id: root.id,
            changed: self.changed(b"", &root),
            moved: None,
        }))
    }

    fn run(&mut self) -> Result<(), ScanError> {
        let mut stack = vec![Frame {
            rel: Vec::new(),
            opaque: false,
            lower: self.root()?,
        }];
        while let Some(frame) = stack.pop() {
            let updir = self
                .upper
                .dir(&frame.rel)
                .map_err(|e| self.error(&frame.rel, e))?;
            let readable =
                open_private(&updir, b".", true).map_err(|e| self.error(&frame.rel, e))?;
            let names = list_sorted(readable.as_fd()).map_err(|e| self.error(&frame.rel, e))?;
            let (lodir, frame) = self.open_lower(frame);
            for name in &names {
                let rel = join(&frame.rel, name);
                let lower = match &lodir {
                    Some(fd) => stat_in(fd, name).map_err(|e| self.error(&rel, e))?,
                    None => None,
                };
                if is_whiteout(&updir, name).map_err(|e| self.error(&rel, e))? {
                    match lower {
                        Some(old) => self.delete(rel, old, &frame, false),
                        None if self.lower.is_err() => self.delete_unseen(&rel, &frame),
                        None => {}
                    }
                    continue;
                }
                let upper =
                    read_upper(&self.upper, &updir, &rel).map_err(|e| self.error(&rel, e))?;
                if let Some(next) = self.examine(rel, upper, lower, lodir.as_ref(), &frame) {
                    stack.push(next);
                }
            }
            if frame.opaque
                && let Some(fd) = &lodir
            {
                self.delete_hidden(fd, &names, &frame)?;
            }
        }
        Ok(())
    }

    /// Opens the original directory of a frame; a race since the parent was read blocks the frame.
    fn open_lower(&self, mut frame: Frame) -> (Option<OwnedFd>, Frame) {
        let (Lower::Dir(_), Ok(tree)) = (&frame.lower, &self.lower) else {
            return (None, frame);
        };
        let opened = tree.dir(&frame.rel);
        // One that may not be searched hides what is in it, also when that is absent.
        let searched = opened.and_then(|fd| statat(&fd, c"./.", AtFlags::empty()).map(|_| fd));
        match searched {
            Ok(fd) => (Some(fd), frame),
            Err(e) => {
                let path = absolute(&self.layer.root, &frame.rel);
                frame.lower = Lower::Blocked(dir_conflict(path, e));
                (None, frame)
            }
        }
    }

    /// Deletions implied by an opaque directory: every original that was not made anew.
    fn delete_hidden(
        &mut self,
        lodir: &OwnedFd,
        kept: &[Vec<u8>],
        frame: &Frame,
    ) -> Result<(), ScanError> {
        let kept: HashSet<&[u8]> = kept.iter().map(Vec::as_slice).collect();
        let names = list(lodir.as_fd()).map_err(|e| self.error(&frame.rel, e))?;
        for name in names.iter().filter(|n| !kept.contains(n.as_slice())) {
            let rel = join(&frame.rel, name);
            if let Some(old) = stat_in(lodir, name).map_err(|e| self.error(&rel, e))? {
                self.delete(rel, old, frame, true);
            }
        }
        Ok(())
    }

    fn delete(&mut self, rel: Vec<u8>, old: Snapshot, frame: &Frame, from_opaque: bool) {
        let mut change = self.blank(&rel, ChangeKind::Delete, old.kind, frame);
        change.from_opaque = from_opaque;
        change.conflict = self.doubt(&rel, &old, frame);
        if old.kind == EntryKind::Directory {
            let found = self.below(&rel);
            change.below = Some(found.count);
            change.conflict = change.conflict.or(found.conflict);
            self.deleted_files.extend(found.files);
        } else if old.kind == EntryKind::File {
            self.deleted_files.push((rel, old.size));
        }
        change.breaks_hard_link = old.kind != EntryKind::Directory && old.nlink > 1;
        change.old = Some(old);
        self.changes.push(change);
    }

    /// A deletion in a tree that is away: a layer of deletions alone must not look as if the session had
    /// done nothing. What it was only the manifest can tell.
    fn delete_unseen(&mut self, rel: &[u8], frame: &Frame) {
        let entry = self.base.kind(rel).unwrap_or(EntryKind::File);
        let change = self.blank(rel, ChangeKind::Delete, entry, frame);
        self.changes.push(change);
    }

    /// The conflict of touching an original that is there.
    pub(super) fn doubt(&self, rel: &[u8], old: &Snapshot, frame: &Frame) -> Option<Conflict> {
        let within = match &frame.lower {
            Lower::Dir(dir) => dir.moved.clone(),
            Lower::Absent => None,
            Lower::Blocked(conflict) => Some(conflict.clone()),
        };
        if matches!(within, Some(Conflict::DirectoryReplaced { .. })) {
            return within;
        }
        if self.changed(rel, old) {
            return Some(Conflict::Changed { ctime: old.ctime });
        }
        within
    }

    pub(super) fn blank(
        &self,
        rel: &[u8],
        kind: ChangeKind,
        entry: EntryKind,
        frame: &Frame,
    ) -> Change {
        Change {
            path: absolute(&self.layer.root, rel),
            layer: self.index,
            kind,
            entry,
            old: None,
            new: None,
            content: None,
            target: None,
            xattrs: None,
            binary: false,
            exec_gained: false,
            privileges: Vec::new(),
            below: None,
            from_opaque: false,
            breaks_hard_link: false,
            link_to: None,
            rename_from: None,
            parent: match &frame.lower {
                Lower::Dir(dir) => Some(dir.id),
                _ => None,
            },
            new_time: false,
            conflict: match &frame.lower {
                Lower::Blocked(conflict) => Some(conflict.clone()),
                _ => None,
            },
        }
    }
}
