//! Checkpoints of ended and of running sessions, and going back to them, behind real walls.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use support::{
    Host, harmless,
    wall::{Running, Wall, wait_for},
};

#[test]
fn a_session_on_a_terminal_is_not_stopped_by_a_checkpoint() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put(
        "agent.sh",
        "echo one > a\necho READY\nuntil test -e $HOME/stop; do sleep 0.05; done\necho ENDED\n",
    );
    let out = host.home.join("out");
    let line = format!(
        "{} run --policy {} --keep -- /bin/sh agent.sh",
        env!("CARGO_BIN_EXE_agentwall"),
        host.home.join("policy.yaml").display()
    );
    let inner = host.command(&[]);
    let mut script = Command::new("script");
    script
        .args(["-qefc", &line, "/dev/null"])
        .env_clear()
        .current_dir(&host.work);
    for (name, value) in inner.get_envs() {
        script.env(name, value.unwrap());
    }
    let file = fs::File::create(&out).unwrap();
    let child = script
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .unwrap();
    let running = Running { child, out };
    wait_for(|| running.said().contains("READY"));
    for _ in 0..5 {
        host.call(&["checkpoint"]).code(0);
    }
    fs::write(host.home.join("stop"), "").unwrap();
    wait_for(|| running.said().contains("ENDED"));
    assert_eq!(running.end(), 0);
    host.call(&["rollback", "c3"]).code(0);
    assert_eq!(wall.changes(&wall.id()), [("a".to_owned(), false)]);
}

/// As if a rollback had been killed after the exchange, before it took its name and its note away.
fn cut_off(layer: &Path, to: &str, before: &str) {
    let kept = layer.join("upper.checkpoints");
    let staged = format!("{before}.new");
    fs::rename(kept.join(before), kept.join(&staged)).unwrap();
    let about = |dir: &str| fs::read_to_string(kept.join(dir).join("about.json")).unwrap();
    let upper = fs::metadata(layer.join("upper")).unwrap();
    let note = format!(
        "{{\"to\":{},\"before\":{},\"staged\":[{{\"dev\":{},\"ino\":{}}}]}}",
        about(to),
        about(&staged),
        upper.dev(),
        upper.ino(),
    );
    fs::write(layer.join("upper.rollback"), note).unwrap();
}

#[test]
fn a_rollback_that_was_cut_off_brings_a_discarded_session_back_for_good() {
    let host = Host::new();
    // The policy asks about it, so nothing of it is committed without its name.
    let session = host.session("20261121-0259-k3f9", "agent");
    session.write("ci/steps", "one\n");
    let layer = session.dir.join("layers");
    let outcome = || {
        let all = host.call(&["sessions", "--all", "--json"]).code(0).json();
        all[0]["outcome"].as_str().unwrap().to_owned()
    };
    host.call(&["checkpoint"]).code(0);
    for finish in [
        &["commit", "-y"][..],
        &["commit", "-y", "--", "ci/none"],
        &["discard", "-y", "--", "ci/none"],
        &["export", "-o", "layer.tar"],
        &["checkpoint"],
    ] {
        host.call(&["discard", "-y"]).code(0);
        host.call(&["rollback", "c1"]).code(0);
        let made = host
            .call(&["checkpoint", "--list", "--json"])
            .code(0)
            .json();
        let last = made["checkpoints"].as_array().unwrap().last().unwrap();
        let before = last["name"].as_str().unwrap().to_owned();
        cut_off(&layer, "c1", &before);
        let record = session.dir.join("session.json");
        let text = fs::read_to_string(&record).unwrap();
        let text = text.replace("\"outcome\": \"kept\"", "\"outcome\": \"discarded\"");
        fs::write(&record, text).unwrap();
        assert_eq!(outcome(), "discarded");
        let said = host.call(finish);
        assert!(said.err.contains("it is finished now"), "{}", said.all());
        assert_eq!(outcome(), "kept", "{finish:?}: {}", said.all());
    }
}

#[test]
fn a_rollback_that_was_cut_off_is_finished_first() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "base\n");
    wall.run(&["--keep"], "echo one > a").code(0);
    let id = wall.id();
    host.call(&["checkpoint"]).code(0);
    wall.run(&["--keep", "--on", &id], "echo two > a").code(0);
    let layer = host.state.join("sessions").join(&id).join("layers/0");
    for (n, finish) in [&["commit", "-y"][..], &["rollback", "c1"], &["checkpoint"]]
        .iter()
        .enumerate()
    {
        host.call(&["rollback", &id, "c1"]).code(0);
        let before = format!("before-{}", 2 * n + 1);
        cut_off(&layer, "c1", &before);
        let said = host.call(&["diff", &id]).code(1);
        assert!(said.err.contains("was cut off"), "{}", said.all());
        let said = host.call(finish);
        assert!(said.err.contains("it is finished now"), "{}", said.all());
        assert_eq!(said.code, 0, "{}", said.all());
        let last = wall.host.ledger("rollback");
        let outcomes: Vec<&str> = last
            .iter()
            .map(|r| r["outcome"].as_str().unwrap())
            .collect();
        assert!(outcomes.contains(&"finished"), "{outcomes:?}");
        host.call(&["rollback", &id, &before]).code(0);
    }
    assert_eq!(host.read("a").unwrap(), "one\n");
}

#[test]
fn checkpoints_of_an_ended_session_and_back() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "base\n");
    wall.run(&["--keep"], "echo one > a; echo one > new")
        .code(0);
    let id = wall.id();
    let none = host.call(&["rollback", "-y"]).code(1);
    assert!(none.err.contains("it has none"), "{}", none.err);
    let made = host.call(&["checkpoint", "--json"]).code(0).json();
    assert_eq!(made["checkpoint"]["name"], "c1");
    wall.run(
        &["--keep", "--on", &id],
        "echo two > a; rm new; echo two > other",
    )
    .code(0);
    let two = wall.changes(&id);
    host.call(&["checkpoint", "--name", "later"]).code(0);
    let taken = host.call(&["checkpoint", "--name", "later"]).code(1);
    assert!(taken.err.contains("already"), "{}", taken.err);
    host.call(&["checkpoint", "--name", "a/b"]).code(1);
    host.call(&["checkpoint", "--list", "--delete", "x"])
        .code(2);
    // One word: a checkpoint of this session; two: both.
    let said = host.call(&["rollback", "c1"]).code(0);
    assert!(
        said.out.contains("2 changes against the originals"),
        "{}",
        said.all()
    );
    let patch = host.call(&["diff", "--patch"]).code(0).out;
    assert!(patch.contains("+one") && !patch.contains("two"), "{patch}");
    host.call(&["rollback", &id, "before-1"]).code(0);
    assert_eq!(wall.changes(&id), two);
    // Without a name, the newest that a person made.
    host.call(&["rollback", &id[..]]).code(0);
    assert_eq!(wall.changes(&id), two);
    let list = host
        .call(&["checkpoint", "--list", "--json"])
        .code(0)
        .json();
    let names: Vec<&str> = list["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c1", "later", "before-1", "before-2", "before-3"]);
    let text = host.call(&["checkpoint", "-l"]).code(0).out;
    harmless(&text);
    assert!(
        text.contains("a rollback") && text.contains("a person"),
        "{text}"
    );
    host.call(&["checkpoint", "--delete", "before-2"]).code(0);
    host.call(&["rollback", &id, "before-2"]).code(1);
    let outcomes: Vec<String> = wall
        .host
        .ledger("rollback")
        .iter()
        .map(|r| r["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["planned", "done"].repeat(3));
    let kept: Vec<String> = wall
        .host
        .ledger("checkpoint")
        .iter()
        .map(|r| {
            format!(
                "{} {}",
                r["name"].as_str().unwrap(),
                r["outcome"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(kept, ["c1 made", "later made", "before-2 removed"]);
    host.call(&["ledger", "verify"]).code(0);
    // The session goes on from there.
    host.call(&["rollback", &id, "c1"]).code(0);
    let said = wall
        .run(
            &["--on", &id, "--keep"],
            "cat a new; test -e other || echo none; echo three > a",
        )
        .code(0);
    assert_eq!(said.out, "one\none\nnone\n");
    host.call(&["commit", "-y"]).code(0);
    assert_eq!(host.read("a").unwrap(), "three\n");
}

#[test]
fn a_rollback_after_a_commit_is_told_and_compared_by_content() {
    let wall = Wall::new();
    let host = &wall.host;
    for name in ["same", "newer", "gone"] {
        host.put(name, "base\n");
    }
    wall.run(
        &["--keep"],
        "echo one > same; echo one > newer; rm gone; echo one > made",
    )
    .code(0);
    let id = wall.id();
    host.call(&["checkpoint", "--name", "here"]).code(0);
    wall.run(
        &["--keep", "--on", &id],
        "echo two > newer; echo two > later",
    )
    .code(0);
    host.call(&["commit", "-y"]).code(0);
    let said = host.call(&["rollback", "here"]).code(0);
    assert!(
        said.err.contains("a commit was carried over"),
        "{}",
        said.all()
    );
    // What is the same is no change; what the commit made newer is one, and no false conflict.
    assert_eq!(wall.changes(&id), [("newer".to_owned(), false)]);
    let json = host
        .call(&["rollback", &id, "here", "--json"])
        .code(0)
        .json();
    assert_eq!(
        (
            json["commits_since"].as_u64(),
            json["changes"].as_u64(),
            json["conflicts"].as_u64()
        ),
        (Some(1), Some(1), Some(0))
    );
    assert_eq!(
        host.read("newer").unwrap(),
        "two\n",
        "the originals have no part in it"
    );
    host.call(&["commit", "-y"]).code(0);
    assert_eq!(host.read("newer").unwrap(), "one\n");
    // Also after everything was discarded.
    wall.run(&["--keep", "--on", &id], "echo five > same")
        .code(0);
    host.call(&["checkpoint", "--name", "five"]).code(0);
    host.call(&["discard", "-y"]).code(0);
    host.call(&["rollback", &id, "five"]).code(0);
    assert_eq!(wall.changes(&id).len(), 1);
    wall.run(&["--on", &id, "--keep"], "cat same").code(0);
}

#[test]
fn a_running_session_is_stopped_for_a_checkpoint_and_goes_on() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "base\n");
    // Two files that are the same whenever nobody is between the two writes; and one that was stopped
    // already stays so.
    let script = "sleep 1000 & kill -STOP $!; echo $! > sleeper; n=0; echo READY; \
        while ! test -e $HOME/stop; do n=$((n+1)); (echo $n > one); (echo $n > two); done; \
        grep State /proc/$(cat sleeper)/status > state; kill -KILL $(cat sleeper); echo ENDED";
    let running = wall.start(&["--keep"], script);
    let id = wall.id();
    let upper = host.state.join("sessions").join(&id).join("layers/0/upper");
    let number = |dir: &Path, name: &str| {
        fs::read_to_string(dir.join(name))
            .ok()
            .and_then(|t| t.trim().parse::<u64>().ok())
    };
    for round in 1..=3 {
        let now = number(&upper, "two").unwrap_or(0);
        wait_for(|| number(&upper, "two").unwrap_or(0) > now);
        let made = host.call(&["checkpoint", &id, "--json"]).code(0).json();
        assert_eq!(made["running"], true);
        let copy = host
            .state
            .join("sessions")
            .join(&id)
            .join(format!("layers/0/upper.checkpoints/c{round}/upper"));
        let (one, two) = (
            number(&copy, "one").unwrap_or(0),
            number(&copy, "two").unwrap_or(0),
        );
        // The shell may be between truncating and writing.
        assert!(
            one == 0 || two == 0 || one == two || one == two + 1,
            "{one} {two}"
        );
        assert!(one.max(two) > now);
        assert!(number(&upper, "one").is_none_or(|n| n + 1 >= one));
        let after = number(&upper, "two").unwrap_or(0);
        wait_for(|| number(&upper, "two").unwrap_or(0) > after + 3);
    }
    let said = host.call(&["rollback", &id, "c1"]).code(1);
    assert!(
        said.err.contains("is running") && said.err.contains("run --on"),
        "{}",
        said.err
    );
    host.call(&["checkpoint", &id, "--delete", "c1"]).code(1);
    host.call(&["checkpoint", &id, "--name", "c1"]).code(1);
    fs::write(host.home.join("stop"), "").unwrap();
    wait_for(|| running.said().contains("ENDED"));
    assert_eq!(running.end(), 0);
    let state = fs::read_to_string(upper.join("state")).unwrap();
    assert!(state.contains("T (stopped)"), "{state}");
    let records = wall.host.ledger("checkpoint");
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|r| r["running"] == true));
    host.call(&["rollback", &id, "c1"]).code(0);
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn a_session_that_waits_for_an_answer_can_be_kept() {
    let wall = Wall::new();
    let host = &wall.host;
    wall.policy("policy.yaml", "  - { id: q, priority: 50, action: [file.create, file.write], resource: '${workspace}/asked', effect: ask }");
    let running = wall.start(
        &["--keep"],
        "echo x > made; echo READY; echo y > asked; echo DONE",
    );
    let id = wall.id();
    let mut question = String::new();
    wait_for(|| {
        let asks = host.call(&["pending", "--json"]).code(0).json();
        question = asks[0]["id"].as_str().unwrap_or_default().to_owned();
        !question.is_empty()
    });
    host.call(&["checkpoint", &id]).code(0);
    let asks = host.call(&["pending", "--json"]).code(0).json();
    assert_eq!(asks[0]["id"], question.as_str(), "the question still waits");
    host.call(&["approve", &question]).code(0);
    wait_for(|| running.said().contains("DONE"));
    assert_eq!(running.end(), 0);
    assert_eq!(wall.changes(&id).len(), 2);
    host.call(&["rollback", &id, "c1"]).code(0);
    assert_eq!(wall.changes(&id), [("made".to_owned(), false)]);
}
