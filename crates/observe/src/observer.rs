//! The bytes of one answer of a model API, as they pass.

use serde_json::Value;

use crate::{
    calls::{Calls, ToolCall},
    sse::Events,
};

/// The longest answer that is not streamed, in bytes: it is read at its end.
pub const MAX_BODY: usize = 32 << 20;

/// Why nothing more is read in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unread {
    /// An event or the whole is longer than any model's.
    #[error("an answer or an event in it is too long")]
    TooLong,
    /// It is not JSON.
    #[error("an answer or an event in it is not JSON")]
    NotJson,
}

/// Finds the tool calls in one answer.
#[derive(Debug)]
pub struct Observer {
    form: Form,
    calls: Calls,
}

#[derive(Debug)]
enum Form {
    Events(Events),
    Whole(Vec<u8>),
    Other,
}

impl Observer {
    /// For an answer of this `content-type` (RFC 9110, section 8.3): `text/event-stream`, or JSON. In others nothing
    /// is looked for.
    pub fn new(content_type: &str) -> Observer {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let form = match kind.to_ascii_lowercase().as_str() {
            "text/event-stream" => Form::Events(Events::default()),
            "application/json" => Form::Whole(Vec::new()),
            kind if kind.starts_with("application/") && kind.ends_with("+json") => {
                Form::Whole(Vec::new())
            }
            _ => Form::Other,
        };
        Observer {
            form,
            calls: Calls::default(),
        }
    }

    /// Whether the answer is read at its end: it must not be handed on before.
    pub fn is_whole(&self) -> bool {
        matches!(self.form, Form::Whole(_))
    }

    /// Takes the next bytes; the calls that are complete with them.
    ///
    /// # Errors
    /// The answer is none that is understood.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<ToolCall>, Unread> {
        let Observer { form, calls } = self;
        match form {
            Form::Other => Ok(Vec::new()),
            Form::Whole(body) if body.len() + bytes.len() > MAX_BODY => Err(Unread::TooLong),
            Form::Whole(body) => {
                body.extend_from_slice(bytes);
                Ok(Vec::new())
            }
            Form::Events(events) => {
                let mut found = Vec::new();
                let mut unread = None;
                events
                    .push(bytes, &mut |data| match read(data) {
                        Ok(value) => found.append(&mut calls.take(&value)),
                        Err(error) => unread = Some(error),
                    })
                    .map_err(|_| Unread::TooLong)?;
                unread.map_or(Ok(found), Err)
            }
        }
    }

    /// The answer is over; the calls that are complete with it.
    ///
    /// # Errors
    /// As of [`Observer::push`].
    pub fn end(&mut self) -> Result<Vec<ToolCall>, Unread> {
        match std::mem::replace(&mut self.form, Form::Other) {
            Form::Whole(body) if !body.is_empty() => Ok(self.calls.take(&read(&body)?)),
            _ => Ok(Vec::new()),
        }
    }
}

/// Chat Completions end with a word that is not JSON.
fn read(data: &[u8]) -> Result<Value, Unread> {
    match data.trim_ascii() {
        b"" | b"[DONE]" => Ok(Value::Null),
        data => serde_json::from_slice(data).map_err(|_| Unread::NotJson),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "event: content_block_start\r\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":\
        {\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"Bash\",\"input\":{}}}\r\n\r\n\
        data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"partial_json\":\"{\\\"a\\\":1}\"}}\r\n\r\n\
        data: {\"type\":\"content_block_stop\",\"index\":0}\r\n\r\ndata: [DONE]\r\n\r\n";

    #[test]
    fn a_call_is_told_with_the_byte_that_completes_it() {
        let mut observer = Observer::new("text/event-stream; charset=utf-8");
        let last = STREAM.find("\r\ndata: [DONE]").unwrap();
        for (at, byte) in STREAM.bytes().enumerate() {
            let found = observer.push(&[byte]).unwrap();
            // The carriage return of the empty line ends the event.
            assert_eq!(found.len(), usize::from(at == last), "at {at}");
        }
        assert_eq!(observer.end(), Ok(Vec::new()));
    }

    #[test]
    fn a_whole_answer_is_read_at_its_end() {
        let body = br#"{"type":"message","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{}}]}"#;
        let mut observer = Observer::new("Application/JSON");
        assert!(observer.is_whole());
        assert_eq!(observer.push(&body[..20]), Ok(Vec::new()));
        assert_eq!(observer.push(&body[20..]), Ok(Vec::new()));
        assert_eq!(observer.end().unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let mut observer = Observer::new("text/event-stream");
        assert_eq!(observer.push(b"data: {\n\n"), Err(Unread::NotJson));
        let mut observer = Observer::new("application/json");
        observer.push(b"<html>").unwrap();
        assert_eq!(observer.end(), Err(Unread::NotJson));
        let mut observer = Observer::new("text/html");
        assert_eq!(observer.push(b"data: {\n\n"), Ok(Vec::new()));
    }
}
