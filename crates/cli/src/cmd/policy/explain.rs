//! `agentwall policy explain`: what happens to an action, and which rules said so.

use std::{path::Path, process::ExitCode};

use agentwall_action::{Action, Verb};
use agentwall_policy::Explanation;
use anyhow::Result;

use crate::{
    args::policy::ExplainArgs,
    cmd::policy::{
        asked::{self, Asked},
        enforcement, explain_text, variables,
    },
    output::{self, UsageError},
    policies::{self, Chosen},
};

/// Runs the command.
pub fn main(args: &ExplainArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let variables = variables(Some(&workspace))?;
    let chosen = policies::choose(args.policy.as_deref(), &[], &workspace)?;
    let action = action(args, &workspace)?;
    let mut policy = policies::load(&chosen.sources, &variables)?;
    if action.verb == Verb::FileCommit {
        policy = policy.with_commit_rule();
    }
    let policy = policy.with_real_paths(&|path: &Path| path.canonicalize().ok());
    let mut explanation = policy.explain(&action);
    explanation.decision = policy.answer(&action);
    // A rule for the subject that stands for any would speak about no run.
    let for_subject = args.subject != asked::SUBJECT;
    let advice = policy.advise(&action, &policies::guard(&variables), for_subject);
    let enforcement = match args.enforcement {
        true => Some(enforced(args, chosen, &workspace, &action, &explanation)?),
        false => None,
    };
    if args.json {
        let mut value = serde_json::to_value(&explanation)?;
        value["action"] = action.verb.as_str().into();
        value["resource"] = action.resource.to_string().into();
        value["subject"] = action.subject.as_str().into();
        value["advice"] = serde_json::to_value(&advice)?;
        for (n, near) in advice.nearest.iter().enumerate() {
            value["advice"]["nearest"][n]["exists"] = explain_text::exists(near).into();
        }
        if let Some(enforcement) = enforcement {
            value["enforcement"] = serde_json::to_value(&enforcement)?;
        }
        output::print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = explain_text::explanation(&action, &explanation, args.all);
    text.push_str(&explain_text::advice(&action, &advice));
    if let Some(enforcement) = enforcement {
        text.push_str(&enforcement::text(&enforcement));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the rules about the action are enforced; with `--all` every rule.
fn enforced(
    args: &ExplainArgs,
    chosen: Chosen,
    workspace: &Path,
    action: &Action,
    explanation: &Explanation,
) -> Result<enforcement::Report> {
    let name = enforcement::run_name(&args.subject)?;
    let about = |verbs| enforcement::About {
        backend: args.backend,
        name,
        workspace,
        verbs,
    };
    if args.all {
        return enforcement::report(chosen, about(Verb::ALL), |_| true);
    }
    let speaking: Vec<&str> = explanation
        .rules
        .iter()
        .filter(|rule| explain_text::speaks(rule))
        .map(|rule| rule.id.as_str())
        .collect();
    enforcement::report(chosen, about(&[action.verb]), |id| speaking.contains(&id))
}

fn action(args: &ExplainArgs, workspace: &Path) -> Result<Action> {
    let mut asked = Asked {
        subject: Some(args.subject.clone()),
        action: args.action.clone(),
        resource: args.resource.clone(),
        ..Asked::default()
    };
    if let Some(text) = &args.args {
        asked.args = serde_json::from_str(text)
            .map_err(|e| UsageError(format!("--args is not JSON: {e}")))?;
    }
    asked.action(workspace)
}
