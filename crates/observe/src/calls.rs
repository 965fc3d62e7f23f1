//! Tool calls in what model APIs answer, whole or event by event.
//!
//! Shapes, not addresses, tell the APIs apart:
//!
//! | | whole | streamed |
//! |---|---|---|
//! | Anthropic Messages | `content[]` with `type` `tool_use` | `content_block_start`, `_delta`, `_stop` |
//! | OpenAI Responses | `output[]` with `type` `function_call`, `custom_tool_call`, `local_shell_call` | `response.output_item.done` |
//! | OpenAI Chat Completions | `choices[].message.tool_calls[]` | `choices[].delta.tool_calls[]`, complete with `finish_reason` |
//! | Gemini `generateContent` | `candidates[].content.parts[].functionCall` | the same |

use std::collections::BTreeMap;

use serde_json::Value;

/// So much of a model's text is kept as its reason, the newest of it, in bytes.
pub const MAX_WHY: usize = 16 << 10;
/// So many calls of one answer may be unfinished at once.
const MAX_OPEN: usize = 256;
/// So much of a call's parameters is read; what is longer is cut, and is a text then.
const MAX_INPUT: usize = 1 << 20;

/// A tool call that a model told its agent to make.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The API's id of the call; empty where it has none.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its parameters; a text when they are not JSON.
    pub input: Value,
    /// What the model wrote before the call in the same answer: thoughts and text.
    pub why: String,
}

/// The calls of one answer.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    why: String,
    /// By the API's number of the block or call.
    open: BTreeMap<u64, Open>,
}

#[derive(Debug, Default)]
struct Open {
    id: String,
    name: String,
    /// What was there at the beginning, used when no text follows.
    input: Value,
    text: String,
}

impl Calls {
    /// Takes a whole answer or one event; the calls that are complete with it.
    pub(crate) fn take(&mut self, value: &Value) -> Vec<ToolCall> {
        let mut found = Vec::new();
        match value["type"].as_str() {
            Some("content_block_start") => self.begin(value),
            Some("content_block_delta") => self.add(value),
            Some("content_block_stop") => {
                let open = value["index"].as_u64().and_then(|i| self.open.remove(&i));
                found.extend(open.map(|open| self.end(open)));
            }
            Some("response.output_item.done") => self.item(&value["item"], &mut found),
            // The whole answer once more, at the end of its stream.
            Some("response.completed" | "response.incomplete") => {}
            _ => self.whole(value, &mut found),
        }
        found
    }

    fn whole(&mut self, value: &Value, found: &mut Vec<ToolCall>) {
        for answer in list(value) {
            self.whole(answer, found);
        }
        for item in list(&value["output"]) {
            self.item(item, found);
        }
        for block in list(&value["content"]) {
            self.block(block, found);
        }
        for candidate in list(&value["candidates"]) {
            for part in list(&candidate["content"]["parts"]) {
                self.say(&part["text"]);
                let call = &part["functionCall"];
                if call.is_object() {
                    found.push(self.call(&call["id"], &call["name"], call["args"].clone()));
                }
            }
        }
        for choice in list(&value["choices"]) {
            for part in [&choice["message"], &choice["delta"]] {
                self.say(&part["reasoning_content"]);
                self.say(&part["reasoning"]);
                self.say(&part["content"]);
            }
            for call in list(&choice["message"]["tool_calls"]) {
                let (name, input) = function(call);
                found.push(self.call(&call["id"], name, parsed(input)));
            }
            for call in list(&choice["delta"]["tool_calls"]) {
                self.piece(call);
            }
            if choice["finish_reason"].is_string() {
                for open in std::mem::take(&mut self.open).into_values() {
                    found.push(self.end(open));
                }
            }
        }
    }

    /// An item of OpenAI's Responses.
    fn item(&mut self, item: &Value, found: &mut Vec<ToolCall>) {
        let call = match item["type"].as_str() {
            Some("function_call") => {
                let input = parsed(item["arguments"].as_str().unwrap_or_default());
                self.call(&item["call_id"], &item["name"], input)
            }
            Some("custom_tool_call") => {
                self.call(&item["call_id"], &item["name"], item["input"].clone())
            }
            Some(kind @ ("local_shell_call" | "shell_call")) => self.call(
                &item["call_id"],
                &Value::from(kind.trim_end_matches("_call")),
                item["action"].clone(),
            ),
            _ => {
                for part in list(&item["summary"]).iter().chain(list(&item["content"])) {
                    self.say(&part["text"]);
                }
                return;
            }
        };
        found.push(call);
    }

    /// A block of Anthropic's Messages.
    fn block(&mut self, block: &Value, found: &mut Vec<ToolCall>) {
        match block["type"].as_str() {
            Some("tool_use") => {
                found.push(self.call(&block["id"], &block["name"], block["input"].clone()));
            }
            Some("thinking") => self.say(&block["thinking"]),
            Some("text") => self.say(&block["text"]),
            _ => {}
        }
    }

    fn begin(&mut self, event: &Value) {
        let block = &event["content_block"];
        if block["type"] == "tool_use" {
            let open = Open {
                id: text(&block["id"]),
                name: text(&block["name"]),
                input: block["input"].clone(),
                text: String::new(),
            };
            self.open_at(&event["index"], open);
        } else {
            self.block(block, &mut Vec::new());
        }
    }

    fn add(&mut self, event: &Value) {
        let delta = &event["delta"];
        self.say(&delta["text"]);
        self.say(&delta["thinking"]);
        let more = delta["partial_json"].as_str().unwrap_or_default();
        let open = event["index"].as_u64().and_then(|i| self.open.get_mut(&i));
        if let Some(open) = open {
            append(&mut open.text, more, MAX_INPUT);
        }
    }

    /// A piece of a call of Chat Completions.
    fn piece(&mut self, call: &Value) {
        let index = Value::from(call["index"].as_u64().unwrap_or(0));
        if !index.as_u64().is_some_and(|i| self.open.contains_key(&i)) {
            self.open_at(&index, Open::default());
        }
        let Some(open) = index.as_u64().and_then(|i| self.open.get_mut(&i)) else {
            return;
        };
        let (name, input) = function(call);
        append(&mut open.id, call["id"].as_str().unwrap_or_default(), 256);
        append(&mut open.name, name.as_str().unwrap_or_default(), 256);
        append(&mut open.text, input, MAX_INPUT);
    }

    fn open_at(&mut self, index: &Value, open: Open) {
        if let Some(index) = index.as_u64()
            && self.open.len() < MAX_OPEN
        {
            self.open.insert(index, open);
        }
    }

    fn end(&self, open: Open) -> ToolCall {
        let input = match open.text.is_empty() {
            true => open.input,
            false => parsed(&open.text),
        };
        self.call(&Value::from(open.id), &Value::from(open.name), input)
    }

    fn call(&self, id: &Value, name: &Value, input: Value) -> ToolCall {
        ToolCall {
            id: text(id),
            name: text(name),
            input,
            why: newest(&self.why).to_owned(),
        }
    }

    fn say(&mut self, words: &Value) {
        self.why.push_str(words.as_str().unwrap_or_default());
        if self.why.len() > 4 * MAX_WHY {
            self.why = newest(&self.why).to_owned();
        }
    }
}

/// The end of a text, at most [`MAX_WHY`] of it.
fn newest(text: &str) -> &str {
    let from = text.len().saturating_sub(MAX_WHY);
    let from = (from..=text.len()).find(|i| text.is_char_boundary(*i));
    &text[from.unwrap_or(text.len())..]
}

/// Appends what has room.
fn append(text: &mut String, more: &str, most: usize) {
    let room = most.saturating_sub(text.len());
    let end = (0..=more.len().min(room))
        .rev()
        .find(|i| more.is_char_boundary(*i));
    text.push_str(&more[..end.unwrap_or(0)]);
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Name and arguments of a function call, or name and input of a custom one.
fn function(call: &Value) -> (&Value, &str) {
    let (body, input) = match call["custom"].is_object() {
        true => (&call["custom"], "input"),
        false => (&call["function"], "arguments"),
    };
    (&body["name"], body[input].as_str().unwrap_or_default())
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(values: &[Value]) -> Vec<ToolCall> {
        let mut calls = Calls::default();
        values.iter().flat_map(|v| calls.take(v)).collect()
    }

    fn call(id: &str, name: &str, input: Value, why: &str) -> ToolCall {
        let (id, name, why) = (id.into(), name.into(), why.into());
        ToolCall {
            id,
            name,
            input,
            why,
        }
    }

    #[test]
    fn anthropic_messages() {
        let whole = json!({"type": "message", "role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm ", "signature": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
            {"type": "tool_use", "id": "t2", "name": "Read", "input": {}},
        ]});
        let expected = [
            call("t1", "Bash", json!({"command": "ls"}), "hm I look."),
            call("t2", "Read", json!({}), "hm I look."),
        ];
        assert_eq!(all(&[whole]), expected);
        let delta = |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let start = |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
        let stream = [
            json!({"type": "message_start", "message": {"content": []}}),
            start(0, json!({"type": "thinking", "thinking": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "hm "})),
            stop(0),
            json!({"type": "ping"}),
            start(1, json!({"type": "text", "text": ""})),
            delta(1, json!({"type": "text_delta", "text": "I "})),
            delta(1, json!({"type": "text_delta", "text": "look."})),
            stop(1),
            start(
                2,
                json!({"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}),
            ),
            delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
            delta(
                2,
                json!({"type": "input_json_delta", "partial_json": "{\"comm"}),
            ),
            delta(
                2,
                json!({"type": "input_json_delta", "partial_json": "and\":\"ls\"}"}),
            ),
            stop(2),
            start(
                3,
                json!({"type": "tool_use", "id": "t2", "name": "Read", "input": {}}),
            ),
            stop(3),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
            json!({"type": "message_stop"}),
        ];
        assert_eq!(all(&stream), expected);
        // Nothing before its end.
        assert!(all(&stream[..13]).is_empty());
    }

    #[test]
    fn openai_responses() {
        let output = json!([
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm "}]},
            {"type": "message", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "id": "fc_1", "name": "shell", "arguments": "{\"command\":[\"ls\"]}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin Patch"},
            {"type": "local_shell_call", "call_id": "c3", "action": {"type": "exec", "command": ["id"]}},
        ]);
        let expected = [
            call("c1", "shell", json!({"command": ["ls"]}), "hm I look."),
            call("c2", "apply_patch", json!("*** Begin Patch"), "hm I look."),
            call(
                "c3",
                "local_shell",
                json!({"type": "exec", "command": ["id"]}),
                "hm I look.",
            ),
        ];
        let whole = json!({"object": "response", "output": output});
        assert_eq!(all(std::slice::from_ref(&whole)), expected);
        let mut stream = vec![
            json!({"type": "response.created", "response": {"object": "response", "output": []}}),
            json!({"type": "response.output_text.delta", "delta": "I look."}),
        ];
        for item in output.as_array().unwrap() {
            stream.push(json!({"type": "response.output_item.added", "item": item}));
            stream.push(json!({"type": "response.output_item.done", "item": item}));
        }
        stream.push(json!({"type": "response.completed", "response": whole}));
        assert_eq!(all(&stream), expected);
    }

    #[test]
    fn openai_chat_completions() {
        let whole = json!({"object": "chat.completion", "choices": [{"finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": "I look.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{\"c\":1}"}},
                {"id": "c2", "type": "function", "function": {"name": "read", "arguments": "no json"}}]}}]});
        let expected = [
            call("c1", "bash", json!({"c": 1}), "I look."),
            call("c2", "read", json!("no json"), "I look."),
        ];
        assert_eq!(all(&[whole]), expected);
        let chunk = |delta: Value, end: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": end}]});
        let piece = |index: u64, call: Value| {
            let mut call = call;
            call["index"] = json!(index);
            chunk(json!({"tool_calls": [call]}), Value::Null)
        };
        let stream = [
            chunk(json!({"role": "assistant", "content": "I "}), Value::Null),
            chunk(json!({"content": "look."}), Value::Null),
            piece(
                0,
                json!({"id": "c1", "function": {"name": "bash", "arguments": ""}}),
            ),
            piece(0, json!({"function": {"arguments": "{\"c\""}})),
            piece(
                1,
                json!({"id": "c2", "function": {"name": "read", "arguments": "no json"}}),
            ),
            piece(0, json!({"function": {"arguments": ":1}"}})),
            chunk(json!({}), json!("tool_calls")),
        ];
        assert_eq!(all(&stream), expected);
        assert!(all(&stream[..6]).is_empty());
    }

    #[test]
    fn gemini() {
        let part =
            |parts: Value| json!({"candidates": [{"content": {"role": "model", "parts": parts}}]});
        let stream = [
            part(json!([{"text": "I look."}])),
            part(json!([{"functionCall": {"name": "run", "args": {"c": 1}}}])),
        ];
        let expected = [call("", "run", json!({"c": 1}), "I look.")];
        assert_eq!(all(&stream), expected);
        assert_eq!(all(&[Value::from(stream.to_vec())]), expected);
    }

    #[test]
    fn long_texts_are_cut() {
        let mut calls = Calls::default();
        for n in 0..10_000 {
            calls.take(&json!({"type": "content_block_delta", "index": 0, "delta": {"text": format!("ä{n} ")}}));
        }
        let block = json!({"type": "tool_use", "id": "t", "name": "n", "input": {}});
        let found = calls.take(&json!({"type": "message", "content": [block]}));
        assert!(found[0].why.len() <= MAX_WHY && found[0].why.ends_with(" ä9999 "));
    }

    proptest! {
        #[test]
        fn any_json_is_taken(text in "\\PC{0,40}", index in 0u64..4) {
            let mut calls = Calls::default();
            for kind in ["content_block_start", "content_block_delta", "content_block_stop", "x"] {
                calls.take(&json!({"type": kind, "index": index, "content_block": {"type": "tool_use", "name": text},
                    "delta": {"partial_json": text, "text": text}, "choices": [{"delta": {"tool_calls": [{"index": index}]}}]}));
            }
            prop_assert!(calls.open.len() <= MAX_OPEN);
        }
    }
}
