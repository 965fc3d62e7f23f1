//! `agentwall policy explain`: what happens to an action, and which rules said so.

use std::{path::Path, process::ExitCode};

use agentwall_action::{Action, escape_text};
use agentwall_policy::{ExplainedRule, Mismatch, RuleOutcome};
use anyhow::Result;

use crate::{
    args::policy::ExplainArgs,
    cmd::policy::{
        asked::{self, Asked},
        variables,
    },
    output::{self, Style, UsageError, paint},
    policies,
};

/// Runs the command.
pub fn main(args: &ExplainArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let variables = variables(Some(&workspace))?;
    let sources = policies::policy_sources(args.policy.as_deref(), &workspace)?;
    let policy = policies::load(&sources, &variables)?
        .with_real_paths(&|path: &Path| path.canonicalize().ok());
    let action = action(args, &workspace)?;
    let mut explanation = policy.explain(&action);
    explanation.decision = asked::decide(&policy, &action);
    if args.json {
        let mut value = serde_json::to_value(&explanation)?;
        value["action"] = action.verb.as_str().into();
        value["resource"] = action.resource.to_string().into();
        value["subject"] = action.subject.as_str().into();
        output::print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let decision = &explanation.decision;
    let style = if decision.effect.proceeds() {
        Style::Green
    } else {
        Style::Red
    };
    let mut text = format!(
        "{}: {} {} for {}\n",
        paint(style, decision.effect.as_str()),
        action.verb,
        action.resource,
        escape_text(action.subject.as_str())
    );
    let rule = decision
        .rule
        .as_deref()
        .map_or("the default".into(), escape_text);
    text.push_str(&format!(
        "  rule    {rule}\n  reason  {}\n",
        escape_text(&decision.reason)
    ));
    for (name, hint) in [
        ("next", &decision.hint.next),
        ("with", &decision.hint.with),
        ("hint", &decision.hint.text),
    ] {
        if let Some(hint) = hint {
            text.push_str(&format!("  {name:<7} {}\n", escape_text(hint)));
        }
    }
    for error in &decision.errors {
        text.push_str(&format!(
            "  {}   {}\n",
            paint(Style::Red, "error"),
            escape_text(error)
        ));
    }
    let rows: Vec<Vec<String>> = explanation.rules.iter().filter_map(row).collect();
    if !rows.is_empty() {
        text.push_str("rules that speak about it, in the order they are looked at:\n");
        text.push_str(&output::table(&rows));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// One rule of an explanation; those for other actions and objects are left out.
fn row(rule: &ExplainedRule) -> Option<Vec<String>> {
    let outcome = match &rule.outcome {
        RuleOutcome::Decided => "decided".to_owned(),
        RuleOutcome::Overruled => "overruled by a stricter one".to_owned(),
        RuleOutcome::TooLate => "too late: an earlier priority decided".to_owned(),
        RuleOutcome::Marked => "marks it".to_owned(),
        RuleOutcome::Failed(errors) => format!("failed: {}", escape_text(&errors.join("; "))),
        RuleOutcome::NoMatch(Mismatch::Action | Mismatch::Resource | Mismatch::Subject) => {
            return None;
        }
        RuleOutcome::NoMatch(_) => "its condition does not hold".to_owned(),
        other => format!("{other:?}"),
    };
    Some(vec![
        format!("  {}", escape_text(&rule.id)),
        rule.priority.to_string(),
        rule.effect.to_owned(),
        rule.location.to_string(),
        outcome,
    ])
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
