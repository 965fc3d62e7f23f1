//! The running network of one session: listeners, names, tickets, threads.
//!
//! [`Egress::start`] runs in the host's namespace. Dropping it ends everything, in this order: the
//! listeners stop listening, connections are reset, threads go. So whoever saw a connection reset by the
//! end finds nobody listening. A thread that waits inside the gate ends when the gate answers.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use agentwall_action::Protocol;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, OwnedFd},
    net::{Shutdown, shutdown},
};

use crate::{
    Gate, Inspect, Listeners,
    addresses::{Kind, canonical, kind},
    names::Names,
    proxy::{self, InsidePool},
    resolver,
    tickets::{Ticket, Tickets},
};

/// How real addresses of a name are found. The default is the host's own way (`getaddrinfo`:
/// `/etc/hosts` and `nsswitch.conf` count).
#[derive(Clone)]
pub struct Lookup(Arc<LookupFn>);

type LookupFn = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl Lookup {
    /// The host's resolver.
    pub fn host() -> Self {
        Lookup::new(|name| match (name, 0).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.map(|a| a.ip()).collect()),
            // The standard library keeps only the text of EAI_NONAME and EAI_NODATA.
            Err(e) => match e.to_string() {
                text if text.contains("Name or service not known") => {
                    Err(io::ErrorKind::NotFound.into())
                }
                text if text.contains("No address associated") => Ok(Vec::new()),
                _ => Err(e),
            },
        })
    }

    /// Another one. An empty list means that the name exists without addresses;
    /// [`io::ErrorKind::NotFound`] that it does not exist; other errors are temporary.
    pub fn new(lookup: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Lookup(Arc::new(lookup))
    }

    pub(crate) fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        (self.0)(name)
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

/// What ties a connection to the session, where that is not a network namespace of its own.
pub trait Capture: fmt::Debug + Send + Sync {
    /// Where the connection that comes from `client` was going. `None`: it was not captured, and is reset.
    fn original(&self, client: SocketAddr) -> Option<SocketAddr>;
    /// Whether a question for a name that comes from `client` is the session's; others get no answer.
    fn may_ask(&self, client: SocketAddr, protocol: Protocol) -> bool;
}

/// Settings with sensible defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EgressConfig {
    /// How real addresses are found.
    pub lookup: Lookup,
    /// Names of the agent's own host: they resolve to loopback without asking. `localhost` is
    /// always one.
    pub own_names: Vec<String>,
    /// Connections at once; further ones are reset. Each takes two descriptors, a busy one six.
    pub max_connections: usize,
    /// How long to wait for each address of a destination.
    pub dial_timeout: Duration,
    /// Who captures; `None`: the rules of [`netns`](crate::netns) in the agent's own namespace.
    pub capture: Option<Arc<dyn Capture>>,
    /// Who reads what some hosts answer.
    pub inspect: Option<Arc<dyn Inspect>>,
    /// The number of the first name. Numbers below it mean nothing: an address that an earlier
    /// [`Egress`] of the same session gave out never means another name.
    pub first_name: u32,
}

impl Default for EgressConfig {
    fn default() -> Self {
        EgressConfig {
            lookup: Lookup::host(),
            own_names: Vec::new(),
            max_connections: 512,
            dial_timeout: Duration::from_secs(10),
            capture: None,
            inspect: None,
            first_name: 0,
        }
    }
}

/// The proxy could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A system call failed.
    #[error(
        "could not {step} for the network proxy: {source}; check the limits on open files and threads"
    )]
    Step {
        /// The step that failed.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What an address inside the agent's namespace means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name that the resolver gave this address to; `None` for a plain address.
    pub host: Option<String>,
    /// The real addresses, in the order in which they are tried; at least one.
    pub candidates: Vec<IpAddr>,
    /// The real port.
    pub port: u16,
    /// Whether what it answers is read ([`Inspect`]); the port is then that of TLS.
    pub inspected: bool,
}

/// The agent's network while it runs.
#[derive(Debug)]
pub struct Egress {
    shared: Arc<Shared>,
    /// The listening sockets once more, to end them before anything else ends.
    listening: Vec<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Egress {
    /// Starts the resolver and the proxy on the listeners; dials out from the namespace of the
    /// calling thread.
    pub fn start(
        listeners: Listeners,
        gate: Arc<dyn Gate>,
        config: EgressConfig,
    ) -> Result<Self, StartError> {
        let step = |step| move |source| StartError::Step { step, source };
        let stop_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(io::Error::from)
            .map_err(step("make an event"))?;
        let own = (listeners.tcp.iter().chain(&listeners.dns_tcp))
            .map(|l| l.local_addr())
            .collect::<io::Result<_>>()
            .map_err(step("read the listeners' addresses"))?;
        let listening = (listeners.tcp.iter().chain(&listeners.dns_tcp))
            .map(|l| l.as_fd().try_clone_to_owned())
            .collect::<io::Result<_>>()
            .map_err(step("hold the listeners"))?;
        let Listeners {
            tcp,
            dns_udp,
            dns_tcp,
            inside_v4,
            inside_v6,
            ..
        } = listeners;
        let shared = Arc::new(Shared {
            names: Names::new(gate.clone(), &config),
            gate,
            tickets: Tickets::default(),
            inside: InsidePool::new(inside_v4, inside_v6),
            own,
            config,
            stop_fd,
            stopped: AtomicBool::new(false),
            connections: Mutex::new(0),
            idle: Condvar::new(),
        });
        let mut egress = Egress {
            shared: shared.clone(),
            listening,
            threads: Vec::new(),
        };
        for (name, run) in [
            (
                "egress-proxy",
                proxy::accept_loop(shared.clone(), tcp).map_err(step("listen"))?,
            ),
            (
                "egress-dns",
                resolver::udp_loop(shared.clone(), dns_udp).map_err(step("listen"))?,
            ),
            (
                "egress-dns-tcp",
                resolver::tcp_loop(shared, dns_tcp).map_err(step("listen"))?,
            ),
        ] {
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(run)
                .map_err(step("start a thread"))?;
            egress.threads.push(thread);
        }
        Ok(egress)
    }

    /// What an address means that the agent connects to. `None`: it names nothing, and connecting
    /// fails. A loopback address means itself; whether it is the agent's or the host's the plan and
    /// the listening servers decide.
    pub fn target_of(&self, ip: IpAddr, port: u16) -> Option<Target> {
        self.shared.target_of(ip, port)
    }

    /// Announces that a connection to this original address was allowed, so that the proxy does
    /// not decide and log it again. Counted; expires after ten seconds.
    pub fn admit(&self, original: SocketAddr, ticket: Ticket) {
        let original = SocketAddr::new(original.ip().to_canonical(), original.port());
        self.shared.tickets.put(original, ticket, Instant::now());
    }

    /// The gate decides by another policy from here on. Names are asked about again, and so are
    /// connections that were allowed and have not come yet; addresses that were given out keep their
    /// meaning.
    pub fn policy_changed(&self) {
        self.shared.names.ask_again();
        self.shared.tickets.clear();
    }

    /// The number that the next new name gets ([`EgressConfig::first_name`]).
    pub fn next_name(&self) -> u32 {
        self.shared.names.next()
    }

    /// How many captured connections are open.
    pub fn connections(&self) -> usize {
        *self
            .shared
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        // Closing is not enough: a descriptor that another process or thread still holds would go on
        // listening, and a connection in its backlog would wait for an answer.
        for listener in &self.listening {
            let _ = shutdown(listener, Shutdown::Both);
        }
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Never read, so it stays readable: every poll in every thread wakes up.
        let _ = rustix::io::write(&self.shared.stop_fd, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let count = self
            .shared
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = self
            .shared
            .idle
            .wait_timeout_while(count, Duration::from_secs(1), |n| *n > 0);
    }
}

/// What a long-lived thread runs.
pub(crate) type ThreadBody = Box<dyn FnOnce() + Send>;

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) names: Names,
    pub(crate) tickets: Tickets,
    pub(crate) inside: InsidePool,
    /// The wall's own TCP listeners: connecting to them directly leads nowhere.
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) config: EgressConfig,
    pub(crate) stop_fd: OwnedFd,
    stopped: AtomicBool,
    connections: Mutex<usize>,
    idle: Condvar,
}

impl Shared {
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Whether who sends from there may ask for names.
    pub(crate) fn may_ask(&self, from: SocketAddr, protocol: Protocol) -> bool {
        let capture = self.config.capture.as_ref();
        capture.is_none_or(|c| c.may_ask(from, protocol))
    }

    /// Takes a place for a connection, if there is one.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut count = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *count >= self.config.max_connections {
            return None;
        }
        *count += 1;
        Some(Place(self.clone()))
    }

    pub(crate) fn target_of(&self, ip: IpAddr, port: u16) -> Option<Target> {
        let ip = canonical(ip);
        let (host, candidates) = match kind(ip) {
            Kind::Synthetic(number) => self.names.target(number, ip.is_ipv4())?,
            Kind::Reserved | Kind::Unreachable => return None,
            Kind::Loopback | Kind::Own | Kind::Real => (None, vec![ip]),
        };
        let reads = |host: &String| self.config.inspect.as_ref().is_some_and(|i| i.reads(host));
        let inspected = port == 80 && host.as_ref().is_some_and(reads);
        Some(Target {
            host,
            candidates,
            port: if inspected { 443 } else { port },
            inspected,
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// A connection's place; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        *self
            .0
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.idle.notify_all();
    }
}
