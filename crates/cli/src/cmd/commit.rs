//! `agentwall commit`: carries changes to the originals, as far as the policy and the originals
//! themselves allow.
//!
//! The plan is in the ledger before the first original is touched, the outcome afterwards: a commit
//! whose plan cannot be recorded does not begin. Nothing is lost: what is refused, held or in
//! conflict stays in the session.

use std::{
    collections::{BTreeMap, HashMap},
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_action::escape_text;
use agentwall_cow::{Change, ChangeSet, CommitOptions, Disposition, HoldReason, Status, commit};
use agentwall_ledger::{
    Record,
    entry::{ChangedFile, Changes, Commit, DecisionRecord},
};
use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use crate::{
    args::CommitArgs,
    changes::{self, Judge, Named, Verdict, kind_text},
    cmd::diff::{Show, print_diff, stat_text},
    output::{self, Style, paint},
    session::{Outcome, Session},
    state::{State, shown},
};

/// What to commit.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these files and folders; all when empty. What is named here is committed even where
    /// the policy asks.
    pub paths: Vec<PathBuf>,
    /// Also everything the policy asks about.
    pub held: bool,
    /// No folder of the original was moved since the session began.
    pub trust_directories: bool,
}

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

/// Runs the command.
pub fn main(args: CommitArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    // Held until the commit is over: neither a supervisor nor another commit works meanwhile.
    let _lock = session.hold_lock().context("cannot commit")?;
    let mut session = Session::load(&state, session.id())?;
    let options = Options {
        paths: args.selection.paths,
        held: args.held,
        trust_directories: args.trust_directories,
    };
    let set = changes::scan(&session, options.trust_directories)?;
    if set.is_empty() {
        if args.json {
            let session = session.id().to_owned();
            output::print_json(&Report {
                session,
                digest: set.digest,
                ..Report::default()
            })?;
        } else {
            output::print(&format!("session {}: nothing to commit\n", session.id()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let part = changes::only(&set, &changes::select(&session, &set, &options.paths)?);
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
        if !confirm(&format!(
            "commit {}?",
            output::count(part.changes.len(), "change")
        ))? {
            output::note("nothing was committed");
            return Ok(ExitCode::from(output::FAILED));
        }
    }
    let report = commit_set(&state, &mut session, &set, &options)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        print_report(&session, &report)?;
    }
    Ok(ExitCode::from(report.status()))
}

/// Commits a session's changes. The caller holds the session's lock, or is its supervisor.
pub fn commit_session(state: &State, session: &mut Session, options: &Options) -> Result<Report> {
    let set = changes::scan(session, options.trust_directories)?;
    commit_set(state, session, &set, options)
}

/// Commits a change set that was just scanned.
pub fn commit_set(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    options: &Options,
) -> Result<Report> {
    let mut chosen = changes::select(session, set, &options.paths)?;
    changes::with_folders(set, &mut chosen);
    let session_id = session.id().to_owned();
    let mut report = Report {
        session: session_id.clone(),
        digest: set.digest.clone(),
        ..Report::default()
    };
    if chosen.is_empty() {
        return Ok(report);
    }
    let judge = Judge::of(session)?;
    let decided: BTreeMap<usize, (Disposition, Verdict)> = chosen
        .iter()
        .map(|(n, named)| {
            let verdict = judge.verdict(&set.changes[*n]);
            (*n, (disposition(&verdict, *named, options.held), verdict))
        })
        .collect();

    let planned: Vec<ChangedFile> = decided
        .iter()
        .filter(|(n, (d, _))| *d != Disposition::Hold && set.changes[**n].conflict.is_none())
        .map(|(n, _)| changed_file(&set.changes[*n]))
        .collect();
    if !planned.is_empty() {
        let outcome = BTreeMap::from([("planned".to_owned(), planned.len() as u64)]);
        let plan = Record::Commit(Commit {
            changes: Changes::new(planned),
            outcome,
        });
        state
            .record(&session_id, vec![plan])
            .context("nothing was committed")?;
    }

    let by_object: HashMap<(usize, &Path), Disposition> = decided
        .iter()
        .map(|(n, (disposition, _))| (changes::object(&set.changes[*n]), *disposition))
        .collect();
    let done = commit(
        &session.record.layers,
        set,
        |change| {
            *by_object
                .get(&changes::object(change))
                .unwrap_or(&Disposition::Hold)
        },
        &CommitOptions::new(state.locks_dir()),
    )
    .map_err(|e| anyhow!("cannot commit session {session_id}: {e}"))?;

    let mut records = Vec::new();
    let mut groups: BTreeMap<Became, Vec<ChangedFile>> = BTreeMap::new();
    for (n, (disposition, verdict)) in &decided {
        let (change, status) = (&set.changes[*n], &done.outcomes[*n].status);
        let (became, reason) = became(*disposition, verdict, status);
        if matches!(became, Became::Refused) || (became == Became::Held && verdict.asks()) {
            records.push(Record::Decision(DecisionRecord::new(
                &verdict.action,
                &verdict.decision,
                "commit",
            )));
        }
        groups.entry(became).or_default().push(changed_file(change));
        let (path, change) = (change.path.clone(), kind_text(change.kind).1);
        report.changes.push(Line {
            path,
            change,
            became,
            reason,
        });
    }
    report.kept = done.kept;
    report.warnings = done.warnings;
    for (became, files) in groups {
        let outcome = BTreeMap::from([(became.as_str().to_owned(), files.len() as u64)]);
        records.push(Record::Commit(Commit {
            changes: Changes::new(files),
            outcome,
        }));
    }
    note_outcome(session, set, &report)?;
    state.record(&session_id, records).with_context(|| {
        format!(
            "{} committed, but not recorded",
            report.count(Became::Committed)
        )
    })?;
    Ok(report)
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

fn report_text(session: &Session, report: &Report) -> String {
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
    if report.count(Became::Held) > 0 {
        output::note(
            "held changes are still in the session: name them after '--', or give --held, to commit \
             them",
        );
    }
    if report.count(Became::Conflict) > 0 {
        output::note(
            "conflicts: the originals are untouched and the session's versions are kept; compare them \
             with 'agentwall diff --patch', merge by hand, then 'agentwall discard -- PATH'",
        );
    }
    for kept in &report.kept {
        output::note(&format!("an original was kept: {kept}"));
    }
    for warning in &report.warnings {
        output::note(&format!("{warning}; the next commit tries again"));
    }
}

/// Asks a yes-or-no question; anything but yes is no.
pub fn confirm(question: &str) -> Result<bool> {
    let mut err = std::io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .context("cannot read the answer")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// A change as the ledger lists it.
pub fn changed_file(change: &Change) -> ChangedFile {
    ChangedFile {
        path: shown(&change.path),
        change: kind_text(change.kind).1.to_owned(),
        // The content's identity is not a plain SHA-256 of it; the set's digest covers it.
        sha256: None,
    }
}

fn disposition(verdict: &Verdict, named: Named, held: bool) -> Disposition {
    let asked_and_answered = verdict.asks() && (held || named != Named::All);
    match (verdict.passes() || asked_and_answered, named) {
        (false, _) => Disposition::Hold,
        // Set-id bits and capabilities pass only where the person named the very file.
        (true, Named::Exactly) => Disposition::CommitSpecial,
        (true, _) => Disposition::Commit,
    }
}

fn became(disposition: Disposition, verdict: &Verdict, status: &Status) -> (Became, String) {
    let by_rule = || {
        let rule = verdict.decision.rule.as_deref().unwrap_or("default");
        format!(
            "rule {}: {}",
            escape_text(rule),
            output::tame(&verdict.decision.reason)
        )
    };
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
            by_rule(),
        ),
        Status::Held { reason } => (Became::Held, reason.to_string()),
        Status::Failed { step, error, .. } => {
            (Became::Failed, output::tame(&format!("{step}: {error}")))
        }
        other => (Became::Failed, format!("unknown outcome {other:?}")),
    }
}

/// Notes in the session's record what became of its changes.
fn note_outcome(session: &mut Session, set: &ChangeSet, report: &Report) -> Result<()> {
    let gone = report.count(Became::Committed) + report.count(Became::AlreadyApplied);
    session.record.outcome = match gone {
        0 => session.record.outcome,
        n if n == set.changes.len() => Outcome::Committed,
        _ => Outcome::Partly,
    };
    session.save()
}
