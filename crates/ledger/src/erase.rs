//! Erasing text: first the log says so, durably, then the keys and the ciphertexts go.
//!
//! Cut off between any two steps, nothing is destroyed that the log does not name, and the same again finishes it: what
//! is gone already is passed over.

use crate::{
    log::{AppendError, Log},
    store::FileError,
    subject::Seized,
};

/// Why text was not erased, or not all of it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// Nothing was erased: the log could not say so.
    #[error("nothing was erased: it could not be recorded: {0}")]
    NotRecorded(AppendError),
    /// The log says so, and a key is still there.
    #[error("it is recorded, and not done; the same again finishes it: {0}")]
    Key(FileError),
    /// The log says so, and a ciphertext is still there.
    #[error("it is recorded, and not done; the same again finishes it: {0}")]
    Text(AppendError),
}

impl Log {
    /// Appends `redactions` ([`crate::entry::Redaction`]), which may be none for what was recorded before, then destroys
    /// `keys`, which nobody writes with, and the texts of `entries`. Gives the number of the first redaction.
    pub fn erase(
        &self,
        redactions: &[&[u8]],
        keys: Vec<Seized>,
        entries: &[u64],
    ) -> Result<Option<u64>, EraseError> {
        let first = match redactions {
            [] => None,
            some => Some(self.append_batch(some).map_err(EraseError::NotRecorded)?),
        };
        let disk = self.disk();
        for key in keys {
            key.destroy(&*disk).map_err(EraseError::Key)?;
        }
        if !entries.is_empty() {
            self.destroy_text(entries).map_err(EraseError::Text)?;
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, mem, path::Path, sync::Arc, time::Duration};

    use crate::{
        Entry, Log, LogOptions, Reader, Record, Subjects, TextFolders, VerifyOptions, Withheld,
        entry::{Mask, Redaction, SessionEnd},
        fault_tests::{Fault, Faulty},
        key,
        store::{Disk, RealDisk},
        verify,
    };

    const LATER: Duration = Duration::from_secs(3600);
    /// Which entry of the second session is erased.
    const SINGLE: u64 = 6;

    struct Host {
        root: tempfile::TempDir,
        lag: Duration,
    }

    fn mask(session: &str, seq: u64) -> Vec<u8> {
        let path = format!("/secret/{session}/{seq}");
        Entry::now(session, seq, Record::Mask(Mask { path, rule: None })).to_bytes()
    }

    impl Host {
        /// Two sessions of four entries and their ends.
        fn new(lag: Duration) -> Host {
            let root = tempfile::tempdir().expect("a folder");
            let host = Host { root, lag };
            let log = host.open(Arc::new(RealDisk)).expect("opened");
            for session in ["one", "two"] {
                let end = Entry::now(session, 4, Record::SessionEnd(SessionEnd::default()));
                let mut entries: Vec<_> = (0..4).map(|seq| mask(session, seq)).collect();
                entries.push(end.to_bytes());
                let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
                log.append_batch(&entries).expect("appended");
            }
            log.close().expect("closed");
            host
        }

        fn folders(&self) -> TextFolders {
            TextFolders {
                values: self.root.path().join("values"),
                subjects: self.root.path().join("subjects"),
            }
        }

        fn dir(&self) -> std::path::PathBuf {
            self.root.path().join("ledger")
        }

        fn open(&self, disk: Arc<dyn Disk>) -> Result<Log, crate::OpenError> {
            let path = self.root.path().join("key");
            let options = LogOptions {
                head: Some(self.root.path().join("head")),
                lag: self.lag,
                text: Some(self.folders()),
                key: None,
            };
            let signer = key::load_or_create(&path, "log.example").expect("a key");
            Log::open_on(&self.dir(), signer, options, disk)
        }

        fn told(&self, index: u64) -> crate::Told {
            let reader = Reader::open(&self.dir()).expect("readable");
            reader.with_text(self.folders()).told(index).expect("told")
        }

        /// Whether the log says that session and entry are erased.
        fn recorded(&self) -> bool {
            let reader = Reader::open(&self.dir()).expect("readable");
            let entries = reader.entries(0..u64::MAX).map(|e| e.expect("an entry").1);
            entries.into_iter().any(|bytes| {
                Entry::from_bytes(&bytes)
                    .expect("an entry")
                    .record
                    .type_name()
                    == "redaction"
            })
        }

        /// What the command does, once again if it was cut off.
        fn erase(&self, log: &Log) -> bool {
            let mut redactions = Vec::new();
            if !self.recorded() {
                let redaction = Redaction {
                    sessions: vec!["one".into()],
                    entries: vec![SINGLE],
                    ..Redaction::default()
                };
                let entry = Entry::now("erasure", 0, Record::Redaction(redaction));
                redactions.push(entry.to_bytes());
            }
            let redactions: Vec<&[u8]> = redactions.iter().map(Vec::as_slice).collect();
            let subjects = Subjects::new(&self.folders().subjects);
            let key = subjects.seize("one").expect("nobody writes");
            log.erase(&redactions, key.into_iter().collect(), &[SINGLE])
                .is_ok()
        }

        fn verify(&self) -> u64 {
            let signer = key::load(&self.root.path().join("key")).expect("a key");
            let mut options = VerifyOptions::new(signer.verifier());
            options.head = Some(self.root.path().join("head"));
            verify(&self.dir(), &options).expect("genuine").size
        }

        /// What would still open texts that are to be gone.
        fn remains(&self, key: &[u8], sealed: &[u8]) -> bool {
            [key, sealed]
                .iter()
                .any(|bytes| anywhere(self.root.path(), bytes))
        }
    }

    fn anywhere(dir: &Path, bytes: &[u8]) -> bool {
        fs::read_dir(dir).expect("a folder").flatten().any(|file| {
            let path = file.path();
            match path.is_dir() {
                true => anywhere(&path, bytes),
                false => {
                    let text = fs::read(&path).expect("a file");
                    text.windows(bytes.len()).any(|w| w == bytes)
                }
            }
        })
    }

    /// The ciphertext of an entry of the first bundle, from its slot.
    fn sealed(host: &Host, index: u64) -> Vec<u8> {
        let file = fs::read(host.folders().values.join("000")).expect("a file");
        let slot = &file[index as usize * 8..][..8];
        let number = |at: usize| u32::from_be_bytes(slot[at..at + 4].try_into().expect("four"));
        file[number(0) as usize..][..number(4) as usize].to_vec()
    }

    fn stopped(fault: Fault) {
        let (mut untouched, mut begun) = (0, 0);
        for lag in [Duration::ZERO, LATER] {
            for left in 0.. {
                let host = Host::new(lag);
                let key = fs::read(host.folders().subjects.join("one.key")).expect("a key");
                let text = sealed(&host, SINGLE);
                assert!(host.remains(&key, &text) && !key.is_empty() && !text.is_empty());
                let disk = Faulty::new(fault, left);
                let done = match host.open(disk.clone()) {
                    Ok(log) => {
                        let done = host.erase(&log);
                        if fault != Fault::Once {
                            // The process is gone, and with it what it would do at its end.
                            mem::forget(log);
                        }
                        done
                    }
                    Err(_) => false,
                };
                if fault == Fault::PowerLost {
                    disk.lose_power();
                }
                let what = format!("{fault:?} {left}, {lag:?}");
                // Brings in what the journal has.
                let log = host.open(Arc::new(RealDisk)).expect(&what);
                log.flush().expect(&what);
                let recorded = host.recorded();
                let lost = |index: u64| !host.told(index).restored;
                assert!(!done || recorded, "{what}");
                for index in [0, 1, 2, 3, SINGLE] {
                    assert!(
                        recorded || !lost(index),
                        "{what}: {index} is gone without a word"
                    );
                }
                if recorded {
                    begun += 1
                } else {
                    untouched += 1
                }
                // The same again finishes it, and takes nothing else.
                assert!(host.erase(&log), "{what}");
                log.close().expect(&what);
                assert!(!host.remains(&key, &text), "{what}");
                for index in [0, 1, 2, 3, SINGLE] {
                    let told = host.told(index);
                    assert!(
                        matches!(told.withheld(), Some(Withheld::Erased { .. })),
                        "{what}"
                    );
                }
                for index in [5, 7, 8] {
                    let told = host.told(index);
                    assert!(told.restored, "{what}: {index}");
                }
                assert_eq!(host.verify(), 11, "{what}");
                if !disk.was_hit() {
                    assert!(done, "{what}");
                    break;
                }
            }
        }
        assert!(untouched > 5 && begun > 5, "{untouched} {begun}");
    }

    #[test]
    fn killed_between_any_two_steps_of_an_erasure() {
        stopped(Fault::Killed);
    }

    #[test]
    fn power_lost_between_any_two_steps_of_an_erasure() {
        stopped(Fault::PowerLost);
    }

    #[test]
    fn failed_at_any_step_of_an_erasure() {
        stopped(Fault::Once);
    }
}
