//! The directory with a host of one person and what others try.

mod grants;
mod jwks;
mod lifecycle;
mod shared;
mod stores;
mod tokens;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::*;
use crate::{
    AgentClaims, AuthError, Constraints, Event, EventKind, Expect, HostClaims, Jws, KeySource,
    MemoryStore, Mode, PublicKey, SecretKey, UserId,
};

const NOW: i64 = 1_710_000_000;
const ISSUER: &str = "https://aw.example";

/// Capabilities `read`, `pay` (at most 1000 for everybody) and `delete`.
struct Known;

impl Catalogue for Known {
    fn imposed(&self, capability: &str) -> Option<Constraints> {
        match capability {
            "read" | "delete" => Some(Constraints::default()),
            "pay" => Some(limits(json!({ "amount": { "max": 1000 } }))),
            _ => None,
        }
    }
}

fn limits(rules: serde_json::Value) -> Constraints {
    Constraints::read(&rules).expect("constraints")
}

fn audiences() -> Vec<String> {
    vec![ISSUER.to_owned()]
}

/// A key that nobody else has.
fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).expect("a key")
}

struct World {
    directory: Directory,
    store: Arc<MemoryStore>,
    host_key: SecretKey,
    host: HostId,
    user: UserId,
    jti: std::cell::Cell<u32>,
}

impl World {
    /// A host of one person, whose agents get `read` without asking.
    fn new() -> Self {
        World::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let store = Arc::new(MemoryStore::new());
        let directory =
            Directory::open(Box::new(Arc::clone(&store)), settings).expect("a directory");
        let host_key = key(100);
        let user: UserId = "alice".parse().expect("a name");
        let host = directory
            .enrol_host(host_key.public(), Some("laptop"), "root", NOW)
            .expect("enrolled");
        directory.link(&host, &user, "root", NOW).expect("linked");
        directory
            .set_defaults(&host, &[Wanted::new("read")], "root", &Known, NOW)
            .expect("defaults");
        World {
            directory,
            store,
            host_key,
            host,
            user,
            jti: Default::default(),
        }
    }

    fn jti(&self) -> String {
        self.jti.set(self.jti.get() + 1);
        format!("j{}", self.jti.get())
    }

    fn host_claims(&self, key: &SecretKey, now: i64) -> HostClaims {
        HostClaims {
            iss: key.public().thumbprint(),
            aud: ISSUER.to_owned(),
            iat: now,
            exp: now + 60,
            jti: self.jti(),
            host_key: KeySource::Inline(key.public().clone()),
            agent_key: None,
            host_name: None,
        }
    }

    fn host_auth(&self, key: &SecretKey, agent: Option<&SecretKey>, now: i64) -> HostAuth {
        let mut claims = self.host_claims(key, now);
        claims.agent_key = agent.map(|agent| KeySource::Inline(agent.public().clone()));
        let token = Jws::parse(&key.sign_host(&claims)).expect("a token");
        let audiences = audiences();
        let expect = Expect::strict(now, &audiences);
        self.directory
            .authenticate_host(&token, &expect)
            .expect("a host")
    }

    fn host(&self, now: i64) -> HostPrincipal {
        let auth = self.host_auth(&self.host_key, None, now);
        auth.known().expect("known").clone()
    }

    fn register(
        &self,
        host: &SecretKey,
        agent: &SecretKey,
        mode: Mode,
        wanted: &[&str],
        now: i64,
    ) -> Result<Registered, ChangeError> {
        let auth = self.host_auth(host, Some(agent), now);
        let registration = Registration {
            name: "assistant".to_owned(),
            mode,
            capabilities: Some(wanted.iter().map(|name| Wanted::new(name)).collect()),
            reason: None,
        };
        let audiences = audiences();
        let expect = Expect::strict(now, &audiences);
        self.directory
            .register(&auth, &registration, &Known, &expect)
    }

    /// A delegated agent of the host with `read`, active.
    fn agent(&self, key: &SecretKey, now: i64) -> AgentId {
        self.register(&self.host_key, key, Mode::Delegated, &["read"], now)
            .expect("registered")
            .agent
    }

    fn claims(&self, agent: &AgentId, now: i64) -> AgentClaims {
        AgentClaims {
            iss: Some(self.host_key.public().thumbprint()),
            sub: agent.clone(),
            aud: ISSUER.to_owned(),
            iat: now,
            exp: now + 60,
            jti: self.jti(),
            capabilities: None,
            jkt: None,
            request: None,
        }
    }

    fn try_token(
        &self,
        key: &SecretKey,
        claims: &AgentClaims,
        now: i64,
    ) -> Result<Principal, AuthError> {
        let token = Jws::parse(&key.sign_agent(claims)).expect("a token");
        let audiences = audiences();
        let expect = Expect::strict(now, &audiences);
        self.directory.authenticate_agent(&token, &expect)
    }

    fn try_agent(&self, key: &SecretKey, id: &AgentId, now: i64) -> Result<Principal, AuthError> {
        self.try_token(key, &self.claims(id, now), now)
    }

    fn principal(&self, key: &SecretKey, id: &AgentId, now: i64) -> Principal {
        self.try_agent(key, id, now).expect("an agent")
    }

    fn approve(&self, agent: &AgentId, capability: &str, rules: serde_json::Value, now: i64) {
        let approval = Approval {
            constraints: &limits(rules),
            expires_at: None,
            by: "alice",
        };
        self.directory
            .grant(agent, capability, &approval, &Known, now)
            .expect("granted");
    }

    fn standing(&self, agent: &AgentId, now: i64) -> crate::AgentStatus {
        let view = self.directory.status(By::Operator("root"), agent, now);
        view.expect("an agent").standing
    }
}

fn kinds(events: &Subscription) -> Vec<EventKind> {
    std::iter::from_fn(|| events.try_next().ok())
        .map(|event: Event| event.kind)
        .collect()
}
