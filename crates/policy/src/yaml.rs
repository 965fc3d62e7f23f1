//! YAML, read strictly into nodes that know their place.
//!
//! The subset is what a policy needs: mappings with scalar keys, sequences and scalars. Anchors,
//! aliases, tags, several documents and duplicate keys are refused, because each of them lets a file
//! mean something else than it says at a glance. Size and nesting are bounded before and while
//! reading; the event parser underneath does not recurse. A panic inside that parser becomes an
//! ordinary error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::diagnostic::{Diagnostic, Found};

/// Largest policy file, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Deepest nesting of mappings and sequences.
pub const MAX_DEPTH: usize = 32;

/// Most keys of one mapping.
pub const MAX_KEYS: usize = 256;

/// A place in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters, on this line.
    pub length: usize,
}

/// A value, and where it is written.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Where it begins.
    pub place: Place,
    /// A text in `|` or `>`, whose place is that of its first line.
    pub block: bool,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// The text, and whether it was written without quotes.
    Scalar(String, bool),
    /// The items, in their order.
    Sequence(Vec<Node>),
    /// Keys and values, in their order; no key twice.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub struct Key {
    /// The key.
    pub text: String,
    /// Where it is written.
    pub place: Place,
}

impl Node {
    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(text, plain) if is_null(text, *plain) => "nothing",
            Kind::Scalar(..) => "text",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
        }
    }
}

/// Whether a scalar is YAML's null.
pub(crate) fn is_null(text: &str, plain: bool) -> bool {
    plain && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A source split into lines, for messages.
#[derive(Debug)]
pub struct Lines<'a> {
    pub name: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Lines<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Self {
        // YAML 1.2 breaks lines at LF, CR LF and CR.
        let mut lines = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['\n', '\r']) {
            lines.push(&rest[..at]);
            let skip = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
            rest = &rest[at + skip..];
        }
        lines.push(rest);
        Lines { name, lines }
    }

    pub fn diagnostic(
        &self,
        place: Place,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) -> Diagnostic {
        let text = self.lines.get(place.line.saturating_sub(1)).unwrap_or(&"");
        let from = match place.column {
            column if column > 600 => column - 200,
            _ => 0,
        };
        let text: String = text.chars().skip(from).take(1000).collect();
        Diagnostic {
            source: self.name.to_owned(),
            line: place.line.max(1),
            column: place.column.max(1),
            length: place.length.max(1),
            message: shorten(message.into()),
            text,
            text_column: from + 1,
            suggestion: suggestion.map(shorten),
        }
    }

    /// The first tab that indents a line, from line `from` on; the parser points before it.
    fn indenting_tab(&self, from: usize) -> Option<Place> {
        let lines = self.lines.iter().enumerate().skip(from.saturating_sub(1));
        lines
            .filter_map(|(i, line)| {
                let indent = line.len() - line.trim_start().len();
                let column = line[..indent].find('\t')? + 1;
                Some(Place {
                    line: i + 1,
                    column,
                    length: 1,
                })
            })
            .next()
    }

    /// The place of a byte offset inside a scalar's text, if the scalar stands in the source as it
    /// is (plain, or quoted without escapes, on one line); else the scalar's own place.
    pub fn inside(&self, node: &Node, text: &str, offset: usize, length: usize) -> Place {
        let Some(line) = self.lines.get(node.place.line.saturating_sub(1)) else {
            return node.place;
        };
        let Some((start, _)) = line.char_indices().nth(node.place.column.saturating_sub(1)) else {
            return node.place;
        };
        let raw = &line[start..];
        let quote = usize::from(raw.starts_with(['"', '\'']));
        if text.is_empty() || !raw[quote..].starts_with(text) || !text.is_char_boundary(offset) {
            return node.place;
        }
        let left = text[offset..].chars().count().max(1);
        Place {
            line: node.place.line,
            column: node.place.column + quote + text[..offset].chars().count(),
            length: length.clamp(1, left),
        }
    }
}

/// A message stays readable when the text it quotes is huge.
fn shorten(text: String) -> String {
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Reads one document. On failure the diagnostics say why; duplicates are reported all at once.
/// `begin` is how such a file begins, for whoever left it empty.
pub(crate) fn read(lines: &Lines<'_>, text: &str, begin: &str, found: &mut Found) -> Option<Node> {
    if text.len() > MAX_FILE {
        found.push(lines.diagnostic(
            Place::default(),
            format!("the file has {} bytes, more than {MAX_FILE}", text.len()),
            Some("split it into several files".into()),
        ));
        return None;
    }
    if let Some((place, c)) = forbidden(text) {
        found.push(lines.diagnostic(
            place,
            format!(
                "the character U+{:04X} is not allowed in YAML",
                u32::from(c)
            ),
            Some("write it as an escape, such as \\x07 in a glob".into()),
        ));
        return None;
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        Reader::new(lines, found).run(text, begin)
    }));
    outcome.unwrap_or_else(|_| {
        found.push(lines.diagnostic(
            Place::default(),
            "the YAML parser failed on this file",
            Some("simplify the file; this is a defect worth reporting".into()),
        ));
        None
    })
}

/// The first character outside YAML 1.2's printable set (section 5.1), and bidirectional controls,
/// which would let a rule read differently from what it says.
fn forbidden(text: &str) -> Option<(Place, char)> {
    let (mut line, mut column) = (1, 1);
    for c in text.chars() {
        let control = c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
        let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let other =
            matches!(c, '\u{fffe}' | '\u{ffff}') || (c == '\u{feff}' && (line, column) != (1, 1));
        if control || bidi || other {
            let place = Place {
                line,
                column,
                length: 1,
            };
            return Some((place, c));
        }
        if c == '\n' {
            line += 1;
            column = 1;
        } else {
            column += 1;
        }
    }
    None
}

enum Open {
    Sequence(Place, Vec<Node>),
    Mapping(Place, Vec<(Key, Node)>, Option<Key>),
}

struct Reader<'r, 'l> {
    lines: &'r Lines<'l>,
    found: &'r mut Found,
    stack: Vec<Open>,
    root: Option<Node>,
    failed: bool,
    /// Reading on would cost much and tell nothing new.
    hopeless: bool,
}

impl<'r, 'l> Reader<'r, 'l> {
    fn new(lines: &'r Lines<'l>, found: &'r mut Found) -> Self {
        Reader {
            lines,
            found,
            stack: Vec::new(),
            root: None,
            failed: false,
            hopeless: false,
        }
    }

    fn run(mut self, text: &str, begin: &str) -> Option<Node> {
        let mut parser = Parser::new_from_str(text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            if self.found.is_full() || self.hopeless {
                return None;
            }
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let mut place = Place {
                        line: error.marker().line(),
                        column: error.marker().col() + 1,
                        length: 1,
                    };
                    if error.info().contains("tab") {
                        place = self.lines.indenting_tab(place.line).unwrap_or(place);
                    }
                    self.error(
                        place,
                        format!("not YAML: {}", error.info()),
                        Some(
                            "indent with spaces, and put quotes around a text that holds \
                             [ ] { } , # or ': '"
                                .into(),
                        ),
                    );
                    return None;
                }
            };
            let place = place(&span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.error(
                            place,
                            "a file holds one document, found a second",
                            Some("put it into its own file".into()),
                        );
                        return None;
                    }
                }
                Event::Alias(_) => {
                    self.error(
                        place,
                        "'*' at the start of a value is a YAML alias, which is not allowed",
                        Some("put quotes around a pattern: \"*\"".into()),
                    );
                    self.value(Node {
                        kind: Kind::Scalar(String::new(), true),
                        place,
                        block: false,
                    });
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.marks(place, anchor, tag.as_deref().map(ToString::to_string));
                    let plain = style == ScalarStyle::Plain;
                    self.value(Node {
                        kind: Kind::Scalar(text.into_owned(), plain),
                        place,
                        block: matches!(style, ScalarStyle::Literal | ScalarStyle::Folded),
                    });
                }
                Event::SequenceStart(anchor, tag) => {
                    self.marks(place, anchor, tag.as_deref().map(ToString::to_string));
                    self.open(Open::Sequence(place, Vec::new()), place)?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.marks(place, anchor, tag.as_deref().map(ToString::to_string));
                    self.open(Open::Mapping(place, Vec::new(), None), place)?;
                }
                Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                    Some(Open::Sequence(place, items)) => self.value(Node {
                        kind: Kind::Sequence(items),
                        place,
                        block: false,
                    }),
                    Some(Open::Mapping(place, entries, _)) => self.value(Node {
                        kind: Kind::Mapping(entries),
                        place,
                        block: false,
                    }),
                    None => {}
                },
                _ => {}
            }
        }
        if self.failed {
            return None;
        }
        if self.root.is_none() {
            self.error(
                Place::default(),
                "the file is empty",
                Some(format!("begin with '{begin}'")),
            );
        }
        self.root
    }

    fn error(&mut self, place: Place, message: impl Into<String>, suggestion: Option<String>) {
        self.failed = true;
        self.found
            .push(self.lines.diagnostic(place, message, suggestion));
    }

    fn marks(&mut self, place: Place, anchor: usize, tag: Option<String>) {
        if anchor != 0 {
            self.error(
                place,
                "'&' at the start of a value is a YAML anchor, which is not allowed",
                Some("write the value out, or put quotes around it".into()),
            );
        }
        if let Some(tag) = tag {
            self.error(
                place,
                format!("'{tag}' is a YAML tag, which is not allowed"),
                Some(format!("put quotes around a negated pattern: \"{tag}\"")),
            );
        }
    }

    fn open(&mut self, open: Open, place: Place) -> Option<()> {
        if self.stack.len() >= MAX_DEPTH {
            self.error(
                place,
                format!("mappings and lists nest more than {MAX_DEPTH} deep"),
                None,
            );
            return None;
        }
        self.stack.push(open);
        Some(())
    }

    fn value(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence(_, items)) => items.push(node),
            Some(Open::Mapping(_, entries, key)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => match node.kind {
                    Kind::Scalar(text, _) => {
                        let place = node.place;
                        if entries.len() >= MAX_KEYS {
                            self.hopeless = true;
                            let message = format!("a mapping of more than {MAX_KEYS} keys");
                            self.error(place, message, None);
                            return;
                        }
                        let first = entries.iter().find(|(k, _)| k.text == text);
                        let duplicate = first.map(|(k, _)| k.place.line);
                        *key = Some(Key {
                            text: text.clone(),
                            place,
                        });
                        if let Some(line) = duplicate {
                            self.error(
                                place,
                                format!("the key '{text}' is already on line {line}"),
                                Some("remove one of the two".into()),
                            );
                        }
                    }
                    _ => {
                        *key = Some(Key {
                            text: String::new(),
                            place: node.place,
                        });
                        self.error(node.place, "a key is text, found a list or mapping", None);
                    }
                },
            },
        }
    }
}

fn place(span: &Span) -> Place {
    let one_line = span.start.line() == span.end.line();
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
        length: if one_line { span.len().max(1) } else { 1 },
    }
}
