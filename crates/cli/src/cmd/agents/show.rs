//! `agentwall agents show`: what one process is taken for, and why.

use std::process::ExitCode;

use agentwall_action::escape_bytes;
use agentwall_agents::{Found, Process, Reason, THRESHOLD, findings};
use anyhow::{Result, bail};
use serde_json::json;

use super::look::{Look, Policy, command};
use crate::{
    args::agents::ShowArgs,
    output::{self, Style, paint},
};

/// Runs the command.
pub fn main(args: &ShowArgs) -> Result<ExitCode> {
    let look = Look::now()?;
    let Some(process) = look.process(args.pid) else {
        bail!(
            "there is no process {} (or it is a thread of the kernel); 'agentwall agents' lists those \
             that matter",
            args.pid
        );
    };
    let found = look.agents.of(args.pid);
    let findings = findings(&look.shot.processes, &look.agents, args.pid);
    if args.json {
        let mut value = look.described_process(args.pid);
        value["found"] = found.map(|f| look.described(f)).into();
        value["packages"] = process.packages().iter().map(ToString::to_string).collect();
        value["script"] = process.script().map(|s| escape_bytes(&s)).into();
        value["stdio"] = process.stdio().into();
        value["behaviour"] = json!({
            "points": findings.iter().map(|f| f.points).sum::<u32>(),
            "threshold": THRESHOLD,
            "findings": findings,
        });
        output::print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for (what, said) in facts(&look, process) {
        text.push_str(&format!("  {what:<12}{said}\n"));
    }
    let verdict = match found {
        Some(found) => verdict(&look, process, found),
        None => format!("{}\n", paint(Style::Dim, "no signature matches it")),
    };
    text = format!("{verdict}{text}");
    if found.is_none() && !findings.is_empty() {
        let points: u32 = findings.iter().map(|f| f.points).sum();
        text.push_str(&format!(
            "  it does what agents do: {points} points, and from {THRESHOLD} on it is reported\n"
        ));
        for finding in &findings {
            text.push_str(&format!("    {:>3}  {}\n", finding.points, finding.fact));
        }
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn verdict(look: &Look, process: &Process, found: &Found) -> String {
    let kind = found.kind.as_str();
    let left = if found.left_behind {
        ", left behind"
    } else {
        ""
    };
    let mut text = format!("{} ({kind}{left})\n", paint(Style::Bold, &found.name));
    if process.pid == found.root {
        text.push_str("  because\n");
    } else {
        let root = look.process(found.root);
        let root = root.map_or_else(String::new, command);
        text.push_str(&format!(
            "  it was started by process {}, {root}, which is so because\n",
            found.root
        ));
    }
    let signature = look.known.signatures.get(&found.id);
    for reason in &found.reasons {
        let source = signature.map_or("", |s| s.source.as_str());
        text.push_str(&format!("    {}\n", told(reason, source)));
    }
    if let Some(outer) = found.within.and_then(|root| look.agents.of(root)) {
        text.push_str(&format!(
            "  inside {} (process {})\n",
            outer.name, outer.root
        ));
    }
    text
}

fn told(reason: &Reason, source: &str) -> String {
    let source = agentwall_action::escape_text(source);
    match reason.matcher {
        0 => format!(
            "{reason}, which it gives to what it starts ({source}:{})",
            reason.line
        ),
        n => format!("{reason} (matcher {n}, {source}:{})", reason.line),
    }
}

fn facts(look: &Look, process: &Process) -> Vec<(&'static str, String)> {
    let bytes = |text: &Option<Vec<u8>>| text.as_deref().map_or("?".into(), escape_bytes);
    let mut all = vec![
        (
            "process",
            format!("{}, started by {}", process.pid, process.parent),
        ),
        ("user", look.user(process)),
        ("since", output::ago(look.shot.started_ms(process))),
        ("command", command(process)),
        ("program", bytes(&process.exe)),
    ];
    if let Some(script) = process.script() {
        all.push(("script", escape_bytes(&script)));
    }
    let packages: Vec<String> = process.packages().iter().map(ToString::to_string).collect();
    if !packages.is_empty() {
        all.push((
            "packages",
            agentwall_action::escape_text(&packages.join(", ")),
        ));
    }
    all.push(("folder", bytes(&process.cwd)));
    all.push(("control group", bytes(&process.cgroup)));
    all.push((
        "environment",
        match &process.env {
            Some(names) => format!(
                "{} (names alone are read)",
                output::count(names.len(), "variable")
            ),
            None => "?".into(),
        },
    ));
    all.push((
        "policy",
        match look.policy(process) {
            Policy::By(by) => format!(
                "{} {} ({}): {}",
                by.in_words(),
                output::tame(&by.id),
                output::tame(&by.name),
                output::tame(&by.source)
            ),
            Policy::None => "none".into(),
            Policy::Unknown => "? (another user's process)".into(),
        },
    ));
    all
}
