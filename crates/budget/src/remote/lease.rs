//! Scopes that are wider than a namespace: their counters lie in another slot or server, so that they cannot
//! be charged in the same step. An instance takes a slice of what is left, charged at once, decides from it,
//! and gives back what it did not use.
//!
//! A slice is charged when it is taken and used a little later. The wide namespace therefore counts one
//! sub-bucket more than its windows have, and a slice is used no longer than the shortest sub-bucket is,
//! measured from before it was asked for: what is used of it is still counted one whole window later. So slices
//! never grant more than the limit in any rolling window. The price is the other way: what lies unused in
//! slices, and in slices of instances that ended, is not there for others, until it is given back or leaves.
//! Near the limit no slices are taken.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    new_record,
    shard::{Cost, Said, Shard},
};
use crate::{StoreError, Window, window::NoRoom};

/// A slice is at most this part of what is left.
const SHARE: u64 = 20;
/// Below this part of the limit each call is charged by itself.
const STRICT_BELOW: u64 = 10;
/// Most scopes with a slice. Beyond it calls are charged one by one.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Leases {
    shard: Arc<Shard>,
    life: Duration,
    leases: Mutex<HashMap<Box<str>, Arc<tokio::sync::Mutex<Lease>>>>,
}

#[derive(Debug, Default)]
struct Lease {
    slice: Option<Slice>,
    /// The sums of the scope when it was last heard of, at a time of the store.
    heard: Option<(u64, [u64; 3])>,
}

#[derive(Debug)]
struct Slice {
    record: String,
    amount: u64,
    used: u64,
    expires: Instant,
}

/// What was taken for a call.
#[derive(Debug)]
pub(super) struct Taken {
    pub key: Box<str>,
    /// Names the slice, or the charge itself.
    record: String,
    from_slice: bool,
    /// The time of the store and the sums it told.
    pub heard: (u64, [u64; 3]),
}

impl Leases {
    pub fn new(shard: Shard, life: Duration) -> Leases {
        Leases {
            shard: Arc::new(shard),
            life: life.min(Window::Minute.bucket()),
            leases: Mutex::default(),
        }
    }

    /// Takes a cost from the slice of its scope, from a new one, or from the scope itself.
    pub async fn take(
        &self,
        cost: &Cost<'_>,
        hold: Duration,
    ) -> Result<Result<Taken, NoRoom>, StoreError> {
        let Some(lease) = self.lease(cost.key) else {
            return self.charge(cost, hold).await;
        };
        let mut held = lease.lock().await;
        let now = Instant::now();
        let last = held.heard;
        if let (Some(slice), Some(heard)) = (&mut held.slice, last)
            && now < slice.expires
            && slice.amount - slice.used >= cost.amount
        {
            slice.used += cost.amount;
            return Ok(Ok(Taken {
                key: cost.key.into(),
                record: slice.record.clone(),
                from_slice: true,
                heard,
            }));
        }
        if let Some(old) = held.slice.take() {
            // If this fails, the rest of the slice leaves with its window.
            let _ = old.give_back(&self.shard, cost.key).await;
        }
        let wanted = last.map_or(0, |(_, sums)| slice_of(cost, &sums));
        if cost.amount > 0 && wanted > cost.amount {
            let record = new_record();
            let asked = Instant::now();
            let whole = Cost {
                amount: wanted,
                ..*cost
            };
            let said = self
                .shard
                .admit(&record, Duration::ZERO, hold, &[whole])
                .await?;
            if let Said::Granted(now, sums) = said {
                let heard = (now, sums.first().copied().unwrap_or_default());
                held.heard = Some(heard);
                held.slice = Some(Slice {
                    record: record.clone(),
                    amount: wanted,
                    used: cost.amount,
                    expires: asked + self.life,
                });
                drop(held);
                self.give_back_later(lease, cost.key.into(), record.clone());
                return Ok(Ok(Taken {
                    key: cost.key.into(),
                    record,
                    from_slice: true,
                    heard,
                }));
            }
        }
        let taken = self.charge(cost, hold).await?;
        held.heard = taken.as_ref().ok().map(|t| t.heard);
        Ok(taken)
    }

    /// Corrects what was taken to what it came to.
    pub async fn settle(&self, of: &Taken, charged: u64, actual: u64) -> Result<bool, StoreError> {
        if !of.from_slice {
            let cost = (&*of.key, charged, actual);
            return self.shard.settle(&of.record, Duration::ZERO, &[cost]).await;
        }
        if actual > charged {
            return self.spend(&of.key, actual - charged).await.map(|()| true);
        }
        // What is unused goes back to its slice, if that is still there. Else it was given back with fewer
        // unused, and leaves with its window.
        if let Some(lease) = self.lease(&of.key)
            && let Some(slice) = &mut lease.lock().await.slice
            && slice.record == of.record
        {
            slice.used -= charged - actual;
        }
        Ok(true)
    }

    /// Charges what was spent already, whatever the limits are.
    pub async fn spend(&self, key: &str, amount: u64) -> Result<(), StoreError> {
        self.shard.spend(key, amount).await
    }

    async fn charge(
        &self,
        cost: &Cost<'_>,
        hold: Duration,
    ) -> Result<Result<Taken, NoRoom>, StoreError> {
        let record = new_record();
        let said = self
            .shard
            .admit(&record, Duration::ZERO, hold, &[*cost])
            .await?;
        match said {
            Said::Granted(now, sums) => Ok(Ok(Taken {
                key: cost.key.into(),
                record,
                from_slice: false,
                heard: (now, sums.first().copied().unwrap_or_default()),
            })),
            Said::Limited(_, no_room) => Ok(Err(no_room)),
            // Another instance has chosen the same name.
            Said::Replayed => Err(StoreError::Unavailable(
                "a reservation exists already".into(),
            )),
        }
    }

    fn lease(&self, key: &str) -> Option<Arc<tokio::sync::Mutex<Lease>>> {
        let mut leases = self.leases.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(lease) = leases.get(key) {
            return Some(Arc::clone(lease));
        }
        if leases.len() >= MOST {
            // Those that nobody holds and that have no slice can begin anew.
            leases.retain(|_, l| {
                Arc::strong_count(l) > 1 || l.try_lock().is_ok_and(|l| l.slice.is_some())
            });
        }
        if leases.len() >= MOST {
            return None;
        }
        Some(Arc::clone(leases.entry(key.into()).or_default()))
    }

    /// One task for each slice, which ends when the slice does.
    fn give_back_later(
        &self,
        lease: Arc<tokio::sync::Mutex<Lease>>,
        key: Box<str>,
        record: String,
    ) {
        let (shard, life) = (Arc::clone(&self.shard), self.life);
        tokio::spawn(async move {
            tokio::time::sleep(life).await;
            let mut held = lease.lock().await;
            if let Some(old) = held.slice.take_if(|s| s.record == record) {
                let _ = old.give_back(&shard, &key).await;
            }
        });
    }
}

impl Slice {
    async fn give_back(self, shard: &Shard, key: &str) -> Result<bool, StoreError> {
        let cost = (key, self.amount, self.used);
        shard.settle(&self.record, Duration::ZERO, &[cost]).await
    }
}

/// How large a slice may be: zero near the limit, and where there is none.
fn slice_of(cost: &Cost<'_>, sums: &[u64; 3]) -> u64 {
    let limited = cost.limits.each().into_iter().zip(sums);
    let slices = limited.filter_map(|(limit, sum)| {
        let limit = limit?;
        let left = limit.saturating_sub(*sum);
        Some(if left < limit / STRICT_BELOW {
            0
        } else {
            left / SHARE
        })
    });
    slices.min().unwrap_or(0)
}
