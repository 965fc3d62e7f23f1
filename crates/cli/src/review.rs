//! The review at the end of a run: the person at the terminal decides what becomes of the changes.
//!
//! Nothing is the answer to silence: an end of input keeps everything, and what is not understood is
//! asked again. What is committed or dropped is what was shown: exactly the files that the person
//! named, never more because of the folder they are in. What was typed before the first question was
//! shown was meant for the agent, which may have asked for it: a terminal forgets it, so that no agent
//! gets its own work committed by a line typed ahead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Write},
    os::fd::AsFd as _,
    path::PathBuf,
};

use agentwall_cow::{Change, ChangeSet};
use anyhow::{Context as _, Result};
use rustix::termios::{QueueSelector, tcflush};

use crate::{
    changes::{self, Chosen, Named},
    cmd::{
        commit::{Report, commit_chosen, commit_set, confirm, notes, report_text},
        diff::{Part, show_patch, stat_text},
        discard::{discard_chosen, discard_set},
    },
    output, screen,
    session::Session,
    state::State,
};

const MENU: &str = "[c]ommit, [d]iscard, [k]eep, show [p]atch, [s]elect files, [r]eview by hunk?";

/// Shows what changed and does what the person at the terminal says. The caller is the session's
/// supervisor, or holds its lock; the terminal is in line mode.
pub fn review(state: &State, session: &mut Session) -> Result<()> {
    // Not `stdin().lock()`: its buffer would outlive this review and keep what was not read.
    let terminal = std::io::stdin().as_fd().try_clone_to_owned();
    let terminal = File::from(terminal.context("cannot read answers")?);
    let typed_ahead = terminal.try_clone().context("cannot read answers")?;
    Desk {
        forget: &|| forget(&typed_ahead),
        answers: &mut BufReader::new(terminal),
        says: &mut std::io::stderr(),
        shows: &mut std::io::stdout(),
    }
    .review(state, session)
}

/// Drops what was typed into a terminal and not read. A file or a pipe is not a terminal and forgets
/// nothing: its answers were written for these questions.
fn forget(input: &File) {
    let _ = tcflush(input, QueueSelector::IFlush);
}

/// The person: what they type, and the two places where they read.
struct Desk<'a> {
    /// Drops what was typed so far; called once, right before the first question.
    forget: &'a dyn Fn(),
    answers: &'a mut dyn BufRead,
    /// Questions and notes.
    says: &'a mut dyn Write,
    /// Patches and reports.
    shows: &'a mut dyn Write,
}

impl Desk<'_> {
    fn review(&mut self, state: &State, session: &mut Session) -> Result<()> {
        let mut first = true;
        loop {
            let set = changes::scan(session, false)?;
            if set.is_empty() {
                return self.note("no changes are left to review");
            }
            let stat = stat_text(session, &Part::all(&set))?;
            if std::mem::take(&mut first) {
                (self.forget)();
            }
            match self.ask(&format!("{stat}{MENU} "))?.as_deref() {
                Some("c" | "commit") => {
                    let report = commit_set(state, session, &set, &Default::default())?;
                    return self.report(session, &report);
                }
                Some("d" | "discard") => {
                    let question = "drop all of it? This cannot be undone.";
                    if confirm(self.answers, self.says, question)? {
                        discard_set(state, session, &set, &[])?;
                        return self.note("dropped");
                    }
                }
                Some("p" | "patch") => show_patch(self.shows, session, &set)?,
                Some("s" | "select") => self.one_by_one(state, session, &set)?,
                Some("r" | "review") => {
                    let chosen = screen::meant(session, &set, &[])?;
                    match screen::review(state, session, &set, &chosen) {
                        Ok(Some(done)) => {
                            if let Some(report) = &done.report {
                                self.report(session, report)?;
                            }
                            if let Some((count, notes)) = &done.dropped {
                                notes.iter().try_for_each(|note| self.note(note))?;
                                let what = output::count(*count, "change");
                                self.note(&format!("{what} dropped"))?;
                            }
                        }
                        Ok(None) => {}
                        Err(e) => self.note(&output::explain(&e))?,
                    }
                }
                Some("k" | "keep") | None => {
                    let id = session.id();
                    return self.note(&format!(
                        "kept; 'agentwall diff {id}', 'agentwall commit {id}' and 'agentwall discard \
                         {id}' go on from here"
                    ));
                }
                Some(_) => {}
            }
        }
    }

    /// Asks about every change, then commits and drops what was said, and nothing else.
    fn one_by_one(&mut self, state: &State, session: &mut Session, set: &ChangeSet) -> Result<()> {
        let (mut wanted, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        let listed: Vec<&Change> = set.in_review_order().collect();
        'changes: for change in listed {
            let (letter, _) = changes::kind_text(change.kind);
            let path = output::path_below(&change.path, &session.record.workspace);
            let question = format!("{letter} {path}: [c]ommit, [d]iscard, [k]eep, [q]uit? ");
            loop {
                match self.ask(&question)?.as_deref() {
                    Some("c" | "commit" | "y") => wanted.insert(object(change)),
                    Some("d" | "discard") => dropped.insert(object(change)),
                    Some("k" | "keep" | "n") => false,
                    Some("q" | "quit") | None => break 'changes,
                    Some(_) => continue,
                };
                break;
            }
        }
        let chosen = exactly(set, &wanted);
        if !chosen.is_empty() {
            let report = commit_chosen(state, session, set, chosen, false)?;
            self.report(session, &report)?;
        }
        if dropped.is_empty() {
            return Ok(());
        }
        let (count, notes) = drop_exactly(state, session, &dropped)?;
        notes.iter().try_for_each(|note| self.note(note))?;
        if count > 0 {
            self.note(&format!("{} dropped", output::count(count, "change")))?;
        }
        Ok(())
    }

    fn report(&mut self, session: &Session, report: &Report) -> Result<()> {
        self.shows
            .write_all(report_text(session, report).as_bytes())?;
        self.shows.flush()?;
        notes(report).iter().try_for_each(|note| self.note(note))
    }

    fn note(&mut self, text: &str) -> Result<()> {
        writeln!(self.says, "agentwall: {text}")?;
        Ok(())
    }

    /// The answer to a question: one line, trimmed, lower-case; `None` at the end of input.
    fn ask(&mut self, question: &str) -> Result<Option<String>> {
        self.says.write_all(question.as_bytes())?;
        self.says.flush()?;
        let mut line = String::new();
        let read = self
            .answers
            .read_line(&mut line)
            .context("cannot read the answer")?;
        Ok((read > 0).then(|| line.trim().to_lowercase()))
    }
}

/// Drops exactly these changes, as far as what stays lets it: how many, and what is to be told.
pub fn drop_exactly(
    state: &State,
    session: &mut Session,
    dropped: &BTreeSet<(usize, PathBuf)>,
) -> Result<(usize, Vec<String>)> {
    let set = changes::scan(session, false)?;
    let mut chosen = exactly(&set, dropped);
    // Dropping a new folder drops what is in it: it stays while something in it stays.
    let stays = |n: &usize| {
        let folder = &set.changes[*n];
        set.changes.iter().any(|c| {
            c.layer == folder.layer
                && c.path != folder.path
                && c.path.starts_with(&folder.path)
                && !dropped.contains(&object(c))
        })
    };
    let kept: Vec<usize> = chosen.keys().filter(|n| stays(n)).copied().collect();
    let mut notes = Vec::new();
    for n in kept {
        chosen.remove(&n);
        let path = output::path_below(&set.changes[n].path, &session.record.workspace);
        notes.push(format!("{path} is kept, for what you keep in it"));
    }
    let count = match chosen.is_empty() {
        true => 0,
        false => discard_chosen(state, session, &set, &chosen)?,
    };
    Ok((count, notes))
}

/// What tells a change from all others of any scan of the session.
fn object(change: &Change) -> (usize, PathBuf) {
    (change.layer, change.path.clone())
}

/// The changes of a set that are among these objects, as named by the person.
pub fn exactly(set: &ChangeSet, objects: &BTreeSet<(usize, PathBuf)>) -> Chosen {
    let all = set.changes.iter().enumerate();
    let among = all.filter(|(_, change)| objects.contains(&object(change)));
    among
        .map(|(n, _)| (n, Named::Exactly))
        .collect::<BTreeMap<_, _>>()
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
