//! RFC 6962 section 2.1: the Merkle tree over SHA-256, and the check of an inclusion proof.

use sha2::{Digest, Sha256};

/// A leaf's or inner node's hash.
pub type Hash = [u8; 32];

/// `SHA-256(0x00 || entry)`
pub fn leaf(entry: &[u8]) -> Hash {
    Sha256::new_with_prefix([0]).chain_update(entry).finalize().into()
}

/// `SHA-256(0x01 || left || right)`
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The tree hash of leaves, or of the roots of complete subtrees that are equally high: split at the
/// largest power of two below the number.
pub fn root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Sha256::digest(b"").into(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            node(&root(left), &root(right))
        }
    }
}

/// The root that an inclusion proof leads to, hashes from the leaf's sibling up; `None` when it has
/// more or fewer hashes than `index` and `size` call for (RFC 6962 section 2.1.1, read backwards).
pub fn climb(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    let Some((sibling, below)) = proof.split_last() else {
        return (index == 0 && size == 1).then_some(leaf);
    };
    // The left subtree: as many leaves as the largest power of two below the number.
    let left = 1 << size.checked_sub(2).map(|n| (n + 1).ilog2())?;
    match index.checked_sub(left) {
        None => Some(node(&climb(leaf, index, left, below)?, sibling)),
        Some(index) => Some(node(sibling, &climb(leaf, index, size - left, below)?)),
    }
}
