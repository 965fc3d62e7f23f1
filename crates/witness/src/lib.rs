//! Logs and witnesses over HTTP: what `agentwall-ledger` says, carried over a network.
//!
//! [`serve()`] is the server of both faces: a [`WitnessService`] (c2sp.org/tlog-witness) and a [`LogService`]
//! (c2sp.org/tlog-tiles, for reading). [`push()`] brings a log's newest checkpoint to its witnesses and keeps
//! their cosignatures; [`fetch()`] copies a log so that it can be verified. [`timestamp`] asks an authority of RFC 3161 for
//! the time, and checks what it says.
//!
//! Invariants:
//! * Nothing is decided here: every answer, proof and signature of logs is checked by `agentwall-ledger`, and
//!   what comes from the network is bounded before it is looked at.
//! * No operation waits for a peer without a limit.

#![forbid(unsafe_code)]

mod client;
mod fetch;
mod log;
mod push;
mod serve;
pub mod timestamp;
mod witness;

pub use client::CallError;
pub use fetch::{FetchError, fetch};
pub use log::LogService;
pub use push::{Outcome, PushError, Pushed, Readback, push, readback};
pub use serve::{Listen, ListenError, Reply, Server, Service, serve};
pub use witness::WitnessService;
