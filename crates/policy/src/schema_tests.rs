use std::collections::BTreeSet;

use serde_json::Value;

use super::{schema, table_schema};
use crate::{
    Layer, Source, Variables,
    diagnostic::Found,
    document, json, load, load_table, table, templates, temporal,
    yaml::{self, Lines},
};

fn at(pointer: &str) -> Value {
    at_of(schema(), pointer)
}

fn at_of(schema: &str, pointer: &str) -> Value {
    let schema: Value = serde_json::from_str(schema).unwrap();
    schema
        .pointer(pointer)
        .cloned()
        .unwrap_or_else(|| panic!("{pointer}"))
}

fn keys(pointer: &str) -> BTreeSet<String> {
    at(pointer).as_object().unwrap().keys().cloned().collect()
}

fn words(pointer: &str) -> BTreeSet<String> {
    let list = at(pointer);
    let list = list.as_array().unwrap();
    list.iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_schema_knows_the_keys_that_loading_knows() {
    let pairs: [(&str, &[&str]); 10] = [
        ("/properties", document::TOP_KEYS),
        ("/properties/require/properties", document::REQUIRE_KEYS),
        ("/properties/ledger/properties", document::LEDGER_KEYS),
        ("/properties/risk/properties", temporal::RISK_KEYS),
        ("/$defs/rule/properties", document::RULE_KEYS),
        (
            "/$defs/rule/properties/hint/anyOf/1/properties",
            document::HINT_KEYS,
        ),
        (
            "/$defs/rule/properties/tests/properties",
            document::TEST_KEYS,
        ),
        ("/$defs/budget/properties", temporal::BUDGET_KEYS),
        ("/$defs/property/properties", temporal::PROPERTY_KEYS),
        ("/properties/require/properties", &["enforcement"]),
    ];
    for (pointer, known) in pairs {
        assert_eq!(keys(pointer), set(known.iter().copied()), "{pointer}");
    }
}

#[test]
fn the_schema_knows_the_words_that_loading_knows() {
    let effects = document::EFFECTS.iter().map(|(w, _)| *w);
    assert_eq!(words("/$defs/rule/properties/effect/enum"), set(effects));
    let defaults = document::DEFAULTS.iter().map(|(w, _)| *w);
    assert_eq!(words("/properties/default/enum"), set(defaults));
    let levels = document::ENFORCEMENTS.iter().map(|(w, _)| *w);
    assert_eq!(
        words("/properties/require/properties/enforcement/enum"),
        set(levels)
    );
    let failures = document::LEDGER_FAILURES.iter().map(|(w, _)| *w);
    assert_eq!(
        words("/properties/ledger/properties/on_failure/enum"),
        set(failures)
    );
    let verbs = agentwall_action::Verb::ALL.iter().map(|v| v.as_str());
    assert_eq!(words("/$defs/verb/enum"), set(verbs));
}

#[test]
fn the_schema_of_tables_knows_the_keys_and_words_that_loading_knows() {
    let keys = |pointer: &str| -> BTreeSet<String> {
        let at = at_of(table_schema(), pointer);
        at.as_object().unwrap().keys().cloned().collect()
    };
    let facts = "/$defs/facts/properties";
    let pairs: [(&str, &[&str]); 4] = [
        ("/$defs/case/properties", table::CASE_KEYS),
        (facts, table::FACT_KEYS),
        ("/$defs/facts/properties/auth/properties", table::AUTH_KEYS),
        (
            "/$defs/facts/properties/session/properties",
            table::SESSION_KEYS,
        ),
    ];
    for (pointer, known) in pairs {
        assert_eq!(keys(pointer), set(known.iter().copied()), "{pointer}");
    }
    let expected: Vec<&str> = table::EXPECTED.iter().map(|(w, _)| *w).collect();
    assert_eq!(
        at_of(table_schema(), "/$defs/case/properties/expect/enum"),
        Value::from(expected)
    );
    assert_eq!(at_of(table_schema(), "/$defs/verb"), at("/$defs/verb"));
    assert_eq!(at_of(table_schema(), "/maxItems"), table::MAX_CASES);
    assert_eq!(at("/properties/rules/maxItems"), document::MAX_RULES);
}

fn variables() -> Variables {
    Variables {
        workspace: Some("/home/u/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/u/.local/state/agentwall".into()),
    }
}

/// What is wrong with a file by a schema.
fn complaints(schema: &str, text: &str) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let lines = Lines::new("", text);
    let node = yaml::read(&lines, text, "", &mut Found::default()).unwrap();
    let value = json::value(&node);
    validator
        .iter_errors(&value)
        .map(|e| e.to_string())
        .collect()
}

#[test]
fn the_schemas_are_schemas() {
    for text in [schema(), table_schema()] {
        let schema: Value = serde_json::from_str(text).unwrap();
        jsonschema::draft202012::meta::validate(&schema).unwrap();
    }
}

#[test]
fn what_loads_is_valid() {
    for template in templates() {
        assert_eq!(
            complaints(schema(), template.text),
            [""; 0],
            "{}",
            template.name
        );
        assert_eq!(
            complaints(table_schema(), template.table),
            [""; 0],
            "{}",
            template.name
        );
    }
    let example = include_str!("../tests/language-example.yaml");
    assert_eq!(complaints(schema(), example), [""; 0]);
    for text in [
        "agentwall: 1",
        "agentwall: 1\nname: 5\ndescription: true",
        "agentwall: 1\nledger: { on_failure: open }",
        "agentwall: 1\ninspect: API.Example",
        "agentwall: 1\ninspect: [api.example, api-2.example]",
        "agentwall: 1\nrequire: { enforcement: race }\nrisk: { ask_at: 3 }",
        "agentwall: 1\nrules:\n  - { id: 7, effect: deny, when: true, unless: risk > 3, hint: x }",
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: '{file.read,net.*}', subject: ['*', '!agent:x'] }",
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, action: ['*', '!file.*', '!net.connect', 'file.[a-r]*', '?ile.read'] }",
        "agentwall: 1\nrules:\n  - { id: a, effect: deny, resource: ['!/a', '/b/**'], action: file.read, tests: { match: 'file.read  /b/x' } }",
        "agentwall: 1\nbudgets: [{ minute: 0, cost: 2 }, { day: 9223372036854775807, cost: args.amount, action: api.call }]",
        "agentwall: 1\nproperties:\n  - { id: p, never: file.read(label:secret) then net.connect(*) }",
    ] {
        let source = Source::new("p", text, Layer::User);
        if let Err(error) = load(&[source], &variables()) {
            panic!("{error}");
        }
        assert_eq!(complaints(schema(), text), [""; 0], "{text}");
    }
    for text in [
        "- { action: file.read, resource: /x, expect: deny, rule: null, note: 5 }",
        "- { action: process.exec, resource: /x, expect: deny, args: [x, 5, true] }",
        "- { action: tool.call, resource: x, expect: deny, args: { a: [1, { b: null }] }, subject: agent:x }",
        "- { action: net.connect, resource: 'tcp://a:1', address: '::1', expect: deny, facts: { auth: { method: jwt }, session: { id: 1, name: n, workspace: /w, interactive: true }, labels: a, risk: 0, time: 1 } }",
    ] {
        let source = Source::new("t", text, Layer::User);
        if let Err(error) = load_table(&source, &variables()) {
            panic!("{error}");
        }
        assert_eq!(complaints(table_schema(), text), [""; 0], "{text}");
    }
}

#[test]
fn what_is_wrong_is_not_valid() {
    for text in [
        "[]",
        "default: deny",
        "agentwall: 2",
        "agentwall: 1\nruls: []",
        "agentwall: 1\nname: ''",
        "agentwall: 1\nname: [x]",
        "agentwall: 1\ndefault: isolate",
        "agentwall: 1\nrequire: { enforcement: enforcd }",
        "agentwall: 1\nrequire: {}",
        "agentwall: 1\nledger: {}",
        "agentwall: 1\ninspect: ['*.example']",
        "agentwall: 1\ninspect: []",
        "agentwall: 1\ninspect: a..b",
        "agentwall: 1\nledger: { on_failure: opened }",
        "agentwall: 1\nrules: {}",
        "agentwall: 1\nrules: [x]",
        "agentwall: 1\nrules: [{ id: a }]",
        "agentwall: 1\nrules: [{ effect: deny }]",
        "agentwall: 1\nrules: [{ id: 'a b', effect: deny }]",
        "agentwall: 1\nrules: [{ id: a, effect: dany }]",
        "agentwall: 1\nrules: [{ id: a, effct: deny, effect: deny }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, priority: high }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, priority: '5' }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, priority: 1000001 }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, action: file.raed }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, action: [file.read, net.conect] }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, resource: [] }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, resource: '!*' }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, resource: '/***' }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, resource: { x: y } }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, reason: }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, hint: { nxt: x } }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, when: 5 }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, tests: { match: file.raed /x } }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, tests: { match: file.read } }]",
        "agentwall: 1\nrules: [{ id: a, effect: deny, tests: { mtch: file.read /x } }]",
        "agentwall: 1\nbudgets: [{ action: api.call }]",
        "agentwall: 1\nbudgets: [{ minute: -1 }]",
        "agentwall: 1\nrisk: { ask_at: 101 }",
        "agentwall: 1\nproperties: [{ id: a }]",
        "agentwall: 1\nproperties: [{ id: a, never: x, require: y }]",
    ] {
        let source = Source::new("p", text, Layer::User);
        assert!(load(&[source], &variables()).is_err(), "it loads: {text}");
        assert_ne!(complaints(schema(), text), [""; 0], "{text}");
    }
    for text in [
        "{}",
        "[]",
        "- x",
        "- { action: file.read, expect: deny }",
        "- { action: file.raed, resource: /x, expect: deny }",
        "- { action: file.read, resource: /x, expect: dney }",
        "- { action: file.read, resource: /x, expect: rate_limit }",
        "- { action: file.read, resource: /x, expect: deny, ruel: a }",
        "- { action: file.read, resource: /x, expect: deny, args: [a] }",
        "- { action: process.signal, resource: /x, expect: deny, args: [a] }",
        "- { action: process.exec, resource: /x, expect: deny, args: { a: 1 } }",
        "- { action: tool.call, resource: x, expect: deny, args: [1] }",
        "- { action: file.read, resource: /x, expect: deny, address: 1.2.3.4 }",
        "- { action: file.read, resource: /x, expect: deny, facts: { risk: 101 } }",
        "- { action: file.read, resource: /x, expect: deny, facts: { time: 0 } }",
        "- { action: file.read, resource: /x, expect: deny, facts: { auth: x } }",
        "- { action: file.read, resource: /x, expect: deny, facts: { session: { interactive: maybe } } }",
        "- { action: file.read, resource: /x, expect: deny, facts: { labels: [] } }",
    ] {
        let source = Source::new("t", text, Layer::User);
        assert!(
            load_table(&source, &variables()).is_err(),
            "it loads: {text}"
        );
        assert_ne!(complaints(table_schema(), text), [""; 0], "{text}");
    }
}
