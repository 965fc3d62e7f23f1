//! The `agentwall` binary: parse, call, render.
//!
//! Thin on purpose: what decides, contains, records and commits lives in the libraries. Errors go
//! to standard error as `agentwall: what happened; what to do next`; exit statuses are those that
//! `agentwall --help` documents.

#![forbid(unsafe_code)]

mod access;
mod answer;
mod args;
mod beginning;
mod bundles;
mod changes;
mod clock;
mod cmd;
mod control;
mod doctor;
mod fixed;
mod gateway;
mod governed;
mod host;
mod intent;
mod judge;
mod known;
mod layers;
mod merge;
mod outlook;
mod output;
mod policies;
mod prepare;
mod proof;
mod questions;
mod reach;
mod review;
mod run;
mod screen;
mod selftest;
mod session;
mod state;
mod supervisor;
mod why;
mod witnesses;

use std::{io, process::ExitCode};

use clap::Parser as _;

use args::{Cli, Command};
use output::{FAILED, USAGE, UsageError, WALL_FAILED};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let failed = match cli.command {
        Command::Run(_) | Command::Claude(_) | Command::Codex(_) => WALL_FAILED,
        _ => FAILED,
    };
    match dispatch(cli.command) {
        Ok(code) => code,
        // Whoever read our output has had enough.
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&output::explain(&error));
            let usage = error.downcast_ref::<UsageError>().is_some();
            ExitCode::from(if usage && failed == FAILED {
                USAGE
            } else {
                failed
            })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Claude(args) => cmd::word::main(args::Agent::ClaudeCode, args),
        Command::Codex(args) => cmd::word::main(args::Agent::Codex, args),
        Command::Init(args) => cmd::init::main(args),
        Command::Agents(args) => cmd::agents::main(args),
        Command::Sessions(args) => cmd::sessions::main(args),
        Command::Diff(args) => cmd::diff::main(args),
        Command::Review(args) => cmd::review::main(args),
        Command::Commit(args) => cmd::commit::main(args),
        Command::Discard(args) => cmd::discard::main(args),
        Command::Undo(args) => cmd::undo::main(args),
        Command::Checkpoint(args) => cmd::checkpoint::main(args),
        Command::Rollback(args) => cmd::rollback::main(args),
        Command::Gc(args) => cmd::gc::main(args),
        Command::Export(args) => cmd::export::main(args),
        Command::Import(args) => cmd::import::main(args),
        Command::Pending(args) => cmd::approvals::pending(args),
        Command::Approve(args) => cmd::approvals::approve(args),
        Command::Reject(args) => cmd::approvals::reject(args),
        Command::Ledger(command) => cmd::ledger::main(command),
        Command::Witness(command) => cmd::witness::main(command),
        Command::Policy(command) => cmd::policy::main(command),
        Command::Act(args) => intent::act::main(&args),
        Command::Hook(command) => intent::hook::main(command),
        Command::Why(args) => why::main(args),
        Command::Doctor(args) => doctor::main(args),
        Command::Daemon(command) => cmd::daemon::main(command),
        Command::Protect(args) => cmd::protect::main(args),
        Command::Mcp(args) => cmd::mcp::main(args),
        Command::Gateway(command) => cmd::gateway::main(command),
        Command::Serve(args) => cmd::serve::main(args),
        Command::Identity(command) => cmd::identity::main(command),
        Command::Selftest(args) => selftest::main(args),
        Command::Completions(args) => cmd::manual::completions(args),
        Command::Man(args) => cmd::manual::man(args),
    }
}

/// Help and version are answers, everything else is wrong usage. For the forms that pass on an
/// agent's status, wrong usage is the wall's failure: 2 could be the agent's.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.to_string();
        // It quotes words of the command line.
        let lines: Vec<String> = text.lines().map(output::tame).collect();
        let text = lines.join("\n");
        output::note(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
    } else {
        // Standard output may be closed; there is nobody to tell then.
        let _ = error.print();
    }
    let word = std::env::args_os().nth(1);
    let runs = word.is_some_and(|w| w == "run" || w == "claude" || w == "codex");
    match (error.use_stderr(), runs) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(WALL_FAILED),
        (true, false) => ExitCode::from(USAGE),
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
