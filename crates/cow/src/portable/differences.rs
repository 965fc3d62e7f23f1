//! Beside an imported layer (`UPPER.differences`): which originals here are not those of the archive.
//!
//! Written when the layer is filled, and read by every scan: for it they count as changed by somebody
//! else, or as taken away. It names paths and no inodes, so it holds for whatever lies there. A file
//! that is there and cannot be believed is an error, as a base manifest is.

use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layer::Layer;
use crate::record::Rel;

/// Why the file beside an imported layer is not believed.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot believe {path:?}, which says where the originals differ from those of the imported layer: \
     {source}; import the layer again"
)]
pub struct DifferencesError {
    /// The file.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// Originals that are not what the layer was made on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Differences {
    version: u32,
    /// Others than in the archive, or there although the archive had none.
    pub changed: BTreeSet<Rel>,
    /// Not there, although the archive had one.
    pub missing: BTreeSet<Rel>,
}

const VERSION: u32 = 1;

/// Paths below a layer's root at which the original here is not the one that an imported layer was made
/// on: what the base manifest has there is the base of no merge. Empty for a layer of this machine.
///
/// # Errors
/// The file that says so is there and cannot be believed.
pub fn other_originals(layer: &Layer) -> Result<HashSet<Vec<u8>>, DifferencesError> {
    let Differences { changed, .. } = Differences::of(layer)?;
    Ok(changed.into_iter().map(|rel| rel.0).collect())
}

impl Differences {
    pub(super) fn new() -> Differences {
        Differences {
            version: VERSION,
            ..Differences::default()
        }
    }

    /// Those of a layer; none for a layer of this machine.
    pub(crate) fn of(layer: &Layer) -> Result<Differences, DifferencesError> {
        let path = layer.differences_path();
        let read = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Differences::new()),
            other => other,
        };
        let believed = read.and_then(|bytes| {
            let read: Differences = serde_json::from_slice(&bytes)?;
            match read.version {
                VERSION => Ok(read),
                other => Err(io::Error::other(format!("it has version {other}"))),
            }
        });
        believed.map_err(|source| DifferencesError { path, source })
    }

    /// Writes them beside a layer; durable on return.
    pub(super) fn write(&self, layer: &Layer) -> io::Result<()> {
        let path = layer.differences_path();
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or(&path))?.sync_all()
    }
}
