//! The rootless enforcement point: what stands between an agent and this host without any
//! privilege beyond an ordinary user's.
//!
//! ```text
//! plan     policy + host mounts → what each tree is inside (pure)
//! enforcement  plan → by what each rule is enforced, and whether exactly
//! launch   namespaces, the three processes, the handshake
//! mounts   executes the plan: the sound bound on files
//! surface  what lies directly in an isolated folder that holds other mounts
//! seccomp  the filter: which calls are decided outside the kernel
//! notify   the protocol by which they arrive
//! resolve  what a path means to the caller
//! broker   Action → engine → Decision → errno, descriptor or "continue"
//! init     first process inside: restrictions on, canaries out, agent started
//! intent   the socket at which an agent tells what it is about to do
//! wire     broker ⇄ supervisor
//! live     which other policy a standing wall can enforce
//! revise   how it gets into force
//! ```
//!
//! The supervisor side (ledger, approvals, network) is the caller's.

#![warn(unsafe_op_in_unsafe_fn)]

mod broker;
mod canary;
pub mod enforcement;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod init;
mod intent;
mod landlock_floor;
mod launch;
pub mod live;
mod mounts;
mod notify;
pub mod plan;
mod resolve;
mod revise;
mod seccomp;
mod surface;
mod sys;
pub mod wire;

pub use broker::{ADVICE_PATH, AdviceEntry, Instead, TRAIL_PATH, TrailEntry, wall_made};
pub use canary::{Canaries, CanaryResult};
pub use intent::{INTENT_PATH, lineage};
pub use landlock_floor::abi as landlock_abi;
pub use launch::{LaunchError, Report, Spec, Wall, launch};
pub use mounts::{LayerPaths, create_layers};
pub use revise::Revision;
