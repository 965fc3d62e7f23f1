//! `agentwall discard`: drops a session's changes. The originals are not opened.

use std::{collections::HashSet, io::IsTerminal as _, path::PathBuf, process::ExitCode};

use agentwall_cow::{ChangeSet, discard, discard_all};
use agentwall_ledger::{
    Record,
    entry::{Changes, Discard},
};
use anyhow::{Context as _, Result, anyhow};
use serde_json::json;

use crate::{
    args::DiscardArgs,
    changes,
    cmd::{
        commit::{changed_file, confirm},
        diff::{Show, print_diff, stat_text},
    },
    output,
    session::{Outcome, Session},
    state::{State, shown},
};

/// Runs the command.
pub fn main(args: DiscardArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    let _lock = session.hold_lock().context("cannot discard")?;
    let mut session = Session::load(&state, session.id())?;
    let set = changes::scan(&session, false)?;
    if set.is_empty() && args.selection.paths.is_empty() {
        if args.json {
            output::print_json(&json!({ "session": session.id(), "discarded": 0 }))?;
        } else {
            output::print(&format!("session {}: nothing to discard\n", session.id()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let part = changes::only(
        &set,
        &changes::select(&session, &set, &args.selection.paths)?,
    );
    if args.stat || args.patch {
        print_diff(
            &session,
            &part,
            Show {
                stat: args.stat,
                patch: args.patch,
                json: args.json,
            },
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !args.json && std::io::stdin().is_terminal() {
        output::print(&stat_text(&session, &part)?)?;
        let what = output::count(part.changes.len(), "change");
        if !confirm(&format!("drop {what}? This cannot be undone."))? {
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
    let set = changes::scan(session, false)?;
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
    let part = changes::only(set, &chosen);
    let files = part.changes.iter().map(changed_file).collect();
    let record = Record::Discard(Discard {
        changes: Changes::new(files),
    });
    state
        .record(session.id(), vec![record])
        .context("nothing was dropped")?;
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
    session.record.outcome = match (session.record.outcome, all) {
        (Outcome::Kept, true) => Outcome::Discarded,
        (outcome @ (Outcome::Committed | Outcome::Discarded), true) => outcome,
        _ => Outcome::Partly,
    };
    session.save()?;
    Ok(count)
}
