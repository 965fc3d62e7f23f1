//! `agentwall undo`: takes back the last commit of a session, as far as nothing changed since.
//!
//! The plan is in the ledger before the first original is touched, the outcome afterwards. All or
//! nothing, unless `--partial`; what was changed since the commit is never touched.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use agentwall_cow::{CommitOptions, UndoError, UndoOptions, UndoReport, UndoStatus, undo};
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::{
    args::UndoArgs,
    changes::kind_text,
    cmd::commit::{Listed, acknowledge, confirm, finish_cut_off, taken_back, undo_records},
    output::{self, Style, paint},
    session::{Outcome, Session},
    state::State,
};

/// How long originals are kept for an undo.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs the command.
pub fn main(args: UndoArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let session = Session::resolve(&state, args.session.as_deref())?;
    let (mut session, _lock) = session.hold(&state).context("cannot undo")?;
    finish_cut_off(&state, &mut session)?;
    if args.forget {
        return forget(&session, args.json);
    }
    let plan = match look(&state, &session, args.partial)? {
        Ok(plan) => plan,
        Err(why) => return nothing(&state, &session, &why, args.json),
    };
    let ready = plan.count(|s| *s == UndoStatus::Ready);
    let refused = ready < plan.outcomes.len() && !args.partial;
    if args.dry_run || refused || ready == 0 {
        print(&session, &plan, args.json)?;
        if !args.dry_run {
            output::note(match ready {
                0 => "nothing was undone: every change of the commit was changed again since",
                _ => {
                    "nothing was undone: some of it changed since the commit; 'agentwall undo \
                     --partial' takes back the rest"
                }
            });
        }
        return Ok(ExitCode::from(match ready == plan.outcomes.len() {
            true => output::OK,
            false => output::FAILED,
        }));
    }
    if !args.yes && !args.json && std::io::stdin().is_terminal() {
        print(&session, &plan, false)?;
        let question = format!("take back {}?", output::count(ready, "change"));
        let (mut answers, mut says) = (std::io::stdin().lock(), std::io::stderr());
        if !confirm(&mut answers, &mut says, &question)? {
            output::note("nothing was undone");
            return Ok(ExitCode::from(output::FAILED));
        }
    }
    let meant = plan
        .outcomes
        .iter()
        .filter(|o| o.status == UndoStatus::Ready);
    let planned: Vec<Listed> = meant.map(taken_back).collect();
    state
        .record(session.id(), undo_records("planned", planned))
        .context("nothing was undone")?;
    let done = undo(
        &session.record.layers,
        &options(&state, args.partial, false),
    )
    .map_err(|e| {
        anyhow!(
            "cannot undo the last commit of session {}: {e}",
            session.id()
        )
    })?;
    let mut groups: BTreeMap<&'static str, Vec<Listed>> = BTreeMap::new();
    for outcome in &done.outcomes {
        let word = word(&outcome.status);
        groups.entry(word).or_default().push(taken_back(outcome));
    }
    let undone = done.count(|s| *s == UndoStatus::Undone);
    if undone > 0 {
        session.record.outcome = match done.is_complete() {
            true => Outcome::Kept,
            false => Outcome::Partly,
        };
        session.save()?;
    }
    let records = groups
        .into_iter()
        .flat_map(|(word, files)| undo_records(word, files));
    state
        .record(session.id(), records.collect())
        .with_context(|| format!("{undone} undone, but not recorded"))?;
    acknowledge(&session)?;
    print(&session, &done, args.json)?;
    for kept in &done.kept {
        output::note(kept);
    }
    for warning in &done.warnings {
        output::note(&output::tame(warning));
    }
    if undone > 0 {
        output::note("the changes are in the session again: 'agentwall diff' shows them");
    }
    Ok(ExitCode::from(match done.is_complete() {
        true => output::OK,
        // With --partial a conflict was known; anything else is a failure.
        false if args.partial && done.count(|s| matches!(s, UndoStatus::Failed { .. })) == 0 => {
            output::OK
        }
        false => output::FAILED,
    }))
}

/// Gives up the originals that sessions have kept for longer than [`KEPT_FOR`]. Only tries: a session
/// that is in use, or damaged, is left for another time.
pub fn expire(state: &State) {
    let Some(before) = SystemTime::now().checked_sub(KEPT_FOR) else {
        return;
    };
    let Ok((sessions, _)) = Session::list(state) else {
        return;
    };
    for session in sessions.iter().filter(|s| is_older(s, before)) {
        if !session.is_running() {
            give_up(state, session, before);
        }
    }
}

/// Gives up the originals of a session that was found to keep them for too long, if it still does: a
/// newer commit keeps others.
pub(super) fn give_up(state: &State, session: &Session, before: SystemTime) {
    if let Ok((session, _lock)) = session.hold(state)
        && is_older(&session, before)
        && let Ok(kept) = agentwall_cow::forget(&session.record.layers)
    {
        for line in kept {
            output::note(&format!("an original was kept: {line}"));
        }
    }
}

/// Whether a session's last commit kept originals, and before this moment.
fn is_older(session: &Session, before: SystemTime) -> bool {
    let since = agentwall_cow::kept_since(&session.record.layers);
    since.ok().flatten().is_some_and(|since| since < before)
}

fn options(state: &State, partial: bool, dry_run: bool) -> UndoOptions {
    let mut options = UndoOptions::new(CommitOptions::new(state.locks_dir()));
    (options.partial, options.dry_run) = (partial, dry_run);
    options
}

/// What could be undone; or why nothing can.
fn look(
    state: &State,
    session: &Session,
    partial: bool,
) -> Result<Result<UndoReport, agentwall_cow::NothingToUndo>> {
    match undo(&session.record.layers, &options(state, partial, true)) {
        Ok(plan) => Ok(Ok(plan)),
        Err(UndoError::Nothing(why)) => Ok(Err(why)),
        Err(e) => Err(anyhow!(
            "cannot undo the last commit of session {}: {e}",
            session.id()
        )),
    }
}

/// Says that there is nothing to undo, why, and which sessions have something.
fn nothing(
    state: &State,
    session: &Session,
    why: &agentwall_cow::NothingToUndo,
    as_json: bool,
) -> Result<ExitCode> {
    if as_json {
        let why = serde_json::to_value(why)?;
        output::print_json(&json!({ "session": session.id(), "changes": [], "nothing": why }))?;
    }
    let (sessions, _) = Session::list(state)?;
    let others: Vec<&str> = sessions
        .iter()
        .filter(|s| s.id() != session.id() && s.record.workspace == session.record.workspace)
        .filter(|s| agentwall_cow::can_undo(&s.record.layers).is_ok())
        .map(Session::id)
        .take(5)
        .collect();
    let next = match others.is_empty() {
        true => String::new(),
        false => format!(
            "; of this workspace these can be undone: {}",
            others.join(", ")
        ),
    };
    output::note(&format!(
        "session {}: nothing to undo: {why}{next}",
        session.id()
    ));
    Ok(ExitCode::from(output::FAILED))
}

fn forget(session: &Session, as_json: bool) -> Result<ExitCode> {
    let kept = agentwall_cow::forget(&session.record.layers).map_err(|e| {
        anyhow!(
            "cannot give up the originals of session {}: {e}",
            session.id()
        )
    })?;
    if as_json {
        output::print_json(&json!({ "session": session.id(), "kept": kept }))?;
    } else {
        output::print(&format!(
            "session {}: no originals are kept; its last commit cannot be undone\n",
            session.id()
        ))?;
    }
    for line in kept {
        output::note(&format!("somebody wrote to it since, so it stays: {line}"));
    }
    Ok(ExitCode::SUCCESS)
}

const fn word(status: &UndoStatus) -> &'static str {
    match status {
        UndoStatus::Ready => "ready",
        UndoStatus::Undone => "undone",
        UndoStatus::Conflict { .. } => "conflict",
        _ => "failed",
    }
}

fn reason(status: &UndoStatus) -> String {
    match status {
        UndoStatus::Conflict { conflict } => output::tame(&conflict.to_string()),
        UndoStatus::Failed { step, error } => output::tame(&format!("{step}: {error}")),
        _ => String::new(),
    }
}

fn print(session: &Session, report: &UndoReport, as_json: bool) -> Result<()> {
    if as_json {
        let changes: Vec<Value> = report
            .outcomes
            .iter()
            .map(|o| {
                let mut value = serde_json::to_value(o)?;
                value["change"] = kind_text(o.kind).1.into();
                value["reason"] = reason(&o.status).into();
                Ok(value)
            })
            .collect::<Result<_>>()?;
        return output::print_json(&json!({
            "session": session.id(),
            "commit": report.commit,
            "changes": changes,
            "kept": report.kept,
            "warnings": report.warnings,
        }));
    }
    let rows: Vec<Vec<String>> = report
        .outcomes
        .iter()
        .map(|o| {
            let style = match o.status {
                UndoStatus::Ready | UndoStatus::Undone => Style::Green,
                _ => Style::Red,
            };
            vec![
                paint(style, word(&o.status)),
                kind_text(o.kind).1.to_owned(),
                output::path_below(&o.path, &session.record.workspace),
                reason(&o.status),
            ]
        })
        .collect();
    let mut parts = Vec::new();
    for (name, text) in [
        ("ready", "can be undone"),
        ("undone", "undone"),
        ("conflict", "in conflict"),
        ("failed", "failed"),
    ] {
        match report.count(|s| word(s) == name) {
            0 => {}
            n => parts.push(format!("{n} {text}")),
        }
    }
    output::print(&format!(
        "{}session {}: {}\n",
        output::table(&rows),
        session.id(),
        parts.join(", ")
    ))
}
