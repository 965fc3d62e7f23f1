//! Reading processes from `/proc`, or from a folder that looks like it.
//!
//! The crate `procfs` is well kept, but does not fit: it reads files whole, so that a process decides
//! how much memory its reader needs, and hands on the environment with its values. Here every read has
//! a bound, of the environment only names leave the buffer, and files that a process names are opened
//! inside its own root (`openat2` with `RESOLVE_IN_ROOT`), without following magic links.
//!
//! Invariants: a process that ends meanwhile is skipped, one that takes over its number is not mixed up
//! with it; what may not be read is counted, never an error; nothing is written and nothing is waited
//! for (FIFOs and devices are not opened for reading).

pub mod parse;
mod read;
mod root;

use std::path::PathBuf;

use crate::process::Process;

pub use read::{MAX_DESCRIPTORS, MAX_PROCESSES};

/// All processes at one moment, as far as they could be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The processes, by id. Kernel threads and processes that have ended are left out.
    pub processes: Vec<Process>,
    /// How many of them belong to somebody else, so that their program cannot be seen.
    pub closed: usize,
    /// How many ended while they were read.
    pub vanished: usize,
    /// Whether there are more than [`MAX_PROCESSES`].
    pub cut: bool,
    /// When the host was started, in seconds since the Unix epoch; 0 if unknown.
    pub boot: u64,
    /// Clock ticks a second, the unit of [`Process::started`].
    pub ticks: u64,
}

impl Snapshot {
    /// When a process was started, in milliseconds since the Unix epoch.
    pub fn started_ms(&self, process: &Process) -> u64 {
        let since = process.started.saturating_mul(1000) / self.ticks.max(1);
        self.boot.saturating_mul(1000).saturating_add(since)
    }
}

/// Where processes are looked up.
pub trait Processes {
    /// All processes now.
    ///
    /// # Errors
    /// The list itself cannot be read.
    fn snapshot(&self) -> Result<Snapshot, ProcError>;
}

/// Why processes cannot be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcError {
    /// The folder cannot be read.
    #[error(
        "cannot list the processes in {}: {source}; /proc must be mounted",
        agentwall_action::escape_text(&path.to_string_lossy())
    )]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A `/proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    /// The host's.
    fn default() -> Self {
        ProcFs::at("/proc")
    }
}

impl ProcFs {
    /// The one in a folder.
    pub fn at(root: impl Into<PathBuf>) -> ProcFs {
        ProcFs { root: root.into() }
    }
}

impl Processes for ProcFs {
    fn snapshot(&self) -> Result<Snapshot, ProcError> {
        read::snapshot(&self.root)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
