//! The question that a face asks, and the answer.

use std::{collections::HashSet, time::Duration};

use crate::{Limits, MAX_AMOUNT, Reservation, Window, window::NoRoom};

/// Most scopes of one ask.
pub const MAX_SCOPES: usize = 16;
/// Longest key of a scope, identity or token id, in bytes.
pub const MAX_KEY: usize = 512;

/// One call that asks to be admitted. Without scopes its token alone is recorded: a call that is denied, or
/// waits for a person, spends nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The token that must not have been seen before; recorded whatever the answer is.
    pub jti: Option<Jti<'a>>,
    /// What is charged: all or none. No key twice.
    pub scopes: &'a [Scope<'a>],
    /// What happens when the store gives no answer.
    pub on_failure: OnFailure,
}

/// A token's id (RFC 7519, 4.1.7), unique for its identity. Ask only after its signature was verified.
#[derive(Debug, Clone, Copy)]
pub struct Jti<'a> {
    /// Who the token speaks for, for example the thumbprint of the key that signed it.
    pub identity: &'a str,
    /// The claim.
    pub value: &'a str,
    /// How long it is remembered: at least as long as the token could be accepted, skew included.
    pub window: Duration,
}

/// One set of counters that a call is charged to, for example an agent's or a project's.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Its name, for example `agent:7Fq…`.
    pub key: &'a str,
    /// What may be spent.
    pub limits: Limits,
    /// What the call is estimated to cost here, in micro-units. Zero is never refused.
    pub cost: u64,
    /// Whether it is shared beyond the namespace of the store, and so counted elsewhere
    /// ([`RedisConfig::wide`](crate::RedisConfig::wide)).
    pub wide: bool,
}

/// What happens to a call when the store gives no answer; declared for each capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnFailure {
    /// It is refused.
    #[default]
    Closed,
    /// It is decided by what this instance knew last, divided by the number of instances.
    Local,
    /// It goes ahead.
    Open,
}

/// The answer, and how it was found.
#[derive(Debug)]
pub struct Admission {
    /// What was answered.
    pub answer: Answer,
    /// Set when the store gave no answer and this instance answered alone. To be recorded with the decision.
    pub degraded: Option<Degraded>,
}

/// An answer that the store has no part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degraded {
    /// [`OnFailure::Local`] or [`OnFailure::Open`]. Either way a token is known again by this instance alone.
    pub how: OnFailure,
    /// What was wrong with the store.
    pub why: String,
}

/// Whether a call is admitted.
#[derive(Debug)]
pub enum Answer {
    /// It is.
    Granted(Grant),
    /// Its token was used before. Nothing was charged.
    Replayed,
    /// A window has no room for it. Nothing was charged.
    Limited(Limited),
}

/// An admitted call.
#[derive(Debug)]
pub struct Grant {
    /// What was charged; `None` without scopes.
    pub reservation: Option<Reservation>,
    /// What each limited window has left, in the order of scopes and windows.
    pub left: Vec<Left>,
}

/// What a window has left: the `r` and `t` of a `RateLimit` field (draft-ietf-httpapi-ratelimit-headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The index of the scope in its ask.
    pub scope: usize,
    /// Which window.
    pub window: Window,
    /// Micro-units that are left.
    pub left: u64,
    /// When all of the limit is there again if nothing more is charged.
    pub resets_in: Duration,
}

/// A call that a window has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The index of the scope in its ask.
    pub scope: usize,
    /// The window that keeps it out for longest.
    pub window: Window,
    /// After this time there is room, if nothing else is charged; `None` when the cost is above the limit itself.
    pub retry_after: Option<Duration>,
    /// Micro-units that are left.
    pub left: u64,
}

impl Limited {
    pub(crate) fn new(scope: usize, no_room: &NoRoom) -> Limited {
        Limited {
            scope,
            window: no_room.window,
            retry_after: no_room.wait.map(Duration::from_millis),
            left: no_room.left,
        }
    }
}

/// A question that cannot be answered: a mistake of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// More than [`MAX_SCOPES`].
    #[error("{0} scopes, at most {MAX_SCOPES} can be charged at once")]
    Scopes(usize),
    /// A key that is empty or longer than [`MAX_KEY`].
    #[error("a key of {0} bytes, expected 1 to {MAX_KEY}")]
    Key(usize),
    /// One scope twice: both would be judged before either is charged.
    #[error("the scope '{0}' is named twice")]
    Twice(String),
    /// No time, or more than a day.
    #[error("a token that is remembered for {0:?}, expected 1 millisecond to a day")]
    Window(Duration),
    /// More than [`MAX_AMOUNT`].
    #[error("an amount of {0} micro-units, at most {MAX_AMOUNT} can be counted")]
    Amount(u64),
    /// Not one amount for each scope.
    #[error("{found} amounts for {expected} charged scopes")]
    Amounts {
        /// Scopes of the ask.
        expected: usize,
        /// Amounts that were given.
        found: usize,
    },
}

fn check_key(key: &str) -> Result<(), AskError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(AskError::Key(key.len()));
    }
    Ok(())
}

impl Ask<'_> {
    /// Whether it can be answered.
    pub(crate) fn check(&self) -> Result<(), AskError> {
        if self.scopes.len() > MAX_SCOPES {
            return Err(AskError::Scopes(self.scopes.len()));
        }
        if let Some(jti) = &self.jti {
            check_key(jti.identity)?;
            check_key(jti.value)?;
            if jti.window.as_millis() == 0 || jti.window > Window::Day.length() {
                return Err(AskError::Window(jti.window));
            }
        }
        let mut seen = HashSet::with_capacity(self.scopes.len());
        for scope in self.scopes {
            check_key(scope.key)?;
            if scope.cost > MAX_AMOUNT {
                return Err(AskError::Amount(scope.cost));
            }
            if !seen.insert(scope.key) {
                return Err(AskError::Twice(scope.key.to_owned()));
            }
        }
        Ok(())
    }

    /// What the windows have left when these totals are charged at a time of the store.
    pub(crate) fn left(&self, now: u64, totals: &[[u64; 3]]) -> Vec<Left> {
        let mut left = Vec::new();
        for (scope, (asked, totals)) in self.scopes.iter().zip(totals).enumerate() {
            for ((window, limit), total) in Window::ALL.iter().zip(asked.limits.each()).zip(totals)
            {
                left.extend(limit.map(|limit| Left {
                    scope,
                    window: *window,
                    left: limit.saturating_sub(*total),
                    resets_in: Duration::from_millis(match total {
                        0 => 0,
                        _ => window.resets_in_ms(now),
                    }),
                }));
            }
        }
        left
    }
}

/// Whether these can be what a reservation came to.
pub(crate) fn check_actual(costs: &[u64], actual: &[u64]) -> Result<(), AskError> {
    if costs.len() != actual.len() {
        return Err(AskError::Amounts {
            expected: costs.len(),
            found: actual.len(),
        });
    }
    match actual.iter().find(|a| **a > MAX_AMOUNT) {
        Some(amount) => Err(AskError::Amount(*amount)),
        None => Ok(()),
    }
}
