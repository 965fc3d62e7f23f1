//! `agentwall why`.
use std::process::ExitCode;

use crate::args::WhyArgs;

/// Runs the command.
pub fn main(_args: WhyArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
