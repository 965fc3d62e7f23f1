//! Where each rule is enforced on this host, and whether exactly: `agentwall policy enforcement`, and
//! `agentwall policy explain --enforcement`. Each wall has a module that knows what it does with a rule;
//! what is made of that, and how it is shown, is the same.

mod kernel;
mod rootless;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use agentwall_action::{Verb, escape_text};
use agentwall_policy::{Enforcement, LedgerFailure, Policy};
use agentwall_wall::enforcement::{Fidelity, Landing, Mechanism};
use anyhow::Result;
use serde::Serialize;

use crate::{
    args::policy::{Backend, EnforcementArgs},
    output::{self, Style, UsageError, paint},
    policies::{self, Chosen},
    prepare, state,
};

/// At most this many trees of a placement are listed.
const MAX_PLACES: usize = 8;

/// The report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which wall it is about.
    pub backend: Backend,
    /// Whether the host could be probed; if not, nothing else is known.
    pub probed: bool,
    /// Why it could not be, or why no wall stands here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether this wall stands on this host, and refuses.
    pub stands: bool,
    /// It stands and refuses nothing: what it would refuse is recorded.
    pub audit: bool,
    /// What the policy requires.
    pub require: Option<Enforcement>,
    /// What becomes of a session whose ledger cannot be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_ledger_failure: Option<LedgerFailure>,
    /// The weakest level of the rules in the report that are enforced somewhere or nowhere.
    pub weakest: Option<Enforcement>,
    /// Why the wall would refuse the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Parts beside the rules that have no effect.
    pub without_effect: Vec<String>,
    /// Landlock's ABI on this host, if it has one: the second line.
    pub landlock: Option<i32>,
    /// The rules.
    pub rules: Vec<RuleReport>,
}

/// One rule.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// Its id.
    pub id: String,
    /// Its level: the weakest of its placements. `None` if it decides nothing on this host.
    pub level: Option<Enforcement>,
    /// Where it is enforced.
    pub placements: Vec<Placed>,
}

/// Trees in which a rule is enforced alike.
#[derive(Debug, Serialize)]
pub struct Placed {
    /// For which actions.
    pub actions: Vec<&'static str>,
    /// By what.
    pub by: Mechanism,
    /// How well.
    pub fidelity: Fidelity,
    /// Whether Landlock repeats it here.
    pub landlock: bool,
    /// The race, or why it is stricter or without effect.
    pub note: Option<&'static str>,
    /// In which trees, escaped; empty for what has no tree.
    pub places: Vec<String>,
    /// How many trees are not listed.
    pub more: usize,
}

/// `agentwall policy enforcement`.
pub fn main(args: &EnforcementArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let chosen = policies::choose(args.policy.as_deref(), &[], &workspace)?;
    let about = About {
        backend: args.backend,
        name: &args.name,
        workspace: &workspace,
        verbs: Verb::ALL,
    };
    let report = report(chosen, about, |_| true)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    let weaker = report
        .weakest
        .zip(report.require)
        .is_some_and(|(w, r)| w < r);
    let bad = weaker || report.refused.is_some() || !report.probed || !report.stands;
    Ok(ExitCode::from(if bad {
        output::FAILED
    } else {
        output::OK
    }))
}

/// The name of the run that a subject is; the wall starts agents only.
pub fn run_name(subject: &str) -> Result<&str> {
    subject.strip_prefix("agent:").ok_or_else(|| {
        UsageError(format!(
            "'{}' is not a subject of the wall; with --enforcement it is agent:NAME",
            escape_text(subject)
        ))
        .into()
    })
}

/// What a report is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Which wall.
    pub backend: Backend,
    /// The name of the run.
    pub name: &'a str,
    /// What `${workspace}` stands for.
    pub workspace: &'a Path,
    /// The actions.
    pub verbs: &'a [Verb],
}

/// The report about the rules that `wanted` picks.
pub fn report(chosen: Chosen, about: About<'_>, wanted: impl Fn(&str) -> bool) -> Result<Report> {
    let mut report = Report {
        backend: about.backend,
        probed: false,
        reason: None,
        stands: false,
        audit: false,
        require: None,
        on_ledger_failure: None,
        weakest: None,
        refused: None,
        without_effect: Vec::new(),
        landlock: None,
        rules: Vec::new(),
    };
    if state::inside_wall() {
        report.reason = Some(
            "this is inside a wall, from where the host cannot be probed; ask outside".to_owned(),
        );
        return Ok(report);
    }
    let looked = match about.backend {
        Backend::Run => Some(rootless::look(chosen, about, &mut report)?),
        Backend::Kernel => kernel::look(chosen, about, &mut report)?,
    };
    let Some((policy, found)) = looked else {
        return Ok(report);
    };
    report.probed = true;
    report.require = Some(policy.require());
    report.without_effect = prepare::without_effect(&policy);
    report.on_ledger_failure = Some(policy.on_ledger_failure());
    if about.backend == Backend::Kernel && policy.on_ledger_failure() == LedgerFailure::Open {
        // The daemon ends; the wall in the kernel stands without it.
        report
            .without_effect
            .push("ledger: { on_failure: open }".to_owned());
    }
    report.rules = rules(&policy, &found, &report, wanted);
    report.weakest = report.rules.iter().filter_map(|r| r.level).min();
    Ok(report)
}

fn rules(
    policy: &Policy,
    found: &[Landing],
    report: &Report,
    wanted: impl Fn(&str) -> bool,
) -> Vec<RuleReport> {
    let mut by_rule: BTreeMap<&str, Vec<&Landing>> = BTreeMap::new();
    for landing in found {
        by_rule.entry(&landing.rule).or_default().push(landing);
    }
    let wanted = policy.rules().filter(|rule| wanted(&rule.id));
    let of = |id: &str| by_rule.get(id).map(Vec::as_slice).unwrap_or_default();
    wanted
        .map(|rule| {
            let landings = of(&rule.id);
            // Where no wall stands, nothing of it holds.
            let level = |l: &&Landing| match (report.stands, report.audit) {
                (true, _) => l.fidelity.level(),
                (false, true) => l.fidelity.level().min(Enforcement::Audit),
                (false, false) => Enforcement::None,
            };
            RuleReport {
                id: rule.id.clone(),
                level: landings.iter().map(level).min(),
                placements: placements(landings, report.landlock.is_some()),
            }
        })
        .collect()
}

/// Landings that say the same, together: first by tree, then by action.
fn placements(landings: &[&Landing], landlock: bool) -> Vec<Placed> {
    type Key = (Fidelity, Mechanism, Option<&'static str>, bool);
    let mut alike: BTreeMap<(Key, Verb), BTreeSet<&Path>> = BTreeMap::new();
    for landing in landings {
        let key = (
            landing.fidelity,
            landing.by,
            landing.note,
            landing.landlock && landlock,
        );
        let trees = alike.entry((key, landing.verb)).or_default();
        trees.extend(landing.tree.as_deref());
    }
    let mut together: BTreeMap<(Key, BTreeSet<&Path>), Vec<&'static str>> = BTreeMap::new();
    for ((key, verb), trees) in alike {
        together
            .entry((key, trees))
            .or_default()
            .push(verb.as_str());
    }
    let mut placed: Vec<Placed> = together
        .into_iter()
        .map(
            |(((fidelity, by, note, landlock), trees), actions)| Placed {
                actions,
                by,
                fidelity,
                landlock,
                note,
                places: trees
                    .iter()
                    .take(MAX_PLACES)
                    .map(|p| state::shown(p))
                    .collect(),
                more: trees.len().saturating_sub(MAX_PLACES),
            },
        )
        .collect();
    // The worst first: that is what one has to know.
    placed.sort_by_key(|p| std::cmp::Reverse(p.fidelity));
    placed
}

/// The report for people.
pub fn text(report: &Report) -> String {
    let mut text = String::from("where it is enforced on this host:\n");
    if let Some(reason) = &report.reason {
        text.push_str(&format!("  {}\n", escape_text(reason)));
    }
    if !report.probed {
        return text;
    }
    for rule in &report.rules {
        let (style, word) = match rule.level {
            None => (Style::Dim, "decides nothing here"),
            Some(Enforcement::Enforced) => (Style::Green, "enforced"),
            Some(Enforcement::Race) => (Style::Yellow, "enforced, with a race"),
            Some(Enforcement::Audit) => (Style::Yellow, "recorded, not enforced"),
            Some(_) => (Style::Red, "not enforced everywhere"),
        };
        text.push_str(&format!(
            "  {}: {}\n",
            escape_text(&rule.id),
            paint(style, word)
        ));
        for placed in &rule.placements {
            let second = if placed.landlock { " and Landlock" } else { "" };
            let mut places = placed.places.join(" ");
            if placed.more > 0 {
                places.push_str(&format!(" and {} more", placed.more));
            }
            text.push_str(&format!(
                "    {}: {}{second}, {}{}{places}\n",
                placed.actions.join(" "),
                placed.by.as_str(),
                placed.fidelity.as_str(),
                if places.is_empty() { "" } else { ": " },
            ));
            if let Some(note) = placed.note {
                text.push_str(&format!("      {note}\n"));
            }
        }
    }
    if report.rules.is_empty() {
        text.push_str("  no rule speaks about it; the default needs no place of its own\n");
    }
    for part in &report.without_effect {
        text.push_str(&format!("  {}: without effect\n", escape_text(part)));
    }
    if report.on_ledger_failure == Some(LedgerFailure::Open) && report.backend == Backend::Run {
        text.push_str("a session goes on when the ledger cannot be written: what is lost becomes a gap in it\n");
    }
    if let (Some(weakest), Some(require)) = (report.weakest, report.require) {
        text.push_str(&format!(
            "the weakest level is {}, the policy requires {}\n",
            word(weakest),
            word(require)
        ));
    }
    if let Some(refused) = &report.refused {
        let who = match report.backend {
            Backend::Run => "'agentwall run'",
            Backend::Kernel => "the kernel wall",
        };
        text.push_str(&format!("{who} refuses it: {}\n", escape_text(refused)));
    }
    text
}

fn word(level: Enforcement) -> &'static str {
    match level {
        Enforcement::None => "none",
        Enforcement::Audit => "audit",
        Enforcement::Race => "race",
        Enforcement::Enforced => "enforced",
    }
}
