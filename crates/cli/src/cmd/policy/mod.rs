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
mod recorded;
mod unique;

mod apply;
mod bundle;
mod enforcement;
mod explain_text;
mod fmt;
mod replay;

use std::{path::Path, process::ExitCode};

use agentwall_policy::{Template, Variables, schema, table_schema, templates};
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
        PolicyCommand::Schema(args) => {
            let text = if args.table { table_schema() } else { schema() };
            output::print(&format!("{}\n", text.trim_end()))?;
            Ok(ExitCode::SUCCESS)
        }
        PolicyCommand::Decide(args) => decide::main(&args),
        PolicyCommand::Enforcement(args) => enforcement::main(&args),
        PolicyCommand::Recommend(args) => recommend::main(&args),
        PolicyCommand::Replay(args) => replay::main(&args),
        PolicyCommand::Bundle(command) => bundle::main(command),
        PolicyCommand::Analyse(args) => analyse::main(&args),
        PolicyCommand::Diff(args) => diff::main(&args),
        PolicyCommand::Can(args) => can::main(&args),
        PolicyCommand::Templates(args) => list(args.json),
        PolicyCommand::Fmt(args) => fmt::main(&args),
        PolicyCommand::Apply(args) => apply::main(&args),
    }
}

fn list(json: bool) -> Result<ExitCode> {
    if json {
        let one = |t: &Template| serde_json::json!({ "name": t.name, "about": t.about() });
        output::print_json(&templates().iter().map(one).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = templates()
        .iter()
        .map(|t| vec![t.name.to_owned(), t.about().to_owned()]);
    output::print(&output::table(&rows.collect::<Vec<_>>()))?;
    output::print(
        "'agentwall init --agent NAME --stdout' prints one, without --stdout writes it\n",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Variables as a run in the workspace would have them. Where the state is out of reach, as it is
/// inside the wall, a policy can still be checked.
pub fn variables(workspace: Option<&Path>) -> Result<Variables> {
    let workspace = policies::workspace(workspace)?;
    let state = State::locate().ok();
    let mut variables = policies::variables(state.as_ref(), &workspace)?;
    if variables.state.is_none() {
        variables.state = state::home().ok().map(|h| h.join(".local/state/agentwall"));
    }
    Ok(variables)
}
