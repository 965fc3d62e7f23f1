//! Behind Envoy: each request that Envoy is about to pass on is asked about here (`envoy.service.auth.v3.Authorization`, gRPC).
//!
//! The request is the call that it would be if it had come to the gateway itself: the agent's token, the capability, the grant, the
//! judge. What is judged has to be what Envoy sends on, so a request is refused whose body is not here as a whole and in its bytes, or
//! whose target is not in the one spelling. Envoy is told to take away what the gateway would not send on (the agent's token),
//! and to add the API's credentials: so who asks has to be Envoy, by a token or by the socket's permissions.
//!
//! Weaker than a gateway in between: Envoy makes the call, so its end is not recorded and a revocation does not cut it.

mod proto;

use std::sync::Arc;

use agentwall_identity::ApiUse;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    request::Parts,
};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use prost::Message as _;

use crate::{
    answer::{self, Next, Refusal},
    gateway::{DISCOVERY, Gateway, OWN_PATH, Permitted, now_s},
    sender::bearer,
    serve::{Body, Peer, Service},
    target::Target,
};
use proto::{
    APPEND, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpRequest,
    HttpResponse, HttpStatus, OVERWRITE, OkHttpResponse, Status,
};

/// The one method.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What a check has beside a body, in bytes.
const MAX_REST: usize = 128 << 10;

/// Says whether Envoy has sent the body as a whole (`false`). Envoy sets it whenever it sends one.
const PARTIAL: &str = "x-envoy-auth-partial-body";

/// Codes of gRPC.
mod code {
    pub const OK: i32 = 0;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;
}

/// Answers an Envoy.
#[derive(Debug)]
pub struct ExtAuthz {
    gateway: Arc<Gateway>,
}

impl ExtAuthz {
    /// With a gateway's identities, policy and API.
    pub fn new(gateway: Arc<Gateway>) -> ExtAuthz {
        ExtAuthz { gateway }
    }

    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Result<CheckResponse, i32> {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST || parts.uri.path() != CHECK {
            return Err(code::UNIMPLEMENTED);
        }
        let tokens = &self.gateway.tokens;
        let known = |token| tokens.authenticate(token, ApiUse::Proxy, now_s());
        let may = peer == Peer::Local || bearer(&parts.headers).ok().and_then(known).is_some();
        // What a stranger sends is read, too, as far as it is short: an answer before the end of a request resets its stream,
        // and some clients lose the answer with it.
        let limit = match may {
            true => self.gateway.config.max_body.saturating_add(MAX_REST),
            false => MAX_REST,
        };
        let body = self.gateway.read_up_to(body, limit).await;
        if !may {
            return Err(code::UNAUTHENTICATED);
        }
        let body = body.map_err(|_| code::INVALID_ARGUMENT)?;
        let answered = match read(&body) {
            Ok(check) => self.check(check).await,
            Err(ReadError::Frame) => return Err(code::INVALID_ARGUMENT),
            Err(ReadError::Refused(refusal)) => Err(refusal),
        };
        Ok(answered.unwrap_or_else(|refusal| self.denied(&refusal)))
    }

    async fn check(&self, check: Check) -> Result<CheckResponse, Box<Refusal>> {
        let gateway = &self.gateway;
        gateway.check_host(&check.host)?;
        let Check {
            target,
            parts,
            body,
            unjudged,
            ..
        } = check;
        let sent = parts.headers.clone();
        let call = gateway
            .permitted(target, parts, Full::new(body), "ext_authz")
            .await?;
        if let Err(refusal) = gateway.still_may(&call.principal) {
            gateway.judge.release(&call.permit).await;
            return Err(refusal);
        }
        gateway.directory.touch(&call.principal, now_s());
        let mut gone = self.gone(&sent, &call);
        gone.extend(unjudged);
        Ok(self.allowed(gone, &call))
    }

    /// What the gateway would not have sent on.
    fn gone(&self, sent: &HeaderMap, call: &Permitted) -> Vec<String> {
        let credentials = self.gateway.upstream.credentials();
        let gone = |name: &&HeaderName| {
            !call.parts.headers.contains_key(*name)
                && !credentials.contains_key(*name)
                && !is_envoys(name)
        };
        sent.keys()
            .filter(gone)
            .map(HeaderName::to_string)
            .collect()
    }

    /// What Envoy does to the request and to its answer.
    fn allowed(&self, headers_to_remove: Vec<String>, call: &Permitted) -> CheckResponse {
        let mut told = HeaderMap::new();
        answer::set(&mut told, &call.permit.budgets);
        told.insert("agentwall-decision", HeaderValue::from_static("allow"));
        if let Ok(id) = HeaderValue::from_str(&call.permit.id) {
            told.insert("agentwall-call", id);
        }
        CheckResponse {
            status: Some(Status { code: code::OK }),
            http_response: Some(HttpResponse::Ok(OkHttpResponse {
                headers: listed(self.gateway.upstream.credentials()),
                headers_to_remove,
                response_headers_to_add: listed(&told),
            })),
        }
    }

    /// The gateway's own answer. What waits is a 403 here: Envoy has to know that it is not passed on.
    fn denied(&self, refusal: &Refusal) -> CheckResponse {
        let (parts, body) = self.gateway.refusal_text(refusal).into_parts();
        let (status, code) = match parts.status {
            StatusCode::ACCEPTED => (StatusCode::FORBIDDEN, code::PERMISSION_DENIED),
            StatusCode::UNAUTHORIZED => (parts.status, code::UNAUTHENTICATED),
            status if status.is_server_error() => (status, code::UNAVAILABLE),
            status => (status, code::PERMISSION_DENIED),
        };
        CheckResponse {
            status: Some(Status { code }),
            http_response: Some(HttpResponse::Denied(DeniedHttpResponse {
                status: Some(HttpStatus {
                    code: status.as_u16().into(),
                }),
                headers: listed(&parts.headers),
                body,
            })),
        }
    }
}

impl Service for ExtAuthz {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let answered = self.handle(request, peer).await;
        let status = HeaderValue::from(answered.as_ref().err().copied().unwrap_or(code::OK));
        let kind = HeaderValue::from_static("application/grpc");
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
        let body = match answered {
            Ok(answer) => {
                let trailers = HeaderMap::from_iter([(GRPC_STATUS, status)]);
                let whole = Full::new(framed(&answer)).map_err(|never| match never {});
                whole.with_trailers(async { Some(Ok(trailers)) }).boxed()
            }
            // Without a message the status is in the head.
            Err(_) => {
                headers.insert(GRPC_STATUS, status);
                Empty::new().map_err(|never| match never {}).boxed()
            }
        };
        let mut response = Response::new(body);
        *response.headers_mut() = headers;
        response
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A request that is asked about, as the gateway would have had it.
#[derive(Debug)]
pub struct Check {
    /// The host that it names.
    pub host: String,
    /// Path and query.
    pub target: Target,
    /// Method and headers.
    pub parts: Parts,
    /// The body, whole.
    pub body: Bytes,
    /// Names of headers that mean something to Envoy alone, and are not to go on.
    unjudged: Vec<String>,
}

/// A message that asks about no request.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// It is none.
    Frame,
    /// The request has no one meaning, or is not here as a whole.
    Refused(Box<Refusal>),
}

/// Reads what an Envoy asks: the one message of a gRPC request.
///
/// # Errors
/// It asks about nothing that can be decided.
pub fn read(frame: &Bytes) -> Result<Check, ReadError> {
    let message = unframed(frame).ok_or(ReadError::Frame)?;
    let check = CheckRequest::decode(message).map_err(|_| ReadError::Frame)?;
    let http = check
        .attributes
        .and_then(|a| a.request)
        .and_then(|r| r.http);
    let none = || Box::new(Refusal::invalid("the check is about no HTTP request"));
    let http = http.ok_or_else(none).map_err(ReadError::Refused)?;
    meant(http).map_err(ReadError::Refused)
}

fn meant(http: HttpRequest) -> Result<Check, Box<Refusal>> {
    let invalid = |text: &str| Box::new(Refusal::invalid(text));
    let target = Target::parse(&http.path).map_err(|e| Refusal::invalid(e.to_string()))?;
    if target.to_text() != http.path {
        let text = format!("the target has to be sent as {}", target.to_text());
        return Err(invalid(&text));
    }
    if target.path() == DISCOVERY || target.path().starts_with(OWN_PATH) {
        return Err(invalid("this path is the gateway's own; route it there"));
    }
    let method: Method = http
        .method
        .parse()
        .map_err(|_| invalid("the method is none"))?;
    let upgrades = ["upgrade", ":protocol"]
        .iter()
        .any(|name| http.headers.contains_key(*name));
    if upgrades || method == Method::CONNECT || method == Method::TRACE {
        return Err(invalid("CONNECT, TRACE and upgrades are not passed on"));
    }
    // Envoy's are; another spelling would be looked for in vain below.
    if http
        .headers
        .keys()
        .any(|name| name.bytes().any(|b| b.is_ascii_uppercase()))
    {
        return Err(invalid("a header's name is not in small letters"));
    }
    let chunked = http.headers.contains_key("transfer-encoding");
    let partial = http.headers.get(PARTIAL).map(String::as_str);
    let length = http.headers.get("content-length").map(String::as_str);
    match partial {
        Some("false") if http.body.is_empty() && !(chunked && http.raw_body.is_empty()) => {}
        Some(_) => return Err(no_body("the body is not here as a whole and in its bytes")),
        None if !http.body.is_empty() || !http.raw_body.is_empty() => {
            return Err(no_body("nothing says that the body is here as a whole"));
        }
        None => {
            let none = matches!(
                method,
                Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE
            );
            if chunked || length.map_or(!none, |length| length != "0") {
                return Err(no_body(
                    "the body is not here; a request without one says Content-Length: 0",
                ));
            }
        }
    }
    if length.is_some_and(|length| length.parse() != Ok(http.raw_body.len())) {
        return Err(no_body("the body has another length than the request says"));
    }
    let (mut headers, mut unjudged) = (HeaderMap::new(), Vec::new());
    for (name, value) in &http.headers {
        if name.starts_with("x-envoy-") && name != PARTIAL {
            unjudged.push(name.clone());
        }
        if name.starts_with(':') || name.starts_with("x-envoy-") {
            continue;
        }
        let name = name
            .parse::<HeaderName>()
            .map_err(|_| invalid("a header's name is none"))?;
        let value =
            HeaderValue::from_str(value).map_err(|_| invalid("a header's value is none"))?;
        headers.append(name, value);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = http
        .path
        .parse()
        .map_err(|_| invalid("the target is none"))?;
    *request.headers_mut() = headers;
    Ok(Check {
        host: http.host,
        target,
        parts: request.into_parts().0,
        body: http.raw_body,
        unjudged,
    })
}

fn no_body(text: &str) -> Box<Refusal> {
    let mut refusal = Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "invalid_request",
        "body-not-seen",
        format!("{text}, so it cannot be decided"),
    );
    refusal.next.push(Next::Change);
    Box::new(refusal)
}

/// Headers that Envoy makes anew, or cannot do without.
fn is_envoys(name: &HeaderName) -> bool {
    const ITS: [&str; 8] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    ITS.contains(&name.as_str())
}

fn listed(headers: &HeaderMap) -> Vec<HeaderValueOption> {
    let each = headers.keys().flat_map(|name| {
        let values = headers.get_all(name).iter().enumerate();
        values.map(move |(at, value)| HeaderValueOption {
            header: Some(proto::HeaderValue {
                key: name.to_string(),
                value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            }),
            append_action: if at == 0 { OVERWRITE } else { APPEND },
        })
    });
    each.collect()
}

/// A message in the form of gRPC over HTTP/2: not compressed, its length, itself.
fn framed(message: &CheckResponse) -> Bytes {
    let length = message.encoded_len();
    let mut all = BytesMut::with_capacity(5 + length);
    all.put_u8(0);
    all.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    all.extend_from_slice(&message.encode_to_vec());
    all.freeze()
}

/// The one message of a request.
fn unframed(body: &Bytes) -> Option<Bytes> {
    let (0, length) = (*body.first()?, body.get(1..5)?) else {
        return None;
    };
    let length = length
        .iter()
        .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    (body.len() - 5 == length).then(|| body.slice(5..))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn http(method: &str, path: &str, headers: &[(&str, &str)], body: &'static str) -> HttpRequest {
        HttpRequest {
            method: method.into(),
            path: path.into(),
            host: "api.example".into(),
            headers: headers
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect::<HashMap<_, _>>(),
            raw_body: Bytes::from_static(body.as_bytes()),
            ..HttpRequest::default()
        }
    }

    #[test]
    fn only_what_is_here_as_a_whole_is_judged() {
        let whole = (PARTIAL, "false");
        let taken = |request: HttpRequest| meant(request).map(|c| c.body).map_err(|r| r.kind);
        assert_eq!(taken(http("GET", "/a?b=c", &[], "")), Ok(Bytes::new()));
        assert_eq!(
            taken(http("POST", "/a", &[whole, ("content-length", "1")], "x")),
            Ok(Bytes::from("x"))
        );
        assert_eq!(
            taken(http("POST", "/a", &[whole], "x")),
            Ok(Bytes::from("x"))
        );
        assert_eq!(
            taken(http("POST", "/a", &[("content-length", "0")], "")),
            Ok(Bytes::new())
        );
        let not_seen = Err("body-not-seen");
        for (method, headers, body) in [
            ("POST", &[][..], ""),
            ("POST", &[(PARTIAL, "true")], "x"),
            ("POST", &[], "x"),
            ("POST", &[whole, ("content-length", "2")], "x"),
            ("GET", &[("content-length", "5")], ""),
            ("GET", &[("transfer-encoding", "chunked")], ""),
            ("POST", &[whole, ("transfer-encoding", "chunked")], ""),
        ] {
            assert_eq!(
                taken(http(method, "/a", headers, body)),
                not_seen,
                "{method} {headers:?} {body:?}"
            );
        }
        let text = HttpRequest {
            body: "x".into(),
            ..http("POST", "/a", &[whole], "")
        };
        assert_eq!(taken(text), not_seen, "text may not be what the bytes were");
    }

    #[test]
    fn only_one_spelling_and_no_other_way_is_judged() {
        for path in [
            "/a/../b",
            "//a",
            "/%61",
            "/a%2fb",
            "a",
            "*",
            "/agentwall/health",
            DISCOVERY,
        ] {
            assert!(meant(http("GET", path, &[], "")).is_err(), "{path}");
        }
        for (method, header) in [
            ("CONNECT", "accept"),
            ("TRACE", "accept"),
            ("GET", "upgrade"),
            ("GET", ":protocol"),
            ("GET", "Accept"),
        ] {
            assert!(
                meant(http(method, "/a", &[(header, "x")], "")).is_err(),
                "{method} {header}"
            );
        }
        let check = meant(http(
            "GET",
            "/a",
            &[
                (":path", "/a"),
                ("x-envoy-internal", "true"),
                ("accept", "*/*"),
            ],
            "",
        ))
        .unwrap();
        assert_eq!(
            check
                .parts
                .headers
                .keys()
                .map(HeaderName::as_str)
                .collect::<Vec<_>>(),
            ["accept"]
        );
    }

    #[test]
    fn a_frame_is_one_message_that_is_not_compressed() {
        let framed = framed(&CheckResponse {
            status: Some(Status { code: 7 }),
            http_response: None,
        });
        assert_eq!(unframed(&framed), Some(framed.slice(5..)));
        let mut compressed = framed.to_vec();
        compressed[0] = 1;
        for wrong in [
            &framed[..4],
            &framed[..6],
            &[&framed[..], b"x"].concat(),
            &compressed,
            &[],
        ] {
            assert!(unframed(&Bytes::copy_from_slice(wrong)).is_none());
        }
    }
}
