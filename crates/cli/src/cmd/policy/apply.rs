//! `agentwall policy apply`: asks the supervisor of a running session to put another policy in force.
//!
//! The file is read here, so that it may be a pipe and is the caller's; everything else (loading with
//! the session's values, comparing with its wall, recording) is the supervisor's, see
//! `supervisor::revise`.

use std::{path::Path, process::ExitCode, time::Duration};

use agentwall_action::escape_text;
use agentwall_policy::{Layer, Source, Variables};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::policy::ApplyArgs,
    control::{self, Applied, PolicyText, Request, Response},
    output, policies,
    session::Session,
    state::{State, shown},
};

/// How long a change may take, one that waits for another included.
const PATIENCE: Duration = Duration::from_secs(120);

const NEXT: &str = "nothing was changed. Start a new session under this policy, or leave these parts \
                    as the session's policy has them ('agentwall policy apply --help' says what can \
                    change)";

/// Runs the command.
pub fn main(args: &ApplyArgs) -> Result<ExitCode> {
    let policy = args.policy.as_deref().map(text).transpose()?;
    let state = State::open()?;
    let session = find(&state, args.session.as_deref())?;
    if !session.is_running() {
        bail!(
            "session {} has ended: its policy stays what it was; 'agentwall run --policy FILE' \
             starts one under another",
            session.id()
        );
    }
    let value = |applied: bool, rest: Value| {
        let mut value = json!({ "session": session.id(), "applied": applied });
        if let (Value::Object(to), Value::Object(more)) = (&mut value, rest) {
            to.extend(more);
        }
        value
    };
    let request = Request::Apply { policy };
    let answer = control::call_within(&session, &request, PATIENCE).context(
        "no answer came; 'agentwall ledger show --type policy' tells whether the policy has changed",
    )?;
    match answer {
        Response::Applied(applied) => {
            if args.json {
                let changed = applied.old != applied.new;
                output::print_json(&value(changed, serde_json::to_value(&applied)?))?;
            } else {
                output::print(&told(&applied))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Response::Differs(differences) => {
            if args.json {
                output::print_json(&value(false, json!({ "differences": differences })))?;
            }
            let lines: Vec<String> = differences
                .iter()
                .map(|d| format!("\n  {}", output::tame(d)))
                .collect();
            bail!(
                "the wall of session {} cannot enforce this policy:{}\n{NEXT}",
                session.id(),
                lines.concat()
            );
        }
        Response::Error { text } => {
            if args.json {
                output::print_json(&value(false, json!({ "error": text })))?;
            }
            // Of several lines where it is a report about the policy.
            let lines: Vec<String> = text.lines().map(output::tame).collect();
            bail!("{}", lines.join("\n"))
        }
        _ => bail!("session {} answered something else", session.id()),
    }
}

fn told(applied: &Applied) -> String {
    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
    let sources: Vec<String> = applied.sources.iter().map(|s| escape_text(s)).collect();
    if applied.old == applied.new {
        return format!(
            "policy {} from {} is in force already in session {}\n",
            short(&applied.new),
            sources.join(" + "),
            applied.session
        );
    }
    format!(
        "policy {} from {} ({}) is in force in session {}, in place of {}\n",
        short(&applied.new),
        sources.join(" + "),
        output::count(applied.rules, "rule"),
        applied.session,
        short(&applied.old)
    )
}

/// The session that is meant: a named one, or the only one that runs in this folder.
fn find(state: &State, named: Option<&str>) -> Result<Session> {
    if let Some(named) = named {
        return Session::resolve(state, Some(named));
    }
    let here = std::env::current_dir()
        .and_then(std::fs::canonicalize)
        .context("cannot tell the current folder; name the session")?;
    let mut running = control::running(state)?;
    running.retain(|s| here.starts_with(&s.record.workspace));
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => bail!(
            "no session runs in the workspace {}; 'agentwall sessions --all' lists those of other \
             folders",
            shown(&here)
        ),
        many => {
            let ids: Vec<&str> = running.iter().take(5).map(Session::id).collect();
            bail!(
                "{many} sessions run in this workspace: {}; name the one that is meant",
                ids.join(", ")
            )
        }
    }
}

/// The file's text, under a name that means the same everywhere.
fn text(file: &Path) -> Result<PolicyText> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let name = policies::name_of(&file)?;
    let text = String::from_utf8(policies::read_bytes(&file)?).map_err(|e| {
        // The loader says where.
        let source = Source::new(name.clone(), e.into_bytes(), Layer::User);
        let report = policies::load(&[source], &Variables::default()).err();
        report.unwrap_or_else(|| anyhow!("{name} is not UTF-8"))
    })?;
    Ok(PolicyText { name, text })
}
