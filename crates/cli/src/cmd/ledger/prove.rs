//! `agentwall ledger prove`: the offline proof of one entry, under the newest checkpoint that witnesses have
//! cosigned if it covers the entry.

use std::process::ExitCode;

use agentwall_ledger::{Reader, TlogProof};
use anyhow::{Context as _, Result, anyhow, bail};

use super::verify::what;
use crate::{
    access,
    args::witness::ProveArgs,
    output::{self, UsageError, tame},
    state::State,
    witnesses,
};

pub fn main(args: &ProveArgs) -> Result<ExitCode> {
    let demanded = args
        .policy
        .as_deref()
        .map(witnesses::read_policy)
        .transpose()?;
    let (dir, options) = what(args.dir.as_deref(), args.key.as_deref())?;
    let reader = Reader::open_signed(&dir, &options.key).context("cannot read the ledger")?;
    let reader = State::with_own_text(reader, &dir);
    let keys = reader.keys(&options.key)?;
    if let Some(rotation) = keys.rotations().iter().find(|r| r.index == args.entry) {
        if args.policy.is_some() || args.open_all || !args.open.is_empty() {
            return Err(UsageError(
                "the proof that the key was replaced is one for all: it takes no --policy and no --open".to_owned(),
            )
            .into());
        }
        return write(&rotation.proof, options.head.is_some());
    }
    let entry = reader.entry(args.entry)?;
    let extra = [entry.clone(), opened(&reader, args)?].concat();
    // The head file is this host's memory: so is the policy beside it.
    let trust = match (&demanded, options.head.is_some()) {
        (Some(demanded), _) => Some(demanded.clone()),
        (None, true) => witnesses::configured(&State::for_reading()?)?,
        (None, false) => None,
    };
    let cosigned = reader
        .cosigned(&options.key, trust.as_ref())
        .map_err(|e| anyhow::anyhow!("the log contradicts what witnesses have cosigned: {e}"))?
        .filter(|c| args.entry < c.checkpoint.size);
    let note = cosigned.as_ref().map_or(reader.note(), |c| &c.note);
    let proof = reader.tlog_proof_under(args.entry, note, Some(&extra))?;
    if let Some(demanded) = &demanded {
        if let Err(e) = demanded.open(proof.checkpoint.as_bytes(), Some(&keys)) {
            bail!(
                "entry {} cannot be proved as the policy wants: {}; 'agentwall ledger witness push' brings the \
                 log to its witnesses",
                args.entry,
                tame(&e.to_string())
            );
        }
    } else if cosigned.is_none() {
        output::note("no witness has seen this entry yet: the proof has the log's signature alone");
    }
    // What a checker would say is known before it is written.
    proof.verify_with(&entry, &keys)?;
    write(&proof, options.head.is_some())
}

/// Of this host's own log it is recorded; a copy of another one has nobody to write to.
fn write(proof: &TlogProof, own: bool) -> Result<ExitCode> {
    output::print(&proof.to_string())?;
    if own {
        access::record(&State::for_reading()?, "prove", 1, false);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is opened of the entry, as it stands behind it in the proof; empty when nothing is.
fn opened(reader: &Reader, args: &ProveArgs) -> Result<Vec<u8>> {
    if args.open.is_empty() && !args.open_all {
        return Ok(Vec::new());
    }
    let below = |field: &str, wanted: &str| {
        let rest = field
            .strip_prefix('/')
            .and_then(|f| f.strip_prefix(wanted.trim_start_matches('/')));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let openings = reader
        .openings(args.entry, |field| {
            args.open_all || args.open.iter().any(|wanted| below(field, wanted))
        })?
        .map_err(|why| {
            anyhow!(
                "entry {} cannot be opened: {}",
                args.entry,
                tame(&why.to_string())
            )
        })?;
    for wanted in &args.open {
        if !openings.iter().any(|opening| below(&opening.field, wanted)) {
            return Err(UsageError(format!(
                "entry {} has no commitment at '{}': 'agentwall ledger show --json' has its fields, and what is plain \
                 needs no opening",
                args.entry,
                tame(wanted)
            ))
            .into());
        }
    }
    let mut text = b"\n".to_vec();
    serde_json::to_writer(&mut text, &openings)?;
    Ok(text)
}
