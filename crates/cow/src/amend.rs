//! Content that a person made of a change: some of its hunks, or a merge with what somebody else did to
//! the original meanwhile. It is committed in place of the session's copy.
//!
//! # Invariants
//! * The content stands in the change set ([`Amendments::apply`]), so the digest of the set binds it.
//! * It was made of one version of the original, and is written over that version alone: the original
//!   that a commit swaps out must have the very content that was read here, else it goes back.
//! * It gets the original's owner and attributes. Nothing with set-id bits, capabilities or further
//!   hard links is amended: there a person decides about the whole file.
//! * The session's copy is not changed. After some hunks it stays, as a change of the new original;
//!   after a merge, which holds all of it, it leaves the layer.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::fs::{OFlags, fstat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::change::{Change, ChangeKind, ChangeSet, Conflict};
use crate::commit::{CommitError, relative};
use crate::content::{
    CAPABILITY, all_xattrs, content_hash_of, read_full, travelling, xattr_digest,
};
use crate::dir::{EntryKind, Snapshot, Tree, open_in, open_private, split};
use crate::layer::Layer;
use crate::scan::{ScanError, find_root, open_upper};

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// Why the content of a change cannot be amended. Nothing was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AmendError {
    /// Only a modified regular file has two versions.
    #[error("only a modified file has hunks; accept or reject the change as a whole")]
    NotModified,
    /// Something else than an edit of the original stands in the way.
    #[error("{0}")]
    Conflict(Conflict),
    /// Another name holds the same file.
    #[error("the file has other hard links; accept or reject the change as a whole")]
    Linked,
    /// Set-id bits or capabilities.
    #[error("the file has set-id bits or capabilities; accept or reject the change as a whole")]
    Privileged,
    /// A side is too large.
    #[error("{size} bytes, more than the {max} that are compared; decide about the whole file")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// A side is no text.
    #[error("the file is binary; accept or reject the change as a whole")]
    Binary,
    /// A side changed since the scan.
    #[error("the file changed after the change set was made; run the diff again")]
    Changed,
    /// Both sides changed the mode or the owner.
    #[error(
        "the mode or the owner changed on both sides ({original:04o} {original_owner:?} against \
         {copy:04o} {copy_owner:?}); set them by hand"
    )]
    Mode {
        /// Mode of the original.
        original: u32,
        /// Its owner and group.
        original_owner: (u32, u32),
        /// Mode of the session's copy.
        copy: u32,
        /// Its owner and group.
        copy_owner: (u32, u32),
    },
    /// The extended attributes differ, and what they were is not recorded.
    #[error("the extended attributes differ; set them by hand")]
    Attributes,
    /// A side cannot be read.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] Errno),
    /// The change does not belong to the layers that were given.
    #[error(transparent)]
    Foreign(#[from] CommitError),
    /// A tree of the layer cannot be opened.
    #[error(transparent)]
    Tree(#[from] ScanError),
}

/// In which way the content differs from the session's copy; kept in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Amended {
    /// Some hunks of the copy, which stays as a change of what was committed.
    Part,
    /// The same over an original that somebody had edited: the rest stays a conflict.
    PartInConflict,
    /// The copy merged with an original that somebody had edited.
    Merged,
}

impl Amended {
    /// Whether the session's copy stays in the layer.
    pub(crate) fn copy_stays(self) -> bool {
        self != Amended::Merged
    }

    /// Whether somebody had edited the original since the session began.
    pub(crate) fn was_in_conflict(self) -> bool {
        self != Amended::Part
    }
}

/// Both versions of a modified text file, read once and bound to the change they were read for.
#[derive(Debug, Clone)]
pub struct Sides {
    /// The original as it is now.
    pub original: Vec<u8>,
    /// The session's copy.
    pub copy: Vec<u8>,
    /// The change's snapshots.
    old: Snapshot,
    new: Snapshot,
    xattrs: Option<String>,
    in_conflict: bool,
}

impl Sides {
    /// Reads both versions of a change: a modified regular file, without conflict or with
    /// [`Conflict::Changed`], text of at most `max` bytes on each side.
    ///
    /// # Errors
    /// See [`AmendError`].
    pub fn read(layers: &[Layer], change: &Change, max: u64) -> Result<Sides, AmendError> {
        let rel = relative(layers, change)?;
        let (Some(old), Some(new)) = (&change.old, &change.new) else {
            return Err(AmendError::NotModified);
        };
        let files = old.kind == EntryKind::File && new.kind == EntryKind::File;
        if change.kind != ChangeKind::Modify || !files {
            return Err(AmendError::NotModified);
        }
        let in_conflict = match &change.conflict {
            None => false,
            Some(Conflict::Changed { .. }) => true,
            Some(other) => return Err(AmendError::Conflict(other.clone())),
        };
        if change.link_to.is_some() || old.nlink > 1 || new.nlink > 1 {
            return Err(AmendError::Linked);
        }
        if (old.mode | new.mode) & SET_ID != 0 || !change.privileges.is_empty() {
            return Err(AmendError::Privileged);
        }
        for side in [old, new] {
            if side.size > max {
                let size = side.size;
                return Err(AmendError::TooLarge { size, max });
            }
        }
        let layer = &layers[change.layer];
        let root = find_root(layer)?.map_err(AmendError::Conflict)?;
        let (original, xattrs) = read(&root, &rel, old, false)?;
        let (copy, _) = read(&open_upper(layer)?, &rel, new, true)?;
        if change.content.as_ref() != Some(&content_hash_of(&copy)) {
            return Err(AmendError::Changed);
        }
        Ok(Sides {
            original,
            copy,
            old: old.clone(),
            new: new.clone(),
            xattrs,
            in_conflict,
        })
    }

    /// Content of some hunks of the copy over the original, in the original's mode.
    pub fn part(&self, content: Vec<u8>) -> Amendment {
        let kind = match self.in_conflict {
            true => Amended::PartInConflict,
            false => Amended::Part,
        };
        self.amendment(content, kind, self.old.mode)
    }

    /// The copy merged with the original; `base` is what both were when the session began. Where only
    /// the session changed the mode, it is taken over.
    ///
    /// # Errors
    /// Mode, owner or attributes cannot be merged.
    pub fn merged(
        &self,
        change: &Change,
        base: &Snapshot,
        content: Vec<u8>,
    ) -> Result<Amendment, AmendError> {
        let of = |s: &Snapshot| (s.mode, s.uid, s.gid);
        let (was, live, agent) = (of(base), of(&self.old), of(&self.new));
        let mode = match () {
            () if agent == was || agent == live => live.0,
            // A new owner is a whole decision of its own.
            () if live == was && (agent.1, agent.2) == (live.1, live.2) => agent.0,
            () => {
                return Err(AmendError::Mode {
                    original: live.0,
                    original_owner: (live.1, live.2),
                    copy: agent.0,
                    copy_owner: (agent.1, agent.2),
                });
            }
        };
        if self.xattrs != change.xattrs {
            return Err(AmendError::Attributes);
        }
        Ok(self.amendment(content, Amended::Merged, mode))
    }

    fn amendment(&self, content: Vec<u8>, kind: Amended, mode: u32) -> Amendment {
        Amendment {
            digest: content_hash_of(&content),
            original: content_hash_of(&self.original),
            content,
            kind,
            mode,
            copy: self.new.clone(),
            xattrs: self.xattrs.clone(),
        }
    }
}

/// Content for one change.
#[derive(Debug, Clone)]
pub struct Amendment {
    content: Vec<u8>,
    digest: String,
    /// Identity of the content that it was made of and may replace.
    original: String,
    kind: Amended,
    mode: u32,
    /// The session's copy that it was made of.
    copy: Snapshot,
    xattrs: Option<String>,
}

impl Amendment {
    /// What will be written.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Whether the session's copy stays in the session after the commit.
    pub fn copy_stays(&self) -> bool {
        self.kind.copy_stays()
    }

    pub(crate) fn kind(&self) -> Amended {
        self.kind
    }

    /// Identity of the content.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether the content of an original is what this was made of.
    pub(crate) fn is_made_of(&self, original: &str) -> bool {
        self.original == original
    }

    /// Whether the session's copy still is what this was made of.
    pub(crate) fn is_made_of_copy(&self, copy: &Snapshot) -> bool {
        self.copy.same_object(copy)
    }

    /// Whether the original has this content already.
    pub(crate) fn is_there_already(&self, change: &Change) -> bool {
        self.original == self.digest && change.old_mode() == Some(self.mode)
    }

    /// Whether what is committed counts as unchanged for what stays in the session.
    pub(crate) fn explains_the_original(&self) -> bool {
        self.kind == Amended::Part
    }
}

/// What a person made of some changes of a set.
#[derive(Debug, Clone, Default)]
pub struct Amendments {
    by_object: HashMap<(usize, PathBuf), Amendment>,
}

impl Amendments {
    /// Amends one change; the last word counts.
    pub fn insert(&mut self, change: &Change, amendment: Amendment) {
        let object = (change.layer, change.path.clone());
        self.by_object.insert(object, amendment);
    }

    /// Whether nothing is amended.
    pub fn is_empty(&self) -> bool {
        self.by_object.is_empty()
    }

    /// What was made of a change.
    pub fn of(&self, change: &Change) -> Option<&Amendment> {
        if self.by_object.is_empty() {
            return None;
        }
        self.by_object.get(&(change.layer, change.path.clone()))
    }

    /// The set as it will be committed: with this content and without the conflicts that it solves. Its
    /// digest is another one than that of the set that was scanned.
    pub fn apply(&self, set: &ChangeSet) -> ChangeSet {
        let mut changes = set.changes.clone();
        for change in &mut changes {
            let Some(amendment) = self.of(change) else {
                continue;
            };
            change.content = Some(amendment.digest.clone());
            change.xattrs.clone_from(&amendment.xattrs);
            change.conflict = None;
            if let Some(new) = &mut change.new {
                new.size = amendment.content.len() as u64;
                new.mode = amendment.mode;
            }
            let was = change.old_mode().unwrap_or(0);
            change.exec_gained = amendment.mode & 0o111 != 0 && was & 0o111 == 0;
        }
        ChangeSet::new(changes)
    }

    pub(crate) fn copy_stays(&self, change: &Change) -> bool {
        self.of(change).is_some_and(Amendment::copy_stays)
    }
}

/// A text file that is what the scan saw, before and after it was read, and the digest of its
/// attributes.
fn read(
    tree: &Tree,
    rel: &[u8],
    seen: &Snapshot,
    private: bool,
) -> Result<(Vec<u8>, Option<String>), AmendError> {
    let dir = tree.parent(rel)?;
    let fd = match private {
        true => open_private(dir, split(rel).1, false)?,
        false => open_in(dir, split(rel).1, OFlags::RDONLY)?,
    };
    // The private copy may have been lent a mode, which changes its change time.
    let is_seen = |now: &Snapshot| match private {
        true => seen.same_object(now),
        false => seen == now,
    };
    let mut bytes = vec![0u8; usize::try_from(seen.size).unwrap_or(0)];
    let before = Snapshot::new(&fstat(&fd)?);
    let n = read_full(fd.as_fd(), &mut bytes, 0)?;
    let xattrs = travelling(&all_xattrs(fd.as_fd())?);
    let after = Snapshot::new(&fstat(&fd)?);
    if n != bytes.len() || !is_seen(&before) || !is_seen(&after) {
        return Err(AmendError::Changed);
    }
    if bytes.contains(&0) {
        return Err(AmendError::Binary);
    }
    if xattrs.contains_key(CAPABILITY) {
        return Err(AmendError::Privileged);
    }
    Ok((bytes, xattr_digest(&xattrs)))
}
