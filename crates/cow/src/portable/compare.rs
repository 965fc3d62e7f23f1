//! Originals here beside those that a layer was made on.
//!
//! Kind and content have to be the same. Mode, owner and attributes are merged: what the session left as
//! it was stays as it is here, so another umask or user is no difference; what it changed has to have been
//! the same before.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::contents::{Original, Was};
use super::differences::Differences;
use super::{Archive, Entry, Kind};
use crate::content::{Xattrs, all_xattrs, travelling, xattr_digest};
use crate::dir::{EntryKind, Snapshot, Tree, join, list_sorted, open_in, split, stat_in};
use crate::layer::Timestamp;
use crate::record::Rel;
use crate::scan::{ScanError, absolute};

/// An original here that is not what the layer was made on: a conflict until it is settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path here.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// What differs.
    pub found: Found,
}

/// How an original here differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Found {
    /// There was one, and here is none.
    Missing,
    /// There was none, and here is one.
    Extra,
    /// It is of another kind.
    Kind,
    /// Its content is another.
    Content,
    /// The session changed its mode, owner or attributes, and here they were others before.
    Attributes,
    /// It had changed before the archive was made, so nobody knows what it was.
    Unknown,
    /// It cannot be read.
    Unreadable,
}

impl Found {
    /// For a person.
    pub const fn as_str(self) -> &'static str {
        match self {
            Found::Missing => "is missing here",
            Found::Extra => "is here, and was not there",
            Found::Kind => "is of another kind here",
            Found::Content => "has other content here",
            Found::Attributes => "has other attributes here",
            Found::Unknown => "had changed before the export",
            Found::Unreadable => "cannot be read here",
        }
    }
}

/// Mode, owner and attributes that an entry gets here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub mode: u32,
    pub owner: (u32, u32),
    pub xattrs: Xattrs,
    /// It stands for an original that is here.
    pub origin: bool,
    pub mtime: Timestamp,
}

/// What a layer is to be here.
#[derive(Debug)]
pub(super) struct Compared {
    pub found: Vec<Difference>,
    pub differences: Differences,
    /// By path; of entries with attributes.
    pub given: HashMap<Vec<u8>, Given>,
}

impl Archive {
    /// Where the originals below `root` are not what layer `part` was made on. Writes nothing.
    ///
    /// # Errors
    /// `root` cannot be opened as a directory free of symlinks.
    pub fn differences(&self, part: usize, root: &Path) -> Result<Vec<Difference>, ScanError> {
        let tree = Tree::open(root, true).map_err(|e| ScanError::Root {
            root: root.to_path_buf(),
            source: e.into(),
        })?;
        Ok(compare(self, part, &tree, root, (0, 0)).found)
    }
}

/// Compares the originals of one layer with those below `root`. `owner` is who the session is to
/// belong to.
pub(super) fn compare(
    archive: &Archive,
    part: usize,
    lower: &Tree,
    root: &Path,
    owner: (u32, u32),
) -> Compared {
    let of_part = |o: &&Original| o.layer == part;
    let originals: HashMap<&[u8], Option<&Was>> = archive
        .originals
        .iter()
        .filter(of_part)
        .map(|o| (o.path.as_slice(), o.was.as_ref()))
        .collect();
    let entries: Vec<&Entry> = archive.entries.iter().filter(|e| e.part == part).collect();
    let theirs = archive.manifest.layers.get(part).map_or(owner, |l| l.owner);
    let mut work = Work {
        lower,
        root,
        originals: &originals,
        out: Compared {
            found: Vec::new(),
            differences: Differences::new(),
            given: HashMap::new(),
        },
    };
    let names: HashSet<&[u8]> = entries.iter().map(|e| e.rel.as_slice()).collect();
    let mut hiding: HashSet<&[u8]> = HashSet::new();
    for entry in entries {
        let rel = entry.rel.as_slice();
        if let Kind::Directory { opaque } = entry.kind
            && (opaque || hiding.contains(split(rel).0))
        {
            hiding.insert(rel);
        }
        let here = work.entry(entry, (theirs, owner));
        let goes = match entry.kind {
            Kind::Directory { .. } => hiding.contains(rel),
            _ => true,
        };
        if here == Some(EntryKind::Directory) && goes {
            work.below(rel, &names);
        }
    }
    work.out
}

struct Work<'a> {
    lower: &'a Tree,
    root: &'a Path,
    originals: &'a HashMap<&'a [u8], Option<&'a Was>>,
    out: Compared,
}

impl Work<'_> {
    fn note(&mut self, rel: &[u8], found: Found) {
        self.out.found.push(Difference {
            path: absolute(self.root, rel),
            found,
        });
        let Differences {
            changed, missing, ..
        } = &mut self.out.differences;
        match found {
            Found::Missing => missing.insert(Rel(rel.to_vec())),
            _ => changed.insert(Rel(rel.to_vec())),
        };
    }

    /// Compares the original of one entry; answers what is here.
    fn entry(&mut self, entry: &Entry, owners: ((u32, u32), (u32, u32))) -> Option<EntryKind> {
        let rel = entry.rel.as_slice();
        let was = self.originals.get(rel).copied();
        let here = self.lower.stat(rel);
        let Ok(here) = here else {
            self.note(rel, Found::Unreadable);
            return None;
        };
        let is_there = entry.kind != Kind::Whiteout;
        if is_there {
            let given = given(entry, was.flatten(), None, owners);
            self.out.given.insert(rel.to_vec(), given);
        }
        match (was, &here) {
            (None, None) => {}
            // A deletion of what is not here is done.
            (Some(_), None) if !is_there => {}
            // What it was, if anything, nobody knows.
            (Some(None), None) => self.note(rel, Found::Missing),
            (Some(Some(_)), None) => self.note(rel, Found::Missing),
            (None, Some(_)) => self.note(rel, Found::Extra),
            (Some(None), Some(_)) => self.note(rel, Found::Unknown),
            (Some(Some(was)), Some(here)) => self.both(entry, was, here, owners),
        }
        here.map(|h| h.kind)
    }

    fn both(
        &mut self,
        entry: &Entry,
        was: &Was,
        here: &Snapshot,
        owners: ((u32, u32), (u32, u32)),
    ) {
        let rel = entry.rel.as_slice();
        let now = match self.now(rel, was, here) {
            Ok(now) => now,
            Err(found) => return self.note(rel, found),
        };
        let stays = match entry.kind {
            Kind::Directory { opaque } => was.kind == EntryKind::Directory && !opaque,
            Kind::File { .. } | Kind::Link { .. } => was.kind == EntryKind::File,
            _ => false,
        };
        if !stays {
            return;
        }
        let xattrs = self.xattrs(rel, here);
        let mut given = given(entry, Some(was), Some((here, &xattrs)), owners);
        given.origin = true;
        // What the session changed must have been the same before, or be the same now.
        let session = xattr_digest(&entry.xattrs);
        let here_owner = (here.uid, here.gid);
        let [owner_was, owner_is] = [was.owner, (entry.uid, entry.gid)];
        let others = [
            owner_is != owner_was
                && ![owner_was, owner_is]
                    .map(|o| mapped(o, owners))
                    .contains(&here_owner),
            entry.mode != was.mode && ![was.mode, entry.mode].contains(&now.mode),
            session != was.xattrs && ![&was.xattrs, &session].contains(&&now.xattrs),
        ];
        self.out.given.insert(rel.to_vec(), given);
        if others.contains(&true) {
            self.note(rel, Found::Attributes);
        }
    }

    /// What is here, if its kind and content are what was there.
    fn now(&self, rel: &[u8], was: &Was, here: &Snapshot) -> Result<Was, Found> {
        if here.kind != was.kind {
            return Err(Found::Kind);
        }
        if here.kind == EntryKind::File && was.size != Some(here.size) {
            return Err(Found::Content);
        }
        let dir = self.lower.parent(rel).map_err(|_| Found::Unreadable)?;
        let now = Was::of(&dir, split(rel).1, here).ok_or(Found::Unreadable)?;
        match (&now.content, &now.target) == (&was.content, &was.target) {
            true => Ok(now),
            false => Err(Found::Content),
        }
    }

    fn xattrs(&self, rel: &[u8], here: &Snapshot) -> Xattrs {
        let flags = match here.kind {
            EntryKind::Directory => rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            _ => rustix::fs::OFlags::RDONLY,
        };
        let read = self
            .lower
            .parent(rel)
            .and_then(|dir| open_in(&dir, split(rel).1, flags))
            .and_then(|fd| all_xattrs(fd.as_fd()));
        read.map(|all| travelling(&all)).unwrap_or_default()
    }

    /// Everything here below a directory that is to go.
    fn below(&mut self, rel: &[u8], names: &HashSet<&[u8]>) {
        let mut stack = vec![rel.to_vec()];
        while let Some(dir) = stack.pop() {
            let opened = self.lower.dir(&dir);
            let listed = opened.and_then(|fd| Ok((list_sorted(fd.as_fd())?, fd)));
            let Ok((found, fd)) = listed else {
                self.note(&dir, Found::Unreadable);
                continue;
            };
            for name in found {
                let at = join(&dir, &name);
                if names.contains(at.as_slice()) {
                    continue;
                }
                let here = match stat_in(&fd, &name) {
                    Ok(Some(here)) => here,
                    Ok(None) => continue,
                    Err(_) => {
                        self.note(&at, Found::Unreadable);
                        continue;
                    }
                };
                match self.originals.get(at.as_slice()) {
                    None => self.note(&at, Found::Extra),
                    Some(None) => self.note(&at, Found::Unknown),
                    Some(Some(was)) => {
                        if let Err(found) = self.now(&at, was, &here) {
                            self.note(&at, found);
                        }
                    }
                }
                if here.kind == EntryKind::Directory {
                    stack.push(at);
                }
            }
        }
    }
}

/// The attributes of an entry here: its own where the session changed them, those of the original here
/// where it did not. Whoever the session belonged to is who it belongs to here.
fn given(
    entry: &Entry,
    was: Option<&Was>,
    here: Option<(&Snapshot, &Xattrs)>,
    owners: ((u32, u32), (u32, u32)),
) -> Given {
    let mut given = Given {
        mode: entry.mode,
        owner: mapped((entry.uid, entry.gid), owners),
        xattrs: entry.xattrs.clone(),
        origin: false,
        mtime: entry.mtime,
    };
    if let (Some(was), Some((here, xattrs))) = (was, here) {
        if was.mtime == Some(entry.mtime) {
            given.mtime = here.mtime;
        }
        if entry.mode == was.mode {
            given.mode = here.mode;
        }
        if (entry.uid, entry.gid) == was.owner {
            given.owner = (here.uid, here.gid);
        }
        if xattr_digest(&entry.xattrs) == was.xattrs {
            given.xattrs.clone_from(xattrs);
        }
    }
    given
}

/// An owner there, here: whoever the session belonged to is whoever it belongs to.
fn mapped(owner: (u32, u32), (theirs, ours): ((u32, u32), (u32, u32))) -> (u32, u32) {
    let of = |id, theirs, ours| if id == theirs { ours } else { id };
    (of(owner.0, theirs.0, ours.0), of(owner.1, theirs.1, ours.1))
}
