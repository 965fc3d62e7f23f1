//! Who is logged in, in memory: a restart logs everybody out.

use std::{collections::HashMap, sync::Mutex};

use crate::{
    codes::{Code, hash},
    passkeys::Ceremony,
};
use agentwall_store::StoreError;

/// How long a session lasts, in milliseconds.
const LONGEST_MS: i64 = 12 * 60 * 60 * 1000;
/// How long it lasts without a request.
const IDLE_MS: i64 = 60 * 60 * 1000;
/// How many there are at most; the one that was used longest ago goes.
const MOST: usize = 256;

/// A person who is logged in.
#[derive(Debug)]
struct Session {
    account: String,
    csrf: String,
    since: i64,
    used: i64,
    /// The assertion that was asked for last.
    asked: Option<Ceremony>,
}

/// What a request by cookie comes from.
#[derive(Debug, Clone)]
pub struct Known {
    /// The account's id.
    pub account: String,
    /// What a request that changes something repeats.
    pub csrf: String,
}

/// The sessions, by the hash of their cookie.
#[derive(Debug, Default)]
pub struct Sessions {
    all: Mutex<HashMap<[u8; 32], Session>>,
}

impl Sessions {
    /// Begins one; the code is its cookie.
    pub fn begin(&self, account: &str, now: i64) -> Result<Code, StoreError> {
        let (cookie, csrf) = (Code::new()?, Code::new()?);
        let session = Session {
            account: account.to_owned(),
            csrf: csrf.as_str().to_owned(),
            since: now,
            used: now,
            asked: None,
        };
        let mut all = self.lock();
        all.retain(|_, s| s.holds(now));
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, s)| s.used).map(|(key, _)| *key)
        {
            all.remove(&oldest);
        }
        all.insert(hash(cookie.as_str()), session);
        Ok(cookie)
    }

    /// Who sends this cookie.
    pub fn of(&self, cookie: &str, now: i64) -> Option<Known> {
        let mut all = self.lock();
        let session = all.get_mut(&hash(cookie)).filter(|s| s.holds(now))?;
        session.used = now;
        Some(Known {
            account: session.account.clone(),
            csrf: session.csrf.clone(),
        })
    }

    /// Whether it has not ended. That is no use of it.
    pub fn holds(&self, cookie: &str, now: i64) -> bool {
        (self.lock().get(&hash(cookie))).is_some_and(|session| session.holds(now))
    }

    /// Ends one.
    pub fn end(&self, cookie: &str) {
        self.lock().remove(&hash(cookie));
    }

    /// Keeps what an assertion was asked for; an earlier one is void.
    pub fn ask(&self, cookie: &str, ceremony: Ceremony) {
        if let Some(session) = self.lock().get_mut(&hash(cookie)) {
            session.asked = Some(ceremony);
        }
    }

    /// Takes it out: whatever comes of it, it is used up.
    pub fn asked(&self, cookie: &str) -> Option<Ceremony> {
        self.lock().get_mut(&hash(cookie))?.asked.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Session {
    fn holds(&self, now: i64) -> bool {
        now - self.since < LONGEST_MS && now - self.used < IDLE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_itself_and_by_its_owner() {
        let sessions = Sessions::default();
        let cookie = sessions.begin("u", 0).unwrap();
        assert!(sessions.of("other", 1).is_none());
        assert!(sessions.of(cookie.as_str(), IDLE_MS - 1).is_some());
        assert!(
            sessions.of(cookie.as_str(), 2 * IDLE_MS - 2).is_some(),
            "it was used"
        );
        assert!(
            sessions.of(cookie.as_str(), 3 * IDLE_MS).is_none(),
            "nobody used it"
        );
        let cookie = sessions.begin("u", 0).unwrap();
        for at in (0..LONGEST_MS).step_by(IDLE_MS as usize / 2) {
            assert!(sessions.of(cookie.as_str(), at).is_some());
        }
        assert!(sessions.of(cookie.as_str(), LONGEST_MS).is_none());
        let cookie = sessions.begin("u", 0).unwrap();
        assert!(sessions.holds(cookie.as_str(), IDLE_MS - 1));
        assert!(
            !sessions.holds(cookie.as_str(), IDLE_MS),
            "to be looked at is no use"
        );
        sessions.end(cookie.as_str());
        assert!(sessions.of(cookie.as_str(), 1).is_none());
    }
}
