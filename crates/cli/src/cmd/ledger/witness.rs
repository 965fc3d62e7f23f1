//! `agentwall ledger witness`: the witnesses of this host's log.

use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path, process::ExitCode};

use agentwall_ledger::{Reader, TrustPolicy, Verifier};
use agentwall_witness::{Outcome, Readback, readback};
use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{has_log, settle};
use crate::{
    args::witness::{LedgerWitnessArgs, LedgerWitnessCommand},
    output::{self, Style, paint, tame},
    state::{State, shown},
    witnesses::{self, Standing, configured, folder, policy_path, told},
};

pub fn main(args: LedgerWitnessArgs) -> Result<ExitCode> {
    match args.command {
        None => status(args.json),
        Some(LedgerWitnessCommand::Status { json }) => status(json),
        Some(LedgerWitnessCommand::Push { json }) => push(json),
        Some(LedgerWitnessCommand::Set { file }) => set(&file),
        Some(LedgerWitnessCommand::Remove) => remove(),
    }
}

const NONE: &str = "the log has no witnesses; 'agentwall ledger witness set FILE' names some, 'agentwall witness \
     serve' is one";

fn set(file: &Path) -> Result<ExitCode> {
    let trust = witnesses::read_policy(file)?;
    let state = State::open()?;
    if let Ok(own) = state.verifier()
        && !trust.logs().is_empty()
        && !trust.logs().iter().any(|l| l.key == own)
    {
        bail!("the policy is for other logs than this one; its line is: log {own}");
    }
    let dir = folder(&state);
    let mut make = fs::DirBuilder::new();
    let path = policy_path(&state);
    let temporary = path.with_extension("tmp");
    make.recursive(true)
        .mode(0o700)
        .create(&dir)
        .and_then(|()| fs::copy(file, &temporary))
        .and_then(|_| fs::File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("cannot write {}", shown(&path)))?;
    let nowhere = trust.witnesses().iter().filter(|w| w.url.is_none()).count();
    output::note(&format!(
        "the log is brought to {} from now on{}; 'agentwall ledger witness push' begins",
        match trust.witnesses().len() - nowhere {
            1 => "1 witness".to_owned(),
            n => format!("{n} witnesses"),
        },
        match nowhere {
            0 => String::new(),
            n => format!(" ({n} without a URL must cosign by other ways)"),
        }
    ));
    if !trust.needs_witnesses() {
        output::note("this policy wants no witness at all: 'quorum none'");
    }
    Ok(ExitCode::SUCCESS)
}

fn remove() -> Result<ExitCode> {
    let path = policy_path(&State::open()?);
    match fs::remove_file(&path) {
        Ok(()) => output::note("the log is brought to nobody any more; what is cosigned stays"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => output::note(NONE),
        Err(e) => return Err(e).with_context(|| format!("cannot remove {}", shown(&path))),
    }
    Ok(ExitCode::SUCCESS)
}

fn push(json: bool) -> Result<ExitCode> {
    let state = State::open()?;
    if configured(&state)?.is_some() && !has_log(&state.ledger_dir()) {
        bail!("there is no ledger yet; 'agentwall run -- CMD' begins one");
    }
    settle(&state);
    let Some(pushed) = witnesses::push(&state)? else {
        bail!(NONE);
    };
    let contradicted = pushed.outcomes.iter().any(|(_, o)| o.contradicts());
    let standing = witnesses::standing(&state)?;
    if json {
        let each = pushed.outcomes.iter().map(|(name, outcome)| {
            json!({
                "name": name,
                "cosigned": matches!(outcome, Outcome::Cosigned(_)),
                "contradicts": outcome.contradicts(),
                "said": told(outcome),
            })
        });
        output::print_json(&json!({
            "size": pushed.checkpoint.size,
            "quorum": pushed.witnessed.quorum,
            "witnesses": each.collect::<Vec<_>>(),
            "witnessed": standing.as_ref().map(Standing::json),
        }))?;
    } else {
        let rows = pushed.outcomes.iter().map(|(name, outcome)| {
            let style = match outcome {
                Outcome::Cosigned(_) => Style::Green,
                o if o.contradicts() => Style::Red,
                _ => Style::Yellow,
            };
            vec![tame(name), paint(style, &told(outcome))]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        output::print(&output::table(&rows))?;
        if let Some(standing) = &standing {
            output::print(&format!("{}\n", standing.sentence()))?;
        }
    }
    Ok(done(pushed.witnessed.quorum && !contradicted))
}

fn status(json: bool) -> Result<ExitCode> {
    let state = State::for_reading()?;
    let Some(trust) = configured(&state)? else {
        match json {
            true => output::print_json(&json!({ "witnesses": [], "witnessed": null }))?,
            false => output::note(NONE),
        }
        return Ok(ExitCode::SUCCESS);
    };
    if !has_log(&state.ledger_dir()) {
        bail!("there is no ledger yet; 'agentwall run -- CMD' begins one");
    }
    let key = state.verifier()?;
    settle(&state);
    let reader =
        Reader::open_signed(&state.ledger_dir(), &key).context("cannot read the ledger")?;
    let shown = ask_all(&reader, &key, &trust);
    let contradicted = |r: &Readback| matches!(r, Readback::Not(o) if o.contradicts());
    let well = !shown.iter().any(contradicted);
    let names = trust.witnesses().iter().map(|w| &w.name);
    let rows = names.zip(&shown).map(|(name, shown)| {
        let (style, said) = match shown {
            Readback::Agrees(size) => (
                Style::Green,
                format!("has seen {size} of {} entries", reader.size()),
            ),
            Readback::Nothing => (Style::Yellow, "shows nothing of this log".to_owned()),
            Readback::Not(outcome) if outcome.contradicts() => (Style::Red, told(outcome)),
            Readback::Not(outcome) => (Style::Yellow, told(outcome)),
        };
        (name, shown, style, said)
    });
    let rows: Vec<_> = rows.collect();
    let standing = Standing::look(&reader, &key, &trust)?;
    if json {
        let each = rows.iter().map(|(name, shown, _, said)| {
            let seen = match shown {
                Readback::Agrees(size) => Some(*size),
                _ => None,
            };
            json!({ "name": name, "seen": seen, "contradicts": contradicted(shown), "said": said })
        });
        output::print_json(&json!({
            "witnesses": each.collect::<Vec<_>>(),
            "witnessed": standing.json(),
        }))?;
    } else {
        let rows = rows.iter();
        let rows: Vec<Vec<String>> = rows
            .map(|(name, _, style, said)| vec![tame(name), paint(*style, said)])
            .collect();
        output::print(&output::table(&rows))?;
        output::print(&format!("{}\n", standing.sentence()))?;
    }
    Ok(done(well))
}

/// What each witness shows, asked at once.
fn ask_all(reader: &Reader, key: &Verifier, trust: &TrustPolicy) -> Vec<Readback> {
    std::thread::scope(|scope| {
        let threads = trust.witnesses().iter().map(|witness| {
            scope.spawn(move || readback(reader, key, witness, witnesses::PATIENCE))
        });
        let threads: Vec<_> = threads.collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, Readback>| {
            let lost = |_| Readback::Not(Outcome::Away("the question broke off".to_owned()));
            t.join().unwrap_or_else(lost)
        };
        threads.into_iter().map(join).collect()
    })
}

fn done(well: bool) -> ExitCode {
    match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(output::FAILED),
    }
}
