//! Entry points for the fuzz targets in `fuzz/`: parsers that nothing outside this crate calls.
//!
//! Only with the feature `fuzzing`, which no product build has. No stability is promised.

use std::sync::Arc;

use crate::{EgressConfig, Gate, Lookup, names::Names, netns::netlink, resolver};

/// The resolver's answer to one DNS packet in a session that has just begun; `None` is silence.
/// `stream` says that it came over TCP, where the answer may be longer.
pub fn answer_dns(
    packet: &[u8],
    stream: bool,
    gate: Arc<dyn Gate>,
    lookup: Lookup,
) -> Option<Vec<u8>> {
    let config = EgressConfig {
        lookup,
        ..EgressConfig::default()
    };
    resolver::answer_packet(packet, stream, &Names::new(gate, &config))
}

/// The netlink messages at the front of a buffer: type, sequence number and payload of each, and
/// how many bytes are left over.
pub fn netlink_messages(mut bytes: &[u8]) -> (Vec<(u16, u32, Vec<u8>)>, usize) {
    let mut messages = Vec::new();
    while let Some((kind, seq, payload, rest)) = netlink::split(bytes) {
        messages.push((kind, seq, payload.to_vec()));
        bytes = rest;
    }
    (messages, bytes.len())
}
