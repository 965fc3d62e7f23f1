//! Policies that are not put in force: the wall cannot enforce them, they are no policies, or the agent
//! has a hand in them. Nothing changes, and the command says what to do.

use std::fs;

use agentwall_tests::World;

use super::{CAT, NO_A, NO_NET, Rounds, TRAPS, apply, digest, has, policy, recorded, until};
use crate::{
    kit::{
        Fault, Verdict, changed, ids, ledger_verifies, need, next_run_works, run, say, session,
        wall,
    },
    tools::{fill_disk, mount},
};

const DIRECT: &str = "  - { id: traps, priority: 50, action: \"file.*\", resource: \"${workspace}/**/*.key\", effect: deny }\n  - { id: direct, priority: 60, action: \"file.*\", resource: \"{out}/direct/**\", effect: allow }\n";

pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("apply/needs-another-wall", another_wall),
        Fault::new("apply/made-by-the-agent", made),
        Fault::new("apply/errors", errors).rules(TRAPS),
        Fault::new("apply/bundles", bundles).rules(TRAPS),
        Fault::new("apply/no-such-session", no_session),
        Fault::new("apply/by-the-agent", by_the_agent).rules(DIRECT),
        Fault::new("apply/links-of-the-agent", links).rules(DIRECT),
        Fault::new("apply/disk-full", disk_full)
            .rules(TRAPS)
            .mounts(),
    ]
}

/// What the mounts decide cannot change: refused with what differs, and the former policy holds.
fn another_wall(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, CAT)?;
    let old = digest(w)?;
    let show = "  - { id: show, priority: 5, action: file.read, resource: \"{home}/.ssh/**\", effect: allow }\n";
    let direct = "  - { id: direct, priority: 40, action: [file.write, file.create, file.delete, file.rename, file.chmod], resource: \"${workspace}/**\", effect: allow }\n";
    for (name, rules, what) in [
        ("hide", NO_A, "is to be hidden, and is seen"),
        ("trap", TRAPS, "when they are read"),
        ("show", show, "is to be seen, and is hidden"),
        ("direct", direct, "is to be changed in place"),
    ] {
        policy(w, name, rules);
        let said = apply(w, name)?;
        said.refused(1, &[what, "nothing was changed", "new session"])?;
        let said = say(
            w,
            &format!("policy apply --json --policy {{home}}/{name}.yaml"),
        )?;
        let answer = said.ended(1)?.json()?;
        need(
            answer["applied"] == false
                && answer["differences"]
                    .as_array()
                    .is_some_and(|d| !d.is_empty()),
            said.brief(),
        )?;
        has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    }
    need(
        digest(w)? == old && recorded(w)?.is_empty(),
        "something was changed",
    )?;
    // The neighbour: what is decided for each call is accepted.
    policy(
        w,
        "ask",
        "  - { id: x, priority: 5, action: process.exec, resource: /usr/bin/head, effect: ask }\n",
    );
    apply(w, "ask")?.ended(0)?;
    has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    agent.end()?.ended(0).map(drop)
}

/// Reads are not trapped: a name that the agent has made is read without asking, one that is not
/// there cannot be made any more.
fn made(w: &World) -> Verdict {
    let round = "[ $round = 1 ] && echo MINE > {work}/mine; cat {work}/mine 2>&1; (echo x > {work}/none) 2>&1; rm -f {work}/none";
    let mut agent = Rounds::start(w, round)?;
    has(&agent.next()?, &["MINE"], &["denied"])?;
    let deny = |name: &str| {
        format!(
            "  - {{ id: no, priority: 40, action: \"file.*\", resource: \"{{work}}/{name}\", effect: deny }}\n"
        )
    };
    policy(w, "mine", &deny("mine"));
    apply(w, "mine")?.refused(1, &["the agent has made it", "nothing was changed"])?;
    has(&agent.next()?, &["MINE"], &["denied"])?;
    policy(w, "none", &deny("none"));
    apply(w, "none")?.ended(0)?;
    has(&agent.next()?, &["MINE", "denied"], &[])?;
    agent.end()?.ended(0).map(drop)
}

/// What cannot be read or loaded changes nothing.
fn errors(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, CAT)?;
    let old = digest(w)?;
    let refused = |texts: &[&str]| apply(w, "bad")?.refused(1, texts).map(drop);
    refused(&["cannot read the policy", "bad.yaml", "agentwall init"])?;
    let rule = |action: &str| {
        format!(
            "agentwall: 1\ndefault: allow\nrules:\n  - {{ id: x, action: \"{action}\", resource: /x, effect: allow }}\n"
        )
    };
    for (text, texts) in [
        ("", &["the file is empty"][..]),
        (
            "agentwall: 1\ndefault: allow\nruels: []\n",
            &["unknown key 'ruels'", "bad.yaml:3:1"],
        ),
        (
            &rule("file.raed"),
            &["did you mean 'file.read'", "bad.yaml:4:"],
        ),
        (&rule("file.\u{1b}[2J\u{202e}"), &["not loaded"]),
        (&rule("\\afile\\u202ered"), &["bad.yaml:4:"]),
        (
            "agentwall: 1\ndefault: allow\nproperties:\n  - { id: p, never: file.read(label:secret) then net.connect(*) }\n",
            &["cannot enforce", "enforcement: audit"],
        ),
        (&"# long\n".repeat(700_000), &["more than 4194304"]),
    ] {
        w.put("home/bad.yaml", text);
        refused(texts)?;
        let said = say(w, "policy apply --json --policy {home}/bad.yaml")?;
        let answer = said.ended(1)?.json()?;
        need(
            answer["applied"] == false && answer["error"].is_string(),
            said.brief(),
        )?;
    }
    fs::write(w.path("home/bad.yaml"), b"agentwall: 1\n# \xff\n").map_err(|e| e.to_string())?;
    refused(&["not UTF-8", "bad.yaml:2:3"])?;
    fs::remove_file(w.path("home/bad.yaml")).map_err(|e| e.to_string())?;
    fs::create_dir(w.path("home/bad.yaml")).map_err(|e| e.to_string())?;
    refused(&["cannot read the policy", "name the file"])?;
    let said = say(w, "policy apply --polcy x")?;
    need(said.status == 2, said.brief())?;
    need(
        digest(w)? == old && recorded(w)?.is_empty(),
        "something was changed",
    )?;
    has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    policy(w, "good", NO_A);
    apply(w, "good")?.ended(0)?;
    has(&agent.next()?, &["denied", "CONTENT-b"], &["CONTENT-a"])?;
    agent.end()?.ended(0).map(drop)
}

/// Signed bundles: by the keys that are trusted now, never an older one, and nothing else where the
/// host demands them.
fn bundles(w: &World) -> Verdict {
    let mut agent = Rounds::start(w, CAT)?;
    policy(w, "good", NO_A);
    let keygen = say(
        w,
        "policy bundle keygen {run}/team.key --name example.com/p",
    )?;
    let public = keygen.ended(0)?.out().trim().to_owned();
    for counter in [1, 2] {
        let line = format!(
            "policy bundle sign --key {{run}}/team.key --counter {counter} --out {{run}}/{counter}.bundle {{home}}/good.yaml"
        );
        say(w, &line)?.ended(0)?;
    }
    let bundle = |counter: u32| {
        say(
            w,
            &format!("policy apply --policy {{run}}/{counter}.bundle"),
        )
    };
    bundle(2)?.refused(1, &["not a trusted key"])?;
    w.put(
        "home/.config/agentwall/trusted-keys",
        &format!("require-signed\n{public}\n"),
    );
    apply(w, "good")?.refused(1, &["is not signed", "require-signed"])?;
    say(w, "policy apply")?.refused(1, &["is not signed"])?;
    has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    bundle(2)?.ended(0)?.says(&["in place of"])?;
    has(&agent.next()?, &["denied", "CONTENT-b"], &["CONTENT-a"])?;
    bundle(1)?.refused(1, &["counter is 1", "has used 2"])?;
    say(w, "ledger show --type policy")?
        .ended(0)?
        .says(&["bundle 2 signed by example.com/p+"])?;
    agent.end()?.ended(0)?;
    ledger_verifies(w)
}

fn no_session(w: &World) -> Verdict {
    say(w, "policy apply")?.refused(
        1,
        &["no session runs in the workspace", "agentwall sessions"],
    )?;
    say(w, "policy apply nothere")?.refused(1, &["unknown session 'nothere'", "agentwall run"])?;
    session(w, "true")?.ended(0)?;
    let id = ids(w)?.pop().ok_or("no session")?;
    say(w, &format!("policy apply {id}"))?.refused(1, &["has ended", "agentwall run"])?;
    say(w, "policy apply")?.refused(1, &["no session runs in the workspace"])?;
    let said = run(&mut wall(w, ["policy", "apply", "a\u{1b}[2J\u{202e}"]))?;
    said.refused(1, &["unknown session"])?;
    next_run_works(w)
}

/// The agent has no way to the channel, nor may it write the file that is applied.
fn by_the_agent(w: &World) -> Verdict {
    fs::create_dir_all(w.path("out/direct")).map_err(|e| e.to_string())?;
    w.own(&w.path("out/direct"));
    let state = w.path("state");
    let round = format!(
        "printf 'agentwall: 1\\ndefault: allow\\n' > {{work}}/mine.yaml\n\
         printf 'agentwall: 1\\ndefault: allow\\n' > {{out}}/direct/mine.yaml\n\
         agentwall policy apply --policy {{work}}/mine.yaml 2>&1; echo \"status $?\"\n\
         agentwall policy apply $AGENTWALL_SESSION --policy {{work}}/mine.yaml 2>&1; echo \"status $?\"\n\
         ls -A {0}/sessions 2>&1\n\
         python3 -c 'import socket, os\n\
s = socket.socket(socket.AF_UNIX)\n\
try: s.connect(\"{0}/sessions/\" + os.environ[\"AGENTWALL_SESSION\"] + \"/control.sock\"); print(\"REACHED\")\n\
except OSError as e: print(\"no way:\", e)'\n\
         cat {{work}}/b",
        state.display()
    );
    let mut agent = Rounds::start(w, &round)?;
    let old = digest(w)?;
    let text = agent.next()?;
    has(
        &text,
        &["status 1", "no way:", "CONTENT-b"],
        &["REACHED", "status 0", "control.sock", "in force"],
    )?;
    need(
        digest(w)? == old && recorded(w)?.is_empty(),
        "the agent changed the policy",
    )?;
    // A person who takes the agent's file for theirs is stopped, too.
    need(
        w.path("out/direct/mine.yaml").exists(),
        "the agent could not write in place",
    )?;
    say(w, "policy apply --policy {out}/direct/mine.yaml")?
        .refused(1, &["which the agent can change", "nothing was changed"])?;
    // Nor does a policy that would let it: what protects the wall is no rule.
    let weak = format!(
        "  - {{ id: weak, priority: 1, action: \"file.*\", resource: \"{0}/**\", effect: isolate }}\n  - {{ id: way, priority: 1, action: ipc.connect, resource: \"unix:{0}/**\", effect: allow }}\n",
        state.display()
    );
    policy(w, "weak", &weak);
    apply(w, "weak")?.ended(0)?;
    has(
        &agent.next()?,
        &["status 1", "no way:"],
        &["REACHED", "status 0", "control.sock"],
    )?;
    let id = ids(w)?.pop().ok_or("no session")?;
    agent.end()?.ended(0)?;
    need(!changed(w, &id)?.is_empty(), "the agent's own file is lost")
}

/// A link in a tree that the agent writes in place: it says neither which file is applied nor what a
/// rule is about.
fn links(w: &World) -> Verdict {
    fs::create_dir_all(w.path("out/direct/mine")).map_err(|e| e.to_string())?;
    w.own(&w.path("out/direct"));
    w.own(&w.path("out/direct/mine"));
    w.put("work/other/x.key", "CONTENT-other\n");
    let round = "ln -sfn {work}/other {out}/direct/way; ln -sf {home}/good.yaml {out}/direct/good.yaml; cat {work}/other/x.key 2>&1; cat {work}/b";
    let mut agent = Rounds::start(w, round)?;
    let old = digest(w)?;
    has(&agent.next()?, &["CONTENT-b"], &["CONTENT-other"])?;
    policy(w, "good", NO_A);
    let allow = |place: &str| {
        format!(
            "  - {{ id: mine, priority: 1, action: file.read, resource: \"{place}/**\", effect: allow }}\n"
        )
    };
    policy(w, "way", &allow("{out}/direct/way"));
    apply(w, "way")?.refused(
        1,
        &["by a link that the agent can change", "name that place"],
    )?;
    for name in ["good", "none"] {
        say(
            w,
            &format!("policy apply --policy {{out}}/direct/{name}.yaml"),
        )?
        .refused(1, &[])?;
    }
    say(w, "policy apply --policy {out}/direct/good.yaml")?
        .refused(1, &["which the agent can change"])?;
    need(
        digest(w)? == old && recorded(w)?.is_empty(),
        "something was changed",
    )?;
    has(&agent.next()?, &["CONTENT-b"], &["CONTENT-other"])?;
    // The neighbour: a place of the agent's own, by its own name.
    policy(w, "mine", &allow("{out}/direct/mine"));
    apply(w, "mine")?.ended(0)?;
    has(&agent.next()?, &["CONTENT-b"], &["CONTENT-other"])?;
    agent.end()?.ended(0).map(drop)
}

/// No room to record it in: the former policy goes on deciding.
fn disk_full(w: &World) -> Verdict {
    mount(w, "tmpfs", "size=8m", "state")?;
    let mut agent = Rounds::start(w, CAT)?;
    // What is sealed leaves nothing of before to be written later.
    policy(w, "first", NO_NET);
    apply(w, "first")?.ended(0)?;
    let old = digest(w)?;
    // Brings in what the journal has: files that tiles replace make room when they go.
    ledger_verifies(w)?;
    policy(w, "good", NO_A);
    let filler = w.path("state/filler");
    let mut refused = 0;
    // With less or more room it fails at another step.
    for pages in 0..12 {
        fill_disk(&filler, pages * 4096)?;
        let said = apply(w, "good")?;
        fs::remove_file(&filler).map_err(|e| e.to_string())?;
        if said.status == 0 {
            apply(w, "first")?.ended(0)?;
            break;
        }
        said.refused(1, &["nothing was changed", "No space left on device"])?;
        refused += 1;
        need(digest(w)? == old, "another policy is named")?;
        // What was recorded already is taken back, a moment later.
        until(|| recorded(w).is_ok_and(|all| all.last().is_some_and(|c| c["digest"] == *old)))?;
    }
    has(&agent.next()?, &["CONTENT-a", "CONTENT-b"], &["denied"])?;
    // The ledger's journal has room of its own.
    need(refused > 0, "there was room for it")?;
    apply(w, "good")?.ended(0)?;
    has(&agent.next()?, &["denied", "CONTENT-b"], &["CONTENT-a"])?;
    agent.end()?.ended(0)?;
    ledger_verifies(w)
}
