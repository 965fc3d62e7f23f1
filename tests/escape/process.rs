//! Processes outside, privileged system calls, keyrings, terminals, and what must die with the session.

use agentwall_tests::{
    Case,
    Check::{self, NoEffect, NoSecret, Succeeds},
    Native, Outcome, World,
    case::says,
};

/// All cases of this theme.
pub fn cases() -> Vec<Case> {
    let mut all = victims();
    all.extend(privileged());
    all.extend(ends());
    all.extend(terminals_and_keys());
    all
}

fn victims() -> Vec<Case> {
    let case = |name: &str, attack: &str, own: &str| {
        Case::new(
            format!("process/outside/{name}"),
            "peers: pidfd_getfd, process_vm_readv, signals out of the session",
        )
        .attack(format!("{{kit}}/proc {attack}"), [NoSecret, NoEffect])
        .neighbour(format!("{{kit}}/proc {own}"), [says(format!("done {own}"))])
        .with(|c| c.victim = true)
    };
    vec![
        case("kill", "kill {victim}", "self-kill"),
        case("tgkill", "tgkill {victim}", "self-kill"),
        case("queue", "queue {victim}", "self-kill"),
        case("pidfd-kill", "pidfd-kill {victim}", "self-kill"),
        case("pidfd-getfd", "pidfd-getfd {victim}", "self-kill"),
        case("ptrace", "ptrace {victim}", "self-trace"),
        case("read-memory", "vm-read {victim} {addr}", "self-read"),
        case("write-memory", "vm-write {victim} {addr}", "self-read"),
        case("proc-mem", "proc-mem {victim} {addr}", "self-read"),
        case("renice", "nice {victim}", "self-kill"),
        case("limit", "limit {victim}", "self-limit"),
        case("environment", "environ", "self-kill")
            .with(|c| { c.setup = Some(secret_environment); c.victim = false }),
        Case::new("process/outside/kill-all", "kill -9 -1")
            .attack("{kit}/proc kill-all", [])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .native(Native::Unsafe("it would end every process of the user"))
            .with(|c| { c.victim = true; c.neighbour_first = true; c.may_die = true }),
        Case::new("process/outside/kill-every-number", "kill by guessing process ids")
            .attack("{kit}/proc kill-all-high", [])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .native(Native::Unsafe("it would end every process of the user"))
            .with(|c| { c.victim = true; c.neighbour_first = true; c.may_die = true }),
        Case::new("process/outside/kill-init-of-session", "killing process 1 inside must not loosen anything")
            .attack("kill -9 1; kill -TERM 1; kill -STOP 1; {kit}/proc kill 1; {kit}/reader open {key}", [NoSecret])
            .neighbour("{kit}/proc self-kill; {kit}/reader open {work}/readme.txt", [says("done self-kill"), says("WORKSPACE-OK")])
            .native(Native::Unsafe("it would end the host's init"))
            .with(|c| { c.may_die = true; c.neighbour_first = true }),
        Case::new("process/outside/see", "the process list of the host")
            .attack("ls /proc | grep -x {victim}; cat /proc/{victim}/cmdline /proc/{victim}/comm 2>/dev/null; ps ax -o pid,args | grep '[p]roc victim'", [Check::Silent("victim".into())])
            .neighbour("ls /proc/self/status", [Succeeds])
            .with(|c| c.victim = true),
        Case::new("process/impersonate", "leash: rules that trust prctl(PR_SET_NAME)")
            .attack("for n in agentwall apt-get dpkg sshd systemd update; do {kit}/proc named $n {kit}/reader open {key}; {kit}/proc named $n {kit}/writer write {out}/canary.txt; done", [NoSecret])
            .neighbour("{kit}/proc named agentwall {kit}/reader open {work}/readme.txt", [says("WORKSPACE-OK")]),
    ]
}

/// A process outside with a secret in its environment.
fn secret_environment(w: &World) -> Result<(), String> {
    let mut cmd = w.as_user("/bin/sleep");
    cmd.arg("45")
        .env("TOKEN_OF_THE_HOST", &w.secret)
        .env_remove("AGENTWALL_CASE")
        .env_remove("AGENTWALL_STATE");
    agentwall_tests::run::silent(&mut cmd)
        .spawn()
        .map(drop)
        .map_err(|e| e.to_string())
}

fn privileged() -> Vec<Case> {
    let admin = Native::RootOnly("needs a capability of the host");
    let list: &[(&str, &str, Native)] = &[
        ("core-pattern", "{kit}/priv core-pattern", admin),
        ("sysctl", "{kit}/priv sysctl", admin),
        (
            "sysfs",
            "{kit}/priv uevent-helper",
            Native::Maybe("which settings /sys has"),
        ),
        (
            "sysrq",
            "{kit}/priv open-write /proc/sysrq-trigger",
            Native::Cannot("this kernel has no SysRq"),
        ),
        (
            "kernel-log",
            "{kit}/priv open-write /dev/kmsg; {kit}/priv syslog",
            admin,
        ),
        (
            "module",
            "{kit}/priv module; {kit}/priv module-fd; {kit}/priv module-del",
            Native::Maybe("whether the kernel has modules"),
        ),
        ("bpf-program", "{kit}/priv bpf-prog", admin),
        ("bpf-map", "{kit}/priv bpf-map", admin),
        ("perf", "{kit}/priv perf", admin),
        ("userfaultfd", "{kit}/priv userfaultfd", admin),
        (
            "kexec",
            "{kit}/priv kexec; {kit}/priv kexec-file",
            Native::Cannot("this kernel has no kexec"),
        ),
        ("reboot", "{kit}/priv reboot", admin),
        ("swap", "{kit}/priv swapon; {kit}/priv swapoff", admin),
        ("clock", "{kit}/priv clock", admin),
        (
            "ports",
            "{kit}/priv ioperm; {kit}/priv iopl",
            Native::Maybe("whether the kernel has port permissions"),
        ),
        ("accounting", "{kit}/priv acct", admin),
        (
            "quota",
            "{kit}/priv quota",
            Native::Cannot("this kernel has no quotas"),
        ),
        (
            "mount-namespace",
            "{kit}/priv setns; nsenter -t 1 -m true && echo EFFECT",
            admin,
        ),
        ("capabilities", "{kit}/priv caps", Native::Works),
        ("new-privileges", "{kit}/priv nnp", Native::Works),
        (
            "set-user-id-program",
            "su root -c 'echo EFFECT' </dev/null; [ -e /usr/bin/passwd ] && unshare -r true; cat /etc/shadow | head -1 | sed 's/^root/EFFECT root/'",
            Native::RootOnly("/etc/shadow belongs to the superuser"),
        ),
        (
            "block-devices",
            "for d in /dev/vda /dev/sda /dev/loop0 /dev/loop-control /dev/mapper/control; do {kit}/priv open-write $d; done",
            admin,
        ),
    ];
    let mut all: Vec<Case> = list
        .iter()
        .map(|(name, attack, native)| {
            Case::new(
                format!("process/privileged/{name}"),
                "container escape lists (SandboxEscapeBench, OpenShell)",
            )
            .attack(*attack, [NoEffect])
            .neighbour(
                "cat /proc/sys/kernel/ostype; {kit}/proc self-kill",
                [says("Linux"), says("done self-kill")],
            )
            .native(*native)
        })
        .collect();
    all.push(
        Case::new("process/privileged/in-new-user-namespace", "capabilities regained in a namespace of one's own")
            .attack(
                "for r in core-pattern sysctl module bpf-prog reboot swapon clock ioperm syslog; do unshare -Urmpf {kit}/priv $r; done; unshare -Urm mount -t tmpfs x {out} && echo mounted; unshare -Urm {kit}/writer write {out}/canary.txt; unshare -Urm {kit}/reader open {key}",
                [NoEffect, NoSecret],
            )
            .neighbour("{kit}/writer write {work}/readme.txt", [says("done write")]),
    );
    all.push(
        Case::new("process/privileged/host-name", "the host's name")
            .attack(
                "{kit}/priv hostname; unshare -Uru {kit}/priv hostname; hostname agentwall-evil",
                [Check::Host(host_name)],
            )
            .neighbour("hostname || cat /proc/sys/kernel/hostname", [Succeeds])
            .native(Native::Unsafe("it would rename the host")),
    );
    all.push(
        Case::new("process/privileged/control-group", "control group migration out of the session")
            .attack("{kit}/proc cgroup; mkdir /sys/fs/cgroup/evil && echo EFFECT; unshare -UrmC {kit}/proc cgroup", [NoEffect])
            .neighbour("cat /proc/self/cgroup && {kit}/proc self-kill", [says("done self-kill")])
            .native(admin),
    );
    all
}

fn host_name(_: &World, _: &Outcome) -> Result<(), String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.contains("agentwall-evil") {
        Err("the host was renamed".into())
    } else {
        Ok(())
    }
}

fn ends() -> Vec<Case> {
    vec![
        Case::new("process/ends/daemon", "double-fork daemon that outlives the session")
            .attack("{kit}/proc daemon {out}/x {token}", [])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")]),
        Case::new("process/ends/nohup", "shell tricks that outlive the session")
            .attack("nohup setsid sleep 60 >/dev/null 2>&1 & (setsid sh -c 'trap \"\" HUP TERM; sleep 60' >/dev/null 2>&1 &); sleep 0.2; echo started", [])
            .neighbour("sleep 0.01 & wait; echo waited", [says("waited")]),
        Case::new("process/ends/swarm", "fork generations that all try to stay")
            .attack("{kit}/proc swarm {token}", [])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")]),
        Case::new("process/ends/stopped", "stopped processes do not notice signals")
            .attack("sh -c 'trap \"\" HUP TERM; kill -STOP $$; sleep 60' >/dev/null 2>&1 & sh -c 'trap \"\" HUP TERM; sleep 60' >/dev/null 2>&1 & sleep 0.2; echo started", [])
            .neighbour("sleep 0.01 & wait $!; echo waited", [says("waited")]),
        Case::new("process/ends/own-namespace", "a process in a pid namespace of its own")
            .attack("(setsid unshare -Urpf sh -c 'trap \"\" TERM HUP; sleep 60' >/dev/null 2>&1 &); sleep 0.3; echo started", [])
            .neighbour("sleep 0.01 & wait; echo waited", [says("waited")]),
        Case::new("process/ends/supervisor-killed", "the parent's death kills everything")
            .attack("setsid {kit}/proc daemon {out}/x {token}; sleep 0.1; echo attack-started; sleep 30", [])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .native(Native::Cannot("there is no supervisor without the wall"))
            .with(|c| { c.neighbour_first = true; c.may_die = true; c.beside = Some(kill_supervisor); c.limit = 20 }),
        Case::new("process/ends/supervisor-terminated", "the supervisor ends politely")
            .attack("setsid {kit}/proc daemon {out}/x {token}; (trap '' TERM; sleep 30)", [])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .native(Native::Cannot("there is no supervisor without the wall"))
            .with(|c| { c.neighbour_first = true; c.may_die = true; c.beside = Some(terminate_supervisor); c.limit = 20 }),
    ]
}

fn signal_supervisor(w: &World, signal: &str) -> Result<(), String> {
    let pid = || w.running.load(std::sync::atomic::Ordering::SeqCst);
    // The session is under way when a process with the daemon's command line exists.
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        if w.survivors().iter().any(|p| {
            std::fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|c| c.trim() == "proc")
        }) {
            break;
        }
    }
    if pid() == 0 {
        return Err("the session ended before it could be killed".into());
    }
    let mut kill = std::process::Command::new("/bin/kill");
    kill.args([signal, &pid().to_string()]);
    agentwall_tests::run::silent(&mut kill)
        .status()
        .map(drop)
        .map_err(|e| e.to_string())
}

fn kill_supervisor(w: &World) -> Result<(), String> {
    signal_supervisor(w, "-KILL")
}

fn terminate_supervisor(w: &World) -> Result<(), String> {
    signal_supervisor(w, "-TERM")
}

fn terminals_and_keys() -> Vec<Case> {
    vec![
        Case::new("process/keyring/read", "session and user keyrings of the person")
            .attack("{kit}/proc key-read agentwall-{token}", [NoSecret])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .with(|c| { c.wrapper = "{bin}/with-key {key} {kit}/proc agentwall-{token}".into(); c.setup = Some(with_key); c.after = Some(drop_key) }),
        Case::new("process/keyring/write", "add_key into the person's keyring")
            .attack("{kit}/proc key-poison agentwall-{token}", [Check::Host(key_clean)])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")]),
        // A terminal of the person: what is typed into it must not come from the agent.
        Case::new("process/terminal/type", "TIOCSTI: typing into the person's terminal")
            .attack("{kit}/proc tiocsti", [Check::Host(nothing_typed)])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .with(|c| { c.wrapper = "{bin}/on-terminal".into(); c.setup = Some(on_terminal) }),
        Case::new("process/terminal/selection", "TIOCLINUX: pasting into a console")
            .attack("{kit}/proc tioclinux", [NoEffect])
            .neighbour("{kit}/proc self-kill", [says("done self-kill")])
            .native(Native::Cannot("needs a virtual console")),
        Case::new("process/terminal/others", "terminals of other programs")
            .attack("for t in /dev/pts/[0-9]* /dev/tty[0-9]* /dev/ttyS0 /dev/console; do {kit}/proc tty-steal $t; done", [NoEffect])
            .neighbour("echo x > /dev/null && {kit}/proc self-kill", [says("done self-kill")])
            .native(Native::RootOnly("terminals belong to the superuser")),
    ]
}

/// Installs an executable script beside the wall, once.
fn install(w: &World, name: &str, text: &str) -> Result<(), String> {
    let path = w.shared.root.join("bin").join(name);
    let err = |e: std::io::Error| format!("{}: {e}", path.display());
    if !path.exists() {
        let draft = path.with_extension(&w.token);
        std::fs::write(&draft, text).map_err(err)?;
        std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(err)?;
        std::fs::rename(&draft, &path).map_err(err)?;
    }
    Ok(())
}

fn with_key(w: &World) -> Result<(), String> {
    install(
        w,
        "with-key",
        "#!/bin/sh\nsecret=$(cat \"$1\"); proc=$2; name=$3; shift 3\nexec \"$proc\" key-keep \"$name\" \"$secret\" \"$@\"\n",
    )
}

fn drop_key(w: &World, _: &Outcome) -> Result<(), String> {
    let mut cmd = w.as_user(w.shared.kit.join("proc"));
    cmd.args(["key-drop", &format!("agentwall-{}", w.token)]);
    agentwall_tests::run::silent(&mut cmd)
        .status()
        .map(drop)
        .map_err(|e| e.to_string())
}

fn key_clean(w: &World, _: &Outcome) -> Result<(), String> {
    let mut cmd = w.as_user(w.shared.kit.join("proc"));
    let out = cmd
        .args(["key-read", &format!("agentwall-{}", w.token)])
        .output()
        .map_err(|e| e.to_string())?;
    drop_key(w, &Outcome::default())?;
    if String::from_utf8_lossy(&out.stdout).contains("POISON") {
        return Err("a key was put into the person's keyring".into());
    }
    Ok(())
}

/// Runs its arguments on a fresh terminal, then reads what was typed into that terminal.
fn on_terminal(w: &World) -> Result<(), String> {
    install(
        w,
        "on-terminal",
        "#!/usr/bin/python3\nimport os, pty, select, sys, termios, tty\n\
         pid, fd = pty.fork()\n\
         if pid == 0:\n\
         \x20   child = os.spawnvp(os.P_WAIT, sys.argv[1], sys.argv[1:])\n\
         \x20   tty.setraw(0, termios.TCSANOW)\n\
         \x20   if select.select([0], [], [], 0.5)[0]:\n\
         \x20       print('TYPED', os.read(0, 100), flush=True)\n\
         \x20   os._exit(0)\n\
         while True:\n\
         \x20   try: data = os.read(fd, 4096)\n\
         \x20   except OSError: break\n\
         \x20   if not data: break\n\
         \x20   sys.stdout.buffer.write(data.replace(b'\\r\\n', b'\\n')); sys.stdout.flush()\n",
    )
}

fn nothing_typed(_: &World, o: &Outcome) -> Result<(), String> {
    if o.all().contains("TYPED") {
        Err("something was typed into the person's terminal".into())
    } else {
        Ok(())
    }
}
