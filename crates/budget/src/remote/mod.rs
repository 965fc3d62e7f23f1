//! Counters that instances share through Redis.
//!
//! One call of a function records the token and charges every scope of the namespace, on the server's
//! clock. Scopes that are wider than the namespace are charged afterwards, from leases; where one has no room,
//! the call's other charges are taken back. When the server gives no answer, the ask says what happens, and
//! the answer says that it did.

mod breaker;
mod fallback;
mod lease;
mod library;
mod shard;

#[cfg(test)]
#[path = "../../tests/server/mod.rs"]
mod server;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use self::{
    fallback::Fallback,
    lease::{Leases, Taken},
    shard::{Cost, Said, Shard},
};
use crate::{
    Admission, Answer, Ask, Charged, Grant, Limited, Name, OnFailure, Reservation, Scope, Settled,
    StoreError, replay,
};

/// How counters in Redis are reached and shared. Shown without its address, which may have a password.
#[derive(Clone)]
pub struct RedisConfig {
    /// `rediss://host:port` (TLS) or `redis://host:port`, with user and password if there are, or
    /// `unix:///path`.
    pub url: String,
    /// The authorities that a server's certificate may be from, in PEM; those that the host trusts if there
    /// are none here.
    pub authorities: Option<Vec<u8>>,
    /// What shares counters: all keys of a namespace are in one slot of a cluster. For example the project.
    pub namespace: String,
    /// How long a call waits for its answer, connecting and loading of the library included.
    pub deadline: Duration,
    /// How long after a call is admitted its charge can still be corrected.
    pub hold: Duration,
    /// How many instances there are: what [`OnFailure::Local`] divides by.
    pub instances: NonZeroU32,
    /// Where [`Scope::wide`] scopes are counted; without it, with the others.
    pub wide: Option<WideConfig>,
}

/// Where scopes are counted that are wider than a namespace.
#[derive(Clone)]
pub struct WideConfig {
    /// As for the namespace; it may be the same server.
    pub url: String,
    /// As for the namespace.
    pub authorities: Option<Vec<u8>>,
    /// Another namespace, which all that share these scopes name alike.
    pub namespace: String,
    /// How long a slice may be used, at most 2 seconds (the shortest sub-bucket).
    pub lease: Duration,
}

impl RedisConfig {
    /// One instance, a deadline of 50 ms, corrections within 15 minutes, no wide scopes.
    pub fn new(url: impl Into<String>, namespace: impl Into<String>) -> RedisConfig {
        RedisConfig {
            url: url.into(),
            authorities: None,
            namespace: namespace.into(),
            deadline: Duration::from_millis(50),
            hold: Duration::from_secs(15 * 60),
            instances: NonZeroU32::MIN,
            wide: None,
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("namespace", &self.namespace)
            .field("deadline", &self.deadline)
            .field("hold", &self.hold)
            .field("instances", &self.instances)
            .field("wide", &self.wide)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WideConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WideConfig")
            .field("namespace", &self.namespace)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// Not an address of a server.
    #[error(
        "not the address of a Redis server: {0}; expected rediss://HOST:PORT, redis://HOST:PORT or unix:///PATH"
    )]
    Url(String),
    /// Authorities for a connection without TLS.
    #[error("authorities are for rediss:// addresses: without TLS nothing is checked")]
    Authorities,
    /// Not a hash tag.
    #[error("'{0}' cannot be a namespace: expected a name without braces")]
    Namespace(String),
    /// The wide scopes have the namespace of the others, whose windows count one sub-bucket less.
    #[error("the wide scopes need a namespace of their own, not '{0}'")]
    Wide(String),
}

/// Counters in Redis. Connects when it is first asked.
#[derive(Debug)]
pub struct Redis {
    shard: Shard,
    hold: Duration,
    leases: Option<Leases>,
    fallback: Fallback,
}

/// A charge in Redis.
#[derive(Debug)]
pub(crate) struct Shared {
    record: String,
    replay: Duration,
    /// Index and key of the scopes of the namespace.
    slot: Vec<(usize, Box<str>)>,
    /// Index and lease of the wide ones.
    taken: Vec<(usize, Taken)>,
}

impl Redis {
    /// Counters that are not connected yet.
    ///
    /// # Errors
    /// A configuration that cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Redis, RedisError> {
        let home = shard::client(&config.url, config.authorities.as_deref())?;
        let shard = Shard::new(home, &config.namespace, config.deadline, 0)?;
        let leases = match &config.wide {
            None => None,
            Some(wide) if wide.namespace == config.namespace => {
                return Err(RedisError::Wide(wide.namespace.clone()));
            }
            Some(wide) => {
                let home = shard::client(&wide.url, wide.authorities.as_deref())?;
                let shard = Shard::new(home, &wide.namespace, config.deadline, 1)?;
                Some(Leases::new(shard, wide.lease))
            }
        };
        Ok(Redis {
            shard,
            hold: config.hold,
            leases,
            fallback: Fallback::new(config.instances),
        })
    }

    /// Admits a call. See [`Counters::admit`](crate::Counters::admit).
    ///
    /// # Errors
    /// A wrong question, or no answer and an ask that is [`OnFailure::Closed`].
    pub async fn admit(&self, ask: &Ask<'_>) -> Result<Admission, StoreError> {
        ask.check()?;
        // What this instance has seen needs no question, and is all there is when the store does not answer.
        let noted = self.fallback.note(ask.jti.as_ref());
        if noted == Ok(false) {
            return Ok(Admission {
                answer: Answer::Replayed,
                degraded: None,
            });
        }
        match self.ask(ask).await {
            Ok(answer) => {
                self.pay().await;
                Ok(Admission {
                    answer,
                    degraded: None,
                })
            }
            Err(StoreError::Unavailable(why)) if ask.on_failure != OnFailure::Closed => {
                noted?;
                self.fallback.admit(ask, why)
            }
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, StoreError> {
        let is_wide = |scope: &Scope<'_>| scope.wide && self.leases.is_some();
        let indexed = || ask.scopes.iter().enumerate();
        let slot: Vec<_> = indexed().filter(|(_, s)| !is_wide(s)).collect();
        let (record, window) = match &ask.jti {
            Some(jti) => (format!("j:{:032x}", replay::fingerprint(jti)), jti.window),
            None if slot.is_empty() => (String::new(), Duration::ZERO),
            None => (new_record(), Duration::ZERO),
        };
        let mut sums = vec![[0; 3]; ask.scopes.len()];
        let mut time = 0;
        if !record.is_empty() {
            let costs: Vec<_> = slot.iter().map(|(_, s)| cost(s)).collect();
            match self.shard.admit(&record, window, self.hold, &costs).await? {
                Said::Replayed => return Ok(Answer::Replayed),
                Said::Limited(at, no_room) => {
                    return Ok(Answer::Limited(Limited::new(slot[at].0, &no_room)));
                }
                Said::Granted(now, found) => {
                    time = now;
                    for ((index, scope), found) in slot.iter().zip(found) {
                        sums[*index] = found;
                        self.fallback.heard(scope, found);
                    }
                }
            }
        }
        let mut shared = Shared {
            record,
            replay: window,
            slot: slot.iter().map(|(i, s)| (*i, s.key.into())).collect(),
            taken: Vec::new(),
        };
        if let Some(leases) = &self.leases {
            for (index, scope) in indexed().filter(|(_, s)| is_wide(s)) {
                match leases.take(&cost(scope), self.hold).await {
                    Ok(Ok(taken)) => {
                        (time, sums[index]) = taken.heard;
                        self.fallback.heard(scope, sums[index]);
                        shared.taken.push((index, taken));
                    }
                    Ok(Err(no_room)) => {
                        self.take_back(&shared, ask).await;
                        return Ok(Answer::Limited(Limited::new(index, &no_room)));
                    }
                    Err(error) => {
                        self.take_back(&shared, ask).await;
                        return Err(error);
                    }
                }
            }
        }
        let reservation = (!ask.scopes.is_empty()).then(|| Reservation {
            costs: ask.scopes.iter().map(|s| s.cost).collect(),
            charged: Charged::Shared(shared),
            settled: AtomicBool::new(false),
        });
        Ok(Answer::Granted(Grant {
            reservation,
            left: ask.left(time, &sums),
        }))
    }

    /// Takes back what a call was charged that is refused after all. What fails leaves with its windows.
    async fn take_back(&self, shared: &Shared, ask: &Ask<'_>) {
        let costs: Vec<u64> = ask.scopes.iter().map(|s| s.cost).collect();
        let _ = self
            .settle_shared(shared, &costs, &vec![0; costs.len()])
            .await;
    }

    /// Corrects charges. Called once for a reservation.
    pub(crate) async fn settle(
        &self,
        of: &Reservation,
        actual: &[u64],
    ) -> Result<Settled, StoreError> {
        match &of.charged {
            Charged::Memory { .. } => Ok(self.fallback.settle(of, actual)),
            Charged::Shared(shared) => self.settle_shared(shared, of.costs(), actual).await,
        }
    }

    async fn settle_shared(
        &self,
        shared: &Shared,
        charged: &[u64],
        actual: &[u64],
    ) -> Result<Settled, StoreError> {
        let (mut done, mut failed) = (false, None);
        if !shared.slot.is_empty() {
            let costs: Vec<_> = shared
                .slot
                .iter()
                .map(|(i, key)| (&**key, charged[*i], actual[*i]))
                .collect();
            match self
                .shard
                .settle(&shared.record, shared.replay, &costs)
                .await
            {
                Ok(now) => done |= now,
                Err(error) => {
                    for (index, key) in &shared.slot {
                        self.overdrawn(key, false, charged[*index], actual[*index]);
                    }
                    failed = Some(error);
                }
            }
        }
        if let Some(leases) = &self.leases {
            for (index, taken) in &shared.taken {
                let (charged, actual) = (charged[*index], actual[*index]);
                if charged == actual {
                    continue;
                }
                match leases.settle(taken, charged, actual).await {
                    Ok(now) => done |= now,
                    Err(error) => {
                        self.overdrawn(&taken.key, true, charged, actual);
                        failed = Some(error);
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if done => Ok(Settled::Now),
            None => Ok(Settled::Before),
        }
    }

    fn overdrawn(&self, key: &str, wide: bool, charged: u64, actual: u64) {
        let key = key.into();
        self.fallback
            .overdrawn(&Name { key, wide }, charged, actual);
    }

    /// Charges what was spent while the store gave no answer.
    async fn pay(&self) {
        let Some(mut debts) = self.fallback.debts() else {
            return;
        };
        while let Some((name, amount)) = debts.left.iter().next() {
            let (name, amount) = (name.clone(), *amount);
            let paid = match &self.leases {
                Some(leases) if name.wide => leases.spend(&name.key, amount).await,
                _ => self.shard.spend(&name.key, amount).await,
            };
            if paid.is_err() {
                return;
            }
            debts.left.remove(&name);
        }
    }
}

fn cost<'a>(scope: &Scope<'a>) -> Cost<'a> {
    Cost {
        key: scope.key,
        limits: scope.limits,
        amount: scope.cost,
    }
}

/// A name that no other reservation has: a number of this process, and which it is of its own. Where two
/// processes have one number, the later call is refused as a replay.
fn new_record() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "r:{:016x}{:x}",
        *PROCESS,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
