//! A change beside other things: another change, the end of the session, a death, a question that
//! waits.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
};

use agentwall_tests::{Who, World};

use super::{
    CAT, NET, NO_A, NO_NET, Rounds, TRAPS, apply, commits_by_the_newest, digest, has, policy,
    recorded, until,
};
use crate::{
    kit::{Fault, Said, Verdict, ids, ledger_verifies, need, say, wall},
    tools::{Running, children, signal},
};

const ASK: &str = "  - { id: asked, priority: 30, action: [file.write, file.create], resource: \"${workspace}/asked*\", effect: ask, reason: \"A person decides.\" }\n";
const ASK_MOVE: &str = "  - { id: traps, priority: 50, action: \"file.*\", resource: \"${workspace}/**/*.key\", effect: deny }\n  - { id: moved, priority: 30, action: file.rename, resource: \"${workspace}/b*\", effect: ask, reason: \"A person decides.\" }\n";

pub fn cases() -> Vec<Fault> {
    let no_signal = "an ordinary user cannot stop the broker";
    vec![
        Fault::new("apply/two-at-once", two).rules(TRAPS),
        Fault::new("apply/broker-gone", broker_gone)
            .rules(TRAPS)
            .only(Who::Root, no_signal),
        Fault::new("apply/command-killed", command_killed)
            .rules(TRAPS)
            .only(Who::Root, no_signal),
        Fault::new("apply/killed-afterwards", killed).rules(TRAPS),
        Fault::new("apply/question-denied", question_denied).rules(ASK),
        Fault::new("apply/question-allowed", question_allowed).rules(ASK),
        Fault::new("apply/question-asked-again", question_again).rules(ASK),
        Fault::new("apply/question-about-a-part", question_part).rules(ASK_MOVE),
    ]
}

/// Two changes at once: both get through, one after the other, and all parts end with the same one.
fn two(w: &World) -> Verdict {
    policy(w, "first", &format!("{NO_A}{NO_NET}"));
    policy(
        w,
        "second",
        "  - { id: no-b, priority: 40, action: \"file.*\", resource: \"{work}/b\", effect: deny }\n",
    );
    let mut agent = Rounds::start(w, &format!("{CAT}; {NET}"))?;
    let first = {
        apply(w, "first")?.ended(0)?;
        digest(w)?
    };
    for turn in 0..8 {
        let said: Vec<Result<Said, String>> = thread::scope(|s| {
            let both =
                ["first", "second", "first", "second"].map(|name| s.spawn(move || apply(w, name)));
            both.into_iter()
                .map(|t| t.join().unwrap_or_else(|_| Err("a thread died".into())))
                .collect()
        });
        for said in said {
            said?.ended(0)?.says(&["in force"])?;
        }
        let text = agent.next()?;
        let wanted = if digest(w)? == first {
            ["CONTENT-b", "net-no", "CONTENT-a", "net-ok"]
        } else {
            ["CONTENT-a", "net-ok", "CONTENT-b", "net-no"]
        };
        has(&text, &wanted[..2], &wanted[2..]).map_err(|e| format!("turn {turn}: {e}"))?;
    }
    // Each change took the place of the one before it.
    let changes = recorded(w)?;
    for pair in changes.windows(2) {
        need(
            pair[1]["replaces"] == pair[0]["digest"],
            format!("recorded: {pair:?}"),
        )?;
    }
    need(
        changes
            .last()
            .is_some_and(|c| c["digest"] == *digest(w).unwrap_or_default()),
        "the ledger ends otherwise",
    )?;
    agent.end()?.ended(0)?;
    ledger_verifies(w)
}

/// A change that waits for the stopped broker: the broker, and the command.
fn waiting(w: &World, agent: &Rounds) -> Result<(u32, Child), String> {
    policy(w, "good", NO_A);
    let supervisor = agent.running.child.id();
    let parts = children(supervisor);
    let [broker] = parts.as_slice() else {
        return Err(format!("expected one process, found {parts:?}"));
    };
    signal(*broker, "STOP")?;
    let line = w.fill("policy apply --policy {home}/good.yaml");
    let command = wall(w, line.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    // The request has come when the supervisor serves it in a thread of its own.
    let serves = || {
        let tasks = fs::read_dir(format!("/proc/{supervisor}/task"));
        tasks.into_iter().flatten().flatten().any(|t| {
            fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.trim() == "approvals")
        })
    };
    until(serves)?;
    Ok((*broker, command))
}

/// The broker dies while it is to answer: the change fails, the session ends, nothing is lost.
fn broker_gone(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, "echo NEW > {work}/n$round")?;
    agent.next()?;
    let old = digest(w)?;
    let (broker, applying) = waiting(w, &agent)?;
    signal(broker, "KILL")?;
    let done = applying.wait_with_output().map_err(|e| e.to_string())?;
    let said = Said {
        status: done.status.code().unwrap_or(-1),
        out: done.stdout,
        err: done.stderr,
    };
    need(
        said.status == 1 && said.err().starts_with("agentwall: "),
        said.brief(),
    )?;
    said.harmless()?;
    agent.end()?;
    need(
        digest(w)? == old && recorded(w)?.is_empty(),
        "something was changed",
    )?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    say(w, &format!("policy apply {id} --policy {{home}}/good.yaml"))?
        .refused(1, &["has ended"])?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(w.path("work/n1").exists(), "the change did not arrive")?;
    ledger_verifies(w)
}

/// The command dies while it waits: the session has the change as a whole all the same.
fn command_killed(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, CAT)?;
    agent.next()?;
    let old = digest(w)?;
    let (broker, mut applying) = waiting(w, &agent)?;
    // The request may still be on its way; then nothing changes.
    applying.kill().map_err(|e| e.to_string())?;
    applying.wait().map_err(|e| e.to_string())?;
    signal(broker, "CONT")?;
    // One change at a time: this one comes after the other.
    apply(w, "good")?.ended(0)?;
    let changes = recorded(w)?;
    need(
        changes.len() == 1 && changes[0]["replaces"] == *old && changes[0]["digest"] == *digest(w)?,
        format!("recorded: {changes:?}"),
    )?;
    has(&agent.next()?, &["denied", "CONTENT-b"], &["CONTENT-a"])?;
    agent.end()?.ended(0)?;
    ledger_verifies(w)
}

/// The supervisor is killed after a change: a commit still goes by the newest policy.
fn killed(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, "echo NEW > {work}/n$round; echo NEW > {work}/held$round")?;
    agent.next()?;
    policy(
        w,
        "commit",
        "  - { id: no-commit, priority: 40, action: file.commit, resource: \"{work}/held*\", effect: deny }\n",
    );
    apply(w, "commit")?.ended(0)?;
    let new = digest(w)?;
    signal(agent.running.child.id(), "KILL")?;
    agent.end()?;
    need(digest(w)? == new, "the policy is lost")?;
    until(|| say(w, "sessions").is_ok_and(|s| !s.out().contains("running")))?;
    commits_by_the_newest(w)
}

/// A session whose agent waits for a person in this script; the question's id.
fn asking(w: &World, script: &str) -> Result<(Running, String), String> {
    w.put("work/b", "CONTENT-b\n");
    let running = Running::start(
        w,
        "ask",
        &format!("echo READY; {script}; echo OVER"),
        "READY",
    )?;
    let json = w.wait_pending("A person decides")?;
    let asks: serde_json::Value = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    let id = asks[0]["id"].as_str().ok_or("no id")?.to_owned();
    Ok((running, id))
}

const WRITE: &str = "(echo WRITTEN > {work}/asked1) 2>&1; cat {work}/asked1 2>&1";
const ASKED: &str = "resource: \"{work}/asked*\", priority: 20, action: [file.write, file.create]";

fn question_denied(w: &World) -> Verdict {
    let (running, id) = asking(w, WRITE)?;
    policy(
        w,
        "deny",
        &format!("  - {{ id: never, {ASKED}, effect: deny, reason: \"Never.\" }}\n"),
    );
    apply(w, "deny")?.ended(0)?;
    // It stays asked until somebody answers, and then the new policy decides.
    say(w, "pending")?.ended(0)?.says(&[&id])?;
    say(w, &format!("approve {id} --for session"))?
        .refused(1, &["denies it", "approving cannot change"])?;
    let said = running.end()?;
    has(&said.out(), &["OVER"], &["WRITTEN"])?;
    say(w, "ledger show --rule never")?
        .ended(0)?
        .says(&["Never."])?;
    ledger_verifies(w)
}

fn question_allowed(w: &World) -> Verdict {
    let (running, id) = asking(w, WRITE)?;
    policy(
        w,
        "allow",
        &format!("  - {{ id: fine, {ASKED}, effect: isolate }}\n"),
    );
    apply(w, "allow")?.ended(0)?;
    say(w, "pending")?.ended(0)?.says(&[&id])?;
    say(w, &format!("approve {id}"))?
        .ended(0)?
        .says(&["allows it"])?;
    let said = running.end()?;
    has(&said.out(), &["WRITTEN", "OVER"], &["denied"])?;
    ledger_verifies(w)
}

fn question_again(w: &World) -> Verdict {
    let (running, id) = asking(w, WRITE)?;
    let before = say(w, "pending --json")?.json()?;
    policy(
        w,
        "ask",
        &format!("  - {{ id: again, {ASKED}, effect: ask, reason: \"Asked otherwise.\" }}\n"),
    );
    apply(w, "ask")?.ended(0)?;
    let after = say(w, "pending --json")?.json()?;
    need(
        after[0]["id"] == *id
            && after[0]["decision"]["rule"] == "again"
            && after[0]["decision"]["policy"] == *digest(w)?
            && after[0]["digest"] != before[0]["digest"],
        format!("the question is the former policy's: {after}"),
    )?;
    // The answer is bound to the policy in force, and holds under it.
    say(w, &format!("approve {id} --for session"))?.ended(0)?;
    let said = running.end()?;
    has(&said.out(), &["WRITTEN", "OVER"], &["denied"])?;
    ledger_verifies(w)
}

/// A person is asked about one part of an operation; the new policy denies another. Between the two
/// policies nothing goes through that neither permits.
fn question_part(w: &World) -> Verdict {
    for (name, effect, moved) in [
        ("not", "deny", false),
        ("too", "ask", false),
        ("is", "isolate", true),
    ] {
        let (running, id) = asking(w, "mv {work}/b {work}/target 2>&1; cat {work}/target 2>&1")?;
        policy(
            w,
            name,
            &format!(
                "  - {{ id: target, priority: 20, action: file.create, resource: \"{{work}}/target\", effect: {effect}, reason: \"The other part.\" }}\n"
            ),
        );
        apply(w, name)?.ended(0)?;
        say(w, &format!("approve {id}"))?.ended(0)?;
        let out = running.end()?.out();
        match moved {
            true => has(&out, &["CONTENT-b", "OVER"], &["denied"]),
            false => has(&out, &["denied", "OVER"], &["CONTENT-b"]),
        }
        .map_err(|e| format!("{effect}: {e}"))?;
    }
    say(w, "ledger show --rule target --effect deny")?
        .ended(0)?
        .says(&["The other part.", "asks about this, too"])?;
    ledger_verifies(w)
}
