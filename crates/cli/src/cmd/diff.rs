//! `agentwall diff`: what a session changed and what would become of it, as a list, as a patch or as
//! JSON.
//!
//! The list is grouped by outcome, with deletions first in each group; nothing is left out of it. Its
//! digest is over exactly these changes: `agentwall commit --digest` with the same paths commits them
//! only if they still are what was shown.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, Write},
    path::Path,
    process::ExitCode,
};

use agentwall_cow::{
    Change, ChangeKind, ChangeSet, DiffOptions, StatLine, Timestamp, stat, write_patch,
};
use anyhow::{Result, anyhow};
use serde_json::json;

use crate::{
    args::DiffArgs,
    changes::{self, Chosen, Named, kind_text},
    judge::Judge,
    outlook::{Group, Outlook, outlook},
    output::{self, Style, paint},
    session::Session,
    state::{self, State},
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

/// Changes to show: the part of a set that is meant, and how each was named.
#[derive(Debug, Clone)]
pub struct Part {
    /// The changes, under a digest of their own.
    pub set: ChangeSet,
    /// How a person's paths mean each.
    pub named: Chosen,
    /// They are to be dropped: what a commit would make of them is not told.
    pub to_drop: bool,
}

impl Part {
    /// What was chosen of a set.
    pub fn of(set: &ChangeSet, chosen: &Chosen) -> Part {
        Part {
            set: changes::only(set, chosen),
            named: chosen.values().copied().enumerate().collect(),
            to_drop: false,
        }
    }

    /// All of a set.
    pub fn all(set: &ChangeSet) -> Part {
        let named = (0..set.changes.len()).map(|n| (n, Named::All));
        Part {
            set: set.clone(),
            named: named.collect(),
            to_drop: false,
        }
    }

    /// The same, to be dropped.
    pub fn to_drop(set: &ChangeSet, chosen: &Chosen) -> Part {
        Part {
            to_drop: true,
            ..Part::of(set, chosen)
        }
    }
}

/// Runs the command.
pub fn main(args: DiffArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    let set = changes::scan(&session, false)?;
    let mut chosen = changes::select(&session, &set, &args.selection.paths)?;
    // A commit of these paths carries the new folders that they need, too.
    changes::with_folders(&set, &mut chosen);
    let show = Show {
        stat: args.stat || !args.patch,
        patch: args.patch,
        json: args.json,
    };
    print_diff(&session, &Part::of(&set, &chosen), show)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints changes of a session.
pub fn print_diff(session: &Session, part: &Part, show: Show) -> Result<()> {
    if show.json {
        return print_json(session, part);
    }
    if part.set.is_empty() && !show.patch {
        return output::print(&format!("session {}: nothing changed\n", session.id()));
    }
    if show.stat {
        output::print(&stat_text(session, part)?)?;
    }
    if show.patch {
        print_patch(session, &part.set)?;
    }
    Ok(())
}

/// Line counts and sizes of every change, deletions first in each layer.
pub fn line_counts(session: &Session, set: &ChangeSet) -> Result<Vec<StatLine>> {
    stat(&session.record.layers, set, &DiffOptions::default()).map_err(|e| {
        let id = session.id();
        anyhow!("cannot compare the changes of session {id}: {e}")
    })
}

/// The changes by what would become of them, with line counts and sizes, and the digest at the end.
pub fn stat_text(session: &Session, part: &Part) -> Result<String> {
    let set = &part.set;
    let lines = line_counts(session, set)?;
    // Changes can be shown without their policy; committing them says what is wrong with it.
    let judge = Judge::of(session).ok();
    let outlooks = outlook(set, &part.named, judge.as_ref(), false);
    let at: HashMap<(usize, &Path), usize> = (set.changes.iter().enumerate())
        .map(|(n, c)| (changes::object(c), n))
        .collect();
    let moved: HashMap<&Path, &Path> = (set.changes.iter())
        .filter_map(|c| Some((c.rename_from.as_deref()?, c.path.as_path())))
        .collect();
    let (mut rows, mut groups) = (Vec::new(), Vec::new());
    let (mut inserted, mut deleted) = (0, 0);
    // By layer, and in each the deletions first: as the line counts come.
    for line in &lines {
        inserted += line.insertions.unwrap_or(0);
        deleted += line.deletions.unwrap_or(0);
        let found = (0..session.record.layers.len())
            .filter_map(|layer| at.get(&(layer, line.path.as_path())))
            .find(|n| set.changes[**n].kind == line.kind);
        let Some(n) = found else { continue };
        let (change, outlook) = (&set.changes[*n], outlooks.get(n));
        let moved_to = moved.get(change.path.as_path()).copied();
        groups.push(match part.to_drop {
            true => Group::Committed,
            false => outlook.map_or(Group::Unknown, |o| o.group),
        });
        rows.push(vec![
            kind_text(line.kind).0.to_owned(),
            output::path_below(&line.path, &session.record.workspace),
            amounts(line),
            sizes(line),
            remarks(session, change, line, outlook, moved_to)
                .into_iter()
                .map(|(style, text)| style.map_or(text.clone(), |s| paint(s, &text)))
                .collect::<Vec<_>>()
                .join("; "),
        ]);
    }
    let table = output::table(&rows);
    let shown: Vec<&str> = table.lines().collect();
    let mut text = String::new();
    let mut counts = Vec::new();
    for group in Group::ALL {
        let of_group: Vec<usize> = (0..rows.len()).filter(|n| groups[*n] == group).collect();
        if of_group.is_empty() {
            continue;
        }
        let count = of_group.len();
        let word = match group {
            Group::Committed => "to commit",
            other => other.as_str(),
        };
        if !part.to_drop {
            counts.push(format!("{count} {word}"));
            let headline = format!("{} ({count}):", group.headline());
            text.push_str(&format!("{}\n", paint(Style::Bold, &headline)));
        }
        for deletions in [true, false] {
            for n in of_group
                .iter()
                .filter(|n| (rows[**n][0] == "D") == deletions)
            {
                text.push_str(shown.get(*n).unwrap_or(&""));
                text.push('\n');
            }
        }
    }
    text.push_str(&format!(
        "{}, {}, {}",
        output::count(lines.len(), "change"),
        output::count(inserted, "line") + " added",
        output::count(deleted, "line") + " removed",
    ));
    match part.to_drop {
        true => text.push('\n'),
        false => text.push_str(&format!(": {}\ndigest {}\n", counts.join(", "), set.digest)),
    }
    Ok(text)
}

/// What a person has to know of a change beside its size, escaped, each with its style.
pub fn remarks(
    session: &Session,
    change: &Change,
    line: &StatLine,
    outlook: Option<&Outlook>,
    moved_to: Option<&Path>,
) -> Vec<(Option<Style>, String)> {
    let mut remarks = Vec::new();
    let path = |path: &Path| output::path_below(path, &session.record.workspace);
    if let Some(conflict) = &change.conflict {
        let text = format!("conflict: {}", output::tame(&conflict.to_string()));
        remarks.push((Some(Style::Red), text));
    }
    if let Some(outlook) = outlook.filter(|o| o.group != Group::Conflict && !o.why.is_empty()) {
        remarks.push((Some(Style::Yellow), outlook.why.clone()));
    }
    if !change.privileges.is_empty() {
        let text = format!("grants {:?}", change.privileges);
        remarks.push((Some(Style::Red), text));
    }
    let mut plain = |text| remarks.push((None, text));
    if let Some(below) = change.below {
        let gone = output::count(usize::try_from(below).unwrap_or(usize::MAX), "object");
        plain(format!("with {gone} below it"));
    }
    if line.binary {
        plain("binary".into());
    }
    if let Some(from) = &change.rename_from {
        plain(format!("renamed from {}", path(from)));
    }
    if let Some(to) = moved_to.filter(|_| change.kind == ChangeKind::Delete) {
        plain(format!("renamed to {}", path(to)));
    }
    if let Some(first) = &change.link_to {
        plain(format!("hard link of {}", path(first)));
    }
    if change.breaks_hard_link && change.kind != ChangeKind::Delete {
        plain("its other hard links keep the old content".into());
    }
    if change.exec_gained {
        plain("becomes executable".into());
    }
    if let (true, Some(old), Some(new)) = (change.new_time, &change.old, &change.new) {
        let time = |t: Timestamp| state::rfc3339_of(millis(t));
        plain(format!("time {} -> {}", time(old.mtime), time(new.mtime)));
    }
    remarks
}

/// Milliseconds since the Unix epoch; a time before it counts as none.
fn millis(t: Timestamp) -> u64 {
    let sec = u64::try_from(t.sec).unwrap_or(0);
    sec.saturating_mul(1000) + u64::from(t.nsec / 1_000_000)
}

fn amounts(line: &StatLine) -> String {
    match (line.insertions, line.deletions) {
        (Some(plus), Some(minus)) => {
            let plus = paint(Style::Green, &format!("+{plus}"));
            format!("{plus} {}", paint(Style::Red, &format!("-{minus}")))
        }
        _ => String::new(),
    }
}

/// Bytes before and after.
pub fn sizes(line: &StatLine) -> String {
    match (line.old_size, line.new_size) {
        (Some(old), Some(new)) => format!("{old} -> {new} bytes"),
        (None, Some(new)) => format!("{new} bytes"),
        (Some(old), None) => format!("{old} bytes gone"),
        (None, None) => String::new(),
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

/// A line of a file as it may be shown: tabs and backslashes stay, everything else that acts on a
/// terminal is shown by its number.
pub fn line_text(line: &[u8]) -> String {
    let mut shown = String::new();
    for (n, part) in line.split(|b| *b == b'\t').enumerate() {
        if n > 0 {
            shown.push('\t');
        }
        shown.push_str(&agentwall_action::escape_bytes(part).replace("\\\\", "\\"));
    }
    shown
}

/// One line of a patch for a terminal.
fn patch_line(line: &[u8]) -> String {
    let shown = line_text(line);
    match line.first() {
        Some(b'+') => paint(Style::Green, &shown),
        Some(b'-') => paint(Style::Red, &shown),
        Some(b'd' | b'#') => paint(Style::Bold, &shown),
        Some(b'@') => paint(Style::Dim, &shown),
        _ => shown,
    }
}

fn print_json(session: &Session, part: &Part) -> Result<()> {
    let set = &part.set;
    let stats = line_counts(session, set)?;
    let judge = Judge::of(session).ok();
    let outlooks = outlook(set, &part.named, judge.as_ref(), false);
    let at: HashMap<(usize, &Path), usize> = (set.changes.iter().enumerate())
        .map(|(n, c)| (changes::object(c), n))
        .collect();
    let by_path: HashMap<_, _> = (stats.iter())
        .map(|s| ((s.path.as_path(), s.kind), s))
        .collect();
    let mut counts = serde_json::Map::new();
    let mut changes = Vec::new();
    for change in set.in_review_order() {
        let mut value = serde_json::to_value(change)?;
        value["old_size"] = json!(change.old_size());
        value["new_size"] = json!(change.new_size());
        if let Some(line) = by_path.get(&(change.path.as_path(), change.kind)) {
            value["insertions"] = json!(line.insertions);
            value["deletions"] = json!(line.deletions);
            value["binary"] = json!(line.binary);
        }
        let outlook = at
            .get(&changes::object(change))
            .and_then(|n| outlooks.get(n));
        let group = outlook.map_or(Group::Unknown, |o| o.group).as_str();
        value["group"] = json!(group);
        let count = counts.entry(group).or_insert_with(|| json!(0));
        *count = json!(count.as_u64().unwrap_or(0) + 1);
        if let Some(verdict) = outlook.and_then(|o| o.verdict.as_ref()) {
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
        "groups": counts,
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
