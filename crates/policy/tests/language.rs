//! The language page's example, and the meaning of rules, through the public API.

#![allow(clippy::unwrap_used)]

use agentwall_action::{Action, Effect, Resource, Subject, Verb};
use agentwall_policy::{Layer, LoadError, Policy, Source, Variables, load};

fn variables() -> Variables {
    Variables {
        workspace: Some("/home/u/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/u/.local/state/agentwall".into()),
    }
}

fn parse(text: &str) -> Result<Policy, LoadError> {
    load(&[Source::new("p.yaml", text, Layer::User)], &variables())
}

fn policy(text: &str) -> Policy {
    match parse(text) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}

fn action(line: &str) -> Action {
    let (verb, resource) = line.split_once(' ').unwrap();
    let verb: Verb = verb.parse().unwrap();
    let resource = Resource::parse(verb.family(), resource).unwrap();
    Action::new(Subject::agent("a"), verb, resource)
}

#[track_caller]
fn expect(policy: &Policy, line: &str, effect: Effect, rule: Option<&str>) {
    let decision = policy.decide(&action(line));
    let found = (decision.effect, decision.rule.as_deref());
    assert_eq!(found, (effect, rule), "{line}: {decision:?}");
}

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
