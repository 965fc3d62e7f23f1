//! Patterns that both languages can say, and their two spellings.
//!
//! Cedar has `==` and `like`, where `*` is any text, separators included; ours has `*` inside a part
//! and `**` across parts. These are translated exactly:
//!
//! | ours | Cedar |
//! |---|---|
//! | no star | `==` |
//! | single stars only, `/a/*.c/d` | `like` with the same stars, and a *count guard*: not more separators than the pattern has, so that no star can hold one |
//! | `**` only, in names, hosts and texts | `like` |
//! | `/a/**` | `like "/a/*"`, or `/a` itself when the object is a directory |
//! | `/a/**/b/c`, `**/c` | `== "/a/b/c"` or `like "/a/*/b/c"`; `like "*/c"` |
//! | `/a/**/*.c`, `**/*.c` | `like "/a/*.c"`, `like "*.c"` |
//! | `/a/**/b/x*y` | the same about `context.dir`, the path up to its last `/`, and `like` about `context.name`, what follows it |
//! | `/a/**/b/**` | `like "/a/b/*"` or `like "/a/*/b/*"`, or without the tail when it is a directory |
//! | `{a,b}`, `[xy]` | one clause an alternative, joined by `\|\|` |
//!
//! Left out, because no finite number of `like` says them: `?`, negated classes, `*` in a directory
//! below a `**`, and `*` beside `**` in names and hosts. Paths are canonical: they begin with `/` and
//! have no empty segment, `.` or `..`; several of these equalities rest on that.

use super::{
    Fault,
    text::{cedar, cedar_pattern, ours},
};

/// One unit inside a part.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// This text.
    Text(String),
    /// Any text: inside a part, or across parts in a [`Flat`] that says so.
    Star,
    /// One of these texts.
    Either(Vec<String>),
    /// One of these characters; ASCII letters and digits.
    Class(Vec<char>),
}

/// A text without separators, or with, in a [`Flat`].
pub type Part = Vec<Piece>;

/// A pattern of paths.
#[derive(Debug, Clone, PartialEq)]
pub enum PathGlob {
    /// `/a/*.b`: single stars at most.
    Plain(Vec<Part>),
    /// `/a/b/**`.
    Below(Vec<String>),
    /// `/a/**/b/*.c`, and `**/b/*.c` when the front is empty.
    Deep {
        /// Before the `**`.
        front: Vec<String>,
        /// Folders after it.
        middle: Vec<String>,
        /// The last segment.
        name: Part,
    },
    /// `/a/**/b/**`.
    DeepBelow {
        /// Before the first `**`.
        front: Vec<String>,
        /// Between the two; not empty.
        middle: Vec<String>,
    },
}

/// A pattern of hosts, names and abstract sockets: all its stars are `*`, or all are `**`.
#[derive(Debug, Clone, PartialEq)]
pub struct Flat {
    /// What it is made of.
    pub pieces: Part,
    /// Whether a star is written `**`.
    pub deep: bool,
}

impl PathGlob {
    /// Our spelling.
    pub fn ours(&self) -> String {
        let join = |segments: &[String]| joined(segments.iter().map(|s| ours(s)));
        let deep = |front: &[String]| match front {
            [] => "**".to_owned(),
            front => format!("{}/**", join(front)),
        };
        match self {
            PathGlob::Plain(parts) if parts.is_empty() => "/".into(),
            PathGlob::Plain(parts) => joined(parts.iter().map(|p| part(p, "*"))),
            PathGlob::Below(front) => format!("{}/**", join(front)),
            PathGlob::Deep {
                front,
                middle,
                name,
            } => format!("{}{}/{}", deep(front), join(middle), part(name, "*")),
            PathGlob::DeepBelow { front, middle } => {
                format!("{}{}/**", deep(front), join(middle))
            }
        }
    }

    /// The Cedar expression about `context.{text}`; directories match as such where `directory`.
    pub fn cedar(&self, text: &str, directory: bool, fault: Fault) -> String {
        let attribute = format!("context.{text}");
        let join = |segments: &[String]| joined(segments);
        let is = |literal: &str| format!("{attribute} == {}", cedar(literal));
        let like = |pieces: &[Option<&str>]| {
            format!("{attribute} like {}", cedar_pattern(pieces.iter().copied()))
        };
        let itself = |clause: String| match (directory, fault) {
            (_, Fault::DirectoryClause) => format!(" || {clause}"),
            (true, _) => format!(" || (context.directory && {clause})"),
            (false, _) => String::new(),
        };
        match self {
            PathGlob::Plain(parts) if parts.is_empty() => is("/"),
            PathGlob::Plain(parts) => {
                let slash = Piece::Text("/".into());
                let all: Part = parts
                    .iter()
                    .flat_map(|p| std::iter::once(&slash).chain(p))
                    .cloned()
                    .collect();
                any(expand(&all)
                    .iter()
                    .map(|one| guarded(&attribute, one, &['/'], fault)))
            }
            PathGlob::Below(front) if front.is_empty() => {
                format!("{attribute} != \"/\"{}", itself(is("/")))
            }
            PathGlob::Below(front) => {
                let front = join(front);
                format!(
                    "{}{}",
                    like(&[Some(&front), Some("/"), None]),
                    itself(is(&front))
                )
            }
            PathGlob::DeepBelow { front, middle } => {
                let (front, middle) = (join(front), join(middle));
                let within = format!("{front}{middle}");
                format!(
                    "{} || {}{}",
                    like(&[Some(&within), Some("/"), None]),
                    like(&[
                        Some(&front),
                        Some("/"),
                        None,
                        Some(&middle),
                        Some("/"),
                        None
                    ]),
                    itself(format!(
                        "({} || {})",
                        is(&within),
                        like(&[Some(&front), Some("/"), None, Some(&middle)])
                    ))
                )
            }
            PathGlob::Deep {
                front,
                middle,
                name,
            } => {
                let (front, middle) = (join(front), join(middle));
                any(expand(name)
                    .iter()
                    .map(|one| deep(text, &front, &middle, one)))
            }
        }
    }
}

/// `front/**/middle/NAME` for one alternative of the name.
fn deep(text: &str, front: &str, middle: &str, name: &[Option<String>]) -> String {
    let attribute = format!("context.{text}");
    let is = |a: &str, t: &str| format!("{a} == {}", cedar(t));
    let like = |a: &str, pieces: &[Option<&str>]| {
        format!("{a} like {}", cedar_pattern(pieces.iter().copied()))
    };
    match name {
        [Some(name)] => format!(
            "{} || {}",
            is(&attribute, &format!("{front}{middle}/{name}")),
            like(
                &attribute,
                &[
                    Some(front),
                    Some("/"),
                    None,
                    Some(middle),
                    Some("/"),
                    Some(name)
                ]
            )
        ),
        [None, Some(end)] if middle.is_empty() => {
            like(&attribute, &[Some(front), Some("/"), None, Some(end)])
        }
        name => {
            let dir = format!("{attribute}_dir");
            let folder = match (front, middle) {
                ("", "") => "true".to_owned(),
                ("", middle) => like(&dir, &[None, Some(middle)]),
                (front, "") => format!(
                    "{} || {}",
                    is(&dir, front),
                    like(&dir, &[Some(front), Some("/"), None])
                ),
                (front, middle) => format!(
                    "{} || {}",
                    is(&dir, &format!("{front}{middle}")),
                    like(&dir, &[Some(front), Some("/"), None, Some(middle)])
                ),
            };
            let pieces = name.iter().map(Option::as_deref);
            format!(
                "({folder}) && {attribute}_name like {}",
                cedar_pattern(pieces)
            )
        }
    }
}

impl Flat {
    /// A star alone, which means anything where it is a whole object or host.
    pub fn is_star(&self) -> bool {
        self.pieces == [Piece::Star]
    }

    /// Our spelling; `escape` writes a text of it.
    pub fn ours(&self) -> String {
        part(&self.pieces, if self.deep { "**" } else { "*" })
    }

    /// The Cedar expression about the attribute; `separators` end a part.
    pub fn cedar(&self, attribute: &str, separators: &[char], fault: Fault) -> String {
        let separators = if self.deep { &[] } else { separators };
        any(expand(&self.pieces)
            .iter()
            .map(|one| guarded(attribute, one, separators, fault)))
    }
}

/// One alternative with single stars: `like`, and no more separators than the pattern has.
fn guarded(
    attribute: &str,
    pieces: &[Option<String>],
    separators: &[char],
    fault: Fault,
) -> String {
    if let [Some(text)] = pieces {
        return format!("{attribute} == {}", cedar(text));
    }
    let pattern = cedar_pattern(pieces.iter().map(Option::as_deref));
    let mut clause = format!("{attribute} like {pattern}");
    for separator in separators.iter().filter(|_| fault != Fault::CountGuard) {
        let texts = pieces.iter().flatten();
        let count: usize = texts.map(|t| t.matches(*separator).count()).sum();
        let separator = separator.to_string();
        let mut more = vec![None];
        for _ in 0..=count {
            more.extend([Some(separator.as_str()), None]);
        }
        clause.push_str(&format!(" && !({attribute} like {})", cedar_pattern(more)));
    }
    clause
}

/// The alternatives of a part: stars are `None`, texts between them are joined.
fn expand(pieces: &[Piece]) -> Vec<Vec<Option<String>>> {
    let mut all: Vec<Vec<Option<String>>> = vec![vec![]];
    for piece in pieces {
        let options: Vec<Option<String>> = match piece {
            Piece::Star => vec![None],
            Piece::Text(t) => vec![Some(t.clone())],
            Piece::Either(texts) => texts.iter().cloned().map(Some).collect(),
            Piece::Class(chars) => chars.iter().map(|c| Some(c.to_string())).collect(),
        };
        all = all
            .iter()
            .flat_map(|head| {
                options.iter().map(move |tail| {
                    let mut head = head.clone();
                    match (head.last_mut(), tail) {
                        (Some(Some(text)), Some(more)) => text.push_str(more),
                        _ => head.push(tail.clone()),
                    }
                    head
                })
            })
            .collect();
    }
    all
}

/// A slash before each segment.
fn joined(segments: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    segments.into_iter().map(|s| format!("/{s}")).collect()
}

fn any(clauses: impl Iterator<Item = String>) -> String {
    let clauses: Vec<String> = clauses.map(|c| format!("({c})")).collect();
    clauses.join(" || ")
}

fn part(pieces: &[Piece], star: &str) -> String {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => ours(text),
            Piece::Star => star.to_owned(),
            Piece::Either(texts) => {
                let texts: Vec<String> = texts.iter().map(|t| ours(t)).collect();
                format!("{{{}}}", texts.join(","))
            }
            Piece::Class(chars) => format!("[{}]", chars.iter().collect::<String>()),
        })
        .collect()
}
