//! One layout for policies and tables, with every comment in its place and the meaning as it was.
//!
//! The layout is made by [`layout`](crate::layout). What it gives is not believed but compared, and
//! refused on any difference: the nodes of the file (so that names and tests count, too), the text of
//! every comment in order, the digest of the policy, and the layout of the layout, so that formatting
//! twice changes nothing.
//!
//! Only a file that loads is laid out: its size, nesting and subset of YAML are known by then.

use std::fmt;

use crate::{
    diagnostic::{Found, LoadError},
    layout::layout,
    load::{Source, load},
    table::load_table,
    vars::Variables,
    yaml::{self, Kind, Lines, Node, is_null},
};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A policy.
    Policy,
    /// A table of test cases.
    Table,
}

/// Why a file was not laid out; it is to be left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file has errors. They are mended first, since what does not load has no meaning to keep.
    #[error("{0}")]
    Load(#[from] LoadError),
    /// The layout differs from the file in more than layout.
    #[error(
        "the layout would change {0}; the file is left as it is; simplify the place, and report it: \
         this is a defect"
    )]
    Changes(LayoutChange),
}

/// What a layout would have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutChange {
    /// It cannot be read any more.
    Unreadable,
    /// A key, a value or a list.
    Meaning,
    /// The digest of the policy.
    Digest,
    /// A comment.
    Comments,
    /// Itself, when it is laid out again.
    Layout,
}

impl fmt::Display for LayoutChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LayoutChange::Unreadable => "the file into one that cannot be read",
            LayoutChange::Meaning => "the meaning of the file",
            LayoutChange::Digest => "the digest of the policy",
            LayoutChange::Comments => "the comments",
            LayoutChange::Layout => "again when it is laid out a second time",
        })
    }
}

/// The file in the one layout; equal to the file where it has that layout already.
///
/// # Errors
/// [`FormatError::Load`] when the file does not load, [`FormatError::Changes`] when its layout cannot
/// be changed without changing more.
pub fn format(
    source: &Source,
    kind: FileKind,
    variables: &Variables,
) -> Result<String, FormatError> {
    let digest = digest(source, kind, variables)?;
    // It has loaded, so it is UTF-8.
    let text = String::from_utf8_lossy(&source.text);
    let change = |what| Err(FormatError::Changes(what));
    let Some((once, before)) = lay_out(&text) else {
        return change(LayoutChange::Unreadable);
    };
    let Some((twice, after)) = lay_out(&once) else {
        return change(LayoutChange::Unreadable);
    };
    if !same(&before.root, &after.root) {
        return change(LayoutChange::Meaning);
    }
    if before.comments != after.comments {
        return change(LayoutChange::Comments);
    }
    let again = Source {
        text: once.clone().into_bytes(),
        ..source.clone()
    };
    match self::digest(&again, kind, variables) {
        Ok(after) if after == digest => {}
        Ok(_) => return change(LayoutChange::Digest),
        Err(_) => return change(LayoutChange::Unreadable),
    }
    if twice != once {
        return change(LayoutChange::Layout);
    }
    Ok(once)
}

/// What the file is by its content: a list is a table. A file that is neither counts as a policy,
/// whose errors are the more helpful ones.
pub fn file_kind(source: &Source) -> FileKind {
    let text = String::from_utf8_lossy(&source.text);
    match nodes(&text).map(|n| n.kind) {
        Some(Kind::Sequence(_)) => FileKind::Table,
        _ => FileKind::Policy,
    }
}

fn digest(
    source: &Source,
    kind: FileKind,
    variables: &Variables,
) -> Result<Option<String>, LoadError> {
    match kind {
        FileKind::Policy => {
            let policy = load(std::slice::from_ref(source), variables)?;
            Ok(Some(policy.digest().to_owned()))
        }
        FileKind::Table => load_table(source, variables).map(|_| None),
    }
}

/// What a text holds beside its layout.
struct Held {
    root: Node,
    comments: Vec<String>,
}

/// The layout of a text, and what it holds.
fn lay_out(text: &str) -> Option<(String, Held)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let root = nodes(&text)?;
    let (out, comments) = layout(&text, &root);
    Some((out, Held { root, comments }))
}

fn nodes(text: &str) -> Option<Node> {
    yaml::read(&Lines::new("", text), text, "", &mut Found::default())
}

/// Whether two nodes say the same. Quotes count only where they turn a value into a text: what holds a
/// blank is a text without them, too.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Scalar(a, plain_a), Kind::Scalar(b, plain_b)) => {
            let nulls = is_null(a, *plain_a) && is_null(b, *plain_b);
            nulls || a == b && (plain_a == plain_b || a.contains([' ', '\n']))
        }
        (Kind::Sequence(a), Kind::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Kind::Mapping(a), Kind::Mapping(b)) => {
            let mut pairs = a.iter().zip(b);
            a.len() == b.len() && pairs.all(|(a, b)| a.0.text == b.0.text && same(&a.1, &b.1))
        }
        _ => false,
    }
}
