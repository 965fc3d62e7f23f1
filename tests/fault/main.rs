//! The fault suite: bad input and failure. What must hold in each case: a clear error with its next
//! step, nothing lost, and never an agent that runs without the wall.
//!
//! Run it with `cargo test -p agentwall-tests --test fault -- --help`. Each case is a process of
//! its own in a mount namespace of its own (as root), so that it may fill disks, mount read-only
//! trees and close its own descriptors beside the others.

mod apply;
mod commit;
mod disk;
mod host;
mod killed;
mod kit;
mod ledger;
mod mounts;
mod names;
mod outage;
mod policy;
mod reflink;
mod sessions;
mod shown;
mod start;
mod state;
mod tools;

use std::{
    collections::VecDeque,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::{
    Options, Run, Who,
    options::am_root,
    run::{ordinary_user, prepare, report},
    servers::Log,
    world::Shared,
};
use kit::Fault;

/// The case that this process is to run: `user name`, and the suite's folder.
const CASE: &str = "AGENTWALL_FAULT_CASE";
const ROOT: &str = "AGENTWALL_FAULT_ROOT";
/// Begins the line with a case's verdict.
const VERDICT: &str = "@@verdict ";

fn cases() -> Vec<Fault> {
    let mut all = policy::cases();
    all.extend(state::cases());
    all.extend(disk::cases());
    all.extend(host::cases());
    all.extend(killed::cases());
    all.extend(sessions::cases());
    all.extend(mounts::cases());
    all.extend(names::cases());
    all.extend(shown::cases());
    all.extend(ledger::cases());
    all.extend(outage::cases());
    all.extend(start::cases());
    all.extend(apply::cases());
    all.extend(commit::cases());
    all.extend(reflink::cases());
    all
}

fn main() {
    let options = Options::of_this_run();
    std::process::exit(match std::env::var(CASE) {
        Ok(case) => one(&case, &options),
        Err(_) => suite(&options),
    });
}

fn suite(options: &Options) -> i32 {
    let all: Vec<Fault> = cases()
        .into_iter()
        .filter(|c| options.wants(c.name))
        .collect();
    if options.list {
        for case in &all {
            println!("{}", case.name);
        }
        println!("{} cases", all.len());
        return 0;
    }
    if !options.no_wall && !options.binary.is_file() {
        println!(
            "{} does not exist: build it with `cargo build --release`, or set AGENTWALL_BIN",
            options.binary.display()
        );
        return 2;
    }
    let (shared, _servers) = match prepare("fault", None, options) {
        Ok(s) => s,
        Err(why) => {
            println!("the suite cannot start: {why}");
            return 2;
        }
    };
    let begin = Instant::now();
    let jobs: VecDeque<(&Fault, Who)> = all
        .iter()
        .flat_map(|c| options.who.iter().map(move |w| (c, *w)))
        .collect();
    let (jobs, results) = (Mutex::new(jobs), Mutex::<Vec<(String, Run)>>::default());
    thread::scope(|s| {
        for _ in 0..options.jobs {
            s.spawn(|| {
                loop {
                    let next = jobs.lock().ok().and_then(|mut j| j.pop_front());
                    let Some((case, who)) = next else { break };
                    let run = apart(case, who, options, &shared.root);
                    let name = format!("{} [{}]", case.name, who.as_str());
                    match &run {
                        Run::Passed => println!("ok {name}"),
                        Run::Failed(why) => println!("FAIL {name}: {why}"),
                        Run::Skipped(why) => println!("skip({why}) {name}"),
                        Run::Open(why) => println!("open({why}) {name}"),
                    }
                    if let Ok(mut results) = results.lock() {
                        results.push((name, run));
                    }
                }
            });
        }
    });
    let code = report(&results.into_inner().unwrap_or_default(), begin.elapsed());
    if !options.verbose {
        let _ = Command::new("/bin/rm")
            .arg("-rf")
            .arg(&shared.root)
            .status();
    }
    code
}

/// Why a case is not run here.
fn skipped(case: &Fault, who: Who, options: &Options) -> Option<String> {
    if options.no_wall {
        return Some("it is about the wall's own failures".into());
    }
    if let Some((only, why)) = case.only.filter(|(only, _)| *only != who) {
        return Some(format!("{} only: {why}", only.as_str()));
    }
    (case.mounts && !am_root()).then(|| "needs root, to mount or to give files away".into())
}

/// Runs one case in a process and a mount namespace of its own.
fn apart(case: &Fault, who: Who, options: &Options, root: &Path) -> Run {
    if let Some(why) = skipped(case, who, options) {
        return Run::Skipped(why);
    }
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(e) => return Run::Failed(format!("the suite's own file: {e}")),
    };
    let mut cmd = Command::new(if am_root() {
        Path::new("unshare")
    } else {
        &exe
    });
    if am_root() {
        cmd.args(["--mount", "--propagation", "private"]).arg(&exe);
    }
    cmd.args(options.verbose.then_some("--verbose"))
        .env(CASE, format!("{} {}", who.as_str(), case.name))
        .env(ROOT, root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = match cmd.spawn() {
        Ok(child) => child,
        Err(e) => return Run::Failed(format!("cannot start the case: {e}")),
    };
    let mut out = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = out.as_mut().map(|o| o.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let end = Instant::now() + Duration::from_secs(case.limit);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
    }
    let in_time = !matches!(child.try_wait(), Ok(None));
    let _ = child.kill();
    let _ = child.wait();
    if !in_time {
        return Run::Failed(format!("the case did not end within {} s", case.limit));
    }
    let text = reader.join().unwrap_or_default();
    let verdict = text.lines().rev().find_map(|l| l.strip_prefix(VERDICT));
    for line in text.lines().filter(|l| !l.starts_with(VERDICT)) {
        println!("    {line}");
    }
    match verdict.and_then(|v| v.split_once(' ')) {
        Some(("pass", _)) => Run::Passed,
        Some(("skip", why)) => Run::Skipped(why.into()),
        Some(("fail", why)) => match case.open {
            Some(known) => Run::Open(format!("{known}; {why}")),
            None => Run::Failed(why.into()),
        },
        _ => Run::Failed("the case ended without a verdict".into()),
    }
}

/// This process is one case.
fn one(case: &str, options: &Options) -> i32 {
    let verdict = play(case, options).map_or_else(
        |why| {
            let why = why.replace('\n', " ");
            match why.strip_prefix(kit::NOT_HERE) {
                Some(why) => format!("skip {why}"),
                None => format!("fail {why}"),
            }
        },
        |()| "pass .".to_owned(),
    );
    println!("{VERDICT}{verdict}");
    0
}

fn play(case: &str, options: &Options) -> Result<(), String> {
    let (who, name) = case.split_once(' ').ok_or("no case was named")?;
    let who = if who == "root" { Who::Root } else { Who::User };
    let root = PathBuf::from(std::env::var_os(ROOT).ok_or("no folder was named")?);
    let all = cases();
    let case = all
        .iter()
        .find(|c| c.name == name)
        .ok_or("there is no such case")?;
    let shared = Shared {
        kernel: None,
        kit: root.join("kit"),
        wall: root.join("bin/agentwall"),
        root,
        log: Log::default(),
        user: ordinary_user()?,
        private_net: false,
    };
    kit::play(case, who, options, &shared)
}
