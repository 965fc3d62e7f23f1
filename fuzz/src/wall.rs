//! The wall: messages between its processes, the trail, and what the broker reads of the caller.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::PathBuf,
    sync::OnceLock,
};

use agentwall_cow::{AtBase, Layer, Manifest, ManifestError, ScanOptions, Timestamp, scan_with};
use agentwall_wall::{
    TrailEntry, fuzzing,
    wire::{Event, Request, ToBroker, ToSupervisor},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{input::assert_json, tree};

/// A line between supervisor and broker, or of the trail: what is read is written and read again.
pub fn wire(data: &[u8]) {
    for line in data.split(|b| *b == b'\n').take(8) {
        // Numbers with a fraction are read approximately; no message of the wall has them.
        if serde_json::from_slice(line).is_ok_and(|v| has_fraction(&v)) {
            continue;
        }
        if let Ok(message) = serde_json::from_slice::<ToSupervisor>(line) {
            if let ToSupervisor::Event(event) | ToSupervisor::Question(_, Request::Ask(event)) =
                &message
            {
                shown(event);
            }
            assert_json(&message);
        }
        if let Ok(message) = serde_json::from_slice::<ToBroker>(line) {
            assert_json(&message);
        }
        if let Ok(entry) = serde_json::from_slice::<TrailEntry>(line) {
            assert_json(&entry);
        }
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(map) => map.values().any(has_fraction),
        _ => false,
    }
}

/// The object of an action is shown to a person when it is asked about.
fn shown(event: &Event) {
    crate::input::assert_shown(&event.action.resource.to_string());
}

/// What the broker reads of a caller and its files: a `#!` line, an ELF file's loader, a socket
/// address, the ids of a thread, a mount point.
pub fn caller(data: &[u8]) {
    if let Some(interpreter) = fuzzing::interpreter_line(data) {
        assert!(!interpreter.is_empty());
        assert!(!interpreter.iter().any(|b| b" \t\n".contains(b)));
        let line = [b" ", interpreter.as_slice(), b" x\n"].concat();
        assert_eq!(fuzzing::interpreter_line(&line), Some(interpreter));
    }
    if let Some(loader) = fuzzing::program_loader(data) {
        assert!(loader.len() <= 4096 && !loader.contains(&0));
    }
    match fuzzing::socket_address(data) {
        Ok((Some(address), path)) => {
            assert_eq!(path, None);
            let port = address.port().to_be_bytes();
            assert_eq!(data[2..4], port);
            match address {
                SocketAddr::V4(v4) => assert_eq!(data[4..8], v4.ip().octets()),
                SocketAddr::V6(v6) => assert_eq!(data[8..24], v6.ip().octets()),
            }
        }
        Ok((None, Some(path))) => {
            assert!(!path.is_empty() && !path.contains(&0));
            assert!(data[2..].starts_with(&path));
        }
        Ok((None, None)) => assert!(data.len() >= 2),
        Err(_) => assert!(data.len() < 24),
    }
    if let Some((tgid, tid, host, mask)) = fuzzing::thread_status(data) {
        let text =
            format!("Umask:\t{mask:o}\nTgid:\t{host}\nNStgid:\t1\t{tgid}\nNSpid:\t1\t{tid}\n");
        assert_eq!(
            fuzzing::thread_status(text.as_bytes()),
            Some((tgid, tid, host, mask))
        );
    }
    let path = fuzzing::mount_point(data);
    let escaped: Vec<u8> = path
        .as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|b| match b {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
            b => vec![*b],
        })
        .collect();
    assert_eq!(fuzzing::mount_point(&escaped), path);
}

/// The record that a commit left beside a layer. Whatever is in it, an empty layer has no changes
/// and the original is untouched.
pub fn commit_record(data: &[u8]) {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let root = tree::folder("layer");
        for name in ["original", "upper", "work"] {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(root.join(name))
                .expect("a folder");
        }
        fs::write(root.join("original/file"), "content").expect("a file");
        root
    });
    fs::write(place.join("upper.applied"), data).expect("written");
    let base = Timestamp {
        sec: 4_000_000_000,
        nsec: 0,
    };
    let layer = Layer::begin(
        place.join("original"),
        place.join("upper"),
        place.join("work"),
        base,
    )
    .expect("a layer");
    assert_json(&layer);
    if let Ok(set) = scan_with(&[layer], ScanOptions::default()) {
        assert!(set.changes.is_empty(), "{set:?}");
    }
    assert_eq!(
        fs::read(place.join("original/file")).expect("a file"),
        b"content"
    );
}

/// A base manifest, to which the checksum is added: an input that is found again by its first bytes
/// alone would never get past it. Whatever it says, each path of it is found, and only those.
pub fn base_manifest(data: &[u8]) {
    assert!(Manifest::parse(data.to_vec()).is_err() || data.len() >= 32);
    let mut bytes = data.to_vec();
    bytes.extend_from_slice(&Sha256::digest(data));
    let manifest = match Manifest::parse(bytes) {
        Ok(Ok(manifest)) => manifest,
        Ok(Err(refusal)) => return assert!(!refusal.to_string().is_empty()),
        Err(error) => return assert!(error != ManifestError::Checksum, "{error}"),
    };
    let mut paths = BTreeSet::new();
    manifest.each(|rel, found| {
        assert!(matches!(found, AtBase::There(_)), "{rel:?}: {found:?}");
        assert!(paths.insert(rel.to_vec()), "{rel:?} twice");
        let mut below = rel.to_vec();
        below.extend_from_slice(b"/./x");
        assert!(!matches!(manifest.at(&below), AtBase::There(_)));
    });
    assert_eq!(paths.len() as u64, manifest.len());
}
