//! Parts of the wall die in the middle: the agent dies with them, nothing it did is lost, and the
//! next session works.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use agentwall_tests::{World, options::am_root};

use crate::{
    kit::{Fault, Verdict, changed, ids, ledger_verifies, need, next_run_works, say},
    tools::{Running, children, signal},
};

const ASK: &str = "  - { id: asked, priority: 30, action: [file.write, file.create], resource: \"${workspace}/asked*\", effect: ask, reason: \"A person decides.\" }\n";
/// Writes, says so, and goes on for ever.
const BUSY: &str = "echo AGENT > {work}/readme.txt; mkdir {work}/d; echo NEW > {work}/d/new.txt; echo READY; while :; do /bin/true; sleep 0.1; done";

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("killed/supervisor", supervisor).commits(),
        Fault::new("killed/supervisor-then-discarded", then_discarded),
        Fault::new("killed/supervisor-by-each-signal", each_signal),
        Fault::new("killed/supervisor-while-a-question-waits", asking)
            .rules(ASK)
            .commits(),
        Fault::new("killed/supervisor-at-any-moment", any_moment).commits(),
        Fault::new("killed/between-intent-and-act", between_intent_and_act).commits(),
        Fault::new("killed/broker", broker).commits(),
        Fault::new("killed/init", init).commits(),
        Fault::new("killed/supervisor-stopped", stopped),
    ]
}

/// The only session, after the end of its supervisor by a signal: shown, and everything that the
/// agent wrote is in it.
fn cut_off(w: &World) -> Result<String, String> {
    let gone = w.leftovers(Duration::from_secs(5));
    need(gone.is_empty(), gone.join("; "))?;
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    // A process that is going lets go of the session's lock a moment after it is seen last.
    let end = Instant::now() + Duration::from_secs(5);
    while say(w, "sessions")?.out().contains("running") && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    say(w, "sessions")?
        .ended(0)?
        .says(&[&id, "cut off, kept"])?;
    let paths = changed(w, &id)?;
    for name in ["readme.txt", "new.txt"] {
        need(
            paths.iter().any(|p| p.contains(name)),
            format!("{name} is not in the changes: {paths:?}"),
        )?;
    }
    say(w, &format!("diff {id} --patch"))?
        .ended(0)?
        .says(&["+AGENT", "+NEW"])?;
    ledger_verifies(w)?;
    need(
        w.read("work/readme.txt") == "WORKSPACE-OK\n",
        "the original was changed",
    )?;
    Ok(id)
}

fn kill(w: &World, name: &str) -> Verdict {
    let running = Running::start(w, "busy", BUSY, "READY")?;
    signal(running.child.id(), name)?;
    let said = running.end()?;
    need(said.status != 0, format!("SIG{name}: {}", said.brief()))
}

fn supervisor(w: &World) -> Verdict {
    kill(w, "KILL")?;
    let id = cut_off(w)?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/readme.txt") == "AGENT\n" && w.read("work/d/new.txt") == "NEW\n",
        "the changes did not arrive",
    )?;
    w.put("work/readme.txt", "WORKSPACE-OK\n");
    next_run_works(w)
}

fn then_discarded(w: &World) -> Verdict {
    kill(w, "KILL")?;
    let id = cut_off(w)?;
    say(w, &format!("discard {id}"))?.ended(0)?;
    need(changed(w, &id)?.is_empty(), "changes are left")?;
    next_run_works(w)
}

/// Signals that a person or a system sends: the session ends in order or is cut off, never hangs.
fn each_signal(w: &World) -> Verdict {
    for name in ["TERM", "HUP", "INT", "QUIT", "ABRT"] {
        let script = format!("trap 'exit 9' TERM HUP INT QUIT; {BUSY}");
        let running = Running::start(w, name, &script, "READY")?;
        signal(running.child.id(), name)?;
        let said = running.end().map_err(|e| format!("SIG{name}: {e}"))?;
        need(said.status != 0, format!("SIG{name}: {}", said.brief()))?;
        let gone = w.leftovers(Duration::from_secs(5));
        need(gone.is_empty(), format!("SIG{name}: {}", gone.join("; ")))?;
        ledger_verifies(w)?;
    }
    need(ids(w)?.len() == 5, "a session is lost")?;
    next_run_works(w)
}

fn asking(w: &World) -> Verdict {
    let script = "echo AGENT > {work}/readme.txt; mkdir {work}/d; echo NEW > {work}/d/new.txt; echo READY; echo EVIL > {work}/asked1; cat {work}/asked1; sleep 60";
    let running = Running::start(w, "ask", script, "READY")?;
    let json = w.wait_pending("asked1")?;
    let asks: serde_json::Value = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    let ask = asks[0]["id"].as_str().ok_or("no id")?.to_owned();
    signal(running.child.id(), "KILL")?;
    running.end()?;
    let id = cut_off(w)?;
    say(w, "pending")?.ended(0)?.says(&["no questions wait"])?;
    say(w, &format!("approve {ask}"))?.refused(1, &["has ended", "its questions were denied"])?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        !w.path("work/asked1").exists(),
        "what nobody approved was committed",
    )?;
    w.put("work/readme.txt", "WORKSPACE-OK\n");
    next_run_works(w)
}

/// Killed at moments from before the wall stands to after its agent ended. What it had said to have
/// done is there; what it left of itself does not hold up the next one.
fn any_moment(w: &World) -> Verdict {
    let mut ran = 0;
    for step in 0..12u64 {
        let out = w.path("run/moment.out");
        let file = fs::File::create(&out).map_err(|e| e.to_string())?;
        let script = format!("echo {step} > {{work}}/step && echo WROTE; sleep 0.05");
        let mut child = crate::kit::wall(w, crate::kit::session_args(w, &script))
            .stdout(file)
            .stderr(std::process::Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        thread::sleep(Duration::from_millis(step * 12));
        let _ = child.kill();
        let _ = child.wait();
        let gone = w.leftovers(Duration::from_secs(5));
        need(gone.is_empty(), gone.join("; "))?;
        let wrote = w.read("run/moment.out").contains("WROTE");
        let listed = say(w, "sessions --all")?;
        listed.ended(0)?.harmless()?;
        if wrote {
            let id = ids(w)?.into_iter().next().ok_or("the session is lost")?;
            say(w, &format!("commit {id}"))?.ended(0)?;
            let found = w.read("work/step");
            need(
                found.trim() == step.to_string(),
                format!("step {step}: found {found}"),
            )?;
            ran += 1;
        }
        if w.path("state/ledger/checkpoint").exists() {
            ledger_verifies(w)?;
        }
    }
    need(ran < 12, "no kill came before the agent")?;
    next_run_works(w)
}

/// Killed while the agent says what it does and does it, again and again: whatever was done had been said, in
/// the ledger as it is after the kill.
fn between_intent_and_act(w: &World) -> Verdict {
    let script = "n=0; while :; do n=$((n+1)); /dev/agentwall/bin/agentwall act --why told-$n-in-round -- /bin/sh -c \"echo $n >> {work}/did\" && echo READY; done";
    let mut done = 0;
    for step in 0..6u64 {
        let running = Running::start(w, "acts", script, "READY")?;
        thread::sleep(Duration::from_millis(step * 17));
        signal(running.child.id(), "KILL")?;
        running.end()?;
        let gone = w.leftovers(Duration::from_secs(5));
        need(gone.is_empty(), gone.join("; "))?;
        let id = ids(w)?.into_iter().next().ok_or("the session is lost")?;
        say(w, &format!("commit {id}"))?.ended(0)?;
        let sealed = say(
            w,
            &format!("ledger show --json --type intent --session {id}"),
        )?
        .out();
        let did = w.read("work/did");
        for number in did.lines() {
            let told = format!("\"why\":\"told-{number}-in-round\"");
            need(
                sealed.contains(&told),
                format!("round {step}: {number} was done and not sealed: {sealed}"),
            )?;
            done += 1;
        }
        need(!did.is_empty(), format!("round {step}: nothing was done"))?;
        fs::remove_file(w.path("work/did")).map_err(|e| e.to_string())?;
        ledger_verifies(w)?;
    }
    need(done >= 6, format!("only {done} were done"))?;
    next_run_works(w)
}

/// The broker is killed: the agent dies, and the session ends with the reason.
fn broker(w: &World) -> Verdict {
    part_of(w, children)
}

/// The first process of the agent's namespace is killed, by root or by the person.
fn init(w: &World) -> Verdict {
    part_of(w, |supervisor| {
        children(supervisor)
            .into_iter()
            .flat_map(children)
            .collect()
    })
}

fn part_of(w: &World, find: fn(u32) -> Vec<u32>) -> Verdict {
    let running = Running::start(w, "busy", BUSY, "READY")?;
    let parts = find(running.child.id());
    let [part] = parts.as_slice() else {
        return Err(format!("expected one process, found {parts:?}"));
    };
    if !am_root() && signal(*part, "0").is_err() {
        return Ok(()); // An ordinary user cannot even name it.
    }
    signal(*part, "KILL")?;
    let said = running.end()?;
    need(
        said.status == 125 || said.status == 137,
        format!("expected 125 or 137, found {}", said.brief()),
    )?;
    let gone = w.leftovers(Duration::from_secs(5));
    need(gone.is_empty(), gone.join("; "))?;
    if said.status == 125 {
        said.says(&["agentwall: ", "changes are kept in session"])?;
    }
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    let paths = changed(w, &id)?;
    need(
        paths.iter().any(|p| p.contains("new.txt")),
        format!("changes: {paths:?}"),
    )?;
    say(w, &format!("commit {id}"))?.ended(0)?;
    need(
        w.read("work/readme.txt") == "AGENT\n",
        "the change did not arrive",
    )?;
    w.put("work/readme.txt", "WORKSPACE-OK\n");
    ledger_verifies(w)?;
    next_run_works(w)
}

/// A stopped supervisor answers nothing: other commands say so and do not hang.
fn stopped(w: &World) -> Verdict {
    let running = Running::start(w, "busy", BUSY, "READY")?;
    let id = ids(w)?.pop().ok_or("no session")?;
    signal(running.child.id(), "STOP")?;
    let verdict = (|| {
        say(w, "pending")?
            .says(&["does not answer", "agentwall sessions"])?
            .harmless()?;
        say(w, &format!("commit {id}"))?.refused(1, &["is running", "wait until it has ended"])?;
        say(w, "sessions")?.ended(0)?.says(&["running"])?;
        say(w, "ledger verify")?.ended(0).map(drop)
    })();
    signal(running.child.id(), "CONT")?;
    signal(running.child.id(), "KILL")?;
    running.end()?;
    verdict?;
    next_run_works(w)
}
