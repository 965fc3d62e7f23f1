//! Commands.
/// Runs the command.
pub fn main(_: crate::args::Agent, _: crate::args::WordArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
