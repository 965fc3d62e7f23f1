//! `agentwall diff`: what a session changed, as line counts, as a patch or as JSON.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write},
    process::ExitCode,
};

use agentwall_action::escape_text;
use agentwall_cow::{ChangeSet, DiffOptions, StatLine, stat, write_patch};
use anyhow::{Result, anyhow};
use serde_json::json;

use crate::{
    args::DiffArgs,
    changes::{self, Judge, kind_text},
    output::{self, Style, paint},
    session::Session,
    state::State,
};

/// How to show changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Show {
    /// Line counts.
    pub stat: bool,
    /// A patch.
    pub patch: bool,
    /// JSON, alone.
    pub json: bool,
}

/// Runs the command.
pub fn main(args: DiffArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    let set = changes::scan(&session, false)?;
    let part = changes::only(
        &set,
        &changes::select(&session, &set, &args.selection.paths)?,
    );
    let show = Show {
        stat: args.stat || !args.patch,
        patch: args.patch,
        json: args.json,
    };
    print_diff(&session, &part, show)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a change set, or a part of one, of a session.
pub fn print_diff(session: &Session, set: &ChangeSet, show: Show) -> Result<()> {
    if show.json {
        return print_json(session, set);
    }
    if set.is_empty() && !show.patch {
        return output::print(&format!("session {}: nothing changed\n", session.id()));
    }
    if show.stat {
        output::print(&stat_text(session, set)?)?;
    }
    if show.patch {
        print_patch(session, set)?;
    }
    Ok(())
}

fn line_counts(session: &Session, set: &ChangeSet) -> Result<Vec<StatLine>> {
    stat(&session.record.layers, set, &DiffOptions::default()).map_err(|e| {
        let id = session.id();
        anyhow!("cannot compare the changes of session {id}: {e}")
    })
}

/// The changes with their line counts, and what stands in the way of committing them.
pub fn stat_text(session: &Session, set: &ChangeSet) -> Result<String> {
    let lines = line_counts(session, set)?;
    // Changes can be shown without their policy; committing them says what is wrong with it.
    let judge = Judge::of(session).ok();
    let by_path: HashMap<_, _> = set.changes.iter().map(|c| (c.path.as_path(), c)).collect();
    let mut rows = Vec::new();
    let (mut inserted, mut deleted) = (0, 0);
    for line in &lines {
        inserted += line.insertions.unwrap_or(0);
        deleted += line.deletions.unwrap_or(0);
        let mut remarks = Vec::new();
        if let Some(change) = by_path.get(line.path.as_path()) {
            if let Some(conflict) = &change.conflict {
                remarks.push(paint(Style::Red, &format!("conflict: {conflict}")));
            }
            let verdict = judge.as_ref().map(|j| j.verdict(change));
            if let Some(verdict) = verdict.filter(|v| !v.passes()) {
                let word = if verdict.asks() {
                    "asked first"
                } else {
                    "refused"
                };
                let rule = verdict.decision.rule.unwrap_or_else(|| "default".into());
                remarks.push(paint(
                    Style::Yellow,
                    &format!("commit {word} by rule {}", escape_text(&rule)),
                ));
            }
            if !change.privileges.is_empty() {
                remarks.push(paint(
                    Style::Red,
                    &format!("grants {:?}", change.privileges),
                ));
            }
            if let Some(from) = &change.rename_from {
                remarks.push(format!(
                    "renamed from {}",
                    output::path_below(from, &session.record.workspace)
                ));
            }
            if change.exec_gained {
                remarks.push("becomes executable".into());
            }
        }
        rows.push(vec![
            kind_text(line.kind).0.to_owned(),
            output::path_below(&line.path, &session.record.workspace),
            amounts(line),
            remarks.join("; "),
        ]);
    }
    let mut text = output::table(&rows);
    text.push_str(&format!(
        "{}, {}, {}\n",
        output::count(lines.len(), "change"),
        output::count(inserted, "line") + " added",
        output::count(deleted, "line") + " removed"
    ));
    Ok(text)
}

fn amounts(line: &StatLine) -> String {
    match (line.insertions, line.deletions) {
        (Some(plus), Some(minus)) => {
            let plus = paint(Style::Green, &format!("+{plus}"));
            format!("{plus} {}", paint(Style::Red, &format!("-{minus}")))
        }
        _ => match (line.old_size, line.new_size) {
            (Some(old), Some(new)) => format!("{old} -> {new} bytes"),
            (None, Some(new)) => format!("{new} bytes"),
            (Some(old), None) => format!("{old} bytes gone"),
            (None, None) => String::new(),
        },
    }
}

/// A patch for a program is written as it is; for a person every line is made safe to show.
fn print_patch(session: &Session, set: &ChangeSet) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        return show_patch(&mut out, session, set);
    }
    let options = DiffOptions::default();
    write_patch(&mut out, &session.record.layers, set, &options)?;
    out.flush()?;
    Ok(())
}

/// A patch for a person.
pub fn show_patch(out: &mut dyn Write, session: &Session, set: &ChangeSet) -> Result<()> {
    let mut text = Vec::new();
    let options = DiffOptions::default();
    write_patch(&mut text, &session.record.layers, set, &options)?;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        writeln!(out, "{}", patch_line(line))?;
    }
    out.flush()?;
    Ok(())
}

/// One line of a patch for a terminal: tabs and backslashes stay.
fn patch_line(line: &[u8]) -> String {
    let mut shown = String::new();
    for (n, part) in line.split(|b| *b == b'\t').enumerate() {
        if n > 0 {
            shown.push('\t');
        }
        shown.push_str(&agentwall_action::escape_bytes(part).replace("\\\\", "\\"));
    }
    match line.first() {
        Some(b'+') => paint(Style::Green, &shown),
        Some(b'-') => paint(Style::Red, &shown),
        Some(b'd' | b'#') => paint(Style::Bold, &shown),
        Some(b'@') => paint(Style::Dim, &shown),
        _ => shown,
    }
}

fn print_json(session: &Session, set: &ChangeSet) -> Result<()> {
    let stats = line_counts(session, set)?;
    let judge = Judge::of(session).ok();
    let by_path: HashMap<_, _> = stats.iter().map(|s| (s.path.as_path(), s)).collect();
    let mut changes = Vec::new();
    for change in set.in_review_order() {
        let mut value = serde_json::to_value(change)?;
        if let Some(line) = by_path.get(change.path.as_path()) {
            value["insertions"] = json!(line.insertions);
            value["deletions"] = json!(line.deletions);
        }
        if let Some(judge) = &judge {
            let verdict = judge.verdict(change);
            let word = match (verdict.passes(), verdict.asks()) {
                (true, _) => "passes",
                (false, true) => "asks",
                (false, false) => "refused",
            };
            value["commit"] = json!({
                "policy": word,
                "rule": verdict.decision.rule,
                "reason": verdict.decision.reason,
            });
        }
        changes.push(value);
    }
    output::print_json(&json!({
        "session": session.id(),
        "workspace": session.record.workspace.to_string_lossy(),
        "running": session.is_running(),
        "digest": set.digest,
        "changes": changes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_line_cannot_act_on_the_terminal() {
        assert_eq!(
            patch_line(b"+a\tb\\n\x1b[2J\xff"),
            "+a\tb\\n\\u{1b}[2J\\xff"
        );
    }
}
