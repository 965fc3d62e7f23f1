//! What only shows when every entry is known: hard-link groups, and renames, which overlayfs reports
//! as a deletion and an addition.
//!
//! A rename is a guess by size and content. It never decides what is written, only what a deletion
//! waits for, what a person is told, and that a copied-up file without an original was not taken away.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::absolute;
use super::walk::Walk;
use crate::change::{ChangeKind, Conflict};
use crate::commit::below_root;
use crate::content::content_hash;
use crate::dir::{EntryKind, Snapshot, Tree, open_in, split};

impl Walk<'_> {
    /// Hard links among upper files: later names of a group become links of its first name.
    pub(super) fn relate_links(&mut self) {
        let mut more = Vec::new();
        let at: HashMap<PathBuf, usize> = self
            .changes
            .iter()
            .enumerate()
            .map(|(i, c)| (c.path.clone(), i))
            .collect();
        for members in self.groups.values_mut() {
            members.sort_by(|a, b| a.rel.cmp(&b.rel));
            let Some((first, rest)) = members.split_first() else {
                continue;
            };
            let first_path = absolute(&self.layer.root, &first.rel);
            let first_id = first.lower.as_ref().map(|s| s.id);
            let first_new = first.emitted && first.change.kind != ChangeKind::Meta;
            for member in rest {
                let linked = member.lower.as_ref().map(|s| s.id) == first_id && first_id.is_some();
                if linked && !first_new {
                    continue; // the same inode before and after
                }
                let target = if member.emitted {
                    at.get(&member.change.path)
                        .and_then(|i| self.changes.get_mut(*i))
                } else {
                    more.push(member.change.clone());
                    more.last_mut()
                };
                if let Some(change) = target {
                    if change.kind == ChangeKind::Meta {
                        change.kind = ChangeKind::Modify;
                    }
                    change.link_to = Some(first_path.clone());
                }
            }
        }
        self.changes.append(&mut more);
    }

    /// Overlayfs reports a rename as a deletion and an addition: pairs them by size and content.
    pub(super) fn guess_renames(&mut self) {
        let mut by_size: HashMap<u64, Vec<&[u8]>> = HashMap::new();
        for (rel, size) in self.deleted_files.iter().filter(|(_, size)| *size > 0) {
            by_size.entry(*size).or_default().push(rel);
        }
        let mut used: BTreeSet<&[u8]> = BTreeSet::new();
        let mut hashes: HashMap<&[u8], Option<String>> = HashMap::new();
        let mut dirs: HashMap<PathBuf, PathBuf> = HashMap::new();
        for change in &mut self.changes {
            if change.kind != ChangeKind::Add || change.entry != EntryKind::File {
                continue;
            }
            let Some(candidates) = change.new_size().and_then(|s| by_size.get(&s)) else {
                continue;
            };
            let name = change.path.file_name().map(OsStr::as_bytes);
            // The same name elsewhere is the likelier source.
            let mut order: Vec<&[u8]> = candidates.clone();
            order.sort_by_key(|rel| (Some(split(rel).1) != name, *rel));
            let found = order
                .into_iter()
                .filter(|r| !used.contains(r))
                .take(64)
                .find(|rel| {
                    let hash = hashes
                        .entry(rel)
                        .or_insert_with(|| hash_at(self.lower.as_ref().ok()?, rel));
                    hash.is_some() && *hash == change.content
                });
            if let Some(rel) = found {
                used.insert(rel);
                let from = absolute(&self.layer.root, rel);
                let mut pair = (change.path.as_path(), from.as_path());
                while let (Some(a), Some(b)) = (pair.0.parent(), pair.1.parent()) {
                    if pair.0.file_name() != pair.1.file_name() {
                        break;
                    }
                    dirs.entry(a.to_path_buf())
                        .or_insert_with(|| b.to_path_buf());
                    pair = (a, b);
                }
                change.rename_from = Some(from);
                // Its content came from a name that the session deleted: that explains the mark of a
                // copy-up without an original, unless there was one under this very name.
                let rel = below_root(&self.layer.root, &change.path).unwrap_or_default();
                let had = self.base.had(&rel, &self.record);
                if change.conflict == Some(Conflict::Vanished) && had != Some(true) {
                    change.conflict = None;
                }
            }
        }
        let gone: HashSet<PathBuf> = self
            .changes
            .iter()
            .filter(|c| c.kind == ChangeKind::Delete && c.entry == EntryKind::Directory)
            .map(|c| c.path.clone())
            .collect();
        for change in &mut self.changes {
            if change.kind == ChangeKind::Add && change.entry == EntryKind::Directory {
                change.rename_from = dirs
                    .get(&change.path)
                    .filter(|d| gone.contains(*d))
                    .cloned();
            }
        }
    }
}

fn hash_at(tree: &Tree, rel: &[u8]) -> Option<String> {
    let dir = tree.parent(rel).ok()?;
    let fd = open_in(dir, split(rel).1, OFlags::RDONLY).ok()?;
    let found = Snapshot::new(&rustix::fs::fstat(&fd).ok()?);
    (found.kind == EntryKind::File)
        .then(|| content_hash(fd.as_fd(), found.size).ok())
        .flatten()
}
