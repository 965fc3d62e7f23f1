//! Checkpoints: what a session's layers were at a moment, and going back there.
//!
//! ```text
//! UPPER.checkpoints/NAME/upper        the copy
//!                       /manifest     another name of the base manifest, where there is one
//!                       /about.json   in the first layer alone: this one says that it exists
//! UPPER.checkpoints/NAME.new/         being made
//! UPPER.rollback                      beside the first layer: a roll-back that was begun
//! ```
//!
//! # Invariants
//! * A checkpoint is whole or it is not there: it takes its name when everything is durable, in the
//!   first layer last. One that is removed loses its name first.
//! * A roll-back copies the checkpoint, notes durably what it will do, and then swaps the two
//!   directories of each layer by one `RENAME_EXCHANGE`. Cut off before the note, nothing has happened;
//!   after it, [`finish_roll_back`] completes it. What was there before is a checkpoint afterwards. The
//!   note stays until the caller has recorded the outcome ([`acknowledge_roll_back`]).
//! * The originals are never opened.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::copy::{CopyError, copy_tree, copy_upper, sync_copy, sync_folder, usage, write_new};
use crate::dir::{Tree, remove_tree};
use crate::discard::{DiscardError, forget_dropped};
use crate::layer::{FileId, Layer};

/// What is known about a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name: 1 to 64 letters, digits, `-` or `_`.
    pub name: String,
    /// When it was made, in milliseconds since the Unix epoch, by the caller's clock.
    pub at_ms: u64,
    /// It was made by a roll-back, of what was there before.
    pub automatic: bool,
    /// How many objects it has.
    pub objects: u64,
    /// How many bytes they occupied.
    pub bytes: u64,
    /// How many commits the session had by then.
    pub commits: u64,
}

/// A checkpoint to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckpoint {
    /// As [`Checkpoint::name`].
    pub name: String,
    /// As [`Checkpoint::at_ms`].
    pub at_ms: u64,
}

/// A roll-back that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The checkpoint that the layers are at now.
    pub to: Checkpoint,
    /// What was there before.
    pub before: Checkpoint,
}

/// Why a checkpoint could not be made, used or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The session has no layer.
    #[error("the session has no copy layer, so there is nothing to go back to")]
    NoLayer,
    /// It cannot be a name.
    #[error("'{}' is no name of a checkpoint: 1 to 64 letters, digits, '-' or '_'", agentwall_action::escape_text(.name))]
    Name {
        /// The text.
        name: String,
    },
    /// There is one of this name.
    #[error("there is a checkpoint '{name}' already; choose another name, or remove it first")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is none of this name.
    #[error("there is no checkpoint '{}'", agentwall_action::escape_text(.name))]
    Unknown {
        /// The name.
        name: String,
    },
    /// A roll-back was cut off; `finish_roll_back` completes it.
    #[error("a roll-back was cut off; finish it first with `finish_roll_back`")]
    Unfinished,
    /// The layers cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The checkpoint is gone, and what only it needed is not.
    #[error(transparent)]
    Forget(#[from] DiscardError),
    /// A folder of the checkpoints cannot be used.
    #[error("cannot use {path:?}: {source}")]
    Folder {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The two directories of a layer are not those of the note.
    #[error(
        "the roll-back that {note:?} speaks of cannot be finished: neither {upper:?} nor {staged:?} is \
         the directory that was made for it; look at both, move the right one to {upper:?}, and \
         remove the note"
    )]
    Lost {
        /// The note.
        note: PathBuf,
        /// The layer's upper directory.
        upper: PathBuf,
        /// What it was to change places with.
        staged: PathBuf,
    },
}

/// Makes a checkpoint of layers in which nothing works now; durable on return.
///
/// # Errors
/// Nothing is left of it: see [`CheckpointError`].
pub fn checkpoint(layers: &[Layer], new: &NewCheckpoint) -> Result<Checkpoint, CheckpointError> {
    copy_checkpoint(layers, new)?.keep()
}

/// A copy that is to become a checkpoint: the layers may change again.
#[derive(Debug)]
#[must_use = "without `keep` it is none"]
pub struct CopiedCheckpoint<'a> {
    layers: &'a [Layer],
    made: Checkpoint,
}

impl CopiedCheckpoint<'_> {
    /// Makes the copy durable and gives it its name.
    ///
    /// # Errors
    /// Nothing is left of it: see [`CheckpointError`].
    pub fn keep(self) -> Result<Checkpoint, CheckpointError> {
        let CopiedCheckpoint { layers, made } = self;
        let first = layers.first().ok_or(CheckpointError::NoLayer)?;
        let result = write_about(first, &made)
            .and_then(|()| sync_all(layers, &made.name))
            .and_then(|()| name_it(layers, &made.name));
        if result.is_err() {
            clean(layers);
        }
        result.map(|()| made)
    }
}

/// The part of [`checkpoint`] during which nothing may work in the layers.
///
/// # Errors
/// As [`checkpoint`].
pub fn copy_checkpoint<'a>(
    layers: &'a [Layer],
    new: &NewCheckpoint,
) -> Result<CopiedCheckpoint<'a>, CheckpointError> {
    ready(layers, &new.name)?;
    let mut made = about(layers, new, false)?;
    let result = (|| {
        for layer in layers {
            let stage = stage(layer, &new.name)?;
            let copied = copy_upper(layer, &stage.join("upper"))?;
            made.objects += copied.objects;
            made.bytes = made.bytes.saturating_add(copied.bytes);
            keep_manifest(layer, &stage)?;
        }
        point!("checkpoint copied");
        Ok(())
    })();
    if result.is_err() {
        clean(layers);
    }
    result.map(|()| CopiedCheckpoint { layers, made })
}

/// Makes what was made under a name durable in every layer.
fn sync_all(layers: &[Layer], name: &str) -> Result<(), CheckpointError> {
    for layer in layers {
        sync_copy(&new_path(layer, name).join("upper"))?;
    }
    Ok(())
}

/// The checkpoints of a session, the oldest first. One that cannot be read is left out.
///
/// # Errors
/// Their folder cannot be listed.
pub fn checkpoints(layers: &[Layer]) -> Result<Vec<Checkpoint>, CheckpointError> {
    let Some(first) = layers.first() else {
        return Ok(Vec::new());
    };
    let folder = folder(first);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at(&folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(at(&folder))?.file_name();
        found.extend(
            name.to_str()
                .filter(|n| is_name(n))
                .and_then(|n| read(first, n)),
        );
    }
    found.sort_by(|a, b| (a.at_ms, &a.name).cmp(&(b.at_ms, &b.name)));
    Ok(found)
}

/// Removes a checkpoint; with the last one of layers that were dropped, all that is known of them.
///
/// # Errors
/// There is none of this name, or it cannot be removed.
pub fn remove_checkpoint(layers: &[Layer], name: &str) -> Result<(), CheckpointError> {
    let first = layers.first().ok_or(CheckpointError::NoLayer)?;
    find(first, name)?;
    for layer in layers {
        let (from, to) = (folder(layer).join(name), new_path(layer, name));
        remove(&to)?;
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(at(&from))?,
        }
        point!("checkpoint unnamed");
        remove(&to)?;
        // Without it and without a manifest, nothing says what they are originals of.
        if fs::remove_dir(folder(layer)).is_ok() && !layer.manifest_path().exists() {
            crate::originals::remove(layer).map_err(at(&layer.originals_path()))?;
        }
    }
    forget_dropped(layers)?;
    Ok(())
}

/// Puts the layers of an ended session back to where they were at a checkpoint, which stays. What is
/// there now becomes the checkpoint `before`. Durable on return; then the caller records it and calls
/// [`acknowledge_roll_back`].
///
/// # Errors
/// Nothing has changed, unless a roll-back was begun: [`finish_roll_back`] tells, and completes it.
pub fn roll_back(
    layers: &[Layer],
    name: &str,
    before: &NewCheckpoint,
) -> Result<RolledBack, CheckpointError> {
    let first = ready(layers, &before.name)?;
    let to = find(first, name)?;
    let mut kept = about(layers, before, true)?;
    let staged = (|| {
        let mut staged = Vec::new();
        for layer in layers {
            let stage = stage(layer, &before.name)?;
            let (copy, upper) = (stage.join("upper"), folder(layer).join(name).join("upper"));
            match upper.exists() {
                true => copy_tree(&upper, &copy).map(drop)?,
                // This layer came later: at that moment nothing was in it.
                false => empty_like(&layer.upper, &copy).map_err(at(&copy))?,
            }
            keep_manifest(layer, &stage)?;
            staged.push(id_of(&copy).map_err(at(&copy))?);
            let now = usage(&layer.upper);
            kept.objects += now.objects;
            kept.bytes = kept.bytes.saturating_add(now.bytes);
        }
        write_about(first, &kept)?;
        sync_all(layers, &before.name)?;
        point!("staged");
        let note = Note {
            to,
            before: kept,
            staged,
        };
        let path = first.rollback_path();
        let text = serde_json::to_vec(&note).map_err(|e| at(&path)(e.into()))?;
        let fresh = path.with_extension("rollback-new");
        let _ = fs::remove_file(&fresh);
        write_new(&fresh, &text).map_err(at(&fresh))?;
        fs::rename(&fresh, &path).map_err(at(&path))?;
        sync_folder(&path).map_err(at(&path))?;
        Ok(note)
    })();
    match staged {
        Ok(note) => {
            point!("noted");
            complete(layers, note)
        }
        Err(e) => {
            clean(layers);
            Err(e)
        }
    }
}

/// Whether a roll-back was begun and is not acknowledged.
pub fn is_rolling_back(layers: &[Layer]) -> bool {
    layers.first().is_some_and(|l| l.rollback_path().exists())
}

/// Completes a roll-back that was cut off, or that nobody acknowledged; `None` when there is none. The
/// caller records it and calls [`acknowledge_roll_back`].
///
/// # Errors
/// It cannot be completed, see [`CheckpointError`].
pub fn finish_roll_back(layers: &[Layer]) -> Result<Option<RolledBack>, CheckpointError> {
    let Some(first) = layers.first() else {
        return Ok(None);
    };
    let path = first.rollback_path();
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(at(&path))?,
    };
    let note: Note = serde_json::from_slice(&text).map_err(|e| at(&path)(e.into()))?;
    if !is_name(&note.before.name) || note.staged.len() > layers.len() {
        return Err(at(&path)(io::ErrorKind::InvalidData.into()));
    }
    complete(layers, note).map(Some)
}

/// Notes that the outcome of a roll-back is recorded.
///
/// # Errors
/// The note cannot be removed; the next [`finish_roll_back`] tells the outcome once more.
pub fn acknowledge_roll_back(layers: &[Layer]) -> Result<(), CheckpointError> {
    let Some(path) = layers.first().map(Layer::rollback_path) else {
        return Ok(());
    };
    fs::remove_file(&path).or_else(absent).map_err(at(&path))?;
    sync_folder(&path).map_err(at(&path))
}

/// Removes what checkpoints that were cut off left behind. The caller knows that none is being made.
/// Returns whether there was something.
pub fn clean(layers: &[Layer]) -> bool {
    let mut found = false;
    if is_rolling_back(layers) {
        return false;
    }
    for layer in layers {
        let Ok(entries) = fs::read_dir(folder(layer)) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let stale = match name.strip_suffix(NEW) {
                Some(_) => true,
                // The first layer has lost it, or never had it.
                None => layers
                    .first()
                    .is_some_and(|first| read(first, &name).is_none()),
            };
            found |= stale && remove(&entry.path()).is_ok();
        }
        let _ = fs::remove_dir(folder(layer));
    }
    found
}

/// The note of a roll-back.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    to: Checkpoint,
    before: Checkpoint,
    /// The directories that the layers get, in their order.
    staged: Vec<FileId>,
}

const NEW: &str = ".new";

fn complete(layers: &[Layer], note: Note) -> Result<RolledBack, CheckpointError> {
    let first = layers.first().ok_or(CheckpointError::NoLayer)?;
    let name = &note.before.name;
    for (layer, wanted) in layers.iter().zip(&note.staged) {
        let upper = &layer.upper;
        if id_of(upper).map_err(at(upper))? != *wanted {
            let staged = new_path(layer, name).join("upper");
            if id_of(&staged).ok() != Some(*wanted) {
                return Err(CheckpointError::Lost {
                    note: first.rollback_path(),
                    upper: upper.clone(),
                    staged,
                });
            }
            renameat_with(CWD, upper, CWD, &staged, RenameFlags::EXCHANGE)
                .map_err(|e| at(upper)(e.into()))?;
            point!("exchanged");
            sync_folder(&staged).map_err(at(&staged))?;
        }
        sync_folder(upper).map_err(at(upper))?;
        // It is more than what was dropped again.
        let dropped = layer.dropped_path();
        fs::remove_file(&dropped)
            .or_else(absent)
            .map_err(at(&dropped))?;
        let kept = folder(layer).join(&note.to.name).join("manifest");
        let manifest = layer.manifest_path();
        if !manifest.exists() && kept.exists() {
            fs::hard_link(&kept, &manifest).map_err(at(&manifest))?;
            sync_folder(&manifest).map_err(at(&manifest))?;
        }
    }
    name_it(layers, name)?;
    point!("named");
    Ok(RolledBack {
        to: note.to,
        before: note.before,
    })
}

/// Gives what was made under a name that name, in the first layer last. Can be repeated.
fn name_it(layers: &[Layer], name: &str) -> Result<(), CheckpointError> {
    for layer in layers.iter().rev() {
        let (from, to) = (new_path(layer, name), folder(layer).join(name));
        sync_folder(&from.join("upper"))
            .or_else(absent)
            .map_err(at(&from))?;
        fs::rename(&from, &to).or_else(absent).map_err(at(&from))?;
        sync_folder(&to).map_err(at(&to))?;
        point!("checkpoint named");
    }
    Ok(())
}

fn absent(e: io::Error) -> io::Result<()> {
    match e.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    }
}

/// The first layer, when a checkpoint of this name can be made.
fn ready<'a>(layers: &'a [Layer], name: &str) -> Result<&'a Layer, CheckpointError> {
    let first = layers.first().ok_or(CheckpointError::NoLayer)?;
    let name = || name.to_owned();
    if !is_name(&name()) {
        return Err(CheckpointError::Name { name: name() });
    }
    if is_rolling_back(layers) {
        return Err(CheckpointError::Unfinished);
    }
    if read(first, &name()).is_some() {
        return Err(CheckpointError::Exists { name: name() });
    }
    Ok(first)
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

fn about(
    layers: &[Layer],
    new: &NewCheckpoint,
    automatic: bool,
) -> Result<Checkpoint, CheckpointError> {
    let first = layers.first().map(Layer::record_path).unwrap_or_default();
    let commits = crate::commit::commits(layers).map_err(at(&first))?;
    Ok(Checkpoint {
        name: new.name.clone(),
        at_ms: new.at_ms,
        automatic,
        objects: 0,
        bytes: 0,
        commits,
    })
}

fn folder(layer: &Layer) -> PathBuf {
    layer.checkpoints_path()
}

fn new_path(layer: &Layer, name: &str) -> PathBuf {
    folder(layer).join(format!("{name}{NEW}"))
}

fn read(first: &Layer, name: &str) -> Option<Checkpoint> {
    let text = fs::read(folder(first).join(name).join("about.json")).ok()?;
    let found: Checkpoint = serde_json::from_slice(&text).ok()?;
    (found.name == name).then_some(found)
}

fn find(first: &Layer, name: &str) -> Result<Checkpoint, CheckpointError> {
    let known = is_name(name).then(|| read(first, name)).flatten();
    known.ok_or_else(|| CheckpointError::Unknown { name: name.into() })
}

/// An empty private folder for what is made under a name.
fn stage(layer: &Layer, name: &str) -> Result<PathBuf, CheckpointError> {
    let (folder, path) = (folder(layer), new_path(layer, name));
    let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
    match make(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&folder)(e)),
        Err(_) => {}
        Ok(()) => sync_folder(&folder).map_err(at(&folder))?,
    }
    remove(&path)?;
    remove(&folder.join(name))?;
    make(&path).map_err(at(&path))?;
    Ok(path)
}

fn write_about(first: &Layer, made: &Checkpoint) -> Result<(), CheckpointError> {
    let path = new_path(first, &made.name).join("about.json");
    let text = serde_json::to_vec(made).map_err(|e| at(&path)(e.into()))?;
    write_new(&path, &text).map_err(at(&path))
}

/// The manifest is never changed, so another name of it is a copy.
fn keep_manifest(layer: &Layer, stage: &Path) -> Result<(), CheckpointError> {
    let (from, to) = (layer.manifest_path(), stage.join("manifest"));
    fs::hard_link(&from, &to).or_else(absent).map_err(at(&from))
}

fn empty_like(like: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    let mode = fs::symlink_metadata(like)?.permissions().mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn id_of(path: &Path) -> io::Result<FileId> {
    let meta = fs::symlink_metadata(path)?;
    Ok(FileId {
        dev: meta.dev(),
        ino: meta.ino(),
    })
}

/// Removes a folder with everything in it; absent is fine.
fn remove(path: &Path) -> Result<(), CheckpointError> {
    let error = |e: rustix::io::Errno| at(path)(e.into());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let tree = match Tree::open(parent, false) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other.map_err(error)?,
    };
    match remove_tree(&tree, name.as_encoded_bytes(), |_, _| false) {
        Ok(true) => Ok(()),
        Ok(false) => Err(error(rustix::io::Errno::NOTEMPTY)),
        Err(e) => Err(error(e)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError + use<> {
    let path = path.to_path_buf();
    move |source| CheckpointError::Folder { path, source }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
