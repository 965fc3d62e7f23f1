//! A circuit breaker: a store that does not answer is not asked for a while, so that calls do not each wait
//! for their deadline. One call at a time then tries again; who is cancelled while trying blocks nobody.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Failures in a row after which the store is left alone.
const FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Until when nobody asks; afterwards the first one does and moves it on.
    until: Option<Instant>,
}

impl State {
    fn pause(&self) -> Duration {
        let doubled = self.failures.saturating_sub(FAILURES).min(16);
        (FIRST_PAUSE * (1 << doubled)).min(LONGEST_PAUSE)
    }
}

impl Breaker {
    /// Whether the store may be asked now.
    pub fn enter(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match state.until {
            Some(until) if now < until => false,
            Some(_) => {
                state.until = Some(now + state.pause());
                true
            }
            None => true,
        }
    }

    /// Notes how asking went; true if the store is left alone from now on.
    pub fn leave(&self, now: Instant, answered: bool) -> bool {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if answered {
            *state = State::default();
            return false;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures < FAILURES {
            return false;
        }
        state.until = Some(now + state.pause());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_store_is_left_alone_and_tried_by_one_at_a_time() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..FAILURES {
            assert!(breaker.enter(at(0)));
            breaker.leave(at(0), false);
        }
        assert!(!breaker.enter(at(99)));
        // One tries; the others do not wait for it.
        assert!(breaker.enter(at(100)));
        assert!(!breaker.enter(at(101)));
        // It fails: twice the pause. It is cancelled: the next one tries.
        breaker.leave(at(110), false);
        assert!(!breaker.enter(at(309)));
        assert!(breaker.enter(at(310)));
        assert!(!breaker.enter(at(509)));
        assert!(breaker.enter(at(510)));
        breaker.leave(at(511), true);
        assert!(breaker.enter(at(511)) && breaker.enter(at(511)));
    }

    #[test]
    fn single_failures_change_nothing_and_a_pause_has_an_end() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            assert!(!breaker.leave(now, false));
            assert!(!breaker.leave(now, true));
            assert!(breaker.enter(now));
        }
        for _ in 0..100 {
            breaker.leave(now, false);
        }
        assert!(breaker.enter(now + LONGEST_PAUSE));
    }
}
