//! Reading entries with their text, and why it is not there.
//!
//! The log has commitments; the text is in [`TextFolders`]. It is believed only when the very leaf that the
//! log has can be made of it: a text that decrypts and does not fit is forged, and never shown. A log without the
//! folders, of another host or a copy, is read all the same: as what its leaves tell.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

pub use crate::entry::Withheld;
use crate::{
    entry::{Entry, EntryError, Opening, Record, commitment},
    read::{ReadError, Reader},
    subject::{SubjectKey, Subjects},
    values::{self, Text, TextFolders},
};

/// An entry with what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The entry; [`Record::Committed`] when its text is not known, with the reason.
    pub entry: Entry,
    /// The record as it was written, or, without its text, the leaf.
    pub bytes: Vec<u8>,
    /// Whether the tree has another form of it: the record came from beside the log.
    pub restored: bool,
}

impl Told {
    /// Why its text is not known, if it is not.
    pub fn withheld(&self) -> Option<&Withheld> {
        match &self.entry.record {
            Record::Committed(committed) => Some(&committed.withheld),
            _ => None,
        }
    }
}

/// Where a reader looks for text.
#[derive(Debug)]
pub(crate) struct Texts {
    folders: TextFolders,
    keys: Mutex<HashMap<String, Result<Arc<SubjectKey>, Withheld>>>,
    erased: OnceLock<Result<Erased, ReadError>>,
}

/// What redactions tell, each with its number.
#[derive(Debug, Clone, Default)]
struct Erased {
    /// The newest of a session.
    sessions: HashMap<String, u64>,
    entries: HashMap<u64, u64>,
}

impl Texts {
    pub(crate) fn new(folders: TextFolders) -> Self {
        Texts {
            folders,
            keys: Mutex::default(),
            erased: OnceLock::new(),
        }
    }

    fn key(&self, session: &str) -> Result<Arc<SubjectKey>, Withheld> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(session) {
            return key.clone();
        }
        let key = match Subjects::new(&self.folders.subjects).load(session) {
            Ok(Some(key)) => Ok(Arc::new(key)),
            Ok(None) => Err(Withheld::Missing(
                "there is no key for its session".to_owned(),
            )),
            Err(e) => Err(Withheld::Missing(e.to_string())),
        };
        keys.insert(session.to_owned(), key.clone());
        key
    }

    fn text(&self, index: u64, entry: &Entry, leaf: &[u8]) -> Result<Text, Withheld> {
        let key = self.key(&entry.session)?;
        let sealed = values::read(&self.folders.values, index)
            .map_err(|e| Withheld::Missing(e.to_string()))?
            .ok_or_else(|| Withheld::Missing("no text is kept for it".to_owned()))?;
        let text = Text::open(&key, entry.seq, leaf, &sealed).ok_or(Withheld::Damaged)?;
        match text.leaf().is_some_and(|made| made.bytes == leaf) {
            true => Ok(text),
            false => Err(Withheld::Forged),
        }
    }
}

impl Reader {
    /// With the text that is in these folders.
    pub fn with_text(mut self, folders: TextFolders) -> Self {
        self.texts = Some(Texts::new(folders));
        self
    }

    /// Entry `index`, from 0, with its text if that is to be had.
    pub fn told(&self, index: u64) -> Result<Told, ToldError> {
        let leaf = self.entry(index)?;
        let entry = Entry::from_bytes(&leaf).map_err(|error| ToldError::Entry { index, error })?;
        let mut told = Told {
            entry,
            bytes: leaf,
            restored: false,
        };
        if told.withheld().is_none() {
            if let Some(record) = commitment::plain_record(&told.bytes) {
                told.bytes = record;
            }
            return Ok(told);
        }
        match self.text(index, &told.entry, &told.bytes)? {
            Ok(text) => {
                // The leaf was made of it, so it is a record in its canonical form.
                let entry = Entry::from_bytes(&text.record);
                told.entry = entry.map_err(|error| ToldError::Entry { index, error })?;
                told.bytes = text.record;
                told.restored = true;
            }
            Err(why) => {
                if let Record::Committed(committed) = &mut told.entry.record {
                    committed.withheld = why;
                }
            }
        }
        Ok(told)
    }

    /// The fields of entry `index` that `wanted` picks, opened for somebody who has its leaf alone.
    pub fn openings(
        &self,
        index: u64,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Result<Vec<Opening>, Withheld>, ToldError> {
        let leaf = self.entry(index)?;
        let entry = Entry::from_bytes(&leaf).map_err(|error| ToldError::Entry { index, error })?;
        if !matches!(entry.record, Record::Committed(_)) {
            return Ok(Ok(Vec::new()));
        }
        let text = self.text(index, &entry, &leaf)?;
        Ok(text.map(|text| Opening::of(&text.record, &text.seed, wanted)))
    }

    fn text(
        &self,
        index: u64,
        entry: &Entry,
        leaf: &[u8],
    ) -> Result<Result<Text, Withheld>, ToldError> {
        let Some(texts) = &self.texts else {
            return Ok(Err(Withheld::Unopened));
        };
        let why = match texts.text(index, entry, leaf) {
            Ok(text) => return Ok(Ok(text)),
            // Whatever the log says of it, this is what is there.
            Err(Withheld::Forged) => return Ok(Err(Withheld::Forged)),
            Err(why) => why,
        };
        let erased = texts.erased.get_or_init(|| self.erased()).clone()?;
        let session = erased
            .sessions
            .get(&entry.session)
            .filter(|by| index < **by);
        let by = session.or_else(|| erased.entries.get(&index)).copied();
        Ok(Err(by.map_or(why, |by| Withheld::Erased { by })))
    }

    /// What the log says was erased. Reads all of it.
    fn erased(&self) -> Result<Erased, ReadError> {
        let mut erased = Erased::default();
        for item in self.entries(0..self.size()) {
            let (by, bytes) = item?;
            // What is not a redaction need not be taken apart.
            if !bytes.windows(REDACTION.len()).any(|w| w == REDACTION) {
                continue;
            }
            let Ok(Some((sessions, entries))) = Entry::from_bytes(&bytes).map(|e| redacted(&e))
            else {
                continue;
            };
            erased
                .sessions
                .extend(sessions.into_iter().map(|s| (s, by)));
            let earlier = entries.into_iter().filter(|index| *index < by);
            erased.entries.extend(earlier.map(|index| (index, by)));
        }
        Ok(erased)
    }
}

const REDACTION: &[u8] = b"\"type\":\"redaction\"";

/// The sessions and entries that an entry says the text of is erased. They are plain: to know them, no text is
/// needed.
pub fn redacted(entry: &Entry) -> Option<(Vec<String>, Vec<u64>)> {
    match &entry.record {
        Record::Redaction(redaction) => {
            Some((redaction.sessions.clone(), redaction.entries.clone()))
        }
        Record::Committed(committed) if committed.kind == "redaction" => {
            let list = |key| committed.fields.get(key).and_then(|v| v.as_array());
            let sessions = list("sessions").into_iter().flatten();
            let entries = list("entries").into_iter().flatten();
            Some((
                sessions
                    .filter_map(|s| Some(s.as_str()?.to_owned()))
                    .collect(),
                entries.filter_map(|n| n.as_u64()).collect(),
            ))
        }
        _ => None,
    }
}

/// Why an entry cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ToldError {
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The entry is none.
    #[error("entry {index}: {error}")]
    Entry {
        /// Its number.
        index: u64,
        /// What is wrong.
        error: EntryError,
    },
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
