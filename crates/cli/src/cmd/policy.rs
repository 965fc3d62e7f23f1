//! Commands.
/// Runs the command.
pub fn main(_: crate::args::PolicyCommand) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
