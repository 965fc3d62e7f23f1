//! The commit of one layer, step by step. See [`crate::commit`] for the protocol.
//!
//! | module | does |
//! |---|---|
//! | `order` | which change comes when, and which waits for another |
//! | `review` | whether originals still are what was reviewed |
//! | `build` | makes a new object under a temporary name |
//! | `amended` | the same for content that is not the session's copy |
//! | `away` | a layer whose original tree is away |
//! | `batch` | groups steps, so that one sync of the journal serves many |
//! | `attributes` | gives mode, owner, attributes and times |
//! | `exchange` | gives the new object its name; takes originals away |
//! | `trash` | keeps originals until the layer is finished |
//! | `own` | notes what each step left |
//! | `keep` | what an undo of this commit needs |
//! | `fold` | one step for each path, after a cut |
//! | `recover` | finishes or undoes what an earlier run left |
//!
//! Invariant: whatever stops a step, the original is under its own name, or the report names the place
//! where it is.

mod amended;
mod attributes;
mod away;
mod batch;
mod build;
mod exchange;
mod fold;
mod keep;
mod order;
mod own;
mod recover;
mod review;
mod trash;

#[cfg(test)]
mod amended_tests;
#[cfg(test)]
mod race_tests;

pub(crate) use attributes::{is_between, set_attributes, set_time, times};
pub(crate) use away::stays_away;
pub(crate) use trash::{Resting, Trashed, described};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::escape_bytes;
use rustix::fs::{OFlags, fsync, syncfs};
use rustix::io::Errno;

use crate::amend::Amendments;
use crate::change::{Change, ChangeKind, Conflict};
use crate::commit::{CommitError, CommitReport, Disposition, Status};
use crate::content::FileDigest;
use crate::dir::{EntryKind, Snapshot, TEMP_PREFIX, Tree, open_in, random_hex};
use crate::layer::{FileId, Layer, Timestamp};
use crate::record::{InPlace, Record};
use crate::scan::{Base, find_root, open_root, open_upper};
use crate::undo::kept::{Keeping, Kept};
use crate::upper::{Removal, remove_applied};
use batch::Ready;
use order::{Index, Phase, phase_of, triage};

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
    amendments: &'a Amendments,
    lower: Tree,
    upper: Tree,
    base: Base,
    record: Record,
    /// When this run began.
    at: Timestamp,
    id: String,
    counter: u64,
    trash: Option<Tree>,
    trashed: Vec<Trashed>,
    /// What was done so far.
    kept: Vec<Kept>,
    /// Names of steps in the journal that were not carried out, or were taken back.
    not_done: Vec<String>,
    /// Merged objects, as they were left, and their paths below the root.
    merged: Vec<(Vec<u8>, Snapshot)>,
    made_dirs: HashMap<Vec<u8>, FileId>,
    dirty: BTreeSet<Vec<u8>>,
    /// Directories as they were before the first step in them.
    dirs_before: HashMap<Vec<u8>, Snapshot>,
    failed: Option<Vec<u8>>,
    /// Of the change that is being applied.
    digests: Digests,
    /// The file that was built for it, until the batch has it.
    unsynced: Option<OwnedFd>,
    /// Places of originals, and of others' objects, that could not be put back.
    stranded: Vec<String>,
}

impl<'a> LayerCommit<'a> {
    /// Opens a layer; the conflict of all its changes where its original tree is away. That of a layer in
    /// which a commit was cut off is waited for: it may hold originals under temporary names.
    pub(crate) fn open(
        layer: &'a Layer,
        amendments: &'a Amendments,
    ) -> Result<Result<Self, Conflict>, CommitError> {
        let record_error = |source| CommitError::Record {
            path: layer.record_path(),
            source,
        };
        let upper = open_upper(layer)?;
        let mut record = Record::read(layer).map_err(record_error)?;
        let lower = match record.is_unfinished() {
            true => open_root(layer)?,
            false => match find_root(layer)? {
                Ok(lower) => lower,
                Err(away) => return Ok(Err(away)),
            },
        };
        let now = record.open(layer).map_err(record_error)?;
        let known = Base::of(layer)?;
        if now < layer.base && !known.is_exact() {
            let base = layer.base;
            return Err(CommitError::Clock { base, now });
        }
        Ok(Ok(LayerCommit {
            layer,
            amendments,
            lower,
            upper,
            base: known,
            record,
            at: now,
            id: random_hex().map_err(record_error)?,
            counter: 0,
            trash: None,
            trashed: Vec::new(),
            kept: Vec::new(),
            not_done: Vec::new(),
            merged: Vec::new(),
            made_dirs: HashMap::new(),
            dirty: BTreeSet::new(),
            dirs_before: HashMap::new(),
            failed: None,
            digests: Digests::default(),
            unsynced: None,
            stranded: Vec::new(),
        }))
    }

    /// The commit that was cut off in this layer.
    pub(crate) fn cut_off(&self) -> Option<&String> {
        self.record.commit.as_ref()
    }

    /// Begins the commit of this name: the last thing that may refuse.
    pub(crate) fn begin(&mut self, commit: &str) -> Result<(), CommitError> {
        self.record
            .begin(self.at, commit)
            .map_err(|source| CommitError::Record {
                path: self.layer.record_path(),
                source,
            })
    }

    /// Returns the digests by change, and whether anything was done.
    pub(crate) fn run(
        mut self,
        commit: &str,
        work: &[Work<'_>],
        statuses: &mut [Option<Status>],
        report: &mut CommitReport,
        keeping: Keeping,
    ) -> (HashMap<usize, Digests>, bool) {
        self.recover(report);
        let mut pending = Vec::new();
        for item in work {
            match triage(item.1, item.3) {
                Some(status) => statuses[item.0] = Some(status),
                None => pending.push(item),
            }
        }
        let index = Index::new(work);
        let mut digests = HashMap::new();
        let names = match self.plan(&pending) {
            Ok(names) => names,
            Err(e) => {
                for (at, _, rel, _) in std::mem::take(&mut pending) {
                    let stop = io_at("write the commit record")(e.into());
                    statuses[*at] = Some(self.status(rel, |_| Err(stop)));
                }
                HashMap::new()
            }
        };
        let mut deferred_meta = Vec::new();
        for phase in [
            Phase::Directories,
            Phase::Files,
            Phase::Others,
            Phase::Deletions,
        ] {
            let mut items: Vec<&Work<'_>> = pending
                .iter()
                .copied()
                .filter(|i| phase_of(i.1) == phase)
                .collect();
            if phase == Phase::Directories {
                // Level by level: a directory must stand before another is built in it, and one batch
                // takes all of a level.
                items.sort_by_key(|i| i.2.iter().filter(|b| **b == b'/').count());
            }
            let mut batch: Vec<Ready<'_>> = Vec::new();
            for item in items {
                let (at, change, rel, _) = item;
                if batch::must_end(&batch, change, rel) {
                    self.carry_out(&mut batch, statuses, &mut digests);
                }
                if let Some(status) = self.blocked(change, rel, &index, statuses) {
                    statuses[*at] = Some(status);
                    continue;
                }
                let name = names.get(at).cloned().unwrap_or_default();
                match self.prepare(*at, change, rel, name) {
                    Ok(ready) => batch.push(ready),
                    Err(done) => {
                        if done == Status::AlreadyApplied {
                            digests.insert(*at, std::mem::take(&mut self.digests));
                        }
                        statuses[*at] = Some(done);
                    }
                }
            }
            self.carry_out(&mut batch, statuses, &mut digests);
        }
        for (at, change, rel, _) in &pending {
            if change.entry == EntryKind::Directory
                && !matches!(change.kind, ChangeKind::Delete | ChangeKind::Meta)
                && statuses[*at] == Some(Status::Committed)
            {
                deferred_meta.push((rel.clone(), *change));
            }
        }
        // Leaves first: a directory's times and a missing write permission come after its entries.
        let metas = pending
            .iter()
            .filter(|i| phase_of(i.1) == Phase::DirectoryMeta);
        let mut last: BTreeMap<Vec<u8>, (Option<usize>, &Change)> = BTreeMap::new();
        last.extend(deferred_meta.into_iter().map(|(rel, c)| (rel, (None, c))));
        last.extend(metas.map(|i| (i.2.clone(), (Some(i.0), i.1))));
        let mut noted: HashMap<Vec<u8>, Result<InPlace, Stop>> = HashMap::new();
        for (rel, (at, change)) in &last {
            if let Some(at) = at {
                let name = names.get(at).cloned().unwrap_or_default();
                noted.insert(rel.clone(), self.note_directory(change, rel, name));
            }
        }
        let lines = noted.values().filter_map(|n| n.as_ref().ok()).cloned();
        let lines: Vec<InPlace> = lines.collect();
        let journaled = match lines.is_empty() {
            true => Ok(()),
            false => self.record.batch(Vec::new(), lines),
        };
        point!("journaled");
        for (rel, (index, change)) in last.into_iter().rev() {
            let step = noted.remove(&rel).transpose();
            let status = self.status(&rel, |s| {
                let step = step?;
                if step.is_some()
                    && let Err(e) = &journaled
                {
                    return Err(io_at("write the commit record")(e.kind().into()));
                }
                s.directory_meta(change, &rel, step)
            });
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
        let done = !self.kept.is_empty();
        self.finish(commit, work, statuses, report, keeping);
        (digests, done)
    }

    /// Gives every step its name, and notes those under which something will be built.
    fn plan(
        &mut self,
        pending: &[&Work<'_>],
    ) -> Result<HashMap<usize, String>, std::io::ErrorKind> {
        let mut names = HashMap::new();
        let mut building = Vec::new();
        for (at, change, rel, _) in pending {
            let name = self.temp_name();
            if change.kind != ChangeKind::Delete && phase_of(change) != Phase::DirectoryMeta {
                building.push((rel.as_slice(), name.clone()));
            }
            names.insert(*at, name);
        }
        if !building.is_empty() {
            self.record.building(&building).map_err(|e| e.kind())?;
            point!("planned");
        }
        Ok(names)
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

    fn temp_name(&mut self) -> String {
        self.counter += 1;
        format!("{TEMP_PREFIX}{}-{}", self.id, self.counter)
    }

    /// Syncs, notes what an undo needs, takes applied and discarded entries out of the upper directory.
    fn finish(
        mut self,
        commit: &str,
        work: &[Work<'_>],
        statuses: &[Option<Status>],
        report: &mut CommitReport,
        keeping: Keeping,
    ) {
        let mut synced = true;
        for dir in &self.dirty {
            let result = self.lower.dir(dir).and_then(sync_dir);
            let result = match result {
                // What was committed keeps its owner out, here or above.
                Err(Errno::ACCESS) => self.lower.dir(b"").and_then(sync_all),
                other => other,
            };
            if let Err(e) = result {
                synced = false;
                report
                    .warnings
                    .push(format!("cannot sync {}: {e}", escape_bytes(dir)));
            }
        }
        if let Some(Err(e)) = self.trash.as_ref().map(|t| t.dir(b"").and_then(sync_dir)) {
            synced = false;
            report
                .warnings
                .push(format!("cannot sync the session's trash: {e}"));
        }
        point!("synced");
        if !synced {
            // Entries stay in the upper directory and originals in the trash: a repeated run is safe.
            return;
        }
        self.report_written(report);
        point!("reported");
        let stale = match self.keep(commit, keeping, work.is_empty(), report) {
            Ok(stale) => stale,
            Err(e) => {
                // The journal still knows every step.
                report
                    .warnings
                    .push(format!("cannot write what an undo needs: {e}"));
                return;
            }
        };
        point!("kept");
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
                gone: done(w.0) && !self.amendments.copy_stays(w.1),
            })
            .collect();
        match remove_applied(&self.upper, &removals) {
            Ok(()) => self.place_merged(),
            Err(e) => report
                .warnings
                .push(format!("cannot clean the session's upper directory: {e}")),
        }
        point!("cleaned");
        let not_done = std::mem::take(&mut self.not_done);
        let noted = self.record.not_done(not_done);
        if let Err(e) = noted.and_then(|()| self.record.finish()) {
            report
                .warnings
                .push(format!("cannot write the commit record: {e}"));
        }
        point!("finished");
        self.empty_trash(stale, report);
    }
}

/// Makes everything durable on the file system of a directory.
fn sync_all(dir: OwnedFd) -> Result<(), Errno> {
    open_in(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY).and_then(syncfs)
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(dir: OwnedFd) -> Result<(), Errno> {
    open_in(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY).and_then(fsync)
}
