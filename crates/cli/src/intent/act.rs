//! `agentwall act`: seals an intent, runs the command, ends the action.

use std::{
    os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    process::{Command, ExitCode},
};

use agentwall_action::escape_bytes;
use anyhow::{Result, bail};

use super::{
    Does, Ending, Statement, claims,
    client::{self, Receipt},
};
use crate::{args::intent::ActArgs, output};

/// Runs the command.
pub fn main(args: &ActArgs) -> Result<ExitCode> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        bail!("name a command to run");
    };
    let argv: Vec<String> = args
        .command
        .iter()
        .map(|a| String::from_utf8_lossy(a.as_bytes()).into_owned())
        .collect();
    let path = claims::program(program)
        .ok_or_else(|| anyhow::anyhow!("{}: not found", escape_bytes(program.as_bytes())))?;
    let receipt = client::state(&Statement {
        source: Some("command".into()),
        tool: args.tool.clone(),
        why: args.why.clone(),
        parameters: serde_json::json!(argv),
        does: vec![Does {
            verb: "process.exec".into(),
            resource: path,
            argv,
        }],
        ..Statement::default()
    })?;
    let mut command = Command::new(program);
    command.args(arguments);
    execute(&receipt, command)
}

/// Starts the command, whose intent is sealed.
fn execute(sealed: &Receipt, mut command: Command) -> Result<ExitCode> {
    let answer = sealed.answer();
    if let Some(decision) = sealed.refusal() {
        bail!("{}: {}", answer.about, decision.reason);
    }
    let ended = command.status();
    let (code, ending) = match &ended {
        Ok(status) => {
            let code = status
                .code()
                .or(status.signal().map(|s| 128 + s))
                .unwrap_or(1);
            let ending = Ending {
                failed: !status.success(),
                exit: Some(code),
            };
            (code, ending)
        }
        Err(_) => (
            126,
            Ending {
                failed: true,
                exit: None,
            },
        ),
    };
    if let Err(error) = client::end(&answer.id, &ending) {
        output::note(&format!(
            "the end of the action is not in the ledger: {error:#}"
        ));
    }
    if let Err(error) = ended {
        output::note(&format!("the command cannot be started: {error}"));
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
