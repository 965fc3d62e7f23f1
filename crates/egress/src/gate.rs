//! What the network asks and tells: the seam between the proxy and the engine.
//!
//! The supervisor implements [`Gate`] over the engine. The proxy has no rules of its own: it builds
//! the question with the real address in it, so that a name that resolves to `127.0.0.1` or to an
//! internal range is judged by where it really leads.

use std::{net::SocketAddr, time::Duration};

use agentwall_action::Endpoint;
use rustix::fd::OwnedFd;

/// Decides. Calls come from many threads at once and may block, for example until a person answers.
pub trait Gate: Send + Sync {
    /// May the agent learn the addresses of `name` (lower-case ASCII, no trailing dot)? Asked when a
    /// name is new or was refused before, not for every query.
    fn resolve(&self, name: &str) -> Verdict;

    /// May the agent connect? `dest.ip` is the real address that would be dialled; `dest.host` the
    /// name under which the agent knows it, `None` when the agent used an address.
    fn connect(&self, dest: &Endpoint, origin: Origin) -> Verdict;

    /// A connection ended, or was refused by the proxy itself (see [`Outcome`]). Denials that
    /// [`Gate::connect`] gave are reported here too, as [`Outcome::Denied`].
    fn finished(&self, connection: &Connection);
}

/// Reads what some hosts answer: the agent speaks plain HTTP to port 80 of them, the connection that is made is TLS to
/// port 443, and so is what the gate is asked about.
pub trait Inspect: std::fmt::Debug + Send + Sync {
    /// Whether the host is one of them. Asked for each connection.
    fn reads(&self, host: &str) -> bool;

    /// Carries a connection to its end, or until `stop` becomes readable. Both sockets are connected.
    fn carry(&self, client: OwnedFd, upstream: OwnedFd, host: &str, stop: &OwnedFd) -> Carried;
}

/// What became of an inspected connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the agent, without heads.
    pub up: u64,
    /// Bytes to it, without heads.
    pub down: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// The gate's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allow,
    /// Do not; the text is the reason, shown to the agent where the protocol has room for it.
    Deny(String),
}

/// Where a captured connection came from, both as seen inside the agent's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The agent's end. `/proc/net/tcp` inside the namespace leads from it to a process.
    pub client: SocketAddr,
    /// The address the agent connected to: synthetic when it came from the resolver.
    pub original: SocketAddr,
}

/// The record of one captured connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Where it went, or would have gone.
    pub dest: Endpoint,
    /// Where it came from.
    pub origin: Origin,
    /// The name that the client claimed in its greeting (TLS SNI or HTTP Host), if any.
    pub claimed: Option<String>,
    /// Bytes from the agent to the destination.
    pub up: u64,
    /// Bytes from the destination to the agent.
    pub down: u64,
    /// From the capture to the end.
    pub duration: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a captured connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Both sides closed in order.
    Closed,
    /// One side reset it, or the host failed to reach it any longer.
    Reset,
    /// The gate said no.
    Denied(String),
    /// No address answered; the text is the last error.
    DialFailed(String),
    /// The greeting names another host than the one that was resolved for this address.
    NameContradiction {
        /// The name that the resolver gave this address to.
        resolved: String,
        /// The name in the greeting.
        claimed: String,
    },
    /// The greeting looked like TLS or HTTP but was malformed or stayed incomplete, so that the name
    /// in it could not be checked.
    UnreadableGreeting(&'static str),
    /// The agent connected to an address that names nothing: a synthetic address that was never
    /// given out, a multicast address, or the wall's own listener.
    NoSuchAddress,
    /// It was inspected, and was cut or could not be carried; the text says why.
    Uninspected(String),
    /// Too many connections at once.
    TooMany,
    /// The wall closed it because the session ended.
    ShutDown,
}
