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
       agentwall-ledger-verify proof FILE --entry FILE --key VKEY [--rotations DIR] [WITNESSES]
log     everything in a log's folder: checkpoint, tiles, entry bundles, every byte
proof   that the bytes of the entry FILE are in the log (c2sp.org/tlog-proof@v1)
--key VKEY         one of the log's public keys, from where whoever holds the log cannot change it
--rotations DIR    for a proof: the log's folder, whose key was replaced since --key, or before it
--former FILE      a checkpoint of the same log from earlier: the log must be that one, grown
--witness VKEY …   a witness's public key (Ed25519 cosignatures, key type 4)
--quorum K         so many of the witnesses must have cosigned
Exit status: 0 verified, 1 refused, 2 could not be looked at.";

/// If not yes, the exit status and why.
type Answer<T> = Result<T, (u8, String)>;

/// The refusal of a file, with the reason.
fn refuse<T>(file: &str, what: impl Into<String>) -> Answer<T> {
    Err((1, format!("refused: {}: {}", file.escape_debug(), what.into())))
}

/// The end of the program for want of an answer, with what is wrong in the arguments.
fn usage<T>(what: impl Into<String>) -> Answer<T> {
    Err((2, format!("{}\n{USAGE}", what.into())))
}

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(|arg| arg.into_string());
    let args = args.collect::<Result<Vec<_>, _>>();
    // What comes from a log is shown escaped: a terminal might obey it.
    match args.map_or_else(|_| usage("an argument is not UTF-8"), run) {
        Ok(c) => {
            let root: String = c.root.iter().map(|b| format!("{b:02x}")).collect();
            println!("verified: {:?}, {} entries, root {root}", c.origin, c.size);
            println!("cosigned by {} witnesses: the first {}", c.cosigned.0, c.cosigned.1);
            ExitCode::SUCCESS
        }
        Err((status, text)) => {
            eprintln!("{text}");
            ExitCode::from(status)
        }
    }
}

fn run(args: Vec<String>) -> Answer<Checkpoint> {
    let [verb, path, options @ ..] = &args[..] else {
        return usage("expected a command and a path");
    };
    let names = ["--key", "--quorum", "--former", "--entry", "--rotations"];
    let (mut values, mut witnesses) = ([None; 5], Vec::new());
    for option in options.chunks(2) {
        let [name, value] = option else { return usage(format!("{} needs a value", option[0])) };
        match names.iter().position(|n| n == name) {
            Some(i) if values[i].is_none() => values[i] = Some(value.as_str()),
            None if name == "--witness" => witnesses.push(Key::parse(value, COSIGNATURE)?),
            _ => return usage(format!("{name:?} is unknown or given twice")),
        }
    }
    let [Some(key), quorum, former, entry, rotations] = values else {
        return usage("--key is needed");
    };
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
    let mut trust = Trust { log: vec![(0, log)], witnesses };
    if let (Some(dir), "proof") = (rotations, verb.as_str()) {
        proof::follow(Path::new(dir), &mut trust)?;
    }
    match (verb.as_str(), former, entry) {
        ("log", _, None) if rotations.is_none() => {
            folder::verify(Path::new(path), trust, quorum, former)
        }
        ("proof", None, Some(entry)) => proof::verify(path, entry, &trust, quorum),
        _ => usage("expected log DIR, or proof FILE --entry FILE"),
    }
}

/// Longest file that is read: a bundle of 256 entries of 65,535 bytes, each with its length.
const MAX_FILE: u64 = 256 * 65_537;

/// Reads a regular file, called `name` in a refusal.
fn read(path: &Path, name: &str) -> Answer<Vec<u8>> {
    let trouble = |e| (2, format!("cannot read {path:?}: {e}"));
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => refuse(name, "not a regular file"),
        Ok(meta) if meta.len() > MAX_FILE => refuse(name, "longer than any file of a log"),
        Ok(_) => fs::read(path).map_err(trouble),
        Err(e) if e.kind() == ErrorKind::NotFound => refuse(name, "missing"),
        Err(e) => Err(trouble(e)),
    }
}
