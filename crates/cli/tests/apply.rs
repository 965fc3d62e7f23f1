//! `agentwall policy apply` as a person sees it, its supervisor played by the test.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use support::{Host, harmless, supervisor};

const POLICY: &str = "agentwall: 1\ndefault: deny\n";

#[test]
fn a_change_is_asked_for_with_the_file_and_told() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    host.put("p.yaml", POLICY);
    let applied = json!({"applied": {
        "session": "20261121-0259-k3f9", "old": "0".repeat(64), "new": "1".repeat(64), "rules": 2,
        "sources": ["/p\u{1b}[2J.yaml"], "acknowledged_us": 7,
    }});
    let same = json!({"applied": {
        "session": "20261121-0259-k3f9", "old": "1".repeat(64), "new": "1".repeat(64),
        "sources": ["p.yaml"],
    }});
    let (_lock, thread) = supervisor(&session, vec![applied.clone(), applied, same]);
    let said = host
        .call(&["policy", "apply", "--policy", "p.yaml"])
        .code(0);
    harmless(&said.all());
    for part in ["111111111111 ", "2 rules", "in place of 000000000000"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let json = host
        .call(&["policy", "apply", "k3f9", "--json"])
        .code(0)
        .json();
    assert_eq!(json["applied"], true);
    assert_eq!(json["acknowledged_us"], 7);
    let said = host.call(&["policy", "apply", "agent"]).code(0);
    assert!(said.out.contains("in force already"), "{}", said.out);
    let requests = thread.join().unwrap();
    let policy = &requests[0]["apply"]["policy"];
    assert_eq!(policy["text"], POLICY);
    assert_eq!(policy["name"], host.work.join("p.yaml").to_str().unwrap());
    // Without a file, the session's own are read again: by who knows which.
    assert_eq!(requests[1], json!({"apply": {"policy": null}}));
}

#[test]
fn a_refusal_tells_what_differs_and_the_next_step() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    let differs = json!({"differs": ["/w/\u{1b}[2Ja: is to be hidden, and is seen", "it gives other devices"]});
    let report = json!({"error": {"text": "error: unknown key 'x\u{202e}'\n --> p.yaml:1:1"}});
    let odd = json!({"done": {"text": "?"}});
    let answers = vec![differs.clone(), differs, report.clone(), report, odd];
    let (_lock, thread) = supervisor(&session, answers);
    let said = host.call(&["policy", "apply"]).code(1);
    harmless(&said.all());
    for part in [
        "is to be hidden",
        "other devices",
        "nothing was changed",
        "new session",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let json = host.call(&["policy", "apply", "--json"]).code(1).json();
    assert_eq!(json["applied"], false);
    assert_eq!(json["differences"][1], "it gives other devices");
    let said = host.call(&["policy", "apply"]).code(1);
    harmless(&said.all());
    assert!(said.err.contains("unknown key") && said.err.contains("\n --> p.yaml:1:1"));
    let json = host.call(&["policy", "apply", "--json"]).code(1).json();
    assert!(json["error"].as_str().unwrap().contains("unknown key"));
    let said = host.call(&["policy", "apply"]).code(1);
    assert!(said.err.contains("answered something else"), "{}", said.err);
    thread.join().unwrap();
}

#[test]
fn without_the_one_session_nothing_is_asked() {
    let host = Host::new();
    let none = host.call(&["policy", "apply"]).code(1);
    assert!(
        none.err.contains("no session runs in the workspace"),
        "{}",
        none.err
    );
    let first = host.session("20261121-0259-k3f9", "agent");
    let ended = host.call(&["policy", "apply", "k3f9"]).code(1);
    assert!(ended.err.contains("has ended"), "{}", ended.err);
    let second = host.session("20261121-0300-m2p7", "agent");
    let _locks = [supervisor(&first, vec![]).0, supervisor(&second, vec![]).0];
    let many = host.call(&["policy", "apply"]).code(1);
    for part in ["2 sessions run", "k3f9", "m2p7", "name the one"] {
        assert!(many.err.contains(part), "{part}: {}", many.err);
    }
    let missing = host.call(&["policy", "apply", "k3f9", "--policy", "nothere.yaml"]);
    let missing = missing.code(1);
    assert!(
        missing.err.contains("cannot read the policy"),
        "{}",
        missing.err
    );
    host.call(&["policy", "apply", "--bad"]).code(2);
    let help = host.call(&["policy", "apply", "--help"]).code(0).out;
    for part in ["Examples", "What can change", "Exit status"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
