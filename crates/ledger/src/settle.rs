//! Bringing in what writers have left in the journal, for whoever only reads.
//!
//! Readers see tiles and checkpoint. A writer that keeps the log open brings them up to date within its lag;
//! one that was killed leaves what it has promised to keep in the journal. So whoever is to read all that is
//! durable settles the log first: this looks, without the log's lock, and opens the log for writing for a
//! moment only if entries are waiting.
//!
//! A record that is written between the look and the reading was committed after the reader had begun: it
//! need not be seen.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    checkpoint::Checkpoint,
    journal::{Journal, Tail},
    note::Signer,
    store::{CHECKPOINT, FileError, JOURNAL, RealDisk, read_file},
    values::TextFolders,
    writer::{Beside, OpenError, Writer},
};

/// Entries are durable, and readers do not see them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{entries} durable entries are in the journal alone and cannot be brought in: {why}")]
pub struct NotSettled {
    /// How many.
    pub entries: u64,
    /// Why they stay there.
    pub why: OpenError,
}

/// Brings what the journal of the log in `dir` has into tiles and under a checkpoint, and says how many
/// entries had been waiting. `head` and `text` are as for [`crate::LogOptions`]. A writer that holds the log for longer than
/// `patience` is not waited for.
///
/// What is wrong with the log itself is left to who reads it: then nothing is waiting.
///
/// # Errors
/// Entries are waiting, and the log cannot be written.
pub fn settle(
    dir: &Path,
    signer: Signer,
    head: Option<PathBuf>,
    text: Option<TextFolders>,
    patience: Duration,
) -> Result<u64, NotSettled> {
    let entries = waiting(dir, &signer);
    if entries > 0 {
        let (values, disk) = (text.map(|t| t.values), Arc::new(RealDisk));
        // A key that has followed has nothing in the journal before it is in its own file.
        let beside = Beside {
            head,
            values,
            key: None,
        };
        Writer::open(dir, signer, beside, false, disk, Some(patience))
            .map_err(|why| NotSettled { entries, why })?;
    }
    Ok(entries)
}

/// How many entries the journal has after the checkpoint, tagged with the signer's key.
fn waiting(dir: &Path, signer: &Signer) -> u64 {
    let Ok(note) = read_file(&dir.join(CHECKPOINT), CHECKPOINT) else {
        return 0;
    };
    let (Ok((checkpoint, _)), Ok(note)) = (
        Checkpoint::parse_note(&note),
        String::from_utf8(note.clone()),
    ) else {
        return 0;
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(dir.join(JOURNAL));
    let Ok(file) = file else {
        return 0;
    };
    let read = || -> Result<usize, FileError> {
        let mut journal = Journal::of(dir, signer, file)?;
        let (entries, _) = journal.read(&RealDisk, Tail::after(&note), checkpoint.size)?;
        Ok(entries.len())
    };
    read().map_or(0, |n| n as u64)
}

#[cfg(test)]
mod tests {
    use std::{fs, mem, os::unix::fs::PermissionsExt as _};

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::{Log, LogOptions, Reader, store::LOCK};

    const LATER: Duration = Duration::from_secs(3600);

    fn signer() -> Signer {
        Signer::new("log.example", SigningKey::from_bytes(&[1; 32])).unwrap()
    }

    /// A log of three entries of a writer that was killed; two of them are in the journal alone.
    fn left() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ledger");
        let options = LogOptions {
            head: Some(root.path().join("head")),
            lag: LATER,
            ..LogOptions::default()
        };
        let log = Log::open_with(&dir, signer(), options).unwrap();
        log.append(b"0").unwrap();
        log.flush().unwrap();
        log.append(b"1").unwrap();
        log.append(b"2").unwrap();
        mem::forget(log);
        (root, dir)
    }

    fn seen(dir: &Path) -> u64 {
        Reader::open(dir).unwrap().size()
    }

    #[test]
    fn what_a_killed_writer_has_left_is_brought_in_once() {
        let (root, dir) = left();
        let head = || Some(root.path().join("head"));
        assert_eq!(seen(&dir), 1);
        assert_eq!(
            settle(&dir, signer(), head(), None, Duration::ZERO).unwrap(),
            2
        );
        assert_eq!(seen(&dir), 3);
        let before = fs::read(dir.join(CHECKPOINT)).unwrap();
        assert_eq!(
            settle(&dir, signer(), head(), None, Duration::ZERO).unwrap(),
            0
        );
        assert_eq!(fs::read(dir.join(CHECKPOINT)).unwrap(), before);
        assert_eq!(fs::read(root.path().join("head")).unwrap(), before);
    }

    #[test]
    fn a_writer_that_has_the_log_open_goes_on_after_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ledger");
        let options = LogOptions {
            lag: LATER,
            ..LogOptions::default()
        };
        let log = Log::open_with(&dir, signer(), options).unwrap();
        for n in 0..10u8 {
            assert_eq!(log.append(&[n]).unwrap(), u64::from(n));
            assert_eq!(
                settle(&dir, signer(), None, None, Duration::ZERO).unwrap(),
                1
            );
            assert_eq!(seen(&dir), u64::from(n) + 1);
        }
        log.close().unwrap();
        let reader = Reader::open(&dir).unwrap();
        let entries: Vec<u8> = (0..10).map(|i| reader.entry(i).unwrap()[0]).collect();
        assert_eq!(entries, (0..10).collect::<Vec<u8>>());
    }

    #[test]
    fn what_cannot_be_brought_in_is_told_with_its_number() {
        let (_root, dir) = left();
        // Somebody holds the log.
        let lock = fs::File::open(dir.join(LOCK)).unwrap();
        lock.lock().unwrap();
        let error = settle(&dir, signer(), None, None, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error.why, OpenError::Busy { .. }), "{error}");
        assert_eq!(error.entries, 2);
        lock.unlock().unwrap();
        assert_eq!(seen(&dir), 1);
        // A tile that was damaged: nothing is signed on top of it.
        let tile = dir.join("tile/0/000.p/1");
        let genuine = fs::read(&tile).unwrap();
        fs::set_permissions(&tile, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&tile, [0; 32]).unwrap();
        let error = settle(&dir, signer(), None, None, Duration::ZERO).unwrap_err();
        assert!(matches!(error.why, OpenError::Defect(_)), "{error}");
        fs::write(&tile, genuine).unwrap();
        assert_eq!(
            settle(&dir, signer(), None, None, Duration::ZERO).unwrap(),
            2
        );
    }

    #[test]
    fn a_journal_of_another_key_has_nothing_that_waits() {
        let (_root, dir) = left();
        let other = Signer::new("log.example", SigningKey::from_bytes(&[2; 32])).unwrap();
        assert_eq!(settle(&dir, other, None, None, Duration::ZERO).unwrap(), 0);
        assert_eq!(seen(&dir), 1);
        let nowhere = dir.join("none");
        assert_eq!(
            settle(&nowhere, signer(), None, None, Duration::ZERO).unwrap(),
            0
        );
        assert!(!nowhere.exists());
    }
}
