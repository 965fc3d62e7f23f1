//! A commit is killed at every named moment, the session goes on in a real overlay, is committed again
//! and undone: the originals are what they were, and neither a byte of somebody else nor anything that
//! the session wrote since is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::kept::KeptCommit;
use super::kill_tests::{Session, content, every};
use crate::{Disposition, Recovery, acknowledge, can_undo, commit, fault, recover, scan};

/// What the session does after the cut: every path of the first commit is met again.
const MORE: &str = "echo more >a; echo more >b; mkdir gone; echo more >gone/y; rm -r to-dir
    rm to-file; mkdir to-file; echo more >to-file/y; echo more >m; rm new; chmod 700 n/m; rm -r n
    mkdir n; echo more >n/3; chmod 750 dm; ln -sfn more link; echo more >l1; echo more >late";

impl Session {
    /// The session goes on in its first layer.
    fn goes_on(&self, script: &str) {
        let layer = &self.layers[0];
        let at = layer.root.parent().unwrap();
        let mount = "mount -t overlay overlay \
             -o lowerdir=root,upperdir=upper-root,workdir=work-root,userxattr merged";
        fs::create_dir_all(at.join("merged")).unwrap();
        let script = format!("{mount}\ncd merged\n{script}\ncd ..\numount merged\n");
        let out = Command::new("unshare")
            .args(["-Urm", "--map-root-user", "sh", "-ec", &script])
            .current_dir(at)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    /// Whether the last commit was cut off, so that the next one goes on with it.
    fn is_cut_off(&self) -> bool {
        let kept = self
            .layers
            .iter()
            .filter_map(|l| KeptCommit::read(l).unwrap());
        kept.max_by_key(|k| k.at).is_some_and(|k| k.cut_off)
    }
}

#[test]
fn a_session_that_went_on_after_a_kill_is_undone_as_a_whole() {
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        let at = format!("moment {number}, {name}");
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        let between = s.trees();
        let is_whole = can_undo(&s.layers).is_ok() && !s.is_cut_off();
        s.goes_on(MORE);
        let set = scan(&s.layers).unwrap();
        let report = commit(&s.layers, &set, |_| Disposition::Commit, &s.options()).unwrap();
        assert!(
            report.is_complete() && report.kept.is_empty() && report.warnings.is_empty(),
            "{at}: {report:#?}"
        );
        assert!(scan(&s.layers).unwrap().is_empty(), "{at}");
        let after = s.trees();
        acknowledge(&s.layers).unwrap();
        s.undo();
        assert_eq!(s.trees(), if is_whole { between } else { before }, "{at}");
        // Nothing of what was done between the two is left behind.
        for layer in &s.layers {
            assert!(
                !layer.trash_path().exists(),
                "{at}: {:?}",
                layer.trash_path()
            );
        }
        s.commit();
        assert_eq!(content(&s.trees()), content(&after), "{at}");
    }
}

/// Somebody gives an original another mode after an undo was cut off, and before it is completed.
#[test]
fn a_mode_that_somebody_set_after_a_killed_undo_stays() {
    let (mut met, mut stayed) = (0, 0);
    for number in (1..).step_by(every()) {
        let s = Session::new();
        s.commit();
        acknowledge(&s.layers).unwrap();
        let Some(name) = fault::cut_off(number, || s.undo()) else {
            break;
        };
        let at = format!("moment {number}, {name}");
        let paths = ["m", "dm"].map(|n| s.layers[0].root.join(n));
        for path in &paths {
            fs::set_permissions(path, fs::Permissions::from_mode(0o604)).unwrap();
        }
        let report = recover(&s.layers, &s.options()).unwrap();
        for path in &paths {
            met += 1;
            let now = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(now, 0o604, "{at}: {path:?} {report:#?}");
            let told = report.recovered.iter().find(|r| r.path == *path);
            stayed += usize::from(told.is_some_and(|r| r.how == Recovery::Kept));
        }
    }
    assert!(met > 0 && stayed > 0, "{met} {stayed}");
}
