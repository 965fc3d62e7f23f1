//! `agentwall selftest`.
use std::process::ExitCode;

use crate::args::SelftestArgs;

/// Runs the command.
pub fn main(_args: SelftestArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
