//! The command line: every command, option and example. Help, shell completions and the man page
//! all come from here.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use agentwall_engine::Scope;
use clap::{
    Args, Parser, Subcommand, ValueHint,
    builder::{PossibleValue, PossibleValuesParser},
};

pub mod agents;
pub mod daemon;
pub mod gateway;
pub mod intent;
pub mod layers;
pub mod ledger;
pub mod policy;
pub mod portable;
pub mod review;
pub mod serve;
pub mod witness;

use agents::AgentsArgs;
use daemon::DaemonCommand;
use gateway::{GatewayCommand, IdentityCommand, McpArgs, ProtectArgs};
use intent::{ActArgs, HookCommand};
use layers::{CheckpointArgs, GcArgs, RollbackArgs};
use ledger::{FilterArgs, TimelineArgs};
use policy::PolicyCommand;
use portable::{ExportArgs, ImportArgs};
use review::ReviewArgs;
use serve::ServeArgs;
use witness::{LedgerServeArgs, LedgerWitnessArgs, ProveArgs, WitnessCommand};

const EXIT_CODES: &str = "\
Exit status:
  run, claude, codex   the agent's own status; 128+N when signal N ended it;
                       125 the wall itself failed (nothing was run unprotected),
                       126 the command cannot be started, 127 it was not found
  other commands       0 done, 1 failed or a defect was found, 2 wrong usage,
                       3 conflicts: some changes could not be committed";

/// An agent firewall: runs an AI agent under a policy, on a copy, with a ledger.
#[derive(Debug, Parser)]
#[command(
    name = "agentwall",
    version,
    about = "An agent firewall: runs an AI agent under a policy, on a copy, with a ledger",
    long_about = "AgentWall runs a program, usually an AI coding agent, behind a wall. A policy decides \
                  every file, command and connection before it happens. Writes to the workspace land on a \
                  copy that you review and commit or discard. Questions that the policy asks reach you in \
                  another terminal, and a signed ledger proves what was decided.",
    after_help = "Examples:\n  agentwall claude                 Claude Code under its starter policy\n  \
                  agentwall run -- make test       any command under your policy\n  \
                  agentwall diff --patch           what the last session changed here\n  \
                  agentwall commit                 carry it to the originals",
    after_long_help = concat_exit(),
    max_term_width = 100,
    infer_subcommands = false
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command behind the wall
    Run(RunArgs),
    /// Run Claude Code behind the wall, under its own policy
    Claude(WordArgs),
    /// Run Codex behind the wall, under its own policy
    Codex(WordArgs),
    /// Write a starter policy
    Init(InitArgs),
    /// List the agents that run on this host, and which policy governs each
    Agents(AgentsArgs),
    /// List sessions
    Sessions(SessionsArgs),
    /// Show what a session changed
    Diff(DiffArgs),
    /// Review a session's changes on the whole screen: by file and by hunk
    Review(ReviewArgs),
    /// Carry a session's changes to the originals
    Commit(CommitArgs),
    /// Drop a session's changes
    Discard(DiscardArgs),
    /// Take back a session's last commit
    Undo(UndoArgs),
    /// Keep what a session's layers are now, to go back there
    Checkpoint(CheckpointArgs),
    /// Put a session's layers back to a checkpoint
    Rollback(RollbackArgs),
    /// Remove what nothing needs any more
    Gc(GcArgs),
    /// Write a session's changes to a file that another machine can import
    Export(ExportArgs),
    /// Make a session of such a file, and tell where the originals here differ
    Import(ImportArgs),
    /// Show the questions that wait for an answer
    Pending(PendingArgs),
    /// Approve an action that waits
    Approve(ApproveArgs),
    /// Reject an action that waits
    Reject(RejectArgs),
    /// Show and verify the ledger
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Cosign the checkpoints of other hosts' ledgers
    #[command(subcommand)]
    Witness(WitnessCommand),
    /// Check, test and explain policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say what a command is for, then run it (inside a session)
    Act(ActArgs),
    /// Seal what an agent is about to do, told by its hooks
    #[command(subcommand)]
    Hook(HookCommand),
    /// Tell why an action was refused (works inside the wall, too)
    Why(WhyArgs),
    /// Stand in front of an API: every call of an agent is decided, charged and recorded
    Protect(ProtectArgs),
    /// Stand between a client and a server of the Model Context Protocol that is a program
    Mcp(McpArgs),
    /// Serve the console: what waits for a person, as a web page with passkeys and over REST
    Serve(ServeArgs),
    /// List and end the agents of gateways
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Keys and tokens of this host's agents, for gateways
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Guard any process of the host, in the kernel
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Tell what this host offers and what to do about what it lacks
    Doctor(DoctorArgs),
    /// Try the wall: what must fail inside has to fail
    Selftest(SelftestArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
    /// Print the manual, or write its pages to a folder
    Man(ManArgs),
}

/// `agentwall run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall run -- make test\n  \
    agentwall run --policy strict.yaml --keep -- npm install\n  \
    agentwall run --name builder --ask-timeout 10m -- ./agent.sh\n  \
    agentwall run --on k3f9 -- make test       go on in an ended session\n  \
    agentwall run --from k3f9 -- ./other.sh    begin with a copy of its layers\n  \
    agentwall run --ephemeral -- npm test      nothing stays but the ledger\n\n\
    Without --policy the policy is ~/.config/agentwall/policy.yaml, else the newest one that \
    'agentwall init' wrote there; the workspace's agentwall.yaml and /etc/agentwall/policy.yaml, \
    where they exist, tighten it.\n\n\
    Exit status: the command's own; 128+N when signal N ended it; 125 the wall itself failed, \
    126 the command cannot be started, 127 it was not found.")]
pub struct RunArgs {
    /// Use exactly this policy file or signed bundle
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Trust this key, too, to sign a bundle: as text, or a file with keys
    #[arg(long, value_name = "KEY|FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<OsString>,
    /// The folder the agent works in [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// The agent's name, the subject agent:NAME of rules [default: the command's name]
    #[arg(long, value_name = "NAME", value_parser = crate::session::agent_name)]
    pub name: Option<String>,
    /// Where it begins.
    #[command(flatten)]
    pub beginning: layers::Beginning,
    /// What becomes of the changes.
    #[command(flatten)]
    pub ending: Ending,
    /// How long a question waits before it is denied, for example 90, 90s, 10m
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = duration)]
    pub ask_timeout: Duration,
    /// Record every distinct action that goes ahead, for 'agentwall policy recommend' (slower)
    #[arg(long)]
    pub learn: bool,
    /// Expect the agent to tell its intents: what it does without one is a finding from the start
    #[arg(long)]
    pub intents: bool,
    /// The command and its arguments
    // Without hyphens: a mistyped option must not become the command.
    #[arg(required = true, trailing_var_arg = true,
          value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
    /// The user policy of a one-word form; layers still tighten it.
    #[arg(skip)]
    pub user_policy: Option<PathBuf>,
}

/// What becomes of a session's changes when it ends.
#[derive(Debug, Clone, Copy, Default, Args)]
#[group(id = "ending", multiple = false)]
pub struct Ending {
    /// Ask at the end what becomes of the changes (the default on a terminal)
    #[arg(long)]
    pub review: bool,
    /// Commit at the end what the policy lets pass
    #[arg(long)]
    pub commit: bool,
    /// Keep the changes for a later commit (the default without a terminal)
    #[arg(long)]
    pub keep: bool,
    /// Drop the changes at the end
    #[arg(long)]
    pub discard: bool,
}

/// `agentwall claude`, `agentwall codex`.
#[derive(Debug, Clone, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Example:\n  agentwall claude -p 'fix the tests'\n\n\
    On first use the starter policy is written to ~/.config/agentwall; edit it there. All arguments \
    go to the agent. For the wall's own options use \
    'agentwall run --policy ~/.config/agentwall/claude-code.yaml -- claude'."
)]
pub struct WordArgs {
    /// Arguments of the agent
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    pub args: Vec<OsString>,
}

/// An agent that has a word of its own: `agentwall claude`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// Claude Code
    ClaudeCode,
    /// Codex
    Codex,
}

impl Agent {
    /// The template's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Agent::ClaudeCode => "claude-code",
            Agent::Codex => "codex",
        }
    }
}

/// The names of the starter policies, each with what it is for.
fn template_name() -> PossibleValuesParser {
    let values = agentwall_policy::templates().iter();
    PossibleValuesParser::new(values.map(|t| PossibleValue::new(t.name).help(t.about())))
}

/// `agentwall init`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall init\n  agentwall init --agent codex --stdout | less\n  \
    agentwall init --agent mcp-github --dir policies\n\n\
    'agentwall policy templates' lists the starter policies with a line about each."
)]
pub struct InitArgs {
    /// The agent or server [default: the agent found on this host]
    #[arg(long, value_name = "NAME", value_parser = template_name())]
    pub agent: Option<String>,
    /// Overwrite a policy that exists
    #[arg(long)]
    pub force: bool,
    /// Print the policy, write nothing
    #[arg(long, conflicts_with_all = ["force", "dir"])]
    pub stdout: bool,
    /// Write it to this folder [default: ~/.config/agentwall]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// `agentwall sessions`.
#[derive(Debug, Clone, Args)]
pub struct SessionsArgs {
    /// All sessions [default: those of this workspace, or all when it has none]
    #[arg(long)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which session and which paths.
#[derive(Debug, Clone, Default, Args)]
pub struct Selection {
    /// Session: id, unique prefix or name [default: the newest of this workspace]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Only these files and folders (after --)
    #[arg(last = true, value_name = "PATHS", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
}

/// `agentwall diff`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall diff\n  agentwall diff --patch -- src\n  \
    agentwall diff k3f9 --patch | git apply --check"
)]
pub struct DiffArgs {
    /// Which session and which paths.
    #[command(flatten)]
    pub selection: Selection,
    /// Line counts per file (the default)
    #[arg(long)]
    pub stat: bool,
    /// The changes as a patch that 'git apply' takes
    #[arg(long, short = 'p')]
    pub patch: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall commit`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall commit\n  agentwall commit k3f9 -- src/lib.rs\n  \
    agentwall commit --digest \"$(agentwall diff --json | jq -r .digest)\"\n  \
    agentwall commit --merge\n\n\
    The policy decides every change (action file.commit): allow commits it, deny never does, ask \
    holds it until you name it itself after -- or give --held; the name of a folder only narrows \
    the commit. A file that changed underneath since the \
    session began is a conflict: nothing is overwritten, nothing is lost, the exit status is 3."
)]
pub struct CommitArgs {
    /// Which session and which paths.
    #[command(flatten)]
    pub selection: Selection,
    /// Also what the policy asks about
    #[arg(long)]
    pub held: bool,
    /// No folder of the original was moved since the session began (see a conflict that says so)
    #[arg(long)]
    pub trust_directories: bool,
    /// Only if the changes still have this digest, which 'agentwall diff' with the same paths shows
    #[arg(long, value_name = "HEX", value_parser = review::digest)]
    pub digest: Option<String>,
    /// Merge text files that both sides changed, where what they were is known; with =markers also
    /// where they overlap
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true,
          default_missing_value = "clean")]
    pub merge: Option<review::Merge>,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Show what would be committed, change nothing
    #[arg(long)]
    pub stat: bool,
    /// Show it as a patch, change nothing
    #[arg(long, short = 'p')]
    pub patch: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall discard`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall discard\n  agentwall discard k3f9 -y -- target")]
pub struct DiscardArgs {
    /// Which session and which paths.
    #[command(flatten)]
    pub selection: Selection,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Show what would be dropped, change nothing
    #[arg(long)]
    pub stat: bool,
    /// Show it as a patch, change nothing
    #[arg(long, short = 'p')]
    pub patch: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall undo`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall undo --dry-run\n  agentwall undo\n  \
    agentwall undo k3f9 --partial --json | jq -r '.changes[] | select(.status != \"undone\").path'\n  \
    agentwall undo k3f9 --forget\n\n\
    Puts the originals back that the session's last commit replaced or deleted, takes away what it \
    added, and restores what it changed of modes, owners, attributes and times. The changes are in \
    the session again afterwards: 'agentwall diff' shows them, 'agentwall commit' carries them over \
    once more.\n\n\
    Each object is compared with what the commit left there before anything is touched. What changed \
    since then is a conflict and stays; nothing is undone then, unless --partial is given. Originals \
    are kept until the session's next commit, for 7 days, and up to 1 GiB per folder.\n\n\
    Exit status: 0 undone; 1 a conflict, or nothing to undo; 2 wrong usage."
)]
pub struct UndoArgs {
    /// Session: id, unique prefix or name [default: the newest of this workspace]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Undo what did not change since, leave the rest
    #[arg(long)]
    pub partial: bool,
    /// Show what would be undone, change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Give up the originals that are kept: the commit can then not be undone
    #[arg(long, conflicts_with_all = ["partial", "dry_run"])]
    pub forget: bool,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall pending`.
#[derive(Debug, Clone, Args)]
pub struct PendingArgs {
    /// Print JSON; with --watch one object a line
    #[arg(long)]
    pub json: bool,
    /// Stay and show new questions as they come
    #[arg(long, short = 'w')]
    pub watch: bool,
}

/// `agentwall approve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall approve k3f9-1\n  agentwall approve k3f9-1 --for session\n  \
    agentwall approve k3f9-2 --for 'tcp://*.crates.io:443'"
)]
pub struct ApproveArgs {
    /// The question, from 'agentwall pending'
    pub id: String,
    /// How far it reaches: once, session (this action on this object), or a resource pattern
    #[arg(long = "for", value_name = "SCOPE", default_value = "once", value_parser = scope)]
    pub scope: Scope,
}

/// `agentwall reject`.
#[derive(Debug, Clone, Args)]
pub struct RejectArgs {
    /// The question, from 'agentwall pending'
    pub id: String,
    /// Why, for the agent to read
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `agentwall ledger …`.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Show entries
    Show(LedgerShowArgs),
    /// Show the last ten entries, or as many as --last says; -f stays for more
    Tail(LedgerShowArgs),
    /// Tell what happened in a session, as a story or a picture
    Timeline(TimelineArgs),
    /// Write entries in a form that other systems collect
    Export(ledger::ExportArgs),
    /// Destroy the text of entries for good; what the log signs stays
    Erase(ledger::EraseArgs),
    /// Check every byte of a log against its signed checkpoint, or the proof of one entry
    Verify(LedgerVerifyArgs),
    /// Write the offline proof of one entry
    Prove(ProveArgs),
    /// Bring the log to witnesses, and tell how much they vouch for
    Witness(LedgerWitnessArgs),
    /// Serve the log to monitors, read-only
    Serve(LedgerServeArgs),
    /// Remove old entries as a written policy says; the rest is proved as before
    Prune(ledger::PruneArgs),
    /// Print the log's public key (a C2SP vkey)
    Key,
    /// Let an authority say that the log was there now (RFC 3161)
    Timestamp(ledger::TimestampArgs),
    /// Replace the log's key; whoever knows the old one can go on
    RotateKey(ledger::RotateKeyArgs),
}

/// `agentwall ledger show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall ledger show --last 20\n  \
    agentwall ledger show --session k3f9 --effect deny\n  \
    agentwall ledger show --agent claude --path /etc --since 2h")]
pub struct LedgerShowArgs {
    /// Print JSON, one entry a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only the last N that match
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Stay and show new entries as they come
    #[arg(long, short = 'f')]
    pub follow: bool,
}

/// `agentwall ledger verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall ledger verify\n  \
    agentwall ledger verify /backup/ledger --key 'agentwall.local/…+1a2b3c4d+…'\n  \
    agentwall ledger verify 41.tlog-proof --key log.vkey --policy auditor.policy\n  \
    agentwall ledger verify https://log.example/ --key log.vkey\n\n\
    A file is a proof that 'ledger prove' has written, or an archive of 'ledger export --bundle', checked without a network. A URL is a log as 'ledger \
    serve' or any C2SP log serves it, read whole. With --policy, enough witnesses must have cosigned.")]
pub struct LedgerVerifyArgs {
    /// The log's folder or URL, an export of it, or the proof of an entry [default: this user's log]
    #[arg(value_name = "DIR|FILE|URL", value_hint = ValueHint::AnyPath)]
    pub what: Option<OsString>,
    /// The public key, as text or in a file [default: the policy's, else this user's own]
    #[arg(long, value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<OsString>,
    /// Which witnesses must have cosigned (c2sp.org/tlog-policy)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// The entry that a proof is about [default: the one in the proof]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub entry: Option<PathBuf>,
    /// For a proof: that the log's key was replaced since --key, or before it; several in their order
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub rotation: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall why`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall why --last\n  agentwall why file.read ~/.ssh/id_ed25519"
)]
pub struct WhyArgs {
    /// The newest refusal (the default without ACTION)
    #[arg(long, conflicts_with = "action")]
    pub last: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The newest refusal of this action
    #[arg(requires = "resource")]
    pub action: Option<String>,
    /// on this object
    pub resource: Option<String>,
}

/// `agentwall doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall selftest`.
#[derive(Debug, Clone, Args)]
pub struct SelftestArgs {
    /// Under this policy [default: the strictest that a program can start under]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Trust this key, too, to sign a bundle: as text, or a file with keys
    #[arg(long, value_name = "KEY|FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<OsString>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall completions`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  agentwall completions bash > ~/.local/share/bash-completion/completions/agentwall"
)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `agentwall man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Write one page per command to this folder [default: print the main page]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

fn concat_exit() -> &'static str {
    EXIT_CODES
}

/// `once`, `session`, or else a pattern.
fn scope(text: &str) -> Result<Scope, String> {
    match text {
        "" => Err("expected once, session or a resource pattern".into()),
        "once" => Ok(Scope::Once),
        "session" => Ok(Scope::Session),
        pattern => Ok(Scope::Pattern(pattern.to_owned())),
    }
}

/// Seconds, or a number with `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1000,
        "ms" => 1,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a time such as 90, 90s, 10m or 1h".into()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a time such as 90, 90s, 10m or 1h")?;
    match number.checked_mul(unit) {
        Some(ms) if ms <= 7 * 24 * 3_600_000 => Ok(Duration::from_millis(ms)),
        _ => Err("the longest time is 168h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_is_taken_with_and_without_dashes() {
        for line in [
            vec!["agentwall", "run", "--keep", "--", "ls", "--color", "-x"],
            vec!["agentwall", "run", "--keep", "ls", "--color", "-x"],
        ] {
            let Command::Run(run) = Cli::parse_from(line).command else {
                panic!()
            };
            assert_eq!(run.command, ["ls", "--color", "-x"]);
            assert!(run.ending.keep && run.ask_timeout == Duration::from_secs(300));
        }
        let Command::Claude(word) =
            Cli::parse_from(["agentwall", "claude", "-p", "x", "--help"]).command
        else {
            panic!()
        };
        assert_eq!(word.args, ["-p", "x", "--help"]);
        assert!(
            Cli::try_parse_from(["agentwall", "run", "--keep", "--commit", "--", "ls"]).is_err()
        );
        assert!(Cli::try_parse_from(["agentwall", "run"]).is_err());
        // A mistyped option is not a command.
        let wrong = Cli::try_parse_from(["agentwall", "run", "--polcy", "p", "--", "ls"]);
        let wrong = wrong.unwrap_err().to_string();
        assert!(
            wrong.contains("--polcy") && wrong.contains("'--policy'"),
            "{wrong}"
        );
        let Command::Run(run) =
            Cli::parse_from(["agentwall", "run", "--", "-x", "--keep", "--", "y"]).command
        else {
            panic!()
        };
        assert_eq!(run.command, ["-x", "--keep", "--", "y"]);
        let Command::Run(run) =
            Cli::parse_from(["agentwall", "run", "ls", "--keep", "--", "y"]).command
        else {
            panic!()
        };
        assert_eq!(run.command, ["ls", "--keep", "--", "y"]);
    }

    #[test]
    fn times_and_names() {
        for (text, ms) in [("4", 4000), ("4s", 4000), ("250ms", 250), ("10m", 600_000)] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms));
        }
        for text in ["", "s", "-1", "1d", "999999999999999h", "1.5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        use crate::session::agent_name;
        assert!(agent_name("a\nb").is_err() && agent_name("").is_err());
        assert!(agent_name("claude-code").is_ok());
    }
}
