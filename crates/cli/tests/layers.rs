//! Sessions that go on, begin with another's layers, are kept at a moment and put back, or leave
//! nothing: real walls with real overlays.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{Host, Said, harmless};

const POLICY: &str = "agentwall: 1
default: deny
rules:
  - { id: programs, priority: 100, action: process.exec, resource: ['/usr/**', '/bin/**'], effect: allow }
  - { id: system, priority: 100, action: [file.read, file.exec], resource: ['/', '/usr/**', '/bin/**', '/sbin/**', '/lib/**', '/lib64/**', '/etc/**', '/proc/**', '/sys/**'], effect: allow }
  - { id: devices, priority: 100, action: [file.read, file.write, device.open], resource: ['/dev', '/dev/{null,zero,full,random,urandom,tty}'], effect: allow }
  - { id: own-processes, priority: 100, action: [process.signal, process.trace], effect: allow }
  - { id: home, priority: 110, action: file.read, resource: '${home}/**', effect: allow }
  - { id: commit, priority: 150, action: file.commit, resource: '${workspace}/**', effect: allow }
EXTRA
  - { id: work, priority: 200, action: 'file.*', resource: '${workspace}/**', effect: isolate }
";

struct Wall {
    host: Host,
}

impl Wall {
    fn new() -> Wall {
        let host = Host::new();
        fs::write(host.home.join("policy.yaml"), POLICY.replace("EXTRA\n", "")).unwrap();
        Wall { host }
    }

    fn policy(&self, name: &str, extra: &str) {
        let text = POLICY.replace("EXTRA", extra);
        fs::write(self.host.home.join(name), text).unwrap();
    }

    fn command(&self, options: &[&str], script: &str) -> Command {
        let policy = self.host.home.join("policy.yaml");
        let mut args = vec!["run"];
        if !options.contains(&"--policy") {
            args.extend(["--policy", policy.to_str().unwrap()]);
        }
        args.extend(options);
        args.extend(["--", "/bin/sh", "-c", script]);
        self.host.command(&args)
    }

    /// Runs a script behind the wall, to its end.
    fn run(&self, options: &[&str], script: &str) -> Said {
        support::said(&mut self.command(options, script))
    }

    /// Starts one and waits until it has said READY.
    fn start(&self, options: &[&str], script: &str) -> Running {
        let out = self.host.home.join("out");
        let file = fs::File::create(&out).unwrap();
        let mut command = self.command(options, script);
        let child = command
            .stdout(file)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let running = Running { child, out };
        wait_for(|| running.said().contains("READY"));
        running
    }

    fn sessions(&self) -> Vec<Value> {
        let said = self.host.call(&["sessions", "--all", "--json"]).code(0);
        said.json().as_array().unwrap().clone()
    }

    /// The id of the session that ran last.
    fn id(&self) -> String {
        self.sessions()[0]["id"].as_str().unwrap().to_owned()
    }

    fn changes(&self, id: &str) -> Vec<(String, bool)> {
        let diff = self.host.call(&["diff", id, "--json"]).code(0).json();
        let all = diff["changes"].as_array().unwrap().clone();
        let work = self.host.work.to_str().unwrap().to_owned() + "/";
        let each = all.iter().map(|c| {
            let path = c["path"].as_str().unwrap().replace(&work, "");
            (path, !c["conflict"].is_null())
        });
        each.collect()
    }

    fn ledger(&self, kind: &str) -> Vec<Value> {
        let said = self
            .host
            .call(&["ledger", "show", "--json", "--type", kind]);
        let lines = said.code(0).out;
        lines
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }
}

struct Running {
    child: Child,
    out: PathBuf,
}

impl Running {
    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Generous: a machine that is busy with other tests is slow.
fn wait_for(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn none(path: &Path) -> bool {
    !path.exists()
}

#[test]
fn a_session_goes_on_in_its_own_layers() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("old", "one\n");
    host.put("gone", "bye\n");
    host.put("d/x", "x\n");
    wall.run(
        &["--keep"],
        "echo two > old; rm gone; mkdir new; echo n > new/n; rm -r d; mkdir d",
    )
    .code(0);
    let id = wall.id();
    let seen = wall.run(
        &["--keep", "--on", &id[..]],
        "cat old new/n; ls -A d; test -e gone || echo none; echo three >> old; echo m > new/m; \
         echo \"session $AGENTWALL_SESSION\"",
    );
    let seen = seen.code(0);
    assert_eq!(seen.out, format!("two\nn\nnone\nsession {id}\n"));
    assert_eq!(wall.sessions().len(), 1, "it is the same session");
    let paths: Vec<String> = wall.changes(&id).into_iter().map(|(p, _)| p).collect();
    assert_eq!(paths, ["d/x", "gone", "new", "new/m", "new/n", "old"]);
    assert!(wall.changes(&id).iter().all(|(_, conflict)| !conflict));

    // The ledger has both starts, the second with its mark, and no gap between.
    let starts = wall.ledger("session_start");
    assert_eq!(starts.len(), 2);
    assert_eq!(starts[0]["resumes"], Value::Null);
    assert_eq!(starts[1]["resumes"], true);
    let all = host
        .call(&["ledger", "show", "--json", "--session", &id])
        .code(0)
        .out;
    let numbers = all.lines().map(|l| {
        serde_json::from_str::<Value>(l).unwrap()["seq"]
            .as_u64()
            .unwrap()
    });
    assert!(numbers.enumerate().all(|(n, seq)| n as u64 == seq), "{all}");
    let text = host
        .call(&["ledger", "show", "--type", "session_start"])
        .code(0)
        .out;
    assert!(text.contains(", goes on)"), "{text}");

    host.call(&["commit", "-y"]).code(0);
    assert_eq!(host.read("old").unwrap(), "two\nthree\n");
    assert!(none(&host.work.join("gone")) && none(&host.work.join("d/x")));
    host.call(&["undo", "-y"]).code(0);
    assert_eq!(host.read("old").unwrap(), "one\n");
    assert_eq!(host.read("d/x").unwrap(), "x\n");
    host.call(&["discard", "-y"]).code(0);
    let said = wall.run(&["--on", &id], "true").code(125);
    assert!(said.err.contains("were discarded"), "{}", said.err);
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn what_was_committed_is_no_conflict_for_what_comes_after() {
    let wall = Wall::new();
    let host = &wall.host;
    for name in ["a", "b", "d/c", "links/1", "meta"] {
        host.put(name, "base\n");
    }
    fs::hard_link(host.work.join("links/1"), host.work.join("links/2")).unwrap();
    let write = "echo one >> a; rm b; echo one >> d/c; mkdir e; echo one > e/f; ln a e/l; chmod 700 meta; \
                 echo one > links/1; ln -s a link";
    wall.run(&["--keep"], write).code(0);
    let id = wall.id();
    let report = host.call(&[
        "commit", &id, "--json", "--", "a", "b", "d", "e", "meta", "links", "link",
    ]);
    report.code(0);
    for round in ["two", "three"] {
        let script = format!(
            "echo {round} >> a; echo {round} > b; echo {round} >> d/c; echo {round} >> e/f; \
             echo {round} > e/g-{round}; echo {round} >> meta; echo {round} >> links/1; \
             rm link; ln -s {round} link"
        );
        wall.run(&["--keep", "--on", &id], &script).code(0);
        let changes = wall.changes(&id);
        assert!(changes.len() >= 7, "{changes:?}");
        assert!(changes.iter().all(|(_, conflict)| !conflict), "{changes:?}");
        host.call(&["commit", &id, "-y"]).code(0);
        assert!(host.read("a").unwrap().ends_with(&format!("{round}\n")));
        assert_eq!(
            host.read(&format!("e/g-{round}")).unwrap(),
            format!("{round}\n")
        );
    }
    assert_eq!(host.read("a").unwrap(), "base\none\ntwo\nthree\n");
    assert_eq!(host.read("d/c").unwrap(), "base\none\ntwo\nthree\n");
    host.call(&["undo", &id, "-y"]).code(0);
    assert_eq!(host.read("a").unwrap(), "base\none\ntwo\n");
    // What a person did after the commit still is one.
    host.call(&["discard", &id, "-y", "--", "a"]).code(0);
    host.put("a", "PERSON\n");
    wall.run(&["--keep", "--on", &id], "echo four >> a").code(0);
    assert!(wall.changes(&id).contains(&("a".into(), true)));
    host.call(&["commit", &id, "-y"]).code(3);
    assert_eq!(host.read("a").unwrap(), "PERSON\n");
}

#[test]
fn a_session_goes_on_with_more_trees_than_it_began_with() {
    let wall = Wall::new();
    let host = &wall.host;
    let extra = host.home.join("extra");
    fs::create_dir(&extra).unwrap();
    fs::write(extra.join("e"), "base\n").unwrap();
    host.put("a", "base\n");
    wall.run(&["--keep"], "echo one > a").code(0);
    let id = wall.id();
    host.call(&["checkpoint"]).code(0);
    wall.policy(
        "wide.yaml",
        "  - { id: extra, priority: 105, action: 'file.*', resource: '${home}/extra/**', effect: isolate }\n  \
         - { id: extra-commit, priority: 100, action: file.commit, resource: '${home}/extra/**', effect: allow }",
    );
    let wide = host.home.join("wide.yaml");
    let wide = ["--keep", "--on", &id, "--policy", wide.to_str().unwrap()];
    for text in ["two", "three"] {
        let script = format!("cat a $HOME/extra/e; echo {text} > $HOME/extra/e; echo {text} >> a");
        wall.run(&wide, &script).code(0);
    }
    // With the first policy the agent would see the original of the second tree.
    let said = wall.run(&["--keep", "--on", &id], "true").code(125);
    assert!(said.err.contains("does not isolate"), "{}", said.err);
    let paths = || -> Vec<String> { wall.changes(&id).into_iter().map(|(p, _)| p).collect() };
    let both = [extra.join("e").to_str().unwrap().to_owned(), "a".to_owned()];
    assert_eq!(paths(), both);
    host.call(&["rollback", &id, "c1"]).code(0);
    assert_eq!(paths(), ["a"]);
    host.call(&["rollback", &id, "before-1"]).code(0);
    assert_eq!(paths(), both);
    // A copy has both, too.
    let copy = ["--keep", "--from", &id, "--policy", wide[4]];
    assert_eq!(
        wall.run(&copy, "cat a $HOME/extra/e").code(0).out,
        "one\ntwo\nthree\nthree\n"
    );
    host.call(&["commit", &id, "-y"]).code(0);
    assert_eq!(fs::read_to_string(extra.join("e")).unwrap(), "three\n");
    assert_eq!(wall.changes(&wall.id()), [], "the other one has the same");
    host.call(&["undo", &id, "-y"]).code(0);
    assert_eq!(fs::read_to_string(extra.join("e")).unwrap(), "base\n");
}

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

#[test]
fn an_undo_does_not_take_what_was_written_since() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "base\n");
    host.put("b", "base\n");
    wall.run(&["--keep"], "echo one > a; rm b; mkdir e; echo one > e/f")
        .code(0);
    let id = wall.id();
    host.call(&["commit", "-y"]).code(0);
    wall.run(
        &["--keep", "--on", &id],
        "echo two > a; echo two > b; echo two > e/g",
    )
    .code(0);
    let said = host.call(&["undo", "-y"]).code(0);
    assert_eq!(host.read("a").unwrap(), "base\n");
    assert_eq!(host.read("b").unwrap(), "base\n");
    assert!(!host.work.join("e").exists());
    let patch = host.call(&["diff", "--patch"]).code(0).out;
    // The session's newer work counts; where the older one is, is told.
    assert_eq!(patch.matches("+two").count(), 3, "{patch}");
    assert!(
        said.err.contains("holds what was committed"),
        "{}",
        said.all()
    );
    host.call(&["commit", "-y"]).code(0);
    assert_eq!(host.read("a").unwrap(), "two\n");
    assert_eq!(host.read("e/f").unwrap(), "one\n");
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
    let kept = layer.join("upper.checkpoints");
    for (n, finish) in [&["commit", "-y"][..], &["rollback", "c1"], &["checkpoint"]]
        .iter()
        .enumerate()
    {
        host.call(&["rollback", &id, "c1"]).code(0);
        // As if it had been killed after the exchange, before it took its name and its note away.
        let before = format!("before-{}", 2 * n + 1);
        let staged = format!("{before}.new");
        fs::rename(kept.join(&before), kept.join(&staged)).unwrap();
        let about = |dir: &str| fs::read_to_string(kept.join(dir).join("about.json")).unwrap();
        let ino = |p: &Path| {
            use std::os::unix::fs::MetadataExt as _;
            let m = fs::metadata(p).unwrap();
            (m.dev(), m.ino())
        };
        let (dev, inode) = ino(&layer.join("upper"));
        let note = format!(
            "{{\"to\":{},\"before\":{},\"staged\":[{{\"dev\":{dev},\"ino\":{inode}}}]}}",
            about("c1"),
            about(&staged)
        );
        fs::write(layer.join("upper.rollback"), note).unwrap();
        let said = host.call(&["diff", &id]).code(1);
        assert!(said.err.contains("was cut off"), "{}", said.all());
        let said = host.call(finish);
        assert!(said.err.contains("it is finished now"), "{}", said.all());
        assert_eq!(said.code, 0, "{}", said.all());
        let last = wall.ledger("rollback");
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
        wall.ledger("discard").len(),
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
fn a_session_that_cannot_go_on_says_why() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "a\n");
    let said = wall.run(&["--on", "nobody"], "true").code(125);
    assert!(said.err.contains("no sessions yet"), "{}", said.err);
    let running = wall.start(
        &["--keep"],
        "echo b > b; echo READY; until test -e $HOME/stop; do sleep 0.05; done",
    );
    let id = wall.id();
    for option in ["--on", "--from"] {
        let said = wall.run(&[option, &id], "true").code(125);
        assert!(said.err.contains("is running"), "{}", said.err);
    }
    drop(running);
    wait_for(|| !wall.sessions()[0]["running"].as_bool().unwrap());
    let home = host.home.to_str().unwrap();
    for option in ["--on", "--from"] {
        let said = wall
            .run(&[option, &id, "--workspace", home], "true")
            .code(125);
        assert!(said.err.contains("is of the workspace"), "{}", said.err);
    }
    let both = wall.run(&["--on", &id, "--from", &id], "true").code(125);
    assert!(both.err.contains("cannot be used with"), "{}", both.err);
    for wrong in [
        ["--ephemeral", "--keep"],
        ["--ephemeral", "--commit"],
        ["--ephemeral", "--review"],
    ] {
        wall.run(&wrong, "true").code(125);
    }
    wall.run(&["--on", &id, "--name", "x"], "true").code(125);
    // A policy under which the agent would not see what it had written.
    wall.policy(
        "narrow.yaml",
        "  - { id: read, priority: 190, action: file.read, resource: '${workspace}/**', effect: allow }\n  \
         - { id: shut, priority: 191, action: 'file.*', resource: '${workspace}/**', effect: deny }",
    );
    let narrow = host.home.join("narrow.yaml");
    let said = wall
        .run(&["--on", &id, "--policy", narrow.to_str().unwrap()], "true")
        .code(125);
    assert!(said.err.contains("does not isolate"), "{}", said.err);
    // Another folder in the place of the original.
    fs::rename(&host.work, host.home.join("aside")).unwrap();
    fs::create_dir(&host.work).unwrap();
    let said = wall.run(&["--on", &id], "true").code(125);
    assert!(said.err.contains("another folder"), "{}", said.err);
    fs::remove_dir(&host.work).unwrap();
    fs::rename(host.home.join("aside"), &host.work).unwrap();
    // Its copies are gone.
    let layers = host.state.join("sessions").join(&id).join("layers");
    fs::rename(layers.join("0/upper"), layers.join("0/away")).unwrap();
    let said = wall.run(&["--on", &id], "true").code(125);
    assert!(said.err.contains("are gone"), "{}", said.err);
    fs::rename(layers.join("0/away"), layers.join("0/upper")).unwrap();
    // After all that it is what it was.
    let said = wall.run(&["--on", &id, "--keep"], "cat b").code(0);
    assert_eq!(said.out, "b\n");
}

#[test]
fn a_session_begins_with_a_copy_and_both_can_be_committed() {
    let wall = Wall::new();
    let host = &wall.host;
    for name in ["both", "first", "second", "gone", "d/x", "d/y"] {
        host.put(name, "base\n");
    }
    wall.run(
        &["--keep", "--name", "one"],
        "echo one > both; echo one > first; rm gone; rm -r d; mkdir d; echo one > d/z; ln first linked; \
         echo shut > shut; ln shut shut2; chmod 000 shut; touch -d 2001-02-03T04:05:06.789 both; echo same > same",
    )
    .code(0);
    let one = wall.id();
    let before = wall.changes(&one);
    let said = wall.run(
        &["--keep", "--name", "two", "--from", "one"],
        "cat both d/*; ls d; stat -c %y both; test first -ef linked && test shut -ef shut2 && echo linked; \
         echo two >> both; echo two > second; echo two > d/w",
    );
    let said = said.code(0).out;
    assert!(
        said.starts_with("one\none\nz\n2001-02-03 04:05:06.789"),
        "{said}"
    );
    assert!(said.ends_with("linked\n"), "{said}");
    let other = support::said(
        wall.command(
            &["--keep", "--from", "one"],
            "stat -c %a shut; chmod 600 shut; cat shut",
        )
        .current_dir(&host.home),
    );
    assert_eq!(
        other.code(0).out,
        "0\nshut\n",
        "from any folder, and as it was"
    );
    let two = wall.sessions()[1]["id"].as_str().unwrap().to_owned();
    assert_ne!(one, two);
    assert_eq!(wall.changes(&one), before, "the other one is untouched");
    let starts = wall.ledger("session_start");
    assert_eq!(starts[1]["from"], one.as_str());
    // The first goes first; what both have is no change any more, where they differ is a conflict.
    host.call(&["commit", &one, "-y"]).code(0);
    let left = wall.changes(&two);
    let expected = [("both", true), ("d/w", false), ("second", false)];
    assert_eq!(left, expected.map(|(p, c)| (p.to_owned(), c)));
    host.call(&["commit", &two, "-y"]).code(3);
    assert_eq!(host.read("both").unwrap(), "one\n");
    assert_eq!(host.read("second").unwrap(), "two\n");
    assert_eq!(host.read("d/w").unwrap(), "two\n");
    assert!(none(&host.work.join("d/x")));
    host.call(&["ledger", "verify"]).code(0);
}

#[test]
fn a_copy_of_a_partly_committed_session_knows_what_was_committed() {
    let wall = Wall::new();
    let host = &wall.host;
    host.put("a", "base\n");
    host.put("b", "base\n");
    wall.run(&["--keep"], "echo one > a; echo one > b").code(0);
    let one = wall.id();
    host.call(&["commit", &one, "-y", "--", "a"]).code(0);
    wall.run(&["--keep", "--from", &one], "cat a b; echo two > a")
        .code(0);
    let two = wall.id();
    let expected = [("a", false), ("b", false)].map(|(p, c)| (p.to_owned(), c));
    assert_eq!(wall.changes(&two), expected);
    host.call(&["commit", &two, "-y"]).code(0);
    assert_eq!(host.read("a").unwrap(), "two\n");
    // The other one's commit of the same is there already.
    assert_eq!(wall.changes(&one), []);
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
        .ledger("rollback")
        .iter()
        .map(|r| r["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["planned", "done"].repeat(3));
    let kept: Vec<String> = wall
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
    let records = wall.ledger("checkpoint");
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
    let start = &wall.ledger("session_start")[0];
    assert_eq!(start["ephemeral"], true);
    assert_eq!(wall.ledger("session_end").len(), 1);
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
