//! The Model Context Protocol: a gateway in front of a server over streamable HTTP, and around one over stdio.
//!
//! ```text
//! rpc          messages, read strictly
//! sse          event streams, taken apart
//! definitions  what tools say of themselves, pinned
//! filter       what of a server's messages reaches an agent
//! scan         looking at what a server answers
//! members      objects whose members stay as they were spelled
//! sessions     whose a session is
//! reply        refusals as a client of MCP understands them
//! resume       a call that waits, and the client that comes back (2026-07-28)
//! heads        headers, and those that repeat the message
//! watched      a stream that is looked at as it goes on
//! http         the endpoint, revisions 2025-03-26 to 2026-07-28
//! stdio        a server that is a program
//! ```
//!
//! Every message of a client is a call to the judge, as a request to any other API is: a call of a tool is `tool.call` on
//! `mcp:SERVER/TOOL` with its arguments, everything else is `api.call` on `capability:mcp` with `args.method` and
//! `args.params`. Methods that are not known here are refused: nobody could say what they do. What goes on goes on byte
//! for byte, but for events of streams, which are written anew.

pub mod definitions;
pub mod filter;
mod heads;
pub mod http;
mod members;
mod reply;
mod resume;
pub mod rpc;
pub mod scan;
mod sessions;
pub mod sse;
pub mod stdio;
mod watched;

use std::sync::Arc;

use ::http::HeaderMap;
use agentwall_action::{Resource, Subject, Verb};
use agentwall_budget::OnFailure;
use agentwall_engine::risk::Sensitivity;
use agentwall_policy::Policy;
use serde_json::{Map, Value, json};

use crate::{
    approvals::Millis,
    judge::{Asks, Call},
};
use definitions::{MAX_NAME, Pins};
use filter::{Filter, Known};
use rpc::{Kind, Message};
use scan::{Hidden, OnFinding, Scan};
use sessions::Sessions;

/// The capability of calling tools.
pub const TOOLS: &str = "mcp.tools";

/// The capability of everything else.
pub const REST: &str = "mcp";

/// The first revision without sessions. Revisions are dates, and sort as text.
const STATELESS: &str = "2026-07-28";

/// Where a message names its revision, in `_meta`.
const VERSION_MEMBER: &str = "io.modelcontextprotocol/protocolVersion";

/// What clients ask, beside calls of tools (`tools/call`).
const METHODS: [&str; 25] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/elicitation/complete",
    "notifications/initialized",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tools/list",
];

/// A server of MCP behind the gateway.
#[derive(Debug)]
pub struct Server {
    /// Its name in policies: `mcp:NAME/TOOL`.
    pub name: String,
    /// What its tools said of themselves.
    pub pins: Arc<dyn Pins>,
    /// Whether tools are listed that are denied under any arguments.
    pub show_denied: bool,
    /// Who looks at what it answers.
    pub scanners: Arc<[Box<dyn Scan>]>,
    /// What happens to what they find something in.
    pub on_finding: OnFinding,
    /// Whose sessions they are.
    sessions: Sessions,
    known: Arc<Known>,
}

/// What a message of a client is, for the judge.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    /// A call of a tool.
    Tool {
        name: String,
        arguments: Map<String, Value>,
    },
    /// A method that is known.
    Rest { arguments: Map<String, Value> },
}

/// Why a message is not even judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotAsked {
    #[error("Method not found")]
    Method,
    #[error("Invalid params: {0}")]
    Params(&'static str),
}

impl NotAsked {
    /// The code of JSON-RPC 2.0, section 5.1.
    fn code(&self) -> i64 {
        match self {
            NotAsked::Method => -32601,
            NotAsked::Params(_) => -32602,
        }
    }
}

impl Server {
    /// A server without sessions. Denied tools are hidden, findings flagged.
    pub fn new(name: &str, pins: Arc<dyn Pins>) -> Server {
        Server {
            name: name.to_owned(),
            pins,
            show_denied: false,
            scanners: Arc::new([Box::new(Hidden)]),
            on_finding: OnFinding::Flag,
            sessions: Sessions::default(),
            known: Arc::default(),
        }
    }

    /// What the judge is asked about a message. `url` is the server, `status_base` where the agent asks how a call
    /// stands.
    fn call(
        &self,
        message: &Message,
        asked: &Asked,
        (url, headers): (&str, &HeaderMap),
        on_failure: OnFailure,
        status_base: String,
    ) -> Call {
        let (verb, resource, arguments, capability, sensitivity) = match asked {
            Asked::Tool { name, arguments } => {
                let resource = resource(&self.name, name);
                (
                    Verb::ToolCall,
                    resource,
                    arguments,
                    TOOLS,
                    Sensitivity::Medium,
                )
            }
            Asked::Rest { arguments } => {
                let resource = format!("capability:{REST}");
                (Verb::ApiCall, resource, arguments, REST, Sensitivity::Low)
            }
        };
        let method = match &message.kind {
            Kind::Call { method, .. } => method.as_str(),
            Kind::Answer => "answer",
        };
        Call {
            verb,
            resource: Resource::Named(resource),
            arguments: arguments.clone(),
            capability: capability.to_owned(),
            sensitivity,
            on_failure,
            method: method.to_owned(),
            url: url.to_owned(),
            headers: bound(headers),
            body_sha256: message.digest.clone(),
            status_base,
            asks: Asks::Put,
            enforced_by: "gateway",
            withheld: match asked {
                Asked::Tool { name, .. } => self.withheld(name),
                Asked::Rest { .. } => None,
            },
        }
    }

    /// Why no call of the tool goes on now, whatever the policy says.
    fn withheld(&self, tool: &str) -> Option<String> {
        match self.pins.get(tool) {
            Ok(Some(pin)) if pin.offered.is_some() => Some(format!(
                "the definition of this tool is {}, and a person has to look at it: agentwall gateway tools --name {}",
                match pin.accepted.is_empty() {
                    true => "too long, or spells a member in two ways",
                    false => "another one than was accepted",
                },
                self.name
            )),
            Ok(_) => None,
            Err(e) => Some(e.to_string()),
        }
    }

    /// Looks at what the server says to an agent.
    fn filter(&self, policy: Arc<Policy>, subject: Subject, granted: bool, now: Millis) -> Filter {
        Filter {
            server: self.name.clone(),
            pins: Arc::clone(&self.pins),
            policy,
            subject,
            granted,
            show_denied: self.show_denied,
            scanners: Arc::clone(&self.scanners),
            on_finding: self.on_finding,
            known: Arc::clone(&self.known),
            now,
        }
    }
}

/// A tool, for policies.
fn resource(server: &str, tool: &str) -> String {
    format!("mcp:{server}/{tool}")
}

/// What a message of a client is.
fn asked(message: &Message) -> Result<Asked, NotAsked> {
    let rest = |method: &str, params: Value| Asked::Rest {
        arguments: Map::from_iter([
            ("method".to_owned(), json!(method)),
            ("params".to_owned(), params),
        ]),
    };
    let (method, params) = match &message.kind {
        Kind::Answer => return Ok(rest("answer", json!({}))),
        Kind::Call { method, params } => (method.as_str(), params),
    };
    if method != "tools/call" {
        // A notification has no answer, and a request without an id would be one.
        let told = method.starts_with("notifications/");
        return match METHODS.contains(&method) && told == message.id.is_none() {
            true => Ok(rest(method, Value::Object(params.clone()))),
            false => Err(NotAsked::Method),
        };
    }
    if message.id.is_none() {
        return Err(NotAsked::Method);
    }
    let Some(name) = params.get("name").and_then(Value::as_str) else {
        return Err(NotAsked::Params("'name' is no text"));
    };
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(NotAsked::Params("'name' has 1 to 256 bytes"));
    }
    let arguments = match params.get("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments.clone(),
        Some(_) => return Err(NotAsked::Params("'arguments' is no object")),
    };
    Ok(Asked::Tool {
        name: name.to_owned(),
        arguments,
    })
}

/// The headers that are part of what a person answers: not those of the session, which may be another one when the answer
/// is there, and not those that repeat the message.
fn bound(headers: &HeaderMap) -> crate::approvals::Bound {
    let mut bound = crate::headers::bound(headers);
    for name in [
        "mcp-session-id",
        "mcp-protocol-version",
        "mcp-method",
        "mcp-name",
        "last-event-id",
    ] {
        bound.remove(name);
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Asked, NotAsked> {
        asked(&Message::read(text.as_bytes(), 4096).unwrap())
    }

    #[test]
    fn a_message_is_a_call_of_a_tool_a_known_method_or_nothing() {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1}}}"#;
        let Ok(Asked::Tool { name, arguments }) = of(call) else {
            panic!("a call of a tool")
        };
        assert_eq!((name.as_str(), &arguments["x"]), ("a", &json!(1)));
        let read =
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a"}}"#;
        let Ok(Asked::Rest { arguments }) = of(read) else {
            panic!("no call of a tool")
        };
        assert_eq!(arguments["params"]["uri"], "file:///a");
        for (text, code) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/Call","params":{"name":"a"}}"#,
                -32601,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"admin/shutdown"}"#,
                -32601,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#,
                -32601,
            ),
            (r#"{"jsonrpc":"2.0","method":"ping"}"#, -32601),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled"}"#,
                -32601,
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, -32602),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#,
                -32602,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}"#,
                -32602,
            ),
        ] {
            assert_eq!(of(text).unwrap_err().code(), code, "{text}");
        }
    }
}
