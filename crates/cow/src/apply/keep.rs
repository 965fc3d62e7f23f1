//! What an undo of this commit needs, written down at its end.
//!
//! The originals stay in the trash folder unless they are too many bytes, or could not be moved there.
//! The originals of the session's previous commit are then given up.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{OFlags, syncfs};
use rustix::io::Errno;

use super::fold::fold;
use super::{LayerCommit, Trashed};
use crate::amend::Amended;
use crate::commit::CommitReport;
use crate::dir::{EntryKind, Snapshot, Tree, join, list_all, open_in, stat_in};
use crate::record::Rel;
use crate::undo::kept::{DirTime, Keeping, Kept, KeptCommit, Originals};

impl LayerCommit<'_> {
    /// Writes down what was done, and returns the originals that are not kept any longer. Nothing was
    /// done: what was kept stays. `cut_off`: this run only recovers.
    pub(super) fn keep(
        &mut self,
        commit: &str,
        keeping: Keeping,
        cut_off: bool,
        report: &mut CommitReport,
    ) -> io::Result<Vec<Trashed>> {
        let earlier = match KeptCommit::read(self.layer) {
            Ok(earlier) => earlier,
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                let path = self.layer.trash_path();
                report.warnings.push(format!(
                    "cannot read what an undo of the previous commit needs ({e}); its originals stay in {}",
                    agentwall_action::escape_text(&path.to_string_lossy())
                ));
                None
            }
        };
        self.record.note_own()?;
        let mut steps = std::mem::take(&mut self.kept);
        if steps.is_empty() {
            let Some(mut earlier) = earlier else {
                return Ok(Vec::new());
            };
            if cut_off {
                earlier.note_cut_off(self.layer, commit)?;
            }
            return Ok(earlier.stale);
        }
        for step in &mut steps {
            self.complete(step);
        }
        let mut dirs = self.directory_times();
        let mut stale = Vec::new();
        let mut given_up = None;
        let mut nothing = Vec::new();
        match earlier {
            // The same commit, which had been cut off: its steps come first.
            Some(earlier) if earlier.commit == commit => {
                let known = earlier.steps.iter().flat_map(Kept::names);
                let known: HashSet<&String> = known.chain(&earlier.nothing).collect();
                steps.retain(|k| !known.contains(&k.name));
                steps.splice(0..0, earlier.steps);
                for dir in &mut dirs {
                    if let Some(first) = earlier.dirs.iter().find(|d| d.id == dir.id) {
                        dir.before = first.before;
                    }
                }
                stale.extend(earlier.stale);
                nothing = earlier.nothing;
                given_up = Some(earlier.originals).filter(|o| *o != Originals::Kept);
            }
            Some(earlier) => stale.extend(earlier.trashed()),
            None => {}
        }
        let folded = fold(steps);
        nothing.extend(folded.nothing);
        let freed: HashSet<String> = folded.freed.into_iter().collect();
        let is_freed = |t: &Trashed| t.stored.as_ref().is_some_and(|name| freed.contains(name));
        let (between, needed) = std::mem::take(&mut self.trashed)
            .into_iter()
            .partition(is_freed);
        self.trashed = needed;
        stale.extend::<Vec<_>>(between);
        let outside = self.trashed.iter().any(|t| t.stored.is_none());
        let bytes = self.original_bytes(keeping.limit);
        let originals = if let Some(given_up) = given_up {
            given_up
        } else if outside {
            Originals::OtherFileSystem
        } else if bytes > keeping.limit && self.failed.is_none() {
            let limit = keeping.limit;
            Originals::TooLarge { bytes, limit }
        } else {
            Originals::Kept
        };
        if originals != Originals::Kept && self.failed.is_none() {
            stale.append(&mut self.trashed);
        }
        let kept = KeptCommit {
            v: 1,
            commit: commit.to_owned(),
            at: self.at,
            originals,
            cut_off,
            steps: folded.steps,
            dirs,
            nothing,
            stale: stale.clone(),
        };
        kept.write(self.layer)?;
        let merged = kept
            .steps
            .iter()
            .filter(|k| k.amended == Some(Amended::Merged));
        self.merged = merged
            .filter_map(|k| Some((k.rel.clone(), k.after.clone()?)))
            .collect();
        Ok(stale)
    }

    /// Notes merged objects as the session's own work, once the copy without somebody's edit is gone
    /// from the layer for good. Without the note a session that goes on is only more cautious.
    pub(super) fn place_merged(&mut self) {
        let mut merged = std::mem::take(&mut self.merged);
        merged.retain(|(rel, _)| matches!(self.upper.stat(rel), Ok(None) | Err(Errno::NOENT)));
        let gone = || {
            let dir = self.upper.dir(b"");
            let open = dir.and_then(|d| open_in(d, b".", OFlags::RDONLY | OFlags::DIRECTORY));
            open.and_then(syncfs).is_ok()
        };
        if !merged.is_empty() && gone() {
            for (rel, left) in merged {
                let now = self.lower.stat(&rel).ok().flatten();
                let ours = |now: &Snapshot| *now == left || self.record.own.knows(now);
                if let Some(now) = now.filter(ours) {
                    self.record.own.placed(&rel, &now);
                }
            }
            let _ = self.record.note_own();
        }
    }

    /// What the commit left, as it is at its end: a directory gets its last attributes after the step
    /// that made it, and a change time after that one shows a later change.
    fn complete(&self, step: &mut Kept) {
        if let Some(after) = &mut step.after
            && let Ok(Some(now)) = self.lower.stat(&step.rel)
            && now.id == after.id
            && (after.kind == EntryKind::Directory || now.same_object(after))
        {
            *after = now;
        }
    }

    /// The times of the directories that were worked in.
    fn directory_times(&self) -> Vec<DirTime> {
        let mut times = Vec::new();
        for (rel, before) in &self.dirs_before {
            if let Ok(Some(now)) = self.lower.stat(rel)
                && now.id == before.id
            {
                times.push(DirTime {
                    rel: Rel(rel.clone()),
                    id: now.id,
                    before: before.mtime,
                    after: now.mtime,
                });
            }
        }
        times.sort_by(|a, b| a.rel.cmp(&b.rel));
        times
    }

    /// Bytes of the originals in the trash folder; the count ends above `limit`.
    fn original_bytes(&self, limit: u64) -> u64 {
        let mut bytes = 0u64;
        for t in &self.trashed {
            let (Some(name), Some(trash)) = (&t.stored, &self.trash) else {
                continue;
            };
            bytes = bytes.saturating_add(match t.was.kind {
                EntryKind::File if t.was.nlink <= 1 => t.was.size,
                EntryKind::Directory => bytes_below(trash, name.as_bytes(), limit),
                // Another name holds it anyway.
                _ => 0,
            });
            if bytes > limit {
                break;
            }
        }
        bytes
    }
}

fn bytes_below(tree: &Tree, rel: &[u8], limit: u64) -> u64 {
    let mut stack = vec![rel.to_vec()];
    let mut bytes = 0u64;
    while let Some(dir) = stack.pop() {
        let Ok(fd) = tree.dir(&dir) else { continue };
        let Ok(names) = list_all(fd.as_fd()) else {
            continue;
        };
        for name in names {
            match stat_in(&fd, &name) {
                Ok(Some(s)) if s.kind == EntryKind::Directory => stack.push(join(&dir, &name)),
                Ok(Some(s)) if s.kind == EntryKind::File => {
                    bytes = bytes.saturating_add(s.size);
                }
                _ => {}
            }
        }
        if bytes > limit {
            break;
        }
    }
    bytes
}
