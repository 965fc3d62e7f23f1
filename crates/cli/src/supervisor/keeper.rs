//! Checkpoints of a session that runs: everything behind the wall is stopped for the copy.
//!
//! One at a time. The copy is durable and in the ledger before the answer is given; processes go on as
//! soon as the copy is made.

use std::sync::Mutex;

use agentwall_cow::{Checkpoint, NewCheckpoint, checkpoints, clean, copy_checkpoint};
use agentwall_ledger::{Record, entry};
use anyhow::{Context as _, Result, bail};

use super::{Supervisor, freeze::freeze, lock};
use crate::{control::Response, session::Session, state::now_ms};

/// What is needed to keep the layers of the running session; nothing before and after.
#[derive(Debug, Default)]
pub struct Keeper(Mutex<Option<(u32, Session)>>);

impl Keeper {
    /// The wall stands; `broker` is its process on the host.
    pub fn begin(&self, broker: u32, session: Session) {
        *lock(&self.0) = Some((broker, session));
    }

    /// The session has ended. A checkpoint that is being made is waited for.
    pub fn end(&self) {
        *lock(&self.0) = None;
    }

    /// Makes a checkpoint.
    pub(super) fn checkpoint(&self, supervisor: &Supervisor, name: Option<String>) -> Response {
        match self.keep(supervisor, name) {
            Ok(made) => Response::Checkpointed(made),
            Err(e) => Response::Error {
                text: format!("{e:#}; no checkpoint was made"),
            },
        }
    }

    fn keep(&self, supervisor: &Supervisor, name: Option<String>) -> Result<Checkpoint> {
        let held = lock(&self.0);
        let Some((broker, session)) = &*held else {
            bail!("the session is only starting, or has just ended; try again");
        };
        let layers = &session.record.layers;
        clean(layers);
        let new = NewCheckpoint {
            name: match name {
                Some(name) => name,
                None => free_name(&checkpoints(layers)?, "c"),
            },
            at_ms: now_ms(),
        };
        let asking = || {
            supervisor
                .asks
                .pending(supervisor)
                .iter()
                .map(|a| a.pid)
                .collect()
        };
        let stopped = freeze(*broker, asking)?;
        let copied = copy_checkpoint(layers, &new);
        drop(stopped);
        let made = copied?.keep()?;
        let sealed = supervisor.seal(recorded(&made, "made", true));
        sealed
            .with_context(|| format!("the checkpoint {} is made, but not recorded", made.name))?;
        Ok(made)
    }
}

/// The first of `c1`, `c2`, … that no checkpoint has had.
pub fn free_name(known: &[Checkpoint], letters: &str) -> String {
    let used = known
        .iter()
        .filter_map(|c| c.name.strip_prefix(letters)?.parse::<u64>().ok());
    format!("{letters}{}", used.max().unwrap_or(0).saturating_add(1))
}

/// The ledger's record of a checkpoint.
pub fn recorded(checkpoint: &Checkpoint, outcome: &str, running: bool) -> Record {
    Record::Checkpoint(entry::Checkpoint {
        name: checkpoint.name.clone(),
        outcome: outcome.to_owned(),
        running,
        objects: checkpoint.objects,
        bytes: checkpoint.bytes,
    })
}
