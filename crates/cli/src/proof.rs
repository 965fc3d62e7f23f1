//! The proof at the end of a layer archive: what this host's ledger says about it, and what another's
//! said.
//!
//! Two entries with their inclusion proofs (c2sp.org/tlog-proof@v1) and the log's public key: the start of
//! the session, where the log has it, and the `export` that names the digest of the archive. Whoever
//! trusts the key knows that the holder of the log recorded this very archive. Nothing says that the
//! log told the truth, nor that it shows everybody the same.

use agentwall_cow::{ArchiveManifest, Sealed};
use agentwall_ledger::{
    Checkpoint, Entry, Reader, Record, TlogProof, Verifier,
    entry::{Export, ForeignCheckpoint},
};
use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::{
    output,
    session::{Session, write_atomically},
    state::{State, shown},
};

/// What a proof is made of, as it stands in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    /// The log's public key.
    key: String,
    /// The session's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Proved>,
    /// The export.
    export: Proved,
}

/// An entry, and that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proved {
    entry: String,
    proof: String,
}

/// A proof that holds.
#[derive(Debug, Clone)]
pub struct Vouched {
    /// The log's key.
    pub key: Verifier,
    /// The log when the archive was made.
    pub checkpoint: Checkpoint,
    /// When the export was recorded, as the log says.
    pub exported: String,
    /// The session's start, if the log has it.
    pub start: Option<Entry>,
}

impl Vouched {
    /// The key as the ledger names it.
    pub fn key_text(&self) -> String {
        format!("{}+{:08x}", self.key.name(), self.key.id())
    }

    /// The checkpoint as the ledger has it.
    pub fn foreign(&self) -> ForeignCheckpoint {
        ForeignCheckpoint {
            origin: self.checkpoint.origin.clone(),
            size: self.checkpoint.size,
            root: self.checkpoint.root.to_base64(),
        }
    }
}

/// Seals an archive of a session: records it, durably, and gives its proof. The proof is kept in the
/// session's folder; an archive that was sealed already has that one, so it is the same file again.
pub fn seal(state: &State, session: &Session, sealed: &Sealed<'_>) -> Result<Vec<u8>> {
    let kept = session.dir().join("export.proof");
    let verifier = || state.verifier();
    if let Ok(bytes) = std::fs::read(&kept)
        && let Ok(vouched) = check(&bytes, sealed.manifest, sealed.digest)
        && verifier().is_ok_and(|own| own.to_string() == vouched.key.to_string())
    {
        return Ok(bytes);
    }
    let sum = |of: fn(&agentwall_cow::Part) -> u64| sealed.manifest.layers.iter().map(of).sum();
    let record = Record::Export(Export {
        archive: sealed.digest.to_owned(),
        changes: sealed.manifest.changes.clone(),
        layers: sealed.manifest.layers.len() as u64,
        entries: sum(|l| l.entries),
        originals: sum(|l| l.originals),
    });
    state.record(session.id(), vec![record])?;
    let reader = Reader::open(&state.ledger_dir()).context("cannot read the ledger")?;
    let (mut export, mut start) = (None, None);
    let first = reader.first().context("cannot read the ledger")?;
    for index in (first..reader.size()).rev() {
        let bytes = reader.entry(index).context("cannot read the ledger")?;
        let entry = Entry::from_bytes(&bytes).context("cannot read the ledger")?;
        if entry.session != session.id() {
            continue;
        }
        match entry.record {
            Record::Export(e) if export.is_none() && e.archive == sealed.digest => {
                export = Some(proved(&reader, index, bytes)?);
            }
            record if begins(&record) => {
                start = Some(proved(&reader, index, bytes)?);
                break;
            }
            _ => {}
        }
        if entry.seq == 0 {
            break;
        }
    }
    let proof = Proof {
        key: verifier()?.to_string(),
        start,
        export: export.context("the record of the export is not in the ledger")?,
    };
    let bytes = serde_json::to_vec(&proof)?;
    check(&bytes, sealed.manifest, sealed.digest)
        .context("the ledger does not prove the export")?;
    write_atomically(&kept, &bytes).with_context(|| format!("cannot write {}", shown(&kept)))?;
    Ok(bytes)
}

/// Whether it is the start of a session; what text it has does not matter.
fn begins(record: &Record) -> bool {
    ["session_start", "import"].contains(&record.type_name())
}

fn proved(reader: &Reader, index: u64, entry: Vec<u8>) -> Result<Proved> {
    let proof = reader
        .tlog_proof(index, None)
        .context("cannot read the ledger")?;
    Ok(Proved {
        entry: String::from_utf8(entry).context("an entry of the ledger is not UTF-8")?,
        proof: proof.to_string(),
    })
}

/// Whether a proof holds for an archive. Whether to trust its key is up to the caller.
pub fn check(bytes: &[u8], manifest: &ArchiveManifest, digest: &str) -> Result<Vouched> {
    let proof: Proof = serde_json::from_slice(bytes).map_err(|e| {
        let e = output::tame(&e.to_string());
        anyhow!("its proof is none: {e}")
    })?;
    if serde_json::to_vec(&proof)? != bytes {
        bail!("its proof is not in the one form that is written");
    }
    let key =
        Verifier::parse(&proof.key).map_err(|e| anyhow!("the key of its proof is none: {e}"))?;
    let entry = |proved: &Proved, what: &str| -> Result<(Entry, Checkpoint)> {
        let inclusion = TlogProof::parse(&proved.proof)
            .map_err(|e| anyhow!("the proof of its {what} is none: {e}"))?;
        if inclusion.to_string() != proved.proof || inclusion.extra.is_some() {
            bail!("the proof of its {what} is not in the one form that is written");
        }
        let checkpoint = inclusion
            .verify(proved.entry.as_bytes(), &key)
            .map_err(|e| anyhow!("the proof of its {what} does not hold: {e}"))?;
        let entry = Entry::from_bytes(proved.entry.as_bytes())
            .map_err(|e| anyhow!("the entry of its {what} is none: {e}"))?;
        if entry.session != manifest.session {
            bail!("the entry of its {what} is of another session");
        }
        Ok((entry, checkpoint))
    };
    let (export, checkpoint) = entry(&proof.export, "export")?;
    match &export.record {
        Record::Export(e) if e.archive == digest && e.changes == manifest.changes => {}
        Record::Export(_) => bail!("its content is not what was exported: it was changed since"),
        _ => bail!("the entry of its export is of something else"),
    }
    let start = proof.start.as_ref().map(|s| entry(s, "session's start"));
    let start = match start.transpose()? {
        None => None,
        Some((start, at)) => {
            if !begins(&start.record) || at != checkpoint {
                bail!("the entry of its session's start is of something else");
            }
            Some(start)
        }
    };
    Ok(Vouched {
        key,
        checkpoint,
        exported: export.time,
        start,
    })
}
