//! Runs: stretches of an automaton that have one way ahead, so that their bytes are compared at once
//! instead of being walked one by one.
//!
//! Most of a trie is such stretches: the rest of a name after the byte that tells it from its
//! neighbours. A stretch is a run if every state of it is left by one byte for the next, and does with
//! all others exactly what one and the same state does, the *other* one: where nothing is alive, or
//! where a walk waits for the next segment. So it is enough to know where the text first differs, and
//! to read that byte in the other state. States inside a run have no outcome and are left out, unless
//! something else leads to them.
//!
//! The idea is that of path compression in a radix tree (D. R. Morrison, "PATRICIA", Journal of the ACM
//! 15(4), 1968), with a default transition in place of a failure.

use super::dfa::{Dfa, State};

/// The shortest run: fewer bytes are walked as fast.
const SHORTEST: usize = 4;
/// The longest run. It bounds the work of finding runs that begin on one another.
const LONGEST: usize = 512;

/// Where a state's bytes are compared at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The bytes, in the order of the walk.
    pub bytes: Vec<u8>,
    /// The state behind them.
    pub to: u32,
    /// The state that reads the first byte which differs.
    pub other: u32,
}

/// The states that a walk can stand in, each with its run if it has one; `None` for those inside runs
/// and for leaves.
pub(crate) fn find(dfa: &Dfa, is_leaf: impl Fn(u32) -> bool) -> Vec<Option<Option<Run>>> {
    // The byte of a class that has a single one.
    let mut single: Vec<Option<u8>> = vec![None; dfa.class_count];
    let mut members = vec![0usize; dfa.class_count];
    for (byte, class) in (0..=u8::MAX).zip(&dfa.classes) {
        members[usize::from(*class)] += 1;
        single[usize::from(*class)] = Some(byte).filter(|_| members[usize::from(*class)] == 1);
    }
    let links: Vec<Option<Link>> = dfa.states.iter().map(|s| link(dfa, s, &single)).collect();
    let mut found: Vec<Option<Option<Run>>> = vec![None; dfa.states.len()];
    let mut left = vec![0, dfa.start];
    while let Some(at) = left.pop() {
        if found[at as usize].is_some() || is_leaf(at) {
            continue;
        }
        // A leaf leads to the first state without saying what kind of state that is.
        let run = match at {
            0 => None,
            at => run(dfa, &links, at),
        };
        match &run {
            Some(run) => left.extend([run.to, run.other]),
            None => {
                let state = &dfa.states[at as usize];
                left.push(state.default);
                left.extend(state.moves.iter().map(|(_, to)| *to));
            }
        }
        found[at as usize] = Some(run);
    }
    found
}

/// A state that is left by one byte for another than the other state would go to.
struct Link {
    byte: u8,
    to: u32,
    other: u32,
}

fn link(dfa: &Dfa, state: &State, single: &[Option<u8>]) -> Option<Link> {
    let other = &dfa.states[state.default as usize];
    // Coming back to the other state must not say again what reaching it says.
    if other.default != state.default || other.passes() {
        return None;
    }
    // The moves of both are sorted by class: all are the same but for one, which `state` has.
    let mut rest = &*other.moves;
    let mut own = None;
    for (class, to) in &state.moves {
        if rest.first() == Some(&(*class, *to)) {
            rest = &rest[1..];
            continue;
        }
        if rest.first().is_some_and(|(c, _)| c == class) {
            rest = &rest[1..];
        }
        if own.replace((*class, *to)).is_some() {
            return None;
        }
    }
    let (class, to) = own.filter(|_| rest.is_empty())?;
    let byte = single[usize::from(class)]?;
    Some(Link {
        byte,
        to,
        other: state.default,
    })
}

fn run(dfa: &Dfa, links: &[Option<Link>], from: u32) -> Option<Run> {
    let mut bytes = Vec::new();
    let (mut at, mut other) = (from, None);
    while let Some(link) = &links[at as usize] {
        // The first state's outcome is its own; coming back to it is another matter.
        let inside = bytes.is_empty() || dfa.states[at as usize].outcome.is_none();
        if !inside || other.is_some_and(|o| o != link.other) || bytes.len() == LONGEST {
            break;
        }
        other = Some(link.other);
        bytes.push(link.byte);
        at = link.to;
    }
    let other = other.filter(|_| bytes.len() >= SHORTEST)?;
    Some(Run {
        bytes,
        to: at,
        other,
    })
}
