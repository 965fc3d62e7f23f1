//! Building what a person made of a change, and swapping it in for nothing but what it was made of.
//!
//! The protocol is that of every other file (see `build` and `exchange`). Three things differ: the bytes
//! come from the review and not from the session's copy, owner and attributes come from the original,
//! and the original that was swapped out is compared by its content too, since it may have been edited
//! in the session's time, within the same tick of the clock.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags, fstat, fsync, openat};
use rustix::io::{Errno, pwrite};

use super::attributes::set_attributes;
use super::{LayerCommit, Step, Stop, at};
use crate::amend::Amendment;
use crate::change::{Change, Conflict};
use crate::content::{all_xattrs, digest, travelling, xattr_digest};
use crate::dir::{EntryKind, Snapshot, open_in, stat_in};

impl LayerCommit<'_> {
    /// Makes the new object under a temporary name, complete and synced.
    pub(super) fn write_amended(
        &mut self,
        change: &Change,
        amendment: &Amendment,
        copy: &Snapshot,
        parent: &OwnedFd,
        name: &[u8],
        temp: &str,
    ) -> Step<()> {
        if copy.kind != EntryKind::File || !amendment.is_made_of_copy(copy) {
            return Err(Stop::Conflict(Conflict::UpperChanged));
        }
        // A set that was altered after the content was made.
        if change.content.as_deref() != Some(amendment.digest()) {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let (Some(old), Some(new)) = (&change.old, &change.new) else {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        };
        let original = open_in(parent, name, OFlags::RDONLY).map_err(at("open the original"))?;
        let now = Snapshot::new(&fstat(&original).map_err(at("examine the original"))?);
        let have = all_xattrs(original.as_fd()).map_err(at("read the attributes"))?;
        let have = travelling(&have);
        if !old.same_object(&now) || xattr_digest(&have) != change.xattrs {
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(parent, temp, flags, Mode::RUSR | Mode::WUSR)
            .map_err(at("create the temporary file"))?;
        write_all(&to, amendment.content()).map_err(at("write the temporary file"))?;
        point!("amended content written");
        let written = digest(to.as_fd(), amendment.content().len() as u64)
            .map_err(at("read the temporary file"))?;
        if written.blocks != amendment.digest() {
            return Err(Stop::Failed("read back the temporary file", Errno::IO));
        }
        self.digests.new = Some(written);
        set_attributes(&to, (new.mode, old.uid, old.gid), &have)
            .map_err(|(step, e)| Stop::Failed(step, e))?;
        fsync(&to).map_err(at("sync the temporary file"))
    }

    /// Whether the original that was swapped out has the content that the new one was made of; true for
    /// a change that is not amended.
    pub(super) fn is_amended_from(
        &self,
        change: &Change,
        parent: &OwnedFd,
        temp: &str,
        old: &Snapshot,
    ) -> bool {
        let Some(amendment) = self.amendments.of(change) else {
            return true;
        };
        Self::digest_of_original(parent, temp, old)
            .is_some_and(|found| amendment.is_made_of(&found.blocks))
            && stat_in(parent, temp.as_bytes())
                .is_ok_and(|s| s.is_some_and(|s| old.same_object(&s)))
    }
}

fn write_all(to: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match pwrite(to, &bytes[done..], done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
