//! The command line of `agentwall export` and `agentwall import`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueHint};

/// `agentwall export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall export > layer.tar\n  \
    agentwall export k3f9 -o layer.tar && scp layer.tar other:\n  \
    tar tvf layer.tar\n\n\
    The file holds what the session wrote to its workspace, what the touched originals were, and a \
    proof from this host's ledger with the session's start: its command line, folders and user name. \
    The same changes over the same originals give the same file. 'agentwall ledger key' prints the key \
    that whoever imports it should trust.\n\n\
    Not in it: copies that equal their originals, sockets, and folders outside of the workspace \
    (unless --all is given), such as an agent's own settings.")]
pub struct ExportArgs {
    /// Session: id, unique prefix or name [default: the newest of this workspace]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Write it to this file [default: standard output, unless that is a terminal]
    #[arg(long, short = 'o', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Also folders outside of the workspace
    #[arg(long)]
    pub all: bool,
    /// Also files with set-id bits or capabilities
    #[arg(long)]
    pub privileges: bool,
    /// Print JSON about what was written (with --output)
    #[arg(long, requires = "output")]
    pub json: bool,
}

/// `agentwall import`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall import layer.tar --dry-run\n  \
    agentwall import layer.tar --trust agentwall.local/bzch8z2w4hti+1849d8c8+AdYVG8rV…\n  \
    agentwall import layer.tar --workspace ~/src/project --json | jq .differences\n\n\
    Makes a session of the file; nothing in the workspace is touched. 'agentwall diff' and 'agentwall \
    commit' take it from there, under your policy. An original here that is not what the changes were \
    made on is a conflict: it stays as it is.\n\n\
    The proof in the file is checked first. The key of its log has to be this host's own, given with \
    --trust, or one of ~/.config/agentwall/trusted-logs and /etc/agentwall/trusted-logs (one key a \
    line). It says that the file is what that host exported, not that its content is harmless.\n\n\
    Exit status: 0 done (with --dry-run: it can be), 1 refused; 2 wrong usage.")]
pub struct ImportArgs {
    /// A file of 'agentwall export'
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The folder its changes are for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// The policy that decides on its changes [default: as for 'agentwall run']
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Trust the log with this key: as text, or a file with keys
    #[arg(long, value_name = "KEY|FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<OsString>,
    /// Take it although nobody vouches for the log's key
    #[arg(long)]
    pub any_key: bool,
    /// Also folders outside of the workspace
    #[arg(long)]
    pub all: bool,
    /// Also files with set-id bits or capabilities
    #[arg(long)]
    pub privileges: bool,
    /// Check it and compare the originals, make nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
