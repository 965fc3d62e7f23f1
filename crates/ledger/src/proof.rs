//! Inclusion and consistency proofs (RFC 6962 sections 2.1.1 and 2.1.2), made from any source of
//! subtree roots and checked without one.
//!
//! A proof is a list of hashes. The checks are the loops of RFC 9162 sections 2.1.3.2 and 2.1.4.2:
//! they consume exactly the hashes that the sizes call for, so a proof with one hash too many or
//! too few is refused.

use crate::{
    hash::{Hash, empty_root, node_hash, tree_hash},
    tile::Level,
};

/// Where subtree roots come from: the hash tiles of a log.
pub trait NodeSource {
    /// Why a node cannot be had.
    type Error;
    /// The roots of the subtrees `start..end` of `256^level` leaves each, all within one tile.
    fn nodes(&self, level: u8, start: u64, end: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// The tree hash of leaves `start..end`. Both must be on the split points of RFC 6962's
/// recursion: `start` a multiple of the largest power of two that fits into the range.
pub fn range_root<S: NodeSource>(source: &S, start: u64, end: u64) -> Result<Hash, S::Error> {
    if start >= end {
        return Ok(empty_root());
    }
    let mut parts = Vec::new();
    let mut at = start;
    while at < end {
        let k = u64::BITS - 1 - (end - at).leading_zeros();
        parts.push(complete(source, k, at >> k)?);
        at += 1 << k;
    }
    let mut parts = parts.into_iter().rev();
    let last = parts.next().unwrap_or_else(empty_root);
    Ok(parts.fold(last, |acc, left| node_hash(&left, &acc)))
}

/// The root of the first `size` leaves.
pub fn root_at<S: NodeSource>(source: &S, size: u64) -> Result<Hash, S::Error> {
    range_root(source, 0, size)
}

/// The proof that leaf `index` is in the tree of `size` leaves, from the leaf's sibling up.
/// `None` when `index` is not below `size`.
pub fn prove_inclusion<S: NodeSource>(
    source: &S,
    index: u64,
    size: u64,
) -> Result<Option<Vec<Hash>>, S::Error> {
    if index >= size {
        return Ok(None);
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(source, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(source, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new` leaves. Empty when
/// `old` is 0 or equal to `new`. `None` when `old` is greater than `new`.
pub fn prove_consistency<S: NodeSource>(
    source: &S,
    old: u64,
    new: u64,
) -> Result<Option<Vec<Hash>>, S::Error> {
    if old > new {
        return Ok(None);
    }
    if old == 0 || old == new {
        return Ok(Some(Vec::new()));
    }
    let mut path = Vec::new();
    let (mut start, mut end, mut whole) = (0, new, true);
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range_root(source, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(source, start, middle)?);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range_root(source, start, end)?);
    }
    path.reverse();
    Ok(Some(path))
}

/// Checks an inclusion proof.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let (mut fnode, mut snode) = (index, size - 1);
    let mut acc = *leaf;
    for (used, hash) in proof.iter().enumerate() {
        if snode == 0 {
            return Err(ProofError::TooLong {
                used,
                found: proof.len(),
            });
        }
        if fnode & 1 == 1 || fnode == snode {
            acc = node_hash(hash, &acc);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            acc = node_hash(&acc, hash);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    if snode != 0 {
        return Err(ProofError::TooShort(proof.len()));
    }
    same_root(root, &acc)
}

/// Checks a consistency proof between two sizes and roots.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Shrunk { old, new });
    }
    if old == 0 || old == new {
        if !proof.is_empty() {
            return Err(ProofError::TooLong {
                used: 0,
                found: proof.len(),
            });
        }
        let expected = if old == 0 { empty_root() } else { *new_root };
        return same_root(old_root, &expected);
    }
    // A power of two is a node of the new tree itself; its root is the first "hash".
    let mut hashes = old
        .is_power_of_two()
        .then_some(*old_root)
        .into_iter()
        .chain(proof.iter().copied());
    let (mut fnode, mut snode) = (old - 1, new - 1);
    while fnode & 1 == 1 {
        fnode >>= 1;
        snode >>= 1;
    }
    let first = hashes.next().ok_or(ProofError::TooShort(0))?;
    let (mut old_acc, mut new_acc) = (first, first);
    for hash in hashes {
        if snode == 0 {
            return Err(ProofError::TooLong {
                used: proof.len() - 1,
                found: proof.len(),
            });
        }
        if fnode & 1 == 1 || fnode == snode {
            old_acc = node_hash(&hash, &old_acc);
            new_acc = node_hash(&hash, &new_acc);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            new_acc = node_hash(&new_acc, &hash);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    if snode != 0 {
        return Err(ProofError::TooShort(proof.len()));
    }
    same_root(old_root, &old_acc)?;
    same_root(new_root, &new_acc)
}

/// Why a proof is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The entry cannot be in a tree of that size.
    #[error("entry {index} is not in a log of {size} entries")]
    Index {
        /// The entry.
        index: u64,
        /// The log's size.
        size: u64,
    },
    /// The "newer" tree is smaller.
    #[error("the log shrank from {old} to {new} entries")]
    Shrunk {
        /// Older size.
        old: u64,
        /// Newer size.
        new: u64,
    },
    /// Too many hashes.
    #[error("the proof has {found} hashes, {used} are enough")]
    TooLong {
        /// How many were needed.
        used: usize,
        /// How many there are.
        found: usize,
    },
    /// Too few hashes.
    #[error("the proof ends after {0} hashes, below the root")]
    TooShort(usize),
    /// The hashes lead elsewhere.
    #[error("the proof leads to the root {computed}, expected {expected}")]
    Root {
        /// The root that was to be shown.
        expected: Hash,
        /// The root the proof gives.
        computed: Hash,
    },
}

fn same_root(expected: &Hash, computed: &Hash) -> Result<(), ProofError> {
    if expected == computed {
        return Ok(());
    }
    Err(ProofError::Root {
        expected: *expected,
        computed: *computed,
    })
}

/// The largest power of two below `n`, for `n > 1`.
fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The root of the complete subtree number `index` of `2^k` leaves.
fn complete<S: NodeSource>(source: &S, k: u32, index: u64) -> Result<Hash, S::Error> {
    // Levels 0 to 7 (k < 64).
    let level = (k / 8) as u8;
    let width = 1u64 << (k % 8);
    let nodes = source.nodes(level, index * width, (index + 1) * width)?;
    Ok(tree_hash(&nodes))
}

/// A tree in memory, for tests and small proofs.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    levels: Vec<Vec<Hash>>,
}

impl MemoryTree {
    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut carry = leaf;
        for l in 0.. {
            if self.levels.len() == l {
                self.levels.push(Vec::new());
            }
            self.levels[l].push(carry);
            let count = self.levels[l].len();
            if !count.is_multiple_of(256) {
                return;
            }
            carry = tree_hash(&self.levels[l][count - 256..]);
        }
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |l| l.len() as u64)
    }
}

impl NodeSource for MemoryTree {
    /// The range is not in the tree.
    type Error = (Level, u64);

    fn nodes(&self, level: u8, start: u64, end: u64) -> Result<Vec<Hash>, Self::Error> {
        let get = |i: u64| usize::try_from(i).unwrap_or(usize::MAX);
        self.levels
            .get(usize::from(level))
            .and_then(|l| l.get(get(start)..get(end)))
            .map(<[Hash]>::to_vec)
            .ok_or((Level::Hashes(level), start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    #[test]
    fn every_proof_of_small_trees_and_no_other() {
        let mut tree = MemoryTree::default();
        let leaves: Vec<Hash> = (0..70u8).map(|i| leaf_hash(&[i])).collect();
        leaves.iter().for_each(|l| tree.push(*l));
        for size in 1..=70u64 {
            let root = root_at(&tree, size).expect("in the tree");
            assert_eq!(root, tree_hash(&leaves[..size as usize]));
            for index in 0..size {
                let leaf = leaves[index as usize];
                let proof = prove_inclusion(&tree, index, size)
                    .expect("in the tree")
                    .expect("an index below the size");
                assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
                let other = leaves[(index as usize + 1) % 70];
                assert!(verify_inclusion(&other, index, size, &proof, &root).is_err());
                let mut longer = proof.clone();
                longer.push(root);
                assert!(matches!(
                    verify_inclusion(&leaf, index, size, &longer, &root),
                    Err(ProofError::TooLong { .. })
                ));
                if !proof.is_empty() {
                    assert!(
                        verify_inclusion(&leaf, index, size, &proof[1..], &root).is_err(),
                        "{index} of {size}"
                    );
                }
            }
            assert_eq!(prove_inclusion(&tree, size, size), Ok(None));
            for old in 0..=size {
                let old_root = root_at(&tree, old).expect("in the tree");
                let proof = prove_consistency(&tree, old, size)
                    .expect("in the tree")
                    .expect("old is not greater");
                let check = |p: &[Hash]| verify_consistency(old, &old_root, size, &root, p);
                assert_eq!(check(&proof), Ok(()), "{old} to {size}");
                let mut longer = proof.clone();
                longer.push(root);
                assert!(check(&longer).is_err());
                if !proof.is_empty() {
                    assert!(check(&proof[..proof.len() - 1]).is_err());
                    let wrong = verify_consistency(old, &leaves[69], size, &root, &proof);
                    assert!(wrong.is_err());
                }
            }
        }
    }
}
