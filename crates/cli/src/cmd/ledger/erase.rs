//! `agentwall ledger erase`: destroys the text of entries and leaves everything that the log signs.
//!
//! First a `redaction` is durable in the ledger, then the keys of the sessions or the ciphertexts of the entries are
//! written over. Cut off between the two, the same command finishes it: what a redaction names and is still there
//! is destroyed without another one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    process::ExitCode,
};

use agentwall_ledger::{
    Entry, Reader, Record,
    entry::{Redaction, User, commitment::LEAF},
    subject::Seized,
    text::redacted,
};
use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::json;

use super::{filter::is_session, has_log, told};
use crate::{
    args::ledger::EraseArgs,
    cmd::commit::confirm,
    output::{self, UsageError, tame},
    state::State,
};

/// The session that redactions belong to.
const SESSION: &str = "erasure";

/// What the ledger says of one session.
#[derive(Debug, Default)]
struct Known {
    agent: Option<String>,
    user: Option<User>,
    /// Numbers of the entries whose text is there.
    texts: Vec<u64>,
    /// How many have their text in the log itself: they are of an earlier version.
    in_log: u64,
    /// The newest redaction that names it.
    by: Option<u64>,
}

/// What the ledger says of all.
#[derive(Debug, Default)]
struct Survey {
    sessions: BTreeMap<String, Known>,
    /// Single entries that a redaction names.
    entries: BTreeSet<u64>,
}

impl Survey {
    fn of(reader: &Reader) -> Result<Survey> {
        #[derive(Deserialize)]
        struct Format {
            v: u64,
        }
        let mut survey = Survey::default();
        let first = reader.first().context("cannot read the ledger")?;
        for index in first..reader.size() {
            let told = told(reader, index)?;
            if let Some((sessions, entries)) = redacted(&told.entry) {
                for session in sessions {
                    survey.sessions.entry(session).or_default().by = Some(index);
                }
                survey.entries.extend(entries);
            }
            let format: Format = serde_json::from_slice(&reader.entry(index)?)?;
            let known = survey.sessions.entry(told.entry.session).or_default();
            if told.restored {
                known.texts.push(index);
            } else if format.v < LEAF {
                known.in_log += 1;
            }
            let start = match told.entry.record {
                Record::SessionStart(start) => Some((start.name, start.user)),
                Record::Import(import) => Some((import.name, import.user)),
                _ => None,
            };
            if let Some((agent, user)) = start {
                (known.agent, known.user) = (Some(agent), Some(user));
            }
        }
        Ok(survey)
    }

    /// The sessions that are meant.
    fn meant(&self, args: &EraseArgs) -> Result<Vec<String>> {
        let pick = |is: &dyn Fn(&str, &Known) -> bool| -> Vec<String> {
            let meant = self.sessions.iter().filter(|(id, known)| is(id, known));
            meant.map(|(id, _)| id.clone()).collect()
        };
        let (meant, what) = if let Some(text) = &args.session {
            let meant = pick(&|id, _| is_session(id, text));
            if meant.len() > 1 && !meant.contains(text) {
                return Err(UsageError(format!(
                    "'{}' means {} sessions ({}); give the whole id",
                    tame(text),
                    meant.len(),
                    tame(&meant.join(", "))
                ))
                .into());
            }
            let exact = meant.contains(text).then(|| vec![text.clone()]);
            (exact.unwrap_or(meant), format!("session '{}'", tame(text)))
        } else if let Some(name) = &args.agent {
            let meant = pick(&|_, known| known.agent.as_ref() == Some(name));
            (meant, format!("session of the agent '{}'", tame(name)))
        } else if let Some(name) = &args.user {
            let is = |user: &User| user.name == *name || user.uid.to_string() == *name;
            let meant = pick(&|_, known| known.user.as_ref().is_some_and(is));
            (meant, format!("session of the user '{}'", tame(name)))
        } else {
            return Ok(Vec::new());
        };
        if meant.is_empty() {
            return Err(UsageError(format!(
                "no {what} is in the ledger, as far as its text can be read"
            ))
            .into());
        }
        Ok(meant)
    }
}

/// Runs the command.
pub fn main(args: &EraseArgs) -> Result<ExitCode> {
    let state = State::open()?;
    if !has_log(&state.ledger_dir()) {
        bail!("the ledger is empty: there is nothing to erase");
    }
    let reader = state.reader().context("cannot read the ledger")?;
    let survey = Survey::of(&reader)?;
    let sessions = survey.meant(args)?;
    let entries: BTreeSet<u64> = args.entry.iter().copied().collect();
    if let Some(beyond) = entries.iter().find(|index| **index >= reader.size()) {
        let size = reader.size();
        return Err(
            UsageError(format!("there is no entry {beyond}: the ledger has {size}")).into(),
        );
    }
    let known = |id: &String| survey.sessions.get(id);
    let texts: u64 = match entries.is_empty() {
        true => sessions
            .iter()
            .filter_map(known)
            .map(|k| k.texts.len() as u64)
            .sum(),
        false => count(&reader, &entries, |told| told.restored)?,
    };
    let in_log: u64 = match entries.is_empty() {
        true => sessions.iter().filter_map(known).map(|k| k.in_log).sum(),
        false => {
            entries.len() as u64
                - count(&reader, &entries, |t| t.restored || t.withheld().is_some())?
        }
    };
    // Taken before anything is written: nobody goes on writing with them.
    let mut seized: Vec<(String, Option<Seized>)> = Vec::new();
    let mut owners: BTreeSet<String> = sessions.iter().cloned().collect();
    for index in &entries {
        owners.insert(told(&reader, *index)?.entry.session);
    }
    if owners.contains(SESSION) {
        bail!(
            "what was erased and why stays told: the entries of session '{SESSION}' are not erased"
        );
    }
    for id in owners {
        let key = state.subjects().seize(&id);
        let key = key.map_err(|e| anyhow!("nothing was erased: {}", tame(&e.to_string())))?;
        seized.push((id, key));
    }
    // What has been named before and is still there: an erasure was cut off.
    let is_new = |id: &String| {
        known(id).is_some_and(|k| k.texts.iter().any(|at| k.by.is_none_or(|by| *at > by)))
    };
    let new_sessions: Vec<String> = sessions.iter().filter(|id| is_new(id)).cloned().collect();
    let mut new_entries = Vec::new();
    for index in &entries {
        if !survey.entries.contains(index) && told(&reader, *index)?.restored {
            new_entries.push(*index);
        }
    }
    let unfinished = seized
        .iter()
        .any(|(id, key)| key.is_some() && sessions.contains(id));
    if !args.json {
        for id in &sessions {
            let n = known(id).map_or(0, |k| k.texts.len());
            output::print(&format!(
                "session {}: the text of {}\n",
                tame(id),
                output::count(n, "entry")
            ))?;
        }
        for index in &entries {
            output::print(&super::line(*index, &told(&reader, *index)?.entry))?;
        }
        if in_log > 0 {
            output::note(&format!(
                "{in_log} of these entries are of an earlier version: their text stands in the log itself, which \
                 cannot be changed"
            ));
        }
    }
    let report = |redactions: &[u64]| {
        if args.json {
            output::print_json(&json!({
                "dry_run": args.dry_run,
                "sessions": sessions,
                "entries": entries,
                "texts": texts,
                "in_log": in_log,
                "redactions": redactions,
            }))?;
        }
        anyhow::Ok(ExitCode::SUCCESS)
    };
    let nothing = texts == 0 && !unfinished && entries.iter().all(|i| !survey.entries.contains(i));
    if nothing || args.dry_run {
        if nothing && !args.json {
            output::note("there is no text left to erase");
        }
        return report(&[]);
    }
    if !args.yes {
        if args.json || !std::io::stdin().is_terminal() {
            return Err(
                UsageError("what is erased does not come back: say --yes".to_owned()).into(),
            );
        }
        let question = format!("erase the text of {texts} entries for good?");
        let (mut answers, mut says) = (std::io::stdin().lock(), std::io::stderr());
        if !confirm(&mut answers, &mut says, &question)? {
            output::note("nothing was erased");
            return Ok(ExitCode::from(output::FAILED));
        }
    }
    let log = state.open_log()?;
    let records = records(&state, &new_sessions, &new_entries, args)?;
    let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let keys = seized.into_iter().filter(|(id, _)| sessions.contains(id));
    let keys = keys.filter_map(|(_, key)| key).collect();
    let entries: Vec<u64> = entries.iter().copied().collect();
    let first = log.erase(&slices, keys, &entries)?;
    let redactions: Vec<u64> = first.map_or(Vec::new(), |n| (n..).take(slices.len()).collect());
    log.close().context("cannot write the ledger")?;
    if !args.json {
        let which: Vec<String> = redactions.iter().map(u64::to_string).collect();
        let which = match which.is_empty() {
            true => "as was recorded before".to_owned(),
            false => format!("recorded as entry {}", which.join(", ")),
        };
        output::note(&format!(
            "erased, {which}; copies of the state folder, snapshots and the cells of a flash disk are not reached"
        ));
    }
    report(&redactions)
}

fn count(
    reader: &Reader,
    entries: &BTreeSet<u64>,
    is: impl Fn(&agentwall_ledger::Told) -> bool,
) -> Result<u64> {
    let mut count = 0;
    for index in entries {
        count += u64::from(is(&told(reader, *index)?));
    }
    Ok(count)
}

/// What says that it is destroyed.
fn records(
    state: &State,
    sessions: &[String],
    entries: &[u64],
    args: &EraseArgs,
) -> Result<Vec<Vec<u8>>> {
    let uid = rustix::process::getuid().as_raw();
    let redaction = |sessions: &[String], entries: &[u64]| {
        Record::Redaction(Redaction {
            sessions: sessions.to_vec(),
            entries: entries.to_vec(),
            basis: args.basis.clone().unwrap_or_default(),
            by: User {
                uid,
                name: std::env::var("USER").unwrap_or_default(),
            },
        })
    };
    let of_sessions = sessions
        .chunks(Redaction::MOST)
        .map(|part| redaction(part, &[]));
    let of_entries = entries
        .chunks(Redaction::MOST)
        .map(|part| redaction(&[], part));
    let records: Vec<Record> = of_sessions.chain(of_entries).collect();
    if records.is_empty() {
        return Ok(Vec::new());
    }
    Ok((state.next_seq(SESSION)?..)
        .zip(records)
        .map(|(seq, record)| Entry::now(SESSION, seq, record).to_bytes())
        .collect())
}
