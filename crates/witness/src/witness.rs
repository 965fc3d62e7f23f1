//! The HTTP face of a witness (c2sp.org/tlog-witness): `POST /add-checkpoint`, and the last cosigned checkpoint
//! of each log at `GET /<hex SHA-256 of the origin>/checkpoint`.

use std::sync::Arc;

use agentwall_ledger::{
    Witness,
    witness::{Answer, log_id},
};

use crate::serve::{Reply, Service};

/// Longer than any request: 63 hashes, and a checkpoint with 16 signatures, all of them ML-DSA-44.
const MAX_BODY: usize = 128 * 1024;

/// Answers for a witness.
#[derive(Debug)]
pub struct WitnessService {
    witness: Arc<Witness>,
    /// What cannot be used is told to whoever runs the witness.
    failed: fn(&str),
}

impl WitnessService {
    /// `failed` is told what the witness cannot do for reasons of its own.
    pub fn new(witness: Arc<Witness>, failed: fn(&str)) -> Self {
        WitnessService { witness, failed }
    }

    fn add(&self, body: &[u8]) -> Reply {
        let answer = self.witness.add(body);
        if let Answer::Failed(why) = &answer {
            (self.failed)(why);
        }
        Reply {
            status: answer.status(),
            headers: vec![
                ("content-type", answer.content_type()),
                ("cache-control", "no-store"),
            ],
            body: answer.body().into_bytes(),
        }
    }

    fn latest(&self, id: &str) -> Reply {
        let Some(origin) = self.witness.origins().find(|origin| log_id(origin) == id) else {
            return Reply::not_found();
        };
        match self.witness.latest(origin) {
            Ok(Some(latest)) => Reply::text(200, &latest.note),
            Ok(None) => Reply::not_found(),
            Err(e) => {
                (self.failed)(&e.to_string());
                Reply::text(500, "the witness cannot use its state\n")
            }
        }
    }
}

impl Service for WitnessService {
    fn max_body(&self) -> usize {
        MAX_BODY
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let readback = path
            .strip_prefix('/')
            .and_then(|path| path.strip_suffix("/checkpoint"));
        match (path, readback, method) {
            ("/add-checkpoint", _, "POST") => self.add(body),
            ("/add-checkpoint", _, _) => Reply::method("POST"),
            (_, Some(id), "GET" | "HEAD") => self.latest(id),
            (_, Some(_), _) => Reply::method("GET, HEAD"),
            _ => Reply::not_found(),
        }
    }
}
