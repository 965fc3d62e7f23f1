//! Commands.
/// Runs the command.
pub fn completions(_: crate::args::CompletionsArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
/// Runs the command.
pub fn man(_: crate::args::ManArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
