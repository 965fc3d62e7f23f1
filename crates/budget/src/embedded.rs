//! Counters in the memory of one process: exact, bounded, gone when it ends.
//!
//! One lock around everything: a call's token and all its scopes are one step, and the time is taken inside
//! it, so that it never goes back from one call to the next. The clock is CLOCK_MONOTONIC: setting
//! the host's time changes no window, and a suspended host makes windows longer, never shorter. What is
//! no longer needed is removed by later calls, some at each; there is no thread for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, atomic::AtomicBool},
    time::Instant,
};

use crate::{
    Admission, Answer, Ask, Charged, Grant, Limited, Name, Reservation, Settled, StoreError,
    replay::{Seen, fingerprint},
    window::{Counter, NoRoom},
};

/// How many counters one call may look at to see whether they are still needed.
const VISITED_AT_ONCE: usize = 4;

/// How much memory the counters may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Most scopes that were charged within a day; about 1.1 kB each.
    pub max_scopes: usize,
    /// Most tokens that are remembered at a time; about 100 bytes each.
    pub max_tokens: usize,
}

impl Default for EmbeddedConfig {
    /// 65,536 scopes and 2^20 tokens, which is 11,650 calls each second with a window of 90 seconds.
    fn default() -> Self {
        EmbeddedConfig {
            max_scopes: 1 << 16,
            max_tokens: 1 << 20,
        }
    }
}

/// Counters of this process.
#[derive(Debug)]
pub struct Embedded {
    start: Instant,
    max_scopes: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: Seen,
    counters: HashMap<Box<str>, Counter>,
    /// When to look whether a counter is still needed, in the order of time.
    visits: VecDeque<(u64, Box<str>)>,
}

impl Default for Embedded {
    fn default() -> Self {
        Embedded::new(EmbeddedConfig::default())
    }
}

impl Embedded {
    /// Empty counters.
    pub fn new(config: EmbeddedConfig) -> Embedded {
        Embedded {
            start: Instant::now(),
            max_scopes: config.max_scopes,
            state: Mutex::new(State {
                seen: Seen::new(config.max_tokens),
                counters: HashMap::new(),
                visits: VecDeque::new(),
            }),
        }
    }

    /// Admits a call. See [`Counters::admit`](crate::Counters::admit).
    ///
    /// # Errors
    /// A wrong question, or no more room.
    pub fn admit(&self, ask: &Ask<'_>) -> Result<Admission, StoreError> {
        ask.check()?;
        let token = ask.jti.as_ref().map(fingerprint);
        let mut state = self.lock();
        let answer = state.admit(self.now(), token, ask, self.max_scopes)?;
        Ok(Admission {
            answer,
            degraded: None,
        })
    }

    /// Corrects charges. Called once for a reservation.
    pub(crate) fn settle(&self, of: &Reservation, actual: &[u64]) -> Settled {
        let mut state = self.lock();
        state.settle(self.now(), of, actual)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between two charges can panic; a poisoned lock is one of a caller's own thread.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Milliseconds since the counters were made. To be asked for inside the lock.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl State {
    fn admit(
        &mut self,
        now: u64,
        token: Option<u128>,
        ask: &Ask<'_>,
        max_scopes: usize,
    ) -> Result<Answer, StoreError> {
        self.visit(now);
        if let (Some(token), Some(jti)) = (token, &ask.jti) {
            let window = u64::try_from(jti.window.as_millis()).unwrap_or(u64::MAX);
            if !self.seen.insert(now, token, now.saturating_add(window))? {
                return Ok(Answer::Replayed);
            }
        }
        let mut limited: Option<(usize, NoRoom)> = None;
        let mut new = 0;
        for (index, scope) in ask.scopes.iter().enumerate() {
            if scope.cost == 0 {
                continue;
            }
            let limits = scope.limits.each();
            let refused = match self.counters.get_mut(scope.key) {
                Some(counter) => {
                    counter.advance(now);
                    counter.no_room(now, scope.cost, &limits)
                }
                None => {
                    new += 1;
                    Counter::new(now).no_room(now, scope.cost, &limits)
                }
            };
            if let Some(refused) = refused
                && limited.is_none_or(|(_, worst)| !worst.outlasts(&refused))
            {
                limited = Some((index, refused));
            }
        }
        if let Some((index, refused)) = limited {
            return Ok(Answer::Limited(Limited::new(index, &refused)));
        }
        if self.counters.len() + new > max_scopes {
            return Err(StoreError::Full {
                what: "places for scopes",
                most: max_scopes,
            });
        }
        let totals: Vec<_> = ask
            .scopes
            .iter()
            .map(|scope| self.charge(now, scope.key, scope.cost))
            .collect();
        let reservation = (!ask.scopes.is_empty()).then(|| Reservation {
            costs: ask.scopes.iter().map(|s| s.cost).collect(),
            charged: Charged::Memory {
                at: now,
                names: ask.scopes.iter().map(Name::of).collect(),
            },
            settled: AtomicBool::new(false),
        });
        Ok(Answer::Granted(Grant {
            reservation,
            left: ask.left(now, &totals),
        }))
    }

    /// Charges a scope and says what is charged to it now.
    fn charge(&mut self, now: u64, key: &str, amount: u64) -> [u64; 3] {
        if let Some(counter) = self.counters.get_mut(key) {
            counter.advance(now);
            if amount > 0 {
                counter.charge(now, amount);
            }
            return counter.totals();
        }
        if amount == 0 {
            return [0; 3];
        }
        let mut counter = Counter::new(now);
        counter.charge(now, amount);
        let totals = counter.totals();
        self.counters.insert(key.into(), counter);
        self.visits.push_back((now + Counter::LIFE, key.into()));
        totals
    }

    fn settle(&mut self, now: u64, of: &Reservation, actual: &[u64]) -> Settled {
        let Charged::Memory { at, names } = &of.charged else {
            // Charged by another store.
            return Settled::Before;
        };
        for ((name, cost), actual) in names.iter().zip(&of.costs).zip(actual) {
            let key = &name.key;
            if actual > cost {
                self.charge(now, key, actual - cost);
            } else if let Some(counter) = self.counters.get_mut(key) {
                counter.advance(now);
                counter.refund(*at, cost - actual);
            }
        }
        Settled::Now
    }

    /// Removes counters that have been empty for a while: nobody can tell them from new ones.
    fn visit(&mut self, now: u64) {
        for _ in 0..VISITED_AT_ONCE {
            match self.visits.front() {
                Some((due, _)) if *due <= now => {}
                _ => return,
            }
            let Some((_, key)) = self.visits.pop_front() else {
                return;
            };
            match self.counters.get(&key) {
                Some(counter) if counter.charged + Counter::LIFE > now => {
                    self.visits.push_back((now + Counter::LIFE, key));
                }
                _ => {
                    self.counters.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
