//! Whether what other instances change is heard of here.
//!
//! Who was revoked elsewhere is refused here as soon as this is heard. When nothing can be heard for [`STALE`], nobody is
//! let in: an agent that was revoked meanwhile would be.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::approvals::Millis;

/// How long ago the common store may have answered last.
pub const STALE: Duration = Duration::from_secs(5);

/// When the common store answered last.
#[derive(Debug)]
pub struct Contact(Option<AtomicU64>);

impl Contact {
    /// There are no other instances.
    pub fn alone() -> Contact {
        Contact(None)
    }

    /// There are, and their changes are known up to now.
    pub fn shared(now: Millis) -> Contact {
        Contact(Some(AtomicU64::new(now)))
    }

    /// The store has answered.
    pub fn made(&self, now: Millis) {
        if let Some(last) = &self.0 {
            last.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Whether what is known here is good enough to let anybody in.
    pub fn is_fresh(&self, now: Millis) -> bool {
        let stale = u64::try_from(STALE.as_millis()).unwrap_or(u64::MAX);
        let last = self.0.as_ref().map(|last| last.load(Ordering::Relaxed));
        last.is_none_or(|last| now.saturating_sub(last) < stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_when_nothing_is_heard() {
        assert!(Contact::alone().is_fresh(u64::MAX));
        let contact = Contact::shared(1_000);
        assert!(contact.is_fresh(1_000) && contact.is_fresh(5_999));
        assert!(!contact.is_fresh(6_000));
        contact.made(6_000);
        assert!(contact.is_fresh(10_999) && !contact.is_fresh(11_000));
        // A clock that goes back makes nothing fresher.
        contact.made(2_000);
        assert!(!contact.is_fresh(11_000));
    }
}
