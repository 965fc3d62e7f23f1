//! `agentwall doctor`.
use std::process::ExitCode;

use crate::args::DoctorArgs;

/// Runs the command.
pub fn main(_args: DoctorArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
