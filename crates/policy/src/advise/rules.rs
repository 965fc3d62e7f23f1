//! Rules that are not there: what to add or to change so that exactly this action goes through.
//!
//! A proposed rule is text. It is loaded like any other, put into a copy of the policy, and the copy
//! decides: only what is proved so is proposed. It names one object by its full name, never a tree,
//! and stands just before the rules that say no.

use agentwall_action::{Action, Effect, Resource};

use super::{Change, ChangeKind, NearObject, NewRule, Overridden, conditions};
use crate::{
    layers,
    load::{Source, load},
    pattern::ResourcePattern,
    policy::{Policy, as_pattern, decide_layer},
    rule::{DEFAULT_PRIORITY, Layer, Match, Rule, RuleEffect},
    vars::Variables,
};

/// One rule for each layer that says no, proved together; empty where no rule can help.
pub(super) fn to_add(policy: &Policy, action: &Action, for_subject: bool) -> Vec<NewRule> {
    let with_args = conditions::exactly(&action.facts.args);
    // Arguments that no expression can name are left out; then the rule is about the object alone.
    let attempts = [with_args.as_deref(), None];
    let wanted = if with_args.is_some() {
        &attempts[..]
    } else {
        &attempts[1..]
    };
    wanted
        .iter()
        .find_map(|when| attempt(policy, action, for_subject, *when))
        .unwrap_or_default()
}

/// Changes of one list that let the action through, each proved by itself.
pub(super) fn to_change(policy: &Policy, action: &Action, nearest: &[NearObject]) -> Vec<Change> {
    let member = pattern_text(&action.resource);
    let Some(pattern) = parsed(&member, action) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if let Some(rule) = decider(policy, action) {
        found.extend(changed(
            policy,
            action,
            rule,
            ChangeKind::Exclude,
            &member,
            &pattern,
        ));
    }
    let mut ids: Vec<&str> = nearest.iter().filter_map(|n| n.rule.as_deref()).collect();
    ids.dedup();
    for rule in ids.into_iter().take(1).filter_map(|id| policy.rule(id)) {
        // A condition was met for the other object; for this one it may be another matter.
        if rule.resource.positive.is_empty() {
            continue;
        }
        found.extend(changed(
            policy,
            action,
            rule,
            ChangeKind::Extend,
            &member,
            &pattern,
        ));
    }
    found
}

fn decider<'p>(policy: &'p Policy, action: &Action) -> Option<&'p Rule> {
    let id = policy.decide(action).rule?;
    policy.rule(&id)
}

fn changed(
    policy: &Policy,
    action: &Action,
    rule: &Rule,
    kind: ChangeKind,
    member: &str,
    pattern: &ResourcePattern,
) -> Option<Change> {
    let mut copy = policy.clone();
    let mut rules = copy.layers.iter_mut().flat_map(|l| &mut l.rules);
    let list = &mut rules.find(|r| r.id == rule.id)?.resource;
    match kind {
        ChangeKind::Exclude => list.negative.push(pattern.clone()),
        ChangeKind::Extend => list.positive.push(pattern.clone()),
    }
    let effect = copy.decide(action).effect;
    let overrides = match kind {
        ChangeKind::Exclude => vec![overridden(rule)],
        // Every rule that says no stands behind it then.
        ChangeKind::Extend => {
            let refusing = policy.rules().filter(|r| refuses(r, action));
            refusing.map(overridden).collect()
        }
    };
    (effect.proceeds() && is_consistent(&copy)).then(|| Change {
        rule: rule.id.clone(),
        location: rule.location.clone(),
        kind,
        member: match kind {
            ChangeKind::Exclude => format!("!{member}"),
            ChangeKind::Extend => member.to_owned(),
        },
        effect,
        overrides,
    })
}

fn overridden(rule: &Rule) -> Overridden {
    Overridden {
        id: rule.id.clone(),
        effect: rule.effect.as_str(),
        reason: rule.reason.clone(),
    }
}

fn attempt(
    policy: &Policy,
    action: &Action,
    for_subject: bool,
    when: Option<&str>,
) -> Option<Vec<NewRule>> {
    let mut copy = policy.clone();
    let mut proposals = Vec::new();
    for (depth, layer) in policy.layers.iter().enumerate() {
        let (mut monitors, mut errors) = (Vec::new(), Vec::new());
        let (matched, floor) = decide_layer(layer, action, &mut monitors, &mut errors);
        let own = matched
            .map(|a| a.effect)
            .or(policy.unmatched(depth, action.verb));
        let strictest = own.into_iter().chain(floor.map(|a| a.effect)).max();
        if strictest.is_none_or(Effect::proceeds) {
            continue;
        }
        let refusing: Vec<&Rule> = layer.rules.iter().filter(|r| refuses(r, action)).collect();
        let first = refusing.iter().map(|r| r.priority).min();
        let priority = match first {
            None => DEFAULT_PRIORITY,
            Some(first) => first.checked_sub(1)?,
        };
        let id = free_id(&copy, action);
        let yaml = yaml(&id, priority, action, for_subject, when);
        let rule = loaded(&yaml, layer.layer)?;
        let target = copy.layers.get_mut(depth)?;
        target.rules.push(rule);
        target
            .rules
            .sort_by(|a, b| (a.priority, &a.id).cmp(&(b.priority, &b.id)));
        proposals.push(NewRule {
            layer: layer.layer,
            source: layer.rules.first().map(|r| r.location.source.clone()),
            yaml,
            priority,
            ignores_args: when.is_none() && !action.facts.args.is_null(),
            overrides: refusing.into_iter().map(overridden).collect(),
        });
    }
    (copy.decide(action).effect.proceeds() && is_consistent(&copy)).then_some(proposals)
}

/// Whether the rule says no to the action, or would if its condition could be evaluated.
fn refuses(rule: &Rule, action: &Action) -> bool {
    let no = matches!(rule.effect, RuleEffect::Decide(effect) if !effect.proceeds());
    no && !matches!(rule.matches(action), Match::No(_))
}

/// Whether the layers would be accepted by the loader.
fn is_consistent(policy: &Policy) -> bool {
    let mut complaints = 0;
    layers::check(&policy.layers, &mut |_, _, _, _| complaints += 1);
    complaints == 0
}

fn free_id(policy: &Policy, action: &Action) -> String {
    let base = format!("allow-{}", action.verb.as_str().replace('.', "-"));
    let taken =
        |id: &str| policy.rule(id).is_some() || policy.properties().iter().any(|p| p.id == id);
    let mut id = base.clone();
    let mut n = 1usize;
    while taken(&id) {
        n += 1;
        id = format!("{base}-{n}");
    }
    id
}

/// The one object as a pattern.
fn pattern_text(resource: &Resource) -> String {
    match resource {
        Resource::Named(name) => crate::glob::glob_escape(name.as_bytes()),
        Resource::Unix(path) => {
            use std::os::unix::ffi::OsStrExt as _;
            format!(
                "unix:{}",
                crate::glob::glob_escape(path.as_os_str().as_bytes())
            )
        }
        Resource::Path(p) => crate::glob::glob_escape(p.as_bytes()),
        other => as_pattern(other),
    }
}

fn yaml(id: &str, priority: i64, action: &Action, for_subject: bool, when: Option<&str>) -> String {
    let mut text = format!("- id: {id}\n  priority: {priority}\n");
    if for_subject {
        let subject = crate::glob::glob_escape(action.subject.as_str().as_bytes());
        text.push_str(&format!("  subject: {}\n", quoted(&subject)));
    }
    text.push_str(&format!(
        "  action: {}\n  resource: {}\n",
        action.verb,
        quoted(&pattern_text(&action.resource))
    ));
    if let Some(when) = when {
        text.push_str(&format!("  when: {}\n", quoted(when)));
    }
    text.push_str("  effect: allow\n");
    text
}

/// A YAML text in single quotes (YAML 1.2.2, section 7.3.2).
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The one rule of a text, read as the loader reads it.
fn loaded(yaml: &str, layer: Layer) -> Option<Rule> {
    let indented = yaml.replace('\n', "\n  ");
    let text = format!("agentwall: 1\nrules:\n  {}\n", indented.trim_end());
    let source = Source::new("proposal", text, layer);
    let mut policy = load(&[source], &Variables::default()).ok()?;
    policy.layers.pop()?.rules.pop()
}

fn parsed(member: &str, action: &Action) -> Option<ResourcePattern> {
    let yaml = format!(
        "- id: member\n  action: {}\n  resource: {}\n  effect: allow\n",
        action.verb,
        quoted(member)
    );
    loaded(&yaml, Layer::User)?.resource.positive.pop()
}
