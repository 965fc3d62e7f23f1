//! The table: all words of a compiled policy, and where in them is what.
//!
//! One array of 32-bit words in the host's byte order, offsets in words from its beginning; nothing in
//! it is a pointer, so that it may be mapped from a file or copied into BPF maps as it is. The layout
//! is specified, field by field and with test vectors, in `docs/policy-table.md`; a change of it is a
//! new [`VERSION`].
//!
//! Invariant: a [`Table`] was made by the compiler or passed [`Table::read`], so that every offset and
//! count in it stays inside; reads outside answer with nothing all the same.

use std::collections::HashMap;

use agentwall_action::Verb;

use crate::policy::Policy;

/// `"AWPT"`, read as a word of the host.
pub(crate) const MAGIC: u32 = u32::from_ne_bytes(*b"AWPT");
/// The version of the layout.
pub(crate) const VERSION: u32 = 2;

/// Words being written. A list is its length and its members.
#[derive(Debug, Default)]
pub(crate) struct Words {
    words: Vec<u32>,
    lists: HashMap<Vec<u32>, u32>,
}

impl Words {
    /// Space for the head; offset 0 means nothing.
    pub(crate) fn with_head(words: usize) -> Words {
        Words {
            words: vec![0; words],
            lists: HashMap::new(),
        }
    }

    // A table is bounded far below 2^32 words by the bounds of its policy.
    pub(crate) fn len(&self) -> u32 {
        self.words.len() as u32
    }

    pub(crate) fn push(&mut self, word: u32) {
        self.words.push(word);
    }

    pub(crate) fn extend(&mut self, words: &[u32]) {
        self.words.extend_from_slice(words);
    }

    pub(crate) fn set(&mut self, at: u32, word: u32) {
        self.words[at as usize] = word;
    }

    /// Writes a list, each content once; the empty list is 0.
    pub(crate) fn list(&mut self, members: &[u32]) -> u32 {
        if members.is_empty() {
            return 0;
        }
        if let Some(at) = self.lists.get(members) {
            return *at;
        }
        let at = self.len();
        self.words.push(members.len() as u32);
        self.words.extend_from_slice(members);
        self.lists.insert(members.to_vec(), at);
        at
    }

    pub(crate) fn finish(mut self) -> Table {
        self.words[0] = MAGIC;
        self.words[1] = VERSION;
        self.words[2] = self.words.len() as u32;
        Table {
            words: self.words.into(),
        }
    }
}

/// A compiled policy's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub words: std::sync::Arc<[u32]>,
}

/// The words before everything else: magic, version, length, where the byte sets are; then one offset
/// for each kind of object.
pub(crate) const BYTE_SETS: usize = 3;
pub(crate) const PLANES: usize = 4;
/// How many planes there are.
pub(crate) const KINDS: usize = 6;
/// How many verbs the table knows, and how many layers it has.
pub(crate) const VERB_COUNT: usize = PLANES + KINDS;
pub(crate) const LAYER_COUNT: usize = VERB_COUNT + 1;
/// For each layer and verb what happens when no rule of the layer matches, or [`NO_DEFAULT`].
pub(crate) const DEFAULTS: usize = LAYER_COUNT + 1;
/// Most layers: the organisation's, the user's, the repository's.
pub(crate) const MAX_LAYERS: usize = 3;
pub(crate) const HEAD: usize = DEFAULTS + MAX_LAYERS * Verb::ALL.len();

/// A layer that says nothing about a verb when none of its rules matches.
pub(crate) const NO_DEFAULT: u32 = u32::MAX;

/// The fields of a plane, from its offset on.
pub(crate) mod field {
    /// How many sets of parts there are.
    pub const SETS: usize = 0;
    /// How many layers; the marks are one more.
    pub const LAYERS: usize = 1;
    /// How many classes of verbs.
    pub const CLASSES: usize = 2;
    /// One word for each verb: its class, or [`NO_CLASS`].
    pub const VERBS: usize = 3;
    /// List of automata: walk and offset, in turns.
    pub const AUTOMATA: usize = 4;
    /// Ranges of IPv4 and IPv6 addresses, of IPv4 addresses wrapped in IPv6, of TCP and UDP ports.
    pub const V4: usize = 5;
    pub const V6: usize = 6;
    pub const WRAPPED: usize = 7;
    pub const TCP: usize = 8;
    pub const UDP: usize = 9;
    /// List of labels: the offset of the name's bytes and a set, in turns.
    pub const LABELS: usize = 10;
    /// The set that an address which is not private has.
    pub const PUBLIC: usize = 11;
    /// One word for each set: its parts that checks ask for, as a list; the highest bit says that a
    /// private address is among its parts.
    pub const MEMBERS: usize = 12;
    /// For each set, layer and class a list of candidate lists; with [`super::ONE`] the only one, or
    /// with [`super::ITSELF`] the only candidate.
    pub const LEAVES: usize = 13;
    /// For each layer the offset of its rules.
    pub const RULES: usize = 14;
    /// The number of fields.
    pub const COUNT: usize = 15;
}

/// The class of a verb that is not of the plane.
pub(crate) const NO_CLASS: u32 = u32::MAX;
/// In [`field::MEMBERS`].
pub(crate) const PRIVATE: u32 = 1 << 31;

/// In a leaf: it is itself the offset of a list of candidates.
pub(crate) const ONE: u32 = 1 << 31;
/// In a leaf with [`ONE`]: it is itself the first word of a candidate that is [`CERTAIN`].
pub(crate) const ITSELF: u32 = 1 << 29;

/// In the first word of a candidate: nothing is left to check.
pub(crate) const CERTAIN: u32 = 1 << 31;
/// In the first word of a candidate: the rule has conditions.
pub(crate) const CONDITIONAL: u32 = 1 << 30;
/// How far the effect in the first word of a candidate is shifted; it has three bits.
pub(crate) const EFFECT_SHIFT: u32 = 24;
/// The rank in the first word of a candidate.
pub(crate) const RANK: u32 = (1 << 24) - 1;

/// The words of a rule: priority group, list of checks of which none may hold.
pub(crate) const RULE_WORDS: usize = 2;
/// Words of a table, most: three bits of an offset may be flags.
pub(crate) const MAX_TABLE: u32 = 1 << 29;

impl Table {
    /// The same table with what happens where no rule matches: the compiler of rules does not know it.
    pub(crate) fn with_defaults(mut self, policy: &Policy) -> Table {
        let layers = policy.layers.len().min(MAX_LAYERS);
        // Nobody else has the words yet: nothing is copied.
        let words = std::sync::Arc::make_mut(&mut self.words);
        words[VERB_COUNT] = Verb::ALL.len() as u32;
        words[LAYER_COUNT] = layers as u32;
        let rows = words[DEFAULTS..HEAD].chunks_exact_mut(Verb::ALL.len());
        for (depth, row) in rows.enumerate() {
            for (verb, word) in Verb::ALL.iter().zip(row) {
                let effect = (depth < layers).then(|| policy.unmatched(depth, *verb));
                *word = effect.flatten().map_or(NO_DEFAULT, |e| e as u32);
            }
        }
        self
    }

    /// The word at an offset; 0 outside.
    #[inline]
    pub(crate) fn at(&self, offset: usize) -> u32 {
        self.words.get(offset).copied().unwrap_or(0)
    }

    /// The list at an offset; empty for 0 and outside.
    #[inline]
    pub(crate) fn list(&self, offset: u32) -> &[u32] {
        if offset == 0 {
            return &[];
        }
        let at = offset as usize;
        let len = self.at(at) as usize;
        self.words.get(at + 1..at + 1 + len).unwrap_or(&[])
    }
}
