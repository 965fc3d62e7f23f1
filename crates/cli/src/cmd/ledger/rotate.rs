//! `agentwall ledger rotate-key`: another key signs the log from here on, and whoever knows the old one can go on.
//!
//! What of it may stop where, and what goes on then, is in `agentwall_ledger::rotation` and `key`.

use std::process::ExitCode;

use agentwall_ledger::{
    Entry, Record,
    entry::{KeyRotation, User},
    key,
};
use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::has_log;
use crate::{
    args::ledger::RotateKeyArgs,
    output::{self, Style, paint, tame},
    session::minute_of,
    state::{State, now_ms, random_text},
};

/// Runs the command.
pub fn main(args: &RotateKeyArgs) -> Result<ExitCode> {
    let state = State::open()?;
    if !has_log(&state.ledger_dir()) {
        bail!("there is no ledger yet; 'agentwall run -- CMD' begins one");
    }
    // Opening finishes what was cut off: the key is the one that signs.
    let log = state.open_log()?;
    let old = state.verifier()?.to_string();
    let next = key::prepare(&state.key_path()).context("the next key cannot be made")?;
    let new = next.verifier().to_string();
    let record = Record::KeyRotation(KeyRotation {
        old: old.clone(),
        new: new.clone(),
        reason: args.reason.clone(),
        user: User {
            uid: rustix::process::getuid().as_raw(),
            name: std::env::var("USER").unwrap_or_default(),
        },
    });
    let id = format!("{}-{}", minute_of(now_ms()), random_text(4)?);
    let index = log
        .rotate_key(&Entry::now(&id, 0, record).to_bytes(), &next)
        .context(
            "the key is not replaced, or that is not finished; 'agentwall ledger key' tells",
        )?;
    log.close().context("cannot write the ledger")?;
    if args.json {
        output::print_json(&json!({ "entry": index, "old": old, "new": new }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!(
        "{} the log's key, with entry {index}\n  old  {}, destroyed\n  new  {}\n  \
         note whoever has the old key goes on with the log as it is; for proofs of single entries, hand them \
         'agentwall ledger prove {index}'\n  \
         note witnesses refuse what comes now until they are told the new key ('agentwall witness serve --log')\n",
        paint(Style::Green, "replaced"),
        tame(&old),
        tame(&new),
    ))?;
    Ok(ExitCode::SUCCESS)
}
