//! From observed paths to patterns: a trie, and merges that pay for themselves.
//!
//! Minimum description length, greedy. A policy and what was seen are written down together, in bits:
//!
//! ```text
//! L = sum over segments of the policy:   8 + 6 * fixed bytes + beta * B(breadth)
//!   + sum over names a wildcard matched: 6 * open bytes * sessions that used the name
//! ```
//!
//! A name that recurs is written once as a literal and would be paid in every session under a wildcard:
//! it stays a literal. Names that each session draws anew cost the same either way, and a wildcard saves
//! their 8 bits each, against the charge `B` for what it lets in unseen (4 for a shape, 8 a length, 12 an
//! affix, 24 `*`, 64 `**`). So a wildcard over names without anything in common needs
//! `8 * (n - 1) >= beta * B` names that did not recur: that is the bound on over-generalisation. On top
//! of it, each breadth has a least number of names, and they must come from `k` different sessions.
//!
//! Invariants: a merge matches nothing that was refused or asked about; a tree (`**`) touches nothing of
//! the never-cover set; no wildcard stands above the floor (the workspace or temporary folder itself,
//! one name below the home folder, two names below `/`). Work is bounded; past the bound, literals.

use std::collections::{BTreeMap, BTreeSet};

use agentwall_action::Verb;

use crate::glob::{Glob, GlobKind};

use super::{
    cover::NeverCover,
    token::{
        Breadth, Segment, Shape, affix_segment, any_segment, extension, first_word, length_segment,
        process_segment, shape, shape_segment,
    },
};

/// The names of a path.
pub(crate) type Names = Vec<Vec<u8>>;

/// One distinct object of a group of verbs.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Its path, absolute and canonical.
    pub path: Vec<u8>,
    /// What was done to it.
    pub verbs: BTreeSet<Verb>,
    /// In which sessions, by number.
    pub sessions: BTreeSet<usize>,
}

/// Where wildcards may begin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Floor {
    /// Folders whose own entries may be merged: the workspace, the temporary folder.
    pub open: Vec<Names>,
    /// The home folder: entries of its entries may be.
    pub home: Option<Names>,
}

/// What merging needs to know.
#[derive(Debug)]
pub(crate) struct Merger<'a> {
    pub never: &'a NeverCover,
    pub floor: &'a Floor,
    /// What was refused or asked about; no merge matches it.
    pub refused: &'a [(Verb, Vec<u8>)],
    /// How many sessions a merge needs.
    pub sessions: usize,
    /// The weight of the charge for what is let in unseen, in percent.
    pub beta: i64,
    /// Whether the paths are those of Unix sockets.
    pub sockets: bool,
    work: usize,
}

/// Most nodes that are looked at for merges.
const WORK: usize = 3_000_000;
/// Most wildcards above each other.
const NESTED: usize = 4;
const SEGMENT: i64 = 8;
const BYTE: i64 = 6;

#[derive(Debug, Clone, Default)]
struct Node {
    names: BTreeMap<Vec<u8>, Node>,
    sessions: BTreeSet<usize>,
    verbs: BTreeSet<Verb>,
    here: bool,
}

#[derive(Debug, Clone, Default)]
struct Cover {
    bits: i64,
    patterns: Vec<Vec<Segment>>,
}

impl Node {
    fn insert(&mut self, names: &[Vec<u8>], object: &Object) {
        self.sessions.extend(&object.sessions);
        self.verbs.extend(&object.verbs);
        match names {
            [] => self.here = true,
            [name, rest @ ..] => self
                .names
                .entry(name.clone())
                .or_default()
                .insert(rest, object),
        }
    }

    fn add(&mut self, other: &Node) {
        self.sessions.extend(&other.sessions);
        self.verbs.extend(&other.verbs);
        self.here |= other.here;
        for (name, node) in &other.names {
            self.names.entry(name.clone()).or_default().add(node);
        }
    }

    /// Names below that did not recur, and what all of them cost under `**`.
    fn below(&self) -> (usize, i64) {
        self.names
            .iter()
            .fold((0, 0), |(count, bits), (name, node)| {
                let (inner, more) = node.below();
                let uses = node.sessions.len() as i64;
                let single = usize::from(uses == 1);
                (
                    count + inner + single,
                    bits + more + uses * BYTE * name.len() as i64,
                )
            })
    }
}

/// The names of an absolute path.
pub(crate) fn names_of(path: &[u8]) -> Names {
    let parts = path.split(|b| *b == b'/');
    parts
        .filter(|p| !p.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

/// The pattern of segments.
pub(crate) fn pattern_text(segments: &[Segment]) -> String {
    if segments.is_empty() {
        return "/".into();
    }
    segments.iter().map(|s| format!("/{}", s.text())).collect()
}

impl<'a> Merger<'a> {
    pub fn new(
        never: &'a NeverCover,
        floor: &'a Floor,
        refused: &'a [(Verb, Vec<u8>)],
        sessions: usize,
        beta: i64,
    ) -> Self {
        Merger {
            never,
            floor,
            refused,
            sessions,
            beta,
            sockets: false,
            work: 0,
        }
    }

    /// Patterns that match every object, in the order of their text.
    pub fn patterns(&mut self, objects: &[Object]) -> Vec<Vec<Segment>> {
        let mut root = Node::default();
        for object in objects {
            root.insert(&names_of(&object.path), object);
        }
        let mut patterns = self.cover(&root, &mut Vec::new(), 0).patterns;
        patterns.sort();
        patterns.dedup();
        patterns
    }

    fn cover(&mut self, node: &Node, prefix: &mut Vec<Segment>, nested: usize) -> Cover {
        self.work += 1;
        let mut cover = Cover::default();
        if node.here {
            cover.patterns.push(prefix.clone());
        }
        let mut parts: BTreeMap<&[u8], Cover> = BTreeMap::new();
        for (name, child) in &node.names {
            prefix.push(Segment::Literal(name.clone()));
            let mut part = self.cover(child, prefix, nested);
            prefix.pop();
            part.bits += SEGMENT + BYTE * name.len() as i64;
            parts.insert(name, part);
        }
        if let Some((numbers, merged)) = self.processes(node, prefix, nested) {
            numbers
                .iter()
                .for_each(|n| drop(parts.remove(n.as_slice())));
            cover.bits += merged.bits;
            cover.patterns.extend(merged.patterns);
        }
        let may = nested < NESTED && self.work < WORK && self.is_open(prefix);
        while may && self.work < WORK {
            let Some((names, merged)) = self.best(node, &parts, prefix, nested) else {
                break;
            };
            names.iter().for_each(|n| drop(parts.remove(n.as_slice())));
            cover.bits += merged.bits;
            cover.patterns.extend(merged.patterns);
        }
        for part in parts.into_values() {
            cover.bits += part.bits;
            cover.patterns.extend(part.patterns);
        }
        if may && let Some(tree) = self.tree(node, prefix, &cover) {
            return tree;
        }
        cover
    }

    /// The numbers of processes below `/proc`, and of threads below a process, as one.
    fn processes(
        &mut self,
        node: &Node,
        prefix: &mut Vec<Segment>,
        nested: usize,
    ) -> Option<(Vec<Vec<u8>>, Cover)> {
        let literal = |s: &Segment, name: &[u8]| *s == Segment::Literal(name.to_vec());
        let here = match prefix.as_slice() {
            [proc] => literal(proc, b"proc"),
            [proc, _, task] => literal(proc, b"proc") && literal(task, b"task"),
            _ => false,
        };
        if !here {
            return None;
        }
        let number = |n: &&Vec<u8>| n.iter().all(u8::is_ascii_digit);
        let numbers: Vec<Vec<u8>> = node.names.keys().filter(number).cloned().collect();
        let mut merged = Node::default();
        let children = numbers.iter().filter_map(|n| node.names.get(n));
        children.for_each(|c| merged.add(c));
        if merged.sessions.len() < self.sessions {
            return None;
        }
        prefix.push(process_segment());
        let mut cover = self.cover(&merged, prefix, nested + 1);
        prefix.pop();
        cover.bits += SEGMENT + self.beta * Breadth::Shape.bits() / 100;
        self.permitted(&cover.patterns, &merged.verbs)
            .then_some((numbers, cover))
    }

    /// The merge of names of this node that saves most, if one saves anything.
    fn best(
        &mut self,
        node: &Node,
        parts: &BTreeMap<&[u8], Cover>,
        prefix: &mut Vec<Segment>,
        nested: usize,
    ) -> Option<(Vec<Vec<u8>>, Cover)> {
        let single = |n: &&[u8]| node.names.get(*n).is_some_and(|c| c.sessions.len() == 1);
        let names: Vec<&[u8]> = parts.keys().copied().filter(single).collect();
        let mut best: Option<(i64, Vec<Vec<u8>>, Cover)> = None;
        for (segment, members) in candidates(&names) {
            let Segment::Pattern { breadth, glob } = &segment else {
                continue;
            };
            let mut merged = Node::default();
            members.iter().for_each(|n| {
                if let Some(child) = node.names.get(*n) {
                    merged.add(child);
                }
            });
            if members.len() < breadth.names() || merged.sessions.len() < self.sessions {
                continue;
            }
            let fixed = fixed_bytes(glob);
            let open: i64 = members.iter().map(|n| n.len() as i64 - fixed).sum();
            let own = SEGMENT + BYTE * (fixed + open.max(0)) + self.beta * breadth.bits() / 100;
            let before: i64 = members
                .iter()
                .filter_map(|n| parts.get(n))
                .map(|c| c.bits)
                .sum();
            prefix.push(segment.clone());
            let mut inner = self.cover(&merged, prefix, nested + 1);
            prefix.pop();
            inner.bits += own;
            let gain = before - inner.bits;
            let better = best.as_ref().is_none_or(|(g, ..)| gain > *g);
            if gain >= 0 && better && self.permitted(&inner.patterns, &merged.verbs) {
                best = Some((gain, members.iter().map(|n| n.to_vec()).collect(), inner));
            }
        }
        best.map(|(_, names, cover)| (names, cover))
    }

    /// Everything below this node, if that is shorter than what was found.
    fn tree(&self, node: &Node, prefix: &[Segment], found: &Cover) -> Option<Cover> {
        let deep = node.names.values().any(|n| !n.names.is_empty());
        let (names, bits) = node.below();
        if !deep || names < Breadth::Below.names() || node.sessions.len() < self.sessions {
            return None;
        }
        let bits = bits + SEGMENT + self.beta * Breadth::Below.bits() / 100;
        let mut cover = Cover {
            bits,
            patterns: vec![[prefix, &[Segment::Below]].concat()],
        };
        if bits >= found.bits || !self.permitted(&cover.patterns, &node.verbs) {
            return None;
        }
        if node.here {
            cover.patterns.push(prefix.to_vec());
        }
        Some(cover)
    }

    /// Whether merged patterns keep away from what was refused, and trees from the never-cover set.
    fn permitted(&self, patterns: &[Vec<Segment>], verbs: &BTreeSet<Verb>) -> bool {
        let verbs: Vec<Verb> = verbs.iter().copied().collect();
        patterns.iter().all(|segments| {
            let Ok(glob) = Glob::new(&pattern_text(segments), GlobKind::Path) else {
                return false;
            };
            let refused =
                |(verb, path): &(Verb, Vec<u8>)| verbs.contains(verb) && glob.matches(path, true);
            let tree = segments.contains(&Segment::Below);
            !self.refused.iter().any(refused)
                && (!tree || self.never.touches(&verbs, &glob, self.sockets).is_empty())
        })
    }

    /// Whether names at this place may be merged.
    fn is_open(&self, prefix: &[Segment]) -> bool {
        let literal: Vec<&[u8]> = prefix
            .iter()
            .map_while(|s| match s {
                Segment::Literal(name) => Some(name.as_slice()),
                _ => None,
            })
            .collect();
        let inside = |dir: &Names| {
            literal.len() >= dir.len() && dir.iter().zip(&literal).all(|(a, b)| a == b)
        };
        if self.floor.open.iter().any(inside) {
            return true;
        }
        match &self.floor.home {
            Some(home) if inside(home) => literal.len() > home.len(),
            _ => literal.len() >= 2,
        }
    }
}

/// Names by what they share.
type Groups<'n, K> = BTreeMap<K, Vec<&'n [u8]>>;

/// Groups of names that may be one segment.
fn candidates<'n>(names: &[&'n [u8]]) -> Vec<(Segment, Vec<&'n [u8]>)> {
    let mut found: Vec<(Segment, Vec<&[u8]>)> = Vec::new();
    let mut shapes: BTreeMap<Shape, Vec<&[u8]>> = BTreeMap::new();
    let mut words: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    let mut ends: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    let mut both: Groups<'n, (&[u8], &[u8])> = BTreeMap::new();
    let mut lengths: Groups<'n, (usize, Option<&[u8]>)> = BTreeMap::new();
    for name in names.iter().copied() {
        if let Some(shape) = shape(name) {
            shapes.entry(shape).or_default().push(name);
        }
        let (word, end) = (first_word(name), extension(name));
        if let Some(word) = word {
            words.entry(word).or_default().push(name);
        }
        if let Some(end) = end {
            ends.entry(end).or_default().push(name);
        }
        if let (Some(word), Some(end)) = (word, end) {
            both.entry((word, end)).or_default().push(name);
        }
        if name.iter().any(u8::is_ascii_digit) {
            lengths.entry((name.len(), end)).or_default().push(name);
        }
    }
    let mut add = |segment: Option<Segment>, members: Vec<&'n [u8]>| {
        if let Some(segment) = segment {
            found.push((segment, members));
        }
    };
    for group in shapes.into_values().filter(|g| g.len() > 1) {
        add(shape_segment(&group), group);
    }
    for group in lengths.into_values().filter(|g| g.len() > 1) {
        add(length_segment(&group), group);
    }
    let affixes = words
        .into_values()
        .chain(ends.into_values())
        .chain(both.into_values());
    for group in affixes.filter(|g| g.len() > 1) {
        add(affix_segment(&group), group);
    }
    if names.len() > 1 {
        add(Some(any_segment()), names.to_vec());
    }
    found
}

/// How many bytes of each name a glob of one segment fixes.
fn fixed_bytes(glob: &str) -> i64 {
    let mut fixed = 0;
    let mut class = false;
    let mut escaped = false;
    for b in glob.bytes() {
        match b {
            _ if escaped => (fixed, escaped) = (fixed + 1, false),
            b'\\' => escaped = true,
            b'[' => class = true,
            b']' => class = false,
            b'*' | b'?' => {}
            _ if class => {}
            _ => fixed += 1,
        }
    }
    fixed
}

/// Merges names that have nothing below them: labels of hosts. Groups that are no merge are left out.
pub(crate) fn merge_names(
    names: &[(&[u8], &BTreeSet<usize>)],
    sessions: usize,
    beta: i64,
) -> Vec<(Segment, Vec<Vec<u8>>)> {
    let uses = |name: &[u8]| names.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
    let single = |(_, s): &&(&[u8], &BTreeSet<usize>)| s.len() == 1;
    let mut left: Vec<&[u8]> = names.iter().filter(single).map(|(n, _)| *n).collect();
    let mut merged = Vec::new();
    loop {
        let gain = |segment: &Segment, members: &[&[u8]]| {
            let Segment::Pattern { breadth, glob } = segment else {
                return -1;
            };
            let from: BTreeSet<usize> = members
                .iter()
                .filter_map(|n| uses(n))
                .flatten()
                .copied()
                .collect();
            if members.len() < breadth.names() || from.len() < sessions {
                return -1;
            }
            let more = members.len() as i64 - 1;
            more * (SEGMENT + BYTE * fixed_bytes(glob)) - beta * breadth.bits() / 100
        };
        let groups = candidates(&left).into_iter();
        let best = groups
            .map(|(segment, members)| (gain(&segment, &members), segment, members))
            .filter(|(gain, ..)| *gain >= 0)
            .max_by_key(|(gain, ..)| *gain);
        let Some((_, segment, members)) = best else {
            return merged;
        };
        left.retain(|n| !members.contains(n));
        merged.push((segment, members.iter().map(|n| n.to_vec()).collect()));
    }
}
