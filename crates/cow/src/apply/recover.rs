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
            let temp_rel = join(dir, temp.name.as_bytes());
            let in_place = kept(self.layer, &temp_rel, &temp.rel);
            let parent = match self.lower.dir(dir) {
                Ok(parent) => parent,
                Err(_) => {
                    // The directory was moved or removed since; what it held went with it.
                    if !self.adopt(&temp, report) && temp.old.is_some() {
                        report.kept.push(in_place);
                    }
                    continue;
                }
            };
            let Ok(Some(found)) = stat_in(&parent, temp.name.as_bytes()) else {
                self.adopt(&temp, report);
                continue;
            };
            if Some(found.id) == temp.new {
                let untouched = temp.made.as_ref().is_none_or(|m| m.same_object(&found));
                if !untouched || remove_built(&parent, &temp.name, temp.made.as_ref()).is_err() {
                    report.kept.push(in_place);
                }
                continue;
            }
            if temp.new.is_none() && temp.old.is_none() {
                // Cut off while it was built. The record's tail may be lost in a power failure, so
                // what lies here could be an original after all: only an object born since that
                // commit began is ours.
                let born = born(&parent, &temp.name);
                if born.is_some() && born >= self.record.began {
                    let _ = remove_built(&parent, &temp.name, Some(&found));
                } else {
                    report.kept.push(in_place);
                }
                continue;
            }
            let Some(old) = temp.old else {
                report.kept.push(in_place);
                continue;
            };
            if self.is_verified(&parent, &temp_rel, &temp.rel, &old) {
                // The swap or the deletion was complete: this is the reviewed original.
                self.store(&parent, temp_rel, &temp.name, old, &temp.rel);
                continue;
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
                report.kept.push(in_place);
            } else if temp.new.is_some() {
                let _ = remove_built(&parent, &temp.name, temp.made.as_ref());
            }
        }
    }

    /// Takes over an original that a run which was cut off had moved to the trash folder; false when
    /// it is not there. One that was written to since stays there, and the report says so.
    fn adopt(&mut self, temp: &Temp, report: &mut CommitReport) -> bool {
        let Ok(trash) = Tree::open(&self.layer.trash_path(), false) else {
            return false;
        };
        let stored = trash.stat(temp.name.as_bytes()).ok().flatten();
        let (Some(old), Some(stored)) = (&temp.old, stored) else {
            return false;
        };
        let original = Trashed {
            rel: join(split(&temp.rel).0, temp.name.as_bytes()),
            stored: Some(temp.name.clone()),
            was: old.clone(),
            of: temp.rel.clone(),
        };
        if old.same_object(&stored) {
            self.trashed.push(original);
            self.trash = Some(trash);
        } else {
            report.kept.push(self.describe(&original));
        }
        true
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
