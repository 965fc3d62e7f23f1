//! The ledger in operation: what a writer that was killed has left, and who reads.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, mem, time::Duration};

use agentwall_ledger::{
    Entry, Log, LogOptions, Record,
    entry::{Gap, SessionStart},
    key,
};
use support::{Host, served::Served};

const ID: &str = "20261121-0259-k3f9";

/// A host whose last writer was killed: of its four entries, two are in the journal alone.
fn left() -> Host {
    let host = Host::new();
    host.call(&["sessions"]).code(0); // makes the state folder
    let signer =
        key::load_or_create(&host.state.join("keys/ledger.key"), "agentwall.local/t").unwrap();
    let options = LogOptions {
        head: Some(host.state.join("keys/ledger.head")),
        lag: Duration::from_secs(3600),
        ..LogOptions::default()
    };
    let log = Log::open_with(&host.state.join("ledger"), signer, options).unwrap();
    let entry = |seq: u64| {
        let record = match seq {
            0 => Record::SessionStart(SessionStart {
                name: "coder".into(),
                ..SessionStart::default()
            }),
            n => Record::Gap(Gap {
                lost: n,
                reason: "made".into(),
                ..Gap::default()
            }),
        };
        Entry::now(ID, seq, record).to_bytes()
    };
    log.append(&entry(0)).unwrap();
    log.append(&entry(1)).unwrap();
    log.flush().unwrap();
    log.append(&entry(2)).unwrap();
    log.append(&entry(3)).unwrap();
    mem::forget(log);
    host
}

/// Every command that reads sees what was acknowledged, and says nothing about it.
#[test]
fn what_a_killed_writer_has_promised_is_there_for_every_reader() {
    for (args, wanted) in [
        (&["ledger", "show"][..], "3 records lost: made"),
        (&["ledger", "show", "--json"], "\"lost\":3"),
        (&["ledger", "timeline", ID], "3 records lost: made"),
        (&["ledger", "export"], "\"lost\":3"),
        (&["ledger", "verify"], "4 entries"),
        (&["ledger", "prove", "3"], "index 3"),
    ] {
        let said = left().call(args).code(0);
        assert!(said.out.contains(wanted), "{args:?}: {}", said.all());
        assert!(!said.err.contains("behind"), "{args:?}: {}", said.err);
    }
}

#[test]
fn where_it_cannot_be_brought_in_the_reader_is_told() {
    let host = left();
    // No checkpoint can be written.
    let obstacle = host.state.join("ledger/checkpoint.tmp");
    fs::create_dir(&obstacle).unwrap();
    let said = host.call(&["ledger", "show"]).code(0);
    assert!(said.out.contains("1 records lost: made"), "{}", said.out);
    assert!(!said.out.contains("2 records lost"), "{}", said.out);
    for wanted in [
        "is behind",
        "2 durable entries are in the journal alone",
        "the newest entries are not in what follows",
    ] {
        assert!(said.err.contains(wanted), "{wanted}: {}", said.err);
    }
    fs::remove_dir(&obstacle).unwrap();
    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(said.out.contains("4 entries"), "{}", said.out);

    // Without the key nobody can tell what of the journal counts.
    let host = left();
    fs::remove_file(host.state.join("keys/ledger.key")).unwrap();
    let said = host.call(&["ledger", "show"]).code(0);
    assert!(said.err.contains("may be behind"), "{}", said.err);
}

/// The records of reading, as the ledger has them.
fn readings(host: &Host) -> Vec<serde_json::Value> {
    let out = host
        .call(&["ledger", "show", "--json", "--type", "access"])
        .code(0)
        .out;
    let lines = out.lines().map(|l| serde_json::from_str(l).unwrap());
    lines.collect()
}

#[test]
fn who_reads_is_recorded_once() {
    let host = left();
    host.call(&["ledger", "verify"]).code(0);
    assert_eq!(
        readings(&host).len(),
        0,
        "verifying reads nothing to anybody"
    );
    for args in [
        &["ledger", "show", "--last", "2"][..],
        &["ledger", "show", "--last", "2"],
        &["ledger", "export", "--format", "cef"],
        &["ledger", "timeline", ID],
        &["ledger", "prove", "1"],
    ] {
        host.call(args).code(0);
    }
    let found = readings(&host);
    let own = rustix::process::getuid().as_raw();
    assert!(found.iter().all(|r| r["user"]["uid"] == own), "{found:?}");
    let told: Vec<(String, String, u64)> = found
        .iter()
        .map(|r| {
            let words = r["filter"].as_array().into_iter().flatten();
            let words: Vec<&str> = words.map(|w| w.as_str().unwrap()).collect();
            let command = r["command"].as_str().unwrap().to_owned();
            (command, words.join(" "), r["entries"].as_u64().unwrap())
        })
        .collect();
    let told: Vec<(&str, &str, u64)> = told
        .iter()
        .map(|(c, f, n)| (c.as_str(), f.as_str(), *n))
        .collect();
    assert_eq!(
        told,
        [
            ("show", "--json --type access", 0),
            ("show", "--last 2", 2),
            ("export", "--format cef", 6),
            ("timeline", ID, 4),
            ("prove", "1", 1),
        ]
    );
    host.call(&["ledger", "verify"]).code(0);
}

/// What cannot be recorded is read all the same, and that is said.
#[test]
fn a_reading_that_cannot_be_recorded_is_told() {
    let host = left();
    host.call(&["ledger", "verify"]).code(0);
    fs::create_dir(host.state.join("ledger/checkpoint.tmp")).unwrap();
    let said = host.call(&["ledger", "show"]).code(0);
    assert!(said.out.contains("3 records lost: made"), "{}", said.out);
    assert!(
        said.err.contains("this reading is not recorded"),
        "{}",
        said.err
    );
}

/// A host with 600 entries of a session of 2020 that is gone.
fn old() -> Host {
    let host = Host::new();
    host.call(&["sessions"]).code(0); // makes the state folder
    let signer =
        key::load_or_create(&host.state.join("keys/ledger.key"), "agentwall.local/t").unwrap();
    let options = LogOptions {
        head: Some(host.state.join("keys/ledger.head")),
        ..LogOptions::default()
    };
    let log = Log::open_with(&host.state.join("ledger"), signer, options).unwrap();
    let entries: Vec<Vec<u8>> = (0..600)
        .map(|seq| {
            let mut entry = Entry::now("20200101-0000-k3f9", seq, Record::Gap(Gap::default()));
            entry.time = "2020-01-01T00:00:00.000Z".into();
            entry.to_bytes()
        })
        .collect();
    let slices: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    log.append_batch(&slices).unwrap();
    log.close().unwrap();
    host
}

fn bundle(host: &Host, number: u64) -> bool {
    host.state
        .join(format!("ledger/tile/entries/{number:03}"))
        .exists()
}

/// A monitor sees that entries are gone, and whether the log lets them be.
#[test]
fn a_pruned_log_is_verified_over_http_and_one_bundle_too_many_is_not() {
    let host = old();
    let policy = "agentwall-retention: 1\nkeep_days: 400\nreason: one year\n";
    fs::write(host.state.join("retention.yaml"), policy).unwrap();
    let key = host.call(&["ledger", "key"]).code(0).out.trim().to_owned();
    let served = Served::new(&host, &["ledger", "serve"]);
    let verify = || host.call(&["ledger", "verify", &served.url, "--key", &key, "--json"]);
    assert_eq!(verify().code(0).json()["pruned"], 0);
    host.call(&["ledger", "prune", "--yes"]).code(0);
    let json = verify().code(0).json();
    assert_eq!(json["pruned"], 512, "{json}");
    // Also while the server was started anew, and over the folder.
    let again = Served::new(&host, &["ledger", "serve"]);
    let dir = host.state.join("ledger");
    for place in [again.url.as_str(), dir.to_str().unwrap()] {
        let json = host.call(&["ledger", "verify", place, "--key", &key, "--json"]);
        assert_eq!(json.code(0).json()["pruned"], 512, "{place}");
    }
    // The hashes of what is gone are there.
    let tile = dir.join("tile/0/001");
    let genuine = fs::read(&tile).unwrap();
    fs::remove_file(&tile).unwrap();
    let said = verify().code(1);
    assert!(said.out.contains("tile/0/001"), "{}", said.out);
    let mut changed = genuine.clone();
    changed[40] ^= 1;
    fs::write(&tile, changed).unwrap();
    verify().code(1);
    fs::write(&tile, genuine).unwrap();
    verify().code(0);
    // What no record lets go: the bundle that is open.
    let open = fs::read_dir(dir.join("tile/entries/002.p")).unwrap();
    let open = open.flatten().next().unwrap().path();
    let kept = fs::read(&open).unwrap();
    fs::remove_file(&open).unwrap();
    let said = verify().code(1);
    assert!(said.out.contains("tile/entries/002"), "{}", said.out);
    fs::write(&open, kept).unwrap();
    verify().code(0);
}

/// What is missing without a record is told as missing, to a monitor as well.
#[test]
fn an_entry_that_nobody_let_go_is_missed_over_http() {
    let host = old();
    let key = host.call(&["ledger", "key"]).code(0).out.trim().to_owned();
    let served = Served::new(&host, &["ledger", "serve"]);
    for number in [0, 1] {
        let file = host.state.join(format!("ledger/tile/entries/{number:03}"));
        let kept = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let said = host
            .call(&["ledger", "verify", &served.url, "--key", &key])
            .code(1);
        assert!(
            said.err.contains(&format!("tile/entries/{number:03}")),
            "{}",
            said.err
        );
        fs::write(&file, kept).unwrap();
        host.call(&["ledger", "verify", &served.url, "--key", &key])
            .code(0);
    }
}

#[test]
fn old_entries_go_as_the_written_policy_says() {
    let host = old();
    let said = host.call(&["ledger", "prune", "--yes"]).code(1);
    assert!(
        said.err.contains("without a written retention policy"),
        "{}",
        said.err
    );
    let policy = host.state.join("retention.yaml");
    for wrong in [
        "agentwall-retention: 1\nkeep_days: 400\n",
        "agentwall-retention: 1\nkeep_days: 0\nreason: x\n",
        "agentwall-retention: 2\nkeep_days: 400\nreason: x\n",
        "agentwall-retention: 1\nkeep_days: 400\nreason: x\nmore: 1\n",
    ] {
        fs::write(&policy, wrong).unwrap();
        let said = host.call(&["ledger", "prune", "--yes"]);
        assert!(said.code != 0, "{wrong}: {}", said.out);
    }
    fs::write(
        &policy,
        "agentwall-retention: 1\nkeep_days: 400\nreason: one year\n",
    )
    .unwrap();
    let said = host
        .call(&["ledger", "prune", "--yes", "--keep", "30d"])
        .code(2);
    assert!(said.err.contains("younger than 400 days"), "{}", said.err);
    let proof = host.call(&["ledger", "prove", "5"]).code(0).out;

    // What it would do is told, and not done.
    let said = host.call(&["ledger", "prune"]).code(0);
    assert!(
        said.out.contains("512 entries would be removed"),
        "{}",
        said.out
    );
    assert!(bundle(&host, 0) && bundle(&host, 1));
    let json = host
        .call(&["ledger", "prune", "--yes", "--json"])
        .code(0)
        .json();
    assert_eq!(json["minimum"], 512);
    assert_eq!(
        (&json["entries"], &json["removed"]),
        (&512.into(), &true.into())
    );
    assert!(!bundle(&host, 0) && !bundle(&host, 1));
    let said = host.call(&["ledger", "prune", "--yes"]).code(0);
    assert!(said.out.contains("nothing to remove"), "{}", said.out);

    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(said.out.contains("entries below 512"), "{}", said.out);
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert_eq!(json["pruned"], 512);
    for args in [&["ledger", "show"][..], &["ledger", "export"]] {
        let said = host.call(args).code(0);
        assert!(said.err.contains("below 512 were removed"), "{}", said.err);
        assert!(said.out.contains("599"), "{}", said.out);
    }
    let shown = host.call(&["ledger", "show", "--json", "--type", "prune"]);
    let record: serde_json::Value = serde_json::from_str(shown.out.trim()).unwrap();
    assert_eq!(record["minimum"], 512);
    assert_eq!(record["policy"].as_str().unwrap().len(), 64);
    // Whoever kept an entry proves it still; whoever did not is told why not.
    let file = host.tmp.path().join("5.tlog-proof");
    fs::write(&file, proof).unwrap();
    host.call(&["ledger", "verify", file.to_str().unwrap()])
        .code(0);
    host.call(&["ledger", "prove", "5"]).code(1);
    host.call(&["ledger", "prove", "520"]).code(0);
    // The log goes on.
    let session = host.session("20261121-0300-m4g2", "beta");
    session.write("beta.txt", "x\n");
    host.call(&["commit", "20261121-0300-m4g2"]).code(0);
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn entries_of_a_session_that_is_still_there_stay_and_a_cut_off_removal_is_gone_on_with() {
    let host = old();
    fs::write(
        host.state.join("retention.yaml"),
        "agentwall-retention: 1\nkeep_days: 400\nreason: one year\n",
    )
    .unwrap();
    host.session("20200101-0000-k3f9", "alpha");
    let said = host.call(&["ledger", "prune", "--yes"]).code(0);
    assert!(said.out.contains("nothing to remove"), "{}", said.out);
    assert!(bundle(&host, 0));
    fs::remove_dir_all(host.state.join("sessions/20200101-0000-k3f9")).unwrap();
    // The second bundle cannot be removed at first.
    let second = host.state.join("ledger/tile/entries/001");
    let kept = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    fs::create_dir(&second).unwrap();
    let _ = host.call(&["ledger", "prune", "--yes"]);
    fs::remove_dir(&second).unwrap();
    fs::write(&second, kept).unwrap();
    host.call(&["ledger", "prune", "--yes"]).code(0);
    assert!(!bundle(&host, 0) && !bundle(&host, 1));
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    assert_eq!(json["pruned"], 512);
}

/// Removed without a record is removed.
#[test]
fn a_bundle_that_no_record_lets_go_is_missing() {
    let host = old();
    fs::remove_file(host.state.join("ledger/tile/entries/000")).unwrap();
    let said = host.call(&["ledger", "verify"]).code(1);
    assert!(
        said.err.contains("tile/entries/000 is missing"),
        "{}",
        said.err
    );
    host.call(&["ledger", "show"]).code(1);
}
