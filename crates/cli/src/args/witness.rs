//! The command line of witnesses: `agentwall witness`, and what `agentwall ledger` has of proofs, witnesses and
//! monitors.

use std::{ffi::OsString, path::PathBuf};

use agentwall_witness::Listen;
use clap::{Args, Subcommand, ValueHint};

/// `agentwall ledger prove`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall ledger prove 41 > 41.tlog-proof\n  \
    agentwall ledger prove 41 --policy auditor.policy > 41.tlog-proof\n  \
    agentwall ledger prove 41 --open action/resource --open reason > 41.tlog-proof\n\n\
    The file (c2sp.org/tlog-proof@v1) holds the entry, the hashes up to the root, and the checkpoint with \
    the cosignatures of witnesses, if they have seen the entry. Its line 'extra' is the entry itself, and what is \
    opened of it: text is in the entry as commitments, and only who is given text and salt of a field can read it.\n\n\
    Exit status: 0 proved, 1 not in the log, or not witnessed as --policy wants, 2 wrong usage."
)]
pub struct ProveArgs {
    /// The entry's number, as 'ledger show' prints it
    #[arg(value_name = "ENTRY")]
    pub entry: u64,
    /// The proof must satisfy this trust policy (c2sp.org/tlog-policy)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Open this field of the entry, or all below it, for example action/resource or files/0; may be given several times
    #[arg(long, value_name = "FIELD")]
    pub open: Vec<String>,
    /// Open all of the entry's text
    #[arg(long)]
    pub open_all: bool,
    /// The log's folder [default: this user's log]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// The public key, as text or in a file [default: this user's own key]
    #[arg(long, value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<OsString>,
}

/// `agentwall ledger serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall ledger serve\n  \
    agentwall ledger serve --listen unix:/run/agentwall/ledger.sock\n\n\
    Read-only, plain HTTP, in the layout of c2sp.org/tlog-tiles: monitors follow the log there, and 'agentwall \
    ledger verify URL' checks it. Entries of earlier versions hold commands and paths, and every user of this host reads a loopback port; \
    a Unix socket is for its user and group. For others put a server in front that has TLS and knows \
    who may read (for example caddy, or nginx with 'proxy_pass http://unix:/run/agentwall/ledger.sock:').")]
pub struct LedgerServeArgs {
    /// Where to listen: an address and port, or unix:/PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8736")]
    pub listen: Listen,
    /// Listen on an address that others reach, without TLS
    #[arg(long)]
    pub plain: bool,
    /// Open this field of the entry, or all below it, for example action/resource or files/0; may be given several times
    #[arg(long, value_name = "FIELD")]
    pub open: Vec<String>,
    /// Open all of the entry's text
    #[arg(long)]
    pub open_all: bool,
    /// The log's folder [default: this user's log]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// `agentwall ledger witness`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  agentwall ledger witness set witnesses.policy\n  \
    agentwall ledger witness push\n  \
    agentwall ledger witness\n\n\
    The policy names the witnesses, where they are, and how many are enough (c2sp.org/tlog-policy):\n\n  \
    witness home agentwall.local/witness-…+1a2b3c4d+… http://127.0.0.1:8735\n  \
    witness office witness.example/w1+5e6f7a8b+… https://witness.example/\n  \
    group enough any home office\n  \
    quorum enough\n\n\
    The newest checkpoint is brought to them every minute while a session or the daemon runs, and at the end; \
    'push' does it now. Nothing waits for a witness that is away.\n\n\
    Exit status: 0 done, 1 failed, not enough witnesses, or a witness has seen another log, 2 wrong usage."
)]
pub struct LedgerWitnessArgs {
    /// What to do [default: status]
    #[command(subcommand)]
    pub command: Option<LedgerWitnessCommand>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall ledger witness …`.
#[derive(Debug, Clone, Subcommand)]
pub enum LedgerWitnessCommand {
    /// Take this file as the policy of the log's witnesses
    Set {
        /// A trust policy (c2sp.org/tlog-policy) with URLs
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Bring the newest checkpoint to the witnesses now
    Push {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell how much is witnessed, and ask every witness what it has seen
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring the log to nobody any more; what is cosigned stays
    Remove,
}

/// `agentwall witness …`.
#[derive(Debug, Clone, Subcommand)]
#[command(
    after_help = "Examples:\n  agentwall witness key --dir /var/lib/witness\n  \
    agentwall witness serve --dir /var/lib/witness --log 'agentwall.local/…+1a2b3c4d+…'\n  \
    agentwall witness status --dir /var/lib/witness\n\n\
    A witness cosigns the checkpoints of logs that it knows, each only if it continues the last one. It is worth \
    what its distance from the log is worth: another user, better another host, best another person."
)]
pub enum WitnessCommand {
    /// Cosign checkpoints that are sent over HTTP (c2sp.org/tlog-witness)
    Serve(WitnessServeArgs),
    /// Print the witness's public key (a C2SP vkey, type 4); made on first use
    Key(WitnessKeyArgs),
    /// Tell what was cosigned, and which logs have shown another history
    Status(WitnessStatusArgs),
}

/// `agentwall witness serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    agentwall witness serve --dir /var/lib/witness --log log.vkey --listen unix:/run/witness.sock\n\n\
    Plain HTTP: for witnesses that others reach, put a server with TLS in front (for example caddy with \
    'reverse_proxy unix//run/witness.sock', or nginx with 'proxy_pass http://unix:/run/witness.sock:'). Nobody \
    has to log in: what a known log has not signed is refused. The process may be ended at any time; what was \
    answered was on the disk before.")]
pub struct WitnessServeArgs {
    /// The witness's folder: its key and what it has cosigned
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Where to listen: an address and port, or unix:/PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8735")]
    pub listen: Listen,
    /// The public key of a log to cosign, as text or in a file
    #[arg(long = "log", value_name = "VKEY|FILE", required = true, value_hint = ValueHint::FilePath)]
    pub logs: Vec<OsString>,
    /// Listen on an address that others reach, without TLS
    #[arg(long)]
    pub plain: bool,
}

/// `agentwall witness key`.
#[derive(Debug, Clone, Args)]
pub struct WitnessKeyArgs {
    /// The witness's folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// The name of a new key, a URL without its scheme [default: agentwall.local/witness-RANDOM]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// `agentwall witness status`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 all is well, 1 a log has shown another history, or the state cannot be used."
)]
pub struct WitnessStatusArgs {
    /// The witness's folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
