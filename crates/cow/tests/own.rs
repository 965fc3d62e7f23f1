//! What a session knows of its own work: a change of somebody else is a conflict until somebody decides,
//! whatever the session committed, undid, dropped or went back to meanwhile; and its own work never is.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, exported, imported, status, whole};

use agentwall_cow::{
    Disposition, Layer, Status, commits, copy_layer, discard_all, forget, remove_checkpoint,
};

fn layers(s: &Session) -> &[Layer] {
    std::slice::from_ref(&s.layer)
}

fn drop_all(s: &Session) {
    assert!(discard_all(layers(s)).unwrap().is_empty());
}

/// Commits what is no conflict, and nothing else.
fn commit_what_can_be(s: &Session) {
    let set = s.scan();
    let report = s.commit(&set);
    for outcome in &report.outcomes {
        let conflict = set.get(&outcome.path).unwrap().conflict.is_some();
        let refused = matches!(outcome.status, Status::Conflict { .. });
        assert_eq!(refused, conflict, "{outcome:?}");
    }
    assert!(report.warnings.is_empty() && report.kept.is_empty());
}

#[test]
fn a_discard_keeps_what_the_checkpoints_of_an_imported_layer_need() {
    let from = Session::new("echo one >f; echo g >g");
    common::sh(from.tmp.path(), "cp -a root other");
    from.agent("echo two >f; echo h >h");
    let (archive, _) = exported(whole(&from.layer)).unwrap();
    let (s, _) = imported(&archive, &from.tmp.path().join("other"), "echo mine >f");
    let shown = ["Modify f !changed", "Add h"];
    assert_eq!(s.shows(), shown);
    s.checkpoint("c1");
    drop_all(&s);
    s.roll_back("c1", "before-1");
    assert_eq!(s.shows(), shown);
    commit_what_can_be(&s);
    assert_eq!(s.read("f"), "mine\n");
}

#[test]
fn a_discard_keeps_the_record_that_checkpoints_need() {
    let s = Session::new("echo a >a");
    s.agent("echo A >a; echo n >n");
    s.commit_all();
    s.no_trash();
    s.agent("echo again >a; echo again >n");
    s.checkpoint("c1");
    drop_all(&s);
    s.roll_back("c1", "before-1");
    assert_eq!(s.shows(), ["Modify a", "Modify n"]);
    assert_eq!(commits(layers(&s)).unwrap(), 1);
    s.commit_all();
}

#[test]
fn with_the_last_checkpoint_of_a_discarded_session_the_rest_goes() {
    let s = Session::new("echo a >a");
    s.agent("echo A >a");
    s.commit_all();
    s.no_trash();
    s.agent("echo again >a");
    s.checkpoint("c1");
    s.checkpoint("c2");
    let beside = |name: &str| s.tmp.path().join(format!("upper.{name}")).exists();
    drop_all(&s);
    remove_checkpoint(layers(&s), "c1").unwrap();
    assert!(beside("manifest") && beside("applied"));
    remove_checkpoint(layers(&s), "c2").unwrap();
    assert!(!beside("manifest") && !beside("applied") && !beside("checkpoints"));
}

#[test]
fn the_last_checkpoint_of_a_session_that_goes_on_takes_nothing_else_with_it() {
    let s = Session::new("echo a >a");
    s.agent("echo A >a");
    s.checkpoint("c1");
    drop_all(&s);
    s.roll_back("c1", "before-1");
    s.commit_all();
    remove_checkpoint(layers(&s), "c1").unwrap();
    remove_checkpoint(layers(&s), "before-1").unwrap();
    s.agent("echo again >a");
    assert_eq!(s.shows(), ["Modify a"]);
}

#[test]
fn committing_twice_clears_no_conflict() {
    let s = Session::new("mkdir d; echo a >d/x; echo a >d/y");
    s.agent("echo b >d/x; echo b >d/y");
    s.user("rm d/y");
    assert_eq!(s.shows(), ["Modify d/x", "Add d/y !vanished"]);
    commit_what_can_be(&s);
    assert_eq!(s.shows(), ["Add d/y !vanished"]);
    commit_what_can_be(&s);
    assert!(!s.exists("d/y"));
}

#[test]
fn a_deletion_between_two_commits_is_a_conflict() {
    let s = Session::new("mkdir d; echo a >d/x; echo a >d/y");
    s.agent("echo b >d/x; echo b >d/y");
    let set = s.scan();
    s.commit_with(&set, |c| match c.path.ends_with("d/x") {
        true => Disposition::Commit,
        false => Disposition::Hold,
    });
    assert_eq!(s.shows(), ["Modify d/y"]);
    s.user("rm d/y");
    assert_eq!(s.shows(), ["Add d/y !vanished"]);
}

#[test]
fn attributes_that_somebody_set_on_a_directory_stay_a_conflict_after_a_commit_in_it() {
    let s = Session::new("mkdir d; echo a >d/x; echo a >d/y");
    s.agent("chmod 700 d; echo b >d/x");
    s.user("chmod 750 d");
    assert_eq!(s.shows(), ["Meta d !changed", "Modify d/x"]);
    commit_what_can_be(&s);
    assert_eq!(s.shows(), ["Meta d !changed"]);
    commit_what_can_be(&s);
    assert_eq!(common::tree(s.root())[std::path::Path::new("d")], "dir 750");
}

#[test]
fn attributes_of_an_imported_directory_stay_a_conflict_after_a_commit_in_it() {
    let from = Session::new("mkdir d; echo a >d/x");
    common::sh(from.tmp.path(), "cp -a root other");
    from.agent("chmod 700 d; echo b >d/x");
    let (archive, _) = exported(whole(&from.layer)).unwrap();
    let (s, _) = imported(&archive, &from.tmp.path().join("other"), "chmod 750 d");
    assert_eq!(s.shows(), ["Meta d !changed", "Modify d/x"]);
    commit_what_can_be(&s);
    assert_eq!(s.shows(), ["Meta d !changed"]);
}

#[test]
fn what_a_commit_added_and_somebody_deleted_is_a_conflict_after_a_rollback() {
    let s = Session::new("mkdir d; echo a >d/a");
    s.agent("echo n >d/n; echo m >d/m");
    s.checkpoint("c1");
    s.commit_all();
    s.user("rm d/n");
    s.roll_back("c1", "before-1");
    assert_eq!(s.shows(), ["Add d/n !vanished"]);
    // What the session itself deleted is not.
    let s = Session::new("mkdir d; echo a >d/a; echo b >d/b");
    s.agent("echo A >d/a; echo B >d/b");
    s.checkpoint("c1");
    s.agent("rm d/a");
    s.commit_all();
    s.roll_back("c1", "before-1");
    assert_eq!(s.shows(), ["Add d/a"]);
    s.commit_all();
}

#[test]
fn an_undone_original_is_known_by_its_path() {
    let s = Session::new("echo a >a; echo b >b");
    s.agent("echo A >a; echo B >b");
    s.commit_all();
    assert!(s.undo().is_complete());
    assert_eq!(s.shows(), ["Modify a", "Modify b"]);
    s.user("mv a b");
    assert_eq!(s.shows(), ["Add a !vanished", "Modify b !changed"]);
}

#[test]
fn what_somebody_does_to_an_undone_original_is_seen() {
    for edit in [
        "ln a other",
        "python3 -c 'import os; os.setxattr(\"a\", \"user.k\", b\"v\")'",
        "touch -r a t; printf 'Z\\n' >a; touch -r t a; rm t",
        "touch a",
    ] {
        let s = Session::new("echo a >a");
        s.agent("echo A >a");
        s.commit_all();
        assert!(s.undo().is_complete());
        assert_eq!(s.shows(), ["Modify a"], "{edit}");
        s.user(edit);
        assert_eq!(s.shows(), ["Modify a !changed"], "{edit}");
    }
}

#[test]
fn a_directory_that_took_the_place_of_another_is_one_also_after_commits_in_both() {
    let s = Session::new("mkdir d1 d2; echo a >d1/x; echo a >d2/x");
    s.agent("echo b >d1/x; echo b >d2/x");
    s.commit_all();
    s.user("mv d1 o; mv d2 d1");
    s.agent("echo c >d1/x");
    assert_eq!(s.shows(), ["Modify d1/x !directory_replaced"]);
}

#[test]
fn a_directory_that_the_session_made_is_known_by_its_inode() {
    let s = Session::new("echo a >a");
    s.agent("mkdir n; echo 1 >n/x");
    s.commit_all();
    s.user("echo u >n/u");
    s.agent("echo 2 >n/x");
    assert_eq!(s.shows(), ["Modify n/x"]);
    s.user("mv n o; cp -a o n");
    assert_eq!(s.shows(), ["Modify n/x !directory_replaced"]);
}

#[test]
fn an_undo_of_a_second_commit_leaves_no_conflict() {
    let s = Session::new("echo a >a; echo g >g");
    s.agent("echo 1 >a; echo n >n; rm g");
    s.commit_all();
    s.agent("echo 2 >a; rm n; echo G >g");
    s.commit_all();
    for _ in 0..2 {
        assert!(s.undo().is_complete());
        assert_eq!(s.shows(), ["Modify a", "Add g", "Delete n"]);
        s.commit_all();
    }
}

#[test]
fn a_link_to_what_was_committed_before_leaves_no_conflict() {
    let s = Session::new("echo z >z");
    s.agent("echo 1 >a");
    s.commit_all();
    s.agent("ln a b; ln z y");
    s.commit_all();
    s.agent("echo 2 >>a; echo 2 >>z");
    assert!(
        s.scan().changes.iter().all(|c| c.conflict.is_none()),
        "{:?}",
        s.shows()
    );
    s.commit_all();
    assert!(s.undo().is_complete());
    assert!(
        s.scan().changes.iter().all(|c| c.conflict.is_none()),
        "{:?}",
        s.shows()
    );
    s.commit_all();
}

#[test]
fn other_names_of_an_original_stay_known_while_one_goes() {
    for layer in [Session::new, Session::by_change_times] {
        let s = layer("echo a >a; ln a b; ln a c");
        s.agent("echo A >a");
        s.commit_all();
        s.agent("echo B >b");
        assert_eq!(s.shows(), ["Modify b"]);
        s.commit_all();
        assert!(s.undo().is_complete());
        assert_eq!(s.shows(), ["Modify b"]);
        s.commit_all();
        s.no_trash();
        s.agent("echo C >c");
        assert_eq!(s.shows(), ["Modify c"]);
        s.user("chmod 600 c");
        assert_eq!(s.shows(), ["Modify c !changed"]);
    }
}

#[test]
fn names_of_one_file_that_go_and_come_in_one_commit_are_no_conflict() {
    let s = Session::new("mkdir d o; echo l >l1; ln l1 l2; ln l1 d/l3; echo 1 >o/1");
    s.agent("echo one >d/l3; echo one >l2; ln -f l1 o/1");
    s.commit_all();
    assert!(s.undo().is_complete());
    assert!(s.scan().changes.iter().all(|c| c.conflict.is_none()));
    s.commit_all();
}

#[test]
fn attributes_and_a_new_name_of_one_file_are_undone_together() {
    let s = Session::new("mkdir d; echo x >d/x; echo a >a");
    let before = common::exact(s.root(), true);
    s.agent("chmod 700 a; ln -f a d/x");
    s.commit_all();
    assert!(s.undo().is_complete());
    assert_eq!(common::exact(s.root(), true), before);
    assert_eq!(s.shows(), ["Meta a", "Modify d/x"]);
    // The session holds no inode of the originals.
    s.agent("echo more >>d/x");
    assert_eq!(common::exact(s.root(), true), before);
}

#[test]
fn what_somebody_wrote_to_a_resting_original_is_a_conflict_when_it_is_back() {
    use std::io::Write as _;
    let s = Session::new("echo a >a");
    let open = std::fs::OpenOptions::new()
        .append(true)
        .open(s.root().join("a"));
    let mut open = open.unwrap();
    s.agent("echo A >a");
    s.commit_all();
    open.write_all(b"late\n").unwrap();
    assert!(s.undo().is_complete());
    assert_eq!(s.shows(), ["Modify a !changed"]);
}

#[test]
fn a_commit_of_deletions_alone_counts_and_a_copy_begins_with_none() {
    let s = Session::new("echo a >a; echo b >b");
    s.agent("rm a");
    s.commit_all();
    assert_eq!(commits(layers(&s)).unwrap(), 1);
    s.agent("echo B >b");
    s.commit_all();
    s.agent("echo BB >b");
    let (upper, work) = (s.tmp.path().join("upper2"), s.tmp.path().join("work2"));
    std::fs::create_dir(&work).unwrap();
    let (layer, _) = copy_layer(&s.layer, upper, work).unwrap();
    let copied = std::slice::from_ref(&layer);
    assert_eq!(commits(copied).unwrap(), 0);
    let set = agentwall_cow::scan(copied).unwrap();
    assert_eq!(common::summary(&set, s.root()), ["Modify b"]);
    // A recovery that finds nothing to do is no commit.
    let options = agentwall_cow::CommitOptions::new(s.tmp.path().join("locks"));
    agentwall_cow::recover(copied, &options).unwrap();
    assert_eq!(commits(copied).unwrap(), 0);
    // What the other session does afterwards is somebody else's work.
    s.agent("echo B3 >b");
    s.commit_all();
    let set = agentwall_cow::scan(copied).unwrap();
    assert_eq!(common::summary(&set, s.root()), ["Modify b !changed"]);
    assert!(forget(copied).unwrap().is_empty());
}

#[test]
fn a_record_of_an_earlier_version_errs_towards_a_conflict() {
    let s = Session::new("mkdir d; echo a >d/a; echo b >d/b");
    s.agent("echo A >d/a");
    s.commit_all();
    // What such a version wrote of the same commit.
    let record = s.tmp.path().join("upper.applied");
    let lines = std::fs::read_to_string(&record).unwrap();
    let mut earlier = String::new();
    for line in lines.lines().filter(|l| !l.is_empty()) {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        if value["step"] == "own" {
            let now = value["note"]["now"].take();
            value = serde_json::json!({"step": "placed", "now": now});
        }
        earlier.push_str(&format!("{value}\n"));
    }
    std::fs::write(&record, earlier).unwrap();
    s.agent("echo AA >d/a; echo B >d/b");
    assert_eq!(s.shows(), ["Modify d/a", "Modify d/b"]);
    s.user("mv d/a d/b");
    assert_eq!(s.shows(), ["Add d/a !vanished", "Modify d/b !changed"]);
    let report = s.commit(&s.scan());
    assert!(matches!(status(&report, "d/a"), Status::Conflict { .. }));
}
