//! JSON-RPC 2.0 as MCP has it: enough of a message is read to judge it, and the rest stays as it came.
//!
//! A message is one object. What readers take differently is refused: a member twice, two members that differ in case
//! alone (some readers do not look at it), the name of a known member in another spelling, an id that is neither text
//! nor a whole number, a message that is both a question and an answer. Batches are refused: revision 2025-06-18 took
//! them out of the protocol, and one message is judged at a time.

use std::collections::{BTreeMap, HashSet};

use agentwall_identity::parse_json;
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use crate::approvals::hex;

/// Longest message of a server that is looked into, in bytes.
pub const MAX_ANSWER: usize = 8 << 20;

/// Names that mean something in a message, in the one spelling that has the meaning.
const ENVELOPE: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];

/// The same in `params`.
const PARAMS: [&str; 7] = [
    "name",
    "arguments",
    "uri",
    "_meta",
    "inputResponses",
    "requestState",
    "task",
];

/// Members of `_meta` that differ from one sending of a call to the next.
const OF_ONE_SENDING: [&str; 4] = ["progressToken", "traceparent", "tracestate", "baggage"];

/// A message of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its id, as JSON; absent for notifications.
    pub id: Option<Value>,
    /// What it is.
    pub kind: Kind,
    /// SHA-256 of its meaning, lower-case hex: of method and parameters as they are spelled, without the id and what else
    /// differs from one sending to the next.
    pub digest: String,
}

/// What a message is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A request, or a notification if it has no id.
    Call {
        /// The method.
        method: String,
        /// Its parameters; empty if there are none.
        params: Map<String, Value>,
    },
    /// The answer to a request of the server.
    Answer,
}

/// A message that is not judged, let alone passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Not JSON with one reading.
    #[error("{0}")]
    Json(String),
    /// Several messages at once.
    #[error("a batch: send one message at a time")]
    Batch,
    /// Not a message of JSON-RPC 2.0.
    #[error("no JSON-RPC 2.0 message: {0}")]
    Form(&'static str),
    /// Members that readers take differently.
    #[error(
        "the member '{0}' can be taken for another one: names that differ in case alone are refused"
    )]
    Spelling(String),
}

impl ReadError {
    /// The code of JSON-RPC 2.0, section 5.1.
    pub fn code(&self) -> i64 {
        match self {
            ReadError::Json(_) => -32700,
            _ => -32600,
        }
    }
}

impl Message {
    /// Reads a message of at most `limit` bytes.
    ///
    /// # Errors
    /// It is none, or has no one meaning; see [`ReadError`].
    pub fn read(bytes: &[u8], limit: usize) -> Result<Message, ReadError> {
        let value = parse_json(bytes, limit).map_err(|e| ReadError::Json(e.to_string()))?;
        spelled_once(&value)?;
        let mut members = match value {
            Value::Object(members) => members,
            Value::Array(_) => return Err(ReadError::Batch),
            _ => return Err(ReadError::Form("an object is expected")),
        };
        known_spelling(&members, &ENVELOPE)?;
        if members.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(ReadError::Form("'jsonrpc' is not \"2.0\""));
        }
        let id = members.shift_remove("id");
        if id.as_ref().is_some_and(|id| !is_id(id)) {
            return Err(ReadError::Form("'id' is neither text nor a whole number"));
        }
        let answers = members.contains_key("result") || members.contains_key("error");
        let method = match members.shift_remove("method") {
            Some(Value::String(method)) if !answers => method,
            Some(Value::String(_)) => return Err(ReadError::Form("it asks and answers at once")),
            Some(_) => return Err(ReadError::Form("'method' is no text")),
            None if answers && id.is_some() => {
                return Ok(Message {
                    id,
                    kind: Kind::Answer,
                    digest: hex(&Sha256::digest(bytes)),
                });
            }
            None => return Err(ReadError::Form("it has no 'method'")),
        };
        let params = match members.shift_remove("params") {
            None => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(ReadError::Form("'params' is no object")),
        };
        known_spelling(&params, &PARAMS)?;
        let digest = digest(&method, bytes)?;
        Ok(Message {
            id,
            kind: Kind::Call { method, params },
            digest,
        })
    }

    /// Whether it is a request, which gets an answer.
    pub fn wants_answer(&self) -> bool {
        self.id.is_some() && matches!(self.kind, Kind::Call { .. })
    }
}

/// MCP takes texts and whole numbers, and no `null`.
pub(super) fn is_id(id: &Value) -> bool {
    id.is_string() || id.is_i64() || id.is_u64()
}

/// Of method and parameters, each as it is spelled: numbers that no `f64` tells apart are different here.
fn digest(method: &str, bytes: &[u8]) -> Result<String, ReadError> {
    type Raw<'a> = BTreeMap<String, &'a RawValue>;
    let form = |_| ReadError::Form("'params' is no object");
    let message: Raw<'_> = serde_json::from_slice(bytes).map_err(form)?;
    let mut all = Sha256::new();
    let mut put = |text: &str| {
        all.update((text.len() as u64).to_be_bytes());
        all.update(text);
    };
    put(method);
    let params: Raw<'_> = match message.get("params") {
        Some(params) => serde_json::from_str(params.get()).map_err(form)?,
        None => Raw::new(),
    };
    for (name, text) in params {
        if name != "_meta" {
            put(&name);
            put(text.get());
            continue;
        }
        let meta: Raw<'_> = serde_json::from_str(text.get())
            .map_err(|_| ReadError::Form("'_meta' is no object"))?;
        for (name, text) in meta {
            if !OF_ONE_SENDING.contains(&name.as_str()) {
                put("_meta");
                put(&name);
                put(text.get());
            }
        }
    }
    Ok(hex(&all.finalize()))
}

/// No two members of one object differ in case alone.
pub(super) fn spelled_once(value: &Value) -> Result<(), ReadError> {
    match value {
        Value::Array(items) => items.iter().try_for_each(spelled_once),
        Value::Object(members) => {
            let mut seen = HashSet::with_capacity(members.len());
            for (name, value) in members {
                if !seen.insert(folded(name)) {
                    return Err(ReadError::Spelling(shown(name)));
                }
                spelled_once(value)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A member is one of the known names, or unlike them.
fn known_spelling(members: &Map<String, Value>, known: &[&str]) -> Result<(), ReadError> {
    let wrong = members.keys().find(|name| {
        let like = folded(name);
        known
            .iter()
            .any(|k| *k != name.as_str() && folded(k) == like)
    });
    wrong.map_or(Ok(()), |name| Err(ReadError::Spelling(shown(name))))
}

/// As readers that do not look at case compare names: Go's `encoding/json` takes 'ſ' for 's' and the Kelvin sign for 'k', too.
pub(super) fn folded(name: &str) -> String {
    name.chars()
        .map(|c| if c == 'ſ' { 's' } else { c })
        .flat_map(char::to_lowercase)
        .collect()
}

fn shown(name: &str) -> String {
    agentwall_action::escape_text(name)
        .chars()
        .take(80)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Message, ReadError> {
        Message::read(text.as_bytes(), 4096)
    }

    fn call(params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        read(&text).unwrap()
    }

    #[test]
    fn messages_are_requests_notifications_and_answers() {
        let message = call(r#"{"name":"a","arguments":{"x":1},"later":true}"#);
        assert_eq!(message.id, Some(json!(1)));
        let Kind::Call { method, params } = message.kind else {
            panic!("a call")
        };
        assert_eq!(
            (method.as_str(), &params["later"]),
            ("tools/call", &json!(true))
        );
        let told = read(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).unwrap();
        assert_eq!(told.id, None);
        let answer = read(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#).unwrap();
        assert_eq!(answer.kind, Kind::Answer);
    }

    #[test]
    fn what_readers_take_differently_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"Method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","param\u017f":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"p":1,"P":2}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":[{"p":1,"p":2}]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read("[]"), Err(ReadError::Batch));
        let long = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#,
            "a".repeat(4096)
        );
        assert_eq!(read(&long).unwrap_err().code(), -32700);
    }

    #[test]
    fn the_digest_is_of_the_meaning_as_it_is_spelled() {
        let one = call(r#"{"name":"a","arguments":{"n":1},"_meta":{"progressToken":1,"k":2}}"#);
        let again = read(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"_meta":{"k":2,"progressToken":9},"name":"a","arguments":{"n":1}}}"#,
        );
        assert_eq!(one.digest, again.unwrap().digest);
        for other in [
            r#"{"name":"b","arguments":{"n":1},"_meta":{"k":2}}"#,
            r#"{"name":"a","arguments":{"n":1.0},"_meta":{"k":2}}"#,
            r#"{"name":"a","arguments":{"n":1},"_meta":{"k":3}}"#,
            r#"{"name":"a","arguments":{"n":1},"_meta":{"k":2},"task":{}}"#,
        ] {
            assert_ne!(one.digest, call(other).digest, "{other}");
        }
        let big = |n: &str| call(&format!(r#"{{"name":"a","arguments":{{"n":{n}}}}}"#)).digest;
        assert_ne!(big("18446744073709551617"), big("18446744073709551618"));
    }
}
