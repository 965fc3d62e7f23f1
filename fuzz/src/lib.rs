//! What the fuzz targets do: one function per parser, with the property it must have.
//!
//! A target in `fuzz_targets/` only hands libFuzzer's bytes to a function of this crate, so that all
//! targets share one build. Every function panics when a property is broken and returns otherwise;
//! "does not panic" is the least of them. Inputs are text wherever the format allows it: several
//! parts of one input are separated by a line `%%`, so that seeds can be read and written by hand.
//!
//! `control`, `session` and `state` are the files of the command line crate, which has no library:
//! they are built here a second time, under the names they use for each other. When one of them
//! begins to use another file of that crate, that file is added here.

#[path = "../../crates/cli/src/control.rs"]
#[allow(dead_code, clippy::all)] // Linted where it belongs; no target calls all of it.
mod control;
/// Of the daemon's files those that read what others wrote.
#[path = "../../crates/cli/src/host"]
#[allow(dead_code, clippy::all)] // Linted where they belong; no target calls all of them.
mod host {
    pub mod config;
    pub mod proc;
}
/// Of intents what others wrote: requests at the socket, what hooks are told, transcripts.
#[path = "../../crates/cli/src/intent"]
#[allow(dead_code, clippy::all)] // Linted where they belong; no target calls all of them.
mod intent {
    pub mod claims;
    pub mod event;
    pub mod http;
    pub mod message;
    pub mod transcript;

    pub use message::{Does, Ending, Statement};
}
#[path = "../../crates/cli/src/session.rs"]
#[allow(dead_code, clippy::all)] // Linted where it belongs; no target calls all of it.
mod session;
#[path = "../../crates/cli/src/state.rs"]
#[allow(dead_code, clippy::all)] // Linted where it belongs; no target calls all of it.
mod state;

pub mod agents;
pub mod bundle;
pub mod cli;
pub mod conditions;
pub mod egress;
pub mod gateway;
pub mod globs;
pub mod identity;
pub mod input;
pub mod layers;
pub mod ledger;
pub mod ledger_text;
pub mod mcp;
pub mod model;
pub mod policy;
pub mod table;
pub mod text;
pub mod tree;
pub mod wall;
pub mod witness;
