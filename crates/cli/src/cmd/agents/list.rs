//! The list, once or again and again.

use std::{collections::BTreeMap, process::ExitCode, thread, time::Duration};

use agentwall_action::{escape_bytes, escape_text};
use agentwall_agents::{Found, Kind, Process, Suspect};
use anyhow::Result;
use serde_json::{Value, json};

use super::look::{Look, Policy, command};
use crate::{
    args::agents::ListArgs,
    output::{self, Style, paint},
};

/// How often `--watch` looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Lists once.
pub fn main(args: &ListArgs) -> Result<ExitCode> {
    let look = Look::now()?;
    if args.json {
        output::print_json(&document(&look, args.all))?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown: Vec<&Found> = listed(&look, args.all).collect();
    if shown.is_empty() {
        output::print("no known agent runs on this host\n")?;
    } else {
        output::print(&output::table(&rows(&look, &shown, args.all)))?;
    }
    print_suspects(&look)?;
    notes(&look, &shown);
    Ok(ExitCode::SUCCESS)
}

/// What is listed. A helper says something by itself only if its agent is gone.
fn listed(look: &Look, all: bool) -> impl Iterator<Item = &Found> {
    let found = look.agents.found.iter();
    found.filter(move |f| all || f.kind != Kind::Helper || f.left_behind)
}

fn document(look: &Look, all: bool) -> Value {
    let agent = |found: &Found| {
        let mut value = look.described(found);
        if all {
            let members = found.members.iter().map(|pid| look.described_process(*pid));
            value["processes"] = members.collect();
        }
        value
    };
    json!({
        "agents": listed(look, all).map(agent).collect::<Vec<_>>(),
        "suspects": look.suspects.iter().map(|s| look.described_suspect(s)).collect::<Vec<_>>(),
        "processes": look.shot.processes.len(),
        "closed": look.shot.closed,
        "vanished": look.shot.vanished,
        "cut": look.shot.cut,
        "signatures": super::data::described(&look.known),
    })
}

fn rows(look: &Look, shown: &[&Found], all: bool) -> Vec<Vec<String>> {
    let head = [
        "AGENT", "PID", "USER", "SINCE", "FOLDER", "POLICY", "CHILDREN",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for found in shown {
        let Some(process) = look.process(found.root) else {
            continue;
        };
        rows.push(vec![
            name(found),
            found.root.to_string(),
            look.user(process),
            output::ago(look.shot.started_ms(process)),
            folder(process),
            policy(look, process),
            look.children(found).to_string(),
        ]);
        let members = found.members.iter().skip(1).filter(|_| all);
        for process in members.filter_map(|pid| look.process(*pid)) {
            rows.push(vec![
                format!("  {}", command(process)),
                process.pid.to_string(),
                look.user(process),
                output::ago(look.shot.started_ms(process)),
                folder(process),
                policy(look, process),
            ]);
        }
    }
    rows
}

fn name(found: &Found) -> String {
    let within = found
        .within
        .map(|root| format!(" (of {root})"))
        .unwrap_or_default();
    match (found.left_behind, found.kind) {
        (true, _) => format!("{} (left behind)", found.id),
        (_, Kind::Agent) => format!("{}{within}", found.id),
        (_, kind) => format!("{}, {}{within}", found.id, kind.as_str()),
    }
}

fn folder(process: &Process) -> String {
    process
        .cwd
        .as_deref()
        .map_or_else(|| "?".into(), escape_bytes)
}

fn policy(look: &Look, process: &Process) -> String {
    match look.policy(process) {
        Policy::By(by) => paint(
            if by.is_audit() {
                Style::Yellow
            } else {
                Style::Green
            },
            &format!(
                "{} {} ({})",
                by.in_words(),
                escape_text(&by.id),
                escape_text(&by.name)
            ),
        ),
        Policy::None => paint(Style::Red, "none"),
        Policy::Unknown => "?".into(),
    }
}

fn print_suspects(look: &Look) -> Result<()> {
    if look.suspects.is_empty() {
        return Ok(());
    }
    output::print(&format!(
        "\n{}\n",
        paint(Style::Yellow, "unknown processes that behave like an agent")
    ))?;
    for suspect in &look.suspects {
        output::print(&format!("{}\n", told(look, suspect)))?;
        for finding in &suspect.findings {
            output::print(&format!("    {:>3}  {}\n", finding.points, finding.fact))?;
        }
    }
    Ok(())
}

fn told(look: &Look, suspect: &Suspect) -> String {
    let Some(process) = look.process(suspect.pid) else {
        return format!("  {}", suspect.pid);
    };
    format!(
        "  {}  {}  {}  {}  policy: {}  {} points",
        suspect.pid,
        look.user(process),
        command(process),
        folder(process),
        policy(look, process),
        suspect.points
    )
}

/// What the table does not say by itself, on standard error.
fn notes(look: &Look, shown: &[&Found]) {
    let agents = shown.iter().filter(|f| f.kind == Kind::Agent);
    let policies: Vec<Policy<'_>> = agents
        .filter_map(|f| Some(look.policy(look.process(f.root)?)))
        .collect();
    let none = policies
        .iter()
        .filter(|p| matches!(p, Policy::None))
        .count();
    if none > 0 {
        output::note(&format!(
            "{} without a policy; 'agentwall claude', 'agentwall codex' or 'agentwall run -- CMD' starts \
             one behind the wall",
            match none {
                1 => "1 agent runs".to_owned(),
                n => format!("{n} agents run"),
            }
        ));
    }
    if policies.iter().any(|p| matches!(p, Policy::Unknown)) {
        output::note(
            "'?' as the policy: the process belongs to another user, whose sessions only that user can see",
        );
    }
    for text in unseen(look) {
        output::note(&text);
    }
}

/// What could not be seen.
fn unseen(look: &Look) -> Vec<String> {
    let mut texts = Vec::new();
    if look.shot.closed > 0 {
        let processes = match look.shot.closed {
            1 => "1 process".to_owned(),
            n => format!("{n} processes"),
        };
        texts.push(format!(
            "what {processes} of other users run cannot be seen; root sees it"
        ));
    }
    if look.shot.cut {
        texts.push(format!(
            "there are more than {} processes; the rest was not looked at",
            agentwall_agents::proc::MAX_PROCESSES
        ));
    }
    texts
}

/// What `--watch` knows something by: a process id may be given out again.
type Key = (u32, u64, String);

/// Lists again and again, and tells the differences.
pub fn watch(args: &ListArgs) -> Result<ExitCode> {
    let mut before: BTreeMap<Key, (String, Value)> = BTreeMap::new();
    let mut first = true;
    loop {
        let look = Look::now()?;
        if first {
            unseen(&look).iter().for_each(|text| output::note(text));
        }
        let now = present(&look);
        for (key, (line, value)) in &now {
            if !before.contains_key(key) {
                tell(args, if first { "runs" } else { "appeared" }, line, value)?;
            }
        }
        for (key, (line, value)) in &before {
            if !now.contains_key(key) {
                tell(args, "ended", line, value)?;
            }
        }
        (before, first) = (now, false);
        thread::sleep(PAUSE);
    }
}

fn present(look: &Look) -> BTreeMap<Key, (String, Value)> {
    let started = |pid: u32| look.process(pid).map_or(0, |p| p.started);
    let mut all = BTreeMap::new();
    for found in listed(look, false) {
        let line = look
            .process(found.root)
            .map_or_else(String::new, |process| {
                format!(
                    "{}  {}  {}  {}  policy: {}",
                    name(found),
                    found.root,
                    look.user(process),
                    folder(process),
                    policy(look, process)
                )
            });
        let key = (found.root, started(found.root), found.id.clone());
        all.insert(key, (line, look.described(found)));
    }
    for suspect in &look.suspects {
        let key = (suspect.pid, started(suspect.pid), String::new());
        let line = format!("unknown, behaves like an agent:{}", told(look, suspect));
        all.insert(key, (line, look.described_suspect(suspect)));
    }
    all
}

fn tell(args: &ListArgs, event: &str, line: &str, value: &Value) -> Result<()> {
    if args.json {
        let mut value = value.clone();
        value["event"] = event.into();
        return output::print_json_line(&value);
    }
    output::print(&format!("{event:<8}  {line}\n"))
}
