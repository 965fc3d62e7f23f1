//! What agents send to a gateway, and the document that it knows its API from.

use agentwall_gateway::{
    arguments, authzen::evaluation::Evaluation, catalogue::Catalogue, target::Target,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
use serde_json::Value;

use crate::input::parts;

/// A request target: refused, or one spelling that reads back as itself and has nothing that servers disagree about.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(target) = Target::parse(text) else {
        return;
    };
    assert_eq!(Target::parse(&target.to_text()).as_ref(), Ok(&target));
    let path = target.path();
    assert!(path.starts_with('/') && path.is_ascii());
    assert!(!path.contains("//") && !path.contains(['\\', ';', '?', '#', ' ']));
    let lower = path.to_ascii_lowercase();
    assert!(
        ["%2f", "%5c", "%2e", "%00", "%25", "%3b"]
            .iter()
            .all(|e| !lower.contains(e))
    );
    assert!(
        path.split('/')
            .all(|segment| segment != "." && segment != "..")
    );
    assert!(http::Uri::try_from(target.to_text()).is_ok());
}

/// A request for a decision: refused, or one subject and one object that no other type and id has, the same read twice, and with what
/// the protocol adds to its context the same question.
pub fn evaluation(data: &[u8]) {
    let Ok(Value::Object(mut members)) = agentwall_identity::parse_json(data, 4096) else {
        return;
    };
    let Ok(read) = Evaluation::read(&members) else {
        return;
    };
    let subject = read.subject();
    let (kind, id) = subject.as_str().split_once(':').unwrap_or_default();
    assert_eq!(
        (kind, id),
        (read.subject.kind.as_str(), read.subject.id.as_str())
    );
    assert_eq!(
        Evaluation::with_defaults(&Default::default(), &members).as_ref(),
        Ok(&read)
    );
    let mut context = members
        .get("context")
        .cloned()
        .unwrap_or(serde_json::json!({}));
    context["time"] = serde_json::json!("now");
    context["approval"] = serde_json::json!({ "id": "a" });
    members.insert("context".into(), context);
    if let Ok(again) = Evaluation::read(&members) {
        assert_eq!(again.digest(), read.digest());
        assert_eq!(again.approval.as_deref(), Some("a"));
    }
    if let Ok(asked) = read.asked() {
        let named = agentwall_action::VerbFamily::Named;
        assert!(asked.verb.family() == named && !asked.resource.is_empty());
        if let Some(rest) = asked.resource.strip_prefix("https://") {
            let authority = rest.split('/').next().unwrap_or_default();
            assert!(!authority.contains('@'), "a user beside the host");
            assert!(!rest.contains(['?', '#', '\\']) && !rest.contains("/../"));
        }
    }
}

/// What an Envoy asks: refused, or a request in one spelling that is here as a whole, without what means something to Envoy alone.
pub fn ext_authz(data: &[u8]) {
    let mut frame = vec![0];
    frame.extend_from_slice(&(data.len() as u32).to_be_bytes());
    frame.extend_from_slice(data);
    let Ok(check) = agentwall_gateway::ext_authz::read(&frame.into()) else {
        return;
    };
    assert_eq!(
        Target::parse(&check.target.to_text()).as_ref(),
        Ok(&check.target)
    );
    assert_eq!(check.parts.uri.path(), check.target.path());
    assert!(!check.target.path().starts_with("/agentwall/"));
    let headers = &check.parts.headers;
    assert!(
        !headers.contains_key("upgrade") && !headers.contains_key("transfer-encoding")
            || !check.body.is_empty()
    );
    assert!(
        headers
            .keys()
            .all(|name| !name.as_str().starts_with("x-envoy-"))
    );
    if let Some(length) = headers.get("content-length") {
        assert_eq!(
            length.to_str().ok().and_then(|l| l.parse().ok()),
            Some(check.body.len())
        );
    }
}

/// A query, a content type and a body: refused, or each name from one place, and what a plain reader of JSON finds in the body
/// is what was found.
pub fn arguments(data: &[u8]) {
    let [query, kind, body] = parts(data)[..] else {
        return;
    };
    let Ok(query) = std::str::from_utf8(query) else {
        return;
    };
    let mut headers = HeaderMap::new();
    if let Ok(kind) = HeaderValue::from_bytes(kind) {
        headers.insert(CONTENT_TYPE, kind);
    }
    let body = Bytes::copy_from_slice(body);
    let read = arguments::named(Default::default(), Some(query), &headers, &body, true);
    let Ok(all) = read else {
        return;
    };
    if let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(&body) {
        for (name, value) in &members {
            assert_eq!(
                all.get(name),
                Some(value),
                "a server would read another {name}"
            );
        }
    }
    let strict = arguments::named(Default::default(), Some(query), &headers, &body, false);
    assert!(strict.is_err() || strict.as_ref() == Ok(&all));
}

/// An OpenAPI document, a method and a path: refused, or each request is a call of one capability of the document, or of none.
pub fn openapi(data: &[u8]) {
    let [document, method, path] = parts(data)[..] else {
        return;
    };
    let Ok(document) = serde_json::from_slice::<Value>(document) else {
        return;
    };
    let Ok(catalogue) = Catalogue::of_openapi(&document) else {
        return;
    };
    for capability in catalogue.all() {
        assert_eq!(catalogue.get(&capability.name), Some(capability));
        assert!(
            !capability.name.is_empty() && capability.name.bytes().all(|b| b.is_ascii_graphic())
        );
        assert!(capability.route.is_some());
    }
    let (Ok(method), Ok(path)) = (Method::from_bytes(method), std::str::from_utf8(path)) else {
        return;
    };
    if let Ok(target) = Target::parse(path)
        && let Some(found) = catalogue.find(&method, target.path())
    {
        let route = found.capability.route.as_ref().expect("described");
        assert!(route.method == method || (method == Method::HEAD && route.method == Method::GET));
        assert_eq!(found.path.len(), route.template.matches('{').count());
    }
}
