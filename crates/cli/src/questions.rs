//! What waits for a person anywhere on this host, and their answer: sessions, gateways and the daemon are asked at their
//! sockets. The commands and the console go this way.

use anyhow::{Result, bail};

use crate::{
    cmd::daemon,
    control::{PendingAsk, Request, Response, call, running, session_of},
    gateway,
    host::questions,
    output,
    state::State,
};

/// The questions of all running sessions, the oldest first, and what kept some from being asked.
pub fn waiting(state: &State) -> Result<(Vec<PendingAsk>, Vec<String>)> {
    let (mut asks, mut trouble) = (Vec::new(), Vec::new());
    for session in running(state)? {
        match call(&session, &Request::Pending) {
            Ok(Response::Pending(mut found)) => asks.append(&mut found),
            Ok(Response::Error { text }) => trouble.push(output::tame(&text)),
            Ok(_) => {
                trouble.push(format!("session {} answered something else", session.id()));
            }
            // It is just starting, or just ended.
            Err(_) if !session.socket_path().exists() || !session.is_running() => {}
            Err(e) => trouble.push(format!("{e:#}")),
        }
    }
    for place in gateway::Place::running(state)? {
        match place.call(&Request::Pending) {
            Ok(Response::Pending(mut found)) => asks.append(&mut found),
            Ok(Response::Error { text }) => trouble.push(output::tame(&text)),
            Ok(_) => trouble.push(format!(
                "the gateway '{}' answered something else",
                place.name
            )),
            Err(e) => trouble.push(format!("{e:#}")),
        }
    }
    if daemon::is_there() {
        match daemon::call(&Request::Pending) {
            Ok(Response::Pending(mut found)) => asks.append(&mut found),
            Ok(Response::Error { text }) => trouble.push(output::tame(&text)),
            Ok(_) => trouble.push("the daemon answered something else".to_owned()),
            Err(e) => trouble.push(format!("{e:#}")),
        }
    }
    asks.sort_by(|a, b| (a.since_ms, &a.id).cmp(&(b.since_ms, &b.id)));
    Ok((asks, trouble))
}

/// Brings an answer to whoever asked; says what was done.
pub fn answer(id: &str, request: impl FnOnce(String) -> Request) -> Result<String> {
    if questions::is_ours(id) {
        return said(daemon::call(&request(id.to_owned()))?, "the daemon");
    }
    let state = State::open()?;
    if let Some((place, id)) = gateway::of_question(&state, id)? {
        let response = place.call(&request(id.to_owned()))?;
        return said(response, &format!("the gateway '{}'", place.name));
    }
    let session = session_of(&state, id)?;
    let number = id.rsplit('-').next().unwrap_or(id);
    let response = call(&session, &request(format!("{}-{number}", session.suffix())))?;
    said(response, &format!("session {}", session.id()))
}

fn said(response: Response, who: &str) -> Result<String> {
    match response {
        Response::Done { text } => Ok(text),
        Response::Error { text } => bail!("{}", output::tame(&text)),
        _ => bail!("{who} answered something else"),
    }
}
