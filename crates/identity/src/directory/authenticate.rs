//! From a token to somebody who may act.
//!
//! The order is that of Agent Auth Protocol v1.0-draft, sections 4.5 and 4.5.1; times are compared before the signature, which
//! is dearer and gives the same answer. Nothing is changed before the signature was verified, and nothing but
//! the key of a JWK set after it: what else a call changes, the caller asks for.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    AgentCell, Directory,
    draft::{agent_may, host_may},
};
use crate::{
    claims::{AgentClaims, HostClaims, KeySource, claim},
    error::{AuthError, ChangeError},
    event::EventKind,
    expect::{Expect, Once, Profile},
    id::{AgentId, HostId, UserId},
    jws::Jws,
    key::{PublicKey, Thumbprint},
    model::{Host, HostStatus, JwksRecord, KeyRecord, Mode},
};

/// An agent that sent a token of its own.
#[derive(Debug, Clone)]
pub struct Principal {
    agent: AgentId,
    host: HostId,
    user: Option<UserId>,
    mode: Mode,
    key: Thumbprint,
    capabilities: Option<BTreeSet<String>>,
    jti: String,
    once: Vec<Once>,
}

impl Principal {
    /// The agent.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// Its host.
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// The person it acts for: its host's user, if it is delegated.
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// On whose behalf it acts.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The thumbprint of the key that signed.
    pub fn key(&self) -> Thumbprint {
        self.key
    }

    /// What the token may be used for at most.
    pub fn capabilities(&self) -> Option<&BTreeSet<String>> {
        self.capabilities.as_ref()
    }

    /// The token's `jti`, to be remembered with what it begins.
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// What must be taken once before anything is done for the call: the token, and the DPoP proof if there is one. Empty for the token of
    /// an execution that is asked after.
    pub fn once(&self) -> &[Once] {
        &self.once
    }

    /// Whether the token covers the capability.
    pub fn covers(&self, capability: &str) -> bool {
        let named = |names: &BTreeSet<String>| names.contains(capability);
        self.capabilities.as_ref().is_none_or(named)
    }
}

/// A host that is known and sent a token of its own.
#[derive(Debug, Clone)]
pub struct HostPrincipal {
    host: HostId,
    key: Thumbprint,
    status: HostStatus,
    pub(super) agent_key: Option<Box<KeySource>>,
    once: Vec<Once>,
}

impl HostPrincipal {
    /// The host.
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// The thumbprint of the key that signed.
    pub fn key(&self) -> Thumbprint {
        self.key
    }

    /// Its state: active, or pending. Pending hosts may register agents and ask for their status.
    pub fn status(&self) -> HostStatus {
        self.status
    }
}

/// A host that nobody knows, and that has the key it says.
#[derive(Debug, Clone)]
pub struct Newcomer {
    pub(super) key: KeyRecord,
    pub(super) agent_key: Option<KeySource>,
    pub(super) name: Option<String>,
    once: Vec<Once>,
}

impl Newcomer {
    /// The thumbprint of its key.
    pub fn key(&self) -> Thumbprint {
        self.key.key.thumbprint()
    }
}

/// Who sent a host token.
#[derive(Debug, Clone)]
pub enum HostAuth {
    /// A host of the directory.
    Known(HostPrincipal),
    /// Another one. It can register and do nothing else.
    Unknown(Box<Newcomer>),
}

impl HostAuth {
    /// What must be taken once before anything is done.
    pub fn once(&self) -> &[Once] {
        match self {
            HostAuth::Known(host) => &host.once,
            HostAuth::Unknown(host) => &host.once,
        }
    }

    /// The host, where only a known one will do.
    pub fn known(&self) -> Result<&HostPrincipal, AuthError> {
        match self {
            HostAuth::Known(host) => Ok(host),
            HostAuth::Unknown(_) => Err(AuthError::UnknownHost),
        }
    }
}

impl Directory {
    /// Who sent an agent token. The caller has each of [`Principal::once`] taken once before it does anything else.
    pub fn authenticate_agent(
        &self,
        jws: &Jws,
        expect: &Expect<'_>,
    ) -> Result<Principal, AuthError> {
        let claims = AgentClaims::read(jws)?;
        if claims.iss.is_none() && expect.profile == Profile::Strict {
            return Err(claim("iss", "is missing").into());
        }
        expect.audience(&claims.aud)?;
        let cell = self
            .agents
            .get(&claims.sub)
            .ok_or(AuthError::UnknownAgent)?;
        let agent = &cell.agent;
        let host = self.hosts.get(&agent.host).ok_or(AuthError::UnknownAgent)?;
        if let Some(iss) = claims.iss
            && iss != host.key.key.thumbprint()
        {
            self.follows(&host, iss, expect)?;
        }
        self.may_act(&host, &cell, expect.now)?;
        claims.in_time(jws, expect)?;
        let key = agent_key(&cell, jws, expect)?;
        jws.verify(&key)?;
        let once = claims.bound(jws, expect)?;
        if key != agent.key.key {
            // A key of the agent's own JWK set that is new here: the old one ends.
            self.follow_agent_key(&agent.id, &key, jws.kid().unwrap_or_default(), expect.now)?;
        }
        Ok(Principal {
            agent: agent.id.clone(),
            host: host.id.clone(),
            user: match agent.mode {
                Mode::Delegated => host.user.clone(),
                Mode::Autonomous => None,
            },
            mode: agent.mode,
            key: key.thumbprint(),
            capabilities: claims.capabilities,
            jti: claims.jti,
            once,
        })
    }

    /// Who sent a host token. The caller has each of [`HostAuth::once`] taken once before it does anything else, whatever the route.
    pub fn authenticate_host(&self, jws: &Jws, expect: &Expect<'_>) -> Result<HostAuth, AuthError> {
        let claims = HostClaims::read(jws)?;
        expect.audience(&claims.aud)?;
        claims.in_time(jws, expect)?;
        let known = self
            .by_thumbprint
            .get(&claims.iss)
            .or_else(|| match &claims.host_key {
                KeySource::Jwks { url, .. } => self.by_url.get(url),
                KeySource::Inline(_) => None,
            });
        let host = known.and_then(|id| self.hosts.get(&id));
        let Some(host) = host else {
            let key = self.newcomer_key(&claims, expect)?;
            jws.verify(&key)?;
            return Ok(HostAuth::Unknown(Box::new(Newcomer {
                key: KeyRecord::new(key, &claims.host_key),
                once: claims.once(),
                agent_key: claims.agent_key,
                name: claims.host_name,
            })));
        };
        let record = &host.key;
        match (&claims.host_key, &record.jwks) {
            (KeySource::Inline(_), None) => {}
            (KeySource::Jwks { url, .. }, Some(jwks)) if *url == jwks.url => {}
            _ => return Err(AuthError::Delivery),
        }
        if record.retired.contains(&claims.iss) {
            return Err(AuthError::RetiredKey);
        }
        let key = match &claims.host_key {
            KeySource::Inline(key) if *key != record.key => {
                return Err(claim("host_public_key", "is not the key that iss names").into());
            }
            KeySource::Jwks { url, kid } if claims.iss != record.key.thumbprint() => {
                let fetched = expect.fetched(url, kid).ok_or_else(|| needs(url, kid))?;
                if fetched.thumbprint() != claims.iss {
                    return Err(
                        claim("iss", "is not the thumbprint of the key that kid names").into(),
                    );
                }
                fetched.clone()
            }
            _ => record.key.clone(),
        };
        jws.verify(&key)?;
        match host_may(host.status) {
            Ok(()) | Err(AuthError::HostPending) => {}
            Err(e) => return Err(e),
        }
        if key != record.key {
            self.follow_host_key(&host.id, &key, jws.kid().unwrap_or_default(), expect.now)?;
        }
        Ok(HostAuth::Known(HostPrincipal {
            host: host.id.clone(),
            key: claims.iss,
            status: host.status,
            once: claims.once(),
            agent_key: claims.agent_key.map(Box::new),
        }))
    }

    /// Whether who was authenticated before may still act: to be asked before each further step of a stream, a lease, an approved
    /// call. It may not once it, its host or its key has ended, or its session is over.
    pub fn check(&self, principal: &Principal, now: i64) -> Result<(), AuthError> {
        self.checked(principal, now).map(|_| ())
    }

    pub(super) fn checked(
        &self,
        principal: &Principal,
        now: i64,
    ) -> Result<Arc<AgentCell>, AuthError> {
        let cell = self
            .agents
            .get(&principal.agent)
            .ok_or(AuthError::UnknownAgent)?;
        let host = self
            .hosts
            .get(&cell.agent.host)
            .ok_or(AuthError::UnknownAgent)?;
        self.may_act(&host, &cell, now)?;
        match cell.agent.key.key.thumbprint() == principal.key {
            true => Ok(cell),
            false => Err(AuthError::RetiredKey),
        }
    }

    /// A host that was authenticated before, as it is now.
    pub(super) fn present(
        &self,
        principal: &HostPrincipal,
        pending_too: bool,
    ) -> Result<Arc<Host>, AuthError> {
        let host = self
            .hosts
            .get(&principal.host)
            .ok_or(AuthError::UnknownHost)?;
        match host_may(host.status) {
            Err(AuthError::HostPending) if pending_too => {}
            other => other?,
        }
        match host.key.key.thumbprint() == principal.key {
            true => Ok(host),
            false => Err(AuthError::RetiredKey),
        }
    }

    fn may_act(&self, host: &Host, cell: &AgentCell, now: i64) -> Result<(), AuthError> {
        // Of an agent and a host that ended both, the host's end is told, which is the reason.
        host_may(host.status)?;
        agent_may(
            cell.agent
                .standing(cell.used_at(), now, &self.settings.lifetimes),
        )
    }

    /// A token names its host by another key than the present one. That is right in one case: the host's JWK set has a new key, and the
    /// host has not come by itself since.
    fn follows(&self, host: &Host, iss: Thumbprint, expect: &Expect<'_>) -> Result<(), AuthError> {
        let Some(JwksRecord { url, .. }) = &host.key.jwks else {
            return Err(AuthError::UnknownAgent);
        };
        if host.key.retired.contains(&iss) {
            return Err(AuthError::RetiredKey);
        }
        let set = expect.fetched.iter().find(|set| set.url == *url);
        match set.map(|set| set.keys.of_thumbprint(iss)) {
            Some(Some(_)) => Ok(()),
            Some(None) => Err(AuthError::UnknownAgent),
            // Not by the name of the key that is known: a set that still has that one would be taken for new enough.
            None => Err(needs(url, &iss.to_string())),
        }
    }

    fn newcomer_key(
        &self,
        claims: &HostClaims,
        expect: &Expect<'_>,
    ) -> Result<PublicKey, AuthError> {
        let key = match &claims.host_key {
            KeySource::Inline(key) => key,
            KeySource::Jwks { url, kid } => {
                expect.fetched(url, kid).ok_or_else(|| needs(url, kid))?
            }
        };
        match key.thumbprint() == claims.iss {
            true => Ok(key.clone()),
            false => Err(claim("iss", "is not the thumbprint of the host's key").into()),
        }
    }

    /// A host's JWK set has a new key that signed a token: it counts from now on, the old one does not.
    fn follow_host_key(
        &self,
        id: &HostId,
        key: &PublicKey,
        kid: &str,
        now: i64,
    ) -> Result<(), AuthError> {
        let made = self.change(format!("host:{id}"), now, false, |draft| {
            let mut host = draft.host(id)?;
            if draft
                .host_of_key(key.thumbprint())
                .is_some_and(|other| other != *id)
                || host.key.retired.contains(&key.thumbprint())
            {
                return Err(AuthError::RetiredKey.into());
            }
            if host.key.key != *key {
                host.key.exchange(key.clone());
                host.key
                    .jwks
                    .iter_mut()
                    .for_each(|jwks| jwks.kid = kid.to_owned());
                draft.tell_host(EventKind::HostKeyRotated, id);
                draft.put_host(host);
            }
            Ok(())
        });
        made.map_err(narrow)
    }

    fn follow_agent_key(
        &self,
        id: &AgentId,
        key: &PublicKey,
        kid: &str,
        now: i64,
    ) -> Result<(), AuthError> {
        let made = self.change(format!("agent:{id}"), now, false, |draft| {
            let mut agent = draft.agent(id)?;
            if agent.key.key == *key {
                return Ok(());
            }
            if draft.agent_of_key(&agent.host, key.thumbprint()).is_some() {
                return Err(AuthError::RetiredKey.into());
            }
            agent.key.exchange(key.clone());
            agent
                .key
                .jwks
                .iter_mut()
                .for_each(|jwks| jwks.kid = kid.to_owned());
            draft.tell_agent(EventKind::AgentKeyRotated, &agent);
            draft.put_agent(agent);
            Ok(())
        });
        made.map_err(narrow)
    }
}

/// What following a key can come to.
fn narrow(e: ChangeError) -> AuthError {
    match e {
        ChangeError::Standing(e) => e,
        ChangeError::Store(e) | ChangeError::NotDurable(e) => AuthError::Store(e),
        _ => AuthError::UnknownAgent,
    }
}

pub(super) fn needs(url: &str, kid: &str) -> AuthError {
    AuthError::NeedsKeys {
        url: url.to_owned(),
        kid: kid.to_owned(),
    }
}

/// The key that must have signed: the record's, or another one of the record's JWK set.
fn agent_key(cell: &AgentCell, jws: &Jws, expect: &Expect<'_>) -> Result<PublicKey, AuthError> {
    let record = &cell.agent.key;
    let (Some(jwks), Some(kid)) = (&record.jwks, jws.kid()) else {
        return Ok(record.key.clone());
    };
    if kid == jwks.kid {
        return Ok(record.key.clone());
    }
    let key = expect
        .fetched(&jwks.url, kid)
        .ok_or_else(|| needs(&jwks.url, kid))?;
    Ok(key.clone())
}
