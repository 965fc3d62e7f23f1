use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::{
    AppendError, Log, LogOptions, Signer, SubjectError, VerifyOptions,
    entry::{Gap, Mask, Redaction, SessionEnd, tests::samples},
    key, verify,
};

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Host(tempfile::tempdir().expect("a folder"))
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("ledger")
    }

    fn folders(&self) -> TextFolders {
        TextFolders {
            values: self.0.path().join("values"),
            subjects: self.0.path().join("subjects"),
        }
    }

    fn subjects(&self) -> Subjects {
        Subjects::new(&self.folders().subjects)
    }

    fn signer(&self) -> Signer {
        key::load_or_create(&self.0.path().join("key"), "log.example").expect("a key")
    }

    fn open(&self, lag: Duration, text: bool) -> Log {
        let options = LogOptions {
            head: Some(self.0.path().join("head")),
            lag,
            text: text.then(|| self.folders()),
            key: None,
        };
        Log::open_with(&self.dir(), self.signer(), options).expect("opened")
    }

    fn log(&self) -> Log {
        self.open(Duration::ZERO, true)
    }

    fn reader(&self) -> Reader {
        let reader = Reader::open(&self.dir()).expect("readable");
        reader.with_text(self.folders())
    }

    fn told(&self, index: u64) -> Told {
        self.reader().told(index).expect("an entry")
    }

    /// The log verifies, whatever became of its text.
    fn verify(&self) -> u64 {
        let mut options = VerifyOptions::new(self.signer().verifier());
        options.head = Some(self.0.path().join("head"));
        verify(&self.dir(), &options).expect("genuine").size
    }
}

fn entry(session: &str, seq: u64, record: Record) -> Entry {
    Entry::now(session, seq, record)
}

fn mask(session: &str, seq: u64) -> Entry {
    let path = format!("/home/u/secret-{session}-{seq}");
    entry(
        session,
        seq,
        Record::Mask(Mask {
            path,
            rule: Some("keys".into()),
        }),
    )
}

fn put(log: &Log, entries: &[Entry]) -> u64 {
    let bytes: Vec<Vec<u8>> = entries.iter().map(Entry::to_bytes).collect();
    let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    log.append_batch(&slices).expect("logged")
}

/// Whether some file below has these bytes in it.
fn is_anywhere(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).expect("a folder").flatten().any(|file| {
        let path = file.path();
        match path.is_dir() {
            true => is_anywhere(&path, bytes),
            false => fs::read(&path)
                .expect("a file")
                .windows(bytes.len())
                .any(|w| w == bytes),
        }
    })
}

/// Replacing the key is done by [`Log::rotate_key`] alone.
fn is_appended(record: &Record) -> bool {
    !matches!(record, Record::KeyRotation(_))
}

#[test]
fn every_record_comes_back_and_its_text_is_in_no_file() {
    for lag in [Duration::ZERO, Duration::from_secs(3600)] {
        let host = Host::new();
        let log = host.open(lag, true);
        let mut entries: Vec<Entry> = (0..)
            .zip(samples().into_iter().filter(is_appended))
            .map(|(seq, record)| entry("s1", seq, record))
            .collect();
        entries.extend((0..600).map(|seq| mask("s2", seq)));
        assert_eq!(put(&log, &entries), 0);
        let later = mask("s3", 0);
        log.append_later(&later.to_bytes()).expect("queued");
        entries.push(later);
        log.close().expect("closed");
        assert_eq!(host.verify(), entries.len() as u64);
        for (index, entry) in (0..).zip(&entries) {
            let told = host.told(index);
            assert_eq!(&told.entry, entry);
            assert_eq!(told.bytes, entry.to_bytes());
        }
        for secret in [
            "secret-s2-3",
            "secret-s3",
            "/home/u/",
            "keys stay here",
            "asked for it",
        ] {
            assert!(!is_anywhere(host.0.path(), secret.as_bytes()), "{secret}");
        }
        assert!(
            is_anywhere(&host.dir(), b"\"rule\":\"keys\""),
            "what is plain is there"
        );
    }
}

#[test]
fn without_the_folders_a_log_tells_what_its_leaves_tell() {
    let host = Host::new();
    put(&host.log(), &[mask("s", 0)]);
    let told = Reader::open(&host.dir())
        .expect("readable")
        .told(0)
        .expect("an entry");
    assert_eq!(told.withheld(), Some(&Withheld::Unopened));
    assert_eq!(told.entry.record.type_name(), "mask");
    assert_eq!(
        (told.entry.session.as_str(), told.entry.seq, told.restored),
        ("s", 0, false)
    );
}

#[test]
fn older_entries_stay_as_they_were() {
    let host = Host::new();
    put(
        &host.open(Duration::ZERO, false),
        &[mask("s", 0), mask("s", 1)],
    );
    put(&host.log(), &[mask("s", 2)]);
    put(&host.open(Duration::ZERO, false), &[mask("s", 3)]);
    put(&host.log(), &[mask("s", 4)]);
    host.verify();
    for seq in 0..5 {
        let told = host.told(seq);
        assert_eq!(told.entry.record, mask("s", seq).record);
        assert_eq!(told.restored, seq == 2 || seq == 4);
    }
}

#[test]
fn a_log_with_text_takes_records_alone() {
    let host = Host::new();
    let log = host.log();
    for wrong in [&b"opaque"[..], b"{}", br#"{"v":9,"type":"x"}"#] {
        assert!(matches!(log.append(wrong), Err(AppendError::NotARecord)));
        assert!(matches!(
            log.append_later(wrong),
            Err(AppendError::NotARecord)
        ));
    }
    put(&log, &[mask("s", 0)]);
    let leaf = host.reader().entry(0).expect("an entry");
    assert!(
        matches!(log.append(&leaf), Err(AppendError::NotARecord)),
        "no leaf twice"
    );
    assert_eq!(host.verify(), 1);
}

#[test]
fn lost_damaged_and_forged_texts_are_told_and_the_log_verifies() {
    let host = Host::new();
    let log = host.log();
    put(&log, &[mask("s", 0), mask("s", 1), mask("t", 0)]);
    drop(log);
    let values = host.folders().values.join("000");
    let genuine = fs::read(&values).expect("texts");
    // A flipped byte of the first text: the others are read.
    let mut damaged = genuine.clone();
    damaged[256 * 8 + 30] ^= 1;
    fs::write(&values, &damaged).expect("written");
    assert_eq!(host.told(0).withheld(), Some(&Withheld::Damaged));
    assert_eq!(host.told(1).withheld(), None);
    // The text of entry 1 for entry 0.
    let mut swapped = genuine.clone();
    swapped.copy_within(8..16, 0);
    fs::write(&values, &swapped).expect("written");
    assert_eq!(host.told(0).withheld(), Some(&Withheld::Damaged));
    // By somebody who has the key: another text, encrypted for this leaf.
    let leaf = host.reader().entry(0).expect("an entry");
    let key = host.subjects().load("s").expect("readable").expect("a key");
    let lie = Text::new(&mask("lie", 0).to_bytes()).expect("random numbers");
    let lie = lie.seal(&key, 0, &leaf).expect("random numbers");
    fs::remove_file(&values).expect("removed");
    values::write(&crate::store::RealDisk, &host.folders().values, 0, &[lie]).expect("written");
    let told = host.told(0);
    assert_eq!(told.withheld(), Some(&Withheld::Forged));
    assert_eq!(told.bytes, leaf, "what is forged is not shown");
    assert!(
        host.reader()
            .openings(0, |_| true)
            .expect("readable")
            .is_err()
    );
    // Gone altogether; what is written then is there again.
    fs::remove_file(&values).expect("removed");
    assert!(matches!(
        host.told(2).withheld(),
        Some(Withheld::Missing(_))
    ));
    assert_eq!(host.verify(), 3);
    put(&host.log(), &[mask("t", 1)]);
    assert_eq!(host.told(3).entry.record, mask("t", 1).record);
    // A key that is another's, or none.
    fs::write(&values, &genuine).expect("written");
    let keys = host.folders().subjects;
    fs::copy(keys.join("t.key"), keys.join("s.key")).expect("copied");
    assert_eq!(host.told(0).withheld(), Some(&Withheld::Damaged));
    fs::remove_file(keys.join("s.key")).expect("removed");
    assert!(matches!(
        host.told(0).withheld(),
        Some(Withheld::Missing(_))
    ));
    assert_eq!(host.told(2).entry.record, mask("t", 0).record);
    fs::write(keys.join("s.key"), "short").expect("written");
    assert!(matches!(
        host.told(0).withheld(),
        Some(Withheld::Missing(_))
    ));
    assert!(matches!(
        host.log().append(&mask("s", 2).to_bytes()),
        Err(AppendError::Key(SubjectError::NotAKey { .. }))
    ));
}

fn erase(host: &Host, sessions: &[&str], entries: &[u64]) -> u64 {
    let redaction = Redaction {
        sessions: sessions.iter().map(|s| (*s).to_owned()).collect(),
        entries: entries.to_vec(),
        basis: "asked for".into(),
        ..Redaction::default()
    };
    let log = host.log();
    let by = put(&log, &[entry("erasure", 0, Record::Redaction(redaction))]);
    for session in sessions {
        if let Some(key) = host.subjects().seize(session).expect("ended") {
            key.destroy(&crate::store::RealDisk).expect("destroyed");
        }
    }
    log.destroy_text(entries).expect("destroyed");
    by
}

#[test]
fn an_erased_session_has_no_text_any_more_and_others_have() {
    let host = Host::new();
    let log = host.log();
    put(&log, &[mask("s", 0), mask("t", 0)]);
    assert!(matches!(
        host.subjects().seize("s"),
        Err(SubjectError::InUse { session }) if session == "s"
    ));
    drop(log);
    let key = host.subjects().load("s").expect("readable").expect("a key");
    let leaf = host.reader().entry(0).expect("an entry");
    let by = erase(&host, &["s"], &[]);
    assert_eq!(by, 2);
    assert_eq!(host.told(0).withheld(), Some(&Withheld::Erased { by }));
    assert_eq!(host.told(1).entry.record, mask("t", 0).record);
    assert_eq!(host.reader().entry(0).expect("an entry"), leaf);
    assert_eq!(host.verify(), 3);
    assert!(!is_anywhere(host.0.path(), &key.0));
    // A session that goes on has a new key, and its old text stays gone.
    let log = host.log();
    assert_eq!(put(&log, &[mask("s", 1)]), 3);
    assert_eq!(host.told(3).entry.record, mask("s", 1).record);
    assert_eq!(host.told(0).withheld(), Some(&Withheld::Erased { by }));
    // What came after a redaction is not erased by it.
    drop(log);
    fs::remove_file(host.folders().subjects.join("s.key")).expect("removed");
    assert!(matches!(
        host.told(3).withheld(),
        Some(Withheld::Missing(_))
    ));
    // Nor by what another entry says: only a redaction is one.
    let gap = Gap {
        reason: r#""type":"redaction","sessions":["t"]"#.into(),
        ..Gap::default()
    };
    put(&host.log(), &[entry("t", 1, Record::Gap(gap))]);
    fs::remove_file(host.folders().subjects.join("t.key")).expect("removed");
    assert!(matches!(
        host.told(1).withheld(),
        Some(Withheld::Missing(_))
    ));
}

/// The ciphertext is in the texts and may be in the journal.
#[test]
fn an_erased_entry_is_nowhere() {
    let host = Host::new();
    let log = host.open(Duration::from_secs(3600), true);
    put(&log, &[mask("s", 0), mask("s", 1)]);
    log.flush().expect("published");
    let sealed = |index| values::read(&host.folders().values, index).expect("readable");
    let (zero, one) = (sealed(0).expect("a text"), sealed(1).expect("a text"));
    assert!(is_anywhere(&host.dir(), &zero), "the journal has it, too");
    drop(log);
    let by = erase(&host, &[], &[0]);
    assert!(!is_anywhere(host.0.path(), &zero));
    assert!(is_anywhere(host.0.path(), &one));
    assert_eq!(host.told(0).withheld(), Some(&Withheld::Erased { by }));
    assert_eq!(host.told(1).entry.record, mask("s", 1).record);
    assert_eq!(host.verify(), 3);
}

#[test]
fn a_key_is_held_until_the_end_of_its_session_is_logged() {
    let host = Host::new();
    let log = host.log();
    put(&log, &[mask("s", 0)]);
    assert!(host.subjects().seize("s").is_err());
    let end = entry("s", 1, Record::SessionEnd(SessionEnd::default()));
    log.append(&end.to_bytes()).expect("logged");
    assert!(host.subjects().seize("s").expect("ended").is_some());
    put(&log, &[mask("s", 2)]);
    assert!(host.subjects().seize("s").is_err());
    drop(log);
    assert!(host.subjects().seize("s").expect("ended").is_some());
    assert!(host.subjects().seize("other").expect("readable").is_none());
}

/// Killed after the key was written over and before it was removed: it is no key, and none who is to write
/// takes it for one.
#[test]
fn a_key_that_was_half_destroyed_is_none() {
    let host = Host::new();
    put(&host.log(), &[mask("s", 0)]);
    let path = host.folders().subjects.join("s.key");
    fs::write(&path, [0; 32]).expect("written");
    assert!(matches!(
        host.told(0).withheld(),
        Some(Withheld::Missing(_))
    ));
    let seized = host
        .subjects()
        .seize("s")
        .expect("readable")
        .expect("there");
    put(&host.log(), &[mask("t", 0)]);
    drop(seized);
    put(&host.log(), &[mask("s", 1)]);
    assert_ne!(fs::read(&path).expect("a key"), [0; 32]);
    assert_eq!(host.told(2).entry.record, mask("s", 1).record);
}

#[test]
fn keys_have_the_names_of_their_sessions_and_stay_in_their_folder() {
    let host = Host::new();
    let log = host.log();
    for session in [
        "20261121-0259-k3f9",
        "",
        "..",
        "../x",
        "a/b",
        &"n".repeat(300),
        "ä",
        "sha256.00",
    ] {
        let entry = mask(session, 0);
        let at = put(&log, std::slice::from_ref(&entry));
        // A long session is cut in the entry.
        assert_eq!(host.told(at).bytes, entry.to_bytes());
    }
    use std::os::unix::fs::PermissionsExt as _;
    let keys: Vec<_> = fs::read_dir(host.folders().subjects)
        .expect("keys")
        .flatten()
        .collect();
    assert_eq!(keys.len(), 8);
    for key in keys {
        assert_eq!(
            key.metadata().expect("a key").permissions().mode() & 0o777,
            0o600
        );
    }
    assert!(
        host.folders()
            .subjects
            .join("20261121-0259-k3f9.key")
            .exists()
    );
    for dir in [host.folders().subjects, host.folders().values] {
        assert_eq!(
            fs::metadata(dir).expect("a folder").permissions().mode() & 0o777,
            0o700
        );
    }
}

/// One field is shown and nothing else is.
#[test]
fn a_field_is_opened_alone() {
    let host = Host::new();
    let log = host.log();
    put(&log, &[entry("s", 0, samples().remove(2))]);
    let reader = host.reader();
    let leaf = reader.entry(0).expect("an entry");
    let open = |wanted: &str| {
        let openings = reader.openings(0, |field| field == wanted);
        openings.expect("readable").expect("there")
    };
    let shown = open("/reason");
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].value, "keys stay here");
    shown[0].check(&leaf).expect("genuine");
    assert!(open("/rule").is_empty(), "plain");
    assert!(open("/nothing").is_empty());
    let all = reader
        .openings(0, |_| true)
        .expect("readable")
        .expect("there");
    assert!(all.len() > 3);
    // No salt of a field is that of another.
    for (i, one) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|other| other.salt != one.salt));
    }
}
