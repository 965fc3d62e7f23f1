//! Writing an archive: manifest, originals, entries, and a proof of all before it.
//!
//! Everything but the proof follows from the layers and their originals alone: names are in order, owners
//! are numbers, nothing has the time of the export. So the digest of these bytes can be sealed by whoever
//! exports, and the seal put behind them.

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::fs::fstat;
use sha2::{Digest as _, Sha256};

use super::contents::{Manifest, Part, Place, originals_bytes};
use super::format::{BLOCK, Head, Map, Type, map_bytes};
use super::gather::{Gathered, archive_name, gather};
use super::{
    ARCHIVE_VERSION, ArchiveLimits, Entry, Kind, LAYER, LeftOut, MANIFEST, OPAQUE, ORIGINALS,
    PROOF, shown,
};
use crate::content::{BLOCK as CONTENT_BLOCK, each_block, hex, read_full};
use crate::dir::{Snapshot, Tree, join, open_private, split};
use crate::layer::Layer;
use crate::scan::{ScanError, absolute, scan};

/// Zeros in whole blocks from which on a file is stored without them.
const HOLES: u64 = 1 << 20;
/// Most pieces of data in such a file; one with more is stored as it is.
pub(super) const MAX_PIECES: usize = 1 << 18;
/// Longest manifest or proof.
pub(super) const MAX_OWN: u64 = 1 << 20;

/// What to export.
#[derive(Debug)]
pub struct What<'a> {
    /// The session's id.
    pub session: &'a str,
    /// The agent's name.
    pub name: &'a str,
    /// The layers, unmounted.
    pub layers: &'a [Layer],
    /// For each of them what its root is elsewhere, as in [`Part`].
    pub places: &'a [(Place, PathBuf)],
    /// What of the session is not among them.
    pub left_out: Vec<LeftOut>,
}

/// How to export.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ExportOptions {
    /// Also files with set-id bits or capabilities.
    pub privileges: bool,
    /// How much at most.
    pub limits: ArchiveLimits,
}

/// An archive but for its proof.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// SHA-256 of all bytes before the head of the proof, lower-case hex.
    pub digest: &'a str,
}

/// An archive that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Its manifest.
    pub manifest: Manifest,
    /// As [`Sealed::digest`].
    pub digest: String,
    /// Its length.
    pub bytes: u64,
    /// Originals that changed since the session began: they will be conflicts wherever it is imported.
    pub unknown: u64,
}

/// Why a session is not exported. What was written so far is no archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The layers or their originals cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A device, or an overlay attribute that the kernel did not write.
    #[error(
        "{} is a device or has overlay attributes that the kernel did not write: no archive takes it; \
         drop it with 'agentwall discard SESSION -- PATH'",
        shown(path)
    )]
    Special {
        /// The path in the original tree.
        path: PathBuf,
    },
    /// Set-id bits or capabilities, which were not asked for.
    #[error(
        "{} has set-id bits or capabilities; look at it with 'agentwall diff', then drop it or export \
         with --privileges",
        shown(path)
    )]
    Privileged {
        /// The path in the original tree.
        path: PathBuf,
    },
    /// A name that means a deletion in an archive.
    #[error(
        "{} begins with '.wh.', which in an archive means that the rest of the name was deleted; rename \
         or drop it, then export again",
        shown(path)
    )]
    Name {
        /// The path in the original tree.
        path: PathBuf,
    },
    /// More than an import takes.
    #[error("the session has more {what} than an archive takes ({limit})")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is taken.
        limit: u64,
    },
    /// The session's copy changed while it was written.
    #[error(
        "{} changed while it was exported; end the session, then export again",
        shown(path)
    )]
    Changed {
        /// The path in the original tree.
        path: PathBuf,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[from] io::Error),
    /// There is no proof.
    #[error("cannot prove the archive: {0}")]
    Proof(Box<dyn Error + Send + Sync>),
}

/// How an archive is sealed: gives the bytes of its proof.
pub type Seal<'a> = dyn FnMut(&Sealed<'_>) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> + 'a;

/// Writes layers as an archive. `seal` is called once, when all but the proof is written.
///
/// # Errors
/// See [`ExportError`].
pub fn export(
    out: &mut dyn Write,
    what: &What<'_>,
    options: &ExportOptions,
    seal: &mut Seal<'_>,
) -> Result<Exported, ExportError> {
    let set = scan(what.layers)?;
    let limits = options.limits;
    let mut manifest = Manifest {
        agentwall_layer: ARCHIVE_VERSION,
        session: what.session.to_owned(),
        name: what.name.to_owned(),
        changes: set.digest.clone(),
        layers: Vec::new(),
        left_out: what.left_out.clone(),
    };
    let (mut gathered, mut originals) = (Vec::new(), Vec::new());
    for (part, (layer, (place, path))) in what.layers.iter().zip(what.places).enumerate() {
        let mut found = gather(layer, part, &set)?;
        check(layer, &found, options)?;
        let owner = found.upper.stat(b"").ok().flatten();
        manifest.layers.push(Part {
            root: layer.root.clone(),
            place: *place,
            path: path.clone(),
            owner: owner.map_or((0, 0), |o| (o.uid, o.gid)),
            entries: found.entries.len() as u64,
            originals: found.originals.len() as u64,
        });
        manifest.left_out.append(&mut found.left_out);
        originals.append(&mut found.originals);
        gathered.push((layer, found));
    }
    let within = |what, limit: u64, found: u64| match found <= limit {
        true => Ok(()),
        false => Err(ExportError::Limit { what, limit }),
    };
    let entries = manifest.layers.iter().map(|l| l.entries).sum();
    within("entries", limits.entries, entries)?;
    within("originals", limits.originals, originals.len() as u64)?;
    let unknown = originals.iter().filter(|o| o.was.is_none()).count() as u64;
    let front = manifest.to_bytes();
    within("bytes in its manifest", MAX_OWN, front.len() as u64)?;

    let mut out = Output {
        inner: out,
        sum: Sha256::new(),
        at: 0,
        limit: limits.bytes,
    };
    out.own(MANIFEST, &front)?;
    out.own(ORIGINALS, &originals_bytes(&originals))?;
    drop(originals);
    for (layer, found) in &gathered {
        for entry in &found.entries {
            out.entry(entry, layer, &found.upper)?;
        }
    }
    let digest = hex(&out.sum.clone().finalize());
    let proof = seal(&Sealed {
        manifest: &manifest,
        digest: &digest,
    })
    .map_err(ExportError::Proof)?;
    within("bytes in its proof", MAX_OWN, proof.len() as u64)?;
    out.own(PROOF, &proof)?;
    out.put(&[0; 2 * BLOCK])?;
    out.inner.flush()?;
    Ok(Exported {
        manifest,
        digest,
        bytes: out.at,
        unknown,
    })
}

fn check(layer: &Layer, found: &Gathered, options: &ExportOptions) -> Result<(), ExportError> {
    let limits = options.limits;
    for entry in &found.entries {
        if entry.is_privileged() && !options.privileges {
            return Err(ExportError::Privileged {
                path: absolute(&layer.root, &entry.rel),
            });
        }
        let too_long = |what, limit| Err(ExportError::Limit { what, limit });
        match &entry.kind {
            Kind::File { size, .. } if *size > limits.file => {
                return too_long("bytes in one file", limits.file);
            }
            _ => {}
        }
        if entry.rel.len() > limits.path {
            return too_long("bytes in one path", limits.path as u64);
        }
        if entry.rel.split(|b| *b == b'/').count() > limits.depth {
            return too_long("names in one path", limits.depth as u64);
        }
    }
    Ok(())
}

struct Output<'a> {
    inner: &'a mut dyn Write,
    sum: Sha256,
    at: u64,
    limit: u64,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.at += bytes.len() as u64;
        if self.at > self.limit {
            return Err(ExportError::Limit {
                what: "bytes",
                limit: self.limit,
            });
        }
        self.sum.update(bytes);
        Ok(self.inner.write_all(bytes)?)
    }

    fn pad(&mut self) -> Result<(), ExportError> {
        let over = (self.at % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            n => self.put(&[0; BLOCK][n..]),
        }
    }

    fn own(&mut self, name: &str, content: &[u8]) -> Result<(), ExportError> {
        self.put(&Head::own(name, content.len() as u64).to_bytes())?;
        self.put(content)?;
        self.pad()
    }

    fn entry(&mut self, entry: &Entry, layer: &Layer, upper: &Tree) -> Result<(), ExportError> {
        let mut head = head_of(entry);
        if let Kind::File { size, .. } = entry.kind {
            return self.file(head, size, entry, layer, upper);
        }
        self.put(&head.to_bytes())?;
        if let Kind::Directory { opaque: true } = entry.kind {
            head = whiteout([head.name.as_slice(), OPAQUE].concat());
            self.put(&head.to_bytes())?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        mut head: Head,
        size: u64,
        entry: &Entry,
        layer: &Layer,
        upper: &Tree,
    ) -> Result<(), ExportError> {
        let path = || absolute(&layer.root, &entry.rel);
        let fail = |e: rustix::io::Errno| {
            ExportError::Scan(ScanError::Entry {
                path: path(),
                source: e.into(),
            })
        };
        let dir = upper.parent(&entry.rel).map_err(fail)?;
        let fd = open_private(&dir, split(&entry.rel).1, false).map_err(fail)?;
        let before = Snapshot::new(&fstat(&fd).map_err(fail)?);
        if (before.size, before.mtime) != (size, entry.mtime) {
            return Err(ExportError::Changed { path: path() });
        }
        let map = data_of(&fd, size).map_err(fail)?;
        let whole = Map::from([(0, size)]);
        let (front, pieces) = match &map {
            Some(map) => {
                head.sparse = Some(size);
                (map_bytes(map, size), map)
            }
            None => (Vec::new(), &whole),
        };
        head.size = front.len() as u64 + pieces.values().sum::<u64>();
        self.put(&head.to_bytes())?;
        self.put(&front)?;
        let mut buffer = vec![0; 1 << 16];
        for (at, length) in pieces {
            let mut done = 0;
            while done < *length {
                let want = (length - done).min(buffer.len() as u64) as usize;
                let n = read_full(fd.as_fd(), &mut buffer[..want], at + done).map_err(fail)?;
                if n < want {
                    return Err(ExportError::Changed { path: path() });
                }
                self.put(&buffer[..n])?;
                done += n as u64;
            }
        }
        self.pad()?;
        let after = Snapshot::new(&fstat(&fd).map_err(fail)?);
        match before.same_object(&after) {
            true => Ok(()),
            false => Err(ExportError::Changed { path: path() }),
        }
    }
}

/// The map of a file that is stored without its zeros: whole blocks that hold anything else. It follows
/// from the content, not from where the file system has holes.
fn data_of(fd: &OwnedFd, size: u64) -> Result<Option<Map>, rustix::io::Errno> {
    if size < HOLES {
        return Ok(None);
    }
    let mut map = Map::new();
    let mut stored = 0;
    each_block(fd.as_fd(), size, |block, _| {
        let start = block * CONTENT_BLOCK;
        let end = (start + CONTENT_BLOCK).min(size);
        stored += end - start;
        match map.last_entry() {
            Some(mut last) if last.key() + *last.get() == start => *last.get_mut() += end - start,
            _ => drop(map.insert(start, end - start)),
        }
    })?;
    let sparse = size - stored >= HOLES && map.len() <= MAX_PIECES;
    Ok(sparse.then_some(map))
}

/// A member that says that something is gone.
pub(super) fn whiteout(name: Vec<u8>) -> Head {
    Head {
        mode: 0,
        name,
        ..Head::own("", 0)
    }
}

/// The directory of a layer in the archive.
pub(super) fn folder(part: usize) -> Vec<u8> {
    format!("{LAYER}{part}").into_bytes()
}

/// The head of an entry; of a file without its length.
pub(super) fn head_of(entry: &Entry) -> Head {
    let dir = join(&folder(entry.part), split(&entry.rel).0);
    let dir = dir.strip_suffix(b"/").unwrap_or(&dir);
    let mut name = join(dir, &archive_name(entry));
    let mut head = Head {
        kind: Type::File,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        ..Head::own("", 0)
    };
    match &entry.kind {
        Kind::Directory { .. } => {
            name.push(b'/');
            head.kind = Type::Directory;
        }
        Kind::File { .. } => {}
        Kind::Link { to } => {
            head.kind = Type::Link;
            head.link = join(&folder(entry.part), to);
            head.xattrs.clear();
        }
        Kind::Symlink { target } => {
            head.kind = Type::Symlink;
            head.link.clone_from(target);
        }
        Kind::Fifo => head.kind = Type::Fifo,
        Kind::Whiteout => return whiteout(name),
    }
    head.name = name;
    head
}
