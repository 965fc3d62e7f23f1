//! Directories that their owner may not enter, seen by an owner without privileges.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tempfile::TempDir;

use crate::fault::cut_off;
use crate::{
    ChangeSet, CommitOptions, CommitReport, Conflict, Disposition, EntryKind, Layer, Status,
    base_timestamp, commit, copy_layer, discard, scan,
};

/// Runs `f` in a thread that gave up every capability, so that modes count for root, too.
fn ordinary<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let without = || {
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        f()
    };
    std::thread::scope(|scope| scope.spawn(without).join())
        .unwrap_or_else(|e| std::panic::resume_unwind(e))
}

struct Shut {
    tmp: TempDir,
    layer: Layer,
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

impl Shut {
    /// An original with `kept/`, and a session that made folders nobody may enter, one in the other,
    /// and shut the original folder, too.
    fn new() -> Shut {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        for dir in [
            "root",
            "root/kept",
            "upper",
            "upper/kept",
            "work",
            "locks",
            "upper/d",
            "upper/d/e",
            "upper/d/e/f",
            "upper/listed",
        ] {
            fs::create_dir(at(dir)).unwrap();
        }
        fs::write(at("root/kept/old"), "old").unwrap();
        let base = base_timestamp(tmp.path(), None).unwrap();
        for name in ["d/x", "d/e/y", "d/e/f/z", "kept/new", "listed/l"] {
            fs::write(at("upper").join(name), name).unwrap();
        }
        for (name, mode) in [
            ("d/e/f", 0o311),
            ("d/e", 0o000),
            ("d", 0o055),
            ("kept", 0o200),
            // It can be read, and not entered.
            ("listed", 0o644),
        ] {
            set_mode(&at("upper").join(name), mode);
        }
        let root = at("root").canonicalize().unwrap();
        let layer = Layer::begin(root, at("upper"), at("work"), base).unwrap();
        Shut { tmp, layer }
    }

    fn scan(&self) -> ChangeSet {
        scan(std::slice::from_ref(&self.layer)).unwrap()
    }

    fn commit(&self) -> CommitReport {
        let options = CommitOptions::new(self.tmp.path().join("locks"));
        let layers = std::slice::from_ref(&self.layer);
        commit(layers, &self.scan(), |_| Disposition::Commit, &options).unwrap()
    }

    fn is_given_back(&self) {
        assert!(!note_path(&self.layer.upper).exists());
    }
}

/// Path, type, mode and content of everything below a folder. Root may look.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut text = format!("{:04o}", meta.mode() & 0o7777);
            if meta.is_dir() {
                stack.push(path.clone());
            } else {
                text += &format!(" {}", fs::read_to_string(&path).unwrap());
            }
            let rel = path.strip_prefix(root).unwrap();
            out.insert(rel.display().to_string(), text);
        }
    }
    out
}

/// Looks at a tree whose directories may be shut, and leaves it as it was.
fn look(root: &Path) -> BTreeMap<String, String> {
    // As root nothing is in the way; an ordinary user looks at a copy that was opened.
    if rustix::process::geteuid().is_root() {
        return tree(root);
    }
    let tmp = tempfile::tempdir().unwrap();
    let to = tmp.path().join("copy");
    crate::copy::copy_tree(root, &to).unwrap();
    let mut modes = BTreeMap::new();
    let mut stack = vec![(to.clone(), String::new())];
    while let Some((dir, rel)) = stack.pop() {
        let mode = fs::symlink_metadata(&dir).unwrap().mode() & 0o7777;
        set_mode(&dir, mode | 0o700);
        modes.insert(rel.clone(), mode);
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                let name = entry.file_name().into_string().unwrap();
                let rel = match rel.is_empty() {
                    true => name,
                    false => format!("{rel}/{name}"),
                };
                stack.push((entry.path(), rel));
            }
        }
    }
    let mut found = tree(&to);
    for (rel, text) in &mut found {
        if let Some(mode) = modes.get(rel) {
            *text = format!("{mode:04o}");
        }
    }
    found
}

/// What the original is to be after the commit.
fn expected() -> BTreeMap<String, String> {
    [
        ("d", "0055"),
        ("d/e", "0000"),
        ("d/e/f", "0311"),
        ("d/e/f/z", "0644 d/e/f/z"),
        ("d/e/y", "0644 d/e/y"),
        ("d/x", "0644 d/x"),
        ("kept", "0200"),
        ("kept/new", "0644 kept/new"),
        ("kept/old", "0644 old"),
        ("listed", "0644"),
        ("listed/l", "0644 listed/l"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into()
}

#[test]
fn a_folder_that_its_owner_may_not_enter_is_shown_and_committed() {
    let s = Shut::new();
    let before = look(&s.layer.upper);
    let set = ordinary(|| s.scan());
    let modes: Vec<(String, u32)> = set
        .changes
        .iter()
        .filter(|c| c.entry == EntryKind::Directory)
        .map(|c| {
            let rel = c.path.strip_prefix(&s.layer.root).unwrap();
            (rel.display().to_string(), c.new_mode().unwrap())
        })
        .collect();
    let shown = [
        ("d", 0o055),
        ("d/e", 0o000),
        ("d/e/f", 0o311),
        ("kept", 0o200),
        ("listed", 0o644),
    ];
    assert_eq!(modes, shown.map(|(path, mode)| (path.to_owned(), mode)));
    assert_eq!(set.changes.len(), 10, "{set:#?}");
    assert_eq!(look(&s.layer.upper), before, "a look changes nothing");
    s.is_given_back();
    let report = ordinary(|| s.commit());
    assert!(report.is_complete(), "{report:#?}");
    assert!(report.warnings.is_empty(), "{report:#?}");
    assert_eq!(look(&s.layer.root), expected());
    assert!(look(&s.layer.upper).is_empty());
    s.is_given_back();
}

#[test]
fn a_kill_at_any_moment_leaves_no_lent_mode_in_what_is_committed() {
    let mut moments = Vec::new();
    for number in 1.. {
        let s = Shut::new();
        let name = ordinary(|| cut_off(number, || drop(s.commit())));
        let Some(name) = name else { break };
        let report = ordinary(|| s.commit());
        for outcome in &report.outcomes {
            let shut = matches!(
                &outcome.status,
                Status::Conflict {
                    conflict: Conflict::Unreadable { .. }
                }
            );
            // An original that the commit had shut already: what is in it cannot be looked at again.
            assert!(
                shut || outcome.status == Status::Committed,
                "{number}: {name}: {outcome:#?}"
            );
        }
        assert_eq!(look(&s.layer.root), expected(), "{number}: {name}");
        s.is_given_back();
        moments.push(name);
    }
    for name in ["lending noted", "lent", "given back"] {
        assert!(moments.iter().any(|m| m == name), "{name}: {moments:?}");
    }
}

#[test]
fn what_a_killed_command_had_lent_is_given_back_before_the_session_goes_on() {
    let s = Shut::new();
    let before = look(&s.layer.upper);
    // Cut off when the second mode is lent.
    for number in 1.. {
        let layers = std::slice::from_ref(&s.layer);
        let name = ordinary(|| cut_off(number, || drop(scan(layers))));
        let name = name.expect("a scan lends");
        let killed = note_path(&s.layer.upper).exists();
        if name == "lent" && number > 2 {
            assert!(killed && look(&s.layer.upper) != before);
            break;
        }
    }
    ordinary(|| crate::give_back(std::slice::from_ref(&s.layer)).unwrap());
    assert_eq!(look(&s.layer.upper), before);
    s.is_given_back();
    // A mode that somebody set since then is not touched.
    set_mode(&s.layer.upper.join("d"), 0o711);
    ordinary(|| s.scan());
    let now = fs::symlink_metadata(s.layer.upper.join("d")).unwrap();
    assert_eq!(now.mode() & 0o7777, 0o711);
}

#[test]
fn two_that_read_at_once_see_the_same_modes() {
    let s = Shut::new();
    ordinary(|| {
        let one = crate::scan::open_upper(&s.layer).unwrap();
        let shut = one.dir(b"d/e/f").unwrap();
        let lent = Snapshot::new(&fstat(&shut).unwrap());
        assert_eq!((lent.mode, one.own(lent.clone()).mode), (0o711, 0o311));
        // While it is lent.
        let again = s.scan();
        let f = again.get(&s.layer.root.join("d/e/f")).unwrap();
        assert_eq!(f.new_mode(), Some(0o311));
        drop(one);
        s.is_given_back();
    });
}

#[test]
fn shut_folders_are_copied_and_dropped_as_well() {
    let s = Shut::new();
    let before = look(&s.layer.upper);
    let copy = s.tmp.path().join("copy");
    ordinary(|| copy_layer(&s.layer, &copy, s.tmp.path().join("work2")).unwrap());
    assert_eq!(look(&copy), before);
    assert_eq!(look(&s.layer.upper), before);
    let layers = std::slice::from_ref(&s.layer);
    ordinary(|| discard(layers, &s.scan(), |c| c.path.ends_with("d/e")).unwrap());
    let left: Vec<String> = look(&s.layer.upper).into_keys().collect();
    assert_eq!(left, ["d", "d/x", "kept", "kept/new", "listed", "listed/l"]);
    let d = fs::symlink_metadata(s.layer.upper.join("d")).unwrap();
    assert_eq!(d.mode() & 0o7777, 0o055);
    s.is_given_back();
}

use super::*;

#[test]
fn an_original_that_may_not_be_searched_is_a_conflict_and_stops_nothing() {
    let s = Shut::new();
    set_mode(&s.layer.root.join("kept"), 0o600);
    let set = ordinary(|| s.scan());
    let new = set.get(&s.layer.root.join("kept/new")).unwrap();
    let path = s.layer.root.join("kept");
    assert_eq!(new.conflict, Some(Conflict::Unreadable { path }));
    assert!(
        set.get(&s.layer.root.join("d/x"))
            .unwrap()
            .conflict
            .is_none()
    );
}
