//! `agentwall policy replay`: on a ledger that the library wrote, with the entries a session writes.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use agentwall_action::{
    Action, Decision, Effect, ObjectKind, PathResource, Resource, Session, Subject, Verb,
};
use agentwall_ledger::{
    Entry, Log, LogOptions, Record,
    entry::{DecisionRecord, Exec, PolicyVariables, SessionEnd, SessionStart},
    key,
};
use support::{Host, harmless};

const ID: &str = "20261121-0259-k3f9";

fn action(host: &Host, verb: Verb, path: &str) -> Action {
    let resource = Resource::Path(PathResource {
        path: path.into(),
        kind: ObjectKind::File,
    });
    let mut action = Action::new(Subject::agent("coder"), verb, resource);
    action.facts.session = Session {
        id: ID.into(),
        name: "coder".into(),
        workspace: host.work.to_str().unwrap().into(),
        interactive: false,
    };
    action
}

fn decision(effect: Effect, rule: &str) -> Decision {
    Decision {
        effect,
        rule: Some(rule.into()),
        reason: "x".into(),
        hint: Default::default(),
        monitors: vec![],
        errors: vec![],
        policy: "ab".repeat(32),
    }
}

/// The ledger of one session: a read that was refused, one that was asked, a program.
fn host() -> Host {
    let host = Host::new();
    host.call(&["sessions"]).code(0); // makes the state folder
    let text = |path: &Path| Some(PolicyVariables::text(path));
    let start = SessionStart {
        name: "coder".into(),
        workspace: host.work.to_str().unwrap().into(),
        variables: Some(PolicyVariables {
            workspace: text(&host.work),
            home: text(&host.home),
            tmp: text(Path::new("/tmp")),
            state: text(&host.state),
        }),
        ..SessionStart::default()
    };
    let read = |path: &str, effect, rule| {
        let action = action(&host, Verb::FileRead, path);
        Record::Decision(DecisionRecord::new(
            &action,
            &decision(effect, rule),
            "broker",
        ))
    };
    let secret = host.home.join(".ssh/id\x1b[2J");
    let asked = host.work.join("ci/x");
    let mut git = action(&host, Verb::ProcessExec, "/opt/git");
    git.facts.args = serde_json::json!(["git", "push"]);
    let ran = DecisionRecord::new(&git, &decision(Effect::Allow, "tools"), "exec-check");
    let mut old = DecisionRecord::new(&git, &decision(Effect::Allow, "tools"), "exec-check");
    old.facts = None;
    let records = [
        Record::SessionStart(start),
        read(secret.to_str().unwrap(), Effect::Deny, "secrets"),
        read(asked.to_str().unwrap(), Effect::Ask, "careful"),
        Record::Exec(Exec::new(ran, &["git", "push"])),
        Record::Exec(Exec::new(old, &["git", "push"])),
        Record::SessionEnd(SessionEnd {
            exit: Some(0),
            allowed: [("file.read".to_owned(), 12)].into(),
            ..SessionEnd::default()
        }),
    ];
    let signer =
        key::load_or_create(&host.state.join("keys/ledger.key"), "agentwall.local/t").unwrap();
    let options = LogOptions {
        head: Some(host.state.join("keys/ledger.head")),
        ..LogOptions::default()
    };
    let log = Log::open_with(&host.state.join("ledger"), signer, options).unwrap();
    for (seq, record) in (0..).zip(records) {
        log.append(&Entry::now(ID, seq, record).to_bytes()).unwrap();
    }
    log.close().unwrap();
    host
}

/// The policy of that time.
const SAME: &str = "agentwall: 1
default: deny
rules:
  - { id: secrets, priority: 10, action: file.read, resource: '~/.ssh/**', effect: deny }
  - { id: careful, priority: 20, action: file.read, resource: '${workspace}/ci/**', effect: ask }
  - { id: tools, priority: 30, action: process.exec, resource: /opt/git, effect: allow }
";

#[test]
fn nothing_flips_under_the_same_policy_and_something_under_another() {
    let host = host();
    host.put("same.yaml", SAME);
    let said = host
        .call(&["policy", "replay", "--policy", "same.yaml"])
        .code(0);
    for wanted in [
        "3 of 4 decisions of 1 session replayed under same.yaml",
        "nothing flips",
        "1  written by an earlier version, without the facts",
        "#4",
        "12  plain allows, only counted: file.read 12",
    ] {
        assert!(said.out.contains(wanted), "{wanted}: {}", said.out);
    }
    host.put(
        "new.yaml",
        &SAME
            .replace("~/.ssh/**', effect: deny", "~/.ssh/**', effect: allow")
            .replace("effect: ask", "effect: deny")
            .replace("/opt/git", "/opt/*, when: 'args[1] != \"push\"'"),
    );
    let said = host
        .call(&["policy", "replay", "--policy", "new.yaml"])
        .code(1);
    harmless(&said.out);
    for wanted in [
        "3 flip: 2 newly denied, 1 newly allowed",
        "ask by careful -> deny by careful",
        "allow by tools -> deny by default",
        "deny by secrets -> allow by secrets",
        "/.ssh/id\\u{1b}[2J",
    ] {
        assert!(said.out.contains(wanted), "{wanted}: {}", said.out);
    }
    let json = host
        .call(&["policy", "replay", "--policy", "new.yaml", "--json"])
        .code(1)
        .json();
    assert_eq!(json["flips"], 3);
    assert_eq!(json["classes"]["newly_denied"], 2);
    assert_eq!(json["not_replayed"], 1);
    assert_eq!(json["reasons"][0]["first"][0], 4);
    assert_eq!(json["not_in_the_ledger"]["plain_allows"]["file.read"], 12);
    let first = &json["groups"][0];
    assert_eq!(first["class"], "newly_denied");
    assert!(first["examples"][0]["index"].is_u64(), "{json}");
    let lines = host
        .call(&[
            "policy", "replay", "--policy", "new.yaml", "--json", "--each",
        ])
        .code(1)
        .out;
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(
        (&lines[0]["index"], &lines[3]["index"]),
        (&1.into(), &4.into())
    );
    assert_eq!(lines[4]["summary"]["flips"], 3);
    harmless(
        &host
            .call(&["policy", "replay", "--policy", "new.yaml", "--each"])
            .code(1)
            .out,
    );
}

#[test]
fn sessions_are_selected_and_wrong_usage_is_told() {
    let host = host();
    host.put("same.yaml", SAME);
    let replay = |args: &[&str]| {
        let mut all = vec!["policy", "replay", "--policy", "same.yaml"];
        all.extend(args);
        host.call(&all)
    };
    for session in [ID, "k3f9", "coder", "20261121"] {
        assert!(
            replay(&["--session", session])
                .code(0)
                .out
                .contains("3 of 4")
        );
    }
    let said = replay(&["--session", "coder", "nobody"]).code(2);
    assert!(said.err.contains("'nobody'"), "{}", said.err);
    host.call(&["policy", "replay"]).code(2);
    let said = host
        .call(&["policy", "replay", "--policy", "absent.yaml"])
        .code(1);
    assert!(said.err.contains("absent.yaml"), "{}", said.err);
    host.put("bad.yaml", "agentwall: 2\n");
    let said = host
        .call(&["policy", "replay", "--policy", "bad.yaml"])
        .code(1);
    assert!(said.err.contains("bad.yaml:1"), "{}", said.err);
}

#[test]
fn a_ledger_that_does_not_verify_is_not_replayed() {
    let host = host();
    host.put("same.yaml", SAME);
    let copy = host.tmp.path().join("copy");
    let status = std::process::Command::new("cp")
        .args([
            "-a".as_ref(),
            host.state.join("ledger").as_os_str(),
            copy.as_os_str(),
        ])
        .status();
    assert!(status.unwrap().success());
    let key = host.call(&["ledger", "key"]).code(0).out;
    let elsewhere = |key: &str| {
        let ledger = copy.to_str().unwrap();
        host.call(&[
            "policy",
            "replay",
            "--policy",
            "same.yaml",
            "--ledger",
            ledger,
            "--key",
            key,
        ])
    };
    elsewhere(key.trim()).code(0);
    let other = key::generate("agentwall.local/t")
        .unwrap()
        .verifier()
        .to_string();
    let said = elsewhere(&other).code(1);
    assert!(said.err.contains("does not verify"), "{}", said.err);
    let file = host.state.join("ledger/tile/entries/000.p/6");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let said = host
        .call(&["policy", "replay", "--policy", "same.yaml"])
        .code(1);
    assert!(
        said.err.contains("does not verify") && said.out.is_empty(),
        "{}",
        said.all()
    );
    let empty = Host::new();
    empty.put("same.yaml", SAME);
    let said = empty
        .call(&["policy", "replay", "--policy", "same.yaml"])
        .code(1);
    assert!(said.err.contains("no ledger yet"), "{}", said.err);
}
