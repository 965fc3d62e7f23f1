//! Each row of the table in the crate documentation, on real overlays, with what the user may have
//! done to the original meanwhile.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, status, summary};

use agentwall_cow::{ChangeKind, Conflict, EntryKind, Privilege, Status};

/// Rows without a concurrent user: (setup, agent, changes, ).
#[test]
fn changes_without_anyone_else() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("", "true", &[]),
        ("echo a >a", "rm a", &["Delete a"]),
        ("", "echo a >a; rm a", &[]),
        ("echo a >a", "echo b >b", &["Add b"]),
        ("echo a >a", "echo b >a", &["Modify a"]),
        ("echo a >a", "echo b >>a", &["Modify a"]),
        ("echo a >a", "touch a", &["Meta a"]),
        ("echo a >a", "echo a >a", &["Meta a"]),
        ("echo a >a", "rm a; echo a >a", &[]),
        ("echo a >a", "chmod 600 a", &["Meta a"]),
        ("mkdir d", "chmod 700 d", &["Meta d"]),
        ("mkdir d; echo a >d/a", "echo b >d/b", &["Add d/b"]),
        ("mkdir d; echo a >d/a", "rm -r d", &["Delete d"]),
        (
            "mkdir d; echo a >d/a; echo b >d/b",
            "rm -r d; mkdir d; echo b >d/b",
            &["Delete d/a"],
        ),
        (
            "mkdir -p d/e/f; echo a >d/e/f/a",
            "rm -r d; mkdir -p d/e",
            &["Delete d/e/f"],
        ),
        (
            "echo a >a",
            "rm a; mkdir a; echo b >a/b",
            &["Replace a", "Add a/b"],
        ),
        ("mkdir d; echo a >d/a", "rm -r d; echo b >d", &["Replace d"]),
        ("echo a >a", "ln -sf b a", &["Replace a"]),
        ("ln -s a l", "ln -sfn b l", &["Modify l"]),
        ("ln -s a l", "rm l; ln -s a l", &[]),
        (
            "",
            "mkfifo p; mkdir -p n/m; ln -s x s",
            &["Add n", "Add n/m", "Add p", "Add s"],
        ),
        ("echo a >a", "mv a b", &["Delete a", "Add b"]),
        ("echo a >a", "ln a b", &["Add b"]),
        ("echo a >a; ln a b", "echo c >a", &["Modify a"]),
        ("echo a >a; ln a b", "chmod 600 a", &["Meta a"]),
        ("echo x >a; echo x >b", "ln -f a b", &["Modify b"]),
        (
            "echo a >a; mkdir d; mv a d/a",
            "mv d/a d/b; echo y >c",
            &["Add c", "Delete d/a", "Add d/b"],
        ),
    ];
    for (setup, agent, expected) in rows {
        for s in [Session::new(setup), Session::by_change_times(setup)] {
            s.agent(agent);
            assert_eq!(summary(&s.scan(), s.root()), *expected, "{setup} | {agent}");
            s.commit_all();
        }
    }
}

/// Rows with a concurrent user: (setup, agent, user, changes with conflicts).
#[test]
fn conflicts_with_someone_else() {
    let rows: &[(&str, &str, &str, &[&str])] = &[
        // the user edits
        (
            "echo a >a",
            "echo b >a",
            "echo c >a",
            &["Modify a !changed"],
        ),
        ("echo a >a", "rm a", "echo c >a", &["Delete a !changed"]),
        (
            "echo a >a",
            "chmod 600 a",
            "echo c >a",
            &["Modify a !changed"],
        ),
        (
            "echo a >a",
            "chmod 600 a",
            "chmod 640 a",
            &["Meta a !changed"],
        ),
        ("echo a >a", "echo b >a", "echo b >a", &[]),
        (
            "echo a >a",
            "echo b >a",
            "cp a t; mv t a; touch -d 2001-01-01 a",
            &["Modify a !changed"],
        ),
        // the user deletes
        ("echo a >a", "rm a", "rm a", &[]),
        ("echo a >a", "echo b >a", "rm a", &["Add a !vanished"]),
        (
            "mkdir d; echo a >d/a",
            "echo b >d/a; echo n >d/n",
            "rm -r d",
            &[
                "Add d !vanished",
                "Add d/a !parent_vanished",
                "Add d/n !parent_vanished",
            ],
        ),
        (
            "mkdir d; echo a >d/a",
            "rm -r d",
            "rm d/a",
            &["Delete d !changed"],
        ),
        // the user renames
        ("echo a >a", "echo b >a", "mv a z", &["Add a !vanished"]),
        (
            "mkdir d; echo a >d/a",
            "echo b >d/a",
            "mv d z",
            &["Add d !vanished", "Add d/a !parent_vanished"],
        ),
        (
            "mkdir d e; echo a >d/a; echo e >e/a",
            "echo b >d/a",
            "mv d z; mv e d",
            &["Modify d/a !directory_maybe_moved"],
        ),
        // the user replaces by directory or symlink
        (
            "echo a >a",
            "echo b >a",
            "rm a; mkdir a",
            &["Replace a !changed"],
        ),
        (
            "echo a >a",
            "echo b >a",
            "ln -sf /etc/passwd a",
            &["Replace a !changed"],
        ),
        (
            "mkdir d; echo a >d/a",
            "echo b >d/a; echo n >d/n",
            "mv d z; ln -s z d",
            &[
                "Replace d !changed",
                "Add d/a !parent_not_directory",
                "Add d/n !parent_not_directory",
            ],
        ),
        (
            "mkdir d; echo a >d/a",
            "rm -r d; echo f >d",
            "echo c >d/a",
            &["Replace d !changed_below"],
        ),
        // both add
        ("", "echo a >n", "echo b >n", &["Modify n !changed"]),
        (
            "",
            "mkdir n; echo a >n/a",
            "mkdir n; echo u >n/u",
            &["Add n/a"],
        ),
        // something below a deleted or replaced directory
        (
            "mkdir -p d/e; echo a >d/e/a",
            "rm -r d",
            "echo c >d/e/a",
            &["Delete d !changed_below"],
        ),
        (
            "mkdir -p d/e; echo a >d/e/a",
            "rm -r d",
            "echo c >d/e/n",
            &["Delete d !changed_below"],
        ),
        (
            "mkdir d; echo a >d/a; echo b >d/b",
            "rm -r d; mkdir d",
            "echo c >d/b",
            &["Delete d/a", "Delete d/b !changed"],
        ),
        // elsewhere: no conflict
        (
            "echo a >a; echo c >c",
            "echo b >a",
            "echo d >c; echo n >n",
            &["Modify a"],
        ),
        ("echo a >a", "mv a b", "echo n >n", &["Delete a", "Add b"]),
        (
            "mkdir d; echo a >d/a",
            "echo n >d/n",
            "echo m >d/m; echo r >r",
            &["Add d/n"],
        ),
    ];
    for (setup, agent, user, expected) in rows {
        let known: Vec<String> = expected
            .iter()
            .map(|line| line.replace("directory_maybe_moved", "directory_replaced"))
            .collect();
        refused(&Session::new(setup), agent, user, &known);
        let known: Vec<String> = expected.iter().map(|&line| line.to_owned()).collect();
        refused(&Session::by_change_times(setup), agent, user, &known);
    }
}

/// What is a conflict stays in the session, and nothing else does.
fn refused(s: &Session, agent: &str, user: &str, expected: &[String]) {
    s.agent(agent);
    s.user(user);
    let set = s.scan();
    assert_eq!(summary(&set, s.root()), expected, "{agent} | {user}");
    let before = common::tree(s.root());
    let upper = common::tree(s.upper()).len();
    let report = s.commit(&set);
    for outcome in &report.outcomes {
        let change = set.get(&outcome.path).unwrap();
        let conflict = matches!(outcome.status, Status::Conflict { .. });
        assert_eq!(conflict, change.conflict.is_some(), "{outcome:?}");
    }
    if set.changes.iter().all(|c| c.conflict.is_some()) {
        assert_eq!(
            before,
            common::tree(s.root()),
            "conflicts touch nothing: {user}"
        );
        assert_eq!(
            upper,
            common::tree(s.upper()).len(),
            "the session's version stays"
        );
    }
    s.no_litter();
}

#[test]
fn an_unmoved_directory_can_be_vouched_for() {
    let s = Session::by_change_times("mkdir d; echo a >d/a");
    s.agent("echo b >d/a");
    s.user("echo m >d/m; echo r >r");
    assert_eq!(
        summary(&s.scan(), s.root()),
        ["Modify d/a !directory_maybe_moved"]
    );
    let set = s.scan_trusting();
    assert!(s.commit(&set).is_complete());
    assert_eq!(s.read("d/a"), "b\n");
}

#[test]
fn details_of_changes() {
    let s = Session::new("printf 'a\\0b' >bin; echo t >t; mkdir -p d/e; touch d/1 d/e/2");
    s.agent(
        "echo x >bin; chmod 755 t; rm -r d; echo '#!/bin/sh' >run; chmod 4755 run; ln -s /etc l",
    );
    let set = s.scan();
    let get = |n: &str| set.get(&s.root().join(n)).unwrap().clone();
    assert!(get("bin").binary);
    assert_eq!(
        (get("bin").old_size(), get("bin").new_size()),
        (Some(3), Some(2))
    );
    assert!(get("t").exec_gained && get("run").exec_gained && !get("bin").exec_gained);
    assert_eq!(get("d").below, Some(3));
    assert_eq!(get("run").privileges, [Privilege::Setuid]);
    assert_eq!(get("l").target.unwrap().to_str(), Some("/etc"));
    assert_eq!(get("l").entry, EntryKind::Symlink);
    let first = set.in_review_order().next().unwrap();
    assert_eq!(first.kind, ChangeKind::Delete);
}

#[test]
fn the_digest_is_stable_and_sees_every_change() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a; echo c >c");
    let set = s.scan();
    assert_eq!(set.digest, s.scan().digest);
    let json = serde_json::to_string(&set).unwrap();
    let back: agentwall_cow::ChangeSet = serde_json::from_str(&json).unwrap();
    assert_eq!(back, set);
    assert_eq!(back.recompute_digest(), set.digest);
    s.agent("echo d >c");
    assert_ne!(set.digest, s.scan().digest);
}

#[test]
fn devices_and_forged_overlay_attributes_are_special() {
    let s = Session::new("echo a >a");
    std::fs::write(s.upper().join("f"), "").unwrap();
    let f = std::fs::File::open(s.upper().join("f")).unwrap();
    rustix::fs::fsetxattr(
        &f,
        "user.overlay.redirect",
        b"/etc",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let set = s.scan();
    assert_eq!(summary(&set, s.root()), ["Special f"]);
    let report = s.commit(&set);
    assert!(
        matches!(status(&report, "f"), Status::Held { .. }),
        "{report:?}"
    );
    assert!(!s.exists("f"));
}

#[test]
fn a_root_that_is_gone_or_replaced_is_a_conflict_of_every_change() {
    let s = Session::new("echo a >a; mkdir -p d/e; echo f >d/f; echo k >k");
    s.agent("echo b >a; rm d/f; rm -r d/e; mkdir n; echo x >n/x");
    let all = |reason: &str| {
        let kinds = [
            "Add a",
            "Add d",
            "Delete d/e",
            "Delete d/f",
            "Add n",
            "Add n/x",
        ];
        kinds.map(|kind| format!("{kind} !{reason}"))
    };
    let before = s.shows();
    for (arrange, reason) in [
        ("mv root old", "parent_vanished"),
        (
            "mkdir root; echo other >root/a; mkdir root/n",
            "directory_replaced",
        ),
        ("rm -r root; ln -s old root", "parent_not_directory"),
        ("rm root; echo file >root", "parent_not_directory"),
    ] {
        common::sh(s.tmp.path(), arrange);
        let set = s.scan();
        assert_eq!(summary(&set, s.root()), all(reason), "{arrange}");
        // What was deleted the manifest knows.
        let kind = |n: &str| set.get(&s.root().join(n)).unwrap().entry;
        assert_eq!(kind("d/e"), agentwall_cow::EntryKind::Directory);
        assert_eq!(kind("d/f"), agentwall_cow::EntryKind::File);
        assert_eq!(set.digest, s.scan().digest);
        assert_eq!(s.scan_trusting(), set);
    }
    common::sh(s.tmp.path(), "rm root; mv old root");
    assert_eq!(s.shows(), before);
}

/// What cannot be looked at is no conflict: nobody knows what is there.
#[test]
fn a_root_that_cannot_be_looked_at_is_an_error() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a");
    let mut layer = s.layer.clone();
    layer.root = s.tmp.path().join("n".repeat(300));
    let found = agentwall_cow::scan(&[layer]);
    assert!(
        matches!(found, Err(agentwall_cow::ScanError::Root { .. })),
        "{found:?}"
    );
}

#[test]
fn renames_are_guessed_and_a_rename_is_no_vanished_original() {
    let s = Session::new("echo one >a; mkdir -p d/e; echo two >d/x; echo three >d/e/y");
    s.agent("echo . >>a; sed -i '$d' a; mv a b; mv d z");
    s.user("echo u >u");
    let set = s.scan();
    let from = |n: &str| set.get(&s.root().join(n)).unwrap().rename_from.clone();
    assert_eq!(from("b"), Some(s.root().join("a")));
    assert_eq!(from("z"), Some(s.root().join("d")));
    assert_eq!(from("z/e/y"), Some(s.root().join("d/e/y")));
    assert!(set.changes.iter().all(|c| c.conflict.is_none()), "{set:#?}");
    let conflict: Option<Conflict> = None;
    assert_eq!(set.get(&s.root().join("b")).unwrap().conflict, conflict);
}
