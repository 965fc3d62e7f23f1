//! The steps that change the original tree: a new object takes its name, an original leaves it.
//!
//! Each is durable in the journal first (see `batch`), is one `renameat2(2)`, and is looked at afterwards: what came out
//! must be what was reviewed, or it goes back.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::trash::kept;
use super::{LayerCommit, Step, Stop};
use crate::change::{Change, Conflict};
use crate::dir::{EntryKind, Snapshot, join, split, stat_in};

impl LayerCommit<'_> {
    /// Gives a new object its name.
    #[allow(clippy::too_many_arguments)] // one step of the protocol needs exactly these
    pub(super) fn install(
        &mut self,
        change: &Change,
        parent: &OwnedFd,
        dir: &[u8],
        rel: &[u8],
        temp: &str,
        made: &Snapshot,
        old: Option<Snapshot>,
    ) -> Step<()> {
        let name = split(rel).1;
        match old {
            None => match renameat_with(parent, temp, parent, name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(Stop::Conflict(Conflict::ChangedSinceReview)),
                Err(e) => return Err(Stop::Failed("give the new object its name", e)),
            },
            Some(old) => {
                point!("before the swap");
                match renameat_with(parent, temp, parent, name, RenameFlags::EXCHANGE) {
                    Ok(()) => {}
                    Err(Errno::NOENT) => return Err(Stop::Conflict(Conflict::ChangedSinceReview)),
                    Err(e) => return Err(Stop::Failed("swap with the original", e)),
                }
                let temp_rel = join(dir, temp.as_bytes());
                point!("swapped");
                if !self.is_verified(parent, &temp_rel, rel, &old)
                    || !self.is_amended_from(change, parent, temp, &old)
                {
                    point!("swap back");
                    if let Err(e) = renameat_with(parent, temp, parent, name, RenameFlags::EXCHANGE)
                    {
                        return Err(self.strand(&temp_rel, rel, e));
                    }
                    // Someone may have replaced our object, or written to it, in between; then the
                    // temporary name holds theirs, which must not be removed.
                    let back = stat_in(parent, temp.as_bytes()).ok().flatten();
                    return Err(if back.is_none_or(|b| made.same_object(&b)) {
                        Stop::Conflict(Conflict::ChangedSinceReview)
                    } else {
                        self.strand(&temp_rel, rel, Errno::BUSY)
                    });
                }
                self.digests.old = Self::digest_of_original(parent, temp, &old);
                self.store(parent, temp_rel, temp, old, rel);
            }
        }
        if change.entry == EntryKind::Directory {
            self.made_dirs.insert(rel.to_vec(), made.id);
        }
        Ok(())
    }

    /// Gives up on putting something back: the report says where it is.
    fn strand(&mut self, temp_rel: &[u8], rel: &[u8], e: Errno) -> Stop {
        self.stranded.push(kept(self.layer, temp_rel, rel));
        Stop::Failed("put the original back", e)
    }

    /// Deletes by moving aside, verifying, and moving to the trash.
    pub(super) fn take_away(
        &mut self,
        parent: &OwnedFd,
        dir: &[u8],
        rel: &[u8],
        temp: &str,
        old: Snapshot,
    ) -> Step<()> {
        let name = split(rel).1;
        let temp_rel = join(dir, temp.as_bytes());
        point!("before moving aside");
        match renameat_with(parent, name, parent, temp, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(Stop::Conflict(Conflict::ChangedSinceReview)),
            Err(e) => return Err(Stop::Failed("move the original aside", e)),
        }
        point!("moved aside");
        if !self.is_verified(parent, &temp_rel, rel, &old) {
            point!("put back");
            if let Err(e) = renameat_with(parent, temp, parent, name, RenameFlags::NOREPLACE) {
                return Err(self.strand(&temp_rel, rel, e));
            }
            return Err(Stop::Conflict(Conflict::ChangedSinceReview));
        }
        self.digests.old = Self::digest_of_original(parent, temp, &old);
        self.store(parent, temp_rel, temp, old, rel);
        Ok(())
    }
}

/// Removes a temporary object of ours, which is a file, a link or an empty directory; given what it
/// was when it was complete, nothing else that took the name and nothing that was written to since.
pub(super) fn remove_built(
    parent: &OwnedFd,
    temp: &str,
    only: Option<&Snapshot>,
) -> Result<(), Errno> {
    if let Some(made) = only {
        let found = stat_in(parent, temp.as_bytes())?;
        if !found.is_some_and(|found| made.same_object(&found)) {
            return Ok(());
        }
    }
    match unlinkat(parent, temp, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(parent, temp, AtFlags::REMOVEDIR),
        other => other,
    }
}
