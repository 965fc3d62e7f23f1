//! `agentwall checkpoint`: keeps what a session's layers are now, lists what is kept, removes it.
//!
//! A session that has ended is copied here; one that runs is asked, and its supervisor stops it for the
//! moment of the copy.

use std::{process::ExitCode, time::Duration};

use agentwall_cow::{Checkpoint, NewCheckpoint, checkpoint, checkpoints, clean, remove_checkpoint};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::layers::CheckpointArgs,
    cmd::commit::finish_cut_off,
    control::{Request, Response, call_within},
    layers::bytes,
    output,
    session::Session,
    state::{State, now_ms, rfc3339_of},
    supervisor::{free_name, recorded},
};

/// How long a running session may take to copy its layers.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs the command.
pub fn main(args: CheckpointArgs) -> Result<ExitCode> {
    if args.list {
        let state = State::for_reading()?;
        return list(
            &Session::resolve(&state, args.session.as_deref())?,
            args.json,
        );
    }
    let state = State::open()?;
    let session = Session::resolve(&state, args.session.as_deref())?;
    if let Some(name) = &args.delete {
        return delete(&state, &session, name, args.json);
    }
    let running = session.is_running();
    let made = match running {
        true => ask(&session, args.name)?,
        false => make(&state, &session, args.name)?,
    };
    if args.json {
        output::print_json(&json!({
            "session": session.id(), "checkpoint": shown(&made), "running": running,
        }))?;
    } else {
        output::print(&format!(
            "session {}: checkpoint {}, {}, {}; 'agentwall rollback {} {}' goes back to it{}\n",
            session.id(),
            made.name,
            objects(&made),
            bytes(made.bytes),
            session.suffix(),
            made.name,
            if running {
                " when the session has ended"
            } else {
                ""
            },
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A checkpoint of a session that has ended.
fn make(state: &State, session: &Session, name: Option<String>) -> Result<Checkpoint> {
    let (mut session, _lock) = session.hold(state).context("no checkpoint was made")?;
    finish_cut_off(state, &mut session)?;
    let layers = &session.record.layers;
    clean(layers);
    let error = |e| anyhow!("session {}: {e}; no checkpoint was made", session.id());
    let new = NewCheckpoint {
        name: match name {
            Some(name) => name,
            None => free_name(&checkpoints(layers).map_err(error)?, "c"),
        },
        at_ms: now_ms(),
    };
    let made = checkpoint(layers, &new).map_err(error)?;
    let record = vec![recorded(&made, "made", false)];
    let kept = state.record(session.id(), record);
    kept.with_context(|| format!("the checkpoint {} is made, but not recorded", made.name))?;
    Ok(made)
}

/// A checkpoint of a session that runs.
fn ask(session: &Session, name: Option<String>) -> Result<Checkpoint> {
    match call_within(session, &Request::Checkpoint { name }, PATIENCE)? {
        Response::Checkpointed(made) => Ok(made),
        Response::Error { text } => bail!("session {}: {}", session.id(), output::tame(&text)),
        _ => bail!("session {} answered something else", session.id()),
    }
}

fn list(session: &Session, as_json: bool) -> Result<ExitCode> {
    let found = checkpoints(&session.record.layers)?;
    if as_json {
        let list: Vec<Value> = found.iter().map(shown).collect();
        output::print_json(&json!({ "session": session.id(), "checkpoints": list }))?;
    } else if found.is_empty() {
        output::print(&format!(
            "session {}: no checkpoints; 'agentwall checkpoint {}' makes one\n",
            session.id(),
            session.suffix()
        ))?;
    } else {
        let head = ["CHECKPOINT", "MADE", "BY", "OBJECTS", "SIZE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(found.iter().map(|c| {
            let by = if c.automatic {
                "a rollback"
            } else {
                "a person"
            };
            vec![
                c.name.clone(),
                output::ago(c.at_ms),
                by.to_owned(),
                c.objects.to_string(),
                bytes(c.bytes),
            ]
        }));
        output::print(&output::table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(state: &State, session: &Session, name: &str, as_json: bool) -> Result<ExitCode> {
    let (mut session, _lock) = session.hold(state).context("no checkpoint was removed")?;
    finish_cut_off(state, &mut session)?;
    let gone = drop_checkpoint(state, &session, name)?;
    if as_json {
        output::print_json(&json!({ "session": session.id(), "removed": shown(&gone) }))?;
    } else {
        output::print(&format!(
            "session {}: checkpoint {name} removed\n",
            session.id()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes a checkpoint and records that. The caller holds the session's lock.
pub fn drop_checkpoint(state: &State, session: &Session, name: &str) -> Result<Checkpoint> {
    let layers = &session.record.layers;
    let known = checkpoints(layers)?.into_iter().find(|c| c.name == name);
    let fail = |e| {
        anyhow!(
            "session {}: {e}; 'agentwall checkpoint {} --list' lists them",
            session.id(),
            session.suffix()
        )
    };
    remove_checkpoint(layers, name).map_err(fail)?;
    let gone = known.context("the checkpoint had no record")?;
    state.record(session.id(), vec![recorded(&gone, "removed", false)])?;
    Ok(gone)
}

/// A checkpoint as a script reads it.
pub fn shown(checkpoint: &Checkpoint) -> Value {
    json!({
        "name": checkpoint.name,
        "time": rfc3339_of(checkpoint.at_ms),
        "automatic": checkpoint.automatic,
        "objects": checkpoint.objects,
        "bytes": checkpoint.bytes,
    })
}

fn objects(checkpoint: &Checkpoint) -> String {
    output::count(
        usize::try_from(checkpoint.objects).unwrap_or(usize::MAX),
        "object",
    )
}
