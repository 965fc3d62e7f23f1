//! Reading an archive that anybody may have made.
//!
//! Names come in order and each below a directory that came before it, so there are no duplicates, no
//! entries below a link or a file, and nothing outside. What is announced reserves no memory; what is
//! read is bounded by [`ArchiveLimits`]. The reader itself writes nothing: entries go to a sink.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};

use sha2::{Digest as _, Sha256};

use super::contents::{Manifest, Original, Place, is_plain, originals_of};
use super::format::{BLOCK, Head, Map, Type, decimal, map_bytes};
use super::write::{MAX_OWN, MAX_PIECES, whiteout};
use super::{
    ArchiveError, ArchiveLimits, Entry, Kind, LAYER, MANIFEST, OPAQUE, ORIGINALS, PROOF, WHITEOUT,
};
use crate::content::{BLOCK as CONTENT_BLOCK, hex, travels};
use crate::dir::{join, split};

/// Longest list of originals.
const MAX_ORIGINALS: u64 = 512 << 20;
/// Longest target of a symlink (`PATH_MAX` without its NUL).
const MAX_TARGET: usize = 4095;
/// Longest value of an attribute (`XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 64 << 10;
/// Most layers of a session.
const MAX_LAYERS: usize = 1000;

/// An archive that was read to its end. Whether to believe its proof is up to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub(super) manifest: Manifest,
    pub(super) originals: Vec<Original>,
    pub(super) entries: Vec<Entry>,
    pub(super) digest: String,
    pub(super) proof: Vec<u8>,
    pub(super) limits: ArchiveLimits,
}

impl Archive {
    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of all bytes before the head of the proof, lower-case hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The proof, as whoever made the archive wrote it.
    pub fn proof(&self) -> &[u8] {
        &self.proof
    }

    /// Where files with set-id bits or capabilities would come: index of the layer, path below its root.
    pub fn privileged(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let privileged = self.entries.iter().filter(|e| e.is_privileged());
        privileged.map(|e| (e.part, e.rel.as_slice()))
    }
}

/// Reads an archive to its end and writes nothing.
///
/// # Errors
/// It is none, or not one to be taken: see [`ArchiveError`].
pub fn inspect(input: &mut dyn Read, limits: ArchiveLimits) -> Result<Archive, ArchiveError> {
    read(input, limits, &mut Nowhere)
}

/// Where entries go.
pub(super) trait Sink<E> {
    /// The next entry. What of its content is not read here is skipped.
    fn entry(&mut self, entry: &Entry, data: &mut Data<'_, '_>) -> Result<(), E>;
    /// All of a directory has come.
    fn leave(&mut self, directory: &Entry) -> Result<(), E>;
}

struct Nowhere;

impl Sink<ArchiveError> for Nowhere {
    fn entry(&mut self, _: &Entry, _: &mut Data<'_, '_>) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn leave(&mut self, _: &Entry) -> Result<(), ArchiveError> {
        Ok(())
    }
}

/// Reads an archive, giving its entries to a sink.
pub(super) fn read<E: From<ArchiveError>>(
    input: &mut dyn Read,
    limits: ArchiveLimits,
    sink: &mut dyn Sink<E>,
) -> Result<Archive, E> {
    let mut input = Input {
        inner: input,
        at: 0,
        sum: Sha256::new(),
        limit: limits.bytes,
    };
    let first = input.own(MANIFEST, MAX_OWN).map_err(|e| match e {
        ArchiveError::Header { at: 0, .. } | ArchiveError::Cut { .. } if input.at <= 512 => {
            ArchiveError::NotOne { expected: MANIFEST }
        }
        other => other,
    })?;
    let manifest = Manifest::of(&first)?;
    check_manifest(&manifest)?;
    let originals = originals_of(&input.own(ORIGINALS, MAX_ORIGINALS)?)?;
    check_originals(&manifest, &originals, limits)?;
    let mut order = Order {
        parts: manifest.layers.len(),
        limits,
        frames: Vec::new(),
        files: HashMap::new(),
        entries: Vec::new(),
    };
    let (digest, proof) = loop {
        let before = input.sum.clone();
        let head = input.head()?;
        let head = head.ok_or(ArchiveError::Cut { at: input.at })?;
        if head.name == PROOF.as_bytes() {
            let proof = input.rest_of_own(PROOF, MAX_OWN, &head)?;
            break (hex(&before.finalize()), proof);
        }
        order.next(head, &mut input, sink)?;
    };
    order.leave_until(None, sink)?;
    input.end()?;
    let mut counts = vec![0u64; manifest.layers.len()];
    order.entries.iter().for_each(|e| counts[e.part] += 1);
    if manifest
        .layers
        .iter()
        .zip(&counts)
        .any(|(l, n)| l.entries != *n)
    {
        return Err(own(MANIFEST, "the number of entries is not what it says").into());
    }
    Ok(Archive {
        manifest,
        originals,
        entries: order.entries,
        digest,
        proof,
        limits,
    })
}

fn own(member: &'static str, what: &str) -> ArchiveError {
    ArchiveError::Own {
        member,
        what: what.to_owned(),
    }
}

fn check_manifest(manifest: &Manifest) -> Result<(), ArchiveError> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ArchiveError::Limit {
            what: "layers",
            limit: MAX_LAYERS as u64,
            found: manifest.layers.len() as u64,
        });
    }
    for part in &manifest.layers {
        let plain = |path: &Path| {
            path.components()
                .all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
        };
        let right = plain(&part.path) && part.path.is_absolute() == (part.place == Place::Absolute);
        if !right || !plain(&part.root) || !part.root.is_absolute() {
            return Err(own(MANIFEST, "the place of a layer is none"));
        }
    }
    Ok(())
}

fn check_originals(
    manifest: &Manifest,
    originals: &[Original],
    limits: ArchiveLimits,
) -> Result<(), ArchiveError> {
    if originals.len() as u64 > limits.originals {
        return Err(ArchiveError::Limit {
            what: "originals",
            limit: limits.originals,
            found: originals.len() as u64,
        });
    }
    let mut counts = vec![0u64; manifest.layers.len()];
    for original in originals {
        let count = counts.get_mut(original.layer);
        *count.ok_or_else(|| own(ORIGINALS, "it names a layer that is not there"))? += 1;
    }
    match manifest
        .layers
        .iter()
        .zip(&counts)
        .all(|(l, n)| l.originals == *n)
    {
        true => Ok(()),
        false => Err(own(
            ORIGINALS,
            "the number of lines is not what the manifest says",
        )),
    }
}

/// The bytes, counted and summed.
pub(super) struct Input<'a> {
    inner: &'a mut dyn Read,
    at: u64,
    sum: Sha256,
    limit: u64,
}

impl Input<'_> {
    /// Fills a buffer from the file, or says that it ended; `false` if it ended at once.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, ArchiveError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.inner.read(&mut buffer[done..]) {
                Ok(0) if done == 0 => return Ok(false),
                Ok(0) => {
                    let at = self.at + done as u64;
                    return Err(ArchiveError::Cut { at });
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    let at = self.at + done as u64;
                    return Err(ArchiveError::Read { at, source });
                }
            }
        }
        self.at += done as u64;
        if self.at > self.limit {
            return Err(ArchiveError::Limit {
                what: "bytes",
                limit: self.limit,
                found: self.at,
            });
        }
        self.sum.update(&*buffer);
        Ok(true)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            true => Ok(block),
            false => Err(ArchiveError::Cut { at: self.at }),
        }
    }

    /// The head of the next member; `None` for a block of zeros.
    fn head(&mut self) -> Result<Option<Head>, ArchiveError> {
        let at = self.at;
        let mut header = self.block()?;
        if header.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let mut raw = header.to_vec();
        let pax = match Head::pax_length(at, &header)? {
            None => None,
            Some(length) => {
                let start = raw.len();
                while ((raw.len() - start) as u64) < length {
                    raw.extend(self.block()?);
                }
                header = self.block()?;
                raw.extend(header);
                Some(start..start + length as usize)
            }
        };
        let pax = pax.map(|range| &raw[range]);
        Head::of(at, &header, pax, &raw).map(Some)
    }

    /// One of the archive's own members.
    fn own(&mut self, name: &'static str, most: u64) -> Result<Vec<u8>, ArchiveError> {
        let at = self.at;
        let head = self.head()?.ok_or(ArchiveError::Cut { at })?;
        self.rest_of_own(name, most, &head)
    }

    fn rest_of_own(
        &mut self,
        name: &'static str,
        most: u64,
        head: &Head,
    ) -> Result<Vec<u8>, ArchiveError> {
        if head.name != name.as_bytes() {
            if name == MANIFEST {
                return Err(ArchiveError::NotOne { expected: name });
            }
            return Err(own(name, "another member is in its place"));
        }
        if *head != Head::own(name, head.size) {
            return Err(own(
                name,
                "its head is not that of a member of the archive's own",
            ));
        }
        if head.size > most {
            return Err(ArchiveError::Limit {
                what: "bytes in a member of its own",
                limit: most,
                found: head.size,
            });
        }
        let mut out = Vec::new();
        let mut data = Data {
            input: self,
            left: head.size,
        };
        let mut buffer = [0; 1 << 14];
        loop {
            match data.next(&mut buffer)? {
                0 => break,
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
        self.pad()?;
        Ok(out)
    }

    /// The zeros up to the next block.
    fn pad(&mut self) -> Result<(), ArchiveError> {
        let over = (self.at % BLOCK as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        let at = self.at;
        let mut rest = vec![0; BLOCK - over];
        match self.fill(&mut rest)? {
            true if rest.iter().all(|b| *b == 0) => Ok(()),
            true => Err(ArchiveError::Extra { at }),
            false => Err(ArchiveError::Cut { at }),
        }
    }

    /// Two blocks of zeros, and then nothing.
    fn end(&mut self) -> Result<(), ArchiveError> {
        for _ in 0..2 {
            let at = self.at;
            if self.block()?.iter().any(|b| *b != 0) {
                return Err(ArchiveError::Extra { at });
            }
        }
        let at = self.at;
        match self.fill(&mut [0])? {
            true => Err(ArchiveError::Extra { at }),
            false => Ok(()),
        }
    }
}

/// The content of one member.
pub(super) struct Data<'a, 'b> {
    input: &'a mut Input<'b>,
    left: u64,
}

impl Data<'_, '_> {
    /// Fills the buffer as far as there is content; 0 at its end.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let n = self.left.min(buffer.len() as u64) as usize;
        if n == 0 {
            return Ok(0);
        }
        let at = self.input.at;
        if !self.input.fill(&mut buffer[..n])? {
            return Err(ArchiveError::Cut { at });
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// The map before the data of a sparse file.
    fn map(&mut self, size: u64) -> Result<Map, ArchiveError> {
        let at = self.input.at;
        let wrong = |what| ArchiveError::Header { at, what };
        let mut raw = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut parsed = 0;
        loop {
            while let Some(end) = raw[parsed..].iter().position(|b| *b == b'\n') {
                let number = decimal(&raw[parsed..parsed + end]);
                numbers.push(number.ok_or(wrong("a number in a map of data is none"))?);
                parsed += end + 1;
                let done = numbers[0].checked_mul(2).map(|n| n.saturating_add(1));
                if done == Some(numbers.len() as u64) {
                    return self.checked(&numbers, &raw, size, at);
                }
            }
            let pieces = numbers.first().copied().unwrap_or_default();
            if pieces > MAX_PIECES as u64 + 1 || raw.len() - parsed > BLOCK {
                return Err(wrong("a map of data is too long"));
            }
            let mut block = [0; BLOCK];
            if self.next(&mut block)? < BLOCK {
                return Err(wrong("a map of data is cut off"));
            }
            raw.extend(block);
        }
    }

    fn checked(
        &self,
        numbers: &[u64],
        raw: &[u8],
        size: u64,
        at: u64,
    ) -> Result<Map, ArchiveError> {
        let wrong = |what| ArchiveError::Header { at, what };
        let mut map = Map::new();
        let mut end = 0;
        for pair in numbers[1..].chunks_exact(2) {
            let (start, length) = (pair[0], pair[1]);
            if (start, length) == (size, 0) {
                continue;
            }
            let next = start.checked_add(length).filter(|next| *next <= size);
            let next = next.ok_or(wrong("a piece of data lies beyond its file"))?;
            let apart = map.is_empty() || start > end;
            let whole = start.is_multiple_of(CONTENT_BLOCK)
                && (length.is_multiple_of(CONTENT_BLOCK) || next == size);
            if !apart || !whole || length == 0 {
                return Err(wrong(
                    "pieces of data are not in order, or not of whole blocks",
                ));
            }
            map.insert(start, length);
            end = next;
        }
        if map.values().sum::<u64>() != self.left {
            return Err(wrong("a map of data does not fit the data"));
        }
        match map_bytes(&map, size) == raw {
            true => Ok(map),
            false => Err(wrong("it is not in the one form that is written")),
        }
    }
}

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
struct Order {
    parts: usize,
    limits: ArchiveLimits,
    frames: Vec<Frame>,
    /// Files of the present layer, for links to them.
    files: HashMap<Vec<u8>, usize>,
    entries: Vec<Entry>,
}

impl Order {
    fn next<E: From<ArchiveError>>(
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
        let mut data = Data {
            input,
            left: head.size,
        };
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
    fn leave_until<E>(&mut self, dir: Option<&[u8]>, sink: &mut dyn Sink<E>) -> Result<(), E> {
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
