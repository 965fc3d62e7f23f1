use agentwall_action::{Action, Resource, Subject, Verb};
use serde_json::json;

use super::*;

fn action() -> Action {
    let mut action = Action::new(Subject::agent("a"), Verb::FileRead, Resource::path("/a\nb"));
    action.facts.args = json!(["git", "push", 3, {"k": 1.5}]);
    action.facts.labels.insert("secret".into());
    action.facts.risk = 40;
    action.facts.auth.method = "oauth".into();
    action
}

fn test(text: &str) -> Result<bool, String> {
    let expression =
        Expression::compile(text, Wanted::Boolean).unwrap_or_else(|e| panic!("{text}: {e}"));
    expression.test(&action())
}

#[test]
fn facts_are_bound() {
    for text in [
        "subject == 'agent:a'",
        "action == 'file.read' && resource.startsWith('/a')",
        "resource == '/a\\\\nb'",
        "auth.method == \"oauth\"",
        "!session.interactive && session.id == ''",
        "args[0] == 'git' && args.exists(a, a == 'push')",
        "args[3].k == 1.5 && size(args) == 4",
        "'secret' in labels",
        "labels.all(l, l.matches('^s.*t$'))",
        "risk >= 40 && risk < 41",
        "has(auth.method)",
        "true",
    ] {
        assert_eq!(test(text), Ok(true), "{text}");
    }
}

#[test]
fn what_is_absent_or_of_another_type_is_an_error_of_evaluation() {
    for text in [
        "time > 0",
        "args[9] == 'x'",
        "args[0] > 3",
        "args.x == 1",
        "args[1] ? true : false",
        "args[0]",
    ] {
        assert!(test(text).is_err(), "{text}: {:?}", test(text));
    }
}

#[test]
fn mistakes_are_found_when_the_policy_is_loaded() {
    let cases = [
        ("", 0, "empty", None),
        (
            "auht.method == 'x'",
            0,
            "unknown fact 'auht'",
            Some("did you mean 'auth'?"),
        ),
        (
            "risk > 3 && lables == []",
            12,
            "unknown fact 'lables'",
            Some("did you mean 'labels'?"),
        ),
        (
            "auth.methd == 'x'",
            5,
            "unknown field of auth 'methd'",
            Some("did you mean 'method'?"),
        ),
        (
            "subject.startswith('x')",
            8,
            "unknown function 'startswith'",
            Some("did you mean 'startsWith'?"),
        ),
        ("args.exists(a, b == 'x')", 15, "unknown fact 'b'", None),
        ("risk", 0, "must be true or false, found a number", None),
        ("auth.method", 0, "must be true or false, found text", None),
        ("'x'", 0, "must be true or false", None),
        ("risk + 1", 0, "must be true or false", None),
        ("[risk]", 0, "must be true or false", None),
        ("Thing{a: 1} == 2", 0, "unknown type 'Thing'", None),
        (
            "args.all(a, args.all(b, args.all(c, a == b)))",
            0,
            "loops nest",
            None,
        ),
    ];
    for (text, offset, message, suggestion) in cases {
        let error = Expression::compile(text, Wanted::Boolean).unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        if !message.contains("nest") {
            assert_eq!(error.offset, offset, "{text}");
        }
        if suggestion.is_some() {
            assert_eq!(error.suggestion.as_deref(), suggestion, "{text}");
        }
    }
    let error = Expression::compile("risk > > 3", Wanted::Boolean).unwrap_err();
    assert_eq!(error.offset, 7, "{error}");
    assert!(Expression::compile("risk >", Wanted::Boolean).is_err());
    let cost = Expression::compile("args.amount", Wanted::Number).unwrap();
    assert!(cost.uses_args());
    assert!(cost.number(&action()).is_err());
    assert!(Expression::compile("risk > 3", Wanted::Number).is_err());
    let negative = Expression::compile("0 - risk", Wanted::Number).unwrap();
    assert!(negative.number(&action()).is_err());
}

#[test]
fn hostile_expressions_end_quickly() {
    let start = std::time::Instant::now();
    // Room for the small stacks of worker threads.
    for text in [
        "(".repeat(3000),
        format!("{}risk > 1{}", "(".repeat(24), ")".repeat(24)),
        "!".repeat(4000),
        "-".repeat(4000),
        "- ".repeat(2000),
        "risk ? ".repeat(500),
        "a.".repeat(2000),
        format!("risk{}", ".b".repeat(1900)),
        format!("risk{} > 1", " + 1".repeat(900)),
        format!("risk > 1{}", " && risk > 1".repeat(300)),
        format!("risk > 1{}", " && risk > 1".repeat(84)),
        format!("risk{} > 1", " + 1".repeat(254)),
        format!("risk{}", ".b".repeat(255)),
        format!("risk{}", "[0]".repeat(24)),
        format!("{}risk{}", "[".repeat(24), "]".repeat(24)),
        format!("{}risk{} == 1", "{'a': ".repeat(24), "}".repeat(24)),
        format!("{}risk > 1", "!".repeat(24)),
        "risk > 1 ? true : ".repeat(23) + "false",
        "[".repeat(4000),
        "{".repeat(4000),
        "\"".repeat(4001),
        "risk > 1 || ".repeat(300),
        "x".repeat(5000),
        "\u{0}\u{ffff}\u{1F600}".repeat(300),
    ] {
        let _ = Expression::compile(&text, Wanted::Boolean).map(|e| e.test(&action()));
    }
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]
    #[test]
    fn compiling_never_panics(text in "[a-z0-9 .()\\[\\]{}!?:,'\"<>=&|+*/%-]{0,60}") {
        let _ = Expression::compile(&text, Wanted::Boolean).map(|e| e.test(&action()));
    }
}
