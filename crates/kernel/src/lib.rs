//! The kernel enforcement point: eBPF LSM programs that decide with the compiled policy, and what loads them.
//!
//! [`Wall`] loads the programs in `bpf/` and talks to them; [`tables`] puts policies into their maps;
//! [`wire`] is what they tell. The programs govern tasks: a task that was put under a view, and every
//! task that descends from it, is decided on by that view's table in every hook, whoever started it and wherever it
//! runs. All others pay one look at their own storage.
//!
//! What cannot be decided is refused; what the kernel cannot do (ask, isolate) is refused and told.

pub mod abi;
mod holds;
mod names;
mod notes;
mod preempt;
pub mod tables;
mod wall;
pub mod wire;

pub use holds::{Held, Holds};
pub use names::{Arrival, Captured, Door};
pub use notes::{MAX_ENTRIES, Notes};
pub use wall::{Counters, Events, Note, Options, Programs, Wall, WallError};

/// The objects that `build.rs` made of `bpf/`.
pub mod object {
    /// Answers questions with a policy table, outside of any hook: what the tests and the benchmark run.
    pub const CORE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/core.bpf.o"));
    /// The programs of the LSM hooks.
    pub const WALL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wall.bpf.o"));
    /// The programs of the root cgroup, which lead names to their doors.
    pub const NAMES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/names.bpf.o"));
    /// The programs of the monitor.
    pub const MONITOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor.bpf.o"));
}
