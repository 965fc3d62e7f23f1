//! Writing an archive: manifest, originals, entries, and a proof of all before it.
//!
//! Everything but the proof follows from the layers and their originals alone: names are in order, owners
//! are numbers, nothing has the time of the export. So the digest of these bytes can be sealed by whoever
//! exports, and the seal put behind them.

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::Digest as _;

use super::contents::{Manifest, Part, Place, originals_bytes};
use super::gather::{Gathered, gather};
use super::output::{MAX_OWN, Output};
use super::{ARCHIVE_VERSION, ArchiveLimits, Kind, LeftOut, MANIFEST, ORIGINALS, PROOF, shown};
use crate::change::ChangeSet;
use crate::commit::below_root;
use crate::content::hex;
use crate::layer::Layer;
use crate::scan::{ScanError, absolute, open_upper, scan};

/// What to export.
#[derive(Debug)]
pub struct What<'a> {
    /// The session's id.
    pub session: &'a str,
    /// The agent's name.
    pub name: &'a str,
    /// Its layers, unmounted, or folders of them.
    pub pieces: &'a [Piece<'a>],
    /// What of the session is not among them.
    pub left_out: Vec<LeftOut>,
}

/// A layer, or a folder of one: what becomes a layer of the archive.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    /// The layer.
    pub layer: &'a Layer,
    /// The folder below its root; empty for all of it.
    pub below: PathBuf,
    /// What the folder is elsewhere, as in [`Part`].
    pub place: Place,
    /// Where below that place, as in [`Part`].
    pub path: PathBuf,
}

impl Piece<'_> {
    /// The folder.
    pub(super) fn root(&self) -> PathBuf {
        absolute(&self.layer.root, self.below.as_os_str().as_bytes())
    }
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
    /// The session made the folder that is to be exported anew, or something above it.
    #[error(
        "the session replaced {} or a folder above it, so its changes are no longer changes of that \
         folder; export the whole layer with --all",
        shown(path)
    )]
    Anew {
        /// The folder.
        path: PathBuf,
    },
    /// There are no changes.
    #[error("it changed nothing there")]
    Nothing,
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
    let set = changes(what)?;
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
    for (part, piece) in what.pieces.iter().enumerate() {
        let root = piece.root();
        let mut found = gather(piece, part, &set)?;
        check(&root, &found, options)?;
        // The folder itself may be a copy with an owner of its own.
        let owner = open_upper(piece.layer)?.stat(b"").ok().flatten();
        manifest.layers.push(Part {
            root: root.clone(),
            place: piece.place,
            path: piece.path.clone(),
            owner: owner.map_or((0, 0), |o| (o.uid, o.gid)),
            entries: found.entries.len() as u64,
            originals: found.originals.len() as u64,
        });
        manifest.left_out.append(&mut found.left_out);
        originals.append(&mut found.originals);
        gathered.push((root, found));
    }
    let within = |what, limit: u64, found: u64| match found <= limit {
        true => Ok(()),
        false => Err(ExportError::Limit { what, limit }),
    };
    let entries = manifest.layers.iter().map(|l| l.entries).sum();
    if entries == 0 {
        return Err(ExportError::Nothing);
    }
    within("entries", limits.entries, entries)?;
    within("originals", limits.originals, originals.len() as u64)?;
    let unknown = originals.iter().filter(|o| o.was.is_none()).count() as u64;
    let front = manifest.to_bytes();
    within("bytes in its manifest", MAX_OWN, front.len() as u64)?;

    let mut out = Output::new(out, limits.bytes);
    out.own(MANIFEST, &front)?;
    out.own(ORIGINALS, &originals_bytes(&originals))?;
    drop(originals);
    for (root, found) in &gathered {
        let upper = found.upper.as_ref();
        for (entry, upper) in found.entries.iter().zip(std::iter::repeat(upper).flatten()) {
            out.entry(entry, root, upper)?;
        }
    }
    let digest = hex(&out.sum().finalize());
    let proof = seal(&Sealed {
        manifest: &manifest,
        digest: &digest,
    })
    .map_err(ExportError::Proof)?;
    within("bytes in its proof", MAX_OWN, proof.len() as u64)?;
    out.own(PROOF, &proof)?;
    let bytes = out.end()?;
    Ok(Exported {
        manifest,
        digest,
        bytes,
        unknown,
    })
}

/// The changes of what is exported, and their digest.
fn changes(what: &What<'_>) -> Result<ChangeSet, ExportError> {
    let layers: Vec<Layer> = what.pieces.iter().map(|p| p.layer.clone()).collect();
    let roots: Vec<PathBuf> = what.pieces.iter().map(Piece::root).collect();
    let mut changes = scan(&layers)?.changes;
    changes.retain(|c| {
        let root = roots.get(c.layer);
        root.is_some_and(|root| below_root(root, &c.path).is_some())
    });
    Ok(ChangeSet::new(changes))
}

fn check(root: &Path, found: &Gathered, options: &ExportOptions) -> Result<(), ExportError> {
    let limits = options.limits;
    for entry in &found.entries {
        if entry.is_privileged() && !options.privileges {
            return Err(ExportError::Privileged {
                path: absolute(root, &entry.rel),
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
