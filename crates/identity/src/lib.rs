//! Who an agent is.
//!
//! Hosts and agents have Ed25519 keys of their own and sign short-lived tokens with them (Agent Auth Protocol v1.0-draft).
//! This crate reads and verifies those tokens, knows hosts, agents and what is granted to them, and answers for each
//! call who it is and whether the capability was granted. What the policy says to it is asked elsewhere.
//!
//! ```text
//! json        JSON with one reading
//! key         Ed25519 keys as JWK, thumbprints, JWK sets
//! jws         compact tokens with one spelling
//! claims      what host and agent tokens say
//! expect      when they are believed
//! dpop        proofs of possession (RFC 9449)
//! constraint  what arguments may be
//! model       hosts, agents, grants, and what their clocks say
//! directory   who there is: authentication, changes, grants, events
//! store       where it is kept
//! api_token   tokens of programs that ask about others
//! ```
//!
//! Invariants:
//! * No network and no clock: addresses are fetched by the caller, `now` is an argument.
//! * The algorithm follows from the key's record. A token chooses nothing.
//! * Nothing is changed for a token whose signature was not verified.

#![forbid(unsafe_code)]

/// A type that is a text in JSON, as `Display` writes and `FromStr` reads it.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

mod api_token;
mod claims;
mod constraint;
mod directory;
mod dpop;
mod error;
mod event;
mod expect;
mod id;
mod json;
mod jws;
mod key;
mod model;
mod store;

pub use api_token::{ApiToken, ApiTokenError, ApiTokens, ApiUse, MAX_TOKENS, Secret};
pub use claims::{
    AgentClaims, HostClaims, KeySource, MAX_CAPABILITIES, MAX_CAPABILITY, MAX_JTI, MAX_URL,
    RequestBinding, is_capability_name,
};
pub use constraint::{ConstraintError, Constraints, Violation};
pub use directory::{
    AgentView, Approval, By, Catalogue, Directory, HostAuth, HostPrincipal, Limits, Newcomer,
    Principal, Registered, Registration, Settings, Wanted,
};
pub use dpop::{MAX_AGE, ProofClaims};
pub use error::{AuthError, ChangeError, Refusal};
pub use event::{CAPACITY, Event, EventKind, NoEvent, Subscription};
pub use expect::{Expect, Fetched, MAX_LIFETIME, Once, Poll, Profile, Request, SKEW, WINDOW};
pub use id::{AgentId, GrantId, HostId, IdError, MAX_ID, UserId};
pub use json::{JsonError, MAX_DEPTH, parse_json, parse_json_to};
pub use jws::{Jws, MAX_TOKEN, TokenError, Typ};
pub use key::{Jwks, KeyError, MAX_JWK, MAX_JWKS, MAX_JWKS_KEYS, PublicKey, SecretKey, Thumbprint};
pub use model::{
    Agent, AgentStatus, Grant, GrantStatus, Host, HostStatus, JwksRecord, KeyRecord, Lifetimes,
    Mode,
};
pub use store::{Change, Contents, MemoryStore, Store, StoreError};
