//! `agentwall policy apply`: another policy for a running session holds at once, or nothing changes.
//!
//! The agent of a case does one round of its script for each line on its standard input, so that what
//! it does after a command on the host has ended is known to come after it.

mod meanwhile;
mod refused;

use std::{
    io::Write as _,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::World;

use crate::{
    kit::{Fault, Said, Verdict, ids, ledger_verifies, need, say},
    tools::Running,
};

/// Names in the workspace are decided one by one.
const TRAPS: &str = "  - { id: traps, priority: 50, action: \"file.*\", resource: \"${workspace}/**/*.key\", effect: deny }\n";
/// A rule that denies a file, and one that denies nothing yet.
const NO_A: &str = "  - { id: no-a, priority: 40, action: \"file.*\", resource: \"{work}/a\", effect: deny, reason: \"Not any more.\" }\n";

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    let mut all = vec![
        Fault::new("apply/holds-at-the-next-call", next_call).rules(TRAPS),
        Fault::new("apply/a-hundred-rules", hundred).rules(TRAPS),
        Fault::new("apply/network", network).rules(TRAPS),
    ];
    all.extend(refused::cases());
    all.extend(meanwhile::cases());
    // They write policies beside the workspace, and commit.
    all.into_iter().map(Fault::commits).collect()
}

/// A session whose agent does its round when it is told to.
struct Rounds {
    running: Running,
    round: usize,
}

impl Rounds {
    fn start(w: &World, round: &str) -> Result<Rounds, String> {
        for name in ["a", "b"] {
            w.put(&format!("work/{name}"), &format!("CONTENT-{name}\n"));
        }
        let script = format!(
            "exec 3< {{work}}/a\necho READY\nwhile read -r round; do\n{round}\necho \"done $round.\"\ndone"
        );
        let running = Running::fed(w, "rounds", &script, "READY", Stdio::piped())?;
        Ok(Rounds { running, round: 0 })
    }

    /// One round: what the agent said in it.
    fn next(&mut self) -> Result<String, String> {
        self.round += 1;
        let (before, after) = (self.running.said().0.len(), format!("done {}.", self.round));
        let input = self.running.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{}", self.round).map_err(|e| format!("the agent is gone: {e}"))?;
        self.running.until(&after)?;
        Ok(self.running.said().0.split_off(before))
    }

    /// The agent ends by itself.
    fn end(mut self) -> Result<Said, String> {
        drop(self.running.child.stdin.take());
        self.running.end()
    }
}

/// The agent reads both files.
const CAT: &str = "cat {work}/a 2>&1; cat {work}/b 2>&1";

/// The agent connects to a port of the host.
const NET: &str = "python3 -c 'import socket\ntry: socket.create_connection((\"127.0.0.1\", {open}), 5).close(); print(\"net-ok\")\nexcept OSError as e: print(\"net-no\", e)'";
const NO_NET: &str = "  - { id: no-net, priority: 5, action: net.connect, resource: \"tcp://127.0.0.1:{open}\", effect: deny }\n";

fn has(text: &str, wanted: &[&str], unwanted: &[&str]) -> Verdict {
    for part in wanted {
        need(text.contains(part), format!("expected '{part}': {text}"))?;
    }
    for part in unwanted {
        need(!text.contains(part), format!("'{part}' in: {text}"))?;
    }
    Ok(())
}

/// Writes `home/NAME.yaml`: the case's policy with more rules before its own.
fn policy(w: &World, name: &str, rules: &str) {
    let text = w.read("policy.yaml");
    let text = text.replacen("rules:\n", &format!("rules:\n{}", w.fill(rules)), 1);
    w.put(&format!("home/{name}.yaml"), &text);
}

fn apply(w: &World, name: &str) -> Result<Said, String> {
    say(w, &format!("policy apply --policy {{home}}/{name}.yaml"))
}

/// The digest of the newest session's policy.
fn digest(w: &World) -> Result<String, String> {
    let list = say(w, "sessions --json")?.json()?;
    let digest = list[0]["policy_digest"].as_str();
    Ok(digest.ok_or("no digest")?.to_owned())
}

/// Commits: one of the agent's files arrives, and the one that the newest policy forbids does not.
fn commits_by_the_newest(w: &World) -> Verdict {
    let id = ids(w)?.pop().ok_or("the session is lost")?;
    say(w, &format!("commit {id}"))?;
    need(
        w.path("work/n1").exists(),
        "the neighbour was not committed",
    )?;
    need(
        !w.path("work/held1").exists(),
        "committed by the former policy",
    )?;
    ledger_verifies(w)
}

/// The changes of policy that the ledger has.
fn recorded(w: &World) -> Result<Vec<serde_json::Value>, String> {
    let said = say(w, "ledger show --type policy --json")?;
    said.ended(0)?;
    let entries = said.out();
    let entries = entries.lines().filter(|l| l.contains("\"replaces\""));
    entries
        .map(|l| serde_json::from_str(l).map_err(|e| format!("{e}: {l}")))
        .collect()
}

/// A denied name is denied in the agent's next open, its neighbour is not; what was open stays open.
/// The ledger has it before; the record and the commit go by the newest policy.
fn next_call(w: &World) -> Verdict {
    let round = format!(
        "{CAT}; echo NEW > {{work}}/n$round; echo NEW > {{work}}/held$round; [ $round != 2 ] || head -n 1 <&3"
    );
    let mut agent = Rounds::start(w, &round)?;
    has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    let old = digest(w)?;
    let no_commit = "  - { id: no-commit, priority: 40, action: file.commit, resource: \"{work}/held1\", effect: deny }\n";
    policy(w, "next", &format!("{NO_A}{no_commit}"));
    let said = say(w, "policy apply --policy {home}/next.yaml --json")?;
    let answer = said.ended(0)?.json()?;
    need(
        answer["applied"] == true && answer["old"] == *old,
        said.brief(),
    )?;
    let new = digest(w)?;
    need(answer["new"] == *new && new != old, said.brief())?;
    // The descriptor it had is still its own, and the refusals name the new policy's reason.
    let second = agent.next()?;
    need(
        second.matches("CONTENT-a").count() == 1 && second.contains("denied"),
        format!("after the change: {second}"),
    )?;
    has(&second, &["CONTENT-b"], &[])?;
    let changes = recorded(w)?;
    let [change] = changes.as_slice() else {
        return Err(format!("recorded: {changes:?}"));
    };
    need(
        change["replaces"] == *old
            && change["digest"] == *new
            && change["by"]
                .as_str()
                .is_some_and(|by| by.starts_with("uid:")),
        format!("recorded: {change}"),
    )?;
    // The same once more is no change; back again is one.
    apply(w, "next")?.ended(0)?.says(&["in force already"])?;
    say(w, "policy apply")?.ended(0)?.says(&["in place of"])?;
    need(digest(w)? == old, "the session's own policy is not back")?;
    has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    apply(w, "next")?.ended(0)?;
    has(&agent.next()?, &["denied", "CONTENT-b"], &["CONTENT-a"])?;
    agent.end()?.ended(0)?;
    need(digest(w)? == new, "the end of the session lost the policy")?;
    let refused = say(w, "ledger show --effect deny --rule no-a --json")?;
    refused.ended(0)?.says(&[&new, "Not any more."])?;
    commits_by_the_newest(w)?;
    need(
        w.path("work/held2").exists(),
        "another name was not committed",
    )
}

/// Waits for something that must come.
fn until(mut come: impl FnMut() -> bool) -> Verdict {
    let end = Instant::now() + Duration::from_secs(20);
    while !come() {
        need(Instant::now() < end, "it never came")?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Many rules, by name, about files that are there and files that are not.
fn hundred(w: &World) -> Verdict {
    let mut rules = String::new();
    for n in 0..100 {
        if n % 2 == 0 {
            w.put(&format!("work/f{n}"), "CONTENT-f\n");
        }
        rules += &format!(
            "  - {{ id: r{n}, priority: 40, action: \"file.*\", resource: \"{{work}}/f{n}\", effect: deny }}\n"
        );
    }
    let round = "cat {work}/f0 {work}/f98 2>&1; (echo x > {work}/f99) 2>&1; cat {work}/b";
    let mut agent = Rounds::start(w, round)?;
    has(&agent.next()?, &["CONTENT-f", "CONTENT-b"], &["denied"])?;
    policy(w, "many", &rules);
    apply(w, "many")?.ended(0)?.says(&["in force in session"])?;
    let after = agent.next()?;
    has(&after, &["CONTENT-b"], &["CONTENT-f"])?;
    need(after.matches("denied").count() == 3, after)?;
    agent.end()?.ended(0).map(drop)
}

/// The same for connections: denied, and allowed again, each at the next call.
fn network(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, &format!("{NET}; cat {{work}}/b"))?;
    has(&agent.next()?, &["net-ok", "CONTENT-b"], &["net-no"])?;
    policy(w, "net", NO_NET);
    apply(w, "net")?.ended(0)?;
    has(&agent.next()?, &["net-no", "CONTENT-b"], &["net-ok"])?;
    say(w, "policy apply")?.ended(0)?;
    has(&agent.next()?, &["net-ok", "CONTENT-b"], &["net-no"])?;
    // Ports of the host have their way through the wall from its start.
    policy(
        w,
        "port",
        "  - { id: port, priority: 5, action: net.connect, resource: \"tcp://127.0.0.1:9\", effect: allow }\n",
    );
    apply(w, "port")?.refused(1, &["loopback ports", "new session"])?;
    has(&agent.next()?, &["net-ok", "CONTENT-b"], &["net-no"])?;
    agent.end()?.ended(0).map(drop)
}
