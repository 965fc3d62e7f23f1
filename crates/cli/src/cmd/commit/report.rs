//! What a commit did, change by change, for a person and for a script.

use std::path::PathBuf;

use agentwall_cow::{Change, Disposition, HoldReason, Status};
use anyhow::Result;
use serde::Serialize;

use crate::{
    judge::Verdict,
    output::{self, Style, paint},
    session::Session,
};

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// In the original now.
    Committed,
    /// The original had it already.
    AlreadyApplied,
    /// Left in the session: the policy asks, or it waits for another change.
    Held,
    /// Left in the session: the policy denies it.
    Refused,
    /// Left in the session: the original changed.
    Conflict,
    /// Left in the session: the system failed.
    Failed,
}

impl Became {
    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Became::Committed => "committed",
            Became::AlreadyApplied => "already_applied",
            Became::Held => "held",
            Became::Refused => "refused",
            Became::Conflict => "conflict",
            Became::Failed => "failed",
        }
    }
}

/// One line of a [`Report`].
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The path in the original tree.
    #[serde(with = "agentwall_action::path_bytes")]
    pub path: PathBuf,
    /// `add`, `modify`, `replace`, `delete`, `meta`, `special`.
    pub change: &'static str,
    /// What became of it.
    pub became: Became,
    /// Why it was left, escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a commit did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The session.
    pub session: String,
    /// Digest of the change set.
    pub digest: String,
    /// One line per change that was meant.
    pub changes: Vec<Line>,
    /// Originals that were kept, and why; escaped.
    pub kept: Vec<String>,
    /// Trouble in cleaning up.
    pub warnings: Vec<String>,
}

impl Report {
    /// How many changes became this.
    pub fn count(&self, became: Became) -> usize {
        self.changes.iter().filter(|l| l.became == became).count()
    }

    /// The exit status that says it.
    pub fn status(&self) -> u8 {
        if self.count(Became::Failed) > 0 {
            output::FAILED
        } else if self.count(Became::Conflict) > 0 {
            output::CONFLICTS
        } else {
            output::OK
        }
    }
}

/// What a commit did, for a person.
pub fn print_report(session: &Session, report: &Report) -> Result<()> {
    output::print(&report_text(session, report))?;
    print_notes(report);
    Ok(())
}

/// The same on standard error: the output of a run is the agent's.
pub fn note_report(session: &Session, report: &Report) {
    eprint!("{}", report_text(session, report));
    print_notes(report);
}

/// One line per change and a last one that counts.
pub fn report_text(session: &Session, report: &Report) -> String {
    let mut rows = Vec::new();
    for line in &report.changes {
        let style = match line.became {
            Became::Committed | Became::AlreadyApplied => Style::Green,
            Became::Held => Style::Yellow,
            _ => Style::Red,
        };
        rows.push(vec![
            paint(style, &line.became.as_str().replace('_', " ")),
            output::path_below(&line.path, &session.record.workspace),
            line.reason.clone(),
        ]);
    }
    let mut text = output::table(&rows);
    let mut parts = Vec::new();
    for (became, word) in [
        (Became::Committed, "committed"),
        (Became::AlreadyApplied, "there already"),
        (Became::Held, "held"),
        (Became::Refused, "refused by the policy"),
        (Became::Conflict, "in conflict"),
        (Became::Failed, "failed"),
    ] {
        match report.count(became) {
            0 if became != Became::Committed => {}
            n => parts.push(format!("{n} {word}")),
        }
    }
    text.push_str(&format!(
        "session {}: {}\n",
        report.session,
        parts.join(", ")
    ));
    text
}

fn print_notes(report: &Report) {
    for note in notes(report) {
        output::note(&note);
    }
}

/// What a person should know or do next.
pub fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if report.count(Became::Held) > 0 {
        notes.push(
            "held changes are still in the session: name them after '--', or give --held, to commit \
             them"
            .to_owned(),
        );
    }
    if report.count(Became::Conflict) > 0 {
        notes.push(
            "conflicts: the originals are untouched and the session's versions are kept; compare them \
             with 'agentwall diff --patch', merge by hand, then 'agentwall discard -- PATH'"
            .to_owned(),
        );
    }
    let mut steps: Vec<&str> = report
        .changes
        .iter()
        .filter_map(|line| output::next_step(&line.reason))
        .collect();
    steps.dedup();
    notes.extend(steps.into_iter().map(str::to_owned));
    for kept in &report.kept {
        notes.push(format!("an original was kept: {kept}"));
    }
    for warning in &report.warnings {
        notes.push(format!("{warning}; the next commit tries again"));
    }
    notes
}

/// What became of a change, and why it was left.
pub fn became(
    change: &Change,
    disposition: Disposition,
    verdict: &Verdict,
    status: &Status,
) -> (Became, String) {
    match status {
        Status::Committed | Status::Discarded => (Became::Committed, String::new()),
        Status::AlreadyApplied => (Became::AlreadyApplied, String::new()),
        Status::Conflict { conflict } => (Became::Conflict, conflict.to_string()),
        Status::Held {
            reason: HoldReason::Asked,
        } if disposition == Disposition::Hold => (
            if verdict.asks() {
                Became::Held
            } else {
                Became::Refused
            },
            verdict.why(change),
        ),
        Status::Held { reason } => (Became::Held, reason.to_string()),
        Status::Failed { step, error, .. } => {
            (Became::Failed, output::tame(&format!("{step}: {error}")))
        }
        other => (Became::Failed, format!("unknown outcome {other:?}")),
    }
}
