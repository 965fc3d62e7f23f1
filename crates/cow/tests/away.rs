//! The original folder of a layer with changes is gone, renamed or replaced: a conflict of this layer
//! alone. Nothing is written to what is there instead, nothing of the session is lost, other layers go
//! on, and when the folder is back everything is as if it had never been away.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, exact, exported, imported, sh, status, tree, whole};

use agentwall_cow::{
    AmendError, Change, ChangeSet, CommitError, CommitOptions, CommitReport, Conflict, DiffOptions,
    DiscardError, Disposition, Layer, Sides, Status, UndoConflict, UndoError, UndoOptions,
    UndoReport, UndoStatus, can_undo, commit, discard, discard_all, forget, recover, scan, stat,
    undo, write_patch,
};

/// How a folder goes: what takes it away, what is there instead (its kind of conflict), what puts it back.
const WAYS: [(&str, &str, &str); 5] = [
    ("mv root old", "parent_vanished", "mv old root"),
    (
        "mv root old; mkdir root; echo FOREIGN >root/a; echo FOREIGN >root/gone",
        "directory_replaced",
        "rm -r root; mv old root",
    ),
    (
        "mv root old; cp -a old root",
        "directory_replaced",
        "rm -r root; mv old root",
    ),
    (
        "mv root old; echo file >root",
        "parent_not_directory",
        "rm root; mv old root",
    ),
    (
        "mv root old; ln -s old root",
        "parent_not_directory",
        "rm root; mv old root",
    ),
];

/// Two layers with changes; the folder of the first will be away.
struct Two {
    first: Session,
    second: Session,
}

impl Two {
    fn new() -> Two {
        let first = Session::new("echo a >a; echo g >gone; mkdir d; echo x >d/x; echo y >d/y");
        first.agent("echo A >a; rm gone; rm -r d; mkdir d; echo new >d/new; echo n >n");
        let second = Session::new("echo b >b");
        second.agent("echo B >b");
        Two { first, second }
    }

    fn layers(&self) -> [Layer; 2] {
        [self.first.layer.clone(), self.second.layer.clone()]
    }

    fn options(&self) -> CommitOptions {
        CommitOptions::new(self.first.tmp.path().join("locks"))
    }

    fn scan(&self) -> ChangeSet {
        scan(&self.layers()).unwrap()
    }

    fn commit_with(
        &self,
        set: &ChangeSet,
        mut decide: impl FnMut(&Change) -> Disposition,
    ) -> CommitReport {
        loop {
            match commit(&self.layers(), set, &mut decide, &self.options()) {
                // A child that another test is just starting holds a copy of an earlier lock.
                Err(CommitError::Locked { .. }) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    fn undo(&self, partial: bool) -> UndoReport {
        let mut options = UndoOptions::new(self.options());
        options.partial = partial;
        loop {
            match undo(&self.layers(), &options) {
                Err(UndoError::Commit(CommitError::Locked { .. })) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    fn around(&self, script: &str) {
        sh(self.first.tmp.path(), script);
    }

    /// All that is where the first folder is, was or could be, but for the session's own folder.
    fn outside(&self) -> Vec<(std::path::PathBuf, String)> {
        let at = self.first.tmp.path();
        let all = exact(at, true).into_iter();
        let ours = ["upper", "work", "merged", "locks"];
        all.filter(|(path, _)| {
            let top = path.iter().next().unwrap_or_default().to_string_lossy();
            !ours.iter().any(|own| top.starts_with(own)) && !path.as_os_str().is_empty()
        })
        .collect()
    }
}

fn is_of_root(status: &Status) -> bool {
    let Status::Conflict { conflict } = status else {
        return false;
    };
    matches!(
        conflict,
        Conflict::ParentVanished { .. }
            | Conflict::ParentNotDirectory { .. }
            | Conflict::DirectoryReplaced { .. }
    )
}

#[test]
fn a_folder_that_is_gone_or_replaced_is_a_conflict_and_other_layers_are_committed() {
    for (away, reason, back) in WAYS {
        let t = Two::new();
        let copies = exact(t.first.upper(), true);
        t.around(away);
        let outside = t.outside();
        let set = t.scan();
        for change in &set.changes {
            let conflict = serde_json::to_value(&change.conflict).unwrap();
            let expected = (change.layer == 0).then_some(reason);
            assert_eq!(conflict["reason"].as_str(), expected, "{away}: {change:#?}");
        }
        let report = t.commit_with(&set, |_| Disposition::Commit);
        for outcome in &report.outcomes {
            match outcome.layer {
                0 => assert!(is_of_root(&outcome.status), "{away}: {outcome:?}"),
                _ => assert_eq!(outcome.status, Status::Committed, "{away}"),
            }
        }
        assert!(
            report.kept.is_empty() && report.warnings.is_empty(),
            "{report:#?}"
        );
        assert_eq!(t.second.read("b"), "B\n", "{away}");
        assert_eq!(t.outside(), outside, "{away}: something was written");
        assert_eq!(
            exact(t.first.upper(), true),
            copies,
            "{away}: the session lost something"
        );
        // Again, with nothing else to do.
        assert!(
            t.commit_with(&t.scan(), |_| Disposition::Commit)
                .outcomes
                .iter()
                .all(|o| is_of_root(&o.status))
        );
        t.around(back);
        t.first.commit_all();
        assert_eq!(
            tree(t.first.root())
                .keys()
                .map(|p| p.to_str().unwrap().to_owned())
                .filter(|p| !p.is_empty())
                .collect::<Vec<_>>(),
            ["a", "d", "d/new", "n"],
            "{away}"
        );
        assert_eq!(t.first.read("a"), "A\n", "{away}");
    }
}

#[test]
fn a_folder_that_goes_between_the_review_and_the_commit_is_a_conflict() {
    for (away, _, back) in WAYS {
        let t = Two::new();
        let set = t.scan();
        assert!(set.changes.iter().all(|c| c.conflict.is_none()));
        let modified = set.get(&t.first.root().join("a")).unwrap();
        t.around(away);
        let outside = t.outside();
        let sides = Sides::read(&t.layers(), modified, 1 << 20);
        assert!(
            matches!(sides, Err(AmendError::Conflict(_))),
            "{away}: {sides:?}"
        );
        let report = t.commit_with(&set, |_| Disposition::Commit);
        assert!(is_of_root(status(&report, "a")), "{away}: {report:#?}");
        assert_eq!(status(&report, "b"), &Status::Committed, "{away}");
        assert_eq!(t.outside(), outside, "{away}");
        t.around(back);
        // The set of before is committed as it was reviewed.
        let report = t.commit_with(&set, |_| Disposition::Commit);
        assert!(report.is_complete(), "{away}: {report:#?}");
        assert_eq!(t.first.read("a"), "A\n");
        assert!(!t.first.exists("gone") && !t.first.exists("d/x"));
    }
}

#[test]
fn the_changes_of_a_folder_that_is_away_are_shown() {
    for (away, _, back) in WAYS {
        let t = Two::new();
        t.around(away);
        let (set, options) = (t.scan(), DiffOptions::default());
        let mut out = Vec::new();
        write_patch(&mut out, &t.layers(), &set, &options).unwrap();
        let text = String::from_utf8(out).unwrap();
        for wanted in [
            "+A\n",
            "# gone: it is deleted\n",
            "+new\n",
            "-b\n+B\n",
            "# a: conflict: ",
        ] {
            assert!(text.contains(wanted), "{away}: {wanted}: {text}");
        }
        assert!(!text.contains("FOREIGN"), "{away}: {text}");
        let lines = stat(&t.layers(), &set, &options).unwrap();
        assert_eq!(lines.len(), set.changes.len(), "{away}");
        t.around(back);
        let mut out = Vec::new();
        write_patch(&mut out, &t.layers(), &t.scan(), &options).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("-a\n+A\n") && text.contains("-y\n"), "{text}");
    }
}

#[test]
fn deletions_alone_do_not_look_like_nothing_while_the_folder_is_away() {
    for s in [
        Session::new("echo a >a"),
        Session::by_change_times("echo a >a"),
    ] {
        s.agent("rm a");
        sh(s.tmp.path(), "mv root old");
        assert_eq!(s.shows(), ["Delete a !parent_vanished"]);
        sh(s.tmp.path(), "mv old root");
        s.commit_all();
        assert!(!s.exists("a"));
    }
}

/// What is told is the topmost folder that is gone.
#[test]
fn a_folder_above_that_is_gone_is_named() {
    let mut s = Session::new("mkdir -p p/q; echo a >p/q/a");
    s.layer.root = s.root().join("p/q");
    s.layer.root_id = None;
    std::fs::remove_file(s.tmp.path().join("upper.manifest")).unwrap();
    std::fs::write(s.upper().join("a"), "A\n").unwrap();
    sh(s.tmp.path(), "mv root/p root/else");
    let path = s.root().parent().unwrap().to_owned();
    let conflict = s.scan().changes[0].conflict.clone();
    assert_eq!(conflict, Some(Conflict::ParentVanished { path }));
    sh(s.tmp.path(), "ln -s else root/p");
    let path = s.root().parent().unwrap().to_owned();
    let conflict = s.scan().changes[0].conflict.clone();
    assert_eq!(conflict, Some(Conflict::ParentNotDirectory { path }));
    assert_eq!(std::fs::read_to_string(s.root().join("a")).unwrap(), "a\n");
}

#[test]
fn a_session_whose_folder_is_away_can_be_discarded() {
    for (away, _, back) in WAYS {
        let t = Two::new();
        let before = exact(t.first.root(), true);
        t.around(away);
        let outside = t.outside();
        assert_eq!(
            discard_all(&t.layers()).unwrap(),
            Vec::<std::path::PathBuf>::new()
        );
        assert!(t.scan().is_empty(), "{away}");
        assert_eq!(t.outside(), outside, "{away}");
        t.around(back);
        assert_eq!(exact(t.first.root(), true), before, "{away}");
        assert_eq!(t.second.read("b"), "b\n");
    }
}

#[test]
fn single_changes_of_a_folder_that_is_away_are_dropped_and_the_others_keep_their_meaning() {
    for (away, _, back) in WAYS {
        let t = Two::new();
        t.around(away);
        let set = t.scan();
        let is = |c: &Change, name: &str| c.path == t.first.root().join(name);
        // The folder was made anew: without its original nobody knows what it hides.
        let refused = discard(&t.layers(), &set, |c| is(c, "d/new"));
        assert!(
            matches!(refused, Err(DiscardError::Away { .. })),
            "{away}: {refused:?}"
        );
        let report = t.commit_with(&set, |c| match is(c, "d/new") {
            true => Disposition::Discard,
            false => Disposition::Hold,
        });
        assert!(
            matches!(status(&report, "d/new"), Status::Failed { .. }),
            "{report:#?}"
        );
        assert_eq!(t.scan(), set, "{away}");
        let n = discard(&t.layers(), &set, |c| is(c, "a")).unwrap();
        assert_eq!(n, 1);
        // The same by a commit.
        let report = t.commit_with(&t.scan(), |c| match is(c, "n") {
            true => Disposition::Discard,
            false => Disposition::Hold,
        });
        assert_eq!(status(&report, "n"), &Status::Discarded, "{report:#?}");
        t.around(back);
        assert_eq!(
            t.first.shows(),
            ["Add d/new", "Delete d/x", "Delete d/y", "Delete gone"],
            "{away}"
        );
        t.first.commit_all();
        assert!(t.first.read("a") == "a\n" && !t.first.exists("n") && !t.first.exists("d/x"));
    }
}

#[test]
fn a_whole_folder_is_dropped_while_its_original_is_away() {
    let t = Two::new();
    t.around("mv root old");
    let set = t.scan();
    let in_d = |c: &Change| c.path.starts_with(t.first.root().join("d"));
    assert_eq!(discard(&t.layers(), &set, in_d).unwrap(), 2);
    t.around("mv old root");
    assert_eq!(t.first.shows(), ["Modify a", "Delete gone", "Add n"]);
}

#[test]
fn an_undo_waits_for_a_folder_that_is_away() {
    for (away, _, back) in WAYS {
        let t = Two::new();
        let before = (exact(t.first.root(), true), exact(t.second.root(), true));
        let report = t.commit_with(&t.scan(), |_| Disposition::Commit);
        assert!(report.is_complete(), "{report:#?}");
        t.around(away);
        let outside = t.outside();
        let report = t.undo(false);
        let gone = UndoStatus::Conflict {
            conflict: UndoConflict::Directory,
        };
        for outcome in &report.outcomes {
            let expected = if outcome.layer == 0 {
                &gone
            } else {
                &UndoStatus::Ready
            };
            assert_eq!(&outcome.status, expected, "{away}: {outcome:?}");
        }
        assert_eq!(t.second.read("b"), "B\n", "{away}: not all or nothing");
        // The other layer alone.
        let report = t.undo(true);
        assert_eq!(
            report.count(|s| *s == UndoStatus::Undone),
            1,
            "{away}: {report:#?}"
        );
        assert_eq!(exact(t.second.root(), true), before.1, "{away}");
        assert_eq!(t.outside(), outside, "{away}: something was touched");
        t.around(back);
        assert!(can_undo(&t.layers()).is_ok());
        let report = t.undo(false);
        assert!(report.is_complete(), "{away}: {report:#?}");
        assert_eq!(exact(t.first.root(), true), before.0, "{away}");
        assert_eq!(t.scan().changes.len(), 7, "{away}");
        assert!(t.scan().changes.iter().all(|c| c.conflict.is_none()));
    }
}

/// A commit of the other layer gives up what an earlier one kept, as always; an original that somebody
/// wrote to stays.
#[test]
fn a_later_commit_and_a_recovery_cope_with_a_folder_that_is_away() {
    let t = Two::new();
    let report = t.commit_with(&t.scan(), |_| Disposition::Commit);
    assert!(report.is_complete(), "{report:#?}");
    t.around("mv root old; mkdir root; echo FOREIGN >root/a");
    let outside = t.outside();
    recover(&t.layers(), &t.options()).unwrap();
    assert!(can_undo(&t.layers()).is_ok());
    t.second.agent("echo C >b");
    let report = t.commit_with(&t.scan(), |_| Disposition::Commit);
    assert!(
        report.is_complete() && report.kept.is_empty(),
        "{report:#?}"
    );
    assert!(t.undo(false).is_complete());
    assert_eq!(t.second.read("b"), "B\n");
    assert_eq!(forget(&t.layers()).unwrap(), Vec::<String>::new());
    assert_eq!(t.outside(), outside);
}

#[test]
fn a_layer_whose_folder_is_away_can_be_exported() {
    let t = Two::new();
    t.around("mv root old");
    let (archive, said) = exported(whole(&t.first.layer)).unwrap();
    assert!(said.unknown > 0, "{said:?}");
    t.around("mv old root");
    // Where it is imported, what the originals were is not known: conflicts, and nothing is overwritten.
    let (session, _) = imported(&archive, t.first.root(), "true");
    let set = session.scan();
    let a = set.get(&session.root().join("a")).unwrap();
    assert!(
        matches!(a.conflict, Some(Conflict::Changed { .. })),
        "{a:#?}"
    );
    assert_eq!(session.read("a"), "a\n");
    assert_eq!(
        std::fs::read_to_string(session.upper().join("a")).unwrap(),
        "A\n"
    );
}

#[test]
fn checkpoints_and_roll_backs_work_while_the_folder_is_away() {
    let t = Two::new();
    t.first.checkpoint("one");
    t.around("mv root old");
    t.first.checkpoint("two");
    std::fs::write(t.first.upper().join("late"), "l").unwrap();
    t.first.roll_back("two", "before");
    assert!(!t.first.shows().iter().any(|line| line.contains("late")));
    t.around("mv old root");
    t.first.roll_back("one", "again");
    t.first.commit_all();
    assert_eq!(t.first.read("a"), "A\n");
}
