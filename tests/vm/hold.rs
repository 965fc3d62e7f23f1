//! Starts of programs: those that the configuration means are governed from their first instruction, and those that a
//! rule asks about are held until a person has answered.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use agentwall_tests::said::{Verdict, need};

use crate::{
    case::{AGENT_ID, Guest, sh, sh_as_agent},
    wall::{Daemon, done, ledger, pending, say, wait_for},
};

/// All of them.
pub fn cases() -> Vec<Guest> {
    vec![
        Guest::new("hold/first-instruction", first_instruction),
        Guest::new("hold/asked", asked),
    ]
}

/// A program without a library, whose first instructions open two files. Its status: 1 if the secret one was opened,
/// and 2 more if the free one was not.
const FIRST: &str = r#"
static long call(long n, long a, long b, long c) {
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}
void _start(void) {
	long secret = call(2, (long)SECRET, 0, 0), open = call(2, (long)FREE, 0, 0);
	call(60, (secret >= 0) | (open < 0) << 1, 0, 0);
}
"#;

/// Starts a program fifty times: how often with which status.
fn fifty(program: &str) -> String {
    format!("for i in $(seq 50); do {program}; echo $?; done | sort | uniq -c | tr -s ' '")
}

/// A program that the configuration means, by its name or by its user, never gets to do what is denied, not as its
/// first instruction and not without a daemon; one that it does not mean is left alone.
fn first_instruction(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    fs::write(folder.join("first.c"), FIRST).map_err(say("first.c"))?;
    let at = folder.display();
    sh(
        folder,
        &format!(
            "set -e; cc -static -nostdlib -fno-stack-protector -O1 -o plain -DSECRET='\"{at}/secret\"' \
             -DFREE='\"{at}/free\"' first.c
            for n in agent-one work-one of-agent; do cp plain $n; done
            chown {AGENT_ID}:{AGENT_ID} of-agent; chmod 4755 of-agent; mkdir here there"
        ),
    )?
    .ended(0)?;
    let rules = format!(
        "agentwall: 1\ndefault: deny\nrules:\n  \
         - {{id: see, action: [file.read, file.exec, process.exec], resource: '/**', effect: allow}}\n  \
         - {{id: secret, priority: 1, action: file.read, resource: '{at}/secret', effect: deny}}\n  \
         - {{id: work, action: 'file.*', resource: '${{workspace}}/**', effect: allow}}\n"
    );
    fs::write("/etc/agentwall/work.yaml", rules).map_err(say("work.yaml"))?;
    let config = format!(
        "agentwall-daemon: 1\ngovern:\n  \
         - {{name: by-program, exe: '{at}/agent-*', policy: /etc/agentwall/vm.yaml}}\n  \
         - {{name: by-user, user: agent, policy: /etc/agentwall/vm.yaml}}\n  \
         - {{name: by-folder, exe: '{at}/work-*', policy: /etc/agentwall/work.yaml}}\n"
    );
    fs::write("/etc/agentwall/daemon.yaml", config).map_err(say("daemon.yaml"))?;
    done(&["daemon", "reload"])?.ended(0)?;

    let hold = |who: &str| -> Verdict {
        // By name; by the user whose the program is (set-id); by a user that was become before.
        for program in ["./agent-one", "./of-agent"] {
            let said = sh(folder, &fifty(program))?;
            need(
                said.out() == " 50 0\n",
                format!("{who}, {program}: {}", said.brief()),
            )?;
        }
        let said = sh_as_agent(folder, &fifty("./plain"))?;
        need(
            said.out() == " 50 0\n",
            format!("{who}, user: {}", said.brief()),
        )?;
        // The neighbour, whom nobody means.
        let said = sh(folder, &fifty("./plain"))?;
        need(
            said.out() == " 50 1\n",
            format!("{who}, neighbour: {}", said.brief()),
        )
    };
    hold("with the daemon")?;
    wait_for("the entry of a session", || {
        ledger().is_ok_and(|l| {
            l.lines()
                .any(|e| e.contains("\"session_start\"") && e.contains("agent-one"))
        })
    })?;

    // Where the policy depends on the folder, the first start there waits for it.
    let said = sh(&daemon.path("here"), &fifty("../work-one"))?;
    need(said.out() == " 50 0\n", said.brief())?;
    // A program that came later cannot wait: it is refused until the policy is there.
    sh(folder, "cp plain work-two; mkdir later")?.ended(0)?;
    let start = || sh(&daemon.path("later"), "../work-two; echo $?");
    start()?.says(&["Permission denied", "126"])?;
    wait_for("the policy of the folder", || {
        start().is_ok_and(|said| said.out() == "0\n")
    })?;

    daemon.kill()?;
    hold("without a daemon")?;
    let start = |folder: &str| sh(&daemon.path(folder), "../work-one; echo $?");
    need(start("here")?.out() == "0\n", "the folder's policy is gone")?;
    start("there")?.says(&["Permission denied", "126"])?;
    daemon.again()?;
    hold("with the next daemon")
}

/// A start that a rule asks about waits for a person: after a yes it goes on as if nothing had been, after a no, after
/// its time and when the daemon dies it does not happen. Others start the same program meanwhile.
fn asked(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    fs::copy("/bin/dash", daemon.path("tool")).map_err(say("tool"))?;
    let rule = format!(
        "  - {{id: start, priority: 1, action: process.exec, resource: '{}/tool', effect: ask}}\n",
        folder.display()
    );
    patience(600)?;
    daemon.swap(&rule)?;

    let (child, id) = begin(&daemon, "approved")?;
    // The neighbours: who is not governed, and who is and starts something else.
    sh(folder, "./tool -c 'echo ungoverned'")?
        .ended(0)?
        .says(&["ungoverned"])?;
    daemon.governed("cat free")?.ended(0)?.says(&["free"])?;
    need(!daemon.path("work/approved").exists(), "it did not wait")?;
    done(&["approve", &id])?.ended(0)?.says(&["it goes on"])?;
    let (out, err) = end(child)?;
    need(
        out == "0\n" && err.is_empty() && daemon.path("work/approved").exists(),
        format!("approved: {out} {err}"),
    )?;

    let refused = |name: &str, why: &str, (out, err): (String, String)| {
        need(
            out == "126\n" && err.contains(why) && !daemon.path("work").join(name).exists(),
            format!("{name}: {out} {err}"),
        )
    };
    let (child, id) = begin(&daemon, "rejected")?;
    done(&["reject", &id])?.ended(0)?;
    refused("rejected", "Operation not permitted", end(child)?)?;
    need(pending(folder)?.is_none(), "a no was asked about again")?;

    patience(1)?;
    // The question goes on waiting, and the next try finds the answer.
    let text = "./tool -c 'echo x > work/late'; echo $?; touch work/tried
        while ! test -e go; do sleep 0.2; done; ./tool -c 'echo x > work/then'; echo $?";
    let child = spawn(&daemon, text)?;
    wait_for("the refusal", || daemon.path("work/tried").exists())?;
    need(!daemon.path("work/late").exists(), "it started")?;
    let id = pending(folder)?.unwrap_or_default();
    done(&["approve", &id])?.ended(0)?.says(&["the next try"])?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    let (out, err) = end(child)?;
    need(
        out == "126\n0\n" && daemon.path("work/then").exists(),
        format!("late: {out} {err}"),
    )?;

    patience(600)?;
    let (child, _) = begin(&daemon, "orphaned")?;
    daemon.kill()?;
    let said = end(child)?;
    need(
        said.0 == "126\n" && !daemon.path("work/orphaned").exists(),
        format!("orphaned: {} {}", said.0, said.1),
    )
}

/// How long starts are held from now on.
fn patience(seconds: u32) -> Verdict {
    const CONFIG: &str = "/etc/agentwall/daemon.yaml";
    let config = fs::read_to_string(CONFIG).map_err(say(CONFIG))?;
    let mut lines: Vec<&str> = config.lines().collect();
    lines.retain(|l| !l.starts_with("hold_seconds"));
    let hold = format!("hold_seconds: {seconds}");
    lines.insert(1, &hold);
    fs::write(CONFIG, lines.join("\n") + "\n").map_err(say(CONFIG))?;
    done(&["daemon", "reload"])?.ended(0).map(drop)
}

/// Starts the program that is asked about, governed, which would make a file; and waits for the question.
fn begin(daemon: &Daemon<'_>, name: &str) -> Result<(Child, String), String> {
    let child = spawn(
        daemon,
        &format!("./tool -c 'echo x > work/{name}'; echo $?"),
    )?;
    let folder = daemon.path("");
    wait_for("the question", || {
        pending(&folder).is_ok_and(|p| p.is_some())
    })?;
    Ok((child, pending(&folder)?.unwrap_or_default()))
}

fn spawn(daemon: &Daemon<'_>, text: &str) -> Result<Child, String> {
    let mut cmd = daemon.command(text);
    cmd.stdout(Stdio::piped()).stderr(Stdio::piped());
    cmd.spawn().map_err(say("governed"))
}

fn end(child: Child) -> Result<(String, String), String> {
    let said = child.wait_with_output().map_err(say("governed"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(said.stdout), text(said.stderr)))
}
