//! Time per decision.
//!
//! The median comes from batches long enough that reading the clock is nothing beside them; the 99th
//! percentile from single decisions, less what two readings of the clock cost right then. Requests go
//! round in an order without a pattern, so that neither branch predictor nor cache knows the next.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// A batch takes at least this long, a thousand times a reading of the clock.
const BATCH: Duration = Duration::from_micros(30);

/// Nanoseconds per decision.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The median over batches.
    pub p50: f64,
    /// The 99th percentile of single decisions.
    pub p99: f64,
}

/// Measures `decide` over requests `0..requests`, about half of `budget` for each of the two.
pub fn measure<T>(requests: usize, budget: Duration, mut decide: impl FnMut(usize) -> T) -> Times {
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % requests;
        at
    };
    // Warm: every request once, but not longer than the budget.
    let start = Instant::now();
    let mut many = 0u32;
    while many < requests as u32 && (many == 0 || start.elapsed() < budget) {
        black_box(decide(black_box(next())));
        many += 1;
    }
    let one = start.elapsed() / many;
    let batch = (BATCH.as_nanos() / one.as_nanos().max(1)).clamp(1, 100_000) as usize;

    let mut batches = Vec::new();
    let start = Instant::now();
    while batches.len() < 5 || start.elapsed() < budget / 2 {
        let begin = Instant::now();
        for _ in 0..batch {
            black_box(decide(black_box(next())));
        }
        batches.push(begin.elapsed().as_nanos() as f64 / batch as f64);
    }

    let mut singles = Vec::new();
    let mut empty = Vec::new();
    let start = Instant::now();
    while singles.len() < 20 || start.elapsed() < budget / 2 {
        for _ in 0..64.min(batch) {
            let request = black_box(next());
            let begin = Instant::now();
            black_box(decide(request));
            let end = Instant::now();
            let again = Instant::now();
            singles.push((end - begin).as_nanos() as f64);
            empty.push((again - end).as_nanos() as f64);
        }
    }
    let clock = percentile(&mut empty, 50);
    Times {
        p50: percentile(&mut batches, 50),
        p99: (percentile(&mut singles, 99) - clock).max(0.0),
    }
}

/// The percentile of some numbers; 0 for none.
pub fn percentile(numbers: &mut [f64], percent: usize) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let at = (numbers.len() * percent / 100).min(numbers.len().saturating_sub(1));
    numbers.get(at).copied().unwrap_or_default()
}
