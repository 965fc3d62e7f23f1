//! The command line of `agentwall policy`: one struct for each of its commands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// `agentwall policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Load policy files and tell everything that is wrong with them
    Check(FilesArgs),
    /// Run the tests that rules carry
    Test(FilesArgs),
    /// Tell what happens to an action, and which rules said so
    Explain(ExplainArgs),
    /// Print the JSON Schema of policy files, for editors
    Schema,
    /// List the starter policies
    Templates,
    /// Decide actions that another program writes, one JSON object a line
    Decide(DecideArgs),
    /// Tell where each rule is enforced on this host, and whether exactly
    Enforcement(EnforcementArgs),
    /// Propose the least rules that explain what was observed
    Recommend(RecommendArgs),
}

/// `agentwall policy check`, `agentwall policy test`.
#[derive(Debug, Clone, Args)]
pub struct FilesArgs {
    /// Policy files; each is checked by itself
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy explain`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall policy explain file.write ~/.bashrc\n  \
    agentwall policy explain net.connect tcp://example.com:443\n  \
    agentwall policy explain file.read /etc/hosts --all --enforcement\n  \
    agentwall policy explain process.exec /usr/bin/git --args '[\"git\",\"push\"]'"
)]
pub struct ExplainArgs {
    /// The policy [default: what 'agentwall run' would use here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// The action, for example file.read
    pub action: String,
    /// The object: a path, tcp://host:port, dns:name, unix:/path
    pub resource: String,
    /// Who acts
    #[arg(long, value_name = "SUBJECT", default_value = "agent:agent")]
    pub subject: String,
    /// The arguments, as a JSON list or object
    #[arg(long, value_name = "JSON")]
    pub args: Option<String>,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Show the rules for other actions, subjects and objects, too, and where they do not fit
    #[arg(long)]
    pub all: bool,
    /// Tell where the rules are enforced on this host, and whether exactly; with --all every rule
    #[arg(long)]
    pub enforcement: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy enforcement`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall policy enforcement\n  \
    agentwall policy enforcement --policy strict.yaml --json\n\n\
    Exit status: 1 if a rule is enforced more weakly than the policy's 'require' says, if 'run' would \
    refuse the policy, or if this host cannot be probed.")]
pub struct EnforcementArgs {
    /// The policy [default: what 'agentwall run' would use here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// The name of the run, which rules about subjects see
    #[arg(long, value_name = "NAME", default_value = "agent")]
    pub name: String,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy decide`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Reads one action a line on standard input, writes one decision a line on standard \
    output and flushes it, so that another program can keep it running and ask. A line is a JSON \
    object: action and resource, and where known subject, args, labels, session, auth, risk, time. An \
    answer has line, effect, rule, reason, policy, and where there are any hint, monitors, errors. A \
    line that cannot be read is answered with line and error instead, and the exit status is then 1: \
    take it for a refusal.\n\nExamples:\n  \
    echo '{\"action\":\"file.read\",\"resource\":\"/etc/passwd\"}' | agentwall policy decide\n  \
    agentwall policy decide --policy tools.yaml < calls.jsonl | jq -c '[.line, .effect, .rule]'"
)]
pub struct DecideArgs {
    /// The policy [default: what 'agentwall run' would use here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
}

/// `agentwall policy recommend`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall run --learn -- make test      record what a task does, twice or more\n  \
    agentwall policy recommend              the rules that the policy in force lacks\n  \
    agentwall policy recommend --whole --session k3f9 --session m4g2 > learned.yaml\n\n\
    Nothing is taken over: the output is a policy file with evidence as comments, to be reviewed and \
    appended. Nothing is learned from what was refused, asked about or approved, nor from a session in \
    which a question was rejected or a secret was tried. A pattern with a wildcard needs evidence from \
    several sessions; one session yields only the very objects it used."
)]
pub struct RecommendArgs {
    /// Sessions: id, prefix or name; may be repeated [default: those of the workspace]
    #[arg(long, value_name = "SESSION")]
    pub session: Vec<String>,
    /// The log's folder [default: this user's log]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub ledger: Option<PathBuf>,
    /// The policy in force [default: what 'agentwall run' would use here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "whole")]
    pub policy: Option<PathBuf>,
    /// Propose a whole policy, as if none were in force
    #[arg(long)]
    pub whole: bool,
    /// Different sessions that a pattern with a wildcard needs
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_sessions: usize,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
