//! One table of rules, actions and what must come of them, played behind both walls: `agentwall run`, and with
//! `--daemon` (in the virtual machine) `agentwall daemon exec`.
//!
//! A group of the table is one session. What came of an action is seen in its effect: in what the program got, on the
//! host after the session, or at a server of the host's.

mod table;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::{
    Options, Run,
    case::{Case as Played, brief},
    kit,
    options::{Who, am_root},
    run::{INSIDE, enter_namespaces, prepare, report},
    world::{Shared, World},
};
use table::{Case, Effect, Expected, Group};

/// What every policy of the table needs to start anything, behind its own rules.
const REST: &str = r#"
  - { id: programs, priority: 900, action: process.exec, resource: ["/usr/**", "/bin/**", "/sbin/**"], effect: allow }
  - { id: system, priority: 900, action: [file.read, file.exec], resource: ["/", "/usr/**", "/bin/**", "/sbin/**", "/lib/**", "/lib64/**", "/etc/**", "/proc/**", "/sys/**"], effect: allow }
  - { id: own-proc, priority: 900, action: file.write, resource: "/proc/[0-9]*/**", effect: allow }
  - { id: workspace, priority: 900, action: file.read, resource: "${workspace}/**", effect: allow }
"#;
/// Seconds for a session of a group.
const LIMIT: u64 = 150;
/// The home of who is governed by the daemon: root's own.
const HOME: &str = "/root";

fn main() {
    std::process::exit(suite(&Options::of_this_run()));
}

fn suite(options: &Options) -> i32 {
    let groups = match table::read(include_str!("cases.txt")) {
        Ok(groups) => groups,
        Err(why) => {
            println!("cases.txt: {why}");
            return 2;
        }
    };
    let names = |g: &Group| -> Vec<String> {
        let name = |c: &Case| format!("{}/{}", g.name, c.name);
        g.cases.iter().map(name).collect()
    };
    let attacks = concat!(env!("CARGO_MANIFEST_DIR"), "/escape/attacks");
    if let Some(to) = &options.compile {
        return kit::compile_only(Path::new(attacks), to);
    }
    if options.list {
        let all: Vec<String> = groups.iter().flat_map(names).collect();
        println!("{}\n{} cases", all.join("\n"), all.len());
        return 0;
    }
    if am_root() && std::env::var_os(INSIDE).is_none() {
        return enter_namespaces(!options.daemon);
    }
    let (shared, _servers) = match prepare("parity", Some(Path::new(attacks)), options) {
        Ok(prepared) => prepared,
        Err(why) => {
            println!("the suite cannot start: {why}");
            return 2;
        }
    };
    let daemon = options.daemon.then(|| Daemon::start(&shared)).transpose();
    let begin = Instant::now();
    let mut results = Vec::new();
    // What the daemon governs by a policy's file is root's.
    let users: &[Who] = if options.daemon {
        &[Who::Root]
    } else {
        &options.who
    };
    for who in users {
        for group in &groups {
            let wanted = names(group).iter().any(|n| options.wants(n));
            if !wanted {
                continue;
            }
            let said = match &daemon {
                Ok(_) => play(group, *who, &shared, options),
                Err(why) => Err(why.clone()),
            };
            for case in &group.cases {
                let name = format!("{}/{} [{}]", group.name, case.name, who.as_str());
                let run = match said.as_ref().map(|said| said.get(&case.name)) {
                    Ok(Some(run)) => run.clone(),
                    Ok(None) => Run::Failed("was not played".to_owned()),
                    Err(why) => Run::Failed(why.clone()),
                };
                match &run {
                    Run::Failed(why) => println!("FAIL {name}: {why}"),
                    Run::Skipped(why) => println!("skip({why}) {name}"),
                    _ => println!("ok {name}"),
                }
                results.push((name, run));
            }
        }
    }
    let code = report(&results, begin.elapsed());
    if !options.verbose {
        let _ = std::fs::remove_dir_all(&shared.root);
    }
    code
}

/// The daemon, over the wall that stands or with one that it loads.
struct Daemon(Child);

impl Daemon {
    fn start(shared: &Shared) -> Result<Daemon, String> {
        let child = Command::new(&shared.wall)
            .args(["daemon", "run"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("the daemon: {e}"))?;
        let mut daemon = Daemon(child);
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end {
            let status = Command::new(&shared.wall)
                .args(["daemon", "status"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if status.is_ok_and(|s| s.success()) {
                return Ok(daemon);
            }
            if daemon.0.try_wait().is_ok_and(|s| s.is_some()) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err("the daemon does not serve".to_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.0.wait();
    }
}

/// One session with all cases of a group; what came of each.
fn play(
    group: &Group,
    who: Who,
    shared: &Shared,
    options: &Options,
) -> Result<BTreeMap<String, Run>, String> {
    if group
        .cases
        .iter()
        .any(|c| matches!(c.effect, Effect::Heard(_)))
        && !shared.private_net
    {
        let why = "needs root, for a network namespace with canary addresses";
        let skipped = |c: &Case| (c.name.clone(), Run::Skipped(why.to_owned()));
        return Ok(group.cases.iter().map(skipped).collect());
    }
    let policy = format!(
        "agentwall: 1\ndefault: {}\nrules:\n{}{REST}",
        group.default, group.rules
    );
    let world = Played::new(format!("parity/{}", group.name), "parity").with(|c| {
        c.policy = Some(policy);
        c.victim = true;
    });
    let world = World::new(shared, &world, who)?;
    let home = match options.daemon {
        true => HOME.into(),
        false => world.path("home"),
    };
    let on_host = |text: &str| -> Result<bool, String> {
        world
            .as_user("/bin/sh")
            .args(["-c", &world.fill(text)])
            .env("HOME", &home)
            .env_remove("AGENTWALL_CASE")
            .current_dir(&world.dir)
            .stdin(Stdio::null())
            .status()
            .map(|s| s.success())
            .map_err(|e| format!("sh: {e}"))
    };
    if !on_host(&format!("set -e\n{}", group.before))? {
        return Err("the objects of the group cannot be made".to_owned());
    }
    for case in &group.cases {
        // A check that is true before anything was done would hold whatever comes.
        if let Effect::Host(text) = &case.effect
            && on_host(text)?
        {
            return Err(format!("{}: its effect is there before", case.name));
        }
    }
    let argv = command_line(&world, group, options.daemon);
    let outcome = world.session(&argv, Duration::from_secs(LIMIT))?;
    if options.verbose {
        println!("--- {}\n{}\n{}", group.name, outcome.stdout, outcome.stderr);
    }
    // Servers hear a moment later.
    thread::sleep(Duration::from_millis(200));
    let mut played = BTreeMap::new();
    for (number, case) in group.cases.iter().enumerate() {
        let Some(said) = section(&outcome.stdout, number) else {
            let why = format!(
                "was not done (status {}): {}",
                outcome.status,
                brief(&outcome.all())
            );
            played.insert(case.name.clone(), Run::Failed(why));
            continue;
        };
        let happened = match &case.effect {
            Effect::Said(text) => said.contains(&world.fill(text)),
            Effect::Host(text) => on_host(text)?,
            Effect::Heard(text) => world.heard(&world.fill(text)),
        };
        let expected = if options.daemon {
            &case.daemon
        } else {
            &case.run
        };
        let verdict = match (expected, happened) {
            (Expected::Done, true) | (Expected::Refused, false) => Ok(()),
            (Expected::Done, false) => Err("was not done"),
            (Expected::Refused | Expected::Asked(_), true) => Err("was done"),
            (Expected::Asked(rule), false) => match was_asked(&world, rule, options.daemon) {
                true => Ok(()),
                false => Err("nobody was asked"),
            },
        };
        let run = match verdict {
            Ok(()) => Run::Passed,
            Err(why) => Run::Failed(format!("{why}: it said '{}'", brief(said))),
        };
        played.insert(case.name.clone(), run);
    }
    if !options.verbose {
        world.leftovers(Duration::from_millis(500));
        world.clean();
    }
    Ok(played)
}

/// A mark before each case, its text in a shell of its own.
fn command_line(world: &World, group: &Group, daemon: bool) -> Vec<OsString> {
    let mut script = format!("cd {}\n", world.path("work").display());
    for (number, case) in group.cases.iter().enumerate() {
        let what = world.fill(&case.what);
        script += &format!("echo; echo '@@{number}'\n(\n{what}\n) 2>&1 < /dev/null\n");
    }
    script += "echo; echo @@end\n";
    let wall = world.shared.wall.clone().into_os_string();
    let policy = world.path("policy.yaml").into_os_string();
    let mut argv: Vec<OsString> = match daemon {
        true => vec![
            "env".into(),
            format!("HOME={HOME}").into(),
            wall,
            "daemon".into(),
            "exec".into(),
        ],
        false => vec![
            wall,
            "run".into(),
            "--keep".into(),
            "--ask-timeout".into(),
            "1s".into(),
            "--workspace".into(),
            world.path("work").into(),
        ],
    };
    argv.extend(["--policy".into(), policy, "--".into()]);
    argv.extend(["/bin/sh", "-c", &script].map(OsString::from));
    argv
}

/// What was said between the mark of a case and the next one.
fn section(text: &str, number: usize) -> Option<&str> {
    let mark = format!("\n@@{number}\n");
    let from = text.find(&mark)? + mark.len();
    let rest = &text[from..];
    Some(&rest[..rest.find("\n@@")?])
}

/// Whether the ledger has it that a rule asked, about something of this world.
fn was_asked(world: &World, rule: &str, daemon: bool) -> bool {
    let (rule, folder) = (
        format!("\"rule\":\"{rule}\""),
        world.dir.display().to_string(),
    );
    let state = match daemon {
        true => "/var/lib/agentwall".into(),
        false => world.path("state"),
    };
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let shown = world
            .as_user(&world.shared.wall)
            .args(["ledger", "show", "--json"])
            .env("AGENTWALL_STATE", &state)
            .output();
        let text = shown.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        let has = |l: &str| l.contains(&rule) && l.contains(&folder) && l.contains("\"ask\"");
        if text.unwrap_or_default().lines().any(has) {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
