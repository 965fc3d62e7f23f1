//! Commands.
/// Runs the command.
pub fn pending(_: crate::args::PendingArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
/// Runs the command.
pub fn approve(_: crate::args::ApproveArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
/// Runs the command.
pub fn reject(_: crate::args::RejectArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not built yet") }
