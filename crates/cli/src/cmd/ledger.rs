//! Commands.
/// Runs the command.
pub fn main(_: crate::args::LedgerCommand) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
