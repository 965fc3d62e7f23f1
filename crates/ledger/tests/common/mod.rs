//! Shared by the tests: keys, small logs, copies of a log's folder.
#![allow(dead_code)] // Each test binary uses its own part.

use std::{fs, path::Path};

use agentwall_ledger::{
    Log, LogOptions, Signer,
    entry::{Entry, Gap, Record},
};
use ed25519_dalek::SigningKey;

pub const ORIGIN: &str = "agentwall.example/test";

pub fn signer(byte: u8) -> Signer {
    Signer::new(ORIGIN, SigningKey::from_bytes(&[byte; 32])).expect("a valid name")
}

/// A record whose bytes depend on `i` alone.
pub fn record(i: u64) -> Vec<u8> {
    let mut entry = Entry::now("s", i, Record::Gap(Gap::default()));
    entry.time = "2026-01-02T03:04:05.678Z".into();
    entry.to_bytes()
}

pub fn append(log: &Log, range: std::ops::Range<u64>) {
    let entries: Vec<Vec<u8>> = range.map(record).collect();
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    log.append_batch(&entries).expect("appended");
}

/// A log of `size` records in `root/ledger`, its head in `root/head`.
pub fn log(root: &Path, size: u64) -> Log {
    let options = LogOptions {
        head: Some(root.join("head")),
        ..LogOptions::default()
    };
    let log = Log::open_with(&root.join("ledger"), signer(1), options).expect("opened");
    if size > 0 {
        append(&log, 0..size);
    }
    log
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}
