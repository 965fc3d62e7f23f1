//! One namespace on one Redis: the connection, its deadline, and the two calls.
//!
//! All keys of a namespace have the same hash tag, so that a question is one slot of a cluster and one step.
//! A call is sent once. If its answer does not come in time, nobody knows whether it was charged: then it
//! was not granted, and a charge without a call leaves with its window.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, RedisError, TlsCertificates, Value,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use super::{RedisError as SetupError, breaker::Breaker, library::LIBRARY, new_record};
use crate::{Limits, StoreError, Window, window::NoRoom};

/// Making a connection may take longer than a call waits for it; then a later call finds it made.
const CONNECT: Duration = Duration::from_secs(1);

/// What is charged to one scope.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost<'a> {
    pub key: &'a str,
    pub limits: Limits,
    pub amount: u64,
}

/// The answer of the admitting function.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The time, and the sums of each scope.
    Granted(u64, Vec<[u64; 3]>),
    Replayed,
    /// The index of the scope.
    Limited(usize, NoRoom),
}

#[derive(Debug)]
pub(super) struct Shard {
    link: Arc<Link>,
    breaker: Breaker,
    deadline: Duration,
    /// `aw1:{NAMESPACE}:`.
    prefix: String,
    /// Sub-buckets that count beyond a window.
    spare: u64,
}

struct Link {
    /// The configured address.
    home: Client,
    /// Where the slot is, if that is elsewhere.
    owner: Mutex<Option<Client>>,
    made: Mutex<Option<MultiplexedConnection>>,
    making: tokio::sync::Mutex<()>,
}

/// A client of an address, not connected yet.
pub(super) fn client(url: &str, authorities: Option<&[u8]>) -> Result<Client, SetupError> {
    // One that another crate of the process has installed is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = match authorities {
        None => Client::open(url),
        Some(_) if !url.starts_with("rediss:") => {
            return Err(SetupError::Authorities);
        }
        Some(pem) => {
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.to_vec()),
            };
            Client::build_with_tls(url, certificates)
        }
    };
    client.map_err(|e| SetupError::Url(e.to_string()))
}

impl Shard {
    pub fn new(
        home: Client,
        namespace: &str,
        deadline: Duration,
        spare: u64,
    ) -> Result<Shard, SetupError> {
        if namespace.is_empty() || namespace.contains(['{', '}']) {
            return Err(SetupError::Namespace(namespace.to_owned()));
        }
        Ok(Shard {
            link: Arc::new(Link {
                home,
                owner: Mutex::default(),
                made: Mutex::default(),
                making: tokio::sync::Mutex::default(),
            }),
            breaker: Breaker::default(),
            deadline,
            prefix: format!("aw1:{{{namespace}}}:"),
            spare,
        })
    }

    /// Records a token or a reservation and charges scopes, all or none. `record` is its name, and
    /// `replay` how long it is remembered if it is a token, else zero; `hold` is how long the charge can
    /// be corrected.
    pub async fn admit(
        &self,
        record: &str,
        replay: Duration,
        hold: Duration,
        costs: &[Cost<'_>],
    ) -> Result<Said, StoreError> {
        let mut command = self.command(&LIBRARY.admit, record, costs.iter().map(|c| c.key));
        command
            .arg(millis(replay))
            .arg(millis(hold).max(1))
            .arg(self.spare);
        for cost in costs {
            command.arg(cost.amount);
            for limit in cost.limits.each() {
                match limit {
                    Some(limit) => command.arg(limit),
                    None => command.arg(-1),
                };
            }
        }
        let answer = self.call(&command).await?;
        read(&answer, costs.len()).ok_or_else(|| {
            StoreError::Unavailable(format!(
                "an answer that the library does not give: {answer:?}"
            ))
        })
    }

    /// Corrects charges: for each scope its key, what was charged, and what it came to. True if there was
    /// something to correct.
    pub async fn settle(
        &self,
        record: &str,
        replay: Duration,
        costs: &[(&str, u64, u64)],
    ) -> Result<bool, StoreError> {
        let mut command = self.command(&LIBRARY.settle, record, costs.iter().map(|c| c.0));
        command.arg(millis(replay)).arg(self.spare);
        for (_, charged, actual) in costs {
            command.arg(*charged).arg(*actual);
        }
        Ok(self.call(&command).await? == Value::Int(1))
    }

    /// Charges what was spent already, whatever the limits are.
    pub async fn spend(&self, key: &str, amount: u64) -> Result<(), StoreError> {
        let cost = Cost {
            key,
            limits: Limits::default(),
            amount,
        };
        let (none, record) = (Duration::ZERO, new_record());
        self.admit(&record, none, none, &[cost]).await.map(|_| ())
    }

    fn command<'a>(
        &self,
        function: &str,
        record: &str,
        scopes: impl ExactSizeIterator<Item = &'a str>,
    ) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(function).arg(scopes.len() + 1);
        command.arg(format!("{}{record}", self.prefix));
        for key in scopes {
            command.arg(format!("{}s:{key}", self.prefix));
        }
        command
    }

    async fn call(&self, command: &Cmd) -> Result<Value, StoreError> {
        if !self.breaker.enter(Instant::now()) {
            return Err(StoreError::Unavailable(
                "it did not answer before, and is asked again in a moment".to_owned(),
            ));
        }
        let answer = match timeout(self.deadline, self.attempt(command)).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.deadline)),
        };
        if self.breaker.leave(Instant::now(), answer.is_ok()) {
            // A connection that leads nowhere gives no error.
            self.link.forget();
        }
        answer.map_err(StoreError::Unavailable)
    }

    async fn attempt(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut link = self.link.get().await?;
        let mut answer: Result<Value, _> = command.query_async(&mut link).await;
        // What these two say was not done, so that it can be asked again.
        if let Err(e) = &answer
            && self.link.lead_to_owner(e)
        {
            link = self.link.get().await?;
            answer = command.query_async(&mut link).await;
        }
        if matches!(&answer, Err(e) if is_unknown_function(e)) {
            let loaded: Result<Value, _> = redis::cmd("FUNCTION")
                .arg("LOAD")
                .arg(&LIBRARY.source)
                .query_async(&mut link)
                .await;
            match loaded {
                Err(e) if !e.to_string().contains("already exists") => return Err(e),
                _ => answer = command.query_async(&mut link).await,
            }
        }
        if let Err(e) = &answer
            && (e.is_unrecoverable_error() || e.is_io_error() || is_not_primary(e))
        {
            self.link.forget();
        }
        answer
    }
}

impl std::fmt::Debug for Link {
    /// Without the address, which may have a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    fn made(&self) -> std::sync::MutexGuard<'_, Option<MultiplexedConnection>> {
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn forget(&self) {
        *self.made() = None;
    }

    fn owner(&self) -> std::sync::MutexGuard<'_, Option<Client>> {
        self.owner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where to connect: to the owner of the slot, as far as it is known.
    fn client(&self) -> Client {
        self.owner().as_ref().unwrap_or(&self.home).clone()
    }

    /// Turns to the server that an error names as the owner of the slot; false if it names none.
    fn lead_to_owner(&self, error: &RedisError) -> bool {
        if error.code() != Some("MOVED") {
            return false;
        }
        let Some((node, _)) = error.redirect_node() else {
            return false;
        };
        let info = self.home.get_connection_info();
        let Some((host, port)) = node.rsplit_once(':') else {
            return false;
        };
        let Ok(port) = port.parse() else {
            return false;
        };
        // Without a host it is the one that was asked; with TLS it has to have a certificate for its name.
        let named = |asked: &str| if host.is_empty() { asked } else { host }.to_owned();
        let owner = match info.addr() {
            ConnectionAddr::Tcp(asked, _) => ConnectionAddr::Tcp(named(asked), port),
            ConnectionAddr::TcpTls {
                host: asked,
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: named(asked),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => return false,
        };
        let info = info.clone().set_addr(owner);
        match Client::open(info) {
            Ok(client) => {
                *self.owner() = Some(client);
                self.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// The connection, made if there is none. It is made in a task of its own, so that it comes about also
    /// when who asked for it no longer waits.
    async fn get(self: &Arc<Self>) -> Result<MultiplexedConnection, RedisError> {
        if let Some(link) = &*self.made() {
            return Ok(link.clone());
        }
        let link = Arc::clone(self);
        let making = tokio::spawn(async move {
            let _one = link.making.lock().await;
            if let Some(made) = &*link.made() {
                return Ok(made.clone());
            }
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT))
                .set_response_timeout(None);
            let client = link.client();
            let made = client.get_multiplexed_async_connection_with_config(&config);
            match made.await {
                Ok(made) => {
                    *link.made() = Some(made.clone());
                    Ok(made)
                }
                Err(error) => {
                    *link.owner() = None;
                    Err(error)
                }
            }
        });
        making.await.unwrap_or_else(|e| {
            let kind = redis::ErrorKind::Client;
            Err((kind, "connecting was given up", e.to_string()).into())
        })
    }
}

/// The server was restarted without its functions, or has never had them.
fn is_unknown_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// The server has become a replica.
fn is_not_primary(error: &RedisError) -> bool {
    error.code() == Some("READONLY")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn read(answer: &Value, scopes: usize) -> Option<Said> {
    let Value::Array(items) = answer else {
        return None;
    };
    let number = |i: usize| match items.get(i) {
        Some(Value::Int(n)) => Some(*n),
        _ => None,
    };
    let amount = |i: usize| u64::try_from(number(i)?).ok();
    match number(0)? {
        0 if items.len() == 2 + 3 * scopes => {
            let sums = (0..scopes).map(|s| {
                let at = 2 + 3 * s;
                Some([amount(at)?, amount(at + 1)?, amount(at + 2)?])
            });
            Some(Said::Granted(amount(1)?, sums.collect::<Option<_>>()?))
        }
        1 => Some(Said::Replayed),
        2 => {
            let scope = usize::try_from(number(2)?).ok().filter(|s| *s < scopes)?;
            let no_room = NoRoom {
                window: *Window::ALL.get(usize::try_from(number(3)?).ok()?)?,
                wait: amount(4),
                left: amount(5)?,
            };
            Some(Said::Limited(scope, no_room))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
