//! What a layer's commits and undos left in the original tree, by path: how a scan tells the session's
//! own work from somebody else's.
//!
//! # Invariants
//! * Only what was unchanged before our step is noted, and as `lstat(2)` shows it right after it. An
//!   object counts as ours only while it still is exactly that, change time included, which no program
//!   can set; so a verdict errs towards "somebody else's".
//! * An object is known by its inode, and vouched for at the paths where we left it or where the base
//!   manifest has that inode: the other names of a hard link are such paths.
//! * Notes are repeatable: a run that goes on after a kill may write them again.
//! * [`Own::begin_read`] is the exception. What a run that was cut off had begun to change is compared
//!   without its change time, until recovery has looked at it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::Rel;
use crate::dir::{EntryKind, Snapshot, split};
use crate::layer::FileId;

/// One note, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Note {
    /// We left this object at this path.
    Placed { rel: Rel, now: Snapshot },
    /// We changed an object that has other names: at these it is now this.
    Known { now: Snapshot },
    /// A step of this name took away what was at this path and below it.
    Gone { rel: Rel, by: String },
    /// That was taken back.
    Back { rel: Rel, by: String },
}

/// What the base knows about a path: which inode was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Here {
    /// This one.
    Is(FileId),
    /// None, or none that counts.
    Not,
    /// Nobody knows.
    Unknown,
}

impl Here {
    /// Whether this inode may have been there.
    fn may_be(self, id: FileId) -> bool {
        match self {
            Here::Is(was) => was == id,
            Here::Not => false,
            Here::Unknown => true,
        }
    }
}

/// An object that we vouch for.
#[derive(Debug, Clone)]
struct Known {
    now: Snapshot,
    at: Vec<Vec<u8>>,
    /// Noted by an earlier version, without its path.
    anywhere: bool,
}

/// What a layer's commits and undos left.
#[derive(Debug, Default)]
pub(crate) struct Own {
    known: HashMap<FileId, Known>,
    /// What stands at a path by our work, with the number of the note.
    names: HashMap<Vec<u8>, (u64, FileId)>,
    /// Paths that were taken away, by which step, with the number of the note.
    gone: HashMap<Vec<u8>, Vec<(u64, String)>>,
    count: u64,
    /// What a run that was cut off had begun to change, as it was before.
    begun: BTreeMap<FileId, (Vec<u8>, Snapshot)>,
    /// Objects of this run that nobody is to find by the journal.
    built: HashMap<FileId, Snapshot>,
    /// Notes to be written, and the directories among them: those change with every step.
    pending: Vec<Note>,
    pending_dirs: BTreeMap<Vec<u8>, FileId>,
    /// What this run has said that it begins to change.
    said: HashSet<FileId>,
}

impl Own {
    /// Whether what is at a path is exactly what we left there. `here`: what the base knows about it.
    pub(crate) fn explains(&self, rel: &[u8], now: &Snapshot, here: impl Fn() -> Here) -> bool {
        if let Some(known) = self.known.get(&now.id)
            && known.now == *now
            && (known.anywhere || known.at.iter().any(|at| at == rel) || here().may_be(now.id))
        {
            return true;
        }
        self.begun.get(&now.id).is_some_and(|(at, was)| {
            was.same_object(now) && (at.as_slice() == rel || here().may_be(now.id))
        })
    }

    /// Whether an object is exactly what we know it to be, wherever it lies.
    pub(crate) fn knows(&self, now: &Snapshot) -> bool {
        self.known.get(&now.id).is_some_and(|k| k.now == *now)
            || self.built.get(&now.id) == Some(now)
    }

    /// Whether something stands at a path by our work (or, false, was taken away by it); `None` when we
    /// did neither.
    pub(crate) fn had(&self, rel: &[u8]) -> Option<bool> {
        let placed = self.names.get(rel).map(|(number, _)| *number);
        let mut cut = None;
        let mut at = rel;
        while !self.gone.is_empty() && !at.is_empty() {
            let last = self.gone.get(at).and_then(|all| all.last());
            cut = cut.max(last.map(|(number, _)| *number));
            at = split(at).0;
        }
        match (placed, cut) {
            (None, None) => None,
            (placed, cut) => Some(placed > cut),
        }
    }

    /// The directory that stands at a path by our work.
    pub(crate) fn directory(&self, rel: &[u8]) -> Option<FileId> {
        let (_, id) = self.names.get(rel)?;
        let is_dir = self.known.get(id)?.now.kind == EntryKind::Directory;
        (is_dir && self.had(rel) == Some(true)).then_some(*id)
    }

    /// Notes what we left at a path.
    pub(crate) fn placed(&mut self, rel: &[u8], now: &Snapshot) {
        let note = Note::Placed {
            rel: Rel(rel.to_vec()),
            now: now.clone(),
        };
        self.apply(&note);
        match now.kind {
            EntryKind::Directory => {
                self.pending_dirs.insert(rel.to_vec(), now.id);
            }
            _ => self.pending.push(note),
        }
    }

    /// Notes what an object with other names is after our step.
    pub(crate) fn know(&mut self, now: &Snapshot) {
        let note = Note::Known { now: now.clone() };
        self.apply(&note);
        self.pending.push(note);
    }

    /// Notes that a step took away what was at a path.
    pub(crate) fn took(&mut self, rel: &[u8], by: &str) {
        let (at, by) = (Rel(rel.to_vec()), by.to_owned());
        self.put(rel, Note::Gone { rel: at, by });
    }

    /// Notes that it is there again.
    pub(crate) fn gave_back(&mut self, rel: &[u8], by: &str) {
        let took = |all: &Vec<(u64, String)>| all.iter().any(|(_, name)| name == by);
        if self.gone.get(rel).is_some_and(took) {
            let (at, by) = (Rel(rel.to_vec()), by.to_owned());
            self.put(rel, Note::Back { rel: at, by });
        }
    }

    fn put(&mut self, rel: &[u8], note: Note) {
        // A directory that is taken away and made again is another one.
        let below = |at: &&Vec<u8>| at.starts_with(rel);
        let first = self.pending_dirs.range(rel.to_vec()..).map(|(at, _)| at);
        let first: Vec<_> = first.take_while(below).cloned().collect();
        first.iter().for_each(|at| self.settle_directory(at));
        self.apply(&note);
        self.pending.push(note);
    }

    /// Remembers an object of this run, for [`Own::knows`] alone.
    pub(crate) fn built(&mut self, now: &Snapshot) {
        self.built.insert(now.id, now.clone());
    }

    /// Whether this run is the first to say that it changes this object.
    pub(crate) fn begin(&mut self, id: FileId) -> bool {
        self.said.insert(id)
    }

    /// What a run that was cut off had begun to change.
    pub(super) fn begin_read(&mut self, rel: Rel, was: Snapshot) {
        self.begun.entry(was.id).or_insert((rel.0, was));
    }

    /// That run came to its end: only what it left exactly counts now.
    pub(super) fn ended(&mut self) {
        self.begun.clear();
        self.said.clear();
    }

    /// Whether a run that was cut off had begun to change this object.
    pub(crate) fn has_begun(&self, id: FileId) -> bool {
        self.begun.contains_key(&id)
    }

    /// What a run that was cut off had begun to change; from now on only what is noted counts.
    pub(crate) fn take_begun(&mut self) -> Vec<(Vec<u8>, Snapshot)> {
        std::mem::take(&mut self.begun).into_values().collect()
    }

    /// An object that an earlier version noted.
    pub(super) fn read_earlier(&mut self, now: Snapshot) {
        let known = Known {
            now,
            at: Vec::new(),
            anywhere: true,
        };
        self.known.insert(known.now.id, known);
    }

    /// Takes a note over.
    pub(super) fn apply(&mut self, note: &Note) {
        self.count += 1;
        match note {
            Note::Placed { rel, now } => {
                self.names.insert(rel.0.clone(), (self.count, now.id));
                let known = self.learn(now);
                if !known.at.contains(&rel.0) {
                    known.at.push(rel.0.clone());
                }
            }
            Note::Known { now } => drop(self.learn(now)),
            Note::Gone { rel, by } => {
                let all = self.gone.entry(rel.0.clone()).or_default();
                all.retain(|(_, other)| other != by);
                all.push((self.count, by.clone()));
            }
            Note::Back { rel, by } => {
                if let Some(all) = self.gone.get_mut(&rel.0) {
                    all.retain(|(_, other)| other != by);
                    if all.is_empty() {
                        self.gone.remove(&rel.0);
                    }
                }
            }
        }
    }

    fn learn(&mut self, now: &Snapshot) -> &mut Known {
        self.begun.remove(&now.id);
        let known = self.known.entry(now.id).or_insert_with(|| Known {
            now: now.clone(),
            at: Vec::new(),
            anywhere: false,
        });
        known.now = now.clone();
        known
    }

    fn settle_directory(&mut self, rel: &[u8]) {
        let id = self.pending_dirs.remove(rel);
        if let Some(known) = id.and_then(|id| self.known.get(&id)) {
            let (rel, now) = (Rel(rel.to_vec()), known.now.clone());
            self.pending.push(Note::Placed { rel, now });
        }
    }

    /// The notes that are not written yet.
    pub(super) fn take_pending(&mut self) -> Vec<Note> {
        let dirs: Vec<_> = self.pending_dirs.keys().cloned().collect();
        dirs.iter().for_each(|rel| self.settle_directory(rel));
        std::mem::take(&mut self.pending)
    }

    /// Everything, as notes that give it again; and what an earlier version noted.
    pub(super) fn all(&self) -> (Vec<Note>, Vec<Snapshot>) {
        let mut notes = Vec::new();
        for known in self.known.values() {
            let now = &known.now;
            let placed = known.at.iter().map(|at| Note::Placed {
                rel: Rel(at.clone()),
                now: now.clone(),
            });
            notes.extend(placed.map(|note| (0, note)));
            if known.at.is_empty() {
                notes.push((0, Note::Known { now: now.clone() }));
            }
        }
        for (rel, (number, id)) in &self.names {
            if let Some(known) = self.known.get(id) {
                let (rel, now) = (Rel(rel.clone()), known.now.clone());
                notes.push((*number, Note::Placed { rel, now }));
            }
        }
        for (rel, steps) in &self.gone {
            for (number, by) in steps {
                let (rel, by) = (Rel(rel.clone()), by.clone());
                notes.push((*number, Note::Gone { rel, by }));
            }
        }
        notes.sort_by_key(|(number, _)| *number);
        let earlier = self.known.values().filter(|k| k.anywhere);
        let earlier = earlier.map(|k| k.now.clone()).collect();
        (notes.into_iter().map(|(_, note)| note).collect(), earlier)
    }
}
