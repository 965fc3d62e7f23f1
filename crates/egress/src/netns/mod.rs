//! Turning an empty network namespace into one where every connection arrives at the wall.
//!
//! [`configure`] runs inside the agent's namespace with `CAP_NET_ADMIN` over it (the creator of the
//! user namespace has that), speaks netlink only and needs no program on the host. After it, every
//! address is local (`local default dev lo`), so the kernel delivers all traffic inside, and nf_tables
//! redirects TCP and DNS to the wall's listeners and refuses the rest. The rules sit in the namespace
//! and are gone with it; the agent, without capabilities, cannot change them.

pub(crate) mod netlink;
mod nft;

use std::{io, net::IpAddr, ops::RangeInclusive};

use rustix::net::netlink::NETFILTER;

use self::netlink::{ACK, CREATE, DUMP, EXCL, Messages, Netlink};
use crate::addresses::{OWN_V4, OWN_V6};

/// The `SO_MARK` of the wall's own connections to servers inside the namespace: they are not
/// captured. Setting a mark takes `CAP_NET_ADMIN`, which the agent has not.
pub const INSIDE_MARK: u32 = 0x4157_0001;

/// What [`configure`] sets up. The ports come from [`Listeners::plan`](crate::Listeners::plan).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetPlan {
    /// The wall's listener for captured TCP, on `127.0.0.1` and `::1`.
    pub tcp_port: u16,
    /// The wall's resolver, UDP and TCP, on the same addresses.
    pub dns_port: u16,
    /// Whether the namespace has IPv6. If not, nothing is set up for it, and it reaches nothing.
    pub ipv6: bool,
    /// The loopback ports whose connections are captured because the policy names the host's server.
    pub host_loopback: HostLoopback,
}

/// Ports of the host's loopback that the policy names, as sorted ranges that do not touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostLoopback(Vec<RangeInclusive<u16>>);

impl HostLoopback {
    /// No port: loopback is the agent's own.
    pub const fn none() -> Self {
        HostLoopback(Vec::new())
    }

    /// Every port. A server of the agent's own still goes first.
    pub fn all() -> Self {
        HostLoopback(vec![1..=u16::MAX])
    }

    /// These ports; overlapping ranges are merged, empty ones dropped.
    pub fn ports(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
        ranges.sort_by_key(|r| *r.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        HostLoopback(merged)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }

    /// Whether there is no port in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a namespace could not be set up. The session must not start then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The host's kernel has no nf_tables, or not the parts that capture needs.
    #[error(
        "the kernel refused the capture rules ({source}); agentwall needs nf_tables with nat, redirect, \
         reject and conntrack: run 'modprobe -a nf_tables nft_chain_nat nft_redir nft_reject_inet \
         nft_ct' as root once, or use a kernel with CONFIG_NF_TABLES_INET=y"
    )]
    NfTablesMissing {
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller lacks the capability.
    #[error(
        "no permission to {step}; this needs CAP_NET_ADMIN over the network namespace: make the \
         namespace together with a user namespace, and allow user namespaces on this host"
    )]
    NotPermitted {
        /// The step that failed.
        step: &'static str,
    },
    /// The namespace is not an empty one. Nothing was changed.
    #[error(
        "the network namespace is not the agent's own: interface number {interface} is up besides lo; \
         enter a new network namespace first"
    )]
    NotPrivate {
        /// The index of the interface.
        interface: i32,
    },
    /// [`configure`] ran here before.
    #[error("the capture rules exist already; configure a namespace once, before the agent starts")]
    AlreadyConfigured,
    /// Another step failed.
    #[error("could not {step}: {source}")]
    Step {
        /// The step that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Sets up the calling thread's network namespace. Takes about a millisecond.
///
/// Refuses a namespace in which another interface than `lo` is up, so that a mistake in the caller
/// cannot cut off the host.
pub fn configure(plan: &NetPlan) -> Result<(), NetnsError> {
    loopback_up()?;
    let route = open(None, "open a route socket")?;
    let mut families = vec![IpAddr::V4(OWN_V4)];
    if plan.ipv6 {
        families.push(IpAddr::V6(OWN_V6));
    }
    for own in &families {
        send(&route, "add an address to lo", |m| address(m, *own))?;
    }

    // Rules before routes: there is no moment in which an address is reachable but not captured.
    let filter =
        Netlink::open(Some(NETFILTER)).map_err(|source| NetnsError::NfTablesMissing { source })?;
    let (batch, last) = nft::batch(plan.tcp_port, plan.dns_port, &plan.host_loopback);
    filter.exchange(&batch, last).map_err(rules_error)?;

    for own in families {
        send(&route, "make every address local", |m| local_route(m, own))?;
    }
    Ok(())
}

/// Brings `lo` up, so that listeners can bind to it. Part of [`configure`]; harmless twice.
pub fn loopback_up() -> Result<(), NetnsError> {
    let route = open(None, "open a route socket")?;
    let mut m = Messages::default();
    let seq = m.begin(RTM_GETLINK, DUMP, &link(0, 0, 0));
    m.end();
    let replies = route
        .exchange(&m, seq)
        .map_err(step_error("list the interfaces"))?;
    for (_, payload) in replies.iter().filter(|(kind, _)| *kind == RTM_NEWLINK) {
        let field = |at: usize| {
            payload
                .get(at..at + 4)
                .and_then(|b| Some(i32::from_ne_bytes(b.try_into().ok()?)))
        };
        if let (Some(index), Some(flags)) = (field(4), field(8))
            && index != LO
            && flags & IFF_UP != 0
        {
            return Err(NetnsError::NotPrivate { interface: index });
        }
    }
    send(&route, "bring lo up", |m| {
        let seq = m.begin(RTM_NEWLINK, ACK, &link(LO, IFF_UP, IFF_UP));
        m.end();
        seq
    })
}

/// Nothing is lost on loopback, so an algorithm that paces (bbr, a common default) only burns timers
/// there. Every kernel has this one.
pub(crate) const LOOPBACK_CONGESTION: &str = "reno";

/// The index of `lo`, the first interface of every namespace (`LOOPBACK_IFINDEX`).
const LO: i32 = 1;
const IFF_UP: i32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

fn link(index: i32, flags: i32, change: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    }
}

/// `ip addr add OWN dev lo nodad`.
fn address(m: &mut Messages, ip: IpAddr) -> u32 {
    let (family, bytes) = octets(ip);
    let mut header = vec![family, bytes.len() as u8 * 8, 0x02, 0];
    header.extend(LO.to_ne_bytes());
    let seq = m.begin(RTM_NEWADDR, CREATE | EXCL | ACK, &header);
    m.attribute(1, &bytes);
    m.attribute(2, &bytes);
    m.end();
    seq
}

/// `ip route add local default dev lo src OWN congctl reno` in table `local`, scope host.
fn local_route(m: &mut Messages, own: IpAddr) -> u32 {
    let (family, bytes) = octets(own);
    let header = [family, 0, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0];
    let seq = m.begin(RTM_NEWROUTE, CREATE | EXCL | ACK, &header);
    m.attribute(4, &LO.to_ne_bytes());
    m.attribute(7, &bytes);
    // RTA_METRICS, RTAX_CC_ALGO.
    m.nest(8, |m| m.text(16, LOOPBACK_CONGESTION));
    m.end();
    seq
}

fn open(
    protocol: Option<rustix::net::Protocol>,
    step: &'static str,
) -> Result<Netlink, NetnsError> {
    Netlink::open(protocol).map_err(step_error(step))
}

fn send(
    netlink: &Netlink,
    step: &'static str,
    build: impl FnOnce(&mut Messages) -> u32,
) -> Result<(), NetnsError> {
    let mut m = Messages::default();
    let seq = build(&mut m);
    netlink.exchange(&m, seq).map_err(step_error(step))?;
    Ok(())
}

fn step_error(step: &'static str) -> impl FnOnce(io::Error) -> NetnsError {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => NetnsError::NotPermitted { step },
        io::ErrorKind::AlreadyExists => NetnsError::AlreadyConfigured,
        _ => NetnsError::Step { step, source },
    }
}

fn rules_error(source: io::Error) -> NetnsError {
    use rustix::io::Errno;
    match Errno::from_io_error(&source) {
        Some(Errno::PERM | Errno::ACCESS) => NetnsError::NotPermitted {
            step: "install the capture rules",
        },
        Some(Errno::EXIST) => NetnsError::AlreadyConfigured,
        // A missing expression or chain type answers ENOENT, a missing subsystem EOPNOTSUPP,
        // EAFNOSUPPORT or EPROTONOSUPPORT.
        Some(
            Errno::NOENT
            | Errno::OPNOTSUPP
            | Errno::AFNOSUPPORT
            | Errno::PROTONOSUPPORT
            | Errno::INVAL,
        ) => NetnsError::NfTablesMissing { source },
        _ => NetnsError::Step {
            step: "install the capture rules",
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge() {
        let ports = HostLoopback::ports([
            90..=95,
            80..=80,
            81..=89,
            RangeInclusive::new(200, 100),
            300..=300,
        ]);
        assert_eq!(ports.ranges(), &[80..=95, 300..=300]);
        assert_eq!(HostLoopback::ports([1..=9, 5..=65535]), HostLoopback::all());
    }
}
