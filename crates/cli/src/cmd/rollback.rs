//! `agentwall rollback`: puts an ended session's layers back to a checkpoint.
//!
//! The ledger has the plan before the layers change, the outcome afterwards. What was there is a
//! checkpoint of its own, so a rollback can be taken back; and it is told what the rollback means for
//! what was committed since, by the same scan that a commit takes.

use std::{io::IsTerminal as _, process::ExitCode};

use agentwall_cow::{
    Checkpoint, NewCheckpoint, acknowledge_roll_back, checkpoints, clean, roll_back,
};
use agentwall_ledger::{Record, entry::Rollback};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;

use crate::{
    args::layers::RollbackArgs,
    changes,
    cmd::{
        checkpoint::shown,
        commit::{confirm, finish_cut_off},
    },
    layers::after_rollback,
    output,
    session::Session,
    state::{State, now_ms},
    supervisor::free_name,
};

/// Runs the command.
pub fn main(args: RollbackArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let (session, name) = meant(&state, &args)?;
    if session.is_running() {
        bail!(
            "session {0} is running, and what runs would not know that its files changed; end it, \
             then 'agentwall rollback {0}', then 'agentwall run --on {0} -- CMD'",
            session.suffix()
        );
    }
    let (mut session, _lock) = session.hold(&state).context("nothing was rolled back")?;
    finish_cut_off(&state, &mut session)?;
    let layers = session.record.layers.clone();
    clean(&layers);
    let known = checkpoints(&layers)?;
    let to = choose(&session, &known, name.as_deref())?;
    if !args.yes && !args.json && std::io::stdin().is_terminal() {
        let question = format!(
            "put the layers of session {} back to checkpoint {} ({})?",
            session.id(),
            to.name,
            output::ago(to.at_ms)
        );
        let (mut answers, mut says) = (std::io::stdin().lock(), std::io::stderr());
        if !confirm(&mut answers, &mut says, &question)? {
            output::note("nothing was rolled back");
            return Ok(ExitCode::from(output::FAILED));
        }
    }
    let before = NewCheckpoint {
        name: free_name(&known, "before-"),
        at_ms: now_ms(),
    };
    let record = |outcome: &str| {
        Record::Rollback(Rollback {
            checkpoint: to.name.clone(),
            before: before.name.clone(),
            outcome: outcome.to_owned(),
        })
    };
    state
        .record(session.id(), vec![record("planned")])
        .context("nothing was rolled back")?;
    let done = roll_back(&layers, &to.name, &before)
        .map_err(|e| anyhow!("cannot roll back session {}: {e}", session.id()))?;
    after_rollback(&mut session)?;
    state
        .record(session.id(), vec![record("done")])
        .context("rolled back, but not recorded")?;
    acknowledge_roll_back(&layers)?;
    let set = changes::scan(&session, false);
    let meaning = set.as_ref().map(|set| Meaning {
        changes: set.changes.len(),
        conflicts: set.changes.iter().filter(|c| c.conflict.is_some()).count(),
    });
    let commits = commits_now(&session)?.saturating_sub(to.commits);
    if args.json {
        let meaning = meaning.as_ref().ok();
        output::print_json(&json!({
            "session": session.id(),
            "checkpoint": shown(&done.to),
            "before": shown(&done.before),
            "commits_since": commits,
            "changes": meaning.map(|m| m.changes),
            "conflicts": meaning.map(|m| m.conflicts),
        }))?;
    } else {
        output::print(&format!(
            "session {}: the layers are as at checkpoint {}{}; 'agentwall rollback {} {}' takes this \
             back\n",
            session.id(),
            done.to.name,
            meaning.as_ref().map(Meaning::text).unwrap_or_default(),
            session.suffix(),
            done.before.name,
        ))?;
    }
    if commits > 0 {
        output::note(&format!(
            "since that checkpoint {} carried over, which {} in the originals: where the session has \
             the same there is no change, elsewhere 'agentwall diff' shows the way back to the \
             checkpoint ('agentwall undo' takes back the last commit)",
            match commits {
                1 => "a commit was".to_owned(),
                n => format!("{n} commits were"),
            },
            if commits == 1 { "stays" } else { "stay" },
        ));
    }
    if let Err(e) = set {
        output::note(&format!(
            "what the session would change now cannot be told: {e:#}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the session would change now.
struct Meaning {
    changes: usize,
    conflicts: usize,
}

impl Meaning {
    fn text(&self) -> String {
        let changes = output::count(self.changes, "change");
        match self.conflicts {
            0 => format!(" ({changes} against the originals)"),
            n => format!(" ({changes} against the originals, {n} in conflict)"),
        }
    }
}

/// The session and the name that the words mean: one word is a checkpoint of the newest session here,
/// else a session.
fn meant(state: &State, args: &RollbackArgs) -> Result<(Session, Option<String>)> {
    if let (Some(word), None) = (&args.session, &args.checkpoint)
        && let Ok(newest) = Session::resolve(state, None)
        && checkpoints(&newest.record.layers)?
            .iter()
            .any(|c| c.name == *word)
    {
        return Ok((newest, Some(word.clone())));
    }
    let session = Session::resolve(state, args.session.as_deref())?;
    Ok((session, args.checkpoint.clone()))
}

fn choose(session: &Session, known: &[Checkpoint], name: Option<&str>) -> Result<Checkpoint> {
    let found = match name {
        Some(name) => known.iter().find(|c| c.name == name),
        None => known.iter().rev().find(|c| !c.automatic),
    };
    if let Some(found) = found {
        return Ok(found.clone());
    }
    let names: Vec<&str> = known.iter().map(|c| c.name.as_str()).collect();
    let next = match names.is_empty() {
        true => "it has none; 'agentwall checkpoint' makes one".to_owned(),
        false => format!("it has {}", names.join(", ")),
    };
    match name {
        Some(name) => bail!(
            "session {} has no checkpoint '{}': {next}",
            session.id(),
            agentwall_action::escape_text(name)
        ),
        None => bail!(
            "session {} has no checkpoint that a person made: {next}",
            session.id()
        ),
    }
}

fn commits_now(session: &Session) -> Result<u64> {
    agentwall_cow::commits(&session.record.layers)
        .with_context(|| format!("cannot read the commit record of session {}", session.id()))
}
