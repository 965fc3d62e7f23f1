//! What a replay has found, for a person and for a script.

use std::path::Path;

use agentwall_ledger::Entry;
use anyhow::Result;
use serde_json::{Value, json};

use super::tally::{Answer, Class, Example, Tally, Verdict};
use crate::{
    output::{self, Style, paint, tame},
    state::shown,
};

/// One flip, or one decision that could not be made again.
pub fn each(index: u64, entry: &Entry, verdict: &Verdict, as_json: bool) -> Result<()> {
    let example = Example::of(index, entry);
    if as_json {
        let mut value = example_json(&example);
        match verdict {
            Verdict::Flip { old, new, class } => {
                value["class"] = class.as_str().into();
                value["old"] = answer_json(old);
                value["new"] = answer_json(new);
            }
            Verdict::Unknown(why) => value["not_replayed"] = why.to_string().into(),
        }
        return output::print_json_line(&value);
    }
    let text = match verdict {
        Verdict::Flip { old, new, class } => format!(
            "{}  {} -> {}",
            paint(style(*class), heading(*class)),
            answer(old),
            answer(new)
        ),
        Verdict::Unknown(why) => format!("not replayed: {}", tame(&why.to_string())),
    };
    output::print(&format!("{}\n        {text}\n", line(&example)))
}

/// The whole.
pub fn summary(tally: &Tally, policy: &Path, as_json: bool, lines: bool) -> Result<()> {
    match (as_json, lines) {
        (true, true) => output::print_json_line(&json!({ "summary": value(tally) })),
        (true, false) => output::print_json(&value(tally)),
        (false, _) => output::print(&text(tally, policy)),
    }
}

fn text(tally: &Tally, policy: &Path) -> String {
    let all = tally.replayed + tally.not_replayed();
    let mut text = format!(
        "{} of {} of {} replayed under {}\n",
        tally.replayed,
        plural(all, "decision"),
        plural(tally.sessions as u64, "session"),
        shown(policy)
    );
    let flips = tally.flips();
    let parts: Vec<String> = Class::ALL
        .iter()
        .filter_map(|class| {
            let count = tally.classes.get(class)?;
            Some(format!("{count} {}", heading(*class)))
        })
        .collect();
    text.push_str(&match flips {
        0 => format!("  {}\n", paint(Style::Green, "nothing flips")),
        n => format!("  {n} flip: {}\n", parts.join(", ")),
    });
    text.push_str(&format!(
        "  {} stay as they are, {} of them by another rule\n",
        tally.replayed - flips,
        tally.other_rule
    ));
    let mut before = None;
    for ((class, old, new), group) in &tally.groups {
        if before != Some(class) {
            text.push_str(&format!("{}\n", paint(style(*class), heading(*class))));
            before = Some(class);
        }
        text.push_str(&format!(
            "{:>6}  {} -> {}\n",
            group.count,
            answer(old),
            answer(new)
        ));
        for example in &group.examples {
            text.push_str(&format!("          {}\n", line(example)));
        }
    }
    if tally.ungrouped > 0 {
        text.push_str(&format!(
            "{:>6}  in further groups; --each prints all\n",
            tally.ungrouped
        ));
    }
    if tally.not_replayed() > 0 {
        text.push_str(&format!("{}\n", paint(Style::Yellow, "not replayed")));
    }
    for (why, reason) in &tally.unknown {
        let mut indices: Vec<String> = reason.indices.iter().map(|i| format!("#{i}")).collect();
        if reason.count > indices.len() as u64 {
            indices.push("…".to_owned());
        }
        text.push_str(&format!(
            "{:>6}  {}\n          {}\n",
            reason.count,
            tame(&why.to_string()),
            indices.join(" ")
        ));
    }
    if tally.unnamed > 0 {
        text.push_str(&format!(
            "{:>6}  for further reasons; --each prints all\n",
            tally.unnamed
        ));
    }
    text.push_str(&uncounted(tally));
    text
}

/// What the ledger does not have one by one.
fn uncounted(tally: &Tally) -> String {
    let mut rows = Vec::new();
    let plain: u64 = tally.plain.values().fold(0, |a, b| a.saturating_add(*b));
    if plain > 0 {
        let verbs: Vec<String> = tally
            .plain
            .iter()
            .map(|(verb, count)| format!("{} {count}", tame(verb)))
            .collect();
        rows.push((
            plain,
            format!("plain allows, only counted: {}", verbs.join(", ")),
        ));
    }
    if tally.open_sessions > 0 {
        let text = "sessions without an end in the ledger: their plain allows are not even counted";
        rows.push((tally.open_sessions as u64, text.to_owned()));
    }
    if tally.committed > 0 {
        let text = "committed changes, which the policy let pass; only refused and held ones are decisions";
        rows.push((tally.committed, text.to_owned()));
    }
    if tally.lost > 0 {
        rows.push((tally.lost, "records that were lost".to_owned()));
    }
    if rows.is_empty() {
        return String::new();
    }
    let rows = rows.iter().map(|(n, text)| format!("{n:>6}  {text}\n"));
    format!(
        "{}\n{}",
        paint(Style::Dim, "not in the ledger one by one, so not replayed"),
        rows.collect::<String>()
    )
}

fn value(tally: &Tally) -> Value {
    let groups = tally.groups.iter().map(|((class, old, new), group)| {
        json!({
            "class": class.as_str(),
            "old": answer_json(old),
            "new": answer_json(new),
            "count": group.count,
            "examples": group.examples.iter().map(example_json).collect::<Vec<_>>(),
        })
    });
    let unknown = tally.unknown.iter().map(|(why, reason)| {
        json!({ "reason": why.to_string(), "count": reason.count, "first": reason.indices })
    });
    let classes: serde_json::Map<String, Value> = Class::ALL
        .iter()
        .map(|class| {
            let count = tally.classes.get(class).copied().unwrap_or(0);
            (class.as_str().to_owned(), count.into())
        })
        .collect();
    json!({
        "sessions": tally.sessions,
        "replayed": tally.replayed,
        "flips": tally.flips(),
        "classes": classes,
        "same": tally.replayed - tally.flips(),
        "same_by_another_rule": tally.other_rule,
        "groups": groups.collect::<Vec<_>>(),
        "flips_in_further_groups": tally.ungrouped,
        "not_replayed": tally.not_replayed(),
        "reasons": unknown.collect::<Vec<_>>(),
        "not_in_the_ledger": {
            "plain_allows": tally.plain,
            "sessions_without_end": tally.open_sessions,
            "committed_changes": tally.committed,
            "lost_records": tally.lost,
        },
    })
}

fn answer_json(answer: &Answer) -> Value {
    json!({ "effect": answer.effect_text(), "rule": answer.rule })
}

fn example_json(example: &Example) -> Value {
    json!({
        "index": example.index,
        "session": example.session,
        "action": example.verb,
        "resource": example.resource,
    })
}

fn answer(answer: &Answer) -> String {
    match (&answer.effect, &answer.rule) {
        (None, _) => "the agent's own network, not the host's port".to_owned(),
        (Some(effect), Some(rule)) => format!("{effect} by {}", tame(rule)),
        (Some(effect), None) => format!("{effect} by default"),
    }
}

fn line(example: &Example) -> String {
    format!(
        "#{:<6} {:<4} {} {}",
        example.index,
        tame(example.session.rsplit('-').next().unwrap_or_default()),
        tame(&example.verb),
        tame(&example.resource)
    )
}

const fn heading(class: Class) -> &'static str {
    match class {
        Class::NewlyDenied => "newly denied",
        Class::NewlyAllowed => "newly allowed",
        Class::NewlyAsked => "newly asked",
        Class::Otherwise => "otherwise than before",
    }
}

const fn style(class: Class) -> Style {
    match class {
        Class::NewlyDenied => Style::Red,
        Class::NewlyAllowed => Style::Green,
        Class::NewlyAsked => Style::Yellow,
        Class::Otherwise => Style::Bold,
    }
}

fn plural(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
