//! The named arguments of a call: from the path, the query and a JSON body, each name from one place.

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// Most parameters of a query.
pub const MAX_PARAMETERS: usize = 256;

/// The request's arguments cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// A name comes from two places, or twice from the query.
    #[error("the argument '{0}' is given twice")]
    Twice(String),
    /// The query is no `name=value&…` in UTF-8.
    #[error("the query is not UTF-8 after decoding")]
    Query,
    /// Too many.
    #[error("the query has more than {MAX_PARAMETERS} parameters")]
    TooMany,
    /// The body says it is JSON, and is not.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// The body is compressed, or in a form that is not read.
    #[error("the body's Content-Encoding cannot be read here; send it as it is")]
    Encoding,
}

/// All named arguments. A JSON object gives its members; other content gives none, and is bound to an approval by its
/// bytes alone. A name that the query has several times is an array only where the query writes `name[]`.
///
/// # Errors
/// What one reader would take for one argument and another for another.
pub fn named(
    path: Map<String, Value>,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Map<String, Value>, ArgumentError> {
    let mut all = path;
    let mut add = |name: String, value: Value| match all.contains_key(&name) {
        true => Err(ArgumentError::Twice(name)),
        false => {
            all.insert(name, value);
            Ok(())
        }
    };
    for (name, value) in parameters(query.unwrap_or_default())? {
        add(name, value)?;
    }
    if body.is_empty() {
        return Ok(all);
    }
    if headers.contains_key(http::header::CONTENT_ENCODING) {
        return Err(ArgumentError::Encoding);
    }
    if is_json(headers) {
        let value = agentwall_identity::parse_json(body, usize::MAX);
        match value.map_err(|e| ArgumentError::Json(e.to_string()))? {
            Value::Object(members) => {
                for (name, value) in members {
                    add(name, value)?;
                }
            }
            other => add("body".to_owned(), other)?,
        }
    }
    Ok(all)
}

/// `application/json`, and what is built on it (RFC 6839, section 3.1). Without a type it is taken as JSON if it can
/// be: an upstream may do so, too.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json") || kind == "text/json"
}

/// `application/x-www-form-urlencoded`, as the URL standard reads it.
fn parameters(query: &str) -> Result<Map<String, Value>, ArgumentError> {
    let mut all = Map::new();
    for (at, pair) in query.split('&').filter(|p| !p.is_empty()).enumerate() {
        if at == MAX_PARAMETERS {
            return Err(ArgumentError::TooMany);
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (form(name)?, Value::String(form(value)?));
        match (name.strip_suffix("[]"), all.get_mut(&name)) {
            (None, None) => drop(all.insert(name, value)),
            (None, Some(_)) => return Err(ArgumentError::Twice(name)),
            (Some(_), Some(Value::Array(items))) => items.push(value),
            (Some(_), _) => drop(all.insert(name, Value::Array(vec![value]))),
        }
    }
    Ok(all)
}

fn form(text: &str) -> Result<String, ArgumentError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| ArgumentError::Query)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(query: &str, kind: Option<&str>, body: &str) -> Result<Value, ArgumentError> {
        let path = Map::from_iter([("id".to_owned(), json!("7"))]);
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        named(path, Some(query), &headers, &body).map(Value::Object)
    }

    #[test]
    fn arguments_come_from_path_query_and_body() {
        let json = Some("application/json; charset=utf-8");
        for (query, kind, body, all) in [
            ("", None, "", json!({ "id": "7" })),
            (
                "a=1&b=x+y%26",
                None,
                "",
                json!({ "id": "7", "a": "1", "b": "x y&" }),
            ),
            (
                "a[]=1&a[]=2&c",
                None,
                "",
                json!({ "id": "7", "a[]": ["1", "2"], "c": "" }),
            ),
            (
                "",
                json,
                r#"{"amount":5}"#,
                json!({ "id": "7", "amount": 5 }),
            ),
            (
                "",
                Some("application/problem+json"),
                "[1]",
                json!({ "id": "7", "body": [1] }),
            ),
            ("", Some("text/plain"), "{", json!({ "id": "7" })),
        ] {
            assert_eq!(of(query, kind, body), Ok(all), "{query} {body}");
        }
    }

    #[test]
    fn what_readers_take_differently_is_refused() {
        let json = Some("application/JSON");
        let twice = |name: &str| Err(ArgumentError::Twice(name.into()));
        assert_eq!(of("a=1&a=2", None, ""), twice("a"));
        assert_eq!(of("id=8", None, ""), twice("id"));
        assert_eq!(of("a=1", json, r#"{"a":1}"#), twice("a"));
        assert_eq!(of("a=%FF", None, ""), Err(ArgumentError::Query));
        for body in ["{", r#"{"a":1,"a":2}"#, "{} {}"] {
            assert!(
                matches!(of("", json, body), Err(ArgumentError::Json(_))),
                "{body}"
            );
            // An upstream may not look at the type.
            assert!(
                matches!(of("", None, body), Err(ArgumentError::Json(_))),
                "{body}"
            );
        }
        let many = "a[]=1&".repeat(MAX_PARAMETERS + 1);
        assert_eq!(of(&many, None, ""), Err(ArgumentError::TooMany));
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(
            named(Map::new(), None, &headers, &Bytes::from_static(b"x")),
            Err(ArgumentError::Encoding)
        );
    }
}
