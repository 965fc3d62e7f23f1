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

/// The root of a tree from what its full tiles leave over: in `levels[l]` the roots of the complete
/// subtrees of 256^l leaves, fewer than 256, to the right of which stands only what `levels[..l]` has.
pub fn edge_root(levels: &[Vec<Hash>]) -> Hash {
    let mut right = Vec::new();
    for level in levels {
        // The incomplete subtree at the right counts as one: the split is the same for it.
        let all = [level.as_slice(), &right].concat();
        right = all.chunks(256).map(root).collect();
    }
    root(&right)
}

/// The root that an inclusion proof leads to, hashes from the leaf's sibling up; `None` when it has
/// more or fewer hashes than `index` and `size` call for (RFC 9162 section 2.1.3.2).
pub fn climb(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    // Positions, at the height reached, of our node and of the last node.
    let (mut here, mut last) = (index, size.checked_sub(1).filter(|last| index <= *last)?);
    let mut hash = leaf;
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if here & 1 == 1 || here == last {
            hash = node(sibling, &hash);
            // The last node of a level without a sibling is the same node a level higher.
            while here & 1 == 0 && here != 0 {
                here >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        here >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}
