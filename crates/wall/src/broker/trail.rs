//! The trail: refusals in a form the agent can read.
//!
//! A file in the wall's own memory file system, read-only for the agent, one JSON object a line,
//! newest last. `agentwall why` inside the wall reads it; no socket and no channel back exist.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::fd::{AsFd, OwnedFd},
    sync::Mutex,
};

use rustix::fs::{Mode, OFlags, ftruncate, openat};
use serde::{Deserialize, Serialize};

use crate::wire::Event;

/// Where the agent finds it.
pub const TRAIL_PATH: &str = "/dev/agentwall/decisions.jsonl";

/// The file is started anew when it grows past this; the newest line is always kept.
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

/// The writing end.
#[derive(Debug)]
pub struct Trail {
    file: Mutex<File>,
}

impl Trail {
    /// Creates the file in `dir`, the wall's own folder of the view.
    pub fn create(dir: &OwnedFd) -> std::io::Result<Trail> {
        let file = openat(
            dir.as_fd(),
            "decisions.jsonl",
            OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o444),
        )?;
        Ok(Trail {
            file: Mutex::new(file.into()),
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
        let Ok(mut line) = serde_json::to_vec(&entry) else {
            return;
        };
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        if file.seek(SeekFrom::End(0)).unwrap_or(0) > LIMIT {
            let _ = ftruncate(&*file, 0);
        }
        let _ = file.write_all(&line);
    }
}
