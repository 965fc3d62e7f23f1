//! Packing: an automaton as words that are walked where they lie, in memory, in a mapped file, or in
//! a BPF array.
//!
//! Rows of transitions are laid over one another so that the entries of one fall into the holes of
//! others (row displacement; Tarjan and Yao, "Storing a sparse table", 1979). A cell is two words, an
//! owner and a value; a state is the place of its first cell, its *base*. Reading a byte is one look
//! at the cell `base + 1 + class`: if the owner is the state, its value is the next state, else the
//! state's default is. A state with a run has no transitions: its first cell leads to the run. A state
//! that only says something and goes on as the first one is a value and has no cells. The words are specified in `docs/policy-table.md`.

use super::{
    dfa::Dfa,
    parts::Walk,
    runs::{self, Run},
    table::Words,
};

/// In the owner of a first cell, with [`RUN`] if the state has a run: never equal to an owner of a
/// transition.
pub(crate) const FIRST: u32 = 1 << 31;
/// In a value: parts were found on the way into the state.
pub(crate) const PASSED: u32 = 1 << 31;
/// In a value: the state is left by a `/` alone.
pub(crate) const WAITS: u32 = 1 << 30;
/// In a value: the state has a run.
pub(crate) const RUN: u32 = 1 << 29;
/// In a value: it leads to the first state; the lower bits are a set, found here with [`PASSED`], else
/// if the text ends here.
pub(crate) const LEAF: u32 = 1 << 28;
/// The base in a value.
pub(crate) const BASE: u32 = LEAF - 1;

/// In the value of an outcome: the lower bits are a set, that of passing or of ending, and the other
/// two are empty. Without either they are the offset of a list of three.
pub(crate) const PASSED_ONLY: u32 = 1 << 31;
pub(crate) const ENDING_ONLY: u32 = 1 << 30;

/// Words of a run before its bytes: the value behind it, that of the other state, how many bytes.
pub(crate) const RUN_WORDS: usize = 3;

/// Words before the cells: the class of each byte, four to a word; the number of classes; the value
/// of the start; the number of cells.
pub(crate) const CLASS_WORDS: usize = 64;
pub(crate) const HEAD_WORDS: usize = CLASS_WORDS + 3;

/// How many places are tried before a row goes to the end.
const TRIES: usize = 48;

/// Most cells of an automaton, 256 MiB of them; far below what a base can say.
const MAX_CELLS: usize = 32 << 20;

/// Writes the automaton, unless it has too many cells. `outcomes` gives the word of each state's
/// outcome, 0 for none.
pub(crate) fn pack(dfa: &Dfa, walk: Walk, outcomes: &[u32], words: &mut Words) -> Option<u32> {
    let leaves: Vec<Option<u32>> = (0..dfa.states.len())
        .map(|state| leaf(dfa, state, outcomes[state]))
        .collect();
    let runs = runs::find(dfa, |state| leaves[state as usize].is_some());
    let mut cells = Cells::default();
    let row = |state: usize| -> Vec<u32> {
        let moves = match &runs[state] {
            Some(None) => &*dfa.states[state].moves,
            _ => &[],
        };
        let moves = moves.iter().map(|(class, _)| 1 + u32::from(*class));
        let outcome = (outcomes[state] != 0).then_some(1 + dfa.class_count as u32);
        moves.chain(outcome).collect()
    };
    // The state where nothing is alive lies at 0; then wide rows before narrow ones.
    let kept = (1..runs.len()).filter(|s| runs[*s].is_some());
    let mut rows: Vec<(usize, Vec<u32>)> = kept.map(|s| (s, row(s))).collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.len()));
    let mut bases = vec![0u32; runs.len()];
    for (state, row) in std::iter::once((0, row(0))).chain(rows) {
        bases[state] = cells.place(&row);
        if cells.used.len() > MAX_CELLS {
            return None;
        }
    }
    let slash = dfa.classes[usize::from(b'/')];
    let value = |to: u32| {
        if let Some(leaf) = leaves[to as usize] {
            return leaf;
        }
        let state = &dfa.states[to as usize];
        let run = matches!(runs[to as usize], Some(Some(_)));
        let waits = state.default == to && state.moves.iter().all(|(class, _)| *class == slash);
        let passed = state.passes();
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        bases[to as usize] | flag(passed, PASSED) | flag(waits, WAITS) | flag(run, RUN)
    };
    for (at, state) in dfa.states.iter().enumerate() {
        let base = bases[at];
        match &runs[at] {
            Some(None) => {
                cells.set(base, [base | FIRST, value(state.default)]);
                for (class, to) in &state.moves {
                    cells.set(base + 1 + u32::from(*class), [base, value(*to)]);
                }
            }
            Some(Some(run)) => {
                let list = run_list(run, walk, value);
                cells.set(base, [base | FIRST | RUN, words.list(&list)]);
            }
            None => continue,
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
    Some(offset)
}

const _: () = assert!(MAX_CELLS < BASE as usize);

/// The value of a state that behaves as the first one and says one thing; `outcome` is its word.
fn leaf(dfa: &Dfa, state: usize, outcome: u32) -> Option<u32> {
    let (first, own) = (&dfa.states[0], &dfa.states[state]);
    let alike = own.default == first.default && own.moves == first.moves;
    let set = outcome & !(PASSED_ONLY | ENDING_ONLY);
    let said = match outcome & (PASSED_ONLY | ENDING_ONLY) {
        PASSED_ONLY => PASSED,
        ENDING_ONLY => 0,
        _ => return None,
    };
    let inner = state != 0 && state as u32 != dfa.start;
    (alike && inner).then_some(set | said | LEAF)
}

fn run_list(run: &Run, walk: Walk, value: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut bytes = run.bytes.clone();
    if walk == Walk::Back {
        bytes.reverse();
    }
    let mut list = vec![value(run.to), value(run.other), bytes.len() as u32];
    list.extend(bytes.chunks(4).map(|part| {
        let mut four = [0; 4];
        four[..part.len()].copy_from_slice(part);
        u32::from_ne_bytes(four)
    }));
    list
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
        // [`MAX_CELLS`] is far below 2^32.
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
