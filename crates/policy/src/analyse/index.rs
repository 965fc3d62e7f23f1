//! Which rules may meet: an index of patterns by their literal fronts.
//!
//! An over-approximation: it never misses a rule that shares an object with another one. Two patterns
//! whose fronts fit are compared as pairs of lines before they count.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    limits::{Meter, TooLarge},
    model::Entry,
    objects::{PAIRS, Space, is_wild, text_globs},
    product::certainly_disjoint,
};
use crate::{glob::Glob, nfa::Nfa, pattern::ResourcePattern};

/// Which rules hang on which texts.
#[derive(Debug, Default)]
pub(super) struct Index {
    spaces: BTreeMap<Space, Fronts>,
    /// The rules that have a pattern in the positive part of their list.
    rules: Vec<Vec<u32>>,
}

#[derive(Debug, Default)]
struct Fronts {
    /// Literal front, alternative of a pattern's lines, pattern; sorted.
    sorted: Vec<(Vec<u8>, u32, u32)>,
    /// How long fronts are.
    lengths: BTreeSet<usize>,
    /// Rules that mean objects of the space for reasons that are no text.
    wild: Vec<u32>,
}

impl Index {
    pub(super) fn new(entries: &[Entry<'_>], patterns: &[&ResourcePattern]) -> Index {
        let mut index = Index {
            spaces: BTreeMap::new(),
            rules: vec![Vec::new(); patterns.len()],
        };
        for (n, entry) in entries.iter().enumerate() {
            for pattern in &entry.positive {
                index.rules[*pattern as usize].push(n as u32);
            }
        }
        for space in Space::ALL {
            let mut fronts = Fronts::default();
            for (n, entry) in entries.iter().enumerate() {
                let wild = |p: &u32| is_wild(patterns[*p as usize], space);
                if entry.positive.is_empty() || entry.positive.iter().any(wild) {
                    fronts.wild.push(n as u32);
                }
            }
            for (n, pattern) in patterns.iter().enumerate() {
                // Rules with labels are wild, so that the places need no index.
                if !is_wild(pattern, space) {
                    for (line, nfa) in alternatives(pattern, space).enumerate() {
                        let front = nfa.literal().to_vec();
                        fronts.lengths.insert(front.len());
                        fronts.sorted.push((front, line as u32, n as u32));
                    }
                }
            }
            fronts.sorted.sort_unstable();
            index.spaces.insert(space, fronts);
        }
        index
    }

    /// The rules that may match an object that the rule's positive patterns match.
    pub(super) fn candidates(
        &self,
        space: Space,
        own: &Entry<'_>,
        patterns: &[&ResourcePattern],
        meter: &mut Meter,
    ) -> Result<Vec<u32>, TooLarge> {
        let Some(fronts) = self.spaces.get(&space) else {
            return Ok(Vec::new());
        };
        let mut found: BTreeSet<u32> = BTreeSet::new();
        let mine = own.positive.iter().map(|p| patterns[*p as usize]);
        for nfa in mine.flat_map(|p| alternatives(p, space)) {
            for (_, line, other) in fronts.near(nfa.literal()) {
                meter.pay(1)?;
                if found.contains(other) {
                    continue;
                }
                let theirs = alternatives(patterns[*other as usize], space).nth(*line as usize);
                if theirs.is_some_and(|theirs| !certainly_disjoint(nfa, theirs, PAIRS)) {
                    found.insert(*other);
                }
            }
        }
        let rules = found.iter().flat_map(|p| &self.rules[*p as usize]);
        let all: BTreeSet<u32> = rules.chain(&fronts.wild).copied().collect();
        Ok(all.into_iter().collect())
    }
}

impl Fronts {
    /// Everything whose front begins with this one, or is the beginning of it.
    fn near<'a>(&'a self, front: &'a [u8]) -> impl Iterator<Item = &'a (Vec<u8>, u32, u32)> {
        let from = move |text: &[u8]| self.sorted.partition_point(|(f, ..)| f.as_slice() < text);
        let longer = self.sorted[from(front)..]
            .iter()
            .take_while(move |(f, ..)| f.starts_with(front));
        let shorter = self.lengths.range(..front.len()).flat_map(move |length| {
            let text = &front[..*length];
            self.sorted[from(text)..]
                .iter()
                .take_while(move |(f, ..)| f == text)
        });
        longer.chain(shorter)
    }
}

fn alternatives(pattern: &ResourcePattern, space: Space) -> impl Iterator<Item = &Nfa> {
    text_globs(pattern, space)
        .into_iter()
        .flat_map(Glob::alternatives)
}
