//! A view (a policy in the kernel) and a session (a governed tree), as the daemon knows them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
};

use agentwall_action::Verb;
use agentwall_kernel::wire::Unseen;

use super::{
    book::{SessionNote, SourceNote, ViewNote},
    policy::Ready,
};

/// How many former policies of a view are kept: their events may still be on their way.
const FORMER: usize = 4;

/// A policy in the kernel.
#[derive(Debug, Clone)]
pub struct View {
    /// Its number.
    pub number: u32,
    /// The name of its subject.
    pub name: String,
    /// Where the policy is from.
    pub policy: PathBuf,
    /// Nothing is refused, only recorded.
    pub audit: bool,
    /// The generation in force.
    pub generation: u64,
    /// The policy in force.
    pub ready: Ready,
    /// Its table is in the kernel. Where nobody is under it any more it is not, and only its words are
    /// kept for events that are still on their way.
    pub installed: bool,
    former: VecDeque<(u64, Ready)>,
    /// Plain allows that are in the ledger already.
    pub told: BTreeMap<Verb, u64>,
    /// Plain allows that were decided here and are not in the ledger yet (the monitor).
    pub allowed: BTreeMap<Verb, u64>,
}

impl View {
    /// A new one. `told` is what the kernel has counted at that number before.
    pub fn new(number: u32, name: &str, policy: PathBuf, ready: Ready) -> View {
        View {
            number,
            name: name.to_owned(),
            policy,
            audit: false,
            generation: 0,
            ready,
            installed: false,
            former: VecDeque::new(),
            told: BTreeMap::new(),
            allowed: BTreeMap::new(),
        }
    }

    /// The policy of a generation.
    pub fn of(&self, generation: u64) -> Option<&Ready> {
        if generation == self.generation {
            return Some(&self.ready);
        }
        let found = self.former.iter().find(|(g, _)| *g == generation);
        found.map(|(_, ready)| ready)
    }

    /// Another policy is in force.
    pub fn replace(&mut self, ready: Ready, generation: u64) {
        let former = std::mem::replace(&mut self.ready, ready);
        self.former.push_front((self.generation, former));
        self.former.truncate(FORMER);
        self.generation = generation;
    }

    /// For the book.
    pub fn note(&self) -> ViewNote {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        ViewNote {
            view: self.number,
            name: self.name.clone(),
            policy: self.policy.clone(),
            audit: self.audit,
            generation: self.generation,
            digest: self.ready.digest().to_owned(),
            sources: self.ready.sources.iter().map(SourceNote::of).collect(),
            workspace: text(&self.ready.variables.workspace),
            home: text(&self.ready.variables.home),
            told: by_name(&self.told),
            allowed: by_name(&self.allowed),
        }
    }
}

fn by_name(counts: &BTreeMap<Verb, u64>) -> Vec<(String, u64)> {
    let named = counts
        .iter()
        .map(|(verb, n)| (verb.as_str().to_owned(), *n));
    named.collect()
}

/// A governed tree.
#[derive(Debug, Clone)]
pub struct Session {
    /// What is known of it.
    pub note: SessionNote,
    /// The number of its next entry.
    pub seq: u64,
    /// What is not seen of it, as far as it stands in the ledger (the monitor).
    pub unseen: BTreeSet<Unseen>,
}

impl Session {
    /// One whose entries begin with number `seq`.
    pub fn new(note: SessionNote, seq: u64) -> Session {
        Session {
            note,
            seq,
            unseen: BTreeSet::new(),
        }
    }
}
