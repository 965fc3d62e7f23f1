//! Who sends a request: the host that it names, its token, verified, and its body, read.

use std::time::Duration;

use agentwall_identity::{
    self as identity, AgentClaims, AuthError, Expect, Fetched, HostClaims, Jws, Principal,
};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::{
    answer::{Next, Refusal},
    gateway::{DISCOVERY, Gateway, OWN_PATH, Reads, now_s},
    target::Target,
};

/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// Bodies that are read before their sender is known, at a time: those of tokens that are bound to them.
static EARLY: Semaphore = Semaphore::const_new(64);

impl Gateway {
    /// Who sends the request, and its body. The body is read after the signature was verified, except for a token that
    /// is bound to it.
    pub(crate) async fn agent<B: Reads>(
        &self,
        parts: &http::request::Parts,
        target: &Target,
        body: B,
        poll: Option<identity::Poll<'_>>,
    ) -> Result<(Principal, Bytes), Box<Refusal>> {
        let token = bearer(&parts.headers).map_err(|e| self.challenge(e))?;
        let jws = Jws::parse(token).map_err(|e| {
            self.challenge(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "invalid_jwt",
                "invalid-token",
                e.to_string(),
            ))
        })?;
        let claims = AgentClaims::read(&jws).ok();
        self.takes(claims.as_ref().map(|c| c.iat))?;
        let bound = claims
            .and_then(|claims| claims.request)
            .is_some_and(|request| request.ath.is_some());
        let (body, early) = match bound {
            true => {
                // Nobody knows yet who sends it: few such bodies are held at a time.
                let Ok(_held) = EARLY.try_acquire() else {
                    return Err(Box::new(Refusal::unavailable(
                        "too many bodies whose senders are not known yet are under way",
                    )));
                };
                (None, Some(self.read(body).await?))
            }
            false => (Some(body), None),
        };
        let url = format!("{}{}", self.config.public, target.path());
        let proof = parts.headers.get("dpop").and_then(|v| v.to_str().ok());
        let request = agentwall_identity::Request {
            method: parts.method.as_str(),
            url: &url,
            body: early.as_ref().map(|body| Sha256::digest(body).into()),
            proof,
            nonces: &[],
        };
        let principal = self.verified(&jws, Some(request), poll).await?;
        let body = match (body, early) {
            (Some(body), _) => self.read(body).await?,
            (None, early) => early.unwrap_or_default(),
        };
        Ok((principal, body))
    }

    /// The agent that an agent's token is of.
    pub(crate) async fn verified(
        &self,
        jws: &Jws,
        request: Option<identity::Request<'_>>,
        poll: Option<identity::Poll<'_>>,
    ) -> Result<Principal, Box<Refusal>> {
        let audiences = self.audiences();
        let mut fetched = Vec::new();
        loop {
            let expect = Expect {
                profile: self.config.profile,
                request,
                poll,
                fetched: &fetched,
                ..Expect::strict(now_s(), &audiences)
            };
            match self.directory.authenticate_agent(jws, &expect) {
                Ok(principal) => return Ok(principal),
                Err(e) => self.fetch(e, &mut fetched).await?,
            }
        }
    }

    /// Fetches the set that a key is in, if it was not fetched for this request.
    ///
    /// # Errors
    /// It is not there, or keys are not what is missing.
    pub(crate) async fn fetch(
        &self,
        e: AuthError,
        fetched: &mut Vec<Fetched>,
    ) -> Result<(), Box<Refusal>> {
        let (url, kid) = match &e {
            AuthError::NeedsKeys { url, kid } if fetched.iter().all(|set| set.url != *url) => {
                (url, kid)
            }
            _ => return Err(self.challenge(of_auth(&e))),
        };
        let set = self.keys.get(url, kid).await.map_err(|e| {
            let text = e.to_string();
            self.challenge(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "invalid_jwt",
                "no-keys",
                text,
            ))
        })?;
        fetched.push(set);
        Ok(())
    }

    /// Whether a request has a token that names an agent or a host that is here. It says nothing about who sends it; but
    /// their ids are not to be guessed, and many may share the address of one stranger.
    pub(crate) fn names_somebody(&self, headers: &HeaderMap) -> bool {
        let jws = bearer(headers)
            .ok()
            .and_then(|token| Jws::parse(token).ok());
        jws.is_some_and(|jws| match AgentClaims::read(&jws) {
            Ok(claims) => self.directory.has_agent(&claims.sub),
            Err(_) => HostClaims::read(&jws).is_ok_and(|c| self.directory.has_host_key(c.iss)),
        })
    }

    /// Whether it is known who was revoked elsewhere.
    pub(crate) fn knows(&self) -> Result<(), Box<Refusal>> {
        match self.contact.is_fresh() {
            true => Ok(()),
            false => Err(Box::new(Refusal::unavailable(
                "the store of identities gives no answer, so nobody knows who was revoked",
            ))),
        }
    }

    /// Whether tokens are taken now, and this one, which was made at `iat`: while the counters counted.
    pub(crate) fn takes(&self, iat: Option<i64>) -> Result<(), Box<Refusal>> {
        self.knows()?;
        match iat {
            Some(iat) if iat < self.config.since => Err(self.challenge(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "invalid_jwt",
                "invalid-token",
                "the token was made before this gateway began, so nobody knows whether it was used; make a fresh one",
            ))),
            _ => Ok(()),
        }
    }

    /// What tokens may be for: the gateway, and where capabilities are executed.
    pub(crate) fn audiences(&self) -> Vec<String> {
        vec![
            self.config.public.clone(),
            format!("{}{OWN_PATH}capability/execute", self.config.public),
        ]
    }

    pub(crate) async fn read<B: Reads>(&self, body: B) -> Result<Bytes, Box<Refusal>> {
        self.read_up_to(body, self.config.max_body).await
    }

    pub(crate) async fn read_up_to<B: Reads>(
        &self,
        body: B,
        limit: usize,
    ) -> Result<Bytes, Box<Refusal>> {
        let limited = Limited::new(body, limit);
        let read = tokio::time::timeout(BODY_PATIENCE, limited.collect()).await;
        let late = || {
            Box::new(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request",
                "body-too-slow",
                "the body did not come in time",
            ))
        };
        match read.map_err(|_| late())? {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => Err(Box::new(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request",
                "body-too-large",
                format!("the body is longer than {limit} bytes"),
            ))),
            Err(e) => Err(Box::new(Refusal::invalid(format!(
                "the body broke off: {e}"
            )))),
        }
    }

    /// Requests name the gateway: as Host, or as authority where HTTP/2 has it.
    pub(crate) fn check_authority(&self, request: &Request<Incoming>) -> Result<(), Box<Refusal>> {
        let mut named: Vec<&str> = request
            .uri()
            .authority()
            .map(|a| a.as_str())
            .into_iter()
            .collect();
        for host in request.headers().get_all(header::HOST) {
            named.push(host.to_str().unwrap_or_default());
        }
        let one = named
            .windows(2)
            .all(|two| two[0].eq_ignore_ascii_case(two[1]));
        match named.first() {
            Some(name) if one => self.check_host(name),
            _ => self.check_host(""),
        }
    }

    /// Whether a host is the gateway's.
    pub(crate) fn check_host(&self, name: &str) -> Result<(), Box<Refusal>> {
        let mut hosts = self.config.hosts.iter();
        match hosts.any(|host| host.eq_ignore_ascii_case(name)) {
            true => Ok(()),
            false => Err(Box::new(Refusal::new(
                StatusCode::MISDIRECTED_REQUEST,
                "invalid_request",
                "misdirected",
                format!(
                    "this is {}; the Host header has to say so, once",
                    self.config.public
                ),
            ))),
        }
    }

    /// A refusal with the way to find out how to authenticate (Agent Auth Protocol, section 6.2).
    pub(crate) fn challenge(&self, refusal: impl Into<Box<Refusal>>) -> Box<Refusal> {
        let mut refusal = refusal.into();
        if refusal.status == StatusCode::UNAUTHORIZED {
            let url = format!("{}{DISCOVERY}", self.config.public);
            refusal.extra.insert("discovery".into(), json!(url));
            if refusal.next.is_empty() {
                refusal.next.push(Next::Authenticate);
            }
        }
        refusal
    }
}

/// The one bearer token (RFC 6750, section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Box<Refusal>> {
    let missing = |text: &str| {
        Box::new(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "authentication_required",
            "authentication-required",
            text,
        ))
    };
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(missing(
            "send one Authorization header with a token of the agent",
        ));
    };
    let value = value.to_str().unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("dpop") =>
        {
            Ok(token.trim_start_matches(' '))
        }
        _ => Err(missing("the Authorization header is not 'Bearer TOKEN'")),
    }
}

/// An error of identity as a refusal.
pub(crate) fn of_auth(error: &AuthError) -> Refusal {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::FORBIDDEN);
    Refusal::new(status, error.code(), error.code(), error.to_string())
}
