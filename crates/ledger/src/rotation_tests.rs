//! Replacing the log's key: who can go on, what is refused, and that it may stop between any two steps.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    AppendError, Entry, KeyHistory, Log, LogOptions, OpenError, Reader, Record, RotationError,
    Signer, Verifier, VerifyError, VerifyOptions,
    entry::{Gap, KeyRotation},
    fault_tests::{Fault, Faulty},
    key,
    store::{Disk, RealDisk},
    verify,
};

const LATER: Duration = Duration::from_secs(3600);

struct Host {
    root: tempfile::TempDir,
    lag: Duration,
}

impl Host {
    fn new(lag: Duration) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("keys")).expect("a folder");
        let host = Host { root, lag };
        key::load_or_create(&host.key(), "log.example").expect("a key");
        host
    }

    fn key(&self) -> PathBuf {
        self.root.path().join("keys/ledger.key")
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("ledger")
    }

    fn head(&self) -> PathBuf {
        self.root.path().join("keys/ledger.head")
    }

    fn open_on(&self, disk: Arc<dyn Disk>) -> Result<Log, OpenError> {
        let options = LogOptions {
            head: Some(self.head()),
            key: Some(self.key()),
            lag: self.lag,
            text: None,
        };
        Log::open_on(
            &self.dir(),
            key::load(&self.key()).expect("a key"),
            options,
            disk,
        )
    }

    fn open(&self) -> Log {
        self.open_on(Arc::new(RealDisk)).expect("opened")
    }

    /// Appends records and says what the log's key is.
    fn grow(&self, count: u64) -> Verifier {
        let log = self.open();
        let entries: Vec<_> = (0..count).map(gap).collect();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        log.append_batch(&entries).expect("appended");
        log.close().expect("closed");
        self.verifier()
    }

    fn verifier(&self) -> Verifier {
        key::load(&self.key()).expect("a key").verifier()
    }

    fn rotate(&self) -> (Verifier, u64) {
        let log = self.open();
        let next = key::prepare(&self.key()).expect("a key");
        let index = log.rotate_key(&rotation(&self.verifier(), &next.verifier()), &next);
        (next.verifier(), index.expect("rotated"))
    }

    fn verify(&self, key: &Verifier) -> Result<Vec<u64>, VerifyError> {
        let mut options = VerifyOptions::new(key.clone());
        options.head = Some(self.head());
        verify(&self.dir(), &options).map(|report| report.rotations)
    }

    fn private(&self) -> Vec<String> {
        let files = fs::read_dir(self.root.path().join("keys")).expect("a folder");
        let texts = files.map(|f| fs::read(f.expect("a file").path()).expect("a file"));
        texts
            .map(|t| String::from_utf8_lossy(&t).into_owned())
            .collect()
    }
}

fn gap(lost: u64) -> Vec<u8> {
    let reason = "test".into();
    let gap = Gap {
        lost,
        reason,
        ..Gap::default()
    };
    Entry::now("s", lost, Record::Gap(gap)).to_bytes()
}

fn rotation(old: &Verifier, new: &Verifier) -> Vec<u8> {
    let record = KeyRotation {
        old: old.to_string(),
        new: new.to_string(),
        ..KeyRotation::default()
    };
    Entry::now("r", 0, Record::KeyRotation(record)).to_bytes()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file")
}

#[test]
fn whoever_knows_any_key_of_the_log_can_go_on() {
    for lag in [Duration::ZERO, LATER] {
        let host = Host::new(lag);
        let first = host.grow(3);
        let (second, index) = host.rotate();
        assert_eq!(index, 3);
        // Of both keys at first, then of the new one alone.
        let checkpoint = read(&host.dir().join("checkpoint"));
        for key in [&first, &second] {
            crate::Checkpoint::open(&checkpoint, key).expect("signed");
            assert_eq!(host.verify(key).expect("genuine"), [3]);
        }
        host.grow(300);
        let (third, index) = host.rotate();
        assert_eq!(index, 304);
        host.grow(2);
        for key in [&first, &second, &third] {
            assert_eq!(host.verify(key).expect("genuine"), [3, 304]);
            Reader::open_signed(&host.dir(), key).expect("signed");
        }
        let stranger = key::generate("log.example").expect("a key").verifier();
        assert!(matches!(
            host.verify(&stranger),
            Err(VerifyError::Rotation(RotationError::Foreign { .. }))
        ));
        // A proof under any checkpoint, with what followed since one of the keys.
        let reader = Reader::open(&host.dir()).expect("readable");
        let proof = reader.tlog_proof(1, None).expect("a proof");
        assert!(proof.verify(&gap(1), &first).is_err());
        let told = |n: usize| {
            let name = crate::rotation::file(n);
            let text = fs::read_to_string(host.dir().join(&name)).expect("a proof");
            (name, text)
        };
        let entry = reader.entry(1).expect("an entry");
        let keys = KeyHistory::following(&first, &[told(0), told(1)]).expect("followed");
        proof.verify_with(&entry, &keys).expect("in the log");
        let keys = KeyHistory::following(&second, &[told(1)]).expect("followed");
        proof.verify_with(&entry, &keys).expect("in the log");
        assert!(KeyHistory::following(&first, &[told(1)]).is_err());
        assert!(KeyHistory::following(&first, &[told(1), told(0)]).is_err());
    }
}

#[test]
fn the_old_key_is_nowhere_and_signs_nothing_any_more() {
    let host = Host::new(Duration::ZERO);
    host.grow(3);
    let old = key::load(&host.key()).expect("a key");
    let text = old.private_text();
    assert!(host.private().iter().any(|t| t.contains(&text)));
    let (new, _) = host.rotate();
    assert!(!host.private().iter().any(|t| t.contains(&text)));
    assert_eq!(host.private().len(), 2, "the key and the head");
    // A thief of it goes on with the log, as its owner would.
    let before = read(&host.dir().join("checkpoint"));
    let opened = Log::open(&host.dir(), old.clone());
    assert!(
        matches!(opened, Err(OpenError::Replaced { .. })),
        "{opened:?}"
    );
    assert_eq!(read(&host.dir().join("checkpoint")), before);
    let extended = |signer: &Signer| {
        let mut checkpoint = Reader::open(&host.dir())
            .expect("readable")
            .checkpoint()
            .clone();
        checkpoint.size += 1;
        checkpoint.sign(signer).expect("signed")
    };
    let keys = KeyHistory::read(&host.dir(), &old.verifier(), u64::MAX).expect("followed");
    assert!(keys.open(extended(&old).as_bytes()).is_err());
    let own = key::load(&host.key()).expect("a key");
    keys.open(extended(&own).as_bytes()).expect("signed");
    // The last one of the old key needs both.
    let reader = Reader::open(&host.dir()).expect("readable");
    for one in [&old, &own] {
        let note = reader.checkpoint().sign(one).expect("signed");
        assert!(keys.open(note.as_bytes()).is_err());
    }
    assert_eq!(host.verifier(), new);
}

#[test]
fn a_process_that_has_the_log_open_goes_on_with_the_next_key() {
    for lag in [Duration::ZERO, LATER] {
        let host = Host::new(lag);
        let first = host.grow(1);
        let log = host.open();
        log.append(&gap(1)).expect("appended");
        let (second, index) = host.rotate();
        assert_eq!(index, 2);
        assert_eq!(log.append(&gap(2)).expect("appended"), 3);
        log.close().expect("closed");
        assert_eq!(host.verify(&first).expect("genuine"), [2]);
        let checkpoint = read(&host.dir().join("checkpoint"));
        crate::Checkpoint::open(&checkpoint, &second).expect("signed");
        assert!(crate::Checkpoint::open(&checkpoint, &first).is_err());
    }
}

#[test]
fn only_a_rotation_writes_the_entry_and_only_with_the_keys_that_it_names() {
    let host = Host::new(Duration::ZERO);
    let own = host.grow(1);
    let log = host.open();
    let next = key::prepare(&host.key()).expect("a key");
    let other = key::generate("log.example").expect("a key").verifier();
    for wrong in [
        rotation(&own, &other),
        rotation(&other, &next.verifier()),
        rotation(&next.verifier(), &own),
        gap(1),
    ] {
        let done = log.rotate_key(&wrong, &next);
        assert!(matches!(done, Err(AppendError::NotRotated(_))), "{done:?}");
    }
    let own_again = key::load(&host.key()).expect("a key");
    assert!(log.rotate_key(&rotation(&own, &own), &own_again).is_err());
    drop(log);
    assert_eq!(host.grow(1), own);
    assert!(host.verify(&own).expect("genuine").is_empty());
    // In a log that keeps its text apart, nothing else appends it.
    let options = LogOptions {
        text: Some(crate::TextFolders {
            values: host.root.path().join("values"),
            subjects: host.root.path().join("subjects"),
        }),
        ..LogOptions::default()
    };
    let dir = host.root.path().join("second");
    let log = Log::open_with(&dir, own_again, options).expect("opened");
    let done = log.append(&rotation(&own, &next.verifier()));
    assert!(matches!(done, Err(AppendError::Rotation)), "{done:?}");
    log.append(&gap(1)).expect("appended");
}

#[test]
fn killed_between_any_two_steps_of_a_rotation() {
    stopped(Fault::Killed);
}

#[test]
fn power_lost_between_any_two_steps_of_a_rotation() {
    stopped(Fault::PowerLost);
}

#[test]
fn failed_at_any_step_of_a_rotation() {
    stopped(Fault::Once);
}

fn stopped(fault: Fault) {
    let (mut done, mut undone) = (0, 0);
    // Once its entry fills a bundle.
    let size = if fault == Fault::Killed { 255 } else { 3 };
    for lag in [Duration::ZERO, LATER] {
        for left in 0.. {
            let host = Host::new(lag);
            let old = host.grow(size);
            let private = key::load(&host.key()).expect("a key").private_text();
            let disk = Faulty::new(fault, left);
            let rotated = match host.open_on(disk.clone()) {
                Ok(log) => {
                    let next = key::prepare(&host.key()).expect("a key");
                    let record = rotation(&old, &next.verifier());
                    let rotated = log.rotate_key(&record, &next).is_ok();
                    // The process may go on after an error.
                    let _ = log.append(&gap(1));
                    rotated
                }
                Err(_) => false,
            };
            if fault == Fault::PowerLost {
                disk.lose_power();
            }
            let what = format!("{fault:?} {left}, {lag:?}");
            // The file has one whole key at any time, and the log goes on with the right one.
            let known = host.verifier();
            host.grow(1);
            let rotations = host.verify(&old).expect(&what);
            match rotations.as_slice() {
                [] => {
                    assert!(!rotated, "{what}");
                    assert_eq!(host.verifier(), old, "{what}");
                    undone += 1;
                    let (_, index) = host.rotate();
                    host.grow(1);
                    assert_eq!(host.verify(&old).expect(&what), [index], "{what}");
                }
                [at] if *at == size => done += 1,
                other => panic!("{what}: {other:?}"),
            }
            let newest = host.verifier();
            assert_ne!(newest, old, "{what}");
            host.verify(&newest).expect(&what);
            assert!(known == old || known == newest, "{what}");
            assert!(
                !host.private().iter().any(|t| t.contains(&private)),
                "{what}"
            );
            assert_eq!(host.private().len(), 2, "{what}");
            assert!(!host.dir().join("rotation.tmp").exists(), "{what}");
            if !disk.was_hit() {
                assert!(rotated, "{what}");
                break;
            }
        }
    }
    assert!(done > 5 && undone > 5, "{done} {undone}");
}
