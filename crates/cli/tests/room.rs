//! Sessions that leave nothing, and making room, with real walls.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, time::Duration};

use support::{
    Said,
    wall::{Wall, wait_for},
};

#[test]
fn room_is_made_and_nothing_uncommitted_is_lost() {
    let wall = Wall::new();
    let host = &wall.host;
    for name in ["a", "b", "c"] {
        host.put(name, "base\n");
    }
    // Nothing was written; everything is committed; something is left.
    wall.run(&["--keep", "--name", "idle"], "true").code(0);
    wall.run(&["--keep", "--name", "done"], "echo one > a")
        .code(0);
    host.call(&["commit", "done", "-y"]).code(0);
    wall.run(
        &["--keep", "--name", "open"],
        "head -c 3000000 /dev/urandom > big; echo one > b",
    )
    .code(0);
    let running = wall.start(
        &["--keep", "--name", "busy"],
        "echo READY; until test -e $HOME/stop; do sleep 0.05; done",
    );
    let names = || {
        let all = wall.sessions();
        let mut names: Vec<String> = all
            .iter()
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let list = wall.sessions();
    let of = |name: &str| list.iter().find(|s| s["name"] == name).unwrap().clone();
    assert_eq!(
        (of("done")["undo"].as_bool(), of("open")["undo"].as_bool()),
        (Some(true), Some(false))
    );
    assert!(of("open")["bytes"].as_u64().unwrap() > 3_000_000);
    let table = host.call(&["sessions"]).code(0).out;
    assert!(table.contains("SIZE") && table.contains("MiB"), "{table}");

    let kinds = |said: &Said| -> Vec<String> {
        let json = said.json();
        let removed = json["removed"].as_array().unwrap().clone();
        removed
            .iter()
            .map(|r| {
                format!(
                    "{} {}",
                    r["kind"].as_str().unwrap(),
                    r["what"].as_str().unwrap()
                )
            })
            .collect()
    };
    let dry = host.call(&["gc", "--dry-run", "--json"]).code(0);
    assert_eq!(kinds(&dry), ["session nothing is left in it"]);
    assert_eq!(names(), ["busy", "done", "idle", "open"]);
    host.call(&["gc"]).code(0);
    assert_eq!(
        names(),
        ["busy", "done", "open"],
        "a commit that can be undone is kept"
    );
    host.call(&["undo", "done", "--dry-run"]).code(0);
    // A checkpoint is kept, too, and goes when age asks for it.
    host.call(&["checkpoint", "open"]).code(0);
    host.call(&["gc", "--max-age", "1d"]).code(0);
    host.call(&["rollback", "open", "c1"]).code(0);
    let said = host.call(&["gc", "--max-age", "0s", "--json"]).code(0);
    let kinds_now = kinds(&said);
    assert!(
        kinds_now.contains(&"undo originals of its last commit".to_owned()),
        "{kinds_now:?}"
    );
    assert!(
        kinds_now.contains(&"checkpoint c1".to_owned()),
        "{kinds_now:?}"
    );
    assert_eq!(names(), ["busy", "open"]);
    assert_eq!(wall.changes(of("open")["id"].as_str().unwrap()).len(), 2);
    // Size: nothing that is not committed goes without the word for it.
    let said = host.call(&["gc", "--max-size", "1M"]).code(1);
    assert!(said.err.contains("--discard-uncommitted"), "{}", said.err);
    assert_eq!(names(), ["busy", "open"]);
    host.call(&["gc", "--discard-uncommitted"]).code(2);
    host.call(&["gc", "--max-size", "2X"]).code(2);
    let dry = host
        .call(&[
            "gc",
            "--max-size",
            "1M",
            "--discard-uncommitted",
            "-n",
            "--json",
        ])
        .code(0);
    assert_eq!(
        kinds(&dry),
        ["uncommitted with changes that are not committed"]
    );
    assert_eq!(names(), ["busy", "open"]);
    let real = host
        .call(&["gc", "--max-size", "1M", "--discard-uncommitted", "--json"])
        .code(0);
    assert_eq!(kinds(&real), kinds(&dry));
    assert!(real.json()["after"].as_u64().unwrap() < 1 << 20);
    assert_eq!(names(), ["busy"]);
    assert_eq!(
        wall.host.ledger("discard").len(),
        1,
        "what was dropped is on record"
    );
    fs::write(host.home.join("stop"), "").unwrap();
    assert_eq!(running.end(), 0);
    assert_eq!(host.read("b").unwrap(), "base\n");
    // A folder that never got a record goes when it is old.
    let stray = host.state.join("sessions/20200101-0000-aaaa");
    fs::create_dir(&stray).unwrap();
    host.call(&["gc"]).code(0);
    assert!(stray.exists());
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(&stray).unwrap().set_modified(old).unwrap();
    host.call(&["gc"]).code(0);
    assert!(!stray.exists() && names().is_empty());
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn an_ephemeral_session_leaves_nothing_but_its_record() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "base\n");
    let said = wall
        .run(&["--ephemeral"], "echo one > a; cat a; exit 7")
        .code(7);
    assert_eq!(said.out, "one\n");
    assert_eq!(host.read("a").unwrap(), "base\n");
    let folders = || fs::read_dir(host.state.join("sessions")).unwrap().count();
    assert_eq!((wall.sessions().len(), folders()), (0, 0));
    let start = &wall.host.ledger("session_start")[0];
    assert_eq!(start["ephemeral"], true);
    assert_eq!(wall.host.ledger("session_end").len(), 1);
    // While it runs it is listed; killed, its folders go with the next command.
    let mut running = wall.start(&["--ephemeral"], "echo one > a; echo READY; sleep 1000");
    assert_eq!(wall.sessions().len(), 1);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    wait_for(|| wall.sessions().is_empty() && folders() == 0);
    // A copy of a session can be tried out in passing.
    wall.run(&["--keep"], "echo kept > a").code(0);
    let id = wall.id();
    let said = wall
        .run(&["--ephemeral", "--from", &id], "cat a; echo x > a")
        .code(0);
    assert_eq!(said.out, "kept\n");
    assert_eq!(wall.sessions().len(), 1);
    assert_eq!(
        wall.run(&["--on", &id, "--keep"], "cat a").code(0).out,
        "kept\n"
    );
    host.call(&["ledger", "verify"]).code(0);
}
