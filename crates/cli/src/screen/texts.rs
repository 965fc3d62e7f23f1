//! What the review shows of each change, read when the cursor comes to it.
//!
//! A modified text is read once, with both sides bound to the scanned change; what is made of it later
//! is made of these bytes. Everything else is shown as the patch that `diff --patch` prints, up to
//! [`MOST`] lines.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use agentwall_cow::{AmendError, Amendment, ChangeSet, DiffOptions, FileHunks, Sides, write_patch};

use super::model::{Body, Look, Shown, Texts, patch_row};
use crate::{
    merge::{Attempt, Bases, Overlaps},
    output,
    session::Session,
};

/// Lines of a patch that is decided as a whole.
const MOST: usize = 20_000;

/// The texts of a session's changes.
pub struct SessionTexts<'s> {
    session: &'s Session,
    set: &'s ChangeSet,
    sides: RefCell<HashMap<usize, Rc<Sides>>>,
    bases: RefCell<Option<Bases<'s>>>,
}

impl<'s> SessionTexts<'s> {
    /// Of this set.
    pub fn new(session: &'s Session, set: &'s ChangeSet) -> SessionTexts<'s> {
        SessionTexts {
            session,
            set,
            sides: RefCell::default(),
            bases: RefCell::default(),
        }
    }

    /// Both sides of a change that was shown with hunks.
    pub fn sides(&self, index: usize) -> Option<Rc<Sides>> {
        self.sides.borrow().get(&index).cloned()
    }

    fn patch(&self, index: usize) -> Vec<Shown> {
        let changes = vec![self.set.changes[index].clone()];
        let mut one = ChangeSet {
            changes,
            digest: String::new(),
        };
        one.digest = one.recompute_digest();
        let mut text = Vec::new();
        let layers = &self.session.record.layers;
        if let Err(e) = write_patch(&mut text, layers, &one, &DiffOptions::default()) {
            return vec![note(&output::tame(&e.to_string()))];
        }
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let lines = text.split(|b| *b == b'\n');
        let mut shown: Vec<Shown> = lines.clone().take(MOST).map(patch_row).collect();
        let all = lines.count();
        if all > MOST {
            shown.push(note(&format!(
                "{} lines more: 'agentwall diff --patch' shows them",
                all - MOST
            )));
        }
        shown
    }
}

impl Texts for SessionTexts<'_> {
    fn body(&self, index: usize) -> Body {
        let change = &self.set.changes[index];
        let max = DiffOptions::default().max_file;
        match Sides::read(&self.session.record.layers, change, max) {
            Ok(sides) => {
                let hunks = FileHunks::new(&sides.original, &sides.copy);
                self.sides.borrow_mut().insert(index, Rc::new(sides));
                Body::Hunks(hunks)
            }
            Err(AmendError::NotModified | AmendError::Conflict(_) | AmendError::Binary) => {
                Body::Lines(self.patch(index))
            }
            Err(e) => {
                let mut lines = vec![note(&output::tame(&e.to_string()))];
                lines.extend(self.patch(index));
                Body::Lines(lines)
            }
        }
    }

    fn merge(&self, index: usize) -> Result<(Amendment, FileHunks), String> {
        let mut bases = self.bases.borrow_mut();
        let bases = bases.get_or_insert_with(|| Bases::of(self.session));
        let change = &self.set.changes[index];
        match bases.attempt(change, Overlaps::Stay) {
            Attempt::Merged(amendment) | Attempt::Marked(amendment, _) => {
                let sides = self.sides(index).ok_or("the text is gone")?;
                let hunks = FileHunks::new(&sides.original, amendment.content());
                Ok((amendment, hunks))
            }
            Attempt::No(why) => Err(why),
        }
    }
}

fn note(text: &str) -> Shown {
    Shown {
        look: Look::Note,
        text: text.to_owned(),
    }
}
