//! Sessions that go on in their own layers, and that begin with a copy of another's: real walls with real
//! overlays.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::wall::{Wall, wait_for};

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
    let starts = wall.host.ledger("session_start");
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
    let starts = wall.host.ledger("session_start");
    assert_eq!(starts[1]["from"], one.as_str());
    // An original that its owner cannot read cannot be compared.
    for id in [&one, &two] {
        host.call(&["discard", id, "-y", "--", "shut", "shut2"])
            .code(0);
    }
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
