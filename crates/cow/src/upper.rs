//! Taking entries out of an upper directory without changing the meaning of what stays.
//!
//! The delicate case is an opaque directory: it hides every original that was not made anew, so
//! removing a committed entry from it would turn that entry into a deletion. Before anything is
//! removed from one, its hidden deletions that are to stay are therefore written out as whiteouts and
//! the opaque marks go.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, fremovexattr, makedev, mkdirat, mknodat, unlinkat};
use rustix::io::Errno;

use crate::change::Change;
use crate::content::private_xattrs;
use crate::dir::{EntryKind, Tree, join, lending, list_all, open_private, split, stat_in};

/// One change and whether it leaves the upper directory.
#[derive(Debug)]
pub(crate) struct Removal<'a> {
    pub change: &'a Change,
    pub rel: &'a [u8],
    pub gone: bool,
}

const OPAQUE: &[u8] = b"user.overlay.opaque";

/// Removes what is `gone`; everything else keeps its meaning.
pub(crate) fn remove_applied(upper: &Tree, all: &[Removal<'_>]) -> Result<(), Errno> {
    if all.iter().any(|r| r.gone) {
        for r in all.iter().filter(|r| !r.gone && r.change.from_opaque) {
            write_whiteout(upper, r.rel)?;
        }
        clear_opaque(upper, all)?;
    }
    for r in all.iter().filter(|r| r.gone) {
        let is_dir = r
            .change
            .new
            .as_ref()
            .is_some_and(|s| s.kind == EntryKind::Directory);
        if !r.change.from_opaque && !is_dir {
            remove_entry(upper, r.rel)?;
        }
    }
    prune(upper, all)
}

/// Removes one entry that is not a directory; absent is fine.
fn remove_entry(upper: &Tree, rel: &[u8]) -> Result<(), Errno> {
    let parent = match upper.parent(rel) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    // Lent and given back: a directory that stays must not look as if the agent had changed its mode.
    let name = split(rel).1;
    match lending(&parent, || unlinkat(&parent, name, AtFlags::empty())) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// A deletion below an opaque directory as an explicit whiteout, with the directories it needs.
fn write_whiteout(upper: &Tree, rel: &[u8]) -> Result<(), Errno> {
    let parent = match upper.parent(rel) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => {
            let (dir, _) = split(rel);
            let above = upper.parent(dir)?;
            mkdirat(&above, split(dir).1, Mode::RWXU)?;
            upper.parent(rel)?
        }
        Err(e) => return Err(e),
    };
    let name = split(rel).1;
    match mknodat(
        &parent,
        name,
        FileType::CharacterDevice,
        Mode::empty(),
        makedev(0, 0),
    ) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

/// What goes, and every directory that holds, at any depth, something that goes.
fn with_directories<'a>(all: &[Removal<'a>]) -> BTreeSet<&'a [u8]> {
    let mut found = BTreeSet::new();
    for r in all.iter().filter(|r| r.gone) {
        let mut dir = r.rel;
        // Above one that is known, all are.
        while !dir.is_empty() && found.insert(dir) {
            dir = split(dir).0;
        }
    }
    found
}

/// Clears the opaque marks of every directory that holds, at any depth, something that goes.
fn clear_opaque(upper: &Tree, all: &[Removal<'_>]) -> Result<(), Errno> {
    for dir in with_directories(all) {
        if let Some(fd) = opaque(upper, dir)? {
            lending(&fd, || fremovexattr(&fd, OPAQUE))?;
        }
    }
    Ok(())
}

/// A directory that stays and would lose its opaque mark to what goes.
pub(crate) fn opened_up(upper: &Tree, all: &[Removal<'_>]) -> Result<Option<Vec<u8>>, Errno> {
    let going: HashSet<&[u8]> = all.iter().filter(|r| r.gone).map(|r| r.rel).collect();
    for dir in with_directories(all) {
        if !going.contains(dir) && opaque(upper, dir)?.is_some() {
            return Ok(Some(dir.to_vec()));
        }
    }
    Ok(None)
}

/// The directory at this path if it has the opaque mark.
fn opaque(upper: &Tree, dir: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let found = upper.stat(dir)?;
    if found.is_none_or(|found| found.kind != EntryKind::Directory) {
        return Ok(None);
    }
    let fd = open_private(upper.dir(dir)?, b".", true)?;
    let is_opaque = private_xattrs(&fd)?.contains_key(OPAQUE);
    Ok(is_opaque.then_some(fd))
}

/// Removes directories that became empty and mean nothing any more, leaves first.
fn prune(upper: &Tree, all: &[Removal<'_>]) -> Result<(), Errno> {
    let staying: HashSet<&[u8]> = all.iter().filter(|r| !r.gone).map(|r| r.rel).collect();
    for dir in with_directories(all).into_iter().rev() {
        // A directory whose own change stays must stay.
        if staying.contains(dir) {
            continue;
        }
        let Ok(parent) = upper.parent(dir) else {
            continue;
        };
        let Some(found) = stat_in(&parent, split(dir).1)? else {
            continue;
        };
        if found.kind == EntryKind::Directory {
            let name = split(dir).1;
            match lending(&parent, || unlinkat(&parent, name, AtFlags::REMOVEDIR)) {
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// Everything in a directory, by name below it.
pub(crate) fn entries(tree: &Tree, rel: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let fd = tree.dir(rel)?;
    Ok(list_all(fd.as_fd())?.iter().map(|n| join(rel, n)).collect())
}
