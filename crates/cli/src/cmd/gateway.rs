//! `agentwall gateway`: the agents of the gateways that run, and tokens of programs that ask about them.

mod token;

mod tools;

use std::process::ExitCode;

use agentwall_action::escape_text;
use anyhow::{Result, bail};

use crate::{
    args::gateway::{GatewayAgentsArgs, GatewayCommand, GatewayRevokeArgs},
    control::{GatewayAgent, GatewayRequest, Request, Response},
    gateway::Place,
    output::{self, Style, paint},
    state::{State, rfc3339_of},
};

/// Runs the command.
pub fn main(command: GatewayCommand) -> Result<ExitCode> {
    match command {
        GatewayCommand::Agents(args) => agents(&args),
        GatewayCommand::Revoke(args) => revoke(&args),
        GatewayCommand::Token(command) => token::main(command),
        GatewayCommand::Tools(args) => tools::main(&args),
    }
}

fn agents(args: &GatewayAgentsArgs) -> Result<ExitCode> {
    let state = State::for_reading()?;
    let mut all = Vec::new();
    for place in places(&state, args.name.as_deref())? {
        match place.call(&Request::Gateway(GatewayRequest::Agents))? {
            Response::GatewayAgents(mut found) => all.append(&mut found),
            Response::Error { text } => bail!("{}", output::tame(&text)),
            _ => bail!("the gateway '{}' answered something else", place.name),
        }
    }
    if args.json {
        output::print_json(&all)?;
    } else if all.is_empty() {
        output::print("no agents; 'agentwall identity enrol URL' lets one in\n")?;
    } else {
        let texts: Vec<String> = all.iter().map(describe).collect();
        output::print(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn revoke(args: &GatewayRevokeArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let mut wrong = Vec::new();
    for place in places(&state, args.name.as_deref())? {
        let request = GatewayRequest::Revoke {
            id: args.id.clone(),
        };
        match place.call(&Request::Gateway(request))? {
            Response::Done { text } => {
                output::print(&format!("{}\n", output::tame(&text)))?;
                return Ok(ExitCode::SUCCESS);
            }
            Response::Error { text } => {
                wrong.push(format!("{}: {}", place.name, output::tame(&text)))
            }
            _ => bail!("the gateway '{}' answered something else", place.name),
        }
    }
    bail!(
        "{}; 'agentwall gateway agents' lists the ids",
        wrong.join("\n")
    )
}

fn places(state: &State, name: Option<&str>) -> Result<Vec<Place>> {
    let mut running = Place::running(state)?;
    if let Some(name) = name {
        running.retain(|place| place.name == name);
    }
    match running.is_empty() {
        true => bail!(
            "no gateway runs{}; 'agentwall protect URL' starts one",
            match name {
                Some(name) => format!(" under the name '{}'", escape_text(name)),
                None => String::new(),
            }
        ),
        false => Ok(running),
    }
}

fn describe(agent: &GatewayAgent) -> String {
    let host = agent
        .host_name
        .as_deref()
        .map_or_else(String::new, |name| format!("{} ", escape_text(name)));
    let mut rows = vec![
        ("agent", escape_text(&agent.agent)),
        (
            "host",
            format!("{host}{} ({})", escape_text(&agent.host), agent.host_status),
        ),
        ("gateway", agent.gateway.clone()),
    ];
    for (name, status) in &agent.capabilities {
        rows.push(("capability", format!("{} ({status})", escape_text(name))));
    }
    if let Some(at) = agent.used_at {
        rows.push(("last call", rfc3339_of(at.unsigned_abs() * 1000)));
    }
    let title = format!("{} ({})", escape_text(&agent.name), agent.status);
    let mut text = format!("{}\n", paint(Style::Bold, &title));
    for (name, value) in rows {
        text.push_str(&format!("  {name:<11} {value}\n"));
    }
    text
}
