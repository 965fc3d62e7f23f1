//! What of a layer goes into an archive: the entries that a scan makes a change of, with the
//! directories that lead there, and the originals that these touch.
//!
//! A copy that equals its original is left out: elsewhere it would be a difference that the session
//! never made.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::readlinkat;
use rustix::io::Errno;

use super::contents::{Original, is_plain};
use super::write::Piece;
use super::{Entry, ExportError, Kind, LeftOut, OPAQUE, WHITEOUT};
use crate::change::{Change, ChangeKind, ChangeSet};
use crate::commit::below_root;
use crate::content::{all_xattrs, travelling};
use crate::dir::{EntryKind, Tree, is_whiteout, join, list_sorted, open_private, split, stat_in};
use crate::layer::FileId;
use crate::record::Record;
use crate::scan::{Base, ScanError, absolute, find_root, open_upper};

/// One layer, as it goes into an archive.
#[derive(Default)]
pub(super) struct Gathered {
    /// In the order of the archive.
    pub entries: Vec<Entry>,
    pub originals: Vec<Original>,
    pub left_out: Vec<LeftOut>,
    /// Where the copies are; `None` when there are none.
    pub upper: Option<Tree>,
}

/// Gathers layer `part` of the archive, which is layer `part` of the change set.
pub(super) fn gather(
    piece: &Piece<'_>,
    part: usize,
    set: &ChangeSet,
) -> Result<Gathered, ExportError> {
    let layer = piece.layer;
    let prefix = piece.below.as_os_str().as_bytes().to_vec();
    let Some((upper, lower)) = opened(piece, &prefix)? else {
        return Ok(Gathered::default());
    };
    let mut gather = Gather {
        root: piece.root(),
        prefix,
        part,
        upper,
        lower,
        base: Base::of(layer)?,
        record: Record::read(layer).map_err(|source| ScanError::Record {
            path: layer.record_path(),
            source,
        })?,
        left_out: Vec::new(),
        originals: Vec::new(),
    };
    let of_layer = |c: &&Change| c.layer == part;
    let root = gather.root.clone();
    let rel = |c: &Change| below_root(&root, &c.path);
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
    let rewritten = |c: &&Change| of_layer(c) && c.kind != ChangeKind::Meta;
    let rewritten: HashSet<Vec<u8>> = set
        .changes
        .iter()
        .filter(rewritten)
        .filter_map(rel)
        .collect();
    if let Some(special) = set
        .changes
        .iter()
        .find(|c| of_layer(c) && c.kind == ChangeKind::Special && rel(c).is_some())
    {
        return Err(ExportError::Special {
            path: special.path.clone(),
        });
    }
    let entries = gather.walk(&changed)?;
    gather.originals(&entries, &doubtful, &rewritten)?;
    Ok(Gathered {
        entries,
        originals: gather.originals,
        left_out: gather.left_out,
        upper: Some(gather.upper),
    })
}

/// The folder that is exported, in the upper directory and in the original, which may be away; `None`
/// when the session wrote nothing there.
fn opened(piece: &Piece<'_>, prefix: &[u8]) -> Result<Option<(Tree, Option<Tree>)>, ExportError> {
    let layer = piece.layer;
    let (upper, lower) = (open_upper(layer)?, find_root(layer)?.ok());
    if prefix.is_empty() {
        return Ok(Some((upper, lower)));
    }
    let anew = || ExportError::Anew { path: piece.root() };
    // A mark above it would say that nothing of the original shows in it.
    let ends = (0..prefix.len()).filter(|at| prefix[*at] == b'/');
    for end in ends.chain([prefix.len()]) {
        let dir = match upper.dir(&prefix[..end]) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(anew()),
        };
        let fail = |e: Errno| ScanError::Entry {
            path: absolute(&layer.root, &prefix[..end]),
            source: e.into(),
        };
        let fd = open_private(&dir, b".", true).map_err(fail)?;
        let all = all_xattrs(fd.as_fd()).map_err(fail)?;
        if all.contains_key(super::unpack::OPAQUE_MARK) {
            return Err(anew());
        }
    }
    let lower = lower.map(|lower| lower.at(prefix)).transpose();
    Ok(Some((
        upper.at(prefix).map_err(|_| anew())?,
        lower.map_err(|_| anew())?,
    )))
}

pub(super) struct Gather {
    pub root: PathBuf,
    /// Where that is below the layer's own root.
    pub prefix: Vec<u8>,
    pub part: usize,
    pub upper: Tree,
    /// `None` while the original tree is away: then nothing is known of any original.
    pub lower: Option<Tree>,
    pub base: Base,
    pub record: Record,
    pub left_out: Vec<LeftOut>,
    pub originals: Vec<Original>,
}

/// An entry of the upper directory, with its inode if that has more names.
type Seen = (Entry, Option<FileId>);

impl Gather {
    fn path(&self, rel: &[u8]) -> PathBuf {
        absolute(&self.root, rel)
    }

    pub(super) fn error(&self, rel: &[u8], e: Errno) -> ExportError {
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
        let found = self.upper.own(found.ok_or(Errno::NOENT).map_err(fail)?);
        if found.kind == EntryKind::Directory {
            // Lent before it is opened, if its owner may not.
            self.upper.dir(&rel).map_err(fail)?;
        }
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
