//! Hosts and agents: how they come, how they stand, how they end.

use std::time::Instant;

use agentwall_identity::{
    AgentId, AgentStatus, AgentView, AuthError, By, ChangeError, GrantStatus, HostPrincipal, Mode,
    PublicKey, Registration, Wanted,
};
use http::{StatusCode, request::Parts};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::{Answer, expect, host, json_answer, object, parameter, text, user_code};
use crate::{
    answer::Refusal,
    catalogue::Catalogue,
    gateway::{Gateway, OWN_PATH, now_s, of_change, waiting},
    rates::{self, NEWCOMERS},
    sender::of_auth,
};

/// How long a person has to approve, as it is told to agents, in seconds. What waits longer still waits.
const APPROVAL: u64 = 300;

/// How often an agent may ask whether it is approved, in seconds.
const INTERVAL: u64 = 5;

/// `POST /agent/register`.
pub async fn register(gateway: &Gateway, parts: &Parts, body: Incoming) -> Answer {
    let host = host(gateway, parts).await?;
    let members = object(gateway, body).await?;
    let mode = match members.get("mode").map(Value::as_str) {
        None | Some(Some("delegated")) => Mode::Delegated,
        Some(Some("autonomous")) => Mode::Autonomous,
        _ => {
            return Err(Box::new(Refusal::new(
                StatusCode::BAD_REQUEST,
                "unsupported_mode",
                "unsupported-mode",
                "'mode' is 'delegated' or 'autonomous'",
            )));
        }
    };
    let wanted = Registration {
        name: text(&members, "name")?.to_owned(),
        mode,
        capabilities: members.get("capabilities").map(wanted).transpose()?,
        reason: members
            .get("reason")
            .and_then(Value::as_str)
            .map(str::to_owned),
    };
    let audiences = [gateway.config.public.clone()];
    if host.known().is_err() {
        let peer = rates::peer(parts);
        gateway.rates.count(NEWCOMERS, peer, Instant::now())?;
    }
    let mut fetched = Vec::new();
    let registered = loop {
        let expect = expect(gateway, &audiences, &fetched);
        let (directory, catalogue) = (&gateway.directory, &gateway.catalogue);
        match waiting(|| directory.register(&host, &wanted, catalogue, &expect)) {
            Ok(registered) => break registered,
            Err(ChangeError::Standing(e @ AuthError::NeedsKeys { .. })) => {
                gateway.fetch(e, &mut fetched).await?;
            }
            Err(e) => return Err(of_change(&e)),
        }
    };
    let view = view(gateway, By::Operator("gateway"), &registered.agent)?;
    json_answer(StatusCode::OK, &Value::Object(told(gateway, &view)))
}

/// `GET /agent/status?agent_id=`.
pub async fn status(gateway: &Gateway, parts: &Parts, target: &crate::target::Target) -> Answer {
    let host = host(gateway, parts).await?;
    let host = known(gateway, &host)?;
    let id = agent_id(&parameter(target, "agent_id").unwrap_or_default())?;
    let view = view(gateway, By::Host(host), &id)?;
    json_answer(StatusCode::OK, &Value::Object(told(gateway, &view)))
}

/// `POST /agent/reactivate`.
pub async fn reactivate(gateway: &Gateway, parts: &Parts, body: Incoming) -> Answer {
    let host = host(gateway, parts).await?;
    let host = known(gateway, &host)?;
    let id = agent_id(text(&object(gateway, body).await?, "agent_id")?)?;
    let by = By::Host(host);
    let reactivated = waiting(|| gateway.directory.reactivate(by, &id, now_s()));
    reactivated.map_err(|e| of_change(&e))?;
    let view = view(gateway, by, &id)?;
    json_answer(StatusCode::OK, &Value::Object(told(gateway, &view)))
}

/// `POST /agent/revoke`.
pub async fn revoke(gateway: &Gateway, parts: &Parts, body: Incoming) -> Answer {
    let host = host(gateway, parts).await?;
    let host = known(gateway, &host)?;
    let id = agent_id(text(&object(gateway, body).await?, "agent_id")?)?;
    let by = By::Host(host);
    let revoked = waiting(|| gateway.directory.revoke_agent(by, &id, now_s()));
    revoked.map_err(|e| of_change(&e))?;
    json_answer(
        StatusCode::OK,
        &json!({ "agent_id": id.as_str(), "status": "revoked" }),
    )
}

/// `POST /agent/rotate-key`.
pub async fn rotate_agent_key(gateway: &Gateway, parts: &Parts, body: Incoming) -> Answer {
    let host = host(gateway, parts).await?;
    let host = known(gateway, &host)?;
    let members = object(gateway, body).await?;
    let id = agent_id(text(&members, "agent_id")?)?;
    let key = public_key(&members)?;
    let by = By::Host(host);
    let rotated = waiting(|| gateway.directory.rotate_agent_key(by, &id, &key, now_s()));
    rotated.map_err(|e| of_change(&e))?;
    let view = view(gateway, by, &id)?;
    json_answer(
        StatusCode::OK,
        &json!({ "agent_id": id.as_str(), "status": word(view.standing) }),
    )
}

/// `POST /host/rotate-key`.
pub async fn rotate_host_key(gateway: &Gateway, parts: &Parts, body: Incoming) -> Answer {
    let host = host(gateway, parts).await?;
    let host = known(gateway, &host)?;
    let key = public_key(&object(gateway, body).await?)?;
    let rotated = waiting(|| gateway.directory.rotate_host_key(host, &key, now_s()));
    rotated.map_err(|e| of_change(&e))?;
    let status = word(host.status());
    json_answer(
        StatusCode::OK,
        &json!({ "host_id": host.host().as_str(), "status": status }),
    )
}

/// `POST /host/revoke`.
pub async fn revoke_host(gateway: &Gateway, parts: &Parts) -> Answer {
    let host = host(gateway, parts).await?;
    let host = known(gateway, &host)?;
    let directory = &gateway.directory;
    let revoked = waiting(|| directory.revoke_host(By::Host(host), host.host(), now_s()));
    let agents = revoked.map_err(|e| of_change(&e))?;
    json_answer(
        StatusCode::OK,
        &json!({ "host_id": host.host().as_str(), "status": "revoked", "agents_revoked": agents }),
    )
}

/// `capabilities` of a request.
pub fn wanted(value: &Value) -> Result<Vec<Wanted>, Box<Refusal>> {
    let Value::Array(items) = value else {
        return Err(Box::new(Refusal::invalid("'capabilities' is not a list")));
    };
    items
        .iter()
        .map(|item| Wanted::read(item).map_err(|e| of_change(&e)))
        .collect()
}

/// The agent as it is told to its host, with what a person has to do if something waits.
fn told(gateway: &Gateway, view: &AgentView) -> Map<String, Value> {
    let agent = &view.agent;
    let mut all = Map::new();
    let mut add = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
    add("agent_id", json!(agent.id.as_str()));
    add("host_id", json!(agent.host.as_str()));
    add("name", json!(agent.name));
    add("mode", json!(agent.mode));
    add("status", json!(word(view.standing)));
    add(
        "agent_capability_grants",
        grants(&gateway.catalogue, agent.grants.iter()),
    );
    add("created_at", json!(moment(agent.created_at)));
    for (key, at) in [
        ("activated_at", agent.activated_at),
        ("last_used_at", view.used_at),
        ("expires_at", view.expires_at),
    ] {
        if let Some(at) = at {
            add(key, json!(moment(at)));
        }
    }
    let mut waiting = agent
        .grants
        .values()
        .filter(|g| g.status == GrantStatus::Pending);
    if view.standing == AgentStatus::Pending || waiting.next().is_some() {
        add("approval", approval(gateway, &agent.id));
    }
    all
}

/// What a person has to do.
pub fn approval(gateway: &Gateway, agent: &AgentId) -> Value {
    let code = user_code(agent);
    let uri = format!("{}{OWN_PATH}approve", gateway.config.public);
    json!({
        "method": "device_authorization",
        "verification_uri": uri,
        "verification_uri_complete": format!("{uri}?code={code}"),
        "user_code": code,
        "expires_in": APPROVAL,
        "interval": INTERVAL,
    })
}

/// Grants as agents read them: a pending one tells nothing about the capability.
pub fn grants<'a>(
    catalogue: &Catalogue,
    all: impl Iterator<Item = (&'a String, &'a agentwall_identity::Grant)>,
) -> Value {
    let told = all.map(|(name, grant)| {
        let mut one = json!({
            "id": grant.id.as_str(),
            "capability": name,
            "status": grant.status,
            "created_at": moment(grant.created_at),
            "updated_at": moment(grant.updated_at),
        });
        if let (GrantStatus::Active, Some(capability)) = (grant.status, catalogue.get(name)) {
            one["description"] = json!(capability.description);
            if let Some(input) = &capability.input {
                one["input"] = input.clone();
            }
            if !grant.constraints.is_empty() {
                one["constraints"] = json!(grant.constraints);
            }
            if let Some(end) = grant.expires_at {
                one["expires_at"] = json!(moment(end));
            }
        }
        if let (GrantStatus::Denied, Some(reason)) = (grant.status, &grant.reason) {
            one["reason"] = json!(reason);
        }
        one
    });
    Value::Array(told.collect())
}

fn known<'a>(
    gateway: &Gateway,
    host: &'a agentwall_identity::HostAuth,
) -> Result<&'a HostPrincipal, Box<Refusal>> {
    host.known().map_err(|e| gateway.challenge(of_auth(&e)))
}

fn view(gateway: &Gateway, by: By<'_>, id: &AgentId) -> Result<AgentView, Box<Refusal>> {
    gateway
        .directory
        .status(by, id, now_s())
        .map_err(|e| of_change(&e))
}

fn agent_id(text: &str) -> Result<AgentId, Box<Refusal>> {
    text.parse()
        .map_err(|_| Box::new(Refusal::invalid("'agent_id' is missing, or is no id")))
}

fn public_key(members: &Map<String, Value>) -> Result<PublicKey, Box<Refusal>> {
    let jwk = members.get("public_key").and_then(Value::as_object);
    let jwk = jwk.ok_or_else(|| Refusal::invalid("'public_key' is missing, or is no JWK"))?;
    PublicKey::from_members(jwk)
        .map_err(|e| Box::new(Refusal::invalid(format!("'public_key': {e}"))))
}

/// A state as a word of the protocol.
fn word(state: impl serde::Serialize) -> Value {
    json!(state)
}

/// ISO 8601, UTC.
pub fn moment(seconds: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
