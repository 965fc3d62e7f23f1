//! `agentwall witness`: a witness for the logs of other hosts. It has a folder of its own and nothing of this
//! host's state.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use agentwall_ledger::{
    Cosigner, KeyError, Witness, key,
    witness::{Latest, stored},
};
use agentwall_witness::{WitnessService, serve};
use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::ledger::{allowed, given_key, place};
use crate::{
    args::witness::{WitnessCommand, WitnessKeyArgs, WitnessServeArgs, WitnessStatusArgs},
    output::{self, Style, paint, tame},
    state::{random_text, rfc3339_of, shown},
};

pub fn main(command: WitnessCommand) -> Result<ExitCode> {
    match command {
        WitnessCommand::Serve(args) => run(args),
        WitnessCommand::Key(args) => show_key(&args),
        WitnessCommand::Status(args) => status(&args),
    }
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("witness.key")
}

fn load(dir: &Path) -> Result<Cosigner> {
    let signer = key::load(&key_path(dir)).with_context(|| {
        format!(
            "cannot use the witness's key; 'agentwall witness key --dir {}' makes one",
            shown(dir)
        )
    })?;
    Ok(Cosigner::new(signer))
}

fn show_key(args: &WitnessKeyArgs) -> Result<ExitCode> {
    let path = key_path(&args.dir);
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir);
    made.with_context(|| format!("cannot make {}", shown(&args.dir)))?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => format!("agentwall.local/witness-{}", random_text(12)?),
    };
    let signer = match (key::create_new(&path, &name), &args.name) {
        (Err(KeyError::Exists { .. }), None) => key::load(&path),
        (Err(KeyError::Exists { .. }), Some(name)) => key::load_or_create(&path, name),
        (other, _) => other,
    };
    let signer = signer.context("cannot use the witness's key")?;
    output::print(&format!("{}\n", Cosigner::new(signer).key()))?;
    Ok(ExitCode::SUCCESS)
}

fn run(args: WitnessServeArgs) -> Result<ExitCode> {
    allowed(&args.listen, args.plain)?;
    let logs = args.logs.iter().map(|log| given_key(log));
    let logs = logs.collect::<Result<Vec<_>>>()?;
    let count = logs.len();
    let witness = Witness::open(&args.dir, load(&args.dir)?, logs)?;
    let name = tame(&witness.key().to_string());
    let service = WitnessService::new(Arc::new(witness), |why| output::note(&tame(why)));
    let server = serve(&args.listen, Arc::new(service))?;
    output::note(&format!(
        "{name} cosigns {} at {}; interrupt to end",
        output::count(count, "log"),
        place(server.at())
    ));
    server.wait();
    Ok(ExitCode::SUCCESS)
}

fn status(args: &WitnessStatusArgs) -> Result<ExitCode> {
    let witness = load(&args.dir)?.key();
    let logs: Vec<(Latest, usize)> = stored(&args.dir, &witness)?
        .into_iter()
        .map(|latest| {
            let evidence =
                agentwall_ledger::witness::evidence(&args.dir, &latest.checkpoint.origin);
            (latest, evidence.len())
        })
        .collect();
    let forked = logs.iter().any(|(_, evidence)| *evidence > 0);
    let time = |latest: &Latest| latest.time.saturating_mul(1000);
    if args.json {
        let each = logs.iter().map(|(latest, evidence)| {
            json!({
                "origin": latest.checkpoint.origin,
                "size": latest.checkpoint.size,
                "root": latest.checkpoint.root.to_string(),
                "time": rfc3339_of(time(latest)),
                "evidence": evidence,
            })
        });
        output::print_json(
            &json!({ "key": witness.to_string(), "logs": each.collect::<Vec<_>>() }),
        )?;
    } else {
        output::print(&format!("{}\n", tame(&witness.to_string())))?;
        let rows = logs.iter().map(|(latest, evidence)| {
            let said = match evidence {
                0 => paint(Style::Green, "one history"),
                n => paint(
                    Style::Red,
                    &format!("{n} checkpoints that were not shown to continue it, in 'evidence'"),
                ),
            };
            let size = format!("{} entries", latest.checkpoint.size);
            vec![
                tame(&latest.checkpoint.origin),
                size,
                output::ago(time(latest)),
                said,
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        output::print(&output::table(&rows))?;
    }
    if logs.is_empty() && !args.json {
        output::note("nothing was cosigned yet");
    }
    if forked {
        bail!("a log has signed checkpoints that were not shown to continue what was cosigned");
    }
    Ok(ExitCode::SUCCESS)
}
