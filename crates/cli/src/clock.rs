//! Whether the host's clock goes as time does.
//!
//! Entries bear the time of the wall clock, which anybody who may set it can set. Between two entries of one process
//! it is compared with `CLOCK_BOOTTIME`, which nobody sets and which goes on while the host sleeps. What differs by
//! more than a clock is corrected by (NTP slews by at most 500 ppm) gets a record. The order of entries is that of
//! their numbers, never of their times.

use agentwall_ledger::entry::ClockJump;

use crate::{
    host::boot_ns,
    state::{now_ms, rfc3339_of},
};

/// A smaller jump is not told.
const LEAP_MS: i64 = 5000;
/// One part in so many of the time between two looks may be slewed.
const SLEW: i64 = 1000;

/// Both clocks as they were at the last look, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: u64,
    boot: u64,
}

impl Clock {
    /// As they are now.
    pub fn now() -> Clock {
        Clock {
            wall: now_ms(),
            boot: boot_ns() / 1_000_000,
        }
    }

    /// Looks again: whether the wall clock has jumped since.
    pub fn look(&mut self) -> Option<ClockJump> {
        self.look_at(Clock::now())
    }

    /// As if the wall clock had been put forward by so many milliseconds since the last look.
    #[cfg(test)]
    pub fn put_forward(&mut self, ms: u64) {
        self.wall -= ms;
    }

    fn look_at(&mut self, now: Clock) -> Option<ClockJump> {
        let passed = now.boot.saturating_sub(self.boot);
        let expected = self.wall.saturating_add(passed);
        *self = now;
        let jump = now.wall as i64 - expected as i64;
        let slew = passed as i64 / SLEW;
        (jump.abs() > LEAP_MS + slew).then(|| ClockJump {
            jump_ms: jump,
            expected: rfc3339_of(expected),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Clock = Clock {
        wall: 1_000_000_000_000,
        boot: 500_000,
    };

    /// What is told when so many milliseconds have passed on each clock.
    fn told(wall: i64, boot: u64) -> Option<i64> {
        let mut clock = START;
        let now = Clock {
            wall: START.wall.strict_add_signed(wall),
            boot: START.boot + boot,
        };
        let jump = clock.look_at(now);
        assert_eq!((clock.wall, clock.boot), (now.wall, now.boot));
        jump.map(|j| j.jump_ms)
    }

    #[test]
    fn a_jump_is_told_in_both_directions_and_slewing_is_not() {
        assert_eq!(told(0, 0), None);
        assert_eq!(told(60_000, 60_000), None);
        assert_eq!(told(65_000, 60_000), None);
        assert_eq!(told(65_100, 60_000), Some(5100));
        assert_eq!(told(-3_600_000, 10), Some(-3_600_010));
        // A day without entries, slewed all the time.
        assert_eq!(told(86_400_000 + 43_200, 86_400_000), None);
        assert_eq!(told(86_400_000 + 100_000, 86_400_000), Some(100_000));
    }

    #[test]
    fn a_jump_is_told_once_with_what_was_expected() {
        let mut clock = START;
        let later = Clock {
            wall: START.wall + 3_601_000,
            boot: START.boot + 1000,
        };
        let jump = clock.look_at(later).unwrap();
        assert_eq!(jump.jump_ms, 3_600_000);
        assert_eq!(jump.expected, "2001-09-09T01:46:41.000Z");
        let after = Clock {
            wall: later.wall + 1000,
            boot: later.boot + 1000,
        };
        assert!(clock.look_at(after).is_none());
    }
}
