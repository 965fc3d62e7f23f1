//! Mode, owner, extended attributes and times, always through a descriptor of the very object.
//!
//! They are set, not inherited: neither the umask nor a default ACL of the directory has a say.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, fstat, fsync, futimens, utimensat,
};
use rustix::io::Errno;

use super::{LayerCommit, Step, Stop, at, io_at};
use crate::change::{Change, Conflict};
use crate::commit::Status;
use crate::content::{
    CAPABILITY, Xattrs, digest, private_xattrs, set_xattrs, travelling, xattr_digest,
};
use crate::dir::{EntryKind, Snapshot, open_in, open_private, split, stat_in};
use crate::layer::Timestamp;
use crate::record::{InPlace, Pairs};
use crate::undo::kept::Kept;

impl LayerCommit<'_> {
    /// Changes mode, owner and attributes of a file in place; the inode is checked by descriptor.
    /// Returns what it is afterwards.
    pub(super) fn file_meta(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        rel: &[u8],
    ) -> Step<Snapshot> {
        let name = split(rel).1;
        let fd = open_in(parent, name, OFlags::RDONLY).map_err(at("open the original"))?;
        let now = Snapshot::new(&fstat(&fd).map_err(at("examine the original"))?);
        if !self.as_reviewed(change, rel, Some(&now)) {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let ours = !self.base.changed(rel, &now, &self.record);
        let (source, new) = self.reviewed_copy(change, rel)?;
        let content = digest(fd.as_fd(), now.size).map_err(at("read the original"))?;
        self.digests.old = Some(content.clone());
        self.digests.new = Some(content);
        // The content is the same, so the original keeps its times unless somebody gave it one.
        attributes(change, &source, &fd, &new)?;
        if change.new_time {
            point!("attributes without the time");
            set_time(&fd, new.mtime).map_err(at("set the time"))?;
        }
        let end = Snapshot::new(&fstat(&fd).map_err(at("examine the original"))?);
        point!("attributes set");
        let time = if change.new_time {
            new.mtime
        } else {
            now.mtime
        };
        if ours && end.nlink == now.nlink && (end.size, end.mtime) == (now.size, time) {
            self.record.own.placed(rel, &end);
        }
        fsync(&fd).map_err(at("sync the original"))?;
        Ok(end)
    }

    /// The directory itself, open, when it is to get attributes.
    pub(super) fn open_directory(parent: &OwnedFd, name: &[u8]) -> Step<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        open_in(parent, name, flags).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                Stop::Conflict(Conflict::ChangedSinceReview)
            }
            e => Stop::Failed("open the directory", e),
        })
    }

    /// The session's copy, open, if it is what was reviewed: a mode that came later is not applied.
    pub(super) fn reviewed_copy(&self, change: &Change, rel: &[u8]) -> Step<(OwnedFd, Snapshot)> {
        let is_dir = change.entry == EntryKind::Directory;
        let source = match is_dir {
            true => self.upper.dir(rel),
            false => self.upper.parent(rel),
        };
        let source = source.and_then(|dir| match is_dir {
            true => open_private(&dir, b".", true),
            false => open_private(&dir, split(rel).1, false),
        });
        let source = source.map_err(at("open the session's copy"))?;
        let new = Snapshot::new(&fstat(&source).map_err(at("examine the session's copy"))?);
        let new = self.upper.own(new);
        if change.new.as_ref().is_none_or(|c| !c.same_object(&new)) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        Ok((source, new))
    }

    /// Gives a directory its mode, owner and attributes; a new one (which has no `step`) also its times.
    pub(super) fn directory_meta(
        &mut self,
        change: &Change,
        rel: &[u8],
        step: Option<InPlace>,
    ) -> Step<Status> {
        let is_new = step.is_none();
        let (dir, name) = split(rel);
        let parent = if is_new {
            self.lower.dir(dir).map_err(at("open the directory"))?
        } else {
            self.parent(change, dir)?
        };
        let fd = Self::open_directory(&parent, name)?;
        let now = Snapshot::new(&fstat(&fd).map_err(at("examine the directory"))?);
        let ours = if is_new {
            self.made_dirs.get(rel) == Some(&now.id)
        } else {
            change.old.as_ref().is_some_and(|old| old.same_object(&now))
        };
        if !ours {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let unchanged = !self.base.changed(rel, &now, &self.record);
        if unchanged {
            let noted = self.record.begin_on(rel, &now);
            noted.map_err(io_at("write the commit record"))?;
        }
        let (source, new) = self.reviewed_copy(change, rel)?;
        if is_new {
            give_attributes(change, &source, &fd, &new)?;
        } else {
            attributes(change, &source, &fd, &new)?;
        }
        let end = Snapshot::new(&fstat(&fd).map_err(at("examine the directory"))?);
        point!("attributes set");
        fsync(&fd).map_err(at("sync the directory"))?;
        if unchanged && end.mode == new.mode {
            self.record.own.placed(rel, &end);
        }
        if let Some(step) = step {
            let holder = Snapshot::new(&fstat(&parent).map_err(at("examine the directory"))?).id;
            self.kept.push(Kept::of_attributes(step, end, holder));
        }
        point!("carried out");
        Ok(Status::Committed)
    }
}

/// Mode, owner and attributes of `source` for `to`, which must be what was reviewed.
fn attributes(change: &Change, source: &OwnedFd, to: &OwnedFd, new: &Snapshot) -> Step<()> {
    let all = private_xattrs(source).map_err(at("read the attributes"))?;
    let want: Xattrs = travelling(&all);
    if xattr_digest(&want) != change.xattrs {
        return Err(Stop::Conflict(Conflict::UpperChanged));
    }
    set_attributes(to, (new.mode, new.uid, new.gid), &want)
        .map_err(|(step, e)| Stop::Failed(step, e))
}

/// Mode, owner and group, and attributes.
pub(crate) type Given<'a> = ((u32, u32, u32), &'a Pairs);

/// Whether an object is as [`set_attributes`] can leave it on the way from one state to another: nobody
/// else has set anything then.
pub(crate) fn is_between(now: &Snapshot, have: &Pairs, from: Given<'_>, to: Given<'_>) -> bool {
    let ((from, from_xattrs), (to, to_xattrs)) = (from, to);
    // A new owner drops set-id bits, and an owner who may not set attributes is lent the permission.
    let plain = [from.0, from.0 & 0o1777];
    let lent = plain.map(|mode| mode | 0o600);
    let modes = [plain, lent, [to.0, to.0 & 0o1777]].concat();
    modes.contains(&now.mode)
        && [from.1, to.1].contains(&now.uid)
        && [from.2, to.2].contains(&now.gid)
        && have
            .iter()
            .all(|p| from_xattrs.contains(p) || to_xattrs.contains(p))
}

/// Mode, owner, group and travelling attributes, exactly these. An error names the step.
pub(crate) fn set_attributes(
    to: &OwnedFd,
    (mode, uid, gid): (u32, u32, u32),
    want: &Xattrs,
) -> Result<(), (&'static str, Errno)> {
    let have = Snapshot::new(&fstat(to).map_err(|e| ("examine the object", e))?);
    if (have.uid, have.gid) != (uid, gid) {
        let new_uid = (have.uid != uid).then(|| Uid::from_raw(uid));
        let new_gid = (have.gid != gid).then(|| Gid::from_raw(gid));
        fchown(to, new_uid, new_gid).map_err(|e| ("set the owner", e))?;
    }
    point!("owner set");
    // Capabilities last: changing the owner drops them, as it drops the set-id bits.
    let plain = want.iter().filter(|(k, _)| k.as_slice() != CAPABILITY);
    let plain: Xattrs = plain.map(|(k, v)| (k.clone(), v.clone())).collect();
    match set_xattrs(to, &plain) {
        // Its owner may not do that now; the mode is set in a moment anyway.
        Err(Errno::ACCESS) => {
            fchmod(to, Mode::from_raw_mode(have.mode | 0o600)).and_then(|()| set_xattrs(to, &plain))
        }
        other => other,
    }
    .map_err(|e| ("set the attributes", e))?;
    point!("attributes half set");
    fchmod(to, Mode::from_raw_mode(mode)).map_err(|e| ("set the mode", e))?;
    match want.get(CAPABILITY) {
        Some(value) => fsetxattr(to, CAPABILITY, value, XattrFlags::empty())
            .map_err(|e| ("set the attributes", e)),
        None => Ok(()),
    }
}

pub(super) fn give_attributes(
    change: &Change,
    source: &OwnedFd,
    to: &OwnedFd,
    new: &Snapshot,
) -> Step<()> {
    attributes(change, source, to, new)?;
    futimens(to, &times(new.mtime)).map_err(at("set the times"))
}

/// Owner and times of a symlink or node.
pub(super) fn own(parent: &OwnedFd, temp: &str, new: &Snapshot) -> Step<()> {
    let have = stat_in(parent, temp.as_bytes()).map_err(at("examine the new object"))?;
    if have.is_some_and(|h| (h.uid, h.gid) != (new.uid, new.gid)) {
        let (uid, gid) = (Uid::from_raw(new.uid), Gid::from_raw(new.gid));
        chownat(
            parent,
            temp,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(at("set the owner"))?;
    }
    utimensat(parent, temp, &times(new.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(at("set the times"))
}

/// Sets the modification time alone.
pub(crate) fn set_time(fd: &OwnedFd, mtime: Timestamp) -> Result<(), Errno> {
    let mut times = times(mtime);
    times.last_access.tv_nsec = UTIME_OMIT;
    futimens(fd, &times)
}

pub(crate) fn times(t: Timestamp) -> Timestamps {
    let t = Timespec {
        tv_sec: t.sec,
        tv_nsec: i64::from(t.nsec),
    };
    Timestamps {
        last_access: t,
        last_modification: t,
    }
}
