//! Digest binding, the groups of `diff`, and merges, with the real command: by effect on the originals.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, process::Command, time::Duration};

use agentwall_cow::{Layer, Limits, take};
use support::{Host, Made, harmless};

const ID: &str = "20261121-0259-k3f9";
const BASE: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
const AGENT: &str = "one\n2\n3\n4\n5\n6\n7\n8\nnine\n";
const USER: &str = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
const BOTH: &str = "one\n2\n3\n4\nfive\n6\n7\n8\nnine\n";

/// The session has its base manifest, as after a run.
fn with_manifest(made: &Made) {
    let text = fs::read_to_string(made.dir.join("session.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layer: Layer = serde_json::from_value(record["layers"][0].clone()).unwrap();
    take(&layer, Limits::default()).unwrap().unwrap();
}

fn git(host: &Host, args: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(args)
        .current_dir(&host.work)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &host.home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .status()
        .unwrap();
    assert!(status.success(), "git {args:?}");
}

/// The workspace is a repository whose index has these files, written in an earlier moment.
fn repository(host: &Host) {
    std::thread::sleep(Duration::from_millis(30));
    git(host, &["init", "-q"]);
    git(host, &["add", "."]);
    git(host, &["commit", "-qm", "base"]);
}

fn digest(host: &Host, args: &[&str]) -> String {
    let all = [&["diff", "--json"], args].concat();
    let json = host.call(&all).code(0).json();
    json["digest"].as_str().unwrap().to_owned()
}

#[test]
fn only_what_was_reviewed_is_committed() {
    let host = Host::new();
    host.put("a.txt", "old\n");
    let session = host.session(ID, "agent");
    session.write("a.txt", "new\n");
    session.write("b.txt", "new\n");
    let reviewed = digest(&host, &[]);
    let said = host.call(&["diff"]).code(0).out;
    assert!(said.contains(&format!("digest {reviewed}\n")), "{said}");

    // The agent, or somebody, changes something after the review.
    session.write("b.txt", "other\n");
    let said = host.call(&["commit", "--digest", &reviewed]).code(1);
    assert!(
        said.err.contains("nothing was committed") && said.err.contains("'agentwall diff'"),
        "{}",
        said.err
    );
    assert_eq!(
        (host.read("a.txt").unwrap(), host.read("b.txt")),
        ("old\n".into(), None)
    );
    let shown = host
        .call(&["ledger", "show", "--json", "--type", "commit"])
        .code(0);
    assert_eq!(shown.out, "", "no plan without the digest");

    // The digest is over exactly the paths that are meant.
    let part = digest(&host, &["--", "a.txt"]);
    assert_ne!(part, digest(&host, &[]));
    host.call(&["commit", "--digest", &part]).code(1);
    let said = host
        .call(&["commit", "--json", "--digest", &part, "--", "a.txt"])
        .code(0);
    assert_eq!(said.json()["digest"], part);
    assert_eq!(
        (host.read("a.txt").unwrap(), host.read("b.txt")),
        ("new\n".into(), None)
    );
    // The plan and the outcome name it.
    let entries = host.ledger("commit");
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        assert_eq!(
            (&entry["reviewed"], &entry["v"]),
            (&part.clone().into(), &2.into())
        );
    }
    host.call(&["ledger", "verify"]).code(0);

    // Once committed, the same digest is no licence for anything else.
    host.call(&["commit", "--digest", &part, "--", "b.txt"])
        .code(1);
    assert_eq!(host.read("b.txt"), None);
    host.call(&["commit", "--digest", "abc"]).code(2);
    let rest = digest(&host, &[]);
    host.call(&["commit", "--digest", &rest.to_uppercase()])
        .code(0);
    assert_eq!(host.read("b.txt").unwrap(), "other\n");
    host.call(&["commit", "--digest", &rest]).code(1);
}

#[test]
fn a_new_folder_that_a_path_needs_is_part_of_its_digest() {
    let host = Host::new();
    let session = host.session(ID, "agent");
    session.write("new/deep/f", "x\n");
    let shown = host
        .call(&["diff", "--json", "--", "new/deep/f"])
        .code(0)
        .json();
    assert_eq!(shown["changes"].as_array().unwrap().len(), 3, "{shown}");
    let digest = shown["digest"].as_str().unwrap().to_owned();
    let path = session.upper.join("new");
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    host.call(&["commit", "--digest", &digest, "--", "new/deep/f"])
        .code(1);
    assert_eq!(host.read("new/deep/f"), None);
}

#[test]
fn a_diff_is_grouped_by_what_would_become_of_each_change() {
    let host = Host::new();
    for (name, text) in [
        ("z-gone", "bye\n"),
        ("edited", "one\n"),
        ("bin", "x\0"),
        ("ci/gone", "bye\n"),
        ("dir/a", "1"),
        ("dir/sub/b", "2"),
        ("moved-from", "a text that is found again\n"),
    ] {
        host.put(name, text);
    }
    let session = host.session(ID, "agent");
    std::thread::sleep(Duration::from_millis(20));
    host.put("edited", "somebody\n");
    session.write("edited", "two\n");
    session.write("bin", "y\0z");
    session.write("a-new", "1\n2\n");
    session.write("ci/build", "CI\n");
    session.write("hooks/pre-commit", "EVIL\n");
    session.write("moved-to", "a text that is found again\n");
    session.write("odd\u{202e}\x1b[2J\nname", "x\n");
    for name in ["z-gone", "ci/gone", "dir", "moved-from"] {
        session.delete(name);
    }
    let said = host.call(&["diff"]).code(0).out;
    harmless(&said);
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
    let order = [
        "would be committed",
        "D  dir ",
        "D  moved-from",
        "D  z-gone",
        "A  a-new",
        "M  bin",
        "A  moved-to",
        "held: name it",
        "D  ci/gone",
        "A  ci/build",
        "denied, never committed",
        "hooks/pre-commit",
        "in conflict",
        "M  edited",
        "changes, ",
    ];
    for pair in order.windows(2) {
        assert!(at(pair[0]) < at(pair[1]), "{pair:?}: {said}");
    }
    for text in [
        "with 3 objects below it",
        "renamed from moved-from",
        "renamed to moved-to",
        "2 -> 3 bytes",
        "binary",
        "+2 -0",
        "rule ci-asks",
        "hooks run on your machine",
        "2 held, ",
        "1 conflict",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let json = host.call(&["diff", "--json"]).code(0).json();
    let changes = json["changes"].as_array().unwrap();
    let group = |name: &str| {
        let found = changes
            .iter()
            .find(|c| c["path"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("{name}: {json}")).clone()
    };
    for (name, expected) in [
        ("a-new", "committed"),
        ("ci/build", "held"),
        ("hooks/pre-commit", "denied"),
        ("edited", "conflict"),
    ] {
        assert_eq!(group(name)["group"], expected, "{name}");
    }
    assert_eq!(group("bin")["old_size"], 2);
    assert_eq!(group("bin")["new_size"], 3);
    assert_eq!(group("bin")["binary"], true);
    assert_eq!(json["groups"]["held"], 2);
    // What was told is what happens.
    let done = host.call(&["commit", "--json"]).code(3).json();
    for line in done["changes"].as_array().unwrap() {
        let path = line["path"].as_str().unwrap();
        let told = changes.iter().find(|c| c["path"] == path).unwrap()["group"].clone();
        let became = match line["became"].as_str().unwrap() {
            "refused" => "denied",
            other => other,
        };
        assert_eq!(told, became, "{path}");
    }
}

#[test]
fn what_waits_for_another_change_is_told_as_held() {
    let host = Host::new();
    host.put("from", "a text that moves\n");
    let session = host.session(ID, "agent");
    session.write("hooks/to", "a text that moves\n");
    session.delete("from");
    let json = host.call(&["diff", "--json"]).code(0).json();
    let groups: Vec<&str> = json["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["group"].as_str().unwrap())
        .collect();
    assert_eq!(groups, ["held", "denied", "denied"], "{json}");
    host.call(&["commit"]).code(0);
    assert!(host.read("from").is_some());
}

#[test]
fn a_text_that_both_changed_is_merged_where_git_knows_what_it_was() {
    let host = Host::new();
    for name in ["clean.txt", "overlap.txt", "untracked.txt", "dir/moded.sh"] {
        host.put(name, BASE);
    }
    host.put("bin", "a\0b\n");
    fs::write(host.work.join(".gitignore"), "untracked.txt\n").unwrap();
    repository(&host);
    let session = host.session(ID, "agent");
    with_manifest(&session);
    for name in ["clean.txt", "overlap.txt", "untracked.txt", "dir/moded.sh"] {
        session.write(name, AGENT);
    }
    session.write("bin", "a\0c\n");
    session.write("gone.txt", "new\n");
    for name in ["clean.txt", "untracked.txt", "dir/moded.sh"] {
        host.put(name, USER);
    }
    host.put("overlap.txt", &BASE.replace('1', "uno"));
    host.put("bin", "a\0d\n");

    // Without the option everything stays as it is.
    host.call(&["commit", "--", "clean.txt"]).code(3);
    assert_eq!(host.read("clean.txt").unwrap(), USER);
    let said = host.call(&["commit", "--merge", "--json"]).code(3).json();
    let line = |name: &str| {
        let all = said["changes"].as_array().unwrap();
        let found = all
            .iter()
            .find(|c| c["path"].as_str().unwrap().ends_with(name));
        let found = found.unwrap_or_else(|| panic!("{name}: {said}"));
        (
            found["became"].as_str().unwrap().to_owned(),
            found["reason"].to_string(),
        )
    };
    assert_eq!(line("/clean.txt").0, "committed", "{said}");
    assert!(line("/clean.txt").1.contains("merged"), "{said}");
    assert_eq!(host.read("clean.txt").unwrap(), BOTH);
    assert_eq!(host.read("dir/moded.sh").unwrap(), BOTH);
    for (name, why) in [
        ("overlap.txt", "same lines in 1 place"),
        ("untracked.txt", "no single recorded version"),
        ("bin", "binary"),
    ] {
        let (became, reason) = line(name);
        assert!(
            became == "conflict" && reason.contains(why),
            "{name}: {reason}"
        );
    }
    assert_eq!(host.read("overlap.txt").unwrap(), BASE.replace('1', "uno"));
    assert_eq!(host.read("untracked.txt").unwrap(), USER);

    // The merge can be undone: what somebody wrote is back, and in conflict as before.
    host.call(&["undo"]).code(0);
    assert_eq!(host.read("clean.txt").unwrap(), USER);
    host.call(&["commit", "--", "clean.txt"]).code(3);
    assert_eq!(host.read("clean.txt").unwrap(), USER);
    host.call(&["commit", "--merge", "--", "clean.txt"]).code(0);
    assert_eq!(host.read("clean.txt").unwrap(), BOTH);

    let said = host
        .call(&["commit", "--merge=markers", "--", "overlap.txt"])
        .code(0)
        .out;
    assert!(said.contains("1 conflict marked"), "{said}");
    let text = host.read("overlap.txt").unwrap();
    assert!(
        text.starts_with("<<<<<<< ours\nuno\n=======\none\n>>>>>>> theirs\n2\n"),
        "{text}"
    );
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn nothing_of_the_repository_runs_for_a_merge() {
    let host = Host::new();
    host.put("f", BASE);
    host.put("filtered", BASE);
    repository(&host);
    let ran = host.home.join("ran");
    let command = format!("touch {}; false", ran.display());
    for key in [
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "pager.ls-files",
        "pager.cat-file",
        "core.hooksPath",
        "core.gitProxy",
        "filter.f.smudge",
        "filter.f.clean",
        "filter.f.process",
        "diff.f.textconv",
        "core.askPass",
        "credential.helper",
        "uploadpack.packObjectsHook",
    ] {
        git(&host, &["config", key, &command]);
    }
    fs::write(
        host.work.join(".git/info/attributes"),
        "filtered filter=f diff=f\n",
    )
    .unwrap();
    for hook in ["post-index-change", "fsmonitor-watchman"] {
        let path = host.work.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{command}\n")).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let session = host.session(ID, "agent");
    with_manifest(&session);
    for name in ["f", "filtered"] {
        session.write(name, AGENT);
        host.put(name, USER);
    }
    let said = host.call(&["commit", "--merge"]).code(3).out;
    assert_eq!(host.read("f").unwrap(), BOTH);
    assert!(said.contains("git filters its content"), "{said}");
    assert_eq!(host.read("filtered").unwrap(), USER);
    assert!(!ran.exists(), "something of the repository ran");
}

#[test]
fn what_git_recorded_of_another_version_is_no_base() {
    let host = Host::new();
    host.put("f", "earlier\n");
    repository(&host);
    // The session begins on a version that git does not have.
    host.put("f", BASE);
    let session = host.session(ID, "agent");
    with_manifest(&session);
    session.write("f", AGENT);
    host.put("f", USER);
    let said = host.call(&["commit", "--merge"]).code(3).out;
    assert!(said.contains("another version"), "{said}");
    assert_eq!(host.read("f").unwrap(), USER);
    // Nor is there one without a manifest.
    let host = Host::new();
    host.put("f", BASE);
    repository(&host);
    let session = host.session(ID, "agent");
    std::thread::sleep(Duration::from_millis(20));
    session.write("f", AGENT);
    host.put("f", USER);
    let said = host.call(&["commit", "--merge"]).code(3).out;
    assert!(said.contains("is not known"), "{said}");
    assert_eq!(host.read("f").unwrap(), USER);
}

#[test]
fn what_happened_to_an_original_is_said_where_it_is_not_merged() {
    let host = Host::new();
    for name in ["deleted", "renamed", "folder", "link", "mode.sh"] {
        host.put(name, BASE);
    }
    repository(&host);
    let session = host.session(ID, "agent");
    with_manifest(&session);
    let upper = |name: &str| session.upper.join(name);
    for name in ["deleted", "renamed", "folder", "link", "mode.sh"] {
        session.write(name, AGENT);
        rustix::fs::setxattr(
            upper(name),
            "user.overlay.origin",
            b"",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    let at = |name: &str| host.work.join(name);
    fs::remove_file(at("deleted")).unwrap();
    fs::rename(at("renamed"), at("elsewhere")).unwrap();
    fs::remove_file(at("folder")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("mode.sh", at("link")).unwrap();
    host.put("mode.sh", USER);
    let mode = |path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(at("mode.sh"), 0o600);
    mode(upper("mode.sh"), 0o755);
    let said = host.call(&["commit", "--merge"]).code(3).out;
    for (name, why) in [
        ("deleted", "deleted or renamed"),
        ("renamed", "deleted or renamed"),
        ("folder", "a directory now"),
        ("link", "a symlink now"),
        ("mode.sh", "on both sides"),
    ] {
        let line = said
            .lines()
            .find(|l| l.contains(&format!("conflict  {name} ")));
        let line = line.unwrap_or_else(|| panic!("{name}: {said}"));
        assert!(line.contains(why), "{name}: {line}");
    }
    assert_eq!(host.read("mode.sh").unwrap(), USER);
    assert_eq!(host.read("elsewhere").unwrap(), BASE);
    assert!(at("folder").is_dir() && at("link").is_symlink());
}

#[test]
fn an_imported_layer_is_not_merged_over_a_newer_version_that_git_has_here() {
    let (a, b) = (Host::new(), Host::new());
    let newer = BASE.replace("5\n", "5\nnewer here\n");
    for (host, text) in [(&a, BASE), (&b, newer.as_str())] {
        host.put("f", text);
        host.put("same", BASE);
        repository(host);
        let config = host.home.join(".config/agentwall");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("policy.yaml"), support::POLICY).unwrap();
    }
    let session = a.session(ID, "agent");
    with_manifest(&session);
    session.write("f", AGENT);
    session.write("same", AGENT);
    let file = a.tmp.path().join("layer.tar");
    let file = file.to_str().unwrap();
    a.call(&["export", "k3f9", "-o", file]).code(0);
    let key = a.call(&["ledger", "key"]).code(0).out.trim().to_owned();
    b.call(&["import", file, "--trust", &key]).code(0);
    // What both machines had is still a base.
    b.put("same", USER);
    let said = b.call(&["commit", "--merge"]).code(3).out;
    assert_eq!(b.read("f").unwrap(), newer, "{said}");
    assert!(said.contains("imported"), "{said}");
    assert_eq!(b.read("same").unwrap(), BOTH, "{said}");
    b.call(&["commit", "--merge=markers"]).code(3);
    assert_eq!(b.read("f").unwrap(), newer);
}

#[test]
fn what_a_person_takes_back_after_a_commit_is_not_brought_back_by_a_merge() {
    let text = |first: &str, last: &str| {
        let line = |n: u32| match n {
            2 => first.to_owned(),
            20 => last.to_owned(),
            n => n.to_string(),
        };
        (1..=22).map(|n| line(n) + "\n").collect::<String>()
    };
    let (host, started) = (Host::new(), text("2", "20"));
    host.put("f", &started);
    repository(&host);
    let session = host.session(ID, "agent");
    with_manifest(&session);
    session.write("f", &text("two", "20"));
    host.call(&["commit"]).code(0);
    // Somebody takes the line back, and the session goes on elsewhere in the file.
    host.put("f", &text("2", "20"));
    session.write("f", &text("two", "twenty"));
    host.call(&["commit"]).code(3);
    let said = host.call(&["commit", "--merge"]).code(3).out;
    assert_eq!(host.read("f").unwrap(), started, "{said}");
    assert!(said.contains("has committed"), "{said}");
    // An undone commit is none.
    let host = Host::new();
    host.put("f", &started);
    repository(&host);
    let session = host.session(ID, "agent");
    with_manifest(&session);
    session.write("f", &text("two", "20"));
    host.call(&["commit"]).code(0);
    host.call(&["undo"]).code(0);
    host.put("f", &text("2", "zwanzig"));
    host.call(&["commit", "--merge"]).code(0);
    assert_eq!(host.read("f").unwrap(), text("two", "zwanzig"));
}
