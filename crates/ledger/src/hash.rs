//! RFC 6962 Merkle tree hashing with SHA-256 (section 2.1).
//!
//! A leaf and an inner node are hashed with different first bytes, so that one can never pass for
//! the other (second-preimage resistance). Everything else in this crate composes these three
//! functions; nothing else in it may call SHA-256 on tree material.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// Length of a hash in bytes.
pub const HASH_LEN: usize = 32;

/// A SHA-256 tree hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; HASH_LEN]);

impl Hash {
    /// Reads the 32 bytes of a hash; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Hash)
    }

    /// Reads standard, padded, canonical base64 of exactly 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD
            .decode(text)
            .ok()
            .and_then(|bytes| Hash::from_slice(&bytes))
    }

    /// Standard base64 with padding, the form in checkpoints and proofs.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }
}

/// Lower-case hex.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `SHA-256(0x00 || entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut h = Sha256::new();
    h.update([0x00]);
    h.update(entry);
    Hash(h.finalize().into())
}

/// `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut block = [0x01; 1 + 2 * HASH_LEN];
    block[1..=HASH_LEN].copy_from_slice(&left.0);
    block[1 + HASH_LEN..].copy_from_slice(&right.0);
    Hash(Sha256::digest(block).into())
}

/// The root of the tree without leaves, `SHA-256("")`.
pub fn empty_root() -> Hash {
    Hash(Sha256::digest(b"").into())
}

/// The Merkle tree hash of a list of leaf (or equal-height subtree) hashes.
pub fn tree_hash(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        many => {
            // The largest power of two smaller than the length (RFC 6962 section 2.1).
            let k = 1usize << (usize::BITS - 1 - (many.len() - 1).leading_zeros());
            node_hash(&tree_hash(&many[..k]), &tree_hash(&many[k..]))
        }
    }
}

/// Lower-case hex SHA-256 of arbitrary bytes, for digests inside records.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Hash(Sha256::digest(bytes).into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_vectors() {
        assert_eq!(
            leaf_hash(b"").to_string(),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            leaf_hash(b"L123456").to_string(),
            "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
        );
        assert_eq!(
            empty_root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    /// The tree of eight inputs that the Certificate Transparency code bases share.
    #[test]
    fn rfc6962_roots() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves: Vec<Hash> = inputs.iter().map(|i| leaf_hash(i)).collect();
        for n in 1..=8 {
            assert_eq!(
                tree_hash(&leaves[..n]).to_string(),
                roots[n - 1],
                "size {n}"
            );
        }
    }
}
