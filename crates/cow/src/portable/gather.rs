//! What of a layer goes into an archive: the entries that a scan makes a change of, with the
//! directories that lead there, and the originals that these touch.
//!
//! A copy that equals its original is left out: elsewhere it would be a difference that the session
//! never made. An original that is not what the session began on is listed without what it was, which
//! nobody knows any more.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, fstat, readlinkat};
use rustix::io::Errno;

use super::contents::{Original, Target, Was, components, is_plain};
use super::{Entry, ExportError, Kind, LeftOut, OPAQUE, WHITEOUT};
use crate::change::{Change, ChangeKind, ChangeSet};
use crate::commit::below_root;
use crate::content::{all_xattrs, content_hash, travelling, xattr_digest};
use crate::dir::{
    EntryKind, Snapshot, Tree, is_whiteout, join, list_sorted, open_in, open_private, split,
    stat_in,
};
use crate::layer::{FileId, Layer};
use crate::record::Record;
use crate::scan::{Base, ScanError, absolute, open_root, open_upper};

/// One layer, as it goes into an archive.
pub(super) struct Gathered {
    /// In the order of the archive.
    pub entries: Vec<Entry>,
    pub originals: Vec<Original>,
    pub left_out: Vec<LeftOut>,
    pub upper: Tree,
}

/// Gathers layer `part` of the archive, which is layer `part` of the change set.
pub(super) fn gather(layer: &Layer, part: usize, set: &ChangeSet) -> Result<Gathered, ExportError> {
    let mut gather = Gather {
        layer,
        part,
        upper: open_upper(layer)?,
        lower: open_root(layer)?,
        base: Base::of(layer)?,
        record: Record::read(layer).map_err(|source| ScanError::Record {
            path: layer.record_path(),
            source,
        })?,
        left_out: Vec::new(),
        originals: Vec::new(),
    };
    let of_layer = |c: &&Change| c.layer == part;
    let rel = |c: &Change| below_root(&layer.root, &c.path);
    let changed: HashSet<Vec<u8>> = set
        .changes
        .iter()
        .filter(of_layer)
        .filter_map(rel)
        .collect();
    let doubtful = |c: &&Change| of_layer(c) && c.conflict.is_some();
    let doubtful: HashSet<Vec<u8>> = set
        .changes
        .iter()
        .filter(doubtful)
        .filter_map(rel)
        .collect();
    if let Some(special) = set
        .changes
        .iter()
        .find(|c| of_layer(c) && c.kind == ChangeKind::Special)
    {
        return Err(ExportError::Special {
            path: special.path.clone(),
        });
    }
    let entries = gather.walk(&changed)?;
    gather.originals(&entries, &doubtful)?;
    Ok(Gathered {
        entries,
        originals: gather.originals,
        left_out: gather.left_out,
        upper: gather.upper,
    })
}

struct Gather<'a> {
    layer: &'a Layer,
    part: usize,
    upper: Tree,
    lower: Tree,
    base: Base,
    record: Record,
    left_out: Vec<LeftOut>,
    originals: Vec<Original>,
}

/// An entry of the upper directory, with its inode if that has more names.
type Seen = (Entry, Option<FileId>);

impl Gather<'_> {
    fn path(&self, rel: &[u8]) -> PathBuf {
        absolute(&self.layer.root, rel)
    }

    fn error(&self, rel: &[u8], e: Errno) -> ExportError {
        ScanError::Entry {
            path: self.path(rel),
            source: e.into(),
        }
        .into()
    }

    /// The entries that are kept, directories before what is in them, names in order.
    fn walk(&mut self, changed: &HashSet<Vec<u8>>) -> Result<Vec<Entry>, ExportError> {
        let mut all: Vec<Seen> = Vec::new();
        let mut stack = self.names(b"")?;
        stack.reverse();
        while let Some((entry, id)) = stack.pop() {
            let within = match &entry.kind {
                Kind::Directory { .. } => self.names(&entry.rel)?,
                _ => Vec::new(),
            };
            all.push((entry, id));
            stack.extend(within.into_iter().rev());
        }
        let mut needed: HashSet<Vec<u8>> = HashSet::new();
        let mut kept = Vec::new();
        for (entry, id) in all.into_iter().rev() {
            let keep = match entry.kind {
                Kind::Whiteout => true,
                Kind::Directory { opaque } => opaque || needed.contains(&entry.rel),
                _ => id.is_some(),
            };
            if keep || changed.contains(&entry.rel) {
                needed.insert(split(&entry.rel).0.to_vec());
                kept.push((entry, id));
            }
        }
        kept.reverse();
        let mut first: std::collections::HashMap<FileId, Vec<u8>> = Default::default();
        Ok(kept
            .into_iter()
            .map(|(mut entry, id)| {
                if let Some(id) = id
                    && matches!(entry.kind, Kind::File { .. })
                {
                    match first.get(&id) {
                        Some(to) => entry.kind = Kind::Link { to: to.clone() },
                        None => drop(first.insert(id, entry.rel.clone())),
                    }
                }
                entry
            })
            .collect())
    }

    /// What is in an upper directory, in the order of the archive.
    fn names(&mut self, dir: &[u8]) -> Result<Vec<Seen>, ExportError> {
        let updir = self.upper.dir(dir).map_err(|e| self.error(dir, e))?;
        let readable = open_private(&updir, b".", true).map_err(|e| self.error(dir, e))?;
        let names = list_sorted(readable.as_fd()).map_err(|e| self.error(dir, e))?;
        let mut out = Vec::new();
        for name in names {
            let rel = join(dir, &name);
            if name.starts_with(WHITEOUT) {
                return Err(ExportError::Name {
                    path: self.path(&rel),
                });
            }
            if !is_plain(&name) {
                return Err(self.error(&rel, Errno::NAMETOOLONG));
            }
            out.extend(self.entry(&updir, rel)?);
        }
        out.sort_by_key(|(entry, _)| archive_name(entry));
        Ok(out)
    }

    fn entry(&mut self, updir: &OwnedFd, rel: Vec<u8>) -> Result<Option<Seen>, ExportError> {
        let name = split(&rel).1.to_vec();
        let fail = |e| self.error(&rel, e);
        let found = stat_in(updir, &name).map_err(fail)?;
        let found = found.ok_or(Errno::NOENT).map_err(fail)?;
        let mut entry = Entry {
            part: self.part,
            kind: Kind::Fifo,
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            mtime: found.mtime,
            xattrs: Default::default(),
            rel: Vec::new(),
        };
        match found.kind {
            EntryKind::File | EntryKind::Directory => {
                let is_dir = found.kind == EntryKind::Directory;
                let fd = open_private(updir, &name, is_dir).map_err(fail)?;
                let all = all_xattrs(fd.as_fd()).map_err(fail)?;
                entry.xattrs = travelling(&all);
                let opaque = all.get(super::unpack::OPAQUE_MARK);
                entry.kind = match is_dir {
                    true => Kind::Directory {
                        opaque: opaque.is_some_and(|v| v == b"y"),
                    },
                    false => Kind::File {
                        size: found.size,
                        map: None,
                    },
                };
            }
            EntryKind::Symlink => {
                let target = readlinkat(updir, name.as_slice(), Vec::new()).map_err(fail)?;
                entry.kind = Kind::Symlink {
                    target: target.into_bytes(),
                };
                entry.mode = 0o777;
            }
            EntryKind::Fifo => {}
            EntryKind::Socket => {
                let path = self.path(&rel);
                self.left_out.push(LeftOut {
                    path,
                    why: "a socket: no archive holds one".into(),
                });
                return Ok(None);
            }
            EntryKind::CharDevice if is_whiteout(updir, &name).map_err(fail)? => {
                (entry.kind, entry.mode) = (Kind::Whiteout, 0);
                (entry.uid, entry.gid) = (0, 0);
                entry.mtime = crate::layer::Timestamp { sec: 0, nsec: 0 };
            }
            EntryKind::CharDevice | EntryKind::BlockDevice => {
                let path = self.path(&rel);
                return Err(ExportError::Special { path });
            }
        }
        let linked = found.kind == EntryKind::File && found.nlink > 1;
        entry.rel = rel;
        Ok(Some((entry, linked.then_some(found.id))))
    }

    /// What was at every path that the entries touch.
    fn originals(
        &mut self,
        entries: &[Entry],
        doubtful: &HashSet<Vec<u8>>,
    ) -> Result<(), ExportError> {
        let names: HashSet<&[u8]> = entries.iter().map(|e| e.rel.as_slice()).collect();
        // Directories whose originals show nothing of what is in them.
        let mut hiding: HashSet<&[u8]> = HashSet::new();
        for entry in entries {
            let rel = entry.rel.as_slice();
            if let Kind::Directory { opaque } = entry.kind
                && (opaque || hiding.contains(split(rel).0))
            {
                hiding.insert(rel);
            }
            let found = self.lower.stat(rel).map_err(|e| self.error(rel, e))?;
            if doubtful.contains(rel) {
                self.push(rel, None);
            } else if let Some(found) = &found {
                let was = self.was(rel, found);
                self.push(rel, was);
            }
            let is_dir = found.is_some_and(|f| f.kind == EntryKind::Directory);
            let goes = match entry.kind {
                Kind::Directory { .. } => hiding.contains(rel),
                _ => true,
            };
            if is_dir && goes {
                self.below(rel, &names)?;
            }
        }
        let key = |o: &Original| components(&o.path);
        self.originals.sort_by_cached_key(key);
        Ok(())
    }

    /// Everything below an original directory that is no entry itself.
    fn below(&mut self, rel: &[u8], names: &HashSet<&[u8]>) -> Result<(), ExportError> {
        let mut stack = vec![rel.to_vec()];
        while let Some(dir) = stack.pop() {
            let opened = self.lower.dir(&dir);
            let listed = opened.and_then(|fd| Ok((list_sorted(fd.as_fd())?, fd)));
            let Ok((found, fd)) = listed else {
                // What cannot be looked into is not known, and so not what anybody else has.
                self.originals.retain(|o| o.path != dir);
                self.push(&dir, None);
                continue;
            };
            for name in found {
                let at = join(&dir, &name);
                if names.contains(at.as_slice()) {
                    continue;
                }
                let Some(seen) = stat_in(&fd, &name).map_err(|e| self.error(&at, e))? else {
                    continue;
                };
                let was = self.was(&at, &seen);
                self.push(&at, was);
                if seen.kind == EntryKind::Directory {
                    stack.push(at);
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, rel: &[u8], was: Option<Was>) {
        self.originals.push(Original {
            layer: self.part,
            path: rel.to_vec(),
            was,
        });
    }

    /// An original as another machine compares it, if it is what the session began on.
    fn was(&self, rel: &[u8], seen: &Snapshot) -> Option<Was> {
        let is_dir = seen.kind == EntryKind::Directory;
        if !is_dir && self.base.changed(rel, seen, &self.record) {
            return None;
        }
        let dir = self.lower.parent(rel).ok()?;
        let was = Was::of(&dir, split(rel).1, seen)?;
        let after = stat_in(&dir, split(rel).1).ok()??;
        (is_dir || after == *seen).then_some(was)
    }
}

impl Was {
    /// What lies under a name; `None` if it cannot be read.
    pub(super) fn of(dir: &OwnedFd, name: &[u8], seen: &Snapshot) -> Option<Was> {
        let mut was = Was {
            kind: seen.kind,
            mode: seen.mode,
            owner: (seen.uid, seen.gid),
            size: None,
            content: None,
            xattrs: None,
            target: None,
        };
        match seen.kind {
            EntryKind::File | EntryKind::Directory => {
                let flags = match seen.kind {
                    EntryKind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                    _ => OFlags::RDONLY,
                };
                let fd = open_in(dir, name, flags).ok()?;
                if Snapshot::new(&fstat(&fd).ok()?).id != seen.id {
                    return None;
                }
                let all = all_xattrs(fd.as_fd()).ok()?;
                was.xattrs = xattr_digest(&travelling(&all));
                if seen.kind == EntryKind::File {
                    was.size = Some(seen.size);
                    was.content = Some(content_hash(fd.as_fd(), seen.size).ok()?);
                }
            }
            EntryKind::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).ok()?;
                was.target = Some(Target(target.into_bytes()));
                was.mode = 0o777;
            }
            _ => {}
        }
        Some(was)
    }
}

/// The name of an entry in the directory that holds it, as the archive spells it.
pub(super) fn archive_name(entry: &Entry) -> Vec<u8> {
    let name = split(&entry.rel).1;
    match entry.kind {
        Kind::Whiteout => [WHITEOUT, name].concat(),
        _ => name.to_vec(),
    }
}

// The opaque mark stands before all other names of its directory, whatever they begin with.
const _: () = assert!(OPAQUE.len() > WHITEOUT.len());
