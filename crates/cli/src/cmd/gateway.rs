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
    let all = all_agents(&State::for_reading()?, args.name.as_deref())?;
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

/// The agents of the gateways that run, or of one of them.
pub fn all_agents(state: &State, name: Option<&str>) -> Result<Vec<GatewayAgent>> {
    let mut all = Vec::new();
    for place in places(state, name)? {
        match place.call(&Request::Gateway(GatewayRequest::Agents))? {
            Response::GatewayAgents(mut found) => all.append(&mut found),
            Response::Error { text } => bail!("{}", output::tame(&text)),
            _ => bail!("the gateway '{}' answered something else", place.name),
        }
    }
    Ok(all)
}

fn revoke(args: &GatewayRevokeArgs) -> Result<ExitCode> {
    let done = end(&State::open()?, args.name.as_deref(), &args.id)?;
    output::print(&format!("{done}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends an agent, or a host with all its agents, at the gateway that knows it; says what was done.
pub fn end(state: &State, name: Option<&str>, id: &str) -> Result<String> {
    let mut wrong = Vec::new();
    for place in places(state, name)? {
        let request = GatewayRequest::Revoke { id: id.to_owned() };
        match place.call(&Request::Gateway(request))? {
            Response::Done { text } => return Ok(output::tame(&text)),
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
