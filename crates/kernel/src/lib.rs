//! The kernel enforcement point: eBPF LSM programs that decide with the compiled policy, and what loads them.

pub mod abi;
pub mod tables;

/// The objects that `build.rs` made of `bpf/`.
pub mod object {
    /// Answers questions with a policy table, outside of any hook: what the tests and the benchmark run.
    pub const CORE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/core.bpf.o"));
}
