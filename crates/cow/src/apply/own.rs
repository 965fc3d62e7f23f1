//! Noting what the steps of a commit left, right after each of them: see [`crate::record::Own`].
//!
//! After a kill nobody was there right after the step. What it left is then compared by content and
//! attributes; of originals and directories, all that `lstat(2)` tells but the change time.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::OFlags;

use super::batch::is_linked;
use super::{LayerCommit, Trashed};
use crate::amend::Amended;
use crate::content::{all_xattrs, travelling, xattr_digest};
use crate::dir::{EntryKind, Snapshot, open_in, split, stat_in};
use crate::record::{InPlace, Temp};

impl LayerCommit<'_> {
    /// An unchanged original, `was` just before, has left its name: what it is where it rests tells an
    /// undo, and at its other names, that nobody wrote to it.
    pub(super) fn rests(&mut self, temp: &mut Temp, was: &Snapshot) {
        let is_it = |t: &&Trashed| t.of == temp.rel;
        let rest = self.trashed.iter().rev().find(is_it);
        let Some(rest) = rest else {
            return;
        };
        let now = match (&rest.stored, &self.trash) {
            (Some(name), Some(trash)) => trash.stat(name.as_bytes()),
            _ => self.lower.stat(&rest.rel),
        };
        let Some(now) = now.ok().flatten() else {
            return;
        };
        if was.same_object(&now) && (was.kind == EntryKind::Directory || was.nlink == now.nlink) {
            if is_linked(&now) {
                self.record.own.know(&now);
            }
            temp.old = Some(now);
        }
    }

    /// A new object has its name. `built` is what it was just before, `made` what it was when it was
    /// complete: one that differs from what this run knows was changed by somebody else.
    pub(super) fn placed(
        &mut self,
        parent: &OwnedFd,
        temp: &Temp,
        built: Option<&Snapshot>,
        made: &Snapshot,
    ) {
        let was_directory = |s: &Snapshot| s.kind == EntryKind::Directory;
        if temp.old.as_ref().is_some_and(was_directory) && !was_directory(made) {
            self.record.own.took(&temp.rel, &temp.name);
        }
        let now = stat_in(parent, split(&temp.rel).1).ok().flatten();
        let exact = now.filter(|now| {
            built.is_some_and(|b| {
                self.record.own.knows(b) && b.same_object(now) && b.nlink == now.nlink
            })
        });
        // What was made with somebody's edit in it explains nothing while the session's copy, which has
        // no such edit, is in the layer.
        if temp.amended.is_some_and(Amended::was_in_conflict) {
            if let Some(now) = exact {
                self.record.own.built(&now);
            }
            return;
        }
        // Without its new change time it is ours by name, and counts as changed.
        let left = exact.unwrap_or_else(|| made.clone());
        self.record.own.placed(&temp.rel, &left);
    }

    /// The same for a step that a run which was cut off had finished.
    pub(super) fn left_by_cut_off(&mut self, temp: &mut Temp) {
        let in_conflict = temp.amended.is_some_and(Amended::was_in_conflict);
        if let Some(old) = temp.old.clone().filter(|_| !in_conflict) {
            self.rests(temp, &old);
        }
        let Some(made) = temp.made.clone() else {
            return self.record.own.took(&temp.rel, &temp.name);
        };
        let now = self.lower.stat(&temp.rel).ok().flatten();
        // It may have come as far as to note it.
        let is_left =
            |now: &Snapshot| self.record.own.knows(now) || self.is_as_made(temp, &made, now);
        let as_made = now.filter(is_left);
        if let Some(now) = &as_made {
            self.record.own.built(now);
        }
        if let Ok(parent) = self.lower.parent(&temp.rel) {
            self.placed(&parent, temp, as_made.as_ref(), &made);
        }
    }

    /// Whether this is a new object as it was built, in all that can be read of it.
    fn is_as_made(&self, temp: &Temp, made: &Snapshot, now: &Snapshot) -> bool {
        if now.kind == EntryKind::Directory {
            // It may have got its last attributes already.
            let of = |s: &Snapshot| (s.kind, s.mode, s.uid, s.gid);
            let copy = self.upper.stat(&temp.rel).ok().flatten();
            let copy = copy.map(|copy| self.upper.own(copy));
            let last = copy.is_some_and(|copy| of(&copy) == of(now));
            return now.id == made.id && (last || made.same_object(now));
        }
        if !made.same_object(now) || (!is_linked(made) && is_linked(now)) {
            return false;
        }
        if now.kind != EntryKind::File {
            return true;
        }
        let xattrs = || {
            let parent = self.lower.parent(&temp.rel).ok()?;
            let fd = open_in(parent, split(&temp.rel).1, OFlags::RDONLY).ok()?;
            let found = all_xattrs(fd.as_fd()).ok()?;
            Some(xattr_digest(&travelling(&found)))
        };
        temp.content.is_some()
            && self.digest_at(&temp.rel) == temp.content
            && xattrs().as_ref() == Some(&temp.xattrs)
    }

    /// An object whose attributes a run that was cut off had changed, or was to change.
    pub(super) fn left_in_place(&mut self, step: &InPlace, now: &Snapshot) {
        if now.kind == EntryKind::Directory || now.nlink == step.was.nlink {
            self.record.own.placed(&step.rel, now);
        }
    }

    /// What a run that was cut off had begun to change besides: directories, and originals that got or
    /// lost another name.
    pub(super) fn settle(&mut self) {
        for (rel, was) in self.record.own.take_begun() {
            let now = self.lower.stat(&rel).ok().flatten();
            if let Some(now) = now.filter(|now| was.same_object(now)) {
                self.record.own.placed(&rel, &now);
            }
        }
    }
}
