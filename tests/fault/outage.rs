//! The ledger cannot be written for a while, and the policy lets the session go on: what happens without a record is
//! counted, signed as a gap as soon as there is room again, and what needs a record does not happen.

use std::{
    fs,
    io::{PipeWriter, Write as _, pipe},
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::World;

use crate::{
    kit::{Fault, PATIENCE, Verdict, ids, ledger_verifies, need, next_run_works, say},
    tools::{Running, fill_disk, mount},
};

const ASK: &str = "  - { id: asked, priority: 30, action: [file.write, file.create], resource: \"${workspace}/asked*\", effect: ask, reason: \"A person decides.\" }\n";

/// Does what each line says: starts a program, or something that is asked about.
const OBEY: &str = "echo READY; while read -r l; do case $l in ask*) (echo x > {work}/asked) 2>/dev/null && echo \"$l wrote\" || echo \"$l refused\";; *) /bin/true; echo \"$l done\";; esac; done; echo END";

const GOES_ON: &str = "the policy lets the session go on without";

/// All cases of this theme. They change their policy, which counts as the host.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("outage/gap-is-signed", gap_is_signed)
            .rules(ASK)
            .mounts()
            .commits(),
        Fault::new("outage/to-the-end", to_the_end)
            .rules(ASK)
            .mounts()
            .commits(),
    ]
}

/// An agent that does what it is told, in a session whose disk for the state is full.
struct Told {
    running: Running,
    lines: PipeWriter,
    sent: u32,
}

impl Told {
    fn start(w: &World) -> Result<Told, String> {
        mount(w, "tmpfs", "size=4m", "state")?;
        let policy = w.read("policy.yaml");
        w.put(
            "policy.yaml",
            &format!("{}\nledger: {{ on_failure: open }}\n", policy.trim_end()),
        );
        let (reader, lines) = pipe().map_err(|e| e.to_string())?;
        let running = Running::fed(w, "outage", OBEY, "READY", reader.into())?;
        fill_disk(&w.path("state/full"), 0)?;
        let mut told = Told {
            running,
            lines,
            sent: 0,
        };
        // The journal has room for some more.
        told.work_until(GOES_ON)?;
        Ok(told)
    }

    fn send(&mut self, word: &str) -> Result<String, String> {
        self.sent += 1;
        let line = format!("{word}{}", self.sent);
        writeln!(self.lines, "{line}").map_err(|e| format!("the agent is gone: {e}"))?;
        Ok(line)
    }

    /// Starts programs until the supervisor says this.
    fn work_until(&mut self, text: &str) -> Verdict {
        let end = Instant::now() + PATIENCE;
        while !self.running.said().1.contains(text) {
            need(Instant::now() < end, format!("'{text}' was never said"))?;
            let line = self.send("work")?;
            self.running.until(&format!("{line} done"))?;
        }
        Ok(())
    }

    /// Asks for something, approves it, and gives what came of it.
    fn approved(&mut self, w: &World) -> Result<String, String> {
        let line = self.send("ask")?;
        let end = Instant::now() + PATIENCE;
        loop {
            let asks = say(w, "pending --json")?.ended(0)?.json()?;
            if let Some(id) = asks[0]["id"].as_str() {
                // Whether it is recorded is told to the agent by what becomes of its call.
                say(w, &format!("approve {id}"))?;
                break;
            }
            need(Instant::now() < end, "no question came")?;
            thread::sleep(Duration::from_millis(10));
        }
        self.running.until(&format!("{line} "))?;
        let out = self.running.said().0;
        let answer = out
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{line} ")));
        Ok(answer.unwrap_or_default().to_owned())
    }

    fn end(self) -> Result<crate::kit::Said, String> {
        drop(self.lines);
        self.running.end()
    }
}

fn gap_is_signed(w: &World) -> Verdict {
    let mut told = Told::start(w)?;
    for _ in 0..30 {
        told.send("work")?;
    }
    // What has to be recorded first does not happen.
    let answer = told.approved(w)?;
    need(
        answer == "refused",
        format!("approved without a record: {answer}"),
    )?;
    fs::remove_file(w.path("state/full")).map_err(|e| e.to_string())?;
    told.work_until("the ledger can be written again")?;
    let answer = told.approved(w)?;
    need(answer == "wrote", format!("with room again: {answer}"))?;
    told.end()?.ended(0)?.says(&["END", GOES_ON])?;
    ledger_verifies(w)?;

    let id = ids(w)?.pop().ok_or("the session is lost")?;
    let shown = say(w, &format!("ledger show --json --session {id}"))?;
    let out = shown.ended(0)?.out();
    let entries: Vec<serde_json::Value> = out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    let gaps: Vec<_> = entries.iter().filter(|e| e["type"] == "gap").collect();
    need(gaps.len() == 1, format!("{} gaps", gaps.len()))?;
    let lost = gaps[0]["lost"].as_u64().unwrap_or(0);
    need(lost > 30, format!("{lost} lost"))?;
    for key in ["from", "to", "reason"] {
        need(gaps[0][key].is_string(), format!("no '{key}': {}", gaps[0]))?;
    }
    let numbers: Vec<u64> = entries.iter().filter_map(|e| e["seq"].as_u64()).collect();
    let last = numbers.iter().max().copied().unwrap_or(0);
    let missing = last + 1 - numbers.len() as u64;
    need(
        missing == lost,
        format!("{missing} numbers are missing, {lost} are told as lost"),
    )?;
    need(
        entries.last().is_some_and(|e| e["type"] == "session_end"),
        "the end is not recorded",
    )
}

/// There is never room again: the person is told, and the next session begins a sound log's next entries.
fn to_the_end(w: &World) -> Verdict {
    let mut told = Told::start(w)?;
    for _ in 0..5 {
        told.send("work")?;
    }
    told.end()?
        .ended(0)?
        .says(&["END", GOES_ON, "are in no ledger, its end among them"])?;
    fs::remove_file(w.path("state/full")).map_err(|e| e.to_string())?;
    ledger_verifies(w)?;
    let policy = w.read("policy.yaml");
    w.put(
        "policy.yaml",
        &policy.replace("on_failure: open", "on_failure: closed"),
    );
    next_run_works(w)
}
