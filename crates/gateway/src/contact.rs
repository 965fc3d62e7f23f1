//! Whether what other instances change is heard of here.
//!
//! Who was revoked elsewhere is refused here as soon as this is heard. When nothing can be heard for [`STALE`], nobody is
//! let in: an agent that was revoked meanwhile would be.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// How long ago the common store may have answered last.
pub const STALE: Duration = Duration::from_secs(5);

/// When the common store answered last, by a clock that nobody sets.
#[derive(Debug)]
pub struct Contact(Option<Mutex<Instant>>);

impl Contact {
    /// There are no other instances.
    pub fn alone() -> Contact {
        Contact(None)
    }

    /// There are, and their changes are known up to `at`.
    pub fn shared(at: Instant) -> Contact {
        Contact(Some(Mutex::new(at)))
    }

    /// The store has answered a question that was asked `at`.
    pub fn made(&self, at: Instant) {
        if let Some(last) = &self.0 {
            let mut last = last.lock().unwrap_or_else(|e| e.into_inner());
            *last = at.max(*last);
        }
    }

    /// Whether what is known here is good enough to let anybody in.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh_at(Instant::now())
    }

    fn is_fresh_at(&self, now: Instant) -> bool {
        let last = (self.0.as_ref()).map(|last| *last.lock().unwrap_or_else(|e| e.into_inner()));
        last.is_none_or(|last| now.saturating_duration_since(last) < STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_when_nothing_is_heard() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(Contact::alone().is_fresh_at(at(u64::from(u32::MAX))));
        let contact = Contact::shared(start);
        assert!(contact.is_fresh_at(start) && contact.is_fresh_at(at(4_999)));
        assert!(!contact.is_fresh_at(at(5_000)));
        contact.made(at(5_000));
        assert!(contact.is_fresh_at(at(9_999)) && !contact.is_fresh_at(at(10_000)));
        // An answer that came late is of when it was asked for.
        contact.made(at(1_000));
        assert!(!contact.is_fresh_at(at(10_000)));
    }
}
