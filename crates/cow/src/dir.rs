//! Reaching objects beneath one directory, never outside it.
//!
//! Every lookup starts at the tree's root descriptor with `openat2(2)` and
//! `RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV`; every operation then names one
//! component relative to the parent's descriptor. A symlink that appears in the tree while we work
//! therefore makes a lookup fail; it can never lead it elsewhere. Relative paths have any length:
//! they are opened in pieces, so neither `PATH_MAX` nor the descriptor limit bounds the depth.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat,
    unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::layer::{FileId, Timestamp};
use crate::lend::Lender;

/// Longest piece of a relative path given to one system call.
const PIECE: usize = 3000;

/// What kind of object a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// What `lstat(2)` says about an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Type.
    pub kind: EntryKind,
    /// Device and inode.
    pub id: FileId,
    /// Number of hard links.
    pub nlink: u64,
    /// Bytes.
    pub size: u64,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

impl Snapshot {
    #[allow(clippy::unnecessary_cast)] // the field types differ between architectures
    pub(crate) fn new(st: &Stat) -> Snapshot {
        let kind = match FileType::from_raw_mode(st.st_mode) {
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            _ => EntryKind::File,
        };
        Snapshot {
            kind,
            id: FileId {
                dev: st.st_dev as u64,
                ino: st.st_ino as u64,
            },
            nlink: st.st_nlink as u64,
            size: u64::try_from(st.st_size).unwrap_or(0),
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            mtime: Timestamp {
                sec: st.st_mtime as i64,
                nsec: st.st_mtime_nsec as u32,
            },
            ctime: Timestamp {
                sec: st.st_ctime as i64,
                nsec: st.st_ctime_nsec as u32,
            },
        }
    }

    /// The same object with the same content and attributes, as far as `lstat` tells, leaving out
    /// what a rename or a new or removed link changes (ctime, nlink).
    pub(crate) fn same_object(&self, other: &Snapshot) -> bool {
        let same = self.kind == other.kind
            && self.id == other.id
            && self.mode == other.mode
            && self.uid == other.uid
            && self.gid == other.gid;
        // A directory's mtime and size move with its entries, which are checked one by one.
        same && (self.kind == EntryKind::Directory
            || (self.size == other.size && self.mtime == other.mtime))
    }
}

/// A directory tree held by its root descriptor.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// Of a private tree: who lends its directories what their owner needs, and where this tree's root
    /// lies in that one.
    lender: Option<(Arc<Lender>, Vec<u8>)>,
}

impl Tree {
    /// Opens the tree at an absolute path; `strict` refuses symlinks anywhere in that path.
    pub(crate) fn open(path: &Path, strict: bool) -> Result<Tree, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = if strict {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            retry(|| openat2(CWD, path, flags, Mode::empty(), resolve))?
        } else {
            openat(CWD, path, flags, Mode::empty())?
        };
        let lender = None;
        Ok(Tree { root, lender })
    }

    /// Opens a tree that is private to the caller: a directory that its owner may not walk is lent the
    /// permissions for as long as the tree is open. `lock` is a folder beside it, see [`Lender::of`].
    pub(crate) fn open_own(path: &Path, lock: &Path) -> io::Result<Tree> {
        let mut tree = Tree::open(path, false)?;
        let lender = Lender::of(path, &tree.root, lock)?;
        tree.lender = lender.map(|lender| (lender, Vec::new()));
        Ok(tree)
    }

    /// An `O_PATH` descriptor of the directory `rel` (empty: the root itself).
    pub(crate) fn dir(&self, rel: &[u8]) -> Result<OwnedFd, Errno> {
        let found = dir_at(self.root.as_fd(), rel);
        let Some((lender, at)) = &self.lender else {
            return found;
        };
        let open_up = |rel: &[u8], fd: &OwnedFd| match rel.is_empty() {
            true => lender.open_up(at, fd),
            false => lender.open_up(&join(at, rel), fd),
        };
        match found {
            Err(Errno::ACCESS) => {
                let ends = rel.iter().enumerate().filter(|(_, b)| **b == b'/');
                for end in [0].into_iter().chain(ends.map(|(at, _)| at)) {
                    open_up(&rel[..end], &dir_at(self.root.as_fd(), &rel[..end])?)?;
                }
                let fd = dir_at(self.root.as_fd(), rel)?;
                open_up(rel, &fd)?;
                Ok(fd)
            }
            Ok(fd) => {
                open_up(rel, &fd)?;
                Ok(fd)
            }
            Err(e) => Err(e),
        }
    }

    /// What was found in the tree, with the mode that it has when nothing is lent.
    pub(crate) fn own(&self, found: Snapshot) -> Snapshot {
        match &self.lender {
            Some((lender, _)) if found.kind == EntryKind::Directory => lender.own(found),
            _ => found,
        }
    }

    /// The tree below the directory `rel`.
    pub(crate) fn at(&self, rel: &[u8]) -> Result<Tree, Errno> {
        let below = |(lender, at): &(Arc<Lender>, Vec<u8>)| (lender.clone(), join(at, rel));
        Ok(Tree {
            root: self.dir(rel)?,
            lender: self.lender.as_ref().map(below),
        })
    }

    /// The parent directory of `rel` (which is not empty).
    pub(crate) fn parent(&self, rel: &[u8]) -> Result<OwnedFd, Errno> {
        self.dir(split(rel).0)
    }

    /// What is at `rel`; `None` when nothing is.
    pub(crate) fn stat(&self, rel: &[u8]) -> Result<Option<Snapshot>, Errno> {
        if rel.is_empty() {
            return Ok(Some(Snapshot::new(&fstat(self.root.as_fd())?)));
        }
        match self.parent(rel) {
            Ok(fd) => stat_in(&fd, split(rel).1),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Parent and last component of a relative path.
pub(crate) fn split(rel: &[u8]) -> (&[u8], &[u8]) {
    match rel.iter().rposition(|b| *b == b'/') {
        Some(i) => (&rel[..i], &rel[i + 1..]),
        None => (&[], rel),
    }
}

/// `dir/name`, or `name` under the root.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = dir.to_vec();
    if !out.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(name);
    out
}

/// `lstat` of one component; `None` when absent.
pub(crate) fn stat_in(dir: impl AsFd, name: &[u8]) -> Result<Option<Snapshot>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(st) => Ok(Some(Snapshot::new(&st))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The device number of a device node.
pub(crate) fn is_whiteout(dir: impl AsFd, name: &[u8]) -> Result<bool, Errno> {
    let st = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(st.st_mode) == FileType::CharacterDevice && st.st_rdev == 0)
}

/// Names in a directory, sorted bytewise, without `.`, `..` and our own temporary names.
pub(crate) fn list(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = list_sorted(dir)?;
    names.retain(|name| !is_ours(name));
    Ok(names)
}

/// Names in a directory, sorted bytewise, without `.` and `..`.
pub(crate) fn list_sorted(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = list_all(dir)?;
    names.sort_unstable();
    Ok(names)
}

/// Prefix of every name this crate creates temporarily in an original tree.
pub(crate) const TEMP_PREFIX: &str = ".agentwall-tmp-";

fn is_ours(name: &[u8]) -> bool {
    // prefix, 16 hexadecimal digits, "-", counter: an agent's own file is not hidden by a mere prefix
    name.strip_prefix(TEMP_PREFIX.as_bytes()).is_some_and(|r| {
        r.len() > 17
            && r[..16].iter().all(u8::is_ascii_hexdigit)
            && r[16] == b'-'
            && r[17..].iter().all(u8::is_ascii_digit)
    })
}

/// Opens one component without following a symlink.
pub(crate) fn open_in(dir: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    openat(dir, name, flags, Mode::empty())
}

/// Opens for reading, lending the owner's read permission when the object denies it. Only for trees
/// that are private to the caller (upper, work, trash): the mode is put back at once.
pub(crate) fn open_private(dir: impl AsFd, name: &[u8], is_dir: bool) -> Result<OwnedFd, Errno> {
    let flags = if is_dir {
        OFlags::RDONLY | OFlags::DIRECTORY
    } else {
        OFlags::RDONLY
    };
    match open_in(dir.as_fd(), name, flags) {
        Err(Errno::ACCESS) => {
            let path_fd = open_in(dir.as_fd(), name, OFlags::PATH)?;
            let mode = Snapshot::new(&fstat(&path_fd)?).mode;
            chmod_path_fd(&path_fd, mode | 0o500)?;
            let opened = open_in(dir, name, flags);
            chmod_path_fd(&path_fd, mode)?;
            opened
        }
        other => other,
    }
}

/// Does something with an open object of a private tree, lending its owner all permissions if that is
/// refused. Extended attributes, too, are guarded by the mode at the moment of the call, not by that of
/// the open.
pub(crate) fn lending<T>(
    fd: &OwnedFd,
    mut act: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match act() {
        Err(Errno::ACCESS) => {
            let mode = Snapshot::new(&fstat(fd)?).mode;
            chmod_path_fd(fd, mode | 0o700)?;
            let done = act();
            chmod_path_fd(fd, mode)?;
            done
        }
        other => other,
    }
}

/// `chmod` of exactly the object an `O_PATH` descriptor holds.
pub(crate) fn chmod_path_fd(fd: &OwnedFd, mode: u32) -> Result<(), Errno> {
    if Snapshot::new(&fstat(fd)?).kind == EntryKind::Symlink {
        return Err(Errno::LOOP);
    }
    rustix::fs::chmod(
        format!("/proc/self/fd/{}", fd.as_raw_fd()),
        Mode::from_raw_mode(mode),
    )
}

/// Removes `rel` and everything below it, lending write permission to directories that lack it.
/// Never follows a symlink and never crosses a mount. `spare` is shown each object just before it
/// goes (a directory before what is in it); at the first one to be spared, and at a directory that
/// somebody fills meanwhile, the removal stops and the answer is false.
pub(crate) fn remove_tree(
    tree: &Tree,
    rel: &[u8],
    mut spare: impl FnMut(&[u8], &Snapshot) -> bool,
) -> Result<bool, Errno> {
    // (path, entered): a directory is seen twice, before and after what it holds.
    let mut stack = vec![(rel.to_vec(), false)];
    while let Some((rel, entered)) = stack.pop() {
        let parent = tree.parent(&rel)?;
        let name = split(&rel).1;
        if entered {
            match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
                other => other?,
            }
            continue;
        }
        let Some(found) = stat_in(&parent, name)? else {
            continue;
        };
        if spare(&rel, &found) {
            return Ok(false);
        }
        if found.kind != EntryKind::Directory {
            unlinkat(&parent, name, AtFlags::empty())?;
            continue;
        }
        if found.mode & 0o700 != 0o700 {
            let fd = open_in(&parent, name, OFlags::PATH | OFlags::DIRECTORY)?;
            chmod_path_fd(&fd, found.mode | 0o700)?;
        }
        let fd = tree.dir(&rel)?;
        stack.push((rel.clone(), true));
        for entry in list_all(fd.as_fd())? {
            stack.push((join(&rel, &entry), false));
        }
    }
    Ok(true)
}

/// Names in a directory without `.` and `..`, in the order of the file system.
pub(crate) fn list_all(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(dir, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Sixteen random hexadecimal digits.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut buf = [0u8; 8];
    let mut filled = 0;
    while filled < buf.len() {
        filled +=
            rustix::rand::getrandom(&mut buf[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(format!("{:016x}", u64::from_le_bytes(buf)))
}

/// An `O_PATH` descriptor of the directory `rel` beneath a root (empty: the root itself).
pub(crate) fn dir_at(root: BorrowedFd<'_>, rel: &[u8]) -> Result<OwnedFd, Errno> {
    if !rel.is_empty() && rel.len() <= PIECE {
        return beneath(root, rel);
    }
    // Not by the name `.`, which takes the permission to search the root.
    let copied = root.try_clone_to_owned();
    let mut fd = copied.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let mut rest = rel;
    while !rest.is_empty() {
        let cut = if rest.len() <= PIECE {
            rest.len()
        } else {
            rest[..PIECE]
                .iter()
                .rposition(|b| *b == b'/')
                .ok_or(Errno::NAMETOOLONG)?
        };
        fd = beneath(fd.as_fd(), &rest[..cut])?;
        rest = rest.get(cut + 1..).unwrap_or_default();
    }
    Ok(fd)
}

fn beneath(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| openat2(dir, path, flags, Mode::empty(), resolve))
}

/// `openat2` answers EAGAIN when a rename raced with the lookup and asks to try again.
fn retry<T>(mut f: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..100 {
        match f() {
            Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
            other => return other,
        }
    }
    f()
}
