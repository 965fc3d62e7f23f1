//! Where hosts and agents are kept.
//!
//! A change is records as they become, written all or nothing, before anybody sees them. A store knows no rules; it keeps.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    event::Event,
    id::{AgentId, HostId},
    model::{Agent, Host},
};

/// Why a store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be read or written.
    #[error("the store of identities failed: {0}")]
    Failed(String),
    /// Somebody else writes to it.
    #[error(
        "expected the store at event {expected}, found it at {found}: another instance writes to it"
    )]
    Conflict {
        /// The number that this change would have begun with.
        expected: u64,
        /// The number it should have begun with.
        found: u64,
    },
}

/// A change: records as they become, and what happened.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Change {
    /// Hosts, whole.
    pub hosts: Vec<Host>,
    /// Agents, whole.
    pub agents: Vec<Agent>,
    /// What happened, numbered on without a gap.
    pub events: Vec<Event>,
}

impl Change {
    /// The hosts and agents that events name.
    pub fn named(events: &[Event]) -> (HashSet<HostId>, HashSet<AgentId>) {
        let hosts = events.iter().map(|event| event.host.clone()).collect();
        let agents = events.iter().filter_map(|event| event.agent.clone());
        (hosts, agents.collect())
    }

    /// Whether each record is named by an event, so that whoever follows the events hears of it.
    pub(crate) fn names_all(&self) -> bool {
        let (hosts, agents) = Change::named(&self.events);
        self.hosts.iter().all(|host| hosts.contains(&host.id))
            && self.agents.iter().all(|agent| agents.contains(&agent.id))
    }

    /// Puts what came later into it: records take the place of those of the same id.
    pub(crate) fn extend(&mut self, later: &Change) {
        let hosts: HashSet<_> = later.hosts.iter().map(|host| &host.id).collect();
        self.hosts.retain(|host| !hosts.contains(&host.id));
        self.hosts.extend_from_slice(&later.hosts);
        let agents: HashSet<_> = later.agents.iter().map(|agent| &agent.id).collect();
        self.agents.retain(|agent| !agents.contains(&agent.id));
        self.agents.extend_from_slice(&later.agents);
        self.events.extend_from_slice(&later.events);
    }
}

/// What a store had.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    /// All hosts.
    pub hosts: Vec<Host>,
    /// All agents.
    pub agents: Vec<Agent>,
    /// The number of the last event; 0 before the first.
    pub last_event: u64,
}

/// Durable memory. The embedder chooses one; [`MemoryStore`] ends with the process.
pub trait Store: Send + Sync {
    /// Everything, at the start.
    fn load(&self) -> Result<Contents, StoreError>;

    /// Writes a change, all or nothing, and returns when it is durable. A change whose first event does not follow the last one that
    /// is stored is refused ([`StoreError::Conflict`]).
    fn commit(&self, change: &Change) -> Result<(), StoreError>;

    /// What others wrote: the events after number `after`, in order, and the hosts and agents that they name, as they are now. All of
    /// one moment.
    fn since(&self, after: u64) -> Result<Change, StoreError>;

    /// Comes back when somebody may have written, after `patience` at the latest. A store that nobody else writes to waits for as long.
    fn wait(&self, patience: Duration) -> Result<(), StoreError>;

    /// Agents that were used at `from` or later, as far as that was noted, and when; in seconds since 1970. A store that nobody else
    /// writes to has nothing new to tell.
    fn used_since(&self, from: i64) -> Result<Vec<(AgentId, i64)>, StoreError> {
        let _ = from;
        Ok(Vec::new())
    }

    /// Notes when agents were used last, in seconds since 1970. May be lost: then they expire earlier.
    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError>;
}

/// A store without a disk, for tests and for `agentwall dev`.
#[derive(Debug, Default)]
pub struct MemoryStore {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    hosts: HashMap<HostId, Host>,
    agents: HashMap<AgentId, Agent>,
    events: Vec<Event>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        MemoryStore::default()
    }
}

impl Store for MemoryStore {
    fn load(&self) -> Result<Contents, StoreError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Contents {
            hosts: kept.hosts.values().cloned().collect(),
            agents: kept.agents.values().cloned().collect(),
            last_event: kept.events.len() as u64,
        })
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = kept.events.len() as u64 + 1;
        if let Some(first) = change.events.first()
            && first.number != expected
        {
            return Err(StoreError::Conflict {
                expected: first.number,
                found: expected,
            });
        }
        for host in &change.hosts {
            kept.hosts.insert(host.id.clone(), host.clone());
        }
        for agent in &change.agents {
            kept.agents.insert(agent.id.clone(), agent.clone());
        }
        kept.events.extend_from_slice(&change.events);
        Ok(())
    }

    fn since(&self, after: u64) -> Result<Change, StoreError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let events = usize::try_from(after)
            .ok()
            .and_then(|n| kept.events.get(n..));
        let events = events.unwrap_or_default();
        let (hosts, agents) = Change::named(events);
        Ok(Change {
            hosts: hosts
                .iter()
                .filter_map(|id| kept.hosts.get(id).cloned())
                .collect(),
            agents: agents
                .iter()
                .filter_map(|id| kept.agents.get(id).cloned())
                .collect(),
            events: events.to_vec(),
        })
    }

    fn wait(&self, patience: Duration) -> Result<(), StoreError> {
        // Nobody is told here: who shares it looks often.
        std::thread::sleep(patience.min(Duration::from_millis(5)));
        Ok(())
    }

    fn used_since(&self, from: i64) -> Result<Vec<(AgentId, i64)>, StoreError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let used = kept.agents.values().filter_map(|agent| {
            let at = agent.used_at.filter(|at| *at >= from)?;
            Some((agent.id.clone(), at))
        });
        Ok(used.collect())
    }

    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, at) in used {
            if let Some(agent) = kept.agents.get_mut(id) {
                agent.used_at = agent.used_at.max(Some(*at));
            }
        }
        Ok(())
    }
}

/// A store in an `Arc` is one, too.
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn load(&self) -> Result<Contents, StoreError> {
        (**self).load()
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        (**self).commit(change)
    }

    fn since(&self, after: u64) -> Result<Change, StoreError> {
        (**self).since(after)
    }

    fn wait(&self, patience: Duration) -> Result<(), StoreError> {
        (**self).wait(patience)
    }

    fn used_since(&self, from: i64) -> Result<Vec<(AgentId, i64)>, StoreError> {
        (**self).used_since(from)
    }

    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError> {
        (**self).note_use(used)
    }
}
