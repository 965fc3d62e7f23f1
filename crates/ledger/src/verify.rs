//! Checking a whole log, from the signed root down to every byte of every entry.
//!
//! The order is top-down: the hashes of the right edge must give the signed root; each full tile
//! must give its hash in the level above, which was checked before; each entry must give its hash
//! in level 0. So the first contradiction is found in the file that was changed, and not in one
//! that is right. Files that the size does not call for are found by walking the folder.
//!
//! Memory is bounded by a few tiles and one bundle for each of a few threads. The log's lock is held only while the
//! checkpoint is read and the folder is walked; writers may go on during the rest.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io, iter,
    num::NonZero,
    ops::Range,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use agentwall_action::escape_bytes;

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    cosigned::{self, Cosigned, CosignedError},
    defect::Defect,
    entry::{Entry, EntryError, Record},
    hash::{Hash, leaf_hash, tree_hash},
    head::{self, HeadError},
    note::Verifier,
    proof, prune,
    read::{TileFiles, first_changed},
    rotation::{self, KeyHistory, RotationError},
    store::{
        CHECKPOINT, CHECKPOINT_TEMPORARY, COSIGNED, COSIGNED_TEMPORARY, FileError, JOURNAL, LOCK,
        ROTATION_TEMPORARY, ROTATIONS, read_bundle, read_file, read_hashes,
    },
    tile::{Level, TILE_WIDTH, Tile, split_bundle},
    tree::Frontier,
    trust::TrustPolicy,
};

/// What to check a log against.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// A public key of the log, from a place that whoever could change the log cannot change. The
    /// checkpoint must be signed by it, or the one that has followed it, and name the same origin.
    pub key: Verifier,
    /// The file with the newest checkpoint that this host has seen. Without it a log that was put
    /// back to an older genuine state cannot be told from the newest one.
    pub head: Option<PathBuf>,
    /// Whether entries must be canonical records of [`crate::entry`]. Only logs of other content
    /// say `false`.
    pub records: bool,
    /// By which policy the cosignatures of witnesses count. Without it they are not looked at; that the
    /// checkpoint that carries them is of this history is checked all the same.
    pub trust: Option<TrustPolicy>,
}

impl VerifyOptions {
    /// The key alone: no head file, entries must be canonical records.
    pub fn new(key: Verifier) -> Self {
        VerifyOptions {
            key,
            head: None,
            records: true,
            trust: None,
        }
    }
}

/// What was found to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The checkpoint's origin.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// The key that signed, as a vkey.
    pub key: String,
    /// How often the log's key was replaced, and by which entries, oldest first.
    pub rotations: Vec<u64>,
    /// The minimum index, as a record in the log says: entries before it were removed, their hashes are there and
    /// were checked. 0 if nothing is missing.
    pub pruned: u64,
    /// Number of entries by type; entries in a form that this version does not know are under
    /// their type with `?` after it. Empty when records were not looked at.
    pub types: BTreeMap<String, u64>,
    /// Whether the log was compared with a head file.
    pub head: bool,
    /// The newest checkpoint with cosignatures, if the log has one: what is after it, nobody but the log
    /// vouches for.
    pub cosigned: Option<Cosigned>,
    /// Files beyond the checkpoint, left by a commit that was cut off; they count for nothing and
    /// the next opening for writing removes them. Told here only when the head file shows that
    /// the checkpoint is not an older one; otherwise they are an error.
    pub unfinished: Vec<String>,
}

/// Why a log does not verify.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The folder has no checkpoint.
    #[error("{dir} has no file 'checkpoint': it is not a log, or the checkpoint was removed")]
    NoCheckpoint {
        /// The log's folder.
        dir: PathBuf,
    },
    /// The checkpoint is not canonical, not signed by the key, or of another log.
    #[error("the file 'checkpoint': {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A bundle or tile.
    #[error(transparent)]
    Defect(#[from] Defect),
    /// The keys that followed each other.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The log against the head file.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// What witnesses have cosigned.
    #[error("the file '{COSIGNED}': {0}")]
    Cosigned(#[from] CosignedError),
    /// A file that no log has.
    #[error("{file} does not belong into a log")]
    Foreign {
        /// Its name, escaped.
        file: String,
    },
    /// A bundle or tile beyond the size that the checkpoint signs.
    #[error(
        "{file} lies beyond the {size} entries that the checkpoint signs: the checkpoint was put back to an older one, or a commit was cut off (then opening the log for writing removes the file)"
    )]
    Beyond {
        /// Its name.
        file: String,
        /// Size of the log.
        size: u64,
    },
    /// An entry that is not a canonical record.
    #[error("entry {index} in {file}: {error}")]
    Entry {
        /// The bundle.
        file: String,
        /// The entry.
        index: u64,
        /// What is wrong with it.
        error: EntryError,
    },
    /// Something is wrong, but a writer may be in the middle of a commit.
    #[error(
        "a writer has held the log for {} s, and as it stands: {found}; 'agentwall sessions' tells who \
         runs; let it go on or end it, and verify again",
        PATIENCE.as_secs()
    )]
    Busy {
        /// What was found without waiting any longer.
        found: Box<VerifyError>,
    },
}

impl From<FileError> for VerifyError {
    fn from(error: FileError) -> Self {
        VerifyError::Defect(Defect::File(error))
    }
}

/// Checks everything in the log's folder. Fails on the first contradiction. A writer that holds the log
/// for longer than [`PATIENCE`], such as one that was stopped in the middle of a commit, is not waited
/// for: what it has published has to hold all the same.
pub fn verify(dir: &Path, options: &VerifyOptions) -> Result<Report, VerifyError> {
    match lock_shared(dir, PATIENCE)? {
        Lock::Busy => {
            verify_locked(dir, options, None).map_err(|e| VerifyError::Busy { found: Box::new(e) })
        }
        Lock::Free(file) => verify_locked(dir, options, file),
    }
}

/// Entries are checked in at most so many threads.
const MAX_THREADS: usize = 4;

/// How long a commit may take before it is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// `lock` is let go as soon as the files that may change have been read.
fn verify_locked(
    dir: &Path,
    options: &VerifyOptions,
    lock: Option<File>,
) -> Result<Report, VerifyError> {
    let (bytes, keys, cosigned, found) = {
        let _locked = lock;
        // Before the checkpoint: what is cosigned is never newer than the log.
        let cosigned = cosigned::read(dir)?;
        let bytes = match read_file(&dir.join(CHECKPOINT), CHECKPOINT) {
            Err(Defect::Missing { .. }) => {
                return Err(VerifyError::NoCheckpoint {
                    dir: dir.to_owned(),
                });
            }
            other => other?,
        };
        let known = options.head.as_deref().map(head::read).transpose()?;
        let (claimed, _) = Checkpoint::parse_note(&bytes)?;
        let keys = KeyHistory::read(dir, &options.key, claimed.size)?;
        let checkpoint = keys.open(&bytes)?;
        let mut found = Found {
            checkpoint,
            rotations: keys.rotations().len(),
            known: known.flatten(),
            replaced: Vec::new(),
            unfinished: Vec::new(),
            expected: 0,
        };
        walk(dir, "", &mut found)?;
        (bytes, keys, cosigned, found)
    };
    let log = &found.checkpoint;
    if let Some(path) = &options.head {
        check_head_size(path, found.known.as_deref(), &bytes, &keys, log)?;
    }
    if let (None, Some(file)) = (&found.known, found.unfinished.first()) {
        return Err(VerifyError::Beyond {
            file: file.clone(),
            size: log.size,
        });
    }
    let gone = prune::missing(dir, log.size);
    all_there(dir, &found, gone)?;
    edge(dir, log)?;
    for l in (1..=crate::tile::MAX_LEVEL).rev() {
        full_tiles(dir, l, log.size)?;
    }
    let Seen {
        types,
        minimum,
        rotations,
    } = entries(dir, gone, log.size, options.records)?;
    if gone * 256 > minimum {
        return Err(Defect::Missing {
            file: Tile::full(Level::Entries, minimum / 256).to_string(),
        }
        .into());
    }
    if let Some(index) = rotations.into_iter().find(|index| !keys.has(*index)) {
        return Err(RotationError::Unproved { index }.into());
    }
    let tiles = TileFiles::new(dir, log.size);
    for rotation in keys.rotations() {
        let size = rotation.index + 1;
        if proof::root_at(&tiles, size)? != rotation.root {
            return Err(RotationError::Forked { size }.into());
        }
    }
    for tile in &found.replaced {
        replaced(dir, *tile, log.size)?;
    }
    if let (Some(path), Some(known)) = (&options.head, &found.known) {
        head::check(path, known, &keys, log, |size| proof::root_at(&tiles, size))?;
    }
    let trust = options.trust.as_ref();
    let cosigned = cosigned
        .map(|bytes| {
            cosigned::check(&bytes, &keys, trust, log, |size| {
                proof::root_at(&tiles, size)
            })
        })
        .transpose()?;
    Ok(Report {
        cosigned,
        origin: log.origin.clone(),
        size: log.size,
        root: log.root,
        key: keys.newest().to_string(),
        rotations: keys.rotations().iter().map(|r| r.index).collect(),
        pruned: gone * 256,
        types,
        head: found.known.is_some(),
        unfinished: found.unfinished,
    })
}

/// What the walk has seen.
struct Found {
    checkpoint: Checkpoint,
    /// How many proofs of rotations belong to it.
    rotations: usize,
    /// The content of the head file.
    known: Option<Vec<u8>>,
    /// Partial files that wider ones have replaced: allowed, and checked to be prefixes.
    replaced: Vec<Tile>,
    /// Files beyond the checkpoint.
    unfinished: Vec<String>,
    /// Number of files that the size calls for.
    expected: u64,
}

/// The log's lock.
enum Lock {
    /// Nobody commits while the file is held. A copy of a log without a lock file, or one that may not
    /// be opened, is taken as one that nobody writes to.
    Free(Option<File>),
    /// A writer has held it all the time.
    Busy,
}

/// The log's lock, shared.
fn lock_shared(dir: &Path, patience: Duration) -> Result<Lock, VerifyError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    match file {
        Ok(file) => {
            let end = Instant::now() + patience;
            loop {
                match file.try_lock_shared() {
                    Ok(()) => return Ok(Lock::Free(Some(file))),
                    Err(TryLockError::WouldBlock) if Instant::now() < end => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    Err(TryLockError::WouldBlock) => return Ok(Lock::Busy),
                    Err(TryLockError::Error(e)) => {
                        return Err(FileError::new("lock", &path, e).into());
                    }
                }
            }
        }
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(Lock::Free(None))
        }
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(Defect::NotAFile {
            file: LOCK.to_owned(),
        }
        .into()),
        Err(e) => Err(FileError::new("open", &path, e).into()),
    }
}

/// Looks at every name in the folder; `prefix` is the path so far, empty or ending in `/`.
fn walk(dir: &Path, prefix: &str, found: &mut Found) -> Result<(), VerifyError> {
    let folder = dir.join(prefix);
    let io = |e| FileError::new("list", &folder, e);
    for entry in fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let shown = || format!("{prefix}{}", escape_bytes(name.as_bytes()));
        let Some(text) = name.to_str() else {
            return Err(VerifyError::Foreign { file: shown() });
        };
        let path = format!("{prefix}{text}");
        let kind = entry.file_type().map_err(io)?;
        if kind.is_dir() {
            if path != ROTATIONS && !is_folder(&path) {
                return Err(VerifyError::Foreign { file: shown() });
            }
            walk(dir, &format!("{path}/"), found)?;
            continue;
        }
        let tile = Tile::parse(&path);
        let own = [
            CHECKPOINT,
            CHECKPOINT_TEMPORARY,
            COSIGNED,
            COSIGNED_TEMPORARY,
            JOURNAL,
            LOCK,
            ROTATION_TEMPORARY,
        ];
        let number = (0..=found.rotations).find(|n| path == rotation::file(*n));
        let own = own.contains(&path.as_str()) || number.is_some();
        if tile.is_none() && !own {
            return Err(VerifyError::Foreign { file: shown() });
        }
        if !kind.is_file() {
            return Err(Defect::NotAFile { file: path }.into());
        }
        match tile {
            Some(tile) => sort(tile, found),
            None if path == CHECKPOINT_TEMPORARY
                || path == ROTATION_TEMPORARY
                || number == Some(found.rotations) =>
            {
                found.unfinished.push(path);
            }
            None => {}
        }
    }
    Ok(())
}

/// Whether a log can have a folder of this name: one that a canonical tile name goes through.
fn is_folder(path: &str) -> bool {
    path == "tile"
        || Tile::parse(&format!("{path}/1")).is_some()
        || Tile::parse(&format!("{path}/000")).is_some()
}

fn sort(tile: Tile, found: &mut Found) {
    let width = tile.level.width(tile.index, found.checkpoint.size);
    match tile.width.cmp(&width) {
        std::cmp::Ordering::Equal => found.expected += 1,
        std::cmp::Ordering::Less => found.replaced.push(tile),
        std::cmp::Ordering::Greater => found.unfinished.push(tile.to_string()),
    }
}

/// The part of the comparison with the head that needs no tiles; a log that was put back is told
/// as that, whatever else is wrong with it.
fn check_head_size(
    path: &Path,
    known: Option<&[u8]>,
    bytes: &[u8],
    keys: &KeyHistory,
    log: &Checkpoint,
) -> Result<(), VerifyError> {
    match known {
        Some(known) if known == bytes => Ok(()),
        Some(known) => {
            let head = keys.open(known).map_err(|source| HeadError::Malformed {
                path: path.to_owned(),
                source,
            })?;
            if head.size > log.size {
                return Err(HeadError::RolledBack {
                    size: log.size,
                    seen: head.size,
                }
                .into());
            }
            Ok(())
        }
        // A kill between the first checkpoint and the first head leaves this behind.
        None if log.size == 0 => Ok(()),
        None => Err(HeadError::Missing {
            path: path.to_owned(),
        }
        .into()),
    }
}

/// When the walk has seen fewer files than the size calls for, finds the first missing one. The first `gone` bundles
/// are another matter.
fn all_there(dir: &Path, found: &Found, gone: u64) -> Result<(), VerifyError> {
    let size = found.checkpoint.size;
    let wanted = Level::all(size).try_fold(0u64, |n, level| n.checked_add(level.files(size)));
    if wanted.map(|n| n - gone) == Some(found.expected) {
        return Ok(());
    }
    for level in Level::all(size) {
        let first = if level == Level::Entries { gone } else { 0 };
        for index in first..level.files(size) {
            if let Some(tile) = Tile::at(level, index, size)
                && dir.join(tile.to_string()).symlink_metadata().is_err()
                // A writer may have replaced a partial file since.
                && (tile.is_full() || read_partial(dir, tile).is_err())
            {
                return Err(Defect::Missing {
                    file: tile.to_string(),
                }
                .into());
            }
        }
    }
    Ok(())
}

fn read_partial(dir: &Path, tile: Tile) -> Result<(), Defect> {
    match tile.level {
        Level::Entries => read_bundle(dir, tile.index, tile.width).map(drop),
        Level::Hashes(l) => read_hashes(dir, l, tile.index, tile.width).map(drop),
    }
}

/// The hashes of the right edge must give the signed root.
fn edge(dir: &Path, log: &Checkpoint) -> Result<(), VerifyError> {
    let size = log.size;
    let mut levels = Vec::new();
    for level in Level::all(size) {
        if let Level::Hashes(l) = level {
            levels.push(match level.partial(size) {
                0 => Vec::new(),
                width => read_hashes(dir, l, level.full(size), width)?,
            });
        }
    }
    match Frontier::new(size, levels) {
        Some(stored) if stored.root() == log.root => Ok(()),
        Some(stored) => Err(blame_edge(dir, log, &stored)?.into()),
        None => Err(Defect::Root {
            size,
            expected: log.root,
            found: Frontier::default().root(),
        }
        .into()),
    }
}

/// The right edge does not give the root: builds the tree again from the entries to see which
/// tile is wrong. Returns the defect.
fn blame_edge(dir: &Path, log: &Checkpoint, stored: &Frontier) -> Result<Defect, Defect> {
    let size = log.size;
    if prune::missing(dir, size) > 0 {
        // Without all entries nobody can tell which tile it is.
        return Ok(Defect::Root {
            size,
            expected: log.root,
            found: stored.root(),
        });
    }
    let mut built = Frontier::default();
    for number in 0..Level::Entries.files(size) {
        let width = Level::Entries.width(number, size);
        let (bundle, _) = read_bundle(dir, number, width)?;
        for entry in split_bundle(&bundle).flatten() {
            built.push(leaf_hash(entry), |_, _, _| {});
        }
    }
    if built.root() == log.root {
        for l in 0..built.depth() {
            let pairs = built.level(l).iter().zip(stored.level(l));
            let wrong = pairs.zip(0u16..).find(|((a, b), _)| a != b);
            if let (Some((_, i)), Some(tile)) = (wrong, edge_tile(l, size)) {
                return Ok(Defect::TileChanged {
                    file: tile.to_string(),
                    index: Some(i),
                });
            }
        }
    }
    Ok(Defect::Root {
        size,
        expected: log.root,
        found: built.root(),
    })
}

fn edge_tile(level: u8, size: u64) -> Option<Tile> {
    let level = Level::Hashes(level);
    Tile::at(level, level.full(size), size)
}

/// Each full tile of level `l` must give its hash in level `l + 1`.
fn full_tiles(dir: &Path, l: u8, size: u64) -> Result<(), VerifyError> {
    let above = TileFiles::new(dir, size);
    for index in 0..Level::Hashes(l).full(size) {
        let hashes = read_hashes(dir, l, index, TILE_WIDTH)?;
        full_tile(&above, l, index, &hashes)?;
    }
    Ok(())
}

fn full_tile(above: &TileFiles, l: u8, index: u64, hashes: &[Hash]) -> Result<(), Defect> {
    let expected = above.tile(l + 1, index / 256, |parent| {
        parent.get((index % 256) as usize).copied()
    })?;
    if expected == Some(tree_hash(hashes)) {
        return Ok(());
    }
    Err(Defect::TileChanged {
        file: Tile::full(Level::Hashes(l), index).to_string(),
        index: None,
    })
}

/// What the entries are.
#[derive(Default)]
struct Seen {
    types: BTreeMap<String, u64>,
    /// What they allow to be missing: everything below this index.
    minimum: u64,
    /// Which of them say that the log's key was replaced.
    rotations: Vec<u64>,
}

/// Each tile of level 0 must give its hash in level 1, and each entry its hash in level 0. The first `gone` bundles are
/// not there.
fn entries(dir: &Path, gone: u64, size: u64, records: bool) -> Result<Seen, VerifyError> {
    let files = Level::Entries.files(size);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    // A thread for a few bundles is not worth its start.
    let lanes = (cores.min(MAX_THREADS) as u64).min(1 + files / 16);
    let part = files.div_ceil(lanes);
    let run = |lane| {
        bundles(
            dir,
            gone,
            size,
            lane * part..files.min((lane + 1) * part),
            records,
        )
    };
    let parts: Vec<_> = thread::scope(|scope| {
        let start = |lane| {
            (
                lane,
                thread::Builder::new().spawn_scoped(scope, move || run(lane)),
            )
        };
        let threads: Vec<_> = (1..lanes).map(start).collect();
        let rest = threads.into_iter().map(|(lane, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| run(lane)),
            // No thread to be had: then one after another.
            Err(_) => run(lane),
        });
        // The first of several contradictions is told.
        iter::once_with(|| run(0))
            .chain(rest)
            .collect::<Result<_, _>>()
    })?;
    let mut all = Seen::default();
    for part in parts {
        all.minimum = all.minimum.max(part.minimum);
        all.rotations.extend(part.rotations);
        for (name, count) in part.types {
            *all.types.entry(name).or_default() += count;
        }
    }
    Ok(all)
}

/// The same for some of the bundles.
fn bundles(
    dir: &Path,
    gone: u64,
    size: u64,
    range: Range<u64>,
    records: bool,
) -> Result<Seen, VerifyError> {
    let above = TileFiles::new(dir, size);
    let mut seen = Seen::default();
    for number in range {
        let width = Level::Entries.width(number, size);
        let hashes = read_hashes(dir, 0, number, width)?;
        let checked = if width == TILE_WIDTH {
            full_tile(&above, 0, number, &hashes)
        } else {
            // Part of the right edge, checked against the root.
            Ok(())
        };
        if number < gone {
            checked?;
            continue;
        }
        let (bundle, file) = read_bundle(dir, number, width)?;
        if let Err(wrong) = checked {
            return Err(blame_tile(wrong, &above, number, &hashes, &bundle)?.into());
        }
        first_changed(&bundle, &hashes, number, &file)?;
        if records {
            count(&bundle, number, &file, &mut seen)?;
        }
    }
    Ok(seen)
}

/// A full tile of level 0 is wrong; when the bundle is right, it tells which hash.
fn blame_tile(
    wrong: Defect,
    above: &TileFiles,
    number: u64,
    hashes: &[Hash],
    bundle: &[u8],
) -> Result<Defect, Defect> {
    let built: Vec<Hash> = split_bundle(bundle).flatten().map(leaf_hash).collect();
    let position = built
        .iter()
        .zip(hashes)
        .zip(0u16..)
        .find(|((a, b), _)| a != b);
    match (full_tile(above, 0, number, &built), position) {
        (Ok(()), Some((_, i))) => Ok(Defect::TileChanged {
            file: Tile::full(Level::Hashes(0), number).to_string(),
            index: Some(i),
        }),
        _ => Ok(wrong),
    }
}

fn count(bundle: &[u8], number: u64, file: &str, seen: &mut Seen) -> Result<(), VerifyError> {
    for (bytes, i) in split_bundle(bundle).flatten().zip(0u64..) {
        let index = number * 256 + i;
        let entry = Entry::from_bytes(bytes).map_err(|error| VerifyError::Entry {
            file: file.to_owned(),
            index,
            error,
        })?;
        seen.minimum = seen.minimum.max(prune::minimum_of(&entry, index));
        if rotation::is_one(&entry) {
            seen.rotations.push(index);
        }
        let name = match &entry.record {
            Record::Other(other) => format!("{}?", other.kind),
            known => known.type_name().to_owned(),
        };
        *seen.types.entry(name).or_default() += 1;
    }
    Ok(())
}

/// A partial file that a wider one has replaced must be the beginning of it.
fn replaced(dir: &Path, tile: Tile, size: u64) -> Result<(), VerifyError> {
    let name = tile.to_string();
    let bytes = match read_file(&dir.join(&name), &name) {
        // Removed meanwhile by the writer that replaced it.
        Err(Defect::Missing { .. }) => return Ok(()),
        other => other?,
    };
    let width = tile.level.width(tile.index, size);
    let same = match tile.level {
        Level::Entries => {
            let (whole, _) = read_bundle(dir, tile.index, width)?;
            whole.starts_with(&bytes)
                && split_bundle(&bytes).all(|e| e.is_ok())
                && split_bundle(&bytes).count() == usize::from(tile.width)
        }
        Level::Hashes(l) => {
            let whole = read_hashes(dir, l, tile.index, width)?;
            crate::tile::decode_hashes(&bytes, tile.width)
                .is_some_and(|hashes| whole.starts_with(&hashes))
        }
    };
    if same {
        return Ok(());
    }
    Err(Defect::TileChanged {
        file: name,
        index: None,
    }
    .into())
}
