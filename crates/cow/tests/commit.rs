//! The commit protocol: what it preserves, holds, refuses, and survives.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, sh, status, summary};

use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::fs::{Mode, OFlags};

use agentwall_cow::{
    ChangeKind, CommitError, CommitOptions, Disposition, HoldReason, Status, commit, discard,
    discard_all, scan,
};

#[test]
fn preserves_mode_times_holes_links_and_attributes() {
    let s = Session::new("echo a >a");
    s.agent(
        "truncate -s 64M hole; printf end >>hole; echo x >m; chmod 640 m; touch -d '2001-02-03 04:05:06.789' m
         echo l >l1; ln l1 l2; mkdir d; ln l1 d/l3; chmod 2750 d; touch -d 2002-01-01 d",
    );
    let m = std::fs::File::open(s.upper().join("m")).unwrap();
    rustix::fs::fsetxattr(&m, "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
    s.commit_all();
    let meta = |n: &str| std::fs::metadata(s.root().join(n)).unwrap();
    assert_eq!(meta("hole").len(), 64 * 1024 * 1024 + 3);
    assert!(
        meta("hole").blocks() < 1024,
        "holes stay holes: {}",
        meta("hole").blocks()
    );
    assert_eq!(meta("m").mode() & 0o7777, 0o640);
    assert_eq!(meta("m").mtime_nsec(), 789_000_000);
    assert_eq!(meta("l1").ino(), meta("d/l3").ino());
    assert_eq!(meta("l1").nlink(), 3);
    assert_eq!(meta("d").mode() & 0o7777, 0o2750);
    assert!(
        meta("d").mtime() < 1_010_000_000,
        "times of a new directory"
    );
    let m = std::fs::File::open(s.root().join("m")).unwrap();
    let mut buf = [0u8; 16];
    let n = rustix::fs::fgetxattr(&m, "user.note", &mut buf[..]).unwrap();
    assert_eq!(&buf[..n], b"kept");
    for name in common::tree(s.root()).keys() {
        let path = s.root().join(name);
        let mut names = vec![0u8; 4096];
        let n = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let names = String::from_utf8_lossy(&names[..n]).into_owned();
        assert!(!names.contains("overlay"), "{path:?} carries {names}");
    }
}

#[test]
fn holds_privileges_until_told_otherwise() {
    let s = Session::new("echo a >a");
    s.agent("echo x >su; chmod 4755 su; echo y >sg; chmod 2755 sg; echo n >n");
    let set = s.scan();
    let report = s.commit(&set);
    for name in ["su", "sg"] {
        assert!(
            matches!(
                status(&report, name),
                Status::Held {
                    reason: HoldReason::Privileged { .. }
                }
            ),
            "{report:?}"
        );
        assert!(!s.exists(name) && s.upper().join(name).exists());
    }
    assert_eq!(s.read("n"), "n\n");
    let set = s.scan();
    assert_eq!(summary(&set, s.root()), ["Add sg", "Add su"]);
    assert!(
        s.commit_with(&set, |_| Disposition::CommitSpecial)
            .is_complete()
    );
    let mode = std::fs::metadata(s.root().join("su"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o4755);
    assert!(s.scan().is_empty());
}

#[test]
fn parts_can_be_held_and_discarded_without_changing_the_rest() {
    let s = Session::new("mkdir -p d/e; for f in 1 2 3; do echo $f >d/$f; echo $f >d/e/$f; done");
    s.agent("rm -r d; mkdir -p d/e; echo new >d/n; echo new >d/e/n; echo 1 >d/1; echo two >d/2");
    let all = [
        "Modify d/2",
        "Delete d/3",
        "Delete d/e/1",
        "Delete d/e/2",
        "Delete d/e/3",
        "Add d/e/n",
        "Add d/n",
    ];
    assert_eq!(summary(&s.scan(), s.root()), all);
    let set = s.scan();
    let report = s.commit_with(&set, |c| {
        match c.path.strip_prefix(s.root()).unwrap().to_str() {
            Some("d/n" | "d/e/1") => Disposition::Commit,
            Some("d/e/2") => Disposition::Discard,
            _ => Disposition::Hold,
        }
    });
    assert!(report.warnings.is_empty(), "{report:?}");
    assert!(s.exists("d/n") && !s.exists("d/e/1") && s.exists("d/e/2") && s.exists("d/3"));
    let rest = ["Modify d/2", "Delete d/3", "Delete d/e/3", "Add d/e/n"];
    assert_eq!(summary(&s.scan(), s.root()), rest);
    let n = discard(std::slice::from_ref(&s.layer), &s.scan(), |c| {
        c.path.ends_with("d/e/3")
    })
    .unwrap();
    assert_eq!(n, 1);
    assert_eq!(
        summary(&s.scan(), s.root()),
        ["Modify d/2", "Delete d/3", "Add d/e/n"]
    );
    s.commit_all();
    assert_eq!(s.read("d/2"), "two\n");
    assert!(!s.exists("d/3") && s.exists("d/e/3"));
}

#[test]
fn what_is_in_a_held_directory_is_held_and_a_renames_source_stays() {
    let s = Session::new("echo content >a");
    s.agent("mkdir n; echo x >n/x; mv a b");
    let set = s.scan();
    let report = s.commit_with(&set, |c| {
        if c.path.ends_with("n") || c.path.ends_with("b") {
            Disposition::Hold
        } else {
            Disposition::Commit
        }
    });
    let reason = |name: &str| match status(&report, name) {
        Status::Held { reason } => reason.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert!(matches!(reason("n/x"), HoldReason::ParentHeld { .. }));
    assert!(matches!(reason("a"), HoldReason::DeletionWaits { .. }));
    assert_eq!(s.read("a"), "content\n");
    s.commit_all();
    assert_eq!(
        (s.read("n/x").as_str(), s.read("b").as_str()),
        ("x\n", "content\n")
    );
    assert!(!s.exists("a"));
}

#[test]
fn changes_after_the_review_are_conflicts() {
    let s = Session::new("echo a >a; echo b >b; mkdir d; echo d >d/d; echo m >m");
    s.agent("echo A >a; rm b; rm -r d; echo n >n; echo N >n2; chmod 600 m");
    let set = s.scan();
    s.user("echo user >a; echo user >b; echo user >d/d; echo user >n; chmod 611 m");
    std::fs::write(s.upper().join("n2"), "swapped").unwrap();
    let before = common::tree(s.root());
    let report = s.commit(&set);
    assert_eq!(
        report.count(|s| matches!(s, Status::Conflict { .. })),
        6,
        "{report:#?}"
    );
    assert_eq!(before, common::tree(s.root()));
    s.no_litter();
}

#[test]
fn a_second_commit_at_the_same_time_is_refused() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a");
    let set = s.scan();
    let locks = s.tmp.path().join("locks");
    let layers = std::slice::from_ref(&s.layer);
    let mut inner = None;
    let options = CommitOptions::new(&locks);
    let decide = |_: &_| {
        inner = Some(commit(layers, &set, |_| Disposition::Commit, &options));
        Disposition::Commit
    };
    assert!(
        commit(layers, &set, decide, &options)
            .unwrap()
            .is_complete()
    );
    assert!(
        matches!(inner, Some(Err(CommitError::Locked { .. }))),
        "{inner:?}"
    );
    assert_eq!(s.read("a"), "b\n");
}

#[test]
fn an_altered_set_or_a_foreign_path_is_refused() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a");
    let options = CommitOptions::new(s.tmp.path().join("locks"));
    let layers = std::slice::from_ref(&s.layer);
    let mut set = s.scan();
    set.changes[0].kind = ChangeKind::Delete;
    let err = commit(layers, &set, |_| Disposition::Commit, &options).unwrap_err();
    assert!(matches!(err, CommitError::Digest { .. }));
    for path in ["/etc/passwd", "../x", "a/../../x"] {
        let mut set = s.scan();
        set.changes[0].path = s.root().join(path);
        set.digest = set.recompute_digest();
        let err = commit(layers, &set, |_| Disposition::Commit, &options).unwrap_err();
        assert!(matches!(err, CommitError::Foreign { .. }), "{path}");
        assert!(discard(layers, &set, |_| true).is_err(), "{path}");
    }
    assert_eq!(s.read("a"), "a\n");
}

#[test]
fn odd_names_and_long_paths() {
    let s = Session::new("true");
    let name = |b: &[u8]| std::ffi::OsString::from_vec(b.to_vec());
    let mut long = vec![b'n'; 255];
    long[0] = 0xff;
    // 40 levels of 200 bytes: twice what one path may have.
    let bottom = descend(s.upper(), true);
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&bottom, "deep", flags, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    let odd = [
        b"new\nline".to_vec(),
        b"\x1b[31mred".to_vec(),
        b"\xff\xfe".to_vec(),
        long,
        b" ".to_vec(),
    ];
    for n in &odd {
        std::fs::write(s.upper().join(name(n)), "odd").unwrap();
    }
    let set = s.scan();
    assert_eq!(set.changes.len(), 40 + 1 + odd.len());
    let json = serde_json::to_string(&set).unwrap();
    assert!(json.contains("base64"));
    assert_eq!(
        serde_json::from_str::<agentwall_cow::ChangeSet>(&json).unwrap(),
        set
    );
    s.commit_all_quietly();
    for n in &odd {
        assert_eq!(std::fs::read(s.root().join(name(n))).unwrap(), b"odd");
    }
    let file = rustix::fs::openat(
        descend(s.root(), false),
        "deep",
        OFlags::RDONLY,
        Mode::empty(),
    );
    assert_eq!(rustix::fs::fstat(file.unwrap()).unwrap().st_size, 4);
}

fn descend(from: &std::path::Path, make: bool) -> std::os::fd::OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut fd = rustix::fs::open(from, flags, Mode::empty()).unwrap();
    for level in 0..40 {
        let name = format!("{level:0200}");
        if make {
            rustix::fs::mkdirat(&fd, &name, Mode::RWXU).unwrap();
        }
        fd = rustix::fs::openat(&fd, &name, flags, Mode::empty()).unwrap();
    }
    fd
}

impl Session {
    fn commit_all_quietly(&self) {
        let report = self.commit(&self.scan());
        assert!(
            report.is_complete() && report.warnings.is_empty(),
            "{report:#?}"
        );
        assert!(self.scan().is_empty());
    }
}

#[test]
fn a_run_that_was_cut_off_is_completed() {
    // What a kill leaves: entries applied but still in the upper directory.
    let s = Session::new("echo a >a; echo d >d; mkdir o; echo 1 >o/1; echo 2 >o/2");
    s.agent(
        "echo A >a; rm d; mkdir -p n/m; echo x >n/m/x; ln n/m/x n/y; rm -r o; mkdir o; echo n >o/n",
    );
    sh(s.tmp.path(), "cp -a upper saved");
    s.commit_all();
    let done = common::tree(s.root());
    sh(s.tmp.path(), "rm -r upper; mv saved upper");
    let set = s.scan();
    assert!(set.is_empty(), "{set:#?}");
    // What somebody takes away after it came to its end is not brought back.
    sh(s.root(), "rm n/y");
    let set = s.scan();
    assert_eq!(summary(&set, s.root()), ["Add n/y !vanished"]);
    assert!(!s.commit(&set).is_complete());
    assert!(!s.exists("n/y"));
    sh(s.root(), "ln n/m/x n/y");
    assert!(s.scan().is_empty());
    assert_eq!(done, common::tree(s.root()));
}

#[test]
fn discarding_everything_copes_with_any_mode_and_follows_nothing() {
    let s = Session::new("echo a >a");
    s.agent("mkdir -p d/e; echo x >d/e/x; chmod 0 d/e; chmod 500 d; ln -s ../../root l; echo b >a");
    assert!(s.layer.work.join("work").exists());
    assert_eq!(
        discard_all(std::slice::from_ref(&s.layer)).unwrap(),
        Vec::<std::path::PathBuf>::new()
    );
    assert_eq!(std::fs::read_dir(s.upper()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&s.layer.work).unwrap().count(), 0);
    assert_eq!(s.read("a"), "a\n");
}

#[test]
fn unreadable_copies_and_closed_directories_commit() {
    let s = Session::new("echo a >a");
    s.agent("echo s >s; chmod 0 s; mkdir c; echo x >c/x; chmod 500 c");
    s.commit_all();
    let mode = |n: &str| std::fs::metadata(s.root().join(n)).unwrap().mode() & 0o777;
    assert_eq!((mode("s"), mode("c")), (0, 0o500));
}

/// A session may have a copy layer over a folder of others, who remove it.
#[test]
fn a_tree_that_is_gone_and_was_not_changed_hinders_no_other() {
    let (gone, s) = (Session::new("echo a >a"), Session::new("echo b >b"));
    s.agent("echo c >b");
    std::fs::remove_dir_all(gone.root()).unwrap();
    let layers = [gone.layer.clone(), s.layer.clone()];
    let set = scan(&layers).unwrap();
    assert_eq!(summary(&set, s.root()), ["Modify b"]);
    let options = CommitOptions::new(s.tmp.path().join("locks"));
    let report = commit(&layers, &set, |_| Disposition::Commit, &options).unwrap();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(s.read("b"), "c\n");
    // What was changed in it is not forgotten.
    std::fs::write(gone.upper().join("a"), "new\n").unwrap();
    assert_eq!(gone.shows(), ["Add a !parent_vanished"]);
}
