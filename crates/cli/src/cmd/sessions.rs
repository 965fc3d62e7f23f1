//! Commands.
/// Runs the command.
pub fn main(_: crate::args::SessionsArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
