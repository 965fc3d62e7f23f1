//! A commit is killed at every named moment, the session goes on in a real overlay, is committed again
//! and undone: the originals are what they were, and neither a byte of somebody else nor anything that
//! the session wrote since is lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kept::KeptCommit;
use super::kill_tests::{Session, content, every};
use crate::{
    CommonBases, Disposition, NoCommonBase, Recovery, UndoError, UndoOptions, acknowledge,
    can_undo, commit, fault, forget, recover, scan, undo, would_stay,
};

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

/// Kills a commit at every moment and recovers from it; then `check`, with the trees before the commit.
fn after_each_kill(mut check: impl FnMut(&Session, &BTreeMap<PathBuf, String>, &str)) {
    let mut moments = 0;
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        moments += 1;
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        check(&s, &before, &format!("moment {number}, {name}"));
    }
    assert!(moments * every() > 100, "only {moments} moments");
}

#[test]
fn a_session_that_went_on_after_a_kill_is_undone_as_a_whole() {
    after_each_kill(|s, before, at| {
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
        let expected = if is_whole { &between } else { before };
        assert_eq!(&s.trees(), expected, "{at}");
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
    });
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

/// Every regular file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all.extend(files(&entry.path())),
            kind if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
    all
}

/// Whether a file below one of these folders has this text in it.
fn is_in<'a>(mut dirs: impl Iterator<Item = &'a PathBuf>, text: &str) -> bool {
    dirs.any(|dir| {
        files(dir)
            .iter()
            .any(|f| fs::read_to_string(f).unwrap().contains(text))
    })
}

/// Somebody works on the originals, and a program writes to a file that it had open all the time, between
/// the kill and the next command. Then the session goes on, and everything is committed, undone and given
/// up in several orders.
#[test]
fn nothing_of_anybody_is_lost_after_a_kill() {
    let (mut at_its_place, mut named) = (0, 0);
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let root = s.layers[0].root.clone();
        let mut daemon = fs::File::options()
            .append(true)
            .open(root.join("d/x"))
            .unwrap();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        let at = format!("moment {number}, {name}");
        let mut lines = Vec::new();
        daemon.write_all(b"of a daemon").unwrap();
        match number % 2 {
            0 => fs::write(root.join("a"), "of a person").unwrap(),
            _ => {
                fs::write(root.join("editor"), "of a person").unwrap();
                fs::rename(root.join("editor"), root.join("a")).unwrap();
            }
        }
        fs::write(root.join("b"), "put there by a person").unwrap();
        let mut recovers = || {
            let report = recover(&s.layers, &s.options()).unwrap();
            acknowledge(&s.layers).unwrap();
            lines.extend(report.kept.into_iter().chain(report.warnings));
        };
        recovers();
        s.goes_on("echo newest >a; echo newer >d/x; echo newer >late; mkdir -p n; echo newer >n/4");
        let mut lines_of = Vec::new();
        let mut commits = || {
            let set = scan(&s.layers).unwrap();
            let report = commit(&s.layers, &set, |_| Disposition::Commit, &s.options()).unwrap();
            acknowledge(&s.layers).unwrap();
            lines_of.extend(report.kept.into_iter().chain(report.warnings));
        };
        let undoes = |lines: &mut Vec<String>| {
            let mut options = UndoOptions::new(s.options());
            options.partial = true;
            match undo(&s.layers, &options) {
                Ok(report) => lines.extend(report.kept.into_iter().chain(report.warnings)),
                Err(UndoError::Nothing(_)) => {}
                Err(e) => panic!("{at}: {e}"),
            }
            acknowledge(&s.layers).unwrap();
        };
        let mut said = Vec::new();
        match number % 3 {
            0 => {
                undoes(&mut said);
                commits();
            }
            1 => {
                commits();
                undoes(&mut said);
                commits();
            }
            _ => {
                commits();
                said.extend(forget(&s.layers).unwrap());
                commits();
            }
        }
        said.extend(lines);
        said.extend(lines_of);
        said.extend(would_stay(&s.layers).unwrap());
        for (path, text) in [
            ("a", "of a person"),
            ("b", "put there by a person"),
            ("d/x", "of a daemon"),
        ] {
            let here = fs::read_to_string(root.join(path)).is_ok_and(|t| t.contains(text));
            let is_told = said.iter().any(|line| {
                let place = line.split(' ').next().unwrap();
                fs::read_to_string(place).is_ok_and(|t| t.contains(text))
            });
            assert!(here || is_told, "{at}: {text} is lost: {said:#?}");
            (at_its_place, named) = (
                at_its_place + usize::from(here),
                named + usize::from(is_told),
            );
        }
        for text in ["newest", "newer"] {
            let places = s.layers.iter().flat_map(|l| [&l.root, &l.upper]);
            assert!(is_in(places, text), "{at}: {text} is lost");
        }
        let newer = |dir: &Path, name: &str| {
            fs::read_to_string(dir.join(name)).is_ok_and(|t| t.starts_with("newe"))
        };
        for name in ["a", "d/x", "late", "n/4"] {
            let (layer, is) = (&s.layers[0], newer);
            assert!(
                is(&layer.root, name) || is(&layer.upper, name),
                "{at}: {name}"
            );
        }
    }
    assert!(at_its_place > 0 && named > 0, "{at_its_place} {named}");
}

#[test]
fn a_folder_that_went_as_a_whole_after_a_kill_comes_back_in_two_undos() {
    let (mut once, mut twice) = (0, 0);
    after_each_kill(|s, before, at| {
        if can_undo(&s.layers).is_ok() && !s.is_cut_off() {
            return;
        }
        s.goes_on("rm -r d");
        s.commit();
        acknowledge(&s.layers).unwrap();
        let mut options = UndoOptions::new(s.options());
        let first = undo(&s.layers, &options).unwrap();
        if first.is_complete() {
            once += 1;
        } else {
            twice += 1;
            assert_eq!(first.count(|s| *s == crate::UndoStatus::Undone), 0, "{at}");
            options.partial = true;
            undo(&s.layers, &options).unwrap();
            options.partial = false;
            let second = undo(&s.layers, &options).unwrap();
            assert!(second.is_complete(), "{at}: {second:#?}");
        }
        assert_eq!(content(&s.trees()), content(before), "{at}");
    });
    assert!(once > 0 && twice > 0, "{once} {twice}");
}

#[test]
fn what_was_taken_back_after_a_kill_still_has_a_common_base() {
    let (mut done, mut taken_back) = (0, 0);
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        let report = recover(&s.layers, &s.options()).unwrap();
        for step in &report.recovered {
            let layer = s
                .layers
                .iter()
                .find(|l| step.path.starts_with(&l.root))
                .unwrap();
            let rel = step.path.strip_prefix(&layer.root).unwrap();
            let lacks = CommonBases::of(layer).unwrap();
            let lacks = lacks.lacks(rel.to_str().unwrap().as_bytes());
            let is_file = step.entry == crate::EntryKind::File;
            match step.how {
                Recovery::Finished if is_file => {
                    done += 1;
                    assert_eq!(lacks, Some(NoCommonBase::Committed), "{name}: {step:?}");
                }
                // Below a folder that the commit made there never was one.
                Recovery::RolledBack if !rel.starts_with("n") && !rel.starts_with("to-dir") => {
                    taken_back += 1;
                    assert_eq!(lacks, None, "{name}: {step:?}");
                }
                _ => {}
            }
        }
    }
    assert!(done > 0 && taken_back > 0, "{done} {taken_back}");
}
