//! The daemon of the kernel wall, from its start to its end: what it says it enforces is enforced, also when it is
//! killed, and what is not enforced any more is not.
//!
//! Each case has a daemon of its own and takes the wall away when it is over. Every refusal is tried together with
//! a neighbour that is allowed, and its effect is looked for, not only its error.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agentwall_tests::said::{Said, Verdict, need, run};

use crate::case::{Guest, command, sh, sh_as_agent};

/// All of them.
pub fn cases() -> Vec<Guest> {
    vec![
        Guest::new("daemon/enforces", enforces),
        Guest::new("daemon/own-files", own_files),
        Guest::new("daemon/second-name", second_name),
        Guest::new("daemon/no-stale-answer", no_stale_answer),
        Guest::new("daemon/killed", killed),
        Guest::new("daemon/reload", reload),
        Guest::new("daemon/approve", approve),
        Guest::new("daemon/finds", finds),
        Guest::new("daemon/ordinary-user", ordinary_user),
        Guest::new("daemon/unload", unload),
        Guest::new("daemon/audit", audit),
        Guest::new("daemon/lost-events", lost_events),
        Guest::new("daemon/bounded", bounded),
    ]
}

/// How long something may take that happens by itself; nothing here waits for it unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon with its configuration, and a folder in which governed processes may write.
struct Daemon<'f> {
    folder: &'f Path,
    child: Child,
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // The next case begins without a wall, whatever came of this one.
        let _ = done(&["daemon", "stop", "--unload", "-y"]);
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all("/sys/fs/bpf/agentwall");
    }
}

fn agentwall(args: &[&str]) -> Command {
    let mut cmd = command(std::env::var_os("AGENTWALL_BIN").unwrap_or_else(|| "agentwall".into()));
    cmd.args(args);
    cmd
}

/// Runs it to its end.
fn done(args: &[&str]) -> Result<Said, String> {
    run(&mut agentwall(args))
}

fn say(what: &str) -> impl Fn(std::io::Error) -> String {
    move |e| format!("{what}: {e}")
}

/// Waits until `is_so`, which is looked at now and then.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Verdict {
    let begin = Instant::now();
    while !is_so() {
        need(begin.elapsed() < PATIENCE, format!("{what} did not happen"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

impl<'f> Daemon<'f> {
    /// Writes policy and configuration, and starts it; `extra` are more lines of the configuration.
    fn begin(folder: &'f Path, extra: &str, options: &[&str]) -> Result<Daemon<'f>, String> {
        fs::create_dir_all("/etc/agentwall").map_err(say("/etc/agentwall"))?;
        // Where others can write, nothing is believed that lies there.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(say("folder"))?;
        fs::create_dir_all(folder.join("work")).map_err(say("work"))?;
        fs::set_permissions(folder.join("work"), fs::Permissions::from_mode(0o777))
            .map_err(say("work"))?;
        for name in ["secret", "asked", "free"] {
            fs::write(folder.join(name), format!("{name}\n")).map_err(say(name))?;
        }
        write_policy(folder, "")?;
        let config = format!(
            "agentwall-daemon: 1\n{extra}govern:\n  - {{name: builder, exe: '{}/agent-*', policy: \
             /etc/agentwall/vm.yaml}}\n",
            folder.display()
        );
        fs::write("/etc/agentwall/daemon.yaml", config).map_err(say("daemon.yaml"))?;
        Ok(Daemon {
            folder,
            child: start(folder, options)?,
        })
    }

    /// Nobody is told: the process is gone.
    fn kill(&mut self) -> Verdict {
        self.child.kill().map_err(say("kill"))?;
        self.child.wait().map(drop).map_err(say("wait"))
    }

    fn again(&mut self) -> Verdict {
        self.child = start(self.folder, &[])?;
        Ok(())
    }

    /// A shell text, governed.
    fn governed(&self, text: &str) -> Result<Said, String> {
        run(&mut self.command(text))
    }

    fn command(&self, text: &str) -> Command {
        let mut cmd = agentwall(&[
            "daemon", "exec", "--policy", "builder", "--", "sh", "-c", text,
        ]);
        cmd.current_dir(self.folder);
        cmd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn write_policy(folder: &Path, more: &str) -> Verdict {
    let at = folder.display();
    let text = format!(
        "agentwall: 1\ndefault: deny\nrules:\n  \
         - {{id: see, priority: 5000, action: [file.read, file.exec, process.exec], resource: '/**', effect: allow}}\n  \
         - {{id: work, action: file.*, resource: '{at}/work/**', effect: allow}}\n  \
         - {{id: secret, action: file.read, resource: '{at}/secret', effect: deny, reason: it is secret}}\n  \
         - {{id: asked, action: file.read, resource: '{at}/asked', effect: ask}}\n{more}"
    );
    fs::write("/etc/agentwall/vm.yaml", text).map_err(say("vm.yaml"))
}

/// Starts the daemon, and waits until it answers.
fn start(folder: &Path, options: &[&str]) -> Result<Child, String> {
    let log = fs::File::create(folder.join("daemon.log")).map_err(say("daemon.log"))?;
    let mut child = agentwall(&["daemon", "run"])
        .args(options)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(say("daemon"))?;
    let read = || fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
    let waited = wait_for("the start of the daemon", || {
        read().contains("is served") || child.try_wait().is_ok_and(|s| s.is_some())
    });
    if waited.is_err() || !read().contains("is served") {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("the daemon does not start: {}", read()));
    }
    Ok(child)
}

fn status() -> Result<(i32, serde_json::Value), String> {
    let said = done(&["daemon", "status", "--json"])?;
    let value = serde_json::from_slice(&said.out).map_err(|e| format!("{e}: {}", said.brief()))?;
    Ok((said.status, value))
}

/// The lines of the daemon's ledger.
fn ledger() -> Result<String, String> {
    let said =
        run(agentwall(&["ledger", "show", "--json"]).env("AGENTWALL_STATE", "/var/lib/agentwall"))?;
    said.ended(0)?;
    Ok(said.out())
}

/// What is denied has no effect, what is allowed beside it goes through, and the status says so.
fn enforces(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "", &[])?;
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
    let entries = ledger()?;
    need(
        entries.contains("\"kernel_wall\"") && entries.contains("it is secret"),
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
    let daemon = Daemon::begin(folder, "", &[])?;
    let rules = format!(
        "  - {{id: vault, priority: 1, action: file.read, resource: '{0}/vault/**', effect: deny}}
  - {{id: rest, priority: 2, action: 'file.*', resource: '{0}/**', effect: allow}}\n",
        folder.display()
    );
    write_policy(folder, &rules)?;
    done(&["daemon", "reload"])?.ended(0)?;
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
    let daemon = Daemon::begin(folder, "", &[])?;
    let rules = |more: &str| {
        format!(
            "  - {{id: vault, priority: 1, action: 'file.*', resource: '{0}/vault/**', effect: deny}}
  - {{id: rest, priority: 3, action: 'file.*', resource: '{0}/**', effect: allow}}\n{more}",
            folder.display()
        )
    };
    write_policy(folder, &rules(""))?;
    done(&["daemon", "reload"])?.ended(0)?;
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

/// One of the programs' counters.
fn counted(name: &str) -> Result<u64, String> {
    let (_, told) = status()?;
    told["counters"][name]
        .as_u64()
        .ok_or_else(|| format!("no counter {name}: {told}"))
}

/// The wall's own files, processes and sockets are out of reach for root, if it is governed.
fn own_files(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "", &[])?;
    write_policy(
        folder,
        "  - {id: all, priority: 1, action: '*', resource: '*', effect: allow}\n",
    )?;
    done(&["daemon", "reload"])?.ended(0)?;
    let pid = daemon.child.id();
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

/// A daemon that is killed takes nothing with it; the next one goes on with what stands.
fn killed(folder: &Path) -> Verdict {
    let mut daemon = Daemon::begin(folder, "", &[])?;
    let waiting = daemon
        .command("while ! test -e go; do sleep 0.2; done; cat secret; cat free; echo out > out; echo in > work/in")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("the session", || {
        status().is_ok_and(|(_, s)| s["sessions"].as_array().is_some_and(|l| l.len() == 1))
    })?;
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
    let said = waiting.wait_with_output().map_err(say("governed"))?;
    need(said.stdout == b"free\n", format!("read {:?}", said.stdout))?;
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
        ledger().is_ok_and(|l| l.lines().any(|e| e.contains("it is secret")))
    })?;
    daemon
        .governed("cat secret || cat free")?
        .says(&["free"])
        .map(drop)
}

/// A bad policy changes nothing; a good one holds for who is governed already.
fn reload(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "", &[])?;
    let mut waiting = daemon
        .command("cat free; touch work/ready; while ! test -e go; do sleep 0.2; done; cat free; cat /etc/hostname > work/h")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
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
    let pid = daemon.child.id();
    sh(folder, &format!("kill -HUP {pid}"))?.ended(0)?;
    wait_for("the reload", || {
        fs::read_to_string(folder.join("daemon.log")).is_ok_and(|l| l.contains("read again"))
    })?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    let ended = waiting.wait().map_err(say("governed"))?;
    need(ended.success(), "the neighbour does not work")?;
    let said = waiting.wait_with_output().map_err(say("governed"))?;
    need(said.stdout == b"free\n", format!("read {:?}", said.stdout))
}

/// A question is asked, and the yes holds for one use of just this.
fn approve(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "", &[])?;
    let mut asking = daemon
        .command("cat asked; touch work/asked; while ! test -e go; do sleep 0.2; done; cat asked; cat asked; cat secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("the question", || pending().is_ok_and(|p| p.is_some()))?;
    wait_for("the first refusal", || daemon.path("work/asked").exists())?;
    let id = pending()?.unwrap_or_default();
    done(&["approve", &id, "--for", "/**"])?.ended(1)?;
    done(&["approve", &id])?.ended(0)?.says(&["approved"])?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    asking.wait().map_err(say("governed"))?;
    let said = asking.wait_with_output().map_err(say("governed"))?;
    need(
        said.stdout == b"asked\n",
        format!("read {:?}", String::from_utf8_lossy(&said.stdout)),
    )?;
    need(
        ledger()?.contains("\"approval\""),
        "no approval in the ledger",
    )
}

/// The first question that waits.
fn pending() -> Result<Option<String>, String> {
    let said = done(&["pending", "--json"])?;
    let asks: serde_json::Value =
        serde_json::from_slice(&said.out).map_err(|e| format!("{e}: {}", said.brief()))?;
    Ok(asks[0]["id"].as_str().map(str::to_owned))
}

/// A process that the configuration means is found and governed; what a person releases stays so.
fn finds(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "", &[])?;
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
    let there = || {
        status().is_ok_and(|(_, s)| {
            s["sessions"]
                .as_array()
                .is_some_and(|l| l.iter().any(|s| s["pid"] == pid))
        })
    };
    wait_for("the finding", there)?;
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
    let _daemon = Daemon::begin(folder, "", &[])?;
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
    let daemon = Daemon::begin(folder, "", &[])?;
    let mut waiting = daemon
        .command("cat secret; touch work/ready; while ! test -e go; do sleep 0.2; done; cat secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("the first refusal", || daemon.path("work/ready").exists())?;
    done(&["daemon", "stop", "--unload"])?.ended(2)?;
    done(&["daemon", "stop", "--unload", "-y"])?.ended(0)?;
    let (code, told) = status()?;
    need(
        code == 1 && told["standing"] == false && told["enforcing"] == false,
        format!("status {code}: {told}"),
    )?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    waiting.wait().map_err(say("governed"))?;
    let said = waiting.wait_with_output().map_err(say("governed"))?;
    need(
        said.stdout == b"secret\n",
        format!("read {:?}", said.stdout),
    )?;
    need(ledger()?.contains("\"removed\""), "no entry of the removal")
}

/// An audit refuses nothing, says so, and records what it would refuse.
fn audit(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "", &["--audit"])?;
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
        ledger().is_ok_and(|l| l.contains("kernel-audit"))
    })
}

/// Events that find no room are a gap in the ledger, and no refusal is lost with them.
fn lost_events(folder: &Path) -> Verdict {
    let daemon = Daemon::begin(folder, "ring_bytes: 4096\n", &[])?;
    let pid = daemon.child.id();
    // Nobody reads while they are made.
    let text = format!(
        "touch work/ready; while ! test -e go; do sleep 0.1; done
        for i in $(seq 200); do read x < secret; done 2> /dev/null; echo ${{x:-nothing}}; echo {pid} > work/pid"
    );
    let governed = daemon
        .command(&text)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("the session", || daemon.path("work/ready").exists())?;
    sh(folder, &format!("kill -STOP {pid}; touch go"))?.ended(0)?;
    let said = governed.wait_with_output().map_err(say("governed"));
    sh(folder, &format!("kill -CONT {pid}"))?.ended(0)?;
    need(
        said?.stdout == b"nothing\n",
        "a refusal was lost with its event",
    )?;
    wait_for("the gap", || {
        ledger().is_ok_and(|l| {
            l.lines()
                .any(|e| e.contains("\"gap\"") && e.contains("\"from\""))
        })
    })?;
    let (_, told) = status()?;
    let lost = told["lost"].as_u64().unwrap_or(0);
    let refused = ledger()?
        .lines()
        .filter(|e| e.contains("it is secret"))
        .count() as u64;
    need(
        lost > 0 && lost + refused >= 200,
        format!("{lost} lost and {refused} recorded of 200"),
    )
}

/// The capabilities that the unit leaves to the daemon are enough: for loading, for finding another user's process,
/// and for taking over what stands.
fn bounded(folder: &Path) -> Verdict {
    let unit = done(&["daemon", "install", "--print"])?.out();
    let named = unit
        .lines()
        .find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
    let names = named
        .unwrap_or_default()
        .to_lowercase()
        .replace("cap_", "+")
        .replace(' ', ",");
    need(names.contains("+bpf") && !names.contains("admin"), &names)?;
    let mut daemon = Daemon::begin(folder, "", &[])?;
    daemon.kill()?;
    done(&["daemon", "stop", "--unload", "-y"])?.ended(0)?;
    let agent = daemon.path("agent-two");
    fs::copy("/bin/dash", &agent).map_err(say("agent-two"))?;
    let text = format!(
        "{} -c 'while ! test -e go; do sleep 0.2; done; cat secret; cat free > work/free'",
        agent.display()
    );
    for round in ["loaded", "taken over"] {
        let binary = std::env::var("AGENTWALL_BIN").map_err(|e| e.to_string())?;
        let log = fs::File::create(folder.join("daemon.log")).map_err(say("daemon.log"))?;
        daemon.child = command("setpriv")
            .args([
                "--bounding-set",
                &format!("-all,{names}"),
                "--no-new-privs",
                &binary,
                "daemon",
                "run",
            ])
            .stderr(log)
            .spawn()
            .map_err(say("setpriv"))?;
        let read = || fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
        wait_for("the start", || {
            read().contains("is served") || daemon.child.try_wait().is_ok_and(|s| s.is_some())
        })?;
        need(
            read().contains("is served"),
            format!("not {round}: {}", read()),
        )?;
        let _ = fs::remove_file(daemon.path("go"));
        let _ = fs::remove_file(daemon.path("work/free"));
        let mut found = command("setpriv")
            .args([
                "--reuid",
                "1000",
                "--regid",
                "1000",
                "--clear-groups",
                "sh",
                "-c",
                &text,
            ])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(say("agent-two"))?;
        wait_for("the finding", || {
            status().is_ok_and(|(_, s)| s["sessions"].as_array().is_some_and(|l| l.len() == 1))
        })?;
        fs::write(daemon.path("go"), "").map_err(say("go"))?;
        found.wait().map_err(say("agent-two"))?;
        need(
            daemon.path("work/free").exists(),
            "the neighbour does not work",
        )?;
        need(
            ledger()?.contains("it is secret"),
            "no refusal in the ledger",
        )?;
        daemon.kill()?;
    }
    Ok(())
}
