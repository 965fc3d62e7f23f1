//! SIGKILL at any moment of a commit: every file is wholly old or wholly new, nothing is lost, and the
//! next run completes.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, tree};

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agentwall_cow::{CommitOptions, Disposition, Layer, commit, scan};

#[test]
fn a_killed_commit_is_whole_and_is_completed() {
    let mut cut_off = 0;
    for round in 0..24u64 {
        let s = Session::new(
            "mkdir -p d gone/sub o; for i in $(seq 30); do echo old $i >d/$i; echo g >gone/sub/$i
             echo o >o/$i; done; echo f >becomes-dir; chmod 600 d/1",
        );
        s.agent(
            "for i in $(seq 20); do echo new $i >d/$i; done; for i in $(seq 25 30); do rm d/$i; done
             mkdir -p n/m; for i in $(seq 20); do echo n >n/m/$i; done; ln n/m/1 n/l; rm -r gone
             rm -r o; mkdir o; echo k >o/k; rm becomes-dir; mkdir becomes-dir; echo x >becomes-dir/x
             chmod 700 d; chmod 500 n; ln -s x sym",
        );
        let old = tree(s.root());
        // What the end must be, from a copy committed without trouble.
        let model = s.tmp.path().join("model");
        std::fs::create_dir(&model).unwrap();
        common::sh(s.tmp.path(), "cp -a root upper model/; mkdir model/work");
        let base = agentwall_cow::base_timestamp(&model, None).unwrap();
        let root = std::fs::canonicalize(model.join("root")).unwrap();
        let layer = Layer::begin(root, model.join("upper"), model.join("work"), base).unwrap();
        let layers = [layer];
        let set = scan(&layers).unwrap();
        let options = CommitOptions::new(&model);
        assert!(
            commit(&layers, &set, |_| Disposition::Commit, &options)
                .unwrap()
                .is_complete()
        );
        let new = tree(&layers[0].root);

        std::fs::write(
            s.tmp.path().join("layer"),
            serde_json::to_vec(&s.layer).unwrap(),
        )
        .unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_commit", "--ignored"])
            .env("AGENTWALL_CHILD", s.tmp.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let started = s.tmp.path().join("started");
        while !started.exists() {
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_micros(1100 * round));
        child.kill().unwrap();
        cut_off += usize::from(!child.wait().unwrap().success());

        for (path, text) in tree(s.root()) {
            if path.to_string_lossy().contains(".agentwall-tmp-") {
                continue;
            }
            let whole = old.get(&path) == Some(&text) || new.get(&path) == Some(&text);
            // A directory gets its last attributes at the end.
            assert!(
                whole || text.starts_with("dir "),
                "round {round}: {path:?} {text}"
            );
        }
        let set = s.scan();
        let report = s.commit(&set);
        assert!(
            report.is_complete() && report.kept.is_empty(),
            "round {round}: {report:#?}"
        );
        assert_eq!(tree(s.root()), new, "round {round}");
        assert!(s.scan().is_empty());
        s.no_litter();
        s.no_trash();
    }
    assert!(cut_off >= 6, "only {cut_off} commits were cut off");
}

#[test]
#[ignore = "run by a_killed_commit_is_whole_and_is_completed"]
fn child_commit() {
    let dir = PathBuf::from(std::env::var_os("AGENTWALL_CHILD").expect("run by its parent"));
    let layer: Layer = serde_json::from_slice(&std::fs::read(dir.join("layer")).unwrap()).unwrap();
    let layers = [layer];
    let set = scan(&layers).unwrap();
    let options = CommitOptions::new(dir.join("locks"));
    std::fs::write(dir.join("started"), "").unwrap();
    let report = commit(&layers, &set, |_| Disposition::Commit, &options).unwrap();
    assert!(report.is_complete(), "{report:#?}");
}
