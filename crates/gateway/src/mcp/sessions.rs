//! Whose a session is. Its id is the server's, and whoever has it could speak in it: here only the agent does that began it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

/// Most sessions that are known. Beyond, the oldest is forgotten: its agent begins another one.
const MAX_SESSIONS: usize = 8192;

/// Most of one agent. Beyond, its own oldest is forgotten, and nobody else's.
const MAX_OF_AGENT: usize = 256;

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

impl Inner {
    fn forget(&mut self, id: &str) {
        self.agents.remove(id);
        self.order.retain(|i| i != id);
    }
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
        let own = |i: &&String| inner.agents.get(*i).is_some_and(|a| a == agent);
        let oldest = match inner.order.iter().filter(own).count() >= MAX_OF_AGENT {
            true => inner.order.iter().find(own).cloned(),
            false if inner.order.len() >= MAX_SESSIONS => inner.order.front().cloned(),
            false => None,
        };
        if let Some(oldest) = oldest {
            inner.forget(&oldest);
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
        self.lock().forget(id);
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
            let agent = (n / MAX_OF_AGENT).to_string();
            assert!(sessions.begin(&n.to_string(), &agent));
        }
        assert!(!sessions.is_of("0", "0") && sessions.is_of("1", "0"));
        assert!(!sessions.begin(&"x".repeat(MAX_ID + 1), "a"));
    }

    #[test]
    fn an_agent_with_too_many_loses_its_own() {
        let sessions = Sessions::default();
        assert!(sessions.begin("other", "b"));
        for n in 0..=MAX_OF_AGENT {
            assert!(sessions.begin(&n.to_string(), "a"));
        }
        assert!(!sessions.is_of("0", "a") && sessions.is_of("1", "a"));
        assert!(sessions.is_of("other", "b"));
    }
}
