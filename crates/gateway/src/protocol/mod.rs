//! The Agent Auth Protocol (v1.0-draft): how hosts and agents introduce themselves, ask for capabilities, and call them
//! by name.
//!
//! ```text
//! discovery     what this gateway is, and where everything else is
//! agents        registration, status, keys, the end
//! introspection whom an agent's token belongs to, for servers that agents call
//! capabilities  list, description, request, execution, and how an execution stands
//! ```
//!
//! All paths but the discovery document's lie below `/agentwall/`. Addresses are absolute and made of the configured URL, never of
//! a request's Host header. JWK sets by URL are fetched by [`KeySets`](crate::fetch::keys::KeySets).

mod agents;
mod capabilities;
mod discovery;
mod introspection;

use agentwall_identity::{
    Catalogue as Known, Constraints, Expect, Fetched, HostAuth, HostClaims, Jws,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use crate::{
    answer::{Next, Refusal},
    catalogue::Catalogue,
    gateway::{CALLS, DISCOVERY, EXECUTIONS, Gateway, OWN_PATH, now, now_s, whole},
    sender::bearer,
    serve::Body,
    target::Target,
};

pub(crate) use agents::moment;
pub(crate) use discovery::user_code;

pub(crate) type Answer = Result<Response<Body>, Box<Refusal>>;

/// What a capability is called, the server imposes nothing on it that the policy does not say.
impl Known for Catalogue {
    fn imposed(&self, capability: &str) -> Option<Constraints> {
        self.get(capability).map(|_| Constraints::default())
    }
}

/// Answers a request for one of the gateway's own paths.
pub(crate) async fn answer(
    gateway: &Gateway,
    target: &Target,
    request: Request<Incoming>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let route = match target.path() {
        DISCOVERY => "discovery",
        path => path.strip_prefix(OWN_PATH).unwrap_or_default(),
    };
    let wanted = match route {
        "discovery"
        | "health"
        | "approve"
        | "capability/list"
        | "capability/describe"
        | "agent/status" => Method::GET,
        "agent/register"
        | "agent/request-capability"
        | "agent/reactivate"
        | "agent/revoke"
        | "agent/rotate-key"
        | "host/rotate-key"
        | "host/revoke"
        | "agent/introspect"
        | "capability/execute"
        | "capability/batch-execute" => Method::POST,
        _ if target.path().starts_with(CALLS) || target.path().starts_with(EXECUTIONS) => {
            Method::GET
        }
        _ => return Err(Box::new(unknown_path(target))),
    };
    if parts.method != wanted && !(wanted == Method::GET && parts.method == Method::HEAD) {
        let mut refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request",
            "method-not-allowed",
            format!("{} is asked with {wanted}", target.path()),
        );
        refusal.headers.push(("allow", wanted.to_string()));
        return Err(Box::new(refusal));
    }
    match route {
        "discovery" => Ok(discovery::document(gateway)),
        "health" => json_answer(StatusCode::OK, &serde_json::json!({ "status": "pass" })),
        "approve" => Ok(discovery::how_to_approve()),
        "capability/list" => capabilities::list(gateway, &parts, target, body).await,
        "capability/describe" => capabilities::describe(gateway, &parts, target, body).await,
        "capability/execute" => capabilities::execute(gateway, &parts, target, body).await,
        "capability/batch-execute" => capabilities::batch(gateway, &parts, target, body).await,
        "agent/introspect" => introspection::introspect(gateway, &parts, body).await,
        "agent/request-capability" => capabilities::request(gateway, &parts, target, body).await,
        "agent/register" => agents::register(gateway, &parts, body).await,
        "agent/status" => agents::status(gateway, &parts, target).await,
        "agent/reactivate" => agents::reactivate(gateway, &parts, body).await,
        "agent/revoke" => agents::revoke(gateway, &parts, body).await,
        "agent/rotate-key" => agents::rotate_agent_key(gateway, &parts, body).await,
        "host/rotate-key" => agents::rotate_host_key(gateway, &parts, body).await,
        "host/revoke" => agents::revoke_host(gateway, &parts).await,
        _ => capabilities::standing(gateway, &parts, target, body).await,
    }
}

/// Who sends a host token, which is used up by this.
async fn host(gateway: &Gateway, parts: &Parts) -> Result<HostAuth, Box<Refusal>> {
    let token = bearer(&parts.headers).map_err(|e| gateway.challenge(e))?;
    let unread = |e: String| {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "invalid_jwt", "invalid-token", e);
        gateway.challenge(refusal)
    };
    let jws = Jws::parse(token).map_err(|e| unread(e.to_string()))?;
    gateway.takes(HostClaims::read(&jws).ok().map(|c| c.iat))?;
    let audiences = [gateway.config.public.clone()];
    let mut fetched = Vec::new();
    let host = loop {
        let expect = expect(gateway, &audiences, &fetched);
        match gateway.directory.authenticate_host(&jws, &expect) {
            Ok(host) => break host,
            Err(e) => gateway.fetch(e, &mut fetched).await?,
        }
    };
    gateway.judge.use_once(host.once(), now()).await?;
    Ok(host)
}

fn expect<'a>(gateway: &Gateway, audiences: &'a [String], fetched: &'a [Fetched]) -> Expect<'a> {
    Expect {
        profile: gateway.config.profile,
        fetched,
        ..Expect::strict(now_s(), audiences)
    }
}

/// A body that is a JSON object.
async fn object(gateway: &Gateway, body: Incoming) -> Result<Map<String, Value>, Box<Refusal>> {
    object_of(&gateway.read(body).await?)
}

pub(crate) fn object_of(bytes: &Bytes) -> Result<Map<String, Value>, Box<Refusal>> {
    let value = agentwall_identity::parse_json(bytes, usize::MAX);
    match value.map_err(|e| Refusal::invalid(format!("the body: {e}")))? {
        Value::Object(members) => Ok(members),
        _ => Err(Box::new(Refusal::invalid("the body is not a JSON object"))),
    }
}

/// A member that has to be text.
fn text<'a>(members: &'a Map<String, Value>, key: &str) -> Result<&'a str, Box<Refusal>> {
    let value = members.get(key).and_then(Value::as_str);
    value.ok_or_else(|| {
        Box::new(Refusal::invalid(format!(
            "'{key}' is missing, or is no text"
        )))
    })
}

pub(crate) fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(whole(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn unknown_path(target: &Target) -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::NOT_FOUND,
        "invalid_request",
        "not-found",
        format!(
            "{} is nothing here; {DISCOVERY} tells what is",
            target.path()
        ),
    );
    refusal.next.push(Next::Stop);
    refusal
}

/// One parameter of a query, decoded.
fn parameter(target: &Target, name: &str) -> Option<String> {
    let pairs = target.query().unwrap_or_default().split('&');
    let value = pairs
        .filter_map(|p| p.split_once('='))
        .find(|(n, _)| *n == name)?
        .1;
    let spaced = value.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced)
        .decode_utf8()
        .ok()?;
    Some(decoded.into_owned())
}
