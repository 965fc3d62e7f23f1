//! What all commands need that keep, move or remove sessions' layers: completing a roll-back that was
//! cut off, sessions that leave nothing, and what takes how much room.
//!
//! An ephemeral session is marked by a file in its folder while its lock is held. Once the lock is
//! free, whoever lists or starts sessions next removes the folder whole. So is one that an import fills,
//! until its record is whole: what was cut off is nobody's, and the archive still has it.

use std::{fs, path::Path, time::Duration};

use agentwall_cow::{acknowledge_roll_back, finish_roll_back};
use agentwall_ledger::{Record, entry::Rollback};
use anyhow::{Context as _, Result, anyhow};

use crate::{
    output,
    session::{EPHEMERAL, Outcome, Session, is_ephemeral},
    state::{State, now_ms, shown},
};

/// The mark in the folder of a session that an import fills.
const IMPORTING: &str = "importing";

/// How old a session without an end must be before it counts as cut off.
pub const BEING_MADE: Duration = Duration::from_secs(600);

/// Completes a roll-back that was cut off, and records it, in the session's record, too; before that gives
/// back what a killed command had lent. The caller holds the session's lock.
pub fn finish_rollback(state: &State, session: &mut Session) -> Result<()> {
    agentwall_cow::give_back(&session.record.layers).map_err(|e| {
        anyhow!(
            "cannot give folders of session {} their modes back, which a command that was killed had \
             changed: {e}",
            session.id()
        )
    })?;
    let done = finish_roll_back(&session.record.layers).map_err(|e| {
        anyhow!(
            "cannot finish an earlier rollback of session {}: {e}",
            session.id()
        )
    })?;
    let Some(done) = done else {
        return Ok(());
    };
    output::note(&format!(
        "an earlier rollback of this session was cut off; it is finished now: the layers are as at \
         the checkpoint {}, and what was there before is the checkpoint {}",
        done.to.name, done.before.name
    ));
    after_rollback(session)?;
    let record = Record::Rollback(Rollback {
        checkpoint: done.to.name,
        before: done.before.name,
        outcome: "finished".into(),
    });
    state
        .record(session.id(), vec![record])
        .context("an earlier rollback is finished, but not recorded")?;
    Ok(acknowledge_roll_back(&session.record.layers)?)
}

/// What became of the session's changes is open again.
pub fn after_rollback(session: &mut Session) -> Result<()> {
    session.record.outcome = match session.record.outcome {
        Outcome::Kept | Outcome::Discarded => Outcome::Kept,
        Outcome::Committed | Outcome::Partly => Outcome::Partly,
    };
    session.save()
}

/// Marks a session as one that leaves nothing. The caller holds its lock.
pub fn mark_ephemeral(session: &Session) -> Result<()> {
    let path = session.dir().join(EPHEMERAL);
    fs::write(&path, b"").with_context(|| format!("cannot write {}", shown(&path)))
}

/// Marks a session as one that an import fills.
pub fn mark_importing(session: &Session) -> Result<()> {
    let path = session.dir().join(IMPORTING);
    fs::write(&path, b"").with_context(|| format!("cannot write {}", shown(&path)))
}

/// Takes the mark from an imported session whose record, with its end, is durable. Where that fails the
/// record still tells that it is whole.
pub fn unmark_importing(session: &Session) {
    let _ = fs::remove_file(session.dir().join(IMPORTING));
}

/// Whether an import has not come to its end in this session: its record names no layers yet, and what
/// lies in its folder is a part of the archive. False of one that was imported, whatever mark it has.
pub fn is_half_imported(session: &Session) -> bool {
    let record = &session.record;
    record.ended_ms.is_none() && record.layers.is_empty() && session.dir().join(IMPORTING).exists()
}

/// The same of an import that was killed, and not of one that goes on, whose lock is held.
pub fn is_cut_off_import(session: &Session) -> bool {
    let age = now_ms().saturating_sub(session.record.started_ms);
    is_half_imported(session) && !session.is_running() && u128::from(age) > BEING_MADE.as_millis()
}

/// Removes what ephemeral sessions and imports left that were killed. Only tries: what cannot be removed now is
/// left for another time. Returns how many.
pub fn sweep(state: &State) -> usize {
    let Ok(entries) = fs::read_dir(state.sessions_dir()) else {
        return 0;
    };
    let mut removed = 0;
    let marked = |dir: &Path| is_ephemeral(dir) || dir.join(IMPORTING).exists();
    for entry in entries.flatten().filter(|e| marked(&e.path())) {
        let name = entry.file_name();
        let Ok(session) = Session::load(state, &name.to_string_lossy()) else {
            continue;
        };
        let stale = match is_ephemeral(session.dir()) {
            true => !session.is_running(),
            false => is_cut_off_import(&session),
        };
        if !stale {
            continue;
        }
        // Its supervisor may have been faster.
        let Ok((session, _lock)) = session.hold(state) else {
            continue;
        };
        let stale = is_ephemeral(session.dir()) || is_half_imported(&session);
        if stale && session.remove_held().is_ok() {
            removed += 1;
        }
    }
    removed
}

/// Bytes on disk at a path and below, by blocks.
pub fn blocks(path: &Path) -> u64 {
    agentwall_cow::usage(path).bytes
}

/// Everything that a session has on disk: its folder, and its layers elsewhere.
pub fn size_of(session: &Session) -> u64 {
    let outside = session.folders_outside();
    blocks(session.dir()) + outside.iter().map(|f| blocks(f)).sum::<u64>()
}

/// A number of bytes for a person.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut at = 0;
    let mut scaled = n as f64;
    while scaled >= 1024.0 && at + 1 < units.len() {
        scaled /= 1024.0;
        at += 1;
    }
    match at {
        0 => format!("{n} B"),
        _ => format!("{scaled:.1} {}", units[at]),
    }
}
