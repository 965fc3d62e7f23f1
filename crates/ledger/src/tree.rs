//! The right edge of a tree: everything needed to append to it and to name its root.
//!
//! A log of `size` leaves has, at each tile level, fewer than 256 subtree roots that no full tile
//! covers yet. Those are exactly the hashes in the partial tiles, at most 255 per level and 8
//! levels, so a writer starts with O(log n) reads whatever the size of the log.

use crate::{
    hash::{Hash, empty_root, node_hash, tree_hash},
    tile::{Level, TILE_WIDTH},
};

/// The hashes of the partial tiles, level by level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Frontier {
    /// Puts together what the partial tiles hold, lowest level first. `None` when a width does not
    /// fit `size`.
    pub fn new(size: u64, mut levels: Vec<Vec<Hash>>) -> Option<Self> {
        let want = Level::all(size).count().saturating_sub(1);
        while levels.len() > want && levels.last().is_some_and(Vec::is_empty) {
            levels.pop();
        }
        let fits = levels.len() == want
            && levels.iter().enumerate().all(|(l, hashes)| {
                hashes.len() == usize::from(Level::Hashes(l as u8).partial(size))
            });
        fits.then_some(Frontier { size, levels })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the partial tile at level `l`, empty when there is none.
    pub fn level(&self, l: u8) -> &[Hash] {
        self.levels.get(usize::from(l)).map_or(&[], Vec::as_slice)
    }

    /// How many levels there are.
    pub fn depth(&self) -> u8 {
        // At most 8 (`MAX_LEVEL` + 1).
        self.levels.len() as u8
    }

    /// Appends a leaf hash. Every tile that becomes full is handed to `full(level, index, hashes)`,
    /// lowest level first.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(u8, u64, &[Hash])) {
        let mut carry = leaf;
        self.size += 1;
        for l in 0.. {
            if self.levels.len() == l {
                self.levels.push(Vec::new());
            }
            self.levels[l].push(carry);
            if self.levels[l].len() < usize::from(TILE_WIDTH) {
                return;
            }
            let hashes = std::mem::take(&mut self.levels[l]);
            let level = l as u8;
            full(level, Level::Hashes(level).full(self.size) - 1, &hashes);
            carry = tree_hash(&hashes);
        }
    }

    /// The sibling hashes, from the leaf up, of the leaf that will be appended next, in the tree that it is the last leaf
    /// of (RFC 6962 section 2.1.1): the complete subtrees, the smallest first.
    pub fn path_of_next(&self) -> Vec<Hash> {
        let mut path = Vec::new();
        for hashes in &self.levels {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let width = 1usize << rest.len().trailing_zeros();
                let (left, right) = rest.split_at(rest.len() - width);
                path.push(tree_hash(right));
                rest = left;
            }
        }
        path
    }

    /// The root of the whole tree.
    pub fn root(&self) -> Hash {
        // From the smallest complete subtree at the right to the largest at the left: the tree
        // hash of RFC 6962 is the right-leaning fold over the binary digits of the size.
        let subtrees = self.path_of_next().into_iter();
        subtrees
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(empty_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::leaf_hash, proof::verify_inclusion};

    #[test]
    fn the_root_is_the_plain_recursion_at_every_size() {
        let mut frontier = Frontier::default();
        let mut leaves = Vec::new();
        assert_eq!(frontier.root(), tree_hash(&[]));
        let mut tiles = 0;
        for i in 0..1100u32 {
            let leaf = leaf_hash(&i.to_be_bytes());
            leaves.push(leaf);
            frontier.push(leaf, |level, index, hashes| {
                assert_eq!((level, hashes.len()), (0, 256));
                assert_eq!(hashes, &leaves[index as usize * 256..][..256]);
                tiles += 1;
            });
            assert_eq!(frontier.root(), tree_hash(&leaves), "size {}", i + 1);
            let (mut next, leaf) = (frontier.clone(), leaf_hash(b"next"));
            let path = frontier.path_of_next();
            next.push(leaf, |_, _, _| {});
            let index = u64::from(i) + 1;
            assert_eq!(
                verify_inclusion(&leaf, index, index + 1, &path, &next.root()),
                Ok(())
            );
            let again = Frontier::new(frontier.size, frontier.levels.clone());
            assert_eq!(again.as_ref(), Some(&frontier));
        }
        assert_eq!(tiles, 4);
    }

    #[test]
    fn three_levels() {
        let mut frontier = Frontier::default();
        let mut leaves = Vec::new();
        let mut tops = 0;
        for i in 0..65_537u32 {
            let leaf = leaf_hash(&i.to_be_bytes());
            leaves.push(leaf);
            frontier.push(leaf, |level, _, _| tops += u32::from(level == 1));
            if i >= 65_533 {
                assert_eq!(frontier.root(), tree_hash(&leaves), "size {}", i + 1);
            }
        }
        assert_eq!((tops, frontier.depth()), (1, 3));
    }
}
