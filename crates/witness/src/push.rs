//! A log's newest checkpoint is brought to its witnesses, and their cosignatures are kept.
//!
//! All witnesses are asked at once, each with a proof from what it has cosigned last; which one that is, it
//! tells itself. What they answer counts only if it verifies. As soon as the policy's quorum has cosigned one
//! checkpoint, that is the log's `checkpoint.cosigned`; until then the cosignatures wait in a file beside, so
//! that witnesses need not be there at the same moment. Nothing here is in the way of the log: what fails is
//! told, and tried again with the next push.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use agentwall_action::escape_text;
use agentwall_ledger::{
    Checkpoint, CosignedError, FileError, KeyHistory, Note, ReadError, Reader, TrustPolicy,
    Verifier, Witnessed,
    cosigned::keep,
    note::NoteSignature,
    trust::TrustedWitness,
    witness::{AddCheckpoint, log_id},
};

use crate::client::Client;

/// The longest answer of a witness, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// How often a witness is asked with another proof, because it says that it stands elsewhere.
const TRIES: usize = 3;
/// Below the folder of the log's witnesses: cosignatures that are no quorum yet.
const PARTIAL: &str = "partial";

/// What became of one witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has cosigned this checkpoint, now or before; when, in seconds since the Unix epoch.
    Cosigned(u64),
    /// The policy does not say where it is.
    NoUrl,
    /// It did not answer, or not as a witness does.
    Away(String),
    /// It does not cosign this log: its status, and what it says, escaped.
    Refused(u16, String),
    /// It has cosigned more entries than the log has: the log was put back, or another one was shown to it.
    Ahead(u64),
    /// It has cosigned another history of this log.
    OtherHistory(String),
}

impl Outcome {
    /// Whether the witness has seen something that this log is not.
    pub fn contradicts(&self) -> bool {
        matches!(self, Outcome::Ahead(_) | Outcome::OtherHistory(_))
    }
}

/// What a push came to.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The checkpoint that was brought.
    pub checkpoint: Checkpoint,
    /// The witnesses in the order of the policy, by its names.
    pub outcomes: Vec<(String, Outcome)>,
    /// Who has cosigned that checkpoint.
    pub witnessed: Witnessed,
}

/// Why nothing was brought.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// Another process is at it.
    #[error("another process is bringing this log to its witnesses")]
    Busy,
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log against what was cosigned.
    #[error("the file 'checkpoint.cosigned': {0}")]
    Cosigned(#[from] CosignedError),
    /// The cosignatures cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder beside.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// The folder or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Brings the newest checkpoint of the log in `log` to the witnesses of `trust` that have a URL and have not
/// cosigned it yet. `folder` (made if need be) is private to the log's owner. Each witness has `patience`.
pub fn push(
    log: &Path,
    key: &Verifier,
    trust: &TrustPolicy,
    folder: &Path,
    patience: Duration,
) -> Result<Pushed, PushError> {
    let _held = hold(folder)?;
    let reader = Reader::open_signed(log, key)?;
    let former = reader.cosigned(key, Some(trust))?;
    let partial = folder.join(PARTIAL);
    let keys = reader.keys(key).map_err(ReadError::from)?;
    let waiting = read_partial(&partial, &keys);
    let mut kept: Vec<(Checkpoint, Note)> = waiting.into_iter().collect();
    kept.extend(
        former
            .iter()
            .map(|c| (c.checkpoint.clone(), c.note.clone())),
    );
    kept.retain(|(checkpoint, _)| checkpoint.size <= reader.size());

    let asked = ask_all(&reader, trust, &kept, patience);
    let mut lines = own_lines(&reader, &keys);
    let mut outcomes = Vec::new();
    for (witness, (outcome, line)) in trust.witnesses().iter().zip(asked) {
        lines.extend(line);
        outcomes.push((witness.name.clone(), outcome));
    }
    let checkpoint = reader.checkpoint().clone();
    // The log's own line is there; more lines than a note may have are of a policy that large.
    let note = reader.note().with_signatures(lines);
    let note = note.map_err(|e| PushError::Read(ReadError::Checkpoint(e.into())))?;
    let witnessed = trust
        .witnessed(&checkpoint, &note)
        .map_err(|e| PushError::Read(ReadError::Checkpoint(e.into())))?;
    let cannot = |source| PushError::Folder {
        path: partial.clone(),
        source,
    };
    if witnessed.holds() {
        if former.is_none_or(|f| f.note != note) {
            keep(log, &note)?;
        }
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cannot(e)),
            _ => {}
        }
    } else if !witnessed.by.is_empty() {
        let temporary = partial.with_extension("tmp");
        fs::write(&temporary, note.to_text())
            .and_then(|()| fs::rename(&temporary, &partial))
            .map_err(cannot)?;
    }
    Ok(Pushed {
        checkpoint,
        outcomes,
        witnessed,
    })
}

/// What a witness has to show for a log: where it stands against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readback {
    /// It has cosigned the first so many entries of this log.
    Agrees(u64),
    /// It has not cosigned anything of it, or does not show it.
    Nothing,
    /// See [`Outcome`].
    Not(Outcome),
}

/// Asks a witness which checkpoint of the log it has cosigned last, and compares it with the log.
pub fn readback(
    reader: &Reader,
    key: &Verifier,
    witness: &TrustedWitness,
    patience: Duration,
) -> Readback {
    let Some(url) = &witness.url else {
        return Readback::Not(Outcome::NoUrl);
    };
    let away = |e: String| Readback::Not(Outcome::Away(e));
    let path = format!("{}/checkpoint", log_id(key.name()));
    let called = Client::new(url, patience).and_then(|c| c.get(&path, MAX_ANSWER));
    let called = match called {
        Ok(called) if called.status == 404 => return Readback::Nothing,
        Ok(called) if called.status == 200 => called,
        Ok(called) => return away(format!("it answers {}", called.status)),
        Err(e) => return away(e.to_string()),
    };
    let keys = match reader.keys(key) {
        Ok(keys) => keys,
        Err(e) => return away(e.to_string()),
    };
    // By any key that the log ever had: one that was replaced may be in other hands.
    let opened = keys.keys().map(|key| Checkpoint::open(&called.body, key));
    let checkpoint = match opened.reduce(|one, other| one.or(other)) {
        Some(Ok(checkpoint)) => checkpoint,
        Some(Err(e)) => return away(format!("it shows what this log has not signed: {e}")),
        None => return away("the log has no key".to_owned()),
    };
    let size = checkpoint.size;
    if size > reader.size() {
        return Readback::Not(Outcome::Ahead(size));
    }
    match reader.root_at(size) {
        Ok(root) if root == checkpoint.root => Readback::Agrees(size),
        Ok(_) => Readback::Not(Outcome::OtherHistory(format!(
            "of {size} entries, signed by this log's key"
        ))),
        Err(e) => away(e.to_string()),
    }
}

/// What became of a witness, and its cosignature of this checkpoint if there is one.
type Asked = (Outcome, Option<NoteSignature>);

fn ask_all(
    reader: &Reader,
    trust: &TrustPolicy,
    kept: &[(Checkpoint, Note)],
    patience: Duration,
) -> Vec<Asked> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = trust
            .witnesses()
            .iter()
            .map(|witness| {
                let builder = std::thread::Builder::new().name("witness".into());
                builder.spawn_scoped(scope, move || ask(reader, witness, kept, patience))
            })
            .collect();
        let away = |e: &str| (Outcome::Away(e.to_owned()), None);
        let join = |thread: io::Result<std::thread::ScopedJoinHandle<'_, Asked>>| match thread {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|_| away("the question broke off")),
            Err(e) => away(&e.to_string()),
        };
        threads.into_iter().map(join).collect()
    })
}

/// Asks one witness, also if it has cosigned this checkpoint before: it may have seen more since. Its cosignature
/// of then is good while it is away.
fn ask(
    reader: &Reader,
    witness: &TrustedWitness,
    kept: &[(Checkpoint, Note)],
    patience: Duration,
) -> Asked {
    let (mut old, mut before) = (0, None);
    for (checkpoint, note) in kept {
        if let Ok(Some(time)) = witness.key.cosigned(checkpoint, note) {
            let mut lines = note.signatures().iter();
            if note.text() == reader.note().text() {
                let line = lines.rfind(|line| witness.key.is_named_by(line));
                before = line.cloned().map(|line| (line, time));
            }
            old = old.max(checkpoint.size);
        }
    }
    let asked = match &witness.url {
        None => Err(Outcome::NoUrl),
        Some(url) => call(reader, witness, url, old, patience),
    };
    match (asked, before) {
        (Ok((line, time)), _) | (Err(Outcome::Away(_) | Outcome::NoUrl), Some((line, time))) => {
            (Outcome::Cosigned(time), Some(line))
        }
        (Err(outcome), before) => (outcome, before.map(|(line, _)| line)),
    }
}

fn call(
    reader: &Reader,
    witness: &TrustedWitness,
    url: &str,
    mut old: u64,
    patience: Duration,
) -> Result<(NoteSignature, u64), Outcome> {
    let away = |e: &dyn std::fmt::Display| Outcome::Away(escape_text(&e.to_string()));
    let client = Client::new(url, patience).map_err(|e| away(&e))?;
    for _ in 0..TRIES {
        let request = AddCheckpoint {
            old,
            proof: reader.consistency_proof(old).map_err(|e| away(&e))?,
            checkpoint: reader.checkpoint().clone(),
            note: reader.note().clone(),
        };
        let called = client
            .post("add-checkpoint", &request.to_string(), MAX_ANSWER)
            .map_err(|e| away(&e))?;
        let text = String::from_utf8_lossy(&called.body);
        let said = || escape_text(text.lines().next().unwrap_or_default());
        match called.status {
            200 => {
                return cosignature(reader, witness, &text).ok_or_else(|| {
                    away(&"its answer has no cosignature by its key that verifies")
                });
            }
            409 if called.content_type == "text/x.tlog.size" => {
                let line = text.strip_suffix('\n').unwrap_or_default();
                let size = line.parse::<u64>().ok().filter(|n| n.to_string() == line);
                let size = size.ok_or_else(|| away(&"its conflict names no size"))?;
                if size > reader.size() {
                    return Err(Outcome::Ahead(size));
                }
                old = size;
            }
            // Until 2026-07 the document had 409 for the same size with another root.
            409 | 422 => return Err(Outcome::OtherHistory(said())),
            status @ 400..500 => return Err(Outcome::Refused(status, said())),
            status => return Err(away(&format!("it answers {status}"))),
        }
    }
    Err(away(&"it names another size each time"))
}

/// The cosignature by the witness's key in an answer; lines by other keys are ignored.
fn cosignature(
    reader: &Reader,
    witness: &TrustedWitness,
    text: &str,
) -> Option<(NoteSignature, u64)> {
    text.strip_suffix('\n')?.split('\n').find_map(|line| {
        let line = NoteSignature::parse(line).filter(|l| witness.key.is_named_by(l))?;
        let note = reader.note().with_signatures(vec![line.clone()]).ok()?;
        let time = witness.key.cosigned(reader.checkpoint(), &note).ok()??;
        Some((line, time))
    })
}

fn own_lines(reader: &Reader, keys: &KeyHistory) -> Vec<NoteSignature> {
    let own = |s: &&NoteSignature| keys.keys().any(|k| s.name == k.name() && s.id == k.id());
    let lines = reader.note().signatures().iter();
    lines.filter(own).cloned().collect()
}

/// What waits for a quorum; what cannot be used is as if it was not there: it is asked for again.
fn read_partial(path: &Path, keys: &KeyHistory) -> Option<(Checkpoint, Note)> {
    let bytes = fs::read(path).ok()?;
    keys.open(&bytes).ok()?;
    Checkpoint::parse_note(&bytes).ok()
}

fn hold(folder: &Path) -> Result<File, PushError> {
    let path = folder.join("lock");
    let cannot = |source| PushError::Folder {
        path: path.clone(),
        source,
    };
    let mut make = fs::DirBuilder::new();
    make.recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(cannot)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PushError::Busy),
        Err(TryLockError::Error(e)) => Err(cannot(e)),
    }
}
