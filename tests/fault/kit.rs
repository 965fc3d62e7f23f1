//! A fault case, and what all of them use: commands with a time limit, and the checks of every
//! refusal.

use std::{
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::{Case, Options, Who, World, case::brief, world::Shared};

/// What a case answers.
pub type Verdict = Result<(), String>;

/// Begins the reason of a case that found out that it cannot be played on this host.
pub const NOT_HERE: &str = "not on this host: ";

/// How long one command may take. Nothing here waits for it unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// One way to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// `theme/what`.
    pub name: &'static str,
    /// What is done and what must come of it.
    pub play: fn(&World) -> Verdict,
    /// Rules before the base policy's.
    pub rules: &'static str,
    /// It mounts, or gives files away: needs root.
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
