//! Disks that are full, read-only or mounted in pieces: nothing is lost, and the commit goes on when
//! there is room. Each case is a child of its test, as root of a namespace with its own mounts.

#![allow(clippy::unwrap_used)]

mod common;
use common::{in_namespace, sh, status, summary};

use agentwall_cow::{CommitOptions, Disposition, EntryKind, Status, commit};

/// Runs one ignored test of this binary as root of a namespace in which `mounts` was done.
fn child(test: &str, mounts: &str) {
    let exe = std::env::current_exe().unwrap();
    let tmp = tempfile::tempdir().unwrap();
    let script = format!(
        "{mounts}\nAGENTWALL_CHILD=$PWD '{}' --exact {test} --ignored --nocapture 2>&1",
        exe.display()
    );
    let out = in_namespace(tmp.path(), &script);
    assert!(out.contains("1 passed"), "{out}");
}

fn child_session() -> (std::path::PathBuf, agentwall_cow::Layer, CommitOptions) {
    let dir =
        std::path::PathBuf::from(std::env::var_os("AGENTWALL_CHILD").expect("run by child()"));
    let base = agentwall_cow::base_timestamp(&dir.join("root"), None).unwrap();
    let layer =
        agentwall_cow::Layer::begin(dir.join("root"), dir.join("upper"), dir.join("work"), base)
            .unwrap();
    let options = CommitOptions::new(&dir);
    (dir, layer, options)
}

#[test]
fn a_full_disk_loses_nothing() {
    child(
        "child_full_disk",
        "mkdir root upper work; mount -t tmpfs -o size=1M tmpfs root",
    );
}

#[test]
#[ignore = "run by a_full_disk_loses_nothing"]
fn child_full_disk() {
    let dir =
        std::path::PathBuf::from(std::env::var_os("AGENTWALL_CHILD").expect("run by child()"));
    std::fs::write(dir.join("root/keep"), vec![b'k'; 300_000]).unwrap();
    std::fs::write(dir.join("root/fill"), vec![b'f'; 500_000]).unwrap();
    std::fs::write(dir.join("root/gone"), "gone").unwrap();
    let (dir, layer, options) = child_session();
    std::fs::write(dir.join("upper/keep"), vec![b'n'; 600_000]).unwrap();
    sh(&dir, "mknod upper/gone c 0 0");
    let layers = std::slice::from_ref(&layer);
    let set = agentwall_cow::scan(layers).unwrap();
    let report = commit(layers, &set, |_| Disposition::Commit, &options).unwrap();
    let Status::Failed { errno, .. } = status(&report, "keep") else {
        panic!("{report:#?}");
    };
    assert_eq!(*errno, Some(rustix::io::Errno::NOSPC.raw_os_error()));
    assert!(
        matches!(status(&report, "gone"), Status::Held { .. }),
        "deletions wait"
    );
    assert_eq!(
        std::fs::read(dir.join("root/keep")).unwrap(),
        vec![b'k'; 300_000]
    );
    assert_eq!(
        std::fs::metadata(dir.join("upper/keep")).unwrap().len(),
        600_000
    );
    assert_eq!(
        std::fs::read_dir(dir.join("root")).unwrap().count(),
        3,
        "no litter"
    );
    std::fs::remove_file(dir.join("root/fill")).unwrap();
    let set = agentwall_cow::scan(layers).unwrap();
    let report = commit(layers, &set, |_| Disposition::Commit, &options).unwrap();
    assert!(
        report.is_complete() && report.kept.is_empty(),
        "{report:#?}"
    );
    assert_eq!(
        std::fs::read(dir.join("root/keep")).unwrap(),
        vec![b'n'; 600_000]
    );
    // The trash folder is on another file system here, so the original rested in the tree.
    assert_eq!(std::fs::read_dir(dir.join("root")).unwrap().count(), 1);
}

#[test]
fn a_read_only_tree_loses_nothing() {
    child(
        "child_read_only",
        "mkdir root upper work; mount -t tmpfs tmpfs root; echo a >root/a; echo d >root/d",
    );
}

#[test]
#[ignore = "run by a_read_only_tree_loses_nothing"]
fn child_read_only() {
    let (dir, layer, options) = child_session();
    sh(
        &dir,
        "echo b >upper/a; echo n >upper/n; mknod upper/d c 0 0; mount -o remount,bind,ro root",
    );
    let layers = std::slice::from_ref(&layer);
    let set = agentwall_cow::scan(layers).unwrap();
    assert_eq!(set.changes.len(), 3);
    let report = commit(layers, &set, |_| Disposition::Commit, &options).unwrap();
    let rofs = Some(rustix::io::Errno::ROFS.raw_os_error());
    for name in ["a", "n"] {
        let status = status(&report, name);
        assert!(
            matches!(status, Status::Failed { errno, .. } if *errno == rofs),
            "{status:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(dir.join("root/a")).unwrap(), "a\n");
    sh(&dir, "mount -o remount,bind,rw root");
    let set = agentwall_cow::scan(layers).unwrap();
    assert!(
        commit(layers, &set, |_| Disposition::Commit, &options)
            .unwrap()
            .is_complete()
    );
    sh(&dir, "grep -q b root/a; grep -q n root/n; test ! -e root/d");
}

#[test]
fn mount_points_are_conflicts() {
    child(
        "child_mount_point",
        "mkdir root upper work; mkdir -p root/d/m; mount -t tmpfs tmpfs root/d/m; echo x >root/d/m/x",
    );
}

#[test]
#[ignore = "run by mount_points_are_conflicts"]
fn child_mount_point() {
    let (dir, layer, options) = child_session();
    sh(&dir, "mknod upper/d c 0 0");
    let layers = std::slice::from_ref(&layer);
    let set = agentwall_cow::scan(layers).unwrap();
    assert_eq!(summary(&set, &layer.root), ["Delete d !mount_point"]);
    commit(layers, &set, |_| Disposition::Commit, &options).unwrap();
    sh(&dir, "grep -q x root/d/m/x");
    assert_eq!(set.changes[0].entry, EntryKind::Directory);
}
