//! What of a message's head goes on to the other side.

use http::{HeaderMap, HeaderName, header};
use sha2::{Digest as _, Sha256};

use crate::approvals::{Bound, hex};

/// Headers of one connection (RFC 9110, section 7.6.1), and what older software treats so.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What an agent says of itself and must not say to the upstream: its token is for the gateway alone, and where a
/// request came from is the gateway's to tell.
const OF_THE_AGENT: [HeaderName; 9] = [
    header::AUTHORIZATION,
    HeaderName::from_static("dpop"),
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
    // Ways to name another path or method than the one that was decided.
    HeaderName::from_static("x-original-url"),
];

/// Names that frameworks read in the place of method and path, so that what was decided is not what is done.
const OVERRIDES: [HeaderName; 5] = [
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-forwarded-prefix"),
];

/// Headers that differ from one sending of a call to the next, or say only what answer is liked: no part of what a
/// person answers.
const OF_ONE_SENDING: [HeaderName; 11] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_LENGTH,
    header::DATE,
    header::PRAGMA,
    header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
];

/// Parts of names of headers whose values are credentials.
const SECRET: [&str; 6] = ["auth", "cookie", "key", "secret", "session", "token"];

/// Begins the headers that the gateway itself sets: nobody else does.
const OWN: &str = "agentwall-";

/// Takes away what is not for the upstream.
pub fn of_request(headers: &mut HeaderMap) {
    one_connection(headers);
    for name in OF_THE_AGENT.iter().chain(&OVERRIDES) {
        headers.remove(name);
    }
    // The answer's length is the upstream's to say; waiting for `100 Continue` was answered here (section 10.1.1).
    headers.remove(header::EXPECT);
    headers.remove(header::HOST);
    own(headers);
}

/// What of a request's headers (after [`of_request`]) is part of the call that a person answers: all but those of one
/// sending. Values as text, with escapes for bytes that are none; of credentials only the SHA-256.
pub fn bound(headers: &HeaderMap) -> Bound {
    let mut bound = Bound::new();
    for (name, value) in headers {
        if OF_ONE_SENDING.contains(name) || ["tracestate", "baggage"].contains(&name.as_str()) {
            continue;
        }
        let secret = *name != "idempotency-key" && SECRET.iter().any(|s| name.as_str().contains(s));
        let value = match secret {
            true => format!("sha256:{}", hex(&Sha256::digest(value.as_bytes()))),
            false => value.as_bytes().escape_ascii().to_string(),
        };
        bound.entry(name.to_string()).or_default().push(value);
    }
    bound
}

/// Whether a body is what its bytes are in UTF-8: one that says it is in UTF-7 is another text to a server that honours it.
pub fn is_utf8(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().all(|kind| {
        let kind = kind.as_bytes().to_ascii_lowercase();
        let mut parameters = kind.split(|b| *b == b';').skip(1).map(<[u8]>::trim_ascii);
        parameters.all(|parameter| {
            !parameter.starts_with(b"charset")
                || [
                    &b"charset=utf-8"[..],
                    b"charset=\"utf-8\"",
                    b"charset=us-ascii",
                ]
                .contains(&parameter)
        })
    })
}

/// Takes away what is not for the agent.
pub fn of_response(headers: &mut HeaderMap) {
    one_connection(headers);
    own(headers);
}

fn one_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = (headers.get_all(header::CONNECTION).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn own(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = (headers.keys())
        .filter(|name| name.as_str().starts_with(OWN))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(all: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_agents_token_and_the_connections_headers_stay_here() {
        let mut headers = heads(&[
            ("Authorization", "Bearer x"),
            ("DPoP", "y"),
            ("Connection", "close, X-Secret"),
            ("Connection", "x-more"),
            ("X-Secret", "1"),
            ("X-More", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Original-URL", "/admin"),
            ("AgentWall-Agent", "someone-else"),
            ("Host", "here"),
            ("Expect", "100-continue"),
            ("Accept", "*/*"),
            ("Content-Type", "application/json"),
            ("Traceparent", "00-1-2-00"),
        ]);
        of_request(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-type", "traceparent"]);
    }

    #[test]
    fn a_body_is_in_utf8() {
        for (kind, good) in [
            ("application/json", true),
            ("application/json; charset=UTF-8", true),
            ("application/json;boundary=x; Charset=\"utf-8\"", true),
            ("application/json; charset=utf-7", false),
            ("application/json; charset =utf-7", false),
            ("application/json; charset=utf-8; charset=utf-7", false),
            ("application/json; charset*=utf-7", false),
        ] {
            assert_eq!(is_utf8(&heads(&[("Content-Type", kind)])), good, "{kind}");
        }
        let two = [
            ("Content-Type", "application/json"),
            ("Content-Type", "a/b; charset=utf-16"),
        ];
        assert!(!is_utf8(&heads(&two)));
        assert!(is_utf8(&HeaderMap::new()));
    }

    #[test]
    fn what_means_something_to_the_api_is_part_of_the_call() {
        let headers = heads(&[
            ("Content-Type", "application/json"),
            ("X-Account", "5"),
            ("X-Account", "caf\u{e9} \\"),
            ("Idempotency-Key", "k1"),
            ("X-Api-Key", "geheim"),
            ("User-Agent", "one/1"),
            ("Traceparent", "00-1-2-00"),
            ("Content-Length", "3"),
        ]);
        let bound = bound(&headers);
        let names: Vec<&str> = bound.keys().map(String::as_str).collect();
        let expected = ["content-type", "idempotency-key", "x-account", "x-api-key"];
        assert_eq!(names, expected);
        assert_eq!(bound["x-account"], ["5", r"caf\xc3\xa9 \\"]);
        assert_eq!(bound["idempotency-key"], ["k1"]);
        assert!(bound["x-api-key"][0].starts_with("sha256:"));
        assert!(!format!("{bound:?}").contains("geheim"));
    }

    #[test]
    fn an_upstream_cannot_speak_for_the_gateway() {
        let mut headers = heads(&[
            ("AgentWall-Decision", "allow"),
            ("Keep-Alive", "timeout=5"),
            ("WWW-Authenticate", "Basic"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
        ]);
        of_response(&mut headers);
        assert_eq!(headers.len(), 3);
        assert_eq!(headers.get_all(header::SET_COOKIE).iter().count(), 2);
    }
}
