//! `agentwall daemon`: the kernel wall, host-wide. What it does is in [`crate::host`]; here are the commands.

mod exec;
mod install;
mod run;
pub mod stand;
mod status;
mod stop;

use std::{
    ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf, process::ExitCode, time::Duration,
};

use anyhow::{Context as _, Result, bail};
pub use status::standing;

use crate::{
    args::daemon::{DaemonCommand, GovernArgs},
    control::{self, Governed, HostPolicy, HostRequest, Request, Response},
    host::{Places, canary},
    output,
    state::shown,
};

/// How long the daemon may take: it compiles policies.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the command.
pub fn main(command: DaemonCommand) -> Result<ExitCode> {
    match command {
        DaemonCommand::Run(args) => run::main(args),
        DaemonCommand::Status(args) => status::main(args),
        DaemonCommand::Govern(args) => govern(args),
        DaemonCommand::Exec(args) => exec::main(args),
        DaemonCommand::Release(args) => said(ask(HostRequest::Release { pid: args.pid })?),
        DaemonCommand::Reload => said(ask(HostRequest::Reload)?),
        DaemonCommand::Stop(args) => stop::main(args),
        DaemonCommand::Install(args) => install::install(args),
        DaemonCommand::Uninstall => install::uninstall(),
        DaemonCommand::Canary(args) => canary::main(args),
    }
}

/// Asks the daemon.
pub fn ask(request: HostRequest) -> Result<Response> {
    call(&Request::Host(request))
}

/// Asks the daemon anything.
pub fn call(request: &Request) -> Result<Response> {
    let path = Places::default().control();
    control::call_at(&path, request, PATIENCE, || {
        format!(
            "no daemon answers at {}; 'agentwall daemon status' tells what stands, 'agentwall daemon run' \
             or 'systemctl start agentwall' starts one",
            shown(&path)
        )
    })
}

/// Whether a daemon is to be asked for questions: root's, where there is one.
pub fn is_there() -> bool {
    rustix::process::geteuid().is_root() && Places::default().control().exists()
}

fn said(response: Response) -> Result<ExitCode> {
    match response {
        Response::Done { text } => {
            output::print(&format!("{}\n", output::tame(&text)))?;
            Ok(ExitCode::SUCCESS)
        }
        other => refused(other),
    }
}

fn refused<T>(response: Response) -> Result<T> {
    match response {
        Response::Error { text } => bail!("{}", in_lines(&text)),
        _ => bail!("the daemon answered something else; is it of another version?"),
    }
}

/// Text of several lines, each safe for a terminal.
fn in_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(output::tame).collect();
    lines.join("\n")
}

/// A policy as it is named on the command line: what has a slash or is a file here is a file.
fn policy_of(text: &OsStr) -> Result<HostPolicy> {
    let path = PathBuf::from(text);
    if text.as_bytes().contains(&b'/') || path.exists() {
        let path = path.canonicalize().with_context(|| {
            format!(
                "cannot find the policy {}; name another with --policy",
                shown(&path)
            )
        })?;
        return Ok(HostPolicy::File(path));
    }
    match text.to_str() {
        Some(name) => Ok(HostPolicy::Named(name.to_owned())),
        None => bail!("{} is neither a file nor a name", shown(&path)),
    }
}

fn govern(args: GovernArgs) -> Result<ExitCode> {
    let request = HostRequest::Govern {
        pid: Some(args.pid),
        policy: policy_of(&args.policy.policy)?,
    };
    let governed = match ask(request)? {
        Response::Governed(governed) => governed,
        other => return refused(other),
    };
    if args.json {
        output::print_json(&governed)?;
    } else {
        output::print(&in_words(args.pid, &governed))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(pid: u32, governed: &Governed) -> String {
    let count = governed.processes.len();
    let mode = if governed.audit {
        " (audit: nothing is refused)"
    } else {
        ""
    };
    let mut text = format!(
        "process {pid} is governed as {}{mode}, session {}, {}\n  policy {}\n",
        output::tame(&governed.subject),
        output::tame(&governed.session),
        match count {
            1 => "1 process".to_owned(),
            n => format!("{n} processes"),
        },
        output::tame(&governed.digest),
    );
    for lack in &governed.lacks {
        text.push_str(&format!("  {}\n", output::tame(lack)));
    }
    text
}
