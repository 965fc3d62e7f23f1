//! `agentwall why`: what was refused, by which rule, and what to do instead. Works inside the wall,
//! where it reads the trail the broker writes; it has no channel to anybody. A process that the kernel wall
//! governs is handed the trail of its session by the daemon, which reads nothing from it.

use std::{fmt::Write as _, process::ExitCode};

use agentwall_action::{Effect, Resource, Verb};
use agentwall_wall::{ADVICE_PATH, AdviceEntry, Instead, TRAIL_PATH, TrailEntry};
use anyhow::{Context as _, Result, bail};

use crate::{
    args::WhyArgs,
    host::{Places, trail},
    output, state,
};

/// Runs the command.
pub fn main(args: WhyArgs) -> Result<ExitCode> {
    let text = match state::inside_wall() {
        true => std::fs::read_to_string(TRAIL_PATH).context("cannot read the wall's trail")?,
        false => match trail::ask(&Places::default().why()) {
            Some(text) => text,
            None => bail!(
                "'agentwall why' answers inside the wall; outside, 'agentwall ledger show --effect \
                 deny' lists refusals and 'agentwall policy explain' explains a policy"
            ),
        },
    };
    // A line that is being written when the file is read has no end yet.
    let mut entries = text
        .lines()
        .rev()
        .filter_map(|l| serde_json::from_str(l).ok());
    let found = match (&args.action, &args.resource) {
        (Some(action), Some(resource)) => {
            let verb: Verb = action.parse()?;
            let object = Resource::parse(verb.family(), resource)?.to_string();
            entries.find(|e: &TrailEntry| e.action == verb.as_str() && e.resource == object)
        }
        _ => entries.next(),
    };
    let Some(entry) = found else {
        if args.json {
            output::print_json(&serde_json::Value::Null)?;
        } else {
            output::print(
                "nothing was refused so far; what is hidden looks absent and leaves no refusal\n",
            )?;
        }
        return Ok(ExitCode::from(output::FAILED));
    };
    let instead = instead(&entry);
    if args.json {
        let mut value = serde_json::to_value(&entry)?;
        value["nearest"] = serde_json::to_value(&instead)?;
        output::print_json(&value)?;
    } else {
        output::print(&in_words(&entry, &instead))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What goes through instead. The broker wrote it down when this program was started; of a refusal
/// long ago there may be nothing.
fn instead(entry: &TrailEntry) -> Vec<Instead> {
    let text = std::fs::read_to_string(ADVICE_PATH).unwrap_or_default();
    let lines = text.lines().rev();
    let mut found = lines.filter_map(|l| serde_json::from_str::<AdviceEntry>(l).ok());
    found
        .find(|a| a.action == entry.action && a.resource == entry.resource)
        .map(|a| a.nearest)
        .unwrap_or_default()
}

fn in_words(entry: &TrailEntry, instead: &[Instead]) -> String {
    let decision = &entry.decision;
    // A person may have written the reason, an agent the rest; each stays on its line.
    let tame = output::tame;
    let mut text = String::new();
    let outcome = match decision.effect {
        Effect::Deny => "refused",
        other => other.as_str(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{outcome}: {} {}",
        tame(&entry.action),
        tame(&entry.resource)
    );
    let _ = writeln!(text, "  by:     {}", tame(&entry.exe));
    let _ = writeln!(
        text,
        "  rule:   {}",
        tame(decision.rule.as_deref().unwrap_or("(the policy's default)"))
    );
    let _ = writeln!(text, "  reason: {}", tame(&decision.reason));
    let hint = &decision.hint;
    if !hint.is_empty() {
        let parts = [
            hint.next.as_deref(),
            hint.with.as_deref(),
            hint.text.as_deref(),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        let _ = writeln!(text, "  hint:   {}", tame(&parts.join(": ")));
    }
    for near in instead {
        let effect = match near.effect {
            Effect::Ask => " (the user is asked)",
            _ => "",
        };
        let _ = writeln!(text, "  instead: {}{effect}", tame(&near.resource));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stays_on_its_line_and_acts_on_no_terminal() {
        let line = serde_json::json!({
            "time_ms": 0, "action": "file.write", "resource": "/w/a\\u{1b}", "exe": "/bin/sh\u{9b}",
            "effect": "deny", "rule": "r\u{1b}", "reason": "no\u{1b}[2J\n  rule:   other",
            "hint": { "text": "ask\u{202e}\rhim" }, "policy": "p",
        });
        let near = [("/w/\u{1b}b", Effect::Allow), ("/w/c", Effect::Ask)];
        let near = near.map(|(resource, effect)| Instead {
            resource: resource.to_owned(),
            effect,
            rule: None,
        });
        let text = in_words(&serde_json::from_value(line).unwrap(), &near);
        assert_eq!(
            text,
            "refused: file.write /w/a\\u{1b}\n  by:     /bin/sh\\u{9b}\n  rule:   r\\u{1b}\n  \
             reason: no\\u{1b}[2J\\n  rule:   other\n  hint:   ask\\u{202e}\\rhim\n  \
             instead: /w/\\u{1b}b\n  instead: /w/c (the user is asked)\n"
        );
    }
}
