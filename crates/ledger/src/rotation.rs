//! Replacing the log's key, so that whoever knows one key of the log can go on with the next.
//!
//! A rotation is an entry, `key_rotation` with the old key and the new one, and a proof of it: the file
//! `rotation/<n>`, from 0, an offline proof (c2sp.org/tlog-proof@v1) with the entry as `extra`, under the checkpoint that
//! this entry is the last one of. That checkpoint has the signatures of both keys. The old key signs no larger one, the
//! new key no smaller one, so that the size of a checkpoint says who has to have signed it.
//!
//! The signature of both over a tree is not enough: anybody could add a second one to a checkpoint of any size. What
//! makes the new key the log's is that the entry which names it stands under the signature of the old one.
//!
//! What it cannot show: that the old key was not used for another history before the rotation was known. Who was told
//! the new key, has a later checkpoint, or asks witnesses that were told, sees that.

use std::path::Path;

use serde_json::Value;

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    defect::Defect,
    entry::{Entry, Record},
    hash::Hash,
    note::Verifier,
    store::{ROTATIONS, read_file},
    tlog_proof::{TlogProof, TlogProofError},
};

/// One key followed another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The entry that says so.
    pub index: u64,
    /// Who signs checkpoints up to the one that this entry is the last one of.
    pub old: Verifier,
    /// Who signs that one, too, and all larger ones.
    pub new: Verifier,
    /// The root of the log with this entry as its last.
    pub root: Hash,
    /// The proof, as it is stored.
    pub proof: TlogProof,
}

impl Rotation {
    /// Reads a proof of a rotation and checks all of it but that the old key was the log's.
    fn parse(file: &str, text: &str) -> Result<Self, RotationError> {
        let not = |why| RotationError::NotARotation {
            file: file.to_owned(),
            why,
        };
        let malformed = |source| RotationError::Proof {
            file: file.to_owned(),
            source: Box::new(source),
        };
        let proof = TlogProof::parse(text).map_err(malformed)?;
        let leaf = proof.extra.as_deref().unwrap_or_default();
        let (old, new) = named(leaf).ok_or(not("it does not hold an entry that names two keys"))?;
        if old.name() != new.name() || old == new {
            return Err(not("the two keys are not two of one log"));
        }
        let checkpoint = proof.verify(leaf, &old).map_err(malformed)?;
        proof.verify(leaf, &new).map_err(malformed)?;
        if proof.index.checked_add(1) != Some(checkpoint.size) {
            return Err(not("the entry is not the last one of the checkpoint"));
        }
        Ok(Rotation {
            index: proof.index,
            root: checkpoint.root,
            old,
            new,
            proof,
        })
    }
}

/// The keys that an entry says to follow each other; `None` if it is not one of a rotation.
pub(crate) fn named(entry: &[u8]) -> Option<(Verifier, Verifier)> {
    let entry = Entry::from_bytes(entry).ok()?;
    let (old, new) = match &entry.record {
        Record::KeyRotation(rotation) => (rotation.old.as_str(), rotation.new.as_str()),
        // Keys are plain in a leaf.
        Record::Committed(leaf) if leaf.kind == KIND => {
            let text = |key| leaf.fields.get(key).and_then(Value::as_str);
            (text("old")?, text("new")?)
        }
        _ => return None,
    };
    Some((Verifier::parse(old).ok()?, Verifier::parse(new).ok()?))
}

/// The type of the entry.
pub(crate) const KIND: &str = "key_rotation";

/// Whether an entry says that the key was rotated, whatever else is wrong with it.
pub(crate) fn is_one(entry: &Entry) -> bool {
    match &entry.record {
        Record::KeyRotation(_) => true,
        Record::Committed(leaf) => leaf.kind == KIND,
        Record::Other(other) => other.kind == KIND,
        _ => false,
    }
}

/// Where the proof of a rotation is, in the log's folder.
pub(crate) fn file(number: usize) -> String {
    format!("{ROTATIONS}/{number}")
}

/// The keys of a log, and which of them signs a checkpoint of which size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHistory {
    /// The key of a log that had one alone.
    first: Verifier,
    /// Each with the key of the one before as its old one.
    rotations: Vec<Rotation>,
}

/// A log with one key.
impl From<Verifier> for KeyHistory {
    fn from(key: Verifier) -> Self {
        KeyHistory {
            first: key,
            rotations: Vec::new(),
        }
    }
}

impl KeyHistory {
    /// The keys of the log in `dir`, of which `known` has to be one. Rotations beyond `size` entries are left out: they
    /// are the rest of one that was cut off, or the log was put back, as its checkpoint then says.
    ///
    /// # Errors
    /// A file is no proof of a rotation, or does not follow from the one before it, or `known` is none of the keys.
    pub fn read(dir: &Path, known: &Verifier, size: u64) -> Result<Self, RotationError> {
        let mut proofs = Vec::new();
        loop {
            let name = file(proofs.len());
            let bytes = match read_file(&dir.join(&name), &name) {
                Err(Defect::Missing { .. }) => break,
                other => other?,
            };
            // What is not text is no proof.
            proofs.push((name, String::from_utf8(bytes).unwrap_or_default()));
        }
        KeyHistory::with(known, size, &proofs)
    }

    /// The keys of a log as proofs of its rotations tell, oldest first, each with a name for what is wrong with it; `known`
    /// has to be one of the keys.
    ///
    /// # Errors
    /// As for [`KeyHistory::read`].
    pub fn following(known: &Verifier, proofs: &[(String, String)]) -> Result<Self, RotationError> {
        KeyHistory::with(known, u64::MAX, proofs)
    }

    fn with(
        known: &Verifier,
        size: u64,
        proofs: &[(String, String)],
    ) -> Result<Self, RotationError> {
        let mut history = KeyHistory::from(known.clone());
        for (file, text) in proofs {
            let next = Rotation::parse(file, text)?;
            if next.index >= size {
                break;
            }
            if let Some(last) = history.rotations.last()
                && (last.new != next.old
                    || last.index >= next.index
                    || history.keys().any(|key| *key == next.new))
            {
                return Err(RotationError::Broken { file: file.clone() });
            }
            if history.rotations.is_empty() {
                history.first = next.old.clone();
            }
            history.rotations.push(next);
        }
        if history.keys().any(|key| key == known) {
            return Ok(history);
        }
        Err(RotationError::Foreign {
            key: known.to_string(),
        })
    }

    /// All keys, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &Verifier> {
        std::iter::once(&self.first).chain(self.rotations.iter().map(|r| &r.new))
    }

    /// The key that signs now.
    pub fn newest(&self) -> &Verifier {
        self.rotations.last().map_or(&self.first, |r| &r.new)
    }

    /// The rotations, oldest first.
    pub fn rotations(&self) -> &[Rotation] {
        &self.rotations
    }

    /// Whether the entry of this number has replaced the key.
    pub(crate) fn has(&self, index: u64) -> bool {
        self.rotations.iter().any(|r| r.index == index)
    }

    /// Reads a signed checkpoint, which has to have the signature of the key that signs at its size; of both where one
    /// follows the other.
    pub fn open(&self, bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let (claimed, _) = Checkpoint::parse_note(bytes)?;
        let past = self.rotations.partition_point(|r| r.index < claimed.size);
        let before = past.checked_sub(1).and_then(|i| self.rotations.get(i));
        if let Some(last) = before.filter(|last| last.index + 1 == claimed.size) {
            Checkpoint::open(bytes, &last.old)?;
        }
        Checkpoint::open(bytes, before.map_or(&self.first, |last| &last.new))
    }
}

/// Why the keys of a log cannot be followed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The file of a proof cannot be read.
    #[error(transparent)]
    File(#[from] Defect),
    /// It is no proof, or the proof does not hold with both keys.
    #[error("{file}: {source}")]
    Proof {
        /// Which file.
        file: String,
        /// What is wrong with it.
        source: Box<TlogProofError>,
    },
    /// It proves something else.
    #[error("{file} is no proof of a rotation: {why}")]
    NotARotation {
        /// Which file.
        file: String,
        /// Why not.
        why: &'static str,
    },
    /// It is not of the key that signed until then, or of a key that was replaced before.
    #[error("{file} does not follow from the rotation before it")]
    Broken {
        /// Which file.
        file: String,
    },
    /// The key that is known is none of those that followed each other.
    #[error("the log's key was rotated, and {key} is none of its keys")]
    Foreign {
        /// The known key.
        key: String,
    },
    /// An entry says that the key was rotated, and nothing proves it.
    #[error(
        "entry {index} says that the log's key was rotated, and no file in '{ROTATIONS}' proves it: it was removed, or the \
         entry is forged"
    )]
    Unproved {
        /// The entry.
        index: u64,
    },
    /// The proof is of another history than the log.
    #[error("the log's first {size} entries are not those under which its key was rotated")]
    Forked {
        /// Their number.
        size: u64,
    },
}
