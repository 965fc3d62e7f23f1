//! `agentwall policy bundle`, and what takes a bundle: who is trusted, and no way back.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _};

use agentwall_policy::{Layer, Source};
use support::{Host, Said, harmless};

/// A host with a signing key, and the public key.
fn host() -> (Host, String) {
    let host = Host::new();
    host.put("team.yaml", support::POLICY);
    let said = host
        .call(&[
            "policy",
            "bundle",
            "keygen",
            "team.key",
            "--name",
            "example.com/policy",
        ])
        .code(0);
    let key = said.out.trim().to_owned();
    assert!(key.starts_with("example.com/policy+"), "{key}");
    (host, key)
}

fn sign(host: &Host, counter: &str, out: &str, source: &str) -> Said {
    host.call(&[
        "policy",
        "bundle",
        "sign",
        "--key",
        "team.key",
        "--name",
        "team",
        "--counter",
        counter,
        "--out",
        out,
        source,
    ])
}

fn trust(host: &Host, text: &str) {
    let dir = host.home.join(".config/agentwall");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("trusted-keys"), text).unwrap();
}

fn explain(host: &Host, policy: &[&str]) -> Said {
    let mut args = vec!["policy", "explain", "file.commit", "hooks/x"];
    args.extend(policy);
    host.call(&args)
}

#[test]
fn a_key_is_private_and_never_overwritten() {
    let (host, _) = host();
    let path = host.work.join("team.key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let before = fs::read(&path).unwrap();
    let said = host
        .call(&[
            "policy",
            "bundle",
            "keygen",
            "team.key",
            "--name",
            "example.com/policy",
        ])
        .code(1);
    assert!(said.err.contains("never overwritten"), "{}", said.err);
    assert_eq!(fs::read(&path).unwrap(), before);
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let said = sign(&host, "1", "team.bundle", "team.yaml").code(1);
        assert!(said.err.contains("expected 0600"), "{}", said.err);
    }
    assert!(!host.work.join("team.bundle").exists());
    let said = host
        .call(&["policy", "bundle", "keygen", "other.key", "--name", "a b"])
        .code(1);
    assert!(said.err.contains("no spaces"), "{}", said.err);
    assert!(!host.work.join("other.key").exists());
}

#[test]
fn what_is_signed_verifies_under_a_trusted_key_alone() {
    let (host, key) = host();
    let said = sign(&host, "7", "team.bundle", "team.yaml").code(0);
    assert!(
        said.out.contains("signed team.bundle") && said.out.contains("counter   7"),
        "{}",
        said.out
    );
    let verify = |more: &[&str]| {
        let mut args = vec!["policy", "bundle", "verify", "team.bundle"];
        args.extend(more);
        host.call(&args)
    };
    let said = verify(&[]).code(1);
    assert!(
        said.err.contains("not a trusted key") && said.err.contains("no key is trusted"),
        "{}",
        said.err
    );
    let said = verify(&["--trust", &key]).code(0);
    assert!(
        said.out.contains("verified team.bundle") && said.out.contains("team.yaml"),
        "{}",
        said.out
    );
    host.put("keys", &format!("# ours\n{key}\n"));
    let json = verify(&["--trust", "keys", "--json"]).code(0).json();
    assert_eq!(
        (&json["counter"], &json["name"]),
        (&7.into(), &"team".into())
    );
    assert_eq!(json["sources"][0]["layer"], "user");
    verify(&["--trust", "a+b"]).code(2);
    trust(&host, &format!("{key}\n"));
    verify(&[]).code(0);
    // Any byte.
    let good = fs::read(host.work.join("team.bundle")).unwrap();
    for at in [0, 30, good.len() / 2, good.len() - 20, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(host.work.join("team.bundle"), &bad).unwrap();
        let json = verify(&["--json"]).code(1);
        assert_eq!(json.json()["ok"], false);
        explain(&host, &["--policy", "team.bundle"]).code(1);
    }
    fs::write(host.work.join("team.bundle"), &good).unwrap();
    let said = explain(&host, &["--policy", "team.bundle"]).code(0).out;
    assert!(said.contains("hooks-never"), "{said}");
}

#[test]
fn inspect_says_that_nothing_is_verified() {
    let (host, _) = host();
    // The command would not sign such a text; whoever writes a bundle for others may.
    let bundle = agentwall_bundle::Bundle {
        kind: agentwall_bundle::Kind::Policy,
        name: String::new(),
        counter: 1,
        issued: 1_790_000_000,
        sources: vec![
            Source::new("team.yaml", support::POLICY, Layer::Organisation),
            Source::new(
                "odd.yaml",
                "agentwall: 1 # \u{202e}\tx\u{1b}[2J\n",
                Layer::User,
            ),
        ],
    };
    let signer = agentwall_ledger::key::load(&host.work.join("team.key")).unwrap();
    host.put("two.bundle", &bundle.sign(&signer).unwrap());
    let said = host
        .call(&["policy", "bundle", "inspect", "two.bundle"])
        .code(0)
        .out;
    for wanted in [
        "not verified",
        "2026-09-21T",
        "organisation",
        "odd.yaml",
        "counter   1",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let json = host
        .call(&["policy", "bundle", "inspect", "two.bundle", "--json"])
        .code(0)
        .json();
    assert_eq!(json["verified"], false);
    assert_eq!(json["sources"][0]["text"], support::POLICY);
    let said = host
        .call(&[
            "policy",
            "bundle",
            "inspect",
            "two.bundle",
            "--source",
            "odd.yaml",
        ])
        .code(0)
        .out;
    harmless(&said);
    assert_eq!(said, "agentwall: 1 # \\u{202e}\\tx\\u{1b}[2J\n");
    host.call(&[
        "policy",
        "bundle",
        "inspect",
        "two.bundle",
        "--source",
        "none",
    ])
    .code(2);
    host.call(&["policy", "bundle", "inspect", "team.yaml"])
        .code(1);
}

#[test]
fn what_no_wall_could_use_is_not_signed_and_nothing_newer_replaced() {
    let (host, _) = host();
    host.put("bad.yaml", "agentwall: 1\nrulez: []\n");
    let said = sign(&host, "1", "bad.bundle", "bad.yaml").code(1);
    assert!(
        said.err.contains("bad.yaml:2") && said.err.contains("nothing was signed"),
        "{}",
        said.err
    );
    let twice = [
        "policy",
        "bundle",
        "sign",
        "--key",
        "team.key",
        "--counter",
        "1",
        "--out",
        "bad.bundle",
        "team.yaml",
        "team.yaml",
    ];
    host.call(&twice).code(1);
    let said = sign(&host, "0", "bad.bundle", "team.yaml").code(1);
    assert!(said.err.contains("from 1"), "{}", said.err);
    assert!(!host.work.join("bad.bundle").exists());
    sign(&host, "5", "team.bundle", "team.yaml").code(0);
    for counter in ["4", "5"] {
        let said = sign(&host, counter, "team.bundle", "team.yaml").code(1);
        assert!(said.err.contains("higher --counter"), "{}", said.err);
    }
    sign(&host, "6", "team.bundle", "team.yaml").code(0);
    let said = sign(&host, "7", "team.yaml", "team.yaml").code(1);
    assert!(said.err.contains("no bundle of this key"), "{}", said.err);
    assert_eq!(host.read("team.yaml").unwrap(), support::POLICY);
    let said = host.call(&["policy", "check", "team.bundle"]).code(1);
    assert!(said.err.contains("bundle inspect"), "{}", said.err);
}

/// What `run` writes when it has used a bundle, so that this needs no wall.
fn used(host: &Host, key: &str, bundle: &str) {
    use agentwall_bundle::{Seen, open};
    let bytes = fs::read(host.work.join(bundle)).unwrap();
    let key = agentwall_ledger::Verifier::parse(key).unwrap();
    let opened = open(&bytes, &[key]).unwrap();
    let dir = host.state.join("bundles");
    let _ = fs::create_dir(&dir);
    fs::write(
        dir.join(Seen::file_name(&opened)),
        Seen::of(&opened).to_text(),
    )
    .unwrap();
}

#[test]
fn an_older_bundle_and_two_of_one_counter_are_refused() {
    let (host, key) = host();
    trust(&host, &format!("{key}\n"));
    host.call(&["sessions"]).code(0);
    for counter in ["3", "5"] {
        sign(&host, counter, &format!("{counter}.bundle"), "team.yaml").code(0);
    }
    host.put("other.yaml", "agentwall: 1\n");
    sign(&host, "5", "twin.bundle", "other.yaml").code(0);
    let with = |file: &str| explain(&host, &["--policy", file]);
    with("3.bundle").code(0);
    used(&host, &key, "5.bundle");
    with("5.bundle").code(0);
    let said = with("3.bundle").code(1);
    for wanted in ["counter is 3", "has used 5", "at least 6", "3.bundle"] {
        assert!(said.err.contains(wanted), "{wanted}: {}", said.err);
    }
    let said = with("twin.bundle").code(1);
    assert!(
        said.err.contains("two policies were signed"),
        "{}",
        said.err
    );
    let said = host
        .call(&["policy", "bundle", "verify", "3.bundle"])
        .code(1);
    assert!(said.err.contains("has used 5"), "{}", said.err);
    // The run itself, too, before anything of it exists.
    let said = host
        .call(&["run", "--policy", "3.bundle", "--", "true"])
        .code(125);
    assert!(said.err.contains("has used 5"), "{}", said.err);
    assert_eq!(
        fs::read_dir(host.state.join("sessions")).unwrap().count(),
        0
    );
}

#[test]
fn where_signed_policies_are_demanded_others_are_refused() {
    let (host, key) = host();
    explain(&host, &["--policy", "team.yaml"]).code(0);
    trust(&host, &format!("require-signed\n{key}\n"));
    let said = explain(&host, &["--policy", "team.yaml"]).code(1);
    assert!(
        said.err.contains("not signed") && said.err.contains("bundle sign"),
        "{}",
        said.err
    );
    host.call(&["run", "--policy", "team.yaml", "--", "true"])
        .code(125);
    let dir = host.home.join(".config/agentwall");
    fs::write(dir.join("policy.yaml"), support::POLICY).unwrap();
    explain(&host, &[]).code(1);
    sign(&host, "1", "team.bundle", "team.yaml").code(0);
    explain(&host, &["--policy", "team.bundle"]).code(0);
    // The user's own policy may be a bundle, too; two are one too many.
    fs::copy(host.work.join("team.bundle"), dir.join("policy.bundle")).unwrap();
    let said = explain(&host, &[]).code(1);
    assert!(said.err.contains("only one"), "{}", said.err);
    fs::remove_file(dir.join("policy.yaml")).unwrap();
    // What the repository says below it only tightens, and comes with the repository.
    host.put(
        "agentwall.yaml",
        "agentwall: 1\nrules:\n  - { id: none, priority: 1, action: file.commit, resource: '**', effect: deny }\n",
    );
    let said = explain(&host, &[]).code(0).out;
    assert!(said.starts_with("deny") && said.contains("none"), "{said}");
    // Files that others can change are nobody's word.
    let file = dir.join("trusted-keys");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let said = explain(&host, &[]).code(1);
    assert!(said.err.contains("others can write"), "{}", said.err);
}
