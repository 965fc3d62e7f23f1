//! A call that waits for a person, in revision 2026-07-28 (patterns, multi round-trip requests): a client that can show its
//! user an address is given one, and a state to come back with.
//!
//! The address is a page that says where the answer is given; the client cannot answer itself. The state is the question's
//! ticket: 128 bits that nobody guesses, which mean something here alone - for this agent, this call, until the question
//! ends or the call was made. It permits nothing: the call is judged again, and the approval is used up by it.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Asked, STATELESS, VERSION_MEMBER,
    members::{Members, raw},
    rpc::{Kind, Message},
};
use crate::{answer::Refusal, gateway::Config, gateway::OWN_PATH};

/// Before a ticket, so that a server's own state is never taken for one.
const PREFIX: &str = "agentwall.";

/// The name of what is asked of the user.
const REQUEST: &str = "agentwall-approval";

/// What clients say of themselves, in `_meta`.
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The result that asks the client to come back, if the refusal is of a call that waits and the client can be asked.
pub fn asks(message: &Message, asked: &Asked, refusal: &Refusal, config: &Config) -> Option<Value> {
    let (Kind::Call { params, .. }, Asked::Tool { .. }) = (&message.kind, asked) else {
        return None;
    };
    let ticket = refusal.extra.get("ticket")?.as_str()?;
    let meta = params.get("_meta")?;
    let version = meta.get(VERSION_MEMBER)?.as_str()?;
    let shows_addresses = meta
        .get(CAPABILITIES)?
        .get("elicitation")?
        .get("url")
        .is_some();
    // A client that is in the middle of a round trip with the server has one state, and it is the server's.
    let of_server = params.contains_key("requestState");
    if version < STATELESS || !shows_addresses || of_server {
        return None;
    }
    let body = refusal.body(config.disclosure);
    Some(json!({
        "resultType": "input_required",
        "inputRequests": { REQUEST: {
            "method": "elicitation/create",
            "params": { "mode": "url", "url": format!("{}{OWN_PATH}approve", config.public), "message": body["message"] },
        } },
        "requestState": format!("{PREFIX}{ticket}"),
    }))
}

/// The ticket that a message comes back with, and the message without it: the server never asked for it.
pub fn taken(body: Bytes) -> (Option<String>, Bytes) {
    let without = || -> Option<(String, Bytes)> {
        let mut message = Members::read(&body).ok()?;
        let mut params = Members::read(message.get("params")?.get().as_bytes()).ok()?;
        let state: String = serde_json::from_str(params.take("requestState")?.get()).ok()?;
        let ticket = state.strip_prefix(PREFIX)?.to_owned();
        params.take("inputResponses");
        message.set("params", raw(&params).ok()?);
        Some((ticket, message.to_bytes().ok()?.into()))
    };
    match without() {
        Some((ticket, without)) => (Some(ticket), without),
        None => (None, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_here_is_taken_away() {
        let of = |params: &str| {
            let text =
                format!(r#"{{"jsonrpc":"2.0", "id":2,"method":"tools/call","params":{params}}}"#);
            let (ticket, body) = taken(text.clone().into());
            (ticket, String::from_utf8(body.to_vec()).unwrap(), text)
        };
        let (ticket, body, _) = of(
            r#"{"name":"a","inputResponses":{"agentwall-approval":{"action":"accept"}},"requestState":"agentwall.T","n":1.50}"#,
        );
        assert_eq!(ticket.as_deref(), Some("T"));
        assert_eq!(
            body,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"a","n":1.50}}"#
        );
        for params in [
            r#"{"name":"a","inputResponses":{},"requestState":"the server's"}"#,
            r#"{"name":"a","requestState":7}"#,
            r#"{"name":"a","requestState":"x","requestState":"agentwall.T"}"#,
            r#"{"name":"a"}"#,
        ] {
            let (ticket, body, text) = of(params);
            assert_eq!((ticket, body), (None, text));
        }
    }
}
