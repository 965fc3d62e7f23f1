//! The cells of an automaton: every value leads to a state, and says of it what is so.

use super::{Checking, Once, TableError, below, number};
use crate::compile::{
    pack::{
        BASE, CLASS_WORDS, ENDING_ONLY, FIRST, HEAD_WORDS, LEAF, PASSED, PASSED_ONLY, RUN,
        RUN_WORDS, WAITS,
    },
    parts::Walk,
};

impl Checking<'_> {
    pub(super) fn automaton(
        &mut self,
        walk: u32,
        at: u32,
        sets: u32,
        outcomes: &mut Once,
    ) -> Result<(), TableError> {
        let head = self.span("automaton", at, HEAD_WORDS as u64)?;
        let place = |word: usize| at as usize + word;
        let class_count = head[CLASS_WORDS];
        number(
            "number of byte classes",
            place(CLASS_WORDS),
            class_count,
            256,
        )?;
        let classes: &[u8] = bytemuck::cast_slice(&head[..CLASS_WORDS]);
        for (byte, class) in classes.iter().enumerate() {
            below(
                "byte class",
                place(byte / 4),
                u32::from(*class),
                class_count,
            )?;
        }
        let count = head[CLASS_WORDS + 2];
        number(
            "number of cells",
            place(CLASS_WORDS + 2),
            count,
            BASE as usize,
        )?;
        let whole = self.span("automaton", at, HEAD_WORDS as u64 + 2 * u64::from(count))?;
        if !self.automata.first(at, whole.len(), self.words)? {
            let what = "automata";
            return Err(TableError::Overlap { what });
        }
        let slash = classes[usize::from(b'/')];
        let alone = classes.iter().filter(|c| **c == slash).count() == 1;
        let mut cells = Cells {
            at,
            cells: bytemuck::cast_slice(&whole[HEAD_WORDS..]),
            class_count,
            slash_moves_only: Vec::new(),
        };
        cells.owners(u32::from(slash), alone)?;
        for (cell, [owner, value]) in (0u32..).zip(cells.cells) {
            if *owner == u32::MAX {
                continue;
            }
            let is_outcome = owner & FIRST == 0 && cell - owner - 1 == class_count;
            if !is_outcome {
                match owner & RUN {
                    0 => self.value(&cells, cell, *value, sets)?,
                    _ => self.run(&cells, cell, *value, sets)?,
                }
                continue;
            }
            let flags = value & (PASSED_ONLY | ENDING_ONLY);
            if flags == PASSED_ONLY | ENDING_ONLY {
                return Err(cells.wrong(cell, "an outcome is of one kind, or a list"));
            }
            if flags != 0 {
                below("set of an outcome", at as usize, value & !flags, sets)?;
                continue;
            }
            let list = self.list("outcome", *value)?;
            if list.len() != 3 {
                return Err(cells.wrong(cell, "an outcome has three sets"));
            }
            if outcomes.first(*value, 3, self.words)? {
                for set in list {
                    below("set of an outcome", *value as usize, *set, sets)?;
                }
            }
        }
        let start = head[CLASS_WORDS + 1];
        if start & LEAF != 0 {
            return Err(cells.wrong(0, "the start is no state"));
        }
        self.value(&cells, 0, start, sets)?;
        // A leaf leads there.
        if !cells.is_state(0, 0) {
            return Err(cells.wrong(0, "the first state has a run, or is none"));
        }
        // Where nothing is alive and nothing begins anew, a walk ends.
        let dead = cells.cells.first().is_some_and(|c| c[1] == WAITS)
            && cells.cells[1..].iter().all(|c| c[0] != 0);
        if (walk == Walk::Front as u32 || walk == Walk::Back as u32) && !dead {
            return Err(cells.wrong(0, "the first state of this walk leads nowhere"));
        }
        Ok(())
    }

    /// A run leads on, and to a state that reads the byte which differs.
    fn run(&self, cells: &Cells<'_>, cell: u32, at: u32, sets: u32) -> Result<(), TableError> {
        let run = self.list("run", at)?;
        let [to, other, bytes, ..] = *run else {
            return Err(cells.wrong(cell, "a run has three words and its bytes"));
        };
        if bytes == 0 || run.len() - RUN_WORDS != bytes.div_ceil(4) as usize {
            return Err(cells.wrong(cell, "the run has not as many bytes as it says"));
        }
        if other & (RUN | PASSED | LEAF) != 0 {
            return Err(cells.wrong(
                cell,
                "the other state of its run has a run, or says something",
            ));
        }
        self.value(cells, cell, to, sets)?;
        self.value(cells, cell, other, sets)
    }

    /// A value leads to a state, and its flags are the state's.
    fn value(&self, cells: &Cells<'_>, cell: u32, value: u32, sets: u32) -> Result<(), TableError> {
        let base = value & BASE;
        if value & LEAF != 0 {
            if value & (WAITS | RUN) != 0 {
                return Err(cells.wrong(cell, "its value is a leaf and a state"));
            }
            return below("set of a leaf", cells.at as usize, base, sets);
        }
        if !cells.is_state(base, value & RUN) {
            return Err(cells.wrong(cell, "its value is no state"));
        }
        if value & WAITS != 0 && !cells.slash_moves_only[base as usize] {
            return Err(cells.wrong(cell, "it waits for a '/', but the state has other ways"));
        }
        let [owner, outcome] = cells.cells[(base + 1 + cells.class_count) as usize];
        let passed = match outcome & (PASSED_ONLY | ENDING_ONLY) {
            _ if owner != base => 0,
            0 => self.list("outcome", outcome)?.first().copied().unwrap_or(0),
            PASSED_ONLY => outcome & !PASSED_ONLY,
            _ => 0,
        };
        match (value & PASSED != 0) == (passed != 0) {
            true => Ok(()),
            false => Err(cells.wrong(cell, "its flag contradicts the outcome of its state")),
        }
    }
}

struct Cells<'t> {
    at: u32,
    cells: &'t [[u32; 2]],
    class_count: u32,
    /// By cell, for states: whether every byte but `/` leaves the state as it is.
    slash_moves_only: Vec<bool>,
}

impl Cells<'_> {
    fn wrong(&self, cell: u32, what: &'static str) -> TableError {
        TableError::Cell {
            what,
            at: self.at,
            cell,
        }
    }

    fn is_state(&self, base: u32, run: u32) -> bool {
        let cell = self.cells.get(base as usize);
        cell.is_some_and(|c| c[0] == base | FIRST | run)
    }

    /// Every owner is a state that reaches the cell, and every state's row is inside.
    fn owners(&mut self, slash: u32, alone: bool) -> Result<(), TableError> {
        let count = self.cells.len() as u64;
        self.slash_moves_only = vec![alone; self.cells.len()];
        for (cell, [owner, value]) in (0u32..).zip(self.cells) {
            if *owner == u32::MAX {
                continue;
            }
            let (base, is_first) = (owner & BASE, owner & FIRST != 0);
            let state = self.cells.get(base as usize).map_or(0, |c| c[0]);
            let known = state == base | FIRST | state & RUN;
            if !known || base > cell || (!is_first && *owner != base) {
                return Err(self.wrong(cell, "its owner is no state before it"));
            }
            let has_run = state & RUN != 0;
            let stays = match cell - base {
                0 if !is_first => false,
                0 if u64::from(base) + u64::from(self.class_count) + 2 > count => {
                    return Err(self.wrong(cell, "the row of the state is not inside"));
                }
                0 => !has_run && value & BASE == base,
                _ if is_first => {
                    return Err(self.wrong(cell, "a first cell of another state"));
                }
                d if d > self.class_count + 1 => {
                    return Err(self.wrong(cell, "it is too far from its owner"));
                }
                d if has_run && d <= self.class_count => {
                    return Err(self.wrong(cell, "a state with a run has other ways"));
                }
                d => d == self.class_count + 1 || d - 1 == slash,
            };
            self.slash_moves_only[base as usize] &= stays;
        }
        Ok(())
    }
}
