//! Whose a session is. Its id is the server's, and whoever has it could speak in it: here only the agent does that began it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

/// Most sessions that are known. Beyond, the oldest is forgotten: its agent begins another one.
const MAX_SESSIONS: usize = 8192;

/// Longest id, in bytes.
const MAX_ID: usize = 512;

/// Sessions and their agents.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    agents: HashMap<String, String>,
    order: VecDeque<String>,
}

impl Sessions {
    /// A session began for an agent. An id that another agent has is not taken: `false`.
    pub fn begin(&self, id: &str, agent: &str) -> bool {
        let mut inner = self.lock();
        if let Some(owner) = inner.agents.get(id) {
            return owner == agent;
        }
        if id.len() > MAX_ID {
            return false;
        }
        if inner.order.len() >= MAX_SESSIONS
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.agents.remove(&oldest);
        }
        inner.order.push_back(id.to_owned());
        inner.agents.insert(id.to_owned(), agent.to_owned());
        true
    }

    /// Whether the session is this agent's.
    pub fn is_of(&self, id: &str, agent: &str) -> bool {
        self.lock().agents.get(id).is_some_and(|a| a == agent)
    }

    /// The session is over.
    pub fn end(&self, id: &str) {
        let mut inner = self.lock();
        inner.agents.remove(id);
        inner.order.retain(|i| i != id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_its_agents() {
        let sessions = Sessions::default();
        assert!(sessions.begin("s", "a") && sessions.begin("s", "a"));
        assert!(sessions.is_of("s", "a"));
        assert!(!sessions.is_of("s", "b") && !sessions.begin("s", "b"));
        assert!(!sessions.is_of("other", "a"));
        sessions.end("s");
        assert!(!sessions.is_of("s", "a"));
        for n in 0..=MAX_SESSIONS {
            assert!(sessions.begin(&n.to_string(), "a"));
        }
        assert!(!sessions.is_of("0", "a") && sessions.is_of("1", "a"));
        assert!(!sessions.begin(&"x".repeat(MAX_ID + 1), "a"));
    }
}
