//! Knowing the agents: which processes of a host are AI agents, and what they started.
//!
//! A [`Process`] is a description: what can be seen of a process without privilege. [`Signatures`] say
//! by executable, package, script, arguments, names in the environment and ancestry which descriptions
//! are which agent; [`identify`] applies them to all processes at once and finds the trees; [`suspects`]
//! tells which of the others behave like an agent, with the facts that speak for it. All of this is
//! pure. [`proc`] is the one module that reads: `/proc`, or a folder that looks like it.
//!
//! Invariants:
//! * A process chooses its own name, arguments and environment: identification is for a person's
//!   overview and grants nothing. No permission may depend on it.
//! * Of the environment only names are kept, never values.
//! * Every answer has its reasons: the matcher, the fact, the pattern.
//! * Input of any kind ends in an answer or an error, in bounded time and memory.

#![forbid(unsafe_code)]

mod behaviour;
mod identify;
pub mod proc;
mod process;
mod read;
mod signature;
mod testrun;

use agentwall_policy::{Layer, LoadError, Source};

pub use behaviour::{Finding, MAX_ORDINARY, Suspect, THRESHOLD, findings, suspects};
pub use identify::{Found, Identification, identify};
pub use process::{Descriptor, Ecosystem, Invocation, Package, Process, Target};
pub use read::{MAX_SIGNATURES, MAX_TESTS, load};
pub use signature::{Evidence, Field, Kind, Matcher, Reason, Signature, Signatures};
pub use testrun::{TestFailure, TestReport};

/// The name of the built-in data, for messages.
pub const BUILT_IN: &str = "built-in";

/// The signatures that come with this version.
///
/// # Errors
/// Never, as long as the tests of this crate pass; the caller shows it like that of any other file.
pub fn built_in() -> Result<Signatures, LoadError> {
    load(&[Source::new(
        BUILT_IN,
        include_str!("../data/agents.yaml"),
        Layer::User,
    )])
}
