//! `agentwall ledger erase`, and what proofs open: on a ledger that the library wrote, with the entries a session
//! writes.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use agentwall_ledger::{
    Entry, Log, LogOptions, Record, TextFolders,
    entry::{Mask, PolicyVariables, Redaction, SessionEnd, SessionStart, User},
    key,
};
use serde_json::Value;
use support::Host;

const ONE: &str = "20261121-0259-k3f9";
const TWO: &str = "20261121-0301-p7qx";

fn open(host: &Host, text: bool) -> Log {
    let signer =
        key::load_or_create(&host.state.join("keys/ledger.key"), "agentwall.local/t").unwrap();
    let options = LogOptions {
        head: Some(host.state.join("keys/ledger.head")),
        text: text.then(|| TextFolders {
            values: host.state.join("values"),
            subjects: host.state.join("keys/subjects"),
        }),
        ..LogOptions::default()
    };
    Log::open_with(&host.state.join("ledger"), signer, options).unwrap()
}

fn records(host: &Host, agent: &str) -> Vec<Record> {
    let text = |path: &Path| Some(PolicyVariables::text(path));
    vec![
        Record::SessionStart(SessionStart {
            name: agent.into(),
            command: vec![format!("secret-command-{agent}")],
            workspace: host.work.to_str().unwrap().into(),
            user: User {
                uid: 4711,
                name: format!("person-{agent}"),
            },
            variables: Some(PolicyVariables {
                workspace: text(&host.work),
                home: text(&host.home),
                ..Default::default()
            }),
            ..SessionStart::default()
        }),
        Record::Mask(Mask {
            path: format!("/home/u/secret-path-{agent}"),
            rule: Some("keys".into()),
        }),
        Record::SessionEnd(SessionEnd::default()),
    ]
}

fn put(log: &Log, session: &str, first: u64, records: Vec<Record>) {
    for (seq, record) in (first..).zip(records) {
        log.append(&Entry::now(session, seq, record).to_bytes())
            .unwrap();
    }
}

/// Two sessions of three entries each.
fn host() -> Host {
    let host = Host::new();
    host.call(&["sessions"]).code(0); // makes the state folder
    let log = open(&host, true);
    put(&log, ONE, 0, records(&host, "coder"));
    put(&log, TWO, 0, records(&host, "writer"));
    log.close().unwrap();
    host
}

/// All entries but those that say who has read them.
fn shown(host: &Host) -> Vec<Value> {
    let out = host.call(&["ledger", "show", "--json"]).code(0).out;
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|entry: &Value| entry["type"] != "access")
        .collect()
}

fn verifies(host: &Host) {
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn a_session_is_erased_and_the_ledger_verifies() {
    let host = host();
    assert_eq!(shown(&host)[1]["path"], "/home/u/secret-path-coder");
    // Not without a word, not what is not there, not two things at once.
    host.call(&["ledger", "erase", "--session", "k3f9"]).code(2);
    host.call(&["ledger", "erase"]).code(2);
    host.call(&["ledger", "erase", "--session", "nobody", "--yes"])
        .code(2);
    host.call(&["ledger", "erase", "--session", "k3f9", "--agent", "coder"])
        .code(2);
    host.call(&["ledger", "erase", "--entry", "99", "--yes"])
        .code(2);
    // Both sessions have this beginning.
    host.call(&["ledger", "erase", "--session", "20261121", "--yes"])
        .code(2);
    host.call(&["ledger", "erase", "--session", "k3f9", "--dry-run"])
        .code(0);
    assert_eq!(shown(&host).len(), 6);
    assert_eq!(shown(&host)[1]["path"], "/home/u/secret-path-coder");

    let basis = ["--basis", "asked for it", "--yes", "--json"];
    let out = host.call(&[&["ledger", "erase", "--session", "k3f9"][..], &basis].concat());
    let told: Value = serde_json::from_str(&out.code(0).out).unwrap();
    assert_eq!(told["texts"], 2);
    assert_eq!(told["redactions"], serde_json::json!([7]));
    let entries = shown(&host);
    assert_eq!(entries.len(), 7);
    let why = "its text was erased, see entry 7";
    assert_eq!(entries[0]["withheld"], why);
    assert_eq!(entries[1]["withheld"], why);
    assert!(entries[1]["path"]["c"].is_string());
    assert_eq!(entries[1]["rule"], "keys");
    assert_eq!(entries[2]["type"], "session_end");
    assert_eq!(entries[4]["path"], "/home/u/secret-path-writer");
    assert_eq!(entries[6]["basis"], "asked for it");
    assert_eq!(entries[6]["sessions"], serde_json::json!([ONE]));
    let text = host.call(&["ledger", "show"]).code(0).out;
    assert!(text.contains("its text was erased, see entry 7"), "{text}");
    assert!(!text.contains("coder"), "{text}");
    verifies(&host);
    assert!(
        !host
            .state
            .join("keys/subjects")
            .join(format!("{ONE}.key"))
            .exists()
    );
    // All that reads the ledger goes on.
    host.call(&["ledger", "timeline", "p7qx"]).code(0);
    host.call(&["ledger", "timeline", "k3f9"]).code(0);
    let exported = host
        .call(&["ledger", "export", "--format", "ocsf"])
        .code(0)
        .out;
    assert!(exported.lines().count() >= 7, "{exported}");
    // Once more is nothing more.
    host.call(&["ledger", "erase", "--session", "k3f9", "--yes"])
        .code(0);
    assert_eq!(shown(&host).len(), 7);
}

#[test]
fn agents_and_users_are_found_by_what_their_starts_say() {
    for (option, value, erased) in [
        ("--agent", "writer", vec![3, 4]),
        ("--user", "person-coder", vec![0, 1]),
        ("--user", "4711", vec![0, 1, 3, 4]),
    ] {
        let host = host();
        host.call(&["ledger", "erase", option, value, "--yes"])
            .code(0);
        let gone: Vec<usize> = shown(&host)
            .iter()
            .enumerate()
            .filter(|(_, e)| e["withheld"].is_string())
            .map(|(i, _)| i)
            .collect();
        assert_eq!(gone, erased, "{option} {value}");
        verifies(&host);
    }
}

#[test]
fn a_session_that_runs_is_not_erased() {
    let host = host();
    let log = open(&host, true);
    put(&log, ONE, 3, vec![Record::Mask(Mask::default())]);
    let refused = host
        .call(&["ledger", "erase", "--agent", "coder", "--yes"])
        .code(1);
    assert!(refused.err.contains("still runs"), "{}", refused.err);
    host.call(&["ledger", "erase", "--entry", "1", "--yes"])
        .code(1);
    assert_eq!(shown(&host).len(), 7);
    assert_eq!(shown(&host)[1]["path"], "/home/u/secret-path-coder");
    // The other one does not run.
    host.call(&["ledger", "erase", "--agent", "writer", "--yes"])
        .code(0);
    log.close().unwrap();
    host.call(&["ledger", "erase", "--agent", "coder", "--yes"])
        .code(0);
    verifies(&host);
}

/// Recorded, and killed before anything was destroyed; and between writing over the key and removing it.
#[test]
fn an_erasure_that_was_cut_off_is_finished_without_another_record() {
    for half_destroyed in [false, true] {
        let host = host();
        let redaction = Redaction {
            sessions: vec![ONE.into()],
            entries: vec![4],
            ..Redaction::default()
        };
        let log = open(&host, true);
        put(&log, "erasure", 0, vec![Record::Redaction(redaction)]);
        log.close().unwrap();
        let key = host.state.join("keys/subjects").join(format!("{ONE}.key"));
        if half_destroyed {
            fs::write(&key, [0; 32]).unwrap();
        }
        host.call(&["ledger", "erase", "--session", "k3f9", "--yes"])
            .code(0);
        host.call(&["ledger", "erase", "--entry", "4", "--yes"])
            .code(0);
        assert!(!key.exists());
        let entries = shown(&host);
        assert_eq!(entries.len(), 7, "{half_destroyed}");
        for erased in [0, 1, 4] {
            assert_eq!(
                entries[erased]["withheld"],
                "its text was erased, see entry 6"
            );
        }
        assert!(entries[3]["withheld"].is_null());
        verifies(&host);
    }
}

#[test]
fn one_entry_is_erased_and_its_neighbours_stay() {
    let host = host();
    host.call(&["ledger", "erase", "--entry", "1", "--entry", "3", "--yes"])
        .code(0);
    let gone = |e: &Value| e["withheld"].is_string();
    let gone: Vec<bool> = shown(&host).iter().map(gone).collect();
    assert_eq!(gone, [false, true, false, true, false, false, false]);
    verifies(&host);
    // What is erased cannot be opened, what is not can.
    let refused = host
        .call(&["ledger", "prove", "1", "--open", "path"])
        .code(1);
    assert!(
        refused.err.contains("its text was erased, see entry 6"),
        "{}",
        refused.err
    );
    host.call(&["ledger", "prove", "1"]).code(0);
    host.call(&["ledger", "prove", "4", "--open", "path"])
        .code(0);
}

/// Text of an earlier version stands in the log: that is said.
#[test]
fn what_is_in_the_log_itself_cannot_be_erased() {
    let host = Host::new();
    host.call(&["sessions"]).code(0);
    let log = open(&host, false);
    put(&log, ONE, 0, records(&host, "coder"));
    log.close().unwrap();
    let out = host
        .call(&["ledger", "erase", "--session", "k3f9", "--yes"])
        .code(0);
    assert!(
        out.err
            .contains("3 of these entries are of an earlier version"),
        "{}",
        out.err
    );
    assert_eq!(shown(&host)[1]["path"], "/home/u/secret-path-coder");
    assert_eq!(shown(&host).len(), 3);
}

#[test]
fn a_proof_opens_what_is_asked_for_and_nothing_else() {
    let host = host();
    let vkey = host.call(&["ledger", "key"]).code(0).out.trim().to_owned();
    let file = host.work.join("0.tlog-proof");
    let check = |proof: &str| {
        fs::write(&file, proof).unwrap();
        host.call(&[
            "ledger",
            "verify",
            file.to_str().unwrap(),
            "--key",
            &vkey,
            "--json",
        ])
    };
    let plain = host.call(&["ledger", "prove", "0"]).code(0).out;
    let told: Value = serde_json::from_str(&check(&plain).code(0).out).unwrap();
    assert_eq!(told["opened"], serde_json::json!({}));
    let proof = host.call(&[
        "ledger",
        "prove",
        "0",
        "--open",
        "variables",
        "--open",
        "user/name",
    ]);
    let proof = proof.code(0).out;
    let told: Value = serde_json::from_str(&check(&proof).code(0).out).unwrap();
    let opened = told["opened"].as_object().unwrap();
    let fields: Vec<&str> = opened.keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        ["/user/name", "/variables/home", "/variables/workspace"]
    );
    assert_eq!(opened["/user/name"], "person-coder");
    assert!(
        told["entry"]["command"][0]["c"].is_string(),
        "the rest stays closed"
    );
    let all = host
        .call(&["ledger", "prove", "0", "--open-all"])
        .code(0)
        .out;
    let told: Value = serde_json::from_str(&check(&all).code(0).out).unwrap();
    assert_eq!(told["opened"]["/command/0"], "secret-command-coder");
    // A field that is not there, or needs no opening.
    host.call(&["ledger", "prove", "0", "--open", "nothing"])
        .code(2);
    host.call(&["ledger", "prove", "1", "--open", "rule"])
        .code(2);
    host.call(&["ledger", "prove", "1", "--open", "pat"])
        .code(2);

    // A forger changes the opened value, or opens a field of another entry.
    let line = proof
        .lines()
        .find_map(|l| l.strip_prefix("extra "))
        .unwrap();
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let extra = String::from_utf8(STANDARD.decode(line).unwrap()).unwrap();
    let forge = |from: &str, to: &str| {
        let forged = extra.replace(from, to);
        assert_ne!(forged, extra);
        proof.replace(line, &STANDARD.encode(forged))
    };
    for (from, to, why) in [
        (
            "person-coder",
            "person-other",
            "not the one that the entry commits to",
        ),
        (
            "/user/name",
            "/workspace",
            "not the one that the entry commits to",
        ),
        ("/user/name", "/nothing", "no such field"),
        ("\"salt\":\"", "\"salt\":\"A", "the salt is not 32 bytes"),
        ("\n[", "\n[x", "not in the form of a proof"),
        ("\"uid\":4711", "\"uid\":4712", "does not lead to"),
    ] {
        let refused = check(&forge(from, to)).code(1);
        if from != "\"uid\":4711" {
            assert!(refused.err.contains(why), "{from}: {}", refused.err);
        }
    }
}
