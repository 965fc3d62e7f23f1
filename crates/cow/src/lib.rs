//! Copy-on-write layers: what a session changed, whether it can be applied, and applying it.
//!
//! A session works on overlayfs mounts (made in a user namespace with `userxattr`); its writes land
//! in upper directories. After the session, with the overlays unmounted, this crate reads them
//! ([`scan`]), shows them ([`write_patch`], [`stat`]) and applies or drops them ([`commit`],
//! [`discard`]). It also copies layers, for a session that begins where another is ([`copy_layer`]) and
//! for going back ([`checkpoint`], [`roll_back`]). It mounts nothing. Changing a lower directory under a
//! mounted overlay is undefined (`Documentation/filesystems/overlayfs.rst`), so the caller unmounts
//! first.
//!
//! # Invariants
//! * No byte is lost or silently overwritten: an original is replaced only if it is what the session
//!   saw, and is kept until the layer is finished; what cannot be applied stays in the upper directory.
//! * Nothing outside a layer's root is written, whatever symlinks appear in it meanwhile.
//! * `*.overlay.*` attributes, device nodes and (unasked) set-id bits and capabilities never leave
//!   the upper directory.
//!
//! # From upper state and original to change and conflict
//!
//! "Old" means identical to what the base manifest recorded (device, inode, type, size, mtime, ctime,
//! mode, owner, links), or exactly what an earlier commit or undo of the same layer left at its path. What
//! others changed before it was recorded is not old. Without a manifest ([`Refusal`]) and for what it
//! could not read, "old" means ctime < [`Layer::base`]. "Here before" is what the manifest says, or what the session's own last
//! step at that path left or took away; where neither knows, an object counts as having been here if its
//! directory changed.
//!
//! | upper | original now | change | conflict |
//! |---|---|---|---|
//! | whiteout | absent | none | |
//! | whiteout | old | `Delete` | |
//! | whiteout | changed since | `Delete` | `Changed` |
//! | whiteout | directory, all below old | `Delete` with count | |
//! | whiteout | directory, something below changed | `Delete` | `ChangedBelow` |
//! | hidden by an opaque directory | as for whiteout | as for whiteout | as for whiteout |
//! | any | absent, not here before | `Add` | |
//! | any | absent, here before | `Add` | `Vanished`; below a directory `ParentVanished` |
//! | file, origin mark | absent, nobody knows | `Add` (renamed or linked) | `Vanished` if its directory changed, not if the content is that of an original the session deleted |
//! | directory, origin mark | absent, not here at the base | `Add` | `Vanished`; below it `ParentVanished` |
//! | same type, content, mode, owner, attributes | present | none (copy-up only), even if changed since | |
//! | a copy of a file, only its time is another | the very object of the base | `Meta` with a new time | |
//! | a copy of a file, only its time is another | anything else | none | |
//! | same type and content | old | `Meta` | |
//! | same type and content | changed since | `Meta` | `Changed` |
//! | same type, other content | old | `Modify` | |
//! | same type, other content | changed since | `Modify` | `Changed` |
//! | other type | old (a directory: all below old) | `Replace` | |
//! | other type | changed since | `Replace` | `Changed` or `ChangedBelow`; below a directory `ParentNotDirectory` |
//! | directory | directory | none, or `Meta` as above; the walk goes on below | |
//! | anything present before | below a directory that is another one than at the base | as above | `DirectoryReplaced` |
//! | anything present before | below a directory that, like its parent, changed, and the manifest does not know | as above | `DirectoryMaybeMoved` |
//! | whiteout | the layer's root is gone, a file, a symlink or another directory than the session began on | `Delete` | `ParentVanished`, `ParentNotDirectory` or `DirectoryReplaced` of the root |
//! | anything else | the same | `Add` | the same |
//! | device, unknown overlay attribute | any | `Special` | never committed |
//!
//! A renamed directory keeps the old ctimes below it. Without a manifest the only trace is that both
//! it and the directory that holds it changed, which also happens when someone just saves files in
//! both; hence `DirectoryMaybeMoved` and [`ScanOptions::trust_directories`]. The manifest has the inode
//! of each directory at its path, which decides. It is taken beside the session: see [`Taker`], and
//! `docs/manifest.md` for the file.
//!
//! An agent is root of its user namespace and can make directories that their owner cannot enter. They
//! are lent the permissions while somebody works in the layer; [`give_back`] is for the start of a session
//! that goes on. Files without read permission are no obstacle either.
//!
//! The mode of a layer's root directory itself is not compared.

#![forbid(unsafe_code)]

/// A named moment: see `fault`. Nothing outside of tests.
macro_rules! point {
    ($name:literal) => {
        #[cfg(test)]
        crate::fault::point($name);
    };
}

mod amend;
mod apply;
mod bytes;
mod change;
mod checkpoint;
mod clock;
mod commit;
mod common;
mod content;
mod copy;
mod diff;
mod dir;
mod discard;
#[cfg(test)]
mod fault;
mod hunk;
mod layer;
mod lend;
mod manifest;
mod merge;
mod originals;
mod portable;
mod record;
mod scan;
mod undo;
mod upper;

pub use amend::{AmendError, Amendment, Amendments, Sides};
pub use change::{Change, ChangeKind, ChangeSet, Conflict, Privilege};
pub use checkpoint::{
    Checkpoint, CheckpointError, CopiedCheckpoint, NewCheckpoint, RolledBack,
    acknowledge_roll_back, checkpoint, checkpoints, clean, copy_checkpoint, finish_roll_back,
    is_rolling_back, remove_checkpoint, roll_back,
};
pub use clock::base_timestamp;
pub use commit::{
    CommitError, CommitOptions, CommitReport, Disposition, HoldReason, Outcome, Recovered,
    Recovery, Status, acknowledge, commit, commit_amended, commits, is_unfinished, is_unreported,
    recover,
};
pub use common::{CommonBaseError, CommonBases, NoCommonBase};
pub use content::FileDigest;
pub use copy::{Copied, CopyError, copy_layer, usage};
pub use diff::{DiffError, DiffOptions, StatLine, stat, write_patch};
pub use dir::{EntryKind, Snapshot};
pub use discard::{DiscardError, discard, discard_all};
pub use hunk::{Block, FileHunks, Row};
pub use layer::{FileId, Layer, Timestamp};
pub use manifest::{
    AtBase, Limits, Manifest, ManifestError, ReadError, Recorded, Refusal, TakeError, Taken, Taker,
    take,
};
pub use merge::{Merged, merge};
pub use originals::{KeepLimits, Kept, NotKept, keeps_originals, kept_original};
pub use portable::{
    ARCHIVE_VERSION, Archive, ArchiveError, ArchiveLimits, Difference, ExportError, ExportOptions,
    Exported, Found, ImportError, ImportOptions, LeftOut, Manifest as ArchiveManifest, Part, Piece,
    Place, PlainArchive, Sealed, Unpacked, What, export, inspect, read_plain, unpack,
};
pub use scan::{ScanError, ScanOptions, give_back, scan, scan_with};
pub use undo::{
    NothingToUndo, UndoConflict, UndoError, UndoOptions, UndoOutcome, UndoReport, UndoStatus,
    can_undo, forget, kept_since, undo, would_stay,
};
