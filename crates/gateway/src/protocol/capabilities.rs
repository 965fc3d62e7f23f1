//! Capabilities: what there is, asking for them, calling them by name.

use agentwall_identity::{GrantStatus, Poll, Principal};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{Answer, agents, json_answer, object_of, parameter, text, unknown_path};
use crate::{
    answer::Refusal,
    approvals::State,
    catalogue::{Capability, Route},
    gateway::{CALLS, EXECUTIONS, Gateway, Outgoing, now, now_s, of_change, waiting},
    judge::Caller,
    target::Target,
};

/// Everything but unreserved characters (RFC 3986, section 2.3) is escaped in what arguments become.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Capabilities on one page of the list.
const PAGE: usize = 100;

/// Longest answer of the API that is put into one of the protocol, in bytes.
const MAX_ANSWER: usize = 8 << 20;

/// How long the agent of a waiting execution waits before it asks again, in seconds.
const AGAIN: u64 = 10;

/// Most executions of one batch.
const MAX_BATCH: usize = 50;

/// `GET /capability/list`. Anybody may look; an agent sees what it was granted, too.
pub async fn list(gateway: &Gateway, parts: &Parts, target: &Target, body: Incoming) -> Answer {
    let granted = granted(gateway, parts, target, body).await?;
    let query = parameter(target, "query")
        .unwrap_or_default()
        .to_lowercase();
    let from = parameter(target, "cursor").unwrap_or_default();
    let limit = parameter(target, "limit")
        .and_then(|l| l.parse().ok())
        .unwrap_or(PAGE);
    let limit = limit.clamp(1, PAGE);
    let matches =
        |c: &&Capability| c.name.contains(&query) || c.description.to_lowercase().contains(&query);
    let mut all = gateway
        .catalogue
        .all()
        .filter(matches)
        .filter(|c| c.name > from);
    let page: Vec<Value> = all
        .by_ref()
        .take(limit)
        .map(|c| short(c, granted.as_deref()))
        .collect();
    let more = all.next().is_some();
    let mut answer = json!({ "capabilities": page, "has_more": more });
    if let (true, Some(last)) = (more, page.last()) {
        answer["next_cursor"] = last["name"].clone();
    }
    json_answer(StatusCode::OK, &answer)
}

/// `GET /capability/describe?name=`.
pub async fn describe(gateway: &Gateway, parts: &Parts, target: &Target, body: Incoming) -> Answer {
    let granted = granted(gateway, parts, target, body).await?;
    let name = parameter(target, "name").unwrap_or_default();
    let capability = gateway.catalogue.get(&name).ok_or_else(|| unknown(&name))?;
    let mut told = short(capability, granted.as_deref());
    if let Some(input) = &capability.input {
        told["input"] = input.clone();
    }
    json_answer(StatusCode::OK, &told)
}

/// `POST /agent/request-capability`.
pub async fn request(gateway: &Gateway, parts: &Parts, target: &Target, body: Incoming) -> Answer {
    let (principal, body) = gateway.agent(parts, target, body, None).await?;
    gateway.judge.use_once(principal.once(), now()).await?;
    let members = object_of(&body)?;
    let wanted = members
        .get("capabilities")
        .map(agents::wanted)
        .transpose()?;
    let wanted = wanted.unwrap_or_default();
    let reason = members.get("reason").and_then(Value::as_str);
    let (directory, catalogue) = (&gateway.directory, &gateway.catalogue);
    let asked =
        waiting(|| directory.request_capability(&principal, &wanted, reason, catalogue, now_s()));
    let asked = asked.map_err(|e| of_change(&e))?;
    let all = gateway
        .directory
        .grants(&principal, now_s())
        .unwrap_or_default();
    let new = all.iter().filter(|(name, _)| asked.contains(name));
    let pending = new
        .clone()
        .any(|(_, grant)| grant.status == GrantStatus::Pending);
    let mut answer = json!({
        "agent_id": principal.agent().as_str(),
        // Published clients read it here.
        "status": if pending { "pending" } else { "active" },
        "agent_capability_grants": agents::grants(&gateway.catalogue, new.map(|(n, g)| (n, g))),
    });
    if pending {
        answer["approval"] = agents::approval(gateway, principal.agent());
    }
    json_answer(StatusCode::OK, &answer)
}

/// `POST /capability/execute`.
pub async fn execute(gateway: &Gateway, parts: &Parts, target: &Target, body: Incoming) -> Answer {
    let (principal, body) = gateway.agent(parts, target, body, None).await?;
    match named(&body) {
        Ok((name, arguments)) => run(gateway, &principal, &name, arguments).await,
        Err(refusal) => {
            let caller = gateway.caller(&principal)?;
            Err(gateway.refuse_early(&caller, refusal).await)
        }
    }
}

/// `POST /capability/batch-execute`: executions one after the other, each judged as if it were alone. The one token is used up
/// before the first.
pub async fn batch(gateway: &Gateway, parts: &Parts, target: &Target, body: Incoming) -> Answer {
    let (principal, body) = gateway.agent(parts, target, body, None).await?;
    let mut caller = gateway.caller(&principal)?;
    let requests = match batched(&body) {
        Ok(requests) => requests,
        Err(refusal) => return Err(gateway.refuse_early(&caller, refusal).await),
    };
    gateway.judge.use_once(&caller.once, now()).await?;
    caller.once.clear();
    let mut responses = Vec::with_capacity(requests.len());
    // Together they are as long as one may be.
    let longest = MAX_ANSWER / requests.len();
    for (at, request) in requests.iter().enumerate() {
        let executed = match named_in(request) {
            Ok((name, arguments)) => {
                executed(gateway, &principal, &caller, (&name, arguments), longest).await
            }
            Err(refusal) => Err(gateway.refuse_early(&caller, refusal).await),
        };
        let mut told = match executed {
            Ok((mut answer, _)) => match answer.get_mut("data") {
                Some(data) => json!({ "status": "completed", "data": data.take() }),
                None => answer,
            },
            // What waits is told with its status_url.
            Err(refusal) => {
                let mut error = refusal.body(gateway.config.disclosure);
                error["error"] = json!(refusal.code);
                json!({ "status": "failed", "error": error })
            }
        };
        told["id"] = request.get("id").cloned().unwrap_or(json!(at.to_string()));
        responses.push(told);
    }
    json_answer(StatusCode::OK, &json!({ "responses": responses }))
}

fn batched(body: &Bytes) -> Result<Vec<Map<String, Value>>, Box<Refusal>> {
    let mut members = object_of(body)?;
    let wrong = || Refusal::invalid(format!("'requests' is no list of 1 to {MAX_BATCH} objects"));
    let Some(Value::Array(all)) = members.remove("requests") else {
        return Err(Box::new(wrong()));
    };
    if !(1..=MAX_BATCH).contains(&all.len()) {
        return Err(Box::new(wrong()));
    }
    let objects = all.into_iter().map(|one| match one {
        Value::Object(members) => Ok(members),
        _ => Err(Box::new(wrong())),
    });
    objects.collect()
}

/// Name and arguments of an execution.
fn named(body: &Bytes) -> Result<(String, Map<String, Value>), Box<Refusal>> {
    named_in(&object_of(body)?)
}

fn named_in(members: &Map<String, Value>) -> Result<(String, Map<String, Value>), Box<Refusal>> {
    let name = text(members, "capability")?.to_owned();
    match members.get("arguments") {
        None | Some(Value::Null) => Ok((name, Map::new())),
        Some(Value::Object(arguments)) => Ok((name, arguments.clone())),
        Some(_) => Err(Box::new(Refusal::invalid("'arguments' is not an object"))),
    }
}

/// `GET /calls/TICKET` and `GET /executions/TICKET`: how a call stands that waits for a person. An execution that was
/// approved is made by this; other calls the agent makes itself.
pub async fn standing(gateway: &Gateway, parts: &Parts, target: &Target, body: Incoming) -> Answer {
    let path = target.path();
    let executes = path.starts_with(EXECUTIONS);
    let prefix = if executes { EXECUTIONS } else { CALLS };
    let ticket = path.strip_prefix(prefix).unwrap_or_default();
    let question = gateway.judge.approvals().of_ticket(ticket, now());
    let Some(question) = question else {
        return Err(Box::new(unknown_path(target)));
    };
    let poll = Poll {
        jti: &question.jti,
        until: (question.expires / 1000).cast_signed(),
    };
    let (principal, _) = gateway.agent(parts, target, body, Some(poll)).await?;
    // Another agent learns nothing, not even that there is such a call.
    if principal.agent().as_str() != question.payload.agent {
        return Err(Box::new(unknown_path(target)));
    }
    match &question.state {
        State::Approved { .. } if executes => {
            let payload = question.payload;
            return run(gateway, &principal, &payload.capability, payload.arguments).await;
        }
        _ => gateway.judge.use_once(principal.once(), now()).await?,
    }
    let (status, told) = match &question.state {
        State::Waiting => {
            let url = format!("{}{path}", gateway.config.public);
            (
                StatusCode::ACCEPTED,
                json!({ "status": "pending", "status_url": url, "retry_after": AGAIN }),
            )
        }
        State::Approved { .. } => (
            StatusCode::OK,
            json!({ "status": "approved", "message": "send the same call again" }),
        ),
        State::Used => (StatusCode::OK, json!({ "status": "completed" })),
        State::Rejected { reason, .. } => (StatusCode::OK, failed("unauthorized", reason)),
        State::Ended { why } => (StatusCode::OK, failed("approval_expired", why)),
    };
    let mut response = json_answer(status, &told)?;
    if status == StatusCode::ACCEPTED {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, AGAIN.into());
    }
    Ok(response)
}

fn failed(code: &str, message: &str) -> Value {
    json!({ "status": "failed", "error": { "error": code, "message": message } })
}

/// An execution as the answer to a request of its own.
async fn run(
    gateway: &Gateway,
    principal: &Principal,
    name: &str,
    arguments: Map<String, Value>,
) -> Answer {
    let caller = gateway.caller(principal)?;
    let (answer, mut headers) =
        executed(gateway, principal, &caller, (name, arguments), MAX_ANSWER).await?;
    let mut response = json_answer(StatusCode::OK, &answer)?;
    // What the gateway says of the call; the API's own headers are the API's.
    for name in [
        "agentwall-call",
        "agentwall-decision",
        "ratelimit",
        "ratelimit-policy",
    ] {
        if let Some(value) = headers.remove(name) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// Makes the request that a capability with arguments is, has it judged, and passes it on. What came of it, and the headers of
/// the API's answer, which has `longest` bytes at most.
async fn executed(
    gateway: &Gateway,
    principal: &Principal,
    caller: &Caller,
    (name, arguments): (&str, Map<String, Value>),
    longest: usize,
) -> Result<(Value, HeaderMap), Box<Refusal>> {
    let Some(capability) = gateway.catalogue.get(name) else {
        return Err(gateway.refuse_early(caller, unknown(name)).await);
    };
    let Some(route) = &capability.route else {
        let refusal = Refusal::invalid(format!(
            "'{name}' is many requests; send the one you mean to the API's own path"
        ));
        return Err(gateway.refuse_early(caller, Box::new(refusal)).await);
    };
    gateway
        .granted(principal, caller, capability, &arguments)
        .await?;
    let (target, body) = match written(route, &arguments) {
        Ok(written) => written,
        Err(refusal) => return Err(gateway.refuse_early(caller, refusal).await),
    };
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("application/json, */*;q=0.5"),
    );
    if !body.is_empty() {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    let request = Outgoing {
        method: &route.method,
        target: &target,
        headers: &headers,
        body: &body,
    };
    let call = gateway.to_judge(capability, &request, arguments, EXECUTIONS);
    let permit = gateway.judged(caller, &call).await?;
    let response = gateway
        .pass_on(
            principal,
            permit,
            route.method.clone(),
            &target,
            headers,
            body,
        )
        .await?;
    let (parts, body) = response.into_parts();
    let read = Limited::new(body, longest).collect().await;
    let bytes = read.map_err(|e| {
        Refusal::new(
            StatusCode::BAD_GATEWAY,
            "internal_error",
            "no-answer",
            format!("the API's answer: {e}"),
        )
    })?;
    let bytes = bytes.to_bytes();
    let told = match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => value,
        Err(_) if bytes.is_empty() => Value::Null,
        Err(_) => json!(String::from_utf8_lossy(&bytes)),
    };
    let status = parts.status.as_u16();
    let answer = match parts.status.is_success() {
        true => json!({ "data": told }),
        false => json!({
            "status": "failed",
            "error": { "error": "upstream", "message": format!("the API answered {status}"), "status": status, "data": told },
        }),
    };
    Ok((answer, parts.headers))
}

/// Target and body of a call by name: each argument in its place; what has none is the body's, or the query's where
/// requests have no content.
fn written(route: &Route, arguments: &Map<String, Value>) -> Result<(Target, Bytes), Box<Refusal>> {
    let mut rest = arguments.clone();
    let mut path = String::new();
    let mut template = route.template.as_str();
    while let Some((before, after)) = template.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        let value = rest.shift_remove(name);
        let value = value.as_ref().and_then(plain);
        let value = value.filter(|v| !v.is_empty());
        let value = value.ok_or_else(|| {
            Refusal::invalid(format!(
                "the argument '{name}' is missing, empty, or neither text nor number"
            ))
        })?;
        path.push_str(before);
        path.push_str(&utf8_percent_encode(&value, ESCAPED).to_string());
        template = after;
    }
    path.push_str(template);
    let content = !matches!(
        route.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
    );
    let mut query = Vec::new();
    let mut pair = |name: &str, value: &Value| {
        let value = plain(value).ok_or_else(|| {
            Box::new(Refusal::invalid(format!(
                "the argument '{name}' is neither text, number nor true or false"
            )))
        })?;
        let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
        query.push(format!("{}={}", escape(name), escape(&value)));
        Ok::<(), Box<Refusal>>(())
    };
    for name in &route.query {
        match rest.shift_remove(name) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => items.iter().try_for_each(|item| pair(name, item))?,
            Some(value) => pair(name, &value)?,
        }
    }
    let mut body = Bytes::new();
    if content && !rest.is_empty() {
        body = Value::Object(rest).to_string().into();
    } else {
        rest.iter()
            .try_for_each(|(name, value)| pair(name, value))?;
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let target =
        Target::parse(&path).map_err(|e| Refusal::invalid(format!("with these arguments {e}")))?;
    Ok((target, body))
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// The names of what the sender has, if an agent sends the request: a public list needs no token.
async fn granted(
    gateway: &Gateway,
    parts: &Parts,
    target: &Target,
    body: Incoming,
) -> Result<Option<Vec<String>>, Box<Refusal>> {
    if !parts.headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    let (principal, _) = gateway.agent(parts, target, body, None).await?;
    gateway.judge.use_once(principal.once(), now()).await?;
    let all = gateway
        .directory
        .grants(&principal, now_s())
        .unwrap_or_default();
    let active = all
        .into_iter()
        .filter(|(_, grant)| grant.is_active(now_s()));
    Ok(Some(active.map(|(name, _)| name).collect()))
}

fn short(capability: &Capability, granted: Option<&[String]>) -> Value {
    let mut told = json!({ "name": capability.name, "description": capability.description });
    if let Some(granted) = granted {
        let has = granted.contains(&capability.name);
        told["grant_status"] = json!(if has { "granted" } else { "not_granted" });
    }
    told
}

fn unknown(name: &str) -> Box<Refusal> {
    let name = agentwall_action::escape_text(name);
    Box::new(Refusal::new(
        StatusCode::NOT_FOUND,
        "capability_not_found",
        "capability-not-found",
        format!("there is no capability '{name}'"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, arguments: Value) -> Result<(String, String), String> {
        let route = Route {
            method,
            template: "/accounts/{id}/notes".into(),
            query: vec!["limit".into()],
        };
        let Value::Object(arguments) = arguments else {
            unreachable!()
        };
        let (target, body) = written(&route, &arguments).map_err(|e| e.message)?;
        Ok((target.to_text(), String::from_utf8(body.to_vec()).unwrap()))
    }

    #[test]
    fn arguments_go_to_their_places() {
        assert_eq!(
            of(
                Method::POST,
                json!({ "id": "a b", "limit": 5, "text": "x", "deep": { "y": [1] } })
            ),
            Ok((
                "/accounts/a%20b/notes?limit=5".into(),
                r#"{"text":"x","deep":{"y":[1]}}"#.into()
            ))
        );
        assert_eq!(
            of(
                Method::GET,
                json!({ "id": 7, "limit": ["a&b", "c"], "q": true })
            ),
            Ok((
                "/accounts/7/notes?limit=a%26b&limit=c&q=true".into(),
                String::new()
            ))
        );
    }

    #[test]
    fn an_argument_cannot_leave_its_place() {
        for id in ["..", ".", "a/../b", "a%2fb", "a;b", "a\\b", "x\u{0}", ""] {
            assert!(of(Method::GET, json!({ "id": id })).is_err(), "{id:?}");
        }
        assert_eq!(
            of(Method::GET, json!({ "id": "a?b#c&d" })),
            Ok(("/accounts/a%3Fb%23c%26d/notes".into(), String::new()))
        );
        assert!(of(Method::GET, json!({})).is_err());
        assert!(of(Method::GET, json!({ "id": ["a"] })).is_err());
        assert!(of(Method::GET, json!({ "id": "a", "q": {} })).is_err());
    }
}
