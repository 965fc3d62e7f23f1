//! `agentwall ledger export`: entries in the forms that other systems collect, one a line. Each carries the
//! number of the entry and the log's name, so that whoever has one can ask for its proof.
//!
//! An exported line proves nothing itself.

mod cef;
mod ocsf;
mod otel;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use agentwall_ledger::{Entry, Record};
use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Filter, INTERVAL, first_of, has_log, settle, summary};
use crate::{
    access,
    args::ledger::{ExportArgs, Format},
    host::told,
    output,
    state::State,
};

/// An entry on its way out.
struct Line<'a> {
    /// The log's origin, which is its key's name.
    origin: &'a str,
    /// Its number in the log.
    index: u64,
    entry: &'a Entry,
    /// The name of the session's agent, where its start is in the log.
    agent: Option<&'a str>,
    /// The whole entry.
    fields: &'a Value,
}

impl Line<'_> {
    /// A sentence for a person.
    fn text(&self) -> String {
        summary(&self.entry.record)
    }

    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> i64 {
        super::timeline::unix_ms(&self.entry.time)
    }

    /// The verb of a decision, else the type of the entry.
    fn what(&self) -> &str {
        match self.entry.record.decision() {
            Some(decision) => &decision.action.verb,
            None => self.entry.record.type_name(),
        }
    }

    /// What became of a decision.
    fn outcome(&self) -> Option<Outcome> {
        let decision = self.entry.record.decision()?;
        let only_told = told::is_only_told(&decision.enforced_by);
        Some(match decision.effect.as_str() {
            "allow" => Outcome::Allowed,
            "isolate" => Outcome::Isolated,
            _ if only_told => Outcome::Logged,
            "ask" => Outcome::Delayed,
            _ => Outcome::Blocked,
        })
    }
}

/// What became of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Allowed,
    /// Allowed on a copy.
    Isolated,
    /// A person is asked.
    Delayed,
    Blocked,
    /// It would have been refused, and nothing was refused there.
    Logged,
}

/// Runs the command.
pub fn main(args: &ExportArgs) -> Result<ExitCode> {
    if let Some(path) = &args.bundle {
        return super::audit::main(args, path);
    }
    let state = State::for_reading()?;
    let mut filter = Filter::new(&state, &args.filter)?;
    let mut agents: BTreeMap<String, String> = BTreeMap::new();
    let mut next = 0;
    let (mut first, mut handed) = (true, 0);
    settle(&state);
    loop {
        if has_log(&state.ledger_dir()) {
            let reader = state.reader().context("cannot read the ledger")?;
            if first {
                next = first_of(&reader)?;
            }
            for index in next..reader.size() {
                let told = super::told(&reader, index)?;
                let entry = &told.entry;
                if let Record::SessionStart(start) = &entry.record {
                    agents.insert(entry.session.clone(), start.name.clone());
                }
                if !filter.passes(entry) || index < args.from {
                    continue;
                }
                let line = Line {
                    origin: &reader.checkpoint().origin,
                    index,
                    agent: agents.get(&entry.session).map(String::as_str),
                    fields: &super::fields(&told)?,
                    entry,
                };
                put(&line, args.format)?;
                handed += 1;
            }
            next = reader.size();
            if std::mem::take(&mut first) {
                access::record(&state, "export", handed, args.follow);
            }
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(INTERVAL);
        // Whoever writes at this moment publishes, too, and the next look comes soon.
        let _ = state.settle(Duration::ZERO);
    }
}

fn put(line: &Line<'_>, format: Format) -> Result<()> {
    match format {
        Format::Jsonl => {
            let mut value = line.fields.clone();
            value["index"] = line.index.into();
            value["log"] = line.origin.into();
            output::print_json_line(&value)
        }
        Format::Ocsf => output::print_json_line(&ocsf::event(line)),
        Format::Otel => output::print_json_line(&otel::logs(line)),
        Format::Cef => output::print(&format!("{}\n", cef::line(line))),
    }
}

#[cfg(test)]
mod tests;
