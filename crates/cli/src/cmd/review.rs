//! `agentwall review`: the review of a session on the whole screen, and what it comes to.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    args::review::ReviewArgs,
    changes,
    cmd::{
        commit::{finish_cut_off, print_report},
        undo::expire,
    },
    output, screen,
    session::Session,
    state::State,
};

/// Runs the command.
pub fn main(args: ReviewArgs) -> Result<ExitCode> {
    if !screen::has_terminal() {
        return Err(screen::no_terminal());
    }
    let state = State::open()?;
    let session = Session::resolve(&state, args.selection.session.as_deref())?;
    // Held until all is done: what is shown is what is committed.
    let (mut session, _lock) = session.hold(&state).context("cannot review")?;
    finish_cut_off(&state, &mut session)?;
    let set = changes::scan(&session, args.trust_directories)?;
    if set.is_empty() {
        output::print(&format!("session {}: nothing to review\n", session.id()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = screen::meant(&session, &set, &args.selection.paths)?;
    let Some(done) = screen::review(&state, &mut session, &set, &chosen)? else {
        output::note("nothing was done; the changes are still in the session");
        return Ok(ExitCode::SUCCESS);
    };
    let status = done.report.as_ref().map_or(output::OK, |r| r.status());
    if let Some(report) = &done.report {
        print_report(&session, report)?;
    }
    if let Some((count, notes)) = &done.dropped {
        notes.iter().for_each(|note| output::note(note));
        let what = output::count(*count, "change");
        output::print(&format!("session {}: {what} dropped\n", session.id()))?;
    }
    expire(&state);
    Ok(ExitCode::from(status))
}
