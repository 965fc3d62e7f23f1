//! Hosts, agents and grants as they are kept, and what their clocks say.
//!
//! A record says what happened; whether an agent may act *now* follows from the record and the moment
//! ([`Agent::standing`]). So nothing has to run for an agent to expire, and a process that was stopped for a week is right at
//! once. All moments are seconds since 1970.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    claims::KeySource,
    constraint::Constraints,
    id::{AgentId, GrantId, HostId, UserId},
    key::{PublicKey, Thumbprint},
};

/// A key and where it is from. How a key is delivered is fixed at registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The key that counts.
    pub key: PublicKey,
    /// The address of its JWK set and its name there; absent if the key was handed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<JwksRecord>,
    /// Thumbprints of earlier keys. They never count again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Thumbprint>,
}

/// A key in a JWK set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwksRecord {
    /// The set's address.
    pub url: String,
    /// The key's name in it.
    pub kid: String,
}

impl KeyRecord {
    /// A key from the source; one from a set was fetched by the caller.
    pub(crate) fn new(key: PublicKey, source: &KeySource) -> Self {
        let jwks = match source {
            KeySource::Inline(_) => None,
            KeySource::Jwks { url, kid } => Some(JwksRecord {
                url: url.clone(),
                kid: kid.clone(),
            }),
        };
        KeyRecord {
            key,
            jwks,
            retired: Vec::new(),
        }
    }

    pub(crate) fn exchange(&mut self, key: PublicKey) {
        self.retired.push(self.key.thumbprint());
        self.key = key;
    }
}

/// The state of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostStatus {
    /// Waits for a person. It may register agents and ask for their status.
    Pending,
    /// In use.
    Active,
    /// Ended, with all its agents.
    Revoked,
    /// Never approved, with all its agents.
    Rejected,
}

/// A persistent client environment with a key: a laptop's agent program, a CI runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its id; it stays when the key is exchanged.
    pub id: HostId,
    /// Its key. The thumbprint is the `iss` of its tokens and its agents' tokens.
    pub key: KeyRecord,
    /// Its state.
    pub status: HostStatus,
    /// The person it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// What it calls itself: written by the host, to be escaped where it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What its agents get without a person being asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defaults: BTreeMap<String, Constraints>,
    /// When it was first seen.
    pub created_at: i64,
    /// When the record was changed last.
    pub updated_at: i64,
}

/// The state of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    /// Waits for a person.
    Pending,
    /// In use.
    Active,
    /// A session or maximum lifetime is over. The host can reactivate it.
    Expired,
    /// Ended.
    Revoked,
    /// Never approved.
    Rejected,
    /// It was autonomous, and its host now belongs to a person. Ended.
    Claimed,
}

impl AgentStatus {
    /// Whether it never acts again.
    pub const fn has_ended(self) -> bool {
        match self {
            AgentStatus::Pending | AgentStatus::Active | AgentStatus::Expired => false,
            AgentStatus::Revoked | AgentStatus::Rejected | AgentStatus::Claimed => true,
        }
    }
}

/// On whose behalf an agent acts. Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On behalf of the host's user.
    #[default]
    Delegated,
    /// On its own.
    Autonomous,
}

/// The state of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantStatus {
    /// Waits for a person.
    Pending,
    /// Granted.
    Active,
    /// Refused.
    Denied,
    /// Taken back.
    Revoked,
}

/// One capability of one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id; it stays while the grant is pending and after it was decided.
    pub id: GrantId,
    /// Its state.
    pub status: GrantStatus,
    /// What the arguments must be: of the agent's proposal, the server and the approver, the tightest.
    #[serde(default, skip_serializing_if = "Constraints::is_empty")]
    pub constraints: Constraints,
    /// Who decided; absent for a host's default and while it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why it was asked for, or why it was denied. Text of the agent or a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// When it was asked for.
    pub created_at: i64,
    /// When it was changed last.
    pub updated_at: i64,
}

impl Grant {
    /// Whether it grants something at `now`.
    pub fn is_active(&self, now: i64) -> bool {
        self.status == GrantStatus::Active && self.expires_at.is_none_or(|end| now < end)
    }
}

/// One runtime actor under a host, with a key of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id, the `sub` of its tokens.
    pub id: AgentId,
    /// Its host.
    pub host: HostId,
    /// Its key.
    pub key: KeyRecord,
    /// Its state as it was last written; see [`Agent::standing`].
    pub status: AgentStatus,
    /// On whose behalf it acts.
    pub mode: Mode,
    /// What its host calls it: to be escaped where it is shown.
    pub name: String,
    /// What was asked for, by capability.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grants: BTreeMap<String, Grant>,
    /// When it was registered.
    pub created_at: i64,
    /// When it became active last; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated_at: Option<i64>,
    /// When it was used last, as far as it was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<i64>,
    /// When the record was changed last.
    pub updated_at: i64,
}

/// How long agents live, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetimes {
    /// From the last use, or the activation, until it expires.
    pub session: i64,
    /// From the last activation until it expires.
    pub max: i64,
    /// From the registration until it is revoked, never reset; `None`: without end.
    pub absolute: Option<i64>,
}

impl Default for Lifetimes {
    /// An hour, a day, no end.
    fn default() -> Self {
        Lifetimes {
            session: 3600,
            max: 86_400,
            absolute: None,
        }
    }
}

impl Agent {
    /// What the agent is at `now`: its state, and what the three clocks make of it. `used_at` is the last use that is known,
    /// which may be later than the record's.
    pub fn standing(&self, used_at: i64, now: i64, lifetimes: &Lifetimes) -> AgentStatus {
        if self.status.has_ended() {
            return self.status;
        }
        if self.is_beyond(now, lifetimes) {
            return AgentStatus::Revoked;
        }
        if self.status != AgentStatus::Active {
            return self.status;
        }
        let activated = self.activated_at.unwrap_or(self.created_at);
        let since = |moment: i64| now.saturating_sub(moment);
        if since(activated) >= lifetimes.max || since(used_at.max(activated)) >= lifetimes.session {
            return AgentStatus::Expired;
        }
        AgentStatus::Active
    }

    /// Whether its absolute lifetime is over.
    pub fn is_beyond(&self, now: i64, lifetimes: &Lifetimes) -> bool {
        let age = now.saturating_sub(self.created_at);
        lifetimes.absolute.is_some_and(|absolute| age >= absolute)
    }

    /// When it will expire if it is not used again, while it is active.
    pub fn expires_at(&self, used_at: i64, lifetimes: &Lifetimes) -> Option<i64> {
        let activated = self.activated_at?;
        let mut end = activated
            .saturating_add(lifetimes.max)
            .min(used_at.max(activated).saturating_add(lifetimes.session));
        if let Some(absolute) = lifetimes.absolute {
            end = end.min(self.created_at.saturating_add(absolute));
        }
        Some(end)
    }
}
