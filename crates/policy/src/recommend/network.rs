//! Endpoints: hosts by their labels, addresses by their networks, listening ports.
//!
//! A host name is read from its right end. What somebody can register is the public suffix and one
//! label (the Public Suffix List, with its private part: `github.io` is one); a wildcard stands only
//! left of that, in place of one label. Addresses merge into the smallest network that holds them, no
//! wider than /24 or /64, and never where the network is not the public internet. The evidence for a
//! merge is the same as for paths. A rule about connections always takes internal addresses out, so
//! that a name that leads inside opens nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use agentwall_action::{Endpoint, Protocol, Verb};

use crate::address::Addresses;

use super::{
    merge::merge_names,
    token::{Breadth, Segment},
};

/// An endpoint, and the sessions that used it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub verb: Verb,
    pub endpoint: Endpoint,
    pub sessions: BTreeSet<usize>,
}

/// A proposed endpoint pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointText {
    /// The pattern.
    pub text: String,
    /// Whether the endpoint itself is internal, so that internal addresses cannot be taken out.
    pub internal: bool,
}

/// Which sessions used what, by the place it has in common with others.
type Uses<Place, What> = BTreeMap<Place, BTreeMap<What, BTreeSet<usize>>>;

/// The first port that needs no privilege.
const UNPRIVILEGED: u16 = 1024;

/// Whether an address is not on the public internet.
pub(crate) fn is_internal(ip: IpAddr) -> bool {
    Addresses::parse("private").is_ok_and(|set| set.contains(ip))
}

/// Patterns that match every peer, by verb. `refused` says whether a pattern would match something that
/// was refused.
pub(crate) fn patterns(
    peers: &[Peer],
    sessions: usize,
    beta: i64,
    refused: &dyn Fn(Verb, &str) -> bool,
) -> BTreeMap<Verb, BTreeSet<EndpointText>> {
    let mut found: BTreeMap<Verb, BTreeSet<EndpointText>> = BTreeMap::new();
    let mut hosts: Uses<(Verb, Protocol, u16, String), String> = BTreeMap::new();
    let mut addresses: Uses<(Verb, Protocol, u16, IpAddr), IpAddr> = BTreeMap::new();
    let mut ports: Uses<(Verb, Protocol, String), u16> = BTreeMap::new();
    for peer in peers {
        let e = &peer.endpoint;
        let literal = EndpointText {
            text: text(e.protocol, &host_text(e), &e.port.to_string()),
            internal: e.ip.is_some_and(is_internal) || e.host.is_none() && e.ip.is_none(),
        };
        found.entry(peer.verb).or_default().insert(literal);
        if peer.verb == Verb::NetListen {
            let key = (peer.verb, e.protocol, host_text(e));
            let uses = ports.entry(key).or_default().entry(e.port).or_default();
            uses.extend(&peer.sessions);
        } else if let Some(host) = &e.host {
            if let Some((label, parent)) = below_registered(host) {
                let key = (peer.verb, e.protocol, e.port, parent.to_owned());
                let uses = hosts.entry(key).or_default().entry(label.to_owned());
                uses.or_default().extend(&peer.sessions);
            }
        } else if let Some(ip) = e.ip.filter(|ip| !is_internal(*ip)) {
            let key = (peer.verb, e.protocol, e.port, block(ip));
            let uses = addresses.entry(key).or_default().entry(ip).or_default();
            uses.extend(&peer.sessions);
        }
    }
    let mut merged = |verb: Verb, text: String| {
        if !refused(verb, &text) {
            let internal = false;
            found
                .entry(verb)
                .or_default()
                .insert(EndpointText { text, internal });
        }
    };
    for ((verb, protocol, port, parent), labels) in hosts {
        let names: Vec<(&[u8], &BTreeSet<usize>)> =
            labels.iter().map(|(l, s)| (l.as_bytes(), s)).collect();
        for (segment, _) in merge_names(&names, sessions, beta) {
            if let Segment::Pattern { glob, .. } = segment {
                let glob = not_bracketed(&glob);
                merged(
                    verb,
                    text(protocol, &format!("{glob}.{parent}"), &port.to_string()),
                );
            }
        }
    }
    for ((verb, protocol, port, _), uses) in addresses {
        if let Some(network) = network(&uses, sessions) {
            merged(verb, text(protocol, &network, &port.to_string()));
        }
    }
    for ((verb, protocol, host), uses) in ports {
        let single = uses
            .iter()
            .filter(|(p, s)| **p >= UNPRIVILEGED && s.len() == 1);
        let from: BTreeSet<usize> = single.clone().flat_map(|(_, s)| s).copied().collect();
        if single.count() >= Breadth::Affix.names() && from.len() >= sessions {
            merged(
                verb,
                text(protocol, &host, &format!("{UNPRIVILEGED}-{}", u16::MAX)),
            );
        }
    }
    found
}

fn text(protocol: Protocol, host: &str, port: &str) -> String {
    format!("{}://{host}:{port}", protocol.as_str())
}

/// A host that begins with a bracket would be read as an IPv6 address: a class there is any byte.
fn not_bracketed(glob: &str) -> String {
    match glob.strip_prefix('[').and_then(|g| g.split_once(']')) {
        Some((_, rest)) => format!("?{rest}"),
        None => glob.to_owned(),
    }
}

fn host_text(e: &Endpoint) -> String {
    match (&e.host, e.ip) {
        (Some(host), _) => host.clone(),
        (None, Some(IpAddr::V4(ip))) => ip.to_string(),
        (None, Some(IpAddr::V6(ip))) => format!("[{ip}]"),
        (None, None) => "*".into(),
    }
}

/// The first label and the rest, if the rest still holds what somebody registered.
fn below_registered(host: &str) -> Option<(&str, &str)> {
    let registered = psl::domain_str(host)?;
    let (label, parent) = host.split_once('.')?;
    // A suffix that the list does not know is any last label; that is no evidence of a registration.
    let known = psl::suffix(host.as_bytes()).is_some_and(|s| s.is_known());
    (known && parent.len() >= registered.len()).then_some((label, parent))
}

/// The /24 or /64 an address is in.
fn block(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => (u32::from(v4) & !0xff).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) & !u128::from(u64::MAX))
            .to_be_bytes()
            .into(),
    }
}

/// The smallest network of addresses of one block, if they are evidence enough.
fn network(uses: &BTreeMap<IpAddr, BTreeSet<usize>>, sessions: usize) -> Option<String> {
    let single = uses.iter().filter(|(_, s)| s.len() == 1);
    let from: BTreeSet<usize> = single.clone().flat_map(|(_, s)| s).copied().collect();
    if single.count() < Breadth::Affix.names() || from.len() < sessions {
        return None;
    }
    let (first, last) = (uses.keys().next()?, uses.keys().next_back()?);
    Some(match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let (a, b) = (u32::from(*a), u32::from(*b));
            let length = (a ^ b).leading_zeros();
            let base = a & u32::MAX.checked_shl(32 - length).unwrap_or(0);
            format!("{}/{length}", std::net::Ipv4Addr::from(base))
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let (a, b) = (u128::from(*a), u128::from(*b));
            let length = (a ^ b).leading_zeros();
            let base = a & u128::MAX.checked_shl(128 - length).unwrap_or(0);
            format!("[{}/{length}]", std::net::Ipv6Addr::from(base))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peers: &[(&str, u16, usize)]) -> Vec<String> {
        let peers: Vec<Peer> = peers
            .iter()
            .map(|(host, port, session)| Peer {
                verb: Verb::NetConnect,
                endpoint: Endpoint {
                    protocol: Protocol::Tcp,
                    host: host.parse::<IpAddr>().is_err().then(|| (*host).to_owned()),
                    ip: host.parse().ok(),
                    port: *port,
                },
                sessions: [*session].into(),
            })
            .collect();
        let found = patterns(&peers, 2, 100, &|_, text| text.contains("refused"));
        let mut texts: Vec<String> = found.into_values().flatten().map(|e| e.text).collect();
        texts.retain(|t| {
            t.contains(['*', '?', '[', '/'])
                && (t.matches('/').count() > 2 || t.contains(['*', '?', '[']))
        });
        texts
    }

    #[test]
    fn a_wildcard_stands_left_of_what_was_registered() {
        let many = |parent: &str| -> Vec<String> {
            ["alpha", "bravo", "charlie", "delta", "echoes"]
                .iter()
                .map(|l| format!("{l}.{parent}"))
                .collect()
        };
        let with = |parent: &str| {
            let hosts = many(parent);
            let peers: Vec<(&str, u16, usize)> = hosts
                .iter()
                .enumerate()
                .map(|(i, h)| (h.as_str(), 443, i))
                .collect();
            found(&peers)
        };
        assert_eq!(with("example.com"), ["tcp://*.example.com:443"]);
        assert_eq!(with("cdn.example.co.uk"), ["tcp://*.cdn.example.co.uk:443"]);
        for parent in ["com", "co.uk", "github.io", "invalid", "refused.com"] {
            assert!(with(parent).is_empty(), "{parent}");
        }
        // One session is no evidence.
        let hosts = many("example.com");
        let one: Vec<(&str, u16, usize)> = hosts.iter().map(|h| (h.as_str(), 443, 0)).collect();
        assert!(found(&one).is_empty());
        // Shapes.
        let hex = found(&[("ab.example.com", 443, 0), ("c1.example.com", 443, 1)]);
        assert_eq!(hex, ["tcp://?[0-9a-f].example.com:443"]);
        let shaped = found(&[
            ("cdn-01.example.com", 443, 0),
            ("cdn-17.example.com", 443, 1),
        ]);
        assert_eq!(shaped, ["tcp://cdn-[0-9][0-9].example.com:443"]);
    }

    #[test]
    fn addresses_merge_narrowly_and_only_in_public() {
        let merged = found(&[
            ("93.184.215.1", 443, 0),
            ("93.184.215.2", 443, 1),
            ("93.184.215.3", 443, 2),
        ]);
        assert_eq!(merged, ["tcp://93.184.215.0/30:443"]);
        assert!(
            found(&[
                ("93.184.215.1", 443, 0),
                ("93.184.216.2", 443, 1),
                ("93.184.217.3", 443, 2)
            ])
            .is_empty()
        );
        assert!(
            found(&[
                ("10.0.0.1", 443, 0),
                ("10.0.0.2", 443, 1),
                ("10.0.0.3", 443, 2)
            ])
            .is_empty()
        );
        let six = found(&[
            ("2a00::1", 443, 0),
            ("2a00::2", 443, 1),
            ("2a00::3", 443, 2),
        ]);
        assert!(
            six.contains(&"tcp://[2a00::/126]:443".to_owned()),
            "{six:?}"
        );
    }
}
