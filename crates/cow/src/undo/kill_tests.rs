//! A kill, and a power failure, at every named moment of a commit and of an undo: recovery finishes or
//! takes back, nothing is lost, nothing is hidden. The upper directory is made by hand.
//!
//! A power failure is a kill after which the journal ends where it was last made durable, although
//! every rename arrived: the worst order for an original that only the journal knows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, mknodat, setxattr};
use tempfile::TempDir;

use crate::{
    CommitOptions, Disposition, Layer, Recovery, UndoOptions, acknowledge, base_timestamp, commit,
    fault, is_unfinished, recover, scan, undo,
};

pub(super) struct Session {
    pub tmp: TempDir,
    pub layers: Vec<Layer>,
}

impl Session {
    /// Every kind of change, in two layers.
    pub fn new() -> Session {
        let tmp = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(tmp.path()).unwrap();
        let root = at.join("root");
        for name in [
            "a",
            "b",
            "d/x",
            "gone/x",
            "gone/sub/y",
            "to-dir",
            "to-file/x",
            "m",
            "l1",
        ] {
            put(&root.join(name), "old");
        }
        fs::hard_link(root.join("l1"), root.join("l2")).unwrap();
        fs::create_dir(root.join("dm")).unwrap();
        setxattr(root.join("m"), "user.k", b"old", XattrFlags::empty()).unwrap();
        put(&at.join("second/s"), "old");
        let base = base_timestamp(&at, None).unwrap();
        let layer = |root: &str| {
            let (upper, work) = (
                at.join(format!("upper-{root}")),
                at.join(format!("work-{root}")),
            );
            fs::create_dir(&upper).unwrap();
            fs::create_dir(&work).unwrap();
            Layer::begin(at.join(root), upper, work, base).unwrap()
        };
        let layers = vec![layer("root"), layer("second")];
        let upper = &layers[0].upper;
        for name in ["a", "d/x", "to-dir/z", "to-file", "new", "n/m/1", "l1"] {
            put(&upper.join(name), "agent");
        }
        fs::hard_link(upper.join("n/m/1"), upper.join("n/2")).unwrap();
        for name in ["b", "gone"] {
            let (kind, none) = (FileType::CharacterDevice, Mode::empty());
            mknodat(CWD, upper.join(name), kind, none, 0).unwrap();
        }
        symlink("target", upper.join("link")).unwrap();
        put(&upper.join("m"), "old");
        fs::create_dir(upper.join("dm")).unwrap();
        let mode = |name: &str, mode| {
            fs::set_permissions(upper.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("m", 0o600);
        // A copy of the original, so its time counts.
        let origin = "user.overlay.origin";
        setxattr(upper.join("m"), origin, b"", XattrFlags::empty()).unwrap();
        mode("dm", 0o700);
        mode("n/m", 0o500);
        setxattr(upper.join("m"), "user.k", b"new", XattrFlags::empty()).unwrap();
        put(&layers[1].upper.join("s"), "agent");
        Session { tmp, layers }
    }

    pub fn options(&self) -> CommitOptions {
        CommitOptions::new(self.tmp.path())
    }

    pub fn commit(&self) {
        let set = scan(&self.layers).unwrap();
        let report = commit(&self.layers, &set, |_| Disposition::Commit, &self.options()).unwrap();
        assert!(report.is_complete(), "{report:#?}");
        assert!(
            report.kept.is_empty() && report.warnings.is_empty(),
            "{report:#?}"
        );
    }

    pub fn undo(&self) {
        let report = undo(&self.layers, &UndoOptions::new(self.options())).unwrap();
        assert!(report.is_complete(), "{report:#?}");
        assert!(
            report.kept.is_empty() && report.warnings.is_empty(),
            "{report:#?}"
        );
    }

    /// Both trees: type, mode, time of files, attribute, content, inode.
    pub fn trees(&self) -> BTreeMap<PathBuf, String> {
        let mut out = BTreeMap::new();
        for layer in &self.layers {
            collect(&layer.root, &mut out);
        }
        out
    }

    fn journals(&self) -> impl Iterator<Item = PathBuf> {
        self.layers.iter().map(Layer::record_path)
    }
}

pub(super) fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn collect(dir: &Path, out: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let text = if meta.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else if meta.is_dir() {
            collect(&path, out);
            format!("dir {:o} {}", meta.mode() & 0o7777, meta.ino())
        } else {
            let mut value = [0u8; 16];
            let n = getxattr(&path, "user.k", &mut value[..]).unwrap_or(0);
            format!(
                "file {:o} {} {}.{} {:?} {}",
                meta.mode() & 0o7777,
                meta.ino(),
                meta.mtime(),
                meta.mtime_nsec(),
                String::from_utf8_lossy(&value[..n]),
                fs::read_to_string(&path).unwrap()
            )
        };
        out.insert(path, text);
    }
}

/// Without the inodes and times: a commit that is done again makes new files.
pub(super) fn content(trees: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let plain = |text: &String| {
        let mut words: Vec<&str> = text.split(' ').collect();
        match words[0] {
            "file" => drop(words.drain(2..4)),
            "dir" => words.truncate(2),
            _ => {}
        }
        words.join(" ")
    };
    trees.iter().map(|(p, t)| (p.clone(), plain(t))).collect()
}

/// At every moment, or with `AGENTWALL_KILL_EACH` at each of that many.
pub(super) fn every() -> usize {
    let each = std::env::var("AGENTWALL_KILL_EACH").ok();
    each.and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn no_temporary_name(trees: &BTreeMap<PathBuf, String>, at: &str) {
    let hidden = trees
        .keys()
        .find(|p| p.to_string_lossy().contains(".agentwall-tmp-"));
    assert!(hidden.is_none(), "{at}: {hidden:?}");
}

#[test]
fn a_commit_killed_anywhere_is_completed_and_then_undone() {
    let whole = Session::new();
    let old = content(&whole.trees());
    whole.commit();
    let new = content(&whole.trees());
    let mut moments = 0;
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        moments += 1;
        let at = format!("moment {number}, {name}");
        let report = recover(&s.layers, &s.options()).unwrap();
        assert!(
            report.kept.is_empty() && report.warnings.is_empty(),
            "{at}: {report:#?}"
        );
        assert!(!is_unfinished(&s.layers).unwrap(), "{at}");
        let found = content(&s.trees());
        no_temporary_name(&found, &at);
        for step in &report.recovered {
            let (old, new, now) = (
                content_at(&old, &whole, &s, &step.path),
                content_at(&new, &whole, &s, &step.path),
                found.get(&step.path).cloned(),
            );
            let expected = match step.how {
                Recovery::Finished => new,
                Recovery::RolledBack => old,
                other => panic!("{at}: {other:?}"),
            };
            // A directory gets its last attributes at the end.
            let is_dir = now.as_ref().is_some_and(|t| t.starts_with("dir"));
            assert!(now == expected || is_dir, "{at}: {step:#?} {now:?}");
        }
        acknowledge(&s.layers).unwrap();
        // What was finished can be undone by itself.
        if number % 2 == 0 && crate::can_undo(&s.layers).is_ok() {
            s.undo();
            assert_eq!(content(&s.trees()), content(&before), "{at}");
        }
        let set = scan(&s.layers).unwrap();
        let report = commit(&s.layers, &set, |_| Disposition::Commit, &s.options()).unwrap();
        assert!(report.is_complete(), "{at}: {report:#?}");
        assert_eq!(content(&s.trees()), renamed(&new, &whole, &s), "{at}");
        assert!(scan(&s.layers).unwrap().is_empty(), "{at}");
    }
    assert!(moments * every() > 100, "only {moments} moments");
}

#[test]
fn a_commit_that_goes_on_after_a_kill_is_undone_as_a_whole() {
    let mut moments = 0;
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        moments += 1;
        recover(&s.layers, &s.options()).unwrap();
        let set = scan(&s.layers).unwrap();
        let report = commit(&s.layers, &set, |_| Disposition::Commit, &s.options()).unwrap();
        assert!(report.is_complete(), "{name}: {report:#?}");
        if crate::can_undo(&s.layers).is_ok() {
            s.undo();
            assert_eq!(s.trees(), before, "moment {number}, {name}");
        }
    }
    assert!(moments * every() > 100, "only {moments} moments");
}

#[test]
fn a_commit_after_a_cut_off_one_was_given_up_keeps_its_originals() {
    let mut given_up = 0;
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        given_up += usize::from(crate::can_undo(&s.layers).is_ok());
        assert_eq!(crate::forget(&s.layers).unwrap(), Vec::<String>::new());
        let before = s.trees();
        put(&s.layers[0].upper.join("late"), "agent");
        s.commit();
        s.undo();
        assert_eq!(s.trees(), before, "moment {number}, {name}");
    }
    assert!(given_up > 0);
}

#[test]
fn a_power_failure_during_a_commit_hides_nothing() {
    let whole = Session::new();
    let old = content(&whole.trees());
    whole.commit();
    let new = content(&whole.trees());
    let mut moments = 0;
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        moments += 1;
        s.journals()
            .for_each(|path| fault::lose_what_was_not_synced(&path));
        let at = format!("moment {number}, {name}");
        let report = recover(&s.layers, &s.options()).unwrap();
        assert!(report.kept.is_empty(), "{at}: {report:#?}");
        let found = content(&s.trees());
        no_temporary_name(&found, &at);
        for (path, text) in &found {
            let old = content_at(&old, &whole, &s, path);
            let new = content_at(&new, &whole, &s, path);
            let is = [old, new].into_iter().flatten().any(|t| t == *text);
            assert!(is || text.starts_with("dir"), "{at}: {path:?} {text}");
        }
        // Every original is under its name, or where an undo finds it.
        let set = scan(&s.layers).unwrap();
        if crate::can_undo(&s.layers).is_ok() {
            s.undo();
            assert_eq!(content(&s.trees()), renamed(&old, &whole, &s), "{at}");
        } else {
            assert_eq!(found, renamed(&old, &whole, &s), "{at}");
        }
        assert!(!scan(&s.layers).unwrap().is_empty(), "{at}: {set:#?}");
    }
    assert!(moments * every() > 100, "only {moments} moments");
}

#[test]
fn an_undo_killed_anywhere_is_completed() {
    for power in [false, true] {
        let mut moments = 0;
        for number in (1..).step_by(every()) {
            let s = Session::new();
            let before = s.trees();
            let changes = scan(&s.layers).unwrap();
            s.commit();
            acknowledge(&s.layers).unwrap();
            let after = s.trees();
            let Some(name) = fault::cut_off(number, || s.undo()) else {
                break;
            };
            moments += 1;
            if power {
                s.journals()
                    .for_each(|path| fault::lose_what_was_not_synced(&path));
            }
            let at = format!("moment {number}, {name}, power {power}");
            let report = recover(&s.layers, &s.options()).unwrap();
            assert!(
                report.kept.is_empty() && report.warnings.is_empty(),
                "{at}: {report:#?}"
            );
            let found = s.trees();
            if report.recovered.is_empty() {
                // Nothing was touched, in no layer.
                assert_eq!(found, after, "{at}");
                s.undo();
            } else {
                let undone = report.recovered.iter().all(|r| r.how == Recovery::Undone);
                assert!(undone, "{at}: {report:#?}");
            }
            assert_eq!(s.trees(), before, "{at}");
            let again = scan(&s.layers).unwrap();
            let shape = |set: &crate::ChangeSet| {
                let each = set
                    .changes
                    .iter()
                    .map(|c| (c.path.clone(), c.kind, c.new_mode()));
                (
                    each.collect::<Vec<_>>(),
                    set.changes.iter().all(|c| c.conflict.is_none()),
                )
            };
            assert_eq!(shape(&again), shape(&changes), "{at}");
            assert!(
                undo(&s.layers, &UndoOptions::new(s.options())).is_err(),
                "{at}"
            );
            s.commit();
            assert_eq!(content(&s.trees()), content(&after), "{at}");
        }
        assert!(moments * every() > 50, "only {moments} moments");
    }
}

/// The text of a path of `s` in a picture of another session.
fn content_at(
    picture: &BTreeMap<PathBuf, String>,
    of: &Session,
    s: &Session,
    path: &Path,
) -> Option<String> {
    renamed(picture, of, s).get(path).cloned()
}

/// A picture of one session with the paths of another.
fn renamed(
    picture: &BTreeMap<PathBuf, String>,
    of: &Session,
    s: &Session,
) -> BTreeMap<PathBuf, String> {
    let (from, to) = (of.layers[0].root.parent(), s.layers[0].root.parent());
    let moved = |p: &PathBuf| to.unwrap().join(p.strip_prefix(from.unwrap()).unwrap());
    picture.iter().map(|(p, t)| (moved(p), t.clone())).collect()
}
