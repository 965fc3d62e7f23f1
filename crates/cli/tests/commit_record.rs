//! What the ledger keeps of a commit, and what the next command makes of one that was cut off.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use support::{Host, harmless};

#[test]
fn the_ledger_binds_the_content_of_every_file_that_was_committed() {
    let sha256 = |path: &Path| {
        let said = Command::new("sha256sum")
            .arg("--")
            .arg(path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        text.trim_start_matches('\\')
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let host = Host::new();
    host.put("old.txt", "one\n");
    host.put("gone.txt", "bye\n");
    let before = ["old.txt", "gone.txt"].map(|n| sha256(&host.work.join(n)));
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("old.txt", "two\n");
    session.write("new.txt", "new\n");
    session.write(OsStr::from_bytes(b"raw\xff\n"), "odd\n");
    session.delete("gone.txt");
    std::os::unix::fs::symlink("file.txt", session.upper.join("link")).unwrap();
    host.call(&["commit"]).code(0);

    let entries = host.ledger("commit");
    let (plan, done) = (&entries[0], &entries[1]);
    assert_eq!(
        (&plan["outcome"]["planned"], &done["outcome"]["committed"]),
        (&5.into(), &5.into())
    );
    let file = |entry: &serde_json::Value, name: &str| {
        let files = entry["files"].as_array().unwrap();
        let found = files
            .iter()
            .find(|f| f["path"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("{name} in {entry}")).clone()
    };
    for (name, raw) in [
        ("old.txt", &b"old.txt"[..]),
        ("new.txt", b"new.txt"),
        ("raw\\xff\\n", b"raw\xff\n"),
    ] {
        let now = sha256(&host.work.join(OsStr::from_bytes(raw)));
        assert_eq!(file(done, name)["sha256"], now, "{name}");
        // The plan is made before anything is written: it binds what was reviewed.
        assert_eq!(file(plan, name)["sha256"], serde_json::Value::Null);
        assert_eq!(
            file(plan, name)["blocks_sha256"].as_str().unwrap().len(),
            64
        );
    }
    let old = file(done, "old.txt");
    assert_eq!(
        (&old["old_sha256"], &old["change"]),
        (&before[0].clone().into(), &"modify".into())
    );
    assert_eq!(
        (&old["entry"], &old["mode"]),
        (&"file".into(), &"0644".into())
    );
    assert_eq!(file(done, "gone.txt")["old_sha256"], before[1]);
    assert_eq!(file(done, "link")["target"], "file.txt");

    // The digest of the set, as docs/ledger.md says an outsider makes it.
    for entry in [plan, done] {
        let mut child = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        for file in entry["files"].as_array().unwrap() {
            writeln!(input, "{file}").unwrap();
        }
        drop(input);
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(said.split(' ').next().unwrap(), entry["digest"]);
    }

    // For a person: one line, with the beginnings of the digests.
    let text = host
        .call(&["ledger", "show", "--type", "commit"])
        .code(0)
        .out;
    harmless(&text);
    assert_eq!(text.lines().count(), 2, "{text}");
    let line = text.lines().nth(1).unwrap();
    let (from, to) = (&before[0][..12], &sha256(&host.work.join("old.txt"))[..12]);
    let wanted = format!("old.txt ({from} to {to})");
    assert!(
        line.contains("5 committed: ") && line.contains(&wanted),
        "{line}"
    );
    assert!(
        line.contains(&format!("gone.txt ({} gone)", &before[1][..12])),
        "{line}"
    );
}

#[test]
fn a_long_change_set_is_recorded_whole() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    for n in 0..1000 {
        session.write(format!("file {n:04}"), &format!("{n}\n"));
    }
    host.call(&["commit", "--json"]).code(0);
    let args = ["ledger", "show", "--json", "--type", "commit"];
    let shown = host.call(&args).code(0).out;
    let mut listed = Vec::new();
    for line in shown.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        if entry["outcome"]["committed"] == 1000 {
            let files = entry["files"].as_array().unwrap();
            listed.extend(files.iter().map(|f| {
                assert_eq!(f["sha256"].as_str().unwrap().len(), 64, "{f}");
                f["path"].as_str().unwrap().to_owned()
            }));
        }
    }
    let expected = (0..1000).map(|n| host.work.join(format!("file {n:04}")));
    let expected: Vec<String> = expected.map(|p| p.to_str().unwrap().to_owned()).collect();
    assert_eq!(listed, expected);
    let text = host
        .call(&["ledger", "show", "--type", "commit", "--last", "1"])
        .code(0)
        .out;
    assert!(
        text.contains("1000 committed: ")
            && text.contains(", and ")
            && text.contains(" more, part "),
        "{text}"
    );
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn a_commit_that_was_cut_off_is_finished_by_the_next_command() {
    for command in [&["commit"][..], &["discard"], &["commit", "--json"]] {
        let host = Host::new();
        host.put("a.txt", "ORIGINAL\n");
        let session = host.session("20261121-0259-k3f9", "agent");
        session.write("a.txt", "AGENT\n");
        // What a kill right after the swap leaves: the original under a temporary name, the session's
        // version in its place, and the record that knows it.
        let temp = ".agentwall-tmp-0123456789abcdef-1";
        let original = fs::symlink_metadata(host.work.join("a.txt")).unwrap();
        fs::rename(host.work.join("a.txt"), host.work.join(temp)).unwrap();
        fs::copy(session.upper.join("a.txt"), host.work.join("a.txt")).unwrap();
        let new = fs::symlink_metadata(host.work.join("a.txt")).unwrap();
        let id = |m: &fs::Metadata| json!({"dev": m.dev(), "ino": m.ino()});
        let line = json!({
            "step": "temp", "rel": "a.txt", "name": temp, "new": id(&new),
            "old": {
                "kind": "file", "id": id(&original), "nlink": 1, "size": original.size(),
                "mode": original.mode() & 0o7777, "uid": original.uid(), "gid": original.gid(),
                "mtime": {"sec": original.mtime(), "nsec": original.mtime_nsec()},
                "ctime": {"sec": original.ctime(), "nsec": original.ctime_nsec()},
            },
        });
        let record = session.upper.with_file_name("upper.applied");
        fs::write(&record, format!("{line}\n")).unwrap();
        assert!(host.call(&["diff"]).code(0).out.contains("nothing changed"));
        let said = host.call(command).code(0);
        assert!(
            said.err.contains("was cut off"),
            "{command:?} {}",
            said.all()
        );
        assert!(!host.work.join(temp).exists(), "{command:?}");
        assert_eq!(host.read("a.txt").unwrap(), "AGENT\n");
    }
}
