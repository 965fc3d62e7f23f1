//! What the ledger keeps of a commit or a discard: each path with its change and the digests of its
//! content, under one digest of the whole set.
//!
//! Before a commit (the plan), and for what was not carried over or was dropped, the content is bound
//! by the digest that the review showed. Afterwards it is bound by what was written and what was
//! replaced, as the commit itself read them.

use std::{collections::BTreeMap, os::unix::ffi::OsStrExt as _, path::Path};

use agentwall_action::escape_bytes;
use agentwall_cow::{
    Change, ChangeKind, EntryKind, FileDigest, Outcome, Recovered, UndoOutcome, UndoStatus,
};
use agentwall_ledger::{
    Record,
    entry::{ChangedFile, Changes, Commit, Discard, Undo},
};

use crate::{changes::kind_text, state::shown};

/// A change with the bytes of its path, by which a set is sorted.
pub type Listed = (Vec<u8>, ChangedFile);

/// The records of a commit, in their order: one, or a part each of a long list. `reviewed`: the digest
/// of the change set that was reviewed, where that is known.
pub fn commit_records(outcome: &str, files: Vec<Listed>, reviewed: Option<&str>) -> Vec<Record> {
    let outcome = BTreeMap::from([(outcome.to_owned(), files.len() as u64)]);
    let parts = Changes::in_parts(files).into_iter();
    parts
        .map(|changes| {
            Record::Commit(Commit {
                changes,
                outcome: outcome.clone(),
                reviewed: reviewed.map(str::to_owned),
            })
        })
        .collect()
}

/// The same of an undo.
pub fn undo_records(outcome: &str, files: Vec<Listed>) -> Vec<Record> {
    let outcome = BTreeMap::from([(outcome.to_owned(), files.len() as u64)]);
    let parts = Changes::in_parts(files).into_iter();
    parts
        .map(|changes| {
            let outcome = outcome.clone();
            Record::Undo(Undo { changes, outcome })
        })
        .collect()
}

/// The records of changes that are dropped.
pub fn discard_records(files: Vec<Listed>) -> Vec<Record> {
    let parts = Changes::in_parts(files).into_iter();
    parts
        .map(|changes| Record::Discard(Discard { changes }))
        .collect()
}

/// A change as it was reviewed.
pub fn reviewed(change: &Change) -> Listed {
    let mut file = object(change);
    file.blocks_sha256.clone_from(&change.content);
    (path_bytes(change), file)
}

/// A change as it was carried over.
pub fn carried(change: &Change, outcome: &Outcome) -> Listed {
    let mut file = object(change);
    (file.sha256, file.blocks_sha256) = digests(outcome.new.as_ref());
    (file.old_sha256, file.old_blocks_sha256) = digests(outcome.old.as_ref());
    (path_bytes(change), file)
}

/// What recovery found of a step that was cut off.
pub fn recovered(step: &Recovered) -> Listed {
    let mut file = bare(&step.path, step.kind, step.entry, step.mode);
    (file.sha256, file.blocks_sha256) = digests(step.new.as_ref());
    (file.old_sha256, file.old_blocks_sha256) = digests(step.old.as_ref());
    (step.path.as_os_str().as_bytes().to_vec(), file)
}

/// A change that is taken back, or stays. The new content is the original's once it is back.
pub fn taken_back(outcome: &UndoOutcome) -> Listed {
    let mut file = bare(&outcome.path, outcome.kind, outcome.entry, outcome.mode);
    if outcome.status == UndoStatus::Undone {
        (file.sha256, file.blocks_sha256) = digests(outcome.original.as_ref());
        (file.old_sha256, file.old_blocks_sha256) = digests(outcome.committed.as_ref());
    }
    (outcome.path.as_os_str().as_bytes().to_vec(), file)
}

fn bare(path: &Path, kind: ChangeKind, entry: EntryKind, mode: Option<u32>) -> ChangedFile {
    ChangedFile {
        path: shown(path),
        change: kind_text(kind).1.to_owned(),
        entry: Some(entry_text(entry).to_owned()),
        mode: mode
            .filter(|_| entry != EntryKind::Symlink)
            .map(|mode| format!("{mode:04o}")),
        ..ChangedFile::default()
    }
}

/// The plain digest, or the other one where there is none.
fn digests(content: Option<&FileDigest>) -> (Option<String>, Option<String>) {
    match content {
        None => (None, None),
        Some(FileDigest {
            sha256: Some(plain),
            ..
        }) => (Some(plain.clone()), None),
        Some(other) => (None, Some(other.blocks.clone())),
    }
}

fn object(change: &Change) -> ChangedFile {
    let comes = change.kind != ChangeKind::Delete;
    // A symlink's mode means nothing.
    let has_mode = comes && change.entry != EntryKind::Symlink;
    let target = change.target.as_ref();
    ChangedFile {
        path: shown(&change.path),
        change: kind_text(change.kind).1.to_owned(),
        entry: Some(entry_text(change.entry).to_owned()),
        mode: change
            .new_mode()
            .filter(|_| has_mode)
            .map(|mode| format!("{mode:04o}")),
        target: target.map(|t| escape_bytes(t.as_os_str().as_bytes())),
        xattrs_sha256: change.xattrs.clone(),
        ..ChangedFile::default()
    }
}

fn path_bytes(change: &Change) -> Vec<u8> {
    change.path.as_os_str().as_bytes().to_vec()
}

const fn entry_text(entry: EntryKind) -> &'static str {
    match entry {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Fifo => "fifo",
        EntryKind::Socket => "socket",
        EntryKind::CharDevice => "char_device",
        EntryKind::BlockDevice => "block_device",
    }
}
