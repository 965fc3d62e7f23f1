//! The journal of what this crate itself did to an original tree: one JSON line per step, next to the
//! upper directory.
//!
//! Conflict detection compares change times, and a commit changes those itself: of directories it
//! adds to, and of hard-linked inodes one of whose names it replaces. The journal tells such traces
//! from the user's (module `own`). It also names the temporary objects, so that the next run can finish
//! or undo a step that was cut off.
//!
//! # What is durable before what
//! * All temporary names of a commit, before the first object is built: one sync a commit.
//! * The steps of a batch, each with the original and the new object, before the first rename (or
//!   change of attributes) of that batch: one sync a batch, see `apply::batch`.
//! * What is undone, before the first rename of an undo.
//! * The end of a commit, after everything it did; that its outcome is in the ledger, after that.
//!
//! A lost `Touched` or `Own` line (power failure) only makes the next scan more cautious. Of a record of
//! an earlier version `Touched` lines count only until that commit is finished, and `Placed` lines
//! wherever the object is.

mod own;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::amend::Amended;
use crate::clock::base_timestamp;
use crate::commit::Recovered;
use crate::content::FileDigest;
use crate::dir::{EntryKind, Snapshot};
use crate::layer::{FileId, Layer, Timestamp};
use crate::scan::Base;
pub(crate) use own::{Here, Own};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Line {
    /// An object of ours, or unchanged, before we change it.
    Touched {
        was: Snapshot,
        #[serde(default)]
        rel: Option<Rel>,
    },
    /// An object as a commit of an earlier version left it.
    Placed { now: Snapshot },
    /// What is ours.
    Own { note: own::Note },
    /// A commit begins; the moment is on the file system's clock.
    Began {
        at: Timestamp,
        /// Names the commit, in all layers.
        #[serde(default)]
        commit: Option<String>,
    },
    /// A new object is about to be built under a temporary name.
    Building(Temp),
    /// A temporary name is about to hold our new object and then the original.
    Temp(Temp),
    /// The attributes of an original are about to change in place.
    InPlace(InPlace),
    /// The layer's commit ended; no temporary name is in use.
    Finished,
    /// The caller has recorded the outcome of the commit.
    Reported,
    /// A commit is about to be undone.
    Undoing(Undoing),
    /// That came to its end.
    Undone {
        /// What became of each step.
        told: Vec<Recovered>,
        /// The names of the steps that are undone.
        names: Vec<String>,
    },
    /// Steps of the commit that were not carried out, or were taken back.
    NotDone { names: Vec<String> },
    /// Where commits of the session that this layer was copied from did something.
    CommittedBefore { rels: Vec<Rel> },
}

/// Extended attributes as pairs of name and value.
pub(crate) type Pairs = Vec<Pair>;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pair {
    #[serde(with = "crate::bytes::raw")]
    pub name: Vec<u8>,
    #[serde(with = "crate::bytes::raw")]
    pub value: Vec<u8>,
}

/// An original whose attributes change in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InPlace {
    /// Overlay-relative path.
    #[serde(with = "crate::bytes::raw")]
    pub rel: Vec<u8>,
    /// The name of the step.
    pub name: String,
    /// The original before.
    pub was: Snapshot,
    /// Its travelling attributes before.
    pub xattrs: Pairs,
    /// Its mode, owner and group afterwards.
    pub to: (u32, u32, u32),
    /// Its travelling attributes afterwards.
    pub to_xattrs: Pairs,
    /// Its modification time afterwards, if that is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_time: Option<Timestamp>,
}

/// What is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undoing {
    /// The commit.
    pub commit: String,
    /// The names of its steps.
    pub names: Vec<String>,
    /// Directories that get their time back.
    pub dirs: Vec<Rel>,
    /// Names the undo, in all layers; empty in records of earlier versions.
    #[serde(default)]
    pub undo: String,
    /// How many layers note it before its first step.
    #[serde(default)]
    pub layers: usize,
}

/// An overlay-relative path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Rel(#[serde(with = "crate::bytes::raw")] pub Vec<u8>);

/// A temporary name in an original tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Temp {
    /// Overlay-relative path whose change this serves.
    #[serde(with = "crate::bytes::raw")]
    pub rel: Vec<u8>,
    /// The temporary name, in the same directory.
    pub name: String,
    /// Inode of our new object; `None` for a deletion and while it is being built.
    pub new: Option<FileId>,
    /// That object, complete; `None` in records of earlier versions.
    #[serde(default)]
    pub made: Option<Snapshot>,
    /// The original that is to leave, as it was verified; without it and without `new`, the object
    /// was still being built.
    pub old: Option<Snapshot>,
    /// What was written, if the new object is a regular file.
    #[serde(default)]
    pub content: Option<FileDigest>,
    /// Digest of its attributes.
    #[serde(default)]
    pub xattrs: Option<String>,
    /// The path of which it is meant to be a hard link.
    #[serde(default)]
    pub link_to: Option<Rel>,
    /// The content is not the session's copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amended: Option<Amended>,
}

/// An object that a step of ours is about to change.
#[derive(Debug)]
pub(crate) struct Held {
    rel: Vec<u8>,
    was: Snapshot,
}

/// The record of one layer.
#[derive(Debug)]
pub(crate) struct Record {
    /// What commits and undos left: a later commit of the same session finds its own work there.
    pub own: Own,
    /// The names of the commits that came to their end and did something here.
    pub commits: HashSet<String>,
    /// Temporary names of a commit that did not finish.
    pub unfinished: Vec<Temp>,
    /// Changes of attributes of that commit.
    pub in_place: Vec<InPlace>,
    /// When that commit began.
    pub began: Option<Timestamp>,
    /// The name of that commit.
    pub commit: Option<String>,
    /// The commit that ended, if nobody has said that its outcome is recorded.
    pub unreported: Option<String>,
    /// An undo that did not come to its end.
    pub undoing: Option<Undoing>,
    /// The names of all undos that were noted here.
    pub undos: HashSet<String>,
    /// What became of each step of an undo that nobody has said to be recorded.
    pub told: Vec<Recovered>,
    /// The names of all steps that were undone.
    pub undone: HashSet<String>,
    /// Where steps were done that are not undone, by their names.
    steps: HashMap<String, Rel>,
    /// The same of the session that this layer was copied from.
    committed_before: HashSet<Rel>,
    file: Option<File>,
}

impl Record {
    /// Reads the record; a layer never committed has none.
    pub(crate) fn read(layer: &Layer) -> io::Result<Record> {
        let mut record = Record {
            own: Own::default(),
            commits: HashSet::new(),
            unfinished: Vec::new(),
            in_place: Vec::new(),
            began: None,
            commit: None,
            unreported: None,
            undoing: None,
            undos: HashSet::new(),
            told: Vec::new(),
            undone: HashSet::new(),
            steps: HashMap::new(),
            committed_before: HashSet::new(),
            file: None,
        };
        let text = match std::fs::read(layer.record_path()) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(record),
            Err(e) => return Err(e),
        };
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let mut worked = false;
        for line in text.split(|b| *b == b'\n') {
            // A torn line is one whose step did not begin.
            let Ok(line) = serde_json::from_slice::<Line>(line) else {
                continue;
            };
            match line {
                Line::Touched { was, rel } => {
                    if let Some(rel) = rel {
                        record.own.begin_read(rel, was);
                    }
                }
                Line::Placed { now } => record.own.read_earlier(now),
                Line::Own { note } => record.own.apply(&note),
                Line::Began { at, commit } => {
                    // The earliest of several commits that were cut off.
                    record.began.get_or_insert(at);
                    record.commit = record.commit.or(commit);
                }
                Line::Building(temp) => record.in_hand(temp, &mut by_name),
                Line::Temp(temp) => {
                    worked |= record.began.is_some();
                    let rel = Rel(temp.rel.clone());
                    let explains = !temp.amended.is_some_and(Amended::was_in_conflict);
                    if let Some(made) = temp.made.clone().filter(|_| explains) {
                        record.own.begin_read(rel.clone(), made);
                    }
                    record.steps.insert(temp.name.clone(), rel);
                    record.in_hand(temp, &mut by_name);
                }
                Line::InPlace(step) => {
                    worked |= record.began.is_some();
                    if step.was.kind != EntryKind::Directory {
                        let rel = Rel(step.rel.clone());
                        record.steps.insert(step.name.clone(), rel);
                    }
                    record.in_place.push(step);
                }
                Line::NotDone { names } => record.forget_steps(&names),
                Line::CommittedBefore { rels } => record.committed_before.extend(rels),
                Line::Finished => {
                    by_name.clear();
                    record.own.ended();
                    record.unfinished.clear();
                    record.in_place.clear();
                    record.began = None;
                    record.unreported = record.commit.take();
                    if std::mem::take(&mut worked) {
                        record.commits.extend(record.unreported.clone());
                    }
                }
                Line::Reported => {
                    record.unreported = None;
                    record.told.clear();
                }
                Line::Undoing(undoing) => {
                    record.undos.insert(undoing.undo.clone());
                    record.undoing = Some(undoing);
                }
                Line::Undone { told, names } => {
                    record.undoing = None;
                    record.own.ended();
                    record.told.extend(told);
                    record.forget_steps(&names);
                    record.undone.extend(names);
                }
            }
        }
        Ok(record)
    }

    /// A step that was begun, or goes on.
    fn in_hand(&mut self, temp: Temp, by_name: &mut HashMap<String, usize>) {
        match by_name.get(&temp.name) {
            Some(at) => self.unfinished[*at] = temp,
            None => {
                by_name.insert(temp.name.clone(), self.unfinished.len());
                self.unfinished.push(temp);
            }
        }
    }

    /// Whether a commit or an undo was cut off and left steps to finish or to take back.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty() || !self.in_place.is_empty() || self.undoing.is_some()
    }

    /// Opens the record for appending; returns the moment, on the file system's clock.
    pub(crate) fn open(&mut self, layer: &Layer) -> io::Result<Timestamp> {
        let folder = layer.upper.parent().unwrap_or(&layer.upper);
        let mut at = base_timestamp(folder, None)?;
        // Clocks of two file systems may differ by a tick; one that was set back stays behind.
        for _ in 0..5 {
            if at >= layer.base {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            at = base_timestamp(folder, Some(at))?;
        }
        self.append_to(layer)?;
        Ok(at)
    }

    /// Opens the record for appending.
    pub(crate) fn append_to(&mut self, layer: &Layer) -> io::Result<()> {
        // Something is done in this layer again.
        match std::fs::remove_file(layer.dropped_path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let folder = layer.upper.parent().unwrap_or(&layer.upper);
        let path = layer.record_path();
        let is_new = !path.exists();
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        // Ends a line torn by a crash.
        file.write_all(b"\n")?;
        self.file = Some(file);
        if is_new {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Notes that a commit begins.
    pub(crate) fn begin(&mut self, at: Timestamp, commit: &str) -> io::Result<()> {
        let commit = Some(commit.to_owned());
        self.append(&Line::Began { at, commit })
    }

    /// Makes every line durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) => {
                file.sync_data()?;
                #[cfg(test)]
                crate::fault::synced(&file.metadata()?);
                Ok(())
            }
            None => Err(io::Error::other("the commit record is not open")),
        }
    }

    /// Writes what is noted as ours. Not durable before the end of the commit: without it the next scan
    /// is only more cautious.
    pub(crate) fn note_own(&mut self) -> io::Result<()> {
        let notes = self.own.take_pending().into_iter();
        self.append_all(notes.map(|note| Line::Own { note }))
    }

    /// Writes a record for another layer over the same tree that knows what this one's commits did,
    /// and nothing else; durable on return. None is written where there is nothing to know.
    pub(crate) fn hand_down(&self, to: &Layer) -> io::Result<()> {
        let (notes, earlier) = self.own.all();
        if notes.is_empty() && earlier.is_empty() {
            return Ok(());
        }
        let mut record = Record::read(to)?;
        record.append_to(to)?;
        record.append_all(notes.into_iter().map(|note| Line::Own { note }))?;
        record.append_all(earlier.into_iter().map(|now| Line::Placed { now }))?;
        record.sync()
    }

    /// Before a step changes an object, if nobody else changed it: notes what it is, for a run that goes
    /// on after a kill. The step is to be told with [`Record::changed_own`].
    pub(crate) fn hold(
        &mut self,
        base: &Base,
        rel: &[u8],
        now: Snapshot,
    ) -> io::Result<Option<Held>> {
        if base.changed(rel, &now, self) {
            return Ok(None);
        }
        self.begin_on(rel, &now)?;
        let rel = rel.to_vec();
        Ok(Some(Held { rel, was: now }))
    }

    /// After the step: what is there now is ours, if nothing but the step changed it.
    pub(crate) fn changed_own(&mut self, held: Option<Held>, now: Option<Snapshot>) {
        if let (Some(held), Some(now)) = (held, now)
            && held.was.same_object(&now)
        {
            self.own.placed(&held.rel, &now);
        }
    }

    /// Notes that an object which is ours, or unchanged, is about to be changed.
    pub(crate) fn begin_on(&mut self, rel: &[u8], was: &Snapshot) -> io::Result<()> {
        if !self.own.begin(was.id) {
            return Ok(());
        }
        let (rel, was) = (Some(Rel(rel.to_vec())), was.clone());
        self.append(&Line::Touched { was, rel })
    }

    /// Notes temporary names before anything is built under them: durable on return.
    pub(crate) fn building(&mut self, names: &[(&[u8], String)]) -> io::Result<()> {
        let lines = names.iter().map(|(rel, name)| {
            Line::Building(Temp {
                rel: rel.to_vec(),
                name: name.clone(),
                new: None,
                made: None,
                old: None,
                content: None,
                xattrs: None,
                link_to: None,
                amended: None,
            })
        });
        self.append_all(lines)?;
        self.sync()
    }

    /// Notes the steps of a batch before the first of them: durable on return.
    pub(crate) fn batch(&mut self, temps: Vec<Temp>, in_place: Vec<InPlace>) -> io::Result<()> {
        let in_place = in_place.into_iter().map(Line::InPlace);
        self.append_all(temps.into_iter().map(Line::Temp).chain(in_place))?;
        self.sync()
    }

    /// Notes the end of a commit: durable on return.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.append(&Line::Finished)?;
        self.sync()?;
        self.own.ended();
        self.unfinished.clear();
        self.in_place.clear();
        Ok(())
    }

    /// Notes that the outcome of the newest commit is recorded: durable on return.
    pub(crate) fn reported(&mut self) -> io::Result<()> {
        self.append(&Line::Reported)?;
        self.sync()?;
        self.unreported = None;
        self.told.clear();
        Ok(())
    }

    /// Notes what is undone before the first step: durable on return.
    pub(crate) fn undoing(&mut self, what: &Undoing) -> io::Result<()> {
        self.append(&Line::Undoing(what.clone()))?;
        self.sync()
    }

    /// Notes the end of an undo, and what is ours after it: durable on return.
    pub(crate) fn end_undo(&mut self, told: Vec<Recovered>, names: Vec<String>) -> io::Result<()> {
        let notes = self.own.take_pending().into_iter();
        let notes = notes.map(|note| Line::Own { note });
        self.append_all(notes.chain([Line::Undone { told, names }]))?;
        self.sync()
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        self.append_all(std::iter::once(line))
    }

    fn append_all<L: std::borrow::Borrow<Line>>(
        &mut self,
        lines: impl Iterator<Item = L>,
    ) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the commit record is not open"));
        };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line.borrow())?;
            text.push(b'\n');
        }
        file.write_all(&text)
    }
}

/// Where commits did something.
impl Record {
    /// Whether a commit that was not undone did something at this path, or took away or replaced
    /// something that held it. A step of which nobody can tell whether it was done counts.
    pub(crate) fn has_committed(&self, rel: &[u8]) -> bool {
        let at = self.steps.values().chain(&self.committed_before);
        at.into_iter().any(|Rel(at)| {
            rel.strip_prefix(&at[..])
                .is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'))
        })
    }

    fn forget_steps(&mut self, names: &[String]) {
        for name in names {
            self.steps.remove(name);
        }
    }

    /// Notes steps that were not carried out, or were taken back.
    pub(crate) fn not_done(&mut self, names: Vec<String>) -> io::Result<()> {
        match names.is_empty() {
            true => Ok(()),
            false => self.append(&Line::NotDone { names }),
        }
    }

    /// Tells a copy of this layer where its commits did something; durable on return.
    pub(crate) fn hand_down_paths(&self, to: &Layer) -> io::Result<()> {
        let at = self.steps.values().chain(&self.committed_before);
        let mut rels: Vec<Rel> = at.cloned().collect();
        if rels.is_empty() {
            return Ok(());
        }
        rels.sort();
        rels.dedup();
        let mut record = Record::read(to)?;
        record.append_to(to)?;
        record.append(&Line::CommittedBefore { rels })?;
        record.sync()
    }
}
