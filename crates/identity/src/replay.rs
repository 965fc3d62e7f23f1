//! Each token once.
//!
//! A record is kept until its token could not be taken any more, and no longer. It is made after the signature was verified, so that
//! nobody burns the identifiers of others, and by one step that looks and records, so that of many at once one is first.
//!
//! Embedded: exact, in bounded memory. Where it cannot tell it says "again" or "full", never "first":
//! * A record is the first 128 bits of a SHA-256 digest; two that fall together refuse a good token, never accept a bad one.
//! * Room is for a number of records. What does not fit is refused ([`Seen::Full`]) until others are over.
//! * A clock that goes back finds records gone; a token that ends before the last moment at which records were dropped is refused.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use crate::expect::Once;

/// What a replay record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// It was not there and now is. This answer is given once.
    First,
    /// It was there, or could have been.
    Again,
    /// There is no room to remember it, so it must be refused (503).
    Full,
}

/// Where identifiers are recorded. An implementation looks and records in one step; if it cannot, it answers [`Seen::Full`].
pub trait Replay: Send + Sync {
    /// Records the identifier until [`Once::until`]. `now` is in seconds since 1970.
    fn first_use(&self, once: &Once, now: i64) -> Seen;
}

/// Records in this process.
pub struct MemoryReplay {
    shards: Box<[Mutex<Shard>]>,
    /// Room of one shard, in records.
    room: usize,
}

#[derive(Default)]
struct Shard {
    /// Each record and its end.
    ends: HashMap<u128, i64>,
    /// The records by their end.
    by_end: BTreeMap<i64, Vec<u128>>,
    /// Records that ended here or earlier are gone.
    dropped: i64,
}

const SHARDS: usize = 64;

impl MemoryReplay {
    /// Room for at least `records`, some 100 bytes each. One lives at most 120 s, so `records / 120` tokens a second are taken at
    /// any rate.
    pub fn new(records: usize) -> Self {
        MemoryReplay {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            // A shard gets its share and four standard deviations.
            room: {
                let share = records.div_ceil(SHARDS);
                share + 4 * share.isqrt() + 4
            },
        }
    }

    /// How many records there are, of ended ones too.
    pub fn len(&self) -> usize {
        let count = |shard: &Mutex<Shard>| match shard.lock() {
            Ok(shard) => shard.ends.len(),
            Err(poisoned) => poisoned.into_inner().ends.len(),
        };
        self.shards.iter().map(count).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Replay for MemoryReplay {
    fn first_use(&self, once: &Once, now: i64) -> Seen {
        let mut digest = Sha256::new();
        // The length keeps the two texts apart.
        digest.update((once.identity.len() as u64).to_be_bytes());
        digest.update(&once.identity);
        digest.update(&once.jti);
        let digest: [u8; 32] = digest.finalize().into();
        let (key, rest) = digest.split_at(16);
        let key = key.iter().fold(0u128, |n, b| n << 8 | u128::from(*b));
        let shard = &self.shards[usize::from(rest[0]) % SHARDS];
        // Each statement below leaves the shard whole, so it can be used after a panic.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.first_use(key, once.until, now, self.room)
    }
}

impl Shard {
    fn first_use(&mut self, key: u128, until: i64, now: i64, room: usize) -> Seen {
        while let Some(oldest) = self.by_end.first_entry()
            && *oldest.key() <= now
        {
            let (end, keys) = oldest.remove_entry();
            self.dropped = end;
            for key in keys {
                self.ends.remove(&key);
            }
        }
        if until <= now.max(self.dropped) || self.ends.contains_key(&key) {
            return Seen::Again;
        }
        if self.ends.len() >= room {
            return Seen::Full;
        }
        self.ends.insert(key, until);
        self.by_end.entry(until).or_default().push(key);
        Seen::First
    }
}

impl std::fmt::Debug for MemoryReplay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryReplay")
            .field("records", &self.len())
            .field("room", &(self.room * SHARDS))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        collections::HashSet,
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
    };

    fn once(identity: &str, jti: &str, until: i64) -> Once {
        Once {
            identity: identity.to_owned(),
            jti: jti.to_owned(),
            until,
        }
    }

    impl MemoryReplay {
        fn knows_end(&self, end: i64) -> bool {
            let has = |shard: &Mutex<Shard>| shard.lock().expect("whole").by_end.contains_key(&end);
            self.shards.iter().any(has)
        }
    }

    #[test]
    fn of_a_million_at_once_one_is_first() {
        const THREADS: usize = 8;
        let replay = MemoryReplay::new(1000);
        let barrier = Barrier::new(THREADS);
        let first = AtomicUsize::new(0);
        let neighbours = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for thread in 0..THREADS {
                let (replay, barrier, first, neighbours) = (&replay, &barrier, &first, &neighbours);
                s.spawn(move || {
                    let the_one = once("agent:a", "the one", 1090);
                    barrier.wait();
                    for _ in 0..1_000_000 / THREADS {
                        if replay.first_use(&the_one, 1000) == Seen::First {
                            first.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    let own = once("agent:a", &format!("own {thread}"), 1090);
                    if replay.first_use(&own, 1000) == Seen::First {
                        neighbours.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(first.into_inner(), 1);
        assert_eq!(neighbours.into_inner(), THREADS);
        assert_eq!(replay.len(), 1 + THREADS);
    }

    #[test]
    fn identities_are_apart() {
        let replay = MemoryReplay::new(10);
        for (identity, jti) in [("ab", "c"), ("a", "bc"), ("abc", ""), ("a", "c")] {
            assert_eq!(replay.first_use(&once(identity, jti, 90), 0), Seen::First);
            assert_eq!(replay.first_use(&once(identity, jti, 90), 0), Seen::Again);
        }
    }

    #[test]
    fn kept_to_the_last_second_and_not_longer() {
        let replay = MemoryReplay::new(10);
        // A clock that is ahead: the token can be taken for 120 s, longer than the 90 s of an equal clock.
        assert_eq!(replay.first_use(&once("a", "1", 1120), 1000), Seen::First);
        assert_eq!(replay.first_use(&once("a", "1", 1120), 1119), Seen::Again);
        assert_eq!(replay.len(), 1);
        assert_eq!(replay.first_use(&once("a", "1", 1210), 1120), Seen::First);
        assert_eq!(replay.len(), 1);
    }

    #[test]
    fn a_clock_that_goes_back_revives_nothing() {
        let replay = MemoryReplay::new(10_000);
        assert_eq!(replay.first_use(&once("a", "1", 1090), 1000), Seen::First);
        // The record is dropped by whatever comes to its shard later; so many come to each.
        for n in 0..2000 {
            let later = once("b", &n.to_string(), 2090);
            assert_ne!(replay.first_use(&later, 2000), Seen::Again);
        }
        assert!(!replay.knows_end(1090), "it was dropped");
        assert_eq!(replay.first_use(&once("a", "1", 1090), 1000), Seen::Again);
        assert_eq!(replay.first_use(&once("a", "1", 2091), 2000), Seen::First);
    }

    #[test]
    fn full_is_refused_and_has_room_again() {
        let replay = MemoryReplay::new(100);
        let mut first = 0;
        let mut full = 0;
        for n in 0..5000 {
            match replay.first_use(&once("a", &n.to_string(), 90), 0) {
                Seen::First => first += 1,
                Seen::Full => full += 1,
                Seen::Again => panic!("{n} was never there"),
            }
        }
        assert!(first >= 100, "{first}");
        assert!(full > 0);
        assert_eq!(replay.len(), first);
        // What was refused was not recorded, and what was recorded is still known.
        for n in 0..5000 {
            assert_ne!(
                replay.first_use(&once("a", &n.to_string(), 90), 89),
                Seen::First
            );
        }
        assert_eq!(replay.first_use(&once("a", "later", 180), 90), Seen::First);
    }

    proptest! {
        /// Against a list of everything that ever was first.
        #[test]
        fn exact(uses in prop::collection::vec((0..3u8, 0..6u8, 1..120i64, 0..40i64), 1..200)) {
            let replay = MemoryReplay::new(100_000);
            let mut now = 1000;
            let mut known: HashSet<(u8, u8, i64)> = HashSet::new();
            for (identity, jti, life, step) in uses {
                now += step;
                let until = now + life;
                known.retain(|(_, _, end)| *end > now);
                let there = known.iter().any(|(i, j, _)| (*i, *j) == (identity, jti));
                let found = replay.first_use(&once(&identity.to_string(), &jti.to_string(), until), now);
                prop_assert_eq!(found, if there { Seen::Again } else { Seen::First });
                if !there {
                    known.insert((identity, jti, until));
                }
            }
        }
    }
}
