//! From patterns to a policy file that a person reviews: rules with reasons, tests and evidence.

use std::collections::{BTreeMap, BTreeSet};

use agentwall_action::{Verb, VerbFamily};

use crate::{
    pattern::{PatternContext, ResourcePattern},
    rule::PatternList,
};

use super::{
    Input, ProposedRule,
    cover::NeverCover,
    evidence::{Evidence, Wanted},
    examples::tests,
    patterns::{Found, Text, endpoints, others, paths},
};

/// Most alternatives, and bytes, in one pair of braces.
const BRACES: (usize, usize) = (24, 400);
/// Most patterns of one rule.
const PATTERNS: usize = 400;
/// Most ledger entries that a comment names.
const ENTRIES: usize = 8;

/// A rule on its way into the file.
#[derive(Debug)]
pub(crate) struct Draft {
    pub proposed: ProposedRule,
    matching: Vec<String>,
    missing: Vec<String>,
    /// Patterns of this rule that one session needed.
    pub seen_once: usize,
}

/// The rules that let every wanted action through.
pub(crate) fn rules(input: &Input<'_>, evidence: &Evidence<'_>, never: &NeverCover) -> Vec<Draft> {
    let mut found = paths(input, evidence, never);
    found.extend(endpoints(input, evidence));
    found.extend(others(evidence));
    let mut buckets: BTreeMap<_, Vec<Found>> = BTreeMap::new();
    for one in found {
        let area = area(&one.parts);
        let except: Vec<&str> = one.except.iter().map(|e| e.id).collect();
        let key = (one.effect, one.verbs.clone(), area, except, one.internal);
        buckets.entry(key).or_default().push(one);
    }
    let mut ids: BTreeSet<String> = evidence
        .current
        .iter()
        .flat_map(|p| p.rules().map(|r| r.id.clone()))
        .collect();
    let context = PatternContext::new(input.variables);
    let mut drafts = Vec::new();
    for ((_, verbs, area, ..), patterns) in buckets {
        for chunk in patterns.chunks(PATTERNS) {
            let id = free_id(&mut ids, &verbs, &area);
            drafts.push(draft(input, evidence, &context, id, chunk));
        }
    }
    drafts
}

/// How many patterns only one session needed.
pub(crate) fn seen_once(drafts: &[Draft]) -> usize {
    drafts.iter().map(|d| d.seen_once).sum()
}

/// What rules are grouped by: the part of the host they speak about.
fn area(text: &Text) -> String {
    let whole = match text {
        Text::Path { folder, name, .. } => format!("{folder}/{name}"),
        Text::Whole(text) => text.clone(),
    };
    let parts: Vec<&str> = whole.split('/').collect();
    match parts.as_slice() {
        ["${workspace}" | "unix:${workspace}", ..] => "workspace".into(),
        ["${tmp}" | "unix:${tmp}", ..] => "tmp".into(),
        ["~" | "${home}" | "unix:${home}", ..] => "home".into(),
        ["", first, ..] => (*first).to_owned(),
        [scheme, ..] => scheme.trim_end_matches(':').to_owned(),
        [] => String::new(),
    }
}

fn free_id(taken: &mut BTreeSet<String>, verbs: &[Verb], area: &str) -> String {
    let verb = match verbs {
        [one] => one.as_str().replace('.', "-"),
        [first, ..]
            if verbs.iter().all(|v| *v != Verb::FileRead) && first.family() == VerbFamily::File =>
        {
            "file-change".to_owned()
        }
        [first, ..] => first.as_str().replace('.', "-"),
        [] => String::new(),
    };
    let area: String = area
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(24)
        .collect();
    let base = format!(
        "learned-{verb}-{}",
        if area.is_empty() { "root" } else { &area }
    );
    let mut id = base.clone();
    let mut number = 2;
    while !taken.insert(id.clone()) {
        id = format!("{base}-{number}");
        number += 1;
    }
    id
}

fn draft(
    input: &Input<'_>,
    evidence: &Evidence<'_>,
    context: &PatternContext<'_>,
    id: String,
    patterns: &[Found],
) -> Draft {
    let first = &patterns[0];
    let texts: Vec<&Text> = patterns.iter().map(|p| &p.parts).collect();
    let resources = braced(&texts);
    let mut except: Vec<String> = first
        .except
        .iter()
        .flat_map(|e| e.resources)
        .map(|r| (*r).to_owned())
        .collect();
    except.extend(first.internal.map(|internal| {
        if internal {
            "cidr:metadata"
        } else {
            "cidr:private"
        }
        .to_owned()
    }));
    let wanted: Vec<&Wanted> = patterns
        .iter()
        .flat_map(|p| &p.from)
        .map(|at| &evidence.wanted[*at])
        .collect();
    let observations: BTreeSet<usize> = wanted
        .iter()
        .flat_map(|w| &w.observations)
        .copied()
        .collect();
    let seen: Vec<_> = observations
        .iter()
        .filter_map(|i| evidence.observation(*i))
        .collect();
    let sessions: BTreeSet<usize> = wanted.iter().flat_map(|w| &w.sessions).copied().collect();
    let used_once = |p: &&Found| {
        let used: BTreeSet<usize> = p
            .from
            .iter()
            .flat_map(|at| &evidence.wanted[*at].sessions)
            .copied()
            .collect();
        used.len() == 1
    };
    let objects: BTreeSet<String> = wanted.iter().map(|w| w.resource.to_string()).collect();
    let list = PatternList {
        positive: parsed(&resources, context),
        negative: parsed(&except, context),
    };
    let (matching, missing) = tests(input.variables, &list, &wanted);
    Draft {
        seen_once: patterns.iter().filter(used_once).count(),
        proposed: ProposedRule {
            id,
            actions: first.verbs.clone(),
            resources,
            except,
            effect: first.effect,
            entries: seen.iter().map(|o| o.index).collect(),
            objects: objects.len(),
            sessions: sessions
                .iter()
                .map(|n| evidence.sessions[*n].to_owned())
                .collect(),
            first_seen: seen
                .iter()
                .map(|o| o.time.clone())
                .min()
                .unwrap_or_default(),
            last_seen: seen
                .iter()
                .map(|o| o.time.clone())
                .max()
                .unwrap_or_default(),
            derived: seen.iter().filter(|o| o.derived).count(),
        },
        matching,
        missing,
    }
}

fn parsed(texts: &[String], context: &PatternContext<'_>) -> Vec<ResourcePattern> {
    let read = |t: &String| ResourcePattern::parse(t, context).ok();
    texts.iter().filter_map(read).collect()
}

/// Patterns of one folder in braces.
fn braced(texts: &[&Text]) -> Vec<String> {
    let mut folders: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut out: Vec<String> = Vec::new();
    for text in texts {
        match text {
            Text::Path {
                scheme,
                folder,
                name,
            } if name == "**" => {
                out.push(format!("{scheme}{folder}/{name}"));
            }
            Text::Path {
                scheme,
                folder,
                name,
            } => {
                folders.entry((scheme, folder)).or_default().push(name);
            }
            Text::Whole(text) => out.push(text.clone()),
        }
    }
    for ((scheme, folder), names) in folders {
        let mut group: Vec<&str> = Vec::new();
        let mut flush = |group: &mut Vec<&str>| match group.as_slice() {
            [] => {}
            [one] => out.push(format!("{scheme}{folder}/{one}")),
            many => out.push(format!("{scheme}{folder}/{{{}}}", many.join(","))),
        };
        for name in names {
            let bytes: usize = group.iter().map(|n| n.len() + 1).sum();
            if group.len() >= BRACES.0 || bytes + name.len() > BRACES.1 {
                flush(&mut group);
                group.clear();
            }
            group.push(name);
        }
        flush(&mut group);
    }
    out.sort();
    out
}

/// A text in double quotes, as YAML and JSON read it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The proposal as a policy file.
pub(crate) fn file(input: &Input<'_>, evidence: &Evidence<'_>, drafts: &[Draft]) -> String {
    let mut text = format!(
        "# Proposed from {} actions of {} sessions. Review every rule before it is used: what was done\n\
         # is not always what should be done. Append the rules to those of the policy in force.\n\
         agentwall: 1\n",
        evidence.actions,
        evidence.sessions.len()
    );
    if input.current.is_empty() {
        text.push_str("default: deny\n");
    }
    if drafts.is_empty() {
        text.push_str("rules: []\n");
        return text;
    }
    text.push_str("rules:\n");
    for draft in drafts {
        rule(&mut text, draft, evidence.priority);
    }
    text
}

fn rule(out: &mut String, draft: &Draft, priority: i64) {
    let rule = &draft.proposed;
    let mut push = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    let shown: Vec<String> = rule
        .entries
        .iter()
        .take(ENTRIES)
        .map(u64::to_string)
        .collect();
    let more = rule.entries.len().saturating_sub(ENTRIES);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    push(String::new());
    push(format!(
        "  # observations: {}; objects: {}; sessions: {}; first {}, last {}",
        rule.entries.len(),
        rule.objects,
        rule.sessions.len(),
        agentwall_action::escape_text(&rule.first_seen),
        agentwall_action::escape_text(&rule.last_seen)
    ));
    push(format!("  # ledger entries {}{more}", shown.join(", ")));
    if rule.derived > 0 {
        push(format!(
            "  # {} of them follow from others: a library that was opened is taken to be mapped",
            rule.derived
        ));
    }
    push(format!("  - id: {}", rule.id));
    push(format!("    priority: {priority}"));
    let actions: Vec<&str> = rule.actions.iter().map(|v| v.as_str()).collect();
    push(format!("    action: [{}]", actions.join(", ")));
    push("    resource:".into());
    for resource in &rule.resources {
        push(format!("      - {}", quoted(resource)));
    }
    for except in &rule.except {
        push(format!("      - {}", quoted(&format!("!{except}"))));
    }
    push(format!("    effect: {}", rule.effect));
    let sessions = rule.sessions.len();
    push(format!(
        "    reason: Learned from {sessions} session{}; see the comment above the rule.",
        if sessions == 1 { "" } else { "s" }
    ));
    if draft.matching.is_empty() && draft.missing.is_empty() {
        return;
    }
    push("    tests:".into());
    for (key, lines) in [("match", &draft.matching), ("not_match", &draft.missing)] {
        if !lines.is_empty() {
            push(format!("      {key}:"));
            lines
                .iter()
                .for_each(|line| push(format!("        - {}", quoted(line))));
        }
    }
}
