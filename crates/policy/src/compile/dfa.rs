//! Subset construction: from the parts of one walk to a deterministic automaton.
//!
//! The parts are first laid into a trie, so that common beginnings cost once; a state is a set of trie
//! nodes that are alive together. A part that is done is *emitted* by the state that is reached and
//! then forgotten: what the automaton knows is only where it stands, never what it has seen, which is
//! what keeps it small. Still, loops of many patterns in one segment can multiply (`a1*` … beside
//! `*.b1` …), so that construction stops at a limit and the caller splits the parts.
//!
//! States that behave alike are merged: every state whose successors come later in the order of
//! discovery, or are itself. That is all of them for parts without loops.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use hashbrown::HashTable;

use super::{
    parts::{ByteSets, Code, LOOP, SET, TextPart, Walk},
    trie::{NONE, Trie},
};

/// A deterministic automaton. State 0 is where nothing has begun.
#[derive(Debug, Default)]
pub(crate) struct Dfa {
    /// The class of each byte, from 0.
    pub classes: Vec<u8>,
    pub class_count: usize,
    pub start: u32,
    pub states: Vec<State>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Where every class goes that is not in `moves`.
    pub default: u32,
    /// By class, sorted; none goes to `default`.
    pub moves: Box<[(u8, u32)]>,
    /// What reaching this state says, if it says anything.
    pub outcome: Option<Box<Outcome>>,
}

impl State {
    /// Parts found on the way here.
    pub(crate) fn passes(&self) -> bool {
        self.outcome.as_ref().is_some_and(|o| !o.passed.is_empty())
    }
}

/// Parts, by their number among those the automaton was made of; sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Outcome {
    /// Found on the way here.
    pub passed: Vec<u32>,
    /// Found if the walk ends here.
    pub ending: Vec<u32>,
    /// Found as well, if it ends here and the text names a directory.
    pub directory: Vec<u32>,
}

impl Outcome {
    pub(crate) fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.ending.is_empty() && self.directory.is_empty()
    }
}

/// The limit was reached.
#[derive(Debug)]
pub(crate) struct TooManyStates;

/// Builds the automaton of parts that have one walk.
pub(crate) fn build(
    parts: &[&TextPart],
    walk: Walk,
    sets: &ByteSets,
    limit: usize,
) -> Result<Dfa, TooManyStates> {
    let trie = Trie::new(parts);
    let (classes, class_count) = classes(&trie, sets);
    let mut builder = Builder {
        trie: &trie,
        walk,
        classes: &classes,
        class_count,
        inside: inside(&trie, sets, &classes, class_count),
        index: HashTable::new(),
        hasher: RandomState::new(),
        keys: Vec::new(),
        sets: Vec::new(),
        states: Vec::new(),
    };
    // The state in which nothing has begun is the first, whatever the parts.
    let idle = match walk {
        Walk::Anywhere => builder.closed(vec![0]),
        _ => Vec::new(),
    };
    builder.state(idle, Vec::new());
    let start = match walk {
        Walk::Inner | Walk::Anywhere => 0,
        Walk::Front | Walk::Back => {
            let alive = builder.closed(vec![0]);
            builder.state(alive, Vec::new())
        }
    };
    let mut at = 0;
    while at < builder.keys.len() {
        if builder.keys.len() > limit {
            return Err(TooManyStates);
        }
        builder.expand(at);
        at += 1;
    }
    let mut dfa = Dfa {
        start,
        states: builder.states,
        classes,
        class_count,
    };
    dfa.merge();
    Ok(dfa)
}

/// Bytes that no step tells apart share a class. `/` is always alone: walks look out for it.
fn classes(trie: &Trie, sets: &ByteSets) -> (Vec<u8>, usize) {
    let mut group = [0u32; 256];
    let mut count = 1u32;
    let mut refine = |inside: &dyn Fn(u8) -> bool| {
        let mut renamed: HashMap<(u32, bool), u32> = HashMap::new();
        for b in 0..=255u8 {
            let key = (group[usize::from(b)], inside(b));
            let next = renamed.len() as u32;
            group[usize::from(b)] = *renamed.entry(key).or_insert(next);
        }
        count = renamed.len() as u32;
    };
    refine(&|b| b == b'/');
    let (mut single, mut wide) = ([false; 256], std::collections::BTreeSet::new());
    for node in &trie.nodes[1..] {
        match u8::try_from(node.code) {
            Ok(byte) => single[usize::from(byte)] = true,
            Err(_) => {
                wide.insert(node.code);
            }
        }
    }
    for b in 0..=255u8 {
        if single[usize::from(b)] {
            refine(&|x| x == b);
        }
    }
    for code in wide {
        refine(&|b| sets.of(code).contains(b));
    }
    let classes = group.iter().map(|g| *g as u8).collect();
    (classes, count as usize)
}

/// For every set or loop that occurs, which classes it takes.
fn inside(trie: &Trie, sets: &ByteSets, classes: &[u8], count: usize) -> HashMap<Code, Vec<bool>> {
    let mut inside = HashMap::new();
    for code in trie.nodes[1..].iter().map(|n| n.code).filter(|c| *c >= SET) {
        inside.entry(code).or_insert_with(|| {
            let mut takes = vec![false; count];
            for b in 0..=255u8 {
                takes[usize::from(classes[usize::from(b)])] |= sets.of(code).contains(b);
            }
            takes
        });
    }
    inside
}

/// What is alive, and what was found on the way: all of one after all of the other.
#[derive(Debug, Clone, Copy)]
struct Key {
    from: u32,
    alive: u32,
    passed: u32,
}

struct Builder<'a> {
    trie: &'a Trie,
    walk: Walk,
    classes: &'a [u8],
    class_count: usize,
    inside: HashMap<Code, Vec<bool>>,
    /// States by what stands in `keys`.
    index: HashTable<u32>,
    hasher: RandomState,
    keys: Vec<Key>,
    /// The nodes and parts of all keys.
    sets: Vec<u32>,
    states: Vec<State>,
}

impl Builder<'_> {
    /// What a key is about: nodes that are alive, and parts that were found.
    fn key(sets: &[u32], key: Key) -> (&[u32], &[u32]) {
        let both = &sets[key.from as usize..][..(key.alive + key.passed) as usize];
        both.split_at(key.alive as usize)
    }

    fn state(&mut self, alive: Vec<u32>, passed: Vec<u32>) -> u32 {
        let (sets, keys, hasher) = (&self.sets, &self.keys, &self.hasher);
        let hash = |of: (&[u32], &[u32])| hasher.hash_one(of);
        let wanted = hash((&alive, &passed));
        let same = |id: &u32| Self::key(sets, keys[*id as usize]) == (&alive, &passed);
        if let Some(id) = self.index.find(wanted, same) {
            return *id;
        }
        let id = self.keys.len() as u32;
        let rehash = |id: &u32| hash(Self::key(sets, keys[*id as usize]));
        self.index.insert_unique(wanted, id, rehash);
        let mut outcome = Outcome {
            passed: passed.clone(),
            ..Outcome::default()
        };
        for said in alive.iter().filter_map(|n| self.trie.said(*n)) {
            outcome.ending.extend(&said.ending);
            outcome.directory.extend(&said.directory);
        }
        for ids in [&mut outcome.ending, &mut outcome.directory] {
            ids.sort_unstable();
            ids.dedup();
        }
        self.states.push(State {
            outcome: (!outcome.is_empty()).then(|| Box::new(outcome)),
            ..State::default()
        });
        // The bounds of a policy keep all of these far below 2^32.
        self.keys.push(Key {
            from: self.sets.len() as u32,
            alive: alive.len() as u32,
            passed: passed.len() as u32,
        });
        self.sets.extend(alive.into_iter().chain(passed));
        id
    }

    /// Adds the loops that may be entered without a byte; drops nodes that have nothing ahead.
    fn closed(&self, mut alive: Vec<u32>) -> Vec<u32> {
        let mut at = 0;
        while at < alive.len() {
            let loops = self.trie.children(alive[at]);
            let loops = loops.filter(|(code, _)| *code >= LOOP);
            alive.extend(loops.map(|(_, child)| child));
            at += 1;
        }
        alive.retain(|n| {
            let said = self.trie.said(*n);
            self.trie.stays(*n).is_some()
                || self.trie.nodes[*n as usize].first_child != NONE
                || said.is_some_and(|s| !s.ending.is_empty() || !s.directory.is_empty())
        });
        alive.sort_unstable();
        alive.dedup();
        alive
    }

    fn expand(&mut self, at: usize) {
        let alive = Self::key(&self.sets, self.keys[at]).0.to_vec();
        let mut moves: Vec<(u8, u32)> = Vec::new();
        for (classes, reached) in self.successors(&alive) {
            let to = self.reached(reached);
            moves.extend(classes.into_iter().map(|class| (class, to)));
        }
        // Classes that are not named lead to the first state.
        let unnamed = self.class_count - moves.len();
        let default = most_common(&moves, unnamed);
        if default != 0 && unnamed > 0 {
            let named: Vec<u8> = moves.iter().map(|(class, _)| *class).collect();
            let all = (0..self.class_count).map(|c| c as u8);
            moves.extend(all.filter(|c| !named.contains(c)).map(|c| (c, 0)));
        }
        moves.retain(|(_, to)| *to != default);
        moves.sort_unstable();
        self.states[at].default = default;
        self.states[at].moves = moves.into_boxed_slice();
    }

    /// The nodes that classes of bytes lead to; classes that lead to none are left out.
    fn successors(&self, alive: &[u32]) -> Vec<(Vec<u8>, Vec<u32>)> {
        let mut own: Vec<Option<Vec<u32>>> = vec![None; self.class_count];
        let mut stay: Vec<(u32, &[bool])> = Vec::new();
        for n in alive {
            if let Some(code) = self.trie.stays(*n) {
                stay.push((*n, self.inside(code)));
            }
            for (code, child) in self.trie.children(*n) {
                if let Ok(byte) = u8::try_from(code) {
                    let class = usize::from(self.classes[usize::from(byte)]);
                    own[class].get_or_insert_default().push(child);
                } else if code < LOOP {
                    for (class, inside) in self.inside(code).iter().enumerate() {
                        if *inside {
                            own[class].get_or_insert_default().push(child);
                        }
                    }
                }
            }
        }
        if self.walk == Walk::Inner {
            let slash = usize::from(self.classes[usize::from(b'/')]);
            own[slash].get_or_insert_default().push(0);
        }
        // Classes that no edge names differ only by which loops take them: that is few kinds.
        let mut plain: Vec<(Vec<u8>, Vec<u32>)> = Vec::new();
        let mut found = Vec::new();
        for (class, own) in own.into_iter().enumerate() {
            let takes = stay.iter().filter(|(_, inside)| inside[class]);
            let takes = takes.map(|(n, _)| *n);
            if let Some(mut reached) = own {
                reached.extend(takes);
                found.push((vec![class as u8], reached));
            } else if !stay.is_empty() {
                match plain
                    .iter_mut()
                    .find(|(_, r)| takes.clone().eq(r.iter().copied()))
                {
                    Some((classes, _)) => classes.push(class as u8),
                    None => plain.push((vec![class as u8], takes.collect())),
                }
            }
        }
        plain.retain(|(_, reached)| !reached.is_empty());
        found.extend(plain);
        found
    }

    /// Which classes the set of a code takes.
    fn inside(&self, code: Code) -> &[bool] {
        self.inside.get(&code).map_or(&[], Vec::as_slice)
    }

    fn reached(&mut self, reached: Vec<u32>) -> u32 {
        let said = reached.iter().filter_map(|n| self.trie.said(*n));
        let mut passed: Vec<u32> = said.flat_map(|s| &s.done).copied().collect();
        passed.sort_unstable();
        passed.dedup();
        let mut reached = reached;
        if self.walk == Walk::Anywhere {
            reached.push(0);
        }
        let alive = self.closed(reached);
        self.state(alive, passed)
    }
}

/// Where most classes lead, of several the last; `first` of them lead to the first state.
fn most_common(moves: &[(u8, u32)], first: usize) -> u32 {
    let mut targets: Vec<u32> = moves.iter().map(|(_, to)| *to).collect();
    targets.sort_unstable();
    let runs = targets.chunk_by(|a, b| a == b);
    let counted = runs.map(|run| (run.len() + if run[0] == 0 { first } else { 0 }, run[0]));
    counted.chain([(first, 0)]).max().map_or(0, |(_, to)| to)
}

impl Dfa {
    /// Merges states that behave alike, from the last discovered to the first.
    fn merge(&mut self) {
        const OWN: u32 = u32::MAX;
        let hasher = RandomState::new();
        let mut stands_for: Vec<u32> = (0..self.states.len() as u32).collect();
        let mut seen: HashTable<u32> = HashTable::new();
        for id in (1..self.states.len() as u32).rev() {
            // In terms of the states that are kept; itself is the same for all.
            let mut state = std::mem::take(&mut self.states[id as usize]);
            state.lead(|to| match to {
                to if to == id => OWN,
                to => stands_for[to as usize],
            });
            let hash = hasher.hash_one(&state);
            let same = |other: &u32| self.states[*other as usize] == state;
            if let Some(other) = seen.find(hash, same) {
                stands_for[id as usize] = *other;
                continue;
            }
            self.states[id as usize] = state;
            let states = &self.states;
            seen.insert_unique(hash, id, |id| hasher.hash_one(&states[*id as usize]));
        }
        drop(seen);
        // Those that stand for themselves move together.
        let mut renumbered = vec![0u32; self.states.len()];
        let mut kept = Vec::new();
        for (id, mut state) in (0u32..).zip(std::mem::take(&mut self.states)) {
            if stands_for[id as usize] == id {
                renumbered[id as usize] = kept.len() as u32;
                state.lead(|to| if to == OWN { id } else { to });
                kept.push(state);
            }
        }
        let new = |to: u32| renumbered[stands_for[to as usize] as usize];
        for state in &mut kept {
            state.lead(new);
        }
        self.start = new(self.start);
        self.states = kept;
    }
}

impl State {
    /// Leads elsewhere; what then goes where the default goes is no move any more.
    fn lead(&mut self, new: impl Fn(u32) -> u32) {
        self.default = new(self.default);
        for (_, to) in &mut self.moves {
            *to = new(*to);
        }
        if self.moves.iter().any(|(_, to)| *to == self.default) {
            let moves = self.moves.iter().filter(|(_, to)| *to != self.default);
            self.moves = moves.copied().collect();
        }
    }
}
