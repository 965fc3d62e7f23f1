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

    /// The set as four words of 64 bits, the lowest bytes first.
    pub(crate) fn words(&self) -> [u64; 4] {
        self.0
    }

    /// The one byte in it, if it is only one.
    pub(crate) fn only(&self) -> Option<u8> {
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

/// A line of steps: a literal front, and what comes after it. Most patterns are hardly more than
/// their front, so it is kept as the bytes it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nfa {
    literal: Vec<u8>,
    rest: Vec<Step>,
}

impl Nfa {
    pub(crate) fn new(steps: Vec<Step>) -> Self {
        Nfa::with_front(Vec::new(), &steps)
    }

    /// `front` before `steps`, of which the single bytes at the beginning belong to the front.
    fn with_front(mut literal: Vec<u8>, steps: &[Step]) -> Self {
        let single = |s: &Step| match s {
            Step::Byte(set) => set.only(),
            _ => None,
        };
        let before = literal.len();
        literal.extend(steps.iter().map_while(single));
        let rest = steps[literal.len() - before..].to_vec();
        literal.shrink_to_fit();
        Nfa { literal, rest }
    }

    /// The step that leaves state `state`; `None` for the accepting one.
    pub(crate) fn step_at(&self, state: usize) -> Option<Step> {
        match self.literal.get(state) {
            Some(b) => Some(Step::Byte(ByteSet::single(*b))),
            None => self.rest.get(state - self.literal.len()).copied(),
        }
    }

    /// How many steps it has, the accepting one among them.
    pub(crate) fn steps(&self) -> usize {
        self.literal.len() + self.rest.len() + 1
    }

    /// The bytes every matching text begins with.
    pub(crate) fn literal(&self) -> &[u8] {
        &self.literal
    }

    /// The same line with the first `replaced` bytes of the literal prefix exchanged for `with`.
    pub(crate) fn rebased(&self, replaced: usize, with: &[u8]) -> Nfa {
        let literal = [with, &self.literal[replaced..]].concat();
        Nfa::with_front(literal, &self.rest)
    }

    /// The steps after [`Nfa::literal`].
    pub(crate) fn rest(&self) -> &[Step] {
        &self.rest
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
        let whole = self.literal.is_empty();
        whole && matches!(self.rest.as_slice(), [Step::Loop(set)] if *set == ByteSet::all())
    }

    /// Whether the whole text matches; `directory` lets a trailing `/**` match the directory itself.
    pub(crate) fn matches(&self, text: &[u8], directory: bool) -> bool {
        let Some(rest) = text.strip_prefix(self.literal.as_slice()) else {
            return false;
        };
        if self.as_tree().is_some() {
            // `dir/**`: what is below, and the directory itself. Only the root ends with a slash.
            return match rest {
                [] | [b'/'] => directory,
                [first, ..] => *first == b'/',
            };
        }
        if let Some(Step::Byte(last)) = self.rest.last()
            && !rest.last().is_some_and(|b| last.contains(*b))
        {
            return false;
        }
        let states = self.after(text);
        self.accepts(&states, directory)
    }

    /// Whether a set of states accepts.
    pub(crate) fn accepts(&self, states: &[usize], directory: bool) -> bool {
        states.iter().any(|s| match self.step_at(*s) {
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
        let last = (self.literal.len() + self.rest.len()).checked_sub(1);
        states.iter().any(|s| match self.step_at(*s) {
            Some(Step::BelowOpen) => true,
            Some(Step::Loop(set)) => Some(*s) == last && set == ByteSet::all(),
            _ => false,
        })
    }

    fn step(&self, state: usize, b: u8, next: &mut States) {
        match self.step_at(state) {
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
        states.dedup();
        let loops = |s: &usize| matches!(self.step_at(*s), Some(Step::Loop(_)));
        if !states.iter().any(loops) {
            return;
        }
        let mut closed: States = Vec::with_capacity(states.len() + 1);
        for s in states.drain(..) {
            let mut s = s;
            while closed.last().is_none_or(|last| *last < s) {
                closed.push(s);
                if loops(&s) {
                    s += 1;
                }
            }
        }
        *states = closed;
    }
}

/// What exact analysis reads off a line.
impl Nfa {
    /// How many states there are; the last one accepts.
    pub(crate) fn size(&self) -> usize {
        self.literal.len() + self.rest.len() + 1
    }

    /// The bytes every matching text ends with, as far as single bytes at the end tell.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let single = |s: &Step| match s {
            Step::Byte(set) => set.only(),
            _ => None,
        };
        let mut tail: Vec<u8> = self.rest.iter().rev().map_while(single).collect();
        if tail.len() == self.rest.len() {
            tail.extend(self.literal.iter().rev());
        }
        tail.reverse();
        tail
    }
}

/// What exact analysis asks of a set.
impl ByteSet {
    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }
}
