//! Reviewing, committing and dropping what a session changed, by effect on the originals.

#![allow(clippy::unwrap_used)]

mod support;

use std::{ffi::OsStr, fs, fs::File, os::unix::ffi::OsStrExt as _};

use support::{Host, harmless, on_terminal};

#[test]
fn changes_are_shown_committed_once_and_recorded() {
    let host = Host::new();
    host.put("old.txt", "one\ntwo\n");
    host.put("gone.txt", "bye\n");
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("old.txt", "one\nthree\n");
    session.write("new/deep.txt", "new\n");
    session.delete("gone.txt");

    let stat = host.call(&["diff"]).code(0).out;
    for wanted in [
        "D  gone.txt",
        "M  old.txt",
        "A  new/deep.txt",
        "+1 -1",
        "4 changes",
    ] {
        assert!(stat.contains(wanted), "{wanted}: {stat}");
    }
    let patch = host.call(&["diff", "k3f9", "--patch"]).code(0).out;
    assert!(
        patch.contains("-two\n+three\n") && patch.contains("+new\n"),
        "{patch}"
    );
    let json = host.call(&["diff", "--json"]).code(0).json();
    assert_eq!(json["changes"].as_array().unwrap().len(), 4);
    assert_eq!(json["changes"][0]["commit"]["rule"], "commit-work");
    // Looking changes nothing.
    host.call(&["commit", "--stat"]).code(0);
    assert_eq!(host.read("old.txt").unwrap(), "one\ntwo\n");

    let said = host.call(&["commit", "--json"]).code(0).json();
    assert!(
        said["changes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["became"] == "committed"),
        "{said}"
    );
    assert_eq!(host.read("old.txt").unwrap(), "one\nthree\n");
    assert_eq!(host.read("new/deep.txt").unwrap(), "new\n");
    assert_eq!(host.read("gone.txt"), None);

    host.put("old.txt", "the person goes on\n");
    let second = host.call(&["commit"]).code(0).all();
    assert!(second.contains("nothing to commit"), "{second}");
    assert_eq!(host.read("old.txt").unwrap(), "the person goes on\n");
    assert!(host.call(&["diff"]).code(0).out.contains("nothing changed"));
    assert!(
        host.call(&["discard"])
            .code(0)
            .out
            .contains("nothing to discard")
    );
    assert!(host.call(&["sessions"]).code(0).out.contains("committed"));

    let entries = host.ledger("commit");
    assert_eq!(entries[0]["outcome"]["planned"], 4, "{entries:?}");
    assert_eq!(entries[1]["outcome"]["committed"], 4, "{entries:?}");
    assert_eq!(
        (&entries[0]["seq"], &entries[1]["seq"]),
        (&0.into(), &1.into())
    );
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn the_policy_refuses_holds_and_lets_pass() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("good.txt", "GOOD\n");
    session.write("hooks/pre-commit", "EVIL\n");
    session.write("ci/build.yaml", "CI\n");
    let said = host.call(&["commit"]).code(0);
    assert!(
        said.out.contains("refused") && said.out.contains("hooks run on your machine"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("rule ci-asks") && said.err.contains("--held"),
        "{}",
        said.all()
    );
    assert_eq!(host.read("good.txt").unwrap(), "GOOD\n");
    assert!(host.read("hooks/pre-commit").is_none() && host.read("ci/build.yaml").is_none());
    assert!(host.call(&["sessions"]).out.contains("partly"));
    // A denied change does not pass by any name; an asked one does by its own.
    host.call(&["commit", "--held", "--", "hooks/pre-commit"])
        .code(0);
    assert!(host.read("hooks/pre-commit").is_none());
    host.call(&["commit", "--", "ci/build.yaml"]).code(0);
    assert_eq!(host.read("ci/build.yaml").unwrap(), "CI\n");
    let denied = host
        .call(&["ledger", "show", "--rule", "hooks-never"])
        .code(0)
        .out;
    assert!(
        denied.contains("file.commit") && denied.contains("pre-commit"),
        "{denied}"
    );
}

/// A session over two folders, of which somebody moves one away and makes another in its place.
#[test]
fn a_folder_that_is_replaced_is_a_conflict_and_stops_no_other() {
    let host = Host::new();
    let [one, two] = ["one", "two"].map(|name| host.work.join(name));
    let (moved, saved) = (host.work.join("moved"), host.tmp.path().join("x.layer"));
    host.put("one/a.txt", "a\n");
    host.put("one/gone.txt", "bye\n");
    host.put("two/b.txt", "b\n");
    let session = host.session("20261121-0259-k3f9", "agent");
    let second = session.over(&[&one, &two]).pop().unwrap();
    session.write("a.txt", "AGENT\n");
    session.delete("gone.txt");
    fs::write(second.join("b.txt"), "AGENT\n").unwrap();

    fs::rename(&one, &moved).unwrap();
    host.put("one/a.txt", "THEIRS\n");
    let theirs = || {
        assert_eq!(host.read("one/a.txt").unwrap(), "THEIRS\n");
        assert_eq!(fs::read_dir(&one).unwrap().count(), 1);
    };
    let listed = host.call(&["diff"]).code(0).out;
    for wanted in [
        "one/a.txt",
        "one/gone.txt",
        "two/b.txt",
        "move the original back",
    ] {
        assert!(listed.contains(wanted), "{wanted}: {listed}");
    }
    let patch = host.call(&["diff", "--patch"]).code(0).out;
    assert!(
        patch.contains("+AGENT") && !patch.contains("THEIRS"),
        "{patch}"
    );
    let digest = host.call(&["diff", "--json"]).code(0).json()["digest"].clone();
    let digest = format!("--digest={}", digest.as_str().unwrap());
    let said = host
        .call(&["commit", &digest, "--merge", "--json"])
        .code(3)
        .json();
    let became = |name: &str| {
        let changes = said["changes"].as_array().unwrap();
        let is = |c: &&serde_json::Value| c["path"].as_str().unwrap().ends_with(name);
        changes.iter().find(is).unwrap()["became"].clone()
    };
    assert_eq!(became("two/b.txt"), "committed", "{said}");
    assert_eq!(became("one/a.txt"), "conflict", "{said}");
    assert_eq!(became("one/gone.txt"), "conflict", "{said}");
    assert_eq!(host.read("two/b.txt").unwrap(), "AGENT\n");
    theirs();
    // Everything else that can be done with the session goes on, and loses nothing.
    host.call(&["checkpoint", "--name=here"]).code(0);
    host.call(&["rollback", "k3f9", "here"]).code(0);
    let out = format!("--output={}", saved.display());
    host.call(&["export", "k3f9", &out]).code(0);
    host.call(&["gc"]).code(0);
    let undone = host.call(&["undo"]).code(0);
    assert!(undone.out.contains("1 undone"), "{}", undone.all());
    assert_eq!(host.read("two/b.txt").unwrap(), "b\n");
    theirs();

    fs::remove_dir_all(&one).unwrap();
    fs::rename(&moved, &one).unwrap();
    host.call(&["commit"]).code(0);
    assert_eq!(host.read("one/a.txt").unwrap(), "AGENT\n");
    assert_eq!(host.read("one/gone.txt"), None);
    assert_eq!(host.read("two/b.txt").unwrap(), "AGENT\n");

    // The commit of a folder that is away now waits for it, the other one's is taken back.
    fs::rename(&one, &moved).unwrap();
    let refused = host.call(&["undo"]).code(1);
    assert!(refused.out.contains("put it back"), "{}", refused.all());
    assert_eq!(host.read("two/b.txt").unwrap(), "AGENT\n");
    host.call(&["undo", "--partial"]).code(0);
    assert_eq!(host.read("two/b.txt").unwrap(), "b\n");
    fs::rename(&moved, &one).unwrap();
    host.call(&["undo"]).code(0);
    assert_eq!(host.read("one/a.txt").unwrap(), "a\n");
    assert_eq!(host.read("one/gone.txt").unwrap(), "bye\n");
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn a_session_whose_folder_is_gone_is_dropped_and_a_link_in_its_place_is_not_followed() {
    let host = Host::new();
    let (moved, to) = (host.tmp.path().join("moved"), host.tmp.path().join("to"));
    host.put("a.txt", "a\n");
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("a.txt", "AGENT\n");
    fs::create_dir(&to).unwrap();
    let from_home = |args: &[&str]| {
        let mut command = host.command(args);
        support::said(command.current_dir(&host.home))
    };
    fs::rename(&host.work, &moved).unwrap();
    let shown = from_home(&["diff", "k3f9"]).code(0).out;
    assert!(shown.contains("put it back"), "{shown}");
    std::os::unix::fs::symlink(&to, &host.work).unwrap();
    let said = from_home(&["commit", "k3f9", "--yes"]).code(3);
    assert!(said.out.contains("no longer a directory"), "{}", said.all());
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    // What is not committed is not gone for `gc`.
    from_home(&["gc"]).code(0);
    let dropped = from_home(&["discard", "k3f9", "--yes"]).code(0).out;
    assert!(dropped.contains("1 change discarded"), "{dropped}");
    fs::remove_file(&host.work).unwrap();
    fs::rename(&moved, &host.work).unwrap();
    assert!(host.call(&["diff"]).code(0).out.contains("nothing changed"));
    assert_eq!(host.read("a.txt").unwrap(), "a\n");
}

#[test]
fn only_what_is_named_is_committed_or_dropped() {
    let host = Host::new();
    host.put("sub/file.txt", "ORIGINAL\n");
    let session = host.session("20261121-0259-k3f9", "agent");
    for name in ["a.txt", "new/b.txt", "new/c.txt", "sub/file.txt"] {
        session.write(name, "CHANGED\n");
    }
    // A new folder comes with what is in it; names also count from a folder below.
    host.call(&["commit", "--", "new/b.txt"]).code(0);
    assert_eq!(host.read("new/b.txt").unwrap(), "CHANGED\n");
    assert!(host.read("a.txt").is_none() && host.read("new/c.txt").is_none());
    let mut below = host.command(&["commit", "--", "file.txt"]);
    support::said(below.current_dir(host.work.join("sub"))).code(0);
    assert_eq!(host.read("sub/file.txt").unwrap(), "CHANGED\n");
    for wrong in ["../other", "/etc/passwd", "sub/../../x", "absent", ""] {
        let said = host.call(&["commit", "--", wrong]).code(2);
        assert!(said.err.starts_with("agentwall: "), "{}", said.err);
    }
    host.call(&["discard", "--", "a.txt"]).code(0);
    let left = host.call(&["diff", "--stat"]).out;
    assert!(
        !left.contains("a.txt") && left.contains("new/c.txt"),
        "{left}"
    );
    host.call(&["discard"]).code(0);
    host.call(&["commit"]).code(0);
    assert!(host.read("a.txt").is_none() && host.read("new/c.txt").is_none());
    assert!(
        host.call(&["ledger", "show", "--type", "discard"])
            .out
            .contains("dropped")
    );
}

#[test]
fn a_conflict_loses_nothing_and_says_so() {
    let host = Host::new();
    host.put("both.txt", "ORIGINAL\n");
    host.put("mine.txt", "ORIGINAL\n");
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("both.txt", "AGENT\n");
    session.write("mine.txt", "AGENT\n");
    host.put("both.txt", "PERSON\n");
    let said = host.call(&["commit"]).code(3);
    assert!(
        said.out.contains("conflict") && said.out.contains("both.txt"),
        "{}",
        said.out
    );
    assert!(said.err.contains("agentwall diff --patch"), "{}", said.err);
    assert_eq!(host.read("both.txt").unwrap(), "PERSON\n");
    assert_eq!(host.read("mine.txt").unwrap(), "AGENT\n");
    assert!(host.call(&["diff", "--patch"]).out.contains("+AGENT"));
    host.call(&["commit"]).code(3);
}

#[test]
fn names_of_any_kind_arrive_and_none_acts_on_the_terminal() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    let odd = [
        &b"a\nb"[..],
        b"esc\x1b[2J",
        b"raw\xff",
        "rtl\u{202e}x".as_bytes(),
        b" \x7f-",
    ];
    for name in odd {
        session.write(OsStr::from_bytes(name), "ODD\n");
    }
    session.write(
        "long/".to_owned() + &vec!["d".repeat(200); 15].join("/"),
        "DEEP\n",
    );
    for args in [
        &["diff"][..],
        &["diff", "--patch"],
        &["diff", "--json"],
        &["sessions"],
        &["sessions", "--json"],
    ] {
        let said = host.call(args).code(0);
        harmless(&said.out);
    }
    let said = host.call(&["commit"]).code(0);
    harmless(&said.all());
    harmless(&host.call(&["ledger", "show"]).code(0).all());
    for name in odd {
        let there = fs::read_to_string(host.work.join(OsStr::from_bytes(name)));
        assert_eq!(there.unwrap(), "ODD\n", "{name:?}\n{}", said.all());
    }
}

#[test]
fn a_running_session_can_be_looked_at_but_not_committed() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("a.txt", "A\n");
    let lock = File::create(session.dir.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(host.call(&["sessions"]).code(0).out.contains("running"));
    assert!(host.call(&["diff"]).code(0).out.contains("a.txt"));
    for command in ["commit", "discard"] {
        let said = host.call(&[command]).code(1);
        assert!(said.err.contains("is running"), "{}", said.err);
    }
    drop(lock);
    host.call(&["commit"]).code(0);
    assert_eq!(host.read("a.txt").unwrap(), "A\n");
}

#[test]
fn a_session_is_found_or_the_error_names_the_next_step() {
    let host = Host::new();
    let none = host.call(&["diff"]).code(1).err;
    assert!(none.contains("no session of the workspace"), "{none}");
    let none = host.call(&["diff", "x"]).code(1).err;
    assert!(none.contains("no sessions yet"), "{none}");
    host.session("20261121-0259-k3f9", "alpha").write("f", "x");
    host.session("20261121-0300-m4g2", "beta");
    for selector in ["alpha", "k3f9", "20261121-0259-k3f9", "20261121-0259"] {
        assert!(
            host.call(&["diff", selector]).code(0).out.contains("A  f"),
            "{selector}"
        );
    }
    let wrong = host.call(&["diff", "alhpa\x1b[2J"]).code(1).err;
    harmless(&wrong);
    assert!(
        wrong.contains("closest") && wrong.contains("20261121-0259-k3f9 (alpha)"),
        "{wrong}"
    );
    let several = host.call(&["diff", "2026"]).code(1).err;
    assert!(several.contains("any of 2 sessions"), "{several}");
    fs::write(
        host.state.join("sessions/20261121-0300-m4g2/session.json"),
        "{",
    )
    .unwrap();
    let damaged = host.call(&["diff", "20261121-0300-m4g2"]).code(1).err;
    assert!(damaged.contains("damaged"), "{damaged}");
}

#[test]
fn a_changed_policy_copy_stops_the_commit() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("hooks/x", "EVIL\n");
    let loose = support::POLICY.replace("effect: deny", "effect: allow");
    fs::write(session.dir.join("policy.yaml"), loose).unwrap();
    let said = host.call(&["commit"]).code(1);
    assert!(
        said.err.contains("not the one the session ran under"),
        "{}",
        said.err
    );
    assert!(host.read("hooks/x").is_none());
    assert!(host.call(&["diff"]).code(0).out.contains("hooks/x"));
}

#[test]
fn on_a_terminal_a_commit_is_confirmed_and_a_patch_is_made_safe() {
    let host = Host::new();
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("a.txt", "evil \x1b]0;title\x07 and \x1b[2J\n");
    let patch = on_terminal(&host, &["diff", "--patch"], "").code(0).out;
    assert!(patch.contains("\\u{1b}]0;title\\u{7}"), "{patch:?}");
    assert!(
        patch.contains("\x1b[32m+evil"),
        "colours are for terminals: {patch:?}"
    );
    assert!(
        !patch.contains("\x1b]") && !patch.contains("\x1b[2J"),
        "{patch:?}"
    );
    let asked = on_terminal(&host, &["commit"], "n\n").code(1).out;
    assert!(asked.contains("commit 1 change? [y/N]"), "{asked:?}");
    assert_eq!(host.read("a.txt"), None);
    on_terminal(&host, &["commit"], "y\n").code(0);
    assert!(host.read("a.txt").is_some());
}
