//! The console's state.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use agentwall_store::Accounts;
use tokio::sync::watch;

use crate::{
    access::{Need, Role},
    events::Feed,
    host::{Act, Host, HostError, PendingAsk, Waiting},
    passkeys::Passkeys,
    problem::Problem,
    sessions::Sessions,
};

/// How a console is reached.
#[derive(Debug, Clone)]
pub struct Config {
    /// The origin of its pages (RFC 6454), such as `http://localhost:8770`: what browsers send and passkeys are bound to.
    pub origin: String,
    /// What a Host header may say.
    pub hosts: Vec<String>,
}

/// A console.
pub struct Console {
    pub(crate) config: Config,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) accounts: Accounts,
    pub(crate) sessions: Sessions,
    pub(crate) passkeys: Passkeys,
    pub(crate) feed: Feed,
    pub(crate) over: watch::Sender<bool>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The console cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Passkeys need a host name and, beyond this host, TLS.
    #[error(
        "'{0}' is no origin that passkeys work for: expected https://NAME or http://localhost:PORT"
    )]
    Origin(String),
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `account:NAME`, `token:NAME`, or nothing.
    pub by: String,
    pub role: Option<Role>,
    pub how: How,
}

/// How they proved it.
#[derive(Debug, Clone)]
pub(crate) enum How {
    Nobody,
    /// By the hash of one.
    Token {
        hash: [u8; 32],
    },
    Session {
        cookie: String,
        account: String,
        csrf: String,
    },
}

impl How {
    /// For the ledger.
    pub fn proof(&self) -> &'static str {
        match self {
            How::Nobody => "nothing",
            How::Token { .. } => "token",
            How::Session { .. } => "session",
        }
    }
}

impl Console {
    /// A console that nobody is logged in at.
    ///
    /// # Errors
    /// The origin.
    pub fn new(
        config: Config,
        host: Arc<dyn Host>,
        accounts: Accounts,
    ) -> Result<Arc<Console>, StartError> {
        let local = ["http://localhost", "http://localhost:"];
        let safe = config.origin.starts_with("https://")
            || config.origin == local[0]
            || config.origin.starts_with(local[1]);
        let passkeys = Passkeys::new(&config.origin).ok().filter(|_| safe);
        let passkeys = passkeys.ok_or_else(|| StartError::Origin(config.origin.clone()))?;
        Ok(Arc::new(Console {
            feed: Feed::new(Arc::clone(&host)),
            config,
            host,
            accounts,
            sessions: Sessions::default(),
            passkeys,
            over: watch::Sender::new(false),
        }))
    }

    /// Asks the host, on a thread that may wait.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&dyn Host) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, Problem> {
        let host = Arc::clone(&self.host);
        let asked = tokio::task::spawn_blocking(move || what(&*host)).await;
        Ok(asked.map_err(|e| Problem::internal(&e))??)
    }

    /// The question of an id, if it waits.
    pub(crate) async fn question(&self, id: &str) -> Result<PendingAsk, Problem> {
        let waiting = self.ask(|host| host.waiting()).await?;
        waiting.question(id).cloned()
    }

    /// Whether a caller still has what a route needs: the session or the token may have ended, and the role be another one.
    pub(crate) fn still_may(&self, caller: &Caller, need: Need) -> bool {
        let role = match &caller.how {
            How::Nobody => Ok(None),
            How::Token { hash } => (self.accounts.token(hash)).map(|t| t.map(|token| token.role)),
            How::Session {
                cookie, account, ..
            } => match self.sessions.holds(cookie, now_ms()) {
                true => (self.accounts.account(account)).map(|a| a.map(|account| account.role)),
                false => Ok(None),
            },
        };
        let role = role.ok().flatten().and_then(|role| Role::of(&role));
        role.is_some_and(|role| role.may(need))
    }

    /// Puts an act into the ledger.
    pub(crate) async fn record(
        &self,
        act: &'static str,
        object: &str,
        by: &str,
        proof: &'static str,
        binding: Option<&str>,
    ) -> Result<(), Problem> {
        let (object, by) = (object.to_owned(), by.to_owned());
        let binding = binding.map(str::to_owned);
        self.ask(move |host| {
            host.record(&Act {
                act,
                object: &object,
                by: &by,
                proof,
                binding: binding.as_deref(),
            })
        })
        .await
    }

    /// The name of the cookie. Browsers let nobody but this host set one of the first kind.
    pub(crate) fn cookie(&self) -> &'static str {
        match self.is_secure() {
            true => "__Host-agentwall",
            false => "agentwall-console",
        }
    }

    /// Whether pages come over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.config.origin.starts_with("https://")
    }
}

impl Waiting {
    /// The question of an id. While some holder cannot be asked, nobody can say that it does not wait.
    pub(crate) fn question(&self, id: &str) -> Result<&PendingAsk, Problem> {
        let found = self.asks.iter().find(|ask| ask.id == id);
        found.ok_or_else(|| match self.trouble.is_empty() {
            true => Problem::no_question(),
            false => {
                let text = format!(
                    "not every question can be seen now: {}",
                    self.trouble.join("; ")
                );
                HostError::Unavailable(text).into()
            }
        })
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
