//! Someone works on the original tree while a commit runs.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, sh};

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use agentwall_cow::Status;

/// Swaps directories for symlinks to the outside as fast as it can: nothing outside may change.
#[test]
fn a_symlink_swapper_never_moves_a_write_outside() {
    for round in 0..8 {
        let s = Session::new("mkdir -p d/e; for i in $(seq 60); do echo $i >d/e/$i; done");
        sh(
            s.tmp.path(),
            "mkdir outside; for i in $(seq 60); do echo outside >outside/$i; done",
        );
        let outside = s.tmp.path().join("outside");
        let before = common::tree(&outside);
        s.agent(
            "for i in $(seq 30); do echo new >d/e/$i; done; for i in $(seq 40 60); do rm d/e/$i; done
             for i in $(seq 100 130); do echo new >d/e/$i; done",
        );
        let set = s.scan();
        let (stop, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
        let (e, aside) = (s.root().join("d/e"), s.root().join("d/aside"));
        let report = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::fs::rename(&e, &aside).unwrap();
                    std::os::unix::fs::symlink(&outside, &e).unwrap();
                    std::thread::yield_now();
                    std::fs::remove_file(&e).unwrap();
                    std::fs::rename(&aside, &e).unwrap();
                    swaps.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_micros(20 * (round + 1)));
                }
            });
            while swaps.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let report = s.commit(&set);
            stop.store(true, Ordering::Relaxed);
            swapper.join().unwrap();
            report
        });
        assert_eq!(
            before,
            common::tree(&outside),
            "nothing outside was touched"
        );
        // Each entry is applied, or its original is untouched and the session's version still there.
        for (change, outcome) in set.changes.iter().zip(&report.outcomes) {
            let rel = change.path.strip_prefix(s.root()).unwrap();
            let there = std::fs::symlink_metadata(s.upper().join(rel)).is_ok();
            let committed = matches!(outcome.status, Status::Committed | Status::AlreadyApplied);
            assert!(committed || there, "lost: {outcome:?}");
            if committed && change.new.is_some() {
                assert_eq!(
                    std::fs::read_to_string(&change.path).unwrap(),
                    "new\n",
                    "{outcome:?}"
                );
            }
        }
    }
}

/// A program that saves its files by rename or in place while the commit runs: its last version is in
/// the tree, or in a place that the report names.
#[test]
fn a_racing_writer_loses_nothing() {
    let (mut conflicts, mut commits) = (0, 0);
    for round in 0u64..12 {
        let s = Session::new("for i in $(seq 40); do echo old >$i; done");
        s.agent("for i in $(seq 40); do echo agent >$i; done");
        let set = s.scan();
        let stop = AtomicBool::new(false);
        let (report, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut written = Vec::new();
                std::thread::sleep(std::time::Duration::from_micros(150 * round));
                let mut i = round % 40;
                while !stop.load(Ordering::Relaxed) {
                    i = (i + 7) % 40;
                    let path = s.root().join(format!("{}", i + 1));
                    let text = format!("user {round} {}\n", written.len());
                    // Only what the agent has not replaced yet can be lost.
                    let old = std::fs::read_to_string(&path);
                    if !old.is_ok_and(|t| t == "old\n") {
                        if written.len() >= 20 {
                            break;
                        }
                        std::thread::sleep(std::time::Duration::from_micros(30));
                        continue;
                    }
                    if i % 2 == 0 {
                        let temp = s.root().join("editor-temp");
                        std::fs::write(&temp, &text).unwrap();
                        std::fs::rename(&temp, &path).unwrap();
                    } else {
                        std::fs::write(&path, &text).unwrap();
                    }
                    written.push((path, text));
                }
                written
            });
            let report = s.commit(&set);
            stop.store(true, Ordering::Relaxed);
            (report, writer.join().unwrap())
        });
        for (path, text) in &written {
            let now = std::fs::read_to_string(path).unwrap();
            let upper = s.upper().join(path.file_name().unwrap());
            let outcome = report.outcomes.iter().find(|o| o.path == *path).unwrap();
            match &outcome.status {
                Status::Conflict { .. } => {
                    conflicts += 1;
                    assert_eq!(&now, text, "the user's version stays");
                    assert_eq!(std::fs::read_to_string(upper).unwrap(), "agent\n");
                }
                // The write came after the swap: on top of the agent's version, or through a
                // descriptor to the swapped-out original, which is then kept.
                Status::Committed => {
                    commits += 1;
                    let kept = report.kept.iter().any(|k| {
                        k.ends_with(&format!(" {}", path.file_name().unwrap().to_str().unwrap()))
                    });
                    assert!(now == *text || kept, "lost: {text} {report:#?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(conflicts + commits > 0, "the writer never met the commit");
}
