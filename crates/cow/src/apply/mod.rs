//! The commit of one layer, step by step. See [`crate::commit`] for the protocol.
//!
//! | module | does |
//! |---|---|
//! | `order` | which change comes when, and which waits for another |
//! | `review` | whether originals still are what was reviewed |
//! | `build` | makes a new object under a temporary name |
//! | `attributes` | gives mode, owner, attributes and times |
//! | `exchange` | gives the new object its name; takes originals away |
//! | `trash` | keeps originals until the layer is finished |
//! | `recover` | finishes or undoes what an earlier run left |
//!
//! Invariant: whatever stops a step, the original is under its own name, or the report names the place
//! where it is.

/// A named moment: see [`crate::fault`]. Nothing outside of tests.
macro_rules! point {
    ($name:literal) => {
        #[cfg(test)]
        crate::fault::point($name);
    };
}

mod attributes;
mod build;
mod exchange;
mod order;
mod recover;
mod review;
mod trash;

#[cfg(test)]
mod race_tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;
use rustix::fs::{OFlags, fstat, fsync};
use rustix::io::Errno;

use crate::change::{Change, ChangeKind, Conflict};
use crate::commit::{CommitError, CommitReport, Disposition, Status};
use crate::content::FileDigest;
use crate::dir::{EntryKind, Snapshot, TEMP_PREFIX, Tree, open_in, random_hex, split, stat_in};
use crate::layer::{FileId, Layer};
use crate::record::Record;
use crate::scan::{Base, open_root, open_upper};
use crate::upper::{Removal, remove_applied};
use order::{Index, Phase, phase_of, triage};
use trash::Trashed;

/// One change with its index, its path below the root and what to do with it.
pub(crate) type Work<'a> = (usize, &'a Change, Vec<u8>, Disposition);

/// How one step ended when it did not succeed.
enum Stop {
    Conflict(Conflict),
    Failed(&'static str, Errno),
}

type Step<T> = Result<T, Stop>;

fn at(step: &'static str) -> impl FnOnce(Errno) -> Stop {
    move |e| Stop::Failed(step, e)
}

fn io_at(step: &'static str) -> impl FnOnce(std::io::Error) -> Stop {
    move |e| {
        let code = e
            .raw_os_error()
            .unwrap_or(rustix::io::Errno::IO.raw_os_error());
        Stop::Failed(step, Errno::from_raw_os_error(code))
    }
}

/// What one change wrote and what it replaced, where these are regular files.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    pub old: Option<FileDigest>,
    pub new: Option<FileDigest>,
}

/// The commit of one layer.
pub(crate) struct LayerCommit<'a> {
    layer: &'a Layer,
    lower: Tree,
    upper: Tree,
    base: Base,
    record: Record,
    id: String,
    counter: u64,
    trash: Option<Tree>,
    trashed: Vec<Trashed>,
    made_dirs: HashMap<Vec<u8>, FileId>,
    dirty: BTreeSet<Vec<u8>>,
    failed: Option<Vec<u8>>,
    /// Of the change that is being applied.
    digests: Digests,
    /// Places of originals, and of others' objects, that could not be put back.
    stranded: Vec<String>,
}

impl<'a> LayerCommit<'a> {
    pub(crate) fn open(layer: &'a Layer) -> Result<Self, CommitError> {
        let record_error = |source| CommitError::Record {
            path: layer.record_path(),
            source,
        };
        let upper = open_upper(layer)?;
        let lower = open_root(layer)?;
        let mut record = Record::read(layer).map_err(record_error)?;
        let now = record.open(layer).map_err(record_error)?;
        let known = Base::of(layer)?;
        if now < layer.base && !known.is_exact() {
            let base = layer.base;
            return Err(CommitError::Clock { base, now });
        }
        Ok(LayerCommit {
            layer,
            lower,
            upper,
            base: known,
            record,
            id: random_hex().map_err(record_error)?,
            counter: 0,
            trash: None,
            trashed: Vec::new(),
            made_dirs: HashMap::new(),
            dirty: BTreeSet::new(),
            failed: None,
            digests: Digests::default(),
            stranded: Vec::new(),
        })
    }

    pub(crate) fn run(
        mut self,
        work: &[Work<'_>],
        statuses: &mut [Option<Status>],
        report: &mut CommitReport,
    ) -> HashMap<usize, Digests> {
        self.recover(report);
        let mut pending = Vec::new();
        for item in work {
            match triage(item.1, item.3) {
                Some(status) => statuses[item.0] = Some(status),
                None => pending.push(item),
            }
        }
        let index = Index::new(work);
        let mut deferred_meta = Vec::new();
        let mut digests = HashMap::new();
        for phase in [
            Phase::Directories,
            Phase::Files,
            Phase::Others,
            Phase::Deletions,
        ] {
            for item in pending.iter().filter(|i| phase_of(i.1) == phase) {
                let (at, change, rel, _) = item;
                if let Some(status) = self.blocked(change, rel, &index, statuses) {
                    statuses[*at] = Some(status);
                    continue;
                }
                self.digests = Digests::default();
                let status = self.status(rel, |s| s.apply(change, rel));
                if matches!(status, Status::Committed | Status::AlreadyApplied) {
                    digests.insert(*at, std::mem::take(&mut self.digests));
                }
                if change.entry == EntryKind::Directory
                    && change.kind != ChangeKind::Delete
                    && status == Status::Committed
                {
                    deferred_meta.push((rel.clone(), *change));
                }
                statuses[*at] = Some(status);
            }
        }
        // Leaves first: a directory's times and a missing write permission come after its entries.
        let metas = pending
            .iter()
            .filter(|i| phase_of(i.1) == Phase::DirectoryMeta);
        let mut last: BTreeMap<Vec<u8>, (Option<usize>, &Change)> = BTreeMap::new();
        last.extend(deferred_meta.into_iter().map(|(rel, c)| (rel, (None, c))));
        last.extend(metas.map(|i| (i.2.clone(), (Some(i.0), i.1))));
        for (rel, (index, change)) in last.into_iter().rev() {
            let status = self.status(&rel, |s| s.directory_meta(change, &rel, index.is_none()));
            match index {
                Some(index) => statuses[index] = Some(status),
                None if status != Status::Committed => {
                    report.warnings.push(format!(
                        "the attributes of the new directory {} are not complete: {status:?}",
                        escape_bytes(change.path.as_os_str().as_bytes())
                    ));
                }
                None => {}
            }
        }
        report.kept.append(&mut self.stranded);
        self.finish(work, statuses, report);
        digests
    }

    /// Runs one change and turns its end into a status.
    fn status(&mut self, rel: &[u8], f: impl FnOnce(&mut Self) -> Step<Status>) -> Status {
        match f(self) {
            Ok(status) => status,
            Err(Stop::Conflict(conflict)) => Status::Conflict { conflict },
            Err(Stop::Failed(step, e)) => {
                self.failed.get_or_insert_with(|| rel.to_vec());
                Status::Failed {
                    step: step.to_owned(),
                    error: std::io::Error::from(e).to_string(),
                    errno: Some(e.raw_os_error()),
                }
            }
        }
    }

    fn apply(&mut self, change: &Change, rel: &[u8]) -> Step<Status> {
        let (dir, name) = split(rel);
        let parent = self.parent(change, dir)?;
        let now = stat_in(&parent, name).map_err(at("examine the original"))?;
        if !self.as_reviewed(change, now.as_ref()) {
            return if self.already(change, &parent, name, now.as_ref()) {
                Ok(Status::AlreadyApplied)
            } else {
                Err(Stop::Conflict(Conflict::ChangedSinceReview))
            };
        }
        let dir_now = Snapshot::new(&fstat(&parent).map_err(at("examine the directory"))?);
        self.record
            .touch(&dir_now)
            .map_err(io_at("write the commit record"))?;
        if let Some(old) = &now {
            self.record
                .touch_links(old)
                .map_err(io_at("write the commit record"))?;
        }
        self.dirty.insert(dir.to_vec());
        let meta_in_place =
            change.kind == ChangeKind::Meta && now.as_ref().is_some_and(|o| o.nlink == 1);
        if change.kind == ChangeKind::Delete {
            let old = now.ok_or(Stop::Conflict(Conflict::ChangedSinceReview))?;
            self.take_away(&parent, dir, rel, old)?;
        } else if meta_in_place && change.entry == EntryKind::File {
            self.file_meta(change, &parent, rel)?;
        } else {
            self.put(change, &parent, dir, rel, now)?;
        }
        Ok(Status::Committed)
    }

    fn temp_name(&mut self) -> String {
        self.counter += 1;
        format!("{TEMP_PREFIX}{}-{}", self.id, self.counter)
    }

    /// Syncs, takes applied and discarded entries out of the upper directory, empties the trash.
    fn finish(mut self, work: &[Work<'_>], statuses: &[Option<Status>], report: &mut CommitReport) {
        let mut synced = true;
        for dir in &self.dirty {
            let result = self
                .lower
                .dir(dir)
                .and_then(|fd| open_in(fd, b".", OFlags::RDONLY | OFlags::DIRECTORY))
                .and_then(fsync);
            if let Err(e) = result {
                synced = false;
                report
                    .warnings
                    .push(format!("cannot sync {}: {e}", escape_bytes(dir)));
            }
        }
        if !synced {
            // Entries stay in the upper directory and originals in the trash: a repeated run is safe.
            return;
        }
        let done = |i: usize| {
            matches!(
                statuses[i],
                Some(Status::Committed | Status::AlreadyApplied | Status::Discarded)
            )
        };
        let removals: Vec<Removal<'_>> = work
            .iter()
            .map(|w| Removal {
                change: w.1,
                rel: &w.2,
                gone: done(w.0),
            })
            .collect();
        if let Err(e) = remove_applied(&self.upper, &removals) {
            report
                .warnings
                .push(format!("cannot clean the session's upper directory: {e}"));
        }
        if self.failed.is_none() {
            self.empty_trash(report);
        } else {
            for t in &self.trashed {
                report.kept.push(self.describe(t));
            }
        }
        if let Err(e) = self.record.finish() {
            report
                .warnings
                .push(format!("cannot write the commit record: {e}"));
        }
    }
}
