//! Many patterns at once: their joint automaton, made deterministic as far as a search walks it.
//!
//! A [`Machine`] holds lines of steps ([`Nfa`]), each belonging to an owner (a pattern, a member list,
//! a rule: whatever the caller wants to tell apart). A state is where the universe stands and which
//! positions of all lines are alive. [`Machine::explore`] walks the states breadth first and calls the
//! visitor once for every *combination of owners that match*, with the shortest text that has it; among
//! texts of one length, the one that reads best. So what the visitor never saw does not exist.
//!
//! Invariants: bytes that no alive position tells apart are one class and walked once; the search ends
//! within [`Limits`](super::Limits) or says so; a state without a position of every required owner
//! group is not walked, since no text that goes through it can matter.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    rc::Rc,
};

use super::{
    limits::{Meter, TooLarge},
    universe::{DEAD, Universe},
};
use crate::nfa::{ByteSet, Nfa, Step};

/// What leaves a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// One byte, to the next position.
    Byte(u8),
    /// A byte of a set, to the next position.
    Set(u32),
    /// Bytes of a set, back here; the next position is alive, too.
    Loop(u32),
    DirsOpen,
    DirsLoop,
    BelowOpen,
    BelowFirst,
    /// Accepts whatever follows: nothing else of the owner matters any more.
    Rest,
    /// Accepts here.
    End,
}

/// The joint automaton.
#[derive(Debug)]
pub(crate) struct Machine {
    universe: &'static Universe,
    moves: Vec<Move>,
    owners: Vec<u32>,
    sets: Vec<ByteSet>,
    set_ids: HashMap<[u64; 4], u32>,
    starts: Vec<u32>,
    /// The first position of an owner that accepts whatever follows stands for all of them.
    rests: HashMap<u32, u32>,
    /// Which required groups an owner belongs to, as bits; empty when nothing is required.
    required: HashMap<u32, u8>,
    wanted: u8,
    /// Whether paths may be directories, which a trailing `/**` looks at.
    directories: bool,
}

/// A text with the owners that match it. No shorter text has the same owners.
#[derive(Debug)]
pub(crate) struct Cell<'c> {
    pub text: &'c [u8],
    /// Whether the path is taken to be a directory.
    pub directory: bool,
    /// The universe's mark.
    pub mark: u8,
    /// Sorted, each once.
    pub owners: &'c [u32],
}

/// Looks at one combination; breaks when it has seen enough.
pub(crate) type Visit<'v> = dyn FnMut(&mut Meter, Cell<'_>) -> Looked + 'v;

/// Whether a search goes on.
pub(crate) type Looked = Result<ControlFlow<()>, TooLarge>;

/// Where a search stands: the universe's state and the positions alive, sorted.
type Key = (u8, Rc<[u32]>);

struct Node {
    parent: u32,
    byte: u8,
    key: Key,
}

impl Machine {
    /// An automaton without patterns.
    pub fn new(universe: &'static Universe, directories: bool) -> Machine {
        Machine {
            universe,
            moves: Vec::new(),
            owners: Vec::new(),
            sets: Vec::new(),
            set_ids: HashMap::new(),
            starts: Vec::new(),
            rests: HashMap::new(),
            required: HashMap::new(),
            wanted: 0,
            directories,
        }
    }

    /// Adds a line of an owner.
    pub fn add(&mut self, owner: u32, nfa: &Nfa) {
        self.starts.push(self.moves.len() as u32);
        for state in 0..nfa.size() {
            let next = nfa.step_at(state);
            let last = state + 2 == nfa.size();
            let step = match next {
                None => Move::End,
                Some(Step::Byte(set)) => match set.only() {
                    Some(byte) => Move::Byte(byte),
                    None => Move::Set(self.set(set)),
                },
                Some(Step::Loop(set)) if last && set == ByteSet::all() => Move::Rest,
                Some(Step::Loop(set)) => Move::Loop(self.set(set)),
                Some(Step::DirsOpen) => Move::DirsOpen,
                Some(Step::DirsLoop) => Move::DirsLoop,
                Some(Step::BelowOpen) => Move::BelowOpen,
                Some(Step::BelowFirst) => Move::BelowFirst,
            };
            if step == Move::Rest {
                let here = self.moves.len() as u32;
                self.rests.entry(owner).or_insert(here);
            }
            self.moves.push(step);
            self.owners.push(owner);
        }
    }

    /// Only texts matter that an owner of the group (0 to 7) may still match.
    pub fn require(&mut self, owner: u32, group: u8) {
        *self.required.entry(owner).or_default() |= 1 << group;
        self.wanted |= 1 << group;
    }

    /// How many positions there are.
    pub fn size(&self) -> usize {
        self.moves.len()
    }

    fn set(&mut self, set: ByteSet) -> u32 {
        let next = self.sets.len() as u32;
        *self.set_ids.entry(set.words()).or_insert_with(|| {
            self.sets.push(set);
            next
        })
    }

    /// Calls `visit` for every combination of owners that match some canonical text, the shortest
    /// text first, until it breaks. `Ok` after a break or when there is no further combination.
    pub fn explore(&self, meter: &mut Meter, visit: &mut Visit<'_>) -> Result<(), TooLarge> {
        let mut search = Search {
            machine: self,
            nodes: Vec::new(),
            known: HashSet::new(),
            classes: ClassCache::new(),
            held: 0,
        };
        let mut seen: HashSet<(u8, Vec<u32>)> = HashSet::new();
        let start = self.closed(self.starts.clone());
        search.push(u32::MAX, 0, (0, start), meter)?;
        let mut at = 0;
        while at < search.nodes.len() {
            let key = search.nodes[at].key.clone();
            if let Some(mark) = self.universe.mark(key.0) {
                let root = search.nodes[at].parent == 0 && search.nodes[at].byte == b'/';
                // The root folder is a directory, whoever looks.
                let kinds: &[bool] = match (self.directories, root) {
                    (false, _) => &[false],
                    (true, true) => &[true, false],
                    (true, false) => &[false, true],
                };
                for &directory in kinds {
                    let owners = self.accepted(&key.1, directory);
                    meter.pay(1 + owners.len())?;
                    if !self.is_wanted(owners.iter().copied())
                        || !seen.insert((mark, owners.clone()))
                    {
                        continue;
                    }
                    let text = search.text(at);
                    let cell = Cell {
                        text: &text,
                        directory,
                        mark,
                        owners: &owners,
                    };
                    if visit(meter, cell)?.is_break() {
                        return Ok(());
                    }
                }
            }
            search.expand(at, &key, meter)?;
            at += 1;
        }
        Ok(())
    }

    /// The owners that accept at these positions.
    fn accepted(&self, positions: &[u32], directory: bool) -> Vec<u32> {
        let accepts = |p: &&u32| match self.moves[**p as usize] {
            Move::End | Move::Rest => true,
            Move::BelowOpen | Move::BelowFirst => directory,
            _ => false,
        };
        let mut owners: Vec<u32> = positions
            .iter()
            .filter(accepts)
            .map(|p| self.owners[*p as usize])
            .collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    fn is_wanted(&self, owners: impl Iterator<Item = u32>) -> bool {
        if self.wanted == 0 {
            return true;
        }
        let mut found = 0;
        for owner in owners {
            found |= self.required.get(&owner).copied().unwrap_or(0);
            if found == self.wanted {
                return true;
            }
        }
        false
    }

    /// Adds what is reachable without a byte, drops what an owner that accepts everything makes
    /// superfluous, and brings the rest in order.
    fn closed(&self, mut positions: Vec<u32>) -> Rc<[u32]> {
        let mut i = 0;
        let mut rest: HashSet<u32> = HashSet::new();
        while i < positions.len() {
            let p = positions[i];
            match self.moves[p as usize] {
                Move::Loop(_) => positions.push(p + 1),
                Move::Rest => {
                    rest.insert(self.owners[p as usize]);
                }
                _ => {}
            }
            i += 1;
        }
        if !rest.is_empty() {
            positions.retain(|p| !rest.contains(&self.owners[*p as usize]));
            positions.extend(rest.iter().map(|owner| self.rests[owner]));
        }
        positions.sort_unstable();
        positions.dedup();
        positions.into()
    }
}

struct Search<'m> {
    machine: &'m Machine,
    nodes: Vec<Node>,
    known: HashSet<Key>,
    classes: ClassCache,
    held: usize,
}

impl Search<'_> {
    fn push(&mut self, parent: u32, byte: u8, key: Key, meter: &mut Meter) -> Result<(), TooLarge> {
        let owners = key.1.iter().map(|p| self.machine.owners[*p as usize]);
        if !self.machine.is_wanted(owners) || self.known.contains(&key) {
            return Ok(());
        }
        self.held += key.1.len();
        if self.nodes.len() >= meter.limits.states || self.held > meter.limits.positions {
            return Err(TooLarge::States);
        }
        self.known.insert(key.clone());
        self.nodes.push(Node { parent, byte, key });
        Ok(())
    }

    /// The text that leads to a node.
    fn text(&self, mut at: usize) -> Vec<u8> {
        let mut text = Vec::new();
        while self.nodes[at].parent != u32::MAX {
            text.push(self.nodes[at].byte);
            at = self.nodes[at].parent as usize;
        }
        text.reverse();
        text
    }

    /// Walks every class of bytes once.
    fn expand(&mut self, at: usize, key: &Key, meter: &mut Meter) -> Result<(), TooLarge> {
        let machine = self.machine;
        let row = machine.universe.row(key.0);
        let classes = Classes::of(machine, key, &mut self.classes);
        // Finding the classes is work, too.
        meter.pay(16)?;
        // Positions that only one byte moves wait in a list of their own.
        let mut singles: Vec<(u8, u32)> = Vec::new();
        let mut others: Vec<u32> = Vec::new();
        for &p in key.1.iter() {
            match machine.moves[p as usize] {
                Move::Byte(byte) => singles.push((byte, p)),
                Move::End => {}
                _ => others.push(p),
            }
        }
        singles.sort_unstable();
        for (byte, next) in classes.representatives(machine.universe, row) {
            let mut positions: Vec<u32> = Vec::new();
            let from = singles.partition_point(|(b, _)| *b < byte);
            let same = singles[from..].iter().take_while(|(b, _)| *b == byte);
            positions.extend(same.map(|(_, p)| p + 1));
            for &p in &others {
                machine.advance(p, byte, &mut positions);
            }
            meter.pay(1 + others.len() + positions.len())?;
            let key = (next, machine.closed(positions));
            self.push(at as u32, byte, key, meter)?;
        }
        Ok(())
    }
}

impl Machine {
    /// The positions after a byte.
    fn advance(&self, p: u32, byte: u8, next: &mut Vec<u32>) {
        match self.moves[p as usize] {
            Move::Byte(b) if b == byte => next.push(p + 1),
            Move::Set(set) if self.sets[set as usize].contains(byte) => next.push(p + 1),
            Move::Loop(set) if self.sets[set as usize].contains(byte) => next.push(p),
            Move::DirsOpen if byte == b'/' => next.extend([p + 1, p + 2]),
            Move::DirsLoop => {
                next.push(p);
                if byte == b'/' {
                    next.push(p + 1);
                }
            }
            Move::BelowOpen if byte == b'/' => next.push(p + 1),
            Move::BelowFirst => next.push(p + 1),
            Move::Rest => next.push(p),
            _ => {}
        }
    }
}

/// Which bytes a state cannot tell apart.
#[derive(Clone)]
struct Classes {
    of: [u16; 256],
    count: u16,
}

/// Classes by what makes them: the universe's state and the sets of the positions.
type ClassCache = HashMap<(u8, Vec<u32>), Classes>;

impl Classes {
    fn of(machine: &Machine, key: &Key, cache: &mut ClassCache) -> Classes {
        let mut sets: Vec<u32> = Vec::new();
        let mut alone = [false; 256];
        for &p in key.1.iter() {
            match machine.moves[p as usize] {
                Move::Byte(byte) => alone[usize::from(byte)] = true,
                Move::Set(set) | Move::Loop(set) => sets.push(set),
                Move::DirsOpen | Move::DirsLoop | Move::BelowOpen => {
                    alone[usize::from(b'/')] = true;
                }
                Move::BelowFirst | Move::Rest | Move::End => {}
            }
        }
        sets.sort_unstable();
        sets.dedup();
        let made = cache
            .entry((key.0, sets))
            .or_insert_with_key(|(state, sets)| {
                let row = machine.universe.row(*state);
                let mut classes = Classes {
                    of: std::array::from_fn(|b| u16::from(row[b])),
                    count: u16::from(u8::MAX) + 1,
                };
                for set in sets {
                    classes.refine(&machine.sets[*set as usize]);
                }
                classes
            });
        let mut classes = made.clone();
        for byte in (0..=u8::MAX).filter(|b| alone[usize::from(*b)]) {
            classes.of[usize::from(byte)] = classes.count;
            classes.count += 1;
        }
        classes
    }

    /// Splits every class by a set. Ids are given out anew, so that they never run out.
    fn refine(&mut self, set: &ByteSet) {
        let mut ids = [[u16::MAX; 2]; 256];
        let mut count = 0;
        for byte in 0..=u8::MAX {
            let class = &mut self.of[usize::from(byte)];
            let id = &mut ids[usize::from(*class)][usize::from(set.contains(byte))];
            if *id == u16::MAX {
                *id = count;
                count += 1;
            }
            *class = *id;
        }
        self.count = count;
    }

    /// The byte of each class that reads best, with the universe's next state.
    fn representatives<'u>(
        self,
        universe: &'u Universe,
        row: &'u [u8; 256],
    ) -> impl Iterator<Item = (u8, u8)> + 'u {
        let mut seen = [false; 1024];
        universe.preference().iter().filter_map(move |byte| {
            let next = row[usize::from(*byte)];
            let class = usize::from(self.of[usize::from(*byte)]);
            (next != DEAD && !std::mem::replace(&mut seen[class], true)).then_some((*byte, next))
        })
    }
}

/// Whether two lines certainly have no text in common. Cheap: pairs of positions are walked, not sets,
/// and what is not canonical counts as a text, too. After `most` pairs the answer is "perhaps".
pub(crate) fn certainly_disjoint(a: &Nfa, b: &Nfa, most: usize) -> bool {
    let (front_a, front_b) = (a.literal(), b.literal());
    let common = front_a.len().min(front_b.len());
    if front_a[..common] != front_b[..common] {
        return true;
    }
    let (tail_a, tail_b) = (a.tail(), b.tail());
    let end = tail_a.len().min(tail_b.len());
    if tail_a[tail_a.len() - end..] != tail_b[tail_b.len() - end..] {
        return true;
    }
    let width = b.size();
    let mut seen = vec![false; a.size() * width];
    let mut open = vec![(common, common)];
    let mut walked = 0;
    while let Some((p, q)) = open.pop() {
        if std::mem::replace(&mut seen[p * width + q], true) {
            continue;
        }
        walked += 1;
        if walked > most {
            return false;
        }
        if may_end(a, p) && may_end(b, q) {
            return false;
        }
        let (from_a, from_b) = (ways(a, p), ways(b, q));
        for (set_a, next_a) in from_a.iter().flatten() {
            match set_a {
                None => open.push((*next_a, q)),
                Some(set_a) => {
                    for (set_b, next_b) in from_b.iter().flatten() {
                        if set_b.is_some_and(|set_b| !set_a.and(&set_b).is_empty()) {
                            open.push((*next_a, *next_b));
                        }
                    }
                }
            }
        }
        for (set_b, next_b) in from_b.iter().flatten() {
            if set_b.is_none() {
                open.push((p, *next_b));
            }
        }
    }
    true
}

fn may_end(nfa: &Nfa, state: usize) -> bool {
    matches!(
        nfa.step_at(state),
        None | Some(Step::BelowOpen | Step::BelowFirst)
    )
}

/// Where a position leads, and over which bytes; `None` is no byte at all.
fn ways(nfa: &Nfa, state: usize) -> [Option<(Option<ByteSet>, usize)>; 2] {
    let slash = ByteSet::single(b'/');
    match nfa.step_at(state) {
        None => [None, None],
        Some(Step::Byte(set)) => [Some((Some(set), state + 1)), None],
        Some(Step::Loop(set)) => [Some((Some(set), state)), Some((None, state + 1))],
        Some(Step::DirsOpen) => [
            Some((Some(slash), state + 1)),
            Some((Some(slash), state + 2)),
        ],
        Some(Step::DirsLoop) => [
            Some((Some(ByteSet::all()), state)),
            Some((Some(slash), state + 1)),
        ],
        Some(Step::BelowOpen) => [Some((Some(slash), state + 1)), None],
        Some(Step::BelowFirst) => [Some((Some(ByteSet::all()), state + 1)), None],
    }
}
