//! Which member may come after which.
//!
//! A name comes after the one before it in its directory, and its directory is open: it came before, and
//! nothing outside of it came since. So there is no second entry of a name, none below what is no
//! directory, and none outside, whatever a name says.

use std::collections::{HashMap, HashSet};

use super::contents::is_plain;
use super::format::{Head, Type, decimal};
use super::input::{Data, Input};
use super::output::whiteout;
use super::read::Sink;
use super::{ArchiveError, ArchiveLimits, Entry, Kind, LAYER, OPAQUE, WHITEOUT};
use crate::content::travels;
use crate::dir::{join, split};

/// Longest target of a symlink (`PATH_MAX` without its NUL).
const MAX_TARGET: usize = 4095;
/// Longest value of an attribute (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 64 << 10;

/// A directory whose entries are coming; the root of a layer has none.
struct Frame {
    /// Its place in [`Order::entries`].
    entry: Option<usize>,
    rel: Vec<u8>,
    part: usize,
    last: Vec<u8>,
    names: HashSet<Vec<u8>>,
}

/// What has come, and so what may come.
pub(super) struct Order {
    parts: usize,
    limits: ArchiveLimits,
    frames: Vec<Frame>,
    /// Files of the present layer, for links to them.
    files: HashMap<Vec<u8>, usize>,
    pub entries: Vec<Entry>,
}

impl Order {
    pub(super) fn new(parts: usize, limits: ArchiveLimits) -> Order {
        Order {
            parts,
            limits,
            frames: Vec::new(),
            files: HashMap::new(),
            entries: Vec::new(),
        }
    }

    /// Takes one member, whose head was read.
    pub(super) fn next<E: From<ArchiveError>>(
        &mut self,
        head: Head,
        input: &mut Input<'_>,
        sink: &mut dyn Sink<E>,
    ) -> Result<(), E> {
        let name = agentwall_action::escape_bytes(&head.name);
        let wrong = |what| ArchiveError::Entry {
            name: name.clone(),
            what,
        };
        let (part, path) = place(&head.name).ok_or_else(|| wrong("it is in no layer"))?;
        if part >= self.parts {
            return Err(wrong("it is in a layer that the manifest does not have").into());
        }
        let is_dir = head.kind == Type::Directory;
        let path = match (path.strip_suffix(b"/"), is_dir) {
            (Some(path), true) => path,
            (None, false) => path,
            _ => return Err(wrong("a name ends in a slash exactly if it is a directory's").into()),
        };
        if !is_plain(path) {
            return Err(wrong("its path is absolute, or has '..' or an empty name in it").into());
        }
        let limit = |what, limit: usize, found: usize| match found <= limit {
            true => Ok(()),
            false => Err(ArchiveError::Limit {
                what,
                limit: limit as u64,
                found: found as u64,
            }),
        };
        limit("bytes in one path", self.limits.path, path.len())?;
        let depth = path.split(|b| *b == b'/').count();
        limit("names in one path", self.limits.depth, depth)?;
        let entries = usize::try_from(self.limits.entries).unwrap_or(usize::MAX);
        limit("entries", entries, self.entries.len() + 1)?;

        let (dir, stored) = split(path);
        self.enter(part, dir, sink, &wrong)?;
        let Some(frame) = self.frames.last_mut() else {
            return Err(wrong("it is in no layer").into());
        };
        if stored == OPAQUE {
            let at = frame.entry.filter(|_| frame.last.is_empty());
            let at =
                at.ok_or_else(|| wrong("this mark stands first in a directory, or nowhere"))?;
            if head != whiteout(head.name.clone()) || frame.names.contains(stored) {
                return Err(wrong("it is more than a mark").into());
            }
            frame.names.insert(stored.to_vec());
            self.entries[at].kind = Kind::Directory { opaque: true };
            return Ok(());
        }
        if frame.last.as_slice() >= stored {
            return Err(wrong("the names are not in order").into());
        }
        frame.last = stored.to_vec();
        let real = stored.strip_prefix(WHITEOUT);
        let real_name = real.unwrap_or(stored).to_vec();
        if !frame.names.insert(real_name.clone()) {
            return Err(wrong("the same name is there and deleted").into());
        }
        let rel = join(dir, &real_name);
        let mut data = Data::of(input, head.size);
        let kind = if real.is_some() {
            if !is_plain(&real_name) || real_name.starts_with(WHITEOUT) {
                return Err(wrong("it deletes a name that no file has here").into());
            }
            if head != whiteout(head.name.clone()) {
                return Err(wrong("it is more than a mark").into());
            }
            Kind::Whiteout
        } else {
            self.kind(&head, part, &mut data, &wrong)?
        };
        check_attributes(&head, &kind, &wrong)?;
        let at = self.entries.len();
        if matches!(kind, Kind::File { .. }) {
            self.files.insert(rel.clone(), at);
        }
        let mut entry = Entry {
            part,
            rel,
            kind,
            mode: head.mode,
            uid: head.uid,
            gid: head.gid,
            mtime: head.mtime,
            xattrs: head.xattrs,
        };
        if let Kind::Link { to } = &entry.kind
            && let Some(first) = self.files.get(to).and_then(|at| self.entries.get(*at))
        {
            entry.xattrs.clone_from(&first.xattrs);
        }
        sink.entry(&entry, &mut data)?;
        let mut skip = [0; 1 << 14];
        while data.next(&mut skip)? > 0 {}
        input.pad()?;
        if is_dir {
            self.frames.push(Frame {
                entry: Some(at),
                rel: entry.rel.clone(),
                part,
                last: Vec::new(),
                names: HashSet::new(),
            });
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Makes the directory `dir` of a layer the one whose entries come.
    fn enter<E: From<ArchiveError>>(
        &mut self,
        part: usize,
        dir: &[u8],
        sink: &mut dyn Sink<E>,
        wrong: &dyn Fn(&'static str) -> ArchiveError,
    ) -> Result<(), E> {
        let present = self.frames.first().map(|f| f.part);
        if present != Some(part) {
            if present.is_some_and(|p| p > part) {
                return Err(wrong("the layers are not in order").into());
            }
            self.leave_until(None, sink)?;
            self.files.clear();
            self.frames.push(Frame {
                entry: None,
                rel: Vec::new(),
                part,
                last: Vec::new(),
                names: HashSet::new(),
            });
        }
        self.leave_until(Some(dir), sink)?;
        match self.frames.is_empty() {
            false => Ok(()),
            true => Err(wrong("what holds it is no directory that came before it").into()),
        }
    }

    /// Leaves directories up to this one; all of them for `None`.
    pub(super) fn leave_until<E>(
        &mut self,
        dir: Option<&[u8]>,
        sink: &mut dyn Sink<E>,
    ) -> Result<(), E> {
        while let Some(frame) = self.frames.pop_if(|f| Some(f.rel.as_slice()) != dir) {
            if let Some(entry) = frame.entry.and_then(|at| self.entries.get(at)) {
                sink.leave(entry)?;
            }
        }
        Ok(())
    }

    fn kind(
        &self,
        head: &Head,
        part: usize,
        data: &mut Data<'_, '_>,
        wrong: &dyn Fn(&'static str) -> ArchiveError,
    ) -> Result<Kind, ArchiveError> {
        let is_file = head.kind == Type::File;
        if !is_file && (head.size != 0 || head.sparse.is_some()) {
            return Err(wrong("only a file has content"));
        }
        let linked = matches!(head.kind, Type::Link | Type::Symlink);
        if head.link.is_empty() == linked {
            return Err(wrong("a link, and nothing else, has a target"));
        }
        Ok(match head.kind {
            Type::Directory => Kind::Directory { opaque: false },
            Type::Fifo => Kind::Fifo,
            Type::Symlink => {
                if head.link.len() > MAX_TARGET || head.link.contains(&0) {
                    return Err(wrong("its target is none that a link can have"));
                }
                Kind::Symlink {
                    target: head.link.clone(),
                }
            }
            Type::Link => {
                let to = place(&head.link).filter(|(p, _)| *p == part);
                let (_, to) = to.ok_or_else(|| wrong("it is a link out of its layer"))?;
                let first = self.files.get(to).and_then(|at| self.entries.get(*at));
                let first = first.ok_or_else(|| wrong("it is a link to no file before it"))?;
                let alike = (first.mode, first.uid, first.gid, first.mtime)
                    == (head.mode, head.uid, head.gid, head.mtime);
                if !alike {
                    return Err(wrong(
                        "it has not the attributes of the file it is a link to",
                    ));
                }
                Kind::Link { to: to.to_vec() }
            }
            Type::File => {
                let size = head.sparse.unwrap_or(head.size);
                if size > self.limits.file {
                    return Err(ArchiveError::Limit {
                        what: "bytes in one file",
                        limit: self.limits.file,
                        found: size,
                    });
                }
                let map = head.sparse.map(|size| data.map(size)).transpose()?;
                Kind::File { size, map }
            }
        })
    }
}

fn check_attributes(
    head: &Head,
    kind: &Kind,
    wrong: &dyn Fn(&'static str) -> ArchiveError,
) -> Result<(), ArchiveError> {
    if head.mode > 0o7777 || (matches!(kind, Kind::Symlink { .. }) && head.mode != 0o777) {
        return Err(wrong("its mode has bits that it cannot have"));
    }
    let takes = matches!(kind, Kind::Directory { .. } | Kind::File { .. });
    if !takes && !head.xattrs.is_empty() {
        return Err(wrong("only a file or a directory has attributes"));
    }
    for (name, value) in &head.xattrs {
        if !travels(name) {
            return Err(wrong("it has an attribute that does not travel"));
        }
        if name.len() > 255 || name.contains(&0) || value.len() > MAX_VALUE {
            return Err(wrong("it has an attribute that no file can have"));
        }
    }
    Ok(())
}

/// The index of a layer and the path in it, of a name in the archive.
fn place(name: &[u8]) -> Option<(usize, &[u8])> {
    let rest = name.strip_prefix(LAYER.as_bytes())?;
    let slash = rest.iter().position(|b| *b == b'/')?;
    let digits = &rest[..slash];
    let part = usize::try_from(decimal(digits)?).ok()?;
    (part.to_string().as_bytes() == digits).then_some((part, &rest[slash + 1..]))
}
