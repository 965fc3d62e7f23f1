//! Refusals as a client of MCP understands them.
//!
//! A tool that may not be called now answers with `isError` and the reason: that is what a model reads, so it can do
//! something else. Everything else gets an error of JSON-RPC. The whole refusal, as any other face tells it, is beside
//! the text: in `_meta` and in `data`.

use http::StatusCode;
use serde_json::{Value, json};

use super::Asked;
use crate::answer::{Disclosure, Refusal};

/// The call was decided on, and not in its favour (AuthZEN's profile for MCP has this code, too).
pub const REFUSED: i64 = -32001;

/// Headers and message disagree (revision 2026-07-28, streamable HTTP, server validation).
pub const MISMATCH: i64 = -32020;

/// Before the names of what is ours in `_meta`.
const META: &str = "agentwall/refusal";

/// Whether a refusal is an answer to the message. Else it is one to the request that brought it: who sends it is not
/// known, or nothing can be decided now.
pub fn answers(refusal: &Refusal) -> bool {
    matches!(
        refusal.status,
        StatusCode::ACCEPTED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
    )
}

/// A refusal that is an answer.
pub fn refusal(id: &Value, asked: &Asked, refusal: &Refusal, disclosure: Disclosure) -> Value {
    let body = refusal.body(disclosure);
    match asked {
        Asked::Tool { .. } => json!({
            "jsonrpc": "2.0",
            "id": id,
            "result": {
                "content": [{ "type": "text", "text": text(&body) }],
                "isError": true,
                // Revision 2026-07-28 has it in every result; earlier ones take it as one more member.
                "resultType": "complete",
                "_meta": { META: body },
            },
        }),
        Asked::Rest { .. } => {
            let message = body.get("message").cloned().unwrap_or_default();
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": REFUSED, "message": message, "data": body } })
        }
    }
}

/// For a model: what is wrong, where to look, and what to do instead.
fn text(body: &Value) -> String {
    let member = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut text = format!("Not called: {}", member("message"));
    if !member("status_url").is_empty() {
        text.push_str(&format!("\nstatus_url: {}", member("status_url")));
    }
    if let Some(after) = body.get("retry_after") {
        text.push_str(&format!("\nretry after: {after} s"));
    }
    if let Some(next) = body.pointer("/hint/next") {
        text.push_str(&format!("\nnext: {next}"));
    }
    text
}

/// An error of JSON-RPC. Without an id that could be told it has none.
pub fn error(id: Option<&Value>, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::answer::Next;

    #[test]
    fn a_model_reads_why_and_what_instead() {
        let mut no = Refusal::new(
            StatusCode::FORBIDDEN,
            "unauthorized",
            "denied-by-policy",
            "not that",
        );
        no.rule = Some("r1".into());
        no.next
            .push(Next::Written("use-tool".into(), Some("echo".into())));
        let tool = Asked::Tool {
            name: "rm".into(),
            arguments: Map::new(),
        };
        let told = refusal(&json!(7), &tool, &no, Disclosure::Full);
        assert_eq!(
            (&told["id"], &told["result"]["isError"]),
            (&json!(7), &json!(true))
        );
        assert_eq!(
            told["result"]["content"][0]["text"],
            "Not called: not that\nnext: [{\"action\":\"use-tool\",\"with\":\"echo\"}]"
        );
        assert_eq!(told["result"]["_meta"][META]["hint"]["rule_id"], "r1");
        let secret = refusal(&json!(7), &tool, &no, Disclosure::None).to_string();
        assert!(
            !secret.contains("r1") && !secret.contains("not that"),
            "{secret}"
        );
        let rest = Asked::Rest {
            arguments: Map::new(),
        };
        let told = refusal(&json!("x"), &rest, &no, Disclosure::Full);
        assert_eq!(
            (&told["id"], &told["error"]["code"]),
            (&json!("x"), &json!(REFUSED))
        );
    }
}
