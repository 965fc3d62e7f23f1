//! Verifies a transparency log, or the proof of one entry, offline. It shares no code with the program
//! that writes the log; README.md says how to audit it.
//!
//! What is accepted was recomputed from the bytes of the entries up to a root that the log's key
//! signed. Every format has one spelling. Nothing is written, nothing is connected to.

#![forbid(unsafe_code)]

mod folder;
mod note;
mod proof;
mod tree;

use std::{fs, io::ErrorKind, path::Path, process::ExitCode};

use note::{COSIGNATURE, Checkpoint, ED25519, Key, Trust};

const USAGE: &str = "usage: agentwall-ledger-verify log DIR --key VKEY [--former FILE] [WITNESSES]
       agentwall-ledger-verify proof FILE --entry FILE --key VKEY [WITNESSES]
log     everything in a log's folder: checkpoint, tiles, entry bundles, every byte
proof   that the bytes of the entry FILE are in the log (c2sp.org/tlog-proof@v1)
--key VKEY         the log's public key, from where whoever holds the log cannot change it
--former FILE      a checkpoint of the same log from earlier: the log must be that one, grown
--witness VKEY …   a witness's public key (Ed25519 cosignatures, key type 4)
--quorum K         so many of the witnesses must have cosigned
Exit status: 0 verified, 1 refused, 2 could not be looked at.";

/// Why the answer is not yes.
enum Error {
    /// What the file says contradicts itself, the keys, or the former checkpoint.
    Refused(String, String),
    /// Wrong arguments, or the operating system failed: nothing was shown either way.
    Trouble(String),
}

type Answer<T> = Result<T, Error>;

/// The refusal of a file, with the reason.
fn refuse<T>(file: &str, what: impl Into<String>) -> Answer<T> {
    Err(Error::Refused(file.to_owned(), what.into()))
}

/// The end of the program for want of an answer, with what is wrong in the arguments.
fn usage<T>(what: impl Into<String>) -> Answer<T> {
    Err(Error::Trouble(format!("{}\n{USAGE}", what.into())))
}

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(|arg| arg.into_string());
    let args = args.collect::<Result<Vec<_>, _>>();
    let result = args.map_or_else(|_| usage("an argument is not UTF-8"), run);
    // What comes from a log is shown escaped: a terminal might obey it.
    let (status, text) = match result {
        Ok(c) => {
            let root: String = c.root.iter().map(|b| format!("{b:02x}")).collect();
            let (log, size, (by, first)) = (c.origin, c.size, c.cosigned);
            println!("verified: {log:?}, {size} entries, root {root}");
            println!("cosigned by {by} witnesses: the first {first}");
            return ExitCode::SUCCESS;
        }
        Err(Error::Refused(file, what)) => (1, format!("refused: {}: {what}", file.escape_debug())),
        Err(Error::Trouble(what)) => (2, what),
    };
    eprintln!("{text}");
    ExitCode::from(status)
}

fn run(args: Vec<String>) -> Answer<Checkpoint> {
    let [verb, path, options @ ..] = &args[..] else {
        return usage("expected a command and a path");
    };
    let names = ["--key", "--quorum", "--former", "--entry"];
    let (mut values, mut witnesses) = ([None; 4], Vec::new());
    for option in options.chunks(2) {
        let [name, value] = option else { return usage(format!("{} needs a value", option[0])) };
        match names.iter().position(|n| n == name) {
            Some(i) if values[i].is_none() => values[i] = Some(value.as_str()),
            None if name == "--witness" => witnesses.push(Key::parse(value, COSIGNATURE)?),
            _ => return usage(format!("{name:?} is unknown or given twice")),
        }
    }
    let [Some(key), quorum, former, entry] = values else { return usage("--key is needed") };
    let log = Key::parse(key, ED25519)?;
    // Nobody counts twice: a cosignature does not bind the name of the witness.
    for (i, one) in witnesses.iter().enumerate() {
        if one.key == log.key || witnesses[..i].iter().any(|other| one.key == other.key) {
            return usage("two of the keys are the same key");
        }
    }
    let quorum = match quorum.map(|k| k.parse()) {
        None if witnesses.is_empty() => 0,
        Some(Ok(k)) if (1..=witnesses.len()).contains(&k) => k,
        _ => return usage("--quorum: a number from 1 to that of the witnesses"),
    };
    let trust = Trust { log, witnesses };
    match (verb.as_str(), former, entry) {
        ("log", _, None) => folder::verify(Path::new(path), &trust, quorum, former),
        ("proof", None, Some(entry)) => proof::verify(path, entry, &trust, quorum),
        _ => usage("expected log DIR, or proof FILE --entry FILE"),
    }
}

/// Longest file that is read: a bundle of 256 entries of 65,535 bytes, each with its length.
const MAX_FILE: u64 = 256 * 65_537;

/// Reads a regular file, called `name` in a refusal.
fn read(path: &Path, name: &str) -> Answer<Vec<u8>> {
    let trouble = |e| Error::Trouble(format!("cannot read {path:?}: {e}"));
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => refuse(name, "not a regular file"),
        Ok(meta) if meta.len() > MAX_FILE => refuse(name, "longer than any file of a log"),
        Ok(_) => fs::read(path).map_err(trouble),
        Err(e) if e.kind() == ErrorKind::NotFound => refuse(name, "missing"),
        Err(e) => Err(trouble(e)),
    }
}
