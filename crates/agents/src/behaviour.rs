//! Unknown processes that behave like an agent.
//!
//! What is counted can be seen in `/proc` without privilege: names in the environment, children, pipes,
//! open files, connections. Each finding has points; from [`THRESHOLD`] on a process is reported, with
//! every finding. What build tools, servers and CI runners do as well (shells with a command line, pipes
//! to them, TLS beside shells) is worth [`MAX_ORDINARY`] points at most, below the threshold: without a
//! sign of a model nothing is reported. Who may connect where cannot be told by name, so no host is.
//!
//! A pure function over descriptions. It misses agents that hide, and may name a script that calls a
//! model and a shell: it is a hint for a person, and nothing is refused because of it.

use std::collections::{BTreeMap, HashSet};

use agentwall_action::escape_bytes;
use agentwall_policy::{Glob, GlobKind};
use serde::Serialize;

use crate::{
    identify::{Identification, from_the_top},
    process::{Process, Target},
    signature::Kind,
};

/// Points from which on a process is reported.
pub const THRESHOLD: u32 = 60;
/// Most points for what other programs do as well.
pub const MAX_ORDINARY: u32 = SHELL + MORE_SHELLS + PIPED_SHELL + TLS_AND_SHELL;

/// A shell with a command line is its child.
const SHELL: u32 = 15;
/// More than one at a time.
const MORE_SHELLS: u32 = 10;
/// Such a shell writes into a pipe of its parent's, not to where the parent itself writes.
const PIPED_SHELL: u32 = 10;
/// It is an interpreter, has a TLS connection and such a shell.
const TLS_AND_SHELL: u32 = 15;
/// The name of a model's key in its environment, which its parent does not have.
const OWN_KEY: u32 = 25;
/// The same, but the parent has it, too: a key that is exported in a login shell is everywhere.
const INHERITED_KEY: u32 = 20;
/// It started a server of tools.
const TOOL_SERVER: u32 = 35;
/// It is connected to a model server on this host.
const MODEL_SERVER: u32 = 25;
/// It has a file open that tells agents what to do.
const AGENT_FILE: u32 = 20;

/// Names of the variables in which the libraries of model services look for their key.
const KEYS: [&[u8]; 13] = [
    b"ANTHROPIC_API_KEY",
    b"ANTHROPIC_AUTH_TOKEN",
    b"AZURE_OPENAI_API_KEY",
    b"COHERE_API_KEY",
    b"DEEPSEEK_API_KEY",
    b"GEMINI_API_KEY",
    b"GROQ_API_KEY",
    b"MISTRAL_API_KEY",
    b"OPENAI_API_KEY",
    b"OPENROUTER_API_KEY",
    b"TOGETHER_API_KEY",
    b"VOYAGE_API_KEY",
    b"XAI_API_KEY",
];
/// Files that tell agents what to do, and which tools there are.
const FILES: &str = "**/{AGENTS.md,CLAUDE.md,GEMINI.md,.mcp.json,mcp.json,mcp_settings.json}";
/// The port of HTTPS.
const HTTPS: u16 = 443;

/// One fact that speaks for an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is worth.
    pub points: u32,
    /// The fact, for people; escaped.
    pub fact: String,
}

/// An unknown process that behaves like an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suspect {
    /// The process.
    pub pid: u32,
    /// The sum of its findings.
    pub points: u32,
    /// Why, the weightiest first.
    pub findings: Vec<Finding>,
}

/// Every unknown process that behaves like an agent. Of several in one tree the topmost is reported.
pub fn suspects(processes: &[Process], known: &Identification) -> Vec<Suspect> {
    let order = from_the_top(processes);
    let by_pid: BTreeMap<u32, &Process> = order.iter().map(|(p, _)| (p.pid, *p)).collect();
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    for (process, parent) in &order {
        if let Some(parent) = parent {
            children.entry(*parent).or_default().push(process);
        }
    }
    let scene = Scene::new(&by_pid, known);
    let mut reported: HashSet<u32> = HashSet::new();
    let mut suspects = Vec::new();
    for (process, parent) in order {
        // Below a suspect everything is the suspect's.
        if parent.is_some_and(|p| reported.contains(&p)) {
            reported.insert(process.pid);
            continue;
        }
        if known.of(process.pid).is_some() {
            continue;
        }
        let below = children.get(&process.pid).map_or(&[][..], Vec::as_slice);
        let above = parent.and_then(|p| by_pid.get(&p).copied());
        let mut findings = scene.findings(process, above, below);
        let points = findings.iter().map(|f| f.points).sum();
        if points >= THRESHOLD {
            findings.sort_by_key(|f| std::cmp::Reverse(f.points));
            reported.insert(process.pid);
            suspects.push(Suspect {
                pid: process.pid,
                points,
                findings,
            });
        }
    }
    suspects.sort_by_key(|s| s.pid);
    suspects
}

/// What speaks for one process being an agent, whatever it comes to, the weightiest first. Empty for a
/// process that is not there.
pub fn findings(processes: &[Process], known: &Identification, pid: u32) -> Vec<Finding> {
    let order = from_the_top(processes);
    let by_pid: BTreeMap<u32, &Process> = order.iter().map(|(p, _)| (p.pid, *p)).collect();
    let Some((process, parent)) = order.iter().find(|(p, _)| p.pid == pid) else {
        return Vec::new();
    };
    let below = order.iter().filter(|(_, of)| *of == Some(pid));
    let below: Vec<&Process> = below.map(|(p, _)| *p).collect();
    let above = parent.and_then(|p| by_pid.get(&p).copied());
    let mut all = Scene::new(&by_pid, known).findings(process, above, &below);
    all.sort_by_key(|f| std::cmp::Reverse(f.points));
    all
}

/// The ports on which known model servers of this host listen.
fn model_ports<'a>(
    by_pid: &BTreeMap<u32, &Process>,
    known: &'a Identification,
) -> BTreeMap<u16, &'a str> {
    let servers = known.found.iter().filter(|f| f.kind == Kind::ModelServer);
    let ports = servers.flat_map(|server| {
        let members = server.members.iter().filter_map(|pid| by_pid.get(pid));
        members.flat_map(|p| p.listening.iter().map(|port| (*port, server.name.as_str())))
    });
    ports.collect()
}

struct Scene<'a> {
    known: &'a Identification,
    files: Option<Glob>,
    model_ports: BTreeMap<u16, &'a str>,
}

impl<'a> Scene<'a> {
    fn new(by_pid: &BTreeMap<u32, &Process>, known: &'a Identification) -> Scene<'a> {
        Scene {
            known,
            // A constant that a test reads: it is a pattern.
            files: Glob::new(FILES, GlobKind::Path).ok(),
            model_ports: model_ports(by_pid, known),
        }
    }

    fn findings(
        &self,
        process: &Process,
        parent: Option<&Process>,
        children: &[&Process],
    ) -> Vec<Finding> {
        let mut all = Vec::new();
        let mut add = |points, fact: String| all.push(Finding { points, fact });
        let shells: Vec<&&Process> = children.iter().filter(|c| c.is_command_line()).collect();
        if !shells.is_empty() {
            add(SHELL, "starts a shell with a command line".to_owned());
        }
        if shells.len() > 1 {
            add(
                MORE_SHELLS,
                format!("{} of them run at this moment", shells.len()),
            );
        }
        if shells.iter().any(|shell| reads_from(process, shell)) {
            add(PIPED_SHELL, "reads what such a shell writes".to_owned());
        }
        let https = process
            .connections
            .iter()
            .any(|far| far.port() == HTTPS && !far.ip().is_loopback());
        if process.is_interpreter() && https && !shells.is_empty() {
            add(
                TLS_AND_SHELL,
                "an interpreter with a connection to port 443 beside it".to_owned(),
            );
        }
        if let Some((points, fact)) = key(process, parent) {
            add(points, fact);
        }
        let server = children.iter().find_map(|child| {
            let found = self.known.of(child.pid)?;
            (found.root == child.pid && found.kind == Kind::McpServer).then_some(found)
        });
        if let Some(server) = server {
            add(
                TOOL_SERVER,
                format!(
                    "started a server of tools ({}, process {})",
                    server.name, server.root
                ),
            );
        }
        let model = process.connections.iter().find_map(|far| {
            let name = self.model_ports.get(&far.port())?;
            far.ip().is_loopback().then_some((name, far.port()))
        });
        if let Some((name, port)) = model {
            add(
                MODEL_SERVER,
                format!("is connected to a model server of this host ({name}, port {port})"),
            );
        }
        let open = process
            .descriptors
            .iter()
            .flatten()
            .find_map(|d| match &d.target {
                Target::Path(path) if self.files.as_ref()?.matches(path, false) => Some(path),
                _ => None,
            });
        if let Some(path) = open {
            add(AGENT_FILE, format!("has {} open", escape_bytes(path)));
        }
        all
    }
}

fn key(process: &Process, parent: Option<&Process>) -> Option<(u32, String)> {
    let has = |p: &Process, key: &[u8]| p.env.iter().flatten().any(|name| name == key);
    let of_parent = |key: &[u8]| parent.is_some_and(|p| has(p, key));
    let mut held = KEYS
        .iter()
        .copied()
        .filter(|key| has(process, key))
        .peekable();
    let first = *held.peek()?;
    // Its own one says more.
    match held.find(|key| !of_parent(key)) {
        Some(own) => Some((
            OWN_KEY,
            format!(
                "{} is in its environment, and not in its parent's",
                escape_bytes(own)
            ),
        )),
        None => Some((
            INHERITED_KEY,
            format!(
                "{} is in its environment, as in its parent's",
                escape_bytes(first)
            ),
        )),
    }
}

/// Whether a child writes into something that its parent gave it, and not to where the parent writes.
fn reads_from(parent: &Process, child: &Process) -> bool {
    let at = |p: &Process, n: u32| {
        let all = p.descriptors.iter().flatten();
        all.filter(|d| d.number == n)
            .map(|d| d.target.clone())
            .next()
    };
    match at(child, 1) {
        Some(out @ (Target::Pipe(_) | Target::Socket(_))) => {
            parent.descriptors.is_some() && !(0..3).any(|n| at(parent, n).as_ref() == Some(&out))
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "behaviour_tests.rs"]
mod tests;
