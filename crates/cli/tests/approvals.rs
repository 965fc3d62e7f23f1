//! Questions and answers between a person's commands and a supervisor, played by the test.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Host, harmless, supervisor};

fn ask() -> Value {
    json!({
        "id": "k3f9-1", "session": "20261121-0259-k3f9", "name": "agent",
        "action": {
            "subject": "agent:agent", "verb": "process.exec",
            "resource": {"path": {"path": "/usr/bin/factor\u{1b}[2J", "kind": "file"}},
            "facts": {"args": ["factor", "8051", "two words"]},
        },
        "decision": {
            "effect": "ask", "rule": "ask-factor", "reason": "Numbers are private\u{202e}.",
            "policy": "abcd",
        },
        "exe": "/usr/bin/bash", "pid": 42, "since_ms": 1, "expires_ms": 2, "digest": "d1g357",
    })
}

#[test]
fn a_question_shows_everything_it_binds_and_is_answered() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    assert!(
        host.call(&["pending"])
            .code(0)
            .out
            .contains("no questions wait")
    );
    let pending = json!({"pending": [ask()]});
    let (_lock, thread) = supervisor(
        &session,
        vec![
            pending.clone(),
            pending,
            json!({"done": {"text": "approved\u{1b}[2J"}}),
            json!({"done": {"text": "approved"}}),
            json!({"done": {"text": "rejected"}}),
            json!({"error": {"text": "the pattern is too wide"}}),
        ],
    );
    let text = host.call(&["pending"]).code(0).out;
    harmless(&text);
    for wanted in [
        "k3f9-1",
        "process.exec",
        "/usr/bin/factor",
        "factor 8051 'two words'",
        "/usr/bin/bash",
        "ask-factor",
        "Numbers are private",
        "d1g357",
        "abcd",
        "expires in",
        "agentwall approve k3f9-1",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let json = host.call(&["pending", "--json"]).code(0).json();
    assert_eq!(json[0]["id"], "k3f9-1");
    harmless(&host.call(&["approve", "k3f9-1"]).code(0).all());
    host.call(&["approve", "k3f9-1", "--for", "/usr/bin/fac*"])
        .code(0);
    host.call(&["reject", "k3f9-1", "--reason", "no"]).code(0);
    let refused = host
        .call(&["approve", "k3f9-1", "--for", "session"])
        .code(1);
    assert!(refused.err.contains("too wide"), "{}", refused.err);
    let requests = thread.join().unwrap();
    assert_eq!(
        requests[2],
        json!({"approve": {"id": "k3f9-1", "scope": "once"}})
    );
    assert_eq!(
        requests[3]["approve"]["scope"],
        json!({"pattern": "/usr/bin/fac*"})
    );
    assert_eq!(
        requests[4],
        json!({"reject": {"id": "k3f9-1", "reason": "no"}})
    );
    assert_eq!(requests[5]["approve"]["scope"], "session");
}

#[test]
fn wrong_ids_name_the_next_step() {
    let host = Host::new();
    host.session("20261121-0259-k3f9", "agent");
    for (id, wanted) in [
        ("nonsense", "agentwall pending"),
        ("zzzz-1", "no session asked"),
        ("k3f9-1", "has ended"),
        ("\x1b[2J-x", "agentwall pending"),
    ] {
        for command in ["approve", "reject"] {
            let said = host.call(&[command, id]).code(1);
            harmless(&said.err);
            assert!(said.err.contains(wanted), "{id}: {}", said.err);
        }
    }
    host.call(&["approve"]).code(2);
    host.call(&["approve", "k3f9-1", "--for", ""]).code(2);
}
