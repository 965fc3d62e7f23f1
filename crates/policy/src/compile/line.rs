//! Matching a whole pattern by itself, for what automata only narrow down.

use super::{
    parts::{BELOW_FIRST, BELOW_OPEN, Code, DIRS_LOOP, DIRS_OPEN, LOOP, SET, SLASH},
    table::Table,
};

/// Words of 64 states of a line that is walked without allocating: more than a pattern can have.
pub(crate) const LINE_WORDS: usize = 66;

/// Walks a whole pattern by itself: the same as [`crate::nfa::Nfa::matches`], on codes and without
/// allocating. A pattern has at most 4,096 bytes and so not many more steps.
pub(super) fn line_matches(
    table: &Table,
    sets: u32,
    codes: &[Code],
    text: &[u8],
    directory: bool,
) -> bool {
    let front = codes.iter().take_while(|c| **c < SET).count();
    let same = text.len() >= front
        && codes[..front]
            .iter()
            .zip(text)
            .all(|(c, b)| *c == Code::from(*b));
    if !same {
        return false;
    }
    let (codes, text) = (&codes[front..], &text[front..]);
    if codes.len() >= LINE_WORDS * 64 {
        // More steps than a pattern can have.
        return false;
    }
    let contains = |code: Code, byte: u8| {
        let set = if code >= LOOP {
            code - LOOP
        } else {
            code - SET
        };
        let at = sets as usize + set as usize * 8 + usize::from(byte >> 5);
        table.at(at) & (1 << (byte & 31)) != 0
    };
    let code = |state: usize| codes.get(state).copied();
    let words = codes.len() / 64 + 1;
    let mut states = [0u64; LINE_WORDS];
    // Adds a state, and what is reached from it without a byte.
    let add = |states: &mut [u64; LINE_WORDS], mut state: usize| {
        loop {
            states[state / 64] |= 1 << (state % 64);
            match code(state) {
                Some(c) if (LOOP..DIRS_OPEN).contains(&c) => state += 1,
                _ => return,
            }
        }
    };
    add(&mut states, 0);
    for byte in text {
        let mut next = [0u64; LINE_WORDS];
        let mut alive = false;
        for (word, bits) in states[..words].iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let state = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(c) = code(state) else { continue };
                let steps: [Option<usize>; 2] = match c {
                    DIRS_OPEN if *byte == b'/' => [Some(state + 1), Some(state + 2)],
                    DIRS_LOOP if *byte == b'/' => [Some(state), Some(state + 1)],
                    DIRS_LOOP => [Some(state), None],
                    BELOW_OPEN if *byte == b'/' => [Some(state + 1), None],
                    BELOW_FIRST => [Some(state + 1), None],
                    DIRS_OPEN | BELOW_OPEN => [None, None],
                    c if c >= LOOP => [contains(c, *byte).then_some(state), None],
                    c if c >= SET => [contains(c, *byte).then_some(state + 1), None],
                    c => [(c == Code::from(*byte)).then_some(state + 1), None],
                };
                for state in steps.into_iter().flatten() {
                    alive = true;
                    add(&mut next, state);
                }
            }
        }
        if !alive {
            return false;
        }
        states = next;
    }
    let accepts = |state: usize| match code(state) {
        None => state == codes.len(),
        Some(BELOW_OPEN | BELOW_FIRST) => directory,
        Some(_) => false,
    };
    (0..=codes.len()).any(|s| states[s / 64] & (1 << (s % 64)) != 0 && accepts(s))
}

const _: () = assert!(SLASH < SET && BELOW_FIRST > LOOP);
