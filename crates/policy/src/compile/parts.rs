//! From patterns to parts: what of a pattern an automaton can find by itself.
//!
//! A text pattern is cut at `**`, because one automaton that remembers every `**` it is inside of
//! grows with the product of all patterns. What is left are *parts*, each walked in one of three ways:
//! anchored at the front, anchored at the back (walked backwards), or a run of whole segments that may
//! stand anywhere; a fourth walk looks for bytes anywhere, for what loops leave of a part. Between two `**` every match has the same number of segments, so that a front, a
//! back and a count of slashes say exactly whether `front/**/back` matches. Where parts say only
//! "perhaps", the atom names the whole pattern as a *line*, which is then walked by itself.
//!
//! Invariant: an atom matches a text exactly if all its parts are found, the text has at least
//! `min_slashes` slashes, and its line, if it has one, matches.

use std::collections::HashMap;

use crate::nfa::{ByteSet, Nfa, Step};

/// How an automaton goes over a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Walk {
    /// From the first byte on.
    Front,
    /// From the last byte backwards.
    Back,
    /// From the first byte on, beginning anew after every `/`.
    Inner,
    /// From the first byte on, beginning anew after every byte: for what is left of parts that cost too
    /// many states (Aho and Corasick, "Efficient string matching", 1975).
    Anywhere,
}

impl Walk {
    pub(crate) const ALL: [Walk; 4] = [Walk::Front, Walk::Back, Walk::Inner, Walk::Anywhere];
}

/// One step of a part, in the order of the walk: a byte (below [`SET`]), one byte of a set, or any
/// number of bytes of a set.
pub(crate) type Code = u32;
/// `SET + i` is one byte of set `i`.
pub(crate) const SET: Code = 0x100;
/// `LOOP + i` is any number of bytes of set `i`.
pub(crate) const LOOP: Code = 0x10_0000;
/// The steps of lines that parts do not have: see [`Step`].
pub(crate) const DIRS_OPEN: Code = 0x20_0000;
pub(crate) const DIRS_LOOP: Code = 0x20_0001;
pub(crate) const BELOW_OPEN: Code = 0x20_0002;
pub(crate) const BELOW_FIRST: Code = 0x20_0003;

pub(crate) const SLASH: Code = b'/' as Code;

/// When a part is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Found {
    /// As soon as its last step is done.
    Passing,
    /// The same; and when the text ends before its last or last but one step, if it names a directory.
    Below,
    /// If its last step is done where the walk ends.
    Ending,
}

/// A part. `codes` is never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TextPart {
    pub walk: Walk,
    pub codes: Vec<Code>,
    pub found: Found,
}

impl TextPart {
    /// The steps before the first of at least `wide` (a loop, or a set): what is left when these cost
    /// too many states.
    fn narrow_front(&self, wide: Code) -> Option<TextPart> {
        let steps = self.steps();
        let front = steps.iter().take_while(|c| **c < wide).count();
        (front > 0).then(|| TextPart {
            walk: self.walk,
            codes: steps[..front].to_vec(),
            found: Found::Passing,
        })
    }

    /// Whether a step is at least `wide`: [`LOOP`] for loops, [`SET`] for sets, too.
    pub(crate) fn has(&self, wide: Code) -> bool {
        self.steps().iter().any(|c| *c >= wide)
    }

    /// The steps that every match takes: the path of a directory ends before the last two of what is
    /// below it.
    fn steps(&self) -> &[Code] {
        let end = match self.found {
            Found::Below => self.codes.len().saturating_sub(2),
            Found::Passing | Found::Ending => self.codes.len(),
        };
        &self.codes[..end]
    }

    /// Whether a byte has to be found after a loop in the same segment: such parts do not go together
    /// with those whose loops reach to the end of a segment.
    pub(crate) fn seeks(&self) -> bool {
        let mut inside = false;
        self.codes.iter().any(|c| {
            let seeks = inside && *c < LOOP && *c != SLASH;
            inside = *c >= LOOP || (inside && *c != SLASH);
            seeks
        })
    }
}

/// A pattern as parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TextAtom {
    pub parts: Vec<TextPart>,
    pub min_slashes: u32,
    /// Whether the parts say only "perhaps".
    pub inexact: bool,
}

/// The byte sets of a table, each once.
#[derive(Debug, Default)]
pub(crate) struct ByteSets {
    pub list: Vec<ByteSet>,
    index: HashMap<[u64; 4], u32>,
}

impl ByteSets {
    fn id(&mut self, set: &ByteSet) -> u32 {
        *self.index.entry(set.words()).or_insert_with(|| {
            self.list.push(*set);
            // Patterns are bounded: far fewer than LOOP - SET sets.
            (self.list.len() - 1) as u32
        })
    }

    fn code(&mut self, step: &Step) -> Code {
        match step {
            Step::Byte(set) => match set.only() {
                Some(byte) => Code::from(byte),
                None => SET + self.id(set),
            },
            Step::Loop(set) => LOOP + self.id(set),
            Step::DirsOpen => DIRS_OPEN,
            Step::DirsLoop => DIRS_LOOP,
            Step::BelowOpen => BELOW_OPEN,
            Step::BelowFirst => BELOW_FIRST,
        }
    }

    /// The set of a `SET` or `LOOP` code.
    pub(crate) fn of(&self, code: Code) -> &ByteSet {
        let at = if code >= LOOP {
            code - LOOP
        } else {
            code - SET
        };
        &self.list[at as usize]
    }

    /// The whole pattern as codes.
    pub(crate) fn line(&mut self, nfa: &Nfa) -> Vec<Code> {
        let literal = nfa.literal().iter().map(|b| Code::from(*b));
        let mut codes: Vec<Code> = literal.collect();
        codes.extend(nfa.rest().iter().map(|s| self.code(s)));
        codes
    }

    /// Whether a step of the part may take a `/` that is not written as one.
    fn crosses(&self, codes: &[Code]) -> bool {
        let wide = |c: &Code| *c >= SET && self.of(*c).contains(b'/');
        codes.iter().any(wide)
    }
}

/// Cuts a pattern into parts.
pub(crate) fn split(nfa: &Nfa, sets: &mut ByteSets) -> TextAtom {
    let line = sets.line(nfa);
    let all = LOOP + sets.id(&ByteSet::all());
    if line == [all] {
        return TextAtom::default();
    }
    let (body, below) = match line.as_slice() {
        [body @ .., BELOW_OPEN, BELOW_FIRST, last] if *last == all => (body, true),
        body => (body, false),
    };
    let below_end = [SLASH, SET + sets.id(&ByteSet::all())];
    let Some(first) = body.iter().position(|c| *c == DIRS_OPEN) else {
        let part = if below {
            TextPart {
                walk: Walk::Front,
                codes: [body, &below_end].concat(),
                found: Found::Below,
            }
        } else {
            anchored(body, all)
        };
        return TextAtom {
            parts: vec![part],
            ..TextAtom::default()
        };
    };
    let last = body.iter().rposition(|c| *c == DIRS_OPEN).unwrap_or(first);
    let (front, tail) = (&body[..first], &body[last + 2..]);
    let mut atom = TextAtom {
        inexact: first != last,
        ..TextAtom::default()
    };
    if !front.is_empty() {
        atom.parts.push(TextPart {
            walk: Walk::Front,
            codes: [front, &[SLASH]].concat(),
            found: Found::Passing,
        });
    }
    if below {
        // Whether it stands after the front is not said by the two alone.
        atom.inexact |= !front.is_empty();
        atom.parts.push(TextPart {
            walk: Walk::Inner,
            codes: [tail, &below_end].concat(),
            found: Found::Below,
        });
    } else {
        let mut codes: Vec<Code> = tail.iter().rev().copied().collect();
        codes.push(SLASH);
        atom.parts.push(TextPart {
            walk: Walk::Back,
            codes,
            found: Found::Passing,
        });
        if !front.is_empty() {
            atom.inexact |= sets.crosses(front) || sets.crosses(tail);
            let slashes = |codes: &[Code]| codes.iter().filter(|c| **c == SLASH).count() as u32;
            atom.min_slashes = slashes(front) + slashes(tail) + 1;
        }
    }
    atom
}

/// A pattern without `**` segments: walked from the side where its first loop comes later.
fn anchored(codes: &[Code], all: Code) -> TextPart {
    let front = codes.iter().take_while(|c| **c < LOOP).count();
    let back = codes.iter().rev().take_while(|c| **c < LOOP).count();
    let backwards: Vec<Code> = codes.iter().rev().copied().collect();
    let (walk, mut codes) = match back > front {
        true => (Walk::Back, backwards),
        false => (Walk::Front, codes.to_vec()),
    };
    // A loop over everything at the end: nothing after it matters.
    let found = match codes.last() {
        Some(last) if *last == all && codes.len() > 1 => {
            codes.pop();
            Found::Passing
        }
        _ => Found::Ending,
    };
    TextPart { walk, codes, found }
}

/// What is left of a part without its steps of at least `wide`: its ends, from both sides where it is
/// anchored on both, and its longest run between them.
pub(crate) fn narrowed(part: &TextPart, wide: Code) -> Vec<TextPart> {
    let mut left: Vec<TextPart> = part.narrow_front(wide).into_iter().collect();
    if part.found == Found::Ending {
        let other = TextPart {
            walk: match part.walk {
                Walk::Front => Walk::Back,
                _ => Walk::Front,
            },
            codes: part.codes.iter().rev().copied().collect(),
            found: Found::Ending,
        };
        left.extend(other.narrow_front(wide));
    }
    let runs = part.steps().split(|c| *c >= wide);
    let longest = runs.max_by_key(|run| run.len()).unwrap_or_default();
    // A single byte is in most texts.
    if longest.len() > 1 {
        let mut codes = longest.to_vec();
        if part.walk == Walk::Back {
            codes.reverse();
        }
        left.push(TextPart {
            walk: Walk::Anywhere,
            codes,
            found: Found::Passing,
        });
    }
    left
}
