//! `agentwall sessions`: what ran here, and what became of its changes.

use std::{fs, process::ExitCode};

use agentwall_action::escape_text;
use agentwall_cow::keeps_originals;
use anyhow::{Context as _, Result};

use crate::{
    args::SessionsArgs,
    layers::{self, bytes, size_of},
    output::{self, Style, paint},
    session::{Outcome, Session},
    state::{State, rfc3339_of, shown},
};

/// Runs the command.
pub fn main(args: SessionsArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    layers::sweep(&state);
    let (all, errors) = Session::list(&state)?;
    for error in &errors {
        output::note(&format!("{error:#}"));
    }
    let here = std::env::current_dir()
        .and_then(fs::canonicalize)
        .context("cannot tell the current folder; give --all")
        .map_or_else(
            |e| if args.all { Ok(None) } else { Err(e) },
            |p| Ok(Some(p)),
        )?;
    let total = all.len();
    let ours = |s: &Session| {
        here.as_ref()
            .is_some_and(|h| h.starts_with(&s.record.workspace))
    };
    let narrow = !args.all && all.iter().any(ours);
    let sessions: Vec<Session> = all.into_iter().filter(|s| !narrow || ours(s)).collect();
    if args.json {
        print_json(&sessions)?;
    } else if sessions.is_empty() {
        output::print("no sessions yet; 'agentwall run -- CMD' begins one\n")?;
    } else {
        print_table(&sessions, narrow)?;
        if narrow && sessions.len() < total {
            output::note(&format!(
                "{} of other workspaces: 'agentwall sessions --all'",
                output::count(total - sessions.len(), "more session")
            ));
        }
    }
    Ok(ExitCode::from(if errors.is_empty() {
        output::OK
    } else {
        output::FAILED
    }))
}

fn print_json(sessions: &[Session]) -> Result<()> {
    let mut list = Vec::new();
    for session in sessions {
        let mut value = serde_json::to_value(&session.record)?;
        value["running"] = session.is_running().into();
        value["started"] = rfc3339_of(session.record.started_ms).into();
        value["ended"] = session.record.ended_ms.map(rfc3339_of).into();
        value["resumed"] = session.record.resumed_ms.map(rfc3339_of).into();
        value["bytes"] = size_of(session).into();
        value["undo"] = can_undo(session).into();
        for (n, layer) in session.record.layers.iter().enumerate() {
            let kept = keeps_originals(layer);
            value["layers"][n]["originals"] = if kept { "reflink" } else { "none" }.into();
        }
        list.push(value);
    }
    output::print_json(&list)
}

fn print_table(sessions: &[Session], narrow: bool) -> Result<()> {
    let mut rows = vec![
        [
            "SESSION", "NAME", "STARTED", "STATE", "EXIT", "SIZE", "UNDO",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows[0].extend((!narrow).then(|| "WORKSPACE".to_owned()));
    rows[0].push("COMMAND".into());
    for session in sessions {
        let record = &session.record;
        let (text, style) = match (session.is_running(), record.ended_ms, record.outcome) {
            (true, ..) => ("running", Style::Green),
            _ if layers::is_half_imported(session) => ("import not finished", Style::Red),
            (false, None, Outcome::Kept) => ("cut off, kept", Style::Red),
            (false, _, Outcome::Kept) => ("kept", Style::Yellow),
            (false, _, outcome) => (outcome.as_str(), Style::Dim),
        };
        let mut row = vec![
            record.id.clone(),
            escape_text(&record.name),
            output::ago(record.started_ms),
            match &record.unrecorded {
                None => paint(style, text),
                Some(u) => paint(Style::Red, &format!("{text}, {} records lost", u.lost)),
            },
            record.exit.map_or_else(|| "-".into(), |e| e.to_string()),
            bytes(size_of(session)),
            if can_undo(session) { "yes" } else { "-" }.to_owned(),
        ];
        row.extend((!narrow).then(|| shown(&record.workspace)));
        row.push(short(&output::tame(&record.command.join(" "))));
        rows.push(row);
    }
    output::print(&output::table(&rows))
}

/// Whether its last commit can be taken back.
fn can_undo(session: &Session) -> bool {
    agentwall_cow::can_undo(&session.record.layers).is_ok()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
