//! The command line of intents: `act` and `hook`.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

/// `agentwall act`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  agentwall act --why 'the tests must pass before the commit' -- make test\n\n\
    The intent is in the ledger, durably, before the command is started. What the policy refuses is not \
    started.\n\nExit status: the command's own; 1 when it was not started, 126 when it cannot be."
)]
pub struct ActArgs {
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub why: String,
    /// The tool that it belongs to
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true,
          value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// `agentwall hook`.
#[derive(Debug, Clone, Subcommand)]
pub enum HookCommand {
    /// Answer a hook of Claude Code: its JSON on standard input
    ClaudeCode(HookArgs),
    /// Answer a hook of Codex: its JSON on standard input
    Codex(HookArgs),
    /// Write the hooks into an agent's settings
    Install(InstallArgs),
}

/// `agentwall hook claude-code`, `agentwall hook codex`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 answered; 2 the tool call is blocked, with the reason on standard \
    error: it could not be sealed, or this is not inside a session."
)]
pub struct HookArgs {
    /// Answer 'allow' where the policy allows, so that the agent does not ask its user as well
    #[arg(long)]
    pub allow: bool,
}

/// `agentwall hook install`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall hook install claude-code --dry-run\n  \
    agentwall hook install claude-code --project\n  agentwall hook install claude-code --remove"
)]
pub struct InstallArgs {
    /// Whose settings
    #[arg(value_enum, value_name = "AGENT")]
    pub agent: HookAgent,
    /// The settings of this user (the default)
    #[arg(long, conflicts_with = "project")]
    pub user: bool,
    /// The settings of the project in the current folder
    #[arg(long)]
    pub project: bool,
    /// Take the hooks out again
    #[arg(long)]
    pub remove: bool,
    /// Only tell what would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// An agent with hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HookAgent {
    /// Claude Code
    ClaudeCode,
    /// Codex
    Codex,
}

impl HookAgent {
    /// As on the command line and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            HookAgent::ClaudeCode => "claude-code",
            HookAgent::Codex => "codex",
        }
    }
}
