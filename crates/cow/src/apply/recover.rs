//! Dealing with temporary names of a run that was cut off.
//!
//! A swap that was complete is finished; one in which someone else had a hand is undone; what can be
//! neither is left where it is and reported.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags, StatxFlags, renameat_with, statx};

use super::LayerCommit;
use super::exchange::remove_built;
use super::trash::{Trashed, kept};
use crate::commit::CommitReport;
use crate::dir::{Tree, join, split, stat_in};
use crate::layer::Timestamp;
use crate::record::Temp;

impl LayerCommit<'_> {
    /// Deals with temporary names of a run that was cut off.
    pub(super) fn recover(&mut self, report: &mut CommitReport) {
        for temp in std::mem::take(&mut self.record.unfinished) {
            let (dir, name) = split(&temp.rel);
            let Ok(parent) = self.lower.dir(dir) else {
                continue;
            };
            let Ok(Some(found)) = stat_in(&parent, temp.name.as_bytes()) else {
                self.adopt(&temp);
                continue;
            };
            if Some(found.id) == temp.new {
                let _ = remove_built(&parent, &temp.name, temp.new);
                continue;
            }
            let temp_rel = join(dir, temp.name.as_bytes());
            if temp.new.is_none() && temp.old.is_none() {
                // Cut off while it was built. The record's tail may be lost in a power failure, so
                // what lies here could be an original after all: only an object born since that
                // commit began is ours.
                let born = born(&parent, &temp.name);
                if born.is_some() && born >= self.record.began {
                    let _ = remove_built(&parent, &temp.name, Some(found.id));
                } else {
                    report.kept.push(kept(self.layer, &temp_rel, &temp.rel));
                }
                continue;
            }
            let Some(old) = temp.old.filter(|old| old.id == found.id) else {
                report.kept.push(kept(self.layer, &temp_rel, &temp.rel));
                continue;
            };
            if self.is_verified(&parent, &temp_rel, &old) {
                // The swap or the deletion was complete: this is the reviewed original.
                self.store(&parent, temp_rel, &temp.name, old, &temp.rel);
                continue;
            }
            // Someone else was changing the original that was swapped or moved aside: undo it.
            let flags = if temp.new.is_some() {
                RenameFlags::EXCHANGE
            } else {
                RenameFlags::NOREPLACE
            };
            let ours = stat_in(&parent, name).ok().flatten().map(|s| s.id) == temp.new;
            let undone = ours && renameat_with(&parent, &temp.name, &parent, name, flags).is_ok();
            if !undone {
                report.kept.push(kept(self.layer, &temp_rel, &temp.rel));
            } else if temp.new.is_some() {
                let _ = remove_built(&parent, &temp.name, temp.new);
            }
        }
    }

    /// Takes over a verified original that a run which was cut off had moved to the trash folder.
    pub(super) fn adopt(&mut self, temp: &Temp) {
        let Ok(trash) = Tree::open(&self.layer.trash_path(), false) else {
            return;
        };
        let stored = trash.stat(temp.name.as_bytes()).ok().flatten();
        if let (Some(old), Some(stored)) = (&temp.old, stored)
            && old.same_object(&stored)
        {
            self.trashed.push(Trashed {
                rel: join(split(&temp.rel).0, temp.name.as_bytes()),
                stored: Some(temp.name.clone()),
                was: old.clone(),
                of: temp.rel.clone(),
            });
            self.trash = Some(trash);
        }
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
