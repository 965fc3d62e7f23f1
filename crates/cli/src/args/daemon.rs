//! The command line of `agentwall daemon`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand, ValueHint};

use crate::host;

/// `agentwall daemon`.
#[derive(Debug, Clone, Subcommand)]
#[command(
    after_help = "Examples:\n  sudo agentwall daemon install            a systemd unit\n  \
    sudo agentwall daemon run                in the foreground\n  \
    sudo agentwall daemon status\n  \
    sudo agentwall daemon exec --policy /etc/agentwall/policy.yaml -- sh\n  \
    sudo agentwall daemon govern 4711 --policy builder\n\n\
    The kernel wall needs Linux 6.1 or newer with BPF LSM; 'agentwall doctor' proves whether it can \
    stand. It guards any process of the host, and goes on when the daemon is gone.\n\n\
    Exit status: 0 done, 1 failed, 2 wrong usage; 'exec' has that of its command, and 125 when the \
    policy could not be put in force."
)]
pub enum DaemonCommand {
    /// Load the kernel wall and serve it, in the foreground
    Run(RunArgs),
    /// Tell what stands, who is governed, and what is wrong
    Status(StatusArgs),
    /// Put a running process and all that descends from it under a policy
    Govern(GovernArgs),
    /// Start a command under a policy
    Exec(ExecArgs),
    /// Take the policy away from the session that a process is in
    Release(ReleaseArgs),
    /// Read configuration and policies again
    Reload,
    /// End the daemon; what is enforced stays so
    Stop(StopArgs),
    /// Write the systemd unit
    Install(InstallArgs),
    /// Remove the systemd unit
    Uninstall,
    /// What the daemon starts to try the wall
    #[command(hide = true)]
    Canary(CanaryArgs),
}

/// `agentwall daemon run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  sudo agentwall daemon run\n  \
    sudo agentwall daemon run --audit       refuse nothing, record what would be\n\n\
    SIGHUP reads configuration and policies again, SIGTERM ends the daemon and leaves the wall \
    standing. Nothing is governed until the configuration or a person says so.")]
pub struct RunArgs {
    /// The configuration; without the file nothing is governed until asked
    #[arg(long, value_name = "FILE", default_value = host::CONFIG, value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Where the programs are pinned, in a BPF file system
    #[arg(long, value_name = "DIR", default_value = host::PINS, value_hint = ValueHint::DirPath)]
    pub pins: PathBuf,
    /// Where ledger and key are
    #[arg(long, value_name = "DIR", default_value = host::STATE, value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
    /// Refuse nothing, record what would be refused
    #[arg(long)]
    pub audit: bool,
}

/// `agentwall daemon status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit status: 0 the wall stands and the daemon is alive, 1 otherwise.")]
pub struct StatusArgs {
    /// Where the programs are pinned
    #[arg(long, value_name = "DIR", default_value = host::PINS, value_hint = ValueHint::DirPath)]
    pub pins: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which policy.
#[derive(Debug, Clone, Args)]
pub struct PolicyArg {
    /// A policy file or bundle that root alone can change, or the name of an entry of the configuration
    #[arg(long, value_name = "FILE|NAME", default_value = crate::policies::ORGANISATION)]
    pub policy: OsString,
}

/// `agentwall daemon govern`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  sudo agentwall daemon govern 4711 --policy builder\n\n\
    What the process has open stays open: its next actions are decided. A command that is governed from \
    its first instruction is started with 'agentwall daemon exec'."
)]
pub struct GovernArgs {
    /// The process
    #[arg(value_name = "PID")]
    pub pid: u32,
    /// Under which policy.
    #[command(flatten)]
    pub policy: PolicyArg,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall daemon exec`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall daemon exec --policy builder -- make\n  \
    sudo agentwall daemon exec --policy /etc/agentwall/strict.yaml -- sh\n\n\
    Everybody may start commands under an entry of the configuration; a policy by its file is for root. \
    The policy must let the command start."
)]
pub struct ExecArgs {
    /// Under which policy.
    #[command(flatten)]
    pub policy: PolicyArg,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// `agentwall daemon release`.
#[derive(Debug, Clone, Args)]
pub struct ReleaseArgs {
    /// A process of the session
    #[arg(value_name = "PID")]
    pub pid: u32,
}

/// `agentwall daemon stop`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  sudo agentwall daemon stop\n  \
    sudo agentwall daemon stop --unload -y    nothing is enforced any more")]
pub struct StopArgs {
    /// Take the programs out of the kernel, too: nothing is enforced any more
    #[arg(long)]
    pub unload: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Where the programs are pinned, if no daemon answers
    #[arg(long, value_name = "DIR", default_value = host::PINS, value_hint = ValueHint::DirPath)]
    pub pins: PathBuf,
    /// Where the ledger is, if no daemon answers
    #[arg(long, value_name = "DIR", default_value = host::STATE, value_hint = ValueHint::DirPath)]
    pub state: PathBuf,
}

/// `agentwall daemon install`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall daemon install --print\n  \
    sudo agentwall daemon install && sudo systemctl enable --now agentwall")]
pub struct InstallArgs {
    /// Print the unit, write nothing
    #[arg(long)]
    pub print: bool,
}

/// `agentwall daemon canary`.
#[derive(Debug, Clone, Args)]
pub struct CanaryArgs {
    /// Where it tries
    pub folder: PathBuf,
    /// Where it connects to
    pub port: u16,
    /// It tries host names
    #[arg(long)]
    pub names: bool,
}
