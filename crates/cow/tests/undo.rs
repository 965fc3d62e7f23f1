//! Undoing a commit: the tree is as before, the changes are in the session again, and nobody's work of
//! the time in between is lost.

#![allow(clippy::unwrap_used)]

mod common;
use common::ops::{SETUP, operation, script};
use common::{Session, exact, link_groups, sh, summary, tree};

use agentwall_cow::{
    CommitError, CommitOptions, Disposition, NothingToUndo, UndoConflict, UndoError, UndoOptions,
    UndoReport, UndoStatus, can_undo, discard_all, forget, is_unreported, recover, undo,
};
use proptest::prelude::*;

fn options(s: &Session) -> UndoOptions {
    UndoOptions::new(CommitOptions::new(s.tmp.path().join("locks")))
}

fn undo_with(s: &Session, f: impl FnOnce(&mut UndoOptions)) -> Result<UndoReport, UndoError> {
    let mut options = options(s);
    f(&mut options);
    loop {
        match undo(std::slice::from_ref(&s.layer), &options) {
            // A child that another test is just starting holds a copy of the lock for a moment.
            Err(UndoError::Commit(CommitError::Locked { .. })) => std::thread::yield_now(),
            other => return other,
        }
    }
}

/// Path below the root and status of every outcome that is not `Undone`.
fn left(s: &Session, report: &UndoReport) -> Vec<(String, UndoStatus)> {
    let rest = report.outcomes.iter();
    rest.filter(|o| o.status != UndoStatus::Undone)
        .map(|o| {
            let rel = o.path.strip_prefix(s.root()).unwrap();
            (rel.to_str().unwrap().to_owned(), o.status.clone())
        })
        .collect()
}

const RICH: &str =
    "mkdir -p d/e gone/sub o; echo a >d/a; echo b >d/b; ln d/b l2; echo g >gone/sub/g
    echo 1 >o/1; echo f >becomes-dir; mkdir -p becomes-file/x; echo y >becomes-file/x/y; echo m >m
    echo q >dm; chmod 640 d/a; ln -s d/a s; mkfifo pipe; touch -d '2001-02-03 04:05:06.789' d/a d/e
    chmod 711 d/e; touch -d '2002-01-01' d . gone";

const WORK: &str = "echo A >d/a; rm d/b; rm -r gone; rm -r o; mkdir o; echo k >o/k; chmod 600 m
    rm becomes-dir; mkdir becomes-dir; echo x >becomes-dir/x; rm -r becomes-file; echo z >becomes-file
    mkdir -p n/m; echo n1 >n/m/1; ln n/m/1 n/l; chmod 500 n/m; chmod 700 d/e; ln -sfn other s
    echo h >>l2; rm pipe; : >empty";

#[test]
fn an_undo_restores_everything_and_the_session_shows_it_again() {
    let s = Session::new(RICH);
    let before = exact(s.root(), true);
    let groups = link_groups(s.root());
    s.agent(WORK);
    let set = s.scan();
    s.commit_all();
    let committed = tree(s.root());
    assert_ne!(exact(s.root(), true), before);
    let looked = undo_with(&s, |o| o.dry_run = true).unwrap();
    assert_eq!(
        looked.count(|s| *s == UndoStatus::Ready),
        looked.outcomes.len()
    );
    assert_eq!(tree(s.root()), committed, "looking changes nothing");

    let report = s.undo();
    assert!(report.is_complete(), "{report:#?}");
    assert!(
        report.kept.is_empty() && report.warnings.is_empty(),
        "{report:#?}"
    );
    assert_eq!(exact(s.root(), true), before);
    assert_eq!(link_groups(s.root()), groups);
    s.no_litter();
    assert!(!s.tmp.path().join("upper.trash").exists());
    let again = s.scan();
    assert_eq!(summary(&again, s.root()), summary(&set, s.root()));
    let none = undo_with(&s, |_| {}).unwrap_err();
    assert!(
        matches!(none, UndoError::Nothing(NothingToUndo::NoCommit)),
        "{none}"
    );
    // Once more there and back.
    s.commit_all();
    assert_eq!(tree(s.root()), committed);
    assert_eq!(link_groups(s.root()), [["n/l", "n/m/1"]]);
    assert!(s.undo().is_complete());
    assert_eq!(exact(s.root(), true), before);
}

#[test]
fn what_changed_since_stops_the_undo_or_is_left_out() {
    let cases: [(&str, &str, UndoConflict); 6] = [
        ("echo user >>d/a", "d/a", UndoConflict::Changed),
        // Same size, and the time set back.
        (
            "touch -r d/a /tmp/.t$$; printf 'U\\n' >d/a; touch -r /tmp/.t$$ d/a; rm /tmp/.t$$",
            "d/a",
            UndoConflict::Changed,
        ),
        ("echo user >t; mv t d/a", "d/a", UndoConflict::Changed),
        ("echo user >d/b", "d/b", UndoConflict::Occupied),
        ("chmod 611 m", "m", UndoConflict::Changed),
        ("rm becomes-file", "becomes-file", UndoConflict::Changed),
    ];
    for (edit, path, conflict) in cases {
        let s = Session::new(RICH);
        let before = exact(s.root(), false);
        s.agent(WORK);
        s.commit_all();
        s.user(edit);
        let now = exact(s.root(), true);
        let expected = vec![(path.to_owned(), UndoStatus::Conflict { conflict })];
        let refused = undo_with(&s, |_| {}).unwrap();
        let said: Vec<_> = left(&s, &refused)
            .into_iter()
            .filter(|(_, status)| *status != UndoStatus::Ready)
            .collect();
        assert_eq!(said, expected, "{edit}");
        assert_eq!(exact(s.root(), true), now, "{edit}: nothing was touched");

        let partly = undo_with(&s, |o| o.partial = true).unwrap();
        assert_eq!(left(&s, &partly), expected, "{edit}");
        let after = exact(s.root(), true);
        assert_eq!(
            after.get(std::path::Path::new(path)),
            now.get(std::path::Path::new(path))
        );
        let rest = exact(s.root(), false);
        for (name, text) in &before {
            // Directories that hold what stays, and links of it, differ in time and number.
            let path = std::path::Path::new(path);
            let holds = path.starts_with(name) || name.starts_with(path);
            assert!(
                holds || rest.get(name) == Some(text),
                "{edit}: {name:?} {text}"
            );
        }
        s.no_litter();
    }
}

#[test]
fn a_directory_with_somebodys_file_stays_and_its_own_files_go() {
    let s = Session::new("echo a >a");
    s.agent("mkdir -p n/m; echo 1 >n/m/1; echo 2 >n/2; echo A >a");
    s.commit_all();
    s.user("echo user >n/m/user");
    let report = undo_with(&s, |o| o.partial = true).unwrap();
    let names: Vec<String> = left(&s, &report).into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["n", "n/m"]);
    assert_eq!(s.read("n/m/user"), "user\n");
    assert!(!s.exists("n/m/1") && !s.exists("n/2"));
    assert_eq!(s.read("a"), "a\n");
    assert_eq!(
        summary(&s.scan(), s.root()),
        ["Modify a", "Add n/2", "Add n/m/1"]
    );
    // What stayed can be undone when the reason is gone.
    s.user("rm n/m/user");
    assert!(undo_with(&s, |_| {}).unwrap().is_complete());
    assert!(!s.exists("n"));
}

#[test]
fn only_the_last_commit_can_be_undone() {
    let s = Session::new("echo a >a; echo b >b");
    s.agent("echo A >a; echo B >b");
    let set = s.scan();
    s.commit_with(&set, |c| match c.path.ends_with("a") {
        true => Disposition::Commit,
        false => Disposition::Hold,
    });
    // A commit of nothing changes nothing about that.
    let set = s.scan();
    s.commit_with(&set, |_| Disposition::Hold);
    assert!(can_undo(std::slice::from_ref(&s.layer)).is_ok());
    let set = s.scan();
    assert!(s.commit(&set).is_complete());
    assert!(s.undo().is_complete());
    assert_eq!((s.read("a").as_str(), s.read("b").as_str()), ("A\n", "b\n"));
    s.no_trash();
    assert!(undo_with(&s, |_| {}).is_err());
}

#[test]
fn too_much_is_not_kept_and_an_undo_says_so() {
    let s = Session::new("head -c 5000 /dev/zero >big; mkdir d; head -c 6000 /dev/zero >d/x");
    s.agent("echo n >big; rm -r d");
    let set = s.scan();
    let mut options = CommitOptions::new(s.tmp.path().join("locks"));
    options.undo_limit = 10_999;
    let layers = std::slice::from_ref(&s.layer);
    let report = agentwall_cow::commit(layers, &set, |_| Disposition::Commit, &options).unwrap();
    assert!(
        report.is_complete() && report.kept.is_empty(),
        "{report:#?}"
    );
    assert!(!s.tmp.path().join("upper.trash").exists());
    let (bytes, limit) = (11_000, 10_999);
    match undo_with(&s, |_| {}) {
        Err(UndoError::Nothing(why)) => assert_eq!(why, NothingToUndo::TooLarge { bytes, limit }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn originals_are_given_up_when_asked_and_those_written_to_stay() {
    use std::io::Write as _;
    let s = Session::new("echo a >a; echo b >b");
    let mut open = std::fs::OpenOptions::new()
        .append(true)
        .open(s.root().join("a"))
        .unwrap();
    s.agent("echo A >a; rm b");
    s.commit_all();
    open.write_all(b"late\n").unwrap();
    let kept = forget(std::slice::from_ref(&s.layer)).unwrap();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let place = kept[0].split(" keeps the original").next().unwrap();
    assert_eq!(std::fs::read_to_string(place).unwrap(), "a\nlate\n");
    match undo_with(&s, |_| {}) {
        Err(UndoError::Nothing(why)) => assert_eq!(why, NothingToUndo::Dropped),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_written_to_an_original_after_it_was_replaced_comes_back_with_it() {
    use std::io::Write as _;
    let s = Session::new("echo a >a");
    let mut open = std::fs::OpenOptions::new()
        .append(true)
        .open(s.root().join("a"))
        .unwrap();
    s.agent("echo A >a");
    s.commit_all();
    open.write_all(b"late\n").unwrap();
    assert!(s.undo().is_complete());
    assert_eq!(s.read("a"), "a\nlate\n");
}

#[test]
fn a_commit_can_be_undone_after_the_rest_was_discarded() {
    let s = Session::new("echo a >a; echo b >b");
    s.agent("echo A >a; echo B >b");
    let set = s.scan();
    s.commit_with(&set, |c| match c.path.ends_with("a") {
        true => Disposition::Commit,
        false => Disposition::Hold,
    });
    let others = discard_all(std::slice::from_ref(&s.layer)).unwrap();
    assert_eq!(others, Vec::<std::path::PathBuf>::new());
    assert!(s.undo().is_complete());
    assert_eq!(s.read("a"), "a\n");
    assert_eq!(summary(&s.scan(), s.root()), ["Modify a"]);
}

#[test]
fn an_outcome_that_nobody_recorded_is_told_once_more() {
    let s = Session::new("echo a >a");
    s.agent("echo A >a; echo n >n");
    s.commit_all();
    let layers = std::slice::from_ref(&s.layer);
    assert!(is_unreported(layers).unwrap());
    let told = recover(layers, &options(&s).commit).unwrap().recovered;
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|t| t.new.is_some()));
    agentwall_cow::acknowledge(layers).unwrap();
    assert!(!is_unreported(layers).unwrap());
    assert!(s.undo().is_complete());
    assert!(is_unreported(layers).unwrap());
    assert_eq!(
        recover(layers, &options(&s).commit)
            .unwrap()
            .recovered
            .len(),
        2
    );
    agentwall_cow::acknowledge(layers).unwrap();
    assert!(
        recover(layers, &options(&s).commit)
            .unwrap()
            .recovered
            .is_empty()
    );
}

/// Someone works on the tree while it is put back: every version is in the tree, in the session, or at
/// a place that the report names.
#[test]
fn a_writer_who_races_with_the_undo_loses_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut met = 0;
    for round in 0..10u64 {
        let s = Session::new("for i in $(seq 60); do echo old >$i; done");
        s.agent("for i in $(seq 60); do echo agent >$i; done; for i in $(seq 61 90); do echo n >$i; done");
        s.commit_all();
        let stop = AtomicBool::new(false);
        let (report, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut written = Vec::new();
                std::thread::sleep(std::time::Duration::from_micros(300 * round));
                for i in (1..=90u64).map(|i| (i * 7 + round) % 90 + 1) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let path = s.root().join(i.to_string());
                    let text = format!("user {round} {i}\n");
                    let temp = s.root().join("editor-temp");
                    std::fs::write(&temp, &text).unwrap();
                    std::fs::rename(&temp, &path).unwrap();
                    written.push((path, text));
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                written
            });
            let report = undo_with(&s, |o| o.partial = true).unwrap();
            stop.store(true, Ordering::Relaxed);
            (report, writer.join().unwrap())
        });
        for (path, text) in written {
            met += 1;
            let here = std::fs::read_to_string(&path).is_ok_and(|t| t == text);
            let kept = report.kept.iter().any(|line| {
                let place = line.split(" holds what was").next().unwrap();
                std::fs::read_to_string(place).is_ok_and(|t| t == text)
            });
            assert!(here || kept, "lost: {text} {report:#?}");
        }
        s.no_litter();
    }
    assert!(met > 0, "the writer never met the undo");
}

/// What takes another's place as its second name, and is undone, is the other's own object.
#[test]
fn an_undone_link_leaves_no_mark_on_the_original_that_it_led_to() {
    let s = Session::new("echo one >f; echo two >x");
    let before = exact(s.root(), true);
    s.agent("ln -f f x");
    assert!(s.commit_all().is_complete());
    assert_eq!(link_groups(s.root()).len(), 1);
    assert!(s.undo().is_complete());
    assert_eq!(exact(s.root(), true), before);
    // Nor does the session's copy share its inode.
    s.agent("echo more >>x");
    assert_eq!(exact(s.root(), true), before);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("AGENTWALL_MODEL_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(100),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn commit_and_undo_give_the_tree_as_it_was(
        work in prop::collection::vec(operation(), 0..15),
        agent in prop::collection::vec(operation(), 1..25),
    ) {
        let s = Session::new(&format!("{SETUP}\n{}", script(&work)));
        let before = exact(s.root(), true);
        s.agent(&script(&agent));
        let set = s.scan();
        let report = s.commit(&set);
        prop_assert!(report.is_complete(), "{:#?}", report);
        let committed = (tree(s.root()), link_groups(s.root()));
        if set.is_empty() {
            return Ok(());
        }
        let report = s.undo();
        prop_assert!(report.is_complete(), "{:#?}", report);
        prop_assert!(report.warnings.is_empty() && report.kept.is_empty(), "{:#?}", report);
        prop_assert_eq!(exact(s.root(), true), before);
        s.no_litter();
        let again = s.scan();
        prop_assert_eq!(summary(&again, s.root()), summary(&set, s.root()));
        prop_assert!(s.commit(&again).is_complete());
        prop_assert_eq!((tree(s.root()), link_groups(s.root())), committed);
    }
}

#[test]
fn attributes_and_holes_come_back() {
    use rustix::fs::{XattrFlags, setxattr};
    let s = Session::new("echo a >a; echo m >m; mkdir d; truncate -s 3M hole; printf x >>hole");
    for name in ["a", "m", "d"] {
        setxattr(s.root().join(name), "user.k", b"old", XattrFlags::empty()).unwrap();
    }
    sh(s.root(), "touch -d 2001-01-01 d");
    let s = s.begun_now();
    let before = exact(s.root(), true);
    s.agent("echo A >a; chmod 600 m; chmod 700 d; printf y >>hole");
    for name in ["m", "d"] {
        setxattr(s.upper().join(name), "user.k", b"new", XattrFlags::empty()).unwrap();
        setxattr(s.upper().join(name), "user.n", b"new", XattrFlags::empty()).unwrap();
    }
    let set = s.scan();
    s.commit_all();
    assert!(exact(s.root(), true)[std::path::Path::new("m")].contains("user.n=new"));
    assert!(s.undo().is_complete());
    assert_eq!(exact(s.root(), true), before);
    let same = |a: &agentwall_cow::Change, b: &agentwall_cow::Change| {
        (&a.path, a.kind, &a.content, &a.xattrs, a.new_mode())
            == (&b.path, b.kind, &b.content, &b.xattrs, b.new_mode())
    };
    let again = s.scan();
    assert!(
        again
            .changes
            .iter()
            .zip(&set.changes)
            .all(|(a, b)| same(a, b)),
        "{again:#?}"
    );
}

#[test]
fn an_undo_leaves_newer_attributes_of_the_sessions_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let s = Session::new("mkdir -p d/sub; echo a >d/a; chmod 755 d d/sub");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    s.agent("chmod 700 d; chmod 711 d/sub; echo A >d/a");
    s.commit_all();
    // The session goes on.
    s.agent("chmod 750 d");
    assert!(s.undo().is_complete());
    assert_eq!(mode(&s.root().join("d")), 0o755);
    assert_eq!(mode(&s.root().join("d/sub")), 0o755);
    assert_eq!(mode(&s.upper().join("d")), 0o750);
    assert_eq!(mode(&s.upper().join("d/sub")), 0o711, "as it was committed");
    assert_eq!(
        summary(&s.scan(), s.root()),
        ["Meta d", "Modify d/a", "Meta d/sub"]
    );
}

#[test]
fn a_directory_that_the_session_made_anew_hides_the_one_that_comes_back() {
    let s = Session::new("mkdir d; echo x >d/x; echo y >d/y");
    s.agent("rm -r d");
    s.commit_all();
    s.agent("mkdir d; echo z >d/z");
    assert!(s.undo().is_complete());
    assert_eq!(s.read("d/x"), "x\n");
    assert_eq!(s.agent("ls d"), "z\n");
    assert_eq!(
        summary(&s.scan(), s.root()),
        ["Delete d/x", "Delete d/y", "Add d/z"]
    );
}

#[test]
fn what_a_first_commit_left_is_no_conflict_after_the_second_is_undone() {
    let s = Session::new("echo a >a; mkdir d; echo x >d/x");
    s.agent("echo one >a; echo one >d/x; chmod 600 d/x; echo one >n; ln -s one l");
    s.commit_all();
    s.agent("echo two >a; echo two >d/x; echo two >n; ln -sfn two l");
    s.commit_all();
    assert!(s.undo().is_complete());
    assert_eq!(
        (s.read("a").as_str(), s.read("n").as_str()),
        ("one\n", "one\n")
    );
    s.commit_all();
    assert_eq!(
        (s.read("d/x").as_str(), s.read("n").as_str()),
        ("two\n", "two\n")
    );
}
