//! A change while it is made: copies of the records, and what happened.

use std::collections::BTreeMap;

use super::{Directory, Writer};
use crate::{
    error::{AuthError, ChangeError},
    event::{Event, EventKind},
    id::{self, AgentId, HostId, IdError},
    key::Thumbprint,
    model::{Agent, AgentStatus, Host, HostStatus},
    store::{Change, StoreError},
};

pub(super) struct Draft<'a> {
    pub(super) directory: &'a Directory,
    writer: &'a Writer,
    pub(super) now: i64,
    pub(super) by: String,
    hosts: BTreeMap<HostId, Host>,
    agents: BTreeMap<AgentId, Agent>,
    events: Vec<Event>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(directory: &'a Directory, writer: &'a Writer, by: String, now: i64) -> Self {
        Draft {
            directory,
            writer,
            now,
            by,
            hosts: BTreeMap::new(),
            agents: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// The change. One that there is nothing to tell about is none.
    pub(super) fn finish(self) -> Change {
        if self.events.is_empty() {
            return Change::default();
        }
        Change {
            hosts: self.hosts.into_values().collect(),
            agents: self.agents.into_values().collect(),
            events: self.events,
        }
    }

    /// A name that nobody has.
    pub(super) fn fresh<T>(&self, prefix: &str) -> Result<T, ChangeError>
    where
        T: std::str::FromStr<Err = IdError>,
    {
        id::fresh(prefix).map_err(|e| {
            ChangeError::Store(StoreError::Failed(format!(
                "the system has no randomness: {e}"
            )))
        })
    }

    pub(super) fn host(&self, id: &HostId) -> Result<Host, ChangeError> {
        if let Some(host) = self.hosts.get(id) {
            return Ok(host.clone());
        }
        let host = self
            .directory
            .hosts
            .get(id)
            .ok_or(ChangeError::HostNotFound)?;
        Ok(Host::clone(&host))
    }

    pub(super) fn host_of_key(&self, thumbprint: Thumbprint) -> Option<HostId> {
        self.directory.by_thumbprint.get(&thumbprint)
    }

    /// The agent, with its last use as it is known now.
    pub(super) fn agent(&self, id: &AgentId) -> Result<Agent, ChangeError> {
        if let Some(agent) = self.agents.get(id) {
            return Ok(agent.clone());
        }
        let cell = self
            .directory
            .agents
            .get(id)
            .ok_or(ChangeError::AgentNotFound)?;
        let mut agent = cell.agent.clone();
        let used_at = cell.used_at();
        agent.used_at = (used_at > 0).then_some(used_at);
        Ok(agent)
    }

    pub(super) fn agent_of_key(&self, host: &HostId, thumbprint: Thumbprint) -> Option<AgentId> {
        self.writer.by_key.get(&(host.clone(), thumbprint)).cloned()
    }

    /// The host's agents that have not ended.
    pub(super) fn agents_of(&self, host: &HostId) -> Vec<AgentId> {
        let agents = self.writer.of_host.get(host);
        agents.into_iter().flatten().cloned().collect()
    }

    /// Whether the host may have one more agent in use or waiting.
    pub(super) fn room(&self, host: &HostId) -> Result<(), ChangeError> {
        let lifetimes = &self.directory.settings.lifetimes;
        let lives = |id: &&AgentId| {
            let cell = self.directory.agents.get(id);
            let standing =
                cell.map(|cell| cell.agent.standing(cell.used_at(), self.now, lifetimes));
            matches!(standing, Some(AgentStatus::Pending | AgentStatus::Active))
        };
        let agents = self.writer.of_host.get(host).into_iter().flatten();
        match agents.filter(lives).count() < self.directory.settings.limits.agents_per_host {
            true => Ok(()),
            false => Err(ChangeError::Limit("agents of this host")),
        }
    }

    pub(super) fn put_host(&mut self, mut host: Host) {
        host.updated_at = self.now;
        self.hosts.insert(host.id.clone(), host);
    }

    pub(super) fn put_agent(&mut self, mut agent: Agent) {
        agent.updated_at = self.now;
        self.agents.insert(agent.id.clone(), agent);
    }

    pub(super) fn tell_host(&mut self, kind: EventKind, host: &HostId) {
        self.tell(kind, host, None, None);
    }

    pub(super) fn tell_agent(&mut self, kind: EventKind, agent: &Agent) {
        self.tell(kind, &agent.host, Some(&agent.id), None);
    }

    pub(super) fn tell_grant(&mut self, kind: EventKind, agent: &Agent, capability: &str) {
        self.tell(kind, &agent.host, Some(&agent.id), Some(capability));
    }

    fn tell(
        &mut self,
        kind: EventKind,
        host: &HostId,
        agent: Option<&AgentId>,
        capability: Option<&str>,
    ) {
        self.events.push(Event {
            number: self.writer.next_event() + self.events.len() as u64,
            at: self.now,
            kind,
            host: host.clone(),
            agent: agent.cloned(),
            capability: capability.map(str::to_owned),
            by: self.by.clone(),
        });
    }

    pub(super) fn standing(&self, agent: &Agent) -> AgentStatus {
        let lifetimes = &self.directory.settings.lifetimes;
        agent.standing(agent.used_at.unwrap_or(0), self.now, lifetimes)
    }
}

/// Whether a host of this state may act.
pub(super) fn host_may(status: HostStatus) -> Result<(), AuthError> {
    match status {
        HostStatus::Active => Ok(()),
        HostStatus::Pending => Err(AuthError::HostPending),
        HostStatus::Revoked | HostStatus::Rejected => Err(AuthError::HostRevoked),
    }
}

/// Whether an agent of this standing may act.
pub(super) fn agent_may(standing: AgentStatus) -> Result<(), AuthError> {
    match standing {
        AgentStatus::Active => Ok(()),
        AgentStatus::Pending => Err(AuthError::AgentPending),
        AgentStatus::Expired => Err(AuthError::AgentExpired),
        AgentStatus::Revoked => Err(AuthError::AgentRevoked),
        AgentStatus::Rejected => Err(AuthError::AgentRejected),
        AgentStatus::Claimed => Err(AuthError::AgentClaimed),
    }
}
