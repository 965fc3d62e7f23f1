//! Comparisons by example, and against the interpreter on random policies.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::analyse::samples::{action, policies, policy};

fn compare(a: &Policy, b: &Policy) -> Difference {
    diff(a, b, Limits::default(), &mut |_, _| {}).unwrap()
}

#[test]
fn verdicts_and_their_shortest_witnesses() {
    let a = policy(
        "deny",
        &[
            "id: secrets, priority: 1, action: file.*, resource: /h/.ssh/**, effect: deny",
            "id: home, priority: 2, action: file.*, resource: /h/**, effect: allow",
        ],
    );
    let b = policy(
        "deny",
        &["id: home, priority: 2, action: file.*, resource: /h/**, effect: allow"],
    );
    let looser = compare(&a, &b);
    assert_eq!(looser.verdict, Verdict::Looser);
    assert_eq!(looser.changes.len(), 1);
    let change = &looser.changes[0];
    assert_eq!((change.before, change.after), (Effect::Deny, Effect::Allow));
    assert_eq!(change.rule_before.as_deref(), Some("secrets"));
    assert_eq!(change.rule_after.as_deref(), Some("home"));
    assert_eq!(change.witness.to_string(), "file.read /h/.ssh/");
    assert_eq!(change.verbs.len(), 8, "{:?}", change.verbs);
    assert_eq!(compare(&b, &a).verdict, Verdict::Stricter);
    assert!(compare(&a, &a).is_equal());
    let c = policy(
        "deny",
        &[
            "id: other, priority: 5, action: file.*, resource: ['/h/**', '!/h/.ssh/**'], effect: allow, reason: x",
            "id: more, action: file.read, resource: /x, effect: ask",
        ],
    );
    let both = compare(&a, &c);
    assert_eq!(both.verdict, Verdict::Looser);
    assert_eq!(both.changes[0].witness.to_string(), "file.read /x");
    assert_eq!(compare(&b, &c).verdict, Verdict::Incomparable);
}

#[test]
fn rules_may_be_written_otherwise_and_mean_the_same() {
    let one = policy(
        "deny",
        &["id: a, action: net.connect, resource: ['tcp://*:80', 'tcp://*:81'], effect: allow"],
    );
    let two = policy(
        "deny",
        &[
            "id: x, action: net.connect, resource: 'tcp://*:80-81', effect: allow",
            "id: y, priority: 3000, action: '*', effect: deny",
            "id: z, priority: 2999, action: file.commit, effect: ask",
        ],
    );
    let same = compare(&one, &two);
    // A commit that no rule covers is asked; a rule that denies everything covers it, unless one asks.
    assert!(same.is_equal(), "{same:?}");
    let three = policy(
        "deny",
        &["id: x, action: net.connect, resource: 'tcp://*:80-82', effect: allow"],
    );
    let looser = compare(&one, &three);
    assert_eq!(looser.verdict, Verdict::Looser);
    let text = looser.changes[0].witness.to_string();
    assert!(text.ends_with(":82"), "{text}");
}

#[test]
fn defaults_marks_and_conditions_are_compared() {
    let deny = policy(
        "deny",
        &["id: a, action: file.read, resource: /a, effect: allow"],
    );
    let ask = policy(
        "ask",
        &["id: a, action: file.read, resource: /a, effect: allow"],
    );
    let looser = compare(&deny, &ask);
    assert_eq!(looser.verdict, Verdict::Looser);
    assert!(looser.changes.iter().all(|c| c.rule_after.is_none()));
    let commit = |c: &Change| c.verbs.contains(&Verb::FileCommit);
    assert!(
        !looser.changes.iter().any(commit),
        "commits are asked either way"
    );

    let marks = |resource: &str, id: &str| {
        policy(
            "deny",
            &[&format!(
                "id: {id}, action: file.read, resource: {resource}, effect: monitor"
            )],
        )
    };
    let wider = compare(&marks("/a", "m"), &marks("/a*", "m"));
    assert_eq!((wider.verdict, wider.marks.len()), (Verdict::Equal, 1));
    assert!(wider.marks[0].after && !wider.is_equal());
    assert_eq!(compare(&marks("/a", "m"), &marks("/a", "n")).marks.len(), 2);
    assert!(compare(&marks("/a", "m"), &marks("['/a']", "m")).is_equal());

    let when = |condition: &str| {
        policy(
            "deny",
            &[&format!(
                "id: c, action: file.read, resource: /a, when: '{condition}', effect: allow"
            )],
        )
    };
    let other = compare(&when("risk < 5"), &when("risk < 6"));
    assert_eq!(
        other.verdict,
        Verdict::Incomparable,
        "conditions are opaque"
    );
    assert_eq!(other.open_conditions, ["risk < 5", "risk < 6"]);
    let text = other.changes[0].witness.to_string();
    assert!(text.contains("'risk < 5' (rule c)"), "{text}");
    assert!(compare(&when("risk < 5"), &when("risk < 5")).is_equal());
    // A condition that fails is a case of its own: a deny counts, an allow does not.
    let failing = |effect: &str, key: &str, default: &str| {
        policy(
            default,
            &[&format!(
                "id: c, action: file.read, resource: /a, {key}: 'args.n > 1', effect: {effect}"
            )],
        )
    };
    let fails = compare(
        &failing("deny", "unless", "allow"),
        &failing("deny", "when", "allow"),
    );
    assert_eq!(fails.verdict, Verdict::Incomparable);
    let budget = |text: &str| {
        let text = format!("agentwall: 1\nrisk: {{ask_at: {text}}}\n");
        let source = crate::Source::new("p", text, crate::Layer::User);
        crate::load(&[source], &crate::Variables::default()).unwrap()
    };
    assert_eq!(compare(&budget("5"), &budget("6")).other, ["risk"]);
}

#[test]
fn a_small_change_of_a_large_policy_is_a_small_question() {
    let rules: Vec<String> = (0..3000)
        .map(|i| {
            format!(
                "id: r{i}, priority: {}, action: file.*, resource: /srv/x{i}/**, effect: allow",
                i % 7
            )
        })
        .collect();
    let all: Vec<&str> = rules.iter().map(String::as_str).collect();
    let limits = Limits {
        states: 2000,
        steps: 5_000_000,
        total_steps: 10_000_000,
        ..Limits::default()
    };
    let one_less = diff(
        &policy("deny", &all),
        &policy("deny", &all[1..]),
        limits,
        &mut |_, _| {},
    )
    .unwrap();
    assert_eq!(
        one_less.verdict,
        Verdict::Stricter,
        "{:?}",
        one_less.undecided
    );
    let denied = one_less
        .changes
        .iter()
        .find(|c| c.after == Effect::Deny)
        .unwrap();
    assert_eq!(denied.witness.to_string(), "file.read /srv/x0/");
}

#[test]
fn what_is_too_large_is_not_called_equal() {
    let rules: Vec<String> = (0..40)
        .map(|i| {
            format!(
                "id: r{i}, priority: {i}, action: file.read, resource: '/**/*a{}/**', effect: ask",
                "?".repeat(i)
            )
        })
        .collect();
    let all: Vec<&str> = rules.iter().map(String::as_str).collect();
    let limits = Limits {
        states: 2000,
        ..Limits::default()
    };
    let same = diff(
        &policy("ask", &all),
        &policy("ask", &all[1..]),
        limits,
        &mut |_, _| {},
    )
    .unwrap();
    assert_eq!(same.verdict, Verdict::Undecided);
    assert!(same.may_loosen() && same.may_tighten());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]
    #[test]
    fn verdicts_agree_with_the_interpreter(
        a in policies("a", 5),
        b in policies("b", 5),
        actions in vec(action(), 200),
    ) {
        let (Some(a), Some(b)) = (a, b) else { return Ok(()) };
        let difference = compare(&a, &b);
        prop_assert!(difference.undecided.is_empty(), "{:?}", difference.undecided);
        for action in &actions {
            let (was, is) = (a.decide(action), b.decide(action));
            match difference.verdict {
                Verdict::Equal => prop_assert_eq!(was.effect, is.effect, "{:?}", action),
                Verdict::Stricter => prop_assert!(is.effect >= was.effect, "{action:?}"),
                Verdict::Looser => prop_assert!(is.effect <= was.effect, "{action:?}"),
                _ => {}
            }
            if was.effect != is.effect {
                let same = |c: &Change| c.before == was.effect && c.after == is.effect;
                prop_assert!(difference.changes.iter().any(same), "{action:?}");
            }
            for (mine, theirs, after) in [(&was, &is, false), (&is, &was, true)] {
                for id in mine.monitors.iter().filter(|m| !theirs.monitors.contains(m)) {
                    let same = |m: &MarkChange| m.rule == *id && m.after == after;
                    prop_assert!(difference.marks.iter().any(same), "{action:?}");
                }
            }
        }
        prop_assert!(compare(&a, &a).is_equal());
        let back = compare(&b, &a).verdict;
        let mirrored = match difference.verdict {
            Verdict::Stricter => Verdict::Looser,
            Verdict::Looser => Verdict::Stricter,
            same => same,
        };
        prop_assert_eq!(back, mirrored);
    }
}
