//! What the suites share: a case, its world on the host, the canary
//! servers, and the runner.
//!
//! Invariants:
//! * A case is judged by effects seen from the host (files, servers, processes), never by what the
//!   attack says about itself, except for system calls whose success *is* the effect.
//! * Every case has an attack that must have no effect and a neighbour that must work, in the same
//!   session. `--no-wall` runs the attack without the wall and demands that it works: it proves that
//!   the case can fail.
//! * Everything lives below one folder in `/var/tmp` (never `/tmp`, which policies isolate), and
//!   the escape suite runs in a network and mount namespace of its own.

pub mod case;
pub mod kernel;
pub mod kit;
pub mod options;
pub mod run;
pub mod said;
pub mod servers;
pub mod session;
pub mod tree;
pub mod world;

pub use case::{Case, Check, Native, Outcome, Run};
pub use options::{Options, Who};
pub use run::main_for;
pub use world::World;
