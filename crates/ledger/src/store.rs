//! The files of a log on disk: reading without following links, and the few writes a commit needs.
//!
//! Writes go through the [`Disk`] trait so that tests can stop the world between any two of them.
//! Published tiles are never changed, so a tile is written under its own name at once; only
//! `checkpoint`, which is replaced, takes the way over a temporary file and a rename.

use std::{
    collections::BTreeSet,
    fmt, fs,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    defect::Defect,
    hash::{HASH_LEN, Hash},
    tile::{Level, MAX_ENTRY, Tile, decode_hashes, split_bundle},
    values::Written,
};

/// The file that names the log's size and root.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// What a new checkpoint is called until it is whole.
pub(crate) const CHECKPOINT_TEMPORARY: &str = "checkpoint.tmp";
/// Groups of entries that are durable and not under a checkpoint yet.
pub(crate) const JOURNAL: &str = "journal";
/// The newest checkpoint that witnesses have cosigned.
pub(crate) const COSIGNED: &str = "checkpoint.cosigned";
/// What that is called until it is whole.
pub(crate) const COSIGNED_TEMPORARY: &str = "checkpoint.cosigned.tmp";
/// The proofs of the rotations of the log's key.
pub(crate) const ROTATIONS: &str = "rotation";
/// What such a proof is called until it is whole.
pub(crate) const ROTATION_TEMPORARY: &str = "rotation.tmp";
/// Held exclusively by whoever appends.
pub(crate) const LOCK: &str = "lock";

/// More than the largest bundle: 256 entries of 65,535 bytes with their lengths.
const MAX_FILE: u64 = 256 * (MAX_ENTRY as u64 + 2);

/// Flushes under way at once.
const MAX_FLUSH_THREADS: usize = 4;

/// An operation on a file failed.
#[derive(Debug, Clone)]
pub struct FileError {
    /// What was tried, for example `write`.
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: Arc<io::Error>,
}

impl FileError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        FileError {
            operation,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot {} {}: {}",
            self.operation,
            self.path.display(),
            self.source
        )
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// The changes a commit makes, one method per system call that matters for crash safety.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Creates or empties a file and writes it; nothing is durable yet.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<File>;
    /// Opens a file for reading and writing, and makes it if `make` and it is not there.
    fn open(&self, path: &Path, make: bool) -> io::Result<File>;
    /// Writes over a part of a file, or after its end; nothing is durable yet.
    fn write_at(&self, path: &Path, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written over a file's bytes durable.
    fn sync_data(&self, path: &Path, file: &File) -> io::Result<()>;
    /// Makes a written file durable.
    fn sync(&self, path: &Path, file: &File) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes one directory.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must not be there.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Replaces `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.write_all(bytes)?;
        Ok(file)
    }

    fn open(&self, path: &Path, make: bool) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(make)
            .truncate(false)
            .mode(0o600)
            // A FIFO must not block the writer.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    }

    fn write_at(&self, _path: &Path, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync_data(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// A bundle or tile to be written, and its content.
pub(crate) type NewFile = (Tile, Vec<u8>);

/// A commit that failed on the way.
#[derive(Debug)]
pub(crate) struct PublishError {
    /// Why.
    pub(crate) error: FileError,
    /// Whether the new checkpoint may already be visible.
    pub(crate) visible: bool,
}

/// Writes bundles and tiles, makes them and what was written beside them durable, then replaces the
/// checkpoint and makes that durable.
///
/// Five flushes for a small batch, in two waves: bundle, tile, texts and the new checkpoint's content at
/// once, then the log's folder after the rename. Flushes of one wave run in threads, because file
/// systems with a journal commit them together: two journal commits instead of five. The folders
/// of bundle and tile are flushed only when they are new: on Linux file systems a flush of a new
/// file also makes its name durable (ext4 and XFS commit the journal in which it was created, btrfs
/// logs the name), and the rename that follows is ordered after it. If some file system did lose
/// such a name, opening the log finds the tile missing and refuses to sign.
pub(crate) fn publish(
    disk: &dyn Disk,
    dir: &Path,
    files: &[NewFile],
    beside: Written,
    checkpoint: &str,
) -> Result<(), PublishError> {
    let before = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| PublishError {
            error: FileError::new(operation, &path, source),
            visible: false,
        }
    };
    let (mut written, mut new_names) = (beside.files, beside.folders);
    for (tile, bytes) in files {
        let path = dir.join(tile.to_string());
        let file = match disk.write(&path, bytes) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_parents(disk, dir, &path, &mut new_names).map_err(before("make", &path))?;
                disk.write(&path, bytes)
            }
            other => other,
        };
        let file = file.map_err(before("write", &path))?;
        written.push((path, file));
    }
    let temporary = dir.join(CHECKPOINT_TEMPORARY);
    let file = disk
        .write(&temporary, checkpoint.as_bytes())
        .map_err(before("write", &temporary))?;
    written.push((temporary.clone(), file));
    let flushes: Vec<(&Path, Option<&File>)> = written
        .iter()
        .map(|(path, file)| (path.as_path(), Some(file)))
        .chain(new_names.iter().map(|path| (path.as_path(), None)))
        .collect();
    flush_together(disk, &flushes).map_err(|error| PublishError {
        error,
        visible: false,
    })?;
    // The descriptors are not needed any more; near their limit the folder could not be opened.
    drop(written);
    let path = dir.join(CHECKPOINT);
    disk.rename(&temporary, &path)
        .map_err(before("replace", &path))?;
    disk.sync_dir(dir).map_err(|source| PublishError {
        error: FileError::new("flush", dir, source),
        visible: true,
    })
}

/// Flushes files, and folders where there is no file, in a few threads; all threads have ended when
/// it returns.
fn flush_together(disk: &dyn Disk, flushes: &[(&Path, Option<&File>)]) -> Result<(), FileError> {
    let lanes = flushes.len().min(MAX_FLUSH_THREADS);
    let run = |lane: usize| {
        flushes
            .iter()
            .skip(lane)
            .step_by(lanes)
            .try_for_each(|(path, file)| {
                file.map_or_else(|| disk.sync_dir(path), |file| disk.sync(path, file))
                    .map_err(|e| FileError::new("flush", path, e))
            })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..lanes)
            .map(|lane| {
                let thread = std::thread::Builder::new();
                (lane, thread.spawn_scoped(scope, move || run(lane)))
            })
            .collect();
        let mut result = run(0);
        for (lane, thread) in threads {
            let other = match thread {
                // The closure does not panic; were it to, nothing was shown to be durable.
                Ok(thread) => thread.join().unwrap_or_else(|_| run(lane)),
                // No thread to be had: then one after another.
                Err(_) => run(lane),
            };
            result = result.and(other);
        }
        result
    })
}

/// Makes the missing folders between `dir` and `path`; each folder that got a new name in it is
/// put into `changed`.
pub(crate) fn make_parents(
    disk: &dyn Disk,
    dir: &Path,
    path: &Path,
    changed: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|p| *p != dir).collect();
    for folder in missing.into_iter().rev() {
        match disk.make_dir(folder) {
            Ok(()) => {
                changed.extend(folder.parent().map(Path::to_owned));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads a whole file. Links, folders, devices and absurd sizes are defects.
pub(crate) fn read_file(path: &Path, name: &str) -> Result<Vec<u8>, Defect> {
    let io = |e| Defect::File(FileError::new("read", path, e));
    let file = OpenOptions::new()
        .read(true)
        // A FIFO must not block the reader.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Defect::Missing {
                file: name.to_owned(),
            });
        }
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Defect::NotAFile {
                file: name.to_owned(),
            });
        }
        Err(e) => return Err(io(e)),
    };
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(Defect::NotAFile {
            file: name.to_owned(),
        });
    }
    if meta.len() > MAX_FILE {
        return Err(Defect::Length {
            file: name.to_owned(),
            expected: MAX_FILE,
            found: meta.len(),
        });
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    file.read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Reads the file of a tile. A partial one that a writer has meanwhile replaced is read from the
/// full or the next wider file, whose beginning is the same (tlog-tiles asks clients to do so).
/// Returns the bytes and the file they came from.
fn read_tile(dir: &Path, tile: Tile) -> Result<(Vec<u8>, Tile), Defect> {
    let missing = match read_file(&dir.join(tile.to_string()), &tile.to_string()) {
        Err(missing @ Defect::Missing { .. }) if !tile.is_full() => missing,
        other => return other.map(|bytes| (bytes, tile)),
    };
    let mut wider: Vec<Tile> = fs::read_dir(dir.join(tile.partial_dir()))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|w| (tile.width + 1..256).contains(w))
        .map(|width| Tile { width, ..tile })
        .collect();
    wider.sort();
    wider.push(Tile::full(tile.level, tile.index));
    for other in wider {
        match read_file(&dir.join(other.to_string()), &other.to_string()) {
            Err(Defect::Missing { .. }) => {}
            result => return result.map(|bytes| (bytes, other)),
        }
    }
    Err(missing)
}

/// The first `tile.width` hashes of a tile.
pub(crate) fn read_hashes(
    dir: &Path,
    level: u8,
    index: u64,
    width: u16,
) -> Result<Vec<Hash>, Defect> {
    let tile = Tile {
        level: Level::Hashes(level),
        index,
        width,
    };
    let (bytes, from) = read_tile(dir, tile)?;
    let mut hashes = decode_hashes(&bytes, from.width).ok_or_else(|| Defect::Length {
        file: from.to_string(),
        expected: u64::from(from.width) * HASH_LEN as u64,
        found: bytes.len() as u64,
    })?;
    hashes.truncate(usize::from(width));
    Ok(hashes)
}

/// The bytes of a bundle up to and with entry `width`, after checking its shape, and the name of
/// the file they came from.
pub(crate) fn read_bundle(dir: &Path, index: u64, width: u16) -> Result<(Vec<u8>, String), Defect> {
    let tile = Tile {
        level: Level::Entries,
        index,
        width,
    };
    let (mut bytes, from) = read_tile(dir, tile)?;
    let file = from.to_string();
    let (mut count, mut used) = (0u16, 0);
    for entry in split_bundle(&bytes) {
        match entry {
            Ok(_) if count == from.width => {
                return Err(Defect::TrailingBytes {
                    bytes: bytes.len() - used,
                    file,
                });
            }
            Ok(entry) => {
                count += 1;
                used += 2 + entry.len();
            }
            Err(left) if count == from.width => {
                return Err(Defect::TrailingBytes { file, bytes: left });
            }
            Err(_) => {
                return Err(Defect::TornBundle {
                    index: index * 256 + u64::from(count),
                    file,
                });
            }
        }
    }
    if count < from.width {
        return Err(Defect::EntryCount {
            file,
            expected: from.width,
            found: count,
        });
    }
    if from.width > width {
        let cut = split_bundle(&bytes)
            .take(usize::from(width))
            .flatten()
            .map(|e| 2 + e.len())
            .sum();
        bytes.truncate(cut);
    }
    Ok((bytes, file))
}
