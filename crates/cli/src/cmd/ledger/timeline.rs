//! `agentwall ledger timeline`: one session as a story, or as a picture.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_ledger::{Entry, Reader, Record};
use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{filter::is_session, first_of, has_log, picture, settle, summary};
use crate::{
    access,
    args::ledger::TimelineArgs,
    output::{self, Style, UsageError, paint, tame},
    state::{State, shown},
};

/// Where something happens: from who decides to what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// The session itself, its policy, its wall.
    Session,
    /// What a person said.
    People,
    /// What the agent said it would do, and where that does not fit.
    Intents,
    /// What the policy said.
    Decisions,
    /// Programs that were started.
    Programs,
    /// Connections.
    Network,
    /// What was carried to the originals, or given up.
    Changes,
}

impl Lane {
    /// All, in the order of the picture.
    pub const ALL: [Lane; 7] = [
        Lane::Session,
        Lane::People,
        Lane::Intents,
        Lane::Decisions,
        Lane::Programs,
        Lane::Network,
        Lane::Changes,
    ];

    /// What stands beside it.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::Session => "session",
            Lane::People => "people",
            Lane::Intents => "intents",
            Lane::Decisions => "decisions",
            Lane::Programs => "programs",
            Lane::Network => "network",
            Lane::Changes => "changes",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// Went through.
    Plain,
    /// Somebody was asked, or watched it.
    Attention,
    /// Was refused, or lost.
    Refused,
}

/// Something that happened, once or several times in a row.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// The number of the entry in the ledger; of several the first.
    pub index: u64,
    /// When, RFC 3339.
    pub time: String,
    /// Milliseconds since the session's first entry.
    pub at_ms: i64,
    /// The same, of the last one.
    pub until_ms: i64,
    /// How often in a row.
    pub times: u64,
    /// Where.
    pub lane: Lane,
    /// How bad.
    pub tone: Tone,
    /// What: a type of entry, or the effect of a decision.
    pub what: String,
    /// The rest, for a person; control characters are escaped.
    pub text: String,
}

/// A session's story.
#[derive(Debug, Clone, Serialize)]
pub struct Story {
    /// Its id.
    pub session: String,
    /// The agent's name.
    pub agent: String,
    /// The workspace.
    pub workspace: String,
    /// When its first entry was written.
    pub began: String,
    /// From the first to the last entry.
    pub length_ms: i64,
    /// How it ended; `None`: it goes on, or nobody could record that.
    pub ended: Option<String>,
    /// How many events there are in each lane, repeated ones counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// In the order of the ledger.
    pub events: Vec<Event>,
}

/// Runs the command.
pub fn main(args: &TimelineArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    if !has_log(&state.ledger_dir()) {
        bail!("the ledger is empty; 'agentwall run -- CMD' writes the first entries");
    }
    settle(&state);
    let reader = state.reader().context("cannot read the ledger")?;
    let story = Story::read(&reader, args.session.as_deref())?;
    let handed = story.events.iter().map(|e| e.times).sum();
    if args.json {
        output::print_json(&story)?;
    } else if let Some(path) = &args.html {
        put(path, &picture::page(&story))?;
    } else if let Some(path) = &args.svg {
        put(path, &picture::svg(&story))?;
    } else {
        output::print(&text(&story))?;
    }
    access::record(&state, "timeline", handed, false);
    Ok(ExitCode::SUCCESS)
}

fn put(path: &PathBuf, text: &str) -> Result<()> {
    if path.as_path() == Path::new("-") {
        return output::print(text);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", shown(path)))
}

impl Story {
    /// Of the newest session that the text means; without one of the newest.
    fn read(reader: &Reader, wanted: Option<&str>) -> Result<Story> {
        let mut found: Option<String> = None;
        let mut entries: Vec<(u64, Entry)> = Vec::new();
        for index in first_of(reader)?..reader.size() {
            let entry = super::told(reader, index)?.entry;
            // The name stands in the start.
            let named = match &entry.record {
                Record::SessionStart(start) => Some(start.name.as_str()),
                _ => None,
            };
            let meant = match wanted {
                None => named.is_some(),
                Some(text) => is_session(&entry.session, text) || named == Some(text),
            };
            if meant && found.as_ref() != Some(&entry.session) {
                found = Some(entry.session.clone());
                entries.clear();
            }
            if found.as_ref() == Some(&entry.session) {
                entries.push((index, entry));
            }
        }
        match (found, wanted) {
            (Some(_), _) => Ok(Story::of(&entries)),
            (None, Some(text)) => Err(UsageError(format!(
                "no session '{}' is in the ledger; 'agentwall sessions' lists them",
                tame(text)
            ))
            .into()),
            (None, None) => bail!("no session is in the ledger yet"),
        }
    }

    fn of(entries: &[(u64, Entry)]) -> Story {
        let first = entries.first().map_or(0, |(_, e)| unix_ms(&e.time));
        let mut story = Story {
            session: entries
                .first()
                .map_or_else(String::new, |(_, e)| e.session.clone()),
            agent: String::new(),
            workspace: String::new(),
            began: entries
                .first()
                .map_or_else(String::new, |(_, e)| e.time.clone()),
            length_ms: entries.last().map_or(0, |(_, e)| unix_ms(&e.time) - first),
            ended: None,
            counts: BTreeMap::new(),
            events: Vec::new(),
        };
        for (index, entry) in entries {
            match &entry.record {
                Record::SessionStart(start) => {
                    story.agent.clone_from(&start.name);
                    story.workspace.clone_from(&start.workspace);
                    story.ended = None;
                }
                Record::SessionEnd(_) => story.ended = Some(summary(&entry.record)),
                _ => {}
            }
            story.add(*index, entry, unix_ms(&entry.time) - first);
        }
        story
    }

    fn add(&mut self, index: u64, entry: &Entry, at_ms: i64) {
        let record = &entry.record;
        let (lane, tone) = place(record);
        *self.counts.entry(lane.name()).or_default() += 1;
        let what = match record.decision() {
            Some(decision) => decision.effect.clone(),
            None => record.type_name().to_owned(),
        };
        let text = summary(record);
        // The last one of its lane, whatever other lanes did meanwhile, would put things out of their order.
        if let Some(last) = self.events.last_mut()
            && (last.lane, last.tone, &last.what, &last.text) == (lane, tone, &what, &text)
        {
            last.times += 1;
            last.until_ms = at_ms;
            return;
        }
        self.events.push(Event {
            index,
            time: entry.time.clone(),
            at_ms,
            until_ms: at_ms,
            times: 1,
            lane,
            tone,
            what,
            text,
        });
    }
}

/// In which lane a record is, and in which tone.
fn place(record: &Record) -> (Lane, Tone) {
    // Also of what has no text any more.
    let lane = match record.type_name() {
        "exec" => Lane::Programs,
        "connect" => Lane::Network,
        "decision" | "mask" => Lane::Decisions,
        "approval" => Lane::People,
        "intent" | "action_start" | "kernel_summary" | "action_end" | "finding" => Lane::Intents,
        "commit" | "undo" | "discard" | "checkpoint" | "rollback" | "export" => Lane::Changes,
        _ => Lane::Session,
    };
    let tone = match record {
        Record::Gap(_) => Tone::Refused,
        Record::Finding(_) => Tone::Attention,
        Record::ActionEnd(end) if end.outcome == "denied" => Tone::Refused,
        Record::Selftest(selftest) if !selftest.ok => Tone::Refused,
        Record::Approval(approval) if approval.verdict != "approve" => Tone::Refused,
        Record::Approval(_) => Tone::Attention,
        _ => match record.decision() {
            Some(decision) => match decision.effect.as_str() {
                "allow" | "isolate" if decision.monitors.is_empty() => Tone::Plain,
                "allow" | "isolate" | "ask" => Tone::Attention,
                _ => Tone::Refused,
            },
            None => Tone::Plain,
        },
    };
    (lane, tone)
}

/// Milliseconds since the epoch; what is no time is the epoch.
pub fn unix_ms(time: &str) -> i64 {
    OffsetDateTime::parse(time, &Rfc3339).map_or(0, |t| {
        t.unix_timestamp() * 1000 + i64::from(t.millisecond())
    })
}

/// A time since the beginning, as short as it can be told.
pub fn since(ms: i64) -> String {
    let seconds = ms / 1000;
    match ms {
        ..60_000 => format!("+{}.{} s", seconds, ms % 1000 / 100),
        60_000..3_600_000 => format!("+{}:{:02}", seconds / 60, seconds % 60),
        _ => format!(
            "+{}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
    }
}

fn text(story: &Story) -> String {
    let mut text = format!(
        "{} {} in {}\n{}, {}: {}\n\n",
        paint(Style::Bold, &tame(&story.session)),
        tame(&story.agent),
        tame(&story.workspace),
        tame(&story.began),
        since(story.length_ms).trim_start_matches('+'),
        tame(
            story
                .ended
                .as_deref()
                .unwrap_or("it goes on, or its end was not recorded")
        ),
    );
    for event in &story.events {
        let style = match event.tone {
            Tone::Plain => Style::Dim,
            Tone::Attention => Style::Yellow,
            Tone::Refused => Style::Red,
        };
        let again = match event.times {
            1 => String::new(),
            n => format!(" ({n} times, until {})", since(event.until_ms)),
        };
        text.push_str(&format!(
            "{:>10}  {}  {}{again}\n",
            since(event.at_ms),
            paint(style, &format!("{:<13}", tame(&event.what))),
            tame(&event.text),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_whole() {
        let told = [0, 1_250, 59_999, 60_000, 3_599_999, 3_600_000, 90_061_000].map(since);
        let wanted = [
            "+0.0 s",
            "+1.2 s",
            "+59.9 s",
            "+1:00",
            "+59:59",
            "+1:00:00",
            "+25:01:01",
        ];
        assert_eq!(told, wanted);
    }
}
