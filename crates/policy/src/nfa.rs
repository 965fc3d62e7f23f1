//! The automaton behind a glob: a straight line of steps, some of which loop.
//!
//! State `i` means "steps before `i` are done"; state `n` (one past the last step) accepts. Because
//! the line has no back edges except self loops, a set of states simulated byte by byte is a complete
//! and obviously terminating matcher. The same simulation answers the placement questions: which
//! states are alive after a directory's path says whether anything below it can match, and whether
//! everything below it does.

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    pub(crate) fn none() -> Self {
        ByteSet([0; 4])
    }

    pub(crate) fn all() -> Self {
        ByteSet([u64::MAX; 4])
    }

    pub(crate) fn single(b: u8) -> Self {
        let mut set = Self::none();
        set.insert(b);
        set
    }

    pub(crate) fn all_but(bytes: &[u8]) -> Self {
        let mut set = Self::none();
        bytes.iter().for_each(|b| set.insert(*b));
        set.not()
    }

    pub(crate) fn insert(&mut self, b: u8) {
        self.0[usize::from(b >> 6)] |= 1 << (b & 63);
    }

    pub(crate) fn not(self) -> Self {
        ByteSet(self.0.map(|w| !w))
    }

    pub(crate) fn and(&self, other: &Self) -> Self {
        ByteSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    pub(crate) fn contains(&self, b: u8) -> bool {
        self.0[usize::from(b >> 6)] & (1 << (b & 63)) != 0
    }

    fn only(&self) -> Option<u8> {
        let count: u32 = self.0.iter().map(|w| w.count_ones()).sum();
        (count == 1).then(|| {
            let word = self.0.iter().position(|w| *w != 0).unwrap_or(0);
            // Four words of 64 bits: the sum is below 256.
            (word * 64) as u8 + self.0[word].trailing_zeros() as u8
        })
    }
}

/// One step of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// One byte of the set.
    Byte(ByteSet),
    /// Any number of bytes of the set.
    Loop(ByteSet),
    /// The `/` that opens `/**/`: goes on to the loop, and past it.
    DirsOpen,
    /// Inside `/**/`: any bytes, then a `/`.
    DirsLoop,
    /// The `/` that opens a trailing `/**`. For a directory the text may end here.
    BelowOpen,
    /// The first byte below a trailing `/**`. For the root directory the text may end here.
    BelowFirst,
}

/// A set of states, sorted, without duplicates, closed under empty moves.
pub(crate) type States = Vec<usize>;

/// A line of steps with the literal prefix split off for speed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nfa {
    steps: Vec<Step>,
    literal: Vec<u8>,
}

impl Nfa {
    pub(crate) fn new(steps: Vec<Step>) -> Self {
        let literal = steps
            .iter()
            .map_while(|s| match s {
                Step::Byte(set) => set.only(),
                _ => None,
            })
            .collect();
        Nfa { steps, literal }
    }

    /// The bytes every matching text begins with.
    pub(crate) fn literal(&self) -> &[u8] {
        &self.literal
    }

    /// The same line with the first `replaced` bytes of the literal prefix exchanged for `with`.
    pub(crate) fn rebased(&self, replaced: usize, with: &[u8]) -> Nfa {
        let front = with.iter().map(|b| Step::Byte(ByteSet::single(*b)));
        Nfa::new(
            front
                .chain(self.steps[replaced..].iter().copied())
                .collect(),
        )
    }

    /// The steps after [`Nfa::literal`].
    pub(crate) fn rest(&self) -> &[Step] {
        &self.steps[self.literal.len()..]
    }

    /// The one text this matches, if it is only one.
    pub(crate) fn as_literal(&self) -> Option<&[u8]> {
        self.rest().is_empty().then_some(&self.literal)
    }

    /// The directory whose whole tree this matches (`dir/**`); empty for the root.
    pub(crate) fn as_tree(&self) -> Option<&[u8]> {
        matches!(self.rest(), [Step::BelowOpen, ..]).then_some(&self.literal)
    }

    /// Whether the literal prefix is followed by `/**/`.
    pub(crate) fn floats(&self) -> bool {
        matches!(self.rest(), [Step::DirsOpen, ..])
    }

    /// Whether this matches every text.
    pub(crate) fn is_any(&self) -> bool {
        matches!(self.steps.as_slice(), [Step::Loop(set)] if *set == ByteSet::all())
    }

    /// Whether the whole text matches; `directory` lets a trailing `/**` match the directory itself.
    pub(crate) fn matches(&self, text: &[u8], directory: bool) -> bool {
        let states = self.after(text);
        self.accepts(&states, directory)
    }

    /// Whether a set of states accepts.
    pub(crate) fn accepts(&self, states: &[usize], directory: bool) -> bool {
        states.iter().any(|s| match self.steps.get(*s) {
            None => true,
            Some(Step::BelowOpen | Step::BelowFirst) => directory,
            Some(_) => false,
        })
    }

    /// The states after reading `text`; empty when no text that begins so can match.
    pub(crate) fn after(&self, text: &[u8]) -> States {
        let common = self.literal.len().min(text.len());
        if text[..common] != self.literal[..common] {
            return Vec::new();
        }
        let mut states = vec![common];
        self.close(&mut states);
        let mut next = Vec::new();
        for b in &text[common..] {
            next.clear();
            for s in &states {
                self.step(*s, *b, &mut next);
            }
            self.close(&mut next);
            std::mem::swap(&mut states, &mut next);
            if states.is_empty() {
                break;
            }
        }
        states
    }

    /// Whether every text matches that begins with what led to `states` and goes on with `/`.
    pub(crate) fn covers_below(&self, states: &[usize]) -> bool {
        states.iter().any(|s| match self.steps.get(*s) {
            Some(Step::BelowOpen) => true,
            Some(Step::Loop(set)) => *s + 1 == self.steps.len() && *set == ByteSet::all(),
            _ => false,
        })
    }

    fn step(&self, state: usize, b: u8, next: &mut States) {
        match self.steps.get(state) {
            Some(Step::Byte(set)) if set.contains(b) => next.push(state + 1),
            Some(Step::Loop(set)) if set.contains(b) => next.push(state),
            Some(Step::DirsOpen) if b == b'/' => next.extend([state + 1, state + 2]),
            Some(Step::DirsLoop) => {
                next.push(state);
                if b == b'/' {
                    next.push(state + 1);
                }
            }
            Some(Step::BelowOpen) if b == b'/' => next.push(state + 1),
            Some(Step::BelowFirst) => next.push(state + 1),
            _ => {}
        }
    }

    /// Adds what is reachable without a byte (past loops); the result is sorted and has no duplicates.
    fn close(&self, states: &mut States) {
        states.sort_unstable();
        let mut closed: States = Vec::with_capacity(states.len() + 1);
        for s in states.drain(..) {
            let mut s = s;
            while closed.last().is_none_or(|last| *last < s) {
                closed.push(s);
                if matches!(self.steps.get(s), Some(Step::Loop(_))) {
                    s += 1;
                }
            }
        }
        *states = closed;
    }
}
