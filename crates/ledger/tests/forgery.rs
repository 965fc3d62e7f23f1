//! The forgery corpus: every way to tamper with a log is found, named by the right error, and in
//! the right file; the genuine log verifies.

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use agentwall_ledger::{
    Checkpoint, CheckpointError, Defect, HeadError, Log, LogOptions, NoteError, OpenError, Report,
    VerifyError, VerifyOptions, hash::leaf_hash, tree::Frontier, verify,
};
use common::{append, copy, log, record, signer};

/// Two full bundles and a partial one; a partial tile at level 1.
const SIZE: u64 = 600;

struct Case {
    root: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        log(root.path(), SIZE).close().expect("closed");
        Case { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("ledger").join(name)
    }

    fn verify_with(&self, head: bool) -> Result<Report, VerifyError> {
        let mut options = VerifyOptions::new(signer(1).verifier());
        options.head = head.then(|| self.root.path().join("head"));
        verify(&self.root.path().join("ledger"), &options)
    }

    /// Verifies with the head file and without; both must give the same error.
    fn error(&self) -> VerifyError {
        let with = self.verify_with(true).expect_err("tampered with");
        let without = self.verify_with(false).expect_err("tampered with");
        assert_eq!(with.to_string(), without.to_string());
        with
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path(name);
        let mut bytes = fs::read(&path).expect(name);
        change(&mut bytes);
        fs::write(&path, bytes).expect(name);
    }

    fn reopen(&self) -> Result<Log, OpenError> {
        Log::open(&self.root.path().join("ledger"), signer(1))
    }
}

/// Where entry `i` of a bundle begins.
fn offset(bundle: &[u8], i: usize) -> usize {
    agentwall_ledger::tile::split_bundle(bundle)
        .take(i)
        .map(|e| e.expect("whole").len() + 2)
        .sum()
}

#[test]
fn the_genuine_log() {
    let case = Case::new();
    let report = case.verify_with(true).expect("genuine");
    assert_eq!((report.size, report.head), (SIZE, true));
    assert_eq!(report.types, [("gap".to_owned(), SIZE)].into());
    assert_eq!(report.key, signer(1).verifier().to_string());
    let mut frontier = Frontier::default();
    (0..SIZE).for_each(|i| frontier.push(leaf_hash(&record(i)), |_, _, _| {}));
    assert_eq!(report.root, frontier.root());
    assert!(!case.verify_with(false).expect("genuine").head);
    // The files of the layout and nothing else.
    let mut names = Vec::new();
    list(&case.path(""), "", &mut names);
    names.sort();
    assert_eq!(
        names,
        [
            "checkpoint",
            "lock",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/88",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/88",
        ]
    );
}

fn list(dir: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
}

#[test]
fn an_empty_log() {
    let root = tempfile::tempdir().expect("a folder");
    log(root.path(), 0).close().expect("closed");
    let mut options = VerifyOptions::new(signer(1).verifier());
    options.head = Some(root.path().join("head"));
    let report = verify(&root.path().join("ledger"), &options).expect("genuine");
    assert_eq!(report.size, 0);
}

#[test]
fn flipped_bytes_in_entries() {
    for (bundle, entry) in [
        ("000", 0),
        ("000", 255),
        ("001", 256 + 7),
        ("002.p/88", 599),
    ] {
        let case = Case::new();
        let file = format!("tile/entries/{bundle}");
        case.change(&file, |bytes| {
            let at = offset(bytes, entry % 256) + 10;
            bytes[at] ^= 1;
        });
        match case.error() {
            VerifyError::Defect(Defect::EntryChanged { file: f, index, .. }) => {
                assert_eq!((f, index), (file, entry as u64));
            }
            other => panic!("{other}"),
        }
        assert_eq!(case.reopen().is_err(), bundle.contains(".p"));
    }
}

/// Every single byte of the small log counts.
#[test]
fn every_byte_counts() {
    let root = tempfile::tempdir().expect("a folder");
    log(root.path(), 3).close().expect("closed");
    let dir = root.path().join("ledger");
    let options = VerifyOptions::new(signer(1).verifier());
    verify(&dir, &options).expect("genuine");
    for name in ["checkpoint", "tile/0/000.p/3", "tile/entries/000.p/3"] {
        let path = dir.join(name);
        let good = fs::read(&path).expect(name);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).expect(name);
            assert!(verify(&dir, &options).is_err(), "{name} byte {at}");
            fs::write(&path, &good[..at]).expect(name);
            assert!(verify(&dir, &options).is_err(), "{name} cut at {at}");
        }
        fs::write(&path, &good).expect(name);
    }
    verify(&dir, &options).expect("genuine");
}

#[test]
fn flipped_bytes_in_tiles() {
    for (file, at) in [
        ("tile/0/000", 0),
        ("tile/0/001", 200),
        ("tile/0/002.p/88", 87),
        ("tile/1/000.p/2", 1),
    ] {
        let case = Case::new();
        case.change(file, |bytes| bytes[at * 32 + 5] ^= 0x80);
        match case.error() {
            VerifyError::Defect(Defect::TileChanged { file: f, index }) => {
                assert_eq!((f.as_str(), index), (file, Some(at as u16)));
            }
            other => panic!("{other}"),
        }
        assert_eq!(case.reopen().is_err(), file.contains(".p"));
    }
}

#[test]
fn removed_and_cut_entries() {
    let case = Case::new();
    case.change("tile/entries/001", |bytes| {
        let (from, to) = (offset(bytes, 3), offset(bytes, 4));
        bytes.drain(from..to);
    });
    assert!(matches!(case.error(),
        VerifyError::Defect(Defect::EntryCount { file, expected: 256, found: 255 })
            if file == "tile/entries/001"));

    let case = Case::new();
    case.change("tile/entries/002.p/88", |bytes| {
        bytes.pop();
    });
    assert!(matches!(case.error(),
        VerifyError::Defect(Defect::TornBundle { file, index: 599 })
            if file == "tile/entries/002.p/88"));
    assert!(case.reopen().is_err());

    for extra in [&b"x"[..], b"\x00\x01a"] {
        let case = Case::new();
        case.change("tile/entries/000", |bytes| bytes.extend_from_slice(extra));
        assert!(matches!(case.error(),
            VerifyError::Defect(Defect::TrailingBytes { bytes, .. }) if bytes == extra.len()));
    }

    let case = Case::new();
    case.change("tile/entries/000", |bytes| {
        // Two entries swapped: nothing is missing, the order is wrong.
        let (a, b, c) = (offset(bytes, 10), offset(bytes, 11), offset(bytes, 12));
        bytes[a..c].rotate_left(b - a);
    });
    assert!(matches!(
        case.error(),
        VerifyError::Defect(Defect::EntryChanged { index: 10, .. })
    ));

    for (file, by) in [("tile/0/000", -1i32), ("tile/1/000.p/2", 1)] {
        let case = Case::new();
        case.change(file, |bytes| match by {
            1 => bytes.push(0),
            _ => bytes.truncate(bytes.len() - 1),
        });
        assert!(matches!(case.error(),
            VerifyError::Defect(Defect::Length { file: f, .. }) if f == file));
    }
}

#[test]
fn missing_files() {
    for file in [
        "tile/0/000",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/002.p/88",
    ] {
        let case = Case::new();
        fs::remove_file(case.path(file)).expect("removed");
        assert!(matches!(case.error(),
            VerifyError::Defect(Defect::Missing { file: f }) if f == file));
        assert_eq!(case.reopen().is_err(), file.contains(".p"), "{file}");
    }
    let case = Case::new();
    fs::remove_file(case.path("checkpoint")).expect("removed");
    assert!(matches!(case.error(), VerifyError::NoCheckpoint { .. }));
    assert!(matches!(case.reopen(), Err(OpenError::CheckpointRemoved)));
    let case = Case::new();
    fs::remove_dir_all(case.path("tile")).expect("removed");
    assert!(matches!(
        case.error(),
        VerifyError::Defect(Defect::Missing { .. })
    ));
    assert!(matches!(case.reopen(), Err(OpenError::Defect(_))));
}

#[test]
fn files_that_do_not_belong() {
    for file in [
        "notes.txt",
        "tile/0/003.p",
        "tile/0/0000",
        "tile/00",
        "tile/entries/x000",
        "tile/entries/000~",
        "tile/0/000.p/0",
        "tile/0/002.p/088",
        "tile/entries/002.p/nan\u{1b}",
    ] {
        let case = Case::new();
        let path = case.path(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, "x").expect("a file");
        assert!(
            matches!(case.error(), VerifyError::Foreign { file: f } if f == file.replace('\u{1b}', "\\u{1b}")),
            "{file}"
        );
    }
    for file in ["tile/0/003", "tile/0/002.p/89", "tile/2/000.p/1"] {
        let case = Case::new();
        let path = case.path(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, "x").expect("a file");
        // Told apart from an older checkpoint by the head; an error without one.
        let report = case.verify_with(true).expect("only left over");
        assert_eq!(report.unfinished, [file]);
        assert!(matches!(case.verify_with(false),
            Err(VerifyError::Beyond { file: f, size: SIZE }) if f == file));
        if file != "tile/2/000.p/1" {
            continue;
        }
        // Opening for writing removes it.
        drop(case.reopen().expect("opened"));
        assert_eq!(case.verify_with(true).expect("tidy").unfinished, [""; 0]);
    }
    // A partial file that was replaced is allowed only if it is the beginning of what is there.
    let case = Case::new();
    let whole = fs::read(case.path("tile/0/000")).expect("a tile");
    fs::create_dir(case.path("tile/0/000.p")).expect("a folder");
    fs::write(case.path("tile/0/000.p/3"), &whole[..96]).expect("a file");
    case.verify_with(false).expect("a prefix");
    fs::write(case.path("tile/0/000.p/3"), &whole[32..128]).expect("a file");
    assert!(matches!(
        case.error(),
        VerifyError::Defect(Defect::TileChanged { .. })
    ));
}

#[test]
fn links_are_not_followed() {
    for file in ["checkpoint", "lock", "tile/0/000", "tile/entries/002.p/88"] {
        let case = Case::new();
        let aside = case.root.path().join("aside");
        fs::rename(case.path(file), &aside).expect("moved");
        symlink(&aside, case.path(file)).expect("a link");
        assert!(
            matches!(case.error(), VerifyError::Defect(Defect::NotAFile { file: f }) if f == file),
            "{file}"
        );
        assert_eq!(case.reopen().is_err(), file != "tile/0/000", "{file}");
    }
    let case = Case::new();
    let aside = case.root.path().join("aside");
    fs::rename(case.path("tile"), &aside).expect("moved");
    symlink(&aside, case.path("tile")).expect("a link");
    assert!(matches!(case.error(), VerifyError::Foreign { file } if file == "tile"));
}

#[test]
fn put_back_to_an_older_state() {
    let case = Case::new();
    let old = case.root.path().join("old");
    copy(&case.path(""), &old);
    let log = log(case.root.path(), 0);
    append(&log, SIZE..SIZE + 5);
    log.close().expect("closed");
    fs::remove_dir_all(case.path("")).expect("removed");
    copy(&old, &case.path(""));
    case.verify_with(false).expect("genuine, only older");
    assert!(matches!(
        case.verify_with(true),
        Err(VerifyError::Head(HeadError::RolledBack {
            size: SIZE,
            seen: 605
        }))
    ));
    let options = LogOptions {
        head: Some(case.root.path().join("head")),
        ..LogOptions::default()
    };
    let open = |options: &LogOptions| Log::open_with(&case.path(""), signer(1), options.clone());
    assert!(matches!(
        open(&options),
        Err(OpenError::Head(HeadError::RolledBack { .. }))
    ));
    // The whole folder gone: a new log must not begin in its place.
    fs::remove_dir_all(case.path("")).expect("removed");
    assert!(matches!(
        open(&options),
        Err(OpenError::Head(HeadError::RolledBack { size: 0, .. }))
    ));
    // Only the checkpoint put back: what lies beyond it shows that.
    let case = Case::new();
    let old = fs::read(case.path("checkpoint")).expect("a checkpoint");
    let log = common::log(case.root.path(), 0);
    append(&log, SIZE..SIZE + 200);
    log.close().expect("closed");
    fs::write(case.path("checkpoint"), old).expect("written");
    assert!(matches!(
        case.verify_with(true),
        Err(VerifyError::Head(HeadError::RolledBack { .. }))
    ));
    assert!(matches!(
        case.verify_with(false),
        Err(VerifyError::Beyond { .. })
    ));
}

#[test]
fn another_history_by_the_same_key() {
    let case = Case::new();
    fs::remove_dir_all(case.path("")).expect("removed");
    let log = Log::open(&case.path(""), signer(1)).expect("opened");
    append(&log, 1..SIZE + 2);
    log.close().expect("closed");
    case.verify_with(false).expect("consistent in itself");
    assert!(matches!(
        case.verify_with(true),
        Err(VerifyError::Head(HeadError::Forked { size: SIZE, .. }))
    ));
    let head = case.root.path().join("head");
    let options = LogOptions {
        head: Some(head.clone()),
        ..LogOptions::default()
    };
    assert!(matches!(
        Log::open_with(&case.path(""), signer(1), options),
        Err(OpenError::Head(HeadError::Forked { .. }))
    ));
    fs::write(&head, "").expect("written");
    assert!(matches!(
        case.verify_with(true),
        Err(VerifyError::Head(HeadError::Malformed { .. }))
    ));
    fs::remove_file(&head).expect("removed");
    assert!(matches!(
        case.verify_with(true),
        Err(VerifyError::Head(HeadError::Missing { .. }))
    ));
}

#[test]
fn foreign_keys_and_forged_checkpoints() {
    let checkpoint_error = |case: &Case| match case.error() {
        VerifyError::Checkpoint(e) => e,
        other => panic!("{other}"),
    };
    // The whole log again, signed by another key of the same name.
    let case = Case::new();
    fs::remove_dir_all(case.path("")).expect("removed");
    let log = Log::open(&case.path(""), signer(2)).expect("opened");
    append(&log, 0..SIZE);
    log.close().expect("closed");
    assert!(matches!(
        checkpoint_error(&case),
        CheckpointError::Note(NoteError::ForeignKey { .. })
    ));
    assert!(matches!(case.reopen(), Err(OpenError::Checkpoint(_))));

    let text = |case: &Case| fs::read_to_string(case.path("checkpoint")).expect("text");
    let put = |case: &Case, text: &str| fs::write(case.path("checkpoint"), text).expect("text");
    let case = Case::new();
    put(&case, &text(&case).replace("\n600\n", "\n599\n"));
    assert!(matches!(
        checkpoint_error(&case),
        CheckpointError::Note(NoteError::BadSignature { .. })
    ));
    put(&case, "");
    assert!(matches!(
        checkpoint_error(&case),
        CheckpointError::Note(NoteError::NoSignatures)
    ));
    // Even with the right signature: another spelling, another log, another tree.
    let put_signed = |body: &str| put(&case, &signer(1).sign(body).expect("signed"));
    let root = case.verify_root();
    put_signed(&format!("{}\n0600\n{root}\n", common::ORIGIN));
    assert!(matches!(checkpoint_error(&case), CheckpointError::Size(s) if s == "0600"));
    put_signed(&format!("other.example\n600\n{root}\n"));
    assert!(matches!(
        checkpoint_error(&case),
        CheckpointError::OtherLog { .. }
    ));
    let other = Checkpoint::new(common::ORIGIN, SIZE, leaf_hash(b"other"));
    put_signed(&other.to_text());
    assert!(matches!(
        case.verify_with(false),
        Err(VerifyError::Defect(Defect::Root { size: SIZE, .. }))
    ));
    assert!(matches!(
        case.reopen(),
        Err(OpenError::Defect(Defect::Root { .. }))
    ));
}

impl Case {
    fn verify_root(&self) -> String {
        let mut frontier = Frontier::default();
        (0..SIZE).for_each(|i| frontier.push(leaf_hash(&record(i)), |_, _, _| {}));
        frontier.root().to_base64()
    }
}

#[test]
fn entries_that_are_not_records() {
    for (bytes, ok) in [
        (&b"{\"v\":1}"[..], true),
        (b"{\"v\": 1}", false),
        (b"text", false),
        (b"", false),
    ] {
        let case = Case::new();
        let log = case.reopen().expect("opened");
        log.append(bytes).expect("appended");
        drop(log);
        let result = case.verify_with(false);
        if ok {
            assert_eq!(result.expect("opaque").types["?"], 1);
        } else {
            assert!(matches!(
                result,
                Err(VerifyError::Entry { index: SIZE, .. })
            ));
        }
        let mut options = VerifyOptions::new(signer(1).verifier());
        options.records = false;
        verify(&case.path(""), &options).expect("not looked at");
    }
}

#[test]
fn a_writer_that_does_not_finish_is_not_waited_for() {
    let case = Case::new();
    let lock = fs::File::options().write(true).open(case.path("lock"));
    let lock = lock.expect("the log's lock");
    lock.lock().expect("held");
    let report = case.verify_with(true).expect("what is published holds");
    assert_eq!(report.size, SIZE);
    // What contradicts itself is told, and that somebody may be at work.
    case.change("tile/entries/000", |b| b[3] ^= 1);
    let error = case.verify_with(true).expect_err("tampered with");
    assert!(
        matches!(&error, VerifyError::Busy { found } if matches!(**found, VerifyError::Defect(_))),
        "{error}"
    );
    lock.unlock().expect("let go");
    assert!(matches!(case.error(), VerifyError::Defect(_)));
}
