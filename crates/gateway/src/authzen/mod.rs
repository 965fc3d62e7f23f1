//! A policy decision point (OpenID AuthZEN Authorization API 1.0): enforcement points elsewhere ask what the gateway's policy says.
//!
//! ```text
//! evaluation  how a question is read, and which action it is
//! decide      one decision, or several
//! requests    asking a person (Access Request and Approval Profile)
//! ```
//!
//! It has a listener of its own, which agents need not reach. Who asks over TCP has an API token; over a Unix socket the
//! file's permissions say who may. A question becomes the same [`Call`](crate::judge::Call) as a call at the gateway, and the same judge
//! answers: policy, risk, budgets, approvals, record. A decision is charged as the call that it lets go on.

mod decide;
pub mod evaluation;
mod requests;

use std::sync::Arc;

use agentwall_identity::ApiUse;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::{
    answer::{Next, Refusal},
    gateway::{Gateway, now_s},
    protocol::{Answer, json_answer, object_of},
    sender::bearer,
    serve::{Body, Peer, Service},
    target::Target,
};
use requests::Requests;

/// Where the metadata are (section 9).
const METADATA: &str = "/.well-known/authzen-configuration";

/// Where decisions are.
const EVALUATION: &str = "/access/v1/evaluation";

/// Where several decisions at once are.
const EVALUATIONS: &str = "/access/v1/evaluations";

/// Where a person is asked; below it, how that stands.
const REQUESTS: &str = "/access/v1/requests";

/// Searches cannot be answered from the policy: it has patterns, no list of subjects and resources.
const SEARCH: &str = "/access/v1/search/";

/// That a person can be asked.
const ACCESS_REQUEST: &str = "urn:openid:authzen:capability:access-request";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What whoever asks over the Unix socket is called. No token has a name with a colon.
pub const LOCAL: &str = "unix:local";

/// A policy decision point beside a gateway.
#[derive(Debug)]
pub struct Pdp {
    gateway: Arc<Gateway>,
    /// The URL that enforcement points know, without a slash at its end.
    public: String,
    requests: Requests,
}

impl Pdp {
    /// The decision point of a gateway, known as `public`.
    pub fn new(gateway: Arc<Gateway>, public: String) -> Pdp {
        Pdp {
            gateway,
            public,
            requests: Requests::default(),
        }
    }

    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Answer {
        let target = Target::of(request.uri()).map_err(|e| Refusal::invalid(e.to_string()))?;
        let (parts, body) = request.into_parts();
        let path = target.path();
        let task = path
            .strip_prefix(REQUESTS)
            .and_then(|rest| rest.strip_prefix('/'));
        let wanted = match path {
            METADATA => Method::GET,
            EVALUATION | EVALUATIONS | REQUESTS => Method::POST,
            _ if task.is_some() => Method::GET,
            _ if path.starts_with(SEARCH) => return Err(Box::new(no_search())),
            _ => return Err(Box::new(nothing_here(path))),
        };
        if parts.method != wanted {
            let mut refusal = Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request",
                "method-not-allowed",
                format!("{path} is asked with {wanted}"),
            );
            refusal.headers.push(("allow", wanted.to_string()));
            return Err(Box::new(refusal));
        }
        if path == METADATA {
            return self.metadata();
        }
        let by = self.enforcement_point(&parts, peer)?;
        if let Some(task) = task {
            return self.task(&by, task);
        }
        if !is_json(&parts) {
            return Err(Box::new(Refusal::invalid(
                "the Content-Type is not application/json",
            )));
        }
        let members = object_of(&self.gateway.read(body).await?)?;
        match path {
            REQUESTS => self.submit(&by, &parts, &members),
            EVALUATIONS => self.several(&by, &members).await,
            _ => self.one(&by, &members).await,
        }
    }

    /// Who asks.
    fn enforcement_point(&self, parts: &Parts, peer: Peer) -> Result<String, Box<Refusal>> {
        if peer == Peer::Local {
            return Ok(LOCAL.to_owned());
        }
        let token = bearer(&parts.headers)?;
        let found = (self.gateway.tokens).authenticate(token, ApiUse::Decide, now_s());
        let found = found.ok_or_else(|| {
            let mut refusal = Refusal::new(
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "invalid-token",
                "this is no token for asking for decisions; 'agentwall gateway token add' makes one",
            );
            refusal.next.push(Next::Authenticate);
            refusal
        })?;
        Ok(found.name)
    }

    fn metadata(&self) -> Answer {
        let at = |path: &str| format!("{}{path}", self.public);
        json_answer(
            StatusCode::OK,
            &json!({
                "policy_decision_point": self.public,
                "access_evaluation_endpoint": at(EVALUATION),
                "access_evaluations_endpoint": at(EVALUATIONS),
                "access_request_endpoint": at(REQUESTS),
                "capabilities": [ACCESS_REQUEST],
            }),
        )
    }
}

impl Service for Pdp {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let id = request.headers().get(REQUEST_ID).cloned();
        let mut response = match self.handle(request, peer).await {
            Ok(response) => response,
            Err(refusal) => {
                let mut response = refusal
                    .response(self.gateway.config.disclosure)
                    .map(crate::gateway::whole);
                if refusal.status == StatusCode::UNAUTHORIZED {
                    let challenge = HeaderValue::from_static("Bearer");
                    response
                        .headers_mut()
                        .insert(header::WWW_AUTHENTICATE, challenge);
                }
                response
            }
        };
        if let Some(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
}

fn is_json(parts: &Parts) -> bool {
    let mut all = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (all.next(), all.next()) else {
        return false;
    };
    let text = one.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

fn no_search() -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::NOT_IMPLEMENTED,
        "not_implemented",
        "not-implemented",
        "a policy of patterns has no list of subjects and resources to search in; ask about each",
    );
    refusal.next.push(Next::Stop);
    refusal
}

fn nothing_here(path: &str) -> Refusal {
    let text = format!("{path} is nothing here; {METADATA} tells what is");
    let mut refusal = Refusal::new(StatusCode::NOT_FOUND, "invalid_request", "not-found", text);
    refusal.next.push(Next::Stop);
    refusal
}

type Members = Map<String, Value>;
