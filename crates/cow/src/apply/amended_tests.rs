//! Commits of some hunks and of merges: what is in the original and in the session afterwards, also
//! after a kill or a power failure at every named moment, after an undo, and against a racing writer.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

use crate::{
    AmendError, Amendments, AtBase, Change, ChangeKind, ChangeSet, CommitOptions, CommitReport,
    Conflict, Disposition, FileHunks, Layer, Limits, Manifest, Merged, Sides, Snapshot, Status,
    UndoOptions, acknowledge, base_timestamp, commit, commit_amended, discard, fault, merge,
    recover, scan, take, undo,
};

const BASE: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
const AGENT: &str = "one\n2\n3\n4\n5\n6\n7\n8\nnine\n";
const USER: &str = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
const BOTH: &str = "one\n2\n3\n4\nfive\n6\n7\n8\nnine\n";
const FIRST: &str = "one\n2\n3\n4\n5\n6\n7\n8\n9\n";

struct Session {
    tmp: TempDir,
    layers: Vec<Layer>,
}

impl Session {
    /// The agent changed two places of `dir/f`, and `plain` as a whole.
    fn new() -> Session {
        let tmp = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(tmp.path()).unwrap();
        for dir in ["root/dir", "upper/dir", "work"] {
            fs::create_dir_all(at.join(dir)).unwrap();
        }
        for name in ["root/dir/f", "root/plain"] {
            fs::write(at.join(name), BASE).unwrap();
        }
        setxattr(at.join("root/dir/f"), "user.k", b"v", XattrFlags::empty()).unwrap();
        let base = base_timestamp(&at, None).unwrap();
        let layer = Layer::begin(at.join("root"), at.join("upper"), at.join("work"), base).unwrap();
        take(&layer, Limits::default()).unwrap().unwrap();
        for name in ["upper/dir/f", "upper/plain"] {
            fs::write(at.join(name), AGENT).unwrap();
        }
        setxattr(at.join("upper/dir/f"), "user.k", b"v", XattrFlags::empty()).unwrap();
        Session {
            tmp,
            layers: vec![layer],
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.layers[0].root.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    /// Somebody edits the original in the session's time.
    fn user(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn set(&self) -> ChangeSet {
        scan(&self.layers).unwrap()
    }

    fn change(&self) -> Change {
        let set = self.set();
        set.get(&self.at("dir/f")).unwrap().clone()
    }

    fn sides(&self) -> Result<Sides, AmendError> {
        Sides::read(&self.layers, &self.change(), 1 << 20)
    }

    fn base(&self) -> Snapshot {
        let manifest = Manifest::of(&self.layers[0]).unwrap().unwrap();
        match manifest.at(b"dir/f") {
            AtBase::There(was) if was.known => was.seen,
            other => panic!("{other:?}"),
        }
    }

    /// The hunk of this number alone.
    fn hunk(&self, number: usize) -> Amendments {
        let sides = self.sides().unwrap();
        let hunks = FileHunks::new(&sides.original, &sides.copy);
        let mut amendments = Amendments::default();
        let part = sides.part(hunks.with(|n| n == number));
        amendments.insert(&self.change(), part);
        amendments
    }

    fn merged(&self) -> Amendments {
        let (change, sides) = (self.change(), self.sides().unwrap());
        let Merged::Clean(text) = merge(BASE.as_bytes(), &sides.original, &sides.copy) else {
            panic!("it overlaps");
        };
        let made = sides.merged(&change, &self.base(), text).unwrap();
        let mut amendments = Amendments::default();
        amendments.insert(&change, made);
        amendments
    }

    fn options(&self) -> CommitOptions {
        CommitOptions::new(self.tmp.path())
    }

    fn commit(&self, amendments: &Amendments) -> CommitReport {
        let set = amendments.apply(&self.set());
        let all = |_: &Change| Disposition::Commit;
        commit_amended(&self.layers, &set, amendments, all, &self.options()).unwrap()
    }

    fn commit_plainly(&self) -> CommitReport {
        let all = |_: &Change| Disposition::Commit;
        commit(&self.layers, &self.set(), all, &self.options()).unwrap()
    }

    fn undo(&self) {
        let report = undo(&self.layers, &UndoOptions::new(self.options())).unwrap();
        assert!(
            report.is_complete() && report.warnings.is_empty(),
            "{report:#?}"
        );
    }

    fn no_litter(&self, at: &str) {
        for dir in ["", "dir"] {
            for entry in fs::read_dir(self.at(dir)).unwrap() {
                let name = entry.unwrap().file_name();
                assert!(!name.to_string_lossy().contains(".agentwall-"), "{at}");
            }
        }
    }
}

#[test]
fn one_hunk_is_committed_and_the_rest_stays() {
    let s = Session::new();
    fs::set_permissions(
        s.layers[0].upper.join("dir/f"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let before = fs::metadata(s.at("dir/f")).unwrap();
    let reviewed = s.set();
    let amendments = s.hunk(0);
    let set = amendments.apply(&reviewed);
    assert_ne!(set.digest, reviewed.digest, "the digest binds the content");
    assert!(!set.get(&s.at("dir/f")).unwrap().exec_gained);
    let report = s.commit(&amendments);
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(report.digest, set.digest);
    assert_eq!(s.read("dir/f"), FIRST);
    assert_eq!(s.read("plain"), AGENT);
    let after = fs::metadata(s.at("dir/f")).unwrap();
    assert_eq!(after.mode(), before.mode(), "a mode is no hunk");
    let mut value = [0u8; 4];
    let n = rustix::fs::getxattr(s.at("dir/f"), "user.k", &mut value[..]).unwrap();
    assert_eq!(&value[..n], b"v");

    let rest = s.set();
    assert_eq!(rest.changes.len(), 1, "{rest:#?}");
    let change = &rest.changes[0];
    assert_eq!((change.kind, &change.conflict), (ChangeKind::Modify, &None));
    assert!(change.exec_gained);
    assert!(s.commit_plainly().is_complete());
    assert_eq!(s.read("dir/f"), AGENT);
    assert_ne!(fs::metadata(s.at("dir/f")).unwrap().mode() & 0o111, 0);
    assert!(s.set().is_empty());
    s.no_litter("end");
}

#[test]
fn hunks_one_after_the_other_are_the_agents_file() {
    let s = Session::new();
    assert!(s.commit(&s.hunk(1)).is_complete());
    assert!(s.commit(&s.hunk(0)).is_complete());
    assert_eq!(s.read("dir/f"), AGENT);
    // Nothing is left but the copy, which is no change any more.
    assert!(s.set().is_empty(), "{:#?}", s.set());
}

#[test]
fn the_undo_of_a_hunk_gives_the_original_and_the_whole_change_back() {
    let s = Session::new();
    let before = s.set();
    assert!(s.commit(&s.hunk(0)).is_complete());
    acknowledge(&s.layers).unwrap();
    s.undo();
    assert_eq!(
        (s.read("dir/f"), s.read("plain")),
        (BASE.into(), BASE.into())
    );
    let again = s.set();
    let shape = |set: &ChangeSet| -> Vec<_> {
        let each = set.changes.iter();
        each.map(|c| {
            (
                c.path.clone(),
                c.kind,
                c.content.clone(),
                c.conflict.clone(),
            )
        })
        .collect()
    };
    assert_eq!(shape(&again), shape(&before));
    assert!(s.commit_plainly().is_complete());
    assert_eq!(s.read("dir/f"), AGENT);

    // When the rest was dropped in between, what was committed is the change.
    let s = Session::new();
    assert!(s.commit(&s.hunk(0)).is_complete());
    acknowledge(&s.layers).unwrap();
    discard(&s.layers, &s.set(), |_| true).unwrap();
    s.undo();
    assert_eq!(s.read("dir/f"), BASE);
    assert!(s.commit_plainly().is_complete());
    assert_eq!(s.read("dir/f"), FIRST);
}

#[test]
fn a_merge_takes_both_and_its_undo_is_a_conflict_again() {
    let s = Session::new();
    s.user("dir/f", USER);
    let untouched = s.commit_plainly();
    assert!(!untouched.is_complete());
    acknowledge(&s.layers).unwrap();
    assert_eq!(s.read("dir/f"), USER);
    let report = s.commit(&s.merged());
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(s.read("dir/f"), BOTH);
    assert!(s.set().is_empty(), "{:#?}", s.set());
    acknowledge(&s.layers).unwrap();
    s.undo();
    assert_eq!(s.read("dir/f"), USER);
    let change = s.change();
    assert!(
        matches!(change.conflict, Some(Conflict::Changed { .. })),
        "{change:#?}"
    );
    // What was merged is in the session; merging it again is the same.
    assert!(s.commit(&s.merged()).is_complete());
    assert_eq!(s.read("dir/f"), BOTH);
}

#[test]
fn hunks_against_an_edited_original_leave_the_rest_in_conflict() {
    let s = Session::new();
    s.user("dir/f", USER);
    // Against the live file: the first block is the agent's, the second would take back the edit.
    assert!(s.commit(&s.hunk(0)).is_complete());
    let part = "one\n2\n3\n4\nfive\n6\n7\n8\n9\n";
    assert_eq!(s.read("dir/f"), part);
    assert!(matches!(
        s.change().conflict,
        Some(Conflict::Changed { .. })
    ));
    assert!(!s.commit_plainly().is_complete());
    assert_eq!(
        s.read("dir/f"),
        part,
        "the edit is not taken back by the rest"
    );
    let s = Session::new();
    s.user("dir/f", USER);
    assert!(s.commit(&s.hunk(0)).is_complete());
    acknowledge(&s.layers).unwrap();
    s.undo();
    assert_eq!(s.read("dir/f"), USER);
    assert!(matches!(
        s.change().conflict,
        Some(Conflict::Changed { .. })
    ));
}

/// Commits what `review` makes of a new session, killed at every moment, with and without a power
/// failure, recovered, and undone or not: `dir/f` is one of `found`, the first of them if it was undone.
/// `and_then` goes on from there.
fn killed_anywhere(
    found: [&str; 2],
    review: impl Fn(&Session) -> Amendments,
    and_then: impl Fn(&Session, &str),
) {
    for (power, undone) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut moments = 0;
        for number in 1.. {
            let s = Session::new();
            let reviewed = review(&s);
            let Some(name) = fault::cut_off(number, || drop(s.commit(&reviewed))) else {
                break;
            };
            moments += 1;
            if power {
                fault::lose_what_was_not_synced(&s.layers[0].record_path());
            }
            let at = format!("moment {number}, {name}, power {power}, undone {undone}");
            let report = recover(&s.layers, &s.options()).unwrap();
            assert!(report.kept.is_empty(), "{at}: {report:#?}");
            assert!(
                found.contains(&&*s.read("dir/f")),
                "{at}: {}",
                s.read("dir/f")
            );
            s.no_litter(&at);
            acknowledge(&s.layers).unwrap();
            if undone && crate::can_undo(&s.layers).is_ok() {
                s.undo();
                assert_eq!(s.read("dir/f"), found[0], "{at}");
            }
            and_then(&s, &at);
        }
        assert!(moments >= 20, "only {moments} moments");
    }
}

#[test]
fn a_hunk_killed_anywhere_is_old_or_done_and_never_a_conflict() {
    killed_anywhere(
        [BASE, FIRST],
        |s| s.hunk(0),
        |s, at| {
            let set = s.set();
            assert!(
                set.changes.iter().all(|c| c.conflict.is_none()),
                "{at}: {set:#?}"
            );
            let report = s.commit_plainly();
            assert!(report.is_complete(), "{at}: {report:#?}");
            assert_eq!(s.read("dir/f"), AGENT, "{at}");
            assert_eq!(s.read("plain"), AGENT, "{at}");
        },
    );
}

#[test]
fn a_merge_killed_anywhere_never_loses_the_edit() {
    let review = |s: &Session| {
        s.user("dir/f", USER);
        s.merged()
    };
    killed_anywhere([USER, BOTH], review, |s, at| {
        // A commit without a merge never overwrites the edit.
        s.commit_plainly();
        assert!(s.read("dir/f").contains("five"), "{at}");
        if s.set().get(&s.at("dir/f")).is_some() {
            assert!(s.commit(&s.merged()).is_complete(), "{at}");
        }
        assert_eq!(s.read("dir/f"), BOTH, "{at}");
        assert!(s.set().is_empty(), "{at}");
    });
}

#[test]
fn an_edit_at_the_last_moment_wins_also_when_it_sets_the_time_back() {
    for quiet in [false, true] {
        for moment in ["before the swap", "journaled", "prepared"] {
            let s = Session::new();
            s.user("dir/f", USER);
            let merged = s.merged();
            let path = s.at("dir/f");
            let mut once = Some(path);
            fault::at_every_point(move |now| {
                if now == moment
                    && let Some(path) = once.take()
                {
                    let was = fs::metadata(&path).unwrap().modified().unwrap();
                    // As long as before: only the content tells, once the time is set back.
                    fs::write(&path, USER.replace("five", "FIVE")).unwrap();
                    if quiet {
                        let file = fs::File::options().write(true).open(&path).unwrap();
                        file.set_modified(was).unwrap();
                    }
                }
            });
            let report = s.commit(&merged);
            fault::clear();
            let outcome = report.outcomes.iter().find(|o| o.path.ends_with("dir/f"));
            let status = &outcome.unwrap().status;
            assert!(
                matches!(status, Status::Conflict { .. }),
                "{moment}: {status:?}"
            );
            assert_eq!(s.read("dir/f"), USER.replace("five", "FIVE"), "{moment}");
            s.no_litter(moment);
        }
    }
}

#[test]
fn what_cannot_be_amended_says_why() {
    let refused = |prepare: &dyn Fn(&Session)| {
        let s = Session::new();
        prepare(&s);
        s.sides().unwrap_err()
    };
    let upper = |s: &Session| s.layers[0].upper.join("dir/f");
    let is_binary = refused(&|s| fs::write(upper(s), b"a\0b").unwrap());
    assert!(matches!(is_binary, AmendError::Binary), "{is_binary:?}");
    let linked = refused(&|s| fs::hard_link(s.at("dir/f"), s.at("dir/g")).unwrap());
    assert!(matches!(linked, AmendError::Linked), "{linked:?}");
    let set_id = refused(&|s| {
        fs::set_permissions(s.at("dir/f"), fs::Permissions::from_mode(0o4755)).unwrap();
    });
    assert!(matches!(set_id, AmendError::Privileged), "{set_id:?}");
    let replaced = refused(&|s| {
        fs::remove_file(s.at("dir/f")).unwrap();
        fs::create_dir(s.at("dir/f")).unwrap();
    });
    assert!(matches!(replaced, AmendError::NotModified), "{replaced:?}");

    let s = Session::new();
    let change = s.change();
    fs::write(upper(&s), "other\n").unwrap();
    let stale = Sides::read(&s.layers, &change, 1 << 20).unwrap_err();
    assert!(matches!(stale, AmendError::Changed), "{stale:?}");
    let s = Session::new();
    let large = Sides::read(&s.layers, &s.change(), 5).unwrap_err();
    assert!(matches!(large, AmendError::TooLarge { .. }), "{large:?}");

    // Modes: the session's alone is taken over, one of each side is a conflict.
    let s = Session::new();
    let mode = |path: PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    s.user("dir/f", USER);
    mode(upper(&s), 0o755);
    assert!(s.commit(&s.merged()).is_complete());
    assert_eq!(fs::metadata(s.at("dir/f")).unwrap().mode() & 0o777, 0o755);
    let s = Session::new();
    s.user("dir/f", USER);
    mode(upper(&s), 0o755);
    mode(s.at("dir/f"), 0o600);
    let made = s
        .sides()
        .unwrap()
        .merged(&s.change(), &s.base(), Vec::new());
    assert!(matches!(made, Err(AmendError::Mode { .. })), "{made:?}");
    let s = Session::new();
    s.user("dir/f", USER);
    setxattr(s.at("dir/f"), "user.k", b"other", XattrFlags::empty()).unwrap();
    let made = s
        .sides()
        .unwrap()
        .merged(&s.change(), &s.base(), Vec::new());
    assert!(matches!(made, Err(AmendError::Attributes)), "{made:?}");
}

#[test]
fn a_copy_that_changed_after_the_review_is_not_committed() {
    let s = Session::new();
    let hunk = s.hunk(0);
    let set = hunk.apply(&s.set());
    fs::write(s.layers[0].upper.join("dir/f"), "something else\n").unwrap();
    let all = |_: &Change| Disposition::Commit;
    let report = commit_amended(&s.layers, &set, &hunk, all, &s.options()).unwrap();
    let outcome = report.outcomes.iter().find(|o| o.path.ends_with("dir/f"));
    assert!(matches!(
        outcome.unwrap().status,
        Status::Conflict {
            conflict: Conflict::UpperChanged
        }
    ));
    assert_eq!(s.read("dir/f"), BASE);
    // A set without the content that the amendments hold, or the other way round, commits nothing.
    let s = Session::new();
    let hunk = s.hunk(0);
    let all = |_: &Change| Disposition::Commit;
    let report = commit_amended(&s.layers, &s.set(), &hunk, all, &s.options()).unwrap();
    assert!(!report.is_complete(), "{report:#?}");
    assert_eq!(s.read("dir/f"), BASE);
}

#[test]
fn an_undo_of_a_merge_keeps_what_the_session_wrote_since() {
    let newer = format!("{BOTH}newer\n");
    let s = Session::new();
    s.user("dir/f", USER);
    assert!(s.commit(&s.merged()).is_complete());
    acknowledge(&s.layers).unwrap();
    let upper = s.layers[0].upper.join("dir/f");
    fs::create_dir_all(upper.parent().unwrap()).unwrap();
    fs::write(&upper, &newer).unwrap();
    s.undo();
    assert_eq!(s.read("dir/f"), USER);
    assert_eq!(fs::read_to_string(&upper).unwrap(), newer);
    assert!(matches!(
        s.change().conflict,
        Some(Conflict::Changed { .. })
    ));
}

#[test]
fn a_merge_killed_anywhere_keeps_what_the_session_wrote_since() {
    let newer = format!("{AGENT}newer\n");
    for number in 1.. {
        let s = Session::new();
        s.user("dir/f", USER);
        let merged = s.merged();
        let Some(name) = fault::cut_off(number, || drop(s.commit(&merged))) else {
            break;
        };
        // As before a run that goes on.
        let report = recover(&s.layers, &s.options()).unwrap();
        assert!(report.kept.is_empty(), "{name}: {report:#?}");
        acknowledge(&s.layers).unwrap();
        let upper = s.layers[0].upper.join("dir/f");
        fs::create_dir_all(upper.parent().unwrap()).unwrap();
        fs::write(&upper, &newer).unwrap();
        if crate::can_undo(&s.layers).is_ok() {
            s.undo();
        }
        assert_eq!(s.read("dir/f"), USER, "{name}");
        assert_eq!(fs::read_to_string(&upper).unwrap(), newer, "{name}");
    }
}

#[test]
fn a_hunk_killed_and_the_rest_committed_are_undone_as_a_whole() {
    for number in 1.. {
        let s = Session::new();
        let hunk = s.hunk(0);
        let Some(name) = fault::cut_off(number, || drop(s.commit(&hunk))) else {
            break;
        };
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        let report = s.commit_plainly();
        assert!(
            report.is_complete() && report.kept.is_empty(),
            "{name}: {report:#?}"
        );
        assert_eq!(s.read("dir/f"), AGENT, "{name}");
        acknowledge(&s.layers).unwrap();
        // A step that came to its end just before the cut is a commit of its own.
        let old = match name.as_str() {
            "finished" => FIRST,
            _ => BASE,
        };
        s.undo();
        assert_eq!(s.read("dir/f"), old, "{name}");
        assert!(!s.layers[0].trash_path().exists(), "{name}");
        assert!(s.commit_plainly().is_complete(), "{name}");
        assert_eq!(
            (s.read("dir/f"), s.read("plain")),
            (AGENT.into(), AGENT.into()),
            "{name}"
        );
    }
}
