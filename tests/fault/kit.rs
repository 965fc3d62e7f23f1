//! A fault case, and what all of them use: commands with a time limit, and the checks of every
//! refusal.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
    time::Duration,
};

pub use agentwall_tests::said::{PATIENCE, Said, VERBOSE, Verdict, need, run, wait};
use agentwall_tests::{Case, Options, Who, World, world::Shared};

/// Begins the reason of a case that found out that it cannot be played on this host.
pub const NOT_HERE: &str = "not on this host: ";

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
