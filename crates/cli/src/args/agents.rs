//! The command line of `agentwall agents`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand, ValueHint};

/// `agentwall agents`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  agentwall agents\n  agentwall agents --json | jq '.agents[] | select(.policy.by == \"none\")'\n  \
    agentwall agents --watch\n  agentwall agents show 4711\n\n\
    Known agents are found by their program, package, script and ancestry, unknown ones by what they do. \
    A process chooses its own name and arguments: the list is an overview, and nothing is permitted \
    because of it.\n\n\
    Exit status: 0 done, also when no agent runs; 1 failed; 2 wrong usage."
)]
pub struct AgentsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<AgentsCommand>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// How agents are listed.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Also helpers, and every process of each agent
    #[arg(long)]
    pub all: bool,
    /// Go on, and tell what appears and what ends, until interrupted
    #[arg(long, conflicts_with = "all")]
    pub watch: bool,
    /// Print JSON; with --watch one object a line
    #[arg(long)]
    pub json: bool,
}

/// `agentwall agents …`.
#[derive(Debug, Clone, Subcommand)]
pub enum AgentsCommand {
    /// Tell what a process is taken for, and why
    Show(ShowArgs),
    /// Run the tests that signatures carry
    Test(TestArgs),
    /// List the signatures, and where they are from
    Signatures(SignaturesArgs),
    /// Install signatures from a signed bundle
    Update(UpdateArgs),
}

/// `agentwall agents show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  agentwall agents show 4711")]
pub struct ShowArgs {
    /// The process id
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall agents test`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall agents test\n  agentwall agents test agents.yaml\n\n\
    Exit status: 0 all passed, 1 a test failed or a file cannot be read, 2 wrong usage."
)]
pub struct TestArgs {
    /// Signature files, together one set, or a bundle [default: the signatures in use]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall agents signatures`.
#[derive(Debug, Clone, Args)]
pub struct SignaturesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall agents update`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall agents update agents.bundle\n  \
    agentwall agents update agents.bundle --trust team.pub\n  \
    agentwall agents update --built-in\n\n\
    The bundle must be signed by a trusted key ('agentwall policy bundle sign --kind agents') and not \
    older than one that was installed before, and its own tests must pass.")]
pub struct UpdateArgs {
    /// The bundle
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "built_in")]
    pub file: Option<PathBuf>,
    /// Trust this key, too: as text, or a file with keys
    #[arg(long, value_name = "KEY|FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<OsString>,
    /// Go back to the signatures that came with this version
    #[arg(long, conflicts_with_all = ["file", "trust"])]
    pub built_in: bool,
}
