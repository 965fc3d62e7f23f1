//! The members of an archive as they are written.
//!
//! Everything is counted and summed on its way out. Content is read from the upper directory when its turn
//! has come, and has to be what was gathered.

use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;
use sha2::{Digest as _, Sha256};

use super::format::{BLOCK, Head, Map, Type, map_bytes};
use super::gather::archive_name;
use super::write::ExportError;
use super::{Entry, Kind, LAYER, OPAQUE};
use crate::content::{BLOCK as CONTENT_BLOCK, each_block, read_full};
use crate::dir::{Snapshot, Tree, join, open_private, split};
use crate::scan::{ScanError, absolute};

/// Zeros in whole blocks from which on a file is stored without them.
const HOLES: u64 = 1 << 20;
/// Most pieces of data in such a file; one with more is stored as it is.
pub(super) const MAX_PIECES: usize = 1 << 18;
/// Longest manifest or proof.
pub(super) const MAX_OWN: u64 = 1 << 20;

/// An archive that is being written.
pub(super) struct Output<'a> {
    inner: &'a mut dyn Write,
    sum: Sha256,
    at: u64,
    limit: u64,
}

impl<'a> Output<'a> {
    pub(super) fn new(inner: &'a mut dyn Write, limit: u64) -> Output<'a> {
        Output {
            inner,
            sum: Sha256::new(),
            at: 0,
            limit,
        }
    }

    /// The sum of what was written.
    pub(super) fn sum(&self) -> Sha256 {
        self.sum.clone()
    }

    /// Two blocks of zeros; answers the length of the whole.
    pub(super) fn end(mut self) -> Result<u64, ExportError> {
        self.put(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok(self.at)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.at += bytes.len() as u64;
        if self.at > self.limit {
            return Err(ExportError::Limit {
                what: "bytes",
                limit: self.limit,
            });
        }
        self.sum.update(bytes);
        Ok(self.inner.write_all(bytes)?)
    }

    fn pad(&mut self) -> Result<(), ExportError> {
        let over = (self.at % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            n => self.put(&[0; BLOCK][n..]),
        }
    }

    /// One of the archive's own members.
    pub(super) fn own(&mut self, name: &str, content: &[u8]) -> Result<(), ExportError> {
        self.put(&Head::own(name, content.len() as u64).to_bytes())?;
        self.put(content)?;
        self.pad()
    }

    /// One entry of the layer whose copies are in `upper`.
    pub(super) fn entry(
        &mut self,
        entry: &Entry,
        root: &Path,
        upper: &Tree,
    ) -> Result<(), ExportError> {
        let mut head = head_of(entry);
        if let Kind::File { size, .. } = entry.kind {
            return self.file(head, size, entry, root, upper);
        }
        self.put(&head.to_bytes())?;
        if let Kind::Directory { opaque: true } = entry.kind {
            head = whiteout([head.name.as_slice(), OPAQUE].concat());
            self.put(&head.to_bytes())?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        mut head: Head,
        size: u64,
        entry: &Entry,
        root: &Path,
        upper: &Tree,
    ) -> Result<(), ExportError> {
        let path = || absolute(root, &entry.rel);
        let fail = |e: rustix::io::Errno| {
            ExportError::Scan(ScanError::Entry {
                path: path(),
                source: e.into(),
            })
        };
        let dir = upper.parent(&entry.rel).map_err(fail)?;
        let fd = open_private(&dir, split(&entry.rel).1, false).map_err(fail)?;
        let before = Snapshot::new(&fstat(&fd).map_err(fail)?);
        if (before.size, before.mtime) != (size, entry.mtime) {
            return Err(ExportError::Changed { path: path() });
        }
        let map = data_of(&fd, size).map_err(fail)?;
        let whole = Map::from([(0, size)]);
        let (front, pieces) = match &map {
            Some(map) => {
                head.sparse = Some(size);
                (map_bytes(map, size), map)
            }
            None => (Vec::new(), &whole),
        };
        head.size = front.len() as u64 + pieces.values().sum::<u64>();
        self.put(&head.to_bytes())?;
        self.put(&front)?;
        let mut buffer = vec![0; 1 << 16];
        for (at, length) in pieces {
            let mut done = 0;
            while done < *length {
                let want = (length - done).min(buffer.len() as u64) as usize;
                let n = read_full(fd.as_fd(), &mut buffer[..want], at + done).map_err(fail)?;
                if n < want {
                    return Err(ExportError::Changed { path: path() });
                }
                self.put(&buffer[..n])?;
                done += n as u64;
            }
        }
        self.pad()?;
        let after = Snapshot::new(&fstat(&fd).map_err(fail)?);
        match before.same_object(&after) {
            true => Ok(()),
            false => Err(ExportError::Changed { path: path() }),
        }
    }
}

/// The map of a file that is stored without its zeros: whole blocks that hold anything else. It follows
/// from the content, not from where the file system has holes.
fn data_of(fd: &OwnedFd, size: u64) -> Result<Option<Map>, rustix::io::Errno> {
    if size < HOLES {
        return Ok(None);
    }
    let mut map = Map::new();
    let mut stored = 0;
    each_block(fd.as_fd(), size, |block, _| {
        let start = block * CONTENT_BLOCK;
        let end = (start + CONTENT_BLOCK).min(size);
        stored += end - start;
        match map.last_entry() {
            Some(mut last) if last.key() + *last.get() == start => *last.get_mut() += end - start,
            _ => drop(map.insert(start, end - start)),
        }
    })?;
    let sparse = size - stored >= HOLES && map.len() <= MAX_PIECES;
    Ok(sparse.then_some(map))
}

/// A member that says that something is gone.
pub(super) fn whiteout(name: Vec<u8>) -> Head {
    Head {
        mode: 0,
        name,
        ..Head::own("", 0)
    }
}

/// The directory of a layer in the archive.
pub(super) fn folder(part: usize) -> Vec<u8> {
    format!("{LAYER}{part}").into_bytes()
}

/// The head of an entry; of a file without its length.
pub(super) fn head_of(entry: &Entry) -> Head {
    let dir = join(&folder(entry.part), split(&entry.rel).0);
    let dir = dir.strip_suffix(b"/").unwrap_or(&dir);
    let mut name = join(dir, &archive_name(entry));
    let mut head = Head {
        kind: Type::File,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        ..Head::own("", 0)
    };
    match &entry.kind {
        Kind::Directory { .. } => {
            name.push(b'/');
            head.kind = Type::Directory;
        }
        Kind::File { .. } => {}
        Kind::Link { to } => {
            head.kind = Type::Link;
            head.link = join(&folder(entry.part), to);
            head.xattrs.clear();
        }
        Kind::Symlink { target } => {
            head.kind = Type::Symlink;
            head.link.clone_from(target);
        }
        Kind::Fifo => head.kind = Type::Fifo,
        Kind::Whiteout => return whiteout(name),
    }
    head.name = name;
    head
}
