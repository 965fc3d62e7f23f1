//! How hosts and agents come into use, end, and exchange their keys.
//!
//! The end of a host is the end of its agents, in one change: they are dead for every reader from the moment the host's record is
//! seen, whatever is still written about them. What ends does not come back.

use std::sync::Arc;

use super::{
    By, Directory, HostPrincipal,
    draft::{Draft, agent_may},
    register::may_be_active,
};
use crate::{
    error::{AuthError, ChangeError},
    event::EventKind,
    id::{AgentId, HostId, UserId},
    key::PublicKey,
    model::{Agent, AgentStatus, GrantStatus, Host, HostStatus, Mode},
};

/// An agent as it is at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentView {
    /// Its record.
    pub agent: Agent,
    /// What it is now, with what the clocks say.
    pub standing: AgentStatus,
    /// When it was used last, in seconds since 1970.
    pub used_at: Option<i64>,
    /// When it expires if it is not used again, while it is active.
    pub expires_at: Option<i64>,
}

impl Directory {
    /// The agent as it is now. A host sees its own alone, also while it waits for approval.
    pub fn status(&self, by: By<'_>, id: &AgentId, now: i64) -> Result<AgentView, ChangeError> {
        let cell = self.agents.get(id).ok_or(ChangeError::AgentNotFound)?;
        if let By::Host(host) = by {
            self.present(host, true)?;
            if cell.agent.host != *host.host() {
                return Err(ChangeError::AgentNotFound);
            }
        }
        let lifetimes = &self.settings.lifetimes;
        let used_at = cell.used_at();
        let mut standing = cell.agent.standing(used_at, now, lifetimes);
        // Between two records of one cascade the host's counts.
        let host = self.hosts.get(&cell.agent.host);
        if host.is_none_or(|host| matches!(host.status, HostStatus::Revoked | HostStatus::Rejected))
            && !standing.has_ended()
        {
            standing = AgentStatus::Revoked;
        }
        let active = standing == AgentStatus::Active;
        let expires_at = cell.agent.expires_at(used_at, lifetimes);
        Ok(AgentView {
            agent: cell.agent.clone(),
            standing,
            used_at: (used_at > 0).then_some(used_at),
            expires_at: expires_at.filter(|_| active),
        })
    }

    /// The host's agents that have not ended, by id. Waits for a change that is being written.
    pub fn agents_of(&self, host: &HostId, now: i64) -> Result<Vec<AgentView>, ChangeError> {
        let ids = self.lock()?.of_host.get(host).cloned().unwrap_or_default();
        let view = |id: &AgentId| self.status(By::Operator(""), id, now);
        ids.iter().map(view).collect()
    }

    /// Approves a waiting host, as belonging to `user` or to nobody (for autonomous agents). Its agents are approved one by one.
    pub fn approve_host(
        &self,
        id: &HostId,
        user: Option<&UserId>,
        by: &str,
        now: i64,
    ) -> Result<(), ChangeError> {
        self.change(by.to_owned(), now, false, |draft| {
            let mut host = draft.host(id)?;
            match host.status {
                HostStatus::Pending => {}
                HostStatus::Active => {
                    return Err(ChangeError::Invalid("the host is approved already"));
                }
                _ => return Err(AuthError::HostRevoked.into()),
            }
            host.status = HostStatus::Active;
            host.user = user.cloned();
            draft.tell_host(EventKind::HostApproved, id);
            draft.put_host(host);
            Ok(())
        })
    }

    /// Approves a waiting agent without a grant.
    pub fn approve_agent(&self, id: &AgentId, by: &str, now: i64) -> Result<(), ChangeError> {
        self.change(by.to_owned(), now, false, |draft| {
            let mut agent = draft.agent(id)?;
            draft.decidable(&agent)?;
            if agent.status == AgentStatus::Pending {
                draft.activate(&mut agent);
                draft.put_agent(agent);
            }
            Ok(())
        })
    }

    /// Gives a host to a person. Its autonomous agents end as claimed: what they may do was granted to nobody's agent.
    pub fn link(&self, id: &HostId, user: &UserId, by: &str, now: i64) -> Result<(), ChangeError> {
        self.change(by.to_owned(), now, false, |draft| {
            let mut host = draft.host(id)?;
            if host.status != HostStatus::Active {
                return Err(super::draft::host_may(host.status)
                    .map_or_else(Into::into, |()| ChangeError::HostNotFound));
            }
            match &host.user {
                Some(present) if present == user => return Ok(()),
                Some(_) => {
                    return Err(ChangeError::Invalid(
                        "the host belongs to somebody; unlink it first",
                    ));
                }
                None => host.user = Some(user.clone()),
            }
            draft.tell_host(EventKind::HostLinked, id);
            draft.put_host(host);
            draft.end_agents(id, AgentStatus::Claimed, |agent| {
                agent.mode == Mode::Autonomous
            })?;
            Ok(())
        })
    }

    /// Takes a host from its person. Its delegated agents are revoked; returns how many.
    pub fn unlink(&self, id: &HostId, by: &str, now: i64) -> Result<usize, ChangeError> {
        self.change(by.to_owned(), now, true, |draft| {
            let mut host = draft.host(id)?;
            if host.user.take().is_none() {
                return Ok(0);
            }
            draft.tell_host(EventKind::HostUnlinked, id);
            draft.put_host(host);
            draft.end_agents(id, AgentStatus::Revoked, |agent| {
                agent.mode == Mode::Delegated
            })
        })
    }

    /// Revokes a host and all its agents; returns how many agents. Again: nothing happens.
    pub fn revoke_host(&self, by: By<'_>, id: &HostId, now: i64) -> Result<usize, ChangeError> {
        if let By::Host(host) = by
            && host.host() != id
        {
            return Err(ChangeError::HostNotFound);
        }
        self.change(by.to_string(), now, true, |draft| {
            if let By::Host(host) = by {
                self.present(host, false)?;
            }
            draft.end_host(id, HostStatus::Revoked)
        })
    }

    /// Rejects a waiting host and all its agents; returns how many agents.
    pub fn reject_host(&self, id: &HostId, by: &str, now: i64) -> Result<usize, ChangeError> {
        self.change(by.to_owned(), now, true, |draft| {
            match draft.host(id)?.status {
                HostStatus::Pending => draft.end_host(id, HostStatus::Rejected),
                HostStatus::Rejected => Ok(0),
                _ => Err(ChangeError::Invalid("the host does not wait; revoke it")),
            }
        })
    }

    /// A person is gone: all their hosts are revoked, with all agents. Returns how many hosts and agents.
    pub fn delete_user(
        &self,
        user: &UserId,
        by: &str,
        now: i64,
    ) -> Result<(usize, usize), ChangeError> {
        self.change(by.to_owned(), now, true, |draft| {
            let mut hosts = Vec::new();
            self.hosts.for_each(|id, host| {
                if host.user.as_ref() == Some(user) && host.status == HostStatus::Active {
                    hosts.push(id.clone());
                }
            });
            let mut agents = 0;
            for id in &hosts {
                agents += draft.end_host(id, HostStatus::Revoked)?;
            }
            Ok((hosts.len(), agents))
        })
    }

    /// Revokes an agent. Again: nothing happens.
    pub fn revoke_agent(&self, by: By<'_>, id: &AgentId, now: i64) -> Result<(), ChangeError> {
        self.change(by.to_string(), now, true, |draft| {
            let agent = draft.own_agent(by, id)?;
            draft.end_agent(agent, AgentStatus::Revoked);
            Ok(())
        })
    }

    /// Rejects a waiting agent.
    pub fn reject_agent(&self, id: &AgentId, by: &str, now: i64) -> Result<(), ChangeError> {
        self.change(by.to_owned(), now, true, |draft| {
            let agent = draft.agent(id)?;
            match agent.status {
                AgentStatus::Pending | AgentStatus::Rejected => {
                    draft.end_agent(agent, AgentStatus::Rejected);
                    Ok(())
                }
                _ => Err(ChangeError::Invalid("the agent does not wait; revoke it")),
            }
        })
    }

    /// Brings an expired agent back. Its grants decay: what its host's defaults do not cover is gone, and what they cover is no
    /// wider than before. An active agent stays as it is.
    pub fn reactivate(&self, by: By<'_>, id: &AgentId, now: i64) -> Result<(), ChangeError> {
        self.change(by.to_string(), now, false, |draft| {
            let mut agent = draft.own_agent(by, id)?;
            let host = draft.host(&agent.host)?;
            super::draft::host_may(host.status)?;
            match draft.standing(&agent) {
                AgentStatus::Active => return Ok(()),
                AgentStatus::Expired => {}
                AgentStatus::Revoked if agent.status != AgentStatus::Revoked => {
                    return Err(ChangeError::AbsoluteLifetime);
                }
                other => agent_may(other)?,
            }
            if !may_be_active(&host, agent.mode) {
                return Err(ChangeError::Invalid("the host belongs to nobody"));
            }
            draft.room(&host.id)?;
            agent.grants.retain(|name, grant| {
                let default = host.defaults.get(name);
                if let Some(default) = default.filter(|_| grant.is_active(now)) {
                    grant.constraints = grant.constraints.narrowed(default);
                    return true;
                }
                // What a person took away is remembered, so that a default does not bring it back.
                matches!(grant.status, GrantStatus::Denied | GrantStatus::Revoked)
            });
            agent.status = AgentStatus::Active;
            agent.activated_at = Some(now);
            draft.tell_agent(EventKind::AgentReactivated, &agent);
            draft.put_agent(agent);
            Ok(())
        })
    }

    /// Exchanges an agent's key. The old one is dead at once and for ever.
    pub fn rotate_agent_key(
        &self,
        by: By<'_>,
        id: &AgentId,
        key: &PublicKey,
        now: i64,
    ) -> Result<(), ChangeError> {
        self.change(by.to_string(), now, true, |draft| {
            let mut agent = draft.own_agent(by, id)?;
            match draft.standing(&agent) {
                AgentStatus::Pending | AgentStatus::Expired => {}
                other => agent_may(other)?,
            }
            if agent.key.jwks.is_some() {
                return Err(AuthError::Delivery.into());
            }
            if draft.agent_of_key(&agent.host, key.thumbprint()).is_some()
                || draft.host_of_key(key.thumbprint()).is_some()
            {
                return Err(ChangeError::Invalid(
                    "the key is or was in use; make a new one",
                ));
            }
            agent.key.exchange(key.clone());
            draft.tell_agent(EventKind::AgentKeyRotated, &agent);
            draft.put_agent(agent);
            Ok(())
        })
    }

    /// Exchanges a host's key, asked for with the present one. That is dead at once and for ever; agents name their host by the new one.
    pub fn rotate_host_key(
        &self,
        host: &HostPrincipal,
        key: &PublicKey,
        now: i64,
    ) -> Result<(), ChangeError> {
        self.change(By::Host(host).to_string(), now, true, |draft| {
            let mut host = Host::clone(&*self.present(host, false)?);
            if host.key.jwks.is_some() {
                return Err(AuthError::Delivery.into());
            }
            if draft.host_of_key(key.thumbprint()).is_some()
                || draft.agent_of_key(&host.id, key.thumbprint()).is_some()
            {
                return Err(ChangeError::Invalid(
                    "the key is or was in use; make a new one",
                ));
            }
            host.key.exchange(key.clone());
            draft.tell_host(EventKind::HostKeyRotated, &host.id);
            draft.put_host(host);
            Ok(())
        })
    }
}

impl Draft<'_> {
    /// The agent, if whoever asks may change it: a host that is active, its own.
    fn own_agent(&self, by: By<'_>, id: &AgentId) -> Result<Agent, ChangeError> {
        let agent = self.agent(id)?;
        if let By::Host(host) = by {
            let host: Arc<Host> = self.directory.present(host, false)?;
            if agent.host != host.id {
                return Err(ChangeError::AgentNotFound);
            }
        }
        Ok(agent)
    }

    fn end_host(&mut self, id: &HostId, to: HostStatus) -> Result<usize, ChangeError> {
        let mut host = self.host(id)?;
        let (kind, agents) = match to {
            HostStatus::Rejected => (EventKind::HostRejected, AgentStatus::Rejected),
            _ => (EventKind::HostRevoked, AgentStatus::Revoked),
        };
        match host.status {
            HostStatus::Revoked | HostStatus::Rejected => return Ok(0),
            HostStatus::Pending | HostStatus::Active => host.status = to,
        }
        self.tell_host(kind, id);
        self.put_host(host);
        self.end_agents(id, agents, |_| true)
    }

    /// Ends those agents of a host that have not ended.
    fn end_agents(
        &mut self,
        host: &HostId,
        to: AgentStatus,
        which: impl Fn(&Agent) -> bool,
    ) -> Result<usize, ChangeError> {
        let mut ended = 0;
        for id in self.agents_of(host) {
            let agent = self.agent(&id)?;
            if which(&agent) {
                ended += usize::from(self.end_agent(agent, to));
            }
        }
        Ok(ended)
    }

    /// Ends an agent that has not ended; says whether.
    fn end_agent(&mut self, mut agent: Agent, to: AgentStatus) -> bool {
        if agent.status.has_ended() {
            return false;
        }
        agent.status = to;
        self.tell_agent(
            match to {
                AgentStatus::Rejected => EventKind::AgentRejected,
                AgentStatus::Claimed => EventKind::AgentClaimed,
                _ => EventKind::AgentRevoked,
            },
            &agent,
        );
        self.put_agent(agent);
        true
    }
}
