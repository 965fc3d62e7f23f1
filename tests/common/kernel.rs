//! The same cases behind the wall in the kernel: what is different about a session there.
//!
//! The programs are loaded once, by the suite or a daemon before it; a session is a shell text that a tool puts under the case's
//! policy. The kernel has no copies: what the rootless wall isolates is allowed there, so that attack and neighbour
//! meet the same bounds, and the workspace changes in place.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::world::World;

/// Those of the daemon, too: the wall that it left is used.
const PINS: &str = "/sys/fs/bpf/agentwall";
/// How many views the sessions use in turn, more than there are sessions at a time. Each holds 4 MiB.
const VIEWS_IN_TURN: u32 = 16;

/// The wall that the suite loaded.
#[derive(Debug, Clone)]
pub struct Kernel {
    tool: PathBuf,
}

static VIEW: AtomicU32 = AtomicU32::new(0);

impl Kernel {
    /// Loads and pins the programs, unless they stand.
    pub fn stand(tool: &Path) -> Result<Kernel, String> {
        let kernel = Kernel {
            tool: tool.to_owned(),
        };
        if Path::new(PINS).is_dir() {
            return Ok(kernel);
        }
        let loaded = Command::new(tool)
            .args(["load", PINS])
            .output()
            .map_err(|e| format!("{}: {e}", tool.display()))?;
        if !loaded.status.success() {
            return Err(format!(
                "the programs were not loaded: {}",
                String::from_utf8_lossy(&loaded.stderr)
            ));
        }
        Ok(kernel)
    }

    /// The policy of a case, as this backend can enforce it.
    pub fn policy(text: &str) -> String {
        text.replace("effect: isolate", "effect: allow")
    }

    /// What a session's command line begins with. Each has a view of its own for as long as it runs.
    pub fn argv(&self, world: &World) -> Vec<OsString> {
        let view = VIEW.fetch_add(1, Ordering::Relaxed) % VIEWS_IN_TURN + 1;
        let mut argv: Vec<OsString> = vec![self.tool.clone().into()];
        argv.extend(["run", PINS].map(OsString::from));
        argv.push(view.to_string().into());
        argv.extend(["policy.yaml", "work", "home"].map(|n| world.path(n).into_os_string()));
        argv.push("--".into());
        argv
    }

    /// Whether a change of this path (relative to the world) is none of the host's: the workspace is written in place.
    pub fn is_expected(path: &Path) -> bool {
        path.starts_with("work")
    }
}
