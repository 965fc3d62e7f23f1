//! Reading what a file holds: content identity, sparse copies, extended attributes.
//!
//! An agent can make a file of exabytes that occupies nothing, so nothing here reads holes: the
//! content identity hashes only blocks that are not all zero, and a copy keeps the holes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    SeekFrom, XattrFlags, copy_file_range, fgetxattr, flistxattr, fremovexattr, fsetxattr,
    ftruncate, seek,
};
use rustix::io::{Errno, pread, pwrite};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::dir::lending;

/// Bytes hashed as one unit.
pub(crate) const BLOCK: u64 = 64 * 1024;

/// Extended attributes by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The attribute that holds file capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// What identifies the content of a regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Plain SHA-256 of the bytes, lower-case hexadecimal; `None` when more than 64 MiB of the file
    /// are blocks of zeros, which a plain hash would have to wade through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// As [`Change::content`](crate::Change::content): there for every file, whatever its holes.
    pub blocks: String,
}

/// Bytes in blocks of zeros up to which a plain hash is made.
const MAX_ZEROS: u64 = 64 << 20;

/// SHA-256 over the file's 64 KiB blocks that are not all zero (index as u64 little-endian, then the
/// bytes) and at last its size: the same for the same content, whatever the layout of holes.
pub(crate) fn content_hash(fd: BorrowedFd<'_>, size: u64) -> Result<String, Errno> {
    let mut hash = Sha256::new();
    each_block(fd, size, |block, bytes| {
        hash.update(block.to_le_bytes());
        hash.update(bytes);
    })?;
    hash.update(size.to_le_bytes());
    Ok(hex(&hash.finalize()))
}

/// [`content_hash`] of bytes in memory.
pub(crate) fn content_hash_of(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    for (block, bytes) in (0u64..).zip(bytes.chunks(BLOCK as usize)) {
        if bytes.iter().any(|b| *b != 0) {
            hash.update(block.to_le_bytes());
            hash.update(bytes);
        }
    }
    hash.update((bytes.len() as u64).to_le_bytes());
    hex(&hash.finalize())
}

/// Both digests of the first `size` bytes in one pass.
pub(crate) fn digest(fd: BorrowedFd<'_>, size: u64) -> Result<FileDigest, Errno> {
    let mut blocks = Sha256::new();
    let mut plain = Plain::default();
    each_block(fd, size, |block, bytes| {
        blocks.update(block.to_le_bytes());
        blocks.update(bytes);
        plain.zeros_up_to(block * BLOCK);
        plain.bytes(bytes);
    })?;
    blocks.update(size.to_le_bytes());
    plain.zeros_up_to(size);
    Ok(FileDigest {
        sha256: (plain.zeros <= MAX_ZEROS).then(|| hex(&plain.hash.finalize())),
        blocks: hex(&blocks.finalize()),
    })
}

/// A plain hash that is given zeros by their number. Whether it gives up depends on the content
/// alone, not on which zeros are holes.
#[derive(Default)]
struct Plain {
    hash: Sha256,
    at: u64,
    zeros: u64,
}

impl Plain {
    fn zeros_up_to(&mut self, to: u64) {
        let mut left = to.saturating_sub(self.at);
        self.zeros = self.zeros.saturating_add(left);
        self.at = self.at.max(to);
        while left > 0 && self.zeros <= MAX_ZEROS {
            let n = left.min(ZEROS.len() as u64);
            self.hash.update(&ZEROS[..n as usize]);
            left -= n;
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.zeros <= MAX_ZEROS {
            self.hash.update(bytes);
        }
        self.at += bytes.len() as u64;
    }
}

static ZEROS: [u8; 4096] = [0; 4096];

/// Gives every block of the first `size` bytes that is not all zero, by its index, in order.
pub(crate) fn each_block(
    fd: BorrowedFd<'_>,
    size: u64,
    mut give: impl FnMut(u64, &[u8]),
) -> Result<(), Errno> {
    let mut buf = vec![0u8; BLOCK as usize];
    let mut next_block = 0;
    let mut at = 0;
    while let Some((start, end)) = next_data(fd, at, size)? {
        let mut block = (start / BLOCK).max(next_block);
        while block * BLOCK < end {
            let want = (size - block * BLOCK).min(BLOCK) as usize;
            let n = read_full(fd, &mut buf[..want], block * BLOCK)?;
            if buf[..n].iter().any(|b| *b != 0) {
                give(block, &buf[..n]);
            }
            block += 1;
        }
        next_block = block;
        at = end;
    }
    Ok(())
}

/// Copies `size` bytes from `from` to the empty file `to`, keeping holes.
pub(crate) fn copy_sparse(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
) -> Result<(), Errno> {
    ftruncate(to, size)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, size)? {
        copy_extent(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_extent(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    end: u64,
) -> Result<(), Errno> {
    let (mut off_in, mut off_out) = (start, start);
    while off_in < end {
        let want = usize::try_from(end - off_in)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), want) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::INTR) => {}
            // Not on this pair of file systems: fall back to plain copying.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                break;
            }
            Err(e) => return Err(e),
        }
    }
    let mut buf = vec![0u8; BLOCK as usize];
    while off_in < end {
        let want = usize::try_from((end - off_in).min(BLOCK)).unwrap_or(buf.len());
        let n = read_full(from, &mut buf[..want], off_in)?;
        if n == 0 {
            return Ok(()); // shorter than it was; the content hash will tell
        }
        let mut done = 0;
        while done < n {
            match pwrite(to, &buf[done..n], off_in + done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(w) => done += w,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        off_in += n as u64;
    }
    Ok(())
}

/// The next range of data at or after `at`.
fn next_data(fd: BorrowedFd<'_>, at: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    if at >= size {
        return Ok(None);
    }
    let start = match seek(fd, SeekFrom::Data(at)) {
        Ok(p) => p,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(e) => return Err(e),
    };
    if start >= size {
        return Ok(None);
    }
    let end = seek(fd, SeekFrom::Hole(start))?.min(size);
    Ok(Some((start, end.max(start + 1))))
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut n = 0;
    while n < buf.len() {
        match pread(fd, &mut buf[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(r) => n += r,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Whether the beginning of a file looks binary: a NUL in its first 8,000 bytes, as in git.
pub(crate) fn looks_binary(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buf = [0u8; 8000];
    let n = read_full(fd, &mut buf, 0)?;
    Ok(buf[..n].contains(&0))
}

/// All extended attributes of an open file or directory.
pub(crate) fn all_xattrs(fd: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let mut out = Xattrs::new();
    let mut names = vec![0u8; 65536];
    let n = match flistxattr(fd, &mut names[..]) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => return Ok(out),
        Err(e) => return Err(e),
    };
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; 65536];
        match fgetxattr(fd, name, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                out.insert(name.to_vec(), value);
            }
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

/// The same of an object of a private tree, whatever its mode.
pub(crate) fn private_xattrs(fd: &OwnedFd) -> Result<Xattrs, Errno> {
    lending(fd, || all_xattrs(fd.as_fd()))
}

/// Whether an attribute belongs to the object rather than to overlayfs or to the host's labelling:
/// `user.*`, ACLs and file capabilities travel, `*.overlay.*` and other `security.*` do not.
pub(crate) fn travels(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || name == CAPABILITY
}

/// The attributes that travel.
pub(crate) fn travelling(all: &Xattrs) -> Xattrs {
    all.iter()
        .filter(|(k, _)| travels(k))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// A digest of travelling attributes; `None` when there are none.
pub(crate) fn xattr_digest(xattrs: &Xattrs) -> Option<String> {
    if xattrs.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for (k, v) in xattrs {
        for part in [k, v] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Some(hex(&hash.finalize()))
}

/// Makes the travelling attributes of `fd` exactly `want`.
pub(crate) fn set_xattrs(fd: &OwnedFd, want: &Xattrs) -> Result<(), Errno> {
    let have = all_xattrs(fd.as_fd())?;
    for name in have.keys().filter(|k| travels(k) && !want.contains_key(*k)) {
        match fremovexattr(fd, name.as_slice()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    for (name, value) in want {
        if have.get(name) != Some(value) {
            fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};

    /// Bytes at an offset.
    type Piece<'a> = (u64, &'a [u8]);

    /// A file of pieces, `size` bytes long.
    fn file(pieces: &[Piece<'_>], size: u64) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        for (at, bytes) in pieces {
            file.seek(std::io::SeekFrom::Start(*at)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file.set_len(size).unwrap();
        file
    }

    fn plain(pieces: &[Piece<'_>], size: u64) -> String {
        let mut all = vec![0u8; size as usize];
        for (at, bytes) in pieces {
            all[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        hex(&Sha256::digest(&all))
    }

    #[test]
    fn the_plain_digest_is_sha256_of_the_bytes_whatever_the_holes() {
        let long = vec![7u8; 200_000];
        let cases: [(&[Piece<'_>], u64); 6] = [
            (&[], 0),
            (&[(0, b"abc")], 3),
            (&[(0, &long)], 200_000),
            (&[(5_000_000, b"x"), (0, b"y")], 6_000_001),
            (&[(65_536, &[0; 65_536]), (131_072, b"z")], 131_073),
            (&[(0, &[0; 70_000])], 70_000),
        ];
        for (pieces, size) in cases {
            let file = file(pieces, size);
            let found = digest(file.as_fd(), size).unwrap();
            assert_eq!(found.sha256, Some(plain(pieces, size)), "{size}");
            assert_eq!(found.blocks, content_hash(file.as_fd(), size).unwrap());
            let mut all = vec![0u8; size as usize];
            for (at, bytes) in pieces {
                all[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
            }
            assert_eq!(found.blocks, content_hash_of(&all));
        }
        assert_eq!(
            digest(file(&[(0, b"abc")], 3).as_fd(), 3)
                .unwrap()
                .sha256
                .unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "the vector of FIPS 180-2, appendix B.1"
        );
    }

    #[test]
    fn an_endless_hole_is_not_waded_through() {
        let size = 1 << 40;
        let file = file(&[(1 << 39, b"far")], size);
        let found = digest(file.as_fd(), size).unwrap();
        assert_eq!(found.sha256, None);
        assert_eq!(found.blocks, content_hash(file.as_fd(), size).unwrap());
    }
}
