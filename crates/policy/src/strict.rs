//! The strict reading of YAML, for other files of the project than policies.
//!
//! Agent signatures are read as a policy is: unknown keys, wrong types, anchors, aliases, tags and
//! duplicate keys are errors with line, column and what to write instead. There is one reader, so
//! that a person who knows one kind of file knows the other.
//!
//! Invariants: size, nesting and the number of errors are bounded; a reading that reported anything
//! gives no value.

use crate::{
    diagnostic::{Found, LoadError},
    glob::{Glob, GlobKind},
    load::{Source, utf8},
    nfa::Nfa,
    yaml::{self, Lines},
};

pub use crate::{
    fields::{Fields, Reading},
    yaml::{Key, Kind, Node, Place},
};

/// Reads one file with `of`. `what` is the kind of file, for the last line of the report (`the WHAT
/// was not loaded`); `begin` is how such a file begins, for whoever left it empty. The layer of the
/// source does not matter.
///
/// # Errors
/// Everything that is wrong with it. Also when `of` reports something and gives a value all the same.
pub fn read<T>(
    source: &Source,
    what: &'static str,
    begin: &str,
    of: impl FnOnce(&mut Reading<'_>, &Node) -> Option<T>,
) -> Result<T, LoadError> {
    let mut found = Found::default();
    let value = utf8(source, &mut found).and_then(|text| {
        let lines = Lines::new(&source.name, text);
        let root = yaml::read(&lines, text, begin, &mut found)?;
        let value = of(&mut Reading::new(&lines, &mut found), &root);
        if value.is_none() && found.is_empty() {
            // Nothing is not an answer: whoever reads has to say why.
            found.push(lines.diagnostic(root.place, "the file says nothing", None));
        }
        value
    });
    match value {
        Some(value) if found.is_empty() => Ok(value),
        _ => Err(found.into_error_of(what)),
    }
}

impl Reading<'_> {
    /// A pattern. Its steps count against those of the file ([`MAX_FILE_STEPS`](crate::MAX_FILE_STEPS)).
    pub fn glob(&mut self, node: &Node, text: &str, what: &str, kind: GlobKind) -> Option<Glob> {
        match Glob::new(text, kind) {
            Ok(glob) => {
                self.spend(node.place, glob.alternatives().iter().map(Nfa::steps).sum());
                (!self.is_done()).then_some(glob)
            }
            Err(error) => {
                self.inside(node, text, what, &error);
                None
            }
        }
    }
}
