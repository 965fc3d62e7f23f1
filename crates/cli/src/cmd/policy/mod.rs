//! `agentwall policy`: everything that is asked of a policy without running an agent. One module for
//! each command; what they share stands here.

mod analyse;
mod asked;
mod can;
mod decide;
mod diff;
mod explain;
mod files;
mod recommend;
mod unique;

mod bundle;
mod enforcement;
mod explain_text;
mod replay;

use std::{path::Path, process::ExitCode};

use agentwall_policy::{Variables, schema, templates};
use anyhow::Result;

use crate::{
    args::policy::PolicyCommand,
    output, policies,
    state::{self, State},
};

/// Runs the command.
pub fn main(command: PolicyCommand) -> Result<ExitCode> {
    match command {
        PolicyCommand::Check(args) => files::check(&args),
        PolicyCommand::Test(args) => files::test(&args),
        PolicyCommand::Explain(args) => explain::main(&args),
        PolicyCommand::Schema => {
            output::print(&format!("{}\n", schema().trim_end()))?;
            Ok(ExitCode::SUCCESS)
        }
        PolicyCommand::Templates => list(),
        PolicyCommand::Decide(args) => decide::main(&args),
        PolicyCommand::Enforcement(args) => enforcement::main(&args),
        PolicyCommand::Recommend(args) => recommend::main(&args),
        PolicyCommand::Replay(args) => replay::main(&args),
        PolicyCommand::Bundle(command) => bundle::main(command),
        PolicyCommand::Analyse(args) => analyse::main(&args),
        PolicyCommand::Diff(args) => diff::main(&args),
        PolicyCommand::Can(args) => can::main(&args),
    }
}

fn list() -> Result<ExitCode> {
    let rows: Vec<Vec<String>> = templates()
        .iter()
        .map(|t| {
            let first = t
                .text
                .lines()
                .find_map(|l| l.strip_prefix("# "))
                .unwrap_or_default();
            vec![t.name.to_owned(), first.to_owned()]
        })
        .collect();
    output::print(&output::table(&rows))?;
    output::print(
        "'agentwall init --agent NAME --stdout' prints one, without --stdout writes it\n",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Variables as a run in the workspace would have them. Where the state is out of reach, as it is
/// inside the wall, a policy can still be checked.
fn variables(workspace: Option<&Path>) -> Result<Variables> {
    let workspace = policies::workspace(workspace)?;
    let state = State::locate().ok();
    let mut variables = policies::variables(state.as_ref(), &workspace)?;
    if variables.state.is_none() {
        variables.state = state::home().ok().map(|h| h.join(".local/state/agentwall"));
    }
    Ok(variables)
}
