//! Someone else at the worst moment of a commit, without luck: each test acts at a named moment (see
//! [`crate::fault`]) and then asks where every byte is. The upper directory is made by hand.

use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::{
    ChangeSet, CommitError, CommitOptions, CommitReport, Conflict, DiscardError, Disposition,
    Layer, Limits, Status, Timestamp, base_timestamp, commit, discard_all, fault, forget,
    is_unfinished, recover, scan, take,
};

struct Session {
    tmp: TempDir,
    layers: Vec<Layer>,
}

impl Session {
    /// Originals, all `old`, below folders `roots`.
    fn with_roots(roots: &[&str], names: &[&str]) -> Session {
        let tmp = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(tmp.path()).unwrap();
        for root in roots {
            for name in names {
                put(&at.join(root).join(name), "old");
            }
        }
        let base = base_timestamp(&at, None).unwrap();
        let layers = roots.iter().map(|root| {
            let (upper, work) = (format!("upper-{root}"), format!("work-{root}"));
            fs::create_dir(at.join(&upper)).unwrap();
            fs::create_dir(at.join(&work)).unwrap();
            Layer::begin(at.join(root), at.join(upper), at.join(work), base).unwrap()
        });
        let layers = layers.collect();
        let session = Session { tmp, layers };
        session.take_manifests();
        session
    }

    /// The same, after its originals were arranged.
    fn begun_now(mut self) -> Session {
        let base = base_timestamp(self.tmp.path(), None).unwrap();
        self.layers.iter_mut().for_each(|layer| layer.base = base);
        self.take_manifests();
        self
    }

    fn take_manifests(&self) {
        for layer in &self.layers {
            take(layer, Limits::default()).unwrap().unwrap();
        }
    }

    fn new(names: &[&str]) -> Session {
        Session::with_roots(&["root"], names)
    }

    fn root(&self) -> &Path {
        &self.layers[0].root
    }

    /// The agent wrote a file: the copy keeps the original's mode.
    fn agent_writes(&self, name: &str) {
        put(&self.layers[0].upper.join(name), "agent");
    }

    fn agent_deletes(&self, name: &str) {
        let path = self.layers[0].upper.join(name);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn agent_deletes_in(&self, dir: &str, name: &str) {
        fs::create_dir(self.layers[0].upper.join(dir)).unwrap();
        self.agent_deletes(&format!("{dir}/{name}"));
    }

    fn options(&self) -> CommitOptions {
        CommitOptions::new(self.tmp.path())
    }

    fn scan(&self) -> ChangeSet {
        scan(&self.layers).unwrap()
    }

    fn commit(&self) -> CommitReport {
        let set = self.scan();
        let report = commit(&self.layers, &set, |_| Disposition::Commit, &self.options());
        fault::clear();
        report.unwrap()
    }

    /// The commit is killed at this moment, after `act` was done at that one.
    fn killed_at(
        &self,
        point: &'static str,
        before: &'static str,
        mut act: impl FnMut() + 'static,
    ) {
        fault::at_every_point(move |now| {
            if now == before {
                act();
            }
            // A resumed unwind prints nothing.
            if now == point {
                std::panic::resume_unwind(Box::new("killed"));
            }
        });
        let set = self.scan();
        let end = catch_unwind(AssertUnwindSafe(|| {
            commit(&self.layers, &set, |_| Disposition::Commit, &self.options())
        }));
        fault::clear();
        assert!(end.is_err(), "the commit was not cut off");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).unwrap()
    }
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Saves as editors do: another file takes the name.
fn save(path: &Path, text: &str) {
    let temp = path.with_extension("editor");
    fs::write(&temp, text).unwrap();
    fs::rename(&temp, path).unwrap();
}

/// Does something at one moment, once.
fn at(point: &'static str, mut act: impl FnMut() + 'static) -> impl FnMut(&str) {
    let mut done = false;
    move |now| {
        if now == point && !done {
            done = true;
            act();
        }
    }
}

/// The content of the originals that a report names.
fn kept(report: &CommitReport) -> Vec<String> {
    let path = |line: &String| PathBuf::from(line.split(" keeps the original").next().unwrap());
    let text = |line| fs::read_to_string(path(line)).unwrap();
    report.kept.iter().map(text).collect()
}

#[test]
fn an_original_that_cannot_be_swapped_back_is_named() {
    let s = Session::new(&["a"]);
    s.agent_writes("a");
    let a = s.root().join("a");
    let mut edit = at("before the swap", {
        let a = a.clone();
        move || save(&a, "user")
    });
    let mut gone = at("swap back", move || fs::remove_file(&a).unwrap());
    fault::at_every_point(move |now| {
        edit(now);
        gone(now);
    });
    let report = s.commit();
    assert!(
        matches!(report.outcomes[0].status, Status::Failed { .. }),
        "{report:#?}"
    );
    assert_eq!(kept(&report), ["user"]);
    assert!(s.layers[0].upper.join("a").exists());
}

#[test]
fn an_original_that_cannot_be_moved_back_is_named() {
    let s = Session::new(&["a"]);
    s.agent_deletes("a");
    let a = s.root().join("a");
    let mut edit = at("before moving aside", {
        let a = a.clone();
        move || save(&a, "user")
    });
    let mut anew = at("put back", move || fs::write(&a, "anew").unwrap());
    fault::at_every_point(move |now| {
        edit(now);
        anew(now);
    });
    let report = s.commit();
    assert!(
        matches!(report.outcomes[0].status, Status::Failed { .. }),
        "{report:#?}"
    );
    assert_eq!(kept(&report), ["user"]);
    assert_eq!(s.read("a"), "anew");
}

#[test]
fn what_was_written_to_the_new_file_before_it_is_swapped_back_is_kept() {
    let s = Session::new(&["a"]);
    s.agent_writes("a");
    let a = s.root().join("a");
    let mut edit = at("before the swap", {
        let a = a.clone();
        move || save(&a, "user")
    });
    let mut more = at("swap back", move || {
        let mut file = fs::OpenOptions::new().append(true).open(&a).unwrap();
        file.write_all(b" and user").unwrap();
    });
    fault::at_every_point(move |now| {
        edit(now);
        more(now);
    });
    let report = s.commit();
    assert_eq!(s.read("a"), "user");
    assert_eq!(kept(&report), ["agent and user"]);
}

#[test]
fn a_file_made_in_a_deleted_directory_while_the_trash_is_emptied_is_kept() {
    let s = Session::new(&["d/x", "d/e/y"]);
    s.agent_deletes("d");
    let trash = s.layers[0].trash_path();
    let report = s.commit();
    assert!(report.kept.is_empty(), "{report:#?}");
    fault::at_every_point(at("emptying the trash", move || {
        let dir = fs::read_dir(&trash).unwrap().next().unwrap().unwrap();
        fs::write(dir.path().join("e/late"), "user").unwrap();
    }));
    let kept = forget(&s.layers).unwrap();
    fault::clear();
    assert_eq!(kept.len(), 1, "{kept:#?}");
    let trash = fs::read_dir(s.layers[0].trash_path()).unwrap().next();
    let late = trash.unwrap().unwrap().path().join("e/late");
    assert_eq!(fs::read_to_string(late).unwrap(), "user");
}

#[test]
fn an_original_kept_by_an_earlier_commit_is_not_deleted_with_its_directory() {
    let s = Session::new(&["d/x", "z"]);
    // Without a trash folder, originals rest in the tree.
    fs::write(s.layers[0].trash_path(), "").unwrap();
    s.agent_deletes_in("d", "x");
    s.agent_deletes("z");
    let mut open = fs::OpenOptions::new()
        .append(true)
        .open(s.root().join("d/x"))
        .unwrap();
    let mut seen = 0;
    fault::at_every_point(move |now| {
        seen += u32::from(now == "before moving aside");
        if seen == 2 {
            seen += 1;
            open.write_all(b" and user").unwrap();
        }
    });
    let report = s.commit();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(kept(&report), ["old and user"]);
    s.agent_deletes("d");
    let set = s.scan();
    let conflict = set.changes[0].conflict.clone();
    assert!(
        matches!(conflict, Some(Conflict::ChangedBelow { .. })),
        "{set:#?}"
    );
    assert!(!s.commit().is_complete());
    assert_eq!(kept(&report), ["old and user"]);
}

#[test]
fn hard_links_of_a_deleted_directory_are_not_taken_for_changes_of_someone_else() {
    let s = Session::new(&["d/x", "z"]);
    let d = s.root().join("d");
    fs::remove_file(s.root().join("z")).unwrap();
    fs::hard_link(d.join("x"), d.join("y")).unwrap();
    fs::hard_link(d.join("x"), s.root().join("z")).unwrap();
    let s = s.begun_now();
    s.agent_deletes("d");
    let report = s.commit();
    assert!(
        report.is_complete() && report.kept.is_empty(),
        "{report:#?}"
    );
    // The name outside has a new change time because of that; it is still the original.
    s.agent_writes("z");
    let report = s.commit();
    assert!(
        report.is_complete() && report.kept.is_empty(),
        "{report:#?}"
    );
    assert_eq!(s.read("z"), "agent");
}

#[test]
fn a_cut_off_commit_is_finished_before_its_session_is_dropped() {
    let s = Session::new(&["a"]);
    s.agent_writes("a");
    s.killed_at("swapped", "", || {});
    assert!(is_unfinished(&s.layers).unwrap());
    let refused = discard_all(&s.layers);
    assert!(
        matches!(refused, Err(DiscardError::Unfinished { .. })),
        "{refused:?}"
    );
    let report = recover(&s.layers, &s.options()).unwrap();
    assert!(
        report.kept.is_empty() && report.warnings.is_empty(),
        "{report:#?}"
    );
    assert!(!is_unfinished(&s.layers).unwrap());
    assert_eq!(s.read("a"), "agent");
    assert_eq!(
        fs::read_dir(s.root()).unwrap().count(),
        1,
        "nothing hidden is left"
    );
    discard_all(&s.layers).unwrap();
}

#[test]
fn recovery_undoes_a_swap_with_what_the_user_wrote() {
    let s = Session::new(&["a"]);
    s.agent_writes("a");
    let a = s.root().join("a");
    s.killed_at("swapped", "before the swap", move || save(&a, "user"));
    assert_eq!(s.read("a"), "agent");
    let report = recover(&s.layers, &s.options()).unwrap();
    assert!(report.kept.is_empty(), "{report:#?}");
    assert_eq!(s.read("a"), "user");
    assert_eq!(fs::read_dir(s.root()).unwrap().count(), 1);
}

#[test]
fn recovery_does_not_undo_a_swap_over_what_was_written_since() {
    let s = Session::new(&["a"]);
    s.agent_writes("a");
    let a = s.root().join("a");
    s.killed_at("swapped", "before the swap", move || save(&a, "user"));
    fs::write(s.root().join("a"), "written after the crash").unwrap();
    let report = recover(&s.layers, &s.options()).unwrap();
    assert_eq!(s.read("a"), "written after the crash");
    assert_eq!(kept(&report), ["user"]);
}

#[test]
fn a_killed_deletion_is_finished_or_undone() {
    for edited in [false, true] {
        let s = Session::new(&["a"]);
        s.agent_deletes("a");
        let a = s.root().join("a");
        s.killed_at("moved aside", "before moving aside", move || {
            if edited {
                save(&a, "user");
            }
        });
        let report = recover(&s.layers, &s.options()).unwrap();
        assert!(report.kept.is_empty(), "{report:#?}");
        let left: Vec<_> = fs::read_dir(s.root()).unwrap().collect();
        assert_eq!(left.len(), usize::from(edited), "{left:?}");
        assert!(!edited || s.read("a") == "user");
    }
}

#[test]
fn a_mode_set_after_the_review_is_not_applied() {
    use std::os::unix::fs::PermissionsExt as _;
    let s = Session::new(&["a"]);
    let copy = s.layers[0].upper.join("a");
    put(&copy, "old");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&copy, 0o600);
    let set = s.scan();
    mode(&copy, 0o4755);
    let report = commit(&s.layers, &set, |_| Disposition::Commit, &s.options()).unwrap();
    let conflict = Status::Conflict {
        conflict: Conflict::UpperChanged,
    };
    assert_eq!(report.outcomes[0].status, conflict);
    let now = fs::metadata(s.root().join("a"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(now & 0o4000, 0);
}

#[test]
fn no_layer_is_begun_when_one_cannot_be() {
    let s = Session::with_roots(&["first", "second"], &["a"]);
    for layer in &s.layers {
        put(&layer.upper.join("a"), "agent");
    }
    let set = s.scan();
    fs::rename(&s.layers[1].upper, s.tmp.path().join("moved")).unwrap();
    let refused = commit(&s.layers, &set, |_| Disposition::Commit, &s.options());
    assert!(matches!(refused, Err(CommitError::Tree(_))), "{refused:?}");
    assert_eq!(s.read("a"), "old");
}

#[test]
fn a_clock_that_was_set_back_stops_the_commit() {
    let mut s = Session::new(&["a"]);
    s.agent_writes("a");
    fs::remove_file(s.layers[0].manifest_path()).unwrap();
    let base = s.layers[0].base;
    s.layers[0].base = Timestamp {
        sec: base.sec + 3600,
        ..base
    };
    // An edit of the user: its change time is before the session's beginning.
    save(&s.root().join("a"), "user");
    let set = s.scan();
    let refused = commit(&s.layers, &set, |_| Disposition::Commit, &s.options());
    assert!(
        matches!(refused, Err(CommitError::Clock { .. })),
        "{refused:?}"
    );
    assert_eq!(s.read("a"), "user");
}

#[test]
fn the_digests_are_of_what_was_written_and_of_what_it_replaced() {
    use sha2::{Digest as _, Sha256};
    let sha256 = |text: &str| crate::content::hex(&Sha256::digest(text));
    let s = Session::new(&["changed", "gone", "same"]);
    s.agent_writes("changed");
    s.agent_writes("new");
    s.agent_deletes("gone");
    // Another file is at the path when the commit returns: the digest is not of that one.
    let path = s.root().join("changed");
    fault::at_every_point(at("kept", move || save(&path, "later")));
    let report = s.commit();
    assert_eq!(s.read("changed"), "later");
    let found = |name: &str| {
        let outcome = report
            .outcomes
            .iter()
            .find(|o| o.path.ends_with(name))
            .unwrap();
        let plain = |d: &Option<crate::FileDigest>| d.clone().and_then(|d| d.sha256);
        (plain(&outcome.old), plain(&outcome.new))
    };
    let (old, agent) = (Some(sha256("old")), Some(sha256("agent")));
    assert_eq!(found("changed"), (old.clone(), agent.clone()));
    assert_eq!(found("new"), (None, agent));
    assert_eq!(found("gone"), (old, None));
}

#[test]
fn a_mark_of_an_overlay_of_the_host_is_not_interpreted() {
    let s = Session::new(&["d/x"]);
    let dir = s.layers[0].upper.join("d");
    fs::create_dir(&dir).unwrap();
    let file = fs::File::open(&dir).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::fsetxattr(&file, "trusted.overlay.opaque", b"y", flags) {
        Ok(()) => {
            let set = s.scan();
            assert_eq!(set.changes[0].kind, crate::ChangeKind::Special, "{set:#?}");
        }
        // Only root of the host can make or see one.
        Err(e) => assert!(!rustix::process::geteuid().is_root(), "{e}"),
    }
}
