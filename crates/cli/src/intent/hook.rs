//! `agentwall hook claude-code`, `agentwall hook codex`: what the agent's hook tells becomes an intent.
//!
//! Both agents start the hook's command for each event, with JSON on its standard input
//! (<https://code.claude.com/docs/en/hooks>, <https://developers.openai.com/codex/hooks>), and do as it
//! answers: exit status 2 blocks the tool call, and `permissionDecision` `deny` refuses it with a reason.
//!
//! A hook that cannot seal the intent blocks. One that can says nothing unless the policy refuses: to answer
//! `allow` would take away the questions that the agent asks its user by itself, so that is only done when
//! the user asks for it (`--allow`).

use std::{io::Read as _, process::ExitCode};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    client::{self, Receipt},
    event, install,
};
use crate::{
    args::intent::{HookAgent, HookCommand},
    output,
};

/// Blocks the tool call.
const BLOCK: u8 = 2;
/// Longest input.
const MAX_INPUT: u64 = 8 << 20;

/// Runs the command.
pub fn main(command: HookCommand) -> Result<ExitCode> {
    let (agent, args) = match command {
        HookCommand::Install(args) => return install::main(&args),
        HookCommand::ClaudeCode(args) => (HookAgent::ClaudeCode, args),
        HookCommand::Codex(args) => (HookAgent::Codex, args),
    };
    // A refusal that cannot be told blocks, too.
    let told = answer(agent, args.allow)
        .and_then(|said| said.map_or(Ok(()), |said| output::print_json(&said)));
    Ok(match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&output::explain(&error));
            ExitCode::from(BLOCK)
        }
    })
}

fn answer(agent: HookAgent, allow: bool) -> Result<Option<Value>> {
    let mut input = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .context("cannot read what the hook is told")?;
    let event = event::parse(&input)?;
    match event.hook_event_name.as_str() {
        "PreToolUse" => {
            let sealed = client::state(&event::statement(agent.as_str(), &event))?;
            Ok(permission(&sealed, allow))
        }
        "PostToolUse" | "PostToolUseFailure" => {
            // What has no end here has one with the session; the tool has run, there is nothing to block.
            if let Some(call) = &event.tool_use_id
                && let Err(error) = client::end(call, &event::ending(&event))
            {
                output::note(&output::explain(&error));
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// What the agent is answered before a tool call, whose intent is sealed. Nothing: it goes on as without a
/// hook.
fn permission(sealed: &Receipt, allow: bool) -> Option<Value> {
    let answer = sealed.answer();
    let (decision, reason) = match sealed.refusal() {
        Some(refusal) => {
            let mut reason = format!("agentwall: {}: {}", answer.about, refusal.reason);
            if let Some(rule) = &refusal.rule {
                reason.push_str(&format!(" (rule {rule})"));
            }
            if let Some(text) = &refusal.hint.text {
                reason.push_str(&format!("; {text}"));
            }
            ("deny", output::tame(&reason))
        }
        None if allow
            && answer
                .decision
                .as_ref()
                .is_some_and(|d| d.effect.proceeds()) =>
        {
            ("allow", "allowed by the policy".to_owned())
        }
        None => return None,
    };
    Some(json!({
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": decision,
            "permissionDecisionReason": reason,
        }
    }))
}
