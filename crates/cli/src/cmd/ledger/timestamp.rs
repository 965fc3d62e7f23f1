//! `agentwall ledger timestamp`: an authority says when the newest checkpoint was there; and what the ones that are kept say of
//! the log.
//!
//! `timestamps/` in the state folder has for each: `<time>-<size>.checkpoint`, the signed note that was time-stamped;
//! `.tsr`, the reply (RFC 3161); `.pem`, the certificates it was checked with. What is not checked is not told as a time.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use agentwall_ledger::{Reader, Verifier};
use agentwall_witness::timestamp::{Authorities, ask, check};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::has_log;
use crate::{
    args::ledger::TimestampArgs,
    output::{self, Style, paint, tame},
    state::{State, rfc3339_of, shown},
};

/// How long an authority may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command.
pub fn main(args: &TimestampArgs) -> Result<ExitCode> {
    let state = State::open()?;
    if !has_log(&state.ledger_dir()) {
        bail!("there is no ledger yet; 'agentwall run -- CMD' begins one");
    }
    let ca = args.ca.as_deref().map(|path| {
        let pem = fs::read(path).with_context(|| format!("cannot read {}", shown(path)))?;
        let authorities = Authorities::from_pem(&pem).with_context(|| shown(path))?;
        anyhow::Ok((pem, authorities))
    });
    let ca = ca.transpose()?;
    state.settle(crate::state::PATIENCE)?;
    let reader = Reader::open_signed(&state.ledger_dir(), &state.verifier()?)
        .context("cannot read the ledger")?;
    let note = reader.note().to_text();
    let (reply, time) = ask(&args.tsa, note.as_bytes(), PATIENCE)
        .with_context(|| format!("no timestamp by {}", tame(&args.tsa)))?;
    let checked = ca
        .as_ref()
        .map(|(_, known)| check(&reply, note.as_bytes(), known));
    let checked = checked.transpose().context("the timestamp is not kept")?;

    let folder = folder(&state);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make {}", shown(&folder)))?;
    let base = folder.join(format!("{time}-{}", reader.size()));
    write(&base.with_extension("checkpoint"), note.as_bytes())?;
    if let Some((pem, _)) = &ca {
        write(&base.with_extension("pem"), pem)?;
    }
    // The last one: what has no reply is none.
    write(&base.with_extension("tsr"), &reply)?;
    fs::File::open(&folder)
        .and_then(|f| f.sync_all())
        .with_context(|| format!("cannot flush {}", shown(&folder)))?;

    let when = rfc3339_of(time.saturating_mul(1000));
    let file = base.with_extension("tsr");
    if args.json {
        output::print_json(&json!({
            "size": reader.size(),
            "time": when,
            "checked": checked.is_some(),
            "authority": checked.map(|c| c.authority),
            "file": shown(&file),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&match checked {
        Some(checked) => format!(
            "{} all {} entries by {}: they were there at {when}\n  in  {}\n",
            paint(Style::Green, "time-stamped"),
            reader.size(),
            tame(&checked.authority),
            shown(&file)
        ),
        None => format!(
            "kept {}, which says {when}; who signed it was not checked: --ca names whom to believe\n",
            shown(&file)
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn folder(state: &State) -> PathBuf {
    state.root().join("timestamps")
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let what = || format!("cannot write {}", shown(path));
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let mut file = file.with_context(what)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(what)
}

/// A checkpoint of the log that an authority has seen, as was checked now.
pub struct Stamped {
    size: u64,
    /// In seconds since the Unix epoch.
    time: u64,
    authority: String,
}

/// What the timestamps that are kept say of this host's log, oldest first, and which of them are not believed.
///
/// # Errors
/// A checkpoint that was time-stamped is of another history than the log.
pub fn kept(state: &State, key: &Verifier) -> Result<(Vec<Stamped>, Vec<String>)> {
    let (mut stamped, mut doubted) = (Vec::new(), Vec::new());
    let Ok(files) = fs::read_dir(folder(state)) else {
        return Ok((stamped, doubted));
    };
    let reader = Reader::open_signed(&state.ledger_dir(), key).context("cannot read the ledger")?;
    let keys = reader.keys(key)?;
    for file in files.flatten().map(|f| f.path()) {
        if file.extension().is_none_or(|e| e != "tsr") {
            continue;
        }
        let read = |extension: &str| fs::read(file.with_extension(extension));
        let one = || -> Result<Stamped> {
            let note = read("checkpoint").context("its checkpoint")?;
            let pem = read("pem").context("it was kept without --ca")?;
            let found = check(&read("tsr")?, &note, &Authorities::from_pem(&pem)?)?;
            let checkpoint = keys.open(&note).context("its checkpoint")?;
            Ok(Stamped {
                size: checkpoint.size,
                time: found.time,
                authority: found.authority,
            })
        };
        match one() {
            Ok(one) => {
                let note = read("checkpoint")?;
                let there = keys.open(&note)?;
                if there.size > reader.size() || reader.root_at(there.size)? != there.root {
                    bail!(
                        "the log was put back or rewritten: {} has seen another one of {} entries",
                        tame(&one.authority),
                        there.size
                    );
                }
                stamped.push(one);
            }
            Err(e) => doubted.push(format!("{}: {}", shown(&file), tame(&format!("{e:#}")))),
        }
    }
    stamped.sort_by_key(|one| (one.time, one.size));
    Ok((stamped, doubted))
}

impl Stamped {
    /// For a person: the oldest one, and the one that covers most.
    pub fn told(all: &[Stamped], size: u64) -> String {
        let most = all.iter().rev().max_by_key(|one| one.size);
        let first = all
            .first()
            .filter(|first| most.is_none_or(|most| most.size != first.size));
        let lines = first.into_iter().chain(most).map(|one| {
            format!(
                "  dated   the first {} of {size} entries were there at {}, says {}\n",
                one.size,
                rfc3339_of(one.time.saturating_mul(1000)),
                tame(&one.authority)
            )
        });
        lines.collect()
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        json!({
            "size": self.size,
            "time": rfc3339_of(self.time.saturating_mul(1000)),
            "authority": self.authority,
        })
    }
}
