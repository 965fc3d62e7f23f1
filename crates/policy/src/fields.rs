//! Typed access to YAML nodes: every wrong type, unknown key and missing key becomes a diagnostic.
//!
//! The functions return `None` after reporting, so that reading goes on and one pass finds as many
//! errors as possible.

use std::{collections::HashMap, fmt::Display};

use crate::{
    condition::{Expression, Wanted},
    diagnostic::{Found, did_you_mean},
    glob::GlobError,
    yaml::{Key, Kind, Lines, Node, Place, is_null},
};

/// One source while it is read.
#[allow(missing_debug_implementations)] // Borrows its parts for the time of one reading.
pub struct Reading<'a> {
    pub(crate) lines: &'a Lines<'a>,
    pub(crate) found: &'a mut Found,
    /// Steps of all patterns so far; see [`MAX_FILE_STEPS`].
    pub(crate) steps: usize,
    /// The expressions read so far: rules that say the same share one.
    pub(crate) expressions: HashMap<(String, Wanted), Expression>,
}

/// Most steps that the patterns of one file may expand to together. One pattern of sixty bytes may
/// become ten thousand, so that the size of the file bounds nothing.
pub const MAX_FILE_STEPS: usize = 8 << 20;

impl<'a> Reading<'a> {
    pub(crate) fn new(lines: &'a Lines<'a>, found: &'a mut Found) -> Reading<'a> {
        Reading {
            lines,
            found,
            steps: 0,
            expressions: HashMap::new(),
        }
    }

    /// Reports an error, and what to write instead.
    pub fn error(&mut self, place: Place, message: impl Into<String>, suggestion: Option<String>) {
        self.found
            .push(self.lines.diagnostic(place, message, suggestion));
    }

    /// Whether there is no point in reading on.
    pub fn is_done(&self) -> bool {
        self.found.is_full() || self.steps > MAX_FILE_STEPS
    }

    /// Counts the steps of a pattern; reports when the file has too many.
    pub fn spend(&mut self, place: Place, steps: usize) {
        let before = self.steps;
        self.steps = before.saturating_add(steps);
        if self.steps > MAX_FILE_STEPS && before <= MAX_FILE_STEPS {
            self.error(
                place,
                format!("the patterns of the file expand to more than {MAX_FILE_STEPS} steps"),
                Some("write out the alternatives that are needed, or use fewer braces".into()),
            );
        }
    }

    /// An error inside a scalar's text.
    pub fn inside(&mut self, node: &Node, text: &str, what: impl Display, error: &GlobError) {
        let place = self.lines.inside(node, text, error.offset, text.len());
        let message = format!("{what}: {}", error.message);
        self.error(place, message, error.suggestion.clone());
    }

    /// The entries of a mapping whose keys are all known; unknown keys are reported.
    pub fn mapping<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&str],
    ) -> Option<Fields<'n>> {
        let Kind::Mapping(entries) = &node.kind else {
            let message = format!("{what} is a mapping, found {}", node.describe());
            self.error(
                node.place,
                message,
                Some(format!("keys: {}", known.join(", "))),
            );
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.text.as_str()) {
                let message = format!("unknown key '{}' in {what}", key.text);
                self.error(key.place, message, did_you_mean(&key.text, known));
            }
        }
        Some(Fields {
            entries,
            place: node.place,
        })
    }

    /// The items of a list.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.kind {
            Kind::Sequence(items) => Some(items),
            _ => {
                let message = format!("{what} is a list, found {}", node.describe());
                self.error(node.place, message, None);
                None
            }
        }
    }

    /// A scalar, or a list of scalars; at least one.
    pub fn texts<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n str, &'n Node)>> {
        let Kind::Sequence(items) = &node.kind else {
            return Some(vec![(self.text(node, what)?, node)]);
        };
        if items.is_empty() {
            self.error(
                node.place,
                format!("{what} is an empty list, which matches nothing"),
                Some(format!("leave {what} out to match anything")),
            );
            return None;
        }
        if items.len() > MAX_LIST {
            let message = format!("{what} has more than {MAX_LIST} members");
            self.error(node.place, message, Some("write several rules".into()));
            return None;
        }
        let texts: Vec<_> = items
            .iter()
            .filter_map(|item| Some((self.text(item, what)?, item)))
            .collect();
        (texts.len() == items.len()).then_some(texts)
    }

    /// The value of a key that `what` cannot be without; `example` says what to write.
    pub fn needed<'n>(
        &mut self,
        fields: &Fields<'n>,
        what: &str,
        key: &str,
        example: &str,
    ) -> Option<&'n Node> {
        let node = fields.get(key);
        if node.is_none() {
            let message = format!("{what} needs '{key}'");
            self.error(fields.place, message, Some(example.to_owned()));
        }
        node
    }

    /// A scalar that is not empty.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar(text, _) if text.len() > MAX_TEXT => {
                let message = format!("{what} has {} bytes, more than {MAX_TEXT}", text.len());
                self.error(node.place, message, None);
                None
            }
            Kind::Scalar(text, plain) if !is_null(text, *plain) && !text.trim().is_empty() => {
                Some(text)
            }
            _ => {
                let found = match &node.kind {
                    Kind::Scalar(..) => "nothing",
                    _ => node.describe(),
                };
                self.error(node.place, format!("{what} is text, found {found}"), None);
                None
            }
        }
    }

    /// A whole number in a range.
    pub fn integer(&mut self, node: &Node, what: &str, min: i64, max: i64) -> Option<i64> {
        let number = match &node.kind {
            Kind::Scalar(text, true) => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| text.parse().ok()).flatten()
            }
            _ => None,
        };
        match number {
            Some(n) if (min..=max).contains(&n) => Some(n),
            _ => {
                let found = match &node.kind {
                    Kind::Scalar(text, _) => format!("'{text}'"),
                    _ => node.describe().to_owned(),
                };
                let message =
                    format!("{what} is a whole number from {min} to {max}, found {found}");
                self.error(node.place, message, None);
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(w, _)| *w == text) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
        let message = format!("unknown {what} '{text}'");
        self.error(node.place, message, did_you_mean(text, &known));
        None
    }
}

/// Longest text of any kind, in bytes.
pub(crate) const MAX_TEXT: usize = 8192;
/// Most members of one list of patterns or tests.
pub(crate) const MAX_LIST: usize = 4096;

/// The entries of one mapping.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'n> {
    entries: &'n [(Key, Node)],
    /// Where the mapping begins.
    pub place: Place,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// A key with its value.
    pub fn entry(&self, key: &str) -> Option<(&'n Key, &'n Node)> {
        self.entries
            .iter()
            .find(|(k, _)| k.text == key)
            .map(|(k, n)| (k, n))
    }
}
