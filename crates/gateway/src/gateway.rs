//! A gateway in front of one API: requests of agents come in, and what is judged to go ahead is passed on.
//!
//! ```text
//! request ─▶ one spelling ─▶ who is it ─▶ which capability ─▶ granted? ─▶ judge ─▶ the API ─▶ answer
//!            target.rs       sender.rs    catalogue.rs        identity    judge/    upstream.rs
//! ```
//!
//! Nothing is passed on without a [`Permit`](crate::judge::Permit). What the agent sends is read whole before it is judged, up to a limit:
//! what was judged is what is sent. Answers are streams, and break off when the agent is revoked.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agentwall_action::{Resource, Verb};
use agentwall_budget::OnFailure;
use agentwall_identity::{
    self as identity, ApiTokens, By, ChangeError, Directory, GrantStatus, Principal, Profile,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::RuntimeFlavor;

use crate::{
    answer::{self, Disclosure, Next, Refusal},
    approvals::{Millis, hex},
    arguments,
    catalogue::{Capability, Catalogue},
    contact::Contact,
    fetch::keys::KeySets,
    headers,
    judge::{Asks, Call, Caller, Judge, Permit, Verdict},
    live::{Leased, Live},
    mcp,
    rates::{Rates, UNSIGNED},
    record::Ended,
    sender::of_auth,
    serve::{Body, Peer, Service},
    target::Target,
    upstream::Upstream,
};

/// Begins the paths that are the gateway's own. They never reach the API.
pub const OWN_PATH: &str = "/agentwall/";

/// Where the discovery document is (Agent Auth Protocol, section 6.1).
pub const DISCOVERY: &str = "/.well-known/agent-configuration";

/// Where agents ask how a call of theirs stands that waits for a person.
pub(crate) const CALLS: &str = "/agentwall/calls/";

/// The same for executions, which are then made.
pub(crate) const EXECUTIONS: &str = "/agentwall/executions/";

/// What a gateway is told.
#[derive(Debug)]
pub struct Config {
    /// For people and the record.
    pub name: String,
    /// The URL that agents know it under, without a slash at its end: the issuer of tokens' audiences.
    pub public: String,
    /// Hosts (with ports) that requests may name; others are misdirected. A web page that has its name point here is one.
    pub hosts: Vec<String>,
    /// Longest body of a request, in bytes.
    pub max_body: usize,
    /// How far tokens may be from the specification.
    pub profile: Profile,
    /// How much is told to agents.
    pub disclosure: Disclosure,
    /// What happens to calls when the counters give no answer.
    pub on_failure: OnFailure,
    /// Tokens that were made before this moment are refused, in seconds since 1970: counters that begin anew do not know
    /// which of them were used.
    pub since: i64,
}

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    /// What it was told.
    pub config: Config,
    /// What the API can do.
    pub catalogue: Catalogue,
    /// Hosts and agents.
    pub directory: Arc<Directory>,
    /// Who decides.
    pub judge: Judge,
    /// The API.
    pub upstream: Upstream,
    /// The API is a server of the Model Context Protocol.
    pub mcp: Option<mcp::Server>,
    /// What is under way.
    pub live: Live,
    /// Whether other instances are heard of.
    pub contact: Contact,
    /// Tokens of programs that ask about agents.
    pub tokens: Arc<ApiTokens>,
    /// Keys that hosts and agents publish.
    pub keys: KeySets,
    /// What strangers did.
    pub rates: Rates,
}

/// A body that is read as a whole.
pub(crate) trait Reads: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send {}

impl<B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send> Reads for B {}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A call that may be passed on, with what is left of its head.
#[derive(Debug)]
pub(crate) struct Permitted {
    pub(crate) principal: Principal,
    pub(crate) permit: Permit,
    pub(crate) parts: http::request::Parts,
    pub(crate) target: Target,
    pub(crate) body: Bytes,
}

/// A request to the API as it would be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Target,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
}

impl Service for Gateway {
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let head = *request.method() == Method::HEAD;
        request.extensions_mut().insert(peer);
        let (peer, now) = (Some(peer), Instant::now());
        let handled = match self.rates.check(UNSIGNED, peer, now) {
            Err(refusal) if !self.names_somebody(request.headers()) => Err(refusal),
            _ => self.handle(request).await,
        };
        let mut response = match handled {
            Ok(response) => response,
            Err(refusal) => {
                if refusal.status == StatusCode::UNAUTHORIZED {
                    // It is refused whether it can be counted or not.
                    let _ = self.rates.count(UNSIGNED, peer, now);
                }
                self.refusal(&refusal)
            }
        };
        if head {
            *response.body_mut() = whole("");
        }
        response
    }
}

impl Gateway {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Box<Refusal>> {
        self.check_authority(&request)?;
        if request.method() == Method::CONNECT || request.method() == Method::TRACE {
            return Err(Box::new(Refusal::invalid(format!(
                "{} is not for an API",
                request.method()
            ))));
        }
        let target = Target::of(request.uri()).map_err(|e| Refusal::invalid(e.to_string()))?;
        if target.path() == DISCOVERY || target.path().starts_with(OWN_PATH) {
            return crate::protocol::answer(self, &target, request).await;
        }
        match &self.mcp {
            Some(server) => mcp::http::answer(self, server, target, request).await,
            None => self.call(target, request).await,
        }
    }

    /// A call of the API by the API's own path.
    async fn call(
        &self,
        target: Target,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Box<Refusal>> {
        let (parts, body) = request.into_parts();
        let Permitted {
            principal,
            permit,
            parts,
            target,
            body,
        } = self.permitted(target, parts, body, "gateway").await?;
        self.pass_on(
            &principal,
            permit,
            parts.method,
            &target,
            parts.headers,
            body,
        )
        .await
    }

    /// Who makes a call of the API by its own path, and the permit for it.
    pub(crate) async fn permitted<B: Reads>(
        &self,
        target: Target,
        mut parts: http::request::Parts,
        body: B,
        enforced_by: &'static str,
    ) -> Result<Permitted, Box<Refusal>> {
        let (principal, body) = self.agent(&parts, &target, body, None).await?;
        let caller = self.caller(&principal)?;
        let found = self.catalogue.find(&parts.method, target.path());
        let Some(found) = found else {
            let refusal = unknown_capability(&parts.method, target.path());
            return Err(self.refuse_early(&caller, Box::new(refusal)).await);
        };
        let capability = found.capability;
        let arguments = arguments::named(
            found.path,
            target.query(),
            &parts.headers,
            &body,
            capability.opaque,
        );
        let arguments = match arguments {
            Ok(arguments) => arguments,
            Err(e) => {
                let refusal = Box::new(Refusal::invalid(e.to_string()));
                return Err(self.refuse_early(&caller, refusal).await);
            }
        };
        self.granted(&principal, &caller, capability, &arguments)
            .await?;
        headers::of_request(&mut parts.headers);
        let request = Outgoing {
            method: &parts.method,
            target: &target,
            headers: &parts.headers,
            body: &body,
        };
        let mut call = self.to_judge(capability, &request, arguments, CALLS);
        call.enforced_by = enforced_by;
        let permit = self.judged(&caller, &call).await?;
        Ok(Permitted {
            principal,
            permit,
            parts,
            target,
            body,
        })
    }

    /// The refusal of a call that does not come to be judged. Its token is used up.
    pub(crate) async fn refuse_early(
        &self,
        caller: &Caller,
        refusal: Box<Refusal>,
    ) -> Box<Refusal> {
        match self.judge.refused(caller, now()).await {
            Ok(()) => refusal,
            Err(replayed) => replayed,
        }
    }

    /// Whether the agent has the capability, with these arguments.
    pub(crate) async fn granted(
        &self,
        principal: &Principal,
        caller: &Caller,
        capability: &Capability,
        arguments: &Map<String, Value>,
    ) -> Result<(), Box<Refusal>> {
        let arguments = Value::Object(arguments.clone());
        let capable = self
            .directory
            .capable(principal, &capability.name, &arguments, now_s());
        let Err(e) = capable else {
            return Ok(());
        };
        let status = StatusCode::from_u16(e.status()).unwrap_or(StatusCode::FORBIDDEN);
        let mut refusal = Refusal::new(status, e.code(), e.code(), e.to_string());
        refusal.next.push(match &e {
            identity::Refusal::Violated(violations) => {
                refusal.violations = violations.iter().map(|v| json!(v)).collect();
                Next::Change
            }
            identity::Refusal::NotGranted(None | Some(GrantStatus::Active)) => {
                Next::RequestCapability(capability.name.clone())
            }
            identity::Refusal::NotGranted(Some(GrantStatus::Pending)) => Next::AskPerson,
            identity::Refusal::NotInToken => Next::Authenticate,
            _ => Next::Stop,
        });
        Err(self.refuse_early(caller, Box::new(refusal)).await)
    }

    /// A call as the judge sees it: of a described operation by its name and arguments, else of a URL.
    pub(crate) fn to_judge(
        &self,
        capability: &Capability,
        request: &Outgoing<'_>,
        arguments: Map<String, Value>,
        status_path: &str,
    ) -> Call {
        let method = request.method;
        let url = self.upstream.url(request.target);
        let (verb, resource, arguments) = match &capability.route {
            Some(_) => (
                Verb::ApiCall,
                format!("capability:{}", capability.name),
                arguments,
            ),
            None => {
                let path = url.split('?').next().unwrap_or_default().to_owned();
                let mut all = Map::from_iter([("method".to_owned(), json!(method.as_str()))]);
                all.insert("arguments".to_owned(), Value::Object(arguments));
                (Verb::HttpRequest, path, all)
            }
        };
        Call {
            verb,
            resource: Resource::Named(resource),
            arguments,
            capability: capability.name.clone(),
            sensitivity: capability.sensitivity,
            on_failure: self.config.on_failure,
            method: method.to_string(),
            url,
            headers: headers::bound(request.headers),
            body_sha256: hex(&Sha256::digest(request.body)),
            status_base: format!("{}{status_path}", self.config.public),
            asks: Asks::Put,
            enforced_by: "gateway",
            withheld: None,
        }
    }

    /// The agent, as the judge knows it.
    pub(crate) fn caller(&self, principal: &Principal) -> Result<Caller, Box<Refusal>> {
        let view = self
            .directory
            .status(By::Operator("gateway"), principal.agent(), now_s());
        let agent = view.map_err(|e| of_change(&e))?.agent;
        Ok(Caller {
            jti: principal.jti().to_owned(),
            once: principal.once().to_vec(),
            ..caller_of(agent)
        })
    }

    /// The judge's permit.
    pub(crate) async fn judged(
        &self,
        caller: &Caller,
        call: &Call,
    ) -> Result<Permit, Box<Refusal>> {
        match self
            .judge
            .judge(caller, call, random(), random, now())
            .await
        {
            Verdict::Go(permit) => Ok(permit),
            Verdict::Stop(refusal) => Err(refusal),
        }
    }

    /// Whether an agent that was let in may still act: nothing that happened since, here or elsewhere, ended it.
    pub(crate) fn still_may(&self, principal: &Principal) -> Result<(), Box<Refusal>> {
        self.knows()?;
        let checked = self.directory.check(principal, now_s());
        checked.map_err(|e| Box::new(of_auth(&e)))
    }

    /// Makes the call that a permit is for.
    pub(crate) async fn pass_on(
        &self,
        principal: &Principal,
        permit: Permit,
        method: Method,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Body>, Box<Refusal>> {
        let lease = self.live.begin(principal.agent().as_str());
        // Who was revoked before the lease is seen here, who is later ends the lease.
        if let Err(refusal) = self.still_may(principal) {
            self.judge.release(&permit).await;
            return Err(refusal);
        }
        self.directory.touch(principal, now_s());
        let began = Instant::now();
        let answer = tokio::select! {
            answer = self.upstream.call(method, target, headers, body) => answer.map_err(Some),
            () = lease.revoked() => Err(None),
        };
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let error = match &answer {
            Ok(_) => None,
            Err(Some(e)) => Some(e.to_string()),
            Err(None) => Some("the agent was revoked".to_owned()),
        };
        self.judge.recorder().ended(&Ended {
            call: &permit.id,
            status: answer.as_ref().ok().map(|r| r.status().as_u16()),
            error: error.as_deref(),
            took_us,
        });
        match answer {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                headers::of_response(&mut parts.headers);
                parts
                    .headers
                    .insert("agentwall-decision", HeaderValue::from_static("allow"));
                if let Ok(id) = HeaderValue::from_str(&permit.id) {
                    parts.headers.insert("agentwall-call", id);
                }
                answer::set(&mut parts.headers, &permit.budgets);
                Ok(Response::from_parts(
                    parts,
                    Leased::new(body, lease).boxed(),
                ))
            }
            Err(Some(e)) => {
                if e.is_before_the_call() {
                    self.judge.release(&permit).await;
                }
                let status = match e {
                    crate::upstream::CallError::Late(_) => StatusCode::GATEWAY_TIMEOUT,
                    _ => StatusCode::BAD_GATEWAY,
                };
                let mut refusal =
                    Refusal::new(status, "internal_error", "no-answer", e.to_string());
                if e.is_before_the_call() {
                    refusal.next.push(Next::Wait(Duration::from_secs(1)));
                }
                Err(Box::new(refusal))
            }
            Err(None) => Err(Box::new(Refusal::new(
                StatusCode::FORBIDDEN,
                "agent_revoked",
                "revoked",
                "the agent was revoked while the call was made",
            ))),
        }
    }

    pub(crate) fn refusal(&self, refusal: &Refusal) -> Response<Body> {
        self.refusal_text(refusal).map(whole)
    }

    /// The same, as text.
    pub(crate) fn refusal_text(&self, refusal: &Refusal) -> Response<String> {
        let mut response = refusal.response(self.config.disclosure);
        if refusal.status == StatusCode::UNAUTHORIZED {
            let challenge = format!("AgentAuth discovery=\"{}{DISCOVERY}\"", self.config.public);
            if let Ok(value) = HeaderValue::from_str(&challenge) {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, value);
            }
        }
        response
    }
}

/// An agent, without a token.
pub(crate) fn caller_of(agent: identity::Agent) -> Caller {
    Caller {
        agent: agent.id.as_str().to_owned(),
        host: agent.host.as_str().to_owned(),
        subject: Caller::subject_of(agent.host.as_str(), &agent.name),
        name: agent.name,
        by: None,
        since: agent.created_at,
        jti: String::new(),
        once: Vec::new(),
    }
}

/// Why nothing was changed, as a refusal.
pub(crate) fn of_change(error: &ChangeError) -> Box<Refusal> {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut refusal = Refusal::new(status, error.code(), error.code(), error.to_string());
    refusal.extra = error.extras();
    Box::new(refusal)
}

fn unknown_capability(method: &Method, path: &str) -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::NOT_FOUND,
        "capability_not_found",
        "capability-not-found",
        format!("{method} {path} is no operation of this API, so it is not passed on"),
    );
    refusal.next.push(Next::Stop);
    refusal
}

/// What may wait for a disk or a database. Other requests go on meanwhile.
pub(crate) fn waiting<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

pub(crate) fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// 128 bits that nobody can guess, base64url.
pub(crate) fn random() -> String {
    let mut bytes = [0; 16];
    // Without randomness nothing here can be trusted; the kernel blocks until it has some.
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn now_s() -> i64 {
    (now() / 1000).cast_signed()
}
