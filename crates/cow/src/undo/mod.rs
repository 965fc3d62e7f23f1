//! Taking back the last commit of a session.
//!
//! | module | does |
//! |---|---|
//! | `kept` | what a commit keeps for it |
//! | `check` | whether each object still is what the commit left |
//! | `steps` | puts originals back |
//! | `own` | notes what is the session's own work afterwards |
//! | `relayer` | puts the undone changes back into the session's layer |
//! | `stays` | what must not be removed with the session |
//!
//! Everything is looked at before anything is touched: identity, attributes and content. What changed
//! since the commit is a conflict and stays; unless the caller wants the rest alone
//! ([`UndoOptions::partial`]) nothing is undone then. Modified and replaced objects swap places with
//! their originals, the very inodes, by one `RENAME_EXCHANGE`; deleted ones come back and added ones go
//! by `RENAME_NOREPLACE`. What came out is looked at once more, and goes back if somebody was faster.
//!
//! What is undone is durable in the journal before the first step, and each step can be told from its
//! result, so [`recover`](crate::recover) completes an undo that was cut off anywhere. The undone
//! changes are in the session's layer again afterwards, as if they had not been committed.

mod check;
pub(crate) mod kept;
mod own;
mod relayer;
mod stays;
mod steps;

#[cfg(test)]
mod away_tests;
#[cfg(test)]
mod going_on_tests;
#[cfg(test)]
mod kill_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::apply::{Resting, described};
use crate::change::ChangeKind;
use crate::commit::{
    CommitError, CommitOptions, CommitReport, Recovered, Recovery, is_unfinished, lock_all,
};
use crate::content::FileDigest;
use crate::dir::{EntryKind, Tree};
use crate::layer::{Layer, Timestamp};
use crate::record::{Record, Undoing};
use crate::scan::{Base, absolute, find_root, open_root, open_upper};
use kept::{Kept, KeptCommit, Originals};

pub use stays::would_stay;

/// How to undo.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UndoOptions {
    /// As for a commit; the limit is not used.
    pub commit: CommitOptions,
    /// Undo what can be undone even if something else cannot.
    pub partial: bool,
    /// Look only.
    pub dry_run: bool,
}

impl UndoOptions {
    /// All or nothing.
    pub fn new(commit: CommitOptions) -> Self {
        UndoOptions {
            commit,
            partial: false,
            dry_run: false,
        }
    }
}

/// Why one change cannot be taken back. Nothing is lost: what is there stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum UndoConflict {
    /// What the commit left was changed, replaced or removed.
    #[error("it was changed after the commit")]
    Changed,
    /// Something is where the deleted original was.
    #[error("something new took the name of the deleted original")]
    Occupied,
    /// The directory is gone or another one.
    #[error(
        "the directory that holds it was moved, removed or replaced after the commit; put it back"
    )]
    Directory,
    /// A directory that the commit made holds something that the commit did not make, or that stays.
    #[error("the directory holds {path:?}, which stays")]
    NotEmpty {
        /// The first such object.
        #[serde(with = "crate::bytes::path")]
        path: PathBuf,
    },
    /// The original is not in the session's trash any more.
    #[error("its original is gone from the session's folder")]
    OriginalGone,
    /// It cannot be read, so it cannot be shown to be unchanged.
    #[error("it cannot be read, so it cannot be shown to be unchanged")]
    Unreadable,
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum UndoStatus {
    /// It could be taken back; nothing was touched.
    Ready,
    /// It is taken back.
    Undone,
    /// It stays.
    Conflict {
        /// Why.
        conflict: UndoConflict,
    },
    /// A system call failed; it stays, or the report says where things are.
    Failed {
        /// What was being done.
        step: String,
        /// The system's answer.
        error: String,
    },
}

/// One line of an [`UndoReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoOutcome {
    /// Absolute path in the original tree.
    #[serde(with = "crate::bytes::path")]
    pub path: PathBuf,
    /// Index of the layer.
    pub layer: usize,
    /// What the commit had done.
    pub kind: ChangeKind,
    /// Type of what the commit left, of what it took away for a deletion.
    pub entry: EntryKind,
    /// What became of it.
    #[serde(flatten)]
    pub status: UndoStatus,
    /// The regular file that the commit had left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<FileDigest>,
    /// The original, where it is a regular file that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<FileDigest>,
    /// Permission bits of the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// What an undo did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoReport {
    /// The name of the commit.
    pub commit: String,
    /// One line per change, sorted by layer and path.
    pub outcomes: Vec<UndoOutcome>,
    /// Where objects are that could neither be put in their place nor left there.
    pub kept: Vec<String>,
    /// Trouble that lost nothing.
    pub warnings: Vec<String>,
}

impl UndoReport {
    /// Whether every change is taken back.
    pub fn is_complete(&self) -> bool {
        self.count(|s| matches!(s, UndoStatus::Undone)) == self.outcomes.len()
    }

    /// How many changes have a status for which `f` holds.
    pub fn count(&self, f: impl Fn(&UndoStatus) -> bool) -> usize {
        self.outcomes.iter().filter(|o| f(&o.status)).count()
    }
}

/// Why there is nothing to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum NothingToUndo {
    /// Nothing was committed, or it was undone already.
    #[error("nothing was committed, or it is undone already")]
    NoCommit,
    /// The originals were more than was to be kept.
    #[error(
        "the commit replaced or deleted {bytes} bytes or more, and originals are kept up to {limit} bytes"
    )]
    TooLarge {
        /// Their size, as far as it was counted.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// They cannot be kept.
    #[error(
        "the session's folder is on another file system than the originals, so they were not kept"
    )]
    OtherFileSystem,
    /// They were given up.
    #[error("the originals of the last commit were given up to make room")]
    Dropped,
}

/// Why an undo did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    /// There is nothing to undo.
    #[error("nothing to undo: {0}")]
    Nothing(NothingToUndo),
    /// A commit or an undo was cut off.
    #[error("an earlier commit or undo was cut off; finish it first with `recover`")]
    Unfinished,
    /// As for a commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What the commit kept cannot be read or written.
    #[error("cannot use what the commit of {root:?} kept: {source}")]
    Kept {
        /// The original tree.
        root: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Takes back the last commit of these layers; with [`UndoOptions::dry_run`] looks whether it could.
///
/// # Errors
/// Nothing was begun, see [`UndoError`].
pub fn undo(layers: &[Layer], options: &UndoOptions) -> Result<UndoReport, UndoError> {
    let _locks = lock_all(layers, &options.commit.lock_dir)?;
    check_finished(layers)?;
    let last = last_commit(layers)?;
    let mut report = UndoReport::default();
    let mut works = Vec::new();
    let mut conflicts = false;
    for (index, kept) in last {
        report.commit.clone_from(&kept.commit);
        let layer = &layers[index];
        match find_root(layer).map_err(CommitError::from)? {
            Ok(_) => works.push((index, LayerUndo::open(layer, kept)?)),
            // Nothing of it can be taken back, nor is lost: it waits for the tree.
            Err(_) => {
                conflicts = true;
                let status = UndoStatus::Conflict {
                    conflict: UndoConflict::Directory,
                };
                let line = |step| outcome((index, layer), step, status.clone());
                report.outcomes.extend(kept.steps.iter().map(line));
            }
        }
    }
    let verdicts: Vec<_> = works.iter().map(|(_, undo)| undo.check(false)).collect();
    conflicts |= verdicts.iter().flatten().any(Result::is_err);
    let begin = !options.dry_run && (options.partial || !conflicts);
    // In every layer, before the first step in any.
    let mut undoings = Vec::new();
    if begin {
        let layers = works.len();
        let name = crate::dir::random_hex().map_err(|source| CommitError::Lock {
            lock: options.commit.lock_dir.clone(),
            source,
        })?;
        for ((_, undo), verdicts) in works.iter_mut().zip(&verdicts) {
            let noted = undo.note(verdicts, &name, layers);
            undoings.push(noted.map_err(|source| UndoError::Kept {
                root: undo.layer.root.clone(),
                source,
            })?);
            point!("undo journaled");
        }
    }
    let mut undoings = undoings.into_iter();
    for ((index, undo), verdicts) in works.iter_mut().zip(&verdicts) {
        let undoing = undoings.next();
        let statuses = match &undoing {
            Some(undoing) => undo.go_on(verdicts, undoing, &mut report),
            None => verdicts.iter().map(looked_at).collect(),
        };
        for (step, status) in undo.kept.steps.iter().zip(&statuses) {
            let line = outcome((*index, undo.layer), step, status.clone());
            report.outcomes.push(line);
        }
        if let Some(undoing) = undoing
            && let Err(e) = undo.end(&statuses, &undoing.names, &mut report)
        {
            // Everything is done; the next command finds that, and says so again.
            let line = format!("cannot note the end of the undo: {e}");
            report.warnings.push(line);
        }
    }
    report
        .outcomes
        .sort_by(|a, b| (a.layer, &a.path).cmp(&(b.layer, &b.path)));
    Ok(report)
}

/// The line of a report about one step of a layer.
fn outcome((index, layer): (usize, &Layer), step: &Kept, status: UndoStatus) -> UndoOutcome {
    UndoOutcome {
        path: absolute(&layer.root, &step.rel),
        layer: index,
        kind: step.kind(),
        entry: step.entry(),
        status,
        committed: step.content.clone(),
        original: step.old_content.clone(),
        mode: step.before.as_ref().map(|s| s.mode),
    }
}

/// Whether there is a commit that could be undone, without looking at its objects.
///
/// # Errors
/// [`UndoError::Nothing`], or what was kept cannot be read.
pub fn can_undo(layers: &[Layer]) -> Result<Timestamp, UndoError> {
    let last = last_commit(layers)?;
    last.first()
        .map(|(_, kept)| kept.at)
        .ok_or(UndoError::Nothing(NothingToUndo::NoCommit))
}

/// When the last commit of these layers kept something for an undo; `None` when nothing is kept. By the
/// times of the files alone, so it is cheap.
///
/// # Errors
/// The session's folder cannot be read.
pub fn kept_since(layers: &[Layer]) -> io::Result<Option<std::time::SystemTime>> {
    let mut newest = None;
    for layer in layers {
        newest = newest.max(KeptCommit::since(layer)?);
    }
    Ok(newest)
}

/// Fails if a commit or an undo of these layers was cut off.
fn check_finished(layers: &[Layer]) -> Result<(), UndoError> {
    for layer in layers {
        let unfinished = is_unfinished(std::slice::from_ref(layer));
        let unreadable = |source| CommitError::Record {
            path: layer.record_path(),
            source,
        };
        if unfinished.map_err(unreadable)? {
            return Err(UndoError::Unfinished);
        }
    }
    Ok(())
}

/// Gives up the originals that the last commit of these layers kept. Returns those that somebody wrote
/// to after they had been replaced: they stay.
///
/// # Errors
/// What was kept cannot be read or written, or a commit or an undo was cut off.
pub fn forget(layers: &[Layer]) -> Result<Vec<String>, UndoError> {
    let mut report = CommitReport::default();
    check_finished(layers)?;
    for layer in layers {
        give_up(layer, |_| true, &mut report).map_err(|source| UndoError::Kept {
            root: layer.root.clone(),
            source,
        })?;
    }
    Ok(report.kept)
}

/// What the newest commit kept, by index of the layer.
fn last_commit(layers: &[Layer]) -> Result<Vec<(usize, KeptCommit)>, UndoError> {
    let mut all = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let kept = KeptCommit::read(layer).map_err(|source| UndoError::Kept {
            root: layer.root.clone(),
            source,
        })?;
        if let Some(mut kept) = kept {
            let record = Record::read(layer).map_err(|source| CommitError::Record {
                path: layer.record_path(),
                source,
            })?;
            // An undo may have been cut off before it could say so here.
            kept.steps.retain(|k| !record.undone.contains(&k.name));
            all.push((index, kept));
        }
    }
    let newest = all.iter().max_by_key(|(_, k)| k.at);
    let Some(name) = newest.map(|(_, k)| k.commit.clone()) else {
        return Err(UndoError::Nothing(NothingToUndo::NoCommit));
    };
    all.retain(|(_, k)| k.commit == name);
    for (_, kept) in &all {
        return Err(UndoError::Nothing(match kept.originals {
            Originals::Kept => continue,
            Originals::TooLarge { bytes, limit } => NothingToUndo::TooLarge { bytes, limit },
            Originals::OtherFileSystem => NothingToUndo::OtherFileSystem,
            Originals::Dropped => NothingToUndo::Dropped,
        }));
    }
    all.retain(|(_, k)| !k.steps.is_empty());
    match all.is_empty() {
        true => Err(UndoError::Nothing(NothingToUndo::NoCommit)),
        false => Ok(all),
    }
}

/// What could be done about one step.
fn looked_at(verdict: &Result<check::Seen, UndoConflict>) -> UndoStatus {
    match verdict {
        Ok(_) => UndoStatus::Ready,
        Err(conflict) => UndoStatus::Conflict {
            conflict: conflict.clone(),
        },
    }
}

/// Completes an undo that was cut off. The caller holds the locks.
pub(crate) fn resume(layers: &[Layer], report: &mut CommitReport) -> Result<(), CommitError> {
    for layer in layers {
        let record_error = |source| CommitError::Record {
            path: layer.record_path(),
            source,
        };
        let record = Record::read(layer).map_err(record_error)?;
        let Some(undoing) = record.undoing.clone() else {
            continue;
        };
        let kept = KeptCommit::read(layer).map_err(record_error)?;
        let kept = kept.filter(|k| k.commit == undoing.commit);
        let Some(kept) = kept.filter(|_| was_begun(&undoing, layers)) else {
            // It came to its end, all but this line; or nothing was touched, in no layer.
            let mut record = record;
            let _ = std::fs::remove_dir(layer.trash_path());
            record.append_to(layer).map_err(record_error)?;
            record
                .end_undo(Vec::new(), Vec::new())
                .map_err(record_error)?;
            continue;
        };
        let mut undo = LayerUndo::open(layer, kept)?;
        undo.resuming = true;
        undo.open_trash().map_err(record_error)?;
        let mut said = UndoReport::default();
        let mut verdicts = undo.check(true);
        for (step, verdict) in undo.kept.steps.iter().zip(&mut verdicts) {
            if !undoing.names.contains(&step.name) {
                *verdict = Err(UndoConflict::Changed);
            }
        }
        let statuses = undo.go_on(&verdicts, &undoing, &mut said);
        let told = undo.end(&statuses, &undoing.names, &mut said);
        report.recovered.extend(told.map_err(record_error)?);
        report.kept.append(&mut said.kept);
        report.warnings.append(&mut said.warnings);
    }
    Ok(())
}

/// Whether all layers had noted an undo: only then its first step was taken. One whose record cannot be
/// read says so itself.
fn was_begun(undoing: &Undoing, layers: &[Layer]) -> bool {
    let noted = |layer: &&Layer| {
        Record::read(layer).map_or(true, |record| record.undos.contains(&undoing.undo))
    };
    layers.iter().filter(noted).count() >= undoing.layers
}

/// The steps of a commit or an undo that ended, if nobody has said that its outcome is recorded.
pub(crate) fn unreported(layer: &Layer) -> io::Result<Vec<Recovered>> {
    let record = Record::read(layer)?;
    let mut all = record.told;
    let Some(name) = record.unreported else {
        return Ok(all);
    };
    let kept = KeptCommit::read(layer)?.filter(|k| k.commit == name);
    let steps = kept.map(|k| k.steps).unwrap_or_default();
    let told = steps.iter().map(|step| Recovered {
        path: absolute(&layer.root, &step.rel),
        kind: step.kind(),
        entry: step.entry(),
        mode: step.after.as_ref().map(|s| s.mode),
        how: Recovery::Finished,
        new: step.content.clone(),
        old: step.old_content.clone(),
    });
    all.extend(told);
    Ok(all)
}

/// Gives up what a layer kept of another commit than this one.
pub(crate) fn give_up_other(layer: &Layer, commit: &str, report: &mut CommitReport) {
    if let Err(e) = give_up(layer, |kept| kept.commit != commit, report) {
        report.warnings.push(format!(
            "cannot give up the originals of an earlier commit: {e}"
        ));
    }
}

/// Notes, in a layer that is not opened, that its last commit was this one and was cut off elsewhere.
pub(crate) fn note_cut_off(layer: &Layer, commit: &str, report: &mut CommitReport) {
    let kept = KeptCommit::read(layer);
    let noted = kept.and_then(|kept| match kept {
        Some(mut kept) => kept.note_cut_off(layer, commit),
        None => Ok(()),
    });
    if let Err(e) = noted {
        let line = format!("cannot write what an undo needs: {e}");
        report.warnings.push(line);
    }
}

/// The name of a commit that was cut off and that this one goes on with.
pub(crate) fn to_go_on(layers: &[Layer], set: &crate::ChangeSet) -> Option<String> {
    if set.is_empty() {
        return None;
    }
    let kept = layers
        .iter()
        .filter_map(|layer| KeptCommit::read(layer).ok()?);
    let newest = kept.max_by_key(|k| k.at)?;
    newest.cut_off.then_some(newest.commit)
}

/// Whether the trash folder holds more than what an undo of the last commit needs; `None` when there is
/// no commit to undo.
pub(crate) fn holds_others(layer: &Layer) -> io::Result<Option<bool>> {
    match KeptCommit::read(layer)?.filter(|k| !k.steps.is_empty()) {
        None => Ok(None),
        Some(_) => Ok(Some(!stays::unknown(layer)?.is_empty())),
    }
}

fn give_up(
    layer: &Layer,
    which: impl Fn(&KeptCommit) -> bool,
    report: &mut CommitReport,
) -> io::Result<()> {
    let Some(mut kept) = KeptCommit::read(layer)?.filter(which) else {
        return Ok(());
    };
    let stale = kept.trashed();
    let base = Base::of(layer).map_err(io::Error::other)?;
    let mut record = Record::read(layer)?;
    record.append_to(layer)?;
    // First nobody can undo it any more, then the originals go.
    kept.stale.clone_from(&stale);
    kept.steps.clear();
    kept.dirs.clear();
    kept.originals = Originals::Dropped;
    // The next commit is one of its own, with its own originals.
    kept.cut_off = false;
    kept.write(layer)?;
    let trash = Tree::open(&layer.trash_path(), false).ok();
    // A tree that is away has with it what rested in it.
    let lower = open_root(layer);
    if let Ok(lower) = lower.or_else(|_| Tree::open(&layer.trash_path(), false)) {
        let resting = Resting::new(layer, &lower, trash.as_ref(), &base);
        for t in &stale {
            match resting.remove_unchanged(&mut record, t) {
                Ok(true) => {}
                Ok(false) => report.kept.push(described(layer, t)),
                Err(e) => {
                    let line = format!("cannot remove the replaced original: {e}");
                    report.warnings.push(line);
                    report.kept.push(described(layer, t));
                }
            }
        }
    }
    let _ = std::fs::remove_dir(layer.trash_path());
    kept.stale.clear();
    kept.write(layer)
}

/// The undo of one layer.
struct LayerUndo<'a> {
    layer: &'a Layer,
    lower: Tree,
    upper: Tree,
    trash: Option<Tree>,
    base: Base,
    record: Record,
    kept: KeptCommit,
    /// Directories with entries that changed: in the original tree, and in the upper directory.
    dirty: BTreeSet<Vec<u8>>,
    dirty_upper: BTreeSet<Vec<u8>>,
    /// It goes on after a cut.
    resuming: bool,
    /// Upper directories that get their mode at the end.
    modes: BTreeMap<Vec<u8>, u32>,
}

impl<'a> LayerUndo<'a> {
    fn open(layer: &'a Layer, kept: KeptCommit) -> Result<Self, CommitError> {
        let record_error = |source| CommitError::Record {
            path: layer.record_path(),
            source,
        };
        let mut record = Record::read(layer).map_err(record_error)?;
        let (lower, upper) = (open_root(layer)?, open_upper(layer)?);
        let base = Base::of(layer)?;
        record.append_to(layer).map_err(record_error)?;
        Ok(LayerUndo {
            layer,
            lower,
            upper,
            trash: Tree::open(&layer.trash_path(), false).ok(),
            base,
            record,
            kept,
            dirty: BTreeSet::new(),
            dirty_upper: BTreeSet::new(),
            resuming: false,
            modes: BTreeMap::new(),
        })
    }

    /// Notes what is about to be undone; durable on return.
    fn note(
        &mut self,
        verdicts: &[Result<check::Seen, UndoConflict>],
        undo: &str,
        layers: usize,
    ) -> io::Result<Undoing> {
        let chosen = self.kept.steps.iter().zip(verdicts);
        let names = chosen
            .filter(|(_, v)| v.is_ok())
            .map(|(k, _)| k.name.clone());
        let undoing = Undoing {
            commit: self.kept.commit.clone(),
            names: names.collect(),
            dirs: self.unchanged_directories(),
            undo: undo.to_owned(),
            layers,
        };
        self.begin_on(verdicts)?;
        self.record.undoing(&undoing)?;
        self.open_trash()?;
        Ok(undoing)
    }

    /// Objects that the commit added are moved there.
    fn open_trash(&mut self) -> io::Result<()> {
        match std::fs::create_dir(self.layer.trash_path()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        self.trash = Some(Tree::open(&self.layer.trash_path(), false)?);
        Ok(())
    }

    /// Ends the undo: what stays committed stays kept. Returns what became of the steps that were meant.
    fn end(
        &mut self,
        statuses: &[UndoStatus],
        names: &[String],
        report: &mut UndoReport,
    ) -> io::Result<Vec<Recovered>> {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let steps = self.kept.steps.iter().zip(statuses);
        let meant = steps.clone().filter(|(k, _)| names.contains(&*k.name));
        let told: Vec<Recovered> = meant.map(|(k, status)| self.tell(k, status)).collect();
        if !self.sync(report) {
            // The journal says how far it was meant to go; the next command goes on.
            return Ok(told);
        }
        point!("undo synced");
        self.note_undone(statuses);
        let steps = self.kept.steps.iter().zip(statuses);
        let stays = |status: &UndoStatus| *status != UndoStatus::Undone;
        let (left, gone): (Vec<_>, Vec<_>) = steps.partition(|(_, status)| stays(status));
        let left: Vec<Kept> = left.into_iter().map(|(k, _)| k.clone()).collect();
        let gone = gone
            .into_iter()
            .flat_map(|(k, _)| k.names().cloned())
            .collect();
        self.record.end_undo(told.clone(), gone)?;
        point!("undo noted");
        match left.is_empty() {
            true => KeptCommit::remove(self.layer)?,
            false => {
                let dirs = Vec::new();
                let kept = KeptCommit {
                    steps: left,
                    dirs,
                    ..self.kept.clone()
                };
                kept.write(self.layer)?;
            }
        }
        let _ = std::fs::remove_dir(self.layer.trash_path());
        Ok(told)
    }

    /// What became of a step, for whoever records it.
    fn tell(&self, step: &Kept, status: &UndoStatus) -> Recovered {
        Recovered {
            path: absolute(&self.layer.root, &step.rel),
            kind: step.kind(),
            entry: step.entry(),
            mode: step.before.as_ref().map(|s| s.mode),
            how: match status {
                UndoStatus::Undone => Recovery::Undone,
                _ => Recovery::Kept,
            },
            new: step.old_content.clone(),
            old: step.content.clone(),
        }
    }
}
