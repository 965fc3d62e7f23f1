//! What an instance does alone while the store gives no answer.
//!
//! It knows the tokens that it saw itself, and what each scope had spent when it last heard of it. With
//! `local`, it grants its part of what was left: the limit without what was spent, divided by the instances.
//! All instances together then grant at most the greatest `left` that one of them had heard, in any
//! window, on top of what was spent: never more than the limit again. With `open`, it grants. Either way it
//! remembers what it granted, and charges that when the store is back.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    Admission, Answer, Ask, Charged, Degraded, Embedded, Jti, Limits, MAX_AMOUNT, Name, OnFailure,
    Reservation, Scope, Settled, StoreError,
};

/// Most scopes of which the sums are remembered. Beyond it all are forgotten, and heard of again.
const MOST_HEARD: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Fallback {
    instances: u64,
    /// Tokens that this instance saw, and what it granted alone.
    local: Embedded,
    heard: Mutex<HashMap<Box<str>, [u64; 3]>>,
    owed: Mutex<HashMap<Name, u64>>,
    owes: AtomicBool,
}

/// What the store does not know of, taken out to be charged. What is still in it when it is dropped, also by
/// a call that was cancelled, is owed again.
#[derive(Debug)]
pub(super) struct Debts<'a> {
    of: &'a Fallback,
    pub left: HashMap<Name, u64>,
}

impl Drop for Debts<'_> {
    fn drop(&mut self) {
        for (name, amount) in self.left.drain() {
            self.of.owe(name, amount);
        }
    }
}

impl Fallback {
    pub fn new(instances: NonZeroU32) -> Fallback {
        Fallback {
            instances: instances.get().into(),
            local: Embedded::default(),
            heard: Mutex::default(),
            owed: Mutex::default(),
            owes: AtomicBool::new(false),
        }
    }

    /// Notes a token; false if this instance has seen it. An error when there is no room, which matters
    /// only if the store does not answer either.
    pub fn note(&self, jti: Option<&Jti<'_>>) -> Result<bool, StoreError> {
        let Some(jti) = jti else {
            return Ok(true);
        };
        let ask = Ask {
            jti: Some(*jti),
            ..Ask::default()
        };
        let answer = self.local.admit(&ask)?.answer;
        Ok(!matches!(answer, Answer::Replayed))
    }

    /// Remembers what a scope has spent.
    pub fn heard(&self, scope: &Scope<'_>, sums: [u64; 3]) {
        let mut heard = self.heard.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = heard.get_mut(scope.key) {
            *known = sums;
            return;
        }
        if heard.len() >= MOST_HEARD {
            heard.clear();
        }
        heard.insert(scope.key.into(), sums);
    }

    /// Answers alone. The token was noted before.
    pub fn admit(&self, ask: &Ask<'_>, why: String) -> Result<Admission, StoreError> {
        let mut scopes = ask.scopes.to_vec();
        for scope in &mut scopes {
            scope.limits = match ask.on_failure {
                OnFailure::Open => Limits::default(),
                _ => match self.share(scope) {
                    Some(limits) => limits,
                    None => return Err(StoreError::Unavailable(why)),
                },
            };
        }
        let alone = Ask {
            jti: None,
            scopes: &scopes,
            ..*ask
        };
        let answer = self.local.admit(&alone)?.answer;
        if matches!(answer, Answer::Granted(_)) {
            for scope in ask.scopes.iter().filter(|s| s.cost > 0) {
                self.owe(Name::of(scope), scope.cost);
            }
        }
        Ok(Admission {
            answer,
            degraded: Some(Degraded {
                how: ask.on_failure,
                why,
            }),
        })
    }

    /// This instance's part of what a scope had left; `None` if it has not heard of it.
    fn share(&self, scope: &Scope<'_>) -> Option<Limits> {
        let heard = self.heard.lock().unwrap_or_else(|e| e.into_inner());
        let sums = heard.get(scope.key)?;
        let part = |limit: Option<u64>, sum: u64| Some(limit?.saturating_sub(sum) / self.instances);
        Some(Limits {
            minute: part(scope.limits.minute, sums[0]),
            hour: part(scope.limits.hour, sums[1]),
            day: part(scope.limits.day, sums[2]),
        })
    }

    /// Corrects what was granted alone. What is owed stays the estimate where that was more.
    pub fn settle(&self, of: &Reservation, actual: &[u64]) -> Settled {
        if let Charged::Memory { names, .. } = &of.charged {
            for ((name, charged), actual) in names.iter().zip(of.costs()).zip(actual) {
                self.overdrawn(name, *charged, *actual);
            }
        }
        self.local.settle(of, actual)
    }

    /// Remembers what was spent beyond a charge.
    pub fn overdrawn(&self, name: &Name, charged: u64, actual: u64) {
        if actual > charged {
            self.owe(name.clone(), actual - charged);
        }
    }

    /// Remembers a charge that the store does not know of.
    fn owe(&self, name: Name, amount: u64) {
        let mut owed = self.owed.lock().unwrap_or_else(|e| e.into_inner());
        let sum = owed.entry(name).or_default();
        *sum = sum.saturating_add(amount).min(MAX_AMOUNT);
        self.owes.store(true, Ordering::Release);
    }

    /// What the store does not know of yet, to be charged now.
    pub fn debts(&self) -> Option<Debts<'_>> {
        if !self.owes.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut owed = self.owed.lock().unwrap_or_else(|e| e.into_inner());
        Some(Debts {
            of: self,
            left: std::mem::take(&mut owed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debts_of_a_call_that_is_cancelled_are_still_owed() {
        let fallback = Fallback::new(NonZeroU32::MIN);
        let name = |key: &str| Name {
            key: key.into(),
            wide: false,
        };
        assert!(fallback.debts().is_none());
        fallback.overdrawn(&name("a"), 5, 5);
        fallback.overdrawn(&name("a"), 5, 7);
        fallback.overdrawn(&name("b"), 0, 1);
        let mut debts = fallback.debts().unwrap();
        assert_eq!(debts.left.remove(&name("a")), Some(2));
        drop(debts);
        let left = std::mem::take(&mut fallback.debts().unwrap().left);
        assert_eq!(left, HashMap::from([(name("b"), 1)]));
        assert!(fallback.debts().is_none());
    }
}
