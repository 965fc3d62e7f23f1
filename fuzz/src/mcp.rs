//! What clients and servers of the Model Context Protocol send.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use agentwall_action::Subject;
use agentwall_gateway::mcp::{
    definitions::{Pin, PinError, Pins, Standing},
    filter::{Filter, Known},
    rpc::{Kind, Message},
    scan::{Hidden, OnFinding},
    sse::{self, Events},
};
use agentwall_identity::parse_json_to;
use agentwall_policy::{Layer, Policy, Source, Variables, load};
use serde_json::{Map, Value, value::RawValue};

/// The longest message that is taken here.
const LIMIT: usize = 1 << 16;

/// A client's message: refused, or every reader finds the same in it, whether it looks at case or not.
pub fn message(data: &[u8]) {
    let Ok(message) = Message::read(data, LIMIT) else {
        return;
    };
    let plain: Value = serde_json::from_slice(data).expect("a plain reader reads it, too");
    for value in [plain.clone(), folded(plain)] {
        assert_eq!(value.get("id"), message.id.as_ref());
        match &message.kind {
            Kind::Call { method, params } => {
                assert_eq!(value["method"], **method);
                for name in ["name", "uri"] {
                    // What is no text is no name; its own members may be folded.
                    let text =
                        |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
                    assert_eq!(text(value["params"].get(name)), text(params.get(name)));
                }
                assert!(value.get("result").is_none() && value.get("error").is_none());
            }
            Kind::Answer => assert!(value.get("method").is_none() && message.id.is_some()),
        }
    }
    assert_eq!(Message::read(data, LIMIT), Ok(message));
}

/// As a reader that does not look at case has it: the last one of several members counts.
fn folded(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut all = Map::new();
            for (name, value) in members {
                all.insert(name.to_lowercase().replace('ſ', "s"), folded(value));
            }
            Value::Object(all)
        }
        Value::Array(items) => items.into_iter().map(folded).collect(),
        other => other,
    }
}

/// A server's event stream: the same events however it is cut, and no tool that is denied goes on.
pub fn answer(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let all = |parts: &[&[u8]]| {
        let mut events = Events::new(LIMIT);
        let mut found = Vec::new();
        for part in parts {
            events.push(part).expect("within the limit");
            found.extend(std::iter::from_fn(|| events.whole()));
        }
        found.extend(events.last());
        found
    };
    let (before, after) = stream.split_at(usize::from(*cut).min(stream.len()));
    let events = all(&[stream]);
    assert_eq!(events, all(&[before, after]));
    for event in events {
        let written = sse::written(&event, None);
        assert!(written.is_empty() || written.ends_with(b"\n\n"));
        let text = std::str::from_utf8(&written).expect("text");
        assert!(!text.contains(|c: char| c != '\n' && c.is_control()));
        let Some(data) = sse::data(&event).filter(|data| !data.is_empty()) else {
            continue;
        };
        let Ok(other) = FILTER.message(&data) else {
            continue;
        };
        let sent = String::from_utf8(other.unwrap_or(data)).expect("JSON is text");
        let sent = sse::data(&sse::written(&event, Some(sent.as_str()))).expect("data");
        assert!(!sent.contains(&b'\n'));
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&sent).expect("JSON");
        let result = members.get("result").map(|result| result.get());
        let Some(result) = result.filter(|result| result.starts_with('{')) else {
            continue;
        };
        // What has tools is read whole before it goes on.
        let result = parse_json_to(result.as_bytes(), sent.len(), 100).expect("one reading");
        for result in [result.clone(), folded(result)] {
            let tools = result["tools"].as_array();
            let names = tools.into_iter().flatten().map(|tool| &tool["name"]);
            assert!(
                names.into_iter().all(|name| name != "rm"),
                "a denied tool goes on"
            );
        }
    }
}

static FILTER: LazyLock<Filter> = LazyLock::new(|| Filter {
    server: "srv".to_owned(),
    pins: Arc::new(Forgetful),
    policy: Arc::new(policy()),
    subject: Subject::agent("h/a"),
    granted: true,
    show_denied: false,
    scanners: Arc::new([Box::new(Hidden)]),
    on_finding: OnFinding::Flag,
    known: Arc::new(Known::default()),
    now: 0,
});

fn policy() -> Policy {
    let text = "agentwall: 1\ndefault: allow\nrules:\n  - { id: rm, action: tool.call, resource: 'mcp:srv/rm', effect: deny }\n";
    load(
        &[Source::new("fuzz", text, Layer::User)],
        &Variables::default(),
    )
    .expect("it loads")
}

/// Every definition is a new one.
#[derive(Debug)]
struct Forgetful;

impl Pins for Forgetful {
    fn get(&self, _: &str) -> Result<Option<Pin>, PinError> {
        Ok(None)
    }

    fn told(&self, _: &str, _: &str, _: bool, _: u64) -> Result<Standing, PinError> {
        Ok(Standing::New)
    }
}
