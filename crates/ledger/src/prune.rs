//! Removing old entries and keeping what proves the others: the *minimum index* of c2sp.org/tlog-tiles.
//!
//! Entry bundles wholly below the minimum index go; every hash tile stays, so roots, consistency and the proof of an
//! entry that somebody kept are as before. What says that they may be missing is a record in the log itself, under
//! the same signatures as everything else: `prune` with `minimum`. Without one a missing bundle is a removed one. A
//! record cannot be forged without the log's key, and it allows nothing at or above its own place.
//!
//! Order: the record is durable and under a checkpoint first; then bundles go, the oldest first. So what is missing is
//! always the beginning, and a removal that was cut off is gone on with by calling it again.

use std::{fs, io, path::Path};

use serde_json::Value;

use crate::{
    entry::{Entry, Record},
    read::{ReadError, Reader},
    store::FileError,
    tile::{Level, Tile},
    values::{self, TextFolders},
};

/// Why nothing, or not everything, was removed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No record in the log says that so much may go.
    #[error("the log says that entries below {allowed} may be removed, not below {asked}")]
    NotAllowed {
        /// What was asked for.
        asked: u64,
        /// What the newest record says.
        allowed: u64,
    },
    /// A file cannot be removed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the entry allows to be missing: everything below this index. `index` is its own number.
pub(crate) fn minimum_of(entry: &Entry, index: u64) -> u64 {
    let minimum = match &entry.record {
        Record::Prune(prune) => prune.minimum,
        // A number is plain in a leaf.
        Record::Committed(leaf) if leaf.kind == "prune" => leaf
            .fields
            .get("minimum")
            .and_then(Value::as_u64)
            .unwrap_or(0),
        _ => 0,
    };
    match minimum <= index && minimum % 256 == 0 {
        true => minimum,
        false => 0,
    }
}

/// How many bundles are missing from the beginning of a log of `size` entries. Only full ones can be.
pub(crate) fn missing(dir: &Path, size: u64) -> u64 {
    let has = |level, number| {
        let file = Tile::full(level, number).to_string();
        dir.join(file).symlink_metadata().is_ok()
    };
    // Hashes are never removed: without them the size is not this folder's, and may be any number.
    let stop = |number: &u64| has(Level::Entries, *number) || !has(Level::Hashes(0), *number);
    let full = Level::Entries.full(size);
    (0..full).find(stop).unwrap_or(full)
}

impl Reader {
    /// What the records in the log allow to be missing: everything below this index, a multiple of 256.
    ///
    /// # Errors
    /// An entry that has to be there cannot be read.
    pub fn minimum(&self) -> Result<u64, ReadError> {
        let first = missing(self.dir(), self.size()) * 256;
        let mut minimum = 0;
        for item in self.entries(first..self.size()) {
            let (index, bytes) = item?;
            // What is no record allows nothing.
            if let Ok(entry) = Entry::from_bytes(&bytes) {
                minimum = minimum.max(minimum_of(&entry, index));
            }
        }
        Ok(minimum)
    }

    /// The first entry that is to be read: those before it were removed, as a record says. 0 for a log that
    /// nothing was removed from, and for one where something was that no record allows: reading that is an error.
    ///
    /// # Errors
    /// As for [`Reader::minimum`].
    pub fn first(&self) -> Result<u64, ReadError> {
        let first = missing(self.dir(), self.size()) * 256;
        if first == 0 || self.minimum()? < first {
            return Ok(0);
        }
        Ok(first)
    }
}

/// Removes the bundles of the log in `dir` that are wholly below `minimum`, with their texts, and says how many there
/// were. `text` is as for [`crate::LogOptions`].
///
/// # Errors
/// No record in the log allows it, or a file cannot be removed; what is gone by then is gone.
pub fn prune(dir: &Path, text: Option<&TextFolders>, minimum: u64) -> Result<u64, PruneError> {
    let reader = Reader::open(dir)?;
    let allowed = reader.minimum()?;
    if minimum > allowed {
        return Err(PruneError::NotAllowed {
            asked: minimum,
            allowed,
        });
    }
    let numbers = missing(dir, reader.size())..minimum / 256;
    for number in numbers.clone() {
        let tile = Tile::full(Level::Entries, number);
        let path = dir.join(tile.to_string());
        if let Some(text) = text {
            values::remove(&text.values, number)?;
        }
        // A narrower file of it, left by a writer that was killed, has the same entries.
        match fs::remove_dir_all(dir.join(tile.partial_dir())) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::new("remove", &path, e).into());
            }
            _ => {}
        }
        fs::remove_file(&path).map_err(|e| FileError::new("remove", &path, e))?;
    }
    // Files that come back with the power going are as little harm as files that were never removed.
    Ok(numbers.end.saturating_sub(numbers.start))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::{
        Defect, Log, Signer, VerifyError, VerifyOptions,
        entry::{Gap, Prune},
        verify,
    };

    fn signer() -> Signer {
        Signer::new("log.example", SigningKey::from_bytes(&[1; 32])).unwrap()
    }

    fn record(record: Record) -> Vec<u8> {
        Entry::now("s", 0, record).to_bytes()
    }

    fn allow(minimum: u64) -> Vec<u8> {
        record(Record::Prune(Prune {
            minimum,
            ..Prune::default()
        }))
    }

    /// A log of so many entries, and one that allows this to be missing.
    fn log(size: u64, minimum: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), signer()).unwrap();
        let entry = record(Record::Gap(Gap::default()));
        let entries = vec![entry.as_slice(); size as usize];
        log.append_batch(&entries).unwrap();
        log.append(&allow(minimum)).unwrap();
        dir
    }

    fn verified(dir: &Path) -> Result<u64, VerifyError> {
        verify(dir, &VerifyOptions::new(signer().verifier())).map(|r| r.pruned)
    }

    fn bundle(number: u64) -> String {
        Tile::full(Level::Entries, number).to_string()
    }

    #[test]
    fn what_a_record_allows_goes_and_the_rest_is_proved_as_before() {
        let dir = log(1000, 512);
        let before = Reader::open(dir.path()).unwrap();
        assert_eq!(
            (before.first().unwrap(), before.minimum().unwrap()),
            (0, 512)
        );
        let root = before.root_at(300).unwrap();
        let old = before.entry(5).unwrap();
        let proof = before.tlog_proof(5, None).unwrap();
        assert_eq!(prune(dir.path(), None, 512).unwrap(), 2);
        assert_eq!(prune(dir.path(), None, 512).unwrap(), 0);
        assert_eq!(verified(dir.path()).unwrap(), 512);
        let reader = Reader::open(dir.path()).unwrap();
        assert_eq!(reader.first().unwrap(), 512);
        assert!(reader.entry(511).is_err() && reader.entry(512).is_ok());
        // Whoever kept an entry can still prove it.
        assert_eq!(reader.root_at(300).unwrap(), root);
        assert_eq!(reader.tlog_proof(5, None).unwrap().hashes, proof.hashes);
        proof.verify(&old, &signer().verifier()).unwrap();
        // The log goes on, and more of it goes.
        let log = Log::open(dir.path(), signer()).unwrap();
        log.append(&allow(768)).unwrap();
        log.close().unwrap();
        assert_eq!(prune(dir.path(), None, 768).unwrap(), 1);
        assert_eq!(verified(dir.path()).unwrap(), 768);
    }

    #[test]
    fn a_removal_that_was_cut_off_verifies_and_is_gone_on_with() {
        let dir = log(1000, 512);
        fs::remove_file(dir.path().join(bundle(0))).unwrap();
        assert_eq!(verified(dir.path()).unwrap(), 256);
        assert_eq!(prune(dir.path(), None, 512).unwrap(), 1);
        assert_eq!(verified(dir.path()).unwrap(), 512);
    }

    /// What is missing from the log, and the file that is named.
    fn missing_file(dir: &Path) -> String {
        match verified(dir).unwrap_err() {
            VerifyError::Defect(Defect::Missing { file }) => file,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_no_record_allows_is_missing() {
        // One bundle more than allowed.
        let dir = log(1000, 256);
        assert!(matches!(
            prune(dir.path(), None, 512),
            Err(PruneError::NotAllowed {
                asked: 512,
                allowed: 256
            })
        ));
        for number in 0..2 {
            fs::remove_file(dir.path().join(bundle(number))).unwrap();
        }
        assert_eq!(missing_file(dir.path()), bundle(1));
        assert_eq!(Reader::open(dir.path()).unwrap().first().unwrap(), 0);
        // One from the middle.
        let dir = log(1000, 512);
        fs::remove_file(dir.path().join(bundle(1))).unwrap();
        assert_eq!(missing_file(dir.path()), bundle(1));
        // A hash is never allowed to be missing.
        let dir = log(1000, 512);
        let tile = Tile::full(Level::Hashes(0), 0).to_string();
        fs::remove_file(dir.path().join(bundle(0))).unwrap();
        fs::remove_file(dir.path().join(&tile)).unwrap();
        assert!(verified(dir.path()).is_err());
    }

    #[test]
    fn a_record_allows_nothing_that_is_not_before_it_or_not_a_whole_bundle() {
        for minimum in [1024, 300, u64::MAX, u64::MAX - 255] {
            let dir = log(1000, minimum);
            fs::remove_file(dir.path().join(bundle(0))).unwrap();
            assert_eq!(missing_file(dir.path()), bundle(0), "{minimum}");
        }
    }

    #[test]
    fn a_changed_hash_of_a_removed_entry_is_found() {
        let dir = log(1000, 512);
        prune(dir.path(), None, 512).unwrap();
        let tile = dir.path().join(Tile::full(Level::Hashes(0), 0).to_string());
        let mut bytes = fs::read(&tile).unwrap();
        bytes[40] ^= 1;
        fs::write(&tile, bytes).unwrap();
        assert!(matches!(
            verified(dir.path()),
            Err(VerifyError::Defect(Defect::TileChanged { .. }))
        ));
    }
}
