//! Addresses: a finite set of them that stands for all.
//!
//! An address is four or sixteen bytes, and everything a policy can say about one is a set of lines of
//! byte sets: a network is a prefix, and an IPv4 address inside an IPv6 address (NAT64, 6to4, Teredo,
//! ISATAP, IPv4-compatible; see `address.rs`) is the same line at another place. So the automaton that
//! searches texts partitions addresses exactly, too.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::ControlFlow,
};

use super::{
    limits::{Meter, TooLarge},
    product::Machine,
    universe::Universe,
};
use crate::{
    address::{ADDRESS_SETS, AddressSet, Addresses, Network},
    nfa::{ByteSet, Nfa, Step},
};

/// One address for every combination of the sets that contain some address; loopback addresses are
/// told apart from others in any case.
pub(crate) fn representatives(
    sets: &[Addresses],
    meter: &mut Meter,
) -> Result<Vec<IpAddr>, TooLarge> {
    let mut v4 = Machine::new(Universe::ipv4(), false);
    let mut v6 = Machine::new(Universe::ipv6(), false);
    let loopback = ADDRESS_SETS.iter().find(|s| s.name == "loopback");
    let loopback = loopback.into_iter().flat_map(networks);
    let mut add = |owner: u32, line: Vec<ByteSet>| {
        let machine = if line.len() == 4 { &mut v4 } else { &mut v6 };
        machine.add(owner, &Nfa::new(line.into_iter().map(Step::Byte).collect()));
    };
    for network in loopback {
        add(u32::MAX, line(&network));
    }
    for (owner, set) in sets.iter().enumerate() {
        let owner = owner as u32;
        match set {
            Addresses::Network(network) => add(owner, line(network)),
            Addresses::Set(set) => {
                for network in networks(set) {
                    let bytes = line(&network);
                    if bytes.len() == 4 {
                        for wrapped in wraps(&bytes) {
                            add(owner, wrapped);
                        }
                    }
                    add(owner, bytes);
                }
            }
        }
    }
    let mut found = Vec::new();
    for machine in [&v4, &v6] {
        machine.explore(meter, &mut |_, cell| {
            if let Ok(octets) = <[u8; 4]>::try_from(cell.text) {
                found.push(IpAddr::V4(Ipv4Addr::from(octets)));
            } else if let Ok(octets) = <[u8; 16]>::try_from(cell.text) {
                found.push(IpAddr::V6(Ipv6Addr::from(octets)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}

/// The networks that membership of a set is made of; `private` and `public` are made of all.
fn networks(set: &AddressSet) -> impl Iterator<Item = Network> {
    let all = matches!(set.name, "private" | "public");
    let name = set.name;
    ADDRESS_SETS
        .iter()
        .filter(move |s| all || s.name == name)
        .flat_map(|s| s.networks)
        .filter_map(|n| Network::parse(n).ok())
}

/// A network as the bytes its addresses may have.
fn line(network: &Network) -> Vec<ByteSet> {
    let bytes = match network.address() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut left = usize::from(network.prefix());
    let mut sets = Vec::with_capacity(bytes.len());
    for byte in bytes {
        let bits = left.min(8);
        left -= bits;
        let mask = u8::MAX.checked_shl(8 - bits as u32).unwrap_or(0);
        sets.push(set(|b| b & mask == byte));
    }
    sets
}

/// The IPv6 addresses that wrap an IPv4 address of these bytes.
fn wraps(v4: &[ByteSet]) -> [Vec<ByteSet>; 6] {
    let any = |n| vec![ByteSet::all(); n];
    let fixed =
        |bytes: &[u8]| -> Vec<ByteSet> { bytes.iter().map(|b| ByteSet::single(*b)).collect() };
    let inverted: Vec<ByteSet> = v4.iter().map(|s| set(|b| s.contains(!b))).collect();
    let isatap = [
        any(8),
        vec![set(|b| b == 0 || b == 2)],
        fixed(&[0, 0x5e, 0xfe]),
    ]
    .concat();
    [
        [
            fixed(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
            v4.to_vec(),
        ]
        .concat(),
        [fixed(&[0x20, 0x02]), v4.to_vec(), any(10)].concat(),
        [fixed(&[0x20, 0x01, 0, 0]), v4.to_vec(), any(8)].concat(),
        [fixed(&[0x20, 0x01, 0, 0]), any(8), inverted].concat(),
        [fixed(&[0; 12]), v4.to_vec()].concat(),
        [isatap, v4.to_vec()].concat(),
    ]
}

fn set(member: impl Fn(u8) -> bool) -> ByteSet {
    let mut set = ByteSet::none();
    (0..=u8::MAX)
        .filter(|b| member(*b))
        .for_each(|b| set.insert(b));
    set
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::analyse::limits::Limits;

    fn reps(sets: &[Addresses]) -> Vec<IpAddr> {
        representatives(sets, &mut Meter::new(Limits::default())).unwrap()
    }

    fn signature(sets: &[Addresses], ip: IpAddr) -> Vec<bool> {
        let mut bits: Vec<bool> = sets.iter().map(|s| s.contains(ip)).collect();
        bits.push(ip.is_loopback());
        bits
    }

    #[test]
    fn every_set_and_its_rest_have_a_representative() {
        let sets: Vec<Addresses> = ADDRESS_SETS.iter().map(Addresses::Set).collect();
        let found = reps(&sets);
        for set in &sets {
            for inside in [true, false] {
                for v4 in [true, false] {
                    let like = |ip: &&IpAddr| ip.is_ipv4() == v4 && set.contains(**ip) == inside;
                    // ULA is a matter of IPv6 alone.
                    let none = set.to_string() == "ula" && v4 && inside;
                    assert_eq!(
                        found.iter().find(like).is_none(),
                        none,
                        "{set} {inside} {v4}"
                    );
                }
            }
        }
    }

    /// Addresses that wrap others, at the places where they may.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = prop_oneof![
            any::<u32>(),
            Just(0x0a00_0001),
            Just(0x7f00_0001),
            Just(0xa9fe_a9fe),
            Just(0x0808_0808),
            Just(0xc0a8_0001),
        ];
        let s = prop_oneof![Just(0u16), Just(0x200), Just(0x5efe), any::<u16>()];
        let parts = (v4.clone(), v4, s.clone(), s.clone(), s.clone(), s, 0..8u8);
        parts.prop_map(|(a, b, c, d, e, f, form)| {
            let (ah, al) = ((a >> 16) as u16, a as u16);
            let (bh, bl) = ((b >> 16) as u16, b as u16);
            let segments = match form {
                0 => return IpAddr::V4(Ipv4Addr::from(a)),
                1 => [0x64, 0xff9b, 0, 0, 0, 0, ah, al],
                2 => [0x2002, ah, al, c, d, e, bh, bl],
                3 => [0x2001, 0, ah, al, c, d, !bh, !bl],
                4 => [0, 0, 0, 0, 0, 0, ah, al],
                5 => [0x2a00, c, d, e, f, 0x5efe, ah, al],
                6 => [0xfd00, 0xec2, c, d, 0, 0, 0, 0x254],
                _ => [c, d, e, f, ah, al, bh, bl],
            };
            let ip = Ipv6Addr::from(segments);
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        })
    }

    fn sets() -> impl Strategy<Value = Vec<Addresses>> {
        let named = (0..ADDRESS_SETS.len()).prop_map(|i| Addresses::Set(&ADDRESS_SETS[i]));
        let network = prop::sample::select(vec![
            "10.0.0.0/9",
            "0.0.0.0/0",
            "8.8.8.8",
            "::/0",
            "2001:0:a00:1::/64",
            "2002::/17",
            "fd00::/8",
            "::5efe:a00:0/104",
            "64:ff9b::a00:1",
            "::1",
            "127.0.0.0/31",
        ]);
        let network = network.prop_map(|n| Addresses::parse(n).unwrap());
        prop::collection::vec(prop_oneof![named, network], 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn no_address_is_without_a_representative(
            sets in sets(),
            addresses in prop::collection::vec(address(), 200),
        ) {
            let found = reps(&sets);
            let known: BTreeSet<(bool, Vec<bool>)> =
                found.iter().map(|ip| (ip.is_ipv4(), signature(&sets, *ip))).collect();
            for ip in addresses {
                prop_assert!(known.contains(&(ip.is_ipv4(), signature(&sets, ip))), "{ip}");
            }
        }
    }
}
