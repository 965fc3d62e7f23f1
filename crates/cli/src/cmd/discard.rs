//! `agentwall discard`: drops a session's changes. The originals are not opened, unless a commit that
//! was cut off left one under a temporary name: that is put right first, while it is still known.

use std::{collections::HashSet, path::PathBuf, process::ExitCode};

use agentwall_cow::{ChangeSet, discard, discard_all};
use anyhow::{Context as _, Result, anyhow};
use serde_json::json;

use crate::{
    args::DiscardArgs,
    changes::{self, Chosen},
    cmd::{
        commit::{Answer, before_the_step, discard_records, finish_cut_off, reviewed},
        diff::{Part, Show},
    },
    output,
    session::{Outcome, Session},
    state::{State, shown},
};

/// Runs the command.
pub fn main(args: DiscardArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    let (mut session, _lock) = session.hold(&state).context("cannot discard")?;
    finish_cut_off(&state, &mut session)?;
    let set = changes::scan(&session, false)?;
    if set.is_empty() && args.selection.paths.is_empty() {
        if args.json {
            output::print_json(&json!({ "session": session.id(), "discarded": 0 }))?;
        } else {
            output::print(&format!("session {}: nothing to discard\n", session.id()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let part = Part::to_drop(
        &set,
        &changes::select(&session, &set, &args.selection.paths)?,
    );
    let show = Show {
        stat: args.stat,
        patch: args.patch,
        json: args.json,
    };
    let what = output::count(part.set.changes.len(), "change");
    let question = format!("drop {what}? This cannot be undone.");
    match before_the_step(&session, &part, show, args.yes, &question)? {
        Answer::Yes => {}
        Answer::Shown => return Ok(ExitCode::SUCCESS),
        Answer::No => {
            output::note("nothing was dropped");
            return Ok(ExitCode::from(output::FAILED));
        }
    }
    let count = discard_set(&state, &mut session, &set, &args.selection.paths)?;
    if args.json {
        output::print_json(&json!({ "session": session.id(), "discarded": count }))?;
    } else {
        let what = output::count(count, "change");
        output::print(&format!("session {}: {what} discarded\n", session.id()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Drops all changes of a session. The caller holds the session's lock, or is its supervisor.
pub fn discard_session(state: &State, session: &mut Session) -> Result<usize> {
    finish_cut_off(state, session)?;
    let set = changes::scan(session, false)?;
    if set.is_empty() {
        session.record.outcome = Outcome::Discarded;
        session.save_soon()?;
        return Ok(0);
    }
    discard_set(state, session, &set, &[])
}

/// Drops the changes that the paths mean, all when there are none; the ledger says so first.
/// Returns how many.
pub fn discard_set(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    paths: &[PathBuf],
) -> Result<usize> {
    let chosen = changes::select(session, set, paths)?;
    discard_chosen(state, session, set, &chosen)
}

/// Drops some changes of a set; the ledger says so first. On a full disk dropping is what makes
/// room, so there it says so at once afterwards. Returns how many.
pub fn discard_chosen(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    chosen: &Chosen,
) -> Result<usize> {
    let part = changes::only(set, chosen);
    let files = part.changes.iter().map(reviewed).collect();
    let records = discard_records(files);
    let first = state.record(session.id(), records.clone());
    let later = match first {
        Ok(()) => None,
        Err(e) if output::disk_is_full(&e) => Some(records),
        Err(e) => return Err(e).context("nothing was dropped"),
    };
    let all = chosen.len() == set.changes.len();
    let layers = &session.record.layers;
    let count = if all {
        let kept = discard_all(layers)
            .map_err(|e| anyhow!("cannot drop the changes of session {}: {e}", session.id()))?;
        for trash in kept {
            output::note(&format!(
                "{} holds originals that an earlier commit kept: look at them, then remove the folder",
                shown(&trash)
            ));
        }
        chosen.len()
    } else {
        let meant: HashSet<_> = part.changes.iter().map(changes::object).collect();
        discard(layers, set, |change| {
            meant.contains(&changes::object(change))
        })
        .map_err(|e| anyhow!("cannot drop the changes of session {}: {e}", session.id()))?
    };
    if let Some(records) = later {
        state.record(session.id(), records).with_context(|| {
            format!(
                "{} dropped, but not recorded",
                output::count(count, "change")
            )
        })?;
    }
    session.record.outcome = match (session.record.outcome, all) {
        (Outcome::Kept, true) => Outcome::Discarded,
        (outcome @ (Outcome::Committed | Outcome::Discarded), true) => outcome,
        _ => Outcome::Partly,
    };
    session.save()?;
    Ok(count)
}
