//! Events that never came: holes in their numbers.
//!
//! The programs number events over all processors before they look for room, so a number that does not
//! come was lost. Two processors may hand theirs over in the other order: a hole counts only after a
//! while. A loss at the very end leaves no hole; the programs' own counter of events without room tells.

use std::time::{Duration, Instant};

/// How long a number may come late.
const LATE: Duration = Duration::from_secs(2);

/// Numbers that are missing.
#[derive(Debug, Clone)]
struct Hole {
    first: u64,
    /// Behind the last.
    end: u64,
    since: Instant,
    /// Times of the events around it, nanoseconds of `CLOCK_BOOTTIME`.
    from: u64,
    to: u64,
}

/// A loss that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// How many events.
    pub count: u64,
    /// Not before, nanoseconds of `CLOCK_BOOTTIME`.
    pub from: u64,
    /// Not after.
    pub to: u64,
}

/// What came, by number.
#[derive(Debug, Clone)]
pub struct Gaps {
    /// The number that comes next; `None`: whatever comes first.
    next: Option<u64>,
    holes: Vec<Hole>,
    last: u64,
    /// Losses by number so far, and by the counter.
    counted: u64,
}

impl Gaps {
    /// Waits for the event `next`; the programs have counted `dropped` losses that are told already.
    pub fn new(next: Option<u64>, dropped: u64, now: u64) -> Gaps {
        Gaps {
            next,
            holes: Vec::new(),
            last: now,
            counted: dropped,
        }
    }

    /// The number that comes next, if any came.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// An event came with this number and time.
    pub fn came(&mut self, number: u64, time: u64, now: Instant) {
        let next = *self.next.get_or_insert(number);
        if number < next {
            self.fill(number);
            return;
        }
        if number > next {
            self.holes.push(Hole {
                first: next,
                end: number,
                since: now,
                from: self.last.min(time),
                to: time,
            });
        }
        self.next = Some(number + 1);
        self.last = time;
    }

    /// A late one.
    fn fill(&mut self, number: u64) {
        let Some(at) = (self.holes.iter()).position(|h| (h.first..h.end).contains(&number)) else {
            return;
        };
        let hole = self.holes.remove(at);
        let part = |first, end| Hole {
            first,
            end,
            ..hole.clone()
        };
        let parts = [part(hole.first, number), part(number + 1, hole.end)];
        self.holes
            .extend(parts.into_iter().filter(|h| h.first < h.end));
    }

    /// What is certainly lost by now, once: holes that were not filled in time, and what the programs
    /// counted (`dropped`, since they were loaded) beyond that. `quiet` says that nothing is left to read.
    pub fn settle(&mut self, dropped: u64, quiet: bool, now: Instant, boot: u64) -> Option<Lost> {
        let late = |h: &Hole| now.duration_since(h.since) >= LATE;
        let mut lost: Option<Lost> = None;
        let mut add = |count, from, to| {
            let sum = lost.get_or_insert(Lost { count: 0, from, to });
            sum.count += count;
            sum.from = sum.from.min(from);
            sum.to = sum.to.max(to);
        };
        for hole in self.holes.iter().filter(|h| late(h)) {
            add(hole.end - hole.first, hole.from, hole.to);
        }
        self.holes.retain(|h| !late(h));
        let by_number = lost.map_or(0, |l: Lost| l.count);
        self.counted += by_number;
        if quiet && self.holes.is_empty() && dropped > self.counted {
            let more = dropped - self.counted;
            let sum = lost.get_or_insert(Lost {
                count: 0,
                from: self.last,
                to: boot,
            });
            sum.count += more;
            sum.to = boot;
            // Their numbers were given: what comes next is behind them.
            self.next = self.next.map(|n| n + more);
            self.counted = dropped;
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(count: u64, from: u64, to: u64) -> Option<Lost> {
        Some(Lost { count, from, to })
    }

    #[test]
    fn a_hole_counts_once_and_only_after_a_while() {
        let begin = Instant::now();
        let mut gaps = Gaps::new(Some(0), 0, 5);
        gaps.came(0, 10, begin);
        gaps.came(4, 20, begin);
        assert_eq!(gaps.settle(3, true, begin, 30), None);
        assert_eq!(gaps.settle(3, true, begin + LATE, 30), lost(3, 10, 20));
        assert_eq!(gaps.settle(3, true, begin + 2 * LATE, 30), None);
        gaps.came(5, 40, begin);
        assert_eq!(gaps.settle(3, true, begin + 3 * LATE, 50), None);
        assert_eq!(gaps.next(), Some(6));
    }

    #[test]
    fn what_comes_in_another_order_is_not_lost() {
        let begin = Instant::now();
        let mut gaps = Gaps::new(Some(0), 0, 0);
        for number in [2, 0, 5, 1, 4] {
            gaps.came(number, 10 + number, begin);
        }
        assert_eq!(gaps.settle(0, true, begin + LATE, 30), lost(1, 12, 15));
        // One that comes after it was counted changes nothing.
        gaps.came(3, 13, begin);
        assert_eq!(gaps.settle(0, true, begin + 2 * LATE, 30), None);
    }

    #[test]
    fn a_loss_at_the_end_is_told_by_the_counter() {
        let begin = Instant::now();
        let mut gaps = Gaps::new(Some(0), 0, 0);
        gaps.came(0, 10, begin);
        assert_eq!(gaps.settle(2, false, begin, 30), None);
        assert_eq!(gaps.settle(2, true, begin, 30), lost(2, 10, 30));
        assert_eq!(gaps.settle(2, true, begin, 40), None);
        // The next event has the number behind them: no second loss.
        gaps.came(3, 50, begin);
        assert_eq!(gaps.settle(2, true, begin + LATE, 60), None);
        assert_eq!(gaps.next(), Some(4));
    }

    #[test]
    fn what_a_stopped_daemon_missed_is_told_and_what_it_knew_is_not() {
        let begin = Instant::now();
        let mut gaps = Gaps::new(Some(7), 2, 100);
        gaps.came(9, 200, begin);
        assert_eq!(gaps.settle(4, true, begin + LATE, 300), lost(2, 100, 200));
        assert_eq!(gaps.settle(4, true, begin + 2 * LATE, 300), None);
        // A wall that nobody has a book of: whatever comes first is the first.
        let mut unknown = Gaps::new(None, 0, 0);
        unknown.came(9, 200, begin);
        assert_eq!(unknown.settle(0, true, begin + LATE, 300), None);
        // A hole of any size costs no more than another.
        unknown.came(u64::MAX - 1, 300, begin);
        let count = u64::MAX - 1 - 10;
        assert_eq!(
            unknown.settle(0, true, begin + LATE, 300),
            lost(count, 200, 300)
        );
    }
}
