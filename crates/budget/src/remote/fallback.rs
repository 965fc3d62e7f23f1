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
    Admission, Answer, Ask, Degraded, Embedded, Jti, Limits, OnFailure, Reservation, Scope,
    Settled, StoreError,
};

/// Most scopes of which the sums are remembered. Beyond it all are forgotten, and heard of again.
const MOST_HEARD: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Fallback {
    instances: u64,
    /// Tokens that this instance saw, and what it granted alone.
    local: Embedded,
    heard: Mutex<HashMap<Box<str>, [u64; 3]>>,
    owed: Mutex<HashMap<Debt, u64>>,
    owes: AtomicBool,
}

/// A scope that was charged here alone.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Debt {
    pub key: Box<str>,
    pub wide: bool,
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
                let (key, wide) = (scope.key.into(), scope.wide);
                self.owe(Debt { key, wide }, scope.cost);
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
        self.local.settle(of, actual)
    }

    /// Remembers a charge that the store does not know of.
    pub fn owe(&self, debt: Debt, amount: u64) {
        let mut owed = self.owed.lock().unwrap_or_else(|e| e.into_inner());
        let sum = owed.entry(debt).or_default();
        *sum = sum.saturating_add(amount).min(crate::MAX_AMOUNT);
        self.owes.store(true, Ordering::Release);
    }

    /// What the store does not know of yet, to be charged now.
    pub fn debts(&self) -> Option<HashMap<Debt, u64>> {
        if !self.owes.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut owed = self.owed.lock().unwrap_or_else(|e| e.into_inner());
        Some(std::mem::take(&mut owed))
    }
}
