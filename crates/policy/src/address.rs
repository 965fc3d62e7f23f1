//! Addresses: networks, and the named, documented sets of networks that `cidr:NAME` means.
//!
//! The sets follow the IANA special-purpose registries (RFC 6890 and its updates) and add what
//! matters for an agent: cloud metadata services. `private` is everything that is not the public
//! internet. An IPv6 address that only wraps an IPv4 address (NAT64, 6to4, Teredo, ISATAP,
//! IPv4-compatible) counts as the address inside, because that is where the packet ends up.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A network: an address and how many leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address. Bits after the prefix must be zero;
    /// IPv4-mapped IPv6 becomes IPv4. The error is what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = address
            .parse()
            .map_err(|_| (format!("'{address}' is not an IP address"), None))?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let length = match prefix {
            None => bits,
            Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => p
                .parse::<u8>()
                .ok()
                .filter(|p| *p <= bits)
                .ok_or_else(|| (format!("a prefix length is 0 to {bits}, found '{p}'"), None))?,
            Some(p) => return Err((format!("a prefix length is a number, found '{p}'"), None)),
        };
        let network = Network {
            address: mask(ip, length),
            prefix: length,
        };
        if network.address != ip {
            return Err((
                format!("'{text}' has bits set after its prefix"),
                Some(network.to_string()),
            ));
        }
        match ip {
            IpAddr::V6(v6) if length >= 96 => Ok(match v6.to_ipv4_mapped() {
                Some(v4) => Network {
                    address: IpAddr::V4(v4),
                    prefix: length - 96,
                },
                None => network,
            }),
            _ => Ok(network),
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is in the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && mask(ip, self.prefix) == self.address
    }

    /// Whether every address of `other` is in this network.
    pub fn covers(&self, other: &Network) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Network) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == bits {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

fn mask(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & keep).into()
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & keep).into()
        }
    }
}

/// A named set of networks.
#[derive(Debug, PartialEq, Eq)]
pub struct AddressSet {
    /// What follows `cidr:`.
    pub name: &'static str,
    /// What it is, with its source.
    pub about: &'static str,
    /// The networks, in CIDR notation. For `private`, those of the sets in it come on top; `public`
    /// is everything that is not `private`.
    pub networks: &'static [&'static str],
}

/// Every named set.
pub const ADDRESS_SETS: &[AddressSet] = &[
    AddressSet {
        name: "private",
        about: "everything that is not the public internet: all sets below but 'public'",
        networks: &[],
    },
    AddressSet {
        name: "public",
        about: "everything that is not 'private'",
        networks: &[],
    },
    AddressSet {
        name: "rfc1918",
        about: "private IPv4 (RFC 1918)",
        networks: &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
    },
    AddressSet {
        name: "loopback",
        about: "this host (RFC 1122, RFC 4291)",
        networks: &["127.0.0.0/8", "::1/128"],
    },
    AddressSet {
        name: "link-local",
        about: "this link (RFC 3927, RFC 4291), and the retired site-local range (RFC 3879)",
        networks: &["169.254.0.0/16", "fe80::/10", "fec0::/10"],
    },
    AddressSet {
        name: "cgnat",
        about: "shared address space of providers (RFC 6598)",
        networks: &["100.64.0.0/10"],
    },
    AddressSet {
        name: "ula",
        about: "unique local IPv6 (RFC 4193)",
        networks: &["fc00::/7"],
    },
    AddressSet {
        name: "metadata",
        about: "instance metadata and credential services of cloud providers: the link-local \
                address all share, AWS (ECS, EKS, IPv6), Google Cloud, Alibaba, Oracle, Azure",
        networks: &[
            "169.254.169.254/32",
            "169.254.170.2/32",
            "169.254.170.23/32",
            "fd00:ec2::254/128",
            "fd00:ec2::23/128",
            "fd20:ce::254/128",
            "100.100.100.200/32",
            "192.0.0.192/32",
            "168.63.129.16/32",
        ],
    },
    AddressSet {
        name: "this-network",
        about: "unspecified: on Linux a connect there reaches this host (RFC 1122, RFC 4291)",
        networks: &["0.0.0.0/8", "::/128"],
    },
    AddressSet {
        name: "multicast",
        about: "multicast (RFC 5771, RFC 4291)",
        networks: &["224.0.0.0/4", "ff00::/8"],
    },
    AddressSet {
        name: "reserved",
        about: "reserved and broadcast (RFC 1112, RFC 919), protocol assignments (RFC 6890), the \
                6to4 relay (RFC 7526), discard (RFC 6666), ORCHID (RFC 4843, RFC 7343), segment \
                routing (RFC 9602), IPv4-compatible (RFC 4291), local NAT64 (RFC 8215)",
        networks: &[
            "240.0.0.0/4",
            "192.0.0.0/24",
            "192.88.99.0/24",
            "100::/64",
            "100:0:0:1::/64",
            "2001:10::/28",
            "2001:20::/28",
            "5f00::/16",
            "::/96",
            "64:ff9b:1::/48",
        ],
    },
    AddressSet {
        name: "documentation",
        about: "documentation (RFC 5737, RFC 3849, RFC 9637) and benchmarks (RFC 2544, RFC 5180)",
        networks: &[
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "198.18.0.0/15",
            "2001:db8::/32",
            "3fff::/20",
            "2001:2::/48",
        ],
    },
];

/// A named set or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// Exactly this network.
    Network(Network),
    /// The set of this name.
    Set(&'static AddressSet),
}

impl Addresses {
    /// Reads what follows `cidr:`.
    pub fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        if let Some(set) = ADDRESS_SETS.iter().find(|s| s.name == text) {
            return Ok(Addresses::Set(set));
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':') {
            return Network::parse(text).map(Addresses::Network);
        }
        let names: Vec<&str> = ADDRESS_SETS.iter().map(|s| s.name).collect();
        Err((
            format!("unknown address set '{text}'"),
            crate::diagnostic::did_you_mean(text, &names),
        ))
    }

    /// Whether the address belongs to it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Addresses::Network(network) => network.contains(unmap(ip)),
            Addresses::Set(set) => match set.name {
                "private" => is_private(ip),
                "public" => !is_private(ip),
                _ => in_set(set, unmap(ip)) || embedded(ip).any(|v4| in_set(set, v4)),
            },
        }
    }

    /// Whether everything in `other` is certainly in this.
    pub(crate) fn covers(&self, other: &Addresses) -> bool {
        match (self, other) {
            (a, b) if a == b => true,
            (Addresses::Network(a), Addresses::Network(b)) => a.covers(b),
            (Addresses::Set(set), Addresses::Network(n)) => networks(set).any(|s| s.covers(n)),
            (Addresses::Set(set), Addresses::Set(other)) => {
                set.name == "private" && other.name != "public"
            }
            (Addresses::Network(_), Addresses::Set(_)) => false,
        }
    }

    /// Whether it names loopback addresses on purpose: a network of the whole address space does not.
    pub(crate) fn names_loopback(&self) -> bool {
        let loopback = ["127.0.0.0/8", "::1/128"].map(Network::parse);
        let hits = |n: &Network| loopback.iter().flatten().any(|l| l.overlaps(n));
        match self {
            Addresses::Network(n) => n.prefix > 0 && hits(n),
            Addresses::Set(set) => set.name != "public" && networks(set).any(|n| hits(&n)),
        }
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addresses::Network(n) => n.fmt(f),
            Addresses::Set(set) => f.write_str(set.name),
        }
    }
}

/// The networks of a set; of all sets for `private`; none for `public`.
fn networks(set: &'static AddressSet) -> impl Iterator<Item = Network> {
    let all = set.name == "private";
    ADDRESS_SETS
        .iter()
        .filter(move |s| all || s.name == set.name)
        .flat_map(|s| s.networks)
        .filter_map(|n| Network::parse(n).ok())
}

fn in_set(set: &'static AddressSet, ip: IpAddr) -> bool {
    networks(set).any(|n| n.contains(ip))
}

/// Whether the address, or an IPv4 address it wraps, is not on the public internet.
fn is_private(ip: IpAddr) -> bool {
    let ip = unmap(ip);
    let private = |ip: IpAddr| {
        ADDRESS_SETS
            .iter()
            .any(|s| s.name != "private" && in_set(s, ip))
    };
    private(ip) || embedded(ip).any(private)
}

pub(crate) fn unmap(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        v4 => v4,
    }
}

/// The IPv4 addresses an IPv6 address wraps: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380,
/// server and client), ISATAP (RFC 5214), IPv4-compatible (RFC 4291).
pub(crate) fn wrapped(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 3] {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    let (first, second) = match s {
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => (v4(a, b), None),
        [0x2002, a, b, ..] => (v4(a, b), None),
        [0x2001, 0, a, b, _, _, c, d] => (v4(a, b), v4(!c, !d)),
        [0, 0, 0, 0, 0, 0, a, b] => (v4(a, b), None),
        _ => (None, None),
    };
    let isatap = matches!(s[4], 0 | 0x200) && s[5] == 0x5efe;
    [first, second, if isatap { v4(s[6], s[7]) } else { None }]
}

/// The same of any address.
fn embedded(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let wrapped = match ip {
        IpAddr::V6(v6) => wrapped(v6),
        IpAddr::V4(_) => [None; 3],
    };
    wrapped.into_iter().flatten().map(IpAddr::V4)
}

/// The networks of a named set; of all sets for `private`; none for `public`.
pub(crate) fn set_networks(name: &str) -> Vec<Network> {
    let set = ADDRESS_SETS.iter().find(|s| s.name == name);
    set.map(|s| networks(s).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_named(name: &str, ip: &str) -> bool {
        Addresses::parse(name)
            .unwrap()
            .contains(ip.parse().unwrap())
    }

    #[test]
    fn every_listed_network_is_valid_and_private() {
        for set in ADDRESS_SETS {
            for network in set.networks {
                let n = Network::parse(network).unwrap();
                assert!(is_private(n.address()), "{network}");
                assert!(Addresses::Set(set).contains(n.address()), "{network}");
            }
        }
    }

    #[test]
    fn private_unwraps_what_wraps_a_private_address() {
        for ip in [
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "100.127.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "239.1.1.1",
            "168.63.129.16",
            "::",
            "::1",
            "fd12::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::",
            "2001:0:a00:1::",
            "2001:0:808:808:0:0:f5ff:fffe",
            "::10.0.0.1",
            "64:ff9b:1::1",
            "2a00::5efe:10.0.0.1",
            "2a00::200:5efe:192.168.1.1",
        ] {
            assert!(in_named("private", ip), "{ip}");
            assert!(!in_named("public", ip), "{ip}");
        }
        for ip in [
            "8.8.8.8",
            "172.32.0.1",
            "172.15.255.255",
            "100.128.0.1",
            "11.0.0.1",
            "2606:4700::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::",
            "::ffff:8.8.8.8",
            "168.63.129.17",
        ] {
            assert!(!in_named("private", ip), "{ip}");
            assert!(in_named("public", ip), "{ip}");
        }
    }

    #[test]
    fn networks_are_strict() {
        let wrong = |t: &str| Network::parse(t).unwrap_err();
        assert_eq!(wrong("10.0.0.1/8").1.unwrap(), "10.0.0.0/8");
        wrong("10.0.0.0/33");
        wrong("10.0.0/8");
        wrong("010.0.0.1");
        wrong("10.0.0.0/+8");
        wrong("fd00::/129");
        let mapped = Network::parse("::ffff:10.0.0.0/104").unwrap();
        assert!(mapped.contains("10.9.9.9".parse().unwrap()));
        assert_eq!(mapped.prefix(), 8);
        let all = Network::parse("0.0.0.0/0").unwrap();
        assert!(all.contains("255.1.1.1".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let set = Addresses::parse("privat").unwrap_err();
        assert_eq!(set.1.unwrap(), "did you mean 'private'?");
    }
}
