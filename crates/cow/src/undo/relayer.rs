//! Putting the undone changes back into the session's upper directory, where they were before they
//! were committed: 'diff' shows them again, and they can be committed once more.
//!
//! What the commit had written moves there as it is, from the trash folder; a deletion becomes a
//! whiteout, changed attributes a copy with these attributes. Missing directories on the way are made
//! like the originals that they stand for. A file that has other names in the original tree is copied:
//! the session must never hold an inode of the originals. Each step can be repeated. Nothing here touches
//! the original tree; what cannot move stays in the trash folder, and the report says so.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags, fremovexattr, fsetxattr, fsync,
    futimens, linkat, makedev, mkdirat, mknodat, openat, readlinkat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::kept::{Kept, unpairs};
use super::{LayerUndo, UndoReport, UndoStatus};
use crate::apply::{set_attributes, times};
use crate::content::{
    Xattrs, all_xattrs, content_hash, copy_sparse, private_xattrs, travelling, xattr_digest,
};
use crate::dir::{
    EntryKind, Snapshot, chmod_path_fd, lending, open_in, open_private, split, stat_in,
};

/// Marks a copy of an original, as the kernel does.
const ORIGIN: &str = "user.overlay.origin";

/// Marks a directory that hides the original of the same name, as the kernel does.
const OPAQUE: &str = "user.overlay.opaque";

/// The name in the trash folder of a directory that is being made.
const DIRECTORY: &str = "directory";

impl LayerUndo<'_> {
    /// Puts every undone change back into the upper directory, a directory before what is in it.
    pub(super) fn relayer(
        &mut self,
        steps: &[Kept],
        statuses: &[UndoStatus],
        report: &mut UndoReport,
    ) {
        let undone = steps.iter().zip(statuses);
        let mut undone: Vec<&Kept> = undone
            .filter(|(_, s)| **s == UndoStatus::Undone)
            .map(|(k, _)| k)
            .collect();
        // Attributes of directories first: a link may need such a directory before its turn, and one that
        // is there is taken for the session's own.
        let is_meta = |k: &Kept| k.in_place.is_some() && k.entry() == EntryKind::Directory;
        undone.sort_by(|a, b| (!is_meta(a), &a.rel).cmp(&(!is_meta(b), &b.rel)));
        for step in undone {
            let names = steps.iter().zip(statuses).filter(|(k, s)| {
                let id = |k: &Kept| k.after.as_ref().map(|a| a.id);
                **s == UndoStatus::Undone && k.in_place.is_none() && id(k) == id(step)
            });
            let names = match step.after.as_ref().is_some_and(|a| a.nlink > 1) {
                true => names.count() as u64,
                false => 1,
            };
            if let Err(e) = self.relayer_one(step, names) {
                let place = self.layer.trash_path().join(&step.name);
                report.warnings.push(format!(
                    "{} is undone, but the session does not show the change again ({e}); {} holds \
                     what was committed",
                    escape_bytes(&step.rel),
                    escape_bytes(place.as_os_str().as_bytes())
                ));
            }
            point!("put into the layer");
        }
        // Leaves first: a missing write permission comes after what is below.
        for (rel, mode) in std::mem::take(&mut self.modes).into_iter().rev() {
            let dir = self.upper.parent(&rel);
            let fd = dir.and_then(|d| open_in(d, split(&rel).1, OFlags::PATH | OFlags::DIRECTORY));
            let set = fd.and_then(|fd| {
                let now = Snapshot::new(&rustix::fs::fstat(&fd)?).mode;
                // One that stood there has the session's own mode.
                match now == mode | 0o700 {
                    true => chmod_path_fd(&fd, mode),
                    false => Ok(()),
                }
            });
            if let Err(e) = set {
                let rel = escape_bytes(&rel);
                let line = format!("cannot set the mode of the session's copy of {rel}: {e}");
                report.warnings.push(line);
            }
        }
    }

    /// `names`: how many names of the object are undone.
    fn relayer_one(&mut self, step: &Kept, names: u64) -> Result<(), Errno> {
        let (dir, name) = split(&step.rel);
        self.make_directories(dir)?;
        let parent = self.upper.dir(dir)?;
        self.dirty_upper.insert(dir.to_vec());
        let hides = step.has_original()
            && step
                .before
                .as_ref()
                .is_some_and(|b| b.kind == EntryKind::Directory);
        if hides && is_directory(&parent, name)? {
            // The session went on with a directory of its own, in which it does not see what is back.
            hide_original(&parent, name)?;
        }
        let Some(after) = &step.after else {
            let (mode, none) = (Mode::empty(), makedev(0, 0));
            let made = lending(&parent, || {
                mknodat(&parent, name, FileType::CharacterDevice, mode, none)
            });
            return match made {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            };
        };
        if step.in_place.is_some() {
            return self.copy_with_attributes(step, after, &parent);
        }
        let trash = self.trash.as_ref().ok_or(Errno::NOENT)?.dir(b"")?;
        let Some(there) = stat_in(&trash, step.name.as_bytes())? else {
            // An earlier run moved it.
            if after.kind == EntryKind::Directory {
                self.modes.insert(step.rel.clone(), after.mode);
            }
            return Ok(());
        };
        if there.id != after.id {
            return Err(Errno::BUSY);
        }
        let is_dir = after.kind == EntryKind::Directory;
        if is_dir {
            self.modes.insert(step.rel.clone(), after.mode);
        }
        // Another name of it is an original: nothing of it may change.
        if after.kind == EntryKind::File && there.nlink > names {
            self.copy_linked(step, after, &trash, &parent)?;
            return self.drop_name(step, &there, &trash);
        }
        let is_copy = step.before.as_ref().is_some_and(|b| b.kind == after.kind);
        if is_copy && after.kind == EntryKind::File {
            let fd = open_private(&trash, step.name.as_bytes(), false)?;
            mark_as_copy(&fd);
        }
        if hides && is_dir {
            hide_original(&trash, step.name.as_bytes())?;
        }
        let moved = lending(&parent, || {
            renameat_with(&trash, &*step.name, &parent, name, RenameFlags::NOREPLACE)
        });
        match moved {
            // It stood there all the time, with the session's own attributes: something in it was not
            // committed, or the commit was cut off.
            Err(Errno::EXIST) if is_dir && is_directory(&parent, name)? => {
                if step.before.is_none() {
                    // A session that went on after the commit has a copy of it here. It is its own again.
                    unmark(&parent, name)?;
                }
                unlinkat(&trash, &*step.name, AtFlags::REMOVEDIR)
            }
            // The session's copy stayed there and holds all of its own that was committed, or the session
            // went on from what was merged: its newer work counts. It is to be held against the original
            // once more.
            Err(Errno::EXIST) if step.amended.is_some() => {
                unlinkat(&trash, &*step.name, AtFlags::empty())
            }
            // The commit was cut off before the session's own version left the layer.
            Err(Errno::EXIST) if is_same(&trash, step.name.as_bytes(), &parent, name)? => {
                unlinkat(&trash, &*step.name, AtFlags::empty())
            }
            other => other,
        }
    }

    /// The upper copy of an original whose attributes had been changed.
    fn copy_with_attributes(
        &mut self,
        step: &Kept,
        after: &Snapshot,
        parent: &OwnedFd,
    ) -> Result<(), Errno> {
        let name = split(&step.rel).1;
        let Some((_, xattrs)) = &step.in_place else {
            return Err(Errno::INVAL);
        };
        let is_dir = after.kind == EntryKind::Directory;
        if stat_in(parent, name)?.is_some() {
            // The session's own, as it was committed or newer; or what an earlier run made.
            if is_dir && self.resuming {
                self.modes.insert(step.rel.clone(), after.mode);
            }
            return Ok(());
        }
        if is_dir {
            let lent = (after.mode | 0o700, after.uid, after.gid);
            self.make_directory(&step.rel, Some((lent, unpairs(xattrs))))?;
            self.modes.insert(step.rel.clone(), after.mode);
            return Ok(());
        }
        let original = open_in(self.lower.parent(&step.rel)?, name, OFlags::RDONLY)?;
        let to = ((after.mode, after.uid, after.gid), unpairs(xattrs));
        self.copy_to(step, &original, after, to, (parent, name))
    }

    /// The upper copy of a file that has other names in the original tree. If one of these is the name
    /// that it was linked to, that gets a copy, too, and the two are linked, as the session had them.
    fn copy_linked(
        &mut self,
        step: &Kept,
        after: &Snapshot,
        trash: &OwnedFd,
        parent: &OwnedFd,
    ) -> Result<(), Errno> {
        let name = split(&step.rel).1;
        if stat_in(parent, name)?.is_some() {
            return Ok(());
        }
        let object = open_private(trash, step.name.as_bytes(), false)?;
        let xattrs = travelling(&private_xattrs(&object)?);
        let to = || ((after.mode, after.uid, after.gid), xattrs.clone());
        if let Some(first) = step.link_to.as_ref().map(|rel| rel.0.clone()) {
            let (dir, own) = split(&first);
            let original = self.lower.stat(&first).ok().flatten();
            let is_linked = original.is_some_and(|o| o.id == after.id);
            if is_linked {
                self.make_directories(dir)?;
            }
            if let Ok(folder) = self.upper.dir(dir) {
                if is_linked && stat_in(&folder, own)?.is_none() {
                    self.copy_to(step, &object, after, to(), (&folder, own))?;
                    self.dirty_upper.insert(dir.to_vec());
                }
                let there = stat_in(&folder, own)?;
                if there.is_some_and(|t| t.kind == EntryKind::File && t.size == after.size) {
                    return lending(parent, || {
                        linkat(&folder, own, parent, name, AtFlags::empty())
                    });
                }
            }
        }
        self.copy_to(step, &object, after, to(), (parent, name))
    }

    /// Copies a file into the upper directory, complete before it has its name there.
    fn copy_to(
        &self,
        step: &Kept,
        from: &OwnedFd,
        like: &Snapshot,
        (owner, xattrs): ((u32, u32, u32), Xattrs),
        (parent, name): (&OwnedFd, &[u8]),
    ) -> Result<(), Errno> {
        let trash = self.trash.as_ref().ok_or(Errno::NOENT)?.dir(b"")?;
        let temp = format!("{}-copy", step.name);
        match unlinkat(&trash, &*temp, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = openat(&trash, &*temp, flags, Mode::RUSR | Mode::WUSR)?;
        copy_sparse(from.as_fd(), copy.as_fd(), like.size)?;
        if step.before.is_some() || step.link_to.is_some() {
            mark_as_copy(&copy);
        }
        set_attributes(&copy, owner, &xattrs).map_err(|(_, e)| e)?;
        futimens(&copy, &times(like.mtime))?;
        fsync(&copy)?;
        lending(parent, || {
            renameat_with(&trash, &*temp, parent, name, RenameFlags::NOREPLACE)
        })
    }

    /// Makes the directories of the upper directory down to `rel`, like the originals.
    fn make_directories(&mut self, rel: &[u8]) -> Result<(), Errno> {
        let ends = rel.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([rel.len()]).collect();
        for end in ends {
            let at = &rel[..end];
            if at.is_empty() {
                continue;
            }
            let (dir, name) = split(at);
            let parent = self.upper.dir(dir)?;
            match stat_in(&parent, name)? {
                Some(found) if found.kind == EntryKind::Directory => continue,
                Some(_) => return Err(Errno::NOTDIR),
                None => {}
            }
            self.make_directory(at, None)?;
        }
        Ok(())
    }

    /// Makes a directory of the upper directory like its original, or with this mode, owner, group and
    /// these attributes.
    fn make_directory(
        &mut self,
        rel: &[u8],
        attributes: Option<((u32, u32, u32), Xattrs)>,
    ) -> Result<(), Errno> {
        let (dir, name) = split(rel);
        let parent = self.upper.dir(dir)?;
        let like = self.lower.parent(rel)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let like = open_in(like, name, flags)?;
        let found = Snapshot::new(&rustix::fs::fstat(&like)?);
        // Complete before it has its name: a run that goes on takes what it finds.
        let trash = self.trash.as_ref().ok_or(Errno::NOENT)?.dir(b"")?;
        match unlinkat(&trash, DIRECTORY, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        mkdirat(&trash, DIRECTORY, Mode::RWXU)?;
        let made = open_in(&trash, DIRECTORY.as_bytes(), flags)?;
        let (owner, want) = match attributes {
            Some(given) => given,
            None => {
                let own = (found.mode, found.uid, found.gid);
                (own, travelling(&all_xattrs(like.as_fd())?))
            }
        };
        mark_as_copy(&made);
        set_attributes(&made, owner, &want).map_err(|(_, e)| e)?;
        futimens(&made, &times(found.mtime))?;
        point!("made a directory of the layer");
        lending(&parent, || {
            renameat_with(&trash, DIRECTORY, &parent, name, RenameFlags::NOREPLACE)
        })?;
        self.dirty_upper.insert(dir.to_vec());
        Ok(())
    }
}

fn is_directory(dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    Ok(stat_in(dir, name)?.is_some_and(|s| s.kind == EntryKind::Directory))
}

/// Whether two objects that are not directories hold the same.
fn is_same(a_dir: &OwnedFd, a: &[u8], b_dir: &OwnedFd, b: &[u8]) -> Result<bool, Errno> {
    let (Some(one), Some(other)) = (stat_in(a_dir, a)?, stat_in(b_dir, b)?) else {
        return Ok(false);
    };
    if one.kind != other.kind || one.mode != other.mode {
        return Ok(false);
    }
    match one.kind {
        EntryKind::File => {
            let of = |dir: &OwnedFd, name: &[u8], size| {
                let fd = open_private(dir, name, false)?;
                let xattrs = xattr_digest(&travelling(&private_xattrs(&fd)?));
                Ok::<_, Errno>((content_hash(fd.as_fd(), size)?, xattrs))
            };
            Ok(of(a_dir, a, one.size)? == of(b_dir, b, other.size)?)
        }
        EntryKind::Symlink => {
            Ok(readlinkat(a_dir, a, Vec::new())? == readlinkat(b_dir, b, Vec::new())?)
        }
        EntryKind::Fifo | EntryKind::Socket => Ok(true),
        _ => Ok(false),
    }
}

/// Where user attributes cannot be set, a later loss of the original shows as an addition.
fn mark_as_copy(fd: &OwnedFd) {
    let _ = fsetxattr(fd, ORIGIN, b"", XattrFlags::empty());
}

/// Lets a directory hide its original.
fn hide_original(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let fd = open_private(dir, name, true)?;
    lending(&fd, || fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()))
}

/// Takes the mark of a copy from a directory.
fn unmark(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let fd = open_private(dir, name, true)?;
    match lending(&fd, || fremovexattr(&fd, ORIGIN)) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
