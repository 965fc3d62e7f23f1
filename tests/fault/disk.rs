//! The disk is full in the middle: while the agent writes its copy, while a commit writes the
//! originals, and while a person wants to make room by dropping the copy.

use std::fs;

use agentwall_tests::World;

use crate::{
    kit::{Fault, Verdict, changed, ids, ledger_verifies, need, next_run_works, say, session},
    tools::{Running, fill_disk, mount},
};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("disk/full-by-the-agent", by_the_agent)
            .mounts()
            .commits(),
        Fault::new("disk/full-by-the-agent-then-discarded", then_discarded).mounts(),
        Fault::new(
            "disk/full-by-the-agent-then-one-file-discarded",
            then_one_discarded,
        )
        .mounts()
        .commits(),
        Fault::new("disk/full-by-somebody-while-it-runs", by_somebody)
            .mounts()
            .commits(),
        Fault::new("disk/full-originals", originals)
            .mounts()
            .commits(),
        Fault::new("disk/full-state-at-commit", state_at_commit)
            .mounts()
            .commits(),
        Fault::new("disk/full-output", output),
    ]
}

/// The agent filled the disk that holds its copy: it was told so, and what it wrote is there.
fn filled(w: &World) -> Result<String, String> {
    mount(w, "tmpfs", "size=4m", "state")?;
    let said = session(
        w,
        "echo FIRST > {work}/first.txt; head -c 20000000 /dev/zero > {work}/big; cat {work}/first.txt; echo end",
    )?;
    // The agent runs to its end, unless the ledger's time to write is over first; what the wall could
    // not write any more it says.
    said.says(&["AGENT-RAN", "No space left on device"])?;
    if said.status != 0 {
        // The ledger's journal had no room for the end, either.
        said.ended(125)?.says(&["make room"])?;
    }
    // Whatever was left is gone now.
    fill_disk(&w.path("state/full"), 0)?;
    if said.says(&["FIRST", "end"]).is_err() {
        said.says(&["ending the session"])?;
    }
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    ledger_verifies(w)?;
    let paths = changed(w, &id)?;
    for name in ["first.txt", "big"] {
        need(
            paths.iter().any(|p| p.contains(name)),
            format!("{name} is not in the changes: {paths:?}"),
        )?;
    }
    need(!w.path("work/big").exists(), "the copy is in the original")?;
    Ok(id)
}

fn by_the_agent(w: &World) -> Verdict {
    let id = filled(w)?;
    // There is no room to record a plan in: nothing is committed, nothing is lost.
    let said = say(w, &format!("commit {id}"))?;
    said.refused(
        1,
        &[
            "nothing was committed",
            "No space left on device",
            "make room",
        ],
    )?;
    need(
        !w.path("work/first.txt").exists(),
        "committed without a record",
    )?;
    host_makes_room(w)?;
    say(w, &format!("commit {id} -- first.txt"))?.ended(0)?;
    need(
        w.read("work/first.txt") == "FIRST\n",
        "the change did not arrive",
    )?;
    say(w, &format!("discard {id}"))?.ended(0)?;
    next_run_works(w)
}

fn host_makes_room(w: &World) -> Verdict {
    crate::tools::remount(w, "size=8m", "state")
}

/// Dropping the copy is how a person makes room: it must work without room.
fn then_discarded(w: &World) -> Verdict {
    let id = filled(w)?;
    say(w, &format!("discard {id}"))?
        .ended(0)?
        .says(&["2 changes discarded"])?;
    need(changed(w, &id)?.is_empty(), "changes are left")?;
    let shown = say(w, "ledger show --type discard")?;
    need(
        shown.out().contains("dropped"),
        "the ledger does not have it",
    )?;
    next_run_works(w)
}

fn then_one_discarded(w: &World) -> Verdict {
    let id = filled(w)?;
    say(w, &format!("discard {id} -- big"))?
        .ended(0)?
        .says(&["1 change discarded"])?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/first.txt") == "FIRST\n",
        "the change did not arrive",
    )?;
    need(
        !w.path("work/big").exists(),
        "what was dropped was committed",
    )?;
    next_run_works(w)
}

/// Another program fills the disk: an agent whose doings cannot be recorded does not go on.
fn by_somebody(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=4m", "state")?;
    let script =
        "echo FIRST > {work}/first.txt; echo READY; while :; do /bin/true; sleep 0.05; done";
    let running = Running::start(w, "full", script, "READY")?;
    fill_disk(&w.path("state/full"), 0)?;
    let said = running.end()?;
    said.ended(125)?.says(&[
        "the ledger cannot be written",
        "No space left on device",
        "make room",
    ])?;
    fs::remove_file(w.path("state/full")).map_err(|e| e.to_string())?;
    ledger_verifies(w)?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/first.txt") == "FIRST\n",
        "the change did not arrive",
    )?;
    next_run_works(w)
}

/// The originals' disk is full during a commit: originals are whole, the commit can be repeated.
fn originals(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=1m", "work/spare")?;
    let old = "OLD\n".repeat(20_000);
    for name in ["a", "b", "c"] {
        w.put(&format!("work/spare/{name}"), &old);
    }
    session(
        w,
        "cd {work}/spare; for f in a b c d e; do i=0; while [ $i -lt 60000 ]; do echo NEW; i=$((i+1)); done > $f; done",
    )?
    .ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    fill_disk(&w.path("work/spare/full"), 300_000)?;
    let new = "NEW\n".repeat(60_000);
    let said = say(w, &format!("commit {id}"))?;
    said.ended(1)?
        .says(&["failed", "No space left on device", "make room"])?;
    let mut left = 0;
    for name in ["a", "b", "c", "d", "e"] {
        let path = format!("work/spare/{name}");
        let text = w.read(&path);
        // The first three were there before.
        let before = if name < "d" {
            text == old
        } else {
            !w.path(&path).exists()
        };
        need(
            text == new || before,
            format!("{path} is neither old nor new: {} bytes", text.len()),
        )?;
        left += usize::from(text != new);
    }
    need(left > 0, "the disk was not full enough for this case")?;
    need(
        changed(w, &id)?.len() == left,
        "what was not committed is not in the session",
    )?;
    fs::remove_file(w.path("work/spare/full")).map_err(|e| e.to_string())?;
    crate::tools::remount(w, "size=4m", "work/spare")?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    for name in ["a", "b", "c", "d", "e"] {
        need(
            w.read(&format!("work/spare/{name}")) == new,
            format!("{name} did not arrive"),
        )?;
    }
    ledger_verifies(w)
}

fn state_at_commit(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=1m", "state")?;
    session(w, "echo AGENT > {work}/readme.txt")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    fill_disk(&w.path("state/full"), 0)?;
    say(w, &format!("commit {id}"))?.refused(
        1,
        &[
            "nothing was committed",
            "No space left on device",
            "make room",
        ],
    )?;
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "committed without a record",
    )?;
    fs::remove_file(w.path("state/full")).map_err(|e| e.to_string())?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/readme.txt") == "AGENT\n",
        "the change did not arrive",
    )?;
    ledger_verifies(w)
}

/// What a command prints is cut off by a full disk: it fails and says so.
fn output(w: &World) -> Verdict {
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    for line in [
        "sessions",
        "sessions --json",
        "diff",
        "diff --patch",
        "ledger show",
        "pending",
        "doctor",
    ] {
        let text = w.fill(&format!("exec {{wall}} {line} > /dev/full"));
        let said = crate::kit::run(w.as_user("/bin/sh").args(["-c", &text]))?;
        said.refused(
            1,
            &["cannot write the ", "No space left on device", "make room"],
        )
        .map_err(|e| format!("{line}: {e}"))?;
    }
    Ok(())
}
