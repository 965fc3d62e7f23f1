//! A commit or an undo is killed, and then somebody takes the original folder away: what it had in hand
//! is waited for, nothing is done to what lies there instead, and when the folder is back all of it is
//! finished.

use std::fs;

use super::kill_tests::{Session, content, every, put};
use crate::{
    DiscardError, UndoError, UndoOptions, acknowledge, discard_all, fault, is_unfinished, recover,
    undo,
};

impl Session {
    /// Somebody moves the first folder away and makes another; whether a command had to wait for it.
    fn waits_while_it_is_away(&self, at: &str) -> bool {
        let root = &self.layers[0].root;
        let moved = root.with_file_name("moved");
        let first = std::slice::from_ref(&self.layers[0]);
        let waiting = is_unfinished(first).unwrap();
        fs::rename(root, &moved).unwrap();
        put(&root.join("a"), "theirs");
        let said = recover(&self.layers, &self.options());
        assert_eq!(said.is_err(), waiting, "{at}: {said:?}");
        if waiting {
            let text = said.unwrap_err().to_string();
            assert!(text.contains("move the original back"), "{at}: {text}");
            let undone = undo(&self.layers, &UndoOptions::new(self.options()));
            assert!(
                matches!(undone, Err(UndoError::Unfinished)),
                "{at}: {undone:?}"
            );
            let dropped = discard_all(first);
            assert!(
                matches!(dropped, Err(DiscardError::Unfinished { .. })),
                "{at}"
            );
        }
        assert_eq!(fs::read_dir(root).unwrap().count(), 1, "{at}");
        assert_eq!(
            fs::read_to_string(root.join("a")).unwrap(),
            "theirs",
            "{at}"
        );
        fs::remove_dir_all(root).unwrap();
        fs::rename(&moved, root).unwrap();
        waiting
    }
}

#[test]
fn a_commit_that_was_killed_waits_for_its_folder() {
    let committed = Session::new();
    committed.commit();
    let committed = content(&committed.trees());
    let (mut moments, mut waited) = (0, 0);
    for number in (1..).step_by(every()) {
        let s = Session::new();
        let before = s.trees();
        let Some(name) = fault::cut_off(number, || s.commit()) else {
            break;
        };
        let at = format!("moment {number}, {name}");
        moments += 1;
        waited += usize::from(s.waits_while_it_is_away(&at));
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        s.commit();
        assert_eq!(content(&s.trees()), committed, "{at}");
        acknowledge(&s.layers).unwrap();
        s.undo();
        assert_eq!(s.trees(), before, "{at}");
    }
    assert!(moments * every() > 100, "only {moments} moments");
    assert!(waited > 0 && waited < moments, "{waited} of {moments}");
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
        let at = format!("moment {number}, {name}");
        moments += 1;
        waited += usize::from(s.waits_while_it_is_away(&at));
        recover(&s.layers, &s.options()).unwrap();
        acknowledge(&s.layers).unwrap();
        if s.trees() != before {
            s.undo();
        }
        assert_eq!(s.trees(), before, "{at}");
    }
    assert!(moments * every() > 20, "only {moments} moments");
    assert!(waited > 0, "{waited} of {moments}");
}
