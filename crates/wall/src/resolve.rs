//! Resolving a path the way the calling thread would, from outside its process namespace.
//!
//! The broker shares the agent's root and mounts, so one openat2(2) resolves most paths exactly as
//! the kernel would for the agent. Two things differ and are handled by a walk of our own:
//! `/proc/self` and `/proc/thread-self` (in the agent's procfs they are nobody for the broker), and
//! magic links (`/proc/PID/fd/N`, `cwd`, `root`, `exe`), which must be followed knowingly.

use std::{
    collections::VecDeque,
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};

use crate::sys::{self, OpenHow};

const SYMLINK_LIMIT: usize = 40;
const PROC_ROOT_INODE: u64 = 1;

/// Where paths are resolved.
#[derive(Debug)]
pub struct Resolver {
    /// The agent's root.
    pub root: OwnedFd,
    /// The procfs of the broker's own process namespace.
    pub host_proc: OwnedFd,
    /// `/proc/self/fd` of the broker, in that procfs: reopening and naming of descriptors.
    pub self_fd: OwnedFd,
    /// The broker's writable views by mount id: mounts that are in no namespace, so that the kernel
    /// names what is on them from their own root.
    pub detached: Vec<(u64, PathBuf)>,
}

/// An object that exists.
#[derive(Debug)]
pub struct Object {
    /// `O_PATH` descriptor in the agent's view.
    pub fd: OwnedFd,
    /// Canonical path in the agent's view.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
}

impl Object {
    /// The file type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Same inode on the same device.
    pub fn is_same(&self, stat: &Stat) -> bool {
        self.stat.st_dev == stat.st_dev && self.stat.st_ino == stat.st_ino
    }
}

/// A name in a directory, whether or not something has that name.
#[derive(Debug)]
pub struct Name {
    /// The directory.
    pub parent: Object,
    /// The last component, never empty, `.` or `..`.
    pub name: CString,
    /// What has that name now (symlinks not followed).
    pub object: Option<Object>,
    /// The caller wrote a trailing slash.
    pub must_be_dir: bool,
}

impl Name {
    /// Canonical path of the name itself.
    pub fn path(&self) -> PathBuf {
        self.parent
            .path
            .join(OsStr::from_bytes(self.name.as_bytes()))
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Resolver {
    /// The canonical path of a descriptor, as the agent would see it.
    pub fn path_of(&self, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
        let link = readlinkat(&self.self_fd, fd.as_raw_fd().to_string(), Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(link.into_bytes())))
    }

    /// An object that was reached through a descriptor, which may be one that the broker opened.
    fn reached(&self, fd: OwnedFd) -> io::Result<Object> {
        let mut object = self.object(fd)?;
        if !self.detached.is_empty() {
            let id = mount_id(object.fd.as_fd())?;
            if let Some((_, root)) = self.detached.iter().find(|(mount, _)| *mount == id) {
                let inside = object.path.strip_prefix("/").unwrap_or(&object.path);
                object.path = root.join(inside);
            }
        }
        Ok(object)
    }

    fn object(&self, fd: OwnedFd) -> io::Result<Object> {
        let stat = fstat(&fd)?;
        let mut path = self.path_of(fd.as_fd())?;
        if stat.st_nlink == 0
            && let Some(kept) = path.as_os_str().as_bytes().strip_suffix(b" (deleted)")
        {
            path = PathBuf::from(OsStr::from_bytes(kept));
        }
        Ok(Object { fd, path, stat })
    }

    /// Takes a descriptor the broker already holds as an object.
    pub fn adopt(&self, fd: OwnedFd) -> io::Result<Object> {
        self.reached(fd)
    }

    /// The directory (or, for an empty path, the object) that `dirfd` means to thread `tid`.
    pub fn base(&self, tid: u32, dirfd: i32) -> io::Result<OwnedFd> {
        let link = if dirfd == libc::AT_FDCWD {
            format!("{tid}/cwd")
        } else if dirfd >= 0 {
            format!("{tid}/fd/{dirfd}")
        } else {
            return Err(errno(libc::EBADF));
        };
        openat(
            &self.host_proc,
            link,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| {
            if e == rustix::io::Errno::NOENT {
                errno(libc::EBADF)
            } else {
                e.into()
            }
        })
    }

    /// Resolves to an existing object.
    pub fn existing(
        &self,
        tid: u32,
        dirfd: i32,
        path: &[u8],
        follow_last: bool,
    ) -> io::Result<Object> {
        if path.is_empty() {
            return Err(errno(libc::ENOENT));
        }
        let c_path = CString::new(path).map_err(|_| errno(libc::EINVAL))?;
        let flags = libc::O_PATH | libc::O_CLOEXEC | if follow_last { 0 } else { libc::O_NOFOLLOW };
        let how = |resolve| OpenHow {
            flags: flags as u64,
            mode: 0,
            resolve,
        };
        // A name without any link in it is what the kernel would call the object: nothing to ask.
        if is_plain(path) {
            let plain = how(sys::RESOLVE_NO_SYMLINKS);
            if let Ok(fd) = sys::openat2(self.root.as_fd(), &c_path, plain) {
                let stat = fstat(&fd)?;
                // Without following, the last part may be a link itself: it has this name, too.
                let path = PathBuf::from(OsStr::from_bytes(path));
                return Ok(Object { fd, path, stat });
            }
        }
        let base = self.start(tid, dirfd, path)?;
        match sys::openat2(base.as_fd(), &c_path, how(sys::RESOLVE_NO_MAGICLINKS)) {
            Ok(fd) => self.object(fd),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => {
                let fd = self.walk(tid, base, path, follow_last)?;
                self.reached(fd)
            }
            Err(e) => Err(e),
        }
    }

    /// Resolves all but the last component; symlinks in the last one are not followed.
    pub fn name(&self, tid: u32, dirfd: i32, path: &[u8]) -> io::Result<Name> {
        if path.is_empty() {
            return Err(errno(libc::ENOENT));
        }
        let trimmed = trim_slashes(path);
        let must_be_dir = trimmed.len() != path.len();
        let (dir, last) = match trimmed.iter().rposition(|b| *b == b'/') {
            Some(at) => (&trimmed[..=at], &trimmed[at + 1..]),
            None => (&b"."[..], trimmed),
        };
        match last {
            b"" => return Err(errno(libc::EBUSY)), // the root itself
            b"." => return Err(errno(libc::EINVAL)),
            b".." => return Err(errno(libc::ENOTEMPTY)),
            _ => {}
        }
        let parent = self.existing(tid, dirfd, dir, true)?;
        if !parent.is_dir() {
            return Err(errno(libc::ENOTDIR));
        }
        let name = CString::new(last).map_err(|_| errno(libc::EINVAL))?;
        let object = match self.child(&parent, &name) {
            Ok(object) => Some(object),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
            Err(e) => return Err(e),
        };
        Ok(Name {
            parent,
            name,
            object,
            must_be_dir,
        })
    }

    /// The object a name stands for, symlinks not followed.
    pub fn child(&self, parent: &Object, name: &CString) -> io::Result<Object> {
        let fd = openat(
            &parent.fd,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        self.object(fd)
    }

    /// Like [`Resolver::name`], but a symlink as the last component is followed to the name it
    /// points to, which need not exist: what `open(O_CREAT)` without `O_EXCL` does.
    pub fn name_to_create(&self, tid: u32, dirfd: i32, path: &[u8]) -> io::Result<Name> {
        let mut name = self.name(tid, dirfd, path)?;
        for _ in 0..SYMLINK_LIMIT {
            let Some(object) = &name.object else {
                return Ok(name);
            };
            if object.file_type() != FileType::Symlink {
                return Ok(name);
            }
            // A magic or self link: the walk knows how to follow it.
            let full = name.path();
            match self.existing(tid, libc::AT_FDCWD, full.as_os_str().as_bytes(), true) {
                Ok(target) => {
                    name.object = Some(target);
                    return Ok(name);
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
            let target = readlinkat(&name.parent.fd, &name.name, Vec::new())?.into_bytes();
            let target = if target.starts_with(b"/") {
                target
            } else {
                let mut joined = name.parent.path.as_os_str().as_bytes().to_vec();
                joined.push(b'/');
                joined.extend_from_slice(&target);
                joined
            };
            let must_be_dir = name.must_be_dir;
            name = self.name(tid, libc::AT_FDCWD, &target)?;
            name.must_be_dir |= must_be_dir;
        }
        Err(errno(libc::ELOOP))
    }

    fn start(&self, tid: u32, dirfd: i32, path: &[u8]) -> io::Result<OwnedFd> {
        if path.starts_with(b"/") {
            self.root.try_clone()
        } else {
            self.base(tid, dirfd)
        }
    }

    fn walk(&self, tid: u32, base: OwnedFd, path: &[u8], follow_last: bool) -> io::Result<OwnedFd> {
        let mut current = if path.starts_with(b"/") {
            self.root.try_clone()?
        } else {
            base
        };
        let mut pending: VecDeque<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            if part.is_empty() {
                let stat = fstat(&current)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(errno(libc::ENOTDIR));
                }
                continue;
            }
            let last = pending.is_empty();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = openat(&current, part.as_slice(), flags, Mode::empty())?;
            let stat = fstat(&next)?;
            let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            if !is_link || (last && !follow_last) {
                current = next;
                continue;
            }
            links += 1;
            if links > SYMLINK_LIMIT {
                return Err(errno(libc::ELOOP));
            }
            let in_proc = rustix::fs::fstatfs(&current)?.f_type as i64 == libc::PROC_SUPER_MAGIC;
            if in_proc {
                let at_root = fstat(&current)?.st_ino == PROC_ROOT_INODE;
                if at_root && (part == b"self" || part == b"thread-self") {
                    let ids = NamespaceIds::of(self.host_proc.as_fd(), tid)?;
                    let mut target = vec![ids.tgid.to_string().into_bytes()];
                    if part == b"thread-self" {
                        target.push(b"task".to_vec());
                        target.push(ids.tid.to_string().into_bytes());
                    }
                    prepend(&mut pending, target);
                    continue;
                }
                let c_part = CString::new(part.clone()).map_err(|_| errno(libc::EINVAL))?;
                let how = OpenHow {
                    flags: (libc::O_PATH | libc::O_CLOEXEC) as u64,
                    mode: 0,
                    resolve: sys::RESOLVE_NO_MAGICLINKS,
                };
                let magic = sys::openat2(current.as_fd(), &c_part, how)
                    .is_err_and(|e| e.raw_os_error() == Some(libc::ELOOP));
                if magic {
                    current = openat(
                        &current,
                        part.as_slice(),
                        OFlags::PATH | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?;
                    continue;
                }
            }
            let target = readlinkat(&current, part.as_slice(), Vec::new())?.into_bytes();
            if target.starts_with(b"/") {
                current = self.root.try_clone()?;
            }
            prepend(&mut pending, components(&target).into());
        }
        Ok(current)
    }
}

/// The id of the mount a descriptor is on (statx(2), `STATX_MNT_ID`).
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    use rustix::fs::{StatxFlags, statx};
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Whether an absolute path is spelt the way the kernel spells it, as far as its text tells.
pub fn is_plain(path: &[u8]) -> bool {
    let part = |p: &[u8]| !matches!(p, b"" | b"." | b"..");
    path.len() > 1 && path[0] == b'/' && path[1..].split(|b| *b == b'/').all(part)
}

/// The steps of a path. A dot says nothing but at the end, where it follows a link and needs a
/// directory, as a slash at the end does: that is an empty step.
fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    let mut parts: VecDeque<&[u8]> = path.split(|b| *b == b'/').collect();
    let slash = path.ends_with(b"/");
    parts.retain(|p| !p.is_empty());
    let ends_in_dot = parts.back() == Some(&&b"."[..]);
    parts.retain(|p| *p != b".");
    parts.extend(ends_in_dot.then_some(&b"."[..]));
    parts.extend(slash.then_some(&b""[..]));
    parts.into_iter().map(<[u8]>::to_vec).collect()
}

fn prepend(pending: &mut VecDeque<Vec<u8>>, parts: Vec<Vec<u8>>) {
    for part in parts.into_iter().rev() {
        pending.push_front(part);
    }
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |i| i + 1);
    &path[..end]
}

/// A thread's ids as it sees them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceIds {
    /// Process id in the innermost process namespace.
    pub tgid: u32,
    /// Thread id in the innermost process namespace.
    pub tid: u32,
    /// Process id on the host.
    pub host_tgid: u32,
    /// File mode creation mask.
    pub umask: u32,
}

impl NamespaceIds {
    /// Reads them from `/proc/TID/status` (proc(5): `NStgid`, `NSpid`, `Tgid`, `Umask`).
    pub fn of(host_proc: BorrowedFd<'_>, tid: u32) -> io::Result<NamespaceIds> {
        let file = openat(
            host_proc,
            format!("{tid}/status"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut buf = [0u8; 4096];
        let n = rustix::io::read(&file, &mut buf)?;
        parse_status(&buf[..n]).ok_or_else(|| errno(libc::ESRCH))
    }
}

pub(crate) fn parse_status(text: &[u8]) -> Option<NamespaceIds> {
    let text = String::from_utf8_lossy(text);
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|v| v.split_ascii_whitespace().last())
    };
    Some(NamespaceIds {
        tgid: field("NStgid")?.parse().ok()?,
        tid: field("NSpid")?.parse().ok()?,
        host_tgid: field("Tgid")?.parse().ok()?,
        umask: u32::from_str_radix(field("Umask").unwrap_or("22"), 8).ok()?,
    })
}

/// Whether something at `path` below `dir` is a socket; symlinks not followed.
pub fn is_socket_at(dir: BorrowedFd<'_>, path: &Path) -> bool {
    statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Socket)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
