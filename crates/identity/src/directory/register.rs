//! New agents, and the hosts that bring them.

use super::{
    By, Catalogue, Directory, HostAuth,
    authenticate::needs,
    draft::{Draft, host_may},
    grants::Wanted,
};
use crate::{
    claims::{KeySource, MAX_CAPABILITIES},
    error::{AuthError, ChangeError},
    event::EventKind,
    expect::Expect,
    id::{AgentId, HostId},
    key::PublicKey,
    model::{Agent, AgentStatus, GrantStatus, Host, HostStatus, KeyRecord, Mode},
};

/// Longest name of an agent or a host, in characters.
pub const MAX_NAME: usize = 200;

/// An agent to be registered. Its key stands in the host's token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Registration {
    /// What the host calls it; at most 200 characters.
    pub name: String,
    /// On whose behalf it acts.
    pub mode: Mode,
    /// What it asks for. `None`: what the host's agents get without asking.
    pub capabilities: Option<Vec<Wanted>>,
    /// Why; at most 500 characters.
    pub reason: Option<String>,
}

/// What came of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The agent; its state and grants are asked for with [`Directory::status`].
    pub agent: AgentId,
    /// Its host.
    pub host: HostId,
    /// Whether it was there and waits. A host that did not get the answer asks again.
    pub existing: bool,
}

impl Directory {
    /// Registers an agent. One from an unknown host waits with it for approval; one from a host that belongs to somebody (or an
    /// autonomous one) is active unless something it asks for has to be approved. The same key under the same host is the
    /// same agent while it waits, and refused afterwards.
    pub fn register(
        &self,
        host: &HostAuth,
        wanted: &Registration,
        catalogue: &dyn Catalogue,
        expect: &Expect<'_>,
    ) -> Result<Registered, ChangeError> {
        checked_text(
            &wanted.name,
            MAX_NAME,
            "the agent's name is 1 to 200 characters",
        )?;
        if let Some(reason) = &wanted.reason {
            checked_length(reason, 500, "the reason has at most 500 characters")?;
        }
        let source = match host {
            HostAuth::Known(known) => known.agent_key.as_deref(),
            HostAuth::Unknown(newcomer) => newcomer.agent_key.as_ref(),
        };
        let source = source.as_ref().ok_or(ChangeError::Invalid(
            "the host's token has no key of the agent",
        ))?;
        let key = resolved(source, expect)?;
        let by = match host {
            HostAuth::Known(known) => By::Host(known).to_string(),
            HostAuth::Unknown(newcomer) => format!("host:{}", newcomer.key()),
        };
        self.change(by, expect.now, false, |draft| {
            let host = match host {
                HostAuth::Known(known) => Host::clone(&*self.present(known, true)?),
                HostAuth::Unknown(newcomer) => match draft.host_of_key(newcomer.key()) {
                    // It registered twice at once.
                    Some(id) => draft.host(&id)?,
                    None => self.newcomer(draft, newcomer)?,
                },
            };
            if let Err(e @ AuthError::HostRevoked) = host_may(host.status) {
                return Err(e.into());
            }
            draft.register(&host, &key, source, wanted, catalogue)
        })
    }

    fn newcomer(
        &self,
        draft: &mut Draft<'_>,
        newcomer: &super::Newcomer,
    ) -> Result<Host, ChangeError> {
        if !self.settings.dynamic_registration {
            return Err(ChangeError::NoDynamicRegistration);
        }
        let mut waiting = 0;
        self.hosts.for_each(|_, host| {
            waiting += usize::from(host.status == HostStatus::Pending);
        });
        if waiting >= self.settings.limits.pending_hosts {
            return Err(ChangeError::Limit("hosts that wait for approval"));
        }
        if let Some(name) = &newcomer.name {
            checked_text(name, MAX_NAME, "the host's name is 1 to 200 characters")?;
        }
        let host = Host {
            id: draft.fresh("hst")?,
            key: newcomer.key.clone(),
            status: HostStatus::Pending,
            user: None,
            name: newcomer.name.clone(),
            defaults: Default::default(),
            created_at: draft.now,
            updated_at: draft.now,
        };
        draft.tell_host(EventKind::HostCreated, &host.id);
        draft.put_host(host.clone());
        Ok(host)
    }

    /// Enrols a host that a person or the control plane knows: it is active at once and its agents need no approval for the
    /// defaults.
    pub fn enrol_host(
        &self,
        key: &PublicKey,
        name: Option<&str>,
        by: &str,
        now: i64,
    ) -> Result<HostId, ChangeError> {
        if let Some(name) = name {
            checked_text(name, MAX_NAME, "the host's name is 1 to 200 characters")?;
        }
        self.change(by.to_owned(), now, false, |draft| {
            if draft.host_of_key(key.thumbprint()).is_some() {
                return Err(ChangeError::Invalid(
                    "there is a host with this key already",
                ));
            }
            let host = Host {
                id: draft.fresh("hst")?,
                key: KeyRecord::new(key.clone(), &KeySource::Inline(key.clone())),
                status: HostStatus::Active,
                user: None,
                name: name.map(str::to_owned),
                defaults: Default::default(),
                created_at: now,
                updated_at: now,
            };
            let id = host.id.clone();
            draft.tell_host(EventKind::HostCreated, &id);
            draft.tell_host(EventKind::HostApproved, &id);
            draft.put_host(host);
            Ok(id)
        })
    }
}

impl Draft<'_> {
    fn register(
        &mut self,
        host: &Host,
        key: &PublicKey,
        source: &KeySource,
        wanted: &Registration,
        catalogue: &dyn Catalogue,
    ) -> Result<Registered, ChangeError> {
        let thumbprint = key.thumbprint();
        if self.host_of_key(thumbprint).is_some() {
            return Err(ChangeError::Invalid(
                "the agent's key is a host's key; make a new one",
            ));
        }
        if let Some(id) = self.agent_of_key(&host.id, thumbprint) {
            let agent = self.agent(&id)?;
            let waits = self.standing(&agent) == AgentStatus::Pending;
            if !waits || agent.key.key != *key {
                return Err(ChangeError::AgentExists);
            }
            return Ok(Registered {
                agent: id,
                host: host.id.clone(),
                existing: true,
            });
        }
        self.room(&host.id)?;
        let mut agent = Agent {
            id: self.fresh("agt")?,
            host: host.id.clone(),
            key: KeyRecord::new(key.clone(), source),
            status: AgentStatus::Pending,
            mode: wanted.mode,
            name: wanted.name.clone(),
            grants: Default::default(),
            created_at: self.now,
            activated_at: None,
            used_at: None,
            updated_at: self.now,
        };
        self.tell_agent(EventKind::AgentCreated, &agent);
        let defaults = || host.defaults.keys().map(|name| Wanted::new(name));
        let all = match &wanted.capabilities {
            Some(all) => all.clone(),
            None => defaults().take(MAX_CAPABILITIES).collect(),
        };
        self.request(&mut agent, host, &all, wanted.reason.as_deref(), catalogue)?;
        let waits = |grant: &crate::Grant| grant.status == GrantStatus::Pending;
        if may_be_active(host, agent.mode) && !agent.grants.values().any(waits) {
            agent.status = AgentStatus::Active;
            agent.activated_at = Some(self.now);
            self.tell_agent(EventKind::AgentActivated, &agent);
        }
        let registered = Registered {
            agent: agent.id.clone(),
            host: host.id.clone(),
            existing: false,
        };
        self.put_agent(agent);
        Ok(registered)
    }
}

/// Whether an agent of this host needs no person's word: a delegated one acts for the host's user.
pub(super) fn may_be_active(host: &Host, mode: Mode) -> bool {
    host.status == HostStatus::Active && (mode == Mode::Autonomous || host.user.is_some())
}

fn resolved(source: &KeySource, expect: &Expect<'_>) -> Result<PublicKey, AuthError> {
    match source {
        KeySource::Inline(key) => Ok(key.clone()),
        KeySource::Jwks { url, kid } => {
            let key = expect.fetched(url, kid);
            key.cloned().ok_or_else(|| needs(url, kid))
        }
    }
}

/// A short text in one line.
pub(super) fn checked_text(
    text: &str,
    limit: usize,
    problem: &'static str,
) -> Result<(), ChangeError> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(ChangeError::Invalid(problem));
    }
    checked_length(text, limit, problem)
}

pub(super) fn checked_length(
    text: &str,
    limit: usize,
    problem: &'static str,
) -> Result<(), ChangeError> {
    match text.chars().count() <= limit {
        true => Ok(()),
        false => Err(ChangeError::Invalid(problem)),
    }
}
