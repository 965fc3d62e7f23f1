//! `POST /agent/introspect`: a server that an agent sent its token to asks whom it belongs to, and what that agent may do.
//!
//! The token is used up by that, as by a call here: a server that asks for each request takes no token twice.

use agentwall_identity::{ApiUse, By, Jws, Principal};
use http::{StatusCode, request::Parts};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Answer, json_answer, moment, object, text};
use crate::{
    answer::Refusal,
    gateway::{Gateway, now, now_s, of_change},
    sender::bearer,
};

/// `POST /agent/introspect`.
pub async fn introspect(gateway: &Gateway, parts: &Parts, body: Incoming) -> Answer {
    let token = bearer(&parts.headers)?;
    let asker = (gateway.tokens).authenticate(token, ApiUse::Introspect, now_s());
    if asker.is_none() {
        return Err(Box::new(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "invalid_token",
            "invalid-token",
            "this is no token for introspection; 'agentwall gateway token add NAME --for introspect' makes one",
        )));
    }
    let members = object(gateway, body).await?;
    let answer = match principal(gateway, text(&members, "token")?).await? {
        Some(principal) => told(gateway, &principal)?,
        // Why not is nobody's business (RFC 7662, section 2.2).
        None => json!({ "active": false }),
    };
    json_answer(StatusCode::OK, &answer)
}

/// The agent, if the token is one of an agent that may act, and was not used. A token that is bound to a request or to a key
/// needs more than itself, and is none here.
async fn principal(gateway: &Gateway, token: &str) -> Result<Option<Principal>, Box<Refusal>> {
    let Ok(jws) = Jws::parse(token) else {
        return Ok(None);
    };
    let claims = agentwall_identity::AgentClaims::read(&jws).ok();
    if inactive(gateway.takes(claims.map(|c| c.iat)))?.is_none() {
        return Ok(None);
    }
    let verified = gateway.verified(&jws, None, None).await;
    let Some(principal) = inactive(verified)? else {
        return Ok(None);
    };
    let used = gateway.judge.use_once(principal.once(), now()).await;
    Ok(inactive(used)?.map(|()| principal))
}

/// Nothing where it is refused; an error where nobody knows.
fn inactive<T>(found: Result<T, Box<Refusal>>) -> Result<Option<T>, Box<Refusal>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(refusal) if refusal.status.is_server_error() => Err(refusal),
        Err(_) => Ok(None),
    }
}

fn told(gateway: &Gateway, principal: &Principal) -> Result<Value, Box<Refusal>> {
    let directory = &gateway.directory;
    let view = directory.status(By::Operator("introspection"), principal.agent(), now_s());
    let view = view.map_err(|e| of_change(&e))?;
    let grants = directory.grants(principal, now_s()).unwrap_or_default();
    let active = grants.iter().filter(|(_, grant)| grant.is_active(now_s()));
    let grants = active.map(|(name, grant)| json!({ "capability": name, "status": grant.status }));
    let mut told = json!({
        "active": true,
        "agent_id": view.agent.id.as_str(),
        "host_id": view.agent.host.as_str(),
        "mode": view.agent.mode,
        "agent_capability_grants": grants.collect::<Vec<Value>>(),
    });
    // An autonomous agent acts for nobody, whoever its host belongs to.
    if let Some(user) = principal.user() {
        told["user_id"] = json!(user.as_str());
    }
    if let Some(end) = view.expires_at {
        told["expires_at"] = json!(moment(end));
    }
    Ok(told)
}
