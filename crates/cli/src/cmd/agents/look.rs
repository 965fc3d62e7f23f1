//! One look at the host: its processes, what they are, and who governs them.

use std::{collections::HashMap, fs::File, io::Read as _};

use agentwall_action::{escape_bytes, escape_text};
use agentwall_agents::{
    Found, Identification, Process, Suspect, identify,
    proc::{ProcFs, Processes as _, Snapshot},
    suspects,
};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    governed::{self, Governance},
    known::{self, Known},
    output,
    state::{State, rfc3339_of},
};

/// Most bytes of `/etc/passwd` that are read.
const MAX_PASSWD: u64 = 4 << 20;

/// What is known of the host at one moment.
pub struct Look {
    /// The signatures in use.
    pub known: Known,
    /// The processes.
    pub shot: Snapshot,
    /// What they are.
    pub agents: Identification,
    /// Those that behave like one.
    pub suspects: Vec<Suspect>,
    governed: governed::Walls,
    users: HashMap<u32, String>,
}

/// Who governs a process.
pub enum Policy<'a> {
    /// A wall.
    By(&'a Governance),
    /// Nobody.
    None,
    /// Its user's sessions cannot be seen.
    Unknown,
}

impl Look {
    /// Looks. What could not be asked is told on standard error.
    pub fn now() -> Result<Look> {
        let state = State::for_reading()?;
        let known = known::load(&state)?;
        let shot = ProcFs::default().snapshot()?;
        let (governed, errors) =
            governed::sources(&state, &shot).context("which sessions run cannot be told")?;
        for error in &errors {
            output::note(&format!("{error:#}"));
        }
        let agents = identify(&known.signatures, &shot.processes);
        let suspects = suspects(&shot.processes, &agents);
        Ok(Look {
            known,
            agents,
            suspects,
            governed,
            users: users(),
            shot,
        })
    }

    /// A process by its id.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        let all = &self.shot.processes;
        let at = all.binary_search_by_key(&pid, |p| p.pid).ok()?;
        all.get(at)
    }

    /// Who governs a process.
    pub fn policy(&self, process: &Process) -> Policy<'_> {
        let by = self.governed.iter().find_map(|g| g.policy_of(process.pid));
        let own = rustix::process::geteuid().as_raw();
        match by {
            Some(governance) => Policy::By(governance),
            None if process.uid == Some(own) => Policy::None,
            None => Policy::Unknown,
        }
    }

    /// The user's name, escaped; the number where it has none.
    pub fn user(&self, process: &Process) -> String {
        match process.uid {
            None => "?".into(),
            Some(uid) => match self.users.get(&uid) {
                Some(name) => escape_text(name),
                None => uid.to_string(),
            },
        }
    }

    /// How many processes an instance has below its root, with those of the instances inside it.
    pub fn children(&self, found: &Found) -> usize {
        let inside = self
            .agents
            .found
            .iter()
            .filter(|f| f.within == Some(found.root));
        let inner: usize = inside.map(|f| 1 + self.children(f)).sum();
        found.members.len() - 1 + inner
    }

    /// An instance for a program.
    pub fn described(&self, found: &Found) -> Value {
        let mut value = self.described_process(found.root);
        value["agent"] = found.id.as_str().into();
        value["name"] = found.name.as_str().into();
        value["kind"] = json!(found.kind);
        value["within"] = found.within.into();
        value["left_behind"] = found.left_behind.into();
        value["children"] = self.children(found).into();
        value["members"] = json!(found.members);
        value["reasons"] = json!(found.reasons);
        value
    }

    /// A suspect for a program.
    pub fn described_suspect(&self, suspect: &Suspect) -> Value {
        let mut value = self.described_process(suspect.pid);
        value["points"] = suspect.points.into();
        value["findings"] = json!(suspect.findings);
        value
    }

    /// A process for a program.
    pub fn described_process(&self, pid: u32) -> Value {
        let Some(process) = self.process(pid) else {
            return json!({ "pid": pid });
        };
        let bytes = |text: &Option<Vec<u8>>| text.as_deref().map(escape_bytes);
        let policy = match self.policy(process) {
            Policy::By(governance) => json!(governance),
            Policy::None => json!({ "by": "none" }),
            Policy::Unknown => json!({ "by": "unknown" }),
        };
        json!({
            "pid": pid,
            "parent": process.parent,
            "uid": process.uid,
            "user": self.user(process),
            "since": rfc3339_of(self.shot.started_ms(process)),
            "folder": bytes(&process.cwd),
            "exe": bytes(&process.exe),
            "args": process.args.iter().map(|a| escape_bytes(a)).collect::<Vec<_>>(),
            "policy": policy,
        })
    }
}

/// The command line of a process for a person, cut.
pub fn command(process: &Process) -> String {
    let words: Vec<String> = process.args.iter().map(|a| escape_bytes(a)).collect();
    let text = match words.is_empty() {
        true => escape_bytes(process.exe.as_deref().unwrap_or(&process.comm)),
        false => words.join(" "),
    };
    match text.char_indices().nth(70) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The names of this host's own users. Those of a directory service are shown as numbers: asking for
/// them would mean a connection.
fn users() -> HashMap<u32, String> {
    let mut text = Vec::new();
    let read = File::open("/etc/passwd").and_then(|f| f.take(MAX_PASSWD).read_to_end(&mut text));
    if read.is_err() {
        return HashMap::new();
    }
    let text = String::from_utf8_lossy(&text);
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // The first name of a number counts, as for the system.
    let mut users = HashMap::new();
    for (uid, name) in text.lines().filter_map(user) {
        users.entry(uid).or_insert(name);
    }
    users
}
