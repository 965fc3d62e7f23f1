//! Filling the upper directories of a new session from an archive.
//!
//! Names are made one component at a time below the upper directory's descriptor, and only where nothing
//! is. A directory gets its mode and time when all in it has come. Rights that the archive did not ask
//! for aloud (set-id bits, capabilities) stop the import before anything is made.

use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat,
    syncfs, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::compare::{Compared, Difference, Given, compare};
use super::format::Map;
use super::input::Data;
use super::read::{Archive, Sink, read};
use super::{ArchiveError, Entry, Kind, shown};
use crate::content::set_xattrs;
use crate::dir::{Tree, chmod_path_fd, open_in, split};
use crate::layer::{Layer, Timestamp};
use crate::scan::{ScanError, absolute, open_root, open_upper};

/// The mark of an opaque directory, with the value `y`.
pub(super) const OPAQUE_MARK: &[u8] = b"user.overlay.opaque";
/// The mark of a copy, which the kernel leaves empty where it cannot tell more.
const ORIGIN_MARK: &[u8] = b"user.overlay.origin";

/// How to import.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Also files with set-id bits or capabilities.
    pub privileges: bool,
}

/// Layers that were filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Originals here that are not what the layers were made on.
    pub differences: Vec<Difference>,
    /// Number of entries that were made.
    pub entries: u64,
}

/// Why an archive was not imported. The upper directories may hold a part of it: remove them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is not to be taken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A tree here cannot be opened.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// It is another archive than the one that was inspected.
    #[error("the archive changed while it was imported; import it again")]
    Changed,
    /// Set-id bits or capabilities, which were not asked for.
    #[error(
        "{} has set-id bits or capabilities; if you want them in the session, import with --privileges",
        shown(path)
    )]
    Privileged {
        /// The path in the original tree.
        path: PathBuf,
    },
    /// The upper directory is not that of a new session.
    #[error("the upper directory {upper:?} is not empty")]
    NotEmpty {
        /// The upper directory.
        upper: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {step} of {}: {source}{}", shown(path), next(source))]
    Make {
        /// What was being done.
        step: &'static str,
        /// The path in the original tree.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What differs cannot be written down.
    #[error("cannot write beside the layer of {}: {source}", shown(root))]
    Beside {
        /// The layer's root.
        root: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What to do about an error.
fn next(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::PERM) => "; an object of another owner takes root to import",
        Some(Errno::NOSPC | Errno::DQUOT) => "; make room and import again",
        Some(Errno::OPNOTSUPP) => {
            "; the state folder's file system has no extended attributes: set AGENTWALL_STATE to one that has"
        }
        _ => "",
    }
}

/// Fills new, empty upper directories: `layers[n]` for layer `n` of the archive, where there is one.
/// `input` is read again from its beginning and must be what `archive` was.
///
/// Each layer's manifest should have been taken before: an original that changes while it is compared
/// then shows in every later scan.
///
/// # Errors
/// See [`ImportError`].
pub fn unpack(
    input: &mut dyn Read,
    archive: &Archive,
    layers: &[Option<Layer>],
    options: ImportOptions,
) -> Result<Unpacked, ImportError> {
    let mut out = Unpacked {
        differences: Vec::new(),
        entries: 0,
    };
    let mut filled: Vec<Option<Filled<'_>>> = Vec::new();
    for part in 0..archive.manifest.layers.len() {
        let Some(layer) = layers.get(part).and_then(Option::as_ref) else {
            filled.push(None);
            continue;
        };
        let privileged = archive.privileged().find(|(p, _)| *p == part);
        if let Some((_, rel)) = privileged.filter(|_| !options.privileges) {
            return Err(ImportError::Privileged {
                path: absolute(&layer.root, rel),
            });
        }
        let upper = open_upper(layer)?;
        if !layer.is_untouched() {
            return Err(ImportError::NotEmpty {
                upper: layer.upper.clone(),
            });
        }
        let owner = upper.stat(b"").ok().flatten();
        let owner = owner.map_or((0, 0), |o| (o.uid, o.gid));
        let compared = compare(archive, part, &open_root(layer)?, &layer.root, owner);
        let beside = compared.differences.write(layer);
        beside.map_err(|source| ImportError::Beside {
            root: layer.root.clone(),
            source,
        })?;
        out.differences.extend_from_slice(&compared.found);
        filled.push(Some(Filled {
            layer,
            upper,
            compared,
        }));
    }
    let mut fill = Fill { filled, entries: 0 };
    let again = read(input, archive.limits, &mut fill)?;
    if again != *archive {
        return Err(ImportError::Changed);
    }
    for layer in fill.filled.iter().flatten() {
        let synced = layer.upper.dir(b"").and_then(|_| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            syncfs(open_in(layer.upper.dir(b"")?, b".", flags)?)
        });
        synced.map_err(|e| layer.failed("sync the copies", b"")(e))?;
    }
    out.entries = fill.entries;
    Ok(out)
}

struct Filled<'a> {
    layer: &'a Layer,
    upper: Tree,
    compared: Compared,
}

impl Filled<'_> {
    fn failed(&self, step: &'static str, rel: &[u8]) -> impl Fn(Errno) -> ImportError + use<> {
        let path = absolute(&self.layer.root, rel);
        move |e| ImportError::Make {
            step,
            path: path.clone(),
            source: e.into(),
        }
    }
}

struct Fill<'a> {
    filled: Vec<Option<Filled<'a>>>,
    entries: u64,
}

impl Sink<ImportError> for Fill<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut Data<'_, '_>) -> Result<(), ImportError> {
        let Some(Some(layer)) = self.filled.get(entry.part) else {
            return Ok(());
        };
        self.entries += 1;
        layer.make(entry, data)
    }

    fn leave(&mut self, directory: &Entry) -> Result<(), ImportError> {
        let Some(Some(layer)) = self.filled.get(directory.part) else {
            return Ok(());
        };
        let rel = &directory.rel;
        let fail = |step| layer.failed(step, rel);
        let parent = layer.upper.parent(rel).map_err(fail("open the folder"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_in(&parent, split(rel).1, flags).map_err(fail("open the copy"))?;
        if directory.kind == (Kind::Directory { opaque: true }) {
            fsetxattr(&fd, OPAQUE_MARK, b"y", XattrFlags::CREATE)
                .map_err(fail("set the opaque mark"))?;
        }
        layer.attributes(directory, &fd)
    }
}

impl Filled<'_> {
    fn make(&self, entry: &Entry, data: &mut Data<'_, '_>) -> Result<(), ImportError> {
        let (rel, name) = (&entry.rel, split(&entry.rel).1);
        let fail = |step| self.failed(step, rel);
        let parent = self.upper.parent(rel).map_err(fail("open the folder"))?;
        match &entry.kind {
            Kind::Directory { .. } => {
                mkdirat(&parent, name, Mode::RWXU).map_err(fail("make the copy"))
            }
            Kind::File { size, map } => self.file(entry, *size, map.as_ref(), &parent, data),
            Kind::Link { to } => {
                let from = self.upper.parent(to).map_err(fail("open the folder"))?;
                let flags = AtFlags::empty();
                linkat(&from, split(to).1, &parent, name, flags).map_err(fail("make the link"))
            }
            Kind::Symlink { target } => {
                symlinkat(target.as_slice(), &parent, name).map_err(fail("make the link"))?;
                self.names_attributes(entry, &parent)
            }
            Kind::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                mknodat(&parent, name, FileType::Fifo, mode, 0).map_err(fail("make the copy"))?;
                self.names_attributes(entry, &parent)?;
                let fd = open_in(&parent, name, OFlags::PATH).map_err(fail("open the copy"))?;
                chmod_path_fd(&fd, entry.mode).map_err(fail("set the mode"))?;
                set_times(&parent, name, entry.mtime).map_err(fail("set the time"))
            }
            Kind::Whiteout => {
                let (kind, none) = (FileType::CharacterDevice, Mode::empty());
                mknodat(&parent, name, kind, none, makedev(0, 0))
                    .map_err(fail("make the mark of the deletion"))
            }
        }
    }

    fn file(
        &self,
        entry: &Entry,
        size: u64,
        map: Option<&Map>,
        parent: &OwnedFd,
        data: &mut Data<'_, '_>,
    ) -> Result<(), ImportError> {
        let fail = |step| self.failed(step, &entry.rel);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = openat(parent, split(&entry.rel).1, flags, mode).map_err(fail("make the copy"))?;
        ftruncate(&fd, size).map_err(fail("set the length"))?;
        let whole = Map::from([(0, size)]);
        let mut buffer = vec![0; 1 << 16];
        for (start, length) in map.unwrap_or(&whole) {
            let mut at = 0;
            while at < *length {
                let want = (length - at).min(buffer.len() as u64) as usize;
                let n = data.next(&mut buffer[..want])?;
                if n == 0 {
                    // The reader has checked that the pieces are all of the content.
                    return Err(ImportError::Changed);
                }
                write_at(&fd, &buffer[..n], start + at).map_err(fail("write the copy"))?;
                at += n as u64;
            }
        }
        self.attributes(entry, &fd)
    }

    /// Owner of something that is not opened, and its time.
    fn names_attributes(&self, entry: &Entry, parent: &OwnedFd) -> Result<(), ImportError> {
        let name = split(&entry.rel).1;
        let fail = |step| self.failed(step, &entry.rel);
        if let Some(given) = self.compared.given.get(&entry.rel) {
            let (uid, gid) = owner(given);
            chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(fail("set the owner"))?;
        }
        set_times(parent, name, entry.mtime).map_err(fail("set the time"))
    }

    /// Owner, attributes, mode and time, in this order: each may undo the one before it.
    fn attributes(&self, entry: &Entry, fd: &OwnedFd) -> Result<(), ImportError> {
        let fail = |step| self.failed(step, &entry.rel);
        let Some(given) = self.compared.given.get(&entry.rel) else {
            // `compare` has one for every entry that is no whiteout.
            return Err(ImportError::Changed);
        };
        let (uid, gid) = owner(given);
        fchown(fd, uid, gid).map_err(fail("set the owner"))?;
        let opaque = entry.kind == (Kind::Directory { opaque: true });
        if given.origin && !opaque {
            fsetxattr(fd, ORIGIN_MARK, b"", XattrFlags::CREATE)
                .map_err(fail("set the mark of a copy"))?;
        }
        set_xattrs(fd, &given.xattrs).map_err(fail("set the attributes"))?;
        fchmod(fd.as_fd(), Mode::from_raw_mode(given.mode)).map_err(fail("set the mode"))?;
        futimens(fd, &times(given.mtime)).map_err(fail("set the time"))
    }
}

fn owner(given: &Given) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = given.owner;
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.sec,
        tv_nsec: mtime.nsec.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn set_times(parent: &OwnedFd, name: &[u8], mtime: Timestamp) -> Result<(), Errno> {
    utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn write_at(fd: &OwnedFd, bytes: &[u8], at: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match pwrite(fd, &bytes[done..], at + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
