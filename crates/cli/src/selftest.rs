//! `agentwall selftest`: stands up a wall, lets the canaries out, starts nothing.

use std::{ffi::OsString, path::Path, process::ExitCode};

use agentwall_egress::HostLoopback;
use agentwall_policy::{Layer, Source};
use agentwall_wall::{CanaryResult, LaunchError, Spec, create_layers, launch};
use anyhow::{Context as _, Result};

use crate::{
    args::SelftestArgs,
    output,
    policies::{self, Chosen},
    prepare, session,
    state::State,
};

/// The strictest policy: nothing is readable, writable or startable.
const STRICTEST: &str = "agentwall: 1\ndefault: deny\n";

/// Runs the command.
pub fn main(args: SelftestArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let here = policies::workspace(None)?;
    let chosen = match &args.policy {
        Some(file) => policies::choose(Some(file), &args.trust, &here)?,
        None => Chosen::built_in(Source::new("(strictest)", STRICTEST, Layer::User)),
    };
    let results = attempt(&state, chosen, &here)?;
    let ok = !results.is_empty() && results.iter().all(|r| r.held);
    if args.json {
        output::print_json(&serde_json::json!({ "ok": ok, "canaries": results }))?;
    } else {
        let rows: Vec<Vec<String>> = results
            .iter()
            .map(|r| {
                let word = if r.held { "held" } else { "GOT THROUGH" };
                vec![
                    word.into(),
                    r.class.clone(),
                    r.target.clone(),
                    r.detail.clone(),
                ]
            })
            .collect();
        output::print(&output::table(&rows))?;
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(output::FAILED)
    })
}

/// Builds a wall, collects the canaries' results, tears it down.
pub fn attempt(state: &State, chosen: Chosen, workspace: &Path) -> Result<Vec<CanaryResult>> {
    let prepared = prepare::prepare(state, chosen, "selftest", workspace, "selftest", false)?;
    let place = state
        .root()
        .join(format!("selftest-{}", std::process::id()));
    std::fs::create_dir_all(place.join("stage")).context("cannot make the self-test's folder")?;
    let layers = create_layers(&prepared.view, |_| place.join("layers"))
        .context("cannot make copy layers")?;
    let binary = prepare::own_binary()?;
    let spec = Spec {
        canaries: prepare::canaries(&prepared.engine, &prepared.view, &binary),
        engine: prepared.engine,
        view: prepared.view,
        layers,
        stage: place.join("stage"),
        devices: Vec::new(),
        binary,
        command: vec![OsString::from("true")],
        environment: Vec::new(),
        directory: "/".into(),
        terminal: [false; 3],
        host_loopback: HostLoopback::none(),
        no_trace: false,
        guard: policies::guard(&prepared.variables),
    };
    let outcome = launch(spec, || ());
    let results = match outcome {
        Ok((wall, ())) => {
            let results = wall.report.canaries;
            let _ = wall.socket.shutdown(std::net::Shutdown::Both);
            let pid = i32::try_from(wall.broker)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
            });
            Ok(results)
        }
        Err(LaunchError::Canaries(results)) => Ok(results),
        Err(e) => Err(e.into()),
    };
    // The work directories of overlays are mode 000 inside; they are this user's own.
    let _ = session::remove_tree(&place);
    results
}
