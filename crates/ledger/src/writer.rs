//! One commit at a time: take the lock, look at the checkpoint, extend, publish.
//!
//! Invariants:
//! * Everything that a new checkpoint builds on was checked against the signed old one: the hashes
//!   of the right edge give its root, and the entries of the open bundle give the edge's leaves. So
//!   a log that was tampered with is never signed again.
//! * What lies beyond the checkpoint is the rest of a commit that did not finish. It counts for
//!   nothing and is removed or overwritten.
//! * Reads are O(log n): one partial tile per level and one bundle.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    defect::Defect,
    hash::leaf_hash,
    head::{self, HeadError},
    note::{NoteError, Signer, Verifier},
    proof,
    read::{TileFiles, first_changed},
    store::{
        CHECKPOINT, CHECKPOINT_TEMPORARY, Disk, FileError, LOCK, NewFile, publish, read_bundle,
        read_file, read_hashes,
    },
    tile::{Level, Tile, encode_hashes, push_entry},
    tree::Frontier,
};

/// Why a log cannot be opened for writing, or not extended any more.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are tiles but no checkpoint.
    #[error(
        "the log has tiles but no checkpoint: the file 'checkpoint' was removed; put it back from a copy, or move the folder away to start a new log"
    )]
    CheckpointRemoved,
    /// The checkpoint is not this log's.
    #[error("the file 'checkpoint': {0}; the log is not extended")]
    Checkpoint(#[from] CheckpointError),
    /// A file at the right edge.
    #[error(
        "{0}; the log is not extended: verify it, then move the folder away to start a new log"
    )]
    Defect(#[from] Defect),
    /// The head file.
    #[error("{0}; the log is not extended")]
    Head(#[from] HeadError),
    /// The origin cannot be signed.
    #[error("the checkpoint cannot be signed: {0}")]
    Sign(#[from] NoteError),
}

/// Why a commit failed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Before anything was visible: the entries are not in the log.
    Open(OpenError),
    /// After the checkpoint was replaced: the entries are in the log from `first` on.
    Logged {
        first: u64,
        step: Step,
        error: FileError,
    },
}

/// What failed after the entries were in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Making the new checkpoint durable.
    Durable,
    /// Replacing the head file.
    Head,
}

/// What the newest checkpoint describes, as far as appending needs it.
#[derive(Debug, Clone)]
struct State {
    note: String,
    checkpoint: Checkpoint,
    frontier: Frontier,
    /// The open bundle: the entries that no full bundle holds yet.
    bundle: Vec<u8>,
}

/// A log open for appending.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    signer: Signer,
    verifier: Verifier,
    head: Option<PathBuf>,
    head_unflushed: Option<File>,
    disk: Arc<dyn Disk>,
    lock: Arc<File>,
    state: Option<State>,
}

/// Holds the log's lock file; other processes wait.
struct Locked(Arc<File>);

impl Locked {
    fn take(file: &Arc<File>, dir: &Path) -> Result<Self, FileError> {
        file.lock()
            .map_err(|e| FileError::new("lock", &dir.join(LOCK), e))?;
        Ok(Locked(Arc::clone(file)))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Cannot fail on a lock that is held; closing the file would release it too.
        let _ = self.0.unlock();
    }
}

impl Writer {
    /// Opens the log in `dir`, or makes an empty one, and tidies up after a commit that was cut off.
    pub(crate) fn open(
        dir: &Path,
        signer: Signer,
        head: Option<PathBuf>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let path = dir.join(LOCK);
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
        };
        let lock = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)
                    .map_err(|e| FileError::new("make", dir, e))?;
                open()
            }
            other => other,
        };
        let mut writer = Writer {
            dir: dir.to_owned(),
            verifier: signer.verifier(),
            signer,
            head,
            head_unflushed: None,
            disk,
            lock: Arc::new(lock.map_err(|e| FileError::new("open", &path, e))?),
            state: None,
        };
        let _locked = Locked::take(&writer.lock, dir)?;
        writer.load()?;
        Ok(writer)
    }

    /// The newest checkpoint this writer has seen, as stored.
    pub(crate) fn note(&self) -> Option<&str> {
        self.state.as_ref().map(|s| s.note.as_str())
    }

    /// Appends `entries` and makes them durable; returns the number of the first.
    pub(crate) fn commit(&mut self, entries: &[&[u8]]) -> Result<u64, CommitError> {
        let before = |e: OpenError| CommitError::Open(e);
        let _locked = Locked::take(&self.lock, &self.dir).map_err(|e| before(e.into()))?;
        let old = self.current().map_err(before)?;
        let first = old.frontier.size();
        if entries.is_empty() {
            self.state = Some(old);
            return Ok(first);
        }
        let (files, new) = extend(&old, entries, &self.signer).map_err(|e| before(e.into()))?;
        // On an error the state stays unknown and is read again for the next commit.
        publish(&*self.disk, &self.dir, &files, &new.note).map_err(|e| {
            if e.visible {
                CommitError::Logged {
                    first,
                    step: Step::Durable,
                    error: e.error,
                }
            } else {
                before(e.error.into())
            }
        })?;
        let note = new.note.clone();
        self.remove_superseded(first, new.frontier.size());
        self.state = Some(new);
        self.remember(&note).map_err(|error| CommitError::Logged {
            first,
            step: Step::Head,
            error,
        })?;
        Ok(first)
    }

    /// Makes the head file durable, if it was replaced since the last time.
    pub(crate) fn flush_head(&mut self) -> Result<(), FileError> {
        match (self.head_unflushed.take(), &self.head) {
            (Some(file), Some(path)) => file
                .sync_all()
                .map_err(|e| FileError::new("flush", path, e)),
            _ => Ok(()),
        }
    }

    /// The state of the log on disk, re-read only when another process has moved the checkpoint.
    fn current(&mut self) -> Result<State, OpenError> {
        let bytes = read_file(&self.dir.join(CHECKPOINT), CHECKPOINT);
        match (self.state.take(), bytes) {
            (Some(state), Ok(bytes)) if state.note.as_bytes() == bytes => Ok(state),
            _ => {
                self.load()?;
                self.state.take().ok_or(OpenError::CheckpointRemoved)
            }
        }
    }

    fn load(&mut self) -> Result<(), OpenError> {
        let bytes = match read_file(&self.dir.join(CHECKPOINT), CHECKPOINT) {
            Err(Defect::Missing { .. }) => self.start()?,
            other => other?,
        };
        let checkpoint = Checkpoint::open(&bytes, &self.verifier)?;
        let state = read_edge(&self.dir, &bytes, checkpoint)?;
        if let Some(path) = self.head.clone() {
            let known = head::read(&path)?;
            if let Some(known) = &known
                && *known != bytes
            {
                let tiles = TileFiles::new(&self.dir, state.checkpoint.size);
                head::check(&path, known, &self.verifier, &state.checkpoint, |size| {
                    proof::root_at(&tiles, size)
                })?;
            }
            if known.as_ref() != Some(&bytes) {
                self.remember(&state.note)?;
            }
        }
        self.remove_unfinished(state.checkpoint.size);
        self.state = Some(state);
        Ok(())
    }

    /// The first checkpoint of a new log, signed before any tile is written: from then on tiles
    /// without a checkpoint are a sign that it was removed.
    fn start(&self) -> Result<Vec<u8>, OpenError> {
        if self.dir.join("tile").symlink_metadata().is_ok() {
            return Err(OpenError::CheckpointRemoved);
        }
        if let Some(path) = &self.head
            && let Some(known) = head::read(path)?
        {
            let empty = Checkpoint::new(self.signer.name(), 0, Frontier::default().root());
            head::check(path, &known, &self.verifier, &empty, |_| Ok(empty.root))?;
        }
        let root = Frontier::default().root();
        let note = Checkpoint::new(self.signer.name(), 0, root).sign(&self.signer)?;
        publish(&*self.disk, &self.dir, &[], &note).map_err(|e| e.error)?;
        Ok(note.into_bytes())
    }

    fn remember(&mut self, note: &str) -> Result<(), FileError> {
        if let Some(path) = &self.head {
            self.head_unflushed = Some(head::write(path, note)?);
        }
        Ok(())
    }

    /// Removes the partial files that the commit from `old` to `new` entries has replaced. They do
    /// no harm (they are prefixes of what is there), so a failure is left to the next opening.
    fn remove_superseded(&self, old: u64, new: u64) {
        for level in Level::all(old) {
            let index = level.full(old);
            if let Some(tile) = Tile::at(level, index, old)
                && level.width(index, new) != tile.width
            {
                let _ = self.disk.remove(&self.dir.join(tile.to_string()));
                if level.width(index, new) == 256 {
                    let folder = self.dir.join(tile.partial_dir());
                    if self.disk.remove_dir(&folder).is_err() {
                        self.empty(&folder, 0);
                    }
                }
            }
        }
    }

    /// Removes what a commit that did not finish has left behind: files beyond `size`, replaced
    /// partial files, the temporary checkpoint. Failures are left to the commit that overwrites.
    fn remove_unfinished(&self, size: u64) {
        let temporary = self.dir.join(CHECKPOINT_TEMPORARY);
        if temporary.symlink_metadata().is_ok() {
            let _ = self.disk.remove(&temporary);
        }
        let levels = (0..=crate::tile::MAX_LEVEL).map(Level::Hashes);
        for level in [Level::Entries].into_iter().chain(levels) {
            if matches!(level, Level::Hashes(l) if !self.disk_has(&format!("tile/{l}"))) {
                break;
            }
            let open = level.full(size);
            if let Some(closed) = open.checked_sub(1) {
                self.empty(&self.dir.join(Tile::full(level, closed).partial_dir()), 0);
            }
            let partial = self.dir.join(Tile::full(level, open).partial_dir());
            self.empty(&partial, level.partial(size));
            let mut index = open;
            loop {
                let file = Tile::full(level, index);
                let there = self.disk_has(&file.to_string());
                if there {
                    let _ = self.disk.remove(&self.dir.join(file.to_string()));
                }
                let next = Tile::full(level, index + 1);
                if self.disk_has(&next.partial_dir()) {
                    self.empty(&self.dir.join(next.partial_dir()), 0);
                } else if !self.disk_has(&next.to_string()) {
                    break;
                }
                index += 1;
            }
        }
    }

    fn disk_has(&self, name: &str) -> bool {
        self.dir.join(name).symlink_metadata().is_ok()
    }

    /// Removes every file of a folder of partial files but the one of width `keep`, and the folder
    /// itself when none is to be kept.
    fn empty(&self, folder: &Path, keep: u16) {
        let Ok(list) = fs::read_dir(folder) else {
            return;
        };
        let keep_name = keep.to_string();
        for entry in list.flatten() {
            if keep == 0 || entry.file_name() != keep_name.as_str() {
                let _ = self.disk.remove(&entry.path());
            }
        }
        if keep == 0 {
            let _ = self.disk.remove_dir(folder);
        }
    }
}

/// Reads the right edge and checks it against the checkpoint.
fn read_edge(dir: &Path, note: &[u8], checkpoint: Checkpoint) -> Result<State, Defect> {
    let size = checkpoint.size;
    let mut levels = Vec::new();
    for level in Level::all(size) {
        if let Level::Hashes(l) = level {
            levels.push(match level.partial(size) {
                0 => Vec::new(),
                width => read_hashes(dir, l, level.full(size), width)?,
            });
        }
    }
    let root = |frontier: &Frontier| Defect::Root {
        size,
        expected: checkpoint.root,
        found: frontier.root(),
    };
    let frontier = Frontier::new(size, levels).ok_or_else(|| root(&Frontier::default()))?;
    if frontier.root() != checkpoint.root {
        return Err(root(&frontier));
    }
    let number = Level::Entries.full(size);
    let bundle = match Level::Entries.partial(size) {
        0 => Vec::new(),
        width => {
            let (bytes, file) = read_bundle(dir, number, width)?;
            first_changed(&bytes, frontier.level(0), number, &file)?;
            bytes
        }
    };
    Ok(State {
        // The checkpoint was parsed from it, so it is UTF-8.
        note: String::from_utf8_lossy(note).into_owned(),
        checkpoint,
        frontier,
        bundle,
    })
}

/// The files that appending `entries` makes, lowest level first, and the state after it.
fn extend(
    old: &State,
    entries: &[&[u8]],
    signer: &Signer,
) -> Result<(Vec<NewFile>, State), NoteError> {
    let mut frontier = old.frontier.clone();
    let mut bundle = old.bundle.clone();
    let (mut bundles, mut tiles) = (Vec::new(), Vec::new());
    for entry in entries {
        // Lengths were checked when the entry was accepted.
        push_entry(&mut bundle, entry);
        frontier.push(leaf_hash(entry), |level, index, hashes| {
            tiles.push((
                Tile::full(Level::Hashes(level), index),
                encode_hashes(hashes),
            ));
        });
        let size = frontier.size();
        if Level::Entries.partial(size) == 0 {
            let index = Level::Entries.full(size) - 1;
            bundles.push((
                Tile::full(Level::Entries, index),
                std::mem::take(&mut bundle),
            ));
        }
    }
    let size = frontier.size();
    for level in Level::all(size) {
        let index = level.full(size);
        let Some(tile) = Tile::at(level, index, size) else {
            continue;
        };
        if Tile::at(level, index, old.frontier.size()) == Some(tile) {
            continue;
        }
        match level {
            Level::Entries => bundles.push((tile, bundle.clone())),
            Level::Hashes(l) => tiles.push((tile, encode_hashes(frontier.level(l)))),
        }
    }
    bundles.append(&mut tiles);
    let checkpoint = Checkpoint::new(&old.checkpoint.origin, size, frontier.root());
    let note = checkpoint.sign(signer)?;
    Ok((
        bundles,
        State {
            note,
            checkpoint,
            frontier,
            bundle,
        },
    ))
}
