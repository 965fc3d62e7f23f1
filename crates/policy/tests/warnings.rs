//! `policy check`: every warning at its place, and its honest neighbour without one.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use agentwall_policy::{MAX_WARNINGS, WARNING_CODES, load_with_warnings, templates};
use support::{source, variables};

#[track_caller]
fn warnings(text: &str) -> Vec<(&'static str, usize, usize)> {
    let found = load_with_warnings(&source("p.yaml", text), &variables());
    let (_, warnings) = found.unwrap_or_else(|e| panic!("{e}"));
    let of = |w: agentwall_policy::Warning| (w.code, w.diagnostic.line, w.diagnostic.column);
    warnings.into_iter().map(of).collect()
}

/// A rule `a` of these lines, at line 3 of the file.
fn rule(text: &str) -> String {
    format!("agentwall: 1\nrules:\n  - {{ id: a, {text} }}\n")
}

/// The rest of a rule, the code it is warned about, the text at that place (none: the rule), and a neighbour without a warning.
const CORPUS: &[(&str, &str, &str, &str)] = &[
    (
        "effect: allow, action: file.write, resource: '**'",
        "allow-everything",
        "'**'",
        "effect: allow, action: file.write, resource: /srv/**",
    ),
    (
        "effect: allow, action: process.exec",
        "allow-everything",
        "process.exec",
        "effect: allow, action: process.exec, when: risk < 3",
    ),
    (
        "effect: allow, action: net.connect, resource: ['!cidr:private']",
        "all-but",
        "['!cidr",
        "effect: deny, action: net.connect, resource: ['!cidr:private']",
    ),
    (
        "effect: deny, action: file.read, when: false",
        "never-matches",
        "false",
        "effect: deny, action: file.read, when: risk > 3",
    ),
    (
        "effect: deny, action: file.read, unless: 1 < 2",
        "never-matches",
        "1 < 2",
        "effect: deny, action: file.read, unless: risk > 3",
    ),
    (
        "effect: deny, action: file.read, when: 'true'",
        "always-true",
        "'true'",
        "effect: deny, action: file.read",
    ),
    (
        "effect: deny, action: [process.exec, file.read], when: \"args[1] == 'x'\"",
        "args-absent",
        "\"args[1]",
        "effect: deny, action: process.exec, when: \"args[1] == 'x'\"",
    ),
    (
        "effect: allow, action: process.exec, when: \"args[0] == 'git'\"",
        "program-name",
        "\"args[0]",
        "effect: deny, action: process.exec, when: \"args[0] == 'git'\"",
    ),
    (
        "effect: deny, action: process.exec, unless: \"args[0] == 'git'\"",
        "program-name",
        "\"args[0]",
        "effect: deny, action: process.exec, unless: \"args[1] == 'git'\"",
    ),
    (
        "effect: allow, action: tool.call, resource: x, when: \"args.path.matches('^/srv/')\"",
        "unanchored",
        "\"args.path",
        "effect: allow, action: tool.call, resource: x, when: \"args.path.matches('^/srv/.*$')\"",
    ),
    (
        "effect: allow, action: tool.call, resource: x, when: \"args.url.startsWith('https://example.com')\"",
        "open-url",
        "\"args.url",
        "effect: allow, action: tool.call, resource: x, when: \"args.url.startsWith('https://example.com/')\"",
    ),
    (
        "effect: deny, action: 'file.*', when: \"action == 'file.raed'\"",
        "no-action",
        "\"action == 'file.raed'",
        "effect: deny, action: 'file.*', when: \"action == 'file.read'\"",
    ),
    (
        "effect: allow, action: net.connect, resource: 'tcp://example.org'",
        "every-port",
        "'tcp://example.org'",
        "effect: allow, action: net.connect, resource: 'tcp://example.org:*'",
    ),
    (
        "effect: ask, action: net.connect, resource: ['tcp://[2001:db9::1]']",
        "every-port",
        "'tcp://[2001",
        "effect: deny, action: net.connect, resource: ['tcp://[2001:db9::1]']",
    ),
    (
        "effect: deny, action: file.read, resource: label:secrets",
        "label-typo",
        "label:secrets",
        "effect: deny, action: file.read, resource: label:internal",
    ),
    (
        "effect: deny, action: file.read, subject: claude",
        "subject-form",
        "claude",
        "effect: deny, action: file.read, subject: '*:claude'",
    ),
    (
        "effect: deny, action: [file.read, file.read]",
        "twice",
        "file.read]",
        "effect: deny, action: [file.read, file.write]",
    ),
    (
        "effect: allow, action: file.read, resource: '~/**'",
        "secret-open",
        "",
        "effect: allow, action: file.read, resource: '~/work/**'",
    ),
    (
        "effect: allow, action: net.connect, resource: 'tcp://*:80'",
        "metadata-open",
        "",
        "effect: allow, action: net.connect, resource: 'tcp://*.org:80'",
    ),
];

#[test]
fn every_warning_is_at_its_place_and_its_neighbour_has_none() {
    for (bad, code, at, good) in CORPUS {
        let found = warnings(&rule(bad));
        let line = rule(bad).lines().nth(2).unwrap().to_owned();
        let here = |w: &&(&str, usize, usize)| w.0 == *code && line[w.2 - 1..].starts_with(at);
        assert!(
            found.iter().any(|w| here(&w) && w.1 == 3),
            "{bad}: {found:?}"
        );
        let found = warnings(&rule(good));
        assert!(found.iter().all(|w| w.0 != *code), "{good}: {found:?}");
    }
    assert_eq!(
        warnings("agentwall: 1\ndefault: allow\n"),
        [
            ("secret-open", 1, 1),
            ("metadata-open", 1, 1),
            ("default-allow", 2, 10),
        ]
    );
    let known: BTreeSet<&str> = WARNING_CODES.iter().map(|(code, _)| *code).collect();
    let tried = CORPUS.iter().map(|c| c.1).chain(["default-allow"]);
    assert_eq!(tried.collect::<BTreeSet<_>>(), known);
}

#[test]
fn the_templates_have_none() {
    for template in templates() {
        assert_eq!(warnings(template.text), [], "{}", template.name);
    }
}

#[test]
fn a_warning_shows_the_line_and_serialises_flat() {
    let text = rule("effect: deny, action: file.read, when: false");
    let (policy, warnings) = load_with_warnings(&source("p.yaml", text), &variables()).unwrap();
    assert_eq!(policy.rules().count(), 1);
    let shown = warnings[0].to_string();
    assert!(
        shown.starts_with("warning[never-matches]: 'when' keeps"),
        "{shown}"
    );
    assert!(
        shown.contains("p.yaml:3:53") && shown.contains("^^^^^"),
        "{shown}"
    );
    let json = serde_json::to_value(&warnings).unwrap();
    assert_eq!(
        (&json[0]["code"], &json[0]["rule"]),
        (&"never-matches".into(), &"a".into())
    );
    assert_eq!(json[0]["line"], 3);
}

#[test]
fn warnings_are_bounded() {
    let one =
        |n: usize| format!("  - {{ id: r{n}, effect: deny, action: file.read, when: false }}\n");
    let text = format!(
        "agentwall: 1\nrules:\n{}",
        (0..500).map(one).collect::<String>()
    );
    assert_eq!(warnings(&text).len(), MAX_WARNINGS);
}
