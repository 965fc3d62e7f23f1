//! The address plan of the agent's namespace.
//!
//! Synthetic addresses come from ranges that no one routes: `198.18.0.0/15` (RFC 2544 benchmarking)
//! and a unique local prefix (RFC 4193). Index 1 of each is the agent's *own* address on `lo`, so that
//! programs which ask for a non-loopback address of their host (`AI_ADDRCONFIG`, "what is my IP")
//! find one; names get indexes from 2 on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The agent's own IPv4 address besides `127.0.0.1`.
pub const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The agent's own IPv6 address besides `::1`.
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd41, 0x6777, 0, 0, 0, 0, 0, 1);

/// How many names can have an address.
pub(crate) const CAPACITY: u32 = 65_536;
const FIRST: u32 = 2;
const V4_BASE: u32 = 0xc612_0000;
const V6_BASE: u128 = 0xfd41_6777 << 96;

/// The IPv4 address of the name with this number.
pub(crate) fn synthetic_v4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(V4_BASE + FIRST + number)
}

/// The IPv6 address of the name with this number.
pub(crate) fn synthetic_v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(V6_BASE + u128::from(FIRST + number))
}

/// What an address is to the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It stands for the name with this number, if that was given out.
    Synthetic(u32),
    /// In a synthetic range, but never given out.
    Reserved,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// The agent's own address besides loopback.
    Own,
    /// Multicast, broadcast or `0.0.0.0/8`: nothing that TCP can reach.
    Unreachable,
    /// Anything else.
    Real,
}

/// Classifies a canonical address (see [`canonical`]).
pub(crate) fn kind(ip: IpAddr) -> Kind {
    if ip == OWN_V4 || ip == OWN_V6 {
        return Kind::Own;
    }
    let number = match ip {
        IpAddr::V4(v4) => {
            if v4.is_loopback() {
                return Kind::Loopback;
            }
            if v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0 {
                return Kind::Unreachable;
            }
            if v4.to_bits() & 0xfffe_0000 != V4_BASE {
                return Kind::Real;
            }
            u128::from(v4.to_bits() - V4_BASE)
        }
        IpAddr::V6(v6) => {
            if v6.is_loopback() {
                return Kind::Loopback;
            }
            if v6.is_multicast() {
                return Kind::Unreachable;
            }
            if v6.to_bits() >> 64 != V6_BASE >> 64 {
                return Kind::Real;
            }
            v6.to_bits() - V6_BASE
        }
    };
    match u32::try_from(number) {
        Ok(n) if (FIRST..FIRST + CAPACITY).contains(&n) => Kind::Synthetic(n - FIRST),
        _ => Kind::Reserved,
    }
}

/// Unwraps IPv4-mapped IPv6 and turns the unspecified address, which Linux connects to the local
/// host, into the loopback address it means, so that the gate judges what would happen.
pub(crate) fn canonical(ip: IpAddr) -> IpAddr {
    let ip = ip.to_canonical();
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back() {
        for n in [0, 1, 255, CAPACITY - 1] {
            assert_eq!(kind(synthetic_v4(n).into()), Kind::Synthetic(n));
            assert_eq!(kind(synthetic_v6(n).into()), Kind::Synthetic(n));
        }
        assert_eq!(kind(OWN_V4.into()), Kind::Own);
        assert_eq!(kind(OWN_V6.into()), Kind::Own);
        assert_eq!(kind("198.19.255.255".parse().unwrap()), Kind::Reserved);
        assert_eq!(kind("198.20.0.0".parse().unwrap()), Kind::Real);
        assert_eq!(kind("127.9.9.9".parse().unwrap()), Kind::Loopback);
        assert_eq!(kind("255.255.255.255".parse().unwrap()), Kind::Unreachable);
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        for text in ["0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert_eq!(canonical(text.parse().unwrap()), local, "{text}");
        }
    }
}
