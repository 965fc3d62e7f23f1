//! One commit at a time: take the lock, look at the checkpoint and the journal, extend, and write: either
//! to the journal, from which a later call publishes, or at once to tiles and checkpoint.
//!
//! Invariants:
//! * What the journal has after the newest checkpoint is in the log: whoever opens the log, or holds its
//!   lock next, goes on from there, and publishing covers all of it.
//! * The journal is written over only when the checkpoint that covers it is durable.
//! * Everything that a new checkpoint builds on was checked against the signed old one: the hashes
//!   of the right edge give its root, and the entries of the open bundle give the edge's leaves. So
//!   a log that was tampered with is never signed again.
//! * What lies beyond the checkpoint is the rest of a commit that did not finish. It counts for
//!   nothing and is removed or overwritten.
//! * Reads are O(log n): one partial tile per level and one bundle.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io, mem,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    defect::{Defect, KeyError},
    hash::leaf_hash,
    head::{self, HeadError},
    journal::{Journal, JournalError, Logged, Tail},
    key,
    note::{NoteError, Signer},
    proof,
    read::{TileFiles, first_changed},
    rotation::{self, KeyHistory, RotationError},
    store::{
        CHECKPOINT, CHECKPOINT_TEMPORARY, Disk, FileError, LOCK, NewFile, ROTATION_TEMPORARY,
        make_parents, publish, read_bundle, read_file, read_hashes,
    },
    tile::{Level, Tile, encode_hashes, push_entry},
    tlog_proof::TlogProof,
    tree::Frontier,
    values::{self, Written},
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
    /// The log's keys.
    #[error("{0}; the log is not extended")]
    Rotation(#[from] RotationError),
    /// The log's key was replaced, and the new one is not to be had.
    #[error(
        "the log's key was replaced by {new}, and the key at hand is an older one; the log is not extended"
    )]
    Replaced {
        /// The key that signs now.
        new: String,
    },
    /// The file of the log's key.
    #[error("the log's key: {0}; the log is not extended")]
    Key(#[from] KeyError),
    /// An entry that was to replace the log's key names other keys than the log's own and the next.
    #[error(
        "the key was not replaced: the entry does not name the log's key {key} and the next one"
    )]
    OtherKeys {
        /// The log's key.
        key: String,
    },
    /// The origin cannot be signed.
    #[error("the checkpoint cannot be signed: {0}")]
    Sign(#[from] NoteError),
    /// Another process is in the middle of a commit, for longer than was to be waited.
    #[error("another process holds {lock}; 'agentwall sessions' tells who runs")]
    Busy {
        /// The log's lock file.
        lock: PathBuf,
    },
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

impl CommitError {
    /// The same where nobody's entries were to be added.
    fn without_entries(self) -> OpenError {
        match self {
            CommitError::Open(error) => error,
            CommitError::Logged { error, .. } => error.into(),
        }
    }
}

/// What failed after the entries were in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Making the new checkpoint durable.
    Durable,
    /// Replacing the head file.
    Head,
}

/// The log's end, as far as appending needs it.
#[derive(Debug)]
struct State {
    /// The newest checkpoint.
    note: String,
    checkpoint: Checkpoint,
    /// All entries, those of the journal included.
    frontier: Frontier,
    /// The open bundle: the entries that no full bundle holds yet.
    bundle: Vec<u8>,
    /// Bundles and tiles that became full since the checkpoint.
    bundles: Vec<NewFile>,
    tiles: Vec<NewFile>,
    /// The texts of the entries that are not under the checkpoint yet.
    sealed: Vec<Vec<u8>>,
    tail: Tail,
}

impl State {
    /// How many entries are not under the checkpoint yet.
    fn unpublished(&self) -> u64 {
        self.frontier.size() - self.checkpoint.size
    }

    /// Adds an entry at the end.
    fn push(&mut self, entry: &Logged) {
        self.sealed.push(entry.sealed.clone());
        let entry = &entry.leaf;
        // Lengths were checked when the entry was accepted.
        push_entry(&mut self.bundle, entry);
        let tiles = &mut self.tiles;
        self.frontier
            .push(leaf_hash(entry), |level, index, hashes| {
                tiles.push((
                    Tile::full(Level::Hashes(level), index),
                    encode_hashes(hashes),
                ));
            });
        let size = self.frontier.size();
        if Level::Entries.partial(size) == 0 {
            let tile = Tile::full(Level::Entries, Level::Entries.full(size) - 1);
            self.bundles.push((tile, mem::take(&mut self.bundle)));
        }
    }

    /// The files that are new since the checkpoint, bundles first.
    fn files(&self) -> Vec<NewFile> {
        let (old, size) = (self.checkpoint.size, self.frontier.size());
        let (mut bundles, mut tiles) = (self.bundles.clone(), self.tiles.clone());
        for level in Level::all(size) {
            let index = level.full(size);
            let tile = Tile::at(level, index, size);
            match (tile, level) {
                (Some(tile), _) if Tile::at(level, index, old) == Some(tile) => {}
                (Some(tile), Level::Entries) => bundles.push((tile, self.bundle.clone())),
                (Some(tile), Level::Hashes(l)) => {
                    tiles.push((tile, encode_hashes(self.frontier.level(l))))
                }
                (None, _) => {}
            }
        }
        bundles.append(&mut tiles);
        bundles
    }
}

/// What a log has outside its folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// The file with the newest checkpoint.
    pub(crate) head: Option<PathBuf>,
    /// The folder of the texts, of a log that has them.
    pub(crate) values: Option<PathBuf>,
    /// The file of the signer's key, where it may be replaced.
    pub(crate) key: Option<PathBuf>,
}

/// The key that follows, and the proof that it does, but for the checkpoint.
struct Succession<'a> {
    next: &'a Signer,
    number: usize,
    proof: TlogProof,
}

/// A log open for appending.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    signer: Signer,
    /// The log's keys, the signer's as the newest.
    keys: KeyHistory,
    beside: Beside,
    head_unflushed: Option<File>,
    disk: Arc<dyn Disk>,
    lock: Arc<File>,
    journal: Journal,
    /// Whether commits go to the journal.
    journaling: bool,
    /// The checkpoint was read, and whoever wrote it may not have made its name durable.
    unflushed_name: bool,
    state: Option<State>,
}

/// With so many entries not under a checkpoint, a commit publishes.
const MAX_UNPUBLISHED: u64 = 1 << 14;

/// Holds the log's lock file; other processes wait.
struct Locked(Arc<File>);

impl Locked {
    fn take(file: &Arc<File>, dir: &Path) -> Result<Self, FileError> {
        file.lock()
            .map_err(|e| FileError::new("lock", &dir.join(LOCK), e))?;
        Ok(Locked(Arc::clone(file)))
    }

    /// The same, but waits no longer than this.
    fn take_within(file: &Arc<File>, dir: &Path, patience: Duration) -> Result<Self, OpenError> {
        let end = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Locked(Arc::clone(file))),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::Busy {
                        lock: dir.join(LOCK),
                    });
                }
                Err(TryLockError::Error(e)) => {
                    return Err(FileError::new("lock", &dir.join(LOCK), e).into());
                }
            }
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Cannot fail on a lock that is held; closing the file would release it too.
        let _ = self.0.unlock();
    }
}

impl Writer {
    /// Opens the log in `dir`, or makes an empty one, and tidies up after a commit that was cut off. Waits for
    /// others for as long as it takes, or for `patience`.
    pub(crate) fn open(
        dir: &Path,
        signer: Signer,
        beside: Beside,
        journaling: bool,
        disk: Arc<dyn Disk>,
        patience: Option<Duration>,
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
            keys: KeyHistory::from(signer.verifier()),
            journal: Journal::new(dir, &signer),
            journaling,
            unflushed_name: true,
            signer,
            beside,
            head_unflushed: None,
            disk,
            lock: Arc::new(lock.map_err(|e| FileError::new("open", &path, e))?),
            state: None,
        };
        let _locked = match patience {
            Some(patience) => Locked::take_within(&writer.lock, dir, patience)?,
            None => Locked::take(&writer.lock, dir)?,
        };
        writer.load()?;
        Ok(writer)
    }

    /// The newest checkpoint this writer has seen, as stored.
    pub(crate) fn note(&self) -> Option<&str> {
        self.state.as_ref().map(|s| s.note.as_str())
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Appends `entries` and makes them durable; returns the number of the first.
    pub(crate) fn commit(&mut self, entries: &[&Logged]) -> Result<u64, CommitError> {
        let _locked =
            Locked::take(&self.lock, &self.dir).map_err(|e| CommitError::Open(e.into()))?;
        // On an error the state stays unknown and is read again for the next commit.
        let mut state = self.current().map_err(CommitError::Open)?;
        let first = state.frontier.size();
        if entries.is_empty() {
            self.state = Some(state);
            return Ok(first);
        }
        let full =
            state.unpublished() > 0 && state.unpublished() + entries.len() as u64 > MAX_UNPUBLISHED;
        let mut room = self.journaling && !full;
        if room {
            match self.write_journal(&mut state, entries) {
                Ok(done) => room = done,
                Err(JournalError::NotWritten(e)) => return Err(CommitError::Open(e.into())),
                Err(JournalError::NotDurable(error)) => {
                    let step = Step::Durable;
                    return Err(CommitError::Logged { first, step, error });
                }
            }
        }
        entries.iter().for_each(|entry| state.push(entry));
        match room {
            true => self.state = Some(state),
            false => self.publish_state(state, first)?,
        }
        Ok(first)
    }

    /// `Ok(false)` when there is no room.
    fn write_journal(
        &mut self,
        state: &mut State,
        entries: &[&Logged],
    ) -> Result<bool, JournalError> {
        if mem::take(&mut self.unflushed_name) {
            self.disk.sync_dir(&self.dir).map_err(|e| {
                self.unflushed_name = true;
                JournalError::NotWritten(FileError::new("flush", &self.dir, e))
            })?;
        }
        let first = state.frontier.size();
        let tail = self
            .journal
            .append(&*self.disk, state.tail, first, entries)?;
        state.tail = tail.unwrap_or(state.tail);
        Ok(tail.is_some())
    }

    /// Whether entries are not under a checkpoint yet, as far as this writer knows.
    pub(crate) fn unpublished(&self) -> bool {
        self.state.as_ref().is_some_and(|s| s.unpublished() > 0)
    }

    /// Brings tiles and checkpoint up to date.
    pub(crate) fn publish(&mut self) -> Result<(), OpenError> {
        let _locked = Locked::take(&self.lock, &self.dir)?;
        self.publish_locked()
    }

    fn publish_locked(&mut self) -> Result<(), OpenError> {
        let state = self.current()?;
        if state.unpublished() == 0 {
            self.state = Some(state);
            return Ok(());
        }
        self.publish_state(state, 0)
            .map_err(CommitError::without_entries)
    }

    /// Destroys the texts of entries, durably, wherever the log has them.
    pub(crate) fn destroy(&mut self, entries: &[u64]) -> Result<(), OpenError> {
        let _locked = Locked::take(&self.lock, &self.dir)?;
        // Nothing in the journal follows from the new checkpoint: all of it can go.
        self.publish_locked()?;
        self.journal.wipe(&*self.disk)?;
        for index in entries {
            if let Some(dir) = &self.beside.values {
                values::destroy(&*self.disk, dir, *index)?;
            }
        }
        Ok(())
    }

    /// Replaces the log's key by `next`, with an entry that names both: it is the last one under the old key. Gives its
    /// number. After an error the key may have been replaced all the same: the next opening tells, and finishes it.
    pub(crate) fn rotate(&mut self, next: &Signer, entry: &Logged) -> Result<u64, OpenError> {
        let _locked = Locked::take(&self.lock, &self.dir)?;
        // What is in the journal has the tag of the old key.
        self.publish_locked()?;
        let mut state = self.current()?;
        let key = self.signer.verifier();
        if rotation::named(&entry.leaf) != Some((key.clone(), next.verifier()))
            || next.name() != key.name()
            || self.keys.keys().any(|known| *known == next.verifier())
        {
            let key = key.to_string();
            return Err(OpenError::OtherKeys { key });
        }
        let index = state.frontier.size();
        let succession = Succession {
            next,
            number: self.keys.rotations().len(),
            proof: TlogProof {
                extra: Some(entry.leaf.clone()),
                index,
                hashes: state.frontier.path_of_next(),
                checkpoint: String::new(),
            },
        };
        state.push(entry);
        let published = self.publish_signed(state, index, Some(succession));
        // Whatever came of it, this signer signs nothing more before it has read whose turn it is.
        self.state = None;
        published.map_err(CommitError::without_entries)?;
        if self.beside.key.is_none() {
            self.journal = Journal::new(&self.dir, next);
            self.signer = next.clone();
        }
        // With the new key, and without the old one on the disk.
        self.load()?;
        Ok(index)
    }

    /// Publishes everything; `first` is what an error says of.
    fn publish_state(&mut self, state: State, first: u64) -> Result<(), CommitError> {
        self.publish_signed(state, first, None)
    }

    fn publish_signed(
        &mut self,
        mut state: State,
        first: u64,
        succession: Option<Succession<'_>>,
    ) -> Result<(), CommitError> {
        let (old, size) = (state.checkpoint.size, state.frontier.size());
        let checkpoint = Checkpoint::new(&state.checkpoint.origin, size, state.frontier.root());
        let note = match &succession {
            None => checkpoint.sign(&self.signer),
            Some(succession) => checkpoint.sign_both(&self.signer, succession.next),
        };
        let note = note.map_err(|e| CommitError::Open(e.into()))?;
        if let Some(succession) = succession {
            self.write_rotation(succession, &note)
                .map_err(|e| CommitError::Open(e.into()))?;
        }
        let beside = match &self.beside.values {
            Some(dir) => values::write(&*self.disk, dir, old, &state.sealed),
            None => Ok(Written::default()),
        };
        let beside = beside.map_err(|e| CommitError::Open(e.into()))?;
        publish(&*self.disk, &self.dir, &state.files(), beside, &note).map_err(|e| {
            let (step, error) = (Step::Durable, e.error);
            match e.visible {
                true => CommitError::Logged { first, step, error },
                false => CommitError::Open(error.into()),
            }
        })?;
        self.remove_superseded(old, size);
        self.unflushed_name = false;
        state.tail = Tail::after(&note);
        (state.bundles, state.tiles) = (Vec::new(), Vec::new());
        state.sealed.clear();
        (state.note, state.checkpoint) = (note.clone(), checkpoint);
        self.state = Some(state);
        self.remember(&note).map_err(|error| {
            let step = Step::Head;
            CommitError::Logged { first, step, error }
        })
    }

    /// Writes the proof of a rotation, durably: it is there before the checkpoint is, and never in part.
    fn write_rotation(&self, succession: Succession<'_>, note: &str) -> Result<(), FileError> {
        let mut proof = succession.proof;
        proof.checkpoint = note.to_owned();
        let temporary = self.dir.join(ROTATION_TEMPORARY);
        let path = self.dir.join(rotation::file(succession.number));
        let mut folders = BTreeSet::from([self.dir.clone()]);
        let mut write = || -> io::Result<()> {
            let file = self.disk.write(&temporary, proof.to_string().as_bytes())?;
            self.disk.sync(&temporary, &file)?;
            make_parents(&*self.disk, &self.dir, &path, &mut folders)?;
            self.disk.rename(&temporary, &path)?;
            folders.extend(path.parent().map(Path::to_owned));
            folders.iter().try_for_each(|dir| self.disk.sync_dir(dir))
        };
        write().map_err(|e| FileError::new("write", &path, e))
    }

    /// Makes the head file durable, if it was replaced since the last time.
    pub(crate) fn flush_head(&mut self) -> Result<(), FileError> {
        match (self.head_unflushed.take(), &self.beside.head) {
            (Some(file), Some(path)) => file
                .sync_all()
                .map_err(|e| FileError::new("flush", path, e)),
            _ => Ok(()),
        }
    }

    /// The state of the log on disk, re-read only when another process has moved the checkpoint; what
    /// others have added to the journal is taken in.
    fn current(&mut self) -> Result<State, OpenError> {
        let bytes = read_file(&self.dir.join(CHECKPOINT), CHECKPOINT);
        match (self.state.take(), bytes) {
            (Some(mut state), Ok(bytes)) if state.note.as_bytes() == bytes => {
                self.take_in(&mut state)?;
                Ok(state)
            }
            _ => {
                self.load()?;
                self.state.take().ok_or(OpenError::CheckpointRemoved)
            }
        }
    }

    fn take_in(&mut self, state: &mut State) -> Result<(), OpenError> {
        let first = state.frontier.size();
        let (entries, tail) = self.journal.read(&*self.disk, state.tail, first)?;
        entries.iter().for_each(|entry| state.push(entry));
        state.tail = tail;
        Ok(())
    }

    fn load(&mut self) -> Result<(), OpenError> {
        let bytes = match read_file(&self.dir.join(CHECKPOINT), CHECKPOINT) {
            Err(Defect::Missing { .. }) => self.start()?,
            other => other?,
        };
        let checkpoint = self.follow(&bytes)?;
        self.unflushed_name = true;
        let mut state = read_edge(&self.dir, &bytes, checkpoint)?;
        if let Some(path) = self.beside.head.clone() {
            let known = head::read(&path)?;
            if let Some(known) = &known
                && *known != bytes
            {
                let tiles = TileFiles::new(&self.dir, state.checkpoint.size);
                head::check(&path, known, &self.keys, &state.checkpoint, |size| {
                    proof::root_at(&tiles, size)
                })?;
            }
            if known.as_ref() != Some(&bytes) {
                self.remember(&state.note)?;
            }
        }
        self.remove_unfinished(state.checkpoint.size);
        // Whoever wrote it is gone, or would go on from here all the same.
        self.take_in(&mut state)?;
        if state.unpublished() == 0 {
            self.state = Some(state);
            return Ok(());
        }
        self.publish_state(state, 0)
            .map_err(CommitError::without_entries)
    }

    /// Reads a checkpoint of the log, after looking whose key signs it. If that has followed the signer's, the signer is
    /// the next one from here on; what is left of the older one's file is destroyed.
    fn follow(&mut self, note: &[u8]) -> Result<Checkpoint, OpenError> {
        let (claimed, _) = Checkpoint::parse_note(note)?;
        self.keys = KeyHistory::read(&self.dir, &self.signer.verifier(), claimed.size)?;
        let checkpoint = self.keys.open(note)?;
        let newest = self.keys.newest();
        if let Some(path) = &self.beside.key {
            key::succeed(&*self.disk, path, newest)?;
        }
        if *newest == self.signer.verifier() {
            return Ok(checkpoint);
        }
        let replaced = || OpenError::Replaced {
            new: newest.to_string(),
        };
        let next = key::load(self.beside.key.as_ref().ok_or_else(replaced)?)?;
        if next.verifier() != *newest {
            return Err(replaced());
        }
        self.journal = Journal::new(&self.dir, &next);
        self.signer = next;
        Ok(checkpoint)
    }

    /// The first checkpoint of a new log, signed before any tile is written: from then on tiles
    /// without a checkpoint are a sign that it was removed.
    fn start(&self) -> Result<Vec<u8>, OpenError> {
        if self.dir.join("tile").symlink_metadata().is_ok() {
            return Err(OpenError::CheckpointRemoved);
        }
        if let Some(path) = &self.beside.head
            && let Some(known) = head::read(path)?
        {
            let empty = Checkpoint::new(self.signer.name(), 0, Frontier::default().root());
            head::check(path, &known, &self.keys, &empty, |_| Ok(empty.root))?;
        }
        let root = Frontier::default().root();
        let note = Checkpoint::new(self.signer.name(), 0, root).sign(&self.signer)?;
        publish(&*self.disk, &self.dir, &[], Written::default(), &note).map_err(|e| e.error)?;
        Ok(note.into_bytes())
    }

    fn remember(&mut self, note: &str) -> Result<(), FileError> {
        if let Some(path) = &self.beside.head {
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
        let rotation = rotation::file(self.keys.rotations().len());
        for name in [CHECKPOINT_TEMPORARY, ROTATION_TEMPORARY, &rotation] {
            if self.disk_has(name) {
                let _ = self.disk.remove(&self.dir.join(name));
            }
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
    // The checkpoint was parsed from it, so it is UTF-8.
    let note = String::from_utf8_lossy(note).into_owned();
    Ok(State {
        tail: Tail::after(&note),
        note,
        checkpoint,
        frontier,
        bundle,
        bundles: Vec::new(),
        tiles: Vec::new(),
        sealed: Vec::new(),
    })
}
