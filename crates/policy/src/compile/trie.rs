//! The trie of all parts of one walk: common beginnings cost once.

use std::collections::HashMap;

use super::parts::{Code, Found, LOOP, TextPart};

/// A node of the trie of all parts. There is one for nearly every byte of every pattern: children are
/// a list through their siblings, and what few nodes say stands elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// What leads here.
    pub code: Code,
    pub first_child: u32,
    pub next_sibling: u32,
    /// Its place in [`Trie::said`], or [`NONE`].
    pub said: u32,
}

/// No node, nothing said.
pub(super) const NONE: u32 = u32::MAX;

/// What a node says, as parts.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Done when this node is reached.
    pub done: Vec<u32>,
    /// Found when the walk ends with this node alive.
    pub ending: Vec<u32>,
    /// Found then for a directory.
    pub directory: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Trie {
    pub nodes: Vec<Node>,
    pub said: Vec<Said>,
}

impl Trie {
    /// The trie of the parts, which are numbered as they come.
    pub(super) fn new(parts: &[&TextPart]) -> Trie {
        let root = Node {
            code: 0,
            first_child: NONE,
            next_sibling: NONE,
            said: NONE,
        };
        let mut trie = Trie {
            nodes: vec![root],
            said: Vec::new(),
        };
        let mut edges: HashMap<(u32, Code), u32> = HashMap::new();
        for (id, part) in (0u32..).zip(parts) {
            let mut at = 0u32;
            let below = part.codes.len().saturating_sub(2);
            for (i, code) in part.codes.iter().enumerate() {
                if part.found == Found::Below && i >= below {
                    trie.say(at).directory.push(id);
                }
                at = *edges.entry((at, *code)).or_insert_with(|| {
                    let new = trie.nodes.len() as u32;
                    let parent = &mut trie.nodes[at as usize];
                    let next_sibling = std::mem::replace(&mut parent.first_child, new);
                    trie.nodes.push(Node {
                        code: *code,
                        next_sibling,
                        ..root
                    });
                    new
                });
            }
            let last = trie.say(at);
            match part.found {
                Found::Ending => last.ending.push(id),
                Found::Passing | Found::Below => last.done.push(id),
            }
        }
        trie
    }

    pub(super) fn children(&self, node: u32) -> impl Iterator<Item = (Code, u32)> {
        let mut next = self.nodes[node as usize].first_child;
        std::iter::from_fn(move || {
            let (at, child) = (next, self.nodes.get(next as usize)?);
            next = child.next_sibling;
            Some((child.code, at))
        })
    }

    /// The set that a node stays alive on.
    pub(super) fn stays(&self, node: u32) -> Option<Code> {
        let code = self.nodes[node as usize].code;
        (node != 0 && code >= LOOP).then_some(code)
    }

    pub(super) fn said(&self, node: u32) -> Option<&Said> {
        self.said.get(self.nodes[node as usize].said as usize)
    }

    fn say(&mut self, node: u32) -> &mut Said {
        let said = &mut self.nodes[node as usize].said;
        if *said == NONE {
            *said = self.said.len() as u32;
            self.said.push(Said::default());
        }
        &mut self.said[*said as usize]
    }
}
