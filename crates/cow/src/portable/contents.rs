//! The archive's own members: the manifest at its front and the originals after it.
//!
//! Both are JSON in the one spelling that serialising them gives; what reads back to other bytes is
//! refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ARCHIVE_VERSION, ArchiveError, MANIFEST, ORIGINALS};
use crate::dir::EntryKind;
use crate::layer::Timestamp;

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`ARCHIVE_VERSION`].
    pub agentwall_layer: u32,
    /// The session's id where it was made.
    pub session: String,
    /// The agent's name there.
    pub name: String,
    /// The digest of the change set there.
    pub changes: String,
    /// The layers, in the order of the session.
    pub layers: Vec<Part>,
    /// What of the session is not in the archive.
    pub left_out: Vec<LeftOut>,
}

/// One layer of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The original tree where it was made.
    #[serde(with = "crate::bytes::path")]
    pub root: PathBuf,
    /// What `path` is relative to.
    pub place: Place,
    /// Where the tree is below that place; empty: there itself. Absolute for [`Place::Absolute`].
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// Owner and group of the upper directory: who the session belonged to.
    pub owner: (u32, u32),
    /// Number of members.
    pub entries: u64,
    /// Number of originals.
    pub originals: u64,
}

/// Where the tree of a layer is, in terms that another machine has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the workspace.
    Workspace,
    /// In the home folder.
    Home,
    /// Elsewhere.
    Absolute,
}

/// Something of a session that an archive cannot hold, or was not asked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// A path in an original tree, or the root of one.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// What an original was that the session touched. A path without one had none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Original {
    /// Index into [`Manifest::layers`].
    pub layer: usize,
    #[serde(with = "crate::bytes::raw")]
    pub path: Vec<u8>,
    /// Absent where it is not known: it had changed when the archive was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<Was>,
}

/// An original, by what another machine can compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Was {
    pub kind: EntryKind,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Bytes of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Content of a file, as [`Change::content`](crate::Change::content).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// SHA-256 over the attributes of a file or directory, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<String>,
    /// Target of a symlink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Modification time of a file whose content the session left: one that the session did not change
    /// stays as it is elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Target(#[serde(with = "crate::bytes::raw")] pub Vec<u8>);

impl Manifest {
    /// The bytes of the member.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        line(self)
    }

    pub(super) fn of(bytes: &[u8]) -> Result<Manifest, ArchiveError> {
        let own = |what: String| ArchiveError::Own {
            member: MANIFEST,
            what,
        };
        let value: Value = serde_json::from_slice(bytes).map_err(|e| own(told(&e)))?;
        match value.get("agentwall_layer").and_then(Value::as_u64) {
            Some(v) if v == u64::from(ARCHIVE_VERSION) => {}
            Some(found) => return Err(ArchiveError::Version { found }),
            None => return Err(own("it names no version".into())),
        }
        read_line(bytes).map_err(own)
    }
}

/// The bytes of the member that lists the originals: one a line.
pub(super) fn originals_bytes(originals: &[Original]) -> Vec<u8> {
    originals.iter().flat_map(line).collect()
}

/// Reads them; they are in the order of layers and paths.
pub(super) fn originals_of(bytes: &[u8]) -> Result<Vec<Original>, ArchiveError> {
    let mut out: Vec<Original> = Vec::new();
    for (n, text) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let own = |what: String| ArchiveError::Own {
            member: ORIGINALS,
            what: format!("line {}: {what}", n + 1),
        };
        let next: Original = read_line(text).map_err(own)?;
        if !is_plain(&next.path) {
            return Err(own("its path is not plainly below a layer's root".into()));
        }
        let key = |o: &Original| (o.layer, components(&o.path));
        if out.last().is_some_and(|last| key(last) >= key(&next)) {
            return Err(own("the paths are not in order".into()));
        }
        out.push(next);
    }
    Ok(out)
}

/// A path whose names are compared one by one: a directory comes right before what is in it.
pub(super) fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
}

/// Names between single slashes, none of them `.` or `..`, without NUL and none longer than a file
/// system takes.
pub(super) fn is_plain(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').all(|name| {
        !name.is_empty() && name != b"." && name != b".." && name.len() <= 255 && !name.contains(&0)
    })
}

/// One JSON value and a newline.
fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Structs of strings and numbers always serialise.
    let mut out = serde_json::to_vec(value).unwrap_or_default();
    out.push(b'\n');
    out
}

fn read_line<T: Serialize + for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    let value = serde_json::from_slice(bytes).map_err(|e| told(&e))?;
    match line(&value) == bytes {
        true => Ok(value),
        false => Err("it is not in the one form that is written".into()),
    }
}

/// What is wrong with JSON, for a person: the message quotes words of the file.
fn told(error: &serde_json::Error) -> String {
    agentwall_action::escape_text(&error.to_string())
}
