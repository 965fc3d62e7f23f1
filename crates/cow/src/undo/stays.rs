//! What lies in the trash folders of a session and must not be removed with it.
//!
//! Three things come there that are not an original as it was replaced: an original that a program
//! which had it open wrote to afterwards, an object that an undo could not put back, and an undone
//! change whose place the session has put to use. Only a person can say what becomes of them, so
//! whoever removes a session asks here first. Nothing is touched.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;

use super::kept::KeptCommit;
use super::{UndoError, check_finished};
use crate::apply::{Resting, described};
use crate::dir::Tree;
use crate::layer::Layer;
use crate::record::Record;
use crate::scan::{Base, open_root};

/// What would be left in the trash folders of these layers if their originals were given up
/// ([`forget`](super::forget)): one escaped line for each object, with its place. Empty for a session
/// whose folder holds nothing of anybody else.
///
/// # Errors
/// What was kept cannot be read, or a commit or an undo was cut off.
pub fn would_stay(layers: &[Layer]) -> Result<Vec<String>, UndoError> {
    check_finished(layers)?;
    let mut lines = Vec::new();
    for layer in layers {
        let found = of_layer(layer).map_err(|source| UndoError::Kept {
            root: layer.root.clone(),
            source,
        })?;
        lines.extend(found);
    }
    Ok(lines)
}

fn of_layer(layer: &Layer) -> io::Result<Vec<String>> {
    let unknown = unknown(layer)?;
    let mut lines: Vec<String> = unknown
        .iter()
        .map(|name| {
            let place = layer.trash_path().join(name);
            let place = escape_bytes(place.as_os_str().as_bytes());
            format!("{place} was left there by an earlier commit or undo")
        })
        .collect();
    let kept = KeptCommit::read(layer)?;
    let trashed = kept.map(|k| k.trashed()).unwrap_or_default();
    if trashed.is_empty() {
        return Ok(lines);
    }
    let base = Base::of(layer).map_err(io::Error::other)?;
    let record = Record::read(layer)?;
    let trash = Tree::open(&layer.trash_path(), false).ok();
    // As in `give_up`: a tree that is gone took with it what rested in it.
    let lower = open_root(layer);
    if let Ok(lower) = lower.or_else(|_| Tree::open(&layer.trash_path(), false)) {
        let resting = Resting::new(layer, &lower, trash.as_ref(), &base);
        let written = trashed
            .iter()
            .filter(|t| resting.was_written_to(&record, t));
        lines.extend(written.map(|t| described(layer, t)));
    }
    Ok(lines)
}

/// The names in the trash folder that the last commit did not put there.
pub(super) fn unknown(layer: &Layer) -> io::Result<BTreeSet<std::ffi::OsString>> {
    let entries = match std::fs::read_dir(layer.trash_path()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        names.insert(entry?.file_name());
    }
    let kept = KeptCommit::read(layer)?;
    for known in kept.iter().flat_map(KeptCommit::trashed) {
        if let Some(name) = known.stored {
            names.remove(std::ffi::OsStr::new(&name));
        }
    }
    Ok(names)
}
