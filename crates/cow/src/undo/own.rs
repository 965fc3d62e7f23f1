//! Noting what an undo left: see [`crate::record::Own`].
//!
//! An original that rested as the commit left it is the session's to change again when it is back, however
//! often that happens; one that somebody wrote to meanwhile is a conflict, as it would be in its place.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, fstat, unlinkat};
use rustix::io::Errno;

use super::check::Seen;
use super::kept::Kept;
use super::{LayerUndo, UndoConflict, UndoStatus};
use crate::content::FileDigest;
use crate::dir::{EntryKind, Snapshot, open_in, split, stat_in};
use crate::record::Held;

impl LayerUndo<'_> {
    /// Notes what the undo is about to change, for a run that goes on after a kill.
    pub(super) fn begin_on(&mut self, verdicts: &[Result<Seen, UndoConflict>]) -> io::Result<()> {
        for (step, _) in self
            .kept
            .steps
            .iter()
            .zip(verdicts)
            .filter(|(_, v)| v.is_ok())
        {
            let original = match (&step.before, &step.in_place) {
                (Some(before), Some(_)) => {
                    let here = self.lower.stat(&step.rel).ok().flatten();
                    let ours = |now: &Snapshot| !self.base.changed(&step.rel, now, &self.record);
                    here.filter(ours).map(|here| Snapshot {
                        mode: before.mode,
                        uid: before.uid,
                        gid: before.gid,
                        mtime: before.mtime,
                        ..here
                    })
                }
                _ => self.in_trash(step).filter(|o| self.is_as_kept(step, o)),
            };
            if let Some(original) = original {
                self.record.begin_on(&step.rel, &original)?;
            }
            let dir = split(&step.rel).0;
            if let Ok(Some(now)) = self.lower.stat(dir) {
                self.record.hold(&self.base, dir, now)?;
            }
        }
        Ok(())
    }

    /// Before a step in a directory. An error to write it makes the next scan more cautious, no more.
    pub(super) fn hold(&mut self, dir: &[u8], fd: &OwnedFd) -> Option<Held> {
        let now = fstat(fd).ok().map(|st| Snapshot::new(&st))?;
        self.record.hold(&self.base, dir, now).ok().flatten()
    }

    /// After it.
    pub(super) fn release(&mut self, held: Option<Held>, fd: &OwnedFd) {
        let now = fstat(fd).ok().map(|st| Snapshot::new(&st));
        self.record.changed_own(held, now);
    }

    /// Whether an original rests exactly as the commit left it, and was unchanged before.
    pub(super) fn is_as_kept(&self, step: &Kept, rests: &Snapshot) -> bool {
        step.has_original() && step.resting() == Some(rests) || self.record.own.knows(rests)
    }

    /// An original is back in its place.
    pub(super) fn came_back(&mut self, step: &Kept, original: Option<Snapshot>, parent: &OwnedFd) {
        let now = stat_in(parent, split(&step.rel).1).ok().flatten();
        // It may have been given its attributes back while it rested.
        if let (Some(was), Some(before), Some(now)) = (original, &step.before, now)
            && before.same_object(&now)
            && (was.kind == EntryKind::Directory || was.nlink == now.nlink)
        {
            self.record.own.placed(&step.rel, &now);
        }
    }

    /// What the commit left has gone to the trash folder: its other names are still our own work.
    pub(super) fn went_out(&mut self, step: &Kept, was: Option<&Snapshot>) {
        if let Some(was) = was.filter(|was| is_linked(was) && self.record.own.knows(was))
            && let Some(now) = self.in_trash(step)
            && was.same_object(&now)
            && was.nlink == now.nlink
        {
            self.record.own.know(&now);
        }
    }

    /// Removes one name of an object whose other names are originals.
    pub(super) fn drop_name(
        &mut self,
        step: &Kept,
        there: &Snapshot,
        trash: &OwnedFd,
    ) -> Result<(), Errno> {
        let fd = open_in(trash, step.name.as_bytes(), OFlags::PATH)?;
        let ours = self.record.own.knows(there);
        unlinkat(trash, &*step.name, AtFlags::empty())?;
        let now = Snapshot::new(&fstat(&fd)?);
        if ours && there.same_object(&now) && now.nlink + 1 == there.nlink {
            self.record.own.know(&now);
        }
        Ok(())
    }

    /// Notes what is there again, and what is not any more; and settles what a run that was cut off had
    /// begun.
    pub(super) fn note_undone(&mut self, statuses: &[UndoStatus]) {
        for (step, status) in self.kept.steps.iter().zip(statuses) {
            if *status != UndoStatus::Undone || step.in_place.is_some() {
                continue;
            }
            let is_dir =
                |s: &Option<Snapshot>| s.as_ref().is_some_and(|s| s.kind == EntryKind::Directory);
            if step.before.is_none() {
                let by = format!("{}-undone", step.name);
                self.record.own.took(&step.rel, &by);
            } else if step.after.is_none() || is_dir(&step.before) && !is_dir(&step.after) {
                self.record.own.gave_back(&step.rel, &step.name);
            }
        }
        for (rel, was) in self.record.own.take_begun() {
            let now = self.lower.stat(&rel).ok().flatten();
            if let Some(now) = now.filter(|now| was.same_object(now) && self.has_content(&rel, now))
            {
                self.record.own.placed(&rel, &now);
            }
        }
    }

    /// Whether an original that came back before a kill has the content that it had.
    fn has_content(&self, rel: &[u8], now: &Snapshot) -> bool {
        let of = |k: &&Kept| k.rel == rel && k.before.as_ref().is_some_and(|b| b.id == now.id);
        let step = self.kept.steps.iter().find(of);
        match step.and_then(|k| k.old_content.as_ref()) {
            Some(content) => self.content_at(rel, now).as_ref() == Some(content),
            None => true,
        }
    }

    fn content_at(&self, rel: &[u8], now: &Snapshot) -> Option<FileDigest> {
        use std::os::fd::AsFd as _;
        let fd = open_in(self.lower.parent(rel).ok()?, split(rel).1, OFlags::RDONLY).ok()?;
        crate::content::digest(fd.as_fd(), now.size).ok()
    }
}

fn is_linked(object: &Snapshot) -> bool {
    object.nlink > 1 && object.kind != EntryKind::Directory
}
