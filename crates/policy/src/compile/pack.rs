//! Packing: an automaton as words that are walked where they lie, in memory, in a mapped file, or in
//! a BPF array.
//!
//! Rows of transitions are laid over one another so that the entries of one fall into the holes of
//! others (row displacement; Tarjan and Yao, "Storing a sparse table", 1979). A cell is two words, an
//! owner and a value; a state is the place of its first cell, its *base*. Reading a byte is one look
//! at the cell `base + 1 + class`: if the owner is the state, its value is the next state, else the
//! state's default is. The words are specified in `docs/policy-table.md`.

use super::{dfa::Dfa, table::Words};

/// In the owner of a first cell: never equal to an owner of a transition.
pub(crate) const FIRST: u32 = 1 << 31;
/// In a value: parts were found on the way into the state.
pub(crate) const PASSED: u32 = 1 << 31;
/// In a value: the state is left by a `/` alone.
pub(crate) const WAITS: u32 = 1 << 30;
/// The base in a value.
pub(crate) const BASE: u32 = WAITS - 1;

/// Words before the cells: the class of each byte, four to a word; the number of classes; the value
/// of the start; the number of cells.
pub(crate) const CLASS_WORDS: usize = 64;
pub(crate) const HEAD_WORDS: usize = CLASS_WORDS + 3;

/// How many places are tried before a row goes to the end.
const TRIES: usize = 48;

/// Writes the automaton. `outcomes` gives the word of each state's outcome, 0 for none.
pub(crate) fn pack(dfa: &Dfa, outcomes: &[u32], words: &mut Words) -> u32 {
    let mut cells = Cells::default();
    let rows: Vec<Vec<u32>> = dfa
        .states
        .iter()
        .zip(outcomes)
        .map(|(state, outcome)| {
            let moves = state.moves.iter().map(|(class, _)| 1 + u32::from(*class));
            let outcome = (*outcome != 0).then_some(1 + dfa.class_count as u32);
            moves.chain(outcome).collect()
        })
        .collect();
    // The state where nothing is alive lies at 0; then wide rows before narrow ones.
    let mut order: Vec<usize> = (1..rows.len()).collect();
    order.sort_by_key(|s| std::cmp::Reverse(rows[*s].len()));
    let mut bases = vec![0u32; rows.len()];
    for state in std::iter::once(0).chain(order) {
        bases[state] = cells.place(&rows[state]);
    }
    let slash = dfa.classes[usize::from(b'/')];
    let value = |to: u32| {
        let state = &dfa.states[to as usize];
        let waits = state.default == to && state.moves.iter().all(|(class, _)| *class == slash);
        let passed = !state.outcome.passed.is_empty();
        bases[to as usize] | if passed { PASSED } else { 0 } | if waits { WAITS } else { 0 }
    };
    for (at, state) in dfa.states.iter().enumerate() {
        let base = bases[at];
        cells.set(base, [base | FIRST, value(state.default)]);
        for (class, to) in &state.moves {
            cells.set(base + 1 + u32::from(*class), [base, value(*to)]);
        }
        if outcomes[at] != 0 {
            let place = base + 1 + dfa.class_count as u32;
            cells.set(place, [base, outcomes[at]]);
        }
    }
    let offset = words.len();
    for four in dfa.classes.chunks(4) {
        words.push(u32::from_ne_bytes(four.try_into().unwrap_or_default()));
    }
    words.push(dfa.class_count as u32);
    words.push(value(dfa.start));
    // A walk looks at most one row beyond the last base.
    let len = cells.cells.len() + dfa.class_count + 2;
    words.push(len as u32);
    for at in 0..len {
        let cell = cells.cells.get(at).copied().unwrap_or(FREE);
        words.extend(&cell);
    }
    offset
}

/// The owner of a cell nobody has: no base is that great.
const FREE: [u32; 2] = [u32::MAX, 0];

#[derive(Default)]
struct Cells {
    cells: Vec<[u32; 2]>,
    used: Vec<bool>,
    /// Before it, everything is used.
    front: usize,
}

impl Cells {
    /// The lowest base found at which the first cell and the row are free.
    fn place(&mut self, row: &[u32]) -> u32 {
        while self.used.get(self.front) == Some(&true) {
            self.front += 1;
        }
        let free = |used: &[bool], at: usize| !used.get(at).copied().unwrap_or(false);
        let fits = |used: &[bool], base: usize| {
            free(used, base) && row.iter().all(|d| free(used, base + *d as usize))
        };
        let near = self.front..self.front + TRIES;
        let base = near.into_iter().find(|b| fits(&self.used, *b));
        let base = base.unwrap_or_else(|| {
            let end = self.used.len();
            let back = end.saturating_sub(TRIES)..=end;
            back.into_iter()
                .find(|b| fits(&self.used, *b))
                .unwrap_or(end)
        });
        for d in std::iter::once(0).chain(row.iter().map(|d| *d as usize)) {
            if self.used.len() <= base + d {
                self.used.resize(base + d + 1, false);
            }
            self.used[base + d] = true;
        }
        // Patterns are bounded: the cells of a table stay far below 2^30.
        base as u32
    }

    fn set(&mut self, at: u32, cell: [u32; 2]) {
        let at = at as usize;
        if self.cells.len() <= at {
            self.cells.resize(at + 1, FREE);
        }
        self.cells[at] = cell;
    }
}
