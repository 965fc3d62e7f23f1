//! A case of the guest: what is done, as root in the machine, and what must come of it.
//!
//! Cases run one after the other, since a program in a hook is there for all. A case undoes what it did to the
//! whole machine (attached programs, mounts, addresses); what a case leaves in `/var/tmp` is gone with it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use agentwall_tests::said::{Said, Verdict, run};

/// The ordinary user of the guest.
pub const AGENT: &str = "agent";
/// Its user and group id.
pub const AGENT_ID: u32 = 1000;

/// One named case.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// `theme/what`, named after what it guards.
    pub name: &'static str,
    /// What is done; the folder is empty, on ext4, and may be entered by everybody.
    pub play: fn(&Path) -> Verdict,
}

impl Guest {
    /// A case.
    pub const fn new(name: &'static str, play: fn(&Path) -> Verdict) -> Self {
        Guest { name, play }
    }
}

/// A command that waits for nothing on its standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut cmd = Command::new(program);
    cmd.stdin(Stdio::null());
    cmd
}

/// Runs a shell text as root in `folder`.
pub fn sh(folder: &Path, text: &str) -> Result<Said, String> {
    run(command("sh").arg("-c").arg(text).current_dir(folder))
}

/// Runs a shell text as [`AGENT`], without any capability, in `folder`.
pub fn sh_as_agent(folder: &Path, text: &str) -> Result<Said, String> {
    let id = AGENT_ID.to_string();
    run(command("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .args(["sh", "-c", text])
        .env("HOME", format!("/home/{AGENT}"))
        .env("USER", AGENT)
        .env("LOGNAME", AGENT)
        .current_dir(folder))
}

/// A file that the runner put into the guest: compiled BPF programs, and what `--in` names.
pub fn given(name: &str) -> Result<PathBuf, String> {
    folder_of("AGENTWALL_VM_IN").map(|f| f.join(name))
}

/// Where a case writes what is to leave the guest (`tests/vm/run --out FOLDER`).
pub fn out(name: &str) -> Result<PathBuf, String> {
    folder_of("AGENTWALL_VM_OUT").map(|f| f.join(name))
}

fn folder_of(variable: &str) -> Result<PathBuf, String> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{variable} is not set: tests/vm/guest sets it"))
}
