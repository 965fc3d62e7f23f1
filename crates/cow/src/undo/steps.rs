//! Putting originals back, one system call each.
//!
//! Order: attributes of directories that had changed in place; deleted objects; then, from the leaves up,
//! modified and added ones, so that a directory that the commit made is empty when its turn comes, and
//! attributes of files, which one of those may be another name of; at last the times of the directories
//! that nobody else worked in.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use agentwall_action::escape_bytes;
use rustix::fs::{OFlags, RenameFlags, fstat, fsync, renameat_with};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt as _;

use super::check::Seen;
use super::kept::{Kept, unpairs};
use super::{LayerUndo, UndoConflict, UndoReport, UndoStatus};
use crate::apply::{set_attributes, set_time, sync_dir};
use crate::dir::{
    EntryKind, Snapshot, chmod_path_fd, list_all, open_in, open_private, split, stat_in,
};
use crate::record::Undoing;
use crate::scan::absolute;

/// How a step ended when it did not succeed.
enum Stop {
    Conflict(UndoConflict),
    Failed(&'static str, Errno),
}

fn at(step: &'static str) -> impl FnOnce(Errno) -> Stop {
    move |e| Stop::Failed(step, e)
}

impl LayerUndo<'_> {
    /// Undoes every step that was looked at and found good; those that are done already are left.
    pub(super) fn go_on(
        &mut self,
        verdicts: &[Result<Seen, UndoConflict>],
        undoing: &Undoing,
        report: &mut UndoReport,
    ) -> Vec<UndoStatus> {
        let steps = self.kept.steps.clone();
        let mut order: Vec<usize> = (0..steps.len()).collect();
        order.sort_by(|a, b| {
            let phase = |k: &Kept| match (&k.in_place, &k.after) {
                (Some(_), Some(after)) if !is_dir(after) => 3,
                (Some(_), _) => 0,
                (None, None) => 1,
                (None, Some(_)) => 2,
            };
            let (a, b) = (&steps[*a], &steps[*b]);
            // Attributes from the root down, the rest from the leaves up.
            (phase(a).cmp(&phase(b))).then_with(|| match phase(a) {
                0 => a.rel.cmp(&b.rel),
                _ => b.rel.cmp(&a.rel),
            })
        });
        self.lend(&steps, verdicts);
        let mut statuses = vec![UndoStatus::Ready; steps.len()];
        for n in order {
            let step = &steps[n];
            let result = match &verdicts[n] {
                Err(conflict) => Err(Stop::Conflict(conflict.clone())),
                Ok(Seen::Done) => Ok(()),
                Ok(Seen::Swapped) => self.verify(step, report),
                Ok(Seen::Ready(seen)) => self.put_back(step, seen.as_ref(), report),
            };
            if verdicts[n].is_ok() {
                self.dirty.insert(split(&step.rel).0.to_vec());
            }
            statuses[n] = match result {
                Ok(()) => UndoStatus::Undone,
                Err(Stop::Conflict(conflict)) => UndoStatus::Conflict { conflict },
                Err(Stop::Failed(step, e)) => UndoStatus::Failed {
                    step: step.to_owned(),
                    error: std::io::Error::from(e).to_string(),
                },
            };
            point!("undid a step");
        }
        self.give_times_back(undoing, &steps, &statuses);
        self.relayer(&steps, &statuses, report);
        self.take_back_lent(&steps, &statuses);
        statuses
    }

    fn put_back(
        &mut self,
        step: &Kept,
        seen: Option<&Snapshot>,
        report: &mut UndoReport,
    ) -> Result<(), Stop> {
        let parent = self.holder(step).map_err(Stop::Conflict)?;
        if step.in_place.is_some() {
            return self.attributes_back(step, seen, &parent);
        }
        let held = self.hold(split(&step.rel).0, &parent);
        let original = self.in_trash(step).filter(|o| self.is_as_kept(step, o));
        let result = self.change_places(step, seen, &parent, report);
        self.release(held, &parent);
        if result.is_ok() {
            self.came_back(step, original, &parent);
        }
        result
    }

    fn change_places(
        &mut self,
        step: &Kept,
        seen: Option<&Snapshot>,
        parent: &OwnedFd,
        report: &mut UndoReport,
    ) -> Result<(), Stop> {
        let name = split(&step.rel).1;
        let folder = self.trash_folder()?;
        if step.after.is_none() {
            Self::prepare_original(step, &folder)?;
            point!("before it comes back");
            return match renameat_with(&folder, &*step.name, parent, name, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                Err(Errno::EXIST) => Err(Stop::Conflict(UndoConflict::Occupied)),
                Err(e) => Err(Stop::Failed("put the deleted original back", e)),
            };
        }
        // Nothing may have happened since its content was read: no program can set the change time.
        let now = stat_in(parent, name).map_err(at("examine what the commit left"))?;
        let same = match (&now, seen) {
            (Some(now), Some(seen)) if seen.kind == EntryKind::Directory => now.id == seen.id,
            // Another name of it went: that changes the time, too, so the content is read again.
            (Some(now), Some(seen)) => {
                seen.same_object(now)
                    && (now.ctime == seen.ctime || self.is_left(step, seen, parent, now).is_ok())
            }
            _ => false,
        };
        if !same {
            return Err(Stop::Conflict(UndoConflict::Changed));
        }
        if seen.is_some_and(|s| s.kind == EntryKind::Directory)
            && !is_empty(parent, name).map_err(at("list the directory"))?
        {
            return Err(Stop::Conflict(UndoConflict::Changed));
        }
        Self::prepare_original(step, &folder)?;
        point!("before it goes");
        let moved = match step.before {
            Some(_) => renameat_with(&folder, &*step.name, parent, name, RenameFlags::EXCHANGE),
            None => renameat_with(parent, name, &folder, &*step.name, RenameFlags::NOREPLACE),
        };
        match moved {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(Stop::Conflict(UndoConflict::Changed)),
            Err(e) => return Err(Stop::Failed("swap with the original", e)),
        }
        self.went_out(step, now.as_ref());
        point!("gone");
        self.verify(step, report)
    }

    /// Looks at what came out; somebody's work goes back to where it was.
    fn verify(&mut self, step: &Kept, report: &mut UndoReport) -> Result<(), Stop> {
        let folder = self.trash_folder()?;
        let out = stat_in(&folder, step.name.as_bytes()).map_err(at("examine what came out"))?;
        let (Some(out), Some(after)) = (out, &step.after) else {
            return Ok(());
        };
        let good = match after.kind {
            EntryKind::Directory => {
                out.id == after.id
                    && is_empty(&folder, step.name.as_bytes()).map_err(at("list the directory"))?
            }
            _ => after.same_object(&out),
        };
        if good {
            return Ok(());
        }
        let name = split(&step.rel).1;
        let parent = self.holder(step).map_err(Stop::Conflict)?;
        let flags = match &step.before {
            Some(before) => {
                // Only if nobody put the name to use since.
                let here = stat_in(&parent, name).ok().flatten();
                match here {
                    Some(here) if here.id == before.id => RenameFlags::EXCHANGE,
                    None => RenameFlags::NOREPLACE,
                    _ => return Err(self.strand(step, Errno::BUSY, report)),
                }
            }
            None => RenameFlags::NOREPLACE,
        };
        point!("goes back");
        match renameat_with(&folder, &*step.name, &parent, name, flags) {
            Ok(()) => Err(Stop::Conflict(UndoConflict::Changed)),
            Err(e) => Err(self.strand(step, e, report)),
        }
    }

    /// Gives up on putting something back: the report says where it is.
    fn strand(&self, step: &Kept, e: Errno, report: &mut UndoReport) -> Stop {
        let place = self.layer.trash_path().join(&step.name);
        report.kept.push(format!(
            "{} holds what was at {}",
            escape_bytes(place.as_os_str().as_bytes()),
            escape_bytes(absolute(&self.layer.root, &step.rel).as_os_str().as_bytes())
        ));
        Stop::Failed("put somebody's change back", e)
    }

    /// Gives an original its attributes back while it rests, so that it comes back whole.
    fn prepare_original(step: &Kept, folder: &OwnedFd) -> Result<(), Stop> {
        let (Some(before), Some(aside)) = (&step.before, &step.aside) else {
            return Ok(());
        };
        let is_dir = before.kind == EntryKind::Directory;
        let fd =
            open_private(folder, step.name.as_bytes(), is_dir).map_err(at("open the original"))?;
        let want = (before.mode, before.uid, before.gid);
        let set = set_attributes(&fd, want, &unpairs(&aside.xattrs));
        set.map_err(|(step, e)| Stop::Failed(step, e))?;
        // The time, too, unless somebody has written to it since.
        let now = Snapshot::new(&fstat(&fd).map_err(at("examine the original"))?);
        if !is_dir && now.mtime == aside.was.mtime && now.mtime != before.mtime {
            set_time(&fd, before.mtime).map_err(at("set the time"))?;
        }
        fsync(&fd).map_err(at("sync the original"))
    }

    fn attributes_back(
        &mut self,
        step: &Kept,
        seen: Option<&Snapshot>,
        parent: &OwnedFd,
    ) -> Result<(), Stop> {
        let (Some(before), Some((xattrs, _))) = (&step.before, &step.in_place) else {
            return Err(Stop::Conflict(UndoConflict::Changed));
        };
        let flags = match before.kind {
            EntryKind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            _ => OFlags::RDONLY,
        };
        let fd = open_in(parent, split(&step.rel).1, flags).map_err(at("open the original"))?;
        let now = Snapshot::new(&fstat(&fd).map_err(at("examine the original"))?);
        let same = seen.is_some_and(|seen| {
            seen.same_object(&now)
                && (is_dir(seen) || seen.ctime == now.ctime || self.record.own.knows(&now))
        });
        if !same {
            return Err(Stop::Conflict(UndoConflict::Changed));
        }
        let want = (before.mode, before.uid, before.gid);
        // A run that was cut off may have set them in part.
        let ours =
            !self.base.changed(&step.rel, &now, &self.record) || self.record.own.has_begun(now.id);
        set_attributes(&fd, want, &unpairs(xattrs)).map_err(|(step, e)| Stop::Failed(step, e))?;
        let new_time = step
            .after
            .as_ref()
            .is_some_and(|after| after.mtime != before.mtime);
        if before.kind == EntryKind::File && new_time {
            point!("attributes without the time put back");
            set_time(&fd, before.mtime).map_err(at("set the time"))?;
        }
        let end = Snapshot::new(&fstat(&fd).map_err(at("examine the original"))?);
        if ours && before.same_object(&end) && (is_dir(&end) || end.nlink == now.nlink) {
            self.record.own.placed(&step.rel, &end);
        }
        point!("attributes put back");
        fsync(&fd).map_err(at("sync the original"))
    }

    fn trash_folder(&self) -> Result<OwnedFd, Stop> {
        let trash = self.trash.as_ref().ok_or(Errno::NOENT);
        trash
            .and_then(|t| t.dir(b""))
            .map_err(at("open the session's trash"))
    }

    /// Lends write permission on directories that the commit made and that go.
    fn lend(&mut self, steps: &[Kept], verdicts: &[Result<Seen, UndoConflict>]) {
        let mut made: Vec<&Kept> = steps
            .iter()
            .zip(verdicts)
            .filter(|(k, v)| made_directory(k) && matches!(v, Ok(Seen::Ready(_))))
            .map(|(k, _)| k)
            .collect();
        made.sort_by(|a, b| a.rel.cmp(&b.rel));
        for step in made {
            self.set_mode(step, |mode| mode | 0o700);
        }
    }

    /// Takes it back where the directory stayed.
    fn take_back_lent(&mut self, steps: &[Kept], statuses: &[UndoStatus]) {
        for (step, status) in steps.iter().zip(statuses) {
            if made_directory(step) && *status != UndoStatus::Undone {
                let after = step.after.as_ref().map(|s| s.mode);
                // Only what was lent: somebody may have given it another mode.
                self.set_mode(step, |mode| match after {
                    Some(after) if mode == after | 0o700 => after,
                    _ => mode,
                });
            }
        }
    }

    fn set_mode(&mut self, step: &Kept, f: impl Fn(u32) -> u32) {
        let Ok(parent) = self.holder(step) else {
            return;
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Ok(fd) = open_in(&parent, split(&step.rel).1, flags) else {
            return;
        };
        let Ok(now) = fstat(&fd).map(|st| Snapshot::new(&st)) else {
            return;
        };
        let mode = f(now.mode);
        if Some(now.id) == step.after.as_ref().map(|s| s.id) && mode != now.mode {
            let ours = !self.base.changed(&step.rel, &now, &self.record);
            // Without it the steps below fail and say so.
            let _ = chmod_path_fd(&fd, mode);
            if let Ok(end) = fstat(&fd).map(|st| Snapshot::new(&st))
                && ours
                && end.mode == mode
            {
                self.record.own.placed(&step.rel, &end);
            }
        }
    }

    /// Gives directories the time back that they had before the commit, if all that the commit did in
    /// them is undone.
    fn give_times_back(&mut self, undoing: &Undoing, steps: &[Kept], statuses: &[UndoStatus]) {
        let staying: HashSet<&[u8]> = steps
            .iter()
            .zip(statuses)
            .filter(|(_, s)| **s != UndoStatus::Undone)
            .map(|(k, _)| split(&k.rel).0)
            .collect();
        for dir in &self.kept.dirs.clone() {
            if !undoing.dirs.contains(&dir.rel) || staying.contains(dir.rel.0.as_slice()) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = self
                .lower
                .dir(&dir.rel.0)
                .and_then(|fd| open_in(fd, b".", flags));
            let Ok(fd) = fd else { continue };
            if fstat(&fd).is_ok_and(|st| Snapshot::new(&st).id == dir.id) {
                let held = self.hold(&dir.rel.0, &fd);
                // A time alone is not worth a failure.
                let _ = set_time(&fd, dir.before);
                self.release(held, &fd);
            }
        }
    }

    /// Makes everything durable; false if that failed.
    pub(super) fn sync(&self, report: &mut UndoReport) -> bool {
        let mut all = true;
        let lower = self.dirty.iter().map(|dir| (&self.lower, dir));
        let upper = self.dirty_upper.iter().map(|dir| (&self.upper, dir));
        for (tree, dir) in lower.chain(upper) {
            match tree.dir(dir).and_then(sync_dir) {
                // It was one that the commit made.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => {
                    all = false;
                    let dir = escape_bytes(dir);
                    report.warnings.push(format!("cannot sync {dir}: {e}"));
                }
            }
        }
        let trash = self.trash.as_ref().map(|t| t.dir(b"").and_then(sync_dir));
        if let Some(Err(e)) = trash {
            all = false;
            let line = format!("cannot sync the session's trash: {e}");
            report.warnings.push(line);
        }
        all
    }
}

fn is_dir(object: &Snapshot) -> bool {
    object.kind == EntryKind::Directory
}

fn made_directory(step: &Kept) -> bool {
    step.in_place.is_none() && step.after.as_ref().is_some_and(is_dir)
}

fn is_empty(dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    let fd = open_in(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    Ok(list_all(fd.as_fd())?.is_empty())
}
