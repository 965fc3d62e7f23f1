//! The review at the end of a run: the person at the terminal decides what becomes of the changes.
//!
//! Nothing is the answer to silence: an end of input keeps everything.

use std::io::{BufRead as _, Write as _};

use agentwall_cow::Change;
use anyhow::{Context as _, Result};

use crate::{
    changes, cmd,
    cmd::{
        commit::{Options, commit_set, print_report},
        diff::{Show, print_diff, stat_text},
        discard::discard_set,
    },
    output,
    session::Session,
    state::State,
};

const MENU: &str = "[c]ommit, [d]iscard, [k]eep, show [p]atch, [s]elect files?";

/// Shows what changed and does what the person says. The caller is the session's supervisor, or
/// holds its lock; the terminal is in line mode.
pub fn review(state: &State, session: &mut Session) -> Result<()> {
    loop {
        let set = changes::scan(session, false)?;
        if set.is_empty() {
            output::note("no changes are left to review");
            return Ok(());
        }
        eprint(&format!("{}{MENU} ", stat_text(session, &set)?))?;
        match answer()?.as_deref() {
            Some("c" | "commit") => {
                let report = commit_set(state, session, &set, &Options::default())?;
                print_report(session, &report)?;
                return Ok(());
            }
            Some("d" | "discard") => {
                if cmd::commit::confirm("drop all of it? This cannot be undone.")? {
                    discard_set(state, session, &set, &[])?;
                    output::note("dropped");
                    return Ok(());
                }
            }
            Some("p" | "patch") => {
                print_diff(
                    session,
                    &set,
                    Show {
                        patch: true,
                        ..Show::default()
                    },
                )?;
            }
            Some("s" | "select") => one_by_one(state, session)?,
            Some("k" | "keep") | None => {
                output::note(&format!(
                    "kept; 'agentwall diff {0}', 'agentwall commit {0}' and 'agentwall discard {0}' \
                     go on from here",
                    session.id()
                ));
                return Ok(());
            }
            Some(_) => {}
        }
    }
}

/// Asks about every file, then commits and drops what was said.
fn one_by_one(state: &State, session: &mut Session) -> Result<()> {
    let set = changes::scan(session, false)?;
    let (mut wanted, mut dropped) = (Vec::new(), Vec::new());
    let listed: Vec<&Change> = set.in_review_order().collect();
    'changes: for change in listed {
        let (letter, _) = changes::kind_text(change.kind);
        let path = output::path_below(&change.path, &session.record.workspace);
        loop {
            eprint(&format!(
                "{letter} {path}: [c]ommit, [d]iscard, [k]eep, [q]uit? "
            ))?;
            match answer()?.as_deref() {
                Some("c" | "commit" | "y") => wanted.push(change.path.clone()),
                Some("d" | "discard") => dropped.push(change.path.clone()),
                Some("k" | "keep" | "n") => {}
                Some("q" | "quit") | None => break 'changes,
                Some(_) => continue,
            }
            break;
        }
    }
    if !wanted.is_empty() {
        let options = Options {
            paths: wanted,
            ..Options::default()
        };
        let report = commit_set(state, session, &set, &options)?;
        print_report(session, &report)?;
    }
    if !dropped.is_empty() {
        let set = changes::scan(session, false)?;
        dropped.retain(|path| set.changes.iter().any(|c| c.path == *path));
        if !dropped.is_empty() {
            let count = discard_set(state, session, &set, &dropped)?;
            output::note(&format!("{} dropped", output::count(count, "change")));
        }
    }
    Ok(())
}

fn eprint(text: &str) -> Result<()> {
    let mut err = std::io::stderr();
    err.write_all(text.as_bytes())?;
    err.flush()?;
    Ok(())
}

/// One line, trimmed, lower-case; `None` at the end of input.
fn answer() -> Result<Option<String>> {
    let mut line = String::new();
    let read = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the answer")?;
    Ok((read > 0).then(|| line.trim().to_lowercase()))
}
