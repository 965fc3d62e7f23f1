//! The console of a host: what waits for a person, over REST and on a web page.
//!
//! It decides nothing and holds no question: those are at the gateways, sessions and the daemon, which the [`Host`] asks
//! and answers as `agentwall pending` and `agentwall approve` do. What is its own is who may look and answer
//! ([`access`]), how a person proves to be there ([`passkeys`]), and what a browser may do ([`guard`]).
//!
//! Invariants:
//! * A route that is not in the table of [`access::ROUTES`] is refused.
//! * In a browser no approval goes ahead without an assertion of a passkey, made for that question as it was shown
//!   and for that reach, used once.
//! * An act is in the ledger before it is done.

#![forbid(unsafe_code)]

#[cfg(feature = "serve")]
pub mod access;
#[cfg(feature = "serve")]
mod api;
#[cfg(feature = "serve")]
mod assets;
#[cfg(feature = "serve")]
mod changes;
#[cfg(feature = "serve")]
mod codes;
#[cfg(feature = "serve")]
mod console;
#[cfg(feature = "serve")]
mod events;
#[cfg(feature = "serve")]
mod guard;
pub mod host;
#[cfg(feature = "serve")]
mod login;
#[cfg(feature = "serve")]
mod pages;
#[cfg(feature = "serve")]
mod passkeys;
#[cfg(feature = "serve")]
mod problem;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod sessions;
#[cfg(feature = "serve")]
mod shapes;

#[cfg(feature = "serve")]
#[cfg(test)]
mod tests;

#[cfg(feature = "serve")]
pub use api::{openapi, router};
#[cfg(feature = "serve")]
pub use codes::{Code, invite, new_token};
#[cfg(feature = "serve")]
pub use console::{Config, Console, StartError};
pub use host::Host;
#[cfg(feature = "serve")]
pub use serve::serve;
