//! What agents ask for, what they get, and whether a call is within it.
//!
//! A grant is only ever narrowed: by what the agent proposed, by what the server imposes, by the host's default, by who approves.
//! A grant is made when it is asked for and decided, never by a call. What a person took back or denied comes back by a
//! person alone.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Directory, Principal,
    draft::{Draft, agent_may, host_may},
    register::{checked_length, may_be_active},
};
use crate::{
    claims::MAX_CAPABILITIES,
    constraint::Constraints,
    error::{ChangeError, Refusal},
    event::EventKind,
    id::AgentId,
    model::{Agent, AgentStatus, Grant, GrantStatus, Host},
};

/// The capabilities that there are, as the gateway or the control plane knows them.
pub trait Catalogue {
    /// What the server imposes on the capability for everybody, or `None` if there is no such capability.
    fn imposed(&self, capability: &str) -> Option<Constraints>;
}

/// A capability that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub capability: String,
    /// What the agent proposes its arguments to be.
    pub constraints: Constraints,
}

impl Wanted {
    /// The whole capability.
    pub fn new(capability: &str) -> Self {
        Wanted {
            capability: capability.to_owned(),
            constraints: Constraints::default(),
        }
    }

    /// Reads one item of a request's `capabilities`: a name, or an object with `name` and `constraints`.
    pub fn read(item: &Value) -> Result<Self, ChangeError> {
        const SHAPE: ChangeError =
            ChangeError::Invalid("a capability is a name, or an object with name and constraints");
        match item {
            Value::String(name) => Ok(Wanted::new(name)),
            Value::Object(members) => Ok(Wanted {
                capability: match members.get("name") {
                    Some(Value::String(name)) => name.clone(),
                    _ => return Err(SHAPE),
                },
                constraints: match members.get("constraints") {
                    None | Some(Value::Null) => Constraints::default(),
                    Some(all) => Constraints::read(all)?,
                },
            }),
            _ => Err(SHAPE),
        }
    }
}

/// A person's yes to a capability.
#[derive(Debug, Clone, Copy)]
pub struct Approval<'a> {
    /// What the arguments must be for the approver.
    pub constraints: &'a Constraints,
    /// When the grant ends, in seconds since 1970.
    pub expires_at: Option<i64>,
    /// Who it is, for the record.
    pub by: &'a str,
}

impl Directory {
    /// Whether the agent may use the capability with these arguments: its token covers it, it was granted and the grant counts,
    /// the arguments are within the constraints. `arguments` were read by [`parse_json`](crate::parse_json). Returns the grant.
    pub fn capable(
        &self,
        principal: &Principal,
        capability: &str,
        arguments: &Value,
        now: i64,
    ) -> Result<Grant, Refusal> {
        let cell = self.checked(principal, now)?;
        if !principal.covers(capability) {
            return Err(Refusal::NotInToken);
        }
        let grant = cell.agent.grants.get(capability);
        let Some(grant) = grant.filter(|grant| grant.is_active(now)) else {
            return Err(Refusal::NotGranted(grant.map(|grant| grant.status)));
        };
        if !arguments.is_object() && !arguments.is_null() {
            return Err(Refusal::Arguments);
        }
        let violations = grant.constraints.violations(arguments);
        match violations.is_empty() {
            true => Ok(grant.clone()),
            false => Err(Refusal::Violated(violations)),
        }
    }

    /// The agent's grants as far as its token covers them, by capability.
    pub fn grants(&self, principal: &Principal, now: i64) -> Result<Vec<(String, Grant)>, Refusal> {
        let cell = self.checked(principal, now)?;
        let covered = cell.agent.grants.iter();
        let covered = covered.filter(|(name, _)| principal.covers(name));
        Ok(covered.map(|(n, g)| (n.clone(), g.clone())).collect())
    }

    /// An agent asks for more. What its host has as a default is granted at once, the rest waits. What is active stays as it is,
    /// what waits is not asked for twice. Returns the names that were asked for and are not active from before.
    pub fn request_capability(
        &self,
        principal: &Principal,
        wanted: &[Wanted],
        reason: Option<&str>,
        catalogue: &dyn Catalogue,
        now: i64,
    ) -> Result<Vec<String>, ChangeError> {
        if let Some(reason) = reason {
            checked_length(reason, 500, "the reason has at most 500 characters")?;
        }
        if wanted.is_empty() {
            return Err(ChangeError::Invalid("no capability is asked for"));
        }
        // A token for some capabilities does not widen what its agent has.
        if wanted.iter().any(|w| !principal.covers(&w.capability)) {
            return Err(Refusal::NotInToken.into());
        }
        self.change(
            format!("agent:{}", principal.agent()),
            now,
            false,
            |draft| {
                self.checked(principal, now)?;
                let mut agent = draft.agent(principal.agent())?;
                let host = draft.host(&agent.host)?;
                let asked = draft.request(&mut agent, &host, wanted, reason, catalogue)?;
                if asked.is_empty() {
                    return Err(ChangeError::AlreadyGranted);
                }
                draft.put_agent(agent);
                Ok(asked)
            },
        )
    }

    /// Grants a capability: one that is asked for, or, if nobody asked, out of the approver's own will. What the agent
    /// proposed, what the server imposes and what the approver demands all hold. A waiting agent becomes active.
    pub fn grant(
        &self,
        agent: &AgentId,
        capability: &str,
        approval: &Approval<'_>,
        catalogue: &dyn Catalogue,
        now: i64,
    ) -> Result<(), ChangeError> {
        let Approval {
            constraints,
            expires_at,
            by,
        } = *approval;
        let imposed = catalogue
            .imposed(capability)
            .ok_or_else(|| ChangeError::InvalidCapabilities(vec![capability.to_owned()]))?;
        if expires_at.is_some_and(|end| end <= now) {
            return Err(ChangeError::Invalid("the grant would be over already"));
        }
        self.change(by.to_owned(), now, false, |draft| {
            let mut agent = draft.agent(agent)?;
            draft.decidable(&agent)?;
            let id = draft.fresh("grt")?;
            let grant = agent.grants.entry(capability.to_owned());
            let grant = grant.or_insert_with(|| new_grant(id, now));
            if grant.is_active(now) {
                return Err(ChangeError::AlreadyGranted);
            }
            grant.status = GrantStatus::Active;
            grant.constraints = grant.constraints.narrowed(&imposed).narrowed(constraints);
            grant.by = Some(by.to_owned());
            grant.expires_at = expires_at;
            grant.updated_at = now;
            draft.tell_grant(EventKind::CapabilityGranted, &agent, capability);
            draft.decided(agent)
        })
    }

    /// Denies a capability that is asked for. A waiting agent of which nothing waits any more becomes active, with what it was
    /// granted, which may be nothing.
    pub fn deny(
        &self,
        agent: &AgentId,
        capability: &str,
        reason: Option<&str>,
        by: &str,
        now: i64,
    ) -> Result<(), ChangeError> {
        self.take(agent, capability, reason, by, now, GrantStatus::Denied)
    }

    /// Takes a granted capability back.
    pub fn revoke_grant(
        &self,
        agent: &AgentId,
        capability: &str,
        reason: Option<&str>,
        by: &str,
        now: i64,
    ) -> Result<(), ChangeError> {
        self.take(agent, capability, reason, by, now, GrantStatus::Revoked)
    }

    fn take(
        &self,
        agent: &AgentId,
        capability: &str,
        reason: Option<&str>,
        by: &str,
        now: i64,
        to: GrantStatus,
    ) -> Result<(), ChangeError> {
        let (from, kind) = match to {
            GrantStatus::Denied => (GrantStatus::Pending, EventKind::CapabilityDenied),
            _ => (GrantStatus::Active, EventKind::CapabilityRevoked),
        };
        let takes_away = to == GrantStatus::Revoked;
        self.change(by.to_owned(), now, takes_away, |draft| {
            let mut agent = draft.agent(agent)?;
            let Some(grant) = agent.grants.get_mut(capability) else {
                return Err(ChangeError::Invalid(
                    "the agent has not asked for this capability",
                ));
            };
            if grant.status == to {
                return Ok(());
            }
            if grant.status != from {
                return Err(ChangeError::Invalid("the grant is in another state"));
            }
            grant.status = to;
            grant.by = Some(by.to_owned());
            grant.reason = reason.map(str::to_owned);
            grant.updated_at = now;
            draft.tell_grant(kind, &agent, capability);
            match to {
                GrantStatus::Denied => draft.decided(agent),
                _ => {
                    draft.put_agent(agent);
                    Ok(())
                }
            }
        })
    }

    /// What the host's agents get without asking a person. What was granted before stays.
    pub fn set_defaults(
        &self,
        host: &crate::HostId,
        defaults: &[Wanted],
        by: &str,
        catalogue: &dyn Catalogue,
        now: i64,
    ) -> Result<(), ChangeError> {
        unknown(defaults, catalogue)?;
        self.change(by.to_owned(), now, false, |draft| {
            let mut host = draft.host(host)?;
            let named = defaults.iter();
            host.defaults = named
                .map(|w| (w.capability.clone(), w.constraints.clone()))
                .collect();
            draft.tell_host(EventKind::HostUpdated, &host.id);
            draft.put_host(host);
            Ok(())
        })
    }
}

impl Draft<'_> {
    /// Puts what is asked for into the agent's grants and returns the names of what was not active before.
    pub(super) fn request(
        &mut self,
        agent: &mut Agent,
        host: &Host,
        wanted: &[Wanted],
        reason: Option<&str>,
        catalogue: &dyn Catalogue,
    ) -> Result<Vec<String>, ChangeError> {
        unknown(wanted, catalogue)?;
        let mut asked = Vec::new();
        for Wanted {
            capability,
            constraints,
        } in wanted
        {
            let before = agent.grants.get(capability);
            if before.is_some_and(|grant| grant.is_active(self.now)) {
                continue;
            }
            asked.push(capability.clone());
            if before.is_some_and(|grant| grant.status == GrantStatus::Pending) {
                continue;
            }
            // What a person decided before is not decided otherwise by a default.
            let decided = before.is_some_and(|grant| grant.by.is_some());
            let default = host.defaults.get(capability);
            let default = default.filter(|_| !decided && may_be_active(host, agent.mode));
            let imposed = catalogue.imposed(capability).unwrap_or_default();
            let mut grant = new_grant(self.fresh("grt")?, self.now);
            grant.constraints = imposed.narrowed(constraints);
            grant.reason = reason.map(str::to_owned);
            self.tell_grant(EventKind::CapabilityRequested, agent, capability);
            if let Some(default) = default {
                grant.constraints = grant.constraints.narrowed(default);
                grant.status = GrantStatus::Active;
                self.tell_grant(EventKind::CapabilityGranted, agent, capability);
            }
            agent.grants.insert(capability.clone(), grant);
        }
        if agent.grants.len() > MAX_CAPABILITIES {
            return Err(ChangeError::Limit("capabilities of this agent"));
        }
        Ok(asked)
    }

    /// Whether a person may decide about the agent's requests: it and its host are there, and there is somebody it acts for.
    pub(super) fn decidable(&self, agent: &Agent) -> Result<Host, ChangeError> {
        let host = self.host(&agent.host)?;
        host_may(host.status)?;
        match self.standing(agent) {
            AgentStatus::Pending => {}
            other => agent_may(other)?,
        }
        match may_be_active(&host, agent.mode) {
            true => Ok(host),
            false => Err(ChangeError::Invalid(
                "the host belongs to nobody: link it to the person its agents act for",
            )),
        }
    }

    /// A person decided something about the agent. It waits no longer, unless all that was decided are denials and more waits.
    fn decided(&mut self, mut agent: Agent) -> Result<(), ChangeError> {
        let status = |wanted| agent.grants.values().any(|grant| grant.status == wanted);
        let go = status(GrantStatus::Active) || !status(GrantStatus::Pending);
        if agent.status == AgentStatus::Pending && go && self.decidable(&agent).is_ok() {
            self.activate(&mut agent);
        }
        self.put_agent(agent);
        Ok(())
    }

    pub(super) fn activate(&mut self, agent: &mut Agent) {
        agent.status = AgentStatus::Active;
        agent.activated_at = Some(self.now);
        self.tell_agent(EventKind::AgentActivated, agent);
    }
}

fn new_grant(id: crate::GrantId, now: i64) -> Grant {
    Grant {
        id,
        status: GrantStatus::Pending,
        constraints: Constraints::default(),
        by: None,
        reason: None,
        expires_at: None,
        created_at: now,
        updated_at: now,
    }
}

/// All names are known, and each stands there once.
fn unknown(wanted: &[Wanted], catalogue: &dyn Catalogue) -> Result<(), ChangeError> {
    if wanted.len() > MAX_CAPABILITIES {
        return Err(ChangeError::Limit("capabilities in the request"));
    }
    let mut names = BTreeSet::new();
    if !wanted.iter().all(|w| names.insert(w.capability.as_str())) {
        return Err(ChangeError::Invalid("a capability is asked for twice"));
    }
    let missing = names.into_iter().filter(|n| catalogue.imposed(n).is_none());
    let missing: Vec<String> = missing.map(str::to_owned).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(ChangeError::InvalidCapabilities(missing)),
    }
}
