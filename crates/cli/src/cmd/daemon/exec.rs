//! `agentwall daemon exec`: puts itself under a policy, then becomes the command.
//!
//! From the daemon's confirmation on, the policy decides on everything, the start of the command itself
//! included. Without a confirmation nothing is started.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::Result;

use super::{ask, policy_of, refused};
use crate::{
    args::daemon::ExecArgs,
    control::{HostRequest, Response},
    output::{self, WALL_FAILED},
};

/// Runs the command.
pub fn main(args: ExecArgs) -> Result<ExitCode> {
    match governed(&args) {
        Ok(()) => {}
        Err(e) => {
            output::note(&format!("{}; nothing was started", output::explain(&e)));
            return Ok(ExitCode::from(WALL_FAILED));
        }
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Ok(ExitCode::from(WALL_FAILED));
    };
    let error = Command::new(program).args(rest).exec();
    let shown = crate::state::shown(program.as_ref());
    output::note(&match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "cannot start {shown}: {error}; if the policy refuses it, 'agentwall why' says which rule does"
        ),
        _ => format!("cannot start {shown}: {error}"),
    });
    Ok(ExitCode::from(match error.kind() {
        io::ErrorKind::NotFound => 127,
        _ => 126,
    }))
}

fn governed(args: &ExecArgs) -> Result<()> {
    let request = HostRequest::Govern {
        pid: None,
        policy: policy_of(&args.policy.policy)?,
    };
    match ask(request)? {
        Response::Governed(governed) if governed.processes.contains(&std::process::id()) => Ok(()),
        Response::Governed(_) => anyhow::bail!(
            "the daemon governs another process than this one; is it in another process id namespace?"
        ),
        other => refused(other),
    }
}
