//! The command lines of `agentwall protect`, `agentwall gateway` and `agentwall identity`.

use std::path::PathBuf;

use agentwall_identity::ApiUse;
use clap::{Args, Subcommand, ValueEnum, ValueHint};

/// `agentwall protect`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall protect https://api.example.com\n  \
    agentwall protect https://api.example.com --openapi api.json --policy bank.yaml\n  \
    agentwall protect http://127.0.0.1:9000 --credential 'Authorization: Bearer @/run/secrets/token'\n  \
    agentwall protect --mcp https://mcp.example.com/mcp --name tickets --policy tickets.yaml\n\n\
    Agents call the API here instead, each with tokens of its own key ('agentwall identity enrol' makes one). Every call is \
    one of a capability that the agent was granted, is decided by the policy, charged to budgets and recorded in the ledger. \
    Without --openapi there are two capabilities, read and write; the policy sees method and URL. Without --policy reading is \
    allowed and a person is asked about everything else; with --openapi what was granted is allowed.\n\n\
    SIGHUP reads the policy again. SIGTERM and SIGINT end it: calls under way may take 10 s.\n\n\
    Exit status: 0 ended, 1 it cannot serve, 2 wrong usage."
)]
pub struct ProtectArgs {
    /// The API: scheme, host, port and path
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: String,
    /// Where agents call
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    pub listen: std::net::SocketAddr,
    /// The URL that agents use, if it is another than http://ADDRESS: behind something that ends TLS
    #[arg(long, value_name = "URL")]
    pub public: Option<String>,
    /// What it is called, for people and the ledger; with --mcp also in policies, as mcp:NAME/TOOL
    #[arg(long, default_value = "api", value_parser = name)]
    pub name: String,
    /// URL is the endpoint of a server of the Model Context Protocol (streamable HTTP)
    #[arg(long, conflicts_with = "openapi")]
    pub mcp: bool,
    /// List tools that the policy denies whatever they are called with; they are hidden without it
    #[arg(long, requires = "mcp")]
    pub show_denied: bool,
    /// What happens to answers of an MCP server with text that nobody sees
    #[arg(long, value_enum, default_value_t, requires = "mcp")]
    pub hidden_text: HiddenText,
    /// What the API can do: an OpenAPI 3 document in JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub openapi: Option<PathBuf>,
    /// The policy
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// A header that is added to each call, and that agents never see; '@FILE' at the end of it is the file's content
    #[arg(long, value_name = "HEADER: VALUE")]
    pub credential: Vec<String>,
    /// How much a refusal tells
    #[arg(long, value_enum, default_value_t)]
    pub disclose: Disclose,
    /// Also take what the published clients of the Agent Auth Protocol send (docs/identity.md)
    #[arg(long)]
    pub compat: bool,
    /// Longest body of a call, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    pub max_body: usize,
    /// Where tokens and budgets are counted for several gateways of one name: redis://HOST:PORT or unix:///PATH; here without it
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// What happens to calls when Redis gives no answer
    #[arg(long, value_enum, default_value_t, requires = "redis")]
    pub without_redis: WithoutRedis,
    /// How long a call waits for Redis, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 50, requires = "redis")]
    pub redis_timeout: u64,
    /// Where identities are kept for several gateways of one name: postgres://USER:PASSWORD@HOST/DATABASE, or '@FILE' with that in it
    /// [default: a file of this gateway]
    #[arg(long, value_name = "URL")]
    pub identities: Option<String>,
    /// How many gateways share that Redis
    #[arg(long, value_name = "N", default_value = "1", requires = "redis")]
    pub instances: std::num::NonZeroU32,
    /// Where enforcement points ask for decisions (AuthZEN): an address with tokens of 'gateway token add', or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    pub pdp: Option<crate::gateway::ask::AskAddress>,
    /// The URL that enforcement points use, if it is another than http://ADDRESS: behind something that ends TLS
    #[arg(long, value_name = "URL", requires = "pdp")]
    pub pdp_public: Option<String>,
    /// Where an Envoy asks that makes the calls itself (ext_authz, gRPC): a loopback address with tokens, or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    pub ext_authz: Option<crate::gateway::ask::AskAddress>,
    /// How long the API may take until its answer begins, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// `agentwall mcp`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall mcp --name files -- npx @modelcontextprotocol/server-filesystem ~/work\n  \
    agentwall mcp --name db -- agentwall run -- ./server     the server itself behind the wall\n\n\
    A client starts this in the place of the server. Every message is decided by the policy and recorded in the ledger: calls of \
    tools are tool.call on mcp:NAME/TOOL for the subject agent:local/AGENT, everything else is api.call on capability:mcp. \
    The policy is found as 'agentwall run' finds it.\n\n\
    Exit status: the server's own; 125 this failed itself, 127 the server was not found."
)]
pub struct McpArgs {
    /// The server's name in policies: mcp:NAME/TOOL
    #[arg(long, value_parser = name)]
    pub name: String,
    /// What the client is called, the subject agent:local/AGENT
    #[arg(long, default_value = "client", value_parser = name)]
    pub agent: String,
    /// Use exactly this policy file or signed bundle
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// The folder that the workspace's policy is looked for in [default: the current folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub workspace: Option<PathBuf>,
    /// List tools that the policy denies whatever they are called with; they are hidden without it
    #[arg(long)]
    pub show_denied: bool,
    /// What happens to answers with text that nobody sees
    #[arg(long, value_enum, default_value_t)]
    pub hidden_text: HiddenText,
    /// The server and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<std::ffi::OsString>,
}

/// What happens to answers with text that nobody sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum HiddenText {
    /// They go on, and say so in `_meta`
    #[default]
    Flag,
    /// They do not go on
    Withhold,
}

impl From<HiddenText> for agentwall_gateway::mcp::scan::OnFinding {
    fn from(hidden: HiddenText) -> Self {
        match hidden {
            HiddenText::Flag => Self::Flag,
            HiddenText::Withhold => Self::Withhold,
        }
    }
}

/// How much a refusal tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Disclose {
    /// Rule, reason and what to do instead
    #[default]
    Full,
    /// What kind of refusal it is
    Code,
    /// That it is refused
    None,
}

/// What happens to calls when the counters give no answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum WithoutRedis {
    /// They are refused
    #[default]
    Closed,
    /// Each gateway counts its share by itself; a token could be used once at each
    Local,
    /// They go ahead, uncounted
    Open,
}

/// `agentwall gateway`.
#[derive(Debug, Clone, Subcommand)]
#[command(
    after_help = "Examples:\n  agentwall gateway agents\n  agentwall gateway revoke agt_…\n  \
    agentwall gateway revoke hst_…      a host, and with it all its agents\n  \
    agentwall gateway tools             tools of MCP servers, and what changed in them\n  \
    agentwall gateway tools --accept send_mail --name tickets"
)]
pub enum GatewayCommand {
    /// List the hosts and agents of the gateways that run
    Agents(GatewayAgentsArgs),
    /// End an agent, or a host with all its agents; what they have under way ends, too
    Revoke(GatewayRevokeArgs),
    /// Tokens of programs that ask a gateway about agents: enforcement points, servers that introspect
    #[command(subcommand)]
    Token(GatewayTokenCommand),
    /// List the tools of MCP servers, with what changed in them since they were accepted
    Tools(GatewayToolsArgs),
}

/// `agentwall gateway token`.
#[derive(Debug, Clone, Subcommand)]
#[command(
    after_help = "Examples:\n  agentwall gateway token add mesh > token\n  \
    agentwall gateway token add api-server --for introspect --days 30\n  agentwall gateway token remove mesh"
)]
pub enum GatewayTokenCommand {
    /// Make a token and print it, once
    Add(GatewayTokenAddArgs),
    /// List them, without what opens anything
    List(GatewayAgentsArgs),
    /// End a token, and what waits on behalf of it
    Remove(GatewayTokenRemoveArgs),
}

/// `agentwall gateway token add`.
#[derive(Debug, Clone, Args)]
pub struct GatewayTokenAddArgs {
    /// What it is called, for people and the ledger
    #[arg(value_name = "NAME")]
    pub token: String,
    /// What it is for
    #[arg(long = "for", value_enum, value_name = "USE", default_values = ["decide"])]
    pub uses: Vec<TokenUse>,
    /// For how many days
    #[arg(long, default_value_t = 365)]
    pub days: u32,
    /// Of this gateway
    #[arg(long, value_name = "GATEWAY")]
    pub name: Option<String>,
}

/// `agentwall gateway token remove`.
#[derive(Debug, Clone, Args)]
pub struct GatewayTokenRemoveArgs {
    /// Its name or id
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// Of this gateway
    #[arg(long, value_name = "GATEWAY")]
    pub name: Option<String>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenUse {
    /// Asking for decisions (AuthZEN)
    Decide,
    /// Asking whom an agent's token belongs to
    Introspect,
    /// Making calls that were permitted, with the API's credentials (an Envoy)
    Proxy,
}

impl TokenUse {
    /// As the gateway has it.
    pub fn meant(self) -> ApiUse {
        match self {
            TokenUse::Decide => ApiUse::Decide,
            TokenUse::Introspect => ApiUse::Introspect,
            TokenUse::Proxy => ApiUse::Proxy,
        }
    }
}

/// `agentwall gateway tools`.
#[derive(Debug, Clone, Args)]
pub struct GatewayToolsArgs {
    /// Of this server alone
    #[arg(long)]
    pub name: Option<String>,
    /// Accept the changed definition of this tool; its calls go on again
    #[arg(long, value_name = "TOOL", requires = "name")]
    pub accept: Option<String>,
    /// Only if the changed definition has this digest, as it is listed
    #[arg(long, value_name = "SHA256", requires = "accept")]
    pub digest: Option<String>,
    /// Forget this tool: the next definition that the server tells is taken on trust again
    #[arg(
        long,
        value_name = "TOOL",
        requires = "name",
        conflicts_with = "accept"
    )]
    pub forget: Option<String>,
    /// As JSON
    #[arg(long, conflicts_with_all = ["accept", "forget"])]
    pub json: bool,
}

/// `agentwall gateway agents`.
#[derive(Debug, Clone, Args)]
pub struct GatewayAgentsArgs {
    /// Of this gateway alone
    #[arg(long)]
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall gateway revoke`.
#[derive(Debug, Clone, Args)]
pub struct GatewayRevokeArgs {
    /// The id of a host or an agent
    pub id: String,
    /// At this gateway alone; else at the one that knows the id
    #[arg(long)]
    pub name: Option<String>,
}

/// `agentwall identity`.
#[derive(Debug, Clone, Subcommand)]
#[command(
    after_help = "Examples:\n  agentwall identity enrol http://127.0.0.1:8787 --capability read\n  \
    curl -H \"Authorization: Bearer $(agentwall identity token http://127.0.0.1:8787)\" http://127.0.0.1:8787/things\n\n\
    Keys are in the state folder, for you alone. An agent behind the wall cannot reach them."
)]
pub enum IdentityCommand {
    /// Register an agent of this host at a gateway, with a key of its own
    Enrol(EnrolArgs),
    /// Print a token for one call; it holds for 60 seconds, once
    Token(TokenArgs),
    /// Tell how the agent stands at a gateway
    Status(IdentityStatusArgs),
}

/// `agentwall identity enrol`.
#[derive(Debug, Clone, Args)]
pub struct EnrolArgs {
    /// The gateway
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: String,
    /// What the agent is called
    #[arg(long, default_value = "agent")]
    pub name: String,
    /// What it asks for; all that the gateway has when none is named
    #[arg(long, value_name = "NAME")]
    pub capability: Vec<String>,
    /// Why, for the person who approves
    #[arg(long)]
    pub reason: Option<String>,
    /// Wait until it is approved or rejected
    #[arg(long)]
    pub wait: bool,
}

/// `agentwall identity token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// The gateway
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: String,
    /// Which agent, if several are enrolled there
    #[arg(long)]
    pub name: Option<String>,
    /// The token is for this capability alone; may be given several times
    #[arg(long, value_name = "NAME")]
    pub capability: Vec<String>,
}

/// `agentwall identity status`.
#[derive(Debug, Clone, Args)]
pub struct IdentityStatusArgs {
    /// The gateway
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: String,
    /// Which agent, if several are enrolled there
    #[arg(long)]
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A gateway's name is part of paths and of the ids of questions.
fn name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match !text.is_empty() && text.len() <= 32 && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a name is 1 to 32 small letters, digits and '-'".to_owned()),
    }
}
