//! Taking back a commit, and what the ledger says about it and about commits that were cut off.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{Host, harmless, on_terminal};

fn outcomes(host: &Host, kind: &str) -> Vec<String> {
    let words = |e: Value| {
        let outcome = e["outcome"].as_object().unwrap().clone();
        let each = outcome.iter().map(|(word, n)| format!("{word} {n}"));
        each.collect::<Vec<_>>().join(", ")
    };
    host.ledger(kind).into_iter().map(words).collect()
}

fn committed(host: &Host) -> support::Made {
    host.put("old.txt", "one\n");
    host.put("gone.txt", "bye\n");
    host.put("dir/deep.txt", "deep\n");
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("old.txt", "two\n");
    session.write("new/made.txt", "new\n");
    session.delete("gone.txt");
    session.delete("dir/deep.txt");
    host.call(&["commit"]).code(0);
    assert_eq!(host.read("old.txt").unwrap(), "two\n");
    session
}

#[test]
fn a_commit_is_taken_back_recorded_and_shown_again() {
    let host = Host::new();
    committed(&host);
    let plan = host.call(&["undo", "--dry-run"]).code(0).out;
    assert!(
        plan.contains("ready") && plan.contains("5 can be undone"),
        "{plan}"
    );
    assert_eq!(host.read("old.txt").unwrap(), "two\n");
    assert!(host.ledger("undo").is_empty());

    let said = host.call(&["undo", "--json"]).code(0);
    let json = said.json();
    let changes = json["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 5, "{json}");
    assert!(changes.iter().all(|c| c["status"] == "undone"), "{json}");
    assert_eq!(host.read("old.txt").unwrap(), "one\n");
    assert_eq!(host.read("gone.txt").unwrap(), "bye\n");
    assert_eq!(host.read("dir/deep.txt").unwrap(), "deep\n");
    assert!(!host.work.join("new").exists());
    let diff = host.call(&["diff"]).code(0).out;
    assert!(
        diff.contains("M  old.txt") && diff.contains("D  gone.txt"),
        "{diff}"
    );
    assert!(host.call(&["sessions"]).out.contains("kept"));

    assert_eq!(outcomes(&host, "undo"), ["planned 5", "undone 5"]);
    let done = &host.ledger("undo")[1];
    let commit = &host.ledger("commit")[1];
    let file = |entry: &Value| {
        let files = entry["files"].as_array().unwrap().clone();
        let is = |f: &Value| f["path"].as_str().unwrap().ends_with("old.txt");
        files.into_iter().find(is).unwrap()
    };
    // What the commit wrote is what the undo took away, and the other way round.
    assert_eq!(file(done)["sha256"], file(commit)["old_sha256"]);
    assert_eq!(file(done)["old_sha256"], file(commit)["sha256"]);
    let text = host.call(&["ledger", "show", "--type", "undo"]).code(0).out;
    harmless(&text);
    assert!(text.contains("undo, 5 undone"), "{text}");
    host.call(&["ledger", "verify"]).code(0);

    let none = host.call(&["undo"]).code(1);
    assert!(none.err.contains("nothing to undo"), "{}", none.err);
    let none = host.call(&["undo", "--json"]).code(1).json();
    assert_eq!(none["nothing"]["why"], "no_commit");
    host.call(&["commit"]).code(0);
    assert_eq!(host.read("new/made.txt").unwrap(), "new\n");
    host.call(&["undo", "k3f9", "--yes"]).code(0);
    assert_eq!(host.read("old.txt").unwrap(), "one\n");
}

#[test]
fn what_changed_since_stays_and_the_rest_goes_only_when_asked() {
    let host = Host::new();
    committed(&host);
    host.put("old.txt", "PERSON\n");
    for args in [&["undo"][..], &["undo", "--dry-run"], &["undo", "--json"]] {
        let said = host.call(args).code(1);
        assert!(
            said.out.contains("changed after the commit"),
            "{}",
            said.all()
        );
        assert_eq!(host.read("old.txt").unwrap(), "PERSON\n");
        assert!(!host.work.join("gone.txt").exists(), "nothing is undone");
    }
    assert!(host.ledger("undo").is_empty());
    assert!(host.call(&["undo"]).err.contains("--partial"));
    let said = host.call(&["undo", "--partial"]).code(0);
    assert!(said.out.contains("4 undone, 1 in conflict"), "{}", said.out);
    assert_eq!(host.read("old.txt").unwrap(), "PERSON\n");
    assert_eq!(host.read("gone.txt").unwrap(), "bye\n");
    assert_eq!(
        outcomes(&host, "undo"),
        ["planned 4", "conflict 1", "undone 4"]
    );
    assert!(host.call(&["sessions"]).out.contains("partly"));
}

#[test]
fn a_person_on_a_terminal_is_asked() {
    let host = Host::new();
    committed(&host);
    let said = on_terminal(&host, &["undo"], "n\n");
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.out.contains("take back 5 changes?"), "{}", said.out);
    assert_eq!(host.read("old.txt").unwrap(), "two\n");
    assert_eq!(on_terminal(&host, &["undo"], "y\n").code, 0);
    assert_eq!(host.read("old.txt").unwrap(), "one\n");
}

#[test]
fn originals_are_given_up_on_request_and_wrong_usage_is_told() {
    let host = Host::new();
    let session = committed(&host);
    for wrong in [
        &["undo", "--forget", "--partial"][..],
        &["undo", "a", "b"],
        &["undo", "--al"],
    ] {
        host.call(wrong).code(2);
    }
    host.call(&["undo", "nobody"]).code(1);
    let said = host.call(&["undo", "--forget"]).code(0).out;
    assert!(said.contains("cannot be undone"), "{said}");
    assert!(!session.upper.with_file_name("upper.trash").exists());
    let said = host.call(&["undo"]).code(1).err;
    assert!(said.contains("given up"), "{said}");
    let help = host.call(&["undo", "--help"]).code(0).out;
    assert!(
        help.contains("Examples:") && help.contains("Exit status"),
        "{help}"
    );
}

#[test]
fn originals_that_are_old_go_when_a_commit_ends() {
    let host = Host::new();
    let session = committed(&host);
    let trash = session.upper.with_file_name("upper.trash");
    let other = host.session("20261121-0301-m4q7", "agent");
    other.write("x", "x\n");
    host.call(&["commit", "m4q7"]).code(0);
    assert!(trash.exists(), "not old yet");
    let kept = fs::File::options()
        .write(true)
        .open(session.upper.with_file_name("upper.undo"));
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3600);
    kept.unwrap().set_modified(old).unwrap();
    other.write("y", "y\n");
    host.call(&["commit", "m4q7"]).code(0);
    assert!(!trash.exists());
    host.call(&["undo", "m4q7"]).code(0);
    assert!(
        host.call(&["undo", "k3f9"])
            .code(1)
            .err
            .contains("given up")
    );
}

#[test]
fn sessions_that_can_be_undone_are_named() {
    let host = Host::new();
    committed(&host);
    let other = host.session("20261121-0301-m4q7", "agent");
    other.write("x", "x\n");
    let said = host.call(&["undo", "m4q7"]).code(1).err;
    assert!(said.contains("20261121-0259-k3f9"), "{said}");
}

/// The lines of a journal up to the last of one kind, without that and what follows.
fn cut_journal(path: &Path, step: &str) {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let is = |l: &&str| l.contains(&format!("\"step\":\"{step}\""));
    let end = lines.iter().rposition(is).unwrap();
    fs::write(path, lines[..end].join("\n") + "\n").unwrap();
}

#[test]
fn a_commit_that_was_killed_has_an_outcome_in_the_ledger() {
    // After its end, before the ledger knew; and before its end, when every step was done.
    for (step, word) in [
        ("reported", "without a record"),
        ("finished", "was cut off"),
    ] {
        let host = Host::new();
        let session = committed(&host);
        cut_journal(&session.upper.with_file_name("upper.applied"), step);
        let said = host.call(&["commit"]).code(0);
        assert!(said.err.contains(word), "{step}: {}", said.all());
        assert!(
            said.err.contains("5 in the originals"),
            "{step}: {}",
            said.all()
        );
        assert_eq!(
            outcomes(&host, "commit"),
            ["planned 5", "committed 5", "finished 5"]
        );
        let (done, found) = (&host.ledger("commit")[1], &host.ledger("commit")[2]);
        let digests = |entry: &Value| -> Vec<(String, Value, Value)> {
            let files = entry["files"].as_array().unwrap();
            let each = files.iter().map(|f| {
                let path = f["path"].as_str().unwrap().to_owned();
                (path, f["sha256"].clone(), f["old_sha256"].clone())
            });
            each.collect()
        };
        assert_eq!(digests(found), digests(done), "{step}");
        let quiet = host.call(&["commit"]).code(0);
        assert!(quiet.err.is_empty(), "told once: {}", quiet.err);
        host.call(&["undo"]).code(0);
        assert_eq!(host.read("old.txt").unwrap(), "one\n", "{step}");
        host.call(&["ledger", "verify"]).code(0);
    }
}

#[test]
fn an_undo_that_was_killed_is_finished_and_recorded() {
    let host = Host::new();
    let session = committed(&host);
    let kept = session.upper.with_file_name("upper.undo");
    let saved = fs::read(&kept).unwrap();
    host.call(&["undo"]).code(0);
    // As if it had been killed before it could say that it was done.
    cut_journal(&session.upper.with_file_name("upper.applied"), "undone");
    fs::write(&kept, saved).unwrap();
    let said = host.call(&["diff"]).code(0).out;
    assert!(said.contains("M  old.txt"), "{said}");
    let said = host.call(&["undo"]).code(1);
    assert!(said.err.contains("5 undone"), "{}", said.all());
    assert_eq!(
        outcomes(&host, "undo"),
        ["planned 5", "undone 5", "undone 5"]
    );
    assert_eq!(host.read("old.txt").unwrap(), "one\n");
    assert!(!host.work.join("new").exists());
}

#[test]
fn gc_never_removes_an_original_that_somebody_wrote_to() {
    use std::io::Write as _;
    for forget in [true, false] {
        let host = Host::new();
        host.put("app.log", "first\n");
        let mut daemon = fs::File::options()
            .append(true)
            .open(host.work.join("app.log"))
            .unwrap();
        let session = host.session("20261121-0259-k3f9", "agent");
        session.write("app.log", "agent\n");
        host.call(&["commit"]).code(0);
        daemon.write_all(b"late\n").unwrap();
        let idle = host.session("20261121-0301-m4q7", "idle");
        let kept = session.upper.with_file_name("upper.undo");
        if forget {
            host.call(&["undo", "k3f9", "--forget"]).code(0);
        } else {
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3600);
            let kept = fs::File::options().write(true).open(kept).unwrap();
            kept.set_modified(old).unwrap();
        }
        for round in 0..2 {
            let dry = host.call(&["gc", "--dry-run", "--json"]).code(1).json();
            let failed = host.call(&["gc", "--json"]).code(1).json()["failed"].clone();
            let failed = failed.as_array().unwrap().clone();
            assert_eq!(failed.len(), 1, "{failed:?}");
            let line = failed[0].as_str().unwrap();
            assert!(
                line.contains("20261121-0259-k3f9") && line.contains("upper.trash/"),
                "{line}"
            );
            // It is where it was said to be.
            let trash = session.upper.with_file_name("upper.trash");
            let place = fs::read_dir(trash).unwrap().next().unwrap().unwrap().path();
            for said in [line, dry["failed"][0].as_str().unwrap()] {
                assert!(said.contains(place.to_str().unwrap()), "{round}: {said}");
            }
            assert_eq!(fs::read_to_string(place).unwrap(), "first\nlate\n");
            assert!(!idle.dir.exists(), "gc goes on");
        }
        // Once somebody has taken it away, the rest goes.
        fs::remove_dir_all(session.upper.with_file_name("upper.trash")).unwrap();
        host.call(&["gc"]).code(0);
        assert!(!session.dir.exists());
    }
}

#[test]
fn gc_never_removes_what_an_undo_had_to_leave_in_the_trash() {
    let host = Host::new();
    let session = committed(&host);
    host.call(&["undo", "--forget"]).code(0);
    // As an undo leaves what it could not put back, and what the session has newer.
    let place = session.upper.with_file_name("upper.trash/.agentwall-tmp-1");
    fs::create_dir(place.parent().unwrap()).unwrap();
    fs::write(&place, "PERSON\n").unwrap();
    let said = host.call(&["gc"]).code(1);
    assert!(said.err.contains(place.to_str().unwrap()), "{}", said.err);
    // Nor does making room.
    let more = ["gc", "--max-size", "1K", "--discard-uncommitted"];
    session.write("old.txt", "three\n");
    host.call(&more).code(1);
    assert_eq!(fs::read_to_string(&place).unwrap(), "PERSON\n");
    assert_eq!(
        fs::read_to_string(session.upper.join("old.txt")).unwrap(),
        "three\n"
    );
}
