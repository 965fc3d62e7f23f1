//! The bytes of a manifest: see `docs/manifest.md`, which this module and nothing else implements.
//!
//! Numbers are LEB128 (unsigned, shortest form only), so a tree has one encoding. A file is believed
//! only after its length, version and checksum were looked at, and then each block is walked once:
//! names in order and plain, one block for every directory, nothing left over. No count in the file
//! reserves memory.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::ManifestError;
use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Timestamp};

/// First bytes of every manifest.
pub(super) const MAGIC: &[u8; 16] = b"AgentWall.base\n\0";
/// The version this module reads and writes.
pub(super) const VERSION: u16 = 1;
/// Length of the head before the first block.
pub(super) const HEAD: usize = 16 + 2 + 2 + 8 + 4 + 8 + 8 + 8;
/// Length of the checksum at the end.
pub(super) const SUM: usize = 32;

const KIND: u8 = 0b0000_0111;
const LATE: u8 = 0b0000_1000;
const CTIME_IS_MTIME: u8 = 0b0001_0000;
const AS_DIRECTORY: u8 = 0b0010_0000;

/// A block's own marks.
pub(super) const DOUBTFUL: u8 = 0b01;
/// The directory could not be read: nothing is known below it.
pub(super) const UNREAD: u8 = 0b10;

/// What the file says before its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// 0: complete; else why there are no blocks ([`super::Refusal`]).
    pub state: u16,
    pub base: Timestamp,
    pub root: FileId,
    /// Objects, the root included.
    pub objects: u64,
}

impl Head {
    pub(super) fn to_bytes(self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&self.state.to_le_bytes());
        put(&self.base.sec.to_le_bytes());
        put(&self.base.nsec.to_le_bytes());
        put(&self.root.dev.to_le_bytes());
        put(&self.root.ino.to_le_bytes());
        put(&self.objects.to_le_bytes());
        out
    }

    /// The head of a whole file, after its length, version and checksum were checked.
    pub(super) fn of(bytes: &[u8]) -> Result<Head, ManifestError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(ManifestError::NotOne);
        }
        if bytes.len() < HEAD + SUM {
            return Err(ManifestError::Cut { found: bytes.len() });
        }
        let mut at = Cursor { bytes, at: 16 };
        let version = u16::from_le_bytes(at.array()?);
        if version != VERSION {
            return Err(ManifestError::Version { found: version });
        }
        let (body, sum) = bytes.split_at(bytes.len() - SUM);
        if Sha256::digest(body).as_slice() != sum {
            return Err(ManifestError::Checksum);
        }
        Ok(Head {
            state: u16::from_le_bytes(at.array()?),
            base: Timestamp {
                sec: i64::from_le_bytes(at.array()?),
                nsec: at.nanoseconds()?,
            },
            root: FileId {
                dev: u64::from_le_bytes(at.array()?),
                ino: u64::from_le_bytes(at.array()?),
            },
            objects: u64::from_le_bytes(at.array()?),
        })
    }
}

/// An object as it is encoded: what was seen, and whether it could have changed since the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub seen: Snapshot,
    /// Its change time is not before the base: what it was at the base is not known.
    pub late: bool,
}

/// What a block begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub directory: Object,
    pub marks: u8,
    pub count: u64,
}

pub(super) fn put_block_head(out: &mut Vec<u8>, block: &BlockHead) {
    put_object(out, &block.directory, None);
    out.push(block.marks);
    put_number(out, block.count);
}

pub(super) fn put_entry(out: &mut Vec<u8>, name: &[u8], object: &Object, directory: &Snapshot) {
    put_number(out, name.len() as u64);
    out.extend_from_slice(name);
    put_object(out, object, Some(directory));
}

fn put_object(out: &mut Vec<u8>, object: &Object, within: Option<&Snapshot>) {
    let Object { seen, late } = object;
    let alike = within.is_some_and(|d| owner(d) == owner(seen));
    let mut first = kind_number(seen.kind);
    for (set, bit) in [
        (*late, LATE),
        (seen.ctime == seen.mtime, CTIME_IS_MTIME),
        (alike, AS_DIRECTORY),
    ] {
        if set {
            first |= bit;
        }
    }
    out.push(first);
    put_number(out, seen.id.ino);
    if !alike {
        put_number(out, seen.id.dev);
        put_number(out, seen.uid.into());
        put_number(out, seen.gid.into());
    }
    put_number(out, seen.mode.into());
    put_number(out, seen.nlink);
    put_number(out, seen.size);
    put_time(out, seen.mtime);
    if seen.ctime != seen.mtime {
        put_time(out, seen.ctime);
    }
}

fn owner(s: &Snapshot) -> (u64, u32, u32) {
    (s.id.dev, s.uid, s.gid)
}

/// Seconds in zigzag form, and nanoseconds.
fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    put_number(out, ((time.sec << 1) ^ (time.sec >> 63)).cast_unsigned());
    out.extend_from_slice(&time.nsec.to_le_bytes());
}

pub(super) fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A place in the bytes of a manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    fn damage(self, what: &'static str) -> ManifestError {
        ManifestError::Damaged { at: self.at, what }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], ManifestError> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or_else(|| self.damage("more bytes are announced than are there"))?;
        let out = &self.bytes[self.at..end];
        self.at = end;
        Ok(out)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, ManifestError> {
        Ok(self.array::<1>()?[0])
    }

    fn nanoseconds(&mut self) -> Result<u32, ManifestError> {
        let nsec = u32::from_le_bytes(self.array()?);
        (nsec < 1_000_000_000)
            .then_some(nsec)
            .ok_or_else(|| self.damage("nanoseconds are not below 1,000,000,000"))
    }

    pub(super) fn number(&mut self) -> Result<u64, ManifestError> {
        let mut out = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            out |= part << shift;
            if byte & 0x80 == 0 {
                return match byte == 0 && shift > 0 {
                    true => Err(self.damage("a number is not in its shortest form")),
                    false => Ok(out),
                };
            }
        }
        Err(self.damage("a number does not fit 64 bits"))
    }

    fn small(&mut self) -> Result<u32, ManifestError> {
        let n = self.number()?;
        u32::try_from(n).map_err(|_| self.damage("a number does not fit 32 bits"))
    }

    fn time(&mut self) -> Result<Timestamp, ManifestError> {
        let n = self.number()?;
        Ok(Timestamp {
            sec: (n >> 1).cast_signed() ^ -(n & 1).cast_signed(),
            nsec: self.nanoseconds()?,
        })
    }

    fn object(&mut self, within: Option<&Snapshot>) -> Result<Object, ManifestError> {
        let first = self.byte()?;
        let unknown = first & !(KIND | LATE | CTIME_IS_MTIME | AS_DIRECTORY) != 0;
        let kind = kind_of(first & KIND).filter(|_| !unknown);
        let kind = kind.ok_or_else(|| self.damage("an object of an unknown kind"))?;
        let ino = self.number()?;
        let (dev, uid, gid) = match (first & AS_DIRECTORY != 0, within) {
            (true, Some(directory)) => owner(directory),
            (true, None) => return Err(self.damage("a directory is said to be like itself")),
            (false, _) => {
                let own = (self.number()?, self.small()?, self.small()?);
                if within.is_some_and(|d| owner(d) == own) {
                    return Err(self.damage("an owner is written out that need not be"));
                }
                own
            }
        };
        let (mode, nlink, size) = (self.small()?, self.number()?, self.number()?);
        if mode > 0o7777 {
            return Err(self.damage("a mode has unknown bits"));
        }
        let mtime = self.time()?;
        let ctime = match first & CTIME_IS_MTIME != 0 {
            true => mtime,
            false => self.time()?,
        };
        if ctime == mtime && first & CTIME_IS_MTIME == 0 {
            return Err(self.damage("a time is written out that need not be"));
        }
        let seen = Snapshot {
            kind,
            id: FileId { dev, ino },
            nlink,
            size,
            mode,
            uid,
            gid,
            mtime,
            ctime,
        };
        Ok(Object {
            seen,
            late: first & LATE != 0,
        })
    }

    pub(super) fn block_head(&mut self) -> Result<BlockHead, ManifestError> {
        let directory = self.object(None)?;
        let marks = self.byte()?;
        if marks & !(DOUBTFUL | UNREAD) != 0 {
            return Err(self.damage("a directory has unknown marks"));
        }
        if directory.seen.kind != EntryKind::Directory {
            return Err(self.damage("a block is of something that is no directory"));
        }
        let count = self.number()?;
        if marks & UNREAD != 0 && count != 0 {
            return Err(self.damage("a directory that was not read has entries"));
        }
        Ok(BlockHead {
            directory,
            marks,
            count,
        })
    }

    /// An entry whose name comes after `last`, and where its name is.
    pub(super) fn entry(
        &mut self,
        directory: &Snapshot,
        last: &[u8],
    ) -> Result<(Range<usize>, Object), ManifestError> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let start = self.at;
        let name = self.take(length)?;
        let plain = !name.is_empty()
            && name != b"."
            && name != b".."
            && !name.iter().any(|b| matches!(b, 0 | b'/'));
        if !plain {
            return Err(self.damage("a name that no file can have"));
        }
        if name <= last {
            return Err(self.damage("names are not in order"));
        }
        let place = start..self.at;
        Ok((place, self.object(Some(directory))?))
    }
}

fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => 0,
        EntryKind::Directory => 1,
        EntryKind::Symlink => 2,
        EntryKind::Fifo => 3,
        EntryKind::Socket => 4,
        EntryKind::CharDevice => 5,
        EntryKind::BlockDevice => 6,
    }
}

fn kind_of(n: u8) -> Option<EntryKind> {
    Some(match n {
        0 => EntryKind::File,
        1 => EntryKind::Directory,
        2 => EntryKind::Symlink,
        3 => EntryKind::Fifo,
        4 => EntryKind::Socket,
        5 => EntryKind::CharDevice,
        6 => EntryKind::BlockDevice,
        _ => return None,
    })
}
