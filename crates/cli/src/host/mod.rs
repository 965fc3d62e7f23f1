//! The host's side of the kernel wall: what `agentwall daemon` does behind its commands.
//!
//! The programs in the kernel decide with tables alone. This side makes the tables of policies, says who
//! is governed by which, turns what the programs tell into the decisions, questions and ledger entries
//! that every other wall has, and proves when it starts that what should be refused is.
//!
//! ```text
//! config ── what the administrator wants       policy ── from a file to a table, and what it lacks here
//! kernel ── the programs, as far as needed     canary ── the proof
//! daemon ── views, sessions, requests          told ──── from an event to a decision
//! gaps ──── events that never came             questions ── what waits for a person
//! names ─── what is asked for by host name
//! book ──── what a restarted daemon must know  trail ─── what `agentwall why` reads
//! meant ─── starts that the configuration means holds ─── starts that wait for a person
//! ```
//!
//! Invariants:
//! * Enforcement does not depend on this process: it may be killed at any moment.
//! * Nobody but root changes anything, except that everybody may put themselves under a named policy.
//! * What did not reach the ledger stands there as a gap.

mod answers;
pub mod book;
pub mod canary;
pub mod config;
pub mod daemon;
pub mod gaps;
pub mod holds;
pub mod kernel;
mod meant;
pub mod names;
pub mod policy;
pub mod proc;
pub mod questions;
mod reload;
mod requests;
mod session;
pub mod tell;
pub mod told;
pub mod trail;
mod watch;

use std::path::{Path, PathBuf};

/// Where the configuration is by default.
pub const CONFIG: &str = "/etc/agentwall/daemon.yaml";
/// Where the programs are pinned by default.
pub const PINS: &str = "/sys/fs/bpf/agentwall";
/// Where ledger and key are by default.
pub const STATE: &str = "/var/lib/agentwall";
/// What goes with a reboot: the control socket, the trail, what a restarted daemon must know.
pub const RUN: &str = "/run/agentwall";
/// The systemd unit.
pub const UNIT: &str = "/etc/systemd/system/agentwall.service";

/// The places of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The configuration.
    pub config: PathBuf,
    /// The pinned programs and maps.
    pub pins: PathBuf,
    /// Ledger and key.
    pub state: PathBuf,
    /// Sockets and the book.
    pub run: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            config: CONFIG.into(),
            pins: PINS.into(),
            state: STATE.into(),
            run: RUN.into(),
        }
    }
}

impl Places {
    /// The socket of the commands.
    pub fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// The socket at which a governed process learns what was refused.
    pub fn why(&self) -> PathBuf {
        self.run.join("why")
    }

    /// What a restarted daemon must know.
    pub fn book(&self) -> PathBuf {
        self.run.join("book.json")
    }

    /// Held by the daemon as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The trail of a session.
    pub fn trail(&self, session: u64) -> PathBuf {
        self.run.join("trails").join(session.to_string())
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`, by which the programs tell the time.
pub fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Milliseconds since the Unix epoch of a moment of `CLOCK_BOOTTIME`.
pub fn unix_ms(boot: u64) -> u64 {
    let ago = boot_ns().saturating_sub(boot) / 1_000_000;
    crate::state::now_ms().saturating_sub(ago)
}

/// A path with its links followed as far as it exists.
pub fn canonical(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        if let Ok(real) = at.canonicalize() {
            return missing
                .iter()
                .rev()
                .fold(real, |path, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}
