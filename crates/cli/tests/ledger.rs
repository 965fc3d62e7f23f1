//! `agentwall ledger`: what verifies, and what must not.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::Host;

/// A host whose ledger has a few entries.
fn with_entries() -> Host {
    let host = Host::new();
    for (id, name) in [
        ("20261121-0259-k3f9", "alpha"),
        ("20261121-0300-m4g2", "beta"),
    ] {
        let session = host.session(id, name);
        session.write(format!("{name}.txt"), "x\n");
        session.write(format!("hooks/{name}"), "x\n");
        host.call(&["commit", id]).code(0);
    }
    host
}

fn bundles(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// How many lines are of the sessions of [`with_entries`]: reading leaves entries, too.
fn of_sessions(lines: &str) -> usize {
    let own = |l: &&str| l.contains("-k3f9") || l.contains("-m4g2");
    lines.lines().filter(own).count()
}

#[test]
fn a_log_verifies_until_any_byte_of_it_is_flipped() {
    let host = with_entries();
    let said = host.call(&["ledger", "verify"]).code(0).out;
    assert!(
        said.contains("verified") && said.contains("nothing was cut off"),
        "{said}"
    );
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert!(
        json["ok"] == true && json["size"].as_u64().unwrap() >= 6,
        "{json}"
    );
    let log = host.state.join("ledger");
    let mut tried = 0;
    for file in bundles(&log).into_iter().filter(|f| !f.ends_with("lock")) {
        let good = fs::read(&file).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, bad).unwrap();
            let said = host.call(&["ledger", "verify"]).code(1);
            assert!(said.err.contains("does not verify"), "{}", said.err);
            tried += 1;
        }
        fs::write(&file, good).unwrap();
    }
    assert!(tried >= 9, "{tried}");
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn an_older_state_a_missing_file_and_a_foreign_key_are_found() {
    let host = with_entries();
    let log = host.state.join("ledger");
    let copy = host.tmp.path().join("copy");
    let cp = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(to)
            .status();
        assert!(status.unwrap().success());
    };
    cp(&log, &copy);
    host.session("20261121-0301-p5h3", "gamma")
        .write("g.txt", "x");
    host.call(&["commit", "gamma"]).code(0);
    // Elsewhere the older state is genuine; in its place this host remembers better.
    let key = host.call(&["ledger", "key"]).code(0).out.trim().to_owned();
    let elsewhere = copy.to_str().unwrap();
    host.call(&["ledger", "verify", elsewhere, "--key", &key])
        .code(0);
    let key_file = host.tmp.path().join("key");
    fs::write(&key_file, format!("{key}\n")).unwrap();
    host.call(&[
        "ledger",
        "verify",
        elsewhere,
        "--key",
        key_file.to_str().unwrap(),
    ])
    .code(0);
    let newest = host.tmp.path().join("newest");
    cp(&log, &newest);
    cp(&copy, &log);
    let said = host.call(&["ledger", "verify"]).code(1);
    assert!(said.err.contains("does not verify"), "{}", said.err);
    cp(&newest, &log);
    host.call(&["ledger", "verify"]).code(0);

    let stranger = Host::new();
    stranger.session("20261121-0259-k3f9", "x").write("f", "x");
    stranger.call(&["commit"]).code(0);
    let other = stranger.call(&["ledger", "key"]).code(0).out;
    host.call(&["ledger", "verify", elsewhere, "--key", other.trim()])
        .code(1);
    fs::remove_file(log.join("checkpoint")).unwrap();
    let said = host.call(&["ledger", "verify"]).code(1);
    assert!(said.err.contains("checkpoint"), "{}", said.err);
    let said = host
        .call(&["ledger", "verify", elsewhere, "--key", "a+b"])
        .code(2);
    assert!(said.err.contains("agentwall ledger key"), "{}", said.err);
}

#[test]
fn entries_are_filtered() {
    let host = with_entries();
    let lines = |args: &[&str]| {
        let mut all = vec!["ledger", "show", "--json"];
        all.extend(args);
        host.call(&all).code(0).out.lines().count()
    };
    let all = lines(&[]);
    assert_eq!(
        lines(&["--session", "alpha"]) + lines(&["--session", "m4g2"]),
        all
    );
    // The folder and the file in it, in each of two sessions.
    assert_eq!(lines(&["--type", "decision"]), 4);
    assert_eq!(
        lines(&["--effect", "deny", "--session", "20261121-0259-k3f9"]),
        2
    );
    assert_eq!(lines(&["--rule", "hooks-never", "--last", "1"]), 1);
    assert_eq!(lines(&["--rule", "no-such"]), 0);
    assert_eq!(lines(&["--last", "2"]), 2);
    assert!(
        host.call(&["ledger", "show", "--type", "nonsense"])
            .code(2)
            .err
            .contains("decision")
    );
    assert!(
        host.call(&["ledger", "show", "--effect", "maybe"])
            .code(2)
            .err
            .contains("deny")
    );
}

#[test]
fn without_a_log_nothing_verifies_and_a_lost_key_is_not_replaced() {
    let host = Host::new();
    assert!(
        host.call(&["ledger", "verify"])
            .code(1)
            .err
            .contains("no ledger yet")
    );
    host.call(&["ledger", "show"]).code(0);
    host.call(&["ledger", "key"]).code(1);
    let host = with_entries();
    fs::remove_file(host.state.join("keys/ledger.key")).unwrap();
    host.session("20261121-0301-p5h3", "gamma")
        .write("g.txt", "x");
    let said = host.call(&["commit", "gamma"]).code(1);
    assert!(
        said.err.contains("nothing was committed") && said.err.contains("is gone"),
        "{}",
        said.err
    );
    assert!(host.read("g.txt").is_none());
    host.call(&["ledger", "verify"]).code(1);
}

#[test]
fn entries_are_found_by_path_and_time() {
    let host = with_entries();
    let count = |more: &[&str]| {
        let mut args = vec!["ledger", "show", "--json"];
        args.extend(more);
        of_sessions(&host.call(&args).code(0).out)
    };
    let all = count(&[]);
    let work = host.work.to_str().unwrap();
    let one = format!("{work}/alpha.txt");
    assert_eq!(count(&["--path", work]), all);
    assert!((1..all).contains(&count(&["--path", &one])), "{one}");
    assert_eq!(count(&["--path", "**/alpha.*"]), count(&["--path", &one]));
    // A name is not the beginning of another one.
    assert_eq!(count(&["--path", &one[..one.len() - 1]]), 0);
    assert_eq!(count(&["--since", "1h"]), all);
    assert_eq!(count(&["--until", "1h"]), 0);
    assert_eq!(
        count(&["--since", "2020-01-01", "--until", "2020-01-02T00:00:00Z"]),
        0
    );
    assert_eq!(count(&["--agent", "nobody"]), 0);
    for wrong in [
        ["--path", "relative"],
        ["--path", "/a["],
        ["--since", "yesterday"],
    ] {
        host.call(&["ledger", "show", wrong[0], wrong[1]]).code(2);
    }
}

#[test]
fn a_timeline_is_of_one_session() {
    let host = with_entries();
    let story = host
        .call(&["ledger", "timeline", "k3f9", "--json"])
        .code(0)
        .json();
    assert_eq!(story["session"], "20261121-0259-k3f9");
    let events = story["events"].as_array().unwrap();
    let in_lane = |lane: &str| events.iter().filter(|e| e["lane"] == lane).count() as u64;
    assert!(
        in_lane("changes") > 0 && in_lane("decisions") > 0,
        "{story}"
    );
    for lane in ["changes", "decisions"] {
        // Nothing is repeated here.
        assert_eq!(story["counts"][lane], in_lane(lane), "{story}");
    }
    assert!(!story.to_string().contains("beta"), "{story}");
    let text = host.call(&["ledger", "timeline", "k3f9"]).code(0).out;
    assert!(
        text.contains("alpha.txt") && !text.contains("beta.txt"),
        "{text}"
    );
    let page = host
        .call(&["ledger", "timeline", "m4g2", "--html", "-"])
        .code(0)
        .out;
    assert!(
        page.contains("<svg") && page.contains("beta.txt") && !page.contains("alpha.txt"),
        "{page}"
    );
    let file = host.work.join("picture.svg");
    host.call(&[
        "ledger",
        "timeline",
        "m4g2",
        "--svg",
        file.to_str().unwrap(),
    ])
    .code(0);
    let picture = fs::read_to_string(&file).unwrap();
    assert!(page.contains(&picture) && picture.starts_with("<svg xmlns"));
    let error = host.call(&["ledger", "timeline", "zzzz"]).code(2).err;
    assert!(error.contains("agentwall sessions"), "{error}");
}

#[test]
fn entries_leave_in_four_forms_and_from_any_number() {
    let host = with_entries();
    let lines = |args: &[&str]| {
        let all: Vec<&str> = [["ledger", "export"].as_slice(), args].concat();
        host.call(&all).code(0).out
    };
    let all = of_sessions(&lines(&[]));
    assert!(all > 3);
    for format in ["jsonl", "ocsf", "otel", "cef"] {
        assert_eq!(of_sessions(&lines(&["--format", format])), all, "{format}");
        let rest = lines(&["--format", format, "--from", "3"]);
        assert_eq!(of_sessions(&rest), all - 3, "{format}");
    }
    let denied = lines(&["--format", "cef", "--effect", "deny"]);
    assert!((1..all).contains(&denied.lines().count()));
    assert!(
        denied
            .lines()
            .all(|l| l.starts_with("CEF:0|") && l.contains(" act=deny "))
    );
}
