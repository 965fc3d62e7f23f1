//! What every request goes through before a handler sees it: the host it names, who sends it, and whether the table of
//! routes lets them.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};

use crate::{
    access::{self, Need, Role},
    codes::{hash, same},
    console::{Caller, Console, How, now_ms},
    problem::Problem,
};

/// The header in which a page repeats its session's token.
pub const CSRF: &str = "x-agentwall-csrf";

/// No inline code, nothing of others, no frames; and text is never made into markup by a script.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                   form-action 'none'; frame-ancestors 'none'; base-uri 'none'; \
                   require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(&str, &str); 8] = [
    ("content-security-policy", CSP),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    ),
    ("cache-control", "no-store"),
];

/// The host that a request names is ours (a name that was made to point here is not), and the answer says what a
/// browser may do with it.
pub(crate) async fn outer(
    State(console): State<Arc<Console>>,
    request: Request,
    next: Next,
) -> Response {
    let mut answer = match is_ours(&console, &request) {
        true => next.run(request).await,
        false => Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "other-host",
            format!("the console is at {}", console.config.origin),
        )
        .into_response(),
    };
    for (name, value) in HEADERS {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn is_ours(console: &Console, request: &Request) -> bool {
    let mut named = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else {
        return false;
    };
    let ours = |name: &str| {
        console
            .config
            .hosts
            .iter()
            .any(|h| h.eq_ignore_ascii_case(name))
    };
    // An absolute form names it twice (RFC 9112, section 3.2.2).
    let inner = request.uri().authority().is_none_or(|a| ours(a.as_str()));
    inner && host.to_str().is_ok_and(ours)
}

/// Finds out who it is, and asks the table.
pub(crate) async fn access(
    State(console): State<Arc<Console>>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let Some(need) = access::need(&method, path.as_str()) else {
        let methods = access::methods(path.as_str()).join(", ");
        let text = format!("this has {methods} alone");
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", text);
        return ([(header::ALLOW, methods)], problem).into_response();
    };
    let caller = match caller(&console, request.headers()) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let api = path.as_str().starts_with("/api/");
    if need != Need::Nothing {
        match caller.role {
            Some(role) if role.may(need) => {}
            Some(role) => return forbidden(role).into_response(),
            None if !api && method == Method::GET => return Redirect::to("/login").into_response(),
            None => return unknown().into_response(),
        }
    }
    if let Err(problem) = changes(&console, (&method, need), &caller, request.headers()) {
        return problem.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// A request that changes something is sent by our own page: browsers send the Origin with each such request, and only our
/// page knows the session's token. A program with a token of its own is no browser.
fn changes(
    console: &Console,
    (method, need): (&Method, Need),
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    if method.is_safe() || matches!(caller.how, How::Token { .. }) {
        return Ok(());
    }
    let forged = |text| Err(Problem::new(StatusCode::FORBIDDEN, "cross-origin", text));
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    if text("origin") != Some(console.config.origin.as_str()) {
        return forged("the request does not come from a page of this console");
    }
    match &caller.how {
        How::Session { csrf, .. }
            if need != Need::Nothing && !text(CSRF).is_some_and(|sent| same(sent, csrf)) =>
        {
            forged("the request has not the token of this session")
        }
        _ => Ok(()),
    }
}

/// Who sent a request: by a token, or by the cookie of a session.
fn caller(console: &Console, headers: &HeaderMap) -> Result<Caller, Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        // Who names a token is that, or nobody; a cookie beside it means nothing.
        let hash = hash(token.ok_or_else(unknown)?);
        let known = console.accounts.token(&hash)?.ok_or_else(unknown)?;
        return Ok(Caller {
            by: format!("token:{}", known.name),
            role: Role::of(&known.role),
            how: How::Token { hash },
        });
    }
    let nobody = Caller {
        by: String::new(),
        role: None,
        how: How::Nobody,
    };
    let Some(cookie) = cookie(console, headers) else {
        return Ok(nobody);
    };
    let Some(known) = console.sessions.of(&cookie, now_ms()) else {
        return Ok(nobody);
    };
    // An account that was taken away ends with its sessions.
    let Some(account) = console.accounts.account(&known.account)? else {
        console.sessions.end(&cookie);
        return Ok(nobody);
    };
    Ok(Caller {
        by: format!("account:{}", account.name),
        role: Role::of(&account.role),
        how: How::Session {
            cookie,
            account: known.account,
            csrf: known.csrf,
        },
    })
}

fn cookie(console: &Console, headers: &HeaderMap) -> Option<String> {
    let all = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let mut pairs = all
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let found = pairs.find(|(name, _)| *name == console.cookie());
    found.map(|(_, value)| value.to_owned())
}

fn unknown() -> Problem {
    let text = "log in at /login, or send a token of 'agentwall serve token create' as Authorization: Bearer";
    Problem::new(StatusCode::UNAUTHORIZED, "not-logged-in", text)
}

fn forbidden(role: Role) -> Problem {
    let text = format!("the role '{}' does not have this", role.as_str());
    Problem::new(StatusCode::FORBIDDEN, "not-permitted", text)
}
