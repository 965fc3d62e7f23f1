//! The journal: what makes a group of entries durable with one write and one `fdatasync`, before they are
//! in tiles and under a checkpoint.
//!
//! Records stand one after another from the beginning of the file `journal`:
//!
//! ```text
//! u32 length of the payload, u64 number of the first entry, big-endian
//! the payload: for each entry a big-endian u16 length, the leaf, a big-endian u32 length, its encrypted text
//! 32 bytes of tag: keyed SHA-256 over the tag before it and all of the above
//! ```
//!
//! The tag before the first record is the SHA-256 of the newest checkpoint, as stored. So a new checkpoint
//! empties the journal without a write: no record that is there follows from it any more, and the next
//! one is written over the first. Space is written with zeros beforehand, so that making a record
//! durable changes nothing but data.
//!
//! Invariants:
//! * What does not follow from the checkpoint, or from the record before it, counts for nothing: it is of
//!   an older checkpoint, or was torn, and then nobody was told that it is durable.
//! * The key is the log key's. Whoever can write into the folder but has not that key cannot bring an
//!   entry into the log by this way either.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    note::Signer,
    store::{Disk, FileError, JOURNAL},
    tile::{MAX_ENTRY, push_entry},
};

/// An entry on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    /// What goes into the tree.
    pub(crate) leaf: Vec<u8>,
    /// Its encrypted text, empty where there is none.
    pub(crate) sealed: Vec<u8>,
}

impl Logged {
    fn push(&self, payload: &mut Vec<u8>) {
        push_entry(payload, &self.leaf);
        payload.extend_from_slice(&(self.sealed.len() as u32).to_be_bytes());
        payload.extend_from_slice(&self.sealed);
    }

    /// Bytes of leaf and text.
    pub(crate) fn length(&self) -> usize {
        self.leaf.len() + self.sealed.len()
    }

    /// The first of a payload, and the rest.
    fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = payload.split_first_chunk()?;
        let (leaf, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (length, rest) = rest.split_first_chunk()?;
        let (sealed, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (leaf, sealed) = (leaf.to_vec(), sealed.to_vec());
        Some((Logged { leaf, sealed }, rest))
    }
}

/// A record that would end beyond this is not written: a checkpoint comes first.
const MAX_BYTES: u64 = 8 << 20;
/// Space is made in steps of this: what is there and not used counts as the log's.
const STEP: u64 = 64 << 10;
const HEAD: usize = 12;
const TAG: usize = 32;

/// Where the next record goes, and what it follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    offset: u64,
    tag: [u8; TAG],
}

impl Tail {
    /// The beginning of the file, after a checkpoint.
    pub(crate) fn after(note: &str) -> Self {
        Tail {
            offset: 0,
            tag: Sha256::digest(note).into(),
        }
    }

    fn record(&self, key: &[u8; 32], first: u64, payload: &[u8]) -> Option<Vec<u8>> {
        let length = u32::try_from(payload.len()).ok()?;
        let mut out = length.to_be_bytes().to_vec();
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(payload);
        let tag = tag(key, &self.tag, &out);
        out.extend_from_slice(&tag);
        Some(out)
    }

    fn behind(&self, record: &[u8]) -> Option<Tail> {
        Some(Tail {
            offset: self.offset + record.len() as u64,
            tag: *record.last_chunk()?,
        })
    }
}

/// The inner hash takes the key first, the outer one keeps what it gives from being extended.
fn tag(key: &[u8; 32], before: &[u8; TAG], record: &[u8]) -> [u8; TAG] {
    let inner = Sha256::new()
        .chain_update(key)
        .chain_update(before)
        .chain_update(record);
    let outer = Sha256::new().chain_update(key).chain_update([1]);
    outer.chain_update(inner.finalize()).finalize().into()
}

/// The file, open; its bytes are read and written under the log's lock alone.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    key: [u8; 32],
    file: Option<File>,
    /// How much of it is there to be overwritten.
    space: u64,
}

impl Journal {
    pub(crate) fn new(dir: &Path, signer: &Signer) -> Self {
        Journal {
            path: dir.join(JOURNAL),
            key: signer.journal_key(),
            file: None,
            space: 0,
        }
    }

    /// A journal that is open already, for reading alone.
    pub(crate) fn of(dir: &Path, signer: &Signer, file: File) -> Result<Self, FileError> {
        let mut journal = Journal::new(dir, signer);
        journal.take(file)?;
        Ok(journal)
    }

    /// The records after `tail`: their entries, and the tail after them. None when there is no file.
    pub(crate) fn read(
        &mut self,
        disk: &dyn Disk,
        mut tail: Tail,
        mut first: u64,
    ) -> Result<(Vec<Logged>, Tail), FileError> {
        let mut entries = Vec::new();
        if !self.open(disk, false)? {
            return Ok((entries, tail));
        }
        while let Some(record) = self.record_at(tail, first)? {
            let mut payload = &record[HEAD..record.len() - TAG];
            while let Some((entry, rest)) = Logged::split(payload) {
                entries.push(entry);
                payload = rest;
                first += 1;
            }
            let Some(behind) = tail.behind(&record) else {
                break;
            };
            tail = behind;
        }
        Ok((entries, tail))
    }

    /// The record at the tail, whole and following from it; otherwise `None`.
    fn record_at(&self, tail: Tail, first: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let mut head = [0; HEAD];
        if !self.read_at(file, &mut head, tail.offset)? {
            return Ok(None);
        }
        let length = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        if head[4..] != first.to_be_bytes() || length > MAX_BYTES {
            return Ok(None);
        }
        let mut record = vec![0; HEAD + length as usize + TAG];
        if !self.read_at(file, &mut record, tail.offset)? {
            return Ok(None);
        }
        let (text, found) = record.split_at(record.len() - TAG);
        let follows = found == tag(&self.key, &tail.tag, text).as_slice();
        Ok(follows.then_some(record))
    }

    /// Whether the file is long enough.
    fn read_at(&self, file: &File, bytes: &mut [u8], offset: u64) -> Result<bool, FileError> {
        match file.read_exact_at(bytes, offset) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(FileError::new("read", &self.path, e)),
        }
    }

    /// Writes a group of entries, durable when this returns. `Ok(None)` when there is no room.
    pub(crate) fn append(
        &mut self,
        disk: &dyn Disk,
        tail: Tail,
        first: u64,
        entries: &[&Logged],
    ) -> Result<Option<Tail>, JournalError> {
        let size: usize = entries.iter().map(|e| 2 + 4 + e.length()).sum();
        let end = tail.offset + (HEAD + size + TAG) as u64;
        if end > MAX_BYTES || entries.iter().any(|e| e.leaf.len() > MAX_ENTRY) {
            return Ok(None);
        }
        let mut payload = Vec::with_capacity(size);
        for entry in entries {
            entry.push(&mut payload);
        }
        let Some(record) = tail.record(&self.key, first, &payload) else {
            return Ok(None);
        };
        self.open(disk, true).map_err(JournalError::NotWritten)?;
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let failed = |operation| {
            let path = self.path.clone();
            move |e| FileError::new(operation, &path, e)
        };
        if end > self.space {
            // Another process may have made room meanwhile, and written there.
            self.space = file
                .metadata()
                .map_err(failed("open"))
                .map_err(JournalError::NotWritten)?
                .len();
        }
        if end > self.space {
            let space = end.next_multiple_of(STEP);
            let zeros = vec![0; (space - self.space) as usize];
            disk.write_at(&self.path, file, self.space, &zeros)
                .and_then(|()| disk.sync(&self.path, file))
                .map_err(failed("extend"))
                .map_err(JournalError::NotWritten)?;
            self.space = space;
        }
        disk.write_at(&self.path, file, tail.offset, &record)
            .map_err(failed("write"))
            .map_err(JournalError::NotWritten)?;
        disk.sync_data(&self.path, file)
            .map_err(failed("flush"))
            .map_err(JournalError::NotDurable)?;
        Ok(tail.behind(&record))
    }

    /// Writes zeros over all of it, durably: what it has is under a checkpoint, and is not to be here, too.
    pub(crate) fn wipe(&mut self, disk: &dyn Disk) -> Result<(), FileError> {
        self.open(disk, false)?;
        let Some(file) = &self.file else {
            return Ok(());
        };
        let wipe = || {
            let length = file.metadata()?.len().min(2 * MAX_BYTES);
            disk.write_at(&self.path, file, 0, &vec![0; length as usize])?;
            disk.sync_data(&self.path, file)
        };
        wipe().map_err(|e| FileError::new("write over", &self.path, e))
    }

    /// Opens the file if it is not; makes it, durably, if `make`. Whether it is there.
    fn open(&mut self, disk: &dyn Disk, make: bool) -> Result<bool, FileError> {
        if self.file.is_some() {
            return Ok(true);
        }
        let failed = |e| FileError::new("open", &self.path, e);
        let file = match disk.open(&self.path, make) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !make => return Ok(false),
            other => other.map_err(failed)?,
        };
        if make && let Some(dir) = self.path.parent() {
            disk.sync_dir(dir).map_err(failed)?;
        }
        self.take(file)?;
        Ok(true)
    }

    fn take(&mut self, file: File) -> Result<(), FileError> {
        let failed = |e| FileError::new("open", &self.path, e);
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(failed(io::Error::other("not a regular file")));
        }
        self.space = meta.len();
        self.file = Some(file);
        Ok(())
    }
}

/// A record that was not written, or may not survive.
#[derive(Debug)]
pub(crate) enum JournalError {
    /// Not written, or torn: the entries are not in the log.
    NotWritten(FileError),
    /// Written, and read by whoever looks; it may be lost with the power.
    NotDurable(FileError),
}
