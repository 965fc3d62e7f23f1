//! The agent's network: transparent capture, names that are pinned, and the proxy that dials out.
//!
//! The agent lives in a network namespace with nothing but `lo`. Inside it, a setup step with
//! `CAP_NET_ADMIN` binds the wall's [`Listeners`] and calls [`netns::configure`]: from then on every
//! TCP connection and every DNS query of any program arrives at the wall, and all else is refused.
//! The listeners' descriptors travel to the supervisor in the host's namespace, where [`Egress`]
//! answers names, asks the [`Gate`] about each connection, dials out and relays.
//!
//! Where the agent has no namespace of its own, somebody else leads its connections and questions to
//! the listeners and says whose they are ([`Capture`]); names, gate, greeting and relay are the same.
//!
//! Invariants:
//! * No packet leaves the agent's namespace; the only way out is a dial by the wall.
//! * Nothing is dialled that the gate did not allow with its *real* address and port.
//! * An address the resolver gave out names exactly one host for the whole session.
//! * No byte of the agent is forwarded before its greeting (TLS SNI, HTTP Host) was compared with
//!   the name that was resolved.

#![forbid(unsafe_code)]

mod addresses;
mod egress;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod greeting;
mod listeners;
mod names;
pub mod netns;
mod proxy;
mod relay;
mod resolver;
mod tickets;

pub use addresses::{OWN_V4, OWN_V6};
pub use egress::{Capture, Egress, EgressConfig, Lookup, StartError, Target};
pub use gate::{Carried, Connection, Gate, Inspect, Origin, Outcome, Verdict};
pub use greeting::{Claim, Greeting, inspect};
pub use listeners::{Listeners, ListenersError};
pub use netns::{HostLoopback, INSIDE_MARK, NetPlan, NetnsError};
pub use tickets::Ticket;
