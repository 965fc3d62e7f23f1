//! Making a new object under a temporary name, complete, before it is synced and takes its name.
//!
//! What is built is checked against the review: content by hash of what was written, attributes by
//! digest. A session's copy that changed meanwhile is a conflict, never a surprise.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    Advice, AtFlags, FileType, Mode, OFlags, fadvise, fstat, linkat, mkdirat, mknodat, openat,
    readlinkat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{give_attributes, own};
use super::{LayerCommit, Step, Stop, at, io_at};
use crate::change::{Change, Conflict};
use crate::commit::below_root;
use crate::content::{all_xattrs, copy_sparse, digest, travelling, xattr_digest};
use crate::dir::{EntryKind, Snapshot, chmod_path_fd, open_in, open_private, split, stat_in};

impl LayerCommit<'_> {
    /// Makes the new object under a temporary name, complete. A file whose content was copied is to be
    /// synced with its batch ([`LayerCommit::unsynced`]); all else is.
    pub(super) fn build(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        rel: &[u8],
        temp: &str,
    ) -> Step<()> {
        let updir = self
            .upper
            .parent(rel)
            .map_err(at("open the session's copy"))?;
        let name = split(rel).1;
        let new = stat_in(&updir, name).map_err(at("examine the session's copy"))?;
        let reviewed = change.new.as_ref();
        let (Some(new), Some(reviewed)) = (new.map(|n| self.upper.own(n)), reviewed) else {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        };
        if let Some(amendment) = self.amendments.of(change) {
            return self.write_amended(change, amendment, &new, parent, name, temp);
        }
        if !reviewed.same_object(&new) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        match new.kind {
            EntryKind::File => {
                if !self.link(change, parent, temp)? {
                    self.copy(change, &updir, name, &new, parent, temp)?;
                }
            }
            EntryKind::Directory => {
                mkdirat(parent, temp, Mode::RWXU).map_err(at("make the directory"))?;
                // Complete at once unless the mode would keep us from filling it.
                if new.mode & 0o700 == 0o700 {
                    let source =
                        open_private(&updir, name, true).map_err(at("open the session's copy"))?;
                    let fd = open_in(parent, temp.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)
                        .map_err(at("open the new directory"))?;
                    give_attributes(change, &source, &fd, &new)?;
                }
            }
            EntryKind::Symlink => {
                let target =
                    readlinkat(&updir, name, Vec::new()).map_err(at("read the session's link"))?;
                if change.target.as_ref().map(|t| t.as_os_str().as_bytes())
                    != Some(target.to_bytes())
                {
                    return Err(Stop::Conflict(Conflict::UpperChanged));
                }
                symlinkat(&target, parent, temp).map_err(at("make the link"))?;
                own(parent, temp, &new)?;
            }
            EntryKind::Fifo | EntryKind::Socket => {
                let kind = if new.kind == EntryKind::Fifo {
                    FileType::Fifo
                } else {
                    FileType::Socket
                };
                mknodat(parent, temp, kind, Mode::from_raw_mode(0o600), 0)
                    .map_err(at("make the node"))?;
                own(parent, temp, &new)?;
                let fd =
                    open_in(parent, temp.as_bytes(), OFlags::PATH).map_err(at("open the node"))?;
                chmod_path_fd(&fd, new.mode).map_err(at("set the mode"))?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                return Err(Stop::Failed("refuse a device", Errno::PERM));
            }
        }
        Ok(())
    }

    /// Links to the committed first name of a hard-link group, if it is what this name should be.
    pub(super) fn link(&mut self, change: &Change, parent: &OwnedFd, temp: &str) -> Step<bool> {
        let Some(first) = &change.link_to else {
            return Ok(false);
        };
        let Some(rel) = below_root(&self.layer.root, first) else {
            return Ok(false);
        };
        let (Ok(dir), name) = (self.lower.parent(&rel), split(&rel).1) else {
            return Ok(false);
        };
        let Ok(fd) = open_in(&dir, name, OFlags::RDONLY) else {
            return Ok(false);
        };
        let (Ok(st), Some(new)) = (fstat(&fd), &change.new) else {
            return Ok(false);
        };
        let have = Snapshot::new(&st);
        let xattrs = all_xattrs(fd.as_fd()).map(|x| xattr_digest(&travelling(&x)));
        let same = have.kind == EntryKind::File
            && (have.mode, have.uid, have.gid) == (new.mode, new.uid, new.gid)
            && xattrs.is_ok_and(|x| x == change.xattrs);
        let found = digest(fd.as_fd(), have.size).ok();
        if !same || found.as_ref().map(|d| &d.blocks) != change.content.as_ref() {
            return Ok(false);
        }
        // One more link changes the inode; that is ours, unless somebody else changed it before.
        let held = self.record.hold(&self.base, &rel, have.clone());
        let held = held.map_err(io_at("write the commit record"))?;
        match linkat(&dir, name, parent, temp, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::MLINK | Errno::PERM | Errno::XDEV) => return Ok(false),
            Err(e) => return Err(Stop::Failed("make the hard link", e)),
        }
        let linked = stat_in(parent, temp.as_bytes()).ok().flatten();
        if let Some(linked) = linked.filter(|l| have.same_object(l)) {
            if linked.nlink == have.nlink + 1 {
                self.record.changed_own(held, Some(linked));
            }
            self.digests.new = found;
            return Ok(true);
        }
        unlinkat(parent, temp, AtFlags::empty()).map_err(at("remove a stale link"))?;
        Ok(false)
    }

    pub(super) fn copy(
        &mut self,
        change: &Change,
        updir: &OwnedFd,
        name: &[u8],
        new: &Snapshot,
        parent: &OwnedFd,
        temp: &str,
    ) -> Step<()> {
        let source = open_private(updir, name, false).map_err(at("open the session's copy"))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(parent, temp, flags, Mode::RUSR | Mode::WUSR)
            .map_err(at("create the temporary file"))?;
        copy_sparse(source.as_fd(), to.as_fd(), new.size)
            .map_err(at("write the temporary file"))?;
        let written = digest(to.as_fd(), new.size).map_err(at("read the temporary file"))?;
        if change.content.as_ref() != Some(&written.blocks) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        self.digests.new = Some(written);
        give_attributes(change, &source, &to, new)?;
        // Writing begins now, and the batch waits for all of its files at once: one transaction of the
        // file system then serves many of them. Only a hint; the sync is what counts.
        let _ = fadvise(&to, 0, None, Advice::DontNeed);
        self.unsynced = Some(to);
        Ok(())
    }
}
