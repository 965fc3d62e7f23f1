//! Canaries: before the agent starts, a process under exactly its restrictions tries what must not
//! work. If one attempt succeeds, the wall does not start.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// What to try; chosen from the plan so that each attempt is one the policy refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canaries {
    /// Hidden paths that have content on the host.
    pub reads: Vec<PathBuf>,
    /// Files to be created in places where nothing may be.
    pub writes: Vec<PathBuf>,
    /// Destinations the policy denies.
    pub connects: Vec<SocketAddr>,
    /// Programs that may not start.
    pub starts: Vec<PathBuf>,
}

/// One attempt and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryResult {
    /// `read`, `write`, `connect` or `exec`.
    pub class: String,
    /// On what.
    pub target: String,
    /// Whether the wall held.
    pub held: bool,
    /// What the kernel said.
    pub detail: String,
}

impl Canaries {
    /// Tries everything. Runs inside the wall, in a process of its own.
    pub fn release(&self) -> Vec<CanaryResult> {
        let mut results = Vec::new();
        let mut note = |class: &str, target: String, outcome: Result<String, String>| {
            let (held, detail) = match outcome {
                Ok(detail) => (true, detail),
                Err(detail) => (false, detail),
            };
            results.push(CanaryResult {
                class: class.into(),
                target,
                held,
                detail,
            });
        };
        for path in &self.reads {
            note("read", path.display().to_string(), read_is_empty(path));
        }
        for path in &self.writes {
            let outcome = OpenOptions::new().write(true).create_new(true).open(path);
            note("write", path.display().to_string(), must_fail(outcome));
        }
        for address in &self.connects {
            let outcome = TcpStream::connect_timeout(address, Duration::from_secs(2));
            note("connect", address.to_string(), must_fail(outcome));
        }
        for path in &self.starts {
            // exec returns only if it failed; success would replace this process, which then
            // reports nothing, and that is a failure of the canary as well.
            let error = std::process::Command::new(path).exec();
            note("exec", path.display().to_string(), Ok(error.to_string()));
        }
        results
    }

    /// How many results to expect.
    pub fn len(&self) -> usize {
        self.reads.len() + self.writes.len() + self.connects.len() + self.starts.len()
    }

    /// Whether there is nothing to try.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn must_fail<T>(outcome: io::Result<T>) -> Result<String, String> {
    match outcome {
        Ok(_) => Err("it worked".into()),
        Err(e) => Ok(e.to_string()),
    }
}

fn read_is_empty(path: &PathBuf) -> Result<String, String> {
    if path.is_dir() {
        return match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Err("it lists entries".into()),
            Ok(false) => Ok("empty".into()),
            Err(e) => Ok(e.to_string()),
        };
    }
    let mut byte = [0];
    match File::open(path).and_then(|mut f| f.read(&mut byte)) {
        Ok(0) => Ok("empty".into()),
        Ok(_) => Err("it has content".into()),
        Err(e) => Ok(e.to_string()),
    }
}
