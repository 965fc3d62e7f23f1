//! JWK sets of hosts and agents, by address (Agent Auth Protocol, sections 4.1 and 8.12).
//!
//! A set is fetched when a token names a key that is not in it, at most every five minutes, whether that succeeds or not: a
//! flood of unknown key names is one request. It is used for a day at most. Who asks while it is fetched waits for that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use agentwall_identity::{Fetched, Jwks};
use tokio::sync::watch;

use super::{FetchError, Fetcher};

/// How long nobody asks for a set again.
pub const PAUSE: Duration = Duration::from_secs(300);

/// How long a set is used without asking again.
const LIFE: Duration = Duration::from_secs(86_400);

/// Most addresses. While they are this many, and none is old, no other one is fetched.
const MAX_SETS: usize = 4096;

/// The sets that were fetched.
#[derive(Debug)]
pub struct KeySets {
    fetcher: Arc<Fetcher>,
    all: Mutex<HashMap<String, Attempt>>,
}

/// What an attempt led to; nothing while it is made.
type Outcome = Option<Result<Jwks, KeySetError>>;

/// The last attempt to fetch a set.
#[derive(Debug, Clone)]
struct Attempt {
    at: Instant,
    outcome: watch::Receiver<Outcome>,
    /// What is used if this one fails.
    before: Option<(Instant, Jwks)>,
}

/// There is no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// It was not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What was fetched is no set.
    #[error("the JWK set at {0}: {1}")]
    Set(String, String),
    /// Too many others.
    #[error("too many JWK sets were asked for; try again later")]
    TooMany,
}

impl KeySets {
    /// None yet.
    pub fn new(fetcher: Fetcher) -> KeySets {
        KeySets {
            fetcher: Arc::new(fetcher),
            all: Mutex::default(),
        }
    }

    /// The set at an address, to find the key `kid` in. It may be without that key: then it was asked for not long ago.
    ///
    /// # Errors
    /// There is none.
    pub async fn get(&self, url: &str, kid: &str) -> Result<Fetched, KeySetError> {
        self.get_at(url, kid, Instant::now()).await
    }

    async fn get_at(&self, url: &str, kid: &str, now: Instant) -> Result<Fetched, KeySetError> {
        let mut attempt = self.attempt(url, kid, now)?;
        let outcome = match attempt.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let keys = match (outcome, attempt.before) {
            (Some(Ok(keys)), _) => keys,
            (_, Some((at, keys))) if now.saturating_duration_since(at) < LIFE => keys,
            (Some(Err(e)), _) => return Err(e),
            (None, _) => {
                return Err(KeySetError::Set(
                    url.to_owned(),
                    "the attempt broke off".into(),
                ));
            }
        };
        Ok(Fetched {
            url: url.to_owned(),
            keys,
        })
    }

    /// The attempt to wait for: the last one, or a new one if that has not the key and is over. It goes on also if nobody waits
    /// for it any more.
    fn attempt(&self, url: &str, kid: &str, now: Instant) -> Result<Attempt, KeySetError> {
        let mut all = self.lock();
        let last = all.get(url);
        if let Some(last) = last {
            let age = now.saturating_duration_since(last.at);
            let has = matches!(&*last.outcome.borrow(), Some(Ok(keys)) if keys.get(kid).is_some());
            if age < PAUSE || (has && age < LIFE) {
                return Ok(last.clone());
            }
        }
        let before = last.and_then(|last| match &*last.outcome.borrow() {
            Some(Ok(keys)) => Some((last.at, keys.clone())),
            _ => last.before.clone(),
        });
        if last.is_none() && all.len() >= MAX_SETS {
            all.retain(|_, attempt| now.saturating_duration_since(attempt.at) < PAUSE);
            if all.len() >= MAX_SETS {
                return Err(KeySetError::TooMany);
            }
        }
        let (told, outcome) = watch::channel(None);
        let attempt = Attempt {
            at: now,
            outcome,
            before,
        };
        all.insert(url.to_owned(), attempt.clone());
        let (fetcher, url) = (Arc::clone(&self.fetcher), url.to_owned());
        tokio::spawn(async move {
            let set = match fetcher.json(&url).await {
                Ok(bytes) => Jwks::parse(&bytes).map_err(|e| KeySetError::Set(url, e.to_string())),
                Err(e) => Err(e.into()),
            };
            // It may be that nobody waits.
            let _ = told.send(Some(set));
        });
        Ok(attempt)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Attempt>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
impl KeySets {
    /// As if it were later.
    pub(super) async fn get_later(
        &self,
        url: &str,
        kid: &str,
        by: Duration,
    ) -> Result<Fetched, KeySetError> {
        self.get_at(url, kid, Instant::now() + by).await
    }
}
