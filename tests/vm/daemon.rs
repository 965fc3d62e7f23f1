//! The daemon of the kernel wall, from its start to its end: what it says it enforces is enforced, also when it is
//! killed, and what is not enforced any more is not.
//!
//! All cases share one load of the programs (`wall.rs`). Every refusal is tried together with a neighbour that is
//! allowed, and its effect is looked for, not only its error.

use std::{fs, path::Path, process::Stdio};

use agentwall_tests::said::{Verdict, need};

use crate::{
    case::{AGENT_ID, Guest, command, sh, sh_as_agent},
    wall::{
        Daemon, binary, capabilities, counted, done, ledger, pending, say, status, wait_for,
        write_policy,
    },
};

/// All of them.
pub fn cases() -> Vec<Guest> {
    vec![
        // First, so that what is tried on the way is that loading needs no more than the unit leaves.
        Guest::new("daemon/bounded", bounded),
        Guest::new("daemon/enforces", enforces),
        Guest::new("daemon/own-files", own_files),
        Guest::new("daemon/second-name", second_name),
        Guest::new("daemon/no-stale-answer", no_stale_answer),
        Guest::new("daemon/received", received),
        Guest::new("daemon/killed", killed),
        Guest::new("daemon/reload", reload),
        Guest::new("daemon/approve", approve),
        Guest::new("daemon/finds", finds),
        Guest::new("daemon/ordinary-user", ordinary_user),
        Guest::new("daemon/audit", audit),
        Guest::new("daemon/lost-events", lost_events),
    ]
}

/// What comes after all others, since it takes the wall away.
pub fn last() -> Guest {
    Guest::new("end/unload", unload)
}

/// What is denied has no effect, what is allowed beside it goes through, and the status says so.
fn enforces(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let (code, told) = status()?;
    need(
        code == 0 && told["enforcing"] == true && told["daemon"] == true && told["audit"] == false,
        format!("status {code}: {told}"),
    )?;
    let said = daemon.governed(
        "cat free; cat secret; echo in > work/in && cat work/in; echo out > out; mkdir made; mv free gone
        rm asked; ln secret work/other; cat work/other; (setsid cat secret); \"$AGENTWALL_BIN\" why",
    )?;
    need(said.out().starts_with("free\nin\n"), said.brief())?;
    need(!said.out().lines().any(|l| l == "secret"), said.brief())?;
    said.says(&[
        "Permission denied",
        "rule:   secret",
        "reason: it is secret",
    ])?;
    for name in ["out", "made", "gone"] {
        need(!daemon.path(name).exists(), format!("{name} exists"))?;
    }
    need(
        daemon.path("asked").exists() && daemon.path("free").exists(),
        "something is gone",
    )?;
    // Who is not governed is not refused.
    sh(folder, "cat secret && echo x > out && rm out")?.ended(0)?;
    need(
        ledger()?.contains("\"kernel_wall\"") && daemon.recorded("it is secret")? > 0,
        "the ledger does not tell",
    )
}

/// What a rule refuses under its name is refused under a second one that was there before, and does not get
/// another name by moving a folder above it.
fn second_name(folder: &Path) -> Verdict {
    sh(
        folder,
        "mkdir -p vault/deep work/plain; echo hidden > vault/deep/key; ln vault/deep/key work/hard
        echo shown > work/plain/a; ln work/plain/a work/b",
    )?
    .ended(0)?;
    let daemon = Daemon::begin(folder)?;
    let rules = format!(
        "  - {{id: vault, priority: 1, action: file.read, resource: '{0}/vault/**', effect: deny}}
  - {{id: rest, priority: 2, action: 'file.*', resource: '{0}/**', effect: allow}}\n",
        folder.display()
    );
    daemon.swap(&rules)?;
    let said = daemon.governed(
        "cat work/b work/hard vault/deep/key; mv -T work/plain work/moved && cat work/moved/a
        python3 -c 'import os; os.rename(\"vault\", \"work/vault\")'; cat work/vault/deep/key",
    )?;
    need(said.out() == "shown\nshown\n", said.brief())?;
    need(
        daemon.path("vault/deep/key").exists() && !daemon.path("work/vault").exists(),
        "the folder was moved",
    )?;
    sh(folder, "cat work/hard")?
        .ended(0)?
        .says(&["hidden"])
        .map(drop)
}

/// An answer that was remembered is not given any more when the object has another name, when its folder has, when
/// another object has its name, or when the policy is another.
fn no_stale_answer(folder: &Path) -> Verdict {
    sh(folder, "mkdir -p work/d vault; for n in a b d/c; do echo in-$n > work/$n; done; echo hidden > vault/b")?
        .ended(0)?;
    let daemon = Daemon::begin(folder)?;
    let rules = |more: &str| {
        format!(
            "  - {{id: vault, priority: 1, action: 'file.*', resource: '{0}/vault/**', effect: deny}}
  - {{id: rest, priority: 3, action: 'file.*', resource: '{0}/**', effect: allow}}\n{more}",
            folder.display()
        )
    };
    daemon.swap(&rules(""))?;
    let before = counted("cached")?;
    // Somebody who is not governed changes what the names mean, between two reads of the same objects.
    sh(
        folder,
        "(while [ ! -e work/ready ]; do sleep 0.1; done
        mv work/a vault/a; mv vault/b vault/b2; mv work/b vault/b; mv vault/b2 work/b; chmod 644 work/b; mv work/d vault/d
        touch work/go) > /dev/null 2>&1 &",
    )?
    .ended(0)?;
    let said = daemon.governed(
        "for i in 1 2 3; do cat work/a work/b work/d/c; done > /dev/null; exec 9<work/d; touch work/ready
        while [ ! -e work/go ]; do sleep 0.1; done
        echo begin; cat vault/a; cat vault/b; cat vault/d/c; cat /proc/self/fd/9/c; cat work/b; cat free",
    )?;
    let out = said.out();
    let told = out.split("begin\n").nth(1).unwrap_or_default();
    // What came to the permitted name is read: that is what the name means now.
    need(told == "hidden\nfree\n", said.brief())?;
    need(
        counted("cached")? > before,
        "no answer was remembered, so nothing was proved",
    )?;
    // Another policy: what was remembered under the former one is void.
    sh(folder, "rm -f work/ready work/go; echo x > work/e")?.ended(0)?;
    let deny = format!(
        "  - {{id: e, priority: 2, action: file.read, resource: '{}/work/e', effect: deny}}\n",
        folder.display()
    );
    write_policy(folder, &rules(&deny))?;
    let binary = std::env::var("AGENTWALL_BIN").unwrap_or_default();
    sh(
        folder,
        &format!(
            "(while [ ! -e work/ready ]; do sleep 0.1; done; {binary} daemon reload; touch work/go) > /dev/null 2>&1 &"
        ),
    )?
    .ended(0)?;
    let said = daemon.governed(
        "cat work/e work/e > /dev/null; touch work/ready; while [ ! -e work/go ]; do sleep 0.1; done
        echo begin; cat work/e; cat free",
    )?;
    let out = said.out();
    let told = out.split("begin\n").nth(1).unwrap_or_default();
    need(told == "free\n", said.brief())
}

/// The wall's own files, processes and sockets are out of reach for root, if it is governed.
fn own_files(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    daemon.swap("  - {id: all, priority: 1, action: '*', resource: '*', effect: allow}\n")?;
    let pid = daemon.pid();
    let said = daemon.governed(&format!(
        "cat /var/lib/agentwall/keys/ledger.key; cat /run/agentwall/book.json; cat /etc/agentwall/vm.yaml
        rm -rf /sys/fs/bpf/agentwall; echo x >> /etc/agentwall/daemon.yaml; kill -9 {pid}
        \"$AGENTWALL_BIN\" daemon stop --unload -y; mount -t tmpfs none /etc/agentwall
        mkdir -p work/m; mount --bind /var/lib/agentwall work/m; cat work/m/keys/ledger.key; echo through"
    ))?;
    said.says(&["through"])?;
    let out = said.out();
    need(
        !out.contains("PRIVATE") && !out.contains("\"views\"") && !out.contains("agentwall: 1"),
        &out,
    )?;
    let (code, told) = status()?;
    need(
        code == 0 && told["enforcing"] == true,
        format!("status {code}: {told}"),
    )?;
    let config = fs::read_to_string("/etc/agentwall/daemon.yaml").map_err(say("daemon.yaml"))?;
    need(!config.contains("x\n"), "the configuration was changed")
}

/// A descriptor that a process outside hands over arrives if the receiver might have opened it, else not.
fn received(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let at = folder.display();
    daemon.swap(&format!(
        "  - {{id: server, priority: 1, action: ipc.connect, resource: 'unix:{at}/work/**', effect: allow}}\n"
    ))?;
    let server = "import os, socket
s = socket.socket(socket.AF_UNIX); s.bind('work/server'); s.listen(); open('work/up', 'w').close()
c = s.accept()[0]
for name, how in ('secret', os.O_RDONLY), ('out', os.O_WRONLY | os.O_CREAT), ('free', os.O_RDONLY):
    socket.send_fds(c, [name.encode()], [os.open(name, how)])
c.recv(1)";
    let mut server = command("python3")
        .args(["-c", server])
        .current_dir(folder)
        .spawn()
        .map_err(say("the server"))?;
    wait_for("the server", || daemon.path("work/up").exists())?;
    let said = daemon.governed(
        "python3 -c \"import os, socket
c = socket.socket(socket.AF_UNIX); c.connect('work/server')
for _ in range(3):
    name, files, _, _ = socket.recv_fds(c, 99, 4)
    for f in files:
        print(name.decode(), os.read(f, 99) if name != b'out' else os.write(f, b'x'))
    print(name.decode(), len(files))\"",
    );
    let _ = server.kill();
    server.wait().map_err(say("the server"))?;
    let said = said?;
    need(
        said.out() == "secret 0\nout 0\nfree b'free\\n'\nfree 1\n",
        said.brief(),
    )?;
    need(
        daemon.path("out").metadata().is_ok_and(|m| m.len() == 0),
        "written through a descriptor of somebody else",
    )
}

/// A daemon that is killed takes nothing with it; the next one goes on with what stands.
fn killed(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let waiting = daemon.spawn(
        "while ! test -e go; do sleep 0.2; done; cat secret; cat free; echo out > out; echo in > work/in",
    )?;
    daemon.wait_for_session(waiting.pid())?;
    let (_, before) = status()?;
    daemon.kill()?;
    let (code, told) = status()?;
    need(
        code == 1
            && told["standing"] == true
            && told["enforcing"] == true
            && told["daemon"] == false,
        format!("status {code}: {told}"),
    )?;
    // Without a confirmation nothing is started.
    daemon.governed("echo x > work/x")?.ended(125)?;
    need(!daemon.path("work/x").exists(), "it was started")?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    wait_for("the governed writing", || daemon.path("work/in").exists())?;
    let read = waiting.out()?;
    need(read == "free\n", format!("read '{read}'"))?;
    need(!daemon.path("out").exists(), "written without a daemon")?;

    daemon.again()?;
    let (code, after) = status()?;
    need(
        code == 0 && after["enforcing"] == true,
        format!("status {code}: {after}"),
    )?;
    need(
        after["programs"] == before["programs"] && after["hooks"] == before["hooks"],
        format!("another wall: {after}"),
    )?;
    // What was refused meanwhile was told by the kernel and is in the ledger by now.
    wait_for("the entry of the refusal", || {
        daemon.recorded("it is secret").is_ok_and(|n| n > 0)
    })?;
    daemon
        .governed("cat secret || cat free")?
        .says(&["free"])
        .map(drop)
}

/// A bad policy changes nothing; a good one holds for who is governed already.
fn reload(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let waiting = daemon.spawn(
        "cat free; touch work/ready; while ! test -e go; do sleep 0.2; done; cat free; cat /etc/hostname > work/h",
    )?;
    wait_for("the first reading", || daemon.path("work/ready").exists())?;
    fs::write(
        "/etc/agentwall/vm.yaml",
        "agentwall: 1\ndefault: nonsense\n",
    )
    .map_err(say("vm.yaml"))?;
    done(&["daemon", "reload"])?
        .ended(1)?
        .says(&["nothing was changed", "nonsense"])?;
    daemon.governed("cat free")?.ended(125)?;
    let at = folder.display();
    write_policy(
        folder,
        &format!("  - {{id: free, action: file.read, resource: '{at}/free', effect: deny}}\n"),
    )?;
    // As the service manager does it.
    let readings = || daemon.log().matches("read again").count();
    let (pid, before) = (daemon.pid(), readings());
    sh(folder, &format!("kill -HUP {pid}"))?.ended(0)?;
    wait_for("the reload", || readings() > before)?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    let read = waiting.out()?;
    need(read == "free\n", format!("read '{read}'"))?;
    need(
        daemon.path("work/h").metadata().is_ok_and(|m| m.len() > 0),
        "the neighbour does not work",
    )
}

/// A question is asked, and the yes holds for one use of just this.
fn approve(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let asking = daemon.spawn(
        "cat asked; touch work/asked; while ! test -e go; do sleep 0.2; done; cat asked; cat asked; cat secret",
    )?;
    wait_for("the question", || {
        pending(folder).is_ok_and(|p| p.is_some())
    })?;
    wait_for("the first refusal", || daemon.path("work/asked").exists())?;
    let id = pending(folder)?.unwrap_or_default();
    done(&["approve", &id, "--for", "/**"])?.ended(1)?;
    done(&["approve", &id])?.ended(0)?.says(&["approved"])?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    let read = asking.out()?;
    need(read == "asked\n", format!("read '{read}'"))?;
    need(
        ledger()?.contains("\"approval\""),
        "no approval in the ledger",
    )
}

/// A process that the configuration means is found and governed; what a person releases stays so.
fn finds(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let agent = daemon.path("agent-one");
    fs::copy("/bin/dash", &agent).map_err(say("agent-one"))?;
    let text =
        "while ! test -e go; do sleep 0.2; done; cat secret > work/read; echo done > work/done
        while ! test -e end; do sleep 0.2; done; cat secret > work/free";
    let mut found = command(&agent)
        .args(["-c", text])
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .map_err(say("agent-one"))?;
    let pid = found.id();
    daemon.wait_for_session(pid)?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    wait_for("the writing", || daemon.path("work/done").exists())?;
    let read = fs::read_to_string(daemon.path("work/read")).unwrap_or_default();
    need(read.is_empty(), format!("read '{read}'"))?;
    done(&["daemon", "release", &pid.to_string()])?.ended(0)?;
    fs::write(daemon.path("end"), "").map_err(say("end"))?;
    found.wait().map_err(say("agent-one"))?;
    let read = fs::read_to_string(daemon.path("work/free")).unwrap_or_default();
    need(read == "secret\n", format!("released, and read '{read}'"))
}

/// An ordinary user may put commands under a named policy, and nothing else.
fn ordinary_user(folder: &Path) -> Verdict {
    let _daemon = Daemon::begin(folder)?;
    let said = sh_as_agent(
        folder,
        "\"$AGENTWALL_BIN\" daemon exec --policy builder -- sh -c 'id -u; cat secret; cat free'",
    )?;
    need(said.out() == "1000\nfree\n", said.brief())?;
    for text in [
        "daemon stop --unload -y",
        "daemon reload",
        "daemon release 1",
        "daemon govern 1 --policy builder",
        "approve host-1",
        "daemon status",
    ] {
        let said = sh_as_agent(folder, &format!("\"$AGENTWALL_BIN\" {text}"))?;
        said.ended(1)?.says(&["root"])?;
    }
    sh_as_agent(
        folder,
        "\"$AGENTWALL_BIN\" daemon exec --policy /etc/agentwall/vm.yaml -- id -u",
    )?
    .ended(125)?
    .says(&["only root"])?;
    need(status()?.0 == 0, "the daemon is gone")
}

/// Taken away, nothing is refused any more, and the ledger has it.
fn unload(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let waiting = daemon.spawn(
        "cat secret; touch work/ready; while ! test -e go; do sleep 0.2; done; cat secret",
    )?;
    wait_for("the first refusal", || daemon.path("work/ready").exists())?;
    done(&["daemon", "stop", "--unload"])?.ended(2)?;
    daemon.unload()?;
    let (code, told) = status()?;
    need(
        code == 1 && told["standing"] == false && told["enforcing"] == false,
        format!("status {code}: {told}"),
    )?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    let read = waiting.out()?;
    need(read == "secret\n", format!("read '{read}'"))?;
    need(ledger()?.contains("\"removed\""), "no entry of the removal")
}

/// An audit refuses nothing, says so, and records what it would refuse: also one that takes over a wall that refused.
fn audit(folder: &Path) -> Verdict {
    let daemon = Daemon::begin_with(folder, &["--audit"], binary())?;
    let (code, told) = status()?;
    need(
        code == 0 && told["audit"] == true && told["enforcing"] == false,
        format!("status {code}: {told}"),
    )?;
    let said = daemon.governed("cat secret; echo out > out")?;
    need(
        said.out() == "secret\n" && daemon.path("out").exists(),
        said.brief(),
    )?;
    wait_for("the entry", || {
        daemon.recorded("kernel-audit").is_ok_and(|n| n > 0)
    })
}

/// Events that find no room are a gap in the ledger, and no refusal is lost with them.
fn lost_events(folder: &Path) -> Verdict {
    const TRIED: u64 = 500;
    let daemon = Daemon::begin(folder)?;
    let lost = || Ok::<u64, String>(status()?.1["lost"].as_u64().unwrap_or(0));
    let gaps = || {
        ledger().map(|l| {
            l.lines()
                .filter(|e| e.contains("\"gap\"") && e.contains("\"from\""))
                .count()
        })
    };
    let (pid, lost_before, gaps_before) = (daemon.pid(), lost()?, gaps()?);
    // Nobody reads while they are made.
    let governed = daemon.spawn(&format!(
        "touch work/ready; while ! test -e go; do sleep 0.1; done
        for i in $(seq {TRIED}); do read x < secret; done 2> /dev/null; echo ${{x:-nothing}}"
    ))?;
    wait_for("the session", || daemon.path("work/ready").exists())?;
    sh(folder, &format!("kill -STOP {pid}; touch go"))?.ended(0)?;
    let read = governed.out();
    sh(folder, &format!("kill -CONT {pid}"))?.ended(0)?;
    need(
        read.as_deref() == Ok("nothing\n"),
        "a refusal was lost with its event",
    )?;
    wait_for("the gap", || gaps().is_ok_and(|n| n > gaps_before))?;
    let lost = lost()? - lost_before;
    let refused = daemon.recorded("it is secret")? as u64;
    need(
        lost > 0 && lost + refused >= TRIED,
        format!("{lost} lost and {refused} recorded of {TRIED}"),
    )
}

/// The capabilities that the unit leaves to the daemon are enough: for loading, for finding another user's process,
/// and for taking over what stands.
fn bounded(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder)?;
    let agent = daemon.path("agent-two");
    fs::copy("/bin/dash", &agent).map_err(say("agent-two"))?;
    let text = format!(
        "{} -c 'while ! test -e go; do sleep 0.2; done; cat secret; cat free > work/free'",
        agent.display()
    );
    for round in ["loaded", "taken over"] {
        let bounds = fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
        let bounds = bounds.map_err(say("the daemon"))?;
        let line = bounds.lines().find_map(|l| l.strip_prefix("CapBnd:"));
        let set = u64::from_str_radix(line.unwrap_or_default().trim(), 16);
        let named = capabilities()?.split(',').count() as u32;
        need(
            set.is_ok_and(|s| s.count_ones() == named) && bounds.contains("NoNewPrivs:\t1"),
            format!("{round} with more than the unit leaves: {line:?}"),
        )?;
        // What only its first call needs it has no more (capabilities(7): CAP_SYS_ADMIN is 21).
        let line = bounds.lines().find_map(|l| l.strip_prefix("CapPrm:"));
        let set = u64::from_str_radix(line.unwrap_or_default().trim(), 16);
        need(
            set.is_ok_and(|s| s != 0 && s & 1 << 21 == 0),
            format!("{round} with CAP_SYS_ADMIN: {line:?}"),
        )?;
        for name in ["go", "work/free"] {
            let _ = fs::remove_file(daemon.path(name));
        }
        let id = AGENT_ID.to_string();
        let mut found = command("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .args(["sh", "-c", &text])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(say("agent-two"))?;
        wait_for("the finding", || {
            status().is_ok_and(|(_, s)| {
                s["sessions"]
                    .as_array()
                    .is_some_and(|l| l.iter().any(|s| s["uid"] == AGENT_ID))
            })
        })?;
        fs::write(daemon.path("go"), "").map_err(say("go"))?;
        found.wait().map_err(say("agent-two"))?;
        need(
            daemon.path("work/free").exists(),
            "the neighbour does not work",
        )?;
        wait_for("the refusal in the ledger", || {
            daemon.recorded("it is secret").is_ok_and(|n| n > 0)
        })?;
        if round == "loaded" {
            daemon.kill()?;
            daemon.again()?;
        }
    }
    Ok(())
}
