//! `agentwall pending`, `approve`, `reject`: a person answers what a running session asks.
//!
//! Everything an approval would be bound to is shown, and everything shown is escaped: the text of
//! a question comes from the agent.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use agentwall_action::{escape_bytes, escape_text};
use anyhow::Result;
use serde_json::Value;

use crate::{
    args::{ApproveArgs, PendingArgs, RejectArgs},
    control::{PendingAsk, Request},
    output::{self, Style, paint},
    questions,
    state::{State, now_ms},
};

/// How often `--watch` looks.
const INTERVAL: Duration = Duration::from_millis(400);

/// `agentwall pending`.
pub fn pending(args: PendingArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    if args.watch {
        return watch(&state, args.json);
    }
    let (asks, trouble) = questions::waiting(&state)?;
    if args.json {
        output::print_json(&asks)?;
    } else if asks.is_empty() {
        output::print("no questions wait\n")?;
    } else {
        let texts: Vec<String> = asks.iter().map(describe).collect();
        output::print(&texts.join("\n"))?;
    }
    for text in &trouble {
        output::note(text);
    }
    Ok(ExitCode::SUCCESS)
}

/// `agentwall approve`.
pub fn approve(args: ApproveArgs) -> Result<ExitCode> {
    let done = questions::answer(&args.id, |id| Request::Approve {
        id,
        scope: args.scope,
        digest: None,
    })?;
    say(&done)
}

/// `agentwall reject`.
pub fn reject(args: RejectArgs) -> Result<ExitCode> {
    let done = questions::answer(&args.id, |id| Request::Reject {
        id,
        reason: args.reason,
    })?;
    say(&done)
}

fn say(done: &str) -> Result<ExitCode> {
    output::print(&format!("{}\n", output::tame(done)))?;
    Ok(ExitCode::SUCCESS)
}

fn watch(state: &State, json: bool) -> Result<ExitCode> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    if !json {
        output::note("waiting for questions; interrupt to stop");
    }
    loop {
        let (asks, _) = questions::waiting(state)?;
        for ask in asks.iter().filter(|a| !known.contains(&a.id)) {
            if json {
                output::print_json_line(ask)?;
            } else {
                output::print(&format!("{}\n", describe(ask)))?;
            }
        }
        let now: BTreeSet<String> = asks.into_iter().map(|a| a.id).collect();
        for id in known.difference(&now).filter(|_| !json) {
            output::print(&paint(
                Style::Dim,
                &format!("{} is answered\n", escape_text(id)),
            ))?;
        }
        known = now;
        std::thread::sleep(INTERVAL);
    }
}

/// A question for a person.
fn describe(ask: &PendingAsk) -> String {
    let rule = ask
        .decision
        .rule
        .as_deref()
        .map_or("the default".into(), escape_text);
    let left = ask.expires_ms.saturating_sub(now_ms()).div_ceil(1000);
    let id = escape_text(&ask.id);
    let mut rows: Vec<(&str, String)> = vec![
        (
            "agent",
            format!(
                "{} (session {})",
                escape_text(&ask.name),
                escape_text(&ask.session)
            ),
        ),
        ("action", ask.action.verb.to_string()),
        ("object", ask.action.resource.to_string()),
    ];
    if let Some(text) = arguments(&ask.action.facts.args) {
        rows.push(("arguments", text));
    }
    rows.push(match ask.pid {
        // At a gateway there is a call.
        0 => ("call", escape_text(&ask.exe)),
        pid => (
            "program",
            format!("{} (process {pid})", output::tame(&ask.exe)),
        ),
    });
    rows.push(("rule", rule));
    rows.push(("reason", escape_text(&ask.decision.reason)));
    for monitor in &ask.decision.monitors {
        rows.push(("watched by", escape_text(monitor)));
    }
    rows.push(("bound to", escape_text(&ask.digest)));
    rows.push(("policy", escape_text(&ask.decision.policy)));
    rows.push(("expires in", format!("{left} s")));
    rows.push((
        "answer",
        format!("agentwall approve {id}   or   agentwall reject {id}"),
    ));
    let mut text = format!("{}\n", paint(Style::Bold, &id));
    for (name, value) in rows {
        text.push_str(&format!("  {name:<11} {value}\n"));
    }
    text
}

/// Arguments so that their boundaries are seen: what is not a plain word is quoted.
fn arguments(args: &Value) -> Option<String> {
    match args {
        Value::Null => None,
        Value::Array(list) => {
            let shown = list.iter().map(|item| match item {
                Value::String(text) => word(text),
                other => escape_text(&other.to_string()),
            });
            Some(shown.collect::<Vec<_>>().join(" "))
        }
        other => Some(escape_text(&other.to_string())),
    }
}

fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", escape_bytes(text.as_bytes()).replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentwall_action::{Action, Decision, Effect, Resource, Subject, Verb};

    #[test]
    fn a_question_cannot_act_on_the_terminal_or_hide_a_boundary() {
        let mut action = Action::new(
            Subject::agent("a"),
            Verb::ProcessExec,
            Resource::path("/bin/\x1b[2Jx\u{202e}"),
        );
        action.facts.args = serde_json::json!(["rm", "a b", "", "x\ny", "it's"]);
        let decision = Decision {
            effect: Effect::Ask,
            rule: Some("r\r".into()),
            reason: "because\x07".into(),
            hint: Default::default(),
            monitors: vec!["m".into()],
            errors: vec![],
            policy: "d".into(),
        };
        let text = describe(&PendingAsk {
            id: "k3f9-1".into(),
            session: "s".into(),
            name: "n\x1b".into(),
            action,
            decision,
            exe: "/bin/sh".into(),
            pid: 7,
            since_ms: 0,
            expires_ms: 0,
            digest: "abc".into(),
            canonical: None,
            risks: vec![],
            before: None,
        });
        assert!(
            !text
                .chars()
                .any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')),
            "{text}"
        );
        assert!(text.contains("rm 'a b' '' 'x\\ny' 'it\\'s'"), "{text}");
        assert!(
            text.contains("/bin/\\u{1b}[2Jx\\u{202e}") && text.contains("expires in  0 s"),
            "{text}"
        );
    }
}
