//! `agentwall policy diff`: is one policy stricter or looser than another, and what shows it?
//!
//! Patterns are taken as they are written, not as this host's links would extend them, so that the
//! answer is the same everywhere.

use std::process::ExitCode;

use agentwall_action::escape_text;
use agentwall_policy::{
    Layer, Policy, Variables,
    analyse::{Change, Difference, Limits, Verdict, diff},
};
use anyhow::{Result, anyhow};

use crate::{
    args::policy::{FailOn, PolicyDiffArgs},
    cmd::policy::{analyse, variables},
    output::{self, Style, paint},
    policies,
    state::shown,
};

/// How many differences are listed for people; JSON has them all.
const LISTED: usize = 100;

/// Runs the command.
pub fn main(args: &PolicyDiffArgs) -> Result<ExitCode> {
    let variables = variables(args.workspace.as_deref())?;
    let load = |path: &std::path::Path, variables: &Variables| -> Result<Policy> {
        let source = policies::read_source(path, Layer::User)?;
        Ok(policies::load(&[source], variables)?.with_commit_rule())
    };
    let before = load(&args.before, &variables)?;
    let after = load(&args.after, &variables)?;
    let difference =
        diff(&before, &after, Limits::default(), &mut |_, _| {}).map_err(|e| anyhow!("{e}"))?;
    let failed = match args.fail_on {
        FailOn::Any => !difference.is_equal() || !difference.undecided.is_empty(),
        FailOn::Looser => difference.may_loosen(),
        FailOn::Stricter => difference.may_tighten(),
    };
    if args.json {
        output::print_json(&difference)?;
    } else {
        output::print(&text(args, &difference))?;
    }
    Ok(ExitCode::from(if failed {
        output::FAILED
    } else {
        output::OK
    }))
}

fn text(args: &PolicyDiffArgs, difference: &Difference) -> String {
    let (a, b) = (shown(&args.before), shown(&args.after));
    let mut text = match difference.verdict {
        Verdict::Equal if difference.is_equal() => {
            format!("equal: {b} decides and marks every action as {a} does\n")
        }
        Verdict::Equal => {
            format!("equal: {b} decides every action as {a} does, but marks others\n")
        }
        Verdict::Stricter => format!("stricter: {b} lets nothing through that {a} does not\n"),
        Verdict::Looser => format!("looser: {b} is looser than {a}, and nowhere stricter\n"),
        Verdict::Incomparable => {
            format!("incomparable: {b} is looser than {a} somewhere, and stricter elsewhere\n")
        }
        _ => "not decided: not everything could be looked at\n".to_owned(),
    };
    for why in &difference.undecided {
        text.push_str(&format!(
            "  {}  {}\n",
            paint(Style::Red, "not decided"),
            escape_text(why)
        ));
    }
    for change in difference.changes.iter().take(LISTED) {
        text.push_str(&line(change));
    }
    match difference.changes.len().saturating_sub(LISTED) {
        0 => {}
        n => text.push_str(&format!(
            "  and {n} more kinds of difference; --json lists them\n"
        )),
    }
    if difference.more {
        text.push_str("  there are too many kinds of difference to list them all\n");
    }
    for mark in &difference.marks {
        let rule = escape_text(&mark.rule);
        let what = if mark.after {
            "marks it now"
        } else {
            "no longer marks it"
        };
        text.push_str(&format!("  mark  {} (rule {rule} {what})\n", mark.witness));
    }
    if !difference.other.is_empty() {
        text.push_str(&format!(
            "not compared, though they differ: {}\n",
            difference.other.join(", ")
        ));
    }
    text.push_str(&analyse::free(&difference.open_conditions));
    text
}

fn line(change: &Change) -> String {
    let rule = |rule: &Option<String>| match rule {
        Some(id) => format!("rule {}", escape_text(id)),
        None => "the default".to_owned(),
    };
    let style = if change.loosens() {
        Style::Red
    } else {
        Style::Green
    };
    let effects = format!("{} -> {}", change.before, change.after);
    let own = change.witness.action.verb;
    let also: Vec<&str> = (change.verbs.iter())
        .filter(|v| **v != own)
        .map(|v| v.as_str())
        .collect();
    let also = match also.is_empty() {
        true => String::new(),
        false => format!("; also {}", also.join(", ")),
    };
    format!(
        "  {}: {} (was {}, now {}{also})\n",
        paint(style, &effects),
        change.witness,
        rule(&change.rule_before),
        rule(&change.rule_after)
    )
}
