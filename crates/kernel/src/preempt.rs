//! Whether the kernel runs every program at every hook.
//!
//! Before Linux 6.2 a program at a hook of the LSM is left out when it is running on that processor already, for a
//! task that was preempted in it, and a task's storage cannot be had while another's is being looked up there (kernel
//! commits "bpf: Remove prog->active check for bpf_lsm and bpf_iter" and "bpf: Add new bpf_task_storage_get proto with
//! no deadlock detection", both in 6.2). A hook that is left out lets through. Neither can happen where a task is not
//! preempted in the kernel: with the modes `none` and `voluntary`, as Debian's kernels have it.

use std::{fs, path::Path};

/// The function that came with the second commit, one version with the first.
pub(crate) const MENDED: &str = "bpf_task_storage_get_recur";

const MODE: &str = "/sys/kernel/debug/sched/preempt";

/// How the kernel preempts tasks that run in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preemption {
    /// Not at all, or where it offers to.
    Voluntary,
    /// Anywhere.
    Full,
    /// It can be chosen at boot, and was not found out.
    Unknown,
}

impl Preemption {
    /// Of the running kernel.
    pub(crate) fn now() -> Preemption {
        let version = rustix::system::uname();
        let mode = fs::read_to_string(Path::new(MODE)).ok();
        Preemption::of(&version.version().to_string_lossy(), mode.as_deref())
    }

    /// From the kernel's version (`uname -v`) and the modes, the one in force in parentheses
    /// (kernel/sched/debug.c, `sched_dynamic_show`).
    fn of(version: &str, modes: Option<&str>) -> Preemption {
        let word = version.split(' ').find(|w| w.starts_with("PREEMPT"));
        match (word, modes) {
            (None, _) => Preemption::Voluntary,
            (Some("PREEMPT_DYNAMIC"), None) => Preemption::Unknown,
            (Some("PREEMPT_DYNAMIC"), Some(modes)) => {
                let now = |mode: &str| modes.split_whitespace().any(|m| m == mode);
                match now("(none)") || now("(voluntary)") {
                    true => Preemption::Voluntary,
                    false => Preemption::Full,
                }
            }
            (Some(_), _) => Preemption::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_that_in_force() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.1-1 (2026-01-01)";
        for (version, modes, wanted) in [
            ("#1 SMP Debian", None, Preemption::Voluntary),
            ("#1 SMP PREEMPT Debian", None, Preemption::Full),
            ("#1 SMP PREEMPT_RT Debian", Some("none"), Preemption::Full),
            (dynamic, None, Preemption::Unknown),
            (
                dynamic,
                Some("none (voluntary) full\n"),
                Preemption::Voluntary,
            ),
            (
                dynamic,
                Some("(none) voluntary full\n"),
                Preemption::Voluntary,
            ),
            (dynamic, Some("none voluntary (full)\n"), Preemption::Full),
            (
                dynamic,
                Some("none voluntary full (lazy)\n"),
                Preemption::Full,
            ),
            (dynamic, Some(""), Preemption::Full),
        ] {
            assert_eq!(
                Preemption::of(version, modes),
                wanted,
                "{version} {modes:?}"
            );
        }
    }
}
