//! Numbers: ports and addresses as sorted, disjoint ranges, each with the set of parts it is in.
//!
//! A set of networks is a set of intervals, and nested networks are nested intervals: cutting the
//! number line at every end leaves ranges that are looked up by halving. That is the same answer as a
//! longest-prefix match whose entries carry the parts of the prefixes they lie in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::address::Network;

/// A range of numbers, both ends included, and the part it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub low: u128,
    pub high: u128,
    pub part: u32,
}

impl Range {
    pub(crate) fn of_network(network: &Network, part: u32) -> Range {
        let (low, bits) = match network.address() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32u32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let free = bits - u32::from(network.prefix());
        let span = 1u128.checked_shl(free).map_or(u128::MAX, |s| s - 1);
        Range {
            low,
            high: low + span,
            part,
        }
    }
}

/// Where each elementary range begins, and the parts in it; in order. Before the first there is none.
pub(crate) fn elementary(ranges: &[Range]) -> Vec<(u128, Vec<u32>)> {
    let mut edges: BTreeMap<u128, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
    for range in ranges {
        edges.entry(range.low).or_default().0.push(range.part);
        if let Some(after) = range.high.checked_add(1) {
            edges.entry(after).or_default().1.push(range.part);
        }
    }
    // A part may be several ranges that overlap: it ends when the last of them does.
    let mut open: BTreeMap<u32, usize> = BTreeMap::new();
    let mut found: Vec<(u128, Vec<u32>)> = Vec::new();
    for (at, (begin, end)) in edges {
        for part in begin {
            *open.entry(part).or_default() += 1;
        }
        for part in end {
            if let Some(n) = open.get_mut(&part) {
                *n -= 1;
            }
        }
        open.retain(|_, n| *n > 0);
        let parts: BTreeSet<u32> = open.keys().copied().collect();
        let parts: Vec<u32> = parts.into_iter().collect();
        if found.last().is_none_or(|(_, before)| *before != parts) {
            found.push((at, parts));
        }
    }
    found
}
