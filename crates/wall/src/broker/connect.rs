//! connect and bind.
//!
//! connect(2) takes its address behind a pointer, so it is always done here, on a duplicate of the
//! caller's socket: the address that is decided on is the address that is used. Unix sockets are
//! decided by path; internet destinations are the supervisor's to decide, because it knows which
//! name stands behind an address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Effect, ObjectKind, Resource, Verb};

use super::{Broker, Way, ask::Decided, binding_none, binding_of, name_binding};
use crate::{
    intent::INTENT_PATH,
    notify::Call,
    plan::Writes,
    resolve::{NamespaceIds, is_socket_at},
    sys,
    wire::Request,
};

/// `sizeof(struct sockaddr_storage)`.
const ADDRESS_LIMIT: usize = 128;

/// The caller's socket, duplicated.
fn socket(broker: &Broker, call: &Call) -> io::Result<OwnedFd> {
    let pidfd = match sys::pidfd_open_thread(call.pid) {
        Ok(fd) => fd,
        Err(_) => {
            let ids = NamespaceIds::of(broker.resolver.host_proc.as_fd(), call.pid)?;
            sys::pidfd_open(ids.host_tgid)?
        }
    };
    sys::pidfd_getfd(pidfd.as_fd(), call.data.args[0] as i32)
}

fn address(broker: &Broker, call: &Call) -> io::Result<Vec<u8>> {
    let length = call.data.args[2] as usize;
    if !(2..=ADDRESS_LIMIT).contains(&length) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut bytes = vec![0; length];
    if sys::read_memory(call.pid, call.data.args[1], &mut bytes)? != length {
        return Err(io::Error::from_raw_os_error(libc::EFAULT));
    }
    if !broker.listener.is_valid(call) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(bytes)
}

/// An address family the wall knows.
enum Peer {
    Internet(SocketAddr),
    /// A path as the caller wrote it.
    Path(Vec<u8>),
    /// An abstract name; abstract names belong to the agent's own network namespace.
    Abstract,
    /// Netlink, or `AF_UNSPEC`, which dissolves an association.
    Other,
}

fn parse(bytes: &[u8]) -> io::Result<Peer> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let family: [u8; 2] = bytes
        .get(..2)
        .ok_or_else(invalid)?
        .try_into()
        .map_err(|_| invalid())?;
    let family = i32::from(u16::from_ne_bytes(family));
    let port = || -> io::Result<u16> {
        let two = bytes.get(2..4).ok_or_else(invalid)?;
        Ok(u16::from_be_bytes([two[0], two[1]]))
    };
    Ok(match family {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes
                .get(4..8)
                .ok_or_else(invalid)?
                .try_into()
                .map_err(|_| invalid())?;
            Peer::Internet(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port()?))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes
                .get(8..24)
                .ok_or_else(invalid)?
                .try_into()
                .map_err(|_| invalid())?;
            Peer::Internet(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port()?))
        }
        libc::AF_UNIX => match bytes.get(2) {
            None => Peer::Abstract,
            Some(0) => Peer::Abstract,
            Some(_) => {
                let end = bytes[2..]
                    .iter()
                    .position(|b| *b == 0)
                    .unwrap_or(bytes.len() - 2);
                Peer::Path(bytes[2..2 + end].to_vec())
            }
        },
        _ => Peer::Other,
    })
}

/// What [`parse`] reads from a socket address: an address or a path, if it is of these kinds.
#[cfg(feature = "fuzzing")]
pub(crate) fn destination(bytes: &[u8]) -> io::Result<(Option<SocketAddr>, Option<Vec<u8>>)> {
    Ok(match parse(bytes)? {
        Peer::Internet(address) => (Some(address), None),
        Peer::Path(path) => (None, Some(path)),
        Peer::Abstract | Peer::Other => (None, None),
    })
}

pub(super) fn handle(broker: &Arc<Broker>, call: Call) {
    let prepared = address(broker, &call)
        .and_then(|bytes| Ok((parse(&bytes)?, bytes, socket(broker, &call)?)));
    let (peer, bytes, socket) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return broker.unresolved(&call, &e),
    };
    match peer {
        Peer::Internet(to) => internet(broker, call, to, bytes, socket),
        Peer::Path(path) => local(broker, call, &path, socket),
        Peer::Abstract | Peer::Other => finish(broker, call, socket, bytes),
    }
}

/// Connects the duplicate; a blocking socket may wait, so on a worker.
fn finish(broker: &Arc<Broker>, call: Call, socket: OwnedFd, bytes: Vec<u8>) {
    broker.later(move |broker| {
        broker
            .listener
            .finish(&call, sys::connect(socket.as_fd(), &bytes).map(|()| 0));
    });
}

fn internet(broker: &Arc<Broker>, call: Call, to: SocketAddr, bytes: Vec<u8>, socket: OwnedFd) {
    // Datagrams have nowhere to go: the namespace has no way out but the captured TCP and DNS.
    // The filter rules refuse them; connecting such a socket only sets its default address.
    let stream = rustix::net::sockopt::socket_type(&socket)
        .is_ok_and(|t| t == rustix::net::SocketType::STREAM);
    if !stream {
        return finish(broker, call, socket, bytes);
    }
    broker.later(move |broker| {
        let actor = broker.actor(call.pid);
        let answer = if broker.is_muted() {
            // A canary: the supervisor is not there yet, and no name has been given out.
            let action = broker.engine.action(
                Verb::NetConnect,
                Resource::address(agentwall_action::Protocol::Tcp, to.ip(), to.port()),
            );
            Some(broker.engine.decide(&action))
        } else {
            broker.line.ask(Request::Connect { address: to, actor })
        };
        match answer {
            Some(decision) if decision.effect.proceeds() => {
                let outcome = sys::connect(socket.as_fd(), &bytes);
                broker.listener.finish(&call, outcome.map(|()| 0));
            }
            Some(decision) => {
                let action = broker.engine.action(
                    Verb::NetConnect,
                    Resource::address(agentwall_action::Protocol::Tcp, to.ip(), to.port()),
                );
                broker.refuse(&call, action, decision, binding_none(), false);
            }
            None => broker.listener.fail(&call, libc::ENETUNREACH),
        }
    });
}

fn local(broker: &Arc<Broker>, call: Call, path: &[u8], socket: OwnedFd) {
    let object = match broker
        .resolver
        .existing(call.pid, libc::AT_FDCWD, path, true)
    {
        Ok(object) => object,
        Err(e) => return broker.unresolved(&call, &e),
    };
    // To be heard is nobody's to refuse; what is said there is bounded by who hears it.
    let own = made_inside(broker, &object.path) || object.path == Path::new(INTENT_PATH);
    let decided = (!own).then(|| {
        let action = broker
            .engine
            .action(Verb::IpcConnect, Resource::Unix(object.path.clone()));
        let decision = broker.engine.decide(&action);
        Decided::alone(action, decision)
    });
    let recorded = decided.clone();
    let binding = binding_of(&object.stat);
    let reported = binding.clone();
    broker.conclude(call, decided, binding, move |broker, call| {
        let call = *call;
        broker.later(move |broker| {
            let outcome = through_descriptor(broker, &object.fd, |name| {
                sys::connect(socket.as_fd(), &sys::unix_address(name))
            });
            broker.listener.finish(&call, outcome.map(|()| 0));
            if let Some(Decided {
                action, decision, ..
            }) = recorded
                && decision.effect == Effect::Allow
            {
                broker.record(&call, action, decision, reported, "broker");
            }
        });
    });
}

/// Whether the agent itself made the socket: it lies in a copy layer's upper directory or in
/// memory that only the agent has.
fn made_inside(broker: &Broker, path: &Path) -> bool {
    if path.starts_with("/dev/shm") {
        return true;
    }
    let writes = broker.placement(path).writes;
    writes == Writes::Private
        || writes == Writes::Isolated
            && broker.uppers.iter().any(|(root, upper)| {
                path.strip_prefix(root)
                    .is_ok_and(|inside| is_socket_at(upper.as_fd(), inside))
            })
}

/// Runs `act` with a short relative name that reaches the object behind `fd` and nothing else:
/// the thread's working directory is the broker's own descriptor table.
fn through_descriptor<T>(
    broker: &Broker,
    fd: &OwnedFd,
    act: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    sys::unshare_working_directory()?;
    rustix::process::fchdir(&broker.resolver.self_fd)?;
    act(fd.as_raw_fd().to_string().as_bytes())
}

/// bind(2) reaches the broker only when some tree is brokered. Only a Unix socket with a path
/// makes a name; the rest is the kernel's business inside the agent's own network namespace.
pub(super) fn bind(broker: &Arc<Broker>, call: Call) {
    let prepared = address(broker, &call)
        .and_then(|bytes| Ok((parse(&bytes)?, bytes, socket(broker, &call)?)));
    let (peer, bytes, socket) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return broker.unresolved(&call, &e),
    };
    let Peer::Path(path) = peer else {
        let outcome = sys::bind(socket.as_fd(), &bytes);
        return broker.listener.finish(&call, outcome.map(|()| 0));
    };
    let name = match broker.resolver.name(call.pid, libc::AT_FDCWD, &path) {
        Ok(name) if name.object.is_some() => {
            return broker.listener.fail(&call, libc::EADDRINUSE);
        }
        Ok(name) => name,
        Err(e) => return broker.unresolved(&call, &e),
    };
    let full: PathBuf = name.path();
    let action = broker.path_action(Verb::FileCreate, &full, ObjectKind::File);
    let decided = broker.decide(vec![action]);
    let binding = name_binding(&name);
    broker.conclude(call, decided, binding, move |broker, call| {
        let call = *call;
        broker.later(move |broker| {
            let outcome = (|| {
                let parent = if broker.way(&full) == Way::Broker {
                    broker.writable_object(&name.parent)?
                } else {
                    name.parent.fd.try_clone()?
                };
                sys::unshare_working_directory()?;
                rustix::process::fchdir(&parent)?;
                sys::bind(socket.as_fd(), &sys::unix_address(name.name.as_bytes()))
            })();
            broker.listener.finish(&call, outcome.map(|()| 0));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_or_fail() {
        let v4 = [2, 0, 0, 80, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(parse(&v4), Ok(Peer::Internet(a)) if a.to_string() == "10.0.0.1:80"));
        assert!(parse(&v4[..6]).is_err());
        let path = [&1u16.to_ne_bytes()[..], b"/run/x\0junk"].concat();
        assert!(matches!(parse(&path), Ok(Peer::Path(p)) if p == b"/run/x"));
        let hidden = [&1u16.to_ne_bytes()[..], b"\0name"].concat();
        assert!(matches!(parse(&hidden), Ok(Peer::Abstract)));
    }
}
