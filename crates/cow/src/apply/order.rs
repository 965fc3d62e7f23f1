//! Which change comes when, and which waits for another.
//!
//! Directories come first and their attributes last, from the leaves up; deletions come after
//! everything that may still need the original.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::{LayerCommit, Work};
use crate::change::{Change, ChangeKind};
use crate::commit::{Disposition, HoldReason, Status};
use crate::dir::{EntryKind, split};
use crate::scan::absolute;

/// Where to find the changes that others depend on.
pub(super) struct Index<'w> {
    by_rel: HashMap<&'w [u8], usize>,
    /// By source: the changes that probably are the targets of its rename.
    renamed: BTreeMap<&'w Path, Vec<(usize, &'w Path)>>,
}

impl<'w> Index<'w> {
    pub(super) fn new(work: &'w [Work<'_>]) -> Self {
        let mut renamed: BTreeMap<&Path, Vec<_>> = BTreeMap::new();
        for w in work {
            if let Some(from) = &w.1.rename_from {
                renamed
                    .entry(from)
                    .or_default()
                    .push((w.0, w.1.path.as_path()));
            }
        }
        Index {
            by_rel: work.iter().map(|w| (w.2.as_slice(), w.0)).collect(),
            renamed,
        }
    }
}

/// The passes over a layer, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Directories,
    Files,
    Others,
    Deletions,
    DirectoryMeta,
}

pub(super) fn phase_of(change: &Change) -> Phase {
    match (change.kind, change.entry) {
        (ChangeKind::Delete, _) => Phase::Deletions,
        (ChangeKind::Meta, EntryKind::Directory) => Phase::DirectoryMeta,
        (_, EntryKind::Directory) => Phase::Directories,
        (_, EntryKind::File) => Phase::Files,
        _ => Phase::Others,
    }
}

/// What is decided without touching anything.
pub(super) fn triage(change: &Change, disposition: Disposition) -> Option<Status> {
    let held = |reason| Some(Status::Held { reason });
    match disposition {
        Disposition::Discard => return Some(Status::Discarded),
        Disposition::Hold => return held(HoldReason::Asked),
        Disposition::Commit | Disposition::CommitSpecial => {}
    }
    if change.kind == ChangeKind::Special {
        return held(HoldReason::Special);
    }
    if let Some(conflict) = &change.conflict {
        let conflict = conflict.clone();
        return Some(Status::Conflict { conflict });
    }
    if disposition == Disposition::Commit && !change.privileges.is_empty() {
        let privileges = change.privileges.clone();
        return held(HoldReason::Privileged { privileges });
    }
    None
}

impl LayerCommit<'_> {
    /// Whether a change must wait because of what became of others.
    pub(super) fn blocked(
        &self,
        change: &Change,
        rel: &[u8],
        index: &Index<'_>,
        statuses: &[Option<Status>],
    ) -> Option<Status> {
        let held = |reason| Some(Status::Held { reason });
        if change.kind == ChangeKind::Delete {
            if let Some(path) = &self.failed {
                let path = absolute(&self.layer.root, path);
                return held(HoldReason::DeletionWaits { path });
            }
            // Deleting the source of a rename whose target is not committed would leave the content
            // only in the upper directory; dropping the target is a decision to lose it.
            let waiting = index
                .renamed
                .range(change.path.as_path()..)
                .take_while(|(from, _)| from.starts_with(&change.path))
                .flat_map(|(_, targets)| targets)
                .find(|(at, _)| {
                    !matches!(
                        statuses[*at],
                        Some(Status::Committed | Status::AlreadyApplied | Status::Discarded)
                    )
                });
            return waiting.and_then(|(_, to)| {
                let path = to.to_path_buf();
                held(HoldReason::DeletionWaits { path })
            });
        }
        if change.parent.is_none() {
            let dir = split(rel).0;
            let parent = index.by_rel.get(dir)?;
            if !matches!(
                statuses[*parent],
                Some(Status::Committed | Status::AlreadyApplied)
            ) {
                let path = absolute(&self.layer.root, dir);
                return held(HoldReason::ParentHeld { path });
            }
        }
        None
    }
}
