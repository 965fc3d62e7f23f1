//! Why somebody is not who they say, may not do it, or nothing was changed; each with its code in the protocol.
//!
//! Codes and statuses are those of Agent Auth Protocol v1.0-draft (section 9) and, where that has none, of its published
//! implementation. What is wrong with a token, and whether an agent or a host is unknown, is one code to the outside.

use serde_json::{Map, Value};

use crate::{
    constraint::{ConstraintError, Violation},
    jws::TokenError,
    key::{KeyError, clip, shown},
    model::GrantStatus,
    store::StoreError,
};

/// Why a token names nobody who may act now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The token itself.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No such agent, or it is not of the host that the token names.
    #[error("the token's agent is not known here under the token's host")]
    UnknownAgent,
    /// No such host, where only a known one will do.
    #[error("the host is not known here; register first")]
    UnknownHost,
    /// The key was exchanged.
    #[error("the key was exchanged for another one; sign with that")]
    RetiredKey,
    /// The key is in a JWK set that the caller has to fetch and hand in as [`Fetched`](crate::Fetched).
    #[error(
        "the key '{}' is in the JWK set at {url}, which was not fetched or does not have it",
        clip(kid)
    )]
    NeedsKeys {
        /// The set's address, as it was registered or as the token of an unknown host says.
        url: String,
        /// The key's name.
        kid: String,
    },
    /// The delivery of the key is fixed at registration.
    #[error("the key was handed in another way at registration; that cannot be changed")]
    Delivery,
    /// The agent waits for a person.
    #[error("the agent is not approved yet")]
    AgentPending,
    /// A session or lifetime is over.
    #[error("the agent's session is over; its host can reactivate it")]
    AgentExpired,
    /// The agent was ended.
    #[error("the agent was revoked; register a new one")]
    AgentRevoked,
    /// The agent was refused.
    #[error("the agent was rejected")]
    AgentRejected,
    /// The agent was autonomous and its host now belongs to somebody.
    #[error("the agent was claimed by its host's user; register a new one")]
    AgentClaimed,
    /// The host waits for a person.
    #[error("the host is not approved yet")]
    HostPending,
    /// The host was ended or refused.
    #[error("the host was revoked")]
    HostRevoked,
    /// A new key could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AuthError {
    /// The code in the answer's body.
    pub fn code(&self) -> &'static str {
        match self {
            AuthError::Token(_)
            | AuthError::UnknownAgent
            | AuthError::RetiredKey
            | AuthError::NeedsKeys { .. }
            | AuthError::Delivery => "invalid_jwt",
            AuthError::UnknownHost => "host_not_found",
            AuthError::AgentPending => "agent_pending",
            AuthError::AgentExpired => "agent_expired",
            AuthError::AgentRevoked => "agent_revoked",
            AuthError::AgentRejected => "agent_rejected",
            AuthError::AgentClaimed => "agent_claimed",
            AuthError::HostPending => "host_pending",
            AuthError::HostRevoked => "host_revoked",
            AuthError::Store(_) => "internal_error",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self.code() {
            "invalid_jwt" => 401,
            "host_not_found" => 404,
            "internal_error" => 500,
            _ => 403,
        }
    }
}

/// Why an authenticated agent may not use a capability.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It may not act any more.
    #[error(transparent)]
    Standing(#[from] AuthError),
    /// The token is for other capabilities.
    #[error("the token's claim 'capabilities' does not have this one")]
    NotInToken,
    /// There is no grant that counts.
    #[error("the capability is not granted{}", match .0 {
        Some(GrantStatus::Pending) => "; it waits for approval",
        Some(GrantStatus::Denied) => "; it was denied",
        Some(GrantStatus::Revoked) => "; it was taken back",
        Some(GrantStatus::Active) => "; the grant is over",
        None => "; request it",
    })]
    NotGranted(Option<GrantStatus>),
    /// Arguments beyond what was granted.
    #[error("the arguments are not within the grant's constraints")]
    Violated(Vec<Violation>),
    /// Arguments that are neither an object nor null.
    #[error("arguments are an object")]
    Arguments,
}

impl Refusal {
    /// The code in the answer's body.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Standing(e) => e.code(),
            Refusal::NotInToken | Refusal::NotGranted(_) => "capability_not_granted",
            Refusal::Violated(_) => "constraint_violated",
            Refusal::Arguments => "invalid_request",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Standing(e) => e.status(),
            Refusal::Arguments => 400,
            _ => 403,
        }
    }

    /// Further members of the answer's body.
    pub fn extras(&self) -> Map<String, Value> {
        let mut all = Map::new();
        if let Refusal::Violated(found) = self {
            // Violations are made of JSON values.
            let found = serde_json::to_value(found).unwrap_or_default();
            all.insert("violations".to_owned(), found);
        }
        all
    }
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Whoever asks, or what it is about, may not act any more.
    #[error(transparent)]
    Standing(#[from] AuthError),
    /// An agent asks for what its token does not have.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such agent, or one of another host.
    #[error("there is no agent with this id")]
    AgentNotFound,
    /// No such host.
    #[error("there is no host with this id")]
    HostNotFound,
    /// The key has an agent of this host already.
    #[error("the host has an agent with this key already; make a new key")]
    AgentExists,
    /// All that is asked for is there.
    #[error("all of this is granted already")]
    AlreadyGranted,
    /// Capabilities that do not exist.
    #[error("there are no such capabilities: {}", shown(.0))]
    InvalidCapabilities(Vec<String>),
    /// Constraints that are not taken.
    #[error(transparent)]
    Constraints(#[from] ConstraintError),
    /// A key that is not taken.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Unknown hosts are not taken here.
    #[error("unknown hosts cannot register here; have the host enrolled")]
    NoDynamicRegistration,
    /// Too many agents, hosts or capabilities.
    #[error("there are too many {0} already")]
    Limit(&'static str),
    /// The absolute lifetime is over.
    #[error("the agent's absolute lifetime is over; register a new one")]
    AbsoluteLifetime,
    /// Something else about the request.
    #[error("{0}")]
    Invalid(&'static str),
    /// The store did not take it. Nothing was changed.
    #[error("{0}; nothing was changed")]
    Store(#[from] StoreError),
    /// The store did not take it, and since it takes something away it is in effect all the same, in this process and until it
    /// ends.
    #[error("{0}; it is in effect in this process alone: try again until it is stored")]
    NotDurable(StoreError),
}

impl ChangeError {
    /// The code in the answer's body.
    pub fn code(&self) -> &'static str {
        match self {
            ChangeError::Standing(e) => e.code(),
            ChangeError::Refused(e) => e.code(),
            ChangeError::AgentNotFound => "agent_not_found",
            ChangeError::HostNotFound => "host_not_found",
            ChangeError::AgentExists => "agent_exists",
            ChangeError::AlreadyGranted => "already_granted",
            ChangeError::InvalidCapabilities(_) => "invalid_capabilities",
            ChangeError::Constraints(ConstraintError::UnknownOperators(_)) => {
                "unknown_constraint_operator"
            }
            ChangeError::Key(KeyError::Unsupported(_)) => "unsupported_algorithm",
            ChangeError::Constraints(_) | ChangeError::Key(_) | ChangeError::Invalid(_) => {
                "invalid_request"
            }
            ChangeError::NoDynamicRegistration => "dynamic_host_registration_disabled",
            ChangeError::Limit(_) => "limit_exceeded",
            ChangeError::AbsoluteLifetime => "absolute_lifetime_exceeded",
            ChangeError::Store(_) | ChangeError::NotDurable(_) => "internal_error",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            ChangeError::Standing(e) => e.status(),
            ChangeError::Refused(e) => e.status(),
            ChangeError::AgentNotFound | ChangeError::HostNotFound => 404,
            ChangeError::AgentExists | ChangeError::AlreadyGranted => 409,
            ChangeError::InvalidCapabilities(_)
            | ChangeError::Constraints(_)
            | ChangeError::Key(_)
            | ChangeError::Invalid(_) => 400,
            ChangeError::NoDynamicRegistration
            | ChangeError::Limit(_)
            | ChangeError::AbsoluteLifetime => 403,
            ChangeError::Store(_) | ChangeError::NotDurable(_) => 500,
        }
    }

    /// Further members of the answer's body. Unknown operators are named twice, as the specification and as its published
    /// implementation have it.
    pub fn extras(&self) -> Map<String, Value> {
        let mut all = Map::new();
        match self {
            ChangeError::Refused(e) => return e.extras(),
            ChangeError::InvalidCapabilities(names) => {
                all.insert("invalid_capabilities".to_owned(), names.clone().into());
            }
            ChangeError::Constraints(ConstraintError::UnknownOperators(names)) => {
                all.insert("unknown_operators".to_owned(), names.clone().into());
                all.insert("operators".to_owned(), names.clone().into());
            }
            _ => {}
        }
        all
    }
}
