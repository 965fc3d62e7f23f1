//! Exporting a session on one host, importing it on another, and what both ledgers say.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio};

use serde_json::Value;
use support::{Host, Made, POLICY, harmless, on_terminal, said};

/// A host with the same originals, and a policy of its own.
fn host() -> Host {
    let host = Host::new();
    host.put("old.txt", "one\n");
    host.put("gone.txt", "bye\n");
    host.put("dir/deep.txt", "deep\n");
    let config = host.home.join(".config/agentwall");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("policy.yaml"), POLICY).unwrap();
    host
}

/// A session that changed them.
fn session(host: &Host) -> Made {
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("old.txt", "two\n");
    session.write("new/made.txt", "new\n");
    session.delete("gone.txt");
    session.delete("dir");
    session
}

/// Exports the session to a file that another host can see.
fn exported(host: &Host) -> std::path::PathBuf {
    let file = host.tmp.path().join("layer.tar");
    host.call(&["export", "k3f9", "-o", file.to_str().unwrap()])
        .code(0);
    file
}

fn key(host: &Host) -> String {
    host.call(&["ledger", "key"]).code(0).out.trim().to_owned()
}

/// The session folders, and whether anything lies beside what each of them names.
fn sessions(host: &Host) -> Vec<String> {
    let dir = fs::read_dir(host.state.join("sessions")).unwrap();
    let mut names: Vec<String> = dir
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_session_travels_commits_and_travels_on() {
    let (a, b) = (host(), host());
    session(&a);
    let file = exported(&a);
    let path = file.to_str().unwrap();
    let import = |args: &[&str]| b.call(&[&["import", path][..], args].concat());

    let stranger = import(&[]).code(1);
    assert!(stranger.err.contains("not trusted"), "{}", stranger.err);
    assert!(
        stranger.err.contains(&key(&a)) && stranger.err.contains("--trust"),
        "{}",
        stranger.err
    );
    assert!(sessions(&b).is_empty());

    let plan = import(&["--trust", &key(&a), "--dry-run", "--json"])
        .code(0)
        .json();
    assert_eq!(
        (&plan["session"], &plan["trusted"]),
        (&Value::Null, &Value::Bool(true))
    );
    assert_eq!(plan["differences"].as_array().unwrap().len(), 0, "{plan}");
    assert!(sessions(&b).is_empty(), "a dry run makes nothing");

    let told = import(&["--trust", &key(&a)]).code(0);
    harmless(&told.all());
    assert!(told.out.contains("0 originals here differ"), "{}", told.out);
    assert_eq!(
        b.read("old.txt").unwrap(),
        "one\n",
        "an import touches no original"
    );
    let diff = b.call(&["diff"]).code(0).out;
    for line in ["M  old.txt", "D  gone.txt", "D  dir", "A  new/made.txt"] {
        assert!(diff.contains(line), "{line}: {diff}");
    }
    assert!(b.call(&["sessions"]).code(0).out.contains("kept"));

    // Both ledgers say the same about it.
    let (out, into) = (&a.ledger("export")[0], &b.ledger("import")[0]);
    assert_eq!(out["archive"], into["archive"]);
    assert_eq!(out["changes"], into["changes"]);
    assert_eq!(
        (&into["from"], &into["trusted"]),
        (&out["session"], &Value::Bool(true))
    );
    assert!(key(&a).starts_with(into["key"].as_str().unwrap()), "{into}");
    assert_eq!(into["differences"], 0);
    for host in [&a, &b] {
        host.call(&["ledger", "verify"]).code(0);
        harmless(&host.call(&["ledger", "show"]).code(0).out);
    }

    // On to a third host, which trusts the second; then everybody commits.
    let (id, c) = (sessions(&b).pop().unwrap(), host());
    let second = b.tmp.path().join("second.tar");
    b.call(&["export", &id, "-o", second.to_str().unwrap()])
        .code(0);
    let keys = c.home.join(".config/agentwall/trusted-logs");
    fs::write(&keys, format!("# another host\n{}\n", key(&b))).unwrap();
    let got = c
        .call(&["import", second.to_str().unwrap(), "--json"])
        .code(0)
        .json();
    assert_eq!(got["start_proved"], true, "{got}");
    for host in [&a, &b, &c] {
        host.call(&["commit"]).code(0);
        assert_eq!(host.read("old.txt").unwrap(), "two\n");
        assert_eq!(host.read("new/made.txt").unwrap(), "new\n");
        assert!(host.read("gone.txt").is_none() && !host.work.join("dir").exists());
        host.call(&["undo"]).code(0);
        assert_eq!(host.read("dir/deep.txt").unwrap(), "deep\n");
        host.call(&["discard", "-y"]).code(0);
    }
}

#[test]
fn the_same_session_is_the_same_file_and_standard_output_takes_it() {
    let a = host();
    let made = session(&a);
    let first = fs::read(exported(&a)).unwrap();
    let out = a
        .command(&["export"])
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(out.status.success());
    assert!(first == out.stdout, "the second export is another file");
    assert_eq!(a.ledger("export").len(), 1);
    made.write("old.txt", "three\n");
    assert!(first != fs::read(exported(&a)).unwrap());
    assert_eq!(a.ledger("export").len(), 2);
    // No terminal gets it.
    let told = on_terminal(&a, &["export"], "");
    assert_eq!(told.code, 2, "{}", told.out);
    assert!(told.out.contains("-o FILE"), "{}", told.out);
    let json = a.call(&["export", "-o", "x.tar", "--json"]).code(0).json();
    assert_eq!(json["manifest"]["layers"][0]["place"], "workspace");
    a.call(&["export", "--json"]).code(2);
    a.call(&["export", "-o", "none/x.tar"]).code(1);
    a.call(&["export", "nobody", "-o", "x"]).code(1);
    let left: Vec<_> = fs::read_dir(&a.work)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !left.iter().any(|n| n.to_string_lossy().contains(".new")),
        "{left:?}"
    );
}

#[test]
fn originals_that_differ_are_conflicts_and_stay() {
    let (a, b) = (host(), host());
    session(&a);
    let file = exported(&a);
    b.put("old.txt", "PERSON\n");
    b.put("dir/more.txt", "PERSON\n");
    b.put("new/made.txt", "PERSON\n");
    let args = ["import", file.to_str().unwrap(), "--trust", &key(&a)];
    let plan = b.call(&[&args[..], &["--dry-run"]].concat()).code(0).out;
    harmless(&plan);
    for line in [
        "old.txt",
        "other content",
        "dir/more.txt",
        "was not there",
        "new/made.txt",
    ] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
    let json = b.call(&[&args[..], &["--json"]].concat()).code(0).json();
    let found: Vec<&str> = json["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["found"].as_str().unwrap())
        .collect();
    assert_eq!(
        found.iter().filter(|f| **f == "content").count(),
        1,
        "{json}"
    );
    let diff = b.call(&["diff"]).code(0).out;
    assert_eq!(diff.matches("conflict:").count(), 3, "{diff}");
    b.call(&["commit"]).code(3);
    assert_eq!(b.read("old.txt").unwrap(), "PERSON\n");
    assert_eq!(b.read("new/made.txt").unwrap(), "PERSON\n");
    assert_eq!(b.read("dir/deep.txt").unwrap(), "deep\n");
    assert!(
        b.read("gone.txt").is_none(),
        "what is the same is committed"
    );
    // Asked again, it says the same.
    assert_eq!(
        b.call(&["diff"]).code(0).out.matches("conflict:").count(),
        3
    );
}

#[test]
fn what_is_damaged_or_forged_is_refused_and_leaves_nothing() {
    let (a, b) = (host(), host());
    session(&a);
    let file = exported(&a);
    let good = fs::read(&file).unwrap();
    let vkey = key(&a);
    let at = |text: &[u8]| good.windows(text.len()).position(|w| w == text).unwrap();
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let b64 = at("\\n\\n\u{2014}".as_bytes()) + 60;
    let other = if good[b64] == b'A' { b"B" } else { b"A" };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("content", changed(at(b"two\n"), b"TWO\n"), "changed since"),
        (
            "base",
            changed(at(b"\"size\":4"), b"\"size\":5"),
            "changed since",
        ),
        (
            "session",
            changed(
                at(b"\"session\":\"20261121-0259-k3f9"),
                b"\"session\":\"20261121-0259-k3f8",
            ),
            "another session",
        ),
        (
            "entry",
            changed(at(b"\\\"entries\\\":") + 12, b"9"),
            "does not hold",
        ),
        ("signature", changed(b64, other), "does not hold"),
        ("cut", good[..good.len() - 600].to_vec(), "ends at byte"),
        ("more", [&good[..], b"x"].concat(), "nothing belongs"),
        ("empty", Vec::new(), "layer archive"),
        ("other", b"hello\n".repeat(1000), "layer archive"),
    ];
    b.call(&["sessions"]).code(0);
    for (name, bytes, expected) in cases {
        let path = b.tmp.path().join("bad.tar");
        fs::write(&path, bytes).unwrap();
        for more in [
            &["--trust", &vkey][..],
            &["--any-key"],
            &["--any-key", "--dry-run"],
        ] {
            let told = b
                .call(&[&["import", path.to_str().unwrap()][..], more].concat())
                .code(1);
            assert!(told.err.contains(expected), "{name}: {}", told.err);
            harmless(&told.err);
        }
        assert!(sessions(&b).is_empty(), "{name}");
    }
    assert!(
        !b.state.join("ledger/checkpoint").exists(),
        "nothing is recorded"
    );

    let path = file.to_str().unwrap();
    b.call(&["import", path, "--trust", "nonsense+key"]).code(2);
    b.call(&["import"]).code(2);
    b.call(&["import", "/dev/null", "--any-key"]).code(1);
    b.call(&["import", path, "--workspace", "nowhere"]).code(1);
    let told = b.call(&["import", path, "--any-key"]).code(0);
    assert!(told.out.contains("nobody vouches"), "{}", told.out);
    assert_eq!(b.ledger("import")[0]["trusted"], false);
}

#[test]
fn an_import_that_fails_half_way_leaves_nothing() {
    let (a, b) = (host(), host());
    session(&a);
    let file = exported(&a);
    let args = ["import", file.to_str().unwrap(), "--any-key"];
    fs::remove_file(b.home.join(".config/agentwall/policy.yaml")).unwrap();
    let told = b.call(&args).code(1);
    assert!(told.err.contains("agentwall init"), "{}", told.err);
    assert!(sessions(&b).is_empty());
    fs::write(b.home.join(".config/agentwall/policy.yaml"), POLICY).unwrap();
    // The ledger cannot be written: its folder is a file.
    fs::write(b.state.join("ledger"), "").unwrap();
    let told = b.call(&args).code(1);
    assert!(told.err.contains("nothing was imported"), "{}", told.err);
    assert!(sessions(&b).is_empty());
    fs::remove_file(b.state.join("ledger")).unwrap();
    b.call(&args).code(0);
    assert_eq!(sessions(&b).len(), 1);
}

#[test]
fn folders_outside_of_the_workspace_take_a_word_on_both_sides() {
    let (a, b) = (host(), host());
    let made = session(&a);
    // A second layer, over the home folder's settings.
    for host in [&a, &b] {
        fs::create_dir(host.home.join(".agent")).unwrap();
    }
    let upper = made.dir.join("layers/1");
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(made.dir.join("layers/1work")).unwrap();
    fs::write(upper.join("settings"), "own\n").unwrap();
    let record = made.dir.join("session.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let mut layer = json["layers"][0].clone();
    layer["root"] = a.home.join(".agent").to_str().unwrap().into();
    layer["upper"] = upper.to_str().unwrap().into();
    layer["work"] = made.dir.join("layers/1work").to_str().unwrap().into();
    layer["root_id"] = Value::Null;
    json["layers"].as_array_mut().unwrap().push(layer);
    fs::write(&record, json.to_string()).unwrap();

    let file = a.tmp.path().join("layer.tar");
    let path = file.to_str().unwrap();
    let told = a.call(&["export", "k3f9", "-o", path]).code(0);
    assert!(
        told.err.contains("not in the archive") && told.err.contains(".agent"),
        "{}",
        told.err
    );
    let plan = b
        .call(&["import", path, "--any-key", "--dry-run", "--json"])
        .code(0)
        .json();
    assert_eq!(plan["layers"].as_array().unwrap().len(), 1, "{plan}");
    a.call(&["export", "k3f9", "-o", path, "--all"]).code(0);
    let told = b.call(&["import", path, "--any-key"]).code(1);
    assert!(
        told.err.contains("--all") && told.err.contains("~/.agent"),
        "{}",
        told.err
    );
    b.call(&["import", path, "--any-key", "--all"]).code(0);
    let diff = b.call(&["diff"]).code(0).out;
    assert!(diff.contains(".agent/settings"), "{diff}");
    // A folder that is a link is not followed.
    b.call(&["discard", "-y"]).code(0);
    fs::remove_dir_all(b.home.join(".agent")).unwrap();
    symlink("/tmp", b.home.join(".agent")).unwrap();
    let told = b.call(&["import", path, "--any-key", "--all"]).code(1);
    assert!(told.err.contains("reached by a link"), "{}", told.err);
    assert!(!Path::new("/tmp/settings").exists());
}

#[test]
fn help_has_examples_and_the_exit_status() {
    let host = host();
    for word in ["export", "import"] {
        let help = said(&mut host.command(&[word, "--help"])).code(0).out;
        assert!(help.contains("Examples:"), "{help}");
    }
}

/// The record of a session.
fn record(host: &Host, id: &str) -> Value {
    let text = fs::read(host.state.join("sessions").join(id).join("session.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A host on which an import was killed while it filled the session; its id.
fn cut_off(file: &Path, key: &str) -> (Host, String) {
    for _ in 0..20 {
        let b = host();
        let mut child = b
            .command(&["import", file.to_str().unwrap(), "--trust", key])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = || {
            let id = sessions_if_any(&b)?;
            let upper = b.state.join("sessions").join(&id).join("layers/0/upper");
            fs::read_dir(upper).ok()?.next().map(|_| id)
        };
        let id = loop {
            let ended = child.try_wait().unwrap().is_some();
            match begun() {
                Some(id) => break id,
                None if ended => panic!("the import ended without a session"),
                None => std::thread::yield_now(),
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        if record(&b, &id)["layers"].as_array().unwrap().is_empty() {
            return (b, id);
        }
    }
    panic!("every import was complete before it was killed");
}

fn sessions_if_any(host: &Host) -> Option<String> {
    let mut dir = fs::read_dir(host.state.join("sessions")).ok()?;
    dir.next()?.ok()?.file_name().into_string().ok()
}

#[test]
fn an_import_that_was_killed_is_told_and_removed() {
    let a = host();
    let made = session(&a);
    for n in 0..4000 {
        made.write(format!("many/{n}"), "text\n");
    }
    let (file, key) = (exported(&a), key(&a));
    for command in ["sessions", "gc"] {
        let (b, id) = cut_off(&file, &key);
        let told = b.call(&["sessions", "--all"]).code(0);
        assert!(told.out.contains("import not finished"), "{}", told.out);
        // It may be one that goes on: nothing is removed for ten minutes.
        b.call(&["gc"]).code(0);
        assert_eq!(sessions(&b), std::slice::from_ref(&id));
        let mut old = record(&b, &id);
        let begun = old["started_ms"].as_u64().unwrap();
        old["started_ms"] = (begun - 11 * 60 * 1000).into();
        let path = b.state.join("sessions").join(&id).join("session.json");
        fs::write(path, serde_json::to_vec(&old).unwrap()).unwrap();
        if command == "gc" {
            let plan = b.call(&["gc", "--dry-run", "--json"]).code(0).json();
            assert_eq!(plan["removed"].as_array().unwrap().len(), 1, "{plan}");
            assert_eq!(plan["removed"][0]["kind"], "leftover");
            let said = b.call(&["gc"]).code(0);
            assert!(
                said.out.contains("an import that was cut off"),
                "{}",
                said.out
            );
        } else {
            b.call(&["sessions", "--all"]).code(0);
        }
        assert!(sessions(&b).is_empty());
        // The archive can be imported again, and what is whole stays.
        b.call(&["import", file.to_str().unwrap(), "--trust", &key])
            .code(0);
        let whole = sessions(&b);
        assert_eq!(whole.len(), 1);
        assert!(
            !b.state
                .join("sessions")
                .join(&whole[0])
                .join("importing")
                .exists()
        );
        b.call(&["gc"]).code(0);
        assert_eq!(sessions(&b), whole);
    }
}
