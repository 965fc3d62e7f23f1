//! Reading upper directories: from what overlayfs left on disk to typed changes and conflicts.
//!
//! The walk keeps relative paths, not descriptors, on its own stack, so depth is bounded by neither
//! the thread's stack nor the descriptor limit. The table of cases is in the crate documentation;
//! `examine` is that table.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::change::{Change, ChangeKind, ChangeSet, Conflict, Privilege};
use crate::content::{
    CAPABILITY, Xattrs, all_xattrs, content_hash, looks_binary, travelling, xattr_digest,
};
use crate::dir::{
    EntryKind, Snapshot, Tree, is_whiteout, join, list, list_all, open_in, open_private, split,
    stat_in,
};
use crate::layer::{FileId, Layer};
use crate::record::Record;

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The original tree cannot be opened as a directory, free of symlinks.
    #[error("cannot open the original tree {root:?}: {source}; restore it, or export the session")]
    Root {
        /// The layer's root.
        root: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another directory is at the root than when the session began.
    #[error("{root:?} is another directory than when the session began; move the original back")]
    RootReplaced {
        /// The layer's root.
        root: PathBuf,
    },
    /// The upper directory cannot be opened.
    #[error("cannot open the session's upper directory {upper:?}: {source}")]
    Upper {
        /// The layer's upper directory.
        upper: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Something in the upper directory cannot be read.
    #[error(
        "cannot read the session's copy of {path:?}: {source}; if permission is denied, run as root \
         of a user namespace that maps the owner"
    )]
    Entry {
        /// The path in the original tree it stands for.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The record of earlier commits cannot be read.
    #[error("cannot read the commit record {path:?}: {source}")]
    Record {
        /// The record.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// How a scan judges doubtful cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Take it that no directory of the original tree was moved since the session began:
    /// [`Conflict::DirectoryMaybeMoved`] is then not raised.
    pub trust_directories: bool,
}

/// Reads the upper directories of unmounted overlays and compares them with the original trees.
///
/// # Errors
/// A tree cannot be opened or an entry of an upper directory cannot be read. Trouble in the original
/// tree is no error but a [`Conflict`] of the change.
pub fn scan(layers: &[Layer]) -> Result<ChangeSet, ScanError> {
    scan_with(layers, ScanOptions::default())
}

/// [`scan`] with options.
///
/// # Errors
/// As [`scan`].
pub fn scan_with(layers: &[Layer], options: ScanOptions) -> Result<ChangeSet, ScanError> {
    let mut changes = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let mut walk = Walk::open(layer, index, options)?;
        walk.run()?;
        walk.relate_links();
        walk.guess_renames();
        changes.append(&mut walk.changes);
    }
    changes.sort_by(|a, b| {
        let key = |c: &Change| (c.path.as_os_str().as_bytes().to_vec(), c.layer);
        key(a).cmp(&key(b))
    });
    Ok(ChangeSet::new(changes))
}

/// Opens the original tree of a layer and checks that it is the one the session began on.
pub(crate) fn open_root(layer: &Layer) -> Result<Tree, ScanError> {
    let root = Tree::open(&layer.root, true).map_err(|e| ScanError::Root {
        root: layer.root.clone(),
        source: e.into(),
    })?;
    let found = root.stat(b"").ok().flatten().map(|s| s.id);
    if layer.root_id.is_some() && layer.root_id != found {
        return Err(ScanError::RootReplaced {
            root: layer.root.clone(),
        });
    }
    Ok(root)
}

/// Opens the upper directory of a layer.
pub(crate) fn open_upper(layer: &Layer) -> Result<Tree, ScanError> {
    Tree::open(&layer.upper, false).map_err(|e| ScanError::Upper {
        upper: layer.upper.clone(),
        source: e.into(),
    })
}

/// The absolute path of `rel` under `root`.
pub(crate) fn absolute(root: &Path, rel: &[u8]) -> PathBuf {
    if rel.is_empty() {
        root.to_path_buf()
    } else {
        root.join(OsStr::from_bytes(rel))
    }
}

/// What the walk of a directory that would be deleted found.
#[derive(Debug, Default)]
pub(crate) struct Below {
    pub count: u64,
    pub conflict: Option<Conflict>,
    /// Regular files (path below the layer root, size), for rename guesses; capped.
    files: Vec<(Vec<u8>, u64)>,
}

const MAX_BELOW_FILES: usize = 20_000;

/// Walks an original directory; `conflict` is set at the first object changed since the base.
pub(crate) fn below(lower: &Tree, rel: &[u8], layer: &Layer, record: &Record) -> Below {
    let mut out = Below::default();
    let mut stack = vec![rel.to_vec()];
    while let Some(dir) = stack.pop() {
        let names = lower
            .dir(&dir)
            .and_then(|fd| list(fd.as_fd()).map(|names| (fd, names)));
        let (fd, names) = match names {
            Ok(pair) => pair,
            Err(e) => {
                out.conflict = Some(dir_conflict(absolute(&layer.root, &dir), e));
                return out;
            }
        };
        for name in names {
            let at = join(&dir, &name);
            let found = match stat_in(&fd, &name) {
                Ok(Some(found)) => found,
                Ok(None) | Err(_) => {
                    out.conflict = Some(Conflict::ChangedBelow {
                        path: absolute(&layer.root, &at),
                    });
                    return out;
                }
            };
            out.count += 1;
            if found.ctime >= layer.base && !record.explains(&found) {
                out.conflict = Some(Conflict::ChangedBelow {
                    path: absolute(&layer.root, &at),
                });
                return out;
            }
            match found.kind {
                EntryKind::Directory => stack.push(at),
                EntryKind::File if out.files.len() < MAX_BELOW_FILES => {
                    out.files.push((at, found.size));
                }
                _ => {}
            }
        }
    }
    out
}

fn dir_conflict(path: PathBuf, e: Errno) -> Conflict {
    match e {
        Errno::XDEV => Conflict::MountPoint { path },
        Errno::NOENT => Conflict::ParentVanished { path },
        Errno::NOTDIR | Errno::LOOP => Conflict::ParentNotDirectory { path },
        _ => Conflict::Unreadable { path },
    }
}

/// The original directory that corresponds to an upper directory.
#[derive(Debug, Clone)]
enum Lower {
    Dir(LowerDir),
    /// The directory is new.
    Absent,
    /// Nothing below can be applied.
    Blocked(Conflict),
}

#[derive(Debug, Clone)]
struct LowerDir {
    id: FileId,
    /// An entry was added, removed or renamed by someone else since the session began.
    changed: bool,
    /// It may be another directory than the session saw.
    moved: Option<Conflict>,
}

struct Frame {
    rel: Vec<u8>,
    opaque: bool,
    lower: Lower,
}

/// An entry of the upper directory, read.
struct Upper {
    stat: Snapshot,
    xattrs: Xattrs,
    origin: bool,
    opaque: bool,
    foreign: bool,
    content: Option<String>,
    target: Option<Vec<u8>>,
    binary: bool,
}

struct Member {
    rel: Vec<u8>,
    lower: Option<Snapshot>,
    /// What to emit if the name must become a link although nothing else changed.
    change: Change,
    emitted: bool,
}

struct Walk<'a> {
    layer: &'a Layer,
    index: usize,
    options: ScanOptions,
    upper: Tree,
    lower: Tree,
    record: Record,
    changes: Vec<Change>,
    groups: HashMap<FileId, Vec<Member>>,
    deleted_files: Vec<(Vec<u8>, u64)>,
}

impl<'a> Walk<'a> {
    fn open(layer: &'a Layer, index: usize, options: ScanOptions) -> Result<Self, ScanError> {
        Ok(Walk {
            layer,
            index,
            options,
            upper: open_upper(layer)?,
            lower: open_root(layer)?,
            record: Record::read(layer).map_err(|source| ScanError::Record {
                path: layer.record_path(),
                source,
            })?,
            changes: Vec::new(),
            groups: HashMap::new(),
            deleted_files: Vec::new(),
        })
    }

    fn error(&self, rel: &[u8], e: Errno) -> ScanError {
        ScanError::Entry {
            path: absolute(&self.layer.root, rel),
            source: e.into(),
        }
    }

    /// Whether someone else changed this original since the session began.
    fn changed(&self, s: &Snapshot) -> bool {
        s.ctime >= self.layer.base && !self.record.explains(s)
    }

    fn run(&mut self) -> Result<(), ScanError> {
        let root = self
            .lower
            .stat(b"")
            .map_err(|e| self.error(b"", e))?
            .ok_or_else(|| self.error(b"", Errno::NOENT))?;
        let mut stack = vec![Frame {
            rel: Vec::new(),
            opaque: false,
            lower: Lower::Dir(LowerDir {
                id: root.id,
                changed: self.changed(&root),
                moved: None,
            }),
        }];
        while let Some(frame) = stack.pop() {
            let updir = self
                .upper
                .dir(&frame.rel)
                .map_err(|e| self.error(&frame.rel, e))?;
            let readable =
                open_private(&updir, b".", true).map_err(|e| self.error(&frame.rel, e))?;
            let mut names = list_all(readable.as_fd()).map_err(|e| self.error(&frame.rel, e))?;
            names.sort_unstable();
            let (lodir, frame) = self.open_lower(frame);
            for name in &names {
                let rel = join(&frame.rel, name);
                let lower = match &lodir {
                    Some(fd) => stat_in(fd, name).map_err(|e| self.error(&rel, e))?,
                    None => None,
                };
                if is_whiteout(&updir, name).map_err(|e| self.error(&rel, e))? {
                    if let Some(old) = lower {
                        self.delete(rel, old, &frame, false);
                    }
                    continue;
                }
                let upper = self
                    .read_upper(&updir, name)
                    .map_err(|e| self.error(&rel, e))?;
                if let Some(next) = self.examine(rel, upper, lower, lodir.as_ref(), &frame) {
                    stack.push(next);
                }
            }
            if frame.opaque
                && let Some(fd) = &lodir
            {
                self.delete_hidden(fd, &names, &frame)?;
            }
        }
        Ok(())
    }

    /// Opens the original directory of a frame; a race since the parent was read blocks the frame.
    fn open_lower(&self, mut frame: Frame) -> (Option<OwnedFd>, Frame) {
        if !matches!(frame.lower, Lower::Dir(_)) {
            return (None, frame);
        }
        match self.lower.dir(&frame.rel) {
            Ok(fd) => (Some(fd), frame),
            Err(e) => {
                let path = absolute(&self.layer.root, &frame.rel);
                frame.lower = Lower::Blocked(dir_conflict(path, e));
                (None, frame)
            }
        }
    }

    /// Deletions implied by an opaque directory: every original that was not made anew.
    fn delete_hidden(
        &mut self,
        lodir: &OwnedFd,
        kept: &[Vec<u8>],
        frame: &Frame,
    ) -> Result<(), ScanError> {
        let kept: HashSet<&[u8]> = kept.iter().map(Vec::as_slice).collect();
        let names = list(lodir.as_fd()).map_err(|e| self.error(&frame.rel, e))?;
        for name in names.iter().filter(|n| !kept.contains(n.as_slice())) {
            let rel = join(&frame.rel, name);
            if let Some(old) = stat_in(lodir, name).map_err(|e| self.error(&rel, e))? {
                self.delete(rel, old, frame, true);
            }
        }
        Ok(())
    }

    fn delete(&mut self, rel: Vec<u8>, old: Snapshot, frame: &Frame, from_opaque: bool) {
        let mut change = self.blank(&rel, ChangeKind::Delete, old.kind, frame);
        change.from_opaque = from_opaque;
        change.conflict = self.doubt(&old, frame);
        if old.kind == EntryKind::Directory {
            let found = below(&self.lower, &rel, self.layer, &self.record);
            change.below = Some(found.count);
            change.conflict = change.conflict.or(found.conflict);
            self.deleted_files.extend(found.files);
        } else if old.kind == EntryKind::File {
            self.deleted_files.push((rel, old.size));
        }
        change.breaks_hard_link = old.kind != EntryKind::Directory && old.nlink > 1;
        change.old = Some(old);
        self.changes.push(change);
    }

    /// The conflict of touching an original that is there.
    fn doubt(&self, old: &Snapshot, frame: &Frame) -> Option<Conflict> {
        if self.changed(old) {
            return Some(Conflict::Changed { ctime: old.ctime });
        }
        match &frame.lower {
            Lower::Dir(dir) => dir.moved.clone(),
            Lower::Absent => None,
            Lower::Blocked(conflict) => Some(conflict.clone()),
        }
    }

    fn blank(&self, rel: &[u8], kind: ChangeKind, entry: EntryKind, frame: &Frame) -> Change {
        Change {
            path: absolute(&self.layer.root, rel),
            layer: self.index,
            kind,
            entry,
            old: None,
            new: None,
            content: None,
            target: None,
            xattrs: None,
            binary: false,
            exec_gained: false,
            privileges: Vec::new(),
            below: None,
            from_opaque: false,
            breaks_hard_link: false,
            link_to: None,
            rename_from: None,
            parent: match &frame.lower {
                Lower::Dir(dir) => Some(dir.id),
                _ => None,
            },
            conflict: match &frame.lower {
                Lower::Blocked(conflict) => Some(conflict.clone()),
                _ => None,
            },
        }
    }

    fn read_upper(&self, dir: &OwnedFd, name: &[u8]) -> Result<Upper, Errno> {
        let stat = stat_in(dir, name)?.ok_or(Errno::NOENT)?;
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
                let all = all_xattrs(fd.as_fd())?;
                upper.origin = all.contains_key(b"user.overlay.origin".as_slice());
                let opaque = all
                    .get(b"user.overlay.opaque".as_slice())
                    .map(Vec::as_slice);
                upper.opaque = opaque == Some(b"y");
                // Made by tools, never by the kernel under `userxattr`: not ours to interpret.
                upper.foreign = matches!(opaque, Some(v) if v != b"y")
                    || ["redirect", "metacopy", "whiteout"]
                        .iter()
                        .any(|n| all.contains_key(format!("user.overlay.{n}").as_bytes()));
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

    /// The table of the crate documentation. Returns the frame to descend into.
    fn examine(
        &mut self,
        rel: Vec<u8>,
        upper: Upper,
        lower: Option<Snapshot>,
        lodir: Option<&OwnedFd>,
        frame: &Frame,
    ) -> Option<Frame> {
        let new = &upper.stat;
        let mut change = self.blank(&rel, ChangeKind::Add, new.kind, frame);
        change.content.clone_from(&upper.content);
        change.target = upper
            .target
            .clone()
            .map(|t| PathBuf::from(std::ffi::OsString::from_vec(t)));
        change.xattrs = xattr_digest(&upper.xattrs);
        change.binary = upper.binary;
        change.privileges = privileges(&upper);
        change.new = Some(new.clone());
        change.exec_gained = new.kind == EntryKind::File && new.mode & 0o111 != 0;

        let is_dir = new.kind == EntryKind::Directory;
        let special =
            upper.foreign || matches!(new.kind, EntryKind::CharDevice | EntryKind::BlockDevice);
        let mut differs = true;
        if special {
            change.kind = ChangeKind::Special;
            change.old.clone_from(&lower);
        } else if let Some(old) = &lower {
            change.exec_gained &= old.kind != EntryKind::File || old.mode & 0o111 == 0;
            change.breaks_hard_link = !is_dir && old.kind != EntryKind::Directory && old.nlink > 1;
            change.conflict = change.conflict.or_else(|| self.doubt(old, frame));
            change.old = Some(old.clone());
            if old.kind == new.kind {
                let same = self.compare(&rel, &upper, old, lodir, &mut change);
                differs = same != Same::Everything;
                change.kind = if same == Same::Content {
                    ChangeKind::Meta
                } else {
                    ChangeKind::Modify
                };
            } else {
                change.kind = ChangeKind::Replace;
                if old.kind == EntryKind::Directory {
                    let found = below(&self.lower, &rel, self.layer, &self.record);
                    change.below = Some(found.count);
                    change.conflict = change.conflict.or(found.conflict);
                    self.deleted_files.extend(found.files);
                }
            }
        } else if upper.origin && change.conflict.is_none() {
            // A copied-up object whose original is not there: the session gave it a new name (rename,
            // link), or someone took the original away. Only a change of the directory allows the
            // latter; a copied-up directory cannot be renamed under `userxattr` at all.
            let taken = match &frame.lower {
                Lower::Dir(dir) => dir.changed || is_dir,
                _ => false,
            };
            if taken {
                change.conflict = Some(Conflict::Vanished);
            }
        }

        let next = is_dir.then(|| self.descend(&rel, &upper, lower.as_ref(), &change, frame));
        let is_member = !is_dir && new.nlink > 1 && change.kind != ChangeKind::Special;
        if is_member {
            self.groups.entry(new.id).or_default().push(Member {
                rel,
                lower,
                change: change.clone(),
                emitted: differs,
            });
        }
        if differs {
            self.changes.push(change);
        }
        next.filter(|_| !upper.foreign)
    }

    /// The frame for what is below an upper directory.
    fn descend(
        &self,
        rel: &[u8],
        upper: &Upper,
        lower: Option<&Snapshot>,
        change: &Change,
        frame: &Frame,
    ) -> Frame {
        let opaque = frame.opaque || upper.opaque;
        let path = || absolute(&self.layer.root, rel);
        let state = match lower {
            Some(old) if old.kind == EntryKind::Directory => {
                let changed = self.changed(old);
                let (parent_changed, parent_moved) = match &frame.lower {
                    Lower::Dir(dir) => (dir.changed, dir.moved.clone()),
                    _ => (false, None),
                };
                let here = changed && parent_changed && !self.options.trust_directories;
                Lower::Dir(LowerDir {
                    id: old.id,
                    changed,
                    moved: here
                        .then(|| Conflict::DirectoryMaybeMoved { path: path() })
                        .or(parent_moved),
                })
            }
            Some(_) => match &change.conflict {
                Some(_) => Lower::Blocked(Conflict::ParentNotDirectory { path: path() }),
                None => Lower::Absent,
            },
            None => match (&frame.lower, &change.conflict) {
                (Lower::Blocked(c), _) => Lower::Blocked(c.clone()),
                (_, Some(_)) => Lower::Blocked(Conflict::ParentVanished { path: path() }),
                _ => Lower::Absent,
            },
        };
        Frame {
            rel: rel.to_vec(),
            opaque,
            lower: state,
        }
    }

    /// Compares two objects of the same type. An original that cannot be read differs.
    fn compare(
        &self,
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
                        EntryKind::Directory if attributes(new) == attributes(old) => {
                            Same::Everything
                        }
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

    /// Hard links among upper files: later names of a group become links of its first name.
    fn relate_links(&mut self) {
        let mut more = Vec::new();
        let at: HashMap<PathBuf, usize> = self
            .changes
            .iter()
            .enumerate()
            .map(|(i, c)| (c.path.clone(), i))
            .collect();
        for members in self.groups.values_mut() {
            members.sort_by(|a, b| a.rel.cmp(&b.rel));
            let Some((first, rest)) = members.split_first() else {
                continue;
            };
            let first_path = absolute(&self.layer.root, &first.rel);
            let first_id = first.lower.as_ref().map(|s| s.id);
            let first_new = first.emitted && first.change.kind != ChangeKind::Meta;
            for member in rest {
                let linked = member.lower.as_ref().map(|s| s.id) == first_id && first_id.is_some();
                if linked && !first_new {
                    continue; // the same inode before and after
                }
                let target = if member.emitted {
                    at.get(&member.change.path)
                        .and_then(|i| self.changes.get_mut(*i))
                } else {
                    more.push(member.change.clone());
                    more.last_mut()
                };
                if let Some(change) = target {
                    if change.kind == ChangeKind::Meta {
                        change.kind = ChangeKind::Modify;
                    }
                    change.link_to = Some(first_path.clone());
                }
            }
        }
        self.changes.append(&mut more);
    }

    /// Overlayfs reports a rename as a deletion and an addition: pairs them by size and content.
    fn guess_renames(&mut self) {
        let mut by_size: HashMap<u64, Vec<&[u8]>> = HashMap::new();
        for (rel, size) in self.deleted_files.iter().filter(|(_, size)| *size > 0) {
            by_size.entry(*size).or_default().push(rel);
        }
        let mut used: BTreeSet<&[u8]> = BTreeSet::new();
        let mut hashes: HashMap<&[u8], Option<String>> = HashMap::new();
        let mut dirs: HashMap<PathBuf, PathBuf> = HashMap::new();
        for change in &mut self.changes {
            if change.kind != ChangeKind::Add || change.entry != EntryKind::File {
                continue;
            }
            let Some(candidates) = change.new_size().and_then(|s| by_size.get(&s)) else {
                continue;
            };
            let name = change.path.file_name().map(OsStr::as_bytes);
            // The same name elsewhere is the likelier source.
            let mut order: Vec<&[u8]> = candidates.clone();
            order.sort_by_key(|rel| (Some(split(rel).1) != name, *rel));
            let found = order
                .into_iter()
                .filter(|r| !used.contains(r))
                .take(64)
                .find(|rel| {
                    let hash = hashes
                        .entry(rel)
                        .or_insert_with(|| hash_at(&self.lower, rel));
                    hash.is_some() && *hash == change.content
                });
            if let Some(rel) = found {
                used.insert(rel);
                let from = absolute(&self.layer.root, rel);
                let mut pair = (change.path.as_path(), from.as_path());
                while let (Some(a), Some(b)) = (pair.0.parent(), pair.1.parent()) {
                    if pair.0.file_name() != pair.1.file_name() {
                        break;
                    }
                    dirs.entry(a.to_path_buf())
                        .or_insert_with(|| b.to_path_buf());
                    pair = (a, b);
                }
                change.rename_from = Some(from);
                // Its content came from a name that the session deleted: that explains the mark of a
                // copy-up without an original.
                if change.conflict == Some(Conflict::Vanished) {
                    change.conflict = None;
                }
            }
        }
        let gone: HashSet<PathBuf> = self
            .changes
            .iter()
            .filter(|c| c.kind == ChangeKind::Delete && c.entry == EntryKind::Directory)
            .map(|c| c.path.clone())
            .collect();
        for change in &mut self.changes {
            if change.kind == ChangeKind::Add && change.entry == EntryKind::Directory {
                change.rename_from = dirs
                    .get(&change.path)
                    .filter(|d| gone.contains(*d))
                    .cloned();
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Same {
    Nothing,
    Content,
    Everything,
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

fn privileges(upper: &Upper) -> Vec<Privilege> {
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

fn hash_at(tree: &Tree, rel: &[u8]) -> Option<String> {
    let dir = tree.parent(rel).ok()?;
    let fd = open_in(dir, split(rel).1, OFlags::RDONLY).ok()?;
    let found = Snapshot::new(&rustix::fs::fstat(&fd).ok()?);
    (found.kind == EntryKind::File)
        .then(|| content_hash(fd.as_fd(), found.size).ok())
        .flatten()
}
