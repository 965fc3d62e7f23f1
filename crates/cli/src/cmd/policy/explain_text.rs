//! An explanation as text for a person: the decision, the rules with what kept them from matching, and
//! what would make the action allowed.
//!
//! Names, patterns and reasons come from agents, repositories and authors: all of it is escaped.

use std::fmt::Write as _;

use agentwall_action::{Action, Decision, Resource, Verb, escape_text};
use agentwall_policy::{
    Advice, ChangeKind, ConditionReport, ExplainedRule, Explanation, Mismatch, NearObject, Nearest,
    Overridden, RuleOutcome,
};

use crate::output::{self, Style, paint};

/// The decision and the rules; with `all` also those for other actions and objects.
pub fn explanation(action: &Action, explanation: &Explanation, all: bool) -> String {
    let mut text = decision(action, &explanation.decision);
    let shown: Vec<&ExplainedRule> = explanation
        .rules
        .iter()
        .filter(|r| all || speaks(r))
        .collect();
    if !shown.is_empty() {
        text.push_str(match all {
            true => "the rules, in the order they are looked at:\n",
            false => "rules that speak about it, in the order they are looked at:\n",
        });
        let rows: Vec<Vec<String>> = shown.iter().map(|rule| row(rule)).collect();
        let table = output::table(&rows);
        for (line, rule) in table.lines().zip(&shown) {
            text.push_str(line);
            text.push('\n');
            for condition in &rule.conditions {
                text.push_str(&self::condition(condition));
            }
        }
    }
    let hidden = explanation.rules.len() - shown.len();
    if hidden > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} for other actions, subjects or objects; --all shows why",
            output::count(hidden, "rule")
        );
    }
    text
}

fn decision(action: &Action, decision: &Decision) -> String {
    let style = match decision.effect.proceeds() {
        true => Style::Green,
        false => Style::Red,
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
    let _ = writeln!(
        text,
        "  rule    {rule}\n  reason  {}",
        escape_text(&decision.reason)
    );
    for (name, hint) in [
        ("next", &decision.hint.next),
        ("with", &decision.hint.with),
        ("hint", &decision.hint.text),
    ] {
        if let Some(hint) = hint {
            let _ = writeln!(text, "  {name:<7} {}", escape_text(hint));
        }
    }
    for error in &decision.errors {
        let _ = writeln!(
            text,
            "  {}   {}",
            paint(Style::Red, "error"),
            escape_text(error)
        );
    }
    text
}

/// Whether the rule is about this action, subject and object.
pub fn speaks(rule: &ExplainedRule) -> bool {
    let elsewhere = [Mismatch::Action, Mismatch::Subject, Mismatch::Resource];
    !matches!(&rule.outcome, RuleOutcome::NoMatch(why) if elsewhere.contains(why))
}

fn row(rule: &ExplainedRule) -> Vec<String> {
    let outcome = match &rule.outcome {
        RuleOutcome::Decided => "decided".to_owned(),
        RuleOutcome::Overruled => "overruled by a stricter one".to_owned(),
        RuleOutcome::TooLate => "too late: an earlier priority decided".to_owned(),
        RuleOutcome::Marked => "marks it".to_owned(),
        RuleOutcome::Failed(_) => {
            "its condition failed; it counts in the safe direction".to_owned()
        }
        RuleOutcome::NoMatch(Mismatch::Action) => "another action".to_owned(),
        RuleOutcome::NoMatch(Mismatch::Subject) => nearest("another subject", rule),
        RuleOutcome::NoMatch(Mismatch::Resource) => nearest("another object", rule),
        RuleOutcome::NoMatch(_) => "its condition does not hold".to_owned(),
        other => format!("{other:?}"),
    };
    vec![
        format!("  {}", escape_text(&rule.id)),
        rule.priority.to_string(),
        rule.effect.to_owned(),
        rule.location.to_string(),
        outcome,
    ]
}

fn nearest(what: &str, rule: &ExplainedRule) -> String {
    let Some(nearest) = &rule.nearest else {
        return what.to_owned();
    };
    let pattern = output::tame(&nearest.pattern);
    format!("{what}: {}", where_it_stops(&pattern, nearest))
}

fn where_it_stops(pattern: &str, nearest: &Nearest) -> String {
    let (matched, rest) = (&nearest.matched, &nearest.rest);
    match nearest.part {
        "excluded" => format!("{pattern} takes it out"),
        "kind" => format!("{pattern} is about another kind of object"),
        "label" => format!("it is not one of {pattern}"),
        "address" => format!("its address is not in {pattern}"),
        part if rest.is_empty() => format!("{pattern} goes on where the {part} ends"),
        part if matched.is_empty() => {
            format!("{pattern} differs from the first byte of the {part}")
        }
        part => format!("{pattern} fits '{matched}' and not the {part} '{rest}' after it"),
    }
}

fn condition(report: &ConditionReport) -> String {
    let value = match (report.value, &report.error) {
        (Some(value), _) => format!("is {value}"),
        (None, Some(error)) => format!("failed: {}", output::tame(error)),
        (None, None) => "failed".to_owned(),
    };
    let facts: Vec<String> = report
        .facts
        .iter()
        .map(|read| {
            let value = read.value.as_ref();
            let value = value.map_or("absent".to_owned(), ToString::to_string);
            format!("{} = {}", output::tame(&read.fact), output::tame(&value))
        })
        .collect();
    let facts = match facts.is_empty() {
        true => String::new(),
        false => format!(" ({})", facts.join(", ")),
    };
    format!(
        "      {} {} {value}{facts}\n",
        report.key,
        output::tame(&report.expression)
    )
}

/// Whether a suggested object is there on this host; `None` for what is no path.
pub fn exists(near: &NearObject) -> Option<bool> {
    match &near.object {
        Resource::Path(p) => Some(p.path.symlink_metadata().is_ok()),
        _ => None,
    }
}

/// What would make it allowed; empty if there is nothing to tell. What can only be done to something
/// that is there is suggested only where it is.
pub fn advice(action: &Action, advice: &Advice) -> String {
    let mut text = String::new();
    let makes = matches!(
        action.verb,
        Verb::FileCreate | Verb::FileWrite | Verb::FileCommit
    );
    let useful = |near: &&NearObject| makes || exists(near) != Some(false);
    for near in advice.nearest.iter().filter(useful) {
        let rule = near
            .rule
            .as_deref()
            .map_or("the default".into(), escape_text);
        let absent = match exists(near) {
            Some(false) => ", not there now",
            _ => "",
        };
        let from = near.pattern.as_deref().map(output::tame);
        let from = from.map_or(String::new(), |pattern| format!(", {pattern}"));
        let _ = writeln!(
            text,
            "  instead  {} ({} by {rule}{from}{absent})",
            near.resource,
            near.effect.as_str()
        );
    }
    for met in &advice.conditions {
        let rule = met
            .rule
            .as_deref()
            .map_or("the default".into(), escape_text);
        let _ = writeln!(
            text,
            "  if       {} ({} by {rule})",
            output::tame(&met.condition),
            met.effect.as_str()
        );
    }
    for change in &advice.changes {
        let what = match change.kind {
            ChangeKind::Exclude => "take it out of",
            _ => "put it into",
        };
        let _ = writeln!(
            text,
            "  change   {what} rule {} ({}): add {} to its resource",
            escape_text(&change.rule),
            change.location,
            yaml_text(&change.member)
        );
        overridden(&mut text, &change.overrides);
    }
    for rule in &advice.rules {
        let place = rule.source.as_deref().map(escape_text);
        let place = place.map_or(String::new(), |source| format!(", {source}"));
        let _ = writeln!(
            text,
            "  add      to the rules of the {} layer{place}",
            rule.layer.as_str()
        );
        for line in rule.yaml.lines() {
            let _ = writeln!(text, "    {}", output::tame(line));
        }
        if rule.ignores_args {
            text.push_str("    it allows any arguments: these cannot be named in a condition\n");
        }
        overridden(&mut text, &rule.overrides);
    }
    if advice.rules.len() > 1 {
        text.push_str("  all of these rules are needed: each layer says no by itself\n");
    }
    if let Some(never) = advice.never {
        let _ = writeln!(text, "  no rule is proposed: {}", never.sentence());
    }
    match text.is_empty() {
        true => text,
        false => format!("what would make it allowed:\n{text}"),
    }
}

fn overridden(text: &mut String, overrides: &[Overridden]) {
    for rule in overrides {
        let reason = rule.reason.as_deref().map(escape_text);
        let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
        let _ = writeln!(
            text,
            "    {} this overrules {} ({}){reason}",
            paint(Style::Yellow, "warning:"),
            escape_text(&rule.id),
            rule.effect
        );
    }
}

/// A member as it is written into a file.
fn yaml_text(member: &str) -> String {
    format!("'{}'", output::tame(member).replace('\'', "''"))
}
