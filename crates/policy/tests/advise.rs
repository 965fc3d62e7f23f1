//! Advice: everything that is suggested is decided as it says, and nothing dangerous is suggested.

#![allow(clippy::unwrap_used)]

use agentwall_action::{Action, Effect, Resource, Subject, Verb};
use agentwall_policy::{
    Advice, ChangeKind, Guard, Layer, Never, Policy, RuleOutcome, Source, Variables, load,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn variables() -> Variables {
    Variables {
        workspace: Some("/home/u/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/u/.local/state/agentwall".into()),
    }
}

fn guard() -> Guard {
    Guard::new(&variables(), &["/home/u/.config/agentwall".into()])
}

fn layered(sources: &[(Layer, &str)]) -> Policy {
    let sources: Vec<Source> = sources
        .iter()
        .map(|(layer, text)| Source::new(format!("{}.yaml", layer.as_str()), *text, *layer))
        .collect();
    match load(&sources, &variables()) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

fn policy(rules: &str) -> Policy {
    layered(&[(Layer::User, &format!("agentwall: 1\nrules:\n{rules}"))])
}

fn action(line: &str) -> Action {
    let (verb, resource) = line.split_once(' ').unwrap();
    let verb: Verb = verb.parse().unwrap();
    let resource = Resource::parse(verb.family(), resource).unwrap();
    Action::new(Subject::agent("a"), verb, resource)
}

fn advise(policy: &Policy, line: &str) -> Advice {
    policy.advise(&action(line), &guard(), false)
}

fn nearest(policy: &Policy, line: &str) -> Vec<(String, Effect)> {
    let found = policy.nearest_allowed(&action(line), &guard());
    found.into_iter().map(|n| (n.resource, n.effect)).collect()
}

const EXAMPLE: &str = r#"
  - { id: scratch, priority: 100, action: file.write, resource: "/tmp/**/*.tmp", effect: allow }
  - { id: work, priority: 200, action: "file.*", resource: "${workspace}/**", effect: isolate }
  - { id: vendored, priority: 50, action: file.write, resource: "${workspace}/vendor/**", effect: deny, reason: Not ours. }
  - id: internal
    priority: 20
    action: net.connect
    resource: cidr:private
    effect: deny
    reason: Internal addresses.
    unless: auth.method == "oauth"
  - { id: registry, action: net.connect, resource: ["tcp://registry.npmjs.org:443", "tcp://*.example.org:8000-8999"], effect: allow }
  - { id: push, priority: 30, action: process.exec, resource: /usr/bin/git, when: 'size(args) > 1 && args[1] == "push"', effect: ask, reason: A person decides. }
  - { id: git, action: process.exec, resource: /usr/bin/git, effect: allow }
  - { id: office, priority: 400, action: net.connect, resource: "**", effect: allow, when: auth.method == "oauth" && risk < 10 }
"#;

#[test]
fn the_nearest_allowed_object_is_found() {
    let p = policy(EXAMPLE);
    assert_eq!(
        nearest(&p, "file.write /tmp/foo.txt")[0],
        ("/tmp/foo.tmp".into(), Effect::Allow)
    );
    assert_eq!(
        nearest(&p, "file.write /home/u/work/vendor/a/x.c")[0],
        ("/home/u/work/a/x.c".into(), Effect::Isolate)
    );
    assert_eq!(
        nearest(&p, "file.read /home/u/wrok/x")[0],
        ("/home/u/work/x".into(), Effect::Isolate)
    );
    // Without arguments the condition about them fails, and the stricter answer holds.
    assert_eq!(
        nearest(&p, "process.exec /usr/bin/gti")[0],
        ("/usr/bin/git".into(), Effect::Ask)
    );
    let mut typo = action("process.exec /usr/bin/gti");
    typo.facts.args = json!(["gti"]);
    assert_eq!(p.nearest_allowed(&typo, &guard())[0].effect, Effect::Allow);
    assert_eq!(
        nearest(&p, "net.connect tcp://registry.npmjs.org:80")[0].0,
        "tcp://registry.npmjs.org:443"
    );
    assert_eq!(
        nearest(&p, "net.connect tcp://registry.npmjs.com:443")[0].0,
        "tcp://registry.npmjs.org:443"
    );
    assert_eq!(
        nearest(&p, "net.connect tcp://a.example.org:9001")[0].0,
        "tcp://a.example.org:8999"
    );
    assert_eq!(
        nearest(&p, "dns.resolve registry.npmjs.net")[0].0,
        "dns:registry.npmjs.org"
    );
    // What goes through needs nothing; what nothing like it goes through has nothing.
    assert!(nearest(&p, "file.write /tmp/a.tmp").is_empty());
    assert!(nearest(&p, "dns.resolve registry.npmjs.org").is_empty());
    assert!(nearest(&p, "tool.call transfer").is_empty());
}

#[test]
fn a_question_is_labelled_and_stands_last() {
    let p = policy(
        r#"
  - { id: near, action: file.read, resource: /a/b1, effect: ask }
  - { id: far, action: file.read, resource: /a/b333, effect: allow }
"#,
    );
    assert_eq!(
        nearest(&p, "file.read /a/b2"),
        [
            ("/a/b333".into(), Effect::Allow),
            ("/a/b1".into(), Effect::Ask)
        ]
    );
}

#[test]
fn conditions_are_found_by_deciding_again() {
    let p = policy(EXAMPLE);
    let met = |action: &Action| {
        let advice = p.advise(action, &guard(), false);
        let found = advice.conditions.into_iter();
        found.map(|m| (m.condition, m.effect)).collect::<Vec<_>>()
    };
    let oauth = r#"auth.method == "oauth""#.to_owned();
    assert_eq!(
        met(&action("net.connect tcp://10.0.0.1:80")),
        [(oauth.clone(), Effect::Allow)]
    );
    let mut risky = action("net.connect tcp://10.0.0.1:80");
    risky.facts.risk = 50;
    assert_eq!(
        met(&risky),
        [(format!("{oauth} && risk < 10"), Effect::Allow)]
    );
    let mut push = action("process.exec /usr/bin/git");
    push.facts.args = json!(["git", "push"]);
    assert_eq!(
        met(&push),
        [(r#"args[1] != "push""#.to_owned(), Effect::Allow)]
    );
    // Who acts and which session it is are the action itself.
    let p = policy(
        r#"
  - { id: a, action: file.read, resource: /a, effect: allow, when: subject == "agent:b" || session.id == "x" }
  - { id: b, action: file.read, resource: /b, effect: allow, when: '"reviewed" in labels' }
"#,
    );
    assert!(advise(&p, "file.read /a").conditions.is_empty());
    let label = &advise(&p, "file.read /b").conditions[0];
    assert_eq!(label.condition, r#""reviewed" in labels"#);
    assert_eq!(label.facts[0].value, json!(["reviewed"]));
}

#[test]
fn a_rule_to_add_wins_and_says_what_it_overrules() {
    let p = policy(EXAMPLE);
    let advice = advise(&p, "file.write /home/u/work/vendor/it's.c");
    let rule = &advice.rules[0];
    assert_eq!(rule.priority, 49);
    assert_eq!(
        rule.yaml,
        "- id: allow-file-write\n  priority: 49\n  action: file.write\n  \
         resource: '/home/u/work/vendor/it''s.c'\n  effect: allow\n"
    );
    assert_eq!(rule.overrides[0].id, "vendored");
    assert_eq!(rule.overrides[0].reason.as_deref(), Some("Not ours."));
    let exclude = &advice.changes[0];
    assert_eq!(
        (exclude.rule.as_str(), exclude.kind, exclude.member.as_str()),
        (
            "vendored",
            ChangeKind::Exclude,
            "!/home/u/work/vendor/it's.c"
        )
    );
    // Where only the default says no, nothing is overruled, and a rule can be extended.
    let advice = advise(&p, "net.connect tcp://registry.npmjs.com:443");
    assert!(advice.rules[0].overrides.is_empty());
    assert_eq!(advice.rules[0].priority, 1000);
    assert!(
        advice
            .changes
            .iter()
            .any(|c| c.rule == "registry" && c.kind == ChangeKind::Extend)
    );
    // Arguments are part of what was asked.
    let mut push = action("process.exec /usr/bin/git");
    push.facts.args = json!(["git", "push"]);
    let advice = p.advise(&push, &guard(), true);
    assert!(
        advice.rules[0]
            .yaml
            .contains("when: 'args == [\"git\",\"push\"]'")
    );
    assert!(advice.rules[0].yaml.contains("subject: 'agent:a'"));
    assert!(!advice.rules[0].ignores_args);
}

#[test]
fn every_layer_that_says_no_gets_its_rule() {
    let p = layered(&[
        (
            Layer::Organisation,
            "agentwall: 1\ndefault: allow\nrules:\n  - { id: org, priority: 10, action: file.read, resource: '/x/**', effect: deny, reason: Ours. }\n",
        ),
        (
            Layer::User,
            "agentwall: 1\ndefault: deny\nrules:\n  - { id: mine, action: file.read, resource: /y, effect: allow }\n",
        ),
    ]);
    let advice = advise(&p, "file.read /x/a");
    let layers: Vec<(Layer, i64)> = advice.rules.iter().map(|r| (r.layer, r.priority)).collect();
    assert_eq!(layers, [(Layer::Organisation, 9), (Layer::User, 1000)]);
    assert_ne!(
        advice.rules[0].yaml.lines().next(),
        advice.rules[1].yaml.lines().next()
    );
    // Nothing stands before the least number there is.
    let p = policy(
        "  - { id: first, priority: -1000000, action: file.read, resource: /x, effect: deny }",
    );
    assert!(advise(&p, "file.read /x").rules.is_empty());
}

#[test]
fn keys_metadata_and_state_are_never_proposed() {
    let p = policy(
        r#"
  - { id: keys, priority: 10, action: file.read, resource: label:secret, effect: deny, unless: auth.method == "oauth" }
  - { id: netrc, priority: 5, action: file.read, resource: "~/{.netrc,notes}", effect: allow }
  - { id: meta, priority: 10, action: net.connect, resource: cidr:metadata, effect: deny, unless: auth.method == "oauth" }
  - { id: all, action: net.connect, resource: ["tcp://169.254.169.254:81", "tcp://*:443"], effect: allow }
"#,
    );
    for (line, never) in [
        ("file.read /home/u/.ssh/id_ed25519", Never::Secret),
        ("file.read /home/u/.aws", Never::Secret),
        ("net.connect tcp://169.254.169.254:80", Never::Metadata),
        (
            "net.connect tcp://metadata.google.internal:80",
            Never::Metadata,
        ),
        (
            "file.read /home/u/.local/state/agentwall/ledger/key",
            Never::State,
        ),
        (
            "file.write /home/u/.config/agentwall/policy.yaml",
            Never::State,
        ),
    ] {
        let advice = advise(&p, line);
        assert_eq!(advice.never, Some(never), "{line}");
        assert!(advice.conditions.is_empty(), "{line}");
        assert!(
            advice.rules.is_empty() && advice.changes.is_empty(),
            "{line}"
        );
        for near in &advice.nearest {
            assert_eq!(guard().never(&near.object), None, "{line}: {near:?}");
        }
    }
    // The neighbour: what is no key is proposed.
    assert_eq!(
        nearest(&p, "file.read /home/u/.netrd")[0].0,
        "/home/u/notes"
    );
    assert!(!advise(&p, "file.read /home/u/x").rules.is_empty());
}

#[test]
fn explanations_tell_which_part_does_not_fit() {
    let p = policy(EXAMPLE);
    let rule = |line: &str, id: &str| {
        let rules = p.explain(&action(line)).rules;
        rules.into_iter().find(|r| r.id == id).unwrap()
    };
    let near = rule("file.write /tmp/a.txt", "scratch").nearest.unwrap();
    assert_eq!(
        (near.part, near.matched.as_str(), near.rest.as_str()),
        ("path", "/tmp/a.txt", "")
    );
    let near = rule("file.write /home/u/play/x", "work").nearest.unwrap();
    assert_eq!(
        (near.matched.as_str(), near.rest.as_str()),
        ("/home/u/", "play/x")
    );
    let near = rule("net.connect tcp://a.example.org:80", "registry")
        .nearest
        .unwrap();
    assert_eq!(near.pattern, "tcp://*.example.org:8000-8999");
    assert_eq!((near.part, near.rest.as_str()), ("port", "80"));
    let internal = rule("net.connect tcp://10.0.0.1:80", "internal");
    assert_eq!(internal.outcome, RuleOutcome::Decided);
    let report = &internal.conditions[0];
    assert_eq!((report.key, report.value), ("unless", Some(false)));
    assert_eq!(report.facts[0].fact, "auth.method");
    assert_eq!(report.facts[0].value, Some(json!("")));
    let push = rule("process.exec /usr/bin/git", "push");
    assert!(matches!(push.outcome, RuleOutcome::Failed(_)));
    let facts = &push.conditions[0].facts;
    assert!(facts.iter().all(|f| f.value.is_none()), "{facts:?}");
    assert!(push.conditions[0].error.is_some());
    let p = policy(
        "  - { id: r, subject: 'agent:claude*', action: file.read, resource: ['/a/**', '!/a/b'], effect: allow }",
    );
    let r = p.explain(&action("file.read /a/x")).rules.remove(0);
    assert_eq!(r.nearest.unwrap().part, "subject");
    let mut named = action("file.read /a/b");
    named.subject = Subject::agent("claude-code");
    let r = p.explain(&named).rules.remove(0);
    assert_eq!(r.nearest.unwrap().pattern, "!/a/b");
}

#[test]
fn many_rules_and_long_names_end() {
    let mut rules = String::new();
    for n in 0..3000 {
        rules.push_str(&format!(
            "  - {{ id: r{n}, action: file.read, resource: '/d{n}/**/{{a,b}}*/x{n}?.txt', effect: allow }}\n"
        ));
    }
    let p = policy(&rules);
    let long = format!("file.read /{}", "a/".repeat(2000));
    let _ = nearest(&p, &long);
    assert_eq!(
        nearest(&p, "file.read /d77/k/ab/x77z.tyt")[0].0,
        "/d77/k/ab/x77z.txt"
    );
}

// ---- everything that is suggested is decided as it says ---------------------------------------

const VERBS: &[&str] = &[
    "file.read",
    "file.create",
    "process.exec",
    "net.connect",
    "tool.call",
];
const PATHS: &[&str] = &[
    "/a/**",
    "/a/*",
    "/a/b",
    "**/b",
    "/a/**/c",
    "/{a,b}/c*",
    "/a/b/?",
    "**/*.k",
    "**",
    "/home/u/**",
    "/home/u/.ssh/**",
    "label:secret",
];
const HOSTS: &[&str] = &[
    "tcp://a.b:1-9",
    "tcp://*.b:5",
    "tcp://*:7",
    "udp://a.b",
    "cidr:private",
    "cidr:10.0.0.0/8",
    "**",
    "tcp://10.0.0.0/8:1",
    "tcp://169.254.169.254:80",
];
const NAMES: &[&str] = &["a:b", "a:*", "**", "a:b:**", "pay*", "x/{y,z}"];
const OBJECTS: &[&str] = &[
    "/a/b",
    "/a/b/c",
    "/a/c.k",
    "/b/c",
    "/",
    "/a",
    "/ab/b/cc",
    "/home/u/.ssh/id",
    "/home/u/x y",
];
const ENDPOINTS: &[&str] = &[
    "tcp://a.b:4",
    "tcp://c.b:5",
    "udp://a.b:1",
    "tcp://10.1.2.3:1",
    "tcp://8.8.8.8:7",
    "tcp://x:80",
    "tcp://169.254.169.254:80",
    "tcp://[fd00::1]:1",
];
const CALLS: &[&str] = &["a:b", "a:b:c", "pay", "x/y", "'q\"", "*"];
const CONDITIONS: &[&str] = &[
    "",
    "",
    "",
    r#"auth.method == "oauth""#,
    "risk < 20",
    r#"args[1] == "p""#,
    "session.interactive",
    r#""l" in labels"#,
    r#"auth.method != "" && risk >= 5"#,
    "time > 100",
];

#[derive(Debug, Clone)]
struct Made {
    verb: usize,
    resources: Vec<usize>,
    negative: Option<usize>,
    effect: usize,
    priority: i64,
    when: usize,
    unless: usize,
}

fn made() -> impl Strategy<Value = Made> {
    (
        0..VERBS.len(),
        prop::collection::vec(0usize..12, 1..3),
        prop::option::of(0usize..12),
        0usize..4,
        0i64..4,
        0..CONDITIONS.len(),
        0..CONDITIONS.len(),
    )
        .prop_map(
            |(verb, resources, negative, effect, priority, when, unless)| Made {
                verb,
                resources,
                negative,
                effect,
                priority,
                when,
                unless,
            },
        )
}

fn patterns(verb: usize) -> &'static [&'static str] {
    match VERBS[verb] {
        "net.connect" => HOSTS,
        "tool.call" => NAMES,
        _ => PATHS,
    }
}

/// The rules as JSON, which is YAML: so that a proposal can be put into the text itself.
fn rules(made: &[Made]) -> Vec<Value> {
    let rule = |(n, m): (usize, &Made)| {
        let known = patterns(m.verb);
        let pick = |i: &usize| known[i % known.len()].to_owned();
        let mut resource: Vec<String> = m.resources.iter().map(pick).collect();
        // `!**` would leave nothing, which is a load error.
        let negative = m.negative.as_ref().map(pick).filter(|text| text != "**");
        resource.extend(negative.map(|text| format!("!{text}")));
        // Only what can be done to a copy can be isolated.
        let effects = match VERBS[m.verb].starts_with("file") {
            true => ["allow", "isolate", "ask", "deny"],
            false => ["allow", "allow", "ask", "deny"],
        };
        let mut rule = json!({
            "id": format!("r{n}"),
            "priority": m.priority,
            "action": VERBS[m.verb],
            "resource": resource,
            "effect": effects[m.effect],
        });
        for (key, index) in [("when", m.when), ("unless", m.unless)] {
            if !CONDITIONS[index].is_empty() {
                rule[key] = CONDITIONS[index].into();
            }
        }
        rule
    };
    made.iter().enumerate().map(rule).collect()
}

fn of(rules: &[Value]) -> Policy {
    let text = json!({ "agentwall": 1, "rules": rules }).to_string();
    layered(&[(Layer::User, &text)])
}

fn asked(verb: usize, object: usize, facts: (bool, u8, bool, bool)) -> Action {
    let objects = match VERBS[verb] {
        "net.connect" => ENDPOINTS,
        "tool.call" => CALLS,
        _ => OBJECTS,
    };
    let mut action = action(&format!(
        "{} {}",
        VERBS[verb],
        objects[object % objects.len()]
    ));
    let (oauth, risk, args, clock) = facts;
    if oauth {
        action.facts.auth.method = "oauth".into();
    }
    action.facts.risk = risk;
    if args {
        action.facts.args = json!(["p", "q'\"\\", 1]);
    }
    action.facts.time = if clock { 50 } else { 0 };
    action
}

/// Sets a fact by its name in an expression.
fn set(action: &mut Action, fact: &str, value: &Value) {
    let mut facts = serde_json::to_value(&action.facts).unwrap();
    let pointer = format!("/{}", fact.replace(['.', '['], "/").replace(']', ""));
    *facts.pointer_mut(&pointer).unwrap() = value.clone();
    action.facts = serde_json::from_value(facts).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_suggestion_is_decided_as_it_says(
        made in prop::collection::vec(made(), 1..7),
        verb in 0..VERBS.len(),
        object in 0usize..12,
        facts in (any::<bool>(), 0u8..30, any::<bool>(), any::<bool>()),
    ) {
        let rules = rules(&made);
        let policy = of(&rules);
        let action = asked(verb, object, facts);
        let decision = policy.decide(&action);
        let advice = policy.advise(&action, &guard(), true);
        if decision.effect.proceeds() {
            prop_assert!(advice.nearest.is_empty() && advice.rules.is_empty());
        }
        for near in &advice.nearest {
            let other = Action { resource: near.object.clone(), ..action.clone() };
            let found = policy.decide(&other);
            prop_assert_eq!(found.effect, near.effect, "{:?}", near);
            prop_assert!(near.effect.proceeds() || near.effect == Effect::Ask);
            prop_assert_eq!(guard().never(&near.object), None);
            prop_assert_ne!(&near.object, &action.resource);
        }
        for met in &advice.conditions {
            let mut other = action.clone();
            for change in &met.facts {
                set(&mut other, &change.fact, &change.value);
            }
            prop_assert!(met.effect.proceeds());
            prop_assert_eq!(policy.decide(&other).effect, met.effect, "{:?}", met);
        }
        for proposal in &advice.rules {
            // As a person would: the text at the end of the file.
            let listed: Vec<String> = rules.iter().map(|r| format!("- {r}\n")).collect();
            let text = format!("agentwall: 1\nrules:\n{}{}", listed.concat(), proposal.yaml);
            let with = layered(&[(Layer::User, &text)]);
            prop_assert!(with.decide(&action).effect.proceeds(), "{}", text);
            // Exactly this: a neighbour is decided as before.
            let neighbour = asked(verb, object + 1, facts);
            if neighbour.resource != action.resource {
                prop_assert_eq!(
                    with.decide(&neighbour).effect,
                    policy.decide(&neighbour).effect
                );
            }
        }
        for change in &advice.changes {
            let mut rules = rules.clone();
            let rule = rules.iter_mut().find(|r| r["id"] == change.rule.as_str()).unwrap();
            rule["resource"].as_array_mut().unwrap().push(change.member.as_str().into());
            let found = of(&rules).decide(&action);
            prop_assert!(found.effect.proceeds(), "{:?} {:?}", change, rules);
            prop_assert_eq!(found.effect, change.effect);
        }
        if advice.never.is_some() {
            prop_assert!(advice.conditions.is_empty());
            prop_assert!(advice.rules.is_empty() && advice.changes.is_empty());
        } else if !decision.effect.proceeds() {
            // Every priority here has room before it, so that a rule can always help.
            prop_assert!(!advice.rules.is_empty());
        }
    }
}
