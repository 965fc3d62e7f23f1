//! From a captured connection to a relayed one: where did it want to go, may it, dial, relay.
//!
//! One thread per connection, because the gate may block on a person. The order is: original
//! destination, meaning of the address, the agent's own server if it is loopback, ticket or gate for
//! each real address, dial. A refusal is a reset, at once.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agentwall_action::{Endpoint, Protocol};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, acceptfrom_with, connect, connect_unspec,
        socket_with, sockopt,
    },
};

use crate::{
    Connection, Origin, Outcome, Target, Verdict,
    addresses::{Kind, kind},
    egress::{Place, Shared, ThreadBody},
    netns::LOOPBACK_CONGESTION,
    relay::relay,
};

/// The gate's evaluation runs on these threads too; the memory is touched only when used.
const STACK: usize = 1024 * 1024;

/// Bytes. On loopback a larger window only moves data out of the processor's caches.
const LOOPBACK_BUFFER: usize = 1_000_000;

/// The thread body that accepts captured connections.
pub(crate) fn accept_loop(
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
) -> io::Result<ThreadBody> {
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok(Box::new(move || {
        let mut reported: Option<Instant> = None;
        loop {
            let mut fds: Vec<_> = listeners
                .iter()
                .map(|l| PollFd::new(l, PollFlags::IN))
                .collect();
            fds.push(PollFd::new(&shared.stop_fd, PollFlags::IN));
            let _ = poll(&mut fds, None);
            if shared.stopped() {
                return;
            }
            for listener in &listeners {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                match acceptfrom_with(listener, flags) {
                    Ok((client, peer)) => {
                        let peer = peer.and_then(|p| p.try_into().ok());
                        let Some(place) = shared.enter() else {
                            // A flood of connections must not become a flood of records.
                            let quiet = reported.is_some_and(|r| r.elapsed().as_secs() < 1);
                            if !quiet {
                                reported = Some(Instant::now());
                                if let Some(captured) = Captured::new(&shared, &client, peer) {
                                    captured.report(None, Outcome::TooMany);
                                }
                            }
                            reset(client);
                            continue;
                        };
                        start(&shared, client, peer, place);
                    }
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                    // Out of descriptors or memory: the connection waits in the backlog.
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        }
    }))
}

fn start(shared: &Arc<Shared>, client: OwnedFd, peer: Option<SocketAddr>, place: Place) {
    let shared = shared.clone();
    // If there is no thread to be had, dropping the closure closes the connection.
    let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
    let _ = std::thread::Builder::new()
        .name("egress-conn".into())
        .stack_size(STACK)
        .spawn(move || {
            let _place = place;
            match Captured::new(&shared, &client, peer) {
                Some(captured) => captured.serve(client),
                None => reset(client),
            }
        });
}

/// A captured connection whose destination is known.
struct Captured<'a> {
    shared: &'a Shared,
    origin: Origin,
    started: Instant,
}

/// What a relay, or its absence, came to.
#[derive(Default)]
struct Totals {
    host: Option<String>,
    ip: Option<IpAddr>,
    port: Option<u16>,
    claimed: Option<String>,
    up: u64,
    down: u64,
}

impl<'a> Captured<'a> {
    /// `None` if nobody knows where the connection was going.
    fn new(shared: &'a Shared, client: &OwnedFd, peer: Option<SocketAddr>) -> Option<Self> {
        let client_address = peer?;
        let original: SocketAddr = match &shared.config.capture {
            Some(capture) => capture.original(client_address)?,
            None if client_address.is_ipv4() => sockopt::ip_original_dst(client).ok()?.into(),
            None => sockopt::ipv6_original_dst(client).ok()?.into(),
        };
        let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        let origin = Origin {
            client: plain(client_address),
            original: plain(original),
        };
        Some(Captured {
            shared,
            origin,
            started: Instant::now(),
        })
    }

    fn serve(&self, client: OwnedFd) {
        let original = self.origin.original;
        let target = self.shared.target_of(original.ip(), original.port());
        let (false, Some(target)) = (self.is_wall(), target) else {
            self.report(None, Outcome::NoSuchAddress);
            return reset(client);
        };
        if kind(original.ip()) == Kind::Loopback {
            match self
                .shared
                .inside
                .dial(original, &self.shared.stop_fd, &client)
            {
                Inside::Connected(borrowed) => {
                    // The agent talks to itself: nothing to decide, nothing to record.
                    set_relayed(&client);
                    let _ = relay(client, &borrowed.socket, &self.shared.stop_fd, None);
                    return;
                }
                Inside::Refused => {}
                Inside::Exhausted => {
                    self.report(None, Outcome::TooMany);
                    return reset(client);
                }
            }
        }
        let mut totals = Totals {
            host: target.host.clone(),
            port: Some(target.port),
            ..Totals::default()
        };
        let outcome = match self.reach(&target, &client, &mut totals) {
            Ok(upstream) => {
                set_relayed(&client);
                let _ = sockopt::set_socket_recv_buffer_size(&client, LOOPBACK_BUFFER);
                if let (true, Some(host), Some(inspect)) =
                    (target.inspected, &target.host, &self.shared.config.inspect)
                {
                    let carried = inspect.carry(client, upstream, host, &self.shared.stop_fd);
                    (totals.up, totals.down) = (carried.up, carried.down);
                    return self.report(Some(totals), carried.outcome);
                }
                let host = Some(target.host.as_deref());
                let ended = relay(client, &upstream, &self.shared.stop_fd, host);
                (totals.up, totals.down) = (ended.up, ended.down);
                totals.claimed = ended.claimed;
                ended.outcome
            }
            Err(outcome) => {
                reset(client);
                outcome
            }
        };
        self.report(Some(totals), outcome);
    }

    /// Whether the agent connected to the wall's own listener, uncaptured.
    fn is_wall(&self) -> bool {
        let original = self.origin.original;
        original.ip().is_loopback() && self.shared.own.iter().any(|a| a.port() == original.port())
    }

    /// Dials the first real address that is allowed and answers.
    fn reach(
        &self,
        target: &Target,
        client: &OwnedFd,
        totals: &mut Totals,
    ) -> Result<OwnedFd, Outcome> {
        let port = target.port;
        let ticket = self
            .shared
            .tickets
            .take(self.origin.original, Instant::now());
        let decided = ticket.is_some();
        let candidates = ticket.map_or_else(|| target.candidates.clone(), |t| t.addresses);
        let mut failed = None;
        let mut denied = None;
        for ip in candidates {
            totals.ip = Some(ip);
            if !decided {
                let dest = endpoint(target.host.clone(), ip, port);
                if let Verdict::Deny(reason) = self.shared.gate.connect(&dest, self.origin) {
                    denied = Some((ip, reason));
                    continue;
                }
            }
            if self.shared.stopped() {
                return Err(Outcome::ShutDown);
            }
            match self.dial((ip, port).into(), client) {
                Ok(upstream) => return Ok(upstream),
                Err(Errno::CANCELED) => return Err(Outcome::ShutDown),
                Err(Errno::CONNABORTED) => return Err(Outcome::Reset),
                Err(e) => failed = Some((ip, e)),
            }
        }
        match (failed, denied) {
            (Some((ip, e)), _) => {
                totals.ip = Some(ip);
                Err(Outcome::DialFailed(io::Error::from(e).to_string()))
            }
            (None, Some((ip, reason))) => {
                totals.ip = Some(ip);
                Err(Outcome::Denied(reason))
            }
            (None, None) => Err(Outcome::NoSuchAddress),
        }
    }

    fn dial(&self, to: SocketAddr, client: &OwnedFd) -> Result<OwnedFd, Errno> {
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if to.ip().is_loopback() {
            let _ = sockopt::set_tcp_congestion(&socket, LOOPBACK_CONGESTION);
            let _ = sockopt::set_socket_recv_buffer_size(&socket, LOOPBACK_BUFFER);
        }
        let deadline = Instant::now() + self.shared.config.dial_timeout;
        establish(&socket, to, deadline, &self.shared.stop_fd, client)?;
        set_relayed(&socket);
        // A peer that vanished is noticed in minutes; the agent may idle as long as it likes.
        let _ = sockopt::set_socket_keepalive(&socket, true);
        let _ = sockopt::set_tcp_keepidle(&socket, Duration::from_secs(60));
        Ok(socket)
    }

    fn report(&self, totals: Option<Totals>, outcome: Outcome) {
        let original = self.origin.original;
        let totals = totals.unwrap_or_default();
        let ip = totals.ip.unwrap_or(original.ip());
        let port = totals.port.unwrap_or(original.port());
        self.shared.gate.finished(&Connection {
            dest: endpoint(totals.host, ip, port),
            origin: self.origin,
            claimed: totals.claimed,
            up: totals.up,
            down: totals.down,
            duration: self.started.elapsed(),
            outcome,
        });
    }
}

fn endpoint(host: Option<String>, ip: IpAddr, port: u16) -> Endpoint {
    Endpoint {
        protocol: Protocol::Tcp,
        host,
        ip: Some(ip),
        port,
    }
}

/// Closes with a reset.
fn reset(socket: OwnedFd) {
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}

/// The options of both ends of a relay: no delay, and an orderly close by default.
fn set_relayed(socket: &OwnedFd) {
    let _ = sockopt::set_socket_linger(socket, None);
    let _ = sockopt::set_tcp_nodelay(socket, true);
}

/// Connects a non-blocking socket. `CANCELED`: the session ended; `CONNABORTED`: the agent's end is
/// gone.
fn establish(
    socket: &OwnedFd,
    to: SocketAddr,
    deadline: Instant,
    stop: &OwnedFd,
    client: &OwnedFd,
) -> Result<(), Errno> {
    match connect(socket, &to) {
        Ok(()) => return Ok(()),
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(e) => return Err(e),
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        let mut fds = [
            PollFd::new(socket, PollFlags::OUT),
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(client, PollFlags::empty()),
        ];
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        if !fds[1].revents().is_empty() {
            return Err(Errno::CANCELED);
        }
        if !fds[0].revents().is_empty() {
            return match sockopt::socket_error(socket)? {
                Ok(()) => Ok(()),
                Err(e) => Err(e),
            };
        }
        if !fds[2].revents().is_empty() {
            return Err(Errno::CONNABORTED);
        }
    }
}

/// Marked sockets of the agent's namespace, for connections to the agent's own servers.
#[derive(Debug)]
pub(crate) struct InsidePool {
    v4: Mutex<Vec<Arc<OwnedFd>>>,
    v6: Mutex<Vec<Arc<OwnedFd>>>,
}

pub(crate) enum Inside<'a> {
    Connected(Borrowed<'a>),
    /// Nobody listens there.
    Refused,
    /// All sockets are in use. Going on to the host would change what the address means.
    Exhausted,
}

/// A connected socket; it goes back to the pool, disconnected, when dropped.
pub(crate) struct Borrowed<'a> {
    pool: &'a Mutex<Vec<Arc<OwnedFd>>>,
    socket: Arc<OwnedFd>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // `connect(AF_UNSPEC)` makes a TCP socket new again (connect(2)).
        let _ = sockopt::set_socket_linger(&self.socket, None);
        if connect_unspec(&self.socket).is_ok() {
            let socket = self.socket.clone();
            self.pool
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(socket);
        }
    }
}

impl InsidePool {
    pub(crate) fn new(v4: Vec<OwnedFd>, v6: Vec<OwnedFd>) -> Self {
        let pool = |fds: Vec<OwnedFd>| Mutex::new(fds.into_iter().map(Arc::new).collect());
        InsidePool {
            v4: pool(v4),
            v6: pool(v6),
        }
    }

    fn dial(&self, to: SocketAddr, stop: &OwnedFd, client: &OwnedFd) -> Inside<'_> {
        let pool = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let Some(socket) = pool.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
            return Inside::Exhausted;
        };
        let borrowed = Borrowed { pool, socket };
        let socket = &*borrowed.socket;
        if rustix::io::ioctl_fionbio(socket, true).is_err() {
            return Inside::Exhausted;
        }
        // Loopback answers at once; a full backlog is the agent's own affair.
        let deadline = Instant::now() + Duration::from_secs(5);
        match establish(socket, to, deadline, stop, client) {
            Ok(()) => {
                let _ = sockopt::set_tcp_nodelay(socket, true);
                Inside::Connected(borrowed)
            }
            Err(Errno::CONNREFUSED) => Inside::Refused,
            Err(_) => Inside::Exhausted,
        }
    }
}
