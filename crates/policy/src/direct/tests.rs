use agentwall_action::{Action, Resource, Subject, Verb};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;

use super::*;
use crate::condition::{Expression, Wanted};

fn action() -> Action {
    let mut action = Action::new(
        Subject::agent("a"),
        Verb::ToolCall,
        Resource::Named("mcp:bank:send".into()),
    );
    action.facts.args = json!({
        "amount": 90, "rate": 1.5, "huge": u64::MAX, "to": "bob@example.com", "paid": true,
        "none": null, "list": ["git", "push", 3, -1, 2.5, null, "ü"], "in": {"amount": 7, "to": ""},
    });
    action.facts.labels = ["said:bob@example.com", "secret", "x"]
        .map(String::from)
        .into();
    action.facts.risk = 40;
    action.facts.session.interactive = true;
    action
}

fn both_ways(text: &str, action: &Action) -> (Truth, Result<bool, String>) {
    let expression =
        Expression::compile(text, Wanted::Boolean).unwrap_or_else(|e| panic!("{text}: {e}"));
    (
        Direct::new(expression.syntax()).truth(action),
        expression.test(action),
    )
}

fn fits(direct: Truth, interpreter: &Result<bool, String>) -> bool {
    match direct {
        Truth::Open => true,
        Truth::Yes => *interpreter == Ok(true),
        Truth::No => *interpreter == Ok(false),
        Truth::Fails => interpreter.is_err(),
    }
}

#[test]
fn common_conditions_are_understood() {
    let cases = [
        ("args.amount <= 100", Truth::Yes),
        (
            "args.amount > 100 || args.to.endsWith('@example.com')",
            Truth::Yes,
        ),
        (
            "args['amount'] == 90.0 && args.list[0] == 'git'",
            Truth::Yes,
        ),
        ("args.rate < 1", Truth::No),
        ("args.missing == 1", Truth::Fails),
        ("has(args.missing) && args.missing == 1", Truth::No),
        ("has(args.to) ? args.to.contains('@') : false", Truth::Yes),
        ("args.missing == 1 || risk == 40", Truth::Yes),
        ("args.list[9] == 1", Truth::Fails),
        ("time > 0", Truth::Fails),
        ("('said:' + args.to) in labels", Truth::Yes),
        ("('said:' + args.to) in ['x']", Truth::No),
        ("['said:a', 'secret'].exists(w, w in labels)", Truth::Yes),
        ("labels.all(l, l.startsWith('said:'))", Truth::No),
        ("args.list.exists(a, a == 'push')", Truth::Yes),
        ("args.to.matches('^[a-z]+@')", Truth::Yes),
        ("size(args.list) == 7 && args.list.size() == 7", Truth::Yes),
        ("size(args.list[6]) == 1", Truth::Yes),
        (
            "args.amount + 10 == 100 && 10 - args.amount < 0",
            Truth::Yes,
        ),
        (
            "!(action in ['tool.call']) || session.interactive",
            Truth::Yes,
        ),
        (
            "subject == 'agent:a' && resource.startsWith('mcp:bank:')",
            Truth::Yes,
        ),
        ("args.huge > 5 && args.huge != -1", Truth::Yes),
        ("args.none == null && args.none != 1", Truth::Yes),
        ("args.amount", Truth::Fails),
    ];
    for (text, expected) in cases {
        let (direct, interpreter) = both_ways(text, &action());
        assert_eq!(direct, expected, "{text}");
        assert!(
            fits(direct, &interpreter),
            "{text}: {direct:?}, {interpreter:?}"
        );
    }
}

#[test]
fn names_with_something_to_escape_are_left_to_the_interpreter() {
    for (path, text) in [
        ("/a\nb", "resource == '/a\\\\nb'"),
        ("/ü", "resource == '/ü'"),
    ] {
        let action = Action::new(Subject::agent("a"), Verb::FileRead, Resource::path(path));
        assert_eq!(both_ways(text, &action), (Truth::Open, Ok(true)), "{path}");
    }
}

/// Expressions over everything that is understood, and some that is not; many of them mix types.
fn expression() -> impl Strategy<Value = String> {
    let literal = prop_oneof![
        Just("0"),
        Just("1"),
        Just("90"),
        Just("-1"),
        Just("1.5"),
        Just("7u"),
        Just("null"),
        Just("true"),
        Just("'git'"),
        Just("''"),
        Just("'bob@example.com'"),
        Just("'ü'"),
        Just("9223372036854775807"),
    ];
    let fact = prop_oneof![
        Just("args.amount"),
        Just("args.rate"),
        Just("args.huge"),
        Just("args.to"),
        Just("args.paid"),
        Just("args.none"),
        Just("args.list"),
        Just("args.in"),
        Just("args.in.amount"),
        Just("args.in.to"),
        Just("args.missing"),
        Just("args['to']"),
        Just("args.list[0]"),
        Just("args.list[2]"),
        Just("args.list[8]"),
        Just("args[1]"),
        Just("args"),
        Just("labels"),
        Just("risk"),
        Just("time"),
        Just("subject"),
        Just("action"),
        Just("resource"),
        Just("auth.method"),
        Just("session.name"),
        Just("session.interactive"),
        Just("has(args.to)"),
        Just("has(args.missing)"),
        Just("has(args.in.amount)"),
        Just("has(args.to.x)"),
        Just("[1, 'git', null]"),
        Just("[]"),
    ];
    let leaf = prop_oneof![literal, fact].prop_map(String::from);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop_oneof![
            Just("=="), Just("!="), Just("<"), Just("<="), Just(">"), Just(">="), Just("in"),
            Just("&&"), Just("||"), Just("+"), Just("-"),
        ];
        let method = prop_oneof![
            Just("startsWith"), Just("endsWith"), Just("contains"), Just("matches"),
        ];
        let list = prop_oneof![Just("args.list"), Just("labels"), Just("['git', 3]"), Just("args"), Just("[]")];
        let quantifier = prop_oneof![Just("exists"), Just("all"), Just("exists_one")];
        let body = prop_oneof![
            Just("v == 'git'"), Just("v in labels"), Just("v > 2"), Just("v == args.to"),
            Just("args.list.exists(w, w == v)"), Just("size(v) > 1"), Just("true"),
        ];
        prop_oneof![
            8 => (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            1 => (inner.clone(), method, inner.clone()).prop_map(|(a, m, b)| format!("{a}.{m}({b})")),
            1 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => inner.clone().prop_map(|a| format!("size({a})")),
            1 => (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (list, quantifier, body).prop_map(|(l, q, b)| format!("{l}.{q}(v, {b})")),
        ]
    })
}

#[test]
fn direct_evaluation_says_what_the_interpreter_says_or_nothing() {
    let mut bare = Action::new(Subject::agent("a"), Verb::FileRead, Resource::path("/git"));
    bare.facts.time = 1;
    let mut list = action();
    list.facts.args = json!(["git", 90, {"to": "x"}]);
    let actions = [action(), bare, list];
    let understood = std::cell::Cell::new((0u32, 0u32));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 6_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&expression(), |text| {
        // What cannot be meant is refused when it is loaded.
        let Ok(expression) = Expression::compile(&text, Wanted::Boolean) else {
            return Ok(());
        };
        let direct = Direct::new(expression.syntax());
        for action in &actions {
            let (truth, interpreter) = (direct.truth(action), expression.test(action));
            prop_assert!(
                fits(truth, &interpreter),
                "{text}: {truth:?}, {interpreter:?}"
            );
            let (said, open) = understood.get();
            understood.set(match truth {
                Truth::Open => (said, open + 1),
                _ => (said + 1, open),
            });
        }
        Ok(())
    });
    outcome.expect("both say the same");
    let (said, open) = understood.get();
    assert!(said > 1_000 && open > 100, "{said} said, {open} open");
}
