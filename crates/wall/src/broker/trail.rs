//! The trail: refusals in a form the agent can read.
//!
//! A file in the wall's own memory file system, read-only for the agent, one JSON object a line,
//! newest last. `agentwall why` inside the wall reads it; it is no channel back.
//!
//! What would have been allowed instead is computed only when `agentwall why` is started: the last
//! refusals are remembered for that, and the answers stand in a second file beside the first.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::fd::{AsFd, OwnedFd},
    sync::Mutex,
};

use agentwall_action::{Action, Effect, Resource};
use agentwall_policy::{Guard, Policy};
use rustix::fs::{Mode, OFlags, ftruncate, openat};
use serde::{Deserialize, Serialize};

use crate::wire::Event;

/// Where the agent finds it.
pub const TRAIL_PATH: &str = "/dev/agentwall/decisions.jsonl";

/// Where the agent finds what it may do instead.
pub const ADVICE_PATH: &str = "/dev/agentwall/advice.jsonl";

/// A file is started anew when it grows past this; the newest line is always kept.
const LIMIT: u64 = 256 * 1024;

/// One line of the trail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrailEntry {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The verb.
    pub action: String,
    /// The canonical object, escaped.
    pub resource: String,
    /// Host process id is not shown; this is the program, escaped.
    pub exe: String,
    /// The decision.
    #[serde(flatten)]
    pub decision: agentwall_action::Decision,
}

/// How many refusals are remembered: advice costs far more than a refusal.
const REMEMBERED: usize = 8;

/// One line of the advice: what goes through instead of a refused action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdviceEntry {
    /// The verb.
    pub action: String,
    /// The canonical object that was refused, escaped.
    pub resource: String,
    /// Objects that go through, the nearest first.
    pub nearest: Vec<Instead>,
}

/// An object that goes through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instead {
    /// The object, escaped.
    pub resource: String,
    /// What happens with it.
    pub effect: Effect,
    /// The rule that says so; `None` for the default.
    pub rule: Option<String>,
}

/// The writing end.
#[derive(Debug)]
pub struct Trail {
    file: Mutex<File>,
    advice: Mutex<File>,
    /// The last refusals that no advice was given for.
    recent: Mutex<VecDeque<Action>>,
}

impl Trail {
    /// Creates the files in `dir`, the wall's own folder of the view.
    pub fn create(dir: &OwnedFd) -> std::io::Result<Trail> {
        let file = |name: &str| -> std::io::Result<Mutex<File>> {
            let file = openat(
                dir.as_fd(),
                name,
                OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o444),
            )?;
            Ok(Mutex::new(file.into()))
        };
        Ok(Trail {
            file: file("decisions.jsonl")?,
            advice: file("advice.jsonl")?,
            recent: Mutex::default(),
        })
    }

    /// Adds a refusal. A full memory file system loses the line, never the refusal.
    pub fn note(&self, event: &Event) {
        let time = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        let entry = TrailEntry {
            time_ms: time,
            action: event.action.verb.to_string(),
            resource: event.action.resource.to_string(),
            exe: event.actor.exe.clone(),
            decision: event.decision.clone(),
        };
        if event.decision.effect == Effect::Deny {
            self.remember(&event.action);
        }
        append(&self.file, &entry);
    }

    fn remember(&self, action: &Action) {
        let mut recent = self.recent.lock().unwrap_or_else(|e| e.into_inner());
        if recent.back() == Some(action) {
            return;
        }
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(action.clone());
    }

    /// Computes what goes through instead of the remembered refusals, and writes it down. `reachable`
    /// says whether the view has a place for it: what the policy allows may be hidden all the same.
    pub fn advise(
        &self,
        policy: &Policy,
        guard: &Guard,
        reachable: impl Fn(&Action, &Resource) -> bool,
    ) {
        let recent = std::mem::take(&mut *self.recent.lock().unwrap_or_else(|e| e.into_inner()));
        for action in recent {
            let nearest = policy.nearest_allowed(&action, guard).into_iter();
            let nearest: Vec<Instead> = nearest
                .filter(|near| reachable(&action, &near.object))
                .map(|near| Instead {
                    resource: near.resource,
                    effect: near.effect,
                    rule: near.rule,
                })
                .collect();
            if nearest.is_empty() {
                continue;
            }
            let entry = AdviceEntry {
                action: action.verb.to_string(),
                resource: action.resource.to_string(),
                nearest,
            };
            append(&self.advice, &entry);
        }
    }
}

/// Adds a line. A full memory file system loses it.
fn append(file: &Mutex<File>, entry: &impl Serialize) {
    let Ok(mut line) = serde_json::to_vec(entry) else {
        return;
    };
    line.push(b'\n');
    let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
    if file.seek(SeekFrom::End(0)).unwrap_or(0) > LIMIT {
        let _ = ftruncate(&*file, 0);
    }
    let _ = file.write_all(&line);
}
