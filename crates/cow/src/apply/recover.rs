//! Dealing with temporary names of a run that was cut off.
//!
//! A swap that was complete is finished; one in which someone else had a hand is undone; what can be
//! neither is left where it is and reported. Attributes that were half set are put back. The report
//! tells of each step which of these it was.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;
use rustix::fs::{AtFlags, OFlags, RenameFlags, StatxFlags, fstat, fsync, renameat_with, statx};

use super::LayerCommit;
use super::attributes::{is_between, set_attributes, set_time};
use super::exchange::remove_built;
use super::trash::{Trashed, kept};
use crate::commit::{CommitReport, Recovered, Recovery};
use crate::content::{FileDigest, all_xattrs, digest, travelling};
use crate::dir::{EntryKind, Snapshot, Tree, join, open_in, split, stat_in};
use crate::layer::{FileId, Timestamp};
use crate::record::{InPlace, Pairs, Temp};
use crate::scan::absolute;
use crate::undo::kept::{Kept, pairs, unpairs};

impl LayerCommit<'_> {
    /// Deals with the steps of a run that was cut off.
    pub(super) fn recover(&mut self, report: &mut CommitReport) {
        let mut found = Vec::new();
        for temp in std::mem::take(&mut self.record.unfinished) {
            let how = self.recover_temp(&temp, report);
            let Some((how, old_content)) = how else {
                // Neither of its objects is where a step leaves them. Of what is gone nobody knows.
                let dir = self.lower.dir(split(&temp.rel).0);
                if temp.old.is_some() && dir.is_ok() {
                    self.not_done.push(temp.name);
                }
                continue;
            };
            found.push((temp, how, old_content));
        }
        // What was left is looked at when nothing changes any more.
        for (mut temp, how, old_content) in found {
            if how == Recovery::Finished {
                self.left_by_cut_off(&mut temp);
            }
            let kept = Kept::of_temp(temp, FileId { dev: 0, ino: 0 }, old_content);
            self.recovered(kept, how, report);
        }
        for step in std::mem::take(&mut self.record.in_place) {
            let how = self.recover_attributes(&step, report);
            let Some((how, after)) = how else { continue };
            let mut kept = Kept::of_attributes(step, after, FileId { dev: 0, ino: 0 });
            if kept.entry() == EntryKind::File {
                kept.content = self.digest_at(&kept.rel);
                kept.old_content.clone_from(&kept.content);
            }
            self.recovered(kept, how, report);
        }
        self.settle();
    }

    /// Tells what became of a step, and keeps for an undo what was finished.
    fn recovered(&mut self, mut kept: Kept, how: Recovery, report: &mut CommitReport) {
        report.recovered.push(Recovered {
            path: absolute(&self.layer.root, &kept.rel),
            kind: kept.kind(),
            entry: kept.entry(),
            mode: kept.after.as_ref().map(|s| s.mode),
            how,
            new: kept.content.clone(),
            old: kept.old_content.clone(),
        });
        if how != Recovery::Finished {
            if how == Recovery::RolledBack {
                self.not_done.push(kept.name);
            }
            return;
        }
        let dir = split(&kept.rel).0.to_vec();
        if let Ok(fd) = self.lower.dir(&dir)
            && let Ok(st) = fstat(&fd)
        {
            kept.parent = Snapshot::new(&st).id;
            self.dirty.insert(dir);
            self.kept.push(kept);
        }
    }

    pub(super) fn digest_at(&self, rel: &[u8]) -> Option<FileDigest> {
        let parent = self.lower.parent(rel).ok()?;
        let fd = open_in(parent, split(rel).1, OFlags::RDONLY).ok()?;
        let size = Snapshot::new(&fstat(&fd).ok()?).size;
        digest(fd.as_fd(), size).ok()
    }

    /// Deals with one temporary name. `None`: the step had not begun, or nobody can tell.
    fn recover_temp(
        &mut self,
        temp: &Temp,
        report: &mut CommitReport,
    ) -> Option<(Recovery, Option<FileDigest>)> {
        let (dir, name) = split(&temp.rel);
        let temp_rel = join(dir, temp.name.as_bytes());
        let in_place = kept(self.layer, &temp_rel, &temp.rel);
        let lost = |report: &mut CommitReport, line: String| {
            report.kept.push(line);
            Some((Recovery::Kept, None))
        };
        let parent = match self.lower.dir(dir) {
            Ok(parent) => parent,
            Err(_) => {
                // The directory was moved or removed since; what it held went with it.
                return match self.adopt(temp, report) {
                    Some(found) => Some(found),
                    None if temp.old.is_some() => lost(report, in_place),
                    None => None,
                };
            }
        };
        let Ok(Some(found)) = stat_in(&parent, temp.name.as_bytes()) else {
            if let Some(found) = self.adopt(temp, report) {
                return Some(found);
            }
            // An addition took its name, or nothing was begun.
            let now = stat_in(&parent, name).ok().flatten();
            let added = temp.old.is_none() && temp.new.is_some() && now.map(|n| n.id) == temp.new;
            return added.then_some((Recovery::Finished, None));
        };
        if Some(found.id) == temp.new {
            let untouched = temp.made.as_ref().is_none_or(|m| m.same_object(&found));
            if !untouched || remove_built(&parent, &temp.name, temp.made.as_ref()).is_err() {
                return lost(report, in_place);
            }
            return Some((Recovery::RolledBack, None));
        }
        if temp.new.is_none() && temp.old.is_none() {
            // Cut off while it was built: only an object born since that commit began is ours.
            let born = born(&parent, &temp.name);
            if born.is_some()
                && born >= self.record.began
                && remove_built(&parent, &temp.name, Some(&found)).is_ok()
            {
                return Some((Recovery::RolledBack, None));
            }
            return lost(report, in_place);
        }
        let Some(old) = temp.old.clone() else {
            return lost(report, in_place);
        };
        if self.is_verified(&parent, &temp_rel, &temp.rel, &old) {
            // The swap or the deletion was complete: this is the reviewed original.
            let content = Self::digest_of_original(&parent, &temp.name, &old);
            self.store(&parent, temp_rel, &temp.name, old, &temp.rel);
            return Some((Recovery::Finished, content));
        }
        // Someone else had changed or replaced the original that was swapped or moved aside: undo
        // it, unless the name has been put to use since.
        let flags = if temp.new.is_some() {
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        let now = stat_in(&parent, name).ok().flatten();
        let ours = match (&temp.made, &now) {
            (Some(made), Some(now)) => made.same_object(now),
            _ => now.map(|s| s.id) == temp.new,
        };
        let undone = ours && renameat_with(&parent, &temp.name, &parent, name, flags).is_ok();
        if !undone {
            return lost(report, in_place);
        }
        if temp.new.is_some() {
            let _ = remove_built(&parent, &temp.name, temp.made.as_ref());
        }
        Some((Recovery::RolledBack, None))
    }

    /// Takes over an original that a run which was cut off had moved to the trash folder; `None` when
    /// it is not there. One that was written to since stays there, and the report says so.
    fn adopt(
        &mut self,
        temp: &Temp,
        report: &mut CommitReport,
    ) -> Option<(Recovery, Option<FileDigest>)> {
        let trash = Tree::open(&self.layer.trash_path(), false).ok()?;
        let folder = trash.dir(b"").ok()?;
        let stored = stat_in(&folder, temp.name.as_bytes()).ok().flatten()?;
        let old = temp.old.as_ref()?;
        let original = Trashed {
            rel: join(split(&temp.rel).0, temp.name.as_bytes()),
            stored: Some(temp.name.clone()),
            was: old.clone(),
            of: temp.rel.clone(),
        };
        if !old.same_object(&stored) {
            report.kept.push(self.describe(&original));
            return Some((Recovery::Kept, None));
        }
        let content = Self::digest_of_original(&folder, &temp.name, old);
        self.trashed.push(original);
        self.trash = Some(trash);
        Some((Recovery::Finished, content))
    }

    /// Puts attributes back that were being changed in place; or finds that all were set.
    fn recover_attributes(
        &mut self,
        step: &InPlace,
        report: &mut CommitReport,
    ) -> Option<(Recovery, Snapshot)> {
        let (dir, name) = split(&step.rel);
        let is_dir = step.was.kind == EntryKind::Directory;
        let flags = match is_dir {
            true => OFlags::RDONLY | OFlags::DIRECTORY,
            false => OFlags::RDONLY,
        };
        let parent = self.lower.dir(dir).ok()?;
        let fd = open_in(&parent, name, flags).ok()?;
        let now = Snapshot::new(&fstat(&fd).ok()?);
        let time = step.to_time.unwrap_or(step.was.mtime);
        let same = now.kind == step.was.kind
            && now.id == step.was.id
            && (is_dir
                || (now.size == step.was.size && [step.was.mtime, time].contains(&now.mtime)));
        // Taken away or written to since: whoever did that saw the attributes.
        if !same {
            return None;
        }
        let have = pairs(&travelling(&all_xattrs(fd.as_fd()).ok()?));
        let is = |(mode, uid, gid): (u32, u32, u32), xattrs: &Pairs, time: Timestamp| {
            (now.mode, now.uid, now.gid) == (mode, uid, gid)
                && have == *xattrs
                && (is_dir || now.mtime == time)
        };
        let was = (step.was.mode, step.was.uid, step.was.gid);
        if is(was, &step.xattrs, step.was.mtime) {
            self.left_in_place(step, &now);
            return None;
        }
        if is(step.to, &step.to_xattrs, time) {
            self.left_in_place(step, &now);
            return Some((Recovery::Finished, now));
        }
        let (from, to) = ((was, &step.xattrs), (step.to, &step.to_xattrs));
        let ours = is_between(&now, &have, from, to);
        let back = ours
            && set_attributes(&fd, was, &unpairs(&step.xattrs)).is_ok()
            && (now.mtime == step.was.mtime || is_dir || set_time(&fd, step.was.mtime).is_ok());
        let end = fstat(&fd).map(|st| Snapshot::new(&st)).unwrap_or(now);
        if !back || fsync(&fd).is_err() {
            report.warnings.push(format!(
                "the attributes of {} were half changed and somebody changed them since: look at them",
                escape_bytes(absolute(&self.layer.root, &step.rel).as_os_str().as_bytes())
            ));
            return Some((Recovery::Kept, end));
        }
        self.left_in_place(step, &end);
        Some((Recovery::RolledBack, end))
    }
}

/// When an object was made, where the file system knows.
fn born(dir: &OwnedFd, name: &str) -> Option<Timestamp> {
    let found = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    known.then_some(Timestamp {
        sec: found.stx_btime.tv_sec,
        nsec: found.stx_btime.tv_nsec,
    })
}
