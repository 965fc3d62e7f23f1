//! Languages: sets of canonical texts that globs describe, and the questions one asks of them.
//!
//! [`Language::shortest`], [`Language::meets`] and [`Language::beyond`] are exact: their texts are
//! members, and `None` is a proof that there is none. [`Language::is_inside`] follows from them.
//! Whoever wants to widen a pattern (a recommendation) or to prove something about a plan asks here,
//! before a policy exists.

use std::ops::ControlFlow;

use super::{
    limits::{Limits, Meter, TooLarge},
    product::Machine,
    universe::Universe,
};
use crate::glob::{Glob, GlobKind};

/// The texts that any of some globs matches, among the canonical ones of their kind: paths, host
/// names, or named texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Language {
    kind: GlobKind,
    globs: Vec<Glob>,
}

/// A text of a [`Language`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The canonical text; a path need not be UTF-8.
    pub text: Vec<u8>,
    /// Whether it is a member as a directory: `dir/**` has `dir` only so.
    pub directory: bool,
}

impl Language {
    /// The union of the globs of one kind; globs of another kind have no text in common with them and
    /// are left out. Verbs are taken to be named texts.
    pub fn new(kind: GlobKind, globs: impl IntoIterator<Item = Glob>) -> Language {
        let globs = globs.into_iter().filter(|g| g.kind() == kind).collect();
        Language { kind, globs }
    }

    /// The shortest text in it; `None` proves that there is none.
    ///
    /// # Errors
    /// [`TooLarge`] when the limits do not suffice.
    pub fn shortest(&self, limits: Limits) -> Result<Option<Member>, TooLarge> {
        self.search(None, limits, true)
    }

    /// The shortest text in both; `None` proves that they have none in common.
    ///
    /// # Errors
    /// [`TooLarge`] when the limits do not suffice.
    pub fn meets(&self, other: &Language, limits: Limits) -> Result<Option<Member>, TooLarge> {
        self.search(Some(other), limits, true)
    }

    /// The shortest text in this one that is not in the other; `None` proves that this one is inside.
    ///
    /// # Errors
    /// [`TooLarge`] when the limits do not suffice.
    pub fn beyond(&self, other: &Language, limits: Limits) -> Result<Option<Member>, TooLarge> {
        self.search(Some(other), limits, false)
    }

    /// Whether every text in it is in the other, too.
    ///
    /// # Errors
    /// [`TooLarge`] when the limits do not suffice.
    pub fn is_inside(&self, other: &Language, limits: Limits) -> Result<bool, TooLarge> {
        Ok(self.beyond(other, limits)?.is_none())
    }

    /// The shortest text in this one, and in the other or not.
    fn search(
        &self,
        other: Option<&Language>,
        limits: Limits,
        both: bool,
    ) -> Result<Option<Member>, TooLarge> {
        let universe = match self.kind {
            GlobKind::Path => Universe::path(),
            GlobKind::Host => Universe::host(),
            GlobKind::Text | GlobKind::Verb => Universe::text(),
        };
        let mut machine = Machine::new(universe, self.kind == GlobKind::Path);
        let mut add = |owner: u32, language: &Language| {
            let lines = language.globs.iter().flat_map(Glob::alternatives);
            lines.for_each(|nfa| machine.add(owner, nfa));
        };
        add(0, self);
        // Texts of another kind are no texts of this one.
        if let Some(other) = other.filter(|o| o.kind == self.kind) {
            add(1, other);
        }
        machine.require(0, 0);
        if both && other.is_some() {
            machine.require(1, 1);
        }
        let mut found = None;
        machine.explore(&mut Meter::new(limits), &mut |_, cell| {
            if !both && cell.owners.contains(&1) {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some(Member {
                text: cell.text.to_vec(),
                directory: cell.directory,
            });
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}

#[cfg(test)]
#[path = "language_tests.rs"]
mod tests;
