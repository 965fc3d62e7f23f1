//! Headers of streamable HTTP, and those that repeat what the message says (2026-07-28, streamable HTTP, server validation).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::{
    VERSION_MEMBER,
    rpc::{Kind, Message},
};

/// The session, until 2025-11-25.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// The protocol's revision.
pub const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The method, since 2026-07-28.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// The tool, prompt or resource, since 2026-07-28.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Where a stream is taken up again.
pub const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Headers that repeat the message say what it says.
pub fn consistent(headers: &HeaderMap, message: &Message) -> Result<(), String> {
    let Kind::Call { method, params } = &message.kind else {
        return Ok(());
    };
    let text = |name: &str| params.get(name).and_then(Value::as_str);
    // Which of the two a method has.
    let named = match method.as_str() {
        "resources/read" => text("uri"),
        _ => text("name"),
    };
    let version = params
        .get("_meta")
        .and_then(|m| m.get(VERSION_MEMBER)?.as_str());
    for (header, value, encoded) in [
        (METHOD, Some(method.as_str()), false),
        (NAME, named, true),
        (VERSION, version, false),
    ] {
        if !headers.contains_key(&header) || (header == VERSION && value.is_none()) {
            continue;
        }
        let said = one(headers, &header).and_then(|said| match encoded {
            true => decoded(said),
            false => Some(said.to_owned()),
        });
        if said.is_none() || said.as_deref() != value {
            return Err(format!(
                "Header mismatch: {header} does not say what the message says"
            ));
        }
    }
    Ok(())
}

/// `=?base64?…?=` stands for what no header can hold (2026-07-28, streamable HTTP, value encoding).
fn decoded(value: &str) -> Option<String> {
    let inner = value
        .strip_prefix("=?base64?")
        .and_then(|v| v.strip_suffix("?="));
    match inner {
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

/// The value of a header that is there once.
pub fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn heads(all: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn headers_say_what_the_message_says() {
        let message = |name: &str| {
            let text = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": { "name": name, "_meta": { VERSION_MEMBER: "2026-07-28" } } });
            Message::read(text.to_string().as_bytes(), 4096).unwrap()
        };
        let all = [
            (&METHOD, "tools/call"),
            (&NAME, "a"),
            (&VERSION, "2026-07-28"),
        ];
        assert_eq!(consistent(&heads(&all), &message("a")), Ok(()));
        assert_eq!(consistent(&heads(&[]), &message("a")), Ok(()));
        let encoded = heads(&[(&NAME, "=?base64?w6Q=?=")]);
        assert_eq!(consistent(&encoded, &message("ä")), Ok(()));
        for other in [
            vec![(&METHOD, "tools/list")],
            vec![(&METHOD, "tools/call"), (&METHOD, "tools/call")],
            vec![(&NAME, "b")],
            vec![(&NAME, "a"), (&NAME, "b")],
            vec![(&NAME, "=?base64?!?=")],
            vec![(&VERSION, "2025-11-25")],
        ] {
            assert!(
                consistent(&heads(&other), &message("a")).is_err(),
                "{other:?}"
            );
        }
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let ping = Message::read(text.as_bytes(), 4096).unwrap();
        assert!(consistent(&heads(&[(&NAME, "a")]), &ping).is_err());
    }
}
