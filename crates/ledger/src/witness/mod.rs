//! A witness: it cosigns the checkpoints of logs that it knows, each only if it continues the last one.
//!
//! Invariants:
//! * A cosignature leaves only after what it says is durable: the checkpoint with the log's signature and
//!   the cosignature itself, in one file per log, replaced by a rename.
//! * Looking at the last checkpoint, checking the proof and replacing the file are one step; nobody
//!   else works in the folder (its lock is held).
//! * A file that the witness's own key has not cosigned is refused, not taken as nothing: beginning anew
//!   would let a log show a second history.
//! * Times never go back: a larger tree never has an earlier time than a smaller one.
//!
//! What it cannot tell: that its own folder was put back to an older state.

mod wire;

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    checkpoint::Checkpoint,
    cosignature::{Cosigner, CosignerKey},
    defect::Defect,
    hash::{empty_root, sha256_hex},
    note::{Note, NoteSignature, Verifier},
    proof::verify_consistency,
    store::{Disk, FileError, LOCK, RealDisk, read_file},
};

pub use wire::{AddCheckpoint, RequestError};

/// Below the witness's folder: the last cosigned checkpoint of each log.
const CHECKPOINTS: &str = "checkpoints";
/// Below the witness's folder: signed checkpoints that do not continue what was cosigned.
const EVIDENCE: &str = "evidence";
/// So many are kept for a log: one is enough to show that it has two histories.
const MAX_EVIDENCE: usize = 16;

/// The file name of a log: SHA-256 over its origin, in hex. Also its name in readback URLs.
pub fn log_id(origin: &str) -> String {
    sha256_hex(origin.as_bytes())
}

/// A witness with its state in a folder.
#[derive(Debug)]
pub struct Witness {
    dir: PathBuf,
    cosigner: Cosigner,
    logs: BTreeMap<String, Vec<Verifier>>,
    disk: Arc<dyn Disk>,
    /// The last cosigned checkpoint of each log; what is not here is read from its file.
    latest: Mutex<HashMap<String, Latest>>,
    /// Held as long as the witness lives.
    _lock: File,
}

/// The last checkpoint of a log that was cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// What the log said.
    pub checkpoint: Checkpoint,
    /// When the witness cosigned it, in seconds since the Unix epoch.
    pub time: u64,
    /// The checkpoint with the log's signatures and the cosignature, as it is stored.
    pub note: String,
}

/// The answer to `add-checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The cosignature, a signature line.
    Cosigned(NoteSignature),
    /// The request is malformed, or its old size is greater than the checkpoint's.
    Malformed(String),
    /// No known key of this log has signed, or one has signed wrongly.
    NotSigned(String),
    /// The log is not known here.
    UnknownLog,
    /// The last cosigned checkpoint has another size than the request says: this one.
    Conflict(u64),
    /// The checkpoint does not continue the last one.
    Inconsistent(String),
    /// The state cannot be read or written; nothing was cosigned.
    Failed(String),
}

impl Answer {
    /// The HTTP status that the protocol has for it.
    pub fn status(&self) -> u16 {
        match self {
            Answer::Cosigned(_) => 200,
            Answer::Malformed(_) => 400,
            Answer::NotSigned(_) => 403,
            Answer::UnknownLog => 404,
            Answer::Conflict(_) => 409,
            Answer::Inconsistent(_) => 422,
            Answer::Failed(_) => 500,
        }
    }

    /// The content type of [`Answer::body`].
    pub fn content_type(&self) -> &'static str {
        match self {
            Answer::Conflict(_) => "text/x.tlog.size",
            _ => "text/plain; charset=utf-8",
        }
    }

    /// The body of the answer, ended by a newline.
    pub fn body(&self) -> String {
        match self {
            Answer::Cosigned(line) => format!("{line}\n"),
            Answer::Conflict(size) => format!("{size}\n"),
            Answer::UnknownLog => "this witness does not know the log\n".to_owned(),
            // Where the witness keeps its state is nobody else's business.
            Answer::Failed(_) => "the witness cannot use its state\n".to_owned(),
            Answer::Malformed(why) | Answer::NotSigned(why) | Answer::Inconsistent(why) => {
                format!("{why}\n")
            }
        }
    }
}

impl Witness {
    /// Opens the witness in `dir` (made if it does not exist) for logs with these keys; several keys may
    /// be of one log. Fails while another process has it open, and if a stored checkpoint is not its own.
    pub fn open(
        dir: &Path,
        cosigner: Cosigner,
        logs: impl IntoIterator<Item = Verifier>,
    ) -> Result<Self, WitnessError> {
        Witness::open_on(dir, cosigner, logs, Arc::new(RealDisk))
    }

    pub(crate) fn open_on(
        dir: &Path,
        cosigner: Cosigner,
        logs: impl IntoIterator<Item = Verifier>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, WitnessError> {
        for folder in [dir.to_owned(), dir.join(CHECKPOINTS)] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|e| FileError::new("make", &folder, e))?;
        }
        // The folder of checkpoints is there for good before anything is cosigned.
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| FileError::new("flush", dir, e))?;
        let mut by_origin: BTreeMap<String, Vec<Verifier>> = BTreeMap::new();
        for key in logs {
            by_origin
                .entry(key.name().to_owned())
                .or_default()
                .push(key);
        }
        let witness = Witness {
            _lock: lock(dir)?,
            dir: dir.to_owned(),
            cosigner,
            logs: by_origin,
            disk,
            latest: Mutex::default(),
        };
        for origin in witness.logs.keys() {
            witness.latest(origin)?;
        }
        Ok(witness)
    }

    /// The witness's public key.
    pub fn key(&self) -> CosignerKey {
        self.cosigner.key()
    }

    /// The logs that it knows, by origin.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.logs.keys().map(String::as_str)
    }

    /// The last cosigned checkpoint of a log, `None` if there was none yet.
    pub fn latest(&self, origin: &str) -> Result<Option<Latest>, WitnessError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut latest, origin)
    }

    /// Answers a request now.
    pub fn add(&self, body: &[u8]) -> Answer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.add_at(body, now.map_or(0, |d| d.as_secs()))
    }

    /// Answers a request at a time, in seconds since the Unix epoch. The checks come in the order of the
    /// document.
    pub fn add_at(&self, body: &[u8], now: u64) -> Answer {
        let request = match AddCheckpoint::parse(body) {
            Ok(request) => request,
            Err(e) => return Answer::Malformed(e.to_string()),
        };
        let (new, origin) = (&request.checkpoint, &request.checkpoint.origin);
        let Some(keys) = self.logs.get(origin) else {
            return Answer::UnknownLog;
        };
        if let Err(e) = request.note.verify_any(keys) {
            return Answer::NotSigned(e.to_string());
        }
        if request.old > new.size {
            return Answer::Malformed(format!(
                "the old size, {}, is greater than the checkpoint's, {}",
                request.old, new.size
            ));
        }
        // From here to the answer nobody else looks at the state.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match self.look(&mut latest, origin) {
            Ok(last) => last,
            Err(e) => return Answer::Failed(e.to_string()),
        };
        let (size, root) = last.as_ref().map_or((0, empty_root()), |l| {
            (l.checkpoint.size, l.checkpoint.root)
        });
        if request.old != size {
            return Answer::Conflict(size);
        }
        if let Err(e) = verify_consistency(size, &root, new.size, &new.root, &request.proof) {
            self.keep_evidence(origin, &request.note);
            return Answer::Inconsistent(e.to_string());
        }
        if new.size == 0 && new.root != empty_root() {
            return Answer::Inconsistent("the root of no entries is another one".to_owned());
        }
        let time = last.map_or(now, |l| now.max(l.time)).max(1);
        let line = self.cosigner.cosign(request.note.text(), time);
        match self.persist(&mut latest, &request, keys, line.clone(), time) {
            Ok(()) => Answer::Cosigned(line),
            Err(e) => Answer::Failed(e.to_string()),
        }
    }

    /// See [`evidence`].
    pub fn evidence(&self, origin: &str) -> Vec<String> {
        evidence(&self.dir, origin)
    }

    fn path(&self, origin: &str) -> PathBuf {
        self.dir.join(CHECKPOINTS).join(log_id(origin))
    }

    fn look(
        &self,
        latest: &mut HashMap<String, Latest>,
        origin: &str,
    ) -> Result<Option<Latest>, WitnessError> {
        if let Some(known) = latest.get(origin) {
            return Ok(Some(known.clone()));
        }
        let path = self.path(origin);
        let bytes = match read_file(&path, &path.display().to_string()) {
            Ok(bytes) => bytes,
            Err(Defect::Missing { .. }) => return Ok(None),
            Err(e) => return Err(WitnessError::State(e)),
        };
        // What a write that failed half way has made visible is not to be lost any more once it is told.
        self.flush_names()?;
        let found = Latest::read(&bytes, origin, &self.cosigner.key())
            .ok_or(WitnessError::NotCosigned { path })?;
        latest.insert(origin.to_owned(), found.clone());
        Ok(Some(found))
    }

    fn flush_names(&self) -> Result<(), WitnessError> {
        let folder = self.dir.join(CHECKPOINTS);
        let flushed = self.disk.sync_dir(&folder);
        flushed.map_err(|e| FileError::new("flush", &folder, e).into())
    }

    /// Replaces the stored checkpoint, durably. After a failure the old one stands: whichever of the two is on
    /// the disk, no cosignature of the new one has left.
    fn persist(
        &self,
        latest: &mut HashMap<String, Latest>,
        request: &AddCheckpoint,
        keys: &[Verifier],
        line: NoteSignature,
        time: u64,
    ) -> Result<(), WitnessError> {
        let origin = &request.checkpoint.origin;
        // What others have put beside the log's signatures is not kept.
        let of_log = |s: &&NoteSignature| keys.iter().any(|k| k.name() == s.name && k.id() == s.id);
        let signatures = request.note.signatures().iter().filter(of_log).take(8);
        let signatures = signatures.cloned().chain([line]).collect();
        let note = request.note.with_signatures(signatures);
        // At least one line is there, and at most nine.
        let note = note.map_or_else(|_| String::new(), |n| n.to_text());
        let path = self.path(origin);
        let temporary = path.with_extension("tmp");
        let disk = &*self.disk;
        let file = disk
            .write(&temporary, note.as_bytes())
            .map_err(|e| FileError::new("write", &temporary, e))?;
        disk.sync(&temporary, &file)
            .map_err(|e| FileError::new("flush", &temporary, e))?;
        disk.rename(&temporary, &path)
            .map_err(|e| FileError::new("replace", &path, e))?;
        self.flush_names()?;
        let checkpoint = request.checkpoint.clone();
        latest.insert(
            origin.clone(),
            Latest {
                checkpoint,
                time,
                note,
            },
        );
        Ok(())
    }

    /// Keeps a checkpoint that the log has signed and that was not shown to continue the last one. What
    /// cannot be kept is lost: the refusal stands all the same.
    fn keep_evidence(&self, origin: &str, note: &Note) {
        let folder = self.dir.join(EVIDENCE).join(log_id(origin));
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        let count = fs::read_dir(&folder).map_or(MAX_EVIDENCE, Iterator::count);
        if made.is_ok() && count < MAX_EVIDENCE {
            let path = folder.join(sha256_hex(note.text().as_bytes()));
            let _ = RealDisk.write(&path, note.to_text().as_bytes());
        }
    }
}

impl Latest {
    /// A stored checkpoint; `None` if it is not of this log or `key` has not cosigned it.
    fn read(bytes: &[u8], origin: &str, key: &CosignerKey) -> Option<Latest> {
        let (checkpoint, note) = Checkpoint::parse_note(bytes).ok()?;
        let time = key.cosigned(&checkpoint, &note).ok()??;
        (checkpoint.origin == origin).then(|| Latest {
            checkpoint,
            time,
            note: note.to_text(),
        })
    }
}

fn lock(dir: &Path) -> Result<File, WitnessError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|e| FileError::new("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(WitnessError::InUse {
            dir: dir.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(FileError::new("lock", &path, e).into()),
    }
}

/// The checkpoints that the witness in `dir` has cosigned, read without holding its lock; the keys of logs
/// are not needed. Sorted by origin.
pub fn stored(dir: &Path, key: &CosignerKey) -> Result<Vec<Latest>, WitnessError> {
    let folder = dir.join(CHECKPOINTS);
    let files = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| FileError::new("list", &folder, e))?,
    };
    let mut found = Vec::new();
    for file in files {
        let path = file.map_err(|e| FileError::new("list", &folder, e))?.path();
        // What a write that was cut off has left.
        if path.extension().is_some() {
            continue;
        }
        let bytes = read_file(&path, &path.display().to_string()).map_err(WitnessError::State)?;
        let origin = Checkpoint::parse_note(&bytes).map_or(String::new(), |(c, _)| c.origin);
        let named = path.file_name().is_some_and(|n| *n == *log_id(&origin));
        let latest = Latest::read(&bytes, &origin, key).filter(|_| named);
        found.push(latest.ok_or(WitnessError::NotCosigned { path })?);
    }
    found.sort_by(|a, b| a.checkpoint.origin.cmp(&b.checkpoint.origin));
    Ok(found)
}

/// The signed checkpoints of a log that were not shown to continue what the witness in `dir` had cosigned, as they
/// were sent. One with the size of a cosigned checkpoint and another root shows by itself that the log has two
/// histories; a larger one may also have come with a wrong proof.
pub fn evidence(dir: &Path, origin: &str) -> Vec<String> {
    let folder = dir.join(EVIDENCE).join(log_id(origin));
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = files.filter_map(|f| String::from_utf8(read_file(&f.path(), "").ok()?).ok());
    texts.collect()
}

/// Why a witness cannot be opened or its state not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A stored checkpoint cannot be read.
    #[error("the witness's state: {0}")]
    State(Defect),
    /// A stored checkpoint that the witness has not cosigned.
    #[error(
        "{path} is not a checkpoint that this witness has cosigned: it was changed, or the witness's key was; \
         nothing is cosigned for that log until it is put back"
    )]
    NotCosigned {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("another process serves the witness in {dir}")]
    InUse {
        /// The witness's folder.
        dir: PathBuf,
    },
}

#[cfg(test)]
mod tests;
