//! `agentwall claude`, `agentwall codex`: the agent under its own policy, which is written on first
//! use.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{
    args::{Agent, Ending, RunArgs, WordArgs, layers::Beginning},
    cmd::init,
    run, state,
};

/// How long a question waits, as the default of `agentwall run`.
const ASK_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs the command.
pub fn main(agent: Agent, args: WordArgs) -> Result<ExitCode> {
    if state::inside_wall() {
        anyhow::bail!("this is inside a wall already; start agents from outside");
    }
    let program = match agent {
        Agent::ClaudeCode => "claude",
        Agent::Codex => "codex",
    };
    let policy = init::ensure(agent)?;
    let mut command = vec![program.into()];
    command.extend(args.args);
    run::run(RunArgs {
        policy: None,
        trust: Vec::new(),
        workspace: None,
        name: Some(agent.as_str().to_owned()),
        beginning: Beginning::default(),
        ending: Ending::default(),
        ask_timeout: ASK_TIMEOUT,
        learn: false,
        intents: false,
        command,
        user_policy: Some(policy),
    })
}
