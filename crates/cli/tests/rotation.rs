//! `agentwall ledger rotate-key`: whoever has pinned a key of the log, a verifier, a witness, a reader of single proofs,
//! goes on with the next one, and with no other.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use support::{Host, served::Served};

struct Scene {
    host: Host,
    old: String,
}

impl Scene {
    fn new() -> Scene {
        let host = Host::new();
        with_entries(&host, "20261121-0259-k3f9");
        let old = key(&host);
        Scene { host, old }
    }

    fn rotate(&self) -> (String, u64) {
        let args = [
            "ledger",
            "rotate-key",
            "--reason",
            "secret-reason",
            "--json",
        ];
        let json = self.host.call(&args).code(0).json();
        assert_eq!(json["new"], key(&self.host));
        (key(&self.host), json["entry"].as_u64().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.host.tmp.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn dir(&self) -> String {
        self.host.state.join("ledger").to_str().unwrap().to_owned()
    }
}

fn with_entries(host: &Host, id: &str) {
    let session = host.session(id, "alpha");
    session.write(format!("{id}.txt"), "x\n");
    host.call(&["commit", id]).code(0);
}

fn key(host: &Host) -> String {
    host.call(&["ledger", "key"]).code(0).out.trim().to_owned()
}

fn keys_have(host: &Host, text: &str) -> bool {
    let files = fs::read_dir(host.state.join("keys")).unwrap().flatten();
    let mut files = files.filter(|f| f.path().is_file());
    files.any(|f| String::from_utf8_lossy(&fs::read(f.path()).unwrap()).contains(text))
}

#[test]
fn the_log_goes_on_and_whoever_knows_one_of_its_keys_verifies_it() {
    let scene = Scene::new();
    let host = &scene.host;
    let private = fs::read_to_string(host.state.join("keys/ledger.key")).unwrap();
    assert!(keys_have(host, private.trim()));
    let (new, index) = scene.rotate();
    assert_ne!(new, scene.old);
    assert!(!keys_have(host, private.trim()));
    with_entries(host, "20261121-0301-p7qx");
    let shown = host
        .call(&["ledger", "show", "--type", "key_rotation"])
        .code(0);
    assert!(shown.out.contains("secret-reason"), "{}", shown.out);
    assert!(
        shown.out.contains(&new) && shown.out.contains(&scene.old),
        "{}",
        shown.out
    );

    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(
        said.out.contains(&format!("since entry {index}")),
        "{}",
        said.out
    );
    let served = Served::new(host, &["ledger", "serve"]);
    for known in [&scene.old, &new] {
        for place in [&scene.dir(), &served.url] {
            let said = host.call(&["ledger", "verify", place, "--key", known, "--json"]);
            let json = said.code(0).json();
            assert_eq!(json["rotations"], serde_json::json!([index]), "{json}");
            assert_eq!(json["key"], new.as_str());
        }
    }
    let stranger = other_key(host);
    for place in [&scene.dir(), &served.url] {
        let said = host
            .call(&["ledger", "verify", place, "--key", &stranger])
            .code(1);
        assert!(said.err.contains("none of its keys"), "{}", said.err);
    }
    // What hides that the key was replaced.
    fs::remove_dir_all(host.state.join("ledger/rotation")).unwrap();
    for place in [&scene.dir(), &served.url] {
        let said = host
            .call(&["ledger", "verify", place, "--key", &new])
            .code(1);
        assert!(said.err.contains("was rotated"), "{}", said.err);
        host.call(&["ledger", "verify", place, "--key", &scene.old])
            .code(1);
    }
}

fn other_key(host: &Host) -> String {
    let origin = key(host).split('+').next().unwrap().to_owned();
    let signer = agentwall_ledger::key::generate(&origin).unwrap();
    signer.verifier().to_string()
}

#[test]
fn a_proof_of_one_entry_is_followed_by_that_of_the_rotation() {
    let scene = Scene::new();
    let host = &scene.host;
    let (first, _) = scene.rotate();
    let (second, index) = scene.rotate();
    with_entries(host, "20261121-0301-p7qx");
    let prove = |n: u64| {
        let text = host.call(&["ledger", "prove", &n.to_string()]).code(0).out;
        scene.file(&format!("{n}.tlog-proof"), &text)
    };
    let (entry, one, two) = (prove(0), prove(index - 1), prove(index));
    let told: &[&str] = &["--rotation", &one, "--rotation", &two];
    let verify = |known: &str, more: &[&str]| {
        host.call(&[&["ledger", "verify", &entry, "--key", known], more].concat())
    };
    verify(&second, &[]).code(0);
    for known in [&scene.old, &first, &second] {
        verify(known, told).code(0);
    }
    verify(&first, &["--rotation", &two]).code(0);
    for (known, more) in [
        (&scene.old, &[][..]),
        (&scene.old, &["--rotation", &one]),
        (&scene.old, &["--rotation", &two]),
        (&scene.old, &["--rotation", &two, "--rotation", &one]),
        (&first, &[]),
    ] {
        verify(known, more).code(1);
    }
    // The proof of a rotation is one of its entry, too, with either key.
    for known in [&scene.old, &first] {
        host.call(&["ledger", "verify", &one, "--key", known])
            .code(0);
    }
    host.call(&["ledger", "prove", &index.to_string(), "--open-all"])
        .code(2);
}

#[test]
fn a_witness_takes_the_next_key_when_it_is_told_and_the_old_one_no_longer() {
    let scene = Scene::new();
    let host = &scene.host;
    let dir = host.tmp.path().join("witness").to_str().unwrap().to_owned();
    let vkey = host.call(&["witness", "key", "--dir", &dir]).code(0).out;
    let serve = |log: &str| Served::new(host, &["witness", "serve", "--dir", &dir, "--log", log]);
    let set = |url: &str| {
        let policy = format!("witness w {} {url}\nquorum w\n", vkey.trim());
        let policy = scene.file("trust.policy", &policy);
        host.call(&["ledger", "witness", "set", &policy]).code(0);
    };
    let witness = serve(&scene.old);
    set(&witness.url);
    let push = || host.call(&["ledger", "witness", "push"]);
    push().code(0);
    let before = fs::read(host.state.join("ledger/checkpoint.cosigned")).unwrap();
    // A thief keeps the old key and the log as it is.
    let thief = host.tmp.path().join("thief");
    copy(&host.state, &thief);

    let (new, _) = scene.rotate();
    // The checkpoint of both keys is one for a witness that has not been told.
    push().code(0);
    host.call(&["ledger", "witness"]).code(0);
    with_entries(host, "20261121-0301-p7qx");
    let said = push().code(1);
    assert!(said.all().contains("403"), "{}", said.all());
    // What it has cosigned before is good.
    host.call(&["ledger", "verify"]).code(0);
    witness.kill();
    let witness = serve(&new);
    set(&witness.url);
    push().code(0);
    host.call(&["ledger", "witness"]).code(0);
    let after = fs::read(host.state.join("ledger/checkpoint.cosigned")).unwrap();
    assert_ne!(before, after);
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert_eq!(json["witnessed"]["entries"], json["size"], "{json}");

    // The thief goes on with the log as it was, and its entries are as many: no witness that was told has it.
    let mut stolen = Host::new();
    stolen.state = thief;
    for id in [
        "20261121-0302-aaaa",
        "20261121-0303-bbbb",
        "20261121-0304-cccc",
    ] {
        with_entries(&stolen, id);
    }
    let policy = format!("witness w {} {}\nquorum w\n", vkey.trim(), witness.url);
    let policy = scene.file("thief.policy", &policy);
    stolen.call(&["ledger", "witness", "set", &policy]).code(0);
    stolen.call(&["ledger", "witness", "push"]).code(1);
    let said = stolen.call(&["ledger", "witness"]).all();
    assert!(!said.contains("has seen"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(copied.unwrap().success());
}
