//! `agentwall policy decide`: a face for other programs.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Stdio},
};

use serde_json::{Value, json};
use support::{Host, harmless};

const POLICY: &str = r#"agentwall: 1
default: deny
rules:
  - id: colleagues
    priority: 10
    action: tool.call
    resource: send_email
    when: args.recipients.all(r, r.endsWith("@example.org")) || "trusted" in labels
    effect: allow
  - id: other-mail
    priority: 20
    action: tool.call
    resource: send_email
    effect: ask
    reason: Mail leaves the company.
    hint: { next: ask-user, text: Ask first. }
  - id: notes
    action: file.read
    resource: ${workspace}/notes/**
    effect: allow
  - id: web
    action: net.connect
    resource: tcp://example.org:443
    effect: allow
  - id: person
    action: tool.call
    resource: night
    when: session.interactive && auth.method == "oauth" && time == 7 && risk < 50 && subject == "agent:x"
    effect: allow
"#;

fn start(host: &Host) -> Child {
    host.put("policy.yaml", POLICY);
    let mut command = host.command(&["policy", "decide", "--policy", "policy.yaml"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

/// What comes out for these lines, and the exit status.
fn decide(host: &Host, lines: &[u8]) -> (Vec<Value>, i32) {
    let mut child = start(host);
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    harmless(&text);
    assert_eq!(out.stderr, b"");
    let answers = text.lines().map(|l| serde_json::from_str(l).unwrap());
    (answers.collect(), out.status.code().unwrap())
}

#[test]
fn each_line_is_answered_before_the_next_is_written() {
    let host = Host::new();
    let mut child = start(&host);
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut ask = |action: Value| -> Value {
        writeln!(input, "{action}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let mail = |to: &str| {
        json!({"subject": "agent:x", "action": "tool.call", "resource": "send_email",
               "args": {"recipients": [to]}})
    };
    let inside = ask(mail("a@example.org"));
    assert_eq!(
        json!([inside["line"], inside["effect"], inside["rule"]]),
        json!([1, "allow", "colleagues"])
    );
    let outside = ask(mail("a@example.org.evil.net"));
    assert_eq!(
        json!([
            outside["line"],
            outside["effect"],
            outside["reason"],
            outside["hint"]
        ]),
        json!([2, "ask", "Mail leaves the company.", {"next": "ask-user", "text": "Ask first."}])
    );
    let mut labelled = mail("b@elsewhere.net");
    labelled["labels"] = json!(["trusted"]);
    assert_eq!(ask(labelled)["effect"], "allow");
    // No argument to look at: the rule does not apply, and the answer says why.
    let bare = ask(json!({"verb": "tool.call", "resource": "send_email"}));
    assert_eq!(
        json!([bare["effect"], bare["rule"]]),
        json!(["ask", "other-mail"])
    );
    assert!(
        bare["errors"][0]
            .as_str()
            .unwrap()
            .starts_with("colleagues: "),
        "{bare}"
    );
    let unknown = ask(json!({"action": "tool.call", "resource": "delete_all"}));
    assert_eq!(
        json!([unknown["effect"], unknown["rule"]]),
        json!(["deny", null])
    );
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn it_answers_as_explain_does() {
    let host = Host::new();
    host.put("notes/real", "x");
    std::os::unix::fs::symlink("notes/real", host.work.join("link")).unwrap();
    let path = host.work.join("notes/../notes/real");
    for (verb, resource, effect) in [
        ("file.read", "link", "allow"),
        ("file.read", path.to_str().unwrap(), "allow"),
        ("file.read", "~/x", "deny"),
        ("file.write", "notes/real", "deny"),
        ("tool.call", "send_email", "allow"),
        ("net.connect", "tcp://Example.org.:443", "allow"),
        // A name is resolved for the connections that are allowed to it.
        ("dns.resolve", "dns:example.org", "allow"),
        ("dns.resolve", "example.net", "deny"),
    ] {
        let line = json!({"action": verb, "resource": resource, "args": {"recipients": []}});
        let (answers, code) = decide(&host, line.to_string().as_bytes());
        assert_eq!((answers.len(), code), (1, 0));
        let mut decision = answers[0].clone();
        assert_eq!(decision["line"], 1);
        decision.as_object_mut().unwrap().remove("line");
        let explained = host
            .call(&[
                "policy",
                "explain",
                "--policy",
                "policy.yaml",
                "--json",
                "--args",
                r#"{"recipients":[]}"#,
                verb,
                resource,
            ])
            .code(0)
            .json();
        assert_eq!(explained["decision"], decision, "{verb} {resource}");
        assert_eq!(decision["effect"], effect, "{verb} {resource}");
    }
}

#[test]
fn every_fact_reaches_the_rules() {
    let host = Host::new();
    let full = json!({"subject": "agent:x", "action": "tool.call", "resource": "night",
        "session": {"interactive": true}, "auth": {"method": "oauth"}, "time": 7, "risk": 49});
    let mut lines = format!("{full}\n");
    for (key, other) in [
        ("subject", json!("agent:y")),
        ("session", json!({"interactive": false})),
        ("auth", json!({"method": ""})),
        ("time", json!(8)),
        ("risk", json!(50)),
    ] {
        let mut changed = full.clone();
        changed[key] = other;
        lines.push_str(&format!("{changed}\n"));
    }
    let (answers, code) = decide(&host, lines.as_bytes());
    let effects: Vec<&Value> = answers.iter().map(|a| &a["effect"]).collect();
    assert_eq!(
        effects,
        ["allow", "deny", "deny", "deny", "deny", "deny"],
        "{answers:?}"
    );
    assert_eq!(code, 0);
}

#[test]
fn a_bad_line_has_an_error_and_its_number_and_the_rest_goes_on() {
    let host = Host::new();
    let good = r#"{"action":"tool.call","resource":"send_email"}"#;
    let bad: &[(&[u8], &str)] = &[
        (b"", "no JSON object"),
        (b"[\"agent:x\",\"tool.call\",\"a\"]", "no JSON object"),
        (b"{", "not an action"),
        (b"{} {}", "not an action"),
        (b"{\"action\":\"tool.call\"}", "resource"),
        (b"{\"action\":\"tool.cal\",\"resource\":\"a\"}", "tool.call"),
        (b"{\"action\":\"net.connect\",\"resource\":\"a\"}", "tcp://"),
        (
            b"{\"action\":\"tool.call\",\"resource\":\"a\",\"arg\":{}}",
            "arg",
        ),
        (
            b"{\"action\":\"tool.call\",\"resource\":\"a\",\"args\":{\"x\":1,\"x\":2}}",
            "twice",
        ),
        (
            b"{\"action\":\"tool.call\",\"verb\":\"tool.call\",\"resource\":\"a\"}",
            "duplicate",
        ),
        (
            b"{\"action\":\"tool.call\",\"resource\":\"a\",\"session\":{\"nam\":\"x\"}}",
            "unknown field 'nam'",
        ),
        (
            b"{\"action\":\"tool.call\",\"resource\":\"a\",\"auth\":[\"oauth\"]}",
            "object",
        ),
        (
            b"{\"action\":\"tool.call\",\"resource\":\"a\",\"risk\":101}",
            "0 to 100",
        ),
        (
            b"{\"action\":\"tool.call\",\"resource\":\"\xff\"}",
            "not an action",
        ),
        (
            b"{\"action\":\"\\u001b[2J\\u202e\",\"resource\":\"a\"}",
            "unknown action",
        ),
    ];
    let mut lines = Vec::new();
    for (line, _) in bad {
        lines.extend_from_slice(line);
        lines.push(b'\n');
    }
    lines.extend_from_slice(good.as_bytes()); // the last line needs no end
    let (answers, code) = decide(&host, &lines);
    assert_eq!((answers.len(), code), (bad.len() + 1, 1));
    for (number, ((line, wanted), answer)) in bad.iter().zip(&answers).enumerate() {
        let line = String::from_utf8_lossy(line);
        assert_eq!(answer["line"], number as u64 + 1, "{line}");
        assert_eq!(answer.get("effect"), None, "{line}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(wanted), "{line}: {error}");
    }
    assert_eq!(answers[bad.len()]["effect"], "ask");
}

#[test]
fn without_a_policy_nothing_is_decided() {
    let host = Host::new();
    let none = host.call(&["policy", "decide"]).code(1);
    assert!(
        none.err.contains("agentwall init") && none.out.is_empty(),
        "{}",
        none.err
    );
    host.put("policy.yaml", POLICY);
    let nothing = host
        .call(&["policy", "decide", "--policy", "policy.yaml"])
        .code(0);
    assert!(nothing.out.is_empty());
    host.call(&["policy", "decide", "--polcy", "x"]).code(2);
    let help = host.call(&["policy", "decide", "--help"]).code(0).out;
    assert!(
        help.contains("Examples:") && help.contains("refusal"),
        "{help}"
    );
}
