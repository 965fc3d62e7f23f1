//! What is forged: logs of decisions, the same bytes in every run, and the keys of log and witnesses.

use std::path::{Path, PathBuf};

use agentwall_action::{
    Action, Decision, Effect, ObjectKind, PathResource, Resource, Subject, Verb,
};
use agentwall_ledger::{
    Entry, Log, Reader, Record, Signer,
    entry::{DecisionRecord, Exec, KeyRotation, Mask, Prune},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

pub const ORIGIN: &str = "agentwall.example/corpus";

/// The log's key is 1; others are strangers under its name.
pub fn signer(byte: u8) -> Signer {
    named(ORIGIN, byte)
}

pub fn named(name: &str, byte: u8) -> Signer {
    Signer::new(name, SigningKey::from_bytes(&[byte; 32])).expect("a name")
}

/// Entry `i`: starts of programs, allowed, and reads of secrets, denied.
pub fn entry(i: u64) -> Vec<u8> {
    decided(i, i, if i.is_multiple_of(2) { Effect::Allow } else { Effect::Deny })
}

/// The same with another answer.
pub fn flipped(i: u64) -> Vec<u8> {
    decided(i, i, if i.is_multiple_of(2) { Effect::Deny } else { Effect::Allow })
}

/// The record of action `i` with another number in the session.
pub fn decided(i: u64, seq: u64, effect: Effect) -> Vec<u8> {
    let (verb, path) = match i % 2 {
        0 => (Verb::ProcessExec, format!("/usr/bin/tool-{}", i % 97)),
        _ => (Verb::FileRead, format!("/home/u/.ssh/key-{}", i % 31)),
    };
    let resource = Resource::Path(PathResource { path: path.into(), kind: ObjectKind::File });
    let action = Action::new(Subject::agent("coder"), verb, resource);
    let decision = Decision {
        effect,
        rule: Some("rule".to_owned()),
        reason: "corpus".into(),
        hint: Default::default(),
        monitors: Vec::new(),
        errors: Vec::new(),
        policy: "00".repeat(32),
    };
    let record = DecisionRecord::new(&action, &decision, "broker");
    let record = match i % 2 {
        0 => Record::Exec(Exec::new(record, &["tool".to_owned()])),
        _ => Record::Decision(record),
    };
    let mut entry = Entry::now("20260101-0000-corpus", seq, record);
    entry.time = "2026-01-01T00:00:00.000Z".into();
    entry.to_bytes()
}

/// A record that lets entries below `minimum` be missing.
pub fn pruned(minimum: u64) -> Vec<u8> {
    made(Record::Prune(Prune { minimum, ..Prune::default() }))
}

/// The same words, chosen by an agent.
pub fn about_pruning(minimum: u64) -> Vec<u8> {
    let path = format!(r#"/","type":"prune","minimum":{minimum},"#);
    made(Record::Mask(Mask { path, rule: None }))
}

/// The record that one key follows another.
pub fn rotation(old: u8, new: u8) -> Vec<u8> {
    let [old, new] = [old, new].map(|byte| signer(byte).verifier().to_string());
    made(Record::KeyRotation(KeyRotation { old, new, ..KeyRotation::default() }))
}

/// Replaces the key of the log in `dir`.
pub fn rotate(dir: &Path, old: u8, new: u8) {
    let log = Log::open(dir, signer(old)).expect("opened");
    log.rotate_key(&rotation(old, new), &signer(new)).expect("rotated");
    log.close().expect("closed");
}

fn made(record: Record) -> Vec<u8> {
    let mut entry = Entry::now("20260101-0000-corpus", 0, record);
    entry.time = "2026-01-01T00:00:00.000Z".into();
    entry.to_bytes()
}

pub fn entries(size: u64) -> Vec<Vec<u8>> {
    (0..size).map(entry).collect()
}

/// Writes `entries` at the end of the log in `dir`, which is made if it is not there.
pub fn append(dir: &Path, signer: Signer, entries: &[Vec<u8>]) {
    let log = Log::open(dir, signer).expect("opened");
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    log.append_batch(&entries).expect("appended");
    log.close().expect("closed");
}

/// A new log of `entries` in place of what is in `dir`.
pub fn replace(dir: &Path, signer: Signer, entries: &[Vec<u8>]) {
    std::fs::remove_dir_all(dir).expect("removed");
    append(dir, signer, entries);
}

/// A genuine log, in `root/<size>/ledger`.
pub fn log(root: &Path, size: u64) -> PathBuf {
    let dir = root.join(size.to_string()).join("ledger");
    // Not in one go, so that tiles are made in every way.
    let all = entries(size);
    let (mut at, mut step) = (0, 1);
    loop {
        let end = all.len().min(at + step);
        append(&dir, signer(1), &all[at..end]);
        (at, step) = (end, step * 7);
        if at == all.len() {
            return dir;
        }
    }
}

pub fn checkpoint(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("checkpoint")).expect("a checkpoint")
}

/// What the checkpoint's signature is over.
pub fn body(note: &str) -> &str {
    note.split_once("\n\n").expect("a note").0
}

/// The checkpoint that the log of the first `size` entries had.
pub fn former(dir: &Path, size: u64) -> String {
    let root = Reader::open(dir).expect("readable").root_at(size).expect("a root");
    let text = agentwall_ledger::Checkpoint::new(ORIGIN, size, root).to_text();
    signer(1).sign(&text).expect("signed")
}

/// The proof file of an entry.
pub fn proof(dir: &Path, index: u64) -> String {
    let reader = Reader::open(dir).expect("readable");
    reader.tlog_proof(index, None).expect("a proof").to_string()
}

/// A witness: key type 4.
pub struct Witness {
    name: &'static str,
    key: SigningKey,
}

impl Witness {
    pub fn new(name: &'static str, byte: u8) -> Self {
        Witness { name, key: SigningKey::from_bytes(&[byte; 32]) }
    }

    fn blob(&self) -> Vec<u8> {
        [&[4], self.key.verifying_key().as_bytes().as_slice()].concat()
    }

    fn id(&self) -> [u8; 4] {
        let digest = Sha256::digest([self.name.as_bytes(), b"\n", &self.blob()].concat());
        [digest[0], digest[1], digest[2], digest[3]]
    }

    pub fn vkey(&self) -> String {
        let id: String = self.id().iter().map(|b| format!("{b:02x}")).collect();
        format!("{}+{id}+{}", self.name, STANDARD.encode(self.blob()))
    }

    /// The signature line over a checkpoint's text.
    pub fn line(&self, text: &str, time: u64) -> String {
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        self.raw_line(time, &self.key.sign(message.as_bytes()).to_bytes())
    }

    /// A signature line with any time and signature.
    pub fn raw_line(&self, time: u64, signature: &[u8]) -> String {
        let blob = [self.id().as_slice(), &time.to_be_bytes(), signature].concat();
        format!("\u{2014} {} {}\n", self.name, STANDARD.encode(blob))
    }

    /// The bare signature over a text, as a log would make it.
    pub fn plain(&self, text: &str) -> [u8; 64] {
        self.key.sign(text.as_bytes()).to_bytes()
    }

    /// A note with this witness's cosignature at its end.
    pub fn cosign(&self, note: &str) -> String {
        let text = format!("{}\n", body(note));
        format!("{note}{}", self.line(&text, 1_767_225_600))
    }
}
