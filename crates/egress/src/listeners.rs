//! The wall's sockets inside the agent's namespace.
//!
//! A socket belongs for ever to the namespace it was made in, so the setup step makes them there and
//! the supervisor, in the host's namespace, uses them. The kernel describes each descriptor well
//! enough (domain, type, listening, port) that they need no labels on the way.
//!
//! The listeners sit on loopback addresses and on ports above the usual ephemeral range, so that the
//! agent's own servers and clients do not meet them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use socket2::SockRef;

use crate::netns::{self, HostLoopback, INSIDE_MARK, LOOPBACK_CONGESTION, NetPlan, NetnsError};

/// Ports to try: above the default ephemeral range (32768-60999).
const PORTS: std::ops::Range<u16> = 61_000..65_400;
const BACKLOG: i32 = 1024;
/// Sockets per address family for connections to the agent's own servers.
const INSIDE_SOCKETS: usize = 32;

/// The wall's listeners and the marked sockets with which it reaches the agent's own servers.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) dns_udp: Vec<UdpSocket>,
    pub(crate) dns_tcp: Vec<TcpListener>,
    pub(crate) inside_v4: Vec<OwnedFd>,
    pub(crate) inside_v6: Vec<OwnedFd>,
    tcp_port: u16,
    dns_port: u16,
}

/// Why the listeners could not be made or recognised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenersError {
    /// The namespace is not ready.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A system call failed.
    #[error("could not {step}: {source}")]
    Step {
        /// The step that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No free pair of ports.
    #[error("no two free ports from {} to {} inside the namespace: something runs in it already; use a new one", PORTS.start, PORTS.end)]
    NoPorts,
    /// [`Listeners::from_owned_fds`] got something else than [`Listeners::as_fds`] gave.
    #[error(
        "the descriptors are not the wall's listeners: {found}; pass on exactly what as_fds() gave"
    )]
    Unrecognised {
        /// What is wrong with them.
        found: &'static str,
    },
}

impl Listeners {
    /// Makes them in the calling thread's network namespace; brings `lo` up. Call it before
    /// [`netns::configure`], with `CAP_NET_ADMIN`. `host` must be what the plan will have: when it
    /// names ports, sockets for dialling the agent's own servers are made too.
    pub fn bind(host: &HostLoopback) -> Result<Self, ListenersError> {
        netns::loopback_up()?;
        let mut listeners = Listeners::on_loopback()?;
        let pool = |family| {
            let count = if host.is_empty() { 0 } else { INSIDE_SOCKETS };
            (0..count)
                .map(|_| marked(family))
                .collect::<Result<Vec<_>, _>>()
        };
        listeners.inside_v4 = pool(AddressFamily::INET)?;
        if listeners.has_ipv6() {
            listeners.inside_v6 = pool(AddressFamily::INET6)?;
        }
        Ok(listeners)
    }

    /// Makes them on a loopback that is up, where something else than this crate captures
    /// ([`Capture`](crate::Capture)).
    pub fn on_loopback() -> Result<Self, ListenersError> {
        let ipv6 = has_ipv6();
        // Not a secret: starting somewhere else each time only avoids meeting other listeners.
        let start = std::process::id() as u16;
        let mut ports = PORTS.len() as u16;
        let mut found = Vec::new();
        while found.len() < 2 && ports > 0 {
            ports -= 1;
            let port = PORTS.start + start.wrapping_add(ports) % PORTS.len() as u16;
            if let Some(set) = Set::bind(port, ipv6)? {
                found.push((port, set));
            }
        }
        let (Some((dns_port, dns)), Some((tcp_port, tcp))) = (found.pop(), found.pop()) else {
            return Err(ListenersError::NoPorts);
        };
        let listening = |sockets: Vec<OwnedFd>| {
            for socket in &sockets {
                // Inherited by what is accepted; without it things work, only slower.
                let _ = sockopt::set_tcp_congestion(socket, LOOPBACK_CONGESTION);
                listen(socket, BACKLOG).map_err(step("listen"))?;
            }
            Ok::<_, ListenersError>(sockets.into_iter().map(TcpListener::from).collect())
        };
        Ok(Listeners {
            tcp: listening(tcp.tcp)?,
            dns_tcp: listening(dns.tcp)?,
            dns_udp: dns.udp.into_iter().map(UdpSocket::from).collect(),
            inside_v4: Vec::new(),
            inside_v6: Vec::new(),
            tcp_port,
            dns_port,
        })
    }

    /// The port of captured connections.
    pub fn tcp_port(&self) -> u16 {
        self.tcp_port
    }

    /// The port of questions for names, TCP and UDP.
    pub fn dns_port(&self) -> u16 {
        self.dns_port
    }

    fn has_ipv6(&self) -> bool {
        self.tcp.len() > 1
    }

    /// The plan for [`netns::configure`] that leads to these listeners.
    pub fn plan(&self, host_loopback: HostLoopback) -> NetPlan {
        NetPlan {
            tcp_port: self.tcp_port,
            dns_port: self.dns_port,
            ipv6: self.has_ipv6(),
            host_loopback,
        }
    }

    /// The descriptors, at most 70, for one `SCM_RIGHTS` message (the kernel takes 253).
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        let tcp = self.tcp.iter().chain(&self.dns_tcp).map(AsFd::as_fd);
        let udp = self.dns_udp.iter().map(AsFd::as_fd);
        let inside = self
            .inside_v4
            .iter()
            .chain(&self.inside_v6)
            .map(AsFd::as_fd);
        tcp.chain(udp).chain(inside).collect()
    }

    /// Puts them together again from the descriptors, in any order.
    pub fn from_owned_fds(fds: Vec<OwnedFd>) -> Result<Self, ListenersError> {
        let mut listening: Vec<TcpListener> = Vec::new();
        let mut dns_udp: Vec<UdpSocket> = Vec::new();
        let (mut inside_v4, mut inside_v6) = (Vec::new(), Vec::new());
        for fd in fds {
            let kind = sockopt::socket_type(&fd).map_err(step("read a socket's type"))?;
            let domain = sockopt::socket_domain(&fd).map_err(step("read a socket's domain"))?;
            if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
                return Err(ListenersError::Unrecognised {
                    found: "not an internet socket",
                });
            }
            if kind == SocketType::DGRAM {
                dns_udp.push(fd.into());
            } else if kind != SocketType::STREAM {
                return Err(ListenersError::Unrecognised {
                    found: "neither TCP nor UDP",
                });
            } else if sockopt::socket_acceptconn(&fd).map_err(step("read a socket's state"))? {
                listening.push(fd.into());
            } else if domain == AddressFamily::INET {
                inside_v4.push(fd);
            } else {
                inside_v6.push(fd);
            }
        }
        let port = |address: io::Result<SocketAddr>| {
            address
                .map(|a| a.port())
                .map_err(|source| ListenersError::Step {
                    step: "read a socket's address",
                    source,
                })
        };
        let Some(first) = dns_udp.first() else {
            return Err(ListenersError::Unrecognised {
                found: "no UDP socket",
            });
        };
        let dns_port = port(first.local_addr())?;
        let mut tcp = Vec::new();
        let mut dns_tcp = Vec::new();
        for listener in listening {
            if port(listener.local_addr())? == dns_port {
                dns_tcp.push(listener);
            } else {
                tcp.push(listener);
            }
        }
        let Some(first) = tcp.first() else {
            return Err(ListenersError::Unrecognised {
                found: "no TCP listener",
            });
        };
        let tcp_port = port(first.local_addr())?;
        if tcp.len() != dns_tcp.len() || tcp.len() != dns_udp.len() || tcp.len() > 2 {
            return Err(ListenersError::Unrecognised {
                found: "a listener too many or too few",
            });
        }
        Ok(Listeners {
            tcp,
            dns_udp,
            dns_tcp,
            inside_v4,
            inside_v6,
            tcp_port,
            dns_port,
        })
    }
}

/// The sockets on one port: TCP and UDP, v4 and, where there is one, v6.
struct Set {
    tcp: Vec<OwnedFd>,
    udp: Vec<OwnedFd>,
}

impl Set {
    /// `None` if the port is taken.
    fn bind(port: u16, ipv6: bool) -> Result<Option<Self>, ListenersError> {
        let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        if ipv6 {
            addresses.push(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        }
        let mut set = Set {
            tcp: Vec::new(),
            udp: Vec::new(),
        };
        for address in addresses {
            for kind in [SocketType::STREAM, SocketType::DGRAM] {
                let fd = open(AddressFamily::of(&address), kind)?;
                match bind(&fd, &address) {
                    Ok(()) if kind == SocketType::STREAM => set.tcp.push(fd),
                    Ok(()) => set.udp.push(fd),
                    Err(rustix::io::Errno::ADDRINUSE) => return Ok(None),
                    Err(e) => return Err(step("bind a listener to loopback")(e)),
                }
            }
        }
        Ok(Some(set))
    }
}

trait FamilyOf {
    fn of(address: &SocketAddr) -> AddressFamily;
}

impl FamilyOf for AddressFamily {
    fn of(address: &SocketAddr) -> AddressFamily {
        if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        }
    }
}

fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn open(family: AddressFamily, kind: SocketType) -> Result<OwnedFd, ListenersError> {
    socket_with(family, kind, SocketFlags::CLOEXEC, None).map_err(step("make a socket"))
}

/// A TCP socket whose connections the capture rules let pass.
fn marked(family: AddressFamily) -> Result<OwnedFd, ListenersError> {
    let fd = open(family, SocketType::STREAM)?;
    SockRef::from(&fd)
        .set_mark(INSIDE_MARK)
        .map_err(|source| ListenersError::Step {
            step: "mark a socket (this needs CAP_NET_ADMIN)",
            source,
        })?;
    Ok(fd)
}

fn step(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> ListenersError {
    move |e| ListenersError::Step {
        step,
        source: e.into(),
    }
}
