//! Rolling windows, counted in sub-buckets.
//!
//! A window of `n` sub-buckets sums the current one and the `n` before it. They cover the last `n` to `n + 1`
//! sub-bucket widths: never less than the window, so that it never grants more than its limit, and at most
//! one width more. The sum is kept, and changes when a sub-bucket ends; asking for it costs the same
//! for each number of sub-buckets.

use std::{fmt, time::Duration};

use crate::MAX_AMOUNT;

/// One of the three windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// 60 seconds, in 30 sub-buckets of 2 seconds.
    Minute,
    /// 60 minutes, in 30 sub-buckets of 2 minutes.
    Hour,
    /// 24 hours, in 48 sub-buckets of 30 minutes.
    Day,
}

impl Window {
    /// From the shortest to the longest.
    pub const ALL: [Window; 3] = [Window::Minute, Window::Hour, Window::Day];

    /// How many sub-buckets it has beside the current one.
    pub const fn buckets(self) -> usize {
        match self {
            Window::Minute | Window::Hour => 30,
            Window::Day => 48,
        }
    }

    /// How long one sub-bucket is: also the most by which the window is longer than it says.
    pub const fn bucket(self) -> Duration {
        Duration::from_millis(self.bucket_ms())
    }

    /// How long the window is.
    pub const fn length(self) -> Duration {
        Duration::from_millis(self.bucket_ms() * self.buckets() as u64)
    }

    pub(crate) const fn bucket_ms(self) -> u64 {
        match self {
            Window::Minute => 2_000,
            Window::Hour => 120_000,
            Window::Day => 1_800_000,
        }
    }

    /// When everything that was charged by `now` has left, milliseconds from `now`.
    pub(crate) const fn resets_in_ms(self, now: u64) -> u64 {
        let width = self.bucket_ms();
        (now / width + self.buckets() as u64 + 1) * width - now
    }

    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Window::Minute => "minute",
            Window::Hour => "hour",
            Window::Day => "day",
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was charged to one scope in one window. Times are milliseconds of one clock that never goes back.
#[derive(Debug)]
struct Ring {
    width: u64,
    /// The number of the current sub-bucket: time divided by the width.
    newest: u64,
    /// The sum of `slots`.
    total: u64,
    /// The current sub-bucket and those before it that still count; number `k` is at `k % len`.
    slots: Box<[u64]>,
}

impl Ring {
    fn new(window: Window, now: u64) -> Ring {
        Ring {
            width: window.bucket_ms(),
            newest: now / window.bucket_ms(),
            total: 0,
            slots: vec![0; window.buckets() + 1].into(),
        }
    }

    fn slot(&mut self, number: u64) -> &mut u64 {
        let len = self.slots.len() as u64;
        // The remainder is below a length that fits in memory.
        &mut self.slots[(number % len) as usize]
    }

    fn advance(&mut self, now: u64) {
        let newest = (now / self.width).max(self.newest);
        let steps = (newest - self.newest).min(self.slots.len() as u64);
        for number in newest - steps + 1..=newest {
            self.total -= std::mem::take(self.slot(number));
        }
        self.newest = newest;
    }

    fn charge(&mut self, amount: u64) {
        let amount = amount.min(MAX_AMOUNT - self.total);
        self.total += amount;
        *self.slot(self.newest) += amount;
    }

    /// Takes back what was charged at a time, if that still counts.
    fn refund(&mut self, at: u64, amount: u64) {
        let number = (at / self.width).min(self.newest);
        if number + (self.slots.len() as u64) > self.newest {
            let slot = self.slot(number);
            let amount = amount.min(*slot);
            *slot -= amount;
            self.total -= amount;
        }
    }

    /// How long it takes until `amount` of the total has left, if nothing else is charged.
    fn wait(&self, now: u64, amount: u64) -> u64 {
        let len = self.slots.len() as u64;
        let mut left = 0;
        for number in (self.newest + 1).saturating_sub(len)..=self.newest {
            left += self.slots[(number % len) as usize];
            if left >= amount {
                return ((number + len) * self.width).saturating_sub(now);
            }
        }
        len * self.width
    }
}

/// A window without room for a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom {
    pub window: Window,
    /// Milliseconds until there may be room; `None` when the cost is above the limit itself.
    pub wait: Option<u64>,
    pub left: u64,
}

impl NoRoom {
    /// Whether waiting for this one is also enough for the other.
    pub fn outlasts(&self, other: &NoRoom) -> bool {
        match (self.wait, other.wait) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(a), Some(b)) => a >= b,
        }
    }
}

/// What was charged to one scope, in all windows: also in those that have no limit now, so that a limit
/// which comes later knows what was spent before it.
#[derive(Debug)]
pub(crate) struct Counter {
    rings: [Ring; 3],
    /// When it was last charged.
    pub charged: u64,
}

impl Counter {
    /// After this time without a charge a counter is empty.
    pub const LIFE: u64 = Window::Day.bucket_ms() * (Window::Day.buckets() as u64 + 1);

    pub fn new(now: u64) -> Counter {
        Counter {
            rings: Window::ALL.map(|w| Ring::new(w, now)),
            charged: now,
        }
    }

    /// Lets go of what is no longer in any window.
    pub fn advance(&mut self, now: u64) {
        self.rings.iter_mut().for_each(|r| r.advance(now));
    }

    /// What is charged in each window.
    pub fn totals(&self) -> [u64; 3] {
        [0, 1, 2].map(|i: usize| self.rings[i].total)
    }

    /// The window that keeps a cost out for longest, if any does.
    pub fn no_room(&self, now: u64, cost: u64, limits: &[Option<u64>; 3]) -> Option<NoRoom> {
        let refused = Window::ALL.iter().zip(&self.rings).zip(limits);
        let refused = refused.filter_map(|((window, ring), limit)| {
            let limit = limit.unwrap_or(MAX_AMOUNT);
            let over = (ring.total + cost).checked_sub(limit).filter(|o| *o > 0)?;
            Some(NoRoom {
                window: *window,
                wait: (cost <= limit).then(|| ring.wait(now, over)),
                left: limit.saturating_sub(ring.total),
            })
        });
        refused.reduce(|a, b| if a.outlasts(&b) { a } else { b })
    }

    /// Charges an amount in the current sub-buckets.
    pub fn charge(&mut self, now: u64, amount: u64) {
        self.charged = now;
        self.rings.iter_mut().for_each(|r| r.charge(amount));
    }

    /// Takes back an amount that was charged at a time.
    pub fn refund(&mut self, at: u64, amount: u64) {
        self.rings.iter_mut().for_each(|r| r.refund(at, amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_as_long_as_they_say() {
        let lengths = Window::ALL.map(|w| w.length().as_secs());
        assert_eq!(lengths, [60, 3600, 86400]);
    }

    #[test]
    fn the_oldest_sub_bucket_counts_whole() {
        let limits = [Some(10), None, None];
        let mut counter = Counter::new(0);
        counter.charge(1_999, 10);
        // A rolling minute has let go of it at 61,999 ms; its sub-bucket ends to count at 62,000.
        counter.advance(61_999);
        let refused = counter.no_room(61_999, 1, &limits).unwrap();
        assert_eq!((refused.wait, refused.left), (Some(1), 0));
        counter.advance(62_000);
        assert_eq!(counter.no_room(62_000, 10, &limits), None);
        assert_eq!(counter.totals(), [0, 10, 10]);
    }

    #[test]
    fn a_cost_above_the_limit_never_fits() {
        let refused = Counter::new(0).no_room(0, 11, &[Some(20), Some(10), None]);
        let refused = refused.unwrap();
        assert_eq!((refused.window, refused.wait), (Window::Hour, None));
    }

    #[test]
    fn what_has_left_is_not_given_back() {
        let mut counter = Counter::new(0);
        counter.charge(0, 7);
        counter.advance(62_000);
        counter.charge(62_000, 5);
        counter.refund(0, 7);
        assert_eq!(counter.totals(), [5, 5, 5]);
    }

    #[test]
    fn an_idle_counter_is_empty_after_its_life() {
        let mut counter = Counter::new(0);
        counter.charge(1_799_999, 7);
        counter.advance(Counter::LIFE - 1);
        assert_eq!(counter.totals(), [0, 0, 7]);
        counter.advance(1_799_999 + Counter::LIFE);
        assert_eq!(counter.totals(), [0; 3]);
    }
}
