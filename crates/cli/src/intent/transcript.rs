//! An agent's transcript, as far as a hook needs it: the newest text of the assistant.
//!
//! JSON lines that the agent writes: Claude Code one message a line (`{"type":"assistant","message":
//! {"content":[{"type":"text","text":…},{"type":"tool_use","id":…}]}}`), Codex one response item a line
//! (`{"type":"response_item","payload":{"type":"message","role":"assistant","content":[{"type":"output_text",
//! "text":…}]}}`). Read from its end and no further than [`MAX_READ`]: it grows with the conversation. What
//! is not understood is skipped; the transcript is the agent's own word, and may lag behind.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Most bytes that are read from the end of a transcript.
const MAX_READ: u64 = 1 << 20;
/// So far a transcript may lag behind: a busy agent writes it late.
const LAG: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// Most bytes of text that are taken from it.
const MAX_TEXT: usize = 16 << 10;

/// The newest text of the assistant that is not after the tool call with the id `call`; empty when there is
/// none in the end of the file. Agents write their transcript while they go on, so one that has neither a text nor
/// the call is waited for, up to [`LAG`].
pub fn reasoning(path: &Path, call: Option<&str>) -> io::Result<String> {
    let since = Instant::now();
    loop {
        let (read, lag) = match in_the_end(path, call) {
            // An agent makes the file with the first lines that it writes; some write none.
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Err(e), LAG / 5),
            // Without the call's id nobody can tell whether there is more to come.
            read if call.is_none() => (read, LAG / 5),
            read => (read, LAG),
        };
        let more = match &read {
            Ok((text, has_call)) => text.is_empty() && !has_call,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        if !more || since.elapsed() >= lag {
            return read.map(|(text, _)| text);
        }
        thread::sleep(LOOK);
    }
}

fn in_the_end(path: &Path, call: Option<&str>) -> io::Result<(String, bool)> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let size = file.seek(SeekFrom::End(0))?;
    let from = size.saturating_sub(MAX_READ);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(MAX_READ).read_to_end(&mut tail)?;
    if from > 0 {
        // The first line is cut.
        let end = tail.iter().position(|b| *b == b'\n').unwrap_or(tail.len());
        tail.drain(..end);
    }
    Ok(newest_text(&tail, call))
}

/// The same of the bytes of a transcript, and whether it has the call.
pub fn newest_text(transcript: &[u8], call: Option<&str>) -> (String, bool) {
    let lines: Vec<Value> = transcript
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    // One message can be several lines; what comes after the call is not its reason.
    let last = call.and_then(|call| lines.iter().rposition(|line| calls(line, call)));
    let before = last.map_or(lines.as_slice(), |at| &lines[..=at]);
    let mut text = before
        .iter()
        .rev()
        .map_while(|line| (!is_prompt(line)).then(|| text_of(line)))
        .find(|text| !text.trim().is_empty())
        .unwrap_or_default();
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
        text.push('\u{2026}');
    }
    (text, last.is_some())
}

/// The parts of a line that the assistant wrote.
fn parts(line: &Value) -> impl Iterator<Item = &Value> {
    let claude = (line["type"] == "assistant").then(|| &line["message"]["content"]);
    let payload = &line["payload"];
    let codex = (payload["role"] == "assistant").then(|| &payload["content"]);
    let content = claude.or(codex).and_then(Value::as_array);
    content.into_iter().flatten()
}

fn text_of(line: &Value) -> String {
    let texts = parts(line).filter(|p| p["type"] == "text" || p["type"] == "output_text");
    let texts: Vec<&str> = texts.filter_map(|p| p["text"].as_str()).collect();
    texts.join("\n")
}

/// Whether the line has the tool call.
fn calls(line: &Value, call: &str) -> bool {
    parts(line).any(|p| p["type"] == "tool_use" && p["id"] == call)
        || line["payload"]["call_id"] == call
}

/// Whether a person spoke: what was said before is no reason for what comes after.
fn is_prompt(line: &Value) -> bool {
    let content = &line["message"]["content"];
    let results = |parts: &Vec<Value>| parts.iter().any(|p| p["type"] == "tool_result");
    line["type"] == "user" && !content.as_array().is_some_and(results)
        || line["payload"]["role"] == "user"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(all: &[Value]) -> Vec<u8> {
        let lines = all.iter().map(|l| format!("{l}\n"));
        lines.collect::<String>().into_bytes()
    }

    fn says(text: &str) -> Value {
        json!({"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": text}]}})
    }

    fn uses(id: &str) -> Value {
        json!({"type": "assistant", "message": {"content": [{"type": "tool_use", "id": id, "name": "Bash"}]}})
    }

    fn result(id: &str) -> Value {
        json!({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": id}]}})
    }

    fn asks(text: &str) -> Value {
        json!({"type": "user", "message": {"role": "user", "content": text}})
    }

    #[test]
    fn the_text_before_the_call_and_not_after_it() {
        let all = lines(&[
            asks("do"),
            says("first"),
            uses("t1"),
            result("t1"),
            says("second"),
            uses("t2"),
            uses("t3"),
            says("later"),
        ]);
        assert_eq!(newest_text(&all, Some("t1")).0, "first");
        assert_eq!(newest_text(&all, Some("t2")).0, "second");
        assert_eq!(newest_text(&all, Some("t3")).0, "second");
        assert_eq!(newest_text(&all, Some("unknown")).0, "later");
        assert_eq!(newest_text(&all, None).0, "later");
    }

    #[test]
    fn an_old_text_is_no_reason_for_a_new_task() {
        let all = lines(&[says("old"), asks("something else"), uses("t1")]);
        assert_eq!(newest_text(&all, Some("t1")).0, "");
    }

    #[test]
    fn codex_and_what_is_not_understood() {
        let said = json!({"type": "response_item", "payload": {"type": "message", "role": "assistant",
            "content": [{"type": "output_text", "text": "why"}]}});
        let called =
            json!({"type": "response_item", "payload": {"type": "function_call", "call_id": "c1"}});
        let mut all = lines(&[said, called]);
        all.splice(0..0, *b"\xff\xfe\n{\"type\":7}\n[[[\n");
        assert_eq!(newest_text(&all, Some("c1")).0, "why");
        assert_eq!(newest_text(b"", None).0, "");
    }

    #[test]
    fn a_long_file_is_read_from_its_end() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("t.jsonl");
        let mut all = lines(&[says("too far back")]);
        all.extend(lines(&vec![result("x"); 40_000]));
        std::fs::write(&path, &all).unwrap();
        assert!(all.len() as u64 > MAX_READ);
        assert_eq!(reasoning(&path, None).unwrap(), "");
        all.extend(lines(&[says(&"é".repeat(MAX_TEXT)), uses("t1")]));
        std::fs::write(&path, &all).unwrap();
        let text = reasoning(&path, Some("t1")).unwrap();
        assert!(
            text.len() <= MAX_TEXT + 3 && text.ends_with("é\u{2026}"),
            "{}",
            text.len()
        );
        assert!(reasoning(tmp.path(), None).is_err());
    }

    #[test]
    fn whether_the_call_is_there() {
        let all = lines(&[asks("do"), uses("t1"), result("t1")]);
        assert_eq!(newest_text(&all, Some("t1")), (String::new(), true));
        assert_eq!(newest_text(&all, Some("t2")), (String::new(), false));
        assert_eq!(newest_text(&all, None), (String::new(), false));
    }

    #[test]
    fn a_transcript_that_lags_behind_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let later = path.clone();
        let writer = thread::spawn(move || {
            // It is not even there at first.
            thread::sleep(LAG / 20);
            std::fs::write(&later, lines(&[asks("do")])).unwrap();
            thread::sleep(LAG / 4);
            std::fs::write(later, lines(&[says("because"), uses("toolu_1")])).unwrap();
        });
        assert_eq!(reasoning(&path, Some("toolu_1")).unwrap(), "because");
        writer.join().unwrap();
    }
}
