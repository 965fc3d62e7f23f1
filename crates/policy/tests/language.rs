//! The language page's example, and the meaning of rules, through the public API.

#![allow(clippy::unwrap_used)]

mod support;

use agentwall_action::{Effect, Subject, Verb};
use agentwall_policy::{Layer, LedgerFailure, Policy, Source, load};
use support::{action, expect_by as expect, policy, variables};

const EXAMPLE: &str = include_str!("language-example.yaml");

#[test]
fn the_example_of_the_language_page_loads_and_means_what_it_says() {
    let p = policy(EXAMPLE);
    assert!(p.run_tests().passed(), "{}", p.run_tests());
    assert_eq!(p.run_tests().run, 3);
    expect(
        &p,
        "file.write /tmp/a/b.tmp",
        Effect::Allow,
        Some("scratch-files"),
    );
    expect(
        &p,
        "file.write /tmp/b.tmp",
        Effect::Allow,
        Some("scratch-files"),
    );
    expect(&p, "file.write /tmp/b.txt", Effect::Deny, None);
    expect(
        &p,
        "net.connect tcp://10.0.0.1:80",
        Effect::Deny,
        Some("internal-network"),
    );
    expect(
        &p,
        "file.write /home/u/work/x",
        Effect::Isolate,
        Some("workspace"),
    );
    expect(
        &p,
        "file.commit /home/u/work/src/x",
        Effect::Allow,
        Some("commit-sources"),
    );
    expect(
        &p,
        "file.commit /home/u/work/.git/hooks/pre-commit",
        Effect::Ask,
        Some("commit-hooks"),
    );
    expect(
        &p,
        "file.commit /home/u/work/src/package.json",
        Effect::Ask,
        Some("commit-hooks"),
    );
    expect(&p, "file.commit /home/u/work/README", Effect::Ask, None);
    expect(&p, "file.exec /home/u/work/x", Effect::Deny, None);
    let mut oauth = action("net.connect tcp://10.0.0.1:80");
    oauth.facts.auth.method = "oauth".into();
    assert_eq!(p.decide(&oauth).rule, None);
    assert_eq!(p.budgets().len(), 2);
    assert_eq!(p.properties().len(), 2);
    assert_eq!(p.risk().ask_at, Some(60));
    let hint = p.decide(&action("net.connect tcp://10.0.0.1:80")).hint;
    assert_eq!(hint.next.as_deref(), Some("authenticate"));
}

fn rules(rules: &str) -> Policy {
    policy(&format!("agentwall: 1\nrules:\n{rules}"))
}

#[test]
fn the_first_priority_decides_and_inside_it_the_strictest_effect() {
    let p = rules(
        r#"  - { id: a, priority: 5, action: file.read, resource: /a/**, effect: allow }
  - { id: b, priority: 5, action: file.read, resource: /a/b/**, effect: isolate }
  - { id: c, priority: 5, action: file.read, resource: /a/b/c/**, effect: ask }
  - { id: d, priority: 5, action: file.read, resource: /a/b/c/d/**, effect: deny }
  - { id: late, priority: 6, action: file.read, resource: /**, effect: deny }
  - { id: early, priority: -1, action: file.read, resource: /a/b/c/d/e, effect: allow }
  - { id: watch, action: file.read, resource: /a/**, effect: monitor }
"#,
    );
    expect(&p, "file.read /a/x", Effect::Allow, Some("a"));
    expect(&p, "file.read /a/b/x", Effect::Isolate, Some("b"));
    expect(&p, "file.read /a/b/c/x", Effect::Ask, Some("c"));
    expect(&p, "file.read /a/b/c/d/x", Effect::Deny, Some("d"));
    expect(&p, "file.read /a/b/c/d/e", Effect::Allow, Some("early"));
    expect(&p, "file.read /x", Effect::Deny, Some("late"));
    let decision = p.decide(&action("file.read /a/x"));
    assert_eq!(decision.monitors, ["watch"]);
    assert_eq!(decision.policy, p.digest());
    assert!(p.decide(&action("file.read /x")).monitors.is_empty());
    let why = p.explain(&action("file.read /a/b/x"));
    let outcome = |id: &str| {
        let rule = why.rules.iter().find(|r| r.id == id).unwrap();
        format!("{:?}", rule.outcome)
    };
    assert_eq!(outcome("a"), "Overruled");
    assert_eq!(outcome("b"), "Decided");
    assert_eq!(outcome("c"), "NoMatch(Resource)");
    assert_eq!(outcome("late"), "TooLate");
    assert_eq!(outcome("watch"), "Marked");
}

#[test]
fn a_condition_that_fails_counts_in_the_safe_direction() {
    let p = rules(
        r#"  - { id: allow, priority: 1, action: file.read, resource: /allow, effect: allow, when: 'args[0] == "x"' }
  - { id: deny, priority: 1, action: file.read, resource: /deny, effect: deny, when: 'args[0] == "x"' }
  - { id: ask, priority: 1, action: file.read, resource: [/ask, /both], effect: ask, unless: 'args[0] == "x"' }
  - { id: both, priority: 2, action: file.read, resource: /both, effect: deny }
  - { id: out, priority: 1, action: file.read, resource: /out, effect: deny, when: 'args[0] == "x"', unless: "true" }
  - { id: rest, priority: 3, action: file.read, resource: [/deny, /ask, /out], effect: allow }
"#,
    );
    expect(&p, "file.read /allow", Effect::Deny, None);
    expect(&p, "file.read /deny", Effect::Deny, Some("deny"));
    expect(&p, "file.read /ask", Effect::Ask, Some("ask"));
    expect(&p, "file.read /both", Effect::Deny, Some("both"));
    expect(&p, "file.read /out", Effect::Allow, Some("rest"));
    let decision = p.decide(&action("file.read /deny"));
    assert_eq!(decision.errors.len(), 1);
    assert!(
        decision.errors[0].starts_with("deny: when: "),
        "{:?}",
        decision.errors
    );
    let mut with_args = action("file.read /allow");
    with_args.facts.args = serde_json::json!(["x"]);
    assert_eq!(p.decide(&with_args).effect, Effect::Allow);
    assert!(p.uses_args(Verb::FileRead) && !p.uses_args(Verb::FileWrite));
}

#[test]
fn subjects_lists_and_negation() {
    let p = rules(
        r#"  - { id: a, subject: ["agent:*", "!agent:bad"], action: ["file.*", "!file.{write,commit}"], resource: ["/a/**", "!/a/no/**"], effect: allow }
  - { id: b, action: process.exec, resource: ["!/tmp/**"], effect: allow }
  - { id: any, action: tool.call, effect: allow }
"#,
    );
    expect(&p, "file.read /a/x", Effect::Allow, Some("a"));
    expect(&p, "file.write /a/x", Effect::Deny, None);
    expect(&p, "file.read /a/no/x", Effect::Deny, None);
    expect(&p, "process.exec /usr/bin/x", Effect::Allow, Some("b"));
    expect(&p, "process.exec /tmp/x", Effect::Deny, None);
    expect(&p, "tool.call anything", Effect::Allow, Some("any"));
    let mut bad = action("file.read /a/x");
    for name in ["agent:bad", "user:x", "agent:a:b"] {
        bad.subject = Subject(name.into());
        assert_eq!(p.decide(&bad).effect, Effect::Deny, "{name}");
    }
}

#[test]
fn isolate_is_about_file_changes_alone() {
    let p = rules("  - { id: i, action: \"*\", resource: /w/**, effect: isolate }\n");
    expect(&p, "file.write /w/x", Effect::Isolate, Some("i"));
    expect(&p, "file.exec /w/x", Effect::Deny, None);
    expect(&p, "process.exec /w/x", Effect::Deny, None);
    expect(&p, "file.commit /w/x", Effect::Ask, None);
}

#[test]
fn the_default_says_which_rule_would_be_needed() {
    let p = policy("agentwall: 1");
    let reason = p.decide(&action("file.read /a*b")).reason;
    assert!(
        reason.contains("no rule allows file.read of /a*b"),
        "{reason}"
    );
    assert!(reason.contains("resource: /a\\*b"), "{reason}");
    assert!(
        p.decide(&action("file.commit /x"))
            .reason
            .contains("no commit rule covers")
    );
    for (text, effect) in [
        ("allow", Effect::Allow),
        ("ask", Effect::Ask),
        ("deny", Effect::Deny),
    ] {
        let p = policy(&format!("agentwall: 1\ndefault: {text}"));
        expect(&p, "net.connect tcp://a:1", effect, None);
        expect(&p, "file.commit /x", Effect::Ask, None);
        assert_eq!(p.default_effect(), effect);
    }
}

#[test]
fn the_digest_is_about_meaning() {
    let a = rules(
        "  - { id: a, action: file.read, resource: /a, effect: allow }\n  - { id: b, action: file.read, resource: [/b, /c], effect: deny } # why\n",
    );
    let b = rules(
        "  - { id: b, resource: [/c, /b], effect: deny, action: file.read, tests: { match: file.read /b } }\n  - { id: a, action: file.read, resource: /a, effect: allow }\n",
    );
    let c = rules(
        "  - { id: a, action: file.read, resource: /a, effect: deny }\n  - { id: b, action: file.read, resource: [/b, /c], effect: deny }\n",
    );
    assert_eq!(a.digest(), b.digest());
    assert_ne!(a.digest(), c.digest());
    assert_eq!(a.digest().len(), 64);
}

#[test]
fn what_becomes_of_an_unwritable_ledger_is_part_of_the_policy() {
    let load = |parts: &[(Layer, &str)]| {
        let sources = parts
            .iter()
            .map(|(layer, text)| Source::new("p.yaml", format!("agentwall: 1\n{text}"), *layer));
        load(&sources.collect::<Vec<_>>(), &variables()).unwrap()
    };
    let open = "ledger: { on_failure: open }";
    let closed = "ledger: { on_failure: closed }";
    let silent = load(&[(Layer::User, "")]);
    assert_eq!(silent.on_ledger_failure(), LedgerFailure::Closed);
    let stated = load(&[(Layer::User, closed)]);
    assert_eq!(stated.digest(), silent.digest());
    let opened = load(&[(Layer::User, open)]);
    assert_eq!(opened.on_ledger_failure(), LedgerFailure::Open);
    assert_ne!(opened.digest(), silent.digest());
    for strict in [Layer::User, Layer::Repository] {
        let both = load(&[(Layer::Organisation, open), (strict, closed)]);
        assert_eq!(both.on_ledger_failure(), LedgerFailure::Closed);
    }
    let both = load(&[(Layer::Organisation, open), (Layer::Repository, "")]);
    assert_eq!(both.on_ledger_failure(), LedgerFailure::Open);
}

#[test]
fn whose_models_are_read_is_not_for_a_repository_to_say() {
    let text = "agentwall: 1\ninspect: [B.example, a.example]\n";
    let source = |layer| Source::new("p.yaml", text, layer);
    for layer in [Layer::Organisation, Layer::User] {
        let policy = load(&[source(layer)], &variables()).unwrap();
        assert_eq!(policy.inspect(), ["a.example", "b.example"]);
        let silent = Source::new("p.yaml", "agentwall: 1\n", layer);
        let silent = load(&[silent], &variables()).unwrap();
        assert_ne!(policy.digest(), silent.digest());
    }
    let error = load(&[source(Layer::Repository)], &variables()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("'inspect' in the repository layer")
    );
}

#[test]
fn in_file_tests_fail_with_their_place() {
    let p = rules(
        "  - id: a\n    action: file.read\n    resource: /a/**\n    effect: allow\n    tests:\n      match:\n        - file.read /b\n        - file.read /a/\n      not_match: file.read /a/b\n",
    );
    let report = p.run_tests();
    assert_eq!((report.run, report.failures.len()), (3, 2));
    assert_eq!(report.failures[0].location.line, 9);
    assert_eq!(report.failures[1].test, "file.read /a/b");
    assert!(
        report
            .to_string()
            .contains("p.yaml:9: rule a should match 'file.read /b' and does not")
    );
}

#[test]
fn a_lower_layer_only_tightens() {
    let layers = |org: &str, repo: &str| {
        let sources = [
            Source::new(
                "org.yaml",
                format!("agentwall: 1\n{org}"),
                Layer::Organisation,
            ),
            Source::new(
                "repo.yaml",
                format!("agentwall: 1\n{repo}"),
                Layer::Repository,
            ),
        ];
        load(&sources, &variables())
    };
    let org = "default: allow\nrules:\n  - { id: no, priority: 5, action: file.*, resource: /a/**, effect: deny }\n  - { id: net, action: net.connect, resource: cidr:private, effect: deny, unless: auth.method == 'oauth' }\n";
    let p = layers(org, "rules:\n  - { id: r, action: file.read, resource: [/b/**], effect: deny }\n  - { id: w, action: file.read, resource: /**, effect: allow }\n").unwrap();
    expect(&p, "file.read /a/x", Effect::Deny, Some("no"));
    expect(&p, "file.read /b/x", Effect::Deny, Some("r"));
    expect(&p, "file.read /c/x", Effect::Allow, None);
    expect(&p, "file.commit /c/x", Effect::Ask, None);

    for repo in [
        "rules:\n  - { id: bad, priority: -100, action: file.read, resource: /a/b/**, effect: allow }\n",
        "rules:\n  - { id: bad, action: file.read, resource: [/a/b, /a/c/*.x], effect: ask }\n",
        "rules:\n  - { id: bad, action: net.connect, resource: cidr:10.0.0.0/8, effect: allow }\n",
        "rules:\n  - { id: bad, action: net.connect, resource: tcp://127.0.0.1:80, effect: allow }\n",
    ] {
        let error = layers(org, repo).unwrap_err().to_string();
        assert!(
            error.contains("rule 'bad'") && error.contains("would loosen rule"),
            "{error}"
        );
        assert!(
            error.contains("repo.yaml:3:") && error.contains("org.yaml:"),
            "{error}"
        );
    }
    let error = layers("default: ask", "default: allow")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("'default: allow' of the repository layer would loosen"),
        "{error}"
    );
    for (org, repo) in [
        ("", "ledger: { on_failure: open }"),
        (
            "ledger: { on_failure: closed }",
            "ledger: { on_failure: open }",
        ),
    ] {
        let error = layers(org, repo).unwrap_err().to_string();
        assert!(
            error.contains("'on_failure: open' of the repository layer would loosen"),
            "{error}"
        );
    }
    // A stricter rule, a condition of its own, and a rule the upper layer makes an exception for.
    for repo in [
        "rules:\n  - { id: r, action: file.read, resource: /a/b/**, effect: deny }\n",
        "rules:\n  - { id: r, action: net.connect, resource: cidr:10.0.0.0/8, effect: allow, when: auth.method == 'oauth' }\n",
    ] {
        layers(org, repo).unwrap();
    }
    let open = format!(
        "{org}  - {{ id: but, priority: 1, action: file.read, resource: /a/b/**, effect: allow }}\n"
    );
    layers(
        &open,
        "rules:\n  - { id: r, action: file.read, resource: /a/b/c, effect: allow }\n",
    )
    .unwrap();
    let twice = layers(
        org,
        "rules:\n  - { id: no, action: file.read, resource: /z, effect: deny }\n",
    );
    assert!(
        twice
            .unwrap_err()
            .to_string()
            .contains("the id 'no' is already used at org.yaml:4")
    );
}

#[test]
fn budgets_and_properties_are_typed() {
    let p = policy(EXAMPLE);
    let mut transfer = action("api.call capability:transfer:eu");
    assert!(p.budgets()[0].applies(&transfer));
    assert!(p.budgets()[0].cost(&transfer).is_err());
    transfer.facts.args = serde_json::json!({"amount": 12.5});
    assert_eq!(p.budgets()[0].cost(&transfer), Ok(12.5));
    assert_eq!(p.budgets()[1].cost(&transfer), Ok(1.0));
    assert_eq!(
        (p.budgets()[0].minute, p.budgets()[1].hour),
        (Some(100), Some(20000))
    );
    let agentwall_policy::PropertyForm::Never(events) = &p.properties()[0].form else {
        panic!("{:?}", p.properties()[0]);
    };
    assert!(events[0].matches(&action("file.read /home/u/.ssh/id")));
    assert!(!events[0].matches(&action("file.read /home/u/x")));
    assert!(events[1].matches(&action("net.connect tcp://a.org:443")));
    let mut trusted = action("net.connect tcp://a.org:443");
    trusted.facts.labels.insert("trusted".into());
    assert!(!events[1].matches(&trusted));
    let agentwall_policy::PropertyForm::Before { first, then } = &p.properties()[1].form else {
        panic!("{:?}", p.properties()[1]);
    };
    assert!(then.matches(&transfer) && !first.matches(&transfer));
    assert!(first.is_approval(&transfer.resource, &transfer.facts));
}
