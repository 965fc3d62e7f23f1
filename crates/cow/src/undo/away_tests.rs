//! A commit or an undo is killed, and then somebody takes an original folder away: what it had in hand
//! is waited for, nothing is done to what lies there instead, and when the folder is back all of it is
//! finished.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::kill_tests::{Session, content, every, put};
use crate::{
    DiscardError, UndoError, UndoOptions, acknowledge, discard_all, fault, is_unfinished, recover,
    undo,
};

impl Session {
    /// Somebody moves a folder away and makes another, while commands want to go on; whether these had to
    /// wait for it.
    fn waits_while_away(&self, which: usize, at: &str) -> bool {
        let layer = std::slice::from_ref(&self.layers[which]);
        let root = &layer[0].root;
        let moved = root.with_file_name("moved");
        let unfinished = || is_unfinished(layer).unwrap();
        let before = unfinished();
        fs::rename(root, &moved).unwrap();
        put(&root.join("theirs"), "theirs");
        let said = recover(&self.layers, &self.options());
        let waiting = unfinished();
        assert_eq!(said.is_err(), waiting, "{at}: {said:?}");
        assert!(before || !waiting, "{at}");
        if let Err(why) = said {
            let text = why.to_string();
            assert!(text.contains("move the original back"), "{at}: {text}");
            let undone = undo(&self.layers, &UndoOptions::new(self.options()));
            assert!(
                matches!(undone, Err(UndoError::Unfinished)),
                "{at}: {undone:?}"
            );
            let dropped = discard_all(layer);
            assert!(
                matches!(dropped, Err(DiscardError::Unfinished { .. })),
                "{at}: {dropped:?}"
            );
        }
        assert_eq!(fs::read_dir(root).unwrap().count(), 1, "{at}");
        let theirs = fs::read_to_string(root.join("theirs")).unwrap();
        assert_eq!(theirs, "theirs", "{at}");
        fs::remove_dir_all(root).unwrap();
        fs::rename(&moved, root).unwrap();
        waiting
    }

    /// What is in the trees, by the paths in this session's folder.
    fn holds(&self) -> BTreeMap<PathBuf, String> {
        let at = self.layers[0].root.parent().unwrap();
        let below = |path: PathBuf| path.strip_prefix(at).unwrap().to_owned();
        let all = content(&self.trees()).into_iter();
        all.map(|(path, text)| (below(path), text)).collect()
    }
}

#[test]
fn a_commit_that_was_killed_waits_for_its_folder() {
    let committed = Session::new();
    committed.commit();
    let committed = committed.holds();
    let (mut moments, mut waited) = (0, 0);
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        moments += 1;
        for which in [0, 1] {
            let at = format!("moment {number}, {name}, folder {which}");
            waited += usize::from(s.waits_while_away(which, &at));
        }
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        s.commit();
        assert_eq!(s.holds(), committed, "moment {number}, {name}");
        acknowledge(&s.layers).unwrap();
        s.undo();
        assert_eq!(s.trees(), before, "moment {number}, {name}");
    }
    assert!(moments * every() > 100, "only {moments} moments");
    assert!(waited > 0 && waited < moments * 2, "{waited} of {moments}");
}

#[test]
fn an_undo_that_was_killed_waits_for_its_folder() {
    let (mut moments, mut waited) = (0, 0);
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        s.commit();
        acknowledge(&s.layers).unwrap();
        let Some(name) = fault::cut_off(number, || s.undo()) else {
            break;
        };
        moments += 1;
        for which in [1, 0] {
            let at = format!("moment {number}, {name}, folder {which}");
            waited += usize::from(s.waits_while_away(which, &at));
        }
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        if s.trees() != before {
            // It was noted, and not begun.
            s.undo();
        }
        assert_eq!(s.trees(), before, "moment {number}, {name}");
    }
    assert!(moments * every() > 20, "only {moments} moments");
    assert!(waited > 0, "{waited} of {moments}");
}
