//! The tokens that were seen, each for as long as it could be accepted.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
};

use sha2::{Digest, Sha256};

use crate::{Jti, StoreError};

/// How many expired tokens one call may remove: more than one call adds, so that they become fewer, and
/// few enough that no call waits for a burst of others.
const REMOVED_AT_ONCE: usize = 8;

/// What a token is remembered by: 128 bits of SHA-256 over the lengths and texts of identity and id. An
/// agent that finds two tokens with the same one has only made its own second call a replay.
pub(crate) fn fingerprint(jti: &Jti<'_>) -> u128 {
    let mut hash = Sha256::new();
    for part in [jti.identity, jti.value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    u128::from_be_bytes(first)
}

/// A bounded set of tokens.
#[derive(Debug)]
pub(crate) struct Seen {
    most: usize,
    tokens: HashSet<u128>,
    /// When each may be forgotten, the earliest first.
    due: BinaryHeap<Reverse<(u64, u128)>>,
}

impl Seen {
    pub fn new(most: usize) -> Seen {
        Seen {
            most,
            tokens: HashSet::new(),
            due: BinaryHeap::new(),
        }
    }

    /// Records a token until a time; false if it is there already.
    pub fn insert(&mut self, now: u64, token: u128, until: u64) -> Result<bool, StoreError> {
        for _ in 0..REMOVED_AT_ONCE {
            match self.due.peek() {
                Some(Reverse((due, _))) if *due <= now => {
                    if let Some(Reverse((_, token))) = self.due.pop() {
                        self.tokens.remove(&token);
                    }
                }
                _ => break,
            }
        }
        if self.tokens.contains(&token) {
            return Ok(false);
        }
        if self.tokens.len() >= self.most {
            return Err(StoreError::Full {
                what: "places for recorded tokens",
                most: self.most,
            });
        }
        self.tokens.insert(token);
        self.due.push(Reverse((until, token)));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_is_remembered_for_its_window_and_then_forgotten() {
        let mut seen = Seen::new(2);
        assert_eq!(seen.insert(0, 1, 90), Ok(true));
        assert_eq!(seen.insert(89, 1, 179), Ok(false));
        assert_eq!(seen.insert(90, 1, 180), Ok(true));
        assert_eq!((seen.tokens.len(), seen.due.len()), (1, 1));
    }

    #[test]
    fn a_full_set_refuses_and_forgets_nothing() {
        let mut seen = Seen::new(2);
        assert_eq!(seen.insert(0, 1, 90), Ok(true));
        assert_eq!(seen.insert(0, 2, 90), Ok(true));
        assert!(matches!(
            seen.insert(1, 3, 90),
            Err(StoreError::Full { most: 2, .. })
        ));
        assert_eq!(seen.insert(1, 1, 90), Ok(false));
        assert_eq!(seen.insert(90, 3, 180), Ok(true));
    }

    #[test]
    fn where_an_identity_ends_is_part_of_the_fingerprint() {
        let of = |identity, value| {
            let window = Duration::from_secs(90);
            fingerprint(&Jti {
                identity,
                value,
                window,
            })
        };
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_eq!(of("a", "b"), of("a", "b"));
    }
}
