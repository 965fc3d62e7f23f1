//! The command line of `agentwall policy`: one struct for each of its commands.

use std::{ffi::OsString, path::PathBuf};

use agentwall_action::Effect;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde::Serialize;

/// `agentwall policy …`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Load policy files and tell everything that is wrong or probably wrong with them
    Check(CheckArgs),
    /// Run the tests that rules carry, and tables of cases; tell which rules they cover
    Test(TestArgs),
    /// Tell what happens to an action, and which rules said so
    Explain(ExplainArgs),
    /// Print the JSON Schema of policy files, for editors
    Schema(SchemaArgs),
    /// List the starter policies
    Templates(TemplatesArgs),
    /// Decide actions that another program writes, one JSON object a line
    Decide(DecideArgs),
    /// Tell where each rule is enforced on this host, and whether exactly
    Enforcement(EnforcementArgs),
    /// Propose the least rules that explain what was observed
    Recommend(RecommendArgs),
    /// Tell which recorded decisions would be others under a new policy
    Replay(ReplayArgs),
    /// Sign, verify and look into policy bundles
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Prove which rules never match, never decide, change nothing or conflict
    Analyse(AnalyseArgs),
    /// Prove whether one policy is stricter or looser than another, with examples
    Diff(PolicyDiffArgs),
    /// Find an action that the policy lets through, or prove that there is none
    Can(CanArgs),
    /// Lay policy files and tables out in the one way, keeping comments and meaning
    Fmt(FmtArgs),
    /// Put another policy in force in a running session
    Apply(ApplyArgs),
}

/// Which files, and how they are read.
#[derive(Debug, Clone, Args)]
pub struct FilesArgs {
    /// Policy files; each is taken by itself
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall policy check agentwall.yaml\n  \
    agentwall policy check --deny-warnings --json policies/*.yaml\n\n\
    A file that is a list is checked as a table of test cases. Errors keep a policy from loading; \
    warnings are about what is legal and probably not meant.\n\n\
    Exit status: 0 no errors, 1 errors (or warnings with --deny-warnings), 2 wrong usage.")]
pub struct CheckArgs {
    /// The files.
    #[command(flatten)]
    pub files: FilesArgs,
    /// Warnings count as errors
    #[arg(long)]
    pub deny_warnings: bool,
}

/// `agentwall policy test`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall policy test agentwall.yaml\n  \
    agentwall policy test --table cases.yaml --coverage agentwall.yaml\n  \
    agentwall policy test --min-coverage 100 --json policies/*.yaml\n\n\
    A table is a YAML list of cases: { action, resource, expect } and, if they matter, subject, args, \
    address, facts, rule, note. NAME.tests.yaml beside NAME.yaml is taken by itself. A rule is covered \
    when a test shows it giving the answer of the whole policy.\n\n\
    Exit status: 0 all passed, 1 a test failed or the coverage is below N, 2 wrong usage.")]
pub struct TestArgs {
    /// The files.
    #[command(flatten)]
    pub files: FilesArgs,
    /// A table of cases for every policy named [default: NAME.tests.yaml beside NAME.yaml]
    #[arg(long = "table", value_name = "TABLE", value_hint = ValueHint::FilePath)]
    pub tables: Vec<PathBuf>,
    /// Show how the tests reach every rule [default: only the rules they do not reach]
    #[arg(long)]
    pub coverage: bool,
    /// Fail when fewer than N percent of the rules are covered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub min_coverage: Option<u8>,
}

/// `agentwall policy schema`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall policy schema > agentwall.schema.json\n  \
    agentwall policy schema --table > agentwall-tests.schema.json\n\n\
    An editor with a YAML language server takes it from a first line of the file:\n  \
    # yaml-language-server: $schema=agentwall.schema.json"
)]
pub struct SchemaArgs {
    /// The schema of tables of test cases instead
    #[arg(long)]
    pub table: bool,
}

/// `agentwall policy templates`.
#[derive(Debug, Clone, Args)]
pub struct TemplatesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy fmt`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall policy fmt agentwall.yaml\n  \
    agentwall policy fmt --check policies/*.yaml\n  \
    agentwall policy fmt - < draft.yaml\n\n\
    Every comment is kept, and the digest is the same before and after; a file that this cannot be \
    shown of is left as it is. A file with errors is not touched.\n\n\
    Exit status: 0 done, 1 a file was not laid out (or, with --check, is to be), 2 wrong usage.")]
pub struct FmtArgs {
    /// Policy files and tables; - reads standard input and writes standard output
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Write nothing; name the files whose layout is another
    #[arg(long)]
    pub check: bool,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
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
    /// With --enforcement: by which wall
    #[arg(long, value_enum, default_value_t, requires = "enforcement")]
    pub backend: Backend,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which wall enforces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The rootless one, around what 'agentwall run' starts
    #[default]
    Run,
    /// The one in the kernel, of 'agentwall daemon'; for root
    Kernel,
}

/// `agentwall policy enforcement`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall policy enforcement\n  \
    agentwall policy enforcement --policy strict.yaml --json\n  \
    sudo agentwall policy enforcement --backend kernel --policy /etc/agentwall/policy.yaml\n\n\
    Exit status: 1 if a rule is enforced more weakly than the policy's 'require' says, if the wall would \
    refuse the policy, or if this host cannot be probed.")]
pub struct EnforcementArgs {
    /// The policy [default: what 'agentwall run' would use here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// The name of the run, which rules about subjects see
    #[arg(long, value_name = "NAME", default_value = "agent")]
    pub name: String,
    /// By which wall
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
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
    /// The log's public key, as text or in a file [default: this user's own key]
    #[arg(long, value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<OsString>,
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

/// `agentwall policy replay`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall policy replay --policy stricter.yaml\n  \
    agentwall policy replay --policy new.yaml --session k3f9 --each\n  \
    agentwall policy replay --policy new.yaml --ledger /backup/ledger --key '…+1a2b3c4d+…' --json\n\n\
    Every recorded decision is made again under the new policy, with the facts and the variables of its \
    session; nothing is run and nothing is guessed. What was asked counts as asked, whatever a person \
    answered. The ledger is verified first.\n\n\
    Exit status: 0 nothing flips, 1 something flips or the ledger does not verify, 2 wrong usage."
)]
pub struct ReplayArgs {
    /// The new policy: a file or a signed bundle
    #[arg(long, required = true, value_name = "NEW", value_hint = ValueHint::FilePath)]
    pub policy: PathBuf,
    /// Trust this key, too, to sign a bundle: as text, or a file with keys
    #[arg(long, value_name = "KEY|FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<OsString>,
    /// The log's folder [default: this user's log]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub ledger: Option<PathBuf>,
    /// The log's public key, as text or in a file [default: this user's own key]
    #[arg(long, value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<OsString>,
    /// Only decisions of these sessions (id, prefix, end of the id, or name)
    #[arg(long, value_name = "SESSION", num_args = 1..)]
    pub session: Vec<String>,
    /// Print every flip and every decision that cannot be replayed, before the summary
    #[arg(long)]
    pub each: bool,
    /// Print JSON; with --each one object a line, the summary last
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy bundle …`.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Make a signing key; print its public half
    Keygen(KeygenArgs),
    /// Put policy files into a bundle and sign it
    Sign(SignArgs),
    /// Check that a bundle is signed by a trusted key and not older than what was used here
    Verify(BundleVerifyArgs),
    /// Show what is in a bundle, whoever signed it
    Inspect(InspectArgs),
}

/// `agentwall policy bundle keygen`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  agentwall policy bundle keygen team.key --name example.com/policy \
    >> ~/.config/agentwall/trusted-keys"
)]
pub struct KeygenArgs {
    /// The private key's file; one that exists is never overwritten
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The key's name, without spaces and '+'; a domain of yours keeps it apart from others
    #[arg(long, value_name = "NAME")]
    pub name: String,
}

/// `agentwall policy bundle sign`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall policy bundle sign --key team.key --counter 7 --out team.bundle team.yaml\n  \
    agentwall policy bundle sign --key team.key --name web --counter 8 --out web.bundle \
    organisation=org.yaml user=web.yaml\n  \
    agentwall policy bundle sign --kind agents --key team.key --counter 3 --out agents.bundle agents.yaml"
)]
pub struct SignArgs {
    /// What is signed
    #[arg(long, value_enum, default_value_t = BundleKind::Policy)]
    pub kind: BundleKind,
    /// The private key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: PathBuf,
    /// Which of the key's policies it is; counters are compared under one key and name
    #[arg(long, value_name = "NAME", default_value = "")]
    pub name: String,
    /// The version: higher than that of the bundle before
    #[arg(long, value_name = "N")]
    pub counter: u64,
    /// The time of issue in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    pub issued: Option<u64>,
    /// Where to write it [default: standard output]; replaces an older bundle only
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Policy files, each with its layer: organisation, user (the default) or repository; files of
    /// signatures have none
    #[arg(required = true, value_name = "[LAYER=]FILE", value_hint = ValueHint::FilePath)]
    pub sources: Vec<OsString>,
}

/// What a bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BundleKind {
    /// Policy files
    Policy,
    /// Signatures of agents, for 'agentwall agents update'
    Agents,
}

impl From<BundleKind> for agentwall_bundle::Kind {
    fn from(kind: BundleKind) -> Self {
        match kind {
            BundleKind::Policy => agentwall_bundle::Kind::Policy,
            BundleKind::Agents => agentwall_bundle::Kind::Agents,
        }
    }
}

/// `agentwall policy bundle verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  agentwall policy bundle verify team.bundle --trust team.pub")]
pub struct BundleVerifyArgs {
    /// The bundle
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Trust this key, too: as text, or a file with keys
    #[arg(long, value_name = "KEY|FILE", value_hint = ValueHint::FilePath)]
    pub trust: Vec<OsString>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy bundle inspect`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall policy bundle inspect team.bundle\n  \
    agentwall policy bundle inspect team.bundle --source team.yaml\n  \
    agentwall policy bundle inspect team.bundle --json | jq -r '.sources[0].text'"
)]
pub struct InspectArgs {
    /// The bundle
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Print this source, control characters escaped
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    pub source: Option<String>,
    /// Print JSON, the sources' texts with it
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy analyse`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 nothing but notes, 1 a warning, 2 wrong usage.\n\nExamples:\n  \
    agentwall policy analyse policy.yaml\n  \
    agentwall policy analyse --json policy.yaml"
)]
pub struct AnalyseArgs {
    /// The policy [default: what 'agentwall run' would use here]
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Leave notes out
    #[arg(long)]
    pub warnings: bool,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy diff`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 they decide and mark every action alike, 1 they do not, 2 wrong usage.\n\n\
    Examples:\n  \
    agentwall policy diff old.yaml new.yaml\n  \
    agentwall policy diff --fail-on looser old.yaml new.yaml    fails only if something is let through more easily"
)]
pub struct PolicyDiffArgs {
    /// The policy as it was
    #[arg(value_name = "A", value_hint = ValueHint::FilePath)]
    pub before: PathBuf,
    /// The policy as it would be
    #[arg(value_name = "B", value_hint = ValueHint::FilePath)]
    pub after: PathBuf,
    /// Which differences make the exit status 1; what is not decided always does
    #[arg(long, value_name = "WHICH", default_value = "any")]
    pub fail_on: FailOn,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which differences of two policies count as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FailOn {
    /// Any difference of effects or marks
    Any,
    /// The second policy is looser for some action
    Looser,
    /// The second policy is stricter for some action
    Stricter,
}

/// `agentwall policy can`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 there is none (proved), 1 there is one or it is not decided, 2 wrong usage.\n\n\
    Examples:\n  \
    agentwall policy can --action 'file.{write,create}' --resource-outside '${workspace}/**'\n  \
    agentwall policy can --subject agent:ci --action net.connect --resource cidr:private\n  \
    agentwall policy can --action file.read --resource label:secret --ask"
)]
pub struct CanArgs {
    /// The policy [default: what 'agentwall run' would use here]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Who acts, as in a rule; may be repeated [default: anybody]
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Vec<String>,
    /// The action, as in a rule; may be repeated
    #[arg(long, value_name = "ACTION", required = true)]
    pub action: Vec<String>,
    /// The object, as in a rule; may be repeated [default: any]
    #[arg(long, value_name = "PATTERN")]
    pub resource: Vec<String>,
    /// Objects that are meant to be let through; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub resource_outside: Vec<String>,
    /// The effects that are looked for
    #[arg(
        long,
        value_name = "EFFECT",
        value_delimiter = ',',
        default_value = "allow,isolate"
    )]
    pub effect: Vec<Effect>,
    /// Look for actions that a person is asked about, too
    #[arg(long)]
    pub ask: bool,
    /// The workspace that ${workspace} stands for [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall policy apply`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The wall that a session was started with stays. What can change while the agent runs \
    is what is decided for each call: rules about the network, names and Unix sockets; questions, \
    reasons and hints; arguments of programs; rules about a commit; and rules about single files in \
    trees whose reads and changes the policy decided one by one from the start (a pattern such as \
    ${workspace}/**/*.key, a question, a monitor or a condition in them does that). What a tree is as a \
    whole (shown, hidden, isolated, writable, with programs), loopback ports of the host, devices and \
    tracing were built in: a policy that needs another wall is refused with what differs, and the \
    session goes on under its own.\n\n\
    The new policy holds for every call that begins after this command has ended. What the agent has \
    open stays open: descriptors, connections, started programs, and what it has read or copied. \
    Questions that wait are decided again when they are answered. 'commit' decides by the newest \
    policy.\n\nExamples:\n  \
    agentwall policy apply                          # its own files, as they are now\n  \
    agentwall policy apply k3f9 --policy strict.yaml\n  \
    agentwall policy apply --json | jq .applied\n\n\
    Exit status: 0 in force, 1 refused (the former policy is in force), 2 wrong usage"
)]
pub struct ApplyArgs {
    /// The session, as for 'agentwall diff' [default: the one that runs in this folder]
    pub session: Option<String>,
    /// This file or signed bundle alone [default: what the session was started with, read again]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
