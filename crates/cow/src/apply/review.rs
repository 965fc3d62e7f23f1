//! Whether originals still are what was reviewed.
//!
//! Before a step an original is compared with its change time, which no program can set. A rename sets
//! it too, so after a swap everything else is compared.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{OFlags, fstat, readlinkat};
use rustix::io::Errno;

use super::{LayerCommit, Step, Stop, at};
use crate::change::{Change, ChangeKind, Conflict};
use crate::content::{FileDigest, digest};
use crate::dir::{EntryKind, Snapshot, open_in, split, stat_in};
use crate::scan::{Deleted, absolute, below};

impl LayerCommit<'_> {
    /// The original directory, which must be the reviewed one or one made by this commit.
    pub(super) fn parent(&self, change: &Change, dir: &[u8]) -> Step<OwnedFd> {
        let path = || absolute(&self.layer.root, dir);
        let parent = self.lower.dir(dir).map_err(|e| match e {
            Errno::NOENT => Stop::Conflict(Conflict::ParentVanished { path: path() }),
            Errno::NOTDIR | Errno::LOOP => {
                Stop::Conflict(Conflict::ParentNotDirectory { path: path() })
            }
            Errno::XDEV => Stop::Conflict(Conflict::MountPoint { path: path() }),
            e => Stop::Failed("open the directory", e),
        })?;
        let id = Snapshot::new(&fstat(&parent).map_err(at("examine the directory"))?).id;
        let expected = change.parent.or_else(|| self.made_dirs.get(dir).copied());
        if expected == Some(id) {
            Ok(parent)
        } else {
            Err(Stop::Conflict(Conflict::ChangedSinceReview))
        }
    }

    /// Whether the original is as the scan saw it, up to the traces of our own steps.
    pub(super) fn as_reviewed(&self, change: &Change, rel: &[u8], now: Option<&Snapshot>) -> bool {
        match (&change.old, now) {
            (None, None) => true,
            (Some(old), Some(now)) => {
                old.same_object(now)
                    && (old.kind == EntryKind::Directory
                        || old.ctime == now.ctime
                        || !self.base.changed(rel, now, &self.record))
            }
            _ => false,
        }
    }

    /// Whether the original already is what the change wants (a repeated run).
    pub(super) fn already(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        name: &[u8],
        now: Option<&Snapshot>,
    ) -> bool {
        let (Some(new), Some(now)) = (&change.new, now) else {
            return change.kind == ChangeKind::Delete && now.is_none();
        };
        if new.kind != now.kind || (new.kind != EntryKind::Symlink && new.mode != now.mode) {
            return false;
        }
        match now.kind {
            EntryKind::File => {
                let found = open_in(parent, name, OFlags::RDONLY)
                    .and_then(|fd| digest(fd.as_fd(), now.size))
                    .ok()
                    .filter(|d| change.content.as_ref() == Some(&d.blocks));
                let same = change.link_to.is_none() && found.is_some();
                self.digests.new = found;
                same
            }
            EntryKind::Symlink => readlinkat(parent, name, Vec::new()).is_ok_and(|t| {
                change
                    .target
                    .as_ref()
                    .is_some_and(|c| c.as_os_str().as_bytes() == t.to_bytes())
            }),
            // A directory that someone else made meanwhile is not known to be ours.
            _ => false,
        }
    }

    /// What someone else did below the directory that lies at `rel` and was at `was_at` when the
    /// session began.
    pub(super) fn changed_below(&self, rel: &[u8], was_at: &[u8]) -> Option<Conflict> {
        let directory = Deleted {
            tree: &self.lower,
            rel,
            was_at,
            root: &self.layer.root,
            base: &self.base,
        };
        below(directory, &self.record).conflict
    }

    /// Whether what was moved from `rel` to a temporary name is the reviewed original, unchanged.
    pub(super) fn is_verified(
        &self,
        parent: &OwnedFd,
        temp_rel: &[u8],
        rel: &[u8],
        old: &Snapshot,
    ) -> bool {
        let now = stat_in(parent, split(temp_rel).1).ok().flatten();
        now.is_some_and(|now| old.same_object(&now))
            && (old.kind != EntryKind::Directory || self.changed_below(temp_rel, rel).is_none())
    }

    /// The digest of a verified original under its temporary name; `None` if it is no regular file,
    /// cannot be read, or was written to meanwhile.
    pub(super) fn digest_of_original(
        parent: &OwnedFd,
        temp: &str,
        old: &Snapshot,
    ) -> Option<FileDigest> {
        if old.kind != EntryKind::File {
            return None;
        }
        let fd = open_in(parent, temp.as_bytes(), OFlags::RDONLY).ok()?;
        let found = digest(fd.as_fd(), old.size).ok()?;
        let now = Snapshot::new(&fstat(&fd).ok()?);
        old.same_object(&now).then_some(found)
    }
}
