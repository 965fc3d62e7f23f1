//! The suite of the monitor: the daemon on a kernel where no wall can stand. It says *audit only* and why, what it
//! tells of is what happened, and nothing is refused.
//!
//! Each case runs as root in a process and a mount namespace of its own, with folders of its own at `/run`,
//! `/var/lib` and `/sys/fs/bpf`, so that it is beside whatever the machine has. Where a wall stands, or where programs
//! may not be loaded at all, cases are skipped with the reason: `tests/vm` has the wall.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use agentwall_tests::{
    Options, Run,
    options::am_root,
    run::report,
    said::{Said, Verdict, need, run},
};

type Play = fn(&Daemon) -> Verdict;

const CASES: &[(&str, Play)] = &[
    ("monitor/says-what-it-is", says_what_it_is),
    (
        "monitor/tells-and-refuses-nothing",
        tells_and_refuses_nothing,
    ),
    ("monitor/nobody-is-asked", nobody_is_asked),
    ("monitor/required-enforcement", required_enforcement),
    ("monitor/reload", reload),
    ("monitor/release", release),
    ("monitor/killed", killed),
    ("monitor/lost-events", lost_events),
    ("monitor/stop", stop),
];

/// The case that this process is to play, and its folder.
const CASE: &str = "AGENTWALL_MONITOR_CASE";
const FOLDER: &str = "AGENTWALL_MONITOR_FOLDER";
/// How long something may take that happens by itself; nothing waits for it unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let options = Options::of_this_run();
    std::process::exit(match std::env::var(CASE) {
        Ok(case) => one(&case),
        Err(_) => suite(&options),
    });
}

fn suite(options: &Options) -> i32 {
    let wanted = CASES.iter().filter(|(name, _)| options.wants(name));
    if options.list {
        let names: Vec<&str> = wanted.map(|(name, _)| *name).collect();
        println!("{}\n{} cases", names.join("\n"), names.len());
        return 0;
    }
    let begin = Instant::now();
    let skip = why_not(options);
    let mut results = Vec::new();
    for (name, _) in wanted {
        let run = match &skip {
            Some(why) => Run::Skipped(why.clone()),
            None => apart(name, options),
        };
        match &run {
            Run::Failed(why) => println!("FAIL {name}: {why}"),
            Run::Skipped(why) => println!("skip({why}) {name}"),
            _ => println!("ok {name}"),
        }
        results.push(((*name).to_owned(), run));
    }
    report(&results, begin.elapsed())
}

/// What `doctor` found, by trying.
fn why_not(options: &Options) -> Option<String> {
    if !am_root() {
        return Some("needs root".into());
    }
    let said = run(Command::new(&options.binary).args(["doctor", "--json"])).ok()?;
    let found = said.json().ok()?;
    let of = |what: &str| {
        let all = found["findings"].as_array()?;
        all.iter().find(|f| f["what"] == what).cloned()
    };
    if of("kernel wall").is_some_and(|f| f["ok"] == true) {
        return Some("the kernel wall stands here".into());
    }
    // A kernel that permits no programs at all is no failure of the monitor.
    let monitor = of("monitor")?["found"].as_str()?.to_owned();
    (monitor.contains("not permitted")).then_some(monitor)
}

/// Plays a case in a process and a mount namespace of its own.
fn apart(name: &str, options: &Options) -> Run {
    let folder = PathBuf::from(format!("/var/tmp/agentwall-monitor-{}", std::process::id()));
    let played = fs::create_dir(&folder)
        .map_err(|e| format!("{}: {e}", folder.display()))
        .and_then(|()| {
            let me = std::env::current_exe().map_err(|e| e.to_string())?;
            Command::new("unshare")
                .args(["--mount", "--propagation", "private"])
                .arg(me)
                .env(CASE, name)
                .env(FOLDER, &folder)
                .env("AGENTWALL_BIN", &options.binary)
                .stdin(Stdio::null())
                .output()
                .map_err(|e| e.to_string())
        });
    let _ = fs::remove_dir_all(&folder);
    match played {
        Ok(out) if out.status.success() => Run::Passed,
        Ok(out) => Run::Failed(String::from_utf8_lossy(&out.stderr).replace('\n', " ")),
        Err(why) => Run::Failed(why),
    }
}

fn one(case: &str) -> i32 {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap_or_default());
    let played = CASES
        .iter()
        .find(|(name, _)| *name == case)
        .ok_or_else(|| "no such case".to_owned())
        .and_then(|(_, play)| {
            let mut daemon = Daemon::begin(&folder)?;
            let verdict = play(&daemon).map_err(|why| format!("{why}; {}", daemon.log()));
            daemon.end();
            verdict
        });
    match played {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("{why}");
            1
        }
    }
}

/// A daemon that looks on, and a folder with a secret.
struct Daemon {
    folder: PathBuf,
    child: std::sync::Mutex<Child>,
}

fn agentwall(args: &[&str]) -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let binary = BINARY.get_or_init(|| Options::of_this_run().binary);
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null());
    command
}

fn done(args: &[&str]) -> Result<Said, String> {
    run(&mut agentwall(args))
}

fn say(what: &str) -> impl Fn(std::io::Error) -> String {
    move |e| format!("{what}: {e}")
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Verdict {
    let begin = Instant::now();
    while !is_so() {
        need(begin.elapsed() < PATIENCE, format!("{what} did not happen"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

impl Daemon {
    fn begin(folder: &Path) -> Result<Daemon, String> {
        for (kind, at) in [
            ("tmpfs", "/run"),
            ("tmpfs", "/var/lib"),
            ("tmpfs", "/etc/agentwall"),
            ("bpf", "/sys/fs/bpf"),
        ] {
            // The folder of the configuration need not be there; it is made on a layer of our own.
            if !Path::new(at).exists() {
                run(Command::new("mount")
                    .args(["-t", "overlay", "overlay", "-o"])
                    .arg(format!(
                        "lowerdir=/etc,upperdir={0}/upper,workdir={0}/work-layer",
                        make_layers(folder)?.display()
                    ))
                    .arg("/etc"))?
                .ended(0)?;
                fs::create_dir_all(at).map_err(say(at))?;
            }
            run(Command::new("mount").args(["-t", kind, kind, at]))?.ended(0)?;
        }
        fs::create_dir(folder.join("work")).map_err(say("work"))?;
        for name in ["secret", "asked"] {
            fs::write(folder.join(name), format!("{name}\n")).map_err(say(name))?;
        }
        write_policy(folder, "")?;
        fs::write(
            "/etc/agentwall/daemon.yaml",
            "agentwall-daemon: 1\nring_bytes: 4096\ngovern:\n  - {name: builder, policy: \
             /etc/agentwall/policy.yaml}\n",
        )
        .map_err(say("daemon.yaml"))?;
        Ok(Daemon {
            folder: folder.to_owned(),
            child: start(folder)?.into(),
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default()
    }

    fn pid(&self) -> String {
        let child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        child.id().to_string()
    }

    /// Nobody is told: the process is gone.
    fn kill(&self) -> Verdict {
        let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
        child.kill().map_err(say("kill"))?;
        child.wait().map(drop).map_err(say("wait"))
    }

    fn again(&self) -> Verdict {
        let fresh = start(&self.folder)?;
        *self.child.lock().unwrap_or_else(|e| e.into_inner()) = fresh;
        Ok(())
    }

    fn end(&mut self) {
        let _ = done(&["daemon", "stop", "--unload", "-y"]);
        let _ = self.kill();
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn command(&self, text: &str) -> Command {
        let mut command = agentwall(&[
            "daemon", "exec", "--policy", "builder", "--", "sh", "-c", text,
        ]);
        command.current_dir(&self.folder);
        command
    }

    /// A shell text, governed.
    fn governed(&self, text: &str) -> Result<Said, String> {
        run(&mut self.command(text))
    }

    /// Entries of the ledger that have all of the words.
    fn entries(&self, words: &[&str]) -> Result<usize, String> {
        let said =
            run(agentwall(&["ledger", "show", "--json"])
                .env("AGENTWALL_STATE", "/var/lib/agentwall"))?;
        said.ended(0)?;
        let has = |line: &&str| words.iter().all(|word| line.contains(word));
        Ok(said.out().lines().filter(has).count())
    }

    fn wait_for_entry(&self, words: &[&str]) -> Verdict {
        let mut count = Ok(0);
        wait_for(&format!("an entry with {words:?}"), || {
            count = self.entries(words);
            !matches!(count, Ok(0))
        })?;
        count.map(drop)
    }
}

/// Folders for a layer over `/etc`, outside of what is watched.
fn make_layers(folder: &Path) -> Result<PathBuf, String> {
    let at = folder.with_extension("layers");
    run(Command::new("mkdir").arg("-p").arg(&at))?.ended(0)?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&at))?
    .ended(0)?;
    for name in ["upper", "work-layer"] {
        fs::create_dir(at.join(name)).map_err(say(name))?;
    }
    Ok(at)
}

fn start(folder: &Path) -> Result<Child, String> {
    let log = fs::File::create(folder.join("daemon.log")).map_err(say("daemon.log"))?;
    let mut child = agentwall(&["daemon", "run"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(say("daemon"))?;
    let read = || fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
    wait_for("the start of the daemon", || {
        read().contains("audit only") || child.try_wait().is_ok_and(|s| s.is_some())
    })?;
    need(
        read().contains("audit only"),
        format!("the daemon does not start: {}", read()),
    )?;
    Ok(child)
}

fn write_policy(folder: &Path, more: &str) -> Verdict {
    let at = folder.display();
    let text = format!(
        "agentwall: 1\ndefault: deny\nrules:\n  \
         - {{id: see, priority: 5000, action: [file.read, file.exec, process.exec, device.open], resource: '/**', effect: allow}}\n  \
         - {{id: work, priority: 90, action: 'file.*', resource: '{at}/work/**', effect: allow}}\n  \
         - {{id: ask, priority: 90, action: file.read, resource: '{at}/asked', effect: ask}}\n  \
         - {{id: own, action: 'file.*', resource: '{at}/**', effect: deny, reason: it is secret}}\n{more}"
    );
    fs::write("/etc/agentwall/policy.yaml", text).map_err(say("policy.yaml"))
}

fn says_what_it_is(daemon: &Daemon) -> Verdict {
    let log = daemon.log();
    need(
        log.contains("nothing is refused") && log.contains("cannot stand here"),
        &*log,
    )?;
    let said = done(&["daemon", "status", "--json"])?;
    said.ended(0)?;
    let told = said.json()?;
    let why = told["no_wall"].as_str().unwrap_or_default();
    need(
        told["audit"] == true && told["enforcing"] == false && log.contains(why) && !why.is_empty(),
        format!("{told}"),
    )?;
    done(&["daemon", "status"])?.ended(0)?.says(&[
        "audit only: nothing is refused",
        why,
        "seen",
    ])?;
    need(
        !done(&["daemon", "status"])?.out().contains("enforcing"),
        "it claims to enforce",
    )?;
    done(&["doctor"])?.says(&["kernel wall", why, "canaries seen", "refuses nothing"])?;
    daemon.wait_for_entry(&["kernel_wall", "\"monitor\"", why])?;
    let mut sleeper = daemon
        .command("echo > work/up; exec sleep 1000")
        .spawn()
        .map_err(say("sleeper"))?;
    let listed = wait_for("the session", || {
        Path::new(&daemon.path("work/up")).exists()
    })
    .and_then(|()| done(&["agents", "show", &sleeper.id().to_string()]))
    .and_then(|said| said.says(&["monitor, audit only"]).map(drop));
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    listed
}

fn tells_and_refuses_nothing(daemon: &Daemon) -> Verdict {
    // Somebody whom nobody governs is not told of.
    run(Command::new("cat").arg(daemon.path("secret")))?.ended(0)?;
    let said = daemon.governed(
        "cat secret; echo x > new; mv new newer; rm newer; mkdir d; rmdir d; echo y > work/free; rm work/free; \
         (setsid sh -c 'sh -c \"cat secret\"')",
    )?;
    need(
        said.status == 0 && said.out() == "secret\nsecret\n",
        said.brief(),
    )?;
    need(!Path::new(&daemon.path("newer")).exists(), "rm did nothing")?;
    for (verb, name) in [
        ("file.read", "secret"),
        ("file.create", "new"),
        ("file.rename", "new"),
        ("file.create", "newer"),
        ("file.delete", "newer"),
        ("file.create", "d"),
        ("file.delete", "d"),
    ] {
        let path = format!("\"{}\"", daemon.path(name));
        daemon.wait_for_entry(&[verb, &path, "\"deny\"", "\"monitor\"", "it is secret"])?;
    }
    // Twice by the session, never by the other.
    let secret = format!("\"{}\"", daemon.path("secret"));
    let count = daemon.entries(&["file.read", &secret])?;
    need(count == 2, format!("{count} readings are told, not 2"))?;
    // The allowed neighbour has no entry of its own; it is counted when the daemon ends at the latest.
    need(
        daemon.entries(&[&daemon.path("work/free")])? == 0,
        "what is allowed is told one by one",
    )?;
    done(&["daemon", "stop"])?.ended(0)?;
    daemon.wait_for_entry(&["tally", "file.delete"])
}

fn nobody_is_asked(daemon: &Daemon) -> Verdict {
    let said = daemon.governed("cat asked")?;
    need(said.out() == "asked\n", said.brief())?;
    daemon.wait_for_entry(&["\"ask\"", &daemon.path("asked"), "\"monitor\""])?;
    done(&["pending"])?.says(&["no questions"]).map(drop)
}

fn required_enforcement(daemon: &Daemon) -> Verdict {
    let text = fs::read_to_string("/etc/agentwall/policy.yaml").map_err(say("policy"))?;
    let text = text.replace(
        "default: deny",
        "require: {enforcement: race}\ndefault: deny",
    );
    fs::write("/etc/agentwall/policy.yaml", text).map_err(say("policy"))?;
    let said = daemon.governed("echo > work/ran")?;
    said.refused(125, &["requires enforcement", "nothing was started"])?;
    need(!Path::new(&daemon.path("work/ran")).exists(), "it ran")?;
    // Its neighbour without the requirement is taken.
    write_policy(&daemon.folder, "")?;
    daemon.governed("echo > work/ran")?.ended(0)?;
    need(
        Path::new(&daemon.path("work/ran")).exists(),
        "it did not run",
    )
}

fn reload(daemon: &Daemon) -> Verdict {
    let mut child = daemon
        .command("cat secret; echo > work/one; while ! test -e work/go; do sleep 0.05; done; cat secret; cat asked")
        .stdout(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("the first half", || {
        Path::new(&daemon.path("work/one")).exists()
    })?;
    write_policy(
        &daemon.folder,
        &format!(
            "  - {{id: now, priority: 1, action: file.read, resource: '{}', effect: allow}}\n",
            daemon.path("secret")
        ),
    )?;
    done(&["daemon", "reload"])?.ended(0)?.says(&["1 of 1"])?;
    fs::write(daemon.path("work/go"), "").map_err(say("go"))?;
    child.wait().map_err(say("governed"))?;
    daemon.wait_for_entry(&["file.read", &daemon.path("asked")])?;
    let count = daemon.entries(&["file.read", &daemon.path("secret")])?;
    need(count == 1, format!("{count} readings were refused, not 1"))
}

fn release(daemon: &Daemon) -> Verdict {
    let mut child = daemon
        .command("echo > work/up; while ! test -e work/go; do sleep 0.05; done; cat secret")
        .stdout(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("its start", || Path::new(&daemon.path("work/up")).exists())?;
    done(&["daemon", "release", &child.id().to_string()])?.ended(0)?;
    fs::write(daemon.path("work/go"), "").map_err(say("go"))?;
    child.wait().map_err(say("governed"))?;
    // Another session is told of afterwards, this one was not.
    daemon.governed("cat asked")?.ended(0)?;
    daemon.wait_for_entry(&["file.read", &daemon.path("asked")])?;
    let count = daemon.entries(&["file.read", &daemon.path("secret")])?;
    need(count == 0, "it was told of after its release")
}

fn killed(daemon: &Daemon) -> Verdict {
    let mut child = daemon
        .command("echo > work/up; while ! test -e work/go; do sleep 0.05; done; cat secret; exec sleep 1000")
        .stdout(Stdio::null())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("its start", || Path::new(&daemon.path("work/up")).exists())?;
    daemon.kill()?;
    let said = done(&["daemon", "status"])?;
    said.ended(1)?
        .says(&["audit only", "not running", "events wait"])?;
    fs::write(daemon.path("work/go"), "").map_err(say("go"))?;
    daemon.again()?;
    let told = daemon.wait_for_entry(&["file.read", &daemon.path("secret"), "\"monitor\""]);
    let opened = daemon.wait_for_entry(&["kernel_wall", "\"opened\""]);
    let _ = child.kill();
    let _ = child.wait();
    told.and(opened)
}

fn lost_events(daemon: &Daemon) -> Verdict {
    let text = "echo > work/up; while ! test -e work/go; do sleep 0.05; done; \
                for i in $(seq 200); do read x < secret; done; echo $x";
    let child = daemon
        .command(text)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(say("governed"))?;
    wait_for("its start", || Path::new(&daemon.path("work/up")).exists())?;
    // Nobody reads while they are made.
    run(Command::new("kill").args(["-STOP", &daemon.pid()]))?.ended(0)?;
    fs::write(daemon.path("work/go"), "").map_err(say("go"))?;
    let out = child.wait_with_output().map_err(say("governed"));
    run(Command::new("kill").args(["-CONT", &daemon.pid()]))?.ended(0)?;
    need(out?.stdout == b"secret\n", "something was refused")?;
    daemon.wait_for_entry(&["\"gap\"", "\"from\""])?;
    let lost = done(&["daemon", "status", "--json"])?.json()?["lost"]
        .as_u64()
        .unwrap_or(0);
    let told = daemon.entries(&["file.read", &daemon.path("secret")])? as u64;
    need(
        lost > 0 && lost + told >= 200,
        format!("{lost} lost and {told} told of 200"),
    )
}

fn stop(daemon: &Daemon) -> Verdict {
    let pinned = || Path::new("/sys/fs/bpf/agentwall").exists();
    done(&["daemon", "stop"])?
        .ended(0)?
        .says(&["monitor stays"])?;
    need(pinned(), "the monitor is gone with its daemon")?;
    daemon.again()?;
    done(&["daemon", "stop", "--unload", "-y"])?.ended(0)?;
    need(!pinned(), "the monitor is still there")?;
    daemon.wait_for_entry(&["kernel_wall", "\"removed\"", "\"monitor\""])?;
    // Nothing is governed without it.
    daemon.governed("true")?.ended(125).map(drop)
}
