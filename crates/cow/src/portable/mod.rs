//! Layers that travel: a session's changes as one tar file, and that file as a session elsewhere.
//!
//! The archive (`docs/layer-archive.md`) holds what the session wrote, what each original that it
//! touched was, and a proof of whoever made it. On another machine inode numbers mean nothing, so there
//! an original is the one of the archive if its kind and content are; what differs is written down
//! beside the new layer ([`Differences`]) and is a conflict in every scan from then on.
//!
//! | module | does |
//! |---|---|
//! | `format` | heads of members, in their one encoding |
//! | `contents` | the archive's own members: manifest and originals |
//! | `gather`, `originals` | what of a layer goes into an archive, and what that touches |
//! | `write`, `output` | writes one |
//! | `read`, `order`, `input` | reads one and believes nothing: the whole, which member may come, the bytes |
//! | `compare` | originals here beside those of the archive |
//! | `unpack` | fills an upper directory |
//! | `differences` | the file beside a layer that says which originals are others |
//!
//! # Invariants
//! * The same layer over the same originals gives the same bytes up to the proof.
//! * Reading writes nothing, and unpacking writes below the upper directories alone, through their
//!   descriptors, only names that did not exist.
//! * Devices and unknown overlay attributes are never in an archive; set-id bits and capabilities only
//!   when they were asked for, on both sides.

mod compare;
mod contents;
mod differences;
mod format;
mod gather;
mod input;
mod order;
mod originals;
mod output;
mod plain;
mod read;
mod unpack;
mod write;

use std::io;
use std::path::PathBuf;

pub use compare::{Difference, Found};
pub use contents::{LeftOut, Manifest, Part, Place};
pub use plain::{PlainArchive, read_plain};
pub use read::{Archive, inspect};
pub use unpack::{ImportError, ImportOptions, Unpacked, unpack};
pub use write::{ExportError, ExportOptions, Exported, Piece, Sealed, What, export};

pub(crate) use differences::{Differences, DifferencesError};

/// The version of the archive that is written and read here.
pub const ARCHIVE_VERSION: u32 = 1;

/// How much an archive may hold. An export keeps within the same limits, so it can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveLimits {
    /// Most members, the archive's own left out.
    pub entries: u64,
    /// Most originals.
    pub originals: u64,
    /// Most bytes of the whole archive.
    pub bytes: u64,
    /// Longest file, holes counted.
    pub file: u64,
    /// Longest path below a layer's root, in bytes.
    pub path: usize,
    /// Most names in a path.
    pub depth: usize,
}

impl Default for ArchiveLimits {
    /// One million members and originals, 64 GiB, files of 16 TiB, paths of 16 KiB and 1,000 names.
    fn default() -> ArchiveLimits {
        ArchiveLimits {
            entries: 1_000_000,
            originals: 1_000_000,
            bytes: 64 << 30,
            file: 16 << 40,
            path: 16 << 10,
            depth: 1000,
        }
    }
}

/// Why a file is not taken as a layer archive. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file cannot be read.
    #[error("cannot read at byte {at}: {source}")]
    Read {
        /// How much was read.
        at: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// It ends early.
    #[error("it ends at byte {at}, in the middle of a layer archive; copy or export it again")]
    Cut {
        /// Where.
        at: u64,
    },
    /// The head of a member.
    #[error("the head of the member at byte {at}: {what}; copy or export the archive again")]
    Header {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Something stands where nothing may: in the padding of a member, or after the end.
    #[error("there is something at byte {at}, where nothing belongs; copy or export it again")]
    Extra {
        /// Where.
        at: u64,
    },
    /// Its first member is not a manifest.
    #[error("it does not begin with {expected:?}: it is no layer archive of 'agentwall export'")]
    NotOne {
        /// The name of the first member.
        expected: &'static str,
    },
    /// Written by another version.
    #[error("it has version {found}, and this program reads version {ARCHIVE_VERSION}; update it")]
    Version {
        /// The version it names.
        found: u64,
    },
    /// One of the archive's own members.
    #[error("its member {member:?}: {what}; export it again")]
    Own {
        /// The member.
        member: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A member that a layer cannot have.
    #[error("its member {name:?}: {what}; no 'agentwall export' writes that, so do not trust it")]
    Entry {
        /// The name, escaped.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// More than is taken.
    #[error(
        "it has more {what} than {limit} (found {found}); export a smaller part of the session"
    )]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is taken.
        limit: u64,
        /// How much there is, as far as it was looked at.
        found: u64,
    },
}

/// One object of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Index into [`Manifest::layers`].
    pub part: usize,
    /// Path below the layer's root.
    pub rel: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: crate::layer::Timestamp,
    pub xattrs: crate::content::Xattrs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory {
        opaque: bool,
    },
    File {
        /// With holes.
        size: u64,
        /// Where its data lies, if only that is stored.
        map: Option<format::Map>,
    },
    /// Another name of a file before it.
    Link {
        to: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Whiteout,
}

impl Entry {
    /// Rights that pass only when they were asked for.
    fn is_privileged(&self) -> bool {
        let file = matches!(self.kind, Kind::File { .. } | Kind::Link { .. });
        file && (self.mode & 0o6000 != 0 || self.xattrs.contains_key(crate::content::CAPABILITY))
    }
}

/// The first member.
const MANIFEST: &str = "agentwall-layer.json";
/// The second.
const ORIGINALS: &str = "originals.jsonl";
/// The last.
const PROOF: &str = "proof.json";
/// Before the names of objects: `layer/N/…`.
const LAYER: &str = "layer/";
/// Before the name of what was deleted (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// In a directory that hides its original.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path for a message.
fn shown(path: impl Into<PathBuf>) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    agentwall_action::escape_bytes(path.into().as_os_str().as_bytes())
}
