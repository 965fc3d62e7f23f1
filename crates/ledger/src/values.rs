//! The text of entries: encrypted, in files beside the log, outside what the log signs and anybody serves.
//!
//! The text of an entry is the seed of its salts and the record as it was written, together encrypted with
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha). The key comes from the key of the session by
//! HKDF-SHA256, the leaf is the associated data: a text opens for its own leaf alone, and with it for its session and
//! number. Whether it is true is not asked of the cipher: whoever reads it makes the leaf again from it.
//!
//! A file has the texts of a bundle, 256 entries, under the bundle's number:
//!
//! ```text
//! 256 times: u32 offset, u32 length, big-endian; of length 0: no text
//! the texts: a nonce of 24 bytes, the ciphertext, a tag of 16 bytes
//! ```
//!
//! Texts are written behind those that are there, and durable before the checkpoint that covers their
//! entries; slots of entries beyond the checkpoint count for nothing and are written over. To erase a text is to
//! write zeros over it where it stands.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload as Sealing},
};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::{
    entry::{
        Seed,
        commitment::{self, Leaf},
    },
    store::{Disk, FileError, make_parents},
    subject::SubjectKey,
    tile::{Level, TILE_WIDTH, Tile},
};

const KEY: &[u8] = b"agentwall/values/v1\0";
const NONCE: usize = 24;
const TAG: usize = 16;
const SEED: usize = 32;
const SLOT: usize = 8;
const SLOTS: usize = TILE_WIDTH as usize * SLOT;
/// More than the longest text of an entry.
const MAX_TEXT: u64 = 1 << 17;
/// More than the longest file: what a damaged slot names beyond it is nowhere.
const MAX_FILE: u64 = SLOTS as u64 + TILE_WIDTH as u64 * MAX_TEXT;

/// Where the text of a log's entries is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFolders {
    /// The encrypted texts.
    pub values: PathBuf,
    /// The keys of the sessions.
    pub subjects: PathBuf,
}

/// The text of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) seed: Seed,
    /// The record as it was written.
    pub(crate) record: Vec<u8>,
}

impl Text {
    /// With a new seed.
    pub(crate) fn new(record: &[u8]) -> Result<Self, getrandom::Error> {
        let mut seed = [0; SEED];
        getrandom::fill(&mut seed)?;
        Ok(Text {
            seed: Seed(seed),
            record: record.to_vec(),
        })
    }

    /// The leaf that commits to it.
    pub(crate) fn leaf(&self) -> Option<Leaf> {
        commitment::close_record(&self.record, &self.seed)
    }

    /// Encrypts it for its leaf.
    pub(crate) fn seal(
        &self,
        key: &SubjectKey,
        seq: u64,
        leaf: &[u8],
    ) -> Result<Vec<u8>, getrandom::Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let text = [&self.seed.0[..], &self.record].concat();
        let sealing = Sealing {
            msg: &text,
            aad: leaf,
        };
        // Cannot fail: a text is far from the 256 GiB that a nonce is good for.
        let sealed = cipher(key, seq).encrypt(&XNonce::from(nonce), sealing);
        Ok([&nonce[..], &sealed.unwrap_or_default()].concat())
    }

    /// Decrypts it; `None` when it is not one that was encrypted for this leaf with this key.
    pub(crate) fn open(key: &SubjectKey, seq: u64, leaf: &[u8], sealed: &[u8]) -> Option<Self> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let sealing = Sealing {
            msg: sealed,
            aad: leaf,
        };
        let text = cipher(key, seq)
            .decrypt(&XNonce::from(*nonce), sealing)
            .ok()?;
        let (seed, record) = text.split_first_chunk::<SEED>()?;
        Some(Text {
            seed: Seed(*seed),
            record: record.to_vec(),
        })
    }
}

fn cipher(key: &SubjectKey, seq: u64) -> XChaCha20Poly1305 {
    let mut own = [0; 32];
    let done =
        Hkdf::<Sha256>::new(None, &key.0).expand_multi_info(&[KEY, &seq.to_be_bytes()], &mut own);
    // Cannot fail: one block of output.
    debug_assert!(done.is_ok());
    XChaCha20Poly1305::new(&own.into())
}

/// The file of a bundle's texts, relative to the folder.
fn name(number: u64) -> String {
    let bundle = Tile::full(Level::Entries, number).to_string();
    bundle.trim_start_matches("tile/entries/").to_owned()
}

/// Where the texts of a bundle stand.
#[derive(Debug)]
struct Slots([(u32, u32); TILE_WIDTH as usize]);

impl Slots {
    fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0; SLOTS];
        let mut filled = 0;
        while filled < SLOTS {
            match file.read_at(&mut bytes[filled..], filled as u64) {
                // A file that was cut, or is new: there is nothing in the others.
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let word = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok(Slots(std::array::from_fn(|i| {
            (word(i * SLOT), word(i * SLOT + 4))
        })))
    }

    fn bytes(&self) -> Vec<u8> {
        let slots = self.0.iter();
        slots
            .flat_map(|(offset, length)| [offset.to_be_bytes(), length.to_be_bytes()].concat())
            .collect()
    }

    /// Where the text of an entry is, if it has one.
    fn place(&self, position: usize) -> Option<(u64, usize)> {
        let (offset, length) = *self.0.get(position)?;
        let (offset, length) = (u64::from(offset), u64::from(length));
        let whole = (NONCE + TAG + SEED) as u64 <= length && length <= MAX_TEXT;
        let inside = SLOTS as u64 <= offset && offset + length <= MAX_FILE;
        (whole && inside).then_some((offset, length as usize))
    }

    /// Behind all texts.
    fn end(&self) -> u64 {
        let ends = (0..self.0.len()).filter_map(|i| self.place(i));
        ends.map(|(offset, length)| offset + length as u64)
            .fold(SLOTS as u64, u64::max)
    }
}

/// Files that were written and are not durable yet, and folders with new names in them.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) files: Vec<(PathBuf, File)>,
    pub(crate) folders: BTreeSet<PathBuf>,
}

/// Writes the texts of the entries from `first` on; what comes before is there.
pub(crate) fn write(
    disk: &dyn Disk,
    dir: &Path,
    first: u64,
    sealed: &[Vec<u8>],
) -> Result<Written, FileError> {
    let mut written = Written::default();
    let mut left = sealed;
    let mut index = first;
    while !left.is_empty() {
        let width = u64::from(TILE_WIDTH);
        let position = (index % width) as usize;
        let (now, later) = left.split_at(left.len().min(TILE_WIDTH as usize - position));
        if now.iter().any(|text| !text.is_empty()) {
            let path = dir.join(name(index / width));
            let file = write_file(disk, dir, &path, position, now, &mut written.folders)
                .map_err(|e| FileError::new("write", &path, e))?;
            written.files.push((path, file));
        }
        index += now.len() as u64;
        left = later;
    }
    Ok(written)
}

fn write_file(
    disk: &dyn Disk,
    dir: &Path,
    path: &Path,
    position: usize,
    sealed: &[Vec<u8>],
    folders: &mut BTreeSet<PathBuf>,
) -> io::Result<File> {
    let file = match disk.open(path, true) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_parents(disk, dir, path, folders)?;
            disk.open(path, true)?
        }
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut slots = Slots::read(&file)?;
    // What a commit that was cut off has left.
    slots.0[position..].fill((0, 0));
    let mut end = slots.end();
    let (start, mut texts) = (end, Vec::new());
    for (slot, text) in slots.0[position..].iter_mut().zip(sealed) {
        if !text.is_empty() {
            let offset = u32::try_from(end).map_err(|_| io::Error::other("too many texts"))?;
            *slot = (offset, text.len() as u32);
            texts.extend_from_slice(text);
            end += text.len() as u64;
        }
    }
    disk.write_at(path, &file, 0, &slots.bytes())?;
    disk.write_at(path, &file, start, &texts)?;
    Ok(file)
}

fn open(dir: &Path, index: u64) -> Result<Option<(PathBuf, File)>, FileError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(name(index / u64::from(TILE_WIDTH)));
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    match file {
        Ok(file) => Ok(Some((path, file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::new("open", &path, e)),
    }
}

/// The encrypted text of an entry; `None` when there is none.
pub(crate) fn read(dir: &Path, index: u64) -> Result<Option<Vec<u8>>, FileError> {
    let Some((path, file)) = open(dir, index)? else {
        return Ok(None);
    };
    let read = || -> io::Result<Option<Vec<u8>>> {
        let place = Slots::read(&file)?.place((index % u64::from(TILE_WIDTH)) as usize);
        let Some((offset, length)) = place else {
            return Ok(None);
        };
        let mut text = vec![0; length];
        match file.read_exact_at(&mut text, offset) {
            Ok(()) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    };
    read().map_err(|e| FileError::new("read", &path, e))
}

/// Writes zeros over the encrypted text of an entry, durably. Nothing to do where there is none.
pub(crate) fn destroy(disk: &dyn Disk, dir: &Path, index: u64) -> Result<(), FileError> {
    let Some((path, file)) = open(dir, index)? else {
        return Ok(());
    };
    let destroy = || -> io::Result<()> {
        let place = Slots::read(&file)?.place((index % u64::from(TILE_WIDTH)) as usize);
        let Some((offset, length)) = place else {
            return Ok(());
        };
        let file = disk.open(&path, false)?;
        // Nothing is made longer: what is cut has no text there.
        let length = file
            .metadata()?
            .len()
            .saturating_sub(offset)
            .min(length as u64);
        disk.write_at(&path, &file, offset, &vec![0; length as usize])?;
        disk.sync(&path, &file)
    };
    destroy().map_err(|e| FileError::new("write over", &path, e))
}

/// Removes the texts of a bundle.
pub(crate) fn remove(dir: &Path, bundle: u64) -> Result<(), FileError> {
    let path = dir.join(name(bundle));
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", &path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
