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

use std::collections::HashMap;

use super::parts::{ByteSets, Code, Found, LOOP, SET, TextPart, Walk};

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
    pub moves: Vec<(u8, u32)>,
    /// What reaching this state says.
    pub outcome: Outcome,
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

#[derive(Debug, Default)]
struct Node {
    edges: Vec<(Code, u32)>,
    /// The set this node stays alive on.
    stays: Option<Code>,
    /// Parts that are done when this node is reached.
    done: Vec<u32>,
    /// Parts that are found when the walk ends with this node alive.
    ending: Vec<u32>,
    /// Parts that are found then for a directory.
    directory: Vec<u32>,
}

/// Builds the automaton of parts that have one walk.
pub(crate) fn build(
    parts: &[&TextPart],
    walk: Walk,
    sets: &ByteSets,
    limit: usize,
) -> Result<Dfa, TooManyStates> {
    let trie = trie(parts);
    let (classes, class_count) = classes(&trie, sets);
    let mut builder = Builder {
        trie: &trie,
        walk,
        classes: &classes,
        class_count,
        inside: inside(&trie, sets, &classes, class_count),
        index: HashMap::new(),
        keys: Vec::new(),
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

fn trie(parts: &[&TextPart]) -> Vec<Node> {
    let mut nodes = vec![Node::default()];
    let mut edges: HashMap<(u32, Code), u32> = HashMap::new();
    for (id, part) in (0u32..).zip(parts) {
        let mut at = 0u32;
        let below = part.codes.len().saturating_sub(2);
        for (i, code) in part.codes.iter().enumerate() {
            if part.found == Found::Below && i >= below {
                nodes[at as usize].directory.push(id);
            }
            at = *edges.entry((at, *code)).or_insert_with(|| {
                let new = nodes.len() as u32;
                nodes.push(Node {
                    stays: (*code >= LOOP).then_some(*code),
                    ..Node::default()
                });
                nodes[at as usize].edges.push((*code, new));
                new
            });
        }
        let last = &mut nodes[at as usize];
        match part.found {
            Found::Ending => last.ending.push(id),
            Found::Passing | Found::Below => last.done.push(id),
        }
    }
    nodes
}

/// Bytes that no step tells apart share a class. `/` is always alone: walks look out for it.
fn classes(trie: &[Node], sets: &ByteSets) -> (Vec<u8>, usize) {
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
    for (code, _) in trie.iter().flat_map(|n| &n.edges) {
        match u8::try_from(*code) {
            Ok(byte) => single[usize::from(byte)] = true,
            Err(_) => {
                wide.insert(*code);
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
fn inside(
    trie: &[Node],
    sets: &ByteSets,
    classes: &[u8],
    count: usize,
) -> HashMap<Code, Vec<bool>> {
    let mut inside = HashMap::new();
    for (code, _) in trie
        .iter()
        .flat_map(|n| &n.edges)
        .filter(|(c, _)| *c >= SET)
    {
        inside.entry(*code).or_insert_with(|| {
            let mut takes = vec![false; count];
            for b in 0..=255u8 {
                takes[usize::from(classes[usize::from(b)])] |= sets.of(*code).contains(b);
            }
            takes
        });
    }
    inside
}

type Key = (Vec<u32>, Vec<u32>);

struct Builder<'a> {
    trie: &'a [Node],
    walk: Walk,
    classes: &'a [u8],
    class_count: usize,
    inside: HashMap<Code, Vec<bool>>,
    index: HashMap<Key, u32>,
    keys: Vec<Key>,
    states: Vec<State>,
}

impl Builder<'_> {
    fn state(&mut self, alive: Vec<u32>, passed: Vec<u32>) -> u32 {
        let key = (alive, passed);
        if let Some(id) = self.index.get(&key) {
            return *id;
        }
        let id = self.keys.len() as u32;
        let collect = |of: fn(&Node) -> &Vec<u32>| {
            let nodes = key.0.iter().map(|n| &self.trie[*n as usize]);
            let mut ids: Vec<u32> = nodes.flat_map(of).copied().collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        self.states.push(State {
            outcome: Outcome {
                passed: key.1.clone(),
                ending: collect(|n| &n.ending),
                directory: collect(|n| &n.directory),
            },
            ..State::default()
        });
        self.keys.push(key.clone());
        self.index.insert(key, id);
        id
    }

    /// Adds the loops that may be entered without a byte; drops nodes that have nothing ahead.
    fn closed(&self, mut alive: Vec<u32>) -> Vec<u32> {
        let mut at = 0;
        while at < alive.len() {
            let node = &self.trie[alive[at] as usize];
            let loops = node.edges.iter().filter(|(code, _)| *code >= LOOP);
            alive.extend(loops.map(|(_, child)| *child));
            at += 1;
        }
        alive.retain(|n| {
            let node = &self.trie[*n as usize];
            node.stays.is_some()
                || !node.edges.is_empty()
                || !node.ending.is_empty()
                || !node.directory.is_empty()
        });
        alive.sort_unstable();
        alive.dedup();
        alive
    }

    fn expand(&mut self, at: usize) {
        let alive = self.keys[at].0.clone();
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
        self.states[at].moves = moves;
    }

    /// The nodes that classes of bytes lead to; classes that lead to none are left out.
    fn successors(&self, alive: &[u32]) -> Vec<(Vec<u8>, Vec<u32>)> {
        let mut own: Vec<Option<Vec<u32>>> = vec![None; self.class_count];
        let mut stay: Vec<(u32, &[bool])> = Vec::new();
        for n in alive {
            let node = &self.trie[*n as usize];
            if let Some(code) = node.stays {
                stay.push((*n, self.inside(code)));
            }
            for (code, child) in &node.edges {
                if let Ok(byte) = u8::try_from(*code) {
                    let class = usize::from(self.classes[usize::from(byte)]);
                    own[class].get_or_insert_default().push(*child);
                } else if *code < LOOP {
                    for (class, inside) in self.inside(*code).iter().enumerate() {
                        if *inside {
                            own[class].get_or_insert_default().push(*child);
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
        let done = reached.iter().flat_map(|n| &self.trie[*n as usize].done);
        let mut passed: Vec<u32> = done.copied().collect();
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

/// Where most classes lead; `first` of them lead to the first state.
fn most_common(moves: &[(u8, u32)], first: usize) -> u32 {
    let mut count: HashMap<u32, usize> = HashMap::from([(0, first)]);
    for (_, to) in moves {
        *count.entry(*to).or_default() += 1;
    }
    let best = count.into_iter().max_by_key(|(to, n)| (*n, *to));
    best.map_or(0, |(to, _)| to)
}

impl Dfa {
    /// Merges states that behave alike, from the last discovered to the first.
    fn merge(&mut self) {
        const OWN: u32 = u32::MAX;
        let mut stands_for: Vec<u32> = (0..self.states.len() as u32).collect();
        let mut seen: HashMap<State, u32> = HashMap::with_capacity(self.states.len());
        for id in (1..self.states.len() as u32).rev() {
            let target = |to: u32| match to {
                to if to == id => OWN,
                to => stands_for[to as usize],
            };
            let state = &self.states[id as usize];
            let mut alike = State {
                default: target(state.default),
                moves: state
                    .moves
                    .iter()
                    .map(|(c, to)| (*c, target(*to)))
                    .collect(),
                outcome: state.outcome.clone(),
            };
            let default = alike.default;
            alike.moves.retain(|(_, to)| *to != default);
            stands_for[id as usize] = *seen.entry(alike).or_insert(id);
        }
        // Those that stand for themselves move together.
        let mut renumbered = vec![0u32; self.states.len()];
        let mut kept = Vec::new();
        for (id, state) in (0u32..).zip(std::mem::take(&mut self.states)) {
            if stands_for[id as usize] == id {
                renumbered[id as usize] = kept.len() as u32;
                kept.push(state);
            }
        }
        let new = |to: u32| renumbered[stands_for[to as usize] as usize];
        for state in &mut kept {
            state.default = new(state.default);
            let default = state.default;
            let moves = state.moves.iter().map(|(c, to)| (*c, new(*to)));
            state.moves = moves.filter(|(_, to)| *to != default).collect();
        }
        self.start = new(self.start);
        self.states = kept;
    }
}
