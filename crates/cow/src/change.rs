//! What a session changed, as data: the change set, its conflicts and its digest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::content::hex;
use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Timestamp};

/// What happens to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Nothing was there; [`Change::entry`] says what comes.
    Add,
    /// New content (or symlink target) for an object that keeps its type.
    Modify,
    /// An object of another type takes the name.
    Replace,
    /// The object goes away; for a directory with everything below it.
    Delete,
    /// Mode, owner, extended attributes or modification time only.
    Meta,
    /// A device node, or an overlay feature this crate does not read: never committed.
    Special,
}

/// Rights that a commit never grants without [`Disposition::CommitSpecial`](crate::Disposition).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    /// The set-user-id bit on a file.
    Setuid,
    /// The set-group-id bit on a file.
    Setgid,
    /// File capabilities (`security.capability`).
    Capabilities,
}

/// Why a change cannot be applied as it stands. Nothing is lost: the original stays untouched and
/// the session's version stays in the upper directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Conflict {
    /// The original was changed after the session began.
    #[error("the original changed after the session began; compare the two and merge by hand")]
    Changed {
        /// Its change time.
        ctime: Timestamp,
    },
    /// Something below the directory to delete or replace was changed after the session began.
    #[error("something below the original directory changed after the session began: {path:?}")]
    ChangedBelow {
        /// The first such object.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// The original that the session modified is gone.
    #[error("the original was deleted or renamed after the session began")]
    Vanished,
    /// The directory that should hold the object is gone.
    #[error("the directory {path:?} was deleted or renamed after the session began; put it back")]
    ParentVanished {
        /// That directory.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// The directory that should hold the object is now something else, such as a symlink.
    #[error("{path:?} is no longer a directory; put the directory back")]
    ParentNotDirectory {
        /// That path.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// Another directory took the place of the one the session saw: the base manifest, or the layer if it
    /// is its root, has another device and inode at that path.
    #[error("{path:?} is another directory than when the session began; move the original back")]
    DirectoryReplaced {
        /// That directory.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// The directory and the one that holds it both changed: without a manifest it cannot be told
    /// whether another directory was moved into its place.
    #[error(
        "{path:?} and the directory that holds it both changed after the session began, so it may \
         be another directory; if it was not moved, allow it with `trust_directories`"
    )]
    DirectoryMaybeMoved {
        /// That directory.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// Another file system is mounted there.
    #[error("another file system is mounted on {path:?}")]
    MountPoint {
        /// The mount point.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// A directory that would be deleted cannot be read, so it cannot be shown to be unchanged.
    #[error("{path:?} cannot be read, so it cannot be shown to be unchanged")]
    Unreadable {
        /// That directory.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// The original changed between the review and the commit, or while it was being applied.
    #[error("the original changed after the change set was made; run the diff again")]
    ChangedSinceReview,
    /// The session's own copy changed between the review and the commit.
    #[error("the session's copy changed after the change set was made; run the diff again")]
    UpperChanged,
}

impl Conflict {
    /// Whether it says that this root itself is gone or is another one.
    pub(crate) fn is_of_root(&self, root: &Path) -> bool {
        match self {
            Conflict::DirectoryReplaced { path } => path == root,
            Conflict::ParentVanished { path } | Conflict::ParentNotDirectory { path } => {
                root.starts_with(path)
            }
            _ => false,
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Absolute path in the original tree.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// Index into the layers that were scanned.
    pub layer: usize,
    /// What happens.
    pub kind: ChangeKind,
    /// Type of the new object; of the old one for [`ChangeKind::Delete`].
    pub entry: EntryKind,
    /// The original as the scan found it.
    pub old: Option<Snapshot>,
    /// The session's version in the upper directory.
    pub new: Option<Snapshot>,
    /// Identity of a regular file's new content: SHA-256 over its 64 KiB blocks that are not all
    /// zero, each after its index (u64 little-endian), and its size.
    pub content: Option<String>,
    /// Target of a new symlink.
    #[serde(with = "crate::bytes::opt_path")]
    pub target: Option<PathBuf>,
    /// SHA-256 over the new object's extended attributes, if it has any.
    pub xattrs: Option<String>,
    /// A NUL byte in the first 8,000 bytes of the old or the new content.
    pub binary: bool,
    /// A regular file that is executable now and was not.
    pub exec_gained: bool,
    /// Rights that need [`Disposition::CommitSpecial`](crate::Disposition).
    pub privileges: Vec<Privilege>,
    /// Objects below a directory that is deleted or replaced.
    pub below: Option<u64>,
    /// A deletion that comes from an opaque directory, not from a whiteout.
    pub from_opaque: bool,
    /// The original has other hard links, which keep the old content.
    pub breaks_hard_link: bool,
    /// This name becomes a hard link of that one.
    #[serde(with = "crate::bytes::opt_path")]
    pub link_to: Option<PathBuf>,
    /// A deleted original with the same content: probably this is where it went.
    #[serde(with = "crate::bytes::opt_path")]
    pub rename_from: Option<PathBuf>,
    /// Identity of the original directory that holds the name; `None` when that directory is itself
    /// part of the change set.
    pub parent: Option<FileId>,
    /// The modification time of a [`ChangeKind::Meta`] is new, and will be committed. Not told where the
    /// original is not the very object of the session's start, nor where either has other hard links.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_time: bool,
    /// Why it cannot be applied.
    pub conflict: Option<Conflict>,
}

impl Change {
    /// Bytes before (regular files and symlinks).
    pub fn old_size(&self) -> Option<u64> {
        self.old.as_ref().and_then(byte_size)
    }

    /// Bytes after (regular files and symlinks).
    pub fn new_size(&self) -> Option<u64> {
        self.new.as_ref().and_then(byte_size)
    }

    /// Permission bits before.
    pub fn old_mode(&self) -> Option<u32> {
        self.old.as_ref().map(|s| s.mode)
    }

    /// Permission bits after.
    pub fn new_mode(&self) -> Option<u32> {
        self.new.as_ref().map(|s| s.mode)
    }
}

fn byte_size(s: &Snapshot) -> Option<u64> {
    matches!(s.kind, EntryKind::File | EntryKind::Symlink).then_some(s.size)
}

/// Everything a session changed, sorted bytewise by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The changes.
    pub changes: Vec<Change>,
    /// Lower-case hexadecimal SHA-256 over all changes: binds an approval to what was reviewed.
    pub digest: String,
}

impl ChangeSet {
    pub(crate) fn new(changes: Vec<Change>) -> ChangeSet {
        let digest = digest(&changes);
        ChangeSet { changes, digest }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The digest of the changes as they are now; differs from [`digest`](Self::digest) when the set
    /// was altered after the scan.
    pub fn recompute_digest(&self) -> String {
        digest(&self.changes)
    }

    /// The changes in the order a person should read them: deletions first, then the rest by path.
    pub fn in_review_order(&self) -> impl Iterator<Item = &Change> {
        let gone = |c: &&Change| c.kind == ChangeKind::Delete;
        let rest = self.changes.iter().filter(move |c| !gone(c));
        self.changes.iter().filter(gone).chain(rest)
    }

    /// The change of exactly this path.
    pub fn get(&self, path: &Path) -> Option<&Change> {
        self.changes.iter().find(|c| c.path == path)
    }
}

/// SHA-256 over a version line and, per change, the length (u64 little-endian) and the bytes of its
/// JSON form, whose field order is fixed.
fn digest(changes: &[Change]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"agentwall change set 1\n");
    for change in changes {
        // Serialising plain structs to memory fails only on a map key that is not a string, which
        // no field has; a marker keeps such a defect from colliding with a real change.
        let json = serde_json::to_vec(change).unwrap_or_else(|e| e.to_string().into_bytes());
        hash.update((json.len() as u64).to_le_bytes());
        hash.update(&json);
    }
    hex(&hash.finalize())
}
