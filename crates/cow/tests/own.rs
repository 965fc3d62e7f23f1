//! What a session knows of its own work: a change of somebody else is a conflict until somebody decides,
//! whatever the session committed, undid, dropped or went back to meanwhile; and its own work never is.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, exported, imported, whole};

use agentwall_cow::{Layer, Status, commits, discard_all, remove_checkpoint};

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
