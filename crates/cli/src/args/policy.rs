//! The command line of `agentwall policy`: one struct for each of its commands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

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
    /// Lay policy files and tables out in the one way, keeping comments and meaning
    Fmt(FmtArgs),
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
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
