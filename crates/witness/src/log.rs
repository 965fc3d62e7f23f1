//! A log for reading (c2sp.org/tlog-tiles): its checkpoint, its tiles and bundles, the checkpoint that
//! witnesses have cosigned, and the proofs that its key was replaced.
//!
//! Only what the newest checkpoint covers is handed out. A file beyond it is the rest of a commit that was cut
//! off: another will be written under its name, and what was handed out may be kept for ever.

use std::path::PathBuf;

use agentwall_ledger::{
    Defect, Note, Reader,
    tile::{Level, Tile},
};

use crate::serve::{Reply, Service};

/// Answers from a log's folder.
#[derive(Debug)]
pub struct LogService {
    dir: PathBuf,
    /// What cannot be read is told to whoever runs the server.
    failed: fn(&str),
}

impl LogService {
    /// The log in `dir`; `failed` is told what cannot be read.
    pub fn new(dir: PathBuf, failed: fn(&str)) -> Self {
        LogService { dir, failed }
    }

    fn read(&self, path: &str) -> Result<Option<Reply>, String> {
        let note = |note: &Note| Reply::text(200, &note.to_text());
        let reader = Reader::open(&self.dir).map_err(|e| e.to_string())?;
        match path {
            "/checkpoint" => Ok(Some(note(reader.note()))),
            "/checkpoint.cosigned" => {
                let cosigned = reader.cosigned_unchecked().map_err(|e| e.to_string())?;
                Ok(cosigned.as_ref().map(note))
            }
            _ if path.starts_with("/rotation/") => {
                let number = path.trim_start_matches("/rotation/");
                let number = number
                    .parse()
                    .ok()
                    .filter(|n: &usize| n.to_string() == number);
                let proof = number.map(|n| reader.rotation(n)).transpose();
                let proof = proof.map_err(|e| e.to_string())?.flatten();
                Ok(proof.map(|text| Reply::text(200, &text)))
            }
            _ => {
                let tile = path.strip_prefix('/').and_then(Tile::parse);
                let Some(tile) = tile else { return Ok(None) };
                let content = match reader.tile(tile) {
                    // Removed, or lost: whoever verifies finds out which.
                    Err(Defect::Missing { .. }) if is_old(tile) => None,
                    other => other.map_err(|e| e.to_string())?,
                };
                Ok(content.map(|body| Reply {
                    status: 200,
                    headers: vec![
                        ("content-type", "application/octet-stream"),
                        // The name says how much is in it, so it never changes.
                        ("cache-control", "public, max-age=31536000, immutable"),
                    ],
                    body,
                }))
            }
        }
    }
}

/// Whether this is a file that a log can do without, if a record in it says so (tlog-tiles, "Pruning").
fn is_old(tile: Tile) -> bool {
    tile.level == Level::Entries && tile.is_full()
}

impl Service for LogService {
    fn max_body(&self) -> usize {
        0
    }

    fn answer(&self, method: &str, path: &str, _body: &[u8]) -> Reply {
        if method != "GET" && method != "HEAD" {
            return Reply::method("GET, HEAD");
        }
        match self.read(path) {
            Ok(reply) => reply.unwrap_or_else(Reply::not_found),
            Err(why) => {
                (self.failed)(&why);
                Reply::text(500, "the log cannot be read\n")
            }
        }
    }
}
