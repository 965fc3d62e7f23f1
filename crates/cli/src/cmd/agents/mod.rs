//! `agentwall agents`: what runs on this host, and which policy governs it.

mod data;
mod list;
mod look;
mod show;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::agents::{AgentsArgs, AgentsCommand};

/// Runs the command.
pub fn main(args: AgentsArgs) -> Result<ExitCode> {
    match args.command {
        None if args.list.watch => list::watch(&args.list),
        None => list::main(&args.list),
        Some(AgentsCommand::Show(args)) => show::main(&args),
        Some(AgentsCommand::Test(args)) => data::test(&args),
        Some(AgentsCommand::Signatures(args)) => data::signatures(&args),
        Some(AgentsCommand::Update(args)) => data::update(&args),
    }
}
