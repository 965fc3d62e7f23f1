//! The ledger's formats: each is read in one spelling only, so what is read is written back to the
//! byte; proofs and whole logs that were changed are refused.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::OnceLock};

use agentwall_ledger::{
    Checkpoint, Entry, EntryError, Hash, KeyHistory, Log, LogOptions, Note, Reader, Record, Signer,
    TlogProof, Verifier, VerifyOptions,
    entry::{
        ChangedFile, Changes, Commit, DecisionRecord, Exec, Gap, KeyRotation, SessionEnd,
        SessionStart,
    },
    hash::leaf_hash,
    proof::{
        MemoryTree, prove_consistency, prove_inclusion, root_at, verify_consistency,
        verify_inclusion,
    },
    tile::{MAX_ENTRY, Tile, decode_hashes, encode_hashes, push_entry, split_bundle},
    verify,
};
use ed25519_dalek::SigningKey;

use crate::{
    input::{Bytes, parts},
    tree,
};

const ORIGIN: &str = "agentwall.example/fuzz";

fn signer() -> Signer {
    Signer::new(ORIGIN, SigningKey::from_bytes(&[7; 32])).expect("a valid name")
}

/// The key that follows it.
fn next() -> Signer {
    Signer::new(ORIGIN, SigningKey::from_bytes(&[8; 32])).expect("a valid name")
}

/// Signed notes, verifier keys, checkpoints.
pub fn note(data: &[u8]) {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_text().as_bytes(), data);
        assert!(note.text().ends_with('\n'));
        assert!(note.verify(&signer().verifier()).is_err() || signed_by_hand(&note));
    }
    if let Ok((checkpoint, note)) = Checkpoint::parse_note(data) {
        assert_eq!(checkpoint.to_text(), note.text());
        let text = checkpoint
            .sign(&signer())
            .expect("a text without control characters");
        let opened = Checkpoint::open(text.as_bytes(), &signer().verifier());
        assert_eq!(opened.is_ok(), checkpoint.origin == ORIGIN);
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_text(), text);
    }
    if let Ok(key) = Verifier::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(signed) = signer().sign(text) {
        let note = Note::parse(signed.as_bytes()).expect("a note of our own");
        assert_eq!(note.text(), text);
        note.verify(&signer().verifier()).expect("our signature");
    }
}

/// The seeds hold notes that the key of this file has signed.
fn signed_by_hand(note: &Note) -> bool {
    signer().sign(note.text()).is_ok_and(|signed| {
        let line = signed.rsplit('\n').nth(1).unwrap_or_default();
        note.to_text().lines().any(|l| l == line)
    })
}

/// Names of tiles, bundles of entries, tiles of hashes.
pub fn tile(data: &[u8]) {
    if let Ok(path) = std::str::from_utf8(data)
        && let Some(tile) = Tile::parse(path)
    {
        assert_eq!(tile.to_string(), path);
        assert!((1..=256).contains(&tile.width));
    }
    let (mut bundle, mut left) = (Vec::new(), 0);
    for entry in split_bundle(data) {
        match entry {
            Ok(entry) => assert!(push_entry(&mut bundle, entry)),
            Err(bytes) => left = bytes,
        }
    }
    assert_eq!(bundle.len() + left, data.len());
    assert!(data.starts_with(&bundle));
    let width = u16::try_from(data.len() / 32).unwrap_or(u16::MAX);
    if let Some(hashes) = decode_hashes(data, width) {
        assert_eq!(encode_hashes(&hashes), data);
    }
    assert!(decode_hashes(data, width.wrapping_add(1)).is_none());
}

/// Proof files in text, and proofs of small trees with a change: accepted only if nothing changed.
pub fn proof(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(proof) = TlogProof::parse(text)
    {
        assert_eq!(proof.to_string(), text);
        assert!(
            proof
                .verify(b"no entry of any log", &signer().verifier())
                .is_err()
        );
        // Nothing but an entry under the key's own signature makes another one its successor.
        let told = [("proof".to_owned(), text.to_owned())];
        let keys = KeyHistory::following(&signer().verifier(), &told);
        let own = |proof: &TlogProof| {
            let leaf = proof.extra.as_deref().unwrap_or_default();
            proof.verify(leaf, &signer().verifier()).is_ok()
        };
        assert!(keys.is_err() || own(&proof));
    }
    let mut bytes = Bytes(data);
    let size = u64::from(bytes.short() % 600) + 1;
    let mut tree = MemoryTree::default();
    let leaves: Vec<Hash> = (0..size).map(|i| leaf_hash(&i.to_be_bytes())).collect();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    let root = root_at(&tree, size).expect("in the tree");

    let index = u64::from(bytes.short()) % size;
    let leaf = leaves[usize::try_from(index).expect("small")];
    let proof = prove_inclusion(&tree, index, size)
        .expect("in the tree")
        .expect("an index below");
    verify_inclusion(&leaf, index, size, &proof, &root).expect("a true proof");
    let old = u64::from(bytes.short()) % (size + 1);
    let old_root = root_at(&tree, old).expect("in the tree");
    let grown = prove_consistency(&tree, old, size)
        .expect("in the tree")
        .expect("not smaller");
    verify_consistency(old, &old_root, size, &root, &grown).expect("a true proof");

    let changed = change(&mut bytes, &proof);
    if changed != proof {
        assert!(verify_inclusion(&leaf, index, size, &changed, &root).is_err());
    }
    let other = bytes.word() % (2 * size);
    if other != index {
        assert!(verify_inclusion(&leaf, other, size, &proof, &root).is_err());
    }
    let changed = change(&mut bytes, &grown);
    if changed != grown {
        assert!(verify_consistency(old, &old_root, size, &root, &changed).is_err());
    }
    // Sizes from an untrusted checkpoint: any number.
    let (a, b) = (bytes.word(), bytes.word());
    assert!(verify_inclusion(&leaf, a, b, &changed, &leaf_hash(b"another root")).is_err());
    let _ = verify_consistency(a, &old_root, b, &root, &changed);
}

/// A list of hashes with one changed, removed, added or moved.
fn change(bytes: &mut Bytes<'_>, hashes: &[Hash]) -> Vec<Hash> {
    let mut hashes = hashes.to_vec();
    let at = usize::from(bytes.byte());
    match bytes.byte() % 5 {
        0 if !hashes.is_empty() => {
            let at = at % hashes.len();
            hashes[at].0[usize::from(bytes.byte() % 32)] ^= bytes.byte();
        }
        1 if !hashes.is_empty() => drop(hashes.remove(at % hashes.len())),
        2 => hashes.insert(at % (hashes.len() + 1), leaf_hash(bytes.string())),
        3 if !hashes.is_empty() => {
            let n = hashes.len();
            hashes.swap(at % n, usize::from(bytes.byte()) % n);
        }
        _ => {}
    }
    hashes
}

/// One entry. What is read has one spelling, and cutting what is too long is done once.
pub fn entry(data: &[u8]) {
    if data.len() > MAX_ENTRY {
        return;
    }
    let entry = match Entry::from_bytes(data) {
        Ok(entry) => entry,
        Err(EntryError::NotAnObject(why)) => {
            assert!(!why.is_empty());
            let read: Result<serde_json::Map<String, serde_json::Value>, _> =
                serde_json::from_slice(data);
            assert!(read.is_err());
            return;
        }
        Err(_) => return,
    };
    let bytes = entry.to_bytes();
    assert!(bytes.len() <= MAX_ENTRY);
    let again = Entry::from_bytes(&bytes).expect("an entry of our own");
    assert_eq!(again.record.type_name(), entry.record.type_name());
    assert_eq!(again.to_bytes(), bytes, "cut a second time");
    if let Record::Other(other) = &entry.record {
        assert_eq!(serde_json::to_vec(&other.fields).expect("writable"), data);
    }
    // The limits of the first cut are far above what is in short entries.
    if data.len() <= 4096 {
        assert_eq!(again, entry);
        assert_eq!(bytes, data);
    }
}

/// Records of any size. They are cut to what fits into an entry, once, and what is gone is told.
pub fn clip(data: &[u8]) {
    let mut bytes = Bytes(data);
    let denied = DecisionRecord {
        reason: many(&mut bytes).concat(),
        monitors: many(&mut bytes),
        errors: many(&mut bytes),
        ..DecisionRecord::default()
    };
    let command = many(&mut bytes);
    let texts = many(&mut bytes);
    let map = || texts.iter().cloned().zip(texts.iter().cloned()).collect();
    let counts: BTreeMap<String, u64> = texts.iter().map(|t| (t.clone(), 3)).collect();
    let (monitors, errors) = (denied.monitors.len(), denied.errors.len());
    let told = |list: &[String]| match list.last().and_then(|l| l.strip_prefix("\u{2026}[")) {
        Some(mark) => {
            let count = mark.strip_suffix(" more]").expect("a mark");
            list.len() - 1 + count.parse::<usize>().expect("a number")
        }
        None => list.len(),
    };
    let exec = Exec {
        argv: command.clone(),
        ..Exec::new(denied, &command)
    };
    match cut(Record::Exec(exec)) {
        Record::Exec(exec) => {
            assert_eq!(exec.argv.len() as u64 + exec.argv_cut, command.len() as u64);
            assert_eq!(told(&exec.decision.monitors), monitors);
            assert_eq!(told(&exec.decision.errors), errors);
        }
        other => panic!("{other:?}"),
    }
    let start = SessionStart {
        command: command.clone(),
        enforcement: map(),
        ..SessionStart::default()
    };
    match cut(Record::SessionStart(start)) {
        Record::SessionStart(start) => {
            assert_eq!(
                start.command.len() as u64 + start.command_cut,
                command.len() as u64
            );
        }
        other => panic!("{other:?}"),
    }
    let end = SessionEnd {
        allowed: counts.clone(),
        ..SessionEnd::default()
    };
    match cut(Record::SessionEnd(end)) {
        Record::SessionEnd(end) => {
            assert_eq!(
                end.allowed.values().sum::<u64>(),
                counts.values().sum::<u64>()
            );
        }
        other => panic!("{other:?}"),
    }
    let files = command.iter().map(|path| {
        let file = ChangedFile {
            path: path.clone(),
            change: "add".into(),
            ..ChangedFile::default()
        };
        (path.clone().into_bytes(), file)
    });
    // A set of changes is put into as many entries as it needs, so that nothing is cut.
    let mut paths = Vec::new();
    for changes in Changes::in_parts(files.collect()) {
        let outcome = BTreeMap::new();
        let reviewed = None;
        let commit = Commit {
            changes,
            outcome,
            reviewed,
        };
        match cut(Record::Commit(commit)) {
            Record::Commit(commit) => {
                assert_eq!(commit.changes.files_cut, 0);
                paths.extend(commit.changes.files.into_iter().map(|file| file.path));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut command = command;
    command.sort();
    // A longer path is cut by itself.
    if command.iter().all(|path| path.len() <= 8192) {
        assert_eq!(paths, command);
    }
}

/// Up to 2047 texts, all different, of up to some thousand bytes.
fn many(bytes: &mut Bytes<'_>) -> Vec<String> {
    let count = usize::from(bytes.short() & 2047);
    let repeat = usize::from(bytes.byte() & 31);
    let unit = String::from_utf8_lossy(bytes.string()).repeat(repeat);
    let count = count.min(120_000 / (unit.len() + 8));
    (0..count).map(|n| format!("{n} {unit}")).collect()
}

/// A record as it comes back from its entry.
fn cut(record: Record) -> Record {
    let mut entry = Entry::now("s", 1, record);
    entry.time = "2026-01-02T03:04:05.678Z".into();
    let bytes = entry.to_bytes();
    assert!(bytes.len() <= MAX_ENTRY, "{} bytes", bytes.len());
    let again = Entry::from_bytes(&bytes).expect("an entry of our own");
    assert_eq!(again.to_bytes(), bytes, "cut a second time");
    again.record
}

/// A log with one of its files changed: found by the verifier, and no wrong entry is ever read.
pub fn log(data: &[u8]) {
    let template = template();
    let mut bytes = Bytes(parts(data)[0]);
    let (name, original) = &template.files[usize::from(bytes.byte()) % template.files.len()];
    let mut file = original.clone();
    let at = usize::from(bytes.short()) % (file.len() + 1);
    match bytes.byte() % 4 {
        0 => file.truncate(at),
        1 => file
            .splice(at..at, bytes.string().iter().copied())
            .for_each(drop),
        2 => {
            let with = bytes.string();
            let end = (at + with.len()).min(file.len());
            file.splice(at..end, with.iter().copied()).for_each(drop);
        }
        _ => {
            if let Some(b) = file.get_mut(at) {
                *b ^= bytes.byte();
            }
        }
    }
    let path = template.root.join(name);
    fs::write(&path, &file).expect("written");
    let mut options = VerifyOptions::new(signer().verifier());
    options.head = Some(template.root.join("head"));
    let dir = template.root.join("ledger");
    let verdict = verify(&dir, &options);
    let entries: Vec<_> = match Reader::open_signed(&dir, &options.key) {
        Ok(reader) => reader.entries(0..reader.size()).collect(),
        Err(_) => Vec::new(),
    };
    fs::write(&path, original).expect("written");
    // Signatures of other keys beside ours change no statement.
    let statement = |file: &[u8]| Note::parse(file).map(|note| note.text().to_owned()).ok();
    let same = file == *original
        || match name.as_str() {
            "ledger/checkpoint" | "head" => statement(&file) == statement(original),
            "ledger/rotation/0" => proved(&file) == proved(original),
            _ => false,
        };
    match verdict {
        Ok(report) => {
            assert!(same, "a change of {name} at {at} was not found");
            assert_eq!((report.size, report.rotations), (SIZE + 1, vec![SIZE]));
        }
        Err(error) => {
            assert!(file != *original, "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
    for (index, entry) in entries.into_iter().flatten() {
        let genuine = match index {
            SIZE => rotation(),
            index => record(index),
        };
        assert_eq!(entry, genuine, "entry {index} after a change of {name}");
    }
}

/// What a proof says, whoever else has signed the checkpoint in it.
fn proved(file: &[u8]) -> Option<(TlogProof, String)> {
    let mut proof = TlogProof::parse(std::str::from_utf8(file).ok()?).ok()?;
    let note = Note::parse(proof.checkpoint.as_bytes()).ok()?;
    proof.checkpoint.clear();
    Some((proof, note.text().to_owned()))
}

/// One full bundle and a partial one, a partial tile at level 1. Then the key is replaced.
const SIZE: u64 = 260;

struct Template {
    root: PathBuf,
    /// Every file of the log and its head file, relative to the root.
    files: Vec<(String, Vec<u8>)>,
}

fn record(i: u64) -> Vec<u8> {
    let mut entry = Entry::now("s", i, Record::Gap(Gap::default()));
    entry.time = "2026-01-02T03:04:05.678Z".into();
    entry.to_bytes()
}

fn rotation() -> Vec<u8> {
    let record = KeyRotation {
        old: signer().verifier().to_string(),
        new: next().verifier().to_string(),
        ..KeyRotation::default()
    };
    let mut entry = Entry::now("s", SIZE, Record::KeyRotation(record));
    entry.time = "2026-01-02T03:04:05.678Z".into();
    entry.to_bytes()
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let root = tree::folder("ledger");
        let options = LogOptions {
            head: Some(root.join("head")),
            ..LogOptions::default()
        };
        let log = Log::open_with(&root.join("ledger"), signer(), options).expect("opened");
        let entries: Vec<Vec<u8>> = (0..SIZE).map(record).collect();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        log.append_batch(&entries).expect("appended");
        log.rotate_key(&rotation(), &next()).expect("rotated");
        log.close().expect("closed");
        let names = [
            "head",
            "ledger/checkpoint",
            "ledger/rotation/0",
            "ledger/tile/0/000",
            "ledger/tile/0/001.p/5",
            "ledger/tile/1/000.p/1",
            "ledger/tile/entries/000",
            "ledger/tile/entries/001.p/5",
        ];
        let read = |name: &str| (name.to_owned(), fs::read(root.join(name)).expect(name));
        let files = names.map(read).to_vec();
        Template { root, files }
    })
}
