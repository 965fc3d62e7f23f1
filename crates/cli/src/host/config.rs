//! The daemon's configuration, read as strictly as a policy is.
//!
//! ```yaml
//! agentwall-daemon: 1
//! ring_bytes: 4194304            # the buffer of events, a power of two
//! hold_seconds: 30               # how long a start that a rule asks about waits for a person; 0: not at all
//! govern:
//!   - name: builder              # the subject agent:builder, and what `daemon exec --policy` takes
//!     exe: /usr/local/bin/agent* # its program; with `user` both must hold
//!     user: ci                   # its user, by name or number
//!     policy: /etc/agentwall/builder.yaml
//!     mode: enforce              # or audit: nothing is refused, only recorded
//!     workspace: /srv/ci         # ${workspace} [default: where the process works; without exe the user's home]
//! ```
//!
//! An entry with neither `exe` nor `user` governs nobody by itself: it is a policy with a name. The first
//! entry that fits a process counts.

use std::{os::unix::ffi::OsStrExt as _, path::PathBuf, time::Duration};

use agentwall_policy::{
    Glob, GlobKind, Layer, Source,
    strict::{self, Node, Reading},
};
use anyhow::{Result, anyhow};

use super::proc::{self, Process};
use crate::state::shown;

/// How such a file begins.
pub const BEGIN: &str = "agentwall-daemon: 1";
/// Most entries: each may need a view of its own.
pub const MAX_ENTRIES: usize = 200;
/// How long a start may be held, in seconds.
const HOLD: (i64, i64) = (0, 600);
/// The sizes that the ring buffer can have.
const RING: (i64, i64) = (4096, 1 << 28);

/// What the administrator wants.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// Bytes of the buffer of events.
    pub ring_bytes: Option<u32>,
    /// How long a start waits for a person.
    pub hold: Option<Duration>,
    /// Who is governed.
    pub govern: Vec<Entry>,
}

/// Who is governed by what.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Unique; the subject is `agent:NAME`.
    pub name: String,
    /// The program.
    pub exe: Option<Glob>,
    /// The user's number, and the home folder.
    pub user: Option<(u32, PathBuf)>,
    /// A policy file or a bundle.
    pub policy: PathBuf,
    /// Nothing is refused, only recorded.
    pub audit: bool,
    /// `${workspace}`.
    pub workspace: Option<PathBuf>,
}

impl Entry {
    /// Whether it means anybody; else it is a policy with a name.
    pub fn means(&self) -> bool {
        self.exe.is_some() || self.user.is_some()
    }

    /// What it means, as a pattern of `/USER/path/of/program`.
    pub fn pattern(&self) -> String {
        let user = match &self.user {
            Some((uid, _)) => format!("/{uid}"),
            None => "/*".to_owned(),
        };
        match &self.exe {
            None => format!("{user}/**"),
            Some(exe) if exe.as_str().starts_with('/') => format!("{user}{}", exe.as_str()),
            Some(exe) => format!("{user}/{}", exe.as_str()),
        }
    }

    /// The home folder of its user.
    pub fn home(&self) -> Option<PathBuf> {
        let home = self.user.as_ref().map(|(_, home)| home.clone());
        home.filter(|h| h.is_absolute())
    }

    /// Whether this process is to be governed.
    pub fn fits(&self, process: &Process) -> bool {
        let exe = |glob: &Glob| glob.matches(process.exe.as_os_str().as_bytes(), false);
        self.means()
            && self.exe.as_ref().is_none_or(exe)
            && self
                .user
                .as_ref()
                .is_none_or(|(uid, _)| *uid == process.uid)
    }
}

impl Config {
    /// The entry of this name.
    pub fn named(&self, name: &str) -> Option<&Entry> {
        self.govern.iter().find(|e| e.name == name)
    }
}

/// Reads a configuration; users are looked up in `passwd`.
pub fn read(name: &str, text: Vec<u8>, passwd: &[u8]) -> Result<Config> {
    let source = Source::new(name, text, Layer::User);
    strict::read(&source, "configuration", BEGIN, |reading, root| {
        config(reading, root, passwd)
    })
    .map_err(|e| anyhow!("{e}"))
}

fn config(reading: &mut Reading<'_>, root: &Node, passwd: &[u8]) -> Option<Config> {
    const WHAT: &str = "the configuration";
    let keys = ["agentwall-daemon", "ring_bytes", "hold_seconds", "govern"];
    let fields = reading.mapping(root, WHAT, &keys)?;
    reading
        .needed(&fields, WHAT, "agentwall-daemon", BEGIN)
        .and_then(|n| reading.integer(n, "agentwall-daemon, the version of the form,", 1, 1))?;
    let ring_bytes = match fields.get("ring_bytes") {
        Some(node) => Some(ring(reading, node)?),
        None => None,
    };
    let hold = match fields.get("hold_seconds") {
        Some(node) => Some(reading.integer(node, "hold_seconds", HOLD.0, HOLD.1)?),
        None => None,
    };
    let mut config = Config {
        ring_bytes,
        hold: hold.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        govern: Vec::new(),
    };
    let items = match fields.get("govern") {
        Some(node) => reading.list(node, "govern")?,
        None => &[],
    };
    if items.len() > MAX_ENTRIES {
        let message = format!("{} entries, more than {MAX_ENTRIES}", items.len());
        reading.error(root.place, message, None);
        return None;
    }
    for item in items {
        let Some(entry) = entry(reading, item, passwd) else {
            continue;
        };
        if config.named(&entry.name).is_some() {
            let message = format!("the name '{}' is already used", entry.name);
            reading.error(item.place, message, Some("choose another".into()));
        }
        config.govern.push(entry);
    }
    Some(config)
}

fn ring(reading: &mut Reading<'_>, node: &Node) -> Option<u32> {
    let bytes = reading.integer(node, "ring_bytes", RING.0, RING.1)?;
    let bytes = u32::try_from(bytes).ok()?;
    if !bytes.is_power_of_two() {
        let message = format!("ring_bytes is a power of two, found {bytes}");
        let near = bytes.next_power_of_two();
        reading.error(node.place, message, Some(format!("ring_bytes: {near}")));
        return None;
    }
    Some(bytes)
}

fn entry(reading: &mut Reading<'_>, node: &Node, passwd: &[u8]) -> Option<Entry> {
    const WHAT: &str = "an entry of govern";
    let keys = ["name", "exe", "user", "policy", "mode", "workspace"];
    let fields = reading.mapping(node, WHAT, &keys)?;
    let name = reading
        .needed(&fields, WHAT, "name", "name: builder")
        .and_then(|node| {
            let name = reading.text(node, "name")?;
            if let Err(message) = crate::session::agent_name(name) {
                reading.error(node.place, format!("name: {message}"), None);
                return None;
            }
            Some(name.to_owned())
        });
    let policy = reading
        .needed(
            &fields,
            WHAT,
            "policy",
            "policy: /etc/agentwall/builder.yaml",
        )
        .and_then(|node| absolute(reading, node, "policy"));
    let exe = match fields.get("exe") {
        Some(node) => {
            let text = reading.text(node, "exe")?;
            if !text.starts_with('/') && !text.starts_with("**/") {
                let message = format!("exe is a pattern of absolute paths, found '{text}'");
                let near = format!("exe: '**/{text}'");
                reading.error(node.place, message, Some(near));
                return None;
            }
            Some(reading.glob(node, text, "exe", GlobKind::Path)?)
        }
        None => None,
    };
    let user = match fields.get("user") {
        Some(node) => {
            let text = reading.text(node, "user")?;
            let found = proc::user(passwd, text);
            if found.is_none() {
                let message = format!("there is no user '{text}' in /etc/passwd");
                reading.error(node.place, message, None);
            }
            Some(found?)
        }
        None => None,
    };
    let audit = match fields.get("mode") {
        Some(node) => reading.word(node, "mode", &[("enforce", false), ("audit", true)])?,
        None => false,
    };
    let workspace = match fields.get("workspace") {
        Some(node) => Some(absolute(reading, node, "workspace")?),
        None => None,
    };
    Some(Entry {
        name: name?,
        exe,
        user,
        policy: policy?,
        audit,
        workspace,
    })
}

fn absolute(reading: &mut Reading<'_>, node: &Node, what: &str) -> Option<PathBuf> {
    let path = PathBuf::from(reading.text(node, what)?);
    if !path.is_absolute() {
        let message = format!("{what} is an absolute path, found {}", shown(&path));
        reading.error(node.place, message, None);
        return None;
    }
    Some(path)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
