//! Bad and hostile policy files: every one ends in an error at the right place, quickly.

#![allow(clippy::unwrap_used)]

mod support;

use agentwall_policy::{Diagnostic, MAX_DIAGNOSTICS, Variables, load};
use proptest::prelude::*;
use support::{hostile::hostile, source};

fn variables() -> Variables {
    Variables {
        workspace: Some("/w".into()),
        home: Some("/h".into()),
        tmp: Some("/tmp".into()),
        state: None,
    }
}

fn errors(text: impl Into<Vec<u8>>) -> Vec<Diagnostic> {
    support::errors(load(&[source("p.yaml", text)], &variables()))
}

/// The text of a policy, the line and column of its one error, parts of message and suggestion.
const CORPUS: &[(&str, usize, usize, &str, &str)] = &[
    ("", 1, 1, "the file is empty", "agentwall: 1"),
    ("[]", 1, 1, "a policy is a mapping, found a list", "keys"),
    (
        "default: deny",
        1,
        1,
        "'agentwall' is missing",
        "agentwall: 1",
    ),
    ("agentwall: 2", 1, 12, "must be 1", "agentwall: 1"),
    (
        "agentwall: 1\nruls: []",
        2,
        1,
        "unknown key 'ruls'",
        "did you mean 'rules'?",
    ),
    (
        "agentwall: 1\ndefault: dney",
        2,
        10,
        "unknown default 'dney'",
        "did you mean 'deny'?",
    ),
    (
        "agentwall: 1\nrequire: { enforcement: enforcd }",
        2,
        25,
        "unknown enforcement",
        "did you mean 'enforced'?",
    ),
    (
        "agentwall: 1\nledger: { on_failure: opn }",
        2,
        23,
        "unknown on_failure",
        "did you mean 'open'?",
    ),
    (
        "agentwall: 1\ninspect: [api.example, '*.example']",
        2,
        24,
        "inspect: '*.example' is no host name",
        "exact names, such as api.anthropic.com",
    ),
    (
        "agentwall: 1\nledger: {}",
        2,
        9,
        "ledger without 'on_failure'",
        "{ on_failure: closed }",
    ),
    (
        "agentwall: 1\nrules: {}",
        2,
        8,
        "rules is a list, found a mapping",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effct: deny, effect: deny }",
        3,
        14,
        "unknown key 'effct'",
        "did you mean 'effect'?",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a }",
        3,
        5,
        "needs an 'effect'",
        "effect: allow",
    ),
    (
        "agentwall: 1\nrules:\n  - { effect: deny }",
        3,
        5,
        "needs an 'id'",
        "id:",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: 'a b', effect: deny }",
        3,
        11,
        "an id is at most",
        "a-b",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: dany }",
        3,
        22,
        "unknown effect 'dany'",
        "did you mean 'deny'?",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, priority: high }",
        3,
        38,
        "whole number",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, priority: '5' }",
        3,
        38,
        "whole number",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: file.raed }",
        3,
        36,
        "'file.raed' is no action",
        "did you mean 'file.read'?",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: [file.read, net.conect] }",
        3,
        48,
        "'net.conect' is no action",
        "did you mean 'net.connect'?",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    action: file.read\n    resource: /tmp/[a",
        6,
        20,
        "'[' is not closed",
        "\\[",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    action: file.read\n    resource: [\"/a/{b\"]",
        6,
        20,
        "'{' is not closed",
        "\\{",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    action: file.read\n    resource: [\"!/a/{b\"]",
        6,
        21,
        "'{' is not closed",
        "\\{",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: net.connect, resource: /tmp/** }",
        3,
        59,
        "a path never fits",
        "tcp://host:port",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: file.read, resource: \"${hme}/x\" }",
        3,
        58,
        "unknown variable 'hme'",
        "did you mean 'home'?",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: file.read, resource: \"${state}/x\" }",
        3,
        58,
        "'state' has no value",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: isolate, action: net.connect }",
        3,
        39,
        "none of these actions can be isolated",
        "file.write",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: isolate, action: file.commit }",
        3,
        39,
        "none of these actions can be isolated",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, resource: [] }",
        3,
        38,
        "empty list",
        "leave resource out",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, resource: \"!*\" }",
        3,
        40,
        "nothing is left",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    when: auth.methd == \"x\"",
        5,
        16,
        "unknown field of auth 'methd'",
        "did you mean 'method'?",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    unless: risk > > 3",
        5,
        20,
        "not a CEL expression",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    when: risk",
        5,
        11,
        "must be true or false",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    reason:",
        5,
        11,
        "reason is text, found nothing",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    hint: { nxt: x }",
        5,
        13,
        "unknown key 'nxt'",
        "did you mean 'next'?",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    tests: { match: file.raed /x }",
        5,
        21,
        "'file.raed' is no action",
        "did you mean 'file.read'?",
    ),
    (
        "agentwall: 1\nrules:\n  - id: a\n    effect: deny\n    tests: { match: file.read x }",
        5,
        31,
        "expected an absolute path",
        "",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny }\n  - { id: a, effect: deny }",
        4,
        1,
        "'a' is already used at p.yaml:3",
        "a-2",
    ),
    (
        "agentwall: 1\nagentwall: 1",
        2,
        1,
        "the key 'agentwall' is already on line 1",
        "remove",
    ),
    (
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, resource: *.pem }",
        3,
        0,
        "",
        "",
    ),
    ("agentwall: 1\nname: &x y", 2, 0, "anchor", "quotes"),
    ("agentwall: 1\nname: !x y", 2, 0, "tag", "quotes"),
    (
        "agentwall: 1\n---\nagentwall: 1",
        2,
        1,
        "one document",
        "own file",
    ),
    ("agentwall: 1\nname: \"a", 2, 0, "not YAML", ""),
    ("agentwall: 1\n\tname: a", 2, 0, "not YAML", ""),
    ("agentwall: 1\nname: a\u{7}b", 2, 8, "U+0007", "\\x07"),
    ("agentwall: 1\nname: a\u{202e}b", 2, 8, "U+202E", ""),
    (
        "agentwall: 1\nbudgets: [{ action: api.call }]",
        2,
        11,
        "a budget needs a limit",
        "minute",
    ),
    (
        "agentwall: 1\nbudgets: [{ minute: -1 }]",
        2,
        21,
        "whole number from 0",
        "",
    ),
    (
        "agentwall: 1\nbudgets: [{ minute: 1, cost: risk > 3 }]",
        2,
        30,
        "must be a number",
        "",
    ),
    (
        "agentwall: 1\nrisk: { ask_at: 101 }",
        2,
        17,
        "from 0 to 100",
        "",
    ),
    (
        "agentwall: 1\nrisk: { ask_at: 90, deny_at: 60 }",
        2,
        7,
        "ask_at 90 is above deny_at 60",
        "ask_at: 60",
    ),
    (
        "agentwall: 1\nproperties: [{ id: a }]",
        2,
        14,
        "either 'never' or 'require'",
        "never:",
    ),
    (
        "agentwall: 1\nproperties:\n  - { id: a, never: file.read(/x) than net.connect(*) }",
        3,
        35,
        "expected 'then', found 'than'",
        "then",
    ),
    (
        "agentwall: 1\nproperties:\n  - { id: a, never: file.raed(/x) }",
        3,
        21,
        "'file.raed' is no action",
        "file.read",
    ),
    (
        "agentwall: 1\nproperties:\n  - { id: a, require: file.read(/x) }",
        3,
        23,
        "EVENT before EVENT",
        "",
    ),
    (
        "agentwall: 1\nproperties:\n  - { id: a, never: file.read }",
        3,
        21,
        "expected an event",
        "file.read(label:secret)",
    ),
];

#[test]
fn every_mistake_is_found_at_its_place_with_a_suggestion() {
    for (text, line, column, message, suggestion) in CORPUS {
        let found = errors(*text);
        support::expect_error(text, &found, (*line, *column), message, suggestion);
    }
}

#[test]
fn one_pass_finds_all_mistakes() {
    let found = errors(
        "agentwall: 2\ndefualt: deny\nrules:\n  - { id: a, effect: dny, action: file.raed }\n  - { id: b, effect: deny, resource: [tcp://a:x, \"/a[\"], when: rsk > 1 }\nrisk: { ask_at: x }\n",
    );
    let lines: Vec<usize> = found.iter().map(|d| d.line).collect();
    assert_eq!(lines, [1, 2, 4, 4, 5, 5, 5, 6], "{found:#?}");
}

#[test]
fn the_report_shows_the_text_with_a_caret() {
    let text = "agentwall: 1\ndefault: dney\n";
    let error = load(&[source("my policy.yaml", text)], &variables()).unwrap_err();
    let expected = "\
error: unknown default 'dney'
 --> my policy.yaml:2:10
2 | default: dney
  |          ^^^^
  = help: did you mean 'deny'?

the policy was not loaded: 1 error";
    assert_eq!(error.to_string(), expected);
    let json = serde_json::to_value(error.diagnostics()).unwrap();
    assert_eq!(json[0]["line"], 2);
    assert_eq!(json[0]["suggestion"], "did you mean 'deny'?");
    assert!(load(&[], &variables()).is_err());
}

#[test]
fn bytes_outside_utf8_have_a_place_and_a_way_to_be_written() {
    let found = errors(b"agentwall: 1\nname: ab\xff".to_vec());
    assert_eq!((found[0].line, found[0].column), (2, 9));
    assert!(
        found[0]
            .suggestion
            .as_deref()
            .is_some_and(|s| s.contains("\\xNN"))
    );
    let text = "agentwall: 1\nrules:\n  - { id: a, action: file.read, resource: '/a/\\xff*', effect: allow }\n";
    assert!(errors(text).is_empty());
}

#[test]
fn hostile_files_end_in_few_errors_that_can_be_shown() {
    for (name, bytes) in hostile() {
        let found = errors(bytes);
        assert!(!found.is_empty(), "{name} was accepted");
        assert!(found.len() <= MAX_DIAGNOSTICS);
        assert!(found.iter().all(|d| d.to_string().len() < 20_000), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn loading_never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = errors(bytes);
    }

    #[test]
    fn loading_never_panics_on_yaml_like_text(text in "agentwall: 1\n(rules:\n|budgets:\n|risk:|properties:\n|  - |    |id: |effect: |deny|action: |file\\.\\*|resource: |\\[|\\]|\\{|\\}|,|\"|'|/|\\*\\*|!|&|when: |never: |\\(|\\)|: |\n|[a-z]|~|#|\\||>|%|@|\\\\){0,40}") {
        let _ = errors(text);
    }
}
