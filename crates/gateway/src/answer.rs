//! What an agent is told when its call is not passed on: one body for two readers.
//!
//! It is a problem of RFC 9457 (`type`, `title`, `status`, `detail`) and an error of the Agent Auth Protocol (`error`,
//! `message`) at once, and has a `hint`: what decided, and what the agent may do instead. How much of the reason is
//! told is the operator's choice ([`Disclosure`]); what the arguments were is never repeated.

use std::time::Duration;

use agentwall_action::Decision;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

/// Before the code in `type`.
const PROBLEM: &str = "urn:agentwall:problem:";

/// How much an agent is told about why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disclosure {
    /// The rule, its reason, and what to do instead.
    #[default]
    Full,
    /// What kind of refusal it is.
    Code,
    /// That it is refused.
    None,
}

/// What the agent may do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask for the capability.
    RequestCapability(String),
    /// The same call again, after so long.
    Wait(Duration),
    /// The same call again with other arguments.
    Change,
    /// A person decides; the same call again when they have.
    AskPerson,
    /// What the rule's author wrote: a step, and what to do it with.
    Written(String, Option<String>),
    /// A fresh token.
    Authenticate,
    /// Nothing: the same call will be refused again.
    Stop,
}

impl Next {
    fn to_json(&self) -> Value {
        match self {
            Next::RequestCapability(name) => {
                json!({ "action": "request_capability", "with": name })
            }
            Next::Wait(time) => json!({ "action": "wait", "retry_after_ms": millis(*time) }),
            Next::Change => json!({ "action": "retry_with" }),
            Next::AskPerson => json!({ "action": "ask_human" }),
            Next::Written(step, None) => json!({ "action": step }),
            Next::Written(step, Some(with)) => json!({ "action": step, "with": with }),
            Next::Authenticate => json!({ "action": "authenticate" }),
            Next::Stop => json!({ "action": "stop" }),
        }
    }
}

/// Headers of an answer.
pub type Headers = Vec<(&'static str, String)>;

/// Adds headers to an answer.
pub fn set(headers: &mut HeaderMap, all: &Headers) {
    for (name, text) in all {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(*name, value);
        }
    }
}

/// Why a call is not passed on, or not yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// A code of the Agent Auth Protocol.
    pub code: &'static str,
    /// A short name of the problem's kind, which `type` and `title` are made of.
    pub kind: &'static str,
    /// For the agent.
    pub message: String,
    /// The rule that decided.
    pub rule: Option<String>,
    /// In the order of preference.
    pub next: Vec<Next>,
    /// Which arguments break which constraint.
    pub violations: Vec<Value>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
    /// Further members of the body.
    pub extra: Map<String, Value>,
    /// Further headers.
    pub headers: Headers,
}

impl Refusal {
    /// A refusal with nothing beside its message.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        kind: &'static str,
        message: impl Into<String>,
    ) -> Refusal {
        Refusal {
            status,
            code,
            kind,
            message: message.into(),
            rule: None,
            next: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
            extra: Map::new(),
            headers: Headers::new(),
        }
    }

    /// The request is not understood, or has no one meaning.
    pub fn invalid(message: impl Into<String>) -> Refusal {
        let mut refusal = Refusal::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "invalid-request",
            message,
        );
        refusal.next.push(Next::Change);
        refusal
    }

    /// Nothing can be judged now, for a reason that lies here.
    pub fn unavailable(why: &str) -> Refusal {
        let mut refusal = Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "internal_error",
            "unavailable",
            format!("the call cannot be judged now, so it is refused: {why}"),
        );
        refusal.retry_after = Some(Duration::from_secs(5));
        refusal.next.push(Next::Wait(Duration::from_secs(5)));
        refusal
    }

    /// The policy, or the risk, says no.
    pub fn denied(decision: &Decision) -> Refusal {
        let mut refusal = Refusal::new(
            StatusCode::FORBIDDEN,
            "unauthorized",
            "denied-by-policy",
            decision.reason.clone(),
        );
        refusal.rule.clone_from(&decision.rule);
        refusal.next.push(match &decision.hint.next {
            Some(step) => Next::Written(step.clone(), decision.hint.with.clone()),
            None => Next::Stop,
        });
        if let Some(text) = &decision.hint.text {
            refusal.message = format!("{}: {text}", refusal.message);
        }
        refusal
    }

    /// A person has to answer first. `status_url` tells how that stands, where there is one.
    pub fn pending(
        decision: &Decision,
        ticket: &str,
        status_url: Option<&str>,
        expires: Duration,
    ) -> Refusal {
        let mut refusal = Refusal::new(
            StatusCode::ACCEPTED,
            "approval_required",
            "approval-required",
            "",
        );
        let when = match status_url {
            Some(_) => "when status_url says 'approved'",
            None => "when they have; 'agentwall pending' shows it to them",
        };
        refusal.message = format!(
            "a person has to approve this call: {}. Send the same call again {when}",
            decision.reason
        );
        refusal.rule.clone_from(&decision.rule);
        refusal.next.push(Next::AskPerson);
        refusal.retry_after = Some(Duration::from_secs(10));
        for (key, value) in [
            ("status_url", status_url.map(|url| json!(url))),
            ("ticket", Some(json!(ticket))),
            ("expires_in", Some(json!(expires.as_secs()))),
        ] {
            refusal.extra.extend(value.map(|v| (key.to_owned(), v)));
        }
        refusal
    }

    /// The body. `status` is `pending` for what waits, as the Agent Auth Protocol has it, and the number else, as RFC
    /// 9457 has it: a 202 is no problem.
    pub fn body(&self, disclosure: Disclosure) -> Value {
        let waits = self.status == StatusCode::ACCEPTED;
        let kind = match (disclosure, waits) {
            (Disclosure::None, false) => "refused",
            _ => self.kind,
        };
        let title = title(kind);
        let message = match (disclosure, waits) {
            (Disclosure::Full, _) => self.message.as_str(),
            (_, true) => "a person has to approve this call",
            (_, false) => title.as_str(),
        };
        let mut body = Map::new();
        let mut add = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
        match waits {
            true => add("status", json!("pending")),
            false => {
                add("type", json!(format!("{PROBLEM}{kind}")));
                add("title", json!(title));
                add("status", json!(self.status.as_u16()));
                add("detail", json!(message));
                add("error", json!(self.code));
            }
        }
        add("message", json!(message));
        if !self.violations.is_empty() && disclosure == Disclosure::Full {
            add("violations", json!(self.violations));
        }
        if let Some(after) = self.retry_after {
            add("retry_after", json!(seconds(after)));
        }
        if disclosure != Disclosure::None {
            let mut hint = Map::new();
            hint.insert("code".into(), json!(self.kind));
            if disclosure == Disclosure::Full
                && let Some(rule) = &self.rule
            {
                hint.insert("rule_id".into(), json!(rule));
            }
            let next: Vec<_> = self.next.iter().map(Next::to_json).collect();
            hint.insert("next".into(), json!(next));
            add("hint", Value::Object(hint));
        }
        body.extend(self.extra.clone());
        Value::Object(body)
    }

    /// The answer.
    pub fn response(&self, disclosure: Disclosure) -> Response<String> {
        let mut response = Response::new(self.body(disclosure).to_string());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        set(headers, &self.headers);
        let kind = match self.status {
            StatusCode::ACCEPTED => "application/json",
            _ => "application/problem+json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds(after).into());
        }
        if let Some(url) = self.extra.get("status_url").and_then(Value::as_str)
            && let Ok(url) = url.parse()
        {
            headers.insert(header::LOCATION, url);
        }
        response
    }
}

/// `denied-by-policy` is `Denied by policy`.
fn title(kind: &str) -> String {
    let mut title = kind.replace('-', " ");
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    title
}

/// Whole seconds, at least one: a client that comes a moment too early is refused again.
fn seconds(time: Duration) -> u64 {
    time.as_millis()
        .div_ceil(1000)
        .max(1)
        .try_into()
        .unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Effect, Hint};

    use super::*;

    fn decision() -> Decision {
        Decision {
            effect: Effect::Deny,
            rule: Some("no-transfers".into()),
            reason: "transfers are for people".into(),
            hint: Hint {
                next: Some("use-capability".into()),
                with: Some("get_account".into()),
                text: None,
            },
            monitors: vec![],
            errors: vec![],
            policy: "p".into(),
        }
    }

    #[test]
    fn one_body_is_a_problem_and_an_agent_auth_error() {
        let response = Refusal::denied(&decision()).response(Disclosure::Full);
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        let body: Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(
            body,
            json!({
                "type": "urn:agentwall:problem:denied-by-policy", "title": "Denied by policy", "status": 403,
                "detail": "transfers are for people", "error": "unauthorized", "message": "transfers are for people",
                "hint": { "code": "denied-by-policy", "rule_id": "no-transfers",
                          "next": [{ "action": "use-capability", "with": "get_account" }] },
            })
        );
    }

    #[test]
    fn less_is_told_where_less_is_to_be_told() {
        let refusal = Refusal::denied(&decision());
        let code = refusal.body(Disclosure::Code).to_string();
        assert!(
            code.contains("denied-by-policy")
                && !code.contains("no-transfers")
                && !code.contains("people")
        );
        let none = refusal.body(Disclosure::None);
        assert_eq!(
            none,
            json!({ "type": "urn:agentwall:problem:refused", "title": "Refused", "status": 403, "detail": "Refused",
                    "error": "unauthorized", "message": "Refused" })
        );
    }

    #[test]
    fn what_waits_says_where_to_look_and_when() {
        let refusal = Refusal::pending(
            &decision(),
            "t1",
            Some("http://gw/agentwall/calls/t1"),
            Duration::from_secs(300),
        );
        for disclosure in [Disclosure::Full, Disclosure::Code, Disclosure::None] {
            let response = refusal.response(disclosure);
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            assert_eq!(response.headers()[header::RETRY_AFTER], "10");
            assert_eq!(
                response.headers()[header::LOCATION],
                "http://gw/agentwall/calls/t1"
            );
            let body: Value = serde_json::from_str(response.body()).unwrap();
            assert_eq!(body["status"], "pending");
            assert_eq!(body["status_url"], "http://gw/agentwall/calls/t1");
        }
        let mut soon = Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "rate-limited",
            "x",
        );
        soon.retry_after = Some(Duration::from_millis(1001));
        assert_eq!(
            soon.response(Disclosure::Full).headers()[header::RETRY_AFTER],
            "2"
        );
    }
}
