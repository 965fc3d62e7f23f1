//! Checkpoints and roll-backs of layers made by hand, with a kill at every named moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::{base_timestamp, fault, scan};

struct Session {
    _tmp: TempDir,
    layers: Vec<Layer>,
}

impl Session {
    fn new() -> Session {
        let tmp = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(tmp.path()).unwrap();
        let base = base_timestamp(&at, None).unwrap();
        let layer = |n: &str| {
            let [root, upper, work] = ["root", "upper", "work"].map(|p| at.join(n).join(p));
            for dir in [&root, &upper, &work] {
                fs::create_dir_all(dir).unwrap();
            }
            Layer::begin(root, upper, work, base).unwrap()
        };
        let layers = vec![layer("0"), layer("1")];
        Session { _tmp: tmp, layers }
    }

    fn write(&self, layer: usize, name: &str, text: &str) {
        fs::write(self.layers[layer].upper.join(name), text).unwrap();
    }

    /// What the session has.
    fn has(&self) -> BTreeMap<PathBuf, String> {
        let set = scan(&self.layers).unwrap();
        let each = set.changes.into_iter().map(|change| {
            let layer = &self.layers[change.layer];
            let rel = change.path.strip_prefix(&layer.root).unwrap();
            let text = fs::read_to_string(layer.upper.join(rel)).unwrap();
            (change.path.clone(), text)
        });
        each.collect()
    }

    fn mark(&self, name: &str, at_ms: u64) -> Checkpoint {
        checkpoint(&self.layers, &new(name, at_ms)).unwrap()
    }
}

/// A roll-back whose outcome is recorded.
fn rolled_back(layers: &[Layer], name: &str, before: &NewCheckpoint) -> RolledBack {
    let done = roll_back(layers, name, before).unwrap();
    acknowledge_roll_back(layers).unwrap();
    done
}

fn new(name: &str, at_ms: u64) -> NewCheckpoint {
    NewCheckpoint {
        name: name.into(),
        at_ms,
    }
}

/// Two states of two layers, the first as the checkpoint "one".
fn two_states() -> (
    Session,
    BTreeMap<PathBuf, String>,
    BTreeMap<PathBuf, String>,
) {
    let session = Session::new();
    session.write(0, "a", "one");
    session.write(1, "b", "one");
    session.mark("one", 1);
    let one = session.has();
    session.write(0, "a", "two");
    session.write(0, "more", "two");
    fs::remove_file(session.layers[1].upper.join("b")).unwrap();
    let two = session.has();
    assert_ne!(one, two);
    (session, one, two)
}

#[test]
fn rolls_back_and_forth() {
    let (session, one, two) = two_states();
    let done = rolled_back(&session.layers, "one", &new("before", 2));
    assert_eq!(session.has(), one);
    assert!(done.before.automatic && !done.to.automatic);
    assert_eq!(done.before.objects, 4, "two directories, two files");
    // The checkpoint stays what it was, whatever is written now.
    session.write(0, "a", "three");
    rolled_back(&session.layers, "before", &new("second", 3));
    assert_eq!(session.has(), two);
    rolled_back(&session.layers, "one", &new("third", 4));
    assert_eq!(session.has(), one);
    let names: Vec<String> = checkpoints(&session.layers)
        .unwrap()
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert_eq!(names, ["one", "before", "second", "third"]);
    for name in names {
        remove_checkpoint(&session.layers, &name).unwrap();
    }
    assert!(checkpoints(&session.layers).unwrap().is_empty());
    for layer in &session.layers {
        assert!(!layer.checkpoints_path().exists());
        assert!(!layer.rollback_path().exists());
    }
    assert_eq!(session.has(), one);
}

#[test]
fn a_layer_that_came_later_is_empty_at_the_checkpoint() {
    let session = Session::new();
    session.write(0, "a", "one");
    checkpoint(&session.layers[..1], &new("one", 1)).unwrap();
    session.write(1, "b", "two");
    rolled_back(&session.layers, "one", &new("before", 2));
    assert_eq!(session.has().len(), 1);
    rolled_back(&session.layers, "before", &new("again", 3));
    assert_eq!(session.has().len(), 2);
}

#[test]
fn names_are_refused_that_are_taken_unknown_or_lead_elsewhere() {
    let session = Session::new();
    session.mark("one", 1);
    let error = checkpoint(&session.layers, &new("one", 2)).unwrap_err();
    assert!(matches!(error, CheckpointError::Exists { .. }), "{error}");
    for name in ["", "..", "a/b", ".", "a.new", "\u{1b}[2J", &"x".repeat(65)] {
        let error = checkpoint(&session.layers, &new(name, 2)).unwrap_err();
        assert!(matches!(error, CheckpointError::Name { .. }), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
        let error = roll_back(&session.layers, name, &new("b", 2)).unwrap_err();
        assert!(matches!(error, CheckpointError::Unknown { .. }), "{error}");
        let error = remove_checkpoint(&session.layers, name).unwrap_err();
        assert!(matches!(error, CheckpointError::Unknown { .. }), "{error}");
    }
    let error = checkpoint(&[], &new("a", 1)).unwrap_err();
    assert!(matches!(error, CheckpointError::NoLayer), "{error}");
    assert_eq!(checkpoints(&session.layers).unwrap().len(), 1);
}

#[test]
fn a_roll_back_that_is_killed_anywhere_leaves_the_one_or_the_other() {
    let mut seen = Vec::new();
    for nth in 1.. {
        let (session, one, two) = two_states();
        let layers = session.layers.clone();
        let Some(point) = fault::cut_off(nth, || {
            roll_back(&layers, "one", &new("before", 2)).unwrap();
        }) else {
            break;
        };
        let pending = is_rolling_back(&session.layers);
        if pending {
            let error = checkpoint(&session.layers, &new("x", 5)).unwrap_err();
            assert!(matches!(error, CheckpointError::Unfinished), "{error}");
        }
        // Each layer has the one or the other even now.
        for (n, layer) in session.layers.iter().enumerate() {
            let now = fs::read_dir(&layer.upper).unwrap().count();
            assert!([1, [2, 0][n]].contains(&now), "{point}");
        }
        let finished = finish_roll_back(&session.layers).unwrap();
        assert_eq!(finished.is_some(), pending, "{point}");
        // Told until somebody has recorded it.
        assert_eq!(
            finish_roll_back(&session.layers).unwrap(),
            finished,
            "{point}"
        );
        acknowledge_roll_back(&session.layers).unwrap();
        assert!(finish_roll_back(&session.layers).unwrap().is_none());
        clean(&session.layers);
        let names = checkpoints(&session.layers).unwrap();
        if pending {
            assert_eq!(session.has(), one, "{point}");
            assert_eq!(names.len(), 2, "{point}");
            rolled_back(&session.layers, "before", &new("again", 3));
            assert_eq!(session.has(), two, "{point}");
        } else {
            assert_eq!(session.has(), two, "{point}");
            assert_eq!(names.len(), 1, "{point}");
            rolled_back(&session.layers, "one", &new("before", 3));
            assert_eq!(session.has(), one, "{point}");
        }
        seen.push(point);
    }
    for point in ["staged", "noted", "exchanged", "checkpoint named", "named"] {
        assert!(seen.iter().any(|s| s == point), "{point}: {seen:?}");
    }
}

#[test]
fn a_checkpoint_that_is_killed_anywhere_is_whole_or_absent() {
    let mut kinds = Vec::new();
    for nth in 1.. {
        let (session, ..) = two_states();
        let now = session.has();
        let layers = session.layers.clone();
        let Some(point) = fault::cut_off(nth, || {
            checkpoint(&layers, &new("two", 2)).unwrap();
        }) else {
            break;
        };
        let there = checkpoints(&session.layers).unwrap().len() == 2;
        kinds.push(there);
        if !there {
            assert!(clean(&session.layers), "{point}");
            session.mark("two", 3);
        }
        rolled_back(&session.layers, "one", &new("before", 3));
        rolled_back(&session.layers, "two", &new("before2", 4));
        assert_eq!(session.has(), now, "{point}");
    }
    assert!(kinds.contains(&true) && kinds.contains(&false), "{kinds:?}");
}

#[test]
fn a_removal_that_is_killed_leaves_no_half_of_it() {
    let (session, ..) = two_states();
    let layers = session.layers.clone();
    fault::cut_off(1, || remove_checkpoint(&layers, "one").unwrap()).unwrap();
    assert!(checkpoints(&session.layers).unwrap().is_empty());
    assert!(clean(&session.layers));
    assert!(!session.layers[1].checkpoints_path().exists());
    // A name that is used again is not mixed with what was left of it.
    let (session, one, _) = two_states();
    let layers = session.layers.clone();
    fault::cut_off(1, || remove_checkpoint(&layers, "one").unwrap()).unwrap();
    session.mark("one", 5);
    let now = session.has();
    assert_ne!(now, one);
    session.write(0, "a", "three");
    rolled_back(&session.layers, "one", &new("before", 6));
    assert_eq!(session.has(), now);
}

#[test]
fn a_foreign_directory_is_never_swapped_in() {
    let (session, ..) = two_states();
    let layers = session.layers.clone();
    // Until the note is there, then somebody moves the directories away.
    let mut nth = 1;
    loop {
        let point = fault::cut_off(nth, || {
            roll_back(&layers, "one", &new("before", 2)).unwrap();
        });
        if point.as_deref() == Some("noted") {
            break;
        }
        clean(&session.layers);
        nth += 1;
    }
    let staged = new_path(&layers[0], "before").join("upper");
    fs::rename(&staged, staged.with_extension("away")).unwrap();
    fs::create_dir(&staged).unwrap();
    let before = session.has();
    let error = finish_roll_back(&session.layers).unwrap_err();
    assert!(matches!(error, CheckpointError::Lost { .. }), "{error}");
    assert_eq!(session.has(), before);
}
