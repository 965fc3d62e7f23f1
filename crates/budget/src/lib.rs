//! Replay protection and budgets: one step answers whether a token was seen before and whether every
//! window of every scope has room, and charges them all or none.
//!
//! A budget is an amount per *rolling* minute, hour and day. A window is counted in sub-buckets, and the
//! oldest one counts whole: a window never grants more than its limit, and refuses nothing that a window
//! longer by one sub-bucket would allow ([`Window`] has the widths). Amounts are integers in micro-units;
//! time is that of the store, never a caller's.
//!
//! A call is charged with its estimate when it is admitted. [`Counters::commit`] corrects the charge once,
//! [`Counters::release`] takes it back. Who does neither, for example because the process ended, has spent
//! the estimate, which leaves with its window: nothing has to be reaped and nothing can leak.
//!
//! [`Embedded`] counts in this process; [`Redis`] for several instances. docs/budgets.md has the key
//! layout, the error bounds and what each store loses when it fails.

#![forbid(unsafe_code)]

mod amounts;
mod ask;
mod embedded;
mod remote;
mod replay;
mod window;

use std::sync::atomic::{AtomicBool, Ordering};

pub use amounts::{Limits, MAX_AMOUNT, UNIT};
pub use ask::{
    Admission, Answer, Ask, AskError, Degraded, Grant, Jti, Left, Limited, MAX_KEY, MAX_SCOPES,
    OnFailure, Scope,
};
pub use embedded::{Embedded, EmbeddedConfig};
pub use remote::{Redis, RedisConfig, RedisError, WideConfig};
pub use window::Window;

/// Why a store gave no answer. The call that was asked about is then refused, unless its [`OnFailure`]
/// says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The question is not one that can be answered; nothing was charged.
    #[error("the budget question is wrong: {0}")]
    Ask(#[from] AskError),
    /// The memory set aside is used up. Forgetting would let a token be used twice, or a budget begin anew.
    #[error(
        "{what} are all in use ({most}); wait until some have expired, or raise the configured maximum"
    )]
    Full {
        /// What there is no more room for.
        what: &'static str,
        /// How many fit.
        most: usize,
    },
    /// The store gave no answer. What it may have charged was not granted, and leaves with its windows.
    #[error("the counters gave no answer: {0}")]
    Unavailable(String),
}

/// What was charged for one call, to be corrected at most once.
///
/// Dropping it changes nothing: the estimate stays charged and leaves with its windows.
#[derive(Debug)]
pub struct Reservation {
    costs: Vec<u64>,
    charged: Charged,
    settled: AtomicBool,
}

/// A scope that was charged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    key: Box<str>,
    wide: bool,
}

impl Name {
    fn of(scope: &Scope<'_>) -> Name {
        Name {
            key: scope.key.into(),
            wide: scope.wide,
        }
    }
}

/// Where a charge lies.
#[derive(Debug)]
enum Charged {
    /// In the counters of this process, at this time of theirs.
    Memory { at: u64, names: Vec<Name> },
    /// In Redis.
    Shared(remote::Shared),
}

impl Reservation {
    /// What was charged to each scope, in the order of [`Ask::scopes`], in micro-units.
    pub fn costs(&self) -> &[u64] {
        &self.costs
    }

    /// True for the first caller alone.
    fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }
}

/// What became of a correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The counters were corrected.
    Now,
    /// There was nothing to correct any more: it was done before, or the reservation is past its deadline,
    /// or the store has lost it. The estimate stands, or stays corrected.
    Before,
}

/// The counters that a face asks.
#[derive(Debug)]
pub enum Counters {
    /// In this process.
    Embedded(Embedded),
    /// In Redis, for all instances.
    Redis(Box<Redis>),
}

impl Counters {
    /// Admits a call: its token is recorded, and each scope is charged, all or none.
    ///
    /// # Errors
    /// When no answer was found and the ask's [`OnFailure`] is [`Closed`](OnFailure::Closed): the caller
    /// refuses.
    pub async fn admit(&self, ask: &Ask<'_>) -> Result<Admission, StoreError> {
        match self {
            Counters::Embedded(embedded) => embedded.admit(ask),
            Counters::Redis(redis) => redis.admit(ask).await,
        }
    }

    /// Corrects the charges of a call to what it did cost, one amount for each scope of its ask. What was
    /// charged too much is given back where it was charged; what was too little is charged now, also
    /// beyond the limit, since it has been spent.
    ///
    /// # Errors
    /// Nothing is given back. What was spent beyond the estimate is charged when the store is back.
    pub async fn commit(&self, of: &Reservation, actual: &[u64]) -> Result<Settled, StoreError> {
        ask::check_actual(of.costs(), actual)?;
        if !of.settle() {
            return Ok(Settled::Before);
        }
        match self {
            Counters::Embedded(embedded) => Ok(embedded.settle(of, actual)),
            Counters::Redis(redis) => redis.settle(of, actual).await,
        }
    }

    /// Takes back the charges of a call that did not happen.
    ///
    /// # Errors
    /// The charge stays as it was estimated.
    pub async fn release(&self, of: &Reservation) -> Result<Settled, StoreError> {
        self.commit(of, &vec![0; of.costs().len()]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A face asks from a task that may change its thread.
    #[test]
    fn questions_can_be_asked_from_any_task() {
        fn is_send(_: &impl Send) {}
        let counters = Counters::Embedded(Embedded::default());
        let ask = Ask::default();
        is_send(&counters.admit(&ask));
        let of = Reservation {
            costs: Vec::new(),
            charged: Charged::Memory {
                at: 0,
                names: Vec::new(),
            },
            settled: AtomicBool::new(false),
        };
        is_send(&counters.commit(&of, &[]));
        is_send(&counters.release(&of));
    }
}
