//! Showing a change set: unified patches that `git apply` takes, and per-file line counts.
//!
//! Content is streamed file by file with a cap; what a patch cannot carry (binary or capped content,
//! nodes, owners, conflicts) is said in `#` lines between the patches, which `git apply` skips. File
//! content is written as it is: a caller that prints to a terminal escapes it.

mod patch;

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{OFlags, readlinkat};
use serde::{Deserialize, Serialize};

use crate::change::{Change, ChangeKind, ChangeSet};
use crate::commit::{CommitError, relative};
use crate::content::read_full;
use crate::dir::{EntryKind, Snapshot, Tree, join, list, open_in, open_private, split, stat_in};
use crate::layer::Layer;
use crate::scan::{ScanError, find_root, open_upper};
use patch::{count, entry, note};

/// Limits of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffOptions {
    /// Larger files (bytes, on either side) are named but not shown.
    pub max_file: u64,
    /// Lines of context.
    pub context: usize,
    /// Time spent on finding a short diff of one file before a longer one will do.
    pub per_file: Duration,
}

impl Default for DiffOptions {
    fn default() -> Self {
        DiffOptions {
            max_file: 1 << 20,
            context: 3,
            per_file: Duration::from_millis(500),
        }
    }
}

/// Line counts of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatLine {
    /// Absolute path in the original tree.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// What happens.
    pub kind: ChangeKind,
    /// Lines added; `None` when they were not counted (binary, too large, not a file).
    pub insertions: Option<usize>,
    /// Lines removed; `None` like `insertions`.
    pub deletions: Option<usize>,
    /// Binary content.
    pub binary: bool,
    /// Bytes before.
    pub old_size: Option<u64>,
    /// Bytes after.
    pub new_size: Option<u64>,
}

/// Why a diff could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// A change does not belong to the layers that were given.
    #[error(transparent)]
    Foreign(#[from] CommitError),
    /// A tree of a layer cannot be opened.
    #[error(transparent)]
    Tree(#[from] ScanError),
    /// The output cannot be written.
    #[error("cannot write the patch: {0}")]
    Output(#[from] io::Error),
}

/// Writes the changes as one patch, deletions first; paths are relative to each layer's root.
///
/// # Errors
/// A tree cannot be opened or `out` fails. A file that cannot be read is said so in a `#` line.
pub fn write_patch(
    out: &mut dyn Write,
    layers: &[Layer],
    set: &ChangeSet,
    options: &DiffOptions,
) -> Result<(), DiffError> {
    for (index, layer) in layers.iter().enumerate() {
        let trees = Trees::open(layer)?;
        for change in set.in_review_order().filter(|c| c.layer == index) {
            let rel = relative(layers, change)?;
            if let Some(conflict) = &change.conflict {
                note(out, &rel, &format!("conflict: {conflict}"))?;
            }
            one(out, &trees, change, &rel, options)?;
        }
    }
    Ok(())
}

/// Counts added and removed lines per change, deletions first.
///
/// # Errors
/// A tree cannot be opened.
pub fn stat(
    layers: &[Layer],
    set: &ChangeSet,
    options: &DiffOptions,
) -> Result<Vec<StatLine>, DiffError> {
    let mut lines = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let trees = Trees::open(layer)?;
        for change in set.in_review_order().filter(|c| c.layer == index) {
            let rel = relative(layers, change)?;
            let (old, new) = sides(&trees, change, &rel, options.max_file);
            let counts = match (&old, &new) {
                (Side::Text(old), Side::Text(new)) => Some(count(old, new, options)),
                _ => None,
            };
            let whole_dir = change.entry == EntryKind::Directory;
            lines.push(StatLine {
                path: change.path.clone(),
                kind: change.kind,
                insertions: counts.filter(|_| !whole_dir).map(|c| c.0),
                deletions: counts.filter(|_| !whole_dir).map(|c| c.1),
                binary: change.binary || matches!(old, Side::Binary) || matches!(new, Side::Binary),
                old_size: change.old_size(),
                new_size: change.new_size(),
            });
        }
    }
    Ok(lines)
}

struct Trees {
    /// `None` while the original tree is away: changes are shown as against nothing.
    lower: Option<Tree>,
    upper: Tree,
}

impl Trees {
    fn open(layer: &Layer) -> Result<Trees, ScanError> {
        Ok(Trees {
            lower: find_root(layer)?.ok(),
            upper: open_upper(layer)?,
        })
    }

    /// The original as the scan found it.
    fn original(&self, rel: &[u8], seen: &Snapshot, max: u64) -> Side {
        match &self.lower {
            Some(lower) => read(lower, rel, seen, max, false),
            None => Side::Unreadable(rustix::io::Errno::NOENT),
        }
    }
}

/// One side of a comparison.
enum Side {
    /// Nothing there, or a text.
    Text(Vec<u8>),
    Binary,
    TooLarge(u64),
    Unreadable(rustix::io::Errno),
    Other,
}

fn sides(trees: &Trees, change: &Change, rel: &[u8], max: u64) -> (Side, Side) {
    let old = match &change.old {
        Some(old) => trees.original(rel, old, max),
        None => Side::Text(Vec::new()),
    };
    let new = match &change.new {
        Some(new) => read(&trees.upper, rel, new, max, true),
        None => Side::Text(Vec::new()),
    };
    (old, new)
}

fn read(tree: &Tree, rel: &[u8], stat: &Snapshot, max: u64, private: bool) -> Side {
    let result = (|| {
        let dir = tree.parent(rel)?;
        let name = split(rel).1;
        match stat.kind {
            EntryKind::Symlink => Ok(Side::Text(readlinkat(dir, name, Vec::new())?.into_bytes())),
            EntryKind::File if stat.size > max => Ok(Side::TooLarge(stat.size)),
            EntryKind::File => {
                let fd = if private {
                    open_private(dir, name, false)?
                } else {
                    open_in(dir, name, OFlags::RDONLY)?
                };
                let mut buf = vec![0u8; usize::try_from(stat.size).unwrap_or(0)];
                let n = read_full(fd.as_fd(), &mut buf, 0)?;
                buf.truncate(n);
                Ok(if buf.contains(&0) {
                    Side::Binary
                } else {
                    Side::Text(buf)
                })
            }
            _ => Ok(Side::Other),
        }
    })();
    result.unwrap_or_else(Side::Unreadable)
}

fn one(
    out: &mut dyn Write,
    trees: &Trees,
    change: &Change,
    rel: &[u8],
    options: &DiffOptions,
) -> io::Result<()> {
    match change.kind {
        ChangeKind::Special => return note(out, rel, "special file, never committed"),
        ChangeKind::Delete if change.entry == EntryKind::Directory => {
            return deleted_tree(out, trees, rel, options);
        }
        ChangeKind::Delete if change.old.is_none() => return note(out, rel, "it is deleted"),
        ChangeKind::Replace => {
            if let Some(old) = &change.old {
                if old.kind == EntryKind::Directory {
                    deleted_tree(out, trees, rel, options)?;
                } else {
                    let text = trees.original(rel, old, options.max_file);
                    entry(
                        out,
                        rel,
                        (Some(old), text),
                        (None, Side::Text(Vec::new())),
                        options,
                    )?;
                }
            }
            if let Some(new) = &change.new {
                let text = read(&trees.upper, rel, new, options.max_file, true);
                entry(
                    out,
                    rel,
                    (None, Side::Text(Vec::new())),
                    (Some(new), text),
                    options,
                )?;
            }
            return Ok(());
        }
        _ => {}
    }
    if !change.privileges.is_empty() {
        note(out, rel, &format!("carries {:?}", change.privileges))?;
    }
    let (old, new) = sides(trees, change, rel, options.max_file);
    let (old_stat, new_stat) = (change.old.as_ref(), change.new.as_ref());
    entry(out, rel, (old_stat, old), (new_stat, new), options)
}

/// A deleted directory as the deletion of every file in it.
fn deleted_tree(
    out: &mut dyn Write,
    trees: &Trees,
    rel: &[u8],
    options: &DiffOptions,
) -> io::Result<()> {
    note(
        out,
        rel,
        "the directory is deleted with everything below it",
    )?;
    let Some(lower) = &trees.lower else {
        return Ok(());
    };
    let mut stack = vec![rel.to_vec()];
    while let Some(dir) = stack.pop() {
        let fd = match lower.dir(&dir) {
            Ok(fd) => fd,
            Err(e) => {
                note(out, &dir, &format!("cannot be read: {e}"))?;
                continue;
            }
        };
        for name in list(fd.as_fd()).unwrap_or_default() {
            let at = join(&dir, &name);
            match stat_in(&fd, &name) {
                Ok(Some(found)) if found.kind == EntryKind::Directory => stack.push(at),
                Ok(Some(found)) => {
                    let text = read(lower, &at, &found, options.max_file, false);
                    let none = (None, Side::Text(Vec::new()));
                    entry(out, &at, (Some(&found), text), none, options)?;
                }
                Ok(None) => {}
                Err(e) => note(out, &at, &format!("cannot be read: {e}"))?,
            }
        }
    }
    Ok(())
}
