//! `agentwall run`.
use std::process::ExitCode;

use crate::args::RunArgs;

/// Runs a command behind the wall.
pub fn run(_args: RunArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
