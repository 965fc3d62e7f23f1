//! The command lines of `agentwall serve`.

use agentwall_control::access::Role;
use clap::{Args, Subcommand, ValueEnum};

/// `agentwall serve`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  agentwall serve\n  agentwall serve invite --name ada --role approver\n  \
    agentwall serve token create ci --role auditor\n\n\
    The page lists what sessions, gateways and the daemon of this host wait for. The first start prints a link that \
    registers a passkey; an approval in the browser needs that passkey each time. REST: docs/console.md.\n\n\
    SIGTERM and SIGINT end it. Exit status: 0 ended, 1 it cannot serve, 2 wrong usage."
)]
pub struct ServeArgs {
    #[command(subcommand)]
    pub command: Option<ServeCommand>,
    /// Where it listens; for http://localhost:PORT on 127.0.0.1 and ::1 both
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8770")]
    pub listen: std::net::SocketAddr,
    /// The URL in the browser, if it is another than http://localhost:PORT: https, behind something that ends TLS
    #[arg(long, value_name = "URL")]
    pub public: Option<String>,
}

/// Who may use it.
#[derive(Debug, Clone, Subcommand)]
pub enum ServeCommand {
    /// Print a link with which a person registers a passkey, once
    Invite(InviteArgs),
    /// List the people who have passkeys
    People,
    /// Take a person's passkeys and invitations away; who is logged in with them is logged out
    Remove {
        /// Who
        name: String,
    },
    /// Tokens of programs, for REST
    #[command(subcommand)]
    Token(TokenCommand),
}

/// `agentwall serve invite`.
#[derive(Debug, Clone, Args)]
pub struct InviteArgs {
    /// What the ledger calls the person; one who is known gets another passkey, and this role
    #[arg(long, value_parser = account_name)]
    pub name: String,
    /// What they may do
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// The URL of the console in the browser, if none runs here now
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// `agentwall serve token`.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make one, and print it; it is not kept
    Create {
        /// What the ledger calls the program
        #[arg(value_parser = account_name)]
        name: String,
        /// What it may do; one that is an approver answers without a person
        #[arg(long, value_enum)]
        role: RoleName,
    },
    /// List their names
    List,
    /// Take one back
    Revoke {
        /// Which
        name: String,
    },
}

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Everything
    Admin,
    /// Sees questions and answers them
    Approver,
    /// Sees questions, agents and the ledger
    Auditor,
    /// Sees agents and gateways, ends agents
    Operator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Admin => Role::Admin,
            RoleName::Approver => Role::Approver,
            RoleName::Auditor => Role::Auditor,
            RoleName::Operator => Role::Operator,
        }
    }
}

/// A name stands in the ledger and on pages.
pub fn account_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a name is 1 to 64 letters, digits and any of - _ . @".to_owned()),
    }
}
