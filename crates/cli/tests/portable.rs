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

/// What lies here when a session is imported is not what its agent edited: a merge with that as its base
/// would take the person's lines for ones that the agent removed.
#[test]
fn an_original_that_differs_is_the_base_of_no_merge() {
    let (a, b) = (host(), host());
    let text = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
    a.put("old.txt", text);
    let session = session(&a);
    session.write("old.txt", &text.replace('1', "one"));
    let file = exported(&a);
    let person = text.replace('8', "PERSON");
    b.put("old.txt", &person);
    b.put("gone.txt", text);
    std::thread::sleep(std::time::Duration::from_millis(30));
    for args in [&["init", "-q"][..], &["add", "."]] {
        let mut git = std::process::Command::new("git");
        let git = git.args(args).current_dir(&b.work).env("HOME", &b.home);
        assert!(git.status().unwrap().success());
    }
    let file = file.to_str().unwrap();
    b.call(&["import", file, "--trust", &key(&a)]).code(0);
    let said = b.call(&["commit", "--merge", "--", "old.txt"]).code(3).out;
    assert_eq!(b.read("old.txt").unwrap(), person, "{said}");
    assert!(said.contains("made on another original"), "{said}");
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
