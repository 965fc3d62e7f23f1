//! What the hooks of Claude Code and Codex are told: JSON of one form for both.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::{Ending, Statement, claims, transcript};

/// An event of an agent, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HookEvent {
    /// Which event.
    pub hook_event_name: String,
    /// Where the conversation is.
    pub transcript_path: Option<PathBuf>,
    /// The agent's working directory.
    pub cwd: Option<PathBuf>,
    /// The tool.
    pub tool_name: String,
    /// Its parameters.
    pub tool_input: Value,
    /// What it gave back; only told after the call.
    pub tool_response: Value,
    /// The id of the call.
    pub tool_use_id: Option<String>,
}

/// Reads what a hook is told.
pub fn parse(input: &[u8]) -> Result<HookEvent> {
    let event: HookEvent =
        serde_json::from_slice(input).context("what the hook is told is not understood")?;
    if event.hook_event_name.is_empty() {
        bail!("what the hook is told names no event ('hook_event_name')");
    }
    if event.hook_event_name == "PreToolUse" && event.tool_name.is_empty() {
        bail!("what the hook is told names no tool ('tool_name')");
    }
    Ok(event)
}

/// The intent of a tool call of the agent.
pub fn statement(agent: &str, event: &HookEvent) -> Statement {
    let call = event.tool_use_id.as_deref();
    let why = event.transcript_path.as_deref().map(|path| {
        // The agent's file may lag or be gone; then no reason was given.
        transcript::reasoning(path, call).unwrap_or_default()
    });
    let cwd = event.cwd.as_deref().unwrap_or(Path::new("/"));
    Statement {
        source: Some(agent.to_owned()),
        tool: Some(event.tool_name.clone()),
        call: event.tool_use_id.clone(),
        why: why.unwrap_or_default(),
        parameters: event.tool_input.clone(),
        does: claims::of_tool(&event.tool_name, &event.tool_input, cwd),
    }
}

/// How a tool call ended, as far as it is told.
pub fn ending(event: &HookEvent) -> Ending {
    let response = &event.tool_response;
    let exit = response["exit_code"]
        .as_i64()
        .or(response["exitCode"].as_i64());
    let exit = exit.and_then(|code| i32::try_from(code).ok());
    Ending {
        failed: event.hook_event_name == "PostToolUseFailure" || exit.is_some_and(|code| code != 0),
        exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_told_is_understood_or_blocks() {
        let told = json!({
            "session_id": "s", "transcript_path": "/nowhere/t.jsonl", "cwd": "/", "permission_mode": "default",
            "hook_event_name": "PreToolUse", "tool_name": "Bash",
            "tool_input": {"command": "make test", "description": "Run the tests"}, "tool_use_id": "toolu_1",
        });
        let event = parse(told.to_string().as_bytes()).unwrap();
        let said = statement("claude-code", &event);
        assert_eq!(said.source.as_deref(), Some("claude-code"));
        assert_eq!(said.call.as_deref(), Some("toolu_1"));
        assert_eq!(said.parameters["command"], "make test");
        assert_eq!(said.does[0].argv[2], "make test");
        assert_eq!(said.why, "", "there is no transcript");
        for wrong in [
            "",
            "[]",
            "{}",
            "{\"hook_event_name\":\"PreToolUse\"}",
            "{\"hook_event_name\":7}",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_failure_is_told_by_the_event_or_by_the_status() {
        let of = |name: &str, response: Value| {
            ending(&HookEvent {
                hook_event_name: name.into(),
                tool_response: response,
                ..HookEvent::default()
            })
        };
        assert_eq!(of("PostToolUse", json!({"stdout": ""})), Ending::default());
        let failed = of("PostToolUse", json!({"exit_code": 3}));
        assert_eq!((failed.failed, failed.exit), (true, Some(3)));
        assert!(of("PostToolUseFailure", Value::Null).failed);
    }
}
