//! Applying a change set to the original trees.
//!
//! Per file the tree is wholly old or wholly new at every moment: new objects are built under a
//! temporary name in the same directory, synced, and then take their name with
//! `renameat2(RENAME_NOREPLACE)`, or swap with the original by `RENAME_EXCHANGE`. What was swapped out
//! is compared with what was reviewed; on any difference it is swapped back, so a concurrent edit
//! wins and nothing is lost. Originals rest in a trash until the session's next commit, so that
//! [`undo`](crate::undo) can put them back. Every step is durable in a journal before it is done, in
//! batches, so a power failure hides no object. Upper entries are removed only after their changes are
//! synced; a run that was cut off is therefore completed by running it again.
//!
//! Order per layer: directories, files, symlinks and other nodes, deletions, directory attributes
//! from the leaves up. Whole-tree atomicity does not exist on ordinary file systems.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::amend::Amendments;
use crate::apply::{Digests, LayerCommit, stays_away};
use crate::change::{Change, ChangeKind, ChangeSet, Conflict, Privilege};
use crate::content::{FileDigest, hex};
use crate::dir::EntryKind;
use crate::layer::{Layer, Timestamp};
use crate::record::Record;
use crate::scan::ScanError;
use crate::undo::kept::Keeping;

/// What to do with one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Apply it; it is held if it carries a [`Privilege`].
    Commit,
    /// Apply it with its privileges.
    CommitSpecial,
    /// Drop it from the upper directory.
    Discard,
    /// Leave it in the upper directory.
    Hold,
}

/// Why a change was left in the upper directory although nothing contradicts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HoldReason {
    /// The caller said so.
    #[error("held as asked")]
    Asked,
    /// It grants rights that need an explicit decision.
    #[error("it carries {privileges:?}, which needs an explicit decision")]
    Privileged {
        /// Those rights.
        privileges: Vec<Privilege>,
    },
    /// Device nodes and unknown overlay features are never committed.
    #[error("device nodes and unknown overlay features are never committed")]
    Special,
    /// The directory that should hold it was not committed.
    #[error("its directory {path:?} was not committed")]
    ParentHeld {
        /// That directory.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// A deletion waits while something else of the layer failed, or while the object that it
    /// probably was renamed to is not committed.
    #[error("a deletion waits until {path:?} is committed")]
    DeletionWaits {
        /// What it waits for.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Applied and synced.
    Committed,
    /// The original already was as the change wants it.
    AlreadyApplied,
    /// Dropped from the upper directory.
    Discarded,
    /// Left in the upper directory.
    Held {
        /// Why.
        reason: HoldReason,
    },
    /// Left in the upper directory; the original is untouched.
    Conflict {
        /// Why.
        conflict: Conflict,
    },
    /// A system call failed; the original is untouched and the session's version still there.
    Failed {
        /// What was being done.
        step: String,
        /// The system's answer.
        error: String,
        /// Its number, if it was a system call.
        errno: Option<i32>,
    },
}

/// One line of a [`CommitReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Absolute path in the original tree.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// Index of the layer.
    pub layer: usize,
    /// What became of it.
    #[serde(flatten)]
    pub status: Status,
    /// The regular file that is in the original tree now: read back from what was written before it
    /// took its name, not from the path afterwards. `None` where nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<FileDigest>,
    /// The original that it replaced or that was deleted, read after it had left its name. `None`
    /// where there was none, where it was no regular file, and where the caller may not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<FileDigest>,
}

/// How recovery dealt with one step of a commit or an undo that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Recovery {
    /// The change is in the original tree: it was there, or was completed now.
    Finished,
    /// It was taken back: the original is as before, the session still has its version.
    RolledBack,
    /// Neither was possible without overwriting somebody's work; the report says where things are.
    Kept,
    /// The undo of the change is complete.
    Undone,
}

/// One step of a commit that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Absolute path in the original tree.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// What happened to it, or was to happen.
    pub kind: ChangeKind,
    /// Type of the new object, of the old one for a deletion.
    pub entry: EntryKind,
    /// Permission bits of the new object.
    pub mode: Option<u32>,
    /// What became of it.
    pub how: Recovery,
    /// The regular file that was written.
    pub new: Option<FileDigest>,
    /// The original that it replaced, or that was deleted.
    pub old: Option<FileDigest>,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReport {
    /// Digest of the change set that was applied.
    pub digest: String,
    /// One line per change, in the order of the change set.
    pub outcomes: Vec<Outcome>,
    /// Originals that were kept because something failed or because they were written to after they
    /// had been replaced: escaped text of their paths and why.
    pub kept: Vec<String>,
    /// Trouble in cleaning up after everything was applied; a later commit tries again.
    pub warnings: Vec<String>,
    /// What an earlier commit or undo that was cut off had begun, and what became of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<Recovered>,
}

impl CommitReport {
    /// Whether every change was committed, already applied or discarded.
    pub fn is_complete(&self) -> bool {
        self.outcomes.iter().all(|o| {
            matches!(
                o.status,
                Status::Committed | Status::AlreadyApplied | Status::Discarded
            )
        })
    }

    /// How many changes have a status for which `f` holds.
    pub fn count(&self, f: impl Fn(&Status) -> bool) -> usize {
        self.outcomes.iter().filter(|o| f(&o.status)).count()
    }
}

/// Where a commit keeps its locks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommitOptions {
    /// A folder shared by all sessions of this user: one lock file per original root is made there.
    pub lock_dir: PathBuf,
    /// Bytes of replaced and deleted originals, per layer, up to which they are kept for
    /// [`undo`](crate::undo) until the session's next commit. With more nothing is kept.
    pub undo_limit: u64,
}

impl CommitOptions {
    /// Options with this lock folder, which must exist, and an undo limit of
    /// [`DEFAULT_UNDO_LIMIT`](Self::DEFAULT_UNDO_LIMIT).
    pub fn new(lock_dir: impl Into<PathBuf>) -> Self {
        CommitOptions {
            lock_dir: lock_dir.into(),
            undo_limit: Self::DEFAULT_UNDO_LIMIT,
        }
    }

    /// 1 GiB.
    pub const DEFAULT_UNDO_LIMIT: u64 = 1 << 30;
}

/// Why a commit did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Another commit works on the same original tree.
    #[error("another commit of {root:?} is running (lock {lock:?}); wait for it and run again")]
    Locked {
        /// The original root.
        root: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("cannot lock {lock:?}: {source}")]
    Lock {
        /// The lock file.
        lock: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The change set is not what its digest says.
    #[error("the change set has digest {found}, expected {expected}; run the diff again")]
    Digest {
        /// Digest that the set carries.
        expected: String,
        /// Digest of its content.
        found: String,
    },
    /// The change set names a layer that was not given, or a path outside its layer.
    #[error("{path:?} does not belong to layer {layer}; pass the layers that were scanned")]
    Foreign {
        /// The path.
        path: PathBuf,
        /// The layer index.
        layer: usize,
    },
    /// A tree of the layer cannot be opened.
    #[error(transparent)]
    Tree(#[from] ScanError),
    /// The clock that stamps files is behind the moment when the session began: change times cannot
    /// show what changed since.
    #[error(
        "the clock of the file system is at {now:?} and the session began at {base:?}: it was set \
         back, so changes of the originals would not show; set the clock right, or export the \
         session with a patch"
    )]
    Clock {
        /// When the session began.
        base: Timestamp,
        /// The clock now.
        now: Timestamp,
    },
    /// The commit record cannot be written, so no step was begun.
    #[error("cannot write the commit record {path:?}: {source}")]
    Record {
        /// The record.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Applies the changes that `decide` lets pass. `decide` is asked once per change, in order, also
/// for conflicts (which can be discarded or held, never committed).
///
/// Applied entries leave the upper directory, so committing twice does nothing the second time. A
/// failing change does not stop the others, except that deletions then wait.
///
/// # Errors
/// Nothing was begun, in no layer: see [`CommitError`].
pub fn commit(
    layers: &[Layer],
    set: &ChangeSet,
    decide: impl FnMut(&Change) -> Disposition,
    options: &CommitOptions,
) -> Result<CommitReport, CommitError> {
    commit_amended(layers, set, &Amendments::default(), decide, options)
}

/// [`commit`] with content that a person made of some changes: `set` is the one that
/// [`Amendments::apply`] gave, so its digest binds that content.
///
/// # Errors
/// As [`commit`].
pub fn commit_amended(
    layers: &[Layer],
    set: &ChangeSet,
    amendments: &Amendments,
    mut decide: impl FnMut(&Change) -> Disposition,
    options: &CommitOptions,
) -> Result<CommitReport, CommitError> {
    let found = set.recompute_digest();
    if found != set.digest {
        return Err(CommitError::Digest {
            expected: set.digest.clone(),
            found,
        });
    }
    for change in &set.changes {
        relative(layers, change)?;
    }
    let _locks = lock_all(layers, &options.lock_dir)?;
    let mut report = CommitReport {
        digest: set.digest.clone(),
        ..CommitReport::default()
    };
    crate::undo::resume(layers, &mut report)?;
    // All are opened before one is begun: what the first commits must reach the caller's report.
    let mut opened = Vec::new();
    let mut away = Vec::new();
    for layer in layers {
        let found = match layer.is_moot() {
            true => None,
            false => Some(LayerCommit::open(layer, amendments)?),
        };
        let (commit, conflict) = match found {
            Some(Ok(commit)) => (Some(commit), None),
            Some(Err(conflict)) => (None, Some(conflict)),
            None => (None, None),
        };
        opened.push(commit);
        away.push(conflict);
    }
    let mut works = vec![Vec::new(); layers.len()];
    for (at, change) in set.changes.iter().enumerate() {
        let rel = relative(layers, change)?;
        let decided = decide(change);
        works[change.layer].push((at, change, rel, decided));
    }
    // A commit that was cut off goes on under its name, so that an undo takes back all of it.
    let cut_off = opened
        .iter()
        .flatten()
        .find_map(LayerCommit::cut_off)
        .cloned();
    let name = match cut_off.or_else(|| crate::undo::to_go_on(layers, set)) {
        Some(name) => name,
        None => crate::dir::random_hex().map_err(|source| CommitError::Lock {
            lock: options.lock_dir.clone(),
            source,
        })?,
    };
    for layer in opened.iter_mut().flatten() {
        layer.begin(&name)?;
    }
    let mut statuses: Vec<Option<Status>> = vec![None; set.changes.len()];
    let mut digests = HashMap::new();
    let keeping = Keeping {
        limit: options.undo_limit,
    };
    let mut idle = Vec::new();
    for (((layer, work), of), away) in opened.into_iter().zip(&works).zip(layers).zip(&away) {
        let Some(layer) = layer else {
            if let Some(away) = away {
                stays_away(of, away, work, &mut statuses);
                if set.is_empty() {
                    crate::undo::note_cut_off(of, &name, &mut report);
                }
            }
            idle.push(of);
            continue;
        };
        let (found, done) = layer.run(&name, work, &mut statuses, &mut report, keeping);
        digests.extend(found);
        if !done {
            idle.push(of);
        }
    }
    if idle.len() < layers.len() {
        for layer in idle {
            crate::undo::give_up_other(layer, &name, &mut report);
        }
    }
    report.outcomes = set
        .changes
        .iter()
        .zip(statuses)
        .enumerate()
        .map(|(at, (change, status))| {
            let Digests { old, new } = digests.remove(&at).unwrap_or_default();
            Outcome {
                path: change.path.clone(),
                layer: change.layer,
                status: status.unwrap_or(Status::Held {
                    reason: HoldReason::Asked,
                }),
                new,
                old,
            }
        })
        .collect();
    Ok(report)
}

/// Whether a commit of these layers was cut off and left something to finish or to undo.
///
/// # Errors
/// A record cannot be read.
pub fn is_unfinished(layers: &[Layer]) -> io::Result<bool> {
    for layer in layers {
        if Record::read(layer)?.is_unfinished() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a commit or an undo of these layers ended and [`acknowledge`] was not called: whoever began it may have
/// been cut off before the outcome was recorded. [`recover`] tells it then.
///
/// # Errors
/// A record cannot be read.
pub fn is_unreported(layers: &[Layer]) -> io::Result<bool> {
    for layer in layers {
        let record = Record::read(layer)?;
        if record.unreported.is_some() || !record.told.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many commits of these layers came to their end. Those of earlier versions do not count.
///
/// # Errors
/// A record cannot be read.
pub fn commits(layers: &[Layer]) -> io::Result<u64> {
    let mut names = HashSet::new();
    for layer in layers {
        names.extend(Record::read(layer)?.commits);
    }
    Ok(names.len() as u64)
}

/// Notes that the caller has recorded, durably, what the last commit, undo or [`recover`] reported.
///
/// # Errors
/// A record cannot be read or written; the next [`recover`] tells the outcome once more.
pub fn acknowledge(layers: &[Layer]) -> io::Result<()> {
    for layer in layers {
        let mut record = Record::read(layer)?;
        if record.unreported.is_some() || !record.told.is_empty() {
            record.append_to(layer)?;
            record.reported()?;
        }
    }
    Ok(())
}

/// Finishes or undoes what a commit or an undo that was cut off left in the original trees, and begins
/// nothing new. [`commit`] does it as well; this is for a layer that has no changes left, or is to be
/// dropped. [`CommitReport::recovered`] tells what was found, also of a commit that ended without
/// [`acknowledge`].
///
/// # Errors
/// As [`commit`].
pub fn recover(layers: &[Layer], options: &CommitOptions) -> Result<CommitReport, CommitError> {
    let mut ended = Vec::new();
    for layer in layers {
        ended.extend(
            crate::undo::unreported(layer).map_err(|source| CommitError::Record {
                path: layer.record_path(),
                source,
            })?,
        );
    }
    let nothing = ChangeSet::new(Vec::new());
    let mut report = commit(layers, &nothing, |_| Disposition::Hold, options)?;
    report.recovered.splice(0..0, ended);
    Ok(report)
}

/// The path of a change below its layer's root; refuses anything that is not plainly beneath it.
pub(crate) fn relative(layers: &[Layer], change: &Change) -> Result<Vec<u8>, CommitError> {
    let foreign = || CommitError::Foreign {
        path: change.path.clone(),
        layer: change.layer,
    };
    let layer = layers.get(change.layer).ok_or_else(foreign)?;
    below_root(&layer.root, &change.path).ok_or_else(foreign)
}

/// `path` relative to `root`, if it is plainly beneath it.
pub(crate) fn below_root(root: &Path, path: &Path) -> Option<Vec<u8>> {
    let (root, path) = (root.as_os_str().as_bytes(), path.as_os_str().as_bytes());
    let rest = path.strip_prefix(root)?;
    let rel = match rest.strip_prefix(b"/") {
        Some(rel) => rel,
        None if root == b"/" => rest,
        None => return None,
    };
    let plain = |c: &[u8]| !c.is_empty() && c != b"." && c != b".." && !c.contains(&0);
    rel.split(|b| *b == b'/').all(plain).then(|| rel.to_vec())
}

/// How long a commit waits for another one of the same tree.
const PATIENCE: Duration = Duration::from_secs(1);

/// Locks every root once, in a fixed order.
pub(crate) fn lock_all(layers: &[Layer], dir: &Path) -> Result<Vec<File>, CommitError> {
    let mut roots: Vec<&Path> = layers.iter().map(|l| l.root.as_path()).collect();
    roots.sort_unstable();
    roots.dedup();
    let mut locks = Vec::new();
    for root in roots {
        let name = hex(&Sha256::digest(root.as_os_str().as_bytes())[..12]);
        let lock = dir.join(format!("commit-{name}.lock"));
        let fail = |source| CommitError::Lock {
            lock: lock.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&lock)
            .map_err(fail)?;
        let start = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                // A commit may just be over, or a process that another thread starts still has its
                // descriptors for a moment.
                Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(CommitError::Locked {
                        root: root.to_path_buf(),
                        lock,
                    });
                }
                Err(e) => return Err(fail(e.into())),
            }
        }
        locks.push(file);
    }
    Ok(locks)
}
