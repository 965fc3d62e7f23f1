//! Whether each object still is what the commit left there, and each original where it rests.
//!
//! Compared are the identity (device, inode), type, mode, owner, size and time of change, and the
//! content and extended attributes by digest: an edit that sets the time back is seen. A new change
//! time alone (a new hard link, a backup program) is no change. Nothing is touched here.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{OFlags, fstat};

use super::kept::{Kept, pairs};
use super::{LayerUndo, UndoConflict};
use crate::apply::is_between;
use crate::content::{all_xattrs, digest, travelling, xattr_digest};
use crate::dir::{EntryKind, Snapshot, join, list_all, open_in, split, stat_in};
use crate::record::Rel;
use crate::scan::absolute;

/// What was found about one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It can be undone; this is what the commit left, as it was looked at.
    Ready(Option<Snapshot>),
    /// Its objects have changed places already; they are looked at again.
    Swapped,
    /// It is undone already.
    Done,
}

impl LayerUndo<'_> {
    /// Looks at every step. `resuming`: some may be done already.
    pub(super) fn check(&self, resuming: bool) -> Vec<Result<Seen, UndoConflict>> {
        let steps = &self.kept.steps;
        let mut verdicts: Vec<_> = steps.iter().map(|s| self.look(s, resuming)).collect();
        // A directory that the commit made goes only if everything in it goes: deepest first, so that
        // one that stays keeps those above it.
        let mut order: Vec<usize> = (0..steps.len()).collect();
        order.sort_by(|a, b| steps[*b].rel.cmp(&steps[*a].rel));
        let mut going: HashSet<&[u8]> = HashSet::new();
        for at in order {
            let step = &steps[at];
            let Some(after) = step.after.as_ref().filter(|_| step.in_place.is_none()) else {
                continue;
            };
            if after.kind == EntryKind::Directory
                && matches!(verdicts[at], Ok(Seen::Ready(_)))
                && let Err(conflict) = self.only_holds(step, &going)
            {
                verdicts[at] = Err(conflict);
            }
            // A name at which an original comes back still holds something then.
            if verdicts[at].is_ok() && step.before.is_none() {
                going.insert(&step.rel);
            }
        }
        verdicts
    }

    /// The directory that holds a step's path, if it is the one that the commit worked in.
    pub(super) fn holder(&self, step: &Kept) -> Result<OwnedFd, UndoConflict> {
        let parent = self.lower.dir(split(&step.rel).0);
        let parent = parent.map_err(|_| UndoConflict::Directory)?;
        let found = fstat(&parent).map_err(|_| UndoConflict::Directory)?;
        match Snapshot::new(&found).id == step.parent {
            true => Ok(parent),
            false => Err(UndoConflict::Directory),
        }
    }

    /// What lies in the trash folder under the step's name.
    pub(super) fn in_trash(&self, step: &Kept) -> Option<Snapshot> {
        let folder = self.trash.as_ref()?.dir(b"").ok()?;
        stat_in(&folder, step.name.as_bytes()).ok().flatten()
    }

    fn look(&self, step: &Kept, resuming: bool) -> Result<Seen, UndoConflict> {
        let there = self.in_trash(step);
        let id = |s: &Option<Snapshot>| s.as_ref().map(|s| s.id);
        let parent = match self.holder(step) {
            Ok(parent) => parent,
            // The directory was one that the commit made, and is gone with what was in it.
            Err(_) if resuming && step.before.is_none() && self.was_taken(step, &there) => {
                return Ok(Seen::Done);
            }
            Err(conflict) => return Err(conflict),
        };
        let name = split(&step.rel).1;
        let here = stat_in(&parent, name).map_err(|_| UndoConflict::Unreadable)?;
        if step.in_place.is_some() {
            return self.look_in_place(step, &parent, here, resuming);
        }
        let back = step.before.is_some() && id(&here) == id(&step.before);
        match (&step.before, &step.after) {
            (Some(_), None) if resuming && back && there.is_none() => Ok(Seen::Done),
            (Some(before), None) => match (here, there) {
                (_, None) => Err(UndoConflict::OriginalGone),
                (_, Some(there)) if there.id != before.id => Err(UndoConflict::OriginalGone),
                (Some(_), _) => Err(UndoConflict::Occupied),
                (None, _) => Ok(Seen::Ready(None)),
            },
            (_, Some(after)) => {
                if resuming && (back || (here.is_none() && step.before.is_none())) {
                    return match there {
                        Some(there) if there.id != after.id => Ok(Seen::Swapped),
                        None if here.is_none() && !self.was_taken(step, &None) => {
                            Err(UndoConflict::Changed)
                        }
                        _ => Ok(Seen::Done),
                    };
                }
                if step.has_original() && id(&there) != id(&step.before) {
                    return Err(UndoConflict::OriginalGone);
                }
                let here = here.ok_or(UndoConflict::Changed)?;
                let mut after = after.clone();
                if resuming && after.kind == EntryKind::Directory && here.mode == after.mode | 0o700
                {
                    // Lent, to take out what was in it.
                    after.mode = here.mode;
                }
                self.is_left(step, &after, &parent, &here)?;
                Ok(Seen::Ready(Some(here)))
            }
            (None, None) => Err(UndoConflict::Changed),
        }
    }

    /// Whether an added object has left the original tree for the trash or the upper directory.
    fn was_taken(&self, step: &Kept, there: &Option<Snapshot>) -> bool {
        let Some(after) = &step.after else {
            return false;
        };
        let upper = self.upper.stat(&step.rel).ok().flatten();
        let is = |s: &Snapshot| s.id == after.id;
        // A directory may have been merged into the one that stood in the upper directory.
        there.as_ref().is_some_and(is)
            || upper.is_some_and(|u| is(&u) || u.kind == EntryKind::Directory)
    }

    /// Whether this is what the commit left.
    pub(super) fn is_left(
        &self,
        step: &Kept,
        after: &Snapshot,
        parent: &OwnedFd,
        here: &Snapshot,
    ) -> Result<(), UndoConflict> {
        if !after.same_object(here) {
            return Err(UndoConflict::Changed);
        }
        let flags = match after.kind {
            EntryKind::File => OFlags::RDONLY,
            EntryKind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            _ => return Ok(()),
        };
        let Ok(fd) = open_in(parent, split(&step.rel).1, flags) else {
            return match after.ctime == here.ctime {
                true => Ok(()),
                false => Err(UndoConflict::Unreadable),
            };
        };
        let xattrs = all_xattrs(fd.as_fd()).map_err(|_| UndoConflict::Unreadable)?;
        if xattr_digest(&travelling(&xattrs)) != step.xattrs {
            return Err(UndoConflict::Changed);
        }
        if after.kind == EntryKind::File {
            let found = digest(fd.as_fd(), here.size).map_err(|_| UndoConflict::Unreadable)?;
            if step.content.as_ref().map(|c| &c.blocks) != Some(&found.blocks) {
                return Err(UndoConflict::Changed);
            }
        }
        Ok(())
    }

    fn look_in_place(
        &self,
        step: &Kept,
        parent: &OwnedFd,
        here: Option<Snapshot>,
        resuming: bool,
    ) -> Result<Seen, UndoConflict> {
        let (Some(before), Some(after), Some((old, new)), Some(here)) =
            (&step.before, &step.after, &step.in_place, here)
        else {
            return Err(UndoConflict::Changed);
        };
        if resuming && here.id == after.id {
            let fd = open_in(parent, split(&step.rel).1, OFlags::RDONLY);
            let have = fd.and_then(|fd| all_xattrs(fd.as_fd()));
            let have = pairs(&travelling(&have.map_err(|_| UndoConflict::Unreadable)?));
            if before.same_object(&here) && have == *old {
                return Ok(Seen::Done);
            }
            // It was cut off in between, and goes on, unless somebody else changed it since.
            let of = |s: &Snapshot| (s.mode, s.uid, s.gid);
            let same_bytes = here.kind == EntryKind::Directory
                || (here.size, here.mtime) == (after.size, after.mtime);
            let ours = is_between(&here, &have, (of(after), new), (of(before), old));
            return match here.kind == after.kind && same_bytes && ours {
                true => Ok(Seen::Ready(Some(here))),
                false => Err(UndoConflict::Changed),
            };
        }
        self.is_left(step, after, parent, &here)?;
        Ok(Seen::Ready(Some(here)))
    }

    /// Whether a directory that the commit made holds nothing but what goes.
    fn only_holds(&self, step: &Kept, going: &HashSet<&[u8]>) -> Result<(), UndoConflict> {
        let names = self
            .lower
            .dir(&step.rel)
            .and_then(|fd| list_all(fd.as_fd()));
        let mut names = names.map_err(|_| UndoConflict::Unreadable)?;
        names.sort_unstable();
        for name in names {
            let rel = join(&step.rel, &name);
            if !going.contains(rel.as_slice()) {
                let path = absolute(&self.layer.root, &rel);
                return Err(UndoConflict::NotEmpty { path });
            }
        }
        Ok(())
    }

    /// The directories whose times nobody changed since the commit.
    pub(super) fn unchanged_directories(&self) -> Vec<Rel> {
        let same = |d: &&super::kept::DirTime| {
            let now = self.lower.stat(&d.rel.0).ok().flatten();
            now.is_some_and(|now| now.id == d.id && now.mtime == d.after)
        };
        let dirs = self.kept.dirs.iter().filter(same);
        dirs.map(|d| d.rel.clone()).collect()
    }
}
