//! Groups of steps: everything of a batch is built and checked, its files are synced, then it is written
//! to the journal with one sync, then carried out.
//!
//! A power failure may take any line that was not synced and any rename; because the lines of a batch
//! are durable before its first rename, no original is ever under a name that nobody knows. One sync
//! for [`BATCH`] steps is little beside the sync of each new file. Each original is looked at again
//! just before its step: the time between the check and the step is that of one system call.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, OFlags, StatxAttributes, StatxFlags, fstat, fsync, statx};
use rustix::io::Errno;

use super::exchange::remove_built;
use super::{Digests, LayerCommit, Step, Stop, at, io_at};
use crate::amend::Amendment;
use crate::change::{Change, ChangeKind, Conflict};
use crate::commit::{HoldReason, Status, below_root};
use crate::content::{all_xattrs, private_xattrs, travelling};
use crate::dir::{EntryKind, Snapshot, open_in, split, stat_in};
use crate::record::{Held, InPlace, Rel, Temp};
use crate::scan::absolute;
use crate::undo::kept::{Kept, pairs};

/// Steps per batch: each holds a descriptor of its directory until it is carried out.
const BATCH: usize = 128;

/// A step of which only the rename, or the change of attributes, is missing.
pub(super) struct Ready<'w> {
    index: usize,
    change: &'w Change,
    rel: &'w [u8],
    parent: OwnedFd,
    digests: Digests,
    /// The content of a new file, not yet synced.
    unsynced: Option<OwnedFd>,
    step: Prepared,
}

enum Prepared {
    Put(Temp, Snapshot),
    Away(Temp, Snapshot),
    InPlace(InPlace),
}

/// Whether a batch must be carried out before this change can be prepared: it is full, or makes the
/// directory or the first name of a hard link that the change needs.
pub(super) fn must_end(batch: &[Ready<'_>], change: &Change, rel: &[u8]) -> bool {
    let dir = split(rel).0;
    let needs = |r: &Ready<'_>| {
        (change.parent.is_none() && r.rel == dir) || change.link_to.as_ref() == Some(&r.change.path)
    };
    batch.len() >= BATCH || batch.iter().any(needs)
}

impl LayerCommit<'_> {
    /// Checks one change and builds what it needs; or says how it ended.
    pub(super) fn prepare<'w>(
        &mut self,
        index: usize,
        change: &'w Change,
        rel: &'w [u8],
        name: String,
    ) -> Result<Ready<'w>, Status> {
        self.digests = Digests::default();
        self.unsynced = None;
        let mut done = None;
        let status = self.status(rel, |s| {
            match s.prepare_step(change, rel, name)? {
                Some((parent, step)) => {
                    done = Some(Ready {
                        index,
                        change,
                        rel,
                        parent,
                        digests: std::mem::take(&mut s.digests),
                        unsynced: s.unsynced.take(),
                        step,
                    });
                }
                None => return Ok(Status::AlreadyApplied),
            }
            Ok(Status::Committed)
        });
        done.ok_or(status)
    }

    fn prepare_step(
        &mut self,
        change: &Change,
        rel: &[u8],
        name: String,
    ) -> Step<Option<(OwnedFd, Prepared)>> {
        let (dir, own) = split(rel);
        let parent = self.parent(change, dir)?;
        let now = stat_in(&parent, own).map_err(at("examine the original"))?;
        if !self.as_reviewed(change, rel, now.as_ref()) {
            return if self.already(change, &parent, own, now.as_ref()) {
                Ok(None)
            } else {
                Err(Stop::Conflict(Conflict::ChangedSinceReview))
            };
        }
        let amendment = self.amendments.of(change);
        if amendment.is_some_and(|a| a.is_there_already(change)) {
            return Ok(None);
        }
        if !is_in_place(change, now.as_ref()) {
            takes_renames(&parent)?;
        }
        self.dirty.insert(dir.to_vec());
        let dir_now = Snapshot::new(&fstat(&parent).map_err(at("examine the directory"))?);
        self.dirs_before.entry(dir.to_vec()).or_insert(dir_now);
        let held = self.hold(dir, &parent)?;
        let step = self.make(change, &parent, rel, name, now);
        self.release(held, &parent);
        point!("prepared");
        Ok(Some((parent, step?)))
    }

    /// Makes what a step needs, in the directory of the change; `now` is the original, as reviewed.
    fn make(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        rel: &[u8],
        name: String,
        now: Option<Snapshot>,
    ) -> Step<Prepared> {
        if let Some(old) = &now
            && is_linked(old)
            && !self.base.changed(rel, old, &self.record)
        {
            let noted = self.record.begin_on(rel, old);
            noted.map_err(io_at("write the commit record"))?;
        }
        let amendment = self.amendments.of(change);
        let root = &self.layer.root;
        let temp = |made: Option<&Snapshot>, old: Option<Snapshot>| Temp {
            rel: rel.to_vec(),
            name: name.clone(),
            new: made.map(|m| m.id),
            made: made.cloned(),
            old,
            content: None,
            xattrs: change.xattrs.clone(),
            link_to: change
                .link_to
                .as_ref()
                .and_then(|path| below_root(root, path))
                .map(Rel),
            amended: amendment.map(Amendment::kind),
        };
        let step = if change.kind == ChangeKind::Delete {
            let old = now.ok_or(Stop::Conflict(Conflict::ChangedSinceReview))?;
            if old.kind == EntryKind::Directory
                && let Some(conflict) = self.changed_below(rel, rel)
            {
                return Err(Stop::Conflict(conflict));
            }
            Prepared::Away(temp(None, Some(old.clone())), old)
        } else if is_in_place(change, now.as_ref()) {
            let name_here = split(rel).1;
            let fd = open_in(parent, name_here, OFlags::RDONLY).map_err(at("open the original"))?;
            Prepared::InPlace(self.note_attributes(change, &fd, rel, name)?)
        } else {
            if let Err(stop) = self.build(change, parent, rel, &name) {
                let _ = remove_built(parent, &name, None);
                return Err(stop);
            }
            let made = stat_in(parent, name.as_bytes())
                .and_then(|s| s.ok_or(Errno::NOENT))
                .map_err(at("examine the new object"))?;
            if amendment.is_some_and(Amendment::explains_the_original) {
                // The rest of the session's copy is a change of what is built here, durable with the
                // batch.
                let noted = self.record.begin_on(rel, &made);
                noted.map_err(io_at("write the commit record"))?;
            }
            if !is_linked(&made) {
                self.record.own.built(&made);
            }
            let mut temp = temp(Some(&made), now);
            temp.content.clone_from(&self.digests.new);
            Prepared::Put(temp, made)
        };
        Ok(step)
    }

    /// Before a step in a directory: whether it is unchanged, or all that changed is our own work.
    pub(super) fn hold(&mut self, dir: &[u8], fd: &OwnedFd) -> Step<Option<Held>> {
        let now = Snapshot::new(&fstat(fd).map_err(at("examine the directory"))?);
        let held = self.record.hold(&self.base, dir, now);
        held.map_err(io_at("write the commit record"))
    }

    /// After it: what the directory is now is our own work then.
    pub(super) fn release(&mut self, held: Option<Held>, fd: &OwnedFd) {
        let now = fstat(fd).ok().map(|st| Snapshot::new(&st));
        self.record.changed_own(held, now);
    }

    /// What the attributes of an original are, and what they will be.
    fn note_attributes(
        &mut self,
        change: &Change,
        original: &OwnedFd,
        rel: &[u8],
        name: String,
    ) -> Step<InPlace> {
        let now = Snapshot::new(&fstat(original).map_err(at("examine the original"))?);
        if !self.as_reviewed(change, rel, Some(&now)) {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let have = all_xattrs(original.as_fd()).map_err(at("read the attributes"))?;
        let (source, new) = self.reviewed_copy(change, rel)?;
        let want = private_xattrs(&source).map_err(at("read the attributes"))?;
        Ok(InPlace {
            rel: rel.to_vec(),
            name,
            was: now,
            xattrs: pairs(&travelling(&have)),
            to: (new.mode, new.uid, new.gid),
            to_xattrs: pairs(&travelling(&want)),
            to_time: change.new_time.then_some(new.mtime),
        })
    }

    /// The same for a directory whose attributes change.
    pub(super) fn note_directory(
        &mut self,
        change: &Change,
        rel: &[u8],
        name: String,
    ) -> Step<InPlace> {
        let (dir, own) = split(rel);
        let parent = self.parent(change, dir)?;
        let fd = Self::open_directory(&parent, own)?;
        self.note_attributes(change, &fd, rel, name)
    }

    /// Notes a batch in the journal, and carries it out.
    pub(super) fn carry_out(
        &mut self,
        batch: &mut Vec<Ready<'_>>,
        statuses: &mut [Option<Status>],
        digests: &mut HashMap<usize, Digests>,
    ) {
        if batch.is_empty() {
            return;
        }
        self.sync_files(batch, statuses);
        let (mut temps, mut in_place) = (Vec::new(), Vec::new());
        for ready in batch.iter() {
            match &ready.step {
                Prepared::Put(temp, _) | Prepared::Away(temp, _) => temps.push(temp.clone()),
                Prepared::InPlace(step) => in_place.push(step.clone()),
            }
        }
        let noted = self.record.batch(temps, in_place);
        point!("journaled");
        for ready in batch.drain(..) {
            let (index, rel) = (ready.index, ready.rel);
            let name = match &ready.step {
                Prepared::Put(temp, _) | Prepared::Away(temp, _) => temp.name.clone(),
                Prepared::InPlace(step) => step.name.clone(),
            };
            let status = match (&noted, &ready.step, &self.failed) {
                (Ok(()), Prepared::Away(..), Some(path)) => {
                    let path = absolute(&self.layer.root, path);
                    let reason = HoldReason::DeletionWaits { path };
                    Status::Held { reason }
                }
                (Ok(()), ..) => self.status(rel, |s| s.carry_out_one(ready)),
                (Err(e), step, _) => {
                    if let Prepared::Put(temp, made) = step {
                        let _ = remove_built(&ready.parent, &temp.name, Some(made));
                    }
                    let stop = io_at("write the commit record")(e.kind().into());
                    self.status(rel, |_| Err(stop))
                }
            };
            if status == Status::Committed {
                digests.insert(index, std::mem::take(&mut self.digests));
            }
            if matches!(status, Status::Conflict { .. } | Status::Held { .. }) {
                self.not_done.push(name);
            }
            statuses[index] = Some(status);
        }
    }

    /// Makes the new files of a batch durable; those that cannot be leave it.
    fn sync_files(&mut self, batch: &mut Vec<Ready<'_>>, statuses: &mut [Option<Status>]) {
        batch.retain_mut(|ready| {
            let Some(Err(e)) = ready.unsynced.take().map(fsync) else {
                return true;
            };
            if let Prepared::Put(temp, made) = &ready.step {
                let _ = remove_built(&ready.parent, &temp.name, Some(made));
            }
            let stop = Stop::Failed("sync the temporary file", e);
            statuses[ready.index] = Some(self.status(ready.rel, |_| Err(stop)));
            false
        });
    }

    fn carry_out_one(&mut self, ready: Ready<'_>) -> Step<Status> {
        let Ready {
            change,
            rel,
            parent,
            digests,
            step,
            ..
        } = ready;
        self.digests = digests;
        let held = self.hold(split(rel).0, &parent)?;
        let result = self.take_step(change, rel, &parent, step);
        self.release(held, &parent);
        result
    }

    fn take_step(
        &mut self,
        change: &Change,
        rel: &[u8],
        parent: &OwnedFd,
        step: Prepared,
    ) -> Step<Status> {
        let (dir_rel, own) = split(rel);
        let dir = Snapshot::new(&fstat(parent).map_err(at("examine the directory"))?).id;
        let kept = match step {
            Prepared::Put(mut temp, made) => {
                let built = stat_in(parent, temp.name.as_bytes()).ok().flatten();
                let result = self.still(rel, parent, temp.old.as_ref()).and_then(|ours| {
                    let (old, name) = (temp.old.clone(), temp.name.clone());
                    self.install(change, parent, dir_rel, rel, &name, &made, old)?;
                    if let Some(ours) = ours {
                        self.rests(&mut temp, &ours);
                    }
                    Ok(())
                });
                if let Err(stop) = result {
                    // After a failed exchange the name may hold the original, which recovery puts back.
                    let _ = remove_built(parent, &temp.name, Some(&made));
                    return Err(stop);
                }
                self.placed(parent, &temp, built.as_ref(), &made);
                Kept::of_temp(temp, dir, self.digests.old.clone())
            }
            Prepared::Away(mut temp, old) => {
                if stat_in(parent, own).is_ok_and(|now| now.is_none()) {
                    return Ok(Status::AlreadyApplied);
                }
                let ours = self.still(rel, parent, Some(&old))?;
                self.take_away(parent, dir_rel, rel, &temp.name, old)?;
                if let Some(ours) = ours {
                    self.rests(&mut temp, &ours);
                }
                self.record.own.took(rel, &temp.name);
                Kept::of_temp(temp, dir, self.digests.old.clone())
            }
            Prepared::InPlace(step) => {
                let after = self.file_meta(change, parent, rel)?;
                let mut kept = Kept::of_attributes(step, after, dir);
                kept.content.clone_from(&self.digests.new);
                kept.old_content.clone_from(&self.digests.old);
                kept
            }
        };
        self.kept.push(kept);
        point!("carried out");
        Ok(Status::Committed)
    }

    /// Looks once more just before a step: the batch may have taken a while. Returns what the original is
    /// now, if it is unchanged, or our own work; an amended one need not be.
    fn still(
        &self,
        rel: &[u8],
        parent: &OwnedFd,
        old: Option<&Snapshot>,
    ) -> Step<Option<Snapshot>> {
        let Some(old) = old else { return Ok(None) };
        let now = stat_in(parent, split(rel).1).map_err(at("examine the original"))?;
        let Some(now) = now.filter(|now| old.same_object(now)) else {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        };
        let ours = !self.base.changed(rel, &now, &self.record);
        match old.kind == EntryKind::Directory || old.ctime == now.ctime || ours {
            true => Ok(ours.then_some(now)),
            false => Err(Stop::Conflict(Conflict::ChangedSinceReview)),
        }
    }
}

/// Whether a change gives an original other attributes, and no other content.
fn is_in_place(change: &Change, now: Option<&Snapshot>) -> bool {
    change.kind == ChangeKind::Meta
        && change.entry == EntryKind::File
        && now.is_some_and(|o| o.nlink == 1)
}

/// Refuses a directory that lets nobody rename what is in it, before anything has a temporary name there:
/// in an append-only one (`chattr +a`) that name could be made, and never go away again.
fn takes_renames(parent: &OwnedFd) -> Step<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(parent, c"", flags, StatxFlags::TYPE).map_err(at("examine the directory"))?;
    let set = found.stx_attributes & found.stx_attributes_mask;
    if set.contains(StatxAttributes::APPEND) {
        return Err(Stop::Failed(
            "begin in an append-only folder ('chattr -a' makes it an ordinary one)",
            Errno::PERM,
        ));
    }
    if set.contains(StatxAttributes::IMMUTABLE) {
        return Err(Stop::Failed(
            "begin in an immutable folder ('chattr -i' makes it an ordinary one)",
            Errno::PERM,
        ));
    }
    Ok(())
}

/// Whether an object has other names.
pub(super) fn is_linked(object: &Snapshot) -> bool {
    object.nlink > 1 && object.kind != EntryKind::Directory
}
