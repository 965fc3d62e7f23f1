//! A log on a server, copied into a folder: everything that its signed checkpoint calls for. What is copied
//! is believed by nobody; it is to be verified like any other folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use agentwall_ledger::{
    Checkpoint, CheckpointError, KeyHistory, RotationError, Verifier,
    tile::{Level, MAX_ENTRY, TILE_WIDTH, Tile, split_bundle},
};

use crate::client::{CallError, Client};

/// The longest checkpoint that is read, in bytes.
const MAX_NOTE: u64 = 1024 * 1024;
/// No log has replaced its key more often.
const MAX_ROTATIONS: usize = 1000;
/// The longest bundle.
const MAX_BUNDLE: u64 = TILE_WIDTH as u64 * (MAX_ENTRY as u64 + 2);

/// Copies the log at `url` into the empty folder `dir`, within `patience`. Its checkpoint must be signed by
/// `key`, or by the one that has followed it: so the key, not the server, says how much is copied.
pub fn fetch(
    url: &str,
    key: &Verifier,
    dir: &Path,
    patience: Duration,
) -> Result<Checkpoint, FetchError> {
    let client = Client::new(url, patience)?;
    // First what is cosigned: it is then never newer than the checkpoint.
    if let Some(cosigned) = get(&client, "checkpoint.cosigned", MAX_NOTE)? {
        write(dir, "checkpoint.cosigned", &cosigned)?;
    }
    let note = get(&client, "checkpoint", MAX_NOTE)?.ok_or(FetchError::Missing {
        name: "checkpoint".to_owned(),
    })?;
    let (claimed, _) = Checkpoint::parse_note(&note)?;
    for number in 0..MAX_ROTATIONS {
        let name = format!("rotation/{number}");
        match get(&client, &name, MAX_NOTE)? {
            Some(proof) => write(dir, &name, &proof)?,
            None => break,
        }
    }
    let checkpoint = KeyHistory::read(dir, key, claimed.size)?.open(&note)?;
    let mut gone = 0;
    for level in Level::all(checkpoint.size) {
        for index in 0..level.files(checkpoint.size) {
            let Some(tile) = Tile::at(level, index, checkpoint.size) else {
                continue;
            };
            match get_tile(&client, tile) {
                // The oldest entries: whether they may be gone is up to who verifies.
                Err(FetchError::Missing { .. })
                    if level == Level::Entries && index == gone && tile.is_full() =>
                {
                    gone += 1;
                }
                content => write(dir, &tile.to_string(), &content?)?,
            }
        }
    }
    write(dir, "checkpoint", &note)?;
    Ok(checkpoint)
}

/// A tile; in place of a partial one that is gone, the beginning of the full one.
fn get_tile(client: &Client, tile: Tile) -> Result<Vec<u8>, FetchError> {
    if let Some(content) = get(client, &tile.to_string(), MAX_BUNDLE)? {
        return Ok(content);
    }
    let missing = || FetchError::Missing {
        name: tile.to_string(),
    };
    if tile.is_full() {
        return Err(missing());
    }
    let full = Tile::full(tile.level, tile.index);
    let mut content = get(client, &full.to_string(), MAX_BUNDLE)?.ok_or_else(missing)?;
    let width = usize::from(tile.width);
    let length = match tile.level {
        Level::Hashes(_) => width * 32,
        Level::Entries => split_bundle(&content)
            .flatten()
            .take(width)
            .map(|entry| 2 + entry.len())
            .sum(),
    };
    content.truncate(length);
    Ok(content)
}

fn get(client: &Client, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
    let called = client.get(name, limit)?;
    match called.status {
        200 => Ok(Some(called.body)),
        404 | 410 => Ok(None),
        status => Err(FetchError::Status {
            name: name.to_owned(),
            status,
        }),
    }
}

fn write(dir: &Path, name: &str, content: &[u8]) -> Result<(), FetchError> {
    // Names are those of tiles, canonical, or fixed.
    let path = dir.join(name);
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(&path, content))
        .map_err(|source| FetchError::File { path, source })
}

/// Why a log cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What the size calls for is not there.
    #[error("the server has no {name}")]
    Missing {
        /// The resource.
        name: String,
    },
    /// Another answer than the resource or that it is not there.
    #[error("the server answers {status} to {name}")]
    Status {
        /// The resource.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// Not a checkpoint of the key.
    #[error("the server's checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The keys that followed each other.
    #[error("the server's proofs of key rotations: {0}")]
    Rotation(#[from] RotationError),
    /// The copy cannot be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
