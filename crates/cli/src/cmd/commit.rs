//! `agentwall commit`: carries changes to the originals, as far as the policy and the originals
//! themselves allow.
//!
//! The plan is in the ledger before the first original is touched, the outcome afterwards: a commit
//! whose plan cannot be recorded does not begin. Nothing is lost: what is refused, held or in
//! conflict stays in the session.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_cow::{
    Amendment, Amendments, ChangeSet, CommitOptions, Disposition, Recovery, commit_amended,
};
use agentwall_ledger::{Record, entry::DecisionRecord};
use anyhow::{Context as _, Result, anyhow};

use crate::{
    args::{CommitArgs, review::Merge},
    changes::{self, Chosen, Named, kind_text},
    cmd::{
        diff::{Part, Show, print_diff, stat_text},
        undo::expire,
    },
    judge::{Judge, Verdict},
    layers,
    merge::{Attempt, Bases, Overlaps},
    output,
    session::{Outcome, Session},
    state::State,
};

mod record;
mod report;

pub use record::{
    Listed, carried, commit_records, discard_records, recovered, reviewed, taken_back, undo_records,
};
pub use report::{Became, Line, Report, became, note_report, notes, print_report, report_text};

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
    /// Merge what both sides changed.
    pub merge: Option<Overlaps>,
}

/// What a person made of changes, by their index in the scanned set: the content, and what the report
/// says of each (escaped).
#[derive(Debug, Default)]
pub struct Made {
    /// Content in place of the session's copies.
    pub amendments: Amendments,
    /// What was made of a change.
    pub notes: BTreeMap<usize, String>,
    /// Why a conflict was not merged.
    pub unmerged: BTreeMap<usize, String>,
}

/// Runs the command.
pub fn main(args: CommitArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    // Held until the commit is over: neither a supervisor nor another commit works meanwhile.
    let (mut session, _lock) = session.hold(&state).context("cannot commit")?;
    let options = Options {
        paths: args.selection.paths,
        held: args.held,
        trust_directories: args.trust_directories,
        merge: args.merge.map(|how| match how {
            Merge::Clean => Overlaps::Stay,
            Merge::Markers => Overlaps::Marked,
        }),
    };
    finish_cut_off(&state, &mut session)?;
    let set = changes::scan(&session, options.trust_directories)?;
    let mut chosen = match set.is_empty() {
        true => Chosen::new(),
        false => changes::select(&session, &set, &options.paths)?,
    };
    changes::with_folders(&set, &mut chosen);
    let part = Part::of(&set, &chosen);
    if let Some(expected) = &args.digest
        && *expected != part.set.digest
    {
        let paths = match options.paths.is_empty() {
            true => "",
            false => " with the same paths",
        };
        return Err(anyhow!(
            "nothing was committed: the changes are not those that were reviewed (their digest is {}, \
             --digest says {expected}); 'agentwall diff'{paths} shows what they are now",
            part.set.digest
        ));
    }
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
    let show = Show {
        stat: args.stat,
        patch: args.patch,
        json: args.json,
    };
    let what = output::count(part.set.changes.len(), "change");
    match before_the_step(&session, &part, show, args.yes, &format!("commit {what}?"))? {
        Answer::Yes => {}
        Answer::Shown => return Ok(ExitCode::SUCCESS),
        Answer::No => {
            output::note("nothing was committed");
            return Ok(ExitCode::from(output::FAILED));
        }
    }
    let made = merged(&session, &set, &chosen, options.merge);
    let report = commit_made(&state, &mut session, &set, chosen, options.held, &made)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        print_report(&session, &report)?;
    }
    expire(&state);
    Ok(ExitCode::from(report.status()))
}

/// Completes or undoes what a commit, or an undo, that was cut off (a kill, a power failure) left in the
/// original trees, records what it found, and says where an original is that it could not put back. A
/// rollback that it completes changes the session's record. The caller holds the session's lock.
pub fn finish_cut_off(state: &State, session: &mut Session) -> Result<()> {
    layers::finish_rollback(state, session)?;
    let layers = &session.record.layers;
    let fail = |e| {
        anyhow!(
            "cannot read what an earlier commit of session {} left: {e}",
            session.id()
        )
    };
    let unfinished = agentwall_cow::is_unfinished(layers).map_err(fail)?;
    if !unfinished && !agentwall_cow::is_unreported(layers).map_err(fail)? {
        return Ok(());
    }
    let done =
        agentwall_cow::recover(layers, &CommitOptions::new(state.locks_dir())).map_err(|e| {
            anyhow!(
                "cannot finish an earlier commit of session {}: {e}",
                session.id()
            )
        })?;
    let mut groups: BTreeMap<Recovery, Vec<Listed>> = BTreeMap::new();
    for step in &done.recovered {
        groups.entry(step.how).or_default().push(recovered(step));
    }
    let mut found = Vec::new();
    let mut records = Vec::new();
    for (how, files) in groups {
        let (word, text) = match how {
            Recovery::Finished => ("finished", "in the originals"),
            Recovery::RolledBack => ("rolled_back", "rolled back"),
            Recovery::Undone => ("undone", "undone"),
            _ => ("kept", "left as found"),
        };
        found.push(format!("{} {text}", files.len()));
        records.extend(match how {
            Recovery::Undone => undo_records(word, files),
            _ => commit_records(word, files, None),
        });
    }
    let found = match found.is_empty() {
        true => "nothing had been begun".to_owned(),
        false => found.join(", "),
    };
    output::note(&match unfinished {
        true => format!(
            "an earlier commit or undo of this session was cut off; what it had begun is finished or \
             taken back: {found}"
        ),
        false => format!(
            "an earlier commit or undo of this session ended without a record of its outcome: {found}"
        ),
    });
    let report = Report {
        kept: done.kept,
        warnings: done.warnings,
        ..Report::default()
    };
    notes(&report).iter().for_each(|note| output::note(note));
    if !records.is_empty() {
        match state.record(session.id(), records) {
            Ok(()) => {}
            // Dropping is what makes room; the next command records it.
            Err(e) if output::disk_is_full(&e) => {
                output::note("the disk is full: what was found is recorded later");
                return Ok(());
            }
            Err(e) => return Err(e).context("an earlier commit is finished, but not recorded"),
        }
    }
    acknowledge(session)
}

/// Notes that the outcome of a commit or an undo is in the ledger.
pub fn acknowledge(session: &Session) -> Result<()> {
    agentwall_cow::acknowledge(&session.record.layers).map_err(|e| {
        anyhow!(
            "cannot write the record beside the layers of session {}: {e}",
            session.id()
        )
    })
}

/// What came of asking before a commit or a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Yes,
    /// The changes were shown; that was all that was asked for.
    Shown,
    /// The person said no.
    No,
}

/// Shows the changes if that is what was asked for, else asks the person if there is one.
pub fn before_the_step(
    session: &Session,
    part: &Part,
    show: Show,
    yes: bool,
    question: &str,
) -> Result<Answer> {
    if show.stat || show.patch {
        print_diff(session, part, show)?;
        return Ok(Answer::Shown);
    }
    if !yes && !show.json && std::io::stdin().is_terminal() {
        output::print(&stat_text(session, part)?)?;
        let (mut answers, mut says) = (std::io::stdin().lock(), std::io::stderr());
        if !confirm(&mut answers, &mut says, question)? {
            return Ok(Answer::No);
        }
    }
    Ok(Answer::Yes)
}

/// Commits a session's changes. The caller holds the session's lock, or is its supervisor.
pub fn commit_session(state: &State, session: &mut Session, options: &Options) -> Result<Report> {
    finish_cut_off(state, session)?;
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
    let made = merged(session, set, &chosen, options.merge);
    commit_made(state, session, set, chosen, options.held, &made)
}

/// Merges what both sides changed, as far as that is wanted and possible.
fn merged(session: &Session, set: &ChangeSet, chosen: &Chosen, how: Option<Overlaps>) -> Made {
    let mut made = Made::default();
    let Some(how) = how else { return made };
    let bases = Bases::of(session);
    for n in chosen.keys() {
        let change = &set.changes[*n];
        if change.conflict.is_none() {
            continue;
        }
        match bases.attempt(change, how) {
            Attempt::Merged(amendment) => {
                made.amendments.insert(change, amendment);
                made.notes
                    .insert(*n, "merged with the edits of the original".into());
            }
            Attempt::Marked(amendment, places) => {
                made.amendments.insert(change, amendment);
                let places = output::count(places, "conflict");
                made.notes.insert(
                    *n,
                    format!("merged with {places} marked in it: edit it now"),
                );
            }
            Attempt::No(why) => drop(made.unmerged.insert(*n, why)),
        }
    }
    made
}

/// Commits some changes of a set, and the new folders that they need. `held`: also those that the
/// policy asks about and nobody named.
pub fn commit_chosen(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    chosen: Chosen,
    held: bool,
) -> Result<Report> {
    commit_made(state, session, set, chosen, held, &Made::default())
}

/// The same with what a person made of some of them. `set` is what was scanned and reviewed: the digest
/// of the chosen part of it is in the ledger.
pub fn commit_made(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    mut chosen: Chosen,
    held: bool,
    made: &Made,
) -> Result<Report> {
    changes::with_folders(set, &mut chosen);
    let session_id = session.id().to_owned();
    let digest = changes::only(set, &chosen).digest;
    let set = &made.amendments.apply(set);
    let mut report = Report {
        session: session_id.clone(),
        digest: digest.clone(),
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
            (*n, (disposition(&verdict, *named, held), verdict))
        })
        .collect();

    let planned: Vec<Listed> = decided
        .iter()
        .filter(|(n, (d, _))| *d != Disposition::Hold && set.changes[**n].conflict.is_none())
        .map(|(n, _)| reviewed(&set.changes[*n]))
        .collect();
    if !planned.is_empty() {
        state
            .record(
                &session_id,
                commit_records("planned", planned, Some(&digest)),
            )
            .context("nothing was committed")?;
    }

    let by_object: HashMap<(usize, &Path), Disposition> = decided
        .iter()
        .map(|(n, (disposition, _))| (changes::object(&set.changes[*n]), *disposition))
        .collect();
    let done = commit_amended(
        &session.record.layers,
        set,
        &made.amendments,
        |change| {
            *by_object
                .get(&changes::object(change))
                .unwrap_or(&Disposition::Hold)
        },
        &CommitOptions::new(state.locks_dir()),
    )
    .map_err(|e| anyhow!("cannot commit session {session_id}: {e}"))?;

    let mut records = Vec::new();
    let mut groups: BTreeMap<Became, Vec<Listed>> = BTreeMap::new();
    for (n, (disposition, verdict)) in &decided {
        let (change, outcome) = (&set.changes[*n], &done.outcomes[*n]);
        let (became, mut reason) = became(change, *disposition, verdict, &outcome.status);
        match became {
            Became::Committed | Became::AlreadyApplied => {
                made.notes
                    .get(n)
                    .into_iter()
                    .for_each(|note| note.clone_into(&mut reason));
            }
            Became::Conflict => {
                made.unmerged
                    .get(n)
                    .into_iter()
                    .for_each(|why| why.clone_into(&mut reason));
            }
            _ => {}
        }
        if matches!(became, Became::Refused) || (became == Became::Held && verdict.asks()) {
            records.push(Record::Decision(DecisionRecord::new(
                &verdict.action,
                &verdict.decision,
                "commit",
            )));
        }
        groups.entry(became).or_default().push(match became {
            Became::Committed | Became::AlreadyApplied => carried(change, outcome),
            _ => reviewed(change),
        });
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
        records.extend(commit_records(became.as_str(), files, Some(&digest)));
    }
    let stays = |n: &usize| {
        let amendment = made.amendments.of(&set.changes[*n]);
        amendment.is_some_and(Amendment::copy_stays)
    };
    let partly = decided.keys().any(stays);
    note_outcome(session, set, &report, partly)?;
    state.record(&session_id, records).with_context(|| {
        format!(
            "{} committed, but not recorded",
            report.count(Became::Committed)
        )
    })?;
    acknowledge(session)?;
    Ok(report)
}

/// Asks a yes-or-no question; anything but yes, and the end of input, is no.
pub fn confirm(answers: &mut dyn BufRead, says: &mut dyn Write, question: &str) -> Result<bool> {
    write!(says, "{question} [y/N] ")?;
    says.flush()?;
    let mut line = String::new();
    answers
        .read_line(&mut line)
        .context("cannot read the answer")?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// What to do with a change, by what the policy says and how a person meant it.
pub fn disposition(verdict: &Verdict, named: Named, held: bool) -> Disposition {
    let answered = held || matches!(named, Named::Exactly | Named::Needed);
    let asked_and_answered = verdict.asks() && answered;
    match (verdict.passes() || asked_and_answered, named) {
        (false, _) => Disposition::Hold,
        // Set-id bits and capabilities pass only where the person named the very file.
        (true, Named::Exactly) => Disposition::CommitSpecial,
        (true, _) => Disposition::Commit,
    }
}

/// Notes in the session's record what became of its changes.
fn note_outcome(
    session: &mut Session,
    set: &ChangeSet,
    report: &Report,
    partly: bool,
) -> Result<()> {
    let gone = report.count(Became::Committed) + report.count(Became::AlreadyApplied);
    session.record.outcome = match gone {
        0 => session.record.outcome,
        n if n == set.changes.len() && !partly => Outcome::Committed,
        _ => Outcome::Partly,
    };
    session.save()
}
