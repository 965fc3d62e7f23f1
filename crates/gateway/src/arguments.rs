//! The named arguments of a call: from the path, the query and a JSON body, each name from one place.

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use percent_encoding::percent_decode_str;
use serde::de::IgnoredAny;
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
    /// JSON that says it is a form.
    #[error("the body is JSON, and its Content-Type says that it is a form; say application/json")]
    Form,
    /// Neither JSON nor a form, for an operation that takes these.
    #[error("the body is neither JSON nor a form, and this operation takes nothing else")]
    Unreadable,
    /// The body is compressed, or not in UTF-8.
    #[error(
        "the body's Content-Encoding or charset cannot be read here; send it as it is, in UTF-8"
    )]
    Encoding,
}

/// All named arguments: of the path, the query, and a body that is a JSON object or a form, whatever its
/// Content-Type says it is. Another body gives none - an approval is bound to its bytes - and is taken only where
/// `opaque` says so. A name that a query has several times is an array only where it is written `name[]`.
///
/// # Errors
/// What one reader would take for one argument and another for another.
pub fn named(
    path: Map<String, Value>,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &Bytes,
    opaque: bool,
) -> Result<Map<String, Value>, ArgumentError> {
    let mut all = path;
    let content = of_body(headers, body, opaque)?;
    for (name, value) in parameters(query.unwrap_or_default())?
        .into_iter()
        .chain(content)
    {
        if all.contains_key(&name) {
            return Err(ArgumentError::Twice(name));
        }
        all.insert(name, value);
    }
    Ok(all)
}

fn of_body(
    headers: &HeaderMap,
    body: &Bytes,
    opaque: bool,
) -> Result<Map<String, Value>, ArgumentError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(ArgumentError::Encoding);
    }
    let kind = headers
        .get(CONTENT_TYPE)
        .map(|k| k.to_str().unwrap_or_default());
    let kind = kind
        .and_then(|k| k.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let json = kind == "application/json" || kind.ends_with("+json") || kind == "text/json";
    let form = kind == "application/x-www-form-urlencoded";
    let foreign = !crate::headers::is_utf8(headers);
    match agentwall_identity::parse_json(body, usize::MAX) {
        Ok(_) if foreign => Err(ArgumentError::Encoding),
        _ if foreign && (form || json) => Err(ArgumentError::Encoding),
        // Servers look at bodies, too, and not at the type alone.
        Ok(_) if form => Err(ArgumentError::Form),
        Ok(Value::Object(members)) => Ok(members),
        Ok(other) if json => Ok(Map::from_iter([("body".to_owned(), other)])),
        Err(e) if json || serde_json::from_slice::<IgnoredAny>(body).is_ok() => {
            Err(ArgumentError::Json(e.to_string()))
        }
        _ if form => {
            let text = std::str::from_utf8(body).map_err(|_| ArgumentError::Query)?;
            parameters(text)
        }
        _ if opaque => Ok(Map::new()),
        _ => Err(ArgumentError::Unreadable),
    }
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

    const JSON: Option<&str> = Some("application/JSON; charset=utf-8");
    const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

    fn of(query: &str, kind: Option<&str>, body: &str) -> Result<Value, ArgumentError> {
        read(query, kind, body, true)
    }

    fn read(
        query: &str,
        kind: Option<&str>,
        body: &str,
        opaque: bool,
    ) -> Result<Value, ArgumentError> {
        let path = Map::from_iter([("id".to_owned(), json!("7"))]);
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        named(path, Some(query), &headers, &body, opaque).map(Value::Object)
    }

    #[test]
    fn arguments_come_from_path_query_and_body() {
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
                JSON,
                r#"{"amount":5}"#,
                json!({ "id": "7", "amount": 5 }),
            ),
            (
                "",
                Some("application/problem+json"),
                "[1]",
                json!({ "id": "7", "body": [1] }),
            ),
            (
                "",
                FORM,
                "amount=5&to=a%20b",
                json!({ "id": "7", "amount": "5", "to": "a b" }),
            ),
        ] {
            assert_eq!(of(query, kind, body), Ok(all.clone()), "{query} {body}");
            assert_eq!(read(query, kind, body, false), Ok(all), "{query} {body}");
        }
    }

    #[test]
    fn an_object_is_read_whatever_it_says_it_is() {
        for kind in [
            None,
            Some("text/plain"),
            Some("application/octet-stream"),
            Some("\u{ff}"),
        ] {
            let kind = kind.filter(|k| k.is_ascii());
            assert_eq!(
                of("", kind, r#"{"amount":5}"#),
                Ok(json!({ "id": "7", "amount": 5 }))
            );
            let twice = of("", kind, r#"{"amount":5,"amount":6}"#);
            assert!(matches!(twice, Err(ArgumentError::Json(_))), "{twice:?}");
            assert_eq!(of("", kind, "some text"), Ok(json!({ "id": "7" })));
            assert_eq!(
                read("", kind, "some text", false),
                Err(ArgumentError::Unreadable)
            );
        }
        assert_eq!(of("", FORM, r#"{"amount":5}"#), Err(ArgumentError::Form));
    }

    #[test]
    fn another_charset_is_another_text() {
        // To a server that reads UTF-7 the amount is another one, and so is what a rule would have to see.
        let body = r#"{"note":"+ACIALAAiAGEAbQBvAHUAbgB0ACIAOgA5-","amount":1}"#;
        for kind in [
            "application/json",
            "text/plain",
            "application/x-www-form-urlencoded",
        ] {
            let kind = format!("{kind}; charset=utf-7");
            let refused = Err(ArgumentError::Encoding);
            assert_eq!(of("", Some(&kind), body), refused, "{kind}");
        }
    }

    #[test]
    fn what_readers_take_differently_is_refused() {
        let twice = |name: &str| Err(ArgumentError::Twice(name.into()));
        assert_eq!(of("a=1&a=2", None, ""), twice("a"));
        assert_eq!(of("id=8", None, ""), twice("id"));
        assert_eq!(of("a=1", JSON, r#"{"a":1}"#), twice("a"));
        assert_eq!(of("", FORM, "a=1&a=2"), twice("a"));
        assert_eq!(of("a=1", FORM, "a=1"), twice("a"));
        assert_eq!(of("a=%FF", None, ""), Err(ArgumentError::Query));
        for body in ["{", r#"{"a":1,"a":2}"#, "{} {}"] {
            assert!(
                matches!(of("", JSON, body), Err(ArgumentError::Json(_))),
                "{body}"
            );
        }
        let many = "a[]=1&".repeat(MAX_PARAMETERS + 1);
        assert_eq!(of(&many, None, ""), Err(ArgumentError::TooMany));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(
            named(Map::new(), None, &headers, &Bytes::from_static(b"x"), true),
            Err(ArgumentError::Encoding)
        );
    }
}
