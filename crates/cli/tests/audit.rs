//! `agentwall ledger export --bundle`: an archive that an auditor checks with the key alone, whose every byte counts, and
//! which holds no text that was not picked.

#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use agentwall_cow::{PlainArchive, read_plain};
use agentwall_ledger::{
    Entry, Log, LogOptions, Record, TextFolders,
    entry::{Mask, SessionStart},
    key,
};
use serde_json::Value;
use support::Host;

const ONE: &str = "20261121-0259-k3f9";
const TWO: &str = "20261121-0301-p7qx";

struct Scene {
    host: Host,
    key: String,
}

impl Scene {
    /// Two sessions with 300 entries, so that a bundle is full.
    fn new() -> Scene {
        let host = Host::new();
        host.call(&["sessions"]).code(0); // makes the state folder
        let path = host.state.join("keys/ledger.key");
        let signer = key::load_or_create(&path, "agentwall.local/t").unwrap();
        let options = LogOptions {
            head: Some(host.state.join("keys/ledger.head")),
            text: Some(TextFolders {
                values: host.state.join("values"),
                subjects: host.state.join("keys/subjects"),
            }),
            ..LogOptions::default()
        };
        let log = Log::open_with(&host.state.join("ledger"), signer, options).unwrap();
        for (id, end) in [(ONE, 150), (TWO, 150)] {
            let start = Record::SessionStart(SessionStart {
                name: format!("agent-{id}"),
                ..SessionStart::default()
            });
            let mask = |n: u64| {
                Record::Mask(Mask {
                    path: format!("/home/u/secret/{id}/{n}"),
                    rule: Some("keys".into()),
                })
            };
            let records = std::iter::once(start).chain((1..end).map(mask));
            let entries: Vec<Vec<u8>> = (0..)
                .zip(records)
                .map(|(seq, record)| {
                    let mut entry = Entry::now(id, seq, record);
                    let day = if id == ONE { 11 } else { 12 };
                    entry.time = format!("2026-11-{day}T03:00:00.000Z");
                    entry.to_bytes()
                })
                .collect();
            let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
            log.append_batch(&entries).unwrap();
        }
        log.close().unwrap();
        let key = host.call(&["ledger", "key"]).code(0).out;
        let key = key.trim().to_owned();
        Scene { host, key }
    }

    fn export(&self, options: &[&str]) -> Vec<u8> {
        let path = self.host.tmp.path().join("audit.tar");
        let args = [
            &["ledger", "export", "--bundle", path.to_str().unwrap()],
            options,
        ]
        .concat();
        self.host.call(&args).code(0);
        fs::read(path).unwrap()
    }

    /// Somebody else, who has the archive and the key.
    fn verify(&self, archive: &[u8]) -> support::Said {
        let other = Host::new();
        let path = other.tmp.path().join("audit.tar");
        fs::write(&path, archive).unwrap();
        other.call(&[
            "ledger",
            "verify",
            path.to_str().unwrap(),
            "--key",
            &self.key,
            "--json",
        ])
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn unpack(archive: &[u8]) -> (Vec<String>, Files) {
    let (mut names, mut files) = (Vec::new(), Files::new());
    read_plain(&mut &*archive, 1 << 28, |name, content| {
        names.push(name.to_owned());
        files.insert(name.to_owned(), content);
        Ok::<_, agentwall_cow::ArchiveError>(())
    })
    .unwrap();
    (names, files)
}

fn pack(names: &[String], files: &Files) -> Vec<u8> {
    let mut out = Vec::new();
    let mut archive = PlainArchive::new(&mut out);
    for name in names {
        archive.file(name, &files[name]).unwrap();
    }
    archive.end().unwrap();
    out
}

fn has(archive: &[u8], text: &str) -> bool {
    archive.windows(text.len()).any(|w| w == text.as_bytes())
}

fn texts(archive: &[u8]) -> Vec<Value> {
    let (_, files) = unpack(archive);
    let texts = files.iter().filter(|(name, _)| name.starts_with("texts/"));
    let lines = texts.flat_map(|(_, text)| text.split(|b| *b == b'\n').filter(|l| !l.is_empty()));
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn an_auditor_with_the_key_alone_checks_the_log_and_every_text() {
    let scene = Scene::new();
    let archive = scene.export(&[]);
    let json = scene.verify(&archive).code(0).json();
    assert_eq!(json["size"], 300);
    assert_eq!(json["export"]["entries"], 300, "{json}");
    assert_eq!(json["export"]["withheld"], 0);
    assert!(!has(&archive, scene.host.tmp.path().to_str().unwrap()));
    let shown = texts(&archive);
    assert_eq!(shown[7]["entry"]["path"], format!("/home/u/secret/{ONE}/7"));
    assert_eq!(shown.len(), 300);

    // With other programs: GNU tar, and the specification in Python.
    let folder = scene.host.tmp.path().join("unpacked");
    fs::create_dir(&folder).unwrap();
    let path = scene.host.tmp.path().join("audit.tar");
    let tar = Command::new("tar")
        .arg("-xf")
        .arg(&path)
        .arg("-C")
        .arg(&folder)
        .status();
    assert!(tar.unwrap().success());
    let python = |folder: &Path| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ledger/interop/disclosure.py");
        let done = Command::new("python3")
            .arg(script)
            .arg("texts")
            .arg(folder)
            .output()
            .unwrap();
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
        )
    };
    let (verified, said) = python(&folder);
    assert!(verified && said.contains("of 300 entries"), "{said}");
    let ledger = folder.join("ledger");
    let said = scene.host.call(&[
        "ledger",
        "verify",
        ledger.to_str().unwrap(),
        "--key",
        &scene.key,
    ]);
    said.code(0);
    let file = folder.join("texts/000.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("/7\"", "/8\"", 2)).unwrap();
    assert!(!python(&folder).0);

    // Whoever read it stands in the log.
    let access = scene.host.ledger("access");
    assert_eq!(access.last().unwrap()["command"], "export");
    assert_eq!(access.last().unwrap()["entries"], 300);
}

#[test]
fn a_changed_export_is_refused() {
    let scene = Scene::new();
    let archive = scene.export(&["--session", ONE]);
    scene.verify(&archive).code(0);
    let (names, files) = unpack(&archive);
    assert_eq!(pack(&names, &files), archive);
    for name in &names {
        let mut changed = files.clone();
        let content = changed.get_mut(name).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        scene.verify(&pack(&names, &changed)).code(1);
        let rest: Vec<String> = names.iter().filter(|n| *n != name).cloned().collect();
        scene.verify(&pack(&rest, &files)).code(1);
    }
    let mut more = (names.clone(), files.clone());
    for name in ["ledger/tile/0/001", "texts/002.jsonl", "notes.txt"] {
        more.0.insert(0, name.to_owned());
        more.1.insert(name.to_owned(), b"{}".to_vec());
        scene.verify(&pack(&more.0, &more.1)).code(1);
        more.0.remove(0);
    }
    for at in (0..archive.len()).step_by(archive.len() / 40) {
        let mut changed = archive.clone();
        changed[at] ^= 0x10;
        let said = scene.verify(&changed);
        assert_ne!(said.code, 0, "byte {at}: {}", said.all());
    }
    scene.verify(&archive[..archive.len() - 512]).code(1);
    // Genuine parts of two exports do not make one.
    let (_, other) = unpack(&scene.export(&["--session", TWO]));
    let mut mixed = files.clone();
    mixed.insert("texts/000.jsonl".into(), other["texts/000.jsonl"].clone());
    scene.verify(&pack(&names, &mixed)).code(1);
}

#[test]
fn what_narrows_it_narrows_the_texts_and_never_the_log() {
    let scene = Scene::new();
    let ledger = |archive: &[u8]| -> Files {
        let (_, files) = unpack(archive);
        let kept = files
            .into_iter()
            .filter(|(name, _)| name.starts_with("ledger/tile/0"));
        kept.collect()
    };
    let whole = ledger(&scene.export(&[]));
    let (of_one, of_two) = (format!("secret/{ONE}/"), format!("secret/{TWO}/"));
    for (options, one, two, entries) in [
        (&["--session", ONE][..], true, false, 150),
        (
            &["--since", "2026-11-12", "--until", "2026-11-13"],
            false,
            true,
            150,
        ),
        (&["--session", TWO, "--without-text"], false, false, 150),
    ] {
        let archive = scene.export(options);
        let json = scene.verify(&archive).code(0).json();
        assert_eq!(json["export"]["entries"], entries, "{json}");
        assert_eq!(has(&archive, &of_one), one, "{options:?}");
        assert_eq!(has(&archive, &of_two), two, "{options:?}");
        let now = ledger(&archive);
        assert_eq!(now["ledger/tile/0/000"], whole["ledger/tile/0/000"]);
    }
    let entry = texts(&scene.export(&["--session", TWO, "--without-text"])).remove(3);
    assert_eq!(entry["withheld"], "no text was exported");
    assert!(entry["entry"]["path"]["c"].is_string(), "{entry}");
    // What was erased is told as that, and the rest verifies.
    scene
        .host
        .call(&["ledger", "erase", "--session", ONE, "--yes"])
        .code(0);
    let archive = scene.export(&[]);
    let json = scene.verify(&archive).code(0).json();
    assert_eq!(json["export"]["withheld"], 150, "{json}");
    assert!(!has(&archive, &of_one) && has(&archive, &of_two));
    let why = texts(&archive).remove(5)["withheld"].clone();
    assert!(why.as_str().unwrap().contains("was erased"), "{why}");
}

#[test]
fn an_export_after_a_rotation_and_a_removal_verifies_with_either_key() {
    let scene = Scene::new();
    let policy = "agentwall-retention: 1\nkeep_days: 1\nreason: test\n";
    fs::write(scene.host.state.join("retention.yaml"), policy).unwrap();
    scene.host.call(&["ledger", "prune", "--yes"]).code(0);
    scene.host.call(&["ledger", "rotate-key"]).code(0);
    let archive = scene.export(&[]);
    let json = scene.verify(&archive).code(0).json();
    assert_eq!(json["pruned"], 256);
    assert_eq!(json["rotations"].as_array().unwrap().len(), 1);
    let new = scene
        .host
        .call(&["ledger", "key"])
        .code(0)
        .out
        .trim()
        .to_owned();
    let new = Scene {
        host: Host::new(),
        key: new,
    };
    new.verify(&archive).code(0);
    let stranger = key::generate("agentwall.local/t")
        .unwrap()
        .verifier()
        .to_string();
    let stranger = Scene {
        host: Host::new(),
        key: stranger,
    };
    stranger.verify(&archive).code(1);
}
