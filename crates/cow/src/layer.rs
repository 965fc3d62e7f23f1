//! One overlay of a session as it lies on disk afterwards: the original tree, the upper directory
//! and the moment the session began.
//!
//! What the original tree was at that moment is in its manifest ([`crate::Manifest`]), which
//! [`crate::Taker`] takes beside the session. A layer without one still works: a lower object then
//! counts as changed when its change time (ctime, which programs cannot set) is not older than
//! [`Layer::base`]. What that costs is said in the crate documentation.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file time: seconds since the epoch and nanoseconds within that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub sec: i64,
    /// Nanoseconds, `0..1_000_000_000`.
    pub nsec: u32,
}

/// The identity of an inode: device and inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// One overlay mount of a session, now unmounted.
///
/// The folder that holds [`upper`](Self::upper) must be private to the caller: the crate keeps its
/// own record (`UPPER.applied`), manifest (`UPPER.manifest`), kept originals (`UPPER.originals`), trash
/// (`UPPER.trash`) and, while it works there, what it lent (`UPPER.lent`) next to the upper directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Absolute, canonical path of the original tree (the overlay's lower directory).
    #[serde(with = "crate::bytes::path")]
    pub root: PathBuf,
    /// The overlay's upper directory.
    #[serde(with = "crate::bytes::path")]
    pub upper: PathBuf,
    /// The overlay's work directory.
    #[serde(with = "crate::bytes::path")]
    pub work: PathBuf,
    /// When the session began, from [`base_timestamp`](crate::base_timestamp).
    pub base: Timestamp,
    /// Identity of the original root when the session began; a different directory at `root` now is a
    /// conflict of every change of the layer. `None` skips that check.
    #[serde(default)]
    pub root_id: Option<FileId>,
    /// The layer is of what lies directly in the root: each folder in it had a layer or a place of its
    /// own. Its manifest goes no deeper.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub surface: bool,
}

impl Layer {
    /// A layer that begins now: records the identity of `root`.
    ///
    /// # Errors
    /// `root` cannot be examined.
    pub fn begin(
        root: impl Into<PathBuf>,
        upper: impl Into<PathBuf>,
        work: impl Into<PathBuf>,
        base: Timestamp,
    ) -> io::Result<Layer> {
        let root = root.into();
        let meta = std::fs::symlink_metadata(&root)?;
        Ok(Layer {
            root,
            upper: upper.into(),
            work: work.into(),
            base,
            root_id: Some(FileId {
                dev: meta.dev(),
                ino: meta.ino(),
            }),
            surface: false,
        })
    }

    /// Whether the session wrote nothing at all. False when that cannot be told.
    pub fn is_untouched(&self) -> bool {
        std::fs::read_dir(&self.upper).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Whether nothing was ever done in it: nothing was written, committed or kept, and no base manifest
    /// is there. Such a layer may as well begin now. False when that cannot be told.
    pub fn is_blank(&self) -> bool {
        let none = |path: PathBuf| {
            std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        };
        let known = [
            self.record_path(),
            self.manifest_path(),
            self.originals_path(),
            self.checkpoints_path(),
            self.rollback_path(),
        ];
        self.is_untouched() && known.into_iter().all(none)
    }

    /// Whether nothing is left to be done in it and its original tree is gone: it is no obstacle to the
    /// other layers of the session.
    pub fn is_moot(&self) -> bool {
        let none = |path: &Path| {
            std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        };
        let is_over = none(&self.record_path()) || !none(&self.dropped_path());
        self.is_untouched() && is_over && none(&self.root)
    }

    /// The record of what earlier commits of this layer did to the original tree.
    pub(crate) fn record_path(&self) -> PathBuf {
        beside(&self.upper, ".applied")
    }

    /// The base manifest: what the original tree was when the session began.
    pub(crate) fn manifest_path(&self) -> PathBuf {
        beside(&self.upper, ".manifest")
    }

    /// Its name while it is being written.
    pub(crate) fn manifest_temporary(&self) -> PathBuf {
        beside(&self.upper, ".manifest.new")
    }

    /// Clones of originals as they were when the session began.
    pub(crate) fn originals_path(&self) -> PathBuf {
        beside(&self.upper, ".originals")
    }

    /// Their folder's name while they are being made.
    pub(crate) fn originals_temporary(&self) -> PathBuf {
        beside(&self.upper, ".originals.new")
    }

    /// Where checkpoints of this layer are.
    pub(crate) fn checkpoints_path(&self) -> PathBuf {
        beside(&self.upper, ".checkpoints")
    }

    /// The note of a roll-back that was begun.
    pub(crate) fn rollback_path(&self) -> PathBuf {
        beside(&self.upper, ".rollback")
    }

    /// Says that everything was dropped, and that only checkpoints still need what lies beside.
    pub(crate) fn dropped_path(&self) -> PathBuf {
        beside(&self.upper, ".dropped")
    }

    /// Which originals differ from those that an imported layer was made on.
    pub(crate) fn differences_path(&self) -> PathBuf {
        beside(&self.upper, ".differences")
    }

    /// Where originals rest until a commit of this layer is finished.
    pub(crate) fn trash_path(&self) -> PathBuf {
        beside(&self.upper, ".trash")
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}
