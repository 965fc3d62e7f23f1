//! What one upper entry means: the table of the crate documentation.
//!
//! Each arm of [`Walk::examine`] is a row of that table; [`Walk::descend`] says which original
//! directory stands behind a directory, and whether it can be trusted to be the one the session saw.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::absolute;
use super::entry::{Same, Upper, compare, privileges};
use super::walk::{Frame, Lower, LowerDir, Member, Walk};
use crate::change::{Change, ChangeKind, Conflict};
use crate::content::xattr_digest;
use crate::dir::{EntryKind, Snapshot};

/// Whether somebody gave a regular file another modification time. A file system of coarser times rounds
/// that of a copy down, and a file that has other names would lose these by a change.
fn is_new_time(old: &Snapshot, new: &Snapshot) -> bool {
    let steps = (1..=9).map(|digits| 10u32.pow(digits));
    let mut rounded = steps.map(|step| old.mtime.nsec / step * step);
    new.kind == EntryKind::File
        && (old.nlink, new.nlink) == (1, 1)
        && old.mtime != new.mtime
        && !(old.mtime.sec == new.mtime.sec && rounded.any(|nsec| nsec == new.mtime.nsec))
}

impl Walk<'_> {
    /// The table of the crate documentation. Returns the frame to descend into.
    pub(super) fn examine(
        &mut self,
        rel: Vec<u8>,
        upper: Upper,
        lower: Option<Snapshot>,
        lodir: Option<&OwnedFd>,
        frame: &Frame,
    ) -> Option<Frame> {
        let new = &upper.stat;
        let mut change = self.blank(&rel, ChangeKind::Add, new.kind, frame);
        change.content.clone_from(&upper.content);
        change.target = upper
            .target
            .clone()
            .map(|t| PathBuf::from(OsString::from_vec(t)));
        change.xattrs = xattr_digest(&upper.xattrs);
        change.binary = upper.binary;
        change.privileges = privileges(&upper);
        change.new = Some(new.clone());
        change.exec_gained = new.kind == EntryKind::File && new.mode & 0o111 != 0;

        let is_dir = new.kind == EntryKind::Directory;
        let special =
            upper.foreign || matches!(new.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let mut differs = true;
        if special {
            change.kind = ChangeKind::Special;
            change.old.clone_from(&lower);
        } else if let Some(old) = &lower {
            change.exec_gained &= old.kind != EntryKind::File || old.mode & 0o111 == 0;
            change.breaks_hard_link = !is_dir && old.kind != EntryKind::Directory && old.nlink > 1;
            change.conflict = change.conflict.or_else(|| self.doubt(&rel, old, frame));
            change.old = Some(old.clone());
            if old.kind == new.kind {
                let same = compare(&rel, &upper, old, lodir, &mut change);
                // A time alone is never a conflict. A file that was made anew with the same content is no
                // change at all: whoever unpacks or checks out everything once more gives no times.
                change.new_time = upper.origin
                    && same != Same::Nothing
                    && change.conflict.is_none()
                    && is_new_time(old, new)
                    && self.base.is_original(&rel, old, &self.record);
                differs = same != Same::Everything || change.new_time;
                change.kind = if same == Same::Nothing {
                    ChangeKind::Modify
                } else {
                    ChangeKind::Meta
                };
            } else {
                change.kind = ChangeKind::Replace;
                if old.kind == EntryKind::Directory {
                    let found = self.below(&rel);
                    change.below = Some(found.count);
                    change.conflict = change.conflict.or(found.conflict);
                    self.deleted_files.extend(found.files);
                }
            }
        } else if change.conflict.is_none() {
            // The session has an object where there is no original. If there was one, someone took it
            // away. Where nobody knows: a copied-up object got a new name (rename, link), or someone
            // took its original; only a change of the directory allows the latter. A copied-up directory
            // cannot be renamed under `userxattr` at all.
            let taken = match self.base.had(&rel, &self.record) {
                Some(true) => true,
                Some(false) if !is_dir || self.record.own.had(&rel).is_some() => false,
                _ => match &frame.lower {
                    Lower::Dir(dir) => upper.origin && (is_dir || dir.changed),
                    _ => false,
                },
            };
            if taken {
                change.conflict = Some(Conflict::Vanished);
            }
        }

        let next = is_dir.then(|| self.descend(&rel, &upper, lower.as_ref(), &change, frame));
        // Links of symlinks and nodes are not kept: there is nothing to write through.
        let is_member =
            new.kind == EntryKind::File && new.nlink > 1 && change.kind != ChangeKind::Special;
        if is_member {
            self.groups.entry(new.id).or_default().push(Member {
                rel,
                lower,
                change: change.clone(),
                emitted: differs,
            });
        }
        if differs {
            self.changes.push(change);
        }
        next.filter(|_| !upper.foreign)
    }

    /// The frame for what is below an upper directory.
    fn descend(
        &self,
        rel: &[u8],
        upper: &Upper,
        lower: Option<&Snapshot>,
        change: &Change,
        frame: &Frame,
    ) -> Frame {
        let opaque = frame.opaque || upper.opaque;
        let path = || absolute(&self.layer.root, rel);
        let state = match lower {
            Some(old) if old.kind == EntryKind::Directory => {
                let changed = self.changed(rel, old);
                let (parent_changed, parent_moved) = match &frame.lower {
                    Lower::Dir(dir) => (dir.changed, dir.moved.clone()),
                    _ => (false, None),
                };
                let other = self.base.moved(rel, old.id, &self.record);
                let here = match other {
                    Some(other) => other,
                    None => changed && parent_changed && !self.options.trust_directories,
                };
                let conflict = match other {
                    Some(_) => Conflict::DirectoryReplaced { path: path() },
                    None => Conflict::DirectoryMaybeMoved { path: path() },
                };
                Lower::Dir(LowerDir {
                    id: old.id,
                    changed,
                    moved: here.then_some(conflict).or(parent_moved),
                })
            }
            Some(_) => match &change.conflict {
                Some(_) => Lower::Blocked(Conflict::ParentNotDirectory { path: path() }),
                None => Lower::Absent,
            },
            None => match (&frame.lower, &change.conflict) {
                (Lower::Blocked(c), _) => Lower::Blocked(c.clone()),
                (_, Some(_)) => Lower::Blocked(Conflict::ParentVanished { path: path() }),
                _ => Lower::Absent,
            },
        };
        Frame {
            rel: rel.to_vec(),
            opaque,
            lower: state,
        }
    }
}
