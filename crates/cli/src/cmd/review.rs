//! `agentwall review`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::args::review::ReviewArgs;

/// Runs the command.
pub fn main(_args: ReviewArgs) -> Result<ExitCode> {
    Err(anyhow!("wip"))
}
