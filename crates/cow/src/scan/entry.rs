//! One entry of an upper directory: reading it, and comparing it with its original.
//!
//! An agent decides what lies here, so nothing is believed: overlay attributes that the kernel does
//! not write under `userxattr` mark an entry as not ours to interpret, and reading lends itself
//! permission instead of skipping (see `lend` for directories).

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::change::{Change, Privilege};
use crate::content::{
    CAPABILITY, Xattrs, all_xattrs, content_hash, looks_binary, private_xattrs, travelling,
};
use crate::dir::{EntryKind, Snapshot, Tree, open_in, open_private, split, stat_in};

/// An entry of the upper directory, read.
pub(super) struct Upper {
    pub stat: Snapshot,
    pub xattrs: Xattrs,
    pub origin: bool,
    pub opaque: bool,
    pub foreign: bool,
    pub content: Option<String>,
    pub target: Option<Vec<u8>>,
    pub binary: bool,
}

/// How much of an object is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Same {
    Nothing,
    Content,
    Everything,
}

/// Reads one entry of a tree, which `dir` holds.
pub(super) fn read_upper(tree: &Tree, dir: &OwnedFd, rel: &[u8]) -> Result<Upper, Errno> {
    let name = split(rel).1;
    let stat = tree.own(stat_in(dir, name)?.ok_or(Errno::NOENT)?);
    if stat.kind == EntryKind::Directory {
        // Lent before it is opened, if its owner may not.
        tree.dir(rel)?;
    }
    let mut upper = Upper {
        stat,
        xattrs: Xattrs::new(),
        origin: false,
        opaque: false,
        foreign: false,
        content: None,
        target: None,
        binary: false,
    };
    match upper.stat.kind {
        EntryKind::File | EntryKind::Directory => {
            let is_dir = upper.stat.kind == EntryKind::Directory;
            let fd = open_private(dir, name, is_dir)?;
            let all = private_xattrs(&fd)?;
            upper.origin = all.contains_key(b"user.overlay.origin".as_slice());
            let opaque = all
                .get(b"user.overlay.opaque".as_slice())
                .map(Vec::as_slice);
            upper.opaque = opaque == Some(b"y");
            // Made by tools, or by an overlay without `userxattr`, never by the kernel under it: not
            // ours to interpret.
            upper.foreign = matches!(opaque, Some(v) if v != b"y")
                || ["redirect", "metacopy", "whiteout"]
                    .iter()
                    .any(|n| all.contains_key(format!("user.overlay.{n}").as_bytes()))
                || ["opaque", "redirect", "metacopy", "whiteout"]
                    .iter()
                    .any(|n| all.contains_key(format!("trusted.overlay.{n}").as_bytes()));
            upper.xattrs = travelling(&all);
            if !is_dir {
                upper.content = Some(content_hash(fd.as_fd(), upper.stat.size)?);
                upper.binary = looks_binary(fd.as_fd())?;
            }
        }
        EntryKind::Symlink => {
            upper.target = Some(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes());
        }
        _ => {}
    }
    Ok(upper)
}

/// Compares two objects of the same type. An original that cannot be read differs.
pub(super) fn compare(
    rel: &[u8],
    upper: &Upper,
    old: &Snapshot,
    lodir: Option<&OwnedFd>,
    change: &mut Change,
) -> Same {
    let (Some(dir), name) = (lodir, split(rel).1) else {
        return Same::Nothing;
    };
    let new = &upper.stat;
    let mut old_xattrs = Xattrs::new();
    match new.kind {
        EntryKind::File | EntryKind::Directory => {
            let flags = if new.kind == EntryKind::Directory {
                OFlags::RDONLY | OFlags::DIRECTORY
            } else {
                OFlags::RDONLY
            };
            let Ok(fd) = open_in(dir, name, flags) else {
                // Attributes of an unreadable directory count as the same; its mode is compared.
                return match new.kind {
                    EntryKind::Directory if attributes(new) == attributes(old) => Same::Everything,
                    EntryKind::Directory => Same::Content,
                    _ => Same::Nothing,
                };
            };
            old_xattrs = all_xattrs(fd.as_fd())
                .map(|a| travelling(&a))
                .unwrap_or_default();
            if new.kind == EntryKind::File {
                change.binary |= looks_binary(fd.as_fd()).unwrap_or(false);
                let same = new.size == old.size
                    && content_hash(fd.as_fd(), old.size).ok() == upper.content;
                if !same {
                    return Same::Nothing;
                }
            }
        }
        EntryKind::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new());
            if target.ok().map(|t| t.into_bytes()) != upper.target {
                return Same::Nothing;
            }
        }
        _ => {}
    }
    if attributes(new) == attributes(old) && old_xattrs == upper.xattrs {
        Same::Everything
    } else {
        Same::Content
    }
}

/// Mode and owner; a symlink's mode means nothing.
fn attributes(s: &Snapshot) -> (u32, u32, u32) {
    let mode = if s.kind == EntryKind::Symlink {
        0
    } else {
        s.mode
    };
    (mode, s.uid, s.gid)
}

pub(super) fn privileges(upper: &Upper) -> Vec<Privilege> {
    let mut out = Vec::new();
    if upper.stat.kind != EntryKind::File {
        return out;
    }
    if upper.stat.mode & 0o4000 != 0 {
        out.push(Privilege::Setuid);
    }
    if upper.stat.mode & 0o2000 != 0 {
        out.push(Privilege::Setgid);
    }
    if upper.xattrs.contains_key(CAPABILITY) {
        out.push(Privilege::Capabilities);
    }
    out
}
