//! Walking an automaton where it lies in the table: which sets of parts a text has.
//!
//! Runs are compared at once, and where a walk waits for the next segment the text is skipped to it.
//! Nothing here allocates, and every walk ends: each step but one reads a byte, and the one that does
//! not, leaving a run, is followed by one that does.

use super::{
    pack::{
        BASE, CLASS_WORDS, ENDING_ONLY, HEAD_WORDS, LEAF, PASSED, PASSED_ONLY, RUN, RUN_WORDS,
        WAITS,
    },
    parts::Walk,
    table::Table,
};

/// Most sets of parts that one object may have.
const MAX_FOUND: usize = 24;

/// The sets of parts that an object has.
#[derive(Default)]
pub(crate) struct Found {
    sets: [u32; MAX_FOUND],
    len: usize,
    full: bool,
}

impl Found {
    /// Whether it had more than fits.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    #[inline]
    pub(super) fn add(&mut self, set: u32) {
        // The same again, as while a text repeats itself, says nothing new.
        if set == 0 || self.sets[self.len.saturating_sub(1)] == set {
            return;
        }
        match self.sets.get_mut(self.len) {
            Some(slot) => {
                *slot = set;
                self.len += 1;
            }
            None => self.full = true,
        }
    }

    #[inline]
    pub(super) fn sets(&self) -> &[u32] {
        &self.sets[..self.len]
    }
}

/// The next `/` from a place on. Segments are short: a call of a vectorised search costs more than the
/// eight bytes at a time that are looked at here (Warren, "Hacker's Delight", section 6-1).
#[inline]
fn next_slash(text: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut at = from;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let differs = u64::from_le_bytes(*eight) ^ (ONES * b'/' as u64);
        let zero = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if zero != 0 {
            return Some(at + zero.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = text.get(at..)?;
    rest.iter().position(|b| *b == b'/').map(|skip| at + skip)
}

/// An automaton where it lies in the table.
pub(super) struct Automaton<'t> {
    table: &'t Table,
    classes: &'t [u8; 256],
    cells: &'t [[u32; 2]],
    class_count: usize,
    start: u32,
}

impl<'t> Automaton<'t> {
    #[inline]
    pub(super) fn at(table: &'t Table, offset: usize) -> Option<Automaton<'t>> {
        let words = table.words.get(offset..)?;
        let classes = bytemuck::cast_slice(words.get(..CLASS_WORDS)?);
        let cells = words.get(HEAD_WORDS..)?;
        let cells = cells.get(..2 * words[CLASS_WORDS + 2] as usize)?;
        Some(Automaton {
            table,
            classes: classes.try_into().ok()?,
            cells: bytemuck::cast_slice(cells),
            class_count: words[CLASS_WORDS] as usize,
            start: words[CLASS_WORDS + 1],
        })
    }

    #[inline]
    pub(super) fn walk(&self, walk: u32, text: &[u8], directory: bool, found: &mut Found) {
        const BACK: u32 = Walk::Back as u32;
        const FRONT: u32 = Walk::Front as u32;
        let end = match walk {
            BACK => self.backwards(text, found),
            FRONT => self.forwards::<false>(text, found),
            _ => self.forwards::<true>(text, found),
        };
        let Some(end) = end else { return };
        let [_, ending, below] = self.outcome(end);
        found.add(ending);
        if directory {
            found.add(below);
        }
    }

    #[inline]
    fn next(&self, at: u32, byte: u8) -> u32 {
        let base = at & BASE;
        let class = self.classes[usize::from(byte)];
        let own = self.cell(base as usize + 1 + usize::from(class));
        let default = self.cell(base as usize);
        // Both are loaded at once, and neither waits for the comparison or for a guess about it.
        let cell = if own as u32 == base { own } else { default };
        (cell >> 32) as u32
    }

    /// A cell, its owner in the lower half: one load, so that the next state depends on no second one.
    #[inline]
    fn cell(&self, at: usize) -> u64 {
        let cell = u64::from_ne_bytes(bytemuck::cast(self.cells[at]));
        match cfg!(target_endian = "big") {
            true => cell.rotate_left(32),
            false => cell,
        }
    }

    /// The run of a state: the value behind it, that of the other state, the bytes.
    #[inline]
    fn run(&self, at: u32) -> Option<(u32, u32, &'t [u8])> {
        let list = self.cells[(at & BASE) as usize][1] as usize + 1;
        let words = self.table.words.get(list..)?;
        let bytes: &[u8] = bytemuck::cast_slice(words.get(RUN_WORDS..)?);
        Some((words[0], words[1], bytes.get(..words[2] as usize)?))
    }

    /// What reaching a state says, and where the walk goes on; `None` if it is over.
    #[inline(always)]
    fn arrive<const AGAIN: bool>(&self, at: u32, over: bool, found: &mut Found) -> Option<u32> {
        if at & LEAF == 0 {
            found.add(self.outcome(at)[0]);
            return Some(at);
        }
        if at & PASSED != 0 || over {
            found.add(at & BASE);
        }
        (AGAIN && !over).then_some(0)
    }

    /// The state at the end; where nothing is alive and nothing can begin, the walk ends at once.
    /// `None` if the text ends inside a run: nothing is found there.
    #[inline]
    fn forwards<const AGAIN: bool>(&self, text: &[u8], found: &mut Found) -> Option<u32> {
        let mut at = self.start;
        let mut i = 0;
        while let Some(byte) = text.get(i) {
            if at & (WAITS | RUN) != 0 {
                if at & RUN != 0 {
                    let (to, other, bytes) = self.run(at)?;
                    let rest = &text[i..];
                    if !rest.starts_with(bytes) {
                        if !AGAIN && other & BASE == 0 {
                            return None;
                        }
                        i += rest.iter().zip(bytes).position(|(a, b)| a != b)?;
                        at = other;
                        continue;
                    }
                    i += bytes.len();
                    at = to;
                    if at & (PASSED | LEAF) != 0 {
                        at = self.arrive::<AGAIN>(at, i == text.len(), found)?;
                    }
                    continue;
                }
                if *byte != b'/' {
                    match next_slash(text, i + 1) {
                        Some(slash) => i = slash,
                        None => return Some(at),
                    }
                    continue;
                }
            }
            at = self.next(at, *byte);
            i += 1;
            if at & (PASSED | LEAF) != 0 {
                at = self.arrive::<AGAIN>(at, i == text.len(), found)?;
            }
            if !AGAIN && at & BASE == 0 {
                return None;
            }
        }
        Some(at)
    }

    #[inline]
    fn backwards(&self, text: &[u8], found: &mut Found) -> Option<u32> {
        let mut at = self.start;
        let mut rest = text;
        while let Some((byte, before)) = rest.split_last() {
            if at & (WAITS | RUN) != 0 {
                if at & RUN != 0 {
                    let (to, other, bytes) = self.run(at)?;
                    if let Some(before) = rest.strip_suffix(bytes) {
                        rest = before;
                        at = to;
                        if at & (PASSED | LEAF) != 0 {
                            at = self.arrive::<false>(at, rest.is_empty(), found)?;
                        }
                        continue;
                    }
                    if other & BASE == 0 {
                        return None;
                    }
                    let mut pairs = rest.iter().rev().zip(bytes.iter().rev());
                    let same = pairs.position(|(a, b)| a != b)?;
                    rest = &rest[..rest.len() - same];
                    at = other;
                    continue;
                }
                if *byte != b'/' {
                    match memchr::memrchr(b'/', rest) {
                        Some(slash) => rest = &rest[..=slash],
                        None => return Some(at),
                    }
                    continue;
                }
            }
            at = self.next(at, *byte);
            rest = before;
            if at & (PASSED | LEAF) != 0 {
                at = self.arrive::<false>(at, rest.is_empty(), found)?;
            }
            if at & BASE == 0 {
                return None;
            }
        }
        Some(at)
    }

    /// The sets of a state: passed, at the end, at the end of a directory's path.
    #[inline]
    fn outcome(&self, at: u32) -> [u32; 3] {
        let base = at & BASE;
        let cell = self.cells[base as usize + 1 + self.class_count];
        if cell[0] != base {
            return [0; 3];
        }
        let set = cell[1] & !(PASSED_ONLY | ENDING_ONLY);
        match cell[1] & (PASSED_ONLY | ENDING_ONLY) {
            0 => [1, 2, 3].map(|i| self.table.at(set as usize + i)),
            ENDING_ONLY => [0, set, 0],
            _ => [set, 0, 0],
        }
    }
}
