//! What this gateway is.

use agentwall_identity::AgentId;
use http::{HeaderValue, Response, header};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    gateway::{Gateway, OWN_PATH, whole},
    serve::Body,
};

/// Letters of a code that a person reads and types: no vowels, so no words (RFC 8628, section 6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// The document of section 6.1.
pub fn document(gateway: &Gateway) -> Response<Body> {
    let public = &gateway.config.public;
    let at = |path: &str| format!("{public}{OWN_PATH}{path}");
    let document = json!({
        "version": "1.0-draft",
        "provider_name": gateway.config.name,
        "description": format!("{} behind AgentWall", gateway.upstream.base()),
        "issuer": public,
        "default_location": at("capability/execute"),
        "algorithms": ["Ed25519"],
        "modes": ["delegated", "autonomous"],
        "approval_methods": ["device_authorization"],
        "endpoints": {
            "register": at("agent/register"),
            "capabilities": at("capability/list"),
            "describe_capability": at("capability/describe"),
            "execute": at("capability/execute"),
            "batch_execute": at("capability/batch-execute"),
            "introspect": at("agent/introspect"),
            "request_capability": at("agent/request-capability"),
            "status": at("agent/status"),
            "reactivate": at("agent/reactivate"),
            "revoke": at("agent/revoke"),
            "revoke_host": at("host/revoke"),
            "rotate_key": at("agent/rotate-key"),
            "rotate_host_key": at("host/rotate-key"),
        },
    });
    let mut response = Response::new(whole(document.to_string()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("max-age=3600"),
    );
    response
}

/// What a person reads to whom an agent gives the address: who approves does so on the gateway's host, where no agent is.
pub fn how_to_approve() -> Response<Body> {
    let page = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>AgentWall</title>\
        <p>An agent asks for something that a person answers. Whoever runs this gateway sees it with <code>agentwall pending</code> and answers with \
        <code>agentwall approve CODE</code> or <code>agentwall reject CODE</code>.</p></html>";
    let mut response = Response::new(whole(page));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'"),
    );
    response
}

/// The code under which a person finds what an agent asks for: `BDGK-RSTZ`. It opens nothing.
pub fn user_code(agent: &AgentId) -> String {
    let digest = Sha256::digest(agent.as_str().as_bytes());
    let mut code = String::with_capacity(9);
    for (at, byte) in digest.iter().take(8).enumerate() {
        if at == 4 {
            code.push('-');
        }
        code.push(char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    }
    code
}
