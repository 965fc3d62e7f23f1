//! A fault case, and what all of them use: commands with a time limit, sessions in the background,
//! small disks, and the three checks of every refusal.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::{Case, Options, Who, World, case::brief, world::Shared};

/// What a case answers.
pub type Verdict = Result<(), String>;

/// How long one command may take. Nothing here waits for it unless something hangs.
const PATIENCE: Duration = Duration::from_secs(45);

/// One way to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// `theme/what`.
    pub name: &'static str,
    /// What is done and what must come of it.
    pub play: fn(&World) -> Verdict,
    /// Rules before the base policy's.
    pub rules: &'static str,
    /// It mounts: needs root.
    pub mounts: bool,
    /// The host's folders are meant to change (it commits), so they are not compared.
    pub changes_host: bool,
    /// Run as this user only, and why.
    pub only: Option<(Who, &'static str)>,
    /// Known not to hold: why.
    pub open: Option<&'static str>,
    /// Seconds for all of it.
    pub limit: u64,
}

impl Fault {
    /// A case without extras.
    pub const fn new(name: &'static str, play: fn(&World) -> Verdict) -> Self {
        Fault {
            name,
            play,
            rules: "",
            mounts: false,
            changes_host: false,
            only: None,
            open: None,
            limit: 120,
        }
    }

    /// Adds rules.
    pub const fn rules(mut self, rules: &'static str) -> Self {
        self.rules = rules;
        self
    }

    /// It mounts.
    pub const fn mounts(mut self) -> Self {
        self.mounts = true;
        self
    }

    /// It commits.
    pub const fn commits(mut self) -> Self {
        self.changes_host = true;
        self
    }

    /// Only as this user.
    pub const fn only(mut self, who: Who, why: &'static str) -> Self {
        self.only = Some((who, why));
        self
    }
}

/// Runs a case in this process, with what must hold after each.
pub fn play(case: &Fault, who: Who, options: &Options, shared: &Shared) -> Verdict {
    let whole = Case::new(case.name, "issue 2, bad input and failure").rules(case.rules);
    let world = World::new(shared, &whole, who)?;
    VERBOSE.store(options.verbose, std::sync::atomic::Ordering::Relaxed);
    let mut problems: Vec<String> = (case.play)(&world).err().into_iter().collect();
    problems.extend(world.leftovers(Duration::from_secs(3)));
    problems.extend(unwalled(&world).err());
    if !case.changes_host {
        let changed = world.changes().into_iter();
        problems.extend(changed.map(|c| format!("the host changed: {c}")));
    }
    if !options.verbose {
        world.clean();
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("; "))
    }
}

static VERBOSE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// No agent ran without the wall.
pub fn unwalled(w: &World) -> Verdict {
    let marked = ["out/ran", "home/ran"]
        .into_iter()
        .find(|m| w.path(m).exists());
    need(
        marked.is_none(),
        format!("an agent ran without the wall: {marked:?}"),
    )
}

/// What every agent of this suite does first: it says so, and marks the host where the wall lets
/// nobody write.
pub fn agent_text(w: &World, script: &str) -> String {
    format!(
        "echo AGENT-RAN; touch {} {} 2>/dev/null || :\n{}",
        w.path("out/ran").display(),
        w.path("home/ran").display(),
        w.fill(script)
    )
}

/// `Err(why)` unless `ok`.
pub fn need(ok: bool, why: impl Into<String>) -> Verdict {
    if ok { Ok(()) } else { Err(why.into()) }
}

/// What a command said.
#[derive(Debug, Default)]
pub struct Said {
    /// Exit status; 128 + n for a signal.
    pub status: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: Vec<u8>,
}

impl Said {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// Both, for a message.
    pub fn brief(&self) -> String {
        format!(
            "status {}: {}",
            self.status,
            brief(&(self.err() + &self.out()))
        )
    }

    /// The status is this one.
    pub fn ended(&self, status: i32) -> Result<&Said, String> {
        need(
            self.status == status,
            format!("expected status {status}, found {}", self.brief()),
        )
        .map(|()| self)
    }

    /// One of the two streams has each of the texts.
    pub fn says(&self, texts: &[&str]) -> Result<&Said, String> {
        let all = self.err() + &self.out();
        for text in texts {
            need(
                all.contains(text),
                format!("expected '{text}', found {}", self.brief()),
            )?;
        }
        Ok(self)
    }

    /// It failed with this status and one message, which has all of the texts: the problem and the
    /// next step. No agent ran, behind a wall or without.
    pub fn refused(&self, status: i32, texts: &[&str]) -> Result<&Said, String> {
        self.ended(status)?;
        need(
            self.err().starts_with("agentwall: "),
            format!("no message: {}", self.brief()),
        )?;
        for text in texts {
            need(
                self.err().contains(text),
                format!("the message does not say '{text}': {}", self.brief()),
            )?;
        }
        need(!self.err().contains("panicked"), self.brief())?;
        need(
            !self.out().contains("AGENT-RAN"),
            format!("the agent ran: {}", self.brief()),
        )?;
        self.harmless()
    }

    /// Nothing that was said can act on a terminal.
    pub fn harmless(&self) -> Result<&Said, String> {
        for (name, bytes) in [("output", &self.out), ("errors", &self.err)] {
            let bad = |c: char| {
                (c.is_control() && !matches!(c, '\n' | '\t'))
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            let text = String::from_utf8_lossy(bytes);
            need(
                std::str::from_utf8(bytes).is_ok(),
                format!("bytes outside UTF-8 in the {name}: {}", self.brief()),
            )?;
            if let Some(c) = text.chars().find(|c| bad(*c)) {
                return Err(format!("a raw {c:?} in the {name}: {}", self.brief()));
            }
        }
        Ok(self)
    }

    /// Standard output is JSON.
    pub fn json(&self) -> Result<serde_json::Value, String> {
        serde_json::from_slice(&self.out).map_err(|e| format!("not JSON: {e}: {}", self.brief()))
    }
}

/// Runs a command to its end.
pub fn run(cmd: &mut Command) -> Result<Said, String> {
    let shown = format!("{:?}", cmd.get_args().collect::<Vec<_>>());
    let mut child = cmd
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{cmd:?}: {e}"))?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child)
        .ok_or_else(|| format!("{shown} did not end within {} s", PATIENCE.as_secs()))?;
    let said = Said {
        status,
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
    };
    if VERBOSE.load(std::sync::atomic::Ordering::Relaxed) {
        println!("$ {}", shown.chars().take(400).collect::<String>());
        println!(
            "  {}\n  {}\n  => {}",
            said.out().trim_end(),
            said.err().trim_end(),
            status
        );
    }
    Ok(said)
}

fn drain<R: std::io::Read + Send + 'static>(from: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for a child; kills it, and returns `None`, when it takes too long.
pub fn wait(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return Some(
                    status
                        .code()
                        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
                );
            }
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// A command line of the wall on the host, as the case's user, in the workspace.
pub fn wall<S: AsRef<OsStr>>(w: &World, args: impl IntoIterator<Item = S>) -> Command {
    let mut cmd = w.as_user(&w.shared.wall);
    cmd.args(args).stdin(Stdio::null());
    cmd
}

/// Runs a command line of the wall, its arguments separated by spaces.
pub fn say(w: &World, line: &str) -> Result<Said, String> {
    run(&mut wall(w, w.fill(line).split_whitespace()))
}

/// The arguments of a session: the case's policy and workspace, changes kept, a shell as the agent.
pub fn session_args(w: &World, script: &str) -> Vec<OsString> {
    let policy = w.path("policy.yaml");
    let mut args: Vec<OsString> = vec!["run".into(), "--policy".into(), policy.into()];
    args.extend(["--workspace".into(), w.path("work").into_os_string()]);
    args.extend(["--keep", "--", "/bin/sh", "-c"].map(OsString::from));
    args.push(agent_text(w, script).into());
    args
}

/// Runs a session of a script to its end.
pub fn session(w: &World, script: &str) -> Result<Said, String> {
    run(&mut wall(w, session_args(w, script)))
}

/// `run` with other options than the usual, all refused before the agent starts.
pub fn run_with(w: &World, options: &[&str]) -> Command {
    let mut args: Vec<OsString> = vec!["run".into()];
    args.extend(options.iter().map(|o| OsString::from(w.fill(o))));
    args.extend(["--", "/bin/sh", "-c"].map(OsString::from));
    args.push(agent_text(w, "").into());
    wall(w, args)
}

/// A session in the background; killed when dropped.
#[derive(Debug)]
pub struct Running {
    /// The supervisor.
    pub child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Starts one and waits until its agent has said `word`.
    pub fn start(w: &World, name: &str, script: &str, word: &str) -> Result<Running, String> {
        let file = |kind: &str| {
            let path = w.path("run").join(format!("{name}.{kind}"));
            let file = fs::File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok::<_, String>((path, file))
        };
        let ((out, out_file), (err, err_file)) = (file("out")?, file("err")?);
        let child = wall(w, session_args(w, script))
            .stdout(out_file)
            .stderr(err_file)
            .spawn()
            .map_err(|e| format!("the session: {e}"))?;
        let mut running = Running { child, out, err };
        running.until(word)?;
        Ok(running)
    }

    /// Waits until the agent has said `word`.
    pub fn until(&mut self, word: &str) -> Verdict {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.said().0.contains(word) {
                return Ok(());
            }
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let (out, err) = self.said();
        Err(format!(
            "the session never said '{word}': {}",
            brief(&(err + &out))
        ))
    }

    /// What it said so far: output, errors.
    pub fn said(&self) -> (String, String) {
        let text =
            |p: &Path| String::from_utf8_lossy(&fs::read(p).unwrap_or_default()).into_owned();
        (text(&self.out), text(&self.err))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<Said, String> {
        let status = wait(&mut self.child).ok_or("the session did not end")?;
        let (out, err) = self.said();
        Ok(Said {
            status,
            out: out.into_bytes(),
            err: err.into_bytes(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The direct children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |p: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{p}/stat")).ok()?;
        stat.rsplit(')')
            .next()?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|p| parent(*p) == Some(pid))
        .collect()
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) -> Verdict {
    let sent = Command::new("/bin/kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .map_err(|e| format!("kill: {e}"))?;
    need(sent.success(), format!("kill -{name} {pid} failed"))
}

/// Runs a command of the harness itself.
pub fn host(program: &str, args: &[&str]) -> Verdict {
    let out = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    let err = String::from_utf8_lossy(&out.stderr);
    need(
        out.status.success(),
        format!("{program} {args:?}: {}", brief(&err)),
    )
}

/// Mounts an empty file system over a folder of the world, for this case alone; the user owns it.
pub fn mount(w: &World, kind: &str, options: &str, name: &str) -> Verdict {
    let path = w.path(name);
    let at = path.to_string_lossy();
    host("mount", &["-t", kind, "-o", options, "agentwall-test", &at])?;
    w.own(&path);
    host("chmod", &["700", &at])
}

/// Makes a mount of [`mount`] read-only, or writable again.
pub fn remount(w: &World, how: &str, name: &str) -> Verdict {
    let options = format!("remount,{how}");
    host("mount", &["-o", &options, &w.path(name).to_string_lossy()])
}

/// Fills a disk to its last byte with a file, but for `free` bytes.
pub fn fill_disk(file: &Path, free: u64) -> Verdict {
    use std::io::Write as _;
    let mut out = fs::File::create(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let block = [0u8; 4096];
    let mut written = 0;
    while let Ok(n @ 1..) = out.write(&block) {
        written += n as u64;
    }
    out.set_len(written.saturating_sub(free))
        .map_err(|e| format!("{}: {e}", file.display()))
}

/// The ids of all sessions, the newest first.
pub fn ids(w: &World) -> Result<Vec<String>, String> {
    let list = say(w, "sessions --all --json")?.json()?;
    let ids = list.as_array().ok_or("sessions --json is no list")?.iter();
    Ok(ids
        .filter_map(|s| Some(s["id"].as_str()?.to_owned()))
        .collect())
}

/// The ledger verifies.
pub fn ledger_verifies(w: &World) -> Verdict {
    say(w, "ledger verify")?
        .ended(0)?
        .says(&["verified"])
        .map(drop)
}

/// A wall can be built and its changes committed: the next run works.
pub fn next_run_works(w: &World) -> Verdict {
    session(w, "cat {work}/readme.txt")?
        .ended(0)?
        .says(&["AGENT-RAN", "WORKSPACE-OK"])?;
    ledger_verifies(w)
}

/// The paths of a session's changes, lossily as text.
pub fn changed(w: &World, session: &str) -> Result<Vec<String>, String> {
    let diff = say(w, &format!("diff {session} --json"))?;
    let value = diff.ended(0)?.json()?;
    let list = value["changes"]
        .as_array()
        .ok_or("diff --json has no changes")?;
    Ok(list.iter().map(|c| c["path"].to_string()).collect())
}

/// `bytes` as an argument.
pub fn bytes(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
