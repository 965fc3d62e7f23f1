//! Each finding by example, and all of them against brute force.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::analyse::samples::{action, policies, policy};

fn found(policy: &Policy) -> Vec<(FindingKind, String, Vec<String>)> {
    let analysis = analyse(policy, Limits::default(), &mut |_, _| {}).unwrap();
    let findings = analysis.findings.into_iter();
    findings
        .filter(|f| f.kind != FindingKind::Untested)
        .map(|f| (f.kind, f.rule, f.others))
        .collect()
}

fn has(default: &str, rules: &[&str], kind: FindingKind, rule: &str, others: &[&str]) {
    let found = found(&policy(default, rules));
    let others: Vec<String> = others.iter().map(|o| (*o).to_owned()).collect();
    assert_eq!(found, [(kind, rule.to_owned(), others)], "{rules:?}");
}

#[test]
fn rules_that_never_match() {
    use FindingKind::Never;
    for resource in ["[/a/b, '!/a/**']", "['/a/*', '!/a/{?,?**}']", "'/a/[.]'"] {
        let rule = format!("id: r, action: file.read, resource: {resource}, effect: allow");
        has("deny", &[&rule], Never, "r", &[]);
    }
    has(
        "deny",
        &[
            "id: r, action: net.connect, resource: ['tcp://10.0.0.1:80', '!cidr:private'], effect: allow",
        ],
        Never,
        "r",
        &[],
    );
    has(
        "deny",
        &["id: r, subject: ['agent:a', '!agent:?'], action: file.read, effect: allow"],
        Never,
        "r",
        &[],
    );
    has(
        "deny",
        &["id: m, action: dns.resolve, resource: ['dns:*.b', '!dns:?**.b'], effect: monitor"],
        Never,
        "m",
        &[],
    );
    // Names may hide addresses, and a label may name anything.
    for rule in [
        "id: r, action: net.connect, resource: ['tcp://a.b:80', '!cidr:private'], effect: allow",
        "id: r, action: net.connect, resource: ['tcp://localhost:80', '!cidr:loopback'], effect: allow",
        "id: r, action: file.read, resource: [label:secret, '!/h/**', '!/etc/**'], effect: allow",
        "id: r, action: ipc.connect, resource: ['unix:*', '!unix:/**'], effect: allow",
    ] {
        assert_eq!(found(&policy("deny", &[rule])), [], "{rule}");
    }
}

#[test]
fn rules_that_never_decide() {
    use FindingKind::Shadowed;
    has(
        "deny",
        &[
            "id: a, priority: 1, action: file.*, resource: /a/**, effect: deny",
            "id: b, priority: 1, action: file.read, resource: /b/**, effect: ask",
            "id: r, priority: 2, action: file.read, resource: ['/a/x/**', '/b/*'], effect: allow",
            "id: z, priority: 3, action: file.*, effect: allow",
        ],
        Shadowed,
        "r",
        &["a", "b"],
    );
    // The stricter one of a priority decides, whatever order the rules have.
    has(
        "deny",
        &[
            "id: r, priority: 1, action: file.read, resource: /a/b, effect: ask",
            "id: s, priority: 1, action: file.read, resource: /a/*, effect: deny",
            "id: z, priority: 3, action: file.*, effect: allow",
        ],
        Shadowed,
        "r",
        &["s"],
    );
    // Two halves make a whole: a condition holds, does not hold, or fails.
    has(
        "deny",
        &[
            "id: a, priority: 1, action: file.read, when: session.interactive, effect: ask",
            "id: b, priority: 1, action: file.read, unless: session.interactive, effect: deny",
            "id: r, priority: 2, action: file.read, effect: allow",
        ],
        Shadowed,
        "r",
        &["b", "a"],
    );
    // An allow whose condition fails does not apply, so that something is left.
    let open = policy(
        "deny",
        &[
            "id: a, priority: 1, action: file.read, when: args.x, effect: allow",
            "id: b, priority: 1, action: file.read, unless: args.x, effect: allow",
            "id: r, priority: 2, action: file.read, effect: ask",
        ],
    );
    assert_eq!(found(&open), []);
}

#[test]
fn rules_that_change_nothing() {
    use FindingKind::Redundant;
    has(
        "deny",
        &[
            "id: r, priority: 1, action: file.read, resource: /a/b, effect: allow",
            "id: s, priority: 2, action: file.read, resource: /a/**, effect: allow",
        ],
        Redundant,
        "r",
        &["s"],
    );
    has(
        "deny",
        &["id: r, action: file.read, resource: /a, effect: deny"],
        Redundant,
        "r",
        &[],
    );
    // Something in between makes it matter.
    let matters = policy(
        "deny",
        &[
            "id: r, priority: 1, action: file.read, resource: /a/b, effect: allow",
            "id: s, priority: 2, action: file.read, resource: '**/b', effect: deny",
            "id: t, priority: 3, action: file.read, resource: /a/**, effect: allow",
        ],
    );
    assert_eq!(found(&matters), []);
}

#[test]
fn conflicts_have_a_witness() {
    let policy = policy(
        "deny",
        &[
            "id: a, action: net.connect, resource: 'tcp://*.b:443', effect: allow",
            "id: b, action: net.*, resource: cidr:private, effect: deny",
            "id: z, priority: 2000, action: net.*, effect: ask",
        ],
    );
    let analysis = analyse(&policy, Limits::default(), &mut |_, _| {}).unwrap();
    let conflict = analysis
        .findings
        .iter()
        .find(|f| f.kind == FindingKind::Conflict);
    let conflict = conflict.unwrap_or_else(|| panic!("{:?}", analysis.findings));
    assert_eq!(
        (conflict.rule.as_str(), conflict.others[0].as_str()),
        ("a", "b")
    );
    let text = conflict.to_string();
    assert!(text.contains("tcp://a.b:443 at "), "{text}");
    assert!(!analysis.has_warnings());
    let json = serde_json::to_value(conflict).unwrap();
    assert_eq!(json["witness"]["action"], "net.connect");
}

#[test]
fn constant_conditions_and_missing_tests_are_told() {
    let policy = policy(
        "deny",
        &[
            "id: a, action: file.read, resource: /a, when: 'risk <= 100', effect: allow",
            "id: b, action: file.read, resource: /b, when: '1 > 2', effect: allow",
            "id: c, action: file.read, resource: /c, unless: 'action == \"file.read\"', effect: ask",
            "id: d, action: file.read, resource: /d, when: risk > 99, effect: allow, \
             tests: {match: [file.read /d], not_match: [file.read /e]}",
            "id: e, action: file.read, resource: /e, when: 'int(\"x\") == 1', effect: ask",
        ],
    );
    let analysis = analyse(&policy, Limits::default(), &mut |_, _| {}).unwrap();
    let of = |kind| -> Vec<&str> {
        let findings = analysis.findings.iter().filter(|f| f.kind == kind);
        findings.map(|f| f.rule.as_str()).collect()
    };
    assert_eq!(of(FindingKind::Constant), ["a", "b", "c", "e"]);
    assert_eq!(of(FindingKind::Never), ["b", "c"]);
    assert_eq!(of(FindingKind::Untested), ["a", "b", "c", "e"]);
    assert_eq!(analysis.open_conditions, ["risk > 99"]);
}

#[test]
fn hostile_policies_are_not_decided_instead_of_hanging() {
    let limits = Limits {
        states: 3000,
        steps: 2_000_000,
        total_steps: 10_000_000,
        ..Limits::default()
    };
    let rules: Vec<String> = (0..60)
        .map(|i| {
            let tail = "?".repeat(i);
            format!("id: r{i}, priority: {i}, action: file.read, resource: '/**/*a{tail}/**', effect: ask")
        })
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let analysis = analyse(&policy("deny", &rules), limits, &mut |_, _| {}).unwrap();
    let undecided = analysis
        .findings
        .iter()
        .filter(|f| f.kind == FindingKind::Undecided);
    assert!(undecided.count() > 0);
    assert!(
        analysis.has_warnings(),
        "what is not decided is no clean bill"
    );
}

#[test]
fn many_conditions_of_one_priority_are_a_chain_and_not_a_power() {
    let rules: Vec<String> = (0..40)
        .map(|i| {
            format!("id: r{i}, action: file.read, resource: /a, when: risk > {i}, effect: deny")
        })
        .chain(["id: z, priority: 2000, action: file.read, resource: /a, effect: allow".into()])
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    assert_eq!(found(&policy("deny", &rules)), []);
}

#[test]
fn many_rules_that_meet_are_each_shown_to_matter_by_an_action_of_their_own() {
    let mut rules: Vec<String> = (0..60)
        .map(|i| {
            format!(
                "id: f{i:02}, priority: {}, action: file.read, resource: '**/s{i}/**', effect: {}",
                i % 3,
                ["allow", "deny"][i % 2]
            )
        })
        .collect();
    rules.push(
        "id: shadow, priority: 9, action: file.read, resource: '**/s4/x', effect: deny".into(),
    );
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let found = found(&policy("deny", &rules));
    let others = found.iter().filter(|f| f.0 != FindingKind::Conflict);
    let others: Vec<(FindingKind, &str)> = others.map(|f| (f.0, f.1.as_str())).collect();
    assert_eq!(others, [(FindingKind::Shadowed, "shadow")]);
    assert!(found.iter().any(|f| f.0 == FindingKind::Conflict));
}

/// The policy without a rule.
fn without(policy: &Policy, id: &str) -> Policy {
    let mut policy = policy.clone();
    for layer in &mut policy.layers {
        layer.rules.retain(|r| r.id != id);
    }
    policy
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]
    #[test]
    fn findings_agree_with_the_interpreter(
        policy in policies("r", 6),
        actions in vec(action(), 150),
    ) {
        let Some(policy) = policy else { return Ok(()) };
        let analysis = analyse(&policy, Limits::default(), &mut |_, _| {}).unwrap();
        for finding in &analysis.findings {
            prop_assert!(finding.kind != FindingKind::Undecided, "{finding}");
            let rest = without(&policy, &finding.rule);
            let rule = policy.rule(&finding.rule).unwrap();
            for action in &actions {
                let decision = policy.decide(action);
                let named = decision.rule.as_ref() == Some(&finding.rule);
                match finding.kind {
                    FindingKind::Never => {
                        prop_assert!(matches!(rule.matches(action), crate::rule::Match::No(_)), "{finding}: {action:?}");
                    }
                    FindingKind::Shadowed => prop_assert!(!named, "{finding}: {action:?}"),
                    _ => {}
                }
                if matches!(finding.kind, FindingKind::Never | FindingKind::Shadowed | FindingKind::Redundant) {
                    prop_assert_eq!(decision.effect, rest.decide(action).effect, "{}: {:?}", finding, action);
                }
            }
        }
        // What is not found matters, and an action shows it; whichever way it was found.
        let mut meter = Meter::new(Limits::default());
        let model = Model::new(&[&policy], &[], &mut meter).unwrap();
        let mut run = Run {
            policy: &policy,
            model: &model,
            meter,
            cache: AddressCache::default(),
            silent: HashSet::new(),
            conflicts: 0,
            many: MANY,
        };
        for (entry, many) in (0..model.entries.len() as u32).flat_map(|e| [(e, MANY), (e, 0)]) {
            run.many = many;
            let shown = run.examine(entry).unwrap();
            let rule = model.entries[entry as usize].rule;
            let told = |f: &&Finding| f.rule == rule.id && f.kind <= FindingKind::Redundant;
            let told = analysis.findings.iter().find(told);
            if let Some(witness) = shown.matters {
                let (with, rest) = (witness.decision(&policy), witness.decision(&without(&policy, &rule.id)));
                prop_assert!(with.effect != rest.effect || with.monitors != rest.monitors, "{witness} for {}", rule.id);
                prop_assert_eq!(told, None);
            } else {
                prop_assert_eq!(told.map(|f| f.kind), Some(run.verdict(entry, &shown).kind), "{}", rule.id);
            }
        }
    }
}
