//! A ledger and its witnesses, all of them processes: configured, pushed, killed, shown two histories; proofs for
//! somebody who has nothing but a policy; and sessions that no witness holds up.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{Host, served::Served, wall::Wall};

fn with_entries(host: &Host, ids: &[&str]) {
    for id in ids {
        let session = host.session(id, "alpha");
        session.write(format!("{id}.txt"), "x\n");
        host.call(&["commit", id]).code(0);
    }
}

struct Scene {
    host: Host,
    key: String,
}

impl Scene {
    fn new() -> Scene {
        let host = Host::new();
        with_entries(&host, &["20261121-0259-k3f9"]);
        let key = host.call(&["ledger", "key"]).code(0).out;
        Scene {
            host,
            key: key.trim().to_owned(),
        }
    }

    fn dir(&self, n: usize) -> String {
        let dir = self.host.tmp.path().join(format!("witness-{n}"));
        dir.to_str().unwrap().to_owned()
    }

    fn vkey(&self, n: usize) -> String {
        let args = ["witness", "key", "--dir", &self.dir(n)];
        self.host.call(&args).code(0).out.trim().to_owned()
    }

    fn serve(&self, n: usize) -> Served {
        self.vkey(n);
        let args = [
            "witness",
            "serve",
            "--dir",
            &self.dir(n),
            "--log",
            &self.key,
        ];
        Served::new(&self.host, &args)
    }

    /// A policy of witnesses at these URLs, `k` of them enough, and the file it is in.
    fn policy(&self, k: usize, urls: &[&str]) -> PathBuf {
        let mut text = format!("log {}\n", self.key);
        let mut names = String::new();
        for (n, url) in urls.iter().enumerate() {
            text += &format!("witness w{n} {} {url}\n", self.vkey(n));
            names += &format!(" w{n}");
        }
        text += &format!("group enough {k}{names}\nquorum enough\n");
        let path = self.host.tmp.path().join("trust.policy");
        fs::write(&path, text).unwrap();
        path
    }

    fn set(&self, k: usize, urls: &[&str]) -> String {
        let path = self.policy(k, urls).to_str().unwrap().to_owned();
        self.host.call(&["ledger", "witness", "set", &path]).code(0);
        path
    }
}

#[test]
fn what_is_witnessed_is_proved_to_somebody_who_has_the_policy_alone() {
    let scene = Scene::new();
    let host = &scene.host;
    let said = host.call(&["ledger", "verify"]).code(0).out;
    assert!(said.contains("not witnessed"), "{said}");
    host.call(&["ledger", "witness", "push"]).code(1);
    let said = host.call(&["ledger", "prove", "0"]).code(0);
    assert!(said.err.contains("no witness has seen"), "{}", said.err);

    let (first, second) = (scene.serve(0), scene.serve(1));
    let nobody = "http://127.0.0.1:1/";
    let policy = scene.set(2, &[&first.url, &second.url, nobody]);
    let said = host.call(&["ledger", "witness"]).code(0).out;
    assert!(
        said.contains("shows nothing of this log") && said.contains("witnessed: none of"),
        "{said}"
    );
    // Nothing is witnessed yet, and a demand for it is refused.
    host.call(&["ledger", "prove", "0", "--policy", &policy])
        .code(1);
    host.call(&["ledger", "verify", "--policy", &policy])
        .code(1);
    host.call(&["ledger", "verify"]).code(0);

    // Two of three are enough; the third is away, and that is said.
    let said = host.call(&["ledger", "witness", "push"]).code(0).out;
    assert!(
        said.contains("is away") && said.contains("(2 of 3 witnesses)"),
        "{said}"
    );
    let size = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert_eq!(size["witnessed"]["entries"], size["size"], "{size}");
    let witnessed = size["size"].as_u64().unwrap();
    with_entries(host, &["20261121-0300-m4g2"]);
    let json = host
        .call(&["ledger", "verify", "--json", "--policy", &policy])
        .code(0)
        .json();
    assert_eq!(json["witnessed"]["entries"], witnessed, "{json}");
    assert!(json["size"].as_u64().unwrap() > witnessed);
    let said = host.call(&["ledger", "verify"]).code(0).out;
    assert!(said.contains("nobody has seen"), "{said}");
    let shown = host.call(&["ledger", "show", "--json"]).code(0);
    let seen = shown.out.matches("\"witnessed\":true").count() as u64;
    assert_eq!(seen, witnessed);
    assert!(shown.err.contains("witnessed: the first"), "{}", shown.err);

    // The proof, on a host that has nothing.
    let auditor = Host::new();
    let write = |name: &str, text: &str| {
        let path = auditor.tmp.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let theirs = write("trust.policy", &fs::read_to_string(&policy).unwrap());
    let proof = host
        .call(&["ledger", "prove", "1", "--policy", &policy])
        .code(0)
        .out;
    let file = write("1.tlog-proof", &proof);
    let said = auditor
        .call(&["ledger", "verify", &file, "--policy", &theirs])
        .code(0)
        .out;
    assert!(
        said.contains("verified") && said.contains("by 2 of 3 witnesses (w0, w1)"),
        "{said}"
    );
    let json = auditor
        .call(&["ledger", "verify", &file, "--key", &scene.key, "--json"])
        .code(0)
        .json();
    assert!(json["index"] == 1 && json["entry"]["type"].is_string() && json["witnessed"].is_null());
    // Another entry in it, another key, fewer cosignatures, an entry that nobody has seen.
    let mut lines: Vec<&str> = proof.lines().collect();
    let other = host.call(&["ledger", "prove", "2"]).code(0).out;
    lines[1] = other.lines().nth(1).unwrap();
    let refused = |text: &str, why: &str| {
        let file = write("bad.tlog-proof", text);
        let said = auditor
            .call(&["ledger", "verify", &file, "--policy", &theirs])
            .code(1);
        assert!(
            said.err.contains("the proof") && said.err.contains(why),
            "{}",
            said.err
        );
    };
    refused(&(lines.join("\n") + "\n"), "leads to the root");
    let fewer: Vec<&str> = proof.lines().collect();
    let fewer = fewer[..fewer.len() - 1].join("\n") + "\n";
    refused(&fewer, "1 of 3 witnesses");
    let newest = host
        .call(&["ledger", "prove", &witnessed.to_string()])
        .code(0)
        .out;
    refused(&newest, "none of 3 witnesses");
    refused("c2sp.org/tlog-proof@v1\n", "expected");
    let bare: Vec<&str> = proof.lines().filter(|l| !l.starts_with("extra")).collect();
    refused(&(bare.join("\n") + "\n"), "--entry");

    // The same log on a server.
    let served = Served::new(host, &["ledger", "serve"]);
    let said = auditor
        .call(&["ledger", "verify", &served.url, "--policy", &theirs])
        .code(0)
        .out;
    assert!(
        said.contains("verified") && said.contains("2 of 3 witnesses"),
        "{said}"
    );
    let said = auditor
        .call(&["ledger", "verify", &served.url, "--key", &scene.key])
        .code(0)
        .out;
    assert!(said.contains("--policy says whose count"), "{said}");
    let stranger = Scene::new().key;
    auditor
        .call(&["ledger", "verify", &served.url, "--key", &stranger])
        .code(1);
    for plain in [
        ["ledger", "serve"].as_slice(),
        &["witness", "serve", "--dir", "/x", "--log", &scene.key],
    ] {
        let mut args = plain.to_vec();
        args.extend(["--listen", "0.0.0.0:0"]);
        let said = host.call(&args).code(2);
        assert!(said.err.contains("plain HTTP"), "{}", said.err);
    }

    let said = host
        .call(&["witness", "status", "--dir", &scene.dir(0)])
        .code(0)
        .out;
    assert!(
        said.contains(&format!("{witnessed} entries")) && said.contains("one history"),
        "{said}"
    );
    host.call(&["ledger", "witness", "remove"]).code(0);
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn a_ledger_with_two_histories_is_told_by_its_witness() {
    let scene = Scene::new();
    let host = &scene.host;
    let witness = scene.serve(0);
    scene.set(1, &[&witness.url]);
    host.call(&["ledger", "witness", "push"]).code(0);
    // The whole state, key and all, as whoever rewrites history has it.
    let copy = host.tmp.path().join("state-then");
    copy_all(&host.state, &copy);
    with_entries(host, &["20261121-0300-m4g2", "20261121-0301-p5h3"]);
    host.call(&["ledger", "witness", "push"]).code(0);

    // The witness is killed in between and begins again with what it has on disk.
    witness.kill();
    let witness = scene.serve(0);
    let then = host.tmp.path().join("state-now");
    fs::rename(&host.state, &then).unwrap();
    copy_all(&copy, &host.state);
    scene.set(1, &[&witness.url]);
    // Put back: fewer entries than the witness has seen.
    let said = host.call(&["ledger", "witness", "push"]).code(1).out;
    assert!(said.contains("the log was put back"), "{said}");
    // This host's own files all agree: they were put back together.
    host.call(&["ledger", "verify"]).code(0);
    // Gone on differently: another history, of any size.
    with_entries(
        host,
        &[
            "20261122-0000-q6j4",
            "20261122-0001-r7k5",
            "20261122-0002-s8m6",
        ],
    );
    let said = host.call(&["ledger", "witness", "push"]).code(1).out;
    assert!(said.contains("another history"), "{said}");
    let said = host.call(&["ledger", "witness", "status"]).code(1).out;
    assert!(said.contains("another history"), "{said}");
    let said = host
        .call(&["witness", "status", "--dir", &scene.dir(0)])
        .code(1);
    assert!(said.out.contains("not shown to continue"), "{}", said.all());
    // A cosigned checkpoint of the true history, laid beside the false one, refuses it.
    let cosigned = "ledger/checkpoint.cosigned";
    fs::copy(then.join(cosigned), host.state.join(cosigned)).unwrap();
    let said = host.call(&["ledger", "verify"]).code(1);
    assert!(said.err.contains("history was replaced"), "{}", said.err);
    let said = host.call(&["ledger", "show", "--last", "1"]).code(0);
    assert!(
        said.err
            .contains("contradicts what witnesses have cosigned"),
        "{}",
        said.err
    );
}

#[test]
fn policies_that_cannot_be_are_refused_before_they_count() {
    let scene = Scene::new();
    let host = &scene.host;
    let path = scene.policy(1, &["http://127.0.0.1:1/"]);
    let good = fs::read_to_string(&path).unwrap();
    let stranger = Scene::new().key;
    for (bad, why) in [
        (good.replace("quorum enough\n", ""), "quorum"),
        (good.replace("enough 1", "enough 2"), "line 3"),
        (good.replace(&scene.key, &stranger), "for other logs"),
    ] {
        fs::write(&path, bad).unwrap();
        let said = host
            .call(&["ledger", "witness", "set", path.to_str().unwrap()])
            .code(1);
        assert!(said.err.contains(why), "{}", said.err);
        assert!(!host.state.join("witnesses/policy").exists());
    }
    let said = host.call(&["ledger", "witness"]).code(0);
    assert!(said.err.contains("no witnesses"), "{}", said.err);
}

/// A session is over when its agent is, whoever is away; and it says how much is witnessed.
#[test]
fn a_session_brings_its_end_to_the_witnesses_and_waits_for_none() {
    let wall = Wall::new();
    wall.run(&["--keep"], "true").code(0);
    let host = &wall.host;
    let key = host.call(&["ledger", "key"]).code(0).out.trim().to_owned();
    let dir = host.tmp.path().join("witness");
    let dir = dir.to_str().unwrap();
    let vkey = host.call(&["witness", "key", "--dir", dir]).code(0).out;
    let witness = Served::new(host, &["witness", "serve", "--dir", dir, "--log", &key]);
    let path = host.tmp.path().join("trust.policy");
    let set = |url: &str| {
        fs::write(
            &path,
            format!("witness w {} {url}\nquorum w\n", vkey.trim()),
        )
        .unwrap();
        host.call(&["ledger", "witness", "set", path.to_str().unwrap()])
            .code(0);
    };
    set(&witness.url);
    let said = wall.run(&["--keep"], "true").code(0);
    assert!(
        said.err.contains("ledger witnessed: the first"),
        "{}",
        said.err
    );
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert_eq!(json["witnessed"]["entries"], json["size"], "{json}");

    // One that takes the connection and says nothing; then one that is gone.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    set(&format!("http://{}/", mute.local_addr().unwrap()));
    let said = wall.run(&["--keep"], "true").code(0);
    assert!(said.err.contains("have not answered yet"), "{}", said.err);
    drop(mute);
    let said = wall.run(&["--keep"], "true").code(0);
    assert!(
        said.err.contains("ledger witnessed: the first"),
        "{}",
        said.err
    );
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert!(
        json["witnessed"]["entries"].as_u64() < json["size"].as_u64(),
        "{json}"
    );
    // Back again: all of it at once.
    set(&witness.url);
    host.call(&["ledger", "witness", "push"]).code(0);
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert_eq!(json["witnessed"]["entries"], json["size"], "{json}");
}

fn copy_all(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(copied.unwrap().success());
}
