//! What a session changed, and which of it a person means. The one road from a layer to the original:
//! `diff`, `commit`, `discard` and the review at the end of a run all take it, with what the policy says
//! ([`crate::judge`]).

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Component, Path, PathBuf},
};

use agentwall_cow::{Change, ChangeKind, ChangeSet, EntryKind, ScanOptions, scan_with};
use anyhow::{Context as _, Result, anyhow};

use crate::{output::UsageError, session::Session, state::shown};

/// A session's change set.
pub fn scan(session: &Session, trust_directories: bool) -> Result<ChangeSet> {
    if agentwall_cow::is_rolling_back(&session.record.layers) {
        return Err(anyhow!(
            "a rollback of session {0} was cut off; 'agentwall rollback {0}' finishes it",
            session.id()
        ));
    }
    let options = ScanOptions { trust_directories };
    scan_with(&session.record.layers, options)
        .map_err(|e| anyhow!("cannot read the changes of session {}: {e}", session.id()))
}

/// How a person's paths mean a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// No paths were given: all are meant.
    All,
    /// It is a new folder that a named path needs.
    Needed,
    /// A named folder holds it: a person who narrows a commit need not know what is in there, so this
    /// answers no question.
    Below,
    /// It was named itself.
    Exactly,
}

/// Some changes of a set, by index.
pub type Chosen = BTreeMap<usize, Named>;

/// Which changes the paths mean; all of them when there are no paths.
///
/// # Errors
/// A path that means no change.
pub fn select(session: &Session, set: &ChangeSet, paths: &[PathBuf]) -> Result<Chosen> {
    if paths.is_empty() {
        return Ok((0..set.changes.len()).map(|n| (n, Named::All)).collect());
    }
    let mut chosen = BTreeMap::new();
    for path in paths {
        let candidates = meanings(path, &session.record.workspace)?;
        let mut found = false;
        for wanted in candidates {
            for (n, change) in set.changes.iter().enumerate() {
                let how = if change.path == wanted {
                    Named::Exactly
                } else if change.path.starts_with(&wanted) {
                    Named::Below
                } else {
                    continue;
                };
                found = true;
                let slot = chosen.entry(n).or_insert(how);
                *slot = how.max(*slot);
            }
            if found {
                break;
            }
        }
        if !found {
            return Err(UsageError(format!(
                "session {} changed nothing at {}; 'agentwall diff --stat' lists its changes",
                session.id(),
                shown(path)
            ))
            .into());
        }
    }
    Ok(chosen)
}

/// With the new folders that the chosen changes need.
pub fn with_folders(set: &ChangeSet, chosen: &mut Chosen) {
    let above = |n: &usize| set.changes[*n].path.ancestors().skip(1);
    let needed: HashSet<&Path> = chosen.keys().flat_map(above).collect();
    for (n, change) in set.changes.iter().enumerate() {
        let comes = matches!(change.kind, ChangeKind::Add | ChangeKind::Replace);
        if comes && change.entry == EntryKind::Directory && needed.contains(change.path.as_path()) {
            chosen.entry(n).or_insert(Named::Needed);
        }
    }
}

/// The part of a set that was chosen. It carries a digest of its own.
pub fn only(set: &ChangeSet, chosen: &Chosen) -> ChangeSet {
    let changes: Vec<Change> = chosen.keys().map(|n| set.changes[*n].clone()).collect();
    let mut part = ChangeSet {
        changes,
        digest: String::new(),
    };
    part.digest = part.recompute_digest();
    part
}

/// What tells one change of a set from all others: its layer and path.
pub fn object(change: &Change) -> (usize, &Path) {
    (change.layer, &change.path)
}

/// The kind of a change in one letter, as git shows it, and in a word.
pub const fn kind_text(kind: ChangeKind) -> (&'static str, &'static str) {
    match kind {
        ChangeKind::Add => ("A", "add"),
        ChangeKind::Modify => ("M", "modify"),
        ChangeKind::Replace => ("T", "replace"),
        ChangeKind::Delete => ("D", "delete"),
        ChangeKind::Meta => ("m", "meta"),
        ChangeKind::Special => ("!", "special"),
    }
}

/// What a person's path may mean: below the current folder, else below the workspace.
fn meanings(path: &Path, workspace: &Path) -> Result<Vec<PathBuf>> {
    if path.as_os_str().is_empty() {
        return Err(UsageError("an empty path names nothing".into()).into());
    }
    if path.is_absolute() {
        return Ok(vec![real(&lexical(path))]);
    }
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let here = fs::canonicalize(&here).unwrap_or(here);
    Ok(vec![
        real(&lexical(&here.join(path))),
        lexical(&workspace.join(path)),
    ])
}

/// The path with its folder's symlinks resolved, as far as it exists; its last part is the object
/// itself, which may be a link.
pub fn real(path: &Path) -> PathBuf {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.to_owned();
    };
    match fs::canonicalize(parent) {
        Ok(parent) => parent.join(name),
        Err(_) => real(parent).join(name),
    }
}

/// `.` and `..` removed without looking at the file system.
pub fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_below_the_folder_or_the_workspace() {
        let w = Path::new("/nonexistent/w");
        assert_eq!(
            meanings(Path::new("/x/../y/./z"), w).unwrap(),
            [PathBuf::from("/y/z")]
        );
        let both = meanings(Path::new("a/../b"), w).unwrap();
        assert_eq!(both[1], Path::new("/nonexistent/w/b"));
        assert!(both[0].is_absolute() && both[0].ends_with("b"));
        assert!(meanings(Path::new(""), w).is_err());
    }
}
