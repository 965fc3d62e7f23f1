//! `agentwall policy can`: an action that the policy lets through, or a proof that there is none.
//!
//! As a run would, it takes path patterns to mean objects under their real paths on this host, too.

use std::{collections::BTreeSet, path::Path, process::ExitCode};

use agentwall_action::{Effect, escape_text};
use agentwall_policy::analyse::{Limits, Question, Reach, can};
use anyhow::{Result, anyhow};

use crate::{
    args::policy::CanArgs,
    cmd::policy::{analyse, variables},
    output::{self, Style, UsageError, paint},
    policies,
};

/// Runs the command.
pub fn main(args: &CanArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let variables = variables(Some(&workspace))?;
    let real = |path: &Path| path.canonicalize().ok();
    let question = Question::new(
        &args.subject,
        &args.action,
        &args.resource,
        &args.resource_outside,
        &variables,
    )
    .map_err(|e| UsageError(e.to_string()))?
    .with_real_paths(&real);
    let sources = policies::policy_sources(args.policy.as_deref(), &workspace)?;
    let policy = policies::load(&sources, &variables)?
        .with_commit_rule()
        .with_real_paths(&real);
    let mut effects: BTreeSet<Effect> = args.effect.iter().copied().collect();
    if args.ask {
        effects.insert(Effect::Ask);
    }
    let reach = can(&policy, &question, &effects, Limits::default()).map_err(|e| anyhow!("{e}"))?;
    if args.json {
        output::print_json(&reach)?;
    } else {
        output::print(&text(&reach, &effects))?;
    }
    Ok(ExitCode::from(match reach {
        Reach::Never { .. } => output::OK,
        _ => output::FAILED,
    }))
}

fn text(reach: &Reach, effects: &BTreeSet<Effect>) -> String {
    let effects: Vec<&str> = effects.iter().map(|e| e.as_str()).collect();
    match reach {
        Reach::Possible { witness, decision } => {
            let rule = match &decision.rule {
                Some(id) => format!("rule {}", escape_text(id)),
                None => "the default".to_owned(),
            };
            format!(
                "{}: {witness}\n  effect  {}\n  by      {rule}\n  reason  {}\n",
                paint(Style::Red, "yes"),
                decision.effect,
                escape_text(&decision.reason)
            )
        }
        Reach::Never {
            verbs,
            open_conditions,
        } => {
            let verbs: Vec<&str> = verbs.iter().map(|v| v.as_str()).collect();
            format!(
                "{}: proved that no such action gets {}\n  actions  {}\n  for all  subjects and \
                 canonical objects that are meant, and any labels\n{}",
                paint(Style::Green, "no"),
                effects.join(" or "),
                verbs.join(", "),
                analyse::free(open_conditions)
            )
        }
        Reach::Undecided { why } => {
            let why: Vec<String> = why
                .iter()
                .map(|w| format!("  {}\n", escape_text(w)))
                .collect();
            format!(
                "{}: none was found, but not everything could be looked at; ask about fewer actions \
                 or objects\n{}",
                paint(Style::Red, "not decided"),
                why.concat()
            )
        }
        _ => "not decided\n".to_owned(),
    }
}
