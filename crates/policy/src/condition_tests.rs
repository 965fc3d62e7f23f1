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
fn types_that_never_fit_are_refused_and_those_that_may_are_not() {
    for (text, message) in [
        ("auth.method == 3", "compares text with a number"),
        ("3 != auth.method", "compares a number with text"),
        ("risk == 'high'", "compares a number with text"),
        ("risk > 'high'", "compares a number with text"),
        (
            "session.interactive == 'yes'",
            "compares true or false with text",
        ),
        ("labels == 'secret'", "compares a list with text"),
        ("auth == 'jwt'", "compares a mapping with text"),
        ("labels > 3", "an order needs"),
        ("risk && true", "'&&' needs true or false, found a number"),
        ("true || subject", "'||' needs true or false, found text"),
        ("!risk", "'!' needs true or false"),
        ("risk ? true : false", "'?' needs true or false"),
        ("subject + risk == 'x'", "adds text and a number"),
        ("subject - 'agent:' == ''", "'-' needs a number, found text"),
        ("-subject == 3", "'-' needs a number"),
        ("'a' in subject", "use contains"),
        ("'a' in risk", "'in' needs a list or a mapping"),
        ("risk in labels", "'in labels' needs text"),
        (
            "risk.startsWith('1')",
            "'startsWith' needs text, found a number",
        ),
        (
            "subject.startsWith(1)",
            "'startsWith' of text needs text, found a number",
        ),
        ("size(risk) > 1", "'size' needs text"),
        (
            "subject.name == 'x'",
            "'subject' is text and has no field 'name'",
        ),
        (
            "labels.secret",
            "'labels' is a list and has no field 'secret'",
        ),
        ("auth['methd'] == 'x'", "unknown field of auth 'methd'"),
        ("session['name'] == 1", "compares text with a number"),
        ("has(session.nam)", "unknown field of session 'nam'"),
        (
            "subject.matches('(')",
            "not a regular expression: unclosed group",
        ),
        (
            "args.all(a, a == 'x' && risk == 'y')",
            "compares a number with text",
        ),
        (
            "resource.matches('a{9}{9}{9}{9}{9}{9}{9}')",
            "not a regular expression",
        ),
    ] {
        let error = Expression::compile(text, Wanted::Boolean).unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
    }
    for text in [
        "args.amount > 5",
        "args[1] == 5",
        "args.amount == '5'",
        "args.to == null",
        "risk == 1.0",
        "risk > 0u",
        "'x' in args",
        "args.all(risk, risk == 'x')",
        "args.exists(a, a.startsWith('x'))",
        "labels.contains('x')",
        "subject < action",
        "(risk > 3 ? 'a' : 'b') == subject",
        "session[args.key] == 1",
        "string(risk) == '3'",
        "size(labels) + 1 > risk",
        "subject.matches('^agent:[a-z]+$')",
    ] {
        if let Err(error) = Expression::compile(text, Wanted::Boolean) {
            panic!("{text}: {error}");
        }
    }
}

#[test]
fn hostile_expressions_end_in_an_answer() {
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
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]
    #[test]
    fn compiling_never_panics(text in "[a-z0-9 .()\\[\\]{}!?:,'\"<>=&|+*/%-]{0,60}") {
        let _ = Expression::compile(&text, Wanted::Boolean).map(|e| e.test(&action()));
    }
}
