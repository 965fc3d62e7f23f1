//! The endpoint: streamable HTTP of the revisions 2025-03-26 to 2025-11-25, with sessions, and of 2026-07-28, without.
//!
//! POST carries one message; the answer is JSON or a stream of events. GET is the stream of a session, or takes an earlier
//! one up again; DELETE ends the session. Headers that repeat the message must say what it says. A session is spoken in
//! by the agent alone that began it: for another one it does not exist.

use agentwall_identity::Principal;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::{
    Asked, REST, STATELESS, Server, TOOLS, asked,
    filter::Filter,
    heads::{LAST_EVENT, SESSION, VERSION, consistent, one},
    reply, resume,
    rpc::{Kind, MAX_ANSWER, Message},
    watched::Watched,
};
use crate::{
    answer::{self, Refusal},
    approvals::State,
    gateway::{CALLS, Gateway, now, now_s, whole},
    headers,
    judge::Caller,
    serve::Body,
    target::Target,
};

type Answer = Result<Response<Body>, Box<Refusal>>;

/// Answers a request for the server.
pub(crate) async fn answer(
    gateway: &Gateway,
    server: &Server,
    target: Target,
    request: Request<Incoming>,
) -> Answer {
    let (parts, body) = request.into_parts();
    check_origin(gateway, &parts.headers)?;
    if target != *gateway.upstream.endpoint() {
        return Err(Box::new(Refusal::new(
            StatusCode::NOT_FOUND,
            "invalid_request",
            "not-found",
            format!("the endpoint is {}", gateway.upstream.endpoint().to_text()),
        )));
    }
    if ![Method::POST, Method::GET, Method::DELETE].contains(&parts.method) {
        let mut refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request",
            "method-not-allowed",
            "the endpoint takes POST, GET and DELETE",
        );
        refusal
            .headers
            .push(("allow", "POST, GET, DELETE".to_owned()));
        return Err(Box::new(refusal));
    }
    let (principal, body) = gateway.agent(&parts, &target, body, None).await?;
    let caller = gateway.caller(&principal)?;
    let exchange = Exchange {
        gateway,
        server,
        principal: &principal,
        caller: &caller,
    };
    exchange.go(parts, body).await
}

/// A web page that has its name point here is not the gateway's own (DNS rebinding).
fn check_origin(gateway: &Gateway, headers: &HeaderMap) -> Result<(), Box<Refusal>> {
    let known = |origin: &HeaderValue| {
        let host = origin.to_str().ok()?.split_once("://")?.1.to_owned();
        (gateway.config.hosts.iter())
            .any(|h| h.eq_ignore_ascii_case(&host))
            .then_some(())
    };
    match headers
        .get_all(header::ORIGIN)
        .iter()
        .all(|o| known(o).is_some())
    {
        true => Ok(()),
        false => Err(Box::new(Refusal::new(
            StatusCode::FORBIDDEN,
            "invalid_request",
            "foreign-origin",
            "the Origin header names another site",
        ))),
    }
}

/// One request of an agent that is known.
struct Exchange<'a> {
    gateway: &'a Gateway,
    server: &'a Server,
    principal: &'a Principal,
    caller: &'a Caller,
}

impl Exchange<'_> {
    async fn go(&self, mut parts: Parts, body: Bytes) -> Answer {
        let posts = parts.method == Method::POST;
        if let Err(refusal) = plain(&parts, &body) {
            return Err(self.gateway.refuse_early(self.caller, refusal).await);
        }
        let (ticket, body) = resume::taken(body);
        let message = match posts {
            true => Message::read(&body, usize::MAX).map_err(|e| (None, e.code(), e.to_string())),
            // A stream, or the end of a session: known methods, as far as the judge is concerned.
            false => Ok(Message {
                id: None,
                kind: Kind::Answer,
                digest: String::new(),
            }),
        };
        let read = message.and_then(|message| {
            let id = message.id.clone();
            if posts {
                consistent(&parts.headers, &message)
                    .map_err(|e| (id.clone(), reply::MISMATCH, e))?;
            }
            let what = match posts {
                true => asked(&message).map_err(|e| (id, e.code(), e.to_string()))?,
                false => stream(&parts),
            };
            if let Some(ticket) = &ticket
                && !self.is_of_call(ticket, &message)
            {
                let text = "Invalid params: 'requestState' is of another call, or over; call again without it";
                return Err((message.id, -32602, text.to_owned()));
            }
            Ok((message, what))
        });
        let (message, what) = match read {
            Ok(read) => read,
            Err((id, code, text)) => {
                let stateless = one(&parts.headers, &VERSION).is_some_and(|v| v >= STATELESS);
                self.gateway.judge.refused(self.caller, now()).await?;
                let status = match code {
                    -32601 if stateless => StatusCode::NOT_FOUND,
                    -32601 | -32602 => StatusCode::OK,
                    _ => StatusCode::BAD_REQUEST,
                };
                return Ok(rpc_answer(status, &reply::error(id.as_ref(), code, &text)));
            }
        };
        if let Err(refusal) = self.session(&mut parts.headers) {
            return Err(self.gateway.refuse_early(self.caller, refusal).await);
        }
        match self.pass(&mut parts, &message, &what, body).await {
            Ok(response) => Ok(response),
            Err(refusal) if reply::answers(&refusal) && message.wants_answer() => {
                let id = message.id.clone().unwrap_or_default();
                let config = &self.gateway.config;
                let told = match resume::asks(&message, &what, &refusal, config) {
                    Some(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
                    None => reply::refusal(&id, &what, &refusal, config.disclosure),
                };
                let mut response = rpc_answer(StatusCode::OK, &told);
                answer::set(response.headers_mut(), &refusal.headers);
                Ok(response)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether the ticket is of a question about this call of this agent, and the call was not made yet.
    fn is_of_call(&self, ticket: &str, message: &Message) -> bool {
        let question = self.gateway.judge.approvals().of_ticket(ticket, now());
        question.is_some_and(|question| {
            question.payload.agent == self.caller.agent
                && question.payload.body_sha256 == message.digest
                && !matches!(question.state, State::Used | State::Ended { .. })
        })
    }

    /// The session, if the request names one, is the agent's. The revision without sessions knows none.
    fn session(&self, headers: &mut HeaderMap) -> Result<(), Box<Refusal>> {
        if one(headers, &VERSION).is_some_and(|v| v >= STATELESS) {
            headers.remove(&SESSION);
            headers.remove(&LAST_EVENT);
            return Ok(());
        }
        let named = headers.contains_key(&SESSION);
        let of_agent = |id: &str| self.server.sessions.is_of(id, &self.caller.agent);
        if named && !one(headers, &SESSION).is_some_and(of_agent) {
            return Err(Box::new(Refusal::new(
                StatusCode::NOT_FOUND,
                "invalid_request",
                "no-session",
                "there is no such session; begin another one with initialize",
            )));
        }
        // An event's id is no proof of whose stream it is of.
        if !named && headers.contains_key(&LAST_EVENT) {
            return Err(Box::new(Refusal::invalid(
                "Last-Event-ID needs the Mcp-Session-Id of the stream",
            )));
        }
        Ok(())
    }

    /// Has the call judged, passes it on, and looks at what comes back.
    async fn pass(
        &self,
        parts: &mut Parts,
        message: &Message,
        what: &Asked,
        body: Bytes,
    ) -> Answer {
        let gateway = self.gateway;
        let (name, arguments) = match what {
            Asked::Tool { arguments, .. } => (TOOLS, arguments),
            Asked::Rest { arguments } => (REST, arguments),
        };
        if let Some(capability) = gateway.catalogue.get(name) {
            gateway
                .granted(self.principal, self.caller, capability, arguments)
                .await?;
        }
        let session = one(&parts.headers, &SESSION).map(str::to_owned);
        headers::of_request(&mut parts.headers);
        // The gateway's own name, which it checked, means nothing behind it; and what is compressed cannot be looked at.
        parts.headers.remove(header::ORIGIN);
        parts.headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let endpoint = gateway.upstream.endpoint();
        let url = gateway.upstream.url(endpoint);
        let mut call = self.server.call(
            message,
            what,
            (&url, &parts.headers),
            gateway.config.on_failure,
            format!("{}{CALLS}", gateway.config.public),
        );
        if parts.method != Method::POST {
            call.method = parts.method.to_string();
        }
        let permit = gateway.judged(self.caller, &call).await?;
        let headers = std::mem::take(&mut parts.headers);
        let response = gateway
            .pass_on(
                self.principal,
                permit,
                parts.method.clone(),
                endpoint,
                headers,
                body,
            )
            .await?;
        self.came_back(&parts.method, session, message, response)
            .await
    }

    async fn came_back(
        &self,
        method: &Method,
        session: Option<String>,
        message: &Message,
        mut response: Response<Body>,
    ) -> Answer {
        let ended = *method == Method::DELETE && response.status().is_success();
        let gone = response.status() == StatusCode::NOT_FOUND;
        if let (true, Some(id)) = (ended || gone, &session) {
            self.server.sessions.end(id);
        }
        if let Some(id) = response.headers().get(&SESSION) {
            let id = id.to_str().unwrap_or_default();
            if !self.server.sessions.begin(id, &self.caller.agent) {
                return Err(broken("the server gave the id of another agent's session"));
            }
        }
        if response.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(broken("it is compressed, which nobody asked for"));
        }
        // A client that goes where it points asks there what nobody decided.
        if response.status().is_redirection() {
            return Err(broken("it points somewhere else"));
        }
        let kind = media_type(response.headers()).map_err(broken)?;
        let filter = self.filter();
        match kind.as_str() {
            "text/event-stream" => {
                response.headers_mut().remove(header::CONTENT_LENGTH);
                Ok(response.map(|body| Watched::new(body, filter).boxed()))
            }
            "application/json" => self.of_json(filter, message, response).await,
            // Errors may be told in other words, and the end of a session in any.
            _ if !response.status().is_success() || *method == Method::DELETE => Ok(response),
            _ if [StatusCode::ACCEPTED, StatusCode::NO_CONTENT].contains(&response.status()) => {
                Ok(response)
            }
            _ => Err(broken("it is neither JSON nor a stream of events")),
        }
    }

    /// An answer that is one message.
    async fn of_json(&self, filter: Filter, message: &Message, response: Response<Body>) -> Answer {
        let (mut parts, body) = response.into_parts();
        let read = Limited::new(body, MAX_ANSWER).collect().await;
        let bytes = read.map_err(|e| broken(&e.to_string()))?.to_bytes();
        // A notification that was taken has no answer, whatever type it says that is of.
        if bytes.is_empty() {
            return Ok(Response::from_parts(parts, whole(bytes)));
        }
        let other = match filter.message(&bytes) {
            Ok(other) => other,
            Err(e) => {
                let told = reply::error(message.id.as_ref(), -32603, &e.to_string());
                // The end of a session stays one.
                let status = match parts.status.is_success() {
                    true => StatusCode::BAD_GATEWAY,
                    false => parts.status,
                };
                return Ok(rpc_answer(status, &told));
            }
        };
        if let Some(other) = other {
            parts.headers.remove(header::CONTENT_LENGTH);
            return Ok(Response::from_parts(parts, whole(other)));
        }
        Ok(Response::from_parts(parts, whole(bytes)))
    }

    fn filter(&self) -> Filter {
        let granted = self.gateway.directory.grants(self.principal, now_s());
        let granted = granted.unwrap_or_default();
        let granted = granted
            .iter()
            .any(|(n, g)| n == TOOLS && g.is_active(now_s()));
        self.server.filter(
            self.gateway.judge.policy(),
            self.caller.subject.clone(),
            granted,
            now(),
        )
    }
}

/// A message is JSON in UTF-8, as it was read here, and what is no POST has none.
fn plain(parts: &Parts, body: &Bytes) -> Result<(), Box<Refusal>> {
    let headers = &parts.headers;
    if parts.method != Method::POST {
        return match body.is_empty() {
            true => Ok(()),
            false => Err(Box::new(Refusal::invalid("only POST has a body"))),
        };
    }
    let kind = one(headers, &header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    let json = kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if json && headers::is_utf8(headers) && !headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(());
    }
    Err(Box::new(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "invalid_request",
        "unsupported-media-type",
        "a message is application/json in UTF-8, without a Content-Encoding",
    )))
}

/// What an answer is, as every reader takes it: it is said once, and what is looked into is in UTF-8.
fn media_type(headers: &HeaderMap) -> Result<String, &'static str> {
    let kind = match one(headers, &header::CONTENT_TYPE) {
        Some(kind) => kind.split(';').next().unwrap_or_default(),
        None if headers.contains_key(header::CONTENT_TYPE) => {
            return Err("its Content-Type can be read in two ways");
        }
        None => "",
    };
    let kind = kind.trim().to_ascii_lowercase();
    let looked_into = ["text/event-stream", "application/json"].contains(&kind.as_str());
    match looked_into && !headers::is_utf8(headers) {
        true => Err("it is not in UTF-8"),
        false => Ok(kind),
    }
}

/// GET and DELETE, as methods of their own.
fn stream(parts: &Parts) -> Asked {
    let method = match parts.method == Method::DELETE {
        true => "DELETE",
        false => "GET",
    };
    Asked::Rest {
        arguments: Map::from_iter([
            ("method".to_owned(), json!(method)),
            ("params".to_owned(), json!({})),
        ]),
    }
}

fn rpc_answer(status: StatusCode, told: &Value) -> Response<Body> {
    let mut response = Response::new(whole(told.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn broken(why: &str) -> Box<Refusal> {
    Box::new(Refusal::new(
        StatusCode::BAD_GATEWAY,
        "internal_error",
        "no-answer",
        format!("the server's answer does not go on: {why}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_an_answer_is_said_once_and_in_utf_8() {
        let of = |kinds: &[&str]| {
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            media_type(&headers)
        };
        assert_eq!(of(&[]), Ok(String::new()));
        for kind in ["application/json", "Application/JSON; charset=UTF-8"] {
            assert_eq!(of(&[kind]).as_deref(), Ok("application/json"), "{kind}");
        }
        assert_eq!(
            of(&["text/html; charset=iso-8859-1"]).as_deref(),
            Ok("text/html")
        );
        for kinds in [
            &["application/json", "text/event-stream"][..],
            &["application/json", "application/json"],
            &["application/json; charset=utf-16"],
            &["text/event-stream;charset=utf-7"],
        ] {
            assert!(of(kinds).is_err(), "{kinds:?}");
        }
    }
}
