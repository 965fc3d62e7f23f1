//! A complete copy of an upper directory: a session that begins where another one is, and checkpoints.
//!
//! The copy means to overlayfs what the source means: whiteouts, opaque marks and every other
//! `user.overlay.*` attribute, modes, owners, times in nanoseconds, hard links among each other and
//! holes are as they were. Contents are shared (`FICLONE`) where the file system can, else copied.
//!
//! # Invariants
//! * Both trees are reached beneath their root descriptors alone (see `dir`): no symlink is followed,
//!   no mount is crossed, whatever is in the source.
//! * The source keeps its content and its attributes. Only a mode that keeps its owner out is lent for
//!   the moment of reading.
//! * A file that changes while it is read is an error: a copy is of one moment or it is none.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, fstat, futimens, ioctl_ficlone, linkat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;

use crate::content::{CAPABILITY, Xattrs, all_xattrs, copy_sparse, set_xattrs};
use crate::dir::{EntryKind, Snapshot, Tree, chmod_path_fd, join, list_all, open_in, split};
use crate::layer::{FileId, Layer};
use crate::record::Record;
use crate::scan::absolute;

/// Why an upper directory could not be copied. What was copied by then is the caller's to remove.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Something in the source cannot be read.
    #[error("cannot read {path:?}: {source}; check that the session has ended")]
    Read {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The copy cannot be written.
    #[error("cannot write the copy {path:?}: {source}")]
    Write {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody wrote to the source meanwhile.
    #[error(
        "{path:?} was changed while it was copied; try again when nothing works in the session"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

/// What was copied, or is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Number of objects, the directory itself included; an object with several names counts once.
    pub objects: u64,
    /// Bytes that the source occupies (`st_blocks`).
    pub bytes: u64,
}

/// Begins a layer with a copy of another one: its upper directory, what is known of the originals and
/// of its commits, so that both compare with the same originals. `upper` must not exist;
/// `work` is not touched. Durable on return.
///
/// # Errors
/// See [`CopyError`]; the caller removes what stands beside `upper` by then.
pub fn copy_layer(
    from: &Layer,
    upper: impl Into<PathBuf>,
    work: impl Into<PathBuf>,
) -> Result<(Layer, Copied), CopyError> {
    let to = Layer {
        upper: upper.into(),
        work: work.into(),
        ..from.clone()
    };
    let copied = copy_upper(from, &to.upper)?;
    sync_copy(&to.upper)?;
    let read = |path: PathBuf| move |source| CopyError::Read { path, source };
    let write = |path: PathBuf| move |source| CopyError::Write { path, source };
    // What is known of the originals: at the base, and where they differ from an archive's.
    let known = |layer: &Layer| [layer.manifest_path(), layer.differences_path()];
    for (from, to) in known(from).into_iter().zip(known(&to)) {
        match std::fs::read(&from) {
            Ok(bytes) => write_new(&to, &bytes).map_err(write(to))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(read(from)(e)),
        }
    }
    crate::originals::share(from, &to).map_err(write(to.originals_path()))?;
    let record = Record::read(from).map_err(read(from.record_path()))?;
    let handed = record
        .hand_down(&to)
        .and_then(|()| record.hand_down_paths(&to));
    handed.map_err(write(to.record_path()))?;
    Ok((to, copied))
}

/// What is at a path and below, as far as it can be looked at.
pub fn usage(path: &Path) -> Copied {
    let (mut all, mut seen) = (Copied::default(), HashSet::new());
    let mut stack = vec![path.to_path_buf()];
    while let Some(path) = stack.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        all.objects += 1;
        all.bytes = all.bytes.saturating_add(meta.blocks().saturating_mul(512));
        if meta.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            stack.extend(entries.flatten().map(|e| e.path()));
        }
    }
    all
}

/// A private file that was not there; durable on return.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_folder(path)
}

/// Makes the folder that holds `path` durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Makes a copy durable: one sync of its file system instead of one for each file.
pub(crate) fn sync_copy(to: &Path) -> Result<(), CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, to.parent().unwrap_or(to), flags, Mode::empty());
    folder.and_then(syncfs).map_err(|e| CopyError::Write {
        path: to.to_path_buf(),
        source: e.into(),
    })
}

/// Copies the directory `from` to `to`, which must not exist. Not durable before [`sync_copy`].
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<Copied, CopyError> {
    copy_own(from, from.parent().unwrap_or(from), to)
}

/// The same of the upper directory of a layer.
pub(crate) fn copy_upper(layer: &Layer, to: &Path) -> Result<Copied, CopyError> {
    copy_own(&layer.upper, &layer.work, to)
}

/// `lock` is a folder beside `from`, see [`Tree::open_own`].
fn copy_own(from: &Path, lock: &Path, to: &Path) -> Result<Copied, CopyError> {
    let write = |e: Errno| CopyError::Write {
        path: to.to_path_buf(),
        source: e.into(),
    };
    let source = Tree::open_own(from, lock).map_err(|source| CopyError::Read {
        path: from.to_path_buf(),
        source,
    })?;
    mkdirat(CWD, to, Mode::RWXU).map_err(write)?;
    let mut copy = Copy {
        from,
        to,
        source,
        target: Tree::open(to, false).map_err(write)?,
        first: HashMap::new(),
        directories: Vec::new(),
        done: Copied::default(),
    };
    copy.all()?;
    Ok(copy.done)
}

/// What a directory of the copy gets when everything is in it.
struct Finish {
    rel: Vec<u8>,
    stat: Stat,
    xattrs: Xattrs,
}

struct Copy<'a> {
    from: &'a Path,
    to: &'a Path,
    source: Tree,
    target: Tree,
    /// The copy's name of each object that has several.
    first: HashMap<FileId, Vec<u8>>,
    directories: Vec<Finish>,
    done: Copied,
}

impl Copy<'_> {
    fn all(&mut self) -> Result<(), CopyError> {
        let mut stack = vec![Vec::new()];
        while let Some(rel) = stack.pop() {
            stack.extend(self.directory(&rel)?);
        }
        // Leaves first: a missing permission and the time come after what is below.
        while let Some(finish) = self.directories.pop() {
            self.finish(&finish)
                .map_err(|e| self.write(&finish.rel, e))?;
        }
        Ok(())
    }

    /// Copies what is directly in a directory; returns its subdirectories.
    fn directory(&mut self, rel: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
        let dir = self.source.dir(rel).map_err(|e| self.read(rel, e))?;
        let stat = fstat(&dir).map_err(|e| self.read(rel, e))?;
        let (names, xattrs) = self.look(&dir).map_err(|e| self.read(rel, e))?;
        self.count(&stat);
        let target = self.target.dir(rel).map_err(|e| self.write(rel, e))?;
        let mut below = Vec::new();
        for name in names {
            let path = join(rel, &name);
            let stat = statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| self.read(&path, e))?;
            let seen = Snapshot::new(&stat);
            if seen.kind == EntryKind::Directory {
                mkdirat(&target, name.as_slice(), Mode::RWXU).map_err(|e| self.write(&path, e))?;
                below.push(path);
                continue;
            }
            if seen.nlink > 1
                && let Some(first) = self.first.get(&seen.id)
            {
                match self.link(first, &target, &name) {
                    Ok(()) => continue,
                    // So many names of one whiteout; another inode means the same.
                    Err(Errno::MLINK) if seen.kind == EntryKind::CharDevice => {}
                    Err(e) => return Err(self.write(&path, e)),
                }
            }
            self.object(&dir, &name, &stat, &target, &path)?;
            self.count(&stat);
            if seen.nlink > 1 {
                self.first.insert(seen.id, path);
            }
        }
        self.directories.push(Finish {
            rel: rel.to_vec(),
            stat,
            xattrs,
        });
        Ok(below)
    }

    /// The names in a directory and its attributes.
    fn look(&self, dir: &OwnedFd) -> Result<(Vec<Vec<u8>>, Xattrs), Errno> {
        let names = list_all(dir.as_fd())?;
        let fd = open_in(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok((names, lasting(all_xattrs(fd.as_fd())?)))
    }

    fn link(&self, first: &[u8], target: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let dir = self.target.parent(first)?;
        linkat(&dir, split(first).1, target, name, AtFlags::empty())
    }

    /// Copies one object that is no directory.
    fn object(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        target: &OwnedFd,
        path: &[u8],
    ) -> Result<(), CopyError> {
        let seen = Snapshot::new(stat);
        let write = |e| self.write(path, e);
        match seen.kind {
            EntryKind::File => return self.file(dir, name, stat, target, path),
            EntryKind::Symlink => {
                let to = readlinkat(dir, name, Vec::new()).map_err(|e| self.read(path, e))?;
                symlinkat(&to, target, name).map_err(write)?;
            }
            _ => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                let mode = Mode::from_raw_mode(0o600);
                mknodat(target, name, kind, mode, stat.st_rdev).map_err(write)?;
            }
        }
        let owner = (Uid::from_raw(seen.uid), Gid::from_raw(seen.gid));
        let made = statat(target, name, AtFlags::SYMLINK_NOFOLLOW).map_err(write)?;
        if (made.st_uid, made.st_gid) != (seen.uid, seen.gid) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(target, name, Some(owner.0), Some(owner.1), flags).map_err(write)?;
        }
        if seen.kind != EntryKind::Symlink {
            let fd = open_in(target, name, OFlags::PATH).map_err(write)?;
            chmod_path_fd(&fd, seen.mode).map_err(write)?;
        }
        utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(write)
    }

    fn file(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        target: &OwnedFd,
        path: &[u8],
    ) -> Result<(), CopyError> {
        let seen = Snapshot::new(stat);
        let (read, write) = (|e| self.read(path, e), |e| self.write(path, e));
        let from = Shut::open(dir, name).map_err(read)?;
        let from = &from.fd;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(target, name, flags, Mode::RUSR | Mode::WUSR).map_err(write)?;
        // An empty clone is refused by some file systems, and is no work.
        let cloned = seen.size > 0 && ioctl_ficlone(&to, from).is_ok();
        if !cloned {
            copy_sparse(from.as_fd(), to.as_fd(), seen.size).map_err(write)?;
        }
        let xattrs = lasting(all_xattrs(from.as_fd()).map_err(read)?);
        let end = Snapshot::new(&fstat(from).map_err(read)?);
        let size = Snapshot::new(&fstat(&to).map_err(write)?).size;
        // Its mode may be lent.
        let mode = seen.mode;
        if !seen.same_object(&Snapshot { mode, ..end }) || size != seen.size {
            let path = absolute(self.from, path);
            return Err(CopyError::Changed { path });
        }
        give(&to, &seen, &xattrs).map_err(write)?;
        futimens(&to, &times(stat)).map_err(write)
    }

    fn finish(&self, finish: &Finish) -> Result<(), Errno> {
        let dir = self.target.dir(&finish.rel)?;
        let fd = open_in(&dir, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let seen = self.source.own(Snapshot::new(&finish.stat));
        give(&fd, &seen, &finish.xattrs)?;
        futimens(&fd, &times(&finish.stat))
    }

    fn count(&mut self, stat: &Stat) {
        self.done.objects += 1;
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        self.done.bytes = self.done.bytes.saturating_add(blocks.saturating_mul(512));
    }

    fn read(&self, rel: &[u8], e: Errno) -> CopyError {
        CopyError::Read {
            path: absolute(self.from, rel),
            source: e.into(),
        }
    }

    fn write(&self, rel: &[u8], e: Errno) -> CopyError {
        CopyError::Write {
            path: absolute(self.to, rel),
            source: e.into(),
        }
    }
}

/// A file of the source, open for reading. A mode that keeps its owner out is lent for as long: user
/// attributes cannot be read without it, not even through a descriptor (xattr(7)).
struct Shut {
    fd: OwnedFd,
    lent: Option<(OwnedFd, u32)>,
}

impl Shut {
    fn open(dir: &OwnedFd, name: &[u8]) -> Result<Shut, Errno> {
        match open_in(dir, name, OFlags::RDONLY) {
            Err(Errno::ACCESS) => {
                let path = open_in(dir, name, OFlags::PATH)?;
                let mode = Snapshot::new(&fstat(&path)?).mode;
                chmod_path_fd(&path, mode | 0o400)?;
                let opened = open_in(dir, name, OFlags::RDONLY);
                let lent = Some((path, mode));
                match opened {
                    Ok(fd) => Ok(Shut { fd, lent }),
                    Err(e) => {
                        put_back(lent.as_ref());
                        Err(e)
                    }
                }
            }
            opened => Ok(Shut {
                fd: opened?,
                lent: None,
            }),
        }
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        put_back(self.lent.as_ref());
    }
}

fn put_back(lent: Option<&(OwnedFd, u32)>) {
    if let Some((path, mode)) = lent {
        let _ = chmod_path_fd(path, *mode);
    }
}

/// Owner, attributes and mode of a new object, in this order: a new owner drops set-id bits and
/// capabilities, and a mode may keep the owner from setting attributes.
fn give(to: &OwnedFd, seen: &Snapshot, xattrs: &Xattrs) -> Result<(), Errno> {
    let have = Snapshot::new(&fstat(to)?);
    if (have.uid, have.gid) != (seen.uid, seen.gid) {
        fchown(
            to,
            Some(Uid::from_raw(seen.uid)),
            Some(Gid::from_raw(seen.gid)),
        )?;
    }
    // Also takes away what came from a default ACL of the folder.
    set_xattrs(to, xattrs)?;
    fchmod(to, Mode::from_raw_mode(seen.mode))
}

/// The attributes that a copy has. The host's own labels (`security.*`) come with the place.
fn lasting(mut all: Xattrs) -> Xattrs {
    all.retain(|name, _| {
        name == CAPABILITY
            || !(name.starts_with(b"security.") || name.starts_with(b"system."))
            || name.starts_with(b"system.posix_acl_")
    });
    all
}

#[allow(clippy::unnecessary_cast)] // the field types differ between architectures
fn times(stat: &Stat) -> Timestamps {
    let time = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    Timestamps {
        last_access: time(stat.st_atime as i64, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as i64, stat.st_mtime_nsec as _),
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
