//! Sessions that are not there, are busy, are another folder's, or whose record is damaged.

use std::{fs, path::Path, thread};

use agentwall_tests::{
    Who, World,
    tree::{Depth, Tree},
};

use crate::{
    kit::{
        Fault, Said, Verdict, changed, ids, ledger_verifies, need, next_run_works, run, say,
        session, wall,
    },
    tools::{Running, remove},
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("sessions/none", none),
        Fault::new("sessions/unknown", unknown),
        Fault::new("sessions/removed", removed),
        Fault::new("sessions/of-another-workspace", of_another),
        Fault::new("sessions/running", running),
        Fault::new("sessions/ambiguous", ambiguous),
        Fault::new("sessions/committed-then-again", again).commits(),
        Fault::new("sessions/two-commits-at-once", two_commits).commits(),
        Fault::new("sessions/commit-and-discard-at-once", commit_and_discard).commits(),
        Fault::new("sessions/two-sessions-commit-at-once", two_sessions).commits(),
        Fault::new("sessions/record-damaged", damaged).commits(),
        Fault::new("sessions/copy-gone", copy_gone),
        Fault::new("sessions/policy-changed", policy_changed),
        Fault::new("sessions/workspace-gone", workspace_gone).commits(),
        Fault::new("sessions/workspace-replaced", workspace_replaced)
            .commits()
            .rules(SECOND),
        Fault::new("sessions/folder-not-to-be-looked-at", folder_closed)
            .commits()
            .rules(INNER)
            .only(Who::User, "root looks everywhere"),
    ]
}

const VERBS: [&str; 3] = ["diff", "commit", "discard"];

fn none(w: &World) -> Verdict {
    for verb in VERBS {
        say(w, verb)?.refused(
            1,
            &[
                "there is no session of the workspace",
                "agentwall sessions --all",
            ],
        )?;
        say(w, &format!("{verb} nothere"))?
            .refused(1, &["unknown session 'nothere'", "agentwall run"])?;
    }
    say(w, "sessions")?
        .ended(0)?
        .says(&["no sessions yet", "agentwall run"])?;
    say(w, "sessions --json")?.ended(0)?.says(&["[]"])?;
    say(w, "approve k3f9-1")?.refused(1, &["no session asked", "agentwall pending"])?;
    say(w, "ledger show")?
        .ended(0)?
        .says(&["the ledger is empty", "agentwall run"])
        .map(drop)
}

fn unknown(w: &World) -> Verdict {
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    for verb in VERBS {
        for odd in ["nothere", "../../etc", "-", "a\u{1b}[2J\u{202e}b"] {
            let said = run(&mut wall(w, [verb, odd]))?;
            said.refused(
                1,
                &[
                    "unknown session",
                    "the closest are",
                    "agentwall sessions --all",
                ],
            )
            .map_err(|e| format!("{verb} {odd:?}: {e}"))?;
        }
        let said = run(&mut wall(w, [verb, ""]))?;
        need(said.status == 1, said.brief())?;
    }
    let id = ids(w)?.pop().ok_or("no session")?;
    need(changed(w, &id)?.len() == 1, "the change is lost")
}

/// Its folder was removed by hand.
fn removed(w: &World) -> Verdict {
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    remove(&w.path("state/sessions").join(&id))?;
    for verb in VERBS {
        say(w, &format!("{verb} {id}"))?.refused(1, &["unknown session", "agentwall run"])?;
        say(w, verb)?.refused(1, &["there is no session of the workspace"])?;
    }
    next_run_works(w)
}

fn of_another(w: &World) -> Verdict {
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    for verb in VERBS {
        let said = run(wall(w, [verb]).current_dir(w.path("home")))?;
        said.refused(
            1,
            &[
                "there is no session of the workspace",
                "home",
                "agentwall sessions --all",
            ],
        )?;
    }
    let outside = w.fill("{out}/canary.txt");
    for verb in ["commit", "discard"] {
        let said = run(&mut wall(w, [verb, &id, "--", &outside]))?;
        said.refused(2, &["changed nothing at", "agentwall diff --stat"])?;
    }
    let listed = run(wall(w, ["sessions"]).current_dir(w.path("home")))?;
    listed.ended(0)?.says(&[&id])?;
    need(changed(w, &id)?.len() == 1, "the change is lost")
}

fn running(w: &World) -> Verdict {
    let script =
        "echo x > {work}/new.txt; echo READY; while [ ! -e {work}/stop ]; do sleep 0.1; done";
    let running = Running::start(w, "run", script, "READY")?;
    let id = ids(w)?.pop().ok_or("no session")?;
    for line in [
        "commit",
        "discard",
        "commit --json",
        "discard -y",
        "commit -- new.txt",
    ] {
        let line = match line.split_once(" -- ") {
            Some((verb, rest)) => format!("{verb} {id} -- {rest}"),
            None => format!("{line} {id}"),
        };
        say(w, &line)?.refused(1, &["is running", "wait until it has ended"])?;
    }
    need(
        !w.path("work/new.txt").exists(),
        "a running session was committed",
    )?;
    // Looking is allowed.
    say(w, &format!("diff {id}"))?
        .ended(0)?
        .says(&["new.txt"])?;
    say(w, "sessions")?.ended(0)?.says(&["running"])?;
    crate::tools::signal(running.child.id(), "TERM")?;
    running.end()?;
    need(changed(w, &id)?.len() == 1, "the change is lost")
}

fn ambiguous(w: &World) -> Verdict {
    session(w, "echo 1 > {work}/new1.txt")?.ended(0)?;
    session(w, "echo 2 > {work}/new2.txt")?.ended(0)?;
    for verb in VERBS {
        say(w, &format!("{verb} 2"))?
            .refused(1, &["may be any of 2 sessions", "give more of the id"])?;
    }
    Ok(())
}

fn again(w: &World) -> Verdict {
    session(w, "echo AGENT > {work}/readme.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    say(w, &format!("commit {id}"))?
        .ended(0)?
        .says(&["1 committed"])?;
    w.put("work/readme.txt", "PERSON\n");
    say(w, &format!("commit {id}"))?
        .ended(0)?
        .says(&["nothing to commit"])?;
    say(w, &format!("commit {id} --json"))?.ended(0)?.json()?;
    say(w, &format!("discard {id}"))?
        .ended(0)?
        .says(&["nothing to discard"])?;
    say(w, &format!("diff {id}"))?
        .ended(0)?
        .says(&["nothing changed"])?;
    need(
        w.read("work/readme.txt") == "PERSON\n",
        "a later change was overwritten",
    )?;
    ledger_verifies(w)
}

/// Runs command lines of the wall at the same time.
fn at_once(w: &World, lines: &[String]) -> Result<Vec<Said>, String> {
    thread::scope(|s| {
        let running: Vec<_> = lines.iter().map(|l| s.spawn(move || say(w, l))).collect();
        let ended = running.into_iter();
        ended
            .map(|r| r.join().map_err(|_| "a thread panicked".to_owned())?)
            .collect()
    })
}

const MANY: &str = "i=0; while [ $i -lt 300 ]; do echo $i > {work}/many-$i; i=$((i+1)); done";

fn all_arrived(w: &World) -> Verdict {
    for i in 0..300 {
        let found = w.read(&format!("work/many-{i}"));
        need(
            found == format!("{i}\n"),
            format!("many-{i} did not arrive whole: {found:?}"),
        )?;
    }
    Ok(())
}

fn two_commits(w: &World) -> Verdict {
    session(w, MANY)?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    let said = at_once(w, &vec![format!("commit {id}"); 4])?;
    for s in &said {
        match s.status {
            0 => {}
            _ => drop(s.refused(1, &["cannot commit", "is running", "wait"])?),
        }
    }
    let full = said
        .iter()
        .filter(|s| s.out().contains("300 committed"))
        .count();
    need(
        full == 1,
        format!("{full} of 4 commits committed everything"),
    )?;
    all_arrived(w)?;
    ledger_verifies(w)
}

/// Each file is committed or dropped: one of the two had all of them.
fn commit_and_discard(w: &World) -> Verdict {
    session(w, MANY)?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    let said = at_once(w, &[format!("commit {id}"), format!("discard {id}")])?;
    let committed = said[0].out().contains("300 committed");
    let dropped = said[1].out().contains("300 changes discarded");
    need(
        committed != dropped,
        format!("{} / {}", said[0].brief(), said[1].brief()),
    )?;
    if committed {
        all_arrived(w)?;
    } else {
        need(
            !w.path("work/many-0").exists(),
            "a dropped change was committed",
        )?;
    }
    need(changed(w, &id)?.is_empty(), "changes are left")?;
    ledger_verifies(w)
}

/// Two sessions changed the same files and are committed together: no file is a mixture, and what
/// was not committed is a conflict that waits.
fn two_sessions(w: &World) -> Verdict {
    for who in ["A", "B"] {
        let text = format!(
            "for f in 1 2 3 4 5 6 7 8 9; do i=0; while [ $i -lt 2000 ]; do echo {who}{who}{who}; i=$((i+1)); done > {{work}}/same-$f; done"
        );
        session(w, &text)?.ended(0)?;
    }
    let both = ids(w)?;
    let lines: Vec<String> = both.iter().map(|id| format!("commit {id}")).collect();
    let said = at_once(w, &lines)?;
    let (mut there, mut left) = (0, 0);
    for id in &both {
        left += changed(w, id)?.len();
    }
    for f in 1..=9 {
        let text = w.read(&format!("work/same-{f}"));
        let whole = text == "AAA\n".repeat(2000) || text == "BBB\n".repeat(2000);
        need(whole || text.is_empty(), format!("same-{f} is a mixture"))?;
        there += usize::from(whole);
    }
    need(
        there == 9 && left == 9,
        format!(
            "{there} of 9 arrived, {left} wait: {} / {}",
            said[0].brief(),
            said[1].brief()
        ),
    )?;
    ledger_verifies(w)
}

/// A record that cannot be read: told, and the other sessions go on as before.
fn damaged(w: &World) -> Verdict {
    session(w, "echo GOOD > {work}/good.txt")?.ended(0)?;
    let good = ids(w)?.pop().ok_or("no session")?;
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    let id = ids(w)?.into_iter().next().ok_or("no session")?;
    let record = w.path("state/sessions").join(&id).join("session.json");
    let whole = fs::read(&record).map_err(|e| e.to_string())?;
    let half = whole[..whole.len() / 2].to_vec();
    let odd: [(&str, Vec<u8>); 5] = [
        ("half", half),
        ("empty", vec![]),
        ("other", b"{\"v\": 1, \"id\": \"x\"}".to_vec()),
        ("bytes", b"\xff\xfe\x1b[2J".to_vec()),
        ("deep", vec![b'['; 200_000]),
    ];
    for (what, text) in &odd {
        fs::write(&record, text).map_err(|e| e.to_string())?;
        let fail = |e: String| format!("{what}: {e}");
        let list = say(w, "sessions --all")?;
        list.ended(1)
            .and_then(|s| s.says(&[&good, "session.json", "is damaged", "layers"]))
            .and_then(Said::harmless)
            .map_err(fail)?;
        let json = say(w, "sessions --all --json")?;
        json.ended(1).map_err(fail)?;
        let count = json.json().map_err(fail)?.as_array().map_or(0, Vec::len);
        need(count == 1, format!("{what}: {count} sessions in the JSON"))?;
        for verb in VERBS {
            say(w, &format!("{verb} {id}"))?
                .refused(1, &["is damaged", "layers"])
                .map_err(fail)?;
        }
        // Without a name the newest is meant, and that cannot be told any more.
        for verb in ["commit", "discard"] {
            say(w, verb)?
                .refused(1, &["is damaged", "name the session"])
                .map_err(fail)?;
        }
        need(
            w.read("work/good.txt").is_empty(),
            format!("{what}: another session was committed"),
        )?;
        next_run_works(w).map_err(fail)?;
        let newest = ids_of(&say(w, "sessions --all --json")?)?;
        for done in newest.iter().filter(|n| **n != good) {
            remove(&w.path("state/sessions").join(done))?;
        }
    }
    say(w, &format!("commit {good}"))?.ended(0)?;
    need(
        w.read("work/good.txt") == "GOOD\n",
        "the good change did not arrive",
    )?;
    fs::write(&record, &whole).map_err(|e| e.to_string())?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(w.read("work/new.txt") == "x\n", "the change did not arrive")
}

fn ids_of(said: &Said) -> Result<Vec<String>, String> {
    let list = said.json()?;
    let list = list.as_array().ok_or("no list")?.iter();
    Ok(list
        .filter_map(|s| Some(s["id"].as_str()?.to_owned()))
        .collect())
}

/// The copy was removed by hand: an error, not an empty change set.
fn copy_gone(w: &World) -> Verdict {
    session(w, "echo AGENT > {work}/readme.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    let layers = w.path("state/sessions").join(&id).join("layers");
    fs::rename(&layers, w.path("run/layers")).map_err(|e| e.to_string())?;
    for verb in VERBS {
        say(w, &format!("{verb} {id}"))?.refused(1, &["layers", "No such file"])?;
    }
    fs::rename(w.path("run/layers"), &layers).map_err(|e| e.to_string())?;
    need(changed(w, &id)?.len() == 1, "the change is lost")
}

/// The kept policy was edited: changes can be shown, not committed.
fn policy_changed(w: &World) -> Verdict {
    session(w, "echo AGENT > {work}/readme.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    let file = w.path("state/sessions").join(&id).join("policy.yaml");
    fs::write(&file, "agentwall: 1\ndefault: allow\n").map_err(|e| e.to_string())?;
    say(w, &format!("commit {id}"))?.refused(
        1,
        &["is not the one the session ran under", "put the file back"],
    )?;
    say(w, &format!("diff {id}"))?
        .ended(0)?
        .says(&["readme.txt"])?;
    fs::remove_file(&file).map_err(|e| e.to_string())?;
    say(w, &format!("commit {id}"))?.refused(
        1,
        &["cannot read the session's policy", "put the file back"],
    )?;
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "committed without its policy",
    )
}

/// A second folder that is isolated.
const SECOND: &str = r#"  - { id: second, priority: 140, action: "file.*", resource: "{pub}/**", effect: isolate }
  - { id: second-commit, priority: 130, action: file.commit, resource: "{pub}/**", effect: allow }"#;

/// One that lies deeper.
const INNER: &str = r#"  - { id: inner, priority: 140, action: "file.*", resource: "{pub}/in/dir/**", effect: isolate }
  - { id: inner-commit, priority: 130, action: file.commit, resource: "{pub}/in/dir/**", effect: allow }"#;

/// A folder of two was moved away, and something else is in its place: its changes are conflicts, what is
/// there is neither shown nor touched, the other folder is committed, and the rest when it is back.
fn workspace_replaced(w: &World) -> Verdict {
    let (work, moved) = (w.path("work"), w.path("moved"));
    let failed = |e: std::io::Error| e.to_string();
    type Arrange = fn(&World) -> std::io::Result<()>;
    let ways: [(Arrange, &str); 4] = [
        (
            |w| {
                w.put("work/readme.txt", "THEIRS\n");
                w.own(&w.path("work"));
                Ok(())
            },
            "move the original back",
        ),
        (|_| Ok(()), "put it back"),
        (
            |w| fs::write(w.path("work"), "THEIRS\n"),
            "put the directory back",
        ),
        (
            |w| std::os::unix::fs::symlink(w.path("out"), w.path("work")),
            "put the directory back",
        ),
    ];
    for (n, (arrange, next)) in ways.into_iter().enumerate() {
        let text = format!("AGENT-{n}");
        let script = format!(
            "echo {text} > {{work}}/readme.txt; rm -f {{work}}/sub/file.txt; echo {text} > {{pub}}/data.txt"
        );
        w.put("work/sub/file.txt", "SUB-OK\n");
        w.own(&w.path("work/sub/file.txt"));
        session(w, &script)?.ended(0)?;
        let id = ids(w)?.into_iter().next().ok_or("no session")?;
        fs::rename(&work, &moved).map_err(failed)?;
        arrange(w).map_err(failed)?;
        let look = || {
            let mut all = Tree::of(&w.dir, Depth::Exact);
            let outside = |path: &Path| path.starts_with("work") || path.starts_with("out");
            all.0.retain(|path, _| outside(path));
            all
        };
        let before = look();
        let from_home = |args: &[&str]| run(wall(w, args).current_dir(w.path("home")));
        let here = |e: String| format!("way {n}: {e}");
        let said = from_home(&["diff", &id, "--stat", "--patch"])?;
        said.ended(0)
            .and_then(|s| s.says(&["readme.txt", "sub/file.txt", &text, next]))
            .map_err(here)?;
        need(!said.out().contains("THEIRS"), here(said.brief()))?;
        let said = from_home(&["commit", &id, "--yes"])?;
        said.ended(3)
            .and_then(|s| s.says(&["conflict", next]))
            .map_err(here)?;
        said.harmless().map_err(here)?;
        need(
            w.read("pub/data.txt") == format!("{text}\n"),
            here("the other folder was not committed".into()),
        )?;
        let after = look();
        let touched = before.diff(&after);
        need(touched.is_empty(), here(format!("touched: {touched:?}")))?;
        if n % 2 == 1 {
            from_home(&["discard", &id, "--yes"])?
                .ended(0)
                .map_err(here)?;
        }
        let there = fs::symlink_metadata(&work).ok();
        match there.map(|m| m.is_dir()) {
            Some(true) => fs::remove_dir_all(&work).map_err(failed)?,
            Some(false) => fs::remove_file(&work).map_err(failed)?,
            None => {}
        }
        fs::rename(&moved, &work).map_err(failed)?;
        let was = w.read("work/readme.txt");
        say(w, &format!("commit {id}"))?.ended(0).map_err(here)?;
        let wanted = match n % 2 {
            0 => (format!("{text}\n"), false),
            _ => (was, true),
        };
        let found = (
            w.read("work/readme.txt"),
            w.path("work/sub/file.txt").exists(),
        );
        need(
            found == wanted,
            here(format!("{found:?} is not {wanted:?}")),
        )?;
    }
    ledger_verifies(w)
}

/// A folder that may not be looked at is no conflict but an error: nobody knows what is there.
fn folder_closed(w: &World) -> Verdict {
    for part in ["pub/in/dir/b.txt", "pub/in/dir", "pub/in"] {
        match part.strip_suffix("b.txt") {
            Some(_) => w.put(part, "b\n"),
            None => w.own(&w.path(part)),
        }
    }
    session(
        w,
        "echo AGENT > {work}/readme.txt; echo AGENT > {pub}/in/dir/b.txt",
    )?
    .ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    w.mode("pub/in", 0);
    for verb in VERBS {
        let said = say(w, &format!("{verb} {id}"))?;
        w.mode("pub/in", if verb == "discard" { 0o755 } else { 0 });
        said.refused(1, &["pub/in/dir", "Permission denied"])?;
    }
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n" && changed(w, &id)?.len() == 2,
        "something was committed or lost",
    )?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/readme.txt") == "AGENT\n" && w.read("pub/in/dir/b.txt") == "AGENT\n",
        "not committed",
    )
}

/// The workspace was moved away: nothing is made in its place, nothing is lost.
fn workspace_gone(w: &World) -> Verdict {
    session(w, "echo AGENT > {work}/readme.txt; echo x > {work}/new.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    fs::rename(w.path("work"), w.path("moved")).map_err(|e| e.to_string())?;
    let from_home = |verb: &str| run(wall(w, [verb, &id]).current_dir(w.path("home")));
    let said = from_home("commit")?;
    need(said.status == 3, said.brief())?;
    said.says(&["work"])?.harmless()?;
    need(!w.path("work").exists(), "the workspace was made anew")?;
    fs::rename(w.path("moved"), w.path("work")).map_err(|e| e.to_string())?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/readme.txt") == "AGENT\n" && w.path("work/new.txt").exists(),
        "lost",
    )
}
