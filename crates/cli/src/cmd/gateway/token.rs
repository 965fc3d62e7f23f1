//! `agentwall gateway token`: tokens of programs that ask a gateway about agents.

use std::process::ExitCode;

use agentwall_identity::ApiToken;
use anyhow::{Result, bail};

use super::places;
use crate::{
    args::gateway::{GatewayTokenCommand, TokenUse},
    control::{GatewayRequest, Request, Response},
    output,
    state::{State, rfc3339_of},
};

/// Runs the command.
pub fn main(command: GatewayTokenCommand) -> Result<ExitCode> {
    let state = State::open()?;
    let (name, request, json) = match command {
        GatewayTokenCommand::Add(args) => {
            let request = GatewayRequest::AddToken {
                name: args.token,
                uses: args.uses.into_iter().map(TokenUse::meant).collect(),
                days: args.days,
            };
            (args.name, request, false)
        }
        GatewayTokenCommand::List(args) => (args.name, GatewayRequest::Tokens, args.json),
        GatewayTokenCommand::Remove(args) => (
            args.name,
            GatewayRequest::RemoveToken { which: args.token },
            false,
        ),
    };
    let places = places(&state, name.as_deref())?;
    let [place] = places.as_slice() else {
        bail!("several gateways run; say which one with --name");
    };
    match place.call(&Request::Gateway(request))? {
        // Alone on standard output, so that a script can take it.
        Response::GatewayToken { token, about } => {
            output::print(&format!("{token}\n"))?;
            output::note(&format!(
                "{} ({}), until {}; it is not shown again",
                about.name,
                about.id,
                moment(about.expires_at)
            ));
        }
        Response::GatewayTokens(all) if json => {
            output::print_json(&all.iter().map(told).collect::<Vec<_>>())?
        }
        Response::GatewayTokens(all) if all.is_empty() => {
            output::print("no tokens; 'agentwall gateway token add NAME' makes one\n")?;
        }
        Response::GatewayTokens(all) => {
            let lines: Vec<String> = all.iter().map(line).collect();
            output::print(&lines.concat())?;
        }
        Response::Done { text } => output::print(&format!("{}\n", output::tame(&text)))?,
        Response::Error { text } => bail!("{}", output::tame(&text)),
        _ => bail!("the gateway '{}' answered something else", place.name),
    }
    Ok(ExitCode::SUCCESS)
}

fn line(token: &ApiToken) -> String {
    let uses = serde_json::json!(token.uses).to_string();
    let uses = uses.trim_matches(['[', ']']).replace('"', "");
    format!(
        "{:<24} {}  {uses}, until {}\n",
        token.name,
        token.id,
        moment(token.expires_at)
    )
}

/// Without the digest, which is nobody's business.
fn told(token: &ApiToken) -> serde_json::Value {
    serde_json::json!({ "id": token.id, "name": token.name, "uses": token.uses,
                        "created_at": moment(token.created_at), "expires_at": moment(token.expires_at) })
}

fn moment(seconds: i64) -> String {
    rfc3339_of(seconds.unsigned_abs() * 1000)
}
