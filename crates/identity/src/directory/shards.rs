//! A map that is read without locks.
//!
//! A part of the map is exchanged whole when something in it changes, so a reader has one state of it and never waits.
//! A change copies one part of 256; there is one writer at a time, which the [`Directory`](super::Directory) sees to.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwap;

const PARTS: u64 = 256;

pub(super) struct Shards<K, V> {
    parts: Box<[ArcSwap<HashMap<K, V>>]>,
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn new() -> Self {
        Shards {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    fn part(&self, key: &K) -> &ArcSwap<HashMap<K, V>> {
        &self.parts[(self.hasher.hash_one(key) % PARTS) as usize]
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.part(key).load().get(key).cloned()
    }

    /// Only for the one writer: two at once would lose an entry.
    pub(super) fn insert(&self, key: K, value: V) {
        let part = self.part(&key);
        let mut changed = HashMap::clone(&part.load());
        changed.insert(key, value);
        part.store(Arc::new(changed));
    }

    /// Puts in many at once, each part exchanged once. Only for the one writer.
    pub(super) fn extend(&self, entries: impl IntoIterator<Item = (K, V)>) {
        let mut by_part: HashMap<usize, Vec<(K, V)>> = HashMap::new();
        for (key, value) in entries {
            let part = (self.hasher.hash_one(&key) % PARTS) as usize;
            by_part.entry(part).or_default().push((key, value));
        }
        for (part, entries) in by_part {
            let mut changed = HashMap::clone(&self.parts[part].load());
            changed.extend(entries);
            self.parts[part].store(Arc::new(changed));
        }
    }

    /// Everything, part by part.
    pub(super) fn for_each(&self, mut see: impl FnMut(&K, &V)) {
        for part in &self.parts {
            part.load().iter().for_each(|(k, v)| see(k, v));
        }
    }
}
