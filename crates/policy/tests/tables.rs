//! Tables of cases: what they say about a policy, what coverage is, and every mistake at its place.

#![allow(clippy::unwrap_used)]

mod support;

use agentwall_action::Effect;
use agentwall_policy::{MAX_CASES, Policy, Table};
use support::{errors, parse_table, policy};

const POLICY: &str = "\
agentwall: 1
rules:
  - id: own
    priority: 10
    action: file.read
    resource: /a/**
    effect: allow
    tests: { match: [file.read /a/x], not_match: [file.read /b] }
  - id: shadowed
    priority: 20
    action: file.read
    resource: /a/b/**
    effect: deny
    tests: { match: [file.read /a/b/c] }
  - id: pay
    action: api.call
    resource: capability:pay
    when: args.amount <= 100.0
    effect: allow
    tests: { match: ['api.call capability:pay'] }
  - id: seen
    action: api.call
    effect: monitor
";

const TABLE: &str = "\
- { action: file.read, resource: /a/b/c, expect: allow, rule: own }
- { action: file.read, resource: /c, expect: deny, rule: null }
- action: api.call
  resource: capability:pay
  args: { amount: 99.5 }
  expect: allow
  rule: pay
- action: api.call
  resource: capability:pay
  args: { amount: 101 }
  expect: deny
  note: too much
";

#[track_caller]
fn table(text: &str) -> Table {
    parse_table(text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn cases_are_decided_on_the_whole_policy() {
    let report = policy(POLICY).run_table(&table(TABLE));
    assert!(report.passed(), "{report}");
    assert_eq!(report.to_string(), "4 cases, 0 failed");
}

#[test]
fn a_failure_tells_what_was_expected_and_found() {
    let wrong = "\
- { action: file.read, resource: /a/b/c, expect: deny }
- { action: file.read, resource: /c, expect: deny, rule: owm }
- { action: file.read, resource: /a/x, expect: allow, rule: ~ }
- { action: api.call, resource: 'capability:pay', expect: allow, note: n }
- { action: file.read, resource: /c, expect: deny }
";
    let report = policy(POLICY).run_table(&table(wrong));
    let shown: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 4, "{report}");
    assert_eq!(report.run, 5);
    assert_eq!(
        shown[..3],
        [
            "t.yaml:1: 'file.read /a/b/c' must be deny and is allow by rule own",
            "t.yaml:2: 'file.read /c' must be deny by rule owm and is deny by the default\n  \
             the policy has no rule 'owm'; did you mean 'own'?",
            "t.yaml:3: 'file.read /a/x' must be allow by the default and is allow by rule own",
        ]
    );
    let failed = "t.yaml:4: 'api.call capability:pay' must be allow and is deny by the default (n)";
    assert!(shown[3].starts_with(failed) && shown[3].contains("pay: when: "));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["failures"][1]["expected_rule"], "owm");
    assert_eq!(
        json["failures"][2]["expected_rule"],
        serde_json::Value::Null
    );
    assert!(json["failures"][0].get("expected_rule").is_none());
}

fn decided(policy: &Policy, tables: &[Table]) -> Vec<(String, usize)> {
    let coverage = policy.coverage(tables);
    let rules = coverage.rules.into_iter();
    rules.map(|r| (r.rule, r.decided)).collect()
}

#[test]
fn a_rule_is_covered_when_a_test_shows_it_deciding() {
    let policy = policy(POLICY);
    let own = |n: [usize; 4]| {
        let names = ["own", "shadowed", "pay", "seen"];
        let pairs = names.iter().zip(n);
        pairs
            .map(|(id, n)| ((*id).to_owned(), n))
            .collect::<Vec<_>>()
    };
    // What an in-file example shows: 'shadowed' never decides, 'pay' not without arguments.
    assert_eq!(decided(&policy, &[]), own([1, 0, 0, 0]));
    assert_eq!(policy.coverage(&[]).percent(), 25);
    assert_eq!(decided(&policy, &[table(TABLE)]), own([2, 0, 1, 2]));
    let coverage = policy.coverage(&[table(TABLE)]);
    assert_eq!((coverage.covered(), coverage.percent()), (3, 75));
    let rule = &coverage.rules[0];
    assert_eq!((rule.matches, rule.not_matches), (1, 1));
    let by: Vec<String> = rule.decided_by.iter().map(ToString::to_string).collect();
    assert_eq!(by, ["p.yaml:8", "t.yaml:1"]);
    assert!(!coverage.rules[1].is_covered());
    assert_eq!(support::policy("agentwall: 1").coverage(&[]).percent(), 100);
}

#[test]
fn every_fact_of_a_case_reaches_the_condition() {
    let policy = policy(
        "agentwall: 1\nrules:\n  - id: a\n    subject: agent:x\n    effect: allow\n    action: process.exec\n    \
         when: auth.method == 'jwt' && session.id == 'i' && session.name == 'n' && \
         session.workspace == '/home/u/work/a' && session.interactive && 'l' in labels && risk == 7 && \
         time == 9 && args[1] == '1'\n  \
         - id: b\n    effect: deny\n    action: net.connect\n    resource: cidr:private\n  \
         - id: c\n    effect: allow\n    action: net.connect\n    resource: tcp://a.example:443\n",
    );
    let table = table(
        "- subject: agent:x\n  action: process.exec\n  resource: ~/bin/x\n  args: [x, 1]\n  \
         facts:\n    auth: { method: jwt }\n    \
         session: { id: i, name: n, workspace: '${workspace}/a', interactive: true }\n    \
         labels: [l, m]\n    risk: 7\n    time: 9\n  expect: allow\n  rule: a\n\
         - { action: net.connect, resource: 'tcp://a.example:443', expect: allow, rule: c }\n\
         - { action: net.connect, resource: 'tcp://a.example:443', address: '::ffff:10.0.0.1', expect: deny, rule: b }\n",
    );
    let report = policy.run_table(&table);
    assert!(report.passed(), "{report}");
    assert_eq!(table.cases[0].expect, Effect::Allow);
}

/// A table, the line and column of its one error, parts of message and suggestion.
const CORPUS: &[(&str, usize, usize, &str, &str)] = &[
    ("", 1, 1, "the file is empty", "- { action"),
    (
        "a: b",
        1,
        1,
        "a table is a list of cases, found a mapping",
        "- { action",
    ),
    ("[]", 1, 1, "tests nothing", "- { action"),
    (
        "- x",
        1,
        3,
        "a case is a mapping, found text",
        "keys: subject",
    ),
    (
        "- { action: file.read, expect: deny }",
        1,
        3,
        "a case needs 'resource'",
        "resource:",
    ),
    (
        "- { resource: /x, expect: deny }",
        1,
        3,
        "a case needs 'action'",
        "action:",
    ),
    (
        "- { action: file.read, resource: /x }",
        1,
        3,
        "a case needs 'expect'",
        "expect: deny",
    ),
    (
        "- { action: file.raed, resource: /x, expect: deny }",
        1,
        13,
        "'file.raed' is no action",
        "file.read",
    ),
    (
        "- { action: file.read, resource: x, expect: deny }",
        1,
        34,
        "expected an absolute path",
        "",
    ),
    (
        "- { action: file.read, resource: '${hme}', expect: deny }",
        1,
        35,
        "unknown variable 'hme'",
        "home",
    ),
    (
        "- { action: file.read, resource: /x, expect: dney }",
        1,
        46,
        "unknown expect 'dney'",
        "deny",
    ),
    (
        "- { action: file.read, resource: /x, expect: rate_limit }",
        1,
        46,
        "unknown expect",
        "one of",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, ruel: a }",
        1,
        52,
        "unknown key 'ruel'",
        "rule",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, args: [a] }",
        1,
        58,
        "file.read has no args",
        "leave",
    ),
    (
        "- { action: process.exec, resource: /x, expect: deny, args: {a: 1} }",
        1,
        61,
        "a list of texts",
        "[git",
    ),
    (
        "- { action: tool.call, resource: x, expect: deny, args: [1] }",
        1,
        57,
        "is a mapping",
        "amount",
    ),
    (
        "- { action: process.exec, resource: /x, expect: deny, args: [[a]] }",
        1,
        62,
        "args is text",
        "",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, address: 1.2.3.4 }",
        1,
        61,
        "only an endpoint",
        "",
    ),
    (
        "- { action: net.connect, resource: 'tcp://1.2.3.4:1', expect: deny, address: 1.2.3.4 }",
        1,
        78,
        "an address already",
        "",
    ),
    (
        "- { action: net.connect, resource: 'tcp://a:1', expect: deny, address: b }",
        1,
        72,
        "address is an IP address",
        "10.0.0.1",
    ),
    (
        "- { action: net.connect, resource: 'tcp://a..:1', expect: deny }",
        1,
        37,
        "without an empty part",
        "",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { risk: 101 } }",
        1,
        67,
        "from 0 to 100",
        "",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { time: 0 } }",
        1,
        67,
        "from 1 to",
        "",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { rsk: 1 } }",
        1,
        61,
        "unknown key 'rsk' in facts",
        "risk",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { auth: x } }",
        1,
        67,
        "auth is a mapping",
        "method",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { auth: { methd: x } } }",
        1,
        69,
        "unknown key 'methd'",
        "method",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { session: { interactive: maybe } } }",
        1,
        85,
        "unknown interactive",
        "true",
    ),
    (
        "- { action: file.read, resource: /x, expect: deny, facts: { labels: [] } }",
        1,
        69,
        "empty list",
        "",
    ),
    (
        "- &a { action: file.read, resource: /x, expect: deny }",
        1,
        0,
        "anchor",
        "",
    ),
    (
        "- { action: file.read, action: file.read, resource: /x, expect: deny }",
        1,
        24,
        "already on line 1",
        "remove",
    ),
];

#[test]
fn every_mistake_is_found_at_its_place_with_a_suggestion() {
    for (text, line, column, message, suggestion) in CORPUS {
        let found = errors(parse_table(*text));
        support::expect_error(text, &found, (*line, *column), message, suggestion);
    }
    let error = parse_table("- x").unwrap_err().to_string();
    assert!(
        error.ends_with("the table was not loaded: 1 error"),
        "{error}"
    );
}

#[test]
fn one_pass_finds_the_mistakes_of_every_case_and_a_table_is_bounded() {
    let found = errors(parse_table(
        "- { action: file.raed, resource: /x, expect: dney }\n- x\n- { action: file.read, resource: x, expect: deny }\n",
    ));
    let lines: Vec<usize> = found.iter().map(|d| d.line).collect();
    assert_eq!(lines, [1, 1, 2, 3], "{found:#?}");
    let case = "- { action: file.read, resource: /x, expect: deny }\n";
    assert_eq!(
        parse_table(case.repeat(MAX_CASES)).unwrap().cases.len(),
        MAX_CASES
    );
    let found = errors(parse_table(case.repeat(MAX_CASES + 1)));
    assert!(
        found[0].message.contains("more than 10000 cases"),
        "{found:?}"
    );
}
