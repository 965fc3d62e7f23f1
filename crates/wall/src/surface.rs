//! The surface of a folder that holds other mounts: what lies directly in it, as the lower layer of
//! an overlay.
//!
//! Overlayfs in a user namespace refuses a lower tree with other mounts inside: they are locked, and
//! its private copy of the tree would show what they cover (`has_locked_children`, fs/namespace.c).
//! So each folder of such a tree gets an overlay of its own, and for what lies between them a folder
//! in memory takes the host's place: it has every name that the host's has.
//!
//! # Invariants
//! * A name in it is a faithful copy, which the agent may change and remove, or an empty stand-in
//!   that a mount covers before the agent starts. The kernel refuses to remove or rename a mount
//!   point, so no copy-up and no whiteout is ever of a stand-in.
//! * Nothing is read of what has a place of its own in the view, and nothing below a mount: names are
//!   looked up as everybody on the host does.
//! * Whoever builds it has the session's base already: what others change after the copy was made is
//!   then a conflict when the session is committed, not lost.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat,
        chownat, flistxattr, fstat, ftruncate, mkdirat, mknodat, openat, readlinkat, statat,
        symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

/// At most this many names; a folder with more is shown read-only.
pub(crate) const MAX_NAMES: usize = 20_000;
/// At most this many of them may be other than folders and copies: each costs a mount.
const MAX_SHOWN: usize = 1_000;
/// Larger files are not copied.
const MAX_FILE: u64 = 16 << 20;
/// Bytes of all copies of a session, in pages.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
const PAGE: u64 = 4096;

/// What covers a stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    /// The host's object, read-only.
    Original,
    /// An empty folder; the place of its own that it has comes on top.
    EmptyFolder,
    /// An empty file; likewise.
    EmptyFile,
}

/// Stand-ins by name, and what covers each.
pub(crate) type Covers = Vec<(CString, Cover)>;

/// Fills the empty folder `memory` with the names of `folder`, which is open for reading. `left` are
/// the bytes that may still be copied; `placed` says whether a name has a place of its own in the view.
///
/// # Errors
/// The folder cannot be listed, holds too many names, or the memory is used up.
pub(crate) fn fill(
    memory: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    left: &mut u64,
    placed: impl Fn(&OsStr) -> bool,
) -> io::Result<Covers> {
    let mut covers = Covers::new();
    let mut files = Vec::new();
    for (name, listed) in names(folder)? {
        // A mount point is what is mounted there; nothing is mounted for being looked at.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statat(folder, &name, flags) {
            Ok(stat) => Some(stat),
            // Removed since: whoever makes it anew has a conflict with nobody.
            Err(Errno::NOENT) => continue,
            // As the root of another user's FUSE: there, and nothing else can be said of it.
            Err(_) => None,
        };
        let kind = stat
            .as_ref()
            .map_or(listed, |s| FileType::from_raw_mode(s.st_mode));
        if kind == FileType::Directory {
            mkdirat(memory, &name, Mode::from_raw_mode(0o755))?;
            covers.push((name, Cover::EmptyFolder));
            continue;
        }
        let own = placed(OsStr::from_bytes(name.to_bytes()));
        let cover = match (kind, stat) {
            (_, None) => Some(Cover::EmptyFile),
            _ if own => Some(Cover::EmptyFile),
            (FileType::RegularFile, Some(stat)) => {
                files.push((stat.st_size.cast_unsigned(), name.clone()));
                continue;
            }
            (FileType::Symlink, Some(stat)) => {
                let copied = copy_link(memory, folder, &name, &stat).is_ok();
                (!copied).then_some(Cover::EmptyFile)
            }
            // Opening the host's own would reach whoever holds its other end.
            (FileType::Fifo, Some(stat)) => {
                let copied = copy_pipe(memory, &name, &stat).is_ok();
                (!copied).then_some(Cover::EmptyFile)
            }
            _ => Some(Cover::Original),
        };
        if let Some(cover) = cover {
            stand_in(memory, &name)?;
            covers.push((name, cover));
        }
    }
    // The small ones first: most names are kept changeable by the same memory.
    files.sort();
    for (_, name) in files {
        match copy_file(memory, folder, &name, *left) {
            Ok(size) => *left -= pages(size),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                stand_in(memory, &name)?;
                covers.push((name, Cover::Original));
            }
        }
    }
    let shown = covers.iter().filter(|(_, c)| *c != Cover::EmptyFolder);
    match shown.count() > MAX_SHOWN {
        true => Err(too_many("files in it that cannot be copied")),
        false => Ok(covers),
    }
}

fn too_many(what: &str) -> io::Error {
    io::Error::other(format!("too many {what}"))
}

/// The names in a folder, and what the listing says they are.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if found.len() == MAX_NAMES {
            return Err(too_many("names in it"));
        }
        found.push((name.to_owned(), entry.file_type()));
    }
    // A name can come twice while others rename in the folder.
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.dedup_by(|a, b| a.0 == b.0);
    Ok(found)
}

/// Whether an object of the host may be mounted on a stand-in; it may be another than when it was
/// looked at. What is written to a FIFO would reach its reader.
pub(crate) fn may_be_shown(object: BorrowedFd<'_>) -> bool {
    let kind = fstat(object).map(|s| FileType::from_raw_mode(s.st_mode));
    use FileType::{BlockDevice, CharacterDevice, RegularFile, Socket};
    matches!(
        kind,
        Ok(RegularFile | Socket | CharacterDevice | BlockDevice)
    )
}

/// An empty file to mount on; what a copy that failed has left is emptied.
fn stand_in(memory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(memory, name, flags, Mode::from_raw_mode(0o444))?;
    Ok(ftruncate(&file, 0)?)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

fn copy_link(
    memory: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> io::Result<()> {
    let target = readlinkat(folder, name, Vec::new())?;
    symlinkat(&target, memory, name)?;
    like(memory, name, stat)
}

fn copy_pipe(memory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    mknodat(memory, name, FileType::Fifo, Mode::empty(), 0)?;
    like(memory, name, stat)
}

/// Gives what was made the owner, mode and times of its original. An ordinary user can give no owner
/// but their own; then nothing is left of it.
fn like(memory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let itself = AtFlags::SYMLINK_NOFOLLOW;
    let give = || -> io::Result<()> {
        let (uid, gid) = owner(stat);
        if owner(&statat(memory, name, itself)?) != (uid, gid) {
            chownat(memory, name, Some(uid), Some(gid), itself)?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            chmodat(memory, name, mode, AtFlags::empty())?;
        }
        Ok(utimensat(memory, name, &times(stat), itself)?)
    };
    let given = give();
    if given.is_err() {
        let _ = unlinkat(memory, name, AtFlags::empty());
    }
    given
}

/// The memory that a file of `size` bytes takes.
fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE) * PAGE
}

/// Copies a regular file with mode, owner and times, if the memory that is `left` suffices, and says
/// its size. One that has attributes is not copied: a copy without them would be another file.
fn copy_file(
    memory: BorrowedFd<'_>,
    folder: BorrowedFd<'_>,
    name: &CStr,
    left: u64,
) -> io::Result<u64> {
    // It may be a FIFO by now: not to wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = openat(folder, name, flags, Mode::empty())?;
    let stat = fstat(&from)?;
    let size = stat.st_size.cast_unsigned();
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || size > MAX_FILE || pages(size) > left || has_attributes(&from)? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let to = openat(memory, name, flags, Mode::from_raw_mode(0o600))?;
    let (from, mut to) = (File::from(from), File::from(to));
    // What is written to it from now on is later than the base.
    io::copy(&mut from.take(size), &mut to)?;
    like(memory, name, &stat)?;
    Ok(size)
}

/// Whether a file has extended attributes that belong to its content or permissions. Labels of the
/// host's security module do not: every file has them there.
fn has_attributes(file: &OwnedFd) -> io::Result<bool> {
    let mut list = vec![0u8; 64 << 10];
    let length = match flistxattr(file.as_fd(), &mut list) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let of_the_file = |name: &[u8]| {
        name.starts_with(b"user.") || name.starts_with(b"system.") || name == b"security.capability"
    };
    Ok(list[..length].split(|b| *b == 0).any(of_the_file))
}

#[cfg(test)]
#[path = "surface_tests.rs"]
mod tests;
