//! The runner: prepares the host, runs every case as every user, reports.

use std::{
    collections::VecDeque,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    case::{Case, Check, Native, Outcome, Run, brief},
    kernel::Kernel,
    kit,
    options::{Options, USER, Who, am_root},
    servers::{Log, Servers},
    world::{Shared, World},
};

/// Marks that the suite is already in its own namespaces.
pub const INSIDE: &str = "AGENTWALL_TEST_NAMESPACE";
/// Addresses of every internal range, and two public ones, on `lo` of the suite's namespace.
pub const ADDRESSES: &[&str] = &[
    "1.2.3.4/32",
    "1.2.3.5/32",
    "10.0.0.1/32",
    "172.16.0.1/32",
    "192.168.0.1/32",
    "100.64.0.1/32",
    "100.100.100.200/32",
    "169.254.169.254/32",
    "169.254.170.2/32",
    "198.18.0.1/32",
    "192.0.0.192/32",
    "240.0.0.1/32",
    "2606:4700::1111/128",
    "fd00::1/128",
    "fd00:ec2::254/128",
    "fec0::1/128",
    "64:ff9b::a00:1/128",
    "64:ff9b:1::a00:1/128",
    "2002:a00:1::1/128",
    "2001:0:0:1::f5ff:fffe/128",
    "::10.0.0.1/128",
    "fe80::1234/64",
];

/// Runs a suite; the exit code.
pub fn main_for(suite: &str, attacks: Option<&Path>, cases: impl Fn() -> Vec<Case>) -> i32 {
    let options = Options::of_this_run();
    let all: Vec<Case> = cases()
        .into_iter()
        .filter(|c| options.wants(&c.name))
        .collect();
    if let (Some(to), Some(attacks)) = (&options.compile, attacks) {
        return kit::compile_only(attacks, to);
    }
    if options.list {
        for c in &all {
            println!("{}  ({})", c.name, c.source);
        }
        println!("{} cases", all.len());
        return 0;
    }
    if !options.no_wall && options.kernel.is_none() && !options.binary.is_file() {
        println!(
            "{} does not exist: build it with `cargo build --release`, or set AGENTWALL_BIN",
            options.binary.display()
        );
        return 2;
    }
    if am_root() && std::env::var_os(INSIDE).is_none() {
        return enter_namespaces(options.kernel.is_none());
    }
    match prepare(suite, attacks, &options) {
        Ok((shared, _servers)) => {
            let code = run_all(&all, &options, &shared);
            if !options.verbose {
                let _ = fs::remove_dir_all(&shared.root);
            }
            code
        }
        Err(why) => {
            println!("the suite cannot start: {why}");
            2
        }
    }
}

/// Starts the suite again in a network namespace of its own, and a mount namespace where that is no part of
/// what is tested: names in the kernel's wall are those of the host's mounts.
pub fn enter_namespaces(own_mounts: bool) -> i32 {
    let mut set_up = String::from(
        "set -e; ip link set lo up; sysctl -qw net.ipv4.ping_group_range='0 2147483647'\n",
    );
    for a in ADDRESSES {
        let nodad = if a.contains(':') { " nodad" } else { "" };
        set_up += &format!("ip addr add {a} dev lo{nodad} || true\n");
    }
    let resolv = std::env::temp_dir().join(format!("agentwall-resolv-{}", std::process::id()));
    if !own_mounts {
        // What an earlier suite left: the file below it is gone.
        set_up += "umount -q /etc/resolv.conf || true\n";
    }
    set_up += &format!(
        "echo 'nameserver 127.0.0.1' > {0}; mount --bind {0} /etc/resolv.conf; rm {0}\n",
        resolv.display()
    );
    set_up += "exec \"$@\"\n";
    let exe = std::env::current_exe().unwrap_or_default();
    let mounts: &[&str] = if own_mounts {
        &["--mount", "--propagation", "private"]
    } else {
        &[]
    };
    let err = Command::new("unshare")
        .args(mounts)
        .args(["--net", "sh", "-c", &set_up, "sh"])
        .arg(exe)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    println!("the suite cannot start: unshare: {err}");
    2
}

/// The ordinary user's ids; makes the user when it is missing.
pub fn ordinary_user() -> Result<Option<(u32, u32)>, String> {
    if !am_root() {
        return Ok(None);
    }
    let find = || {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = passwd
            .lines()
            .find(|l| l.starts_with(&format!("{USER}:")))?
            .to_owned();
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    if find().is_none() {
        let made = Command::new("useradd")
            .args(["--create-home", "--shell", "/bin/bash", USER])
            .status();
        made.map_err(|e| format!("useradd: {e}"))?;
    }
    find()
        .map(Some)
        .ok_or_else(|| format!("the user {USER} could not be made"))
}

/// Makes the folder, compiles the attack programs, starts the shared servers.
pub fn prepare(
    suite: &str,
    attacks: Option<&Path>,
    options: &Options,
) -> Result<(Shared, Servers), String> {
    let root = PathBuf::from(format!("/var/tmp/agentwall-{suite}-{}", std::process::id()));
    let say = |e: std::io::Error| format!("{}: {e}", root.display());
    fs::create_dir_all(&root).map_err(say)?;
    fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).map_err(say)?;
    let (bin, kit_dir) = (root.join("bin"), root.join("kit"));
    fs::create_dir_all(&bin).map_err(say)?;
    match (attacks, &options.kit) {
        (None, _) => {}
        (Some(_), Some(made)) => kit::copy(made, &kit_dir)?,
        (Some(attacks), None) => kit::compile(attacks, &kit_dir)?,
    }
    let wall = bin.join("agentwall");
    if options.binary.is_file() {
        fs::copy(&options.binary, &wall).map_err(say)?;
        fs::set_permissions(&wall, PermissionsExt::from_mode(0o755)).map_err(say)?;
    }
    let log = Log::default();
    let servers = Servers::new(&log);
    let private_net = std::env::var_os(INSIDE).is_some();
    if private_net {
        for port in [80, 443, 8080] {
            servers.tcp(port).map_err(|e| format!("port {port}: {e}"))?;
        }
        servers.udp(443).map_err(|e| format!("port 443: {e}"))?;
        servers.dns().map_err(|e| format!("port 53: {e}"))?;
    }
    let kernel = options.kernel.as_deref().map(Kernel::stand).transpose()?;
    let shared = Shared {
        kernel,
        root,
        kit: kit_dir,
        wall,
        log,
        user: ordinary_user()?,
        private_net,
    };
    Ok((shared, servers))
}

fn run_all(cases: &[Case], options: &Options, shared: &Shared) -> i32 {
    let begin = Instant::now();
    let mut jobs: VecDeque<(&Case, Who)> = VecDeque::new();
    for case in cases {
        jobs.extend(options.who.iter().map(|w| (case, *w)));
    }
    let jobs = Mutex::new(jobs);
    let results: Mutex<Vec<(String, Run)>> = Mutex::default();
    thread::scope(|s| {
        for _ in 0..options.jobs {
            s.spawn(|| {
                loop {
                    let next = jobs
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some((case, who)) = next else { break };
                    let run = catch_unwind(AssertUnwindSafe(|| one(case, who, options, shared)))
                        .unwrap_or_else(|_| Run::Failed("the harness itself panicked".into()));
                    let name = format!("{} [{}]", case.name, who.as_str());
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    match &run {
                        Run::Passed => println!("ok {name}"),
                        Run::Failed(why) => println!("FAIL {name}: {why}"),
                        Run::Skipped(why) => println!("skip({why}) {name}"),
                        Run::Open(why) => println!("open({why}) {name}"),
                    }
                    results.push((name, run));
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(&results, begin.elapsed())
}

/// Prints what is open, what failed, and the closing line; the exit code.
pub fn report(results: &[(String, Run)], took: Duration) -> i32 {
    let count = |f: fn(&Run) -> bool| results.iter().filter(|(_, r)| f(r)).count();
    let open: Vec<_> = results
        .iter()
        .filter(|(_, r)| matches!(r, Run::Open(_)))
        .collect();
    println!();
    if open.is_empty() {
        println!("Not closed: nothing that these cases show.");
    } else {
        println!("Not closed:");
        for (name, run) in open {
            if let Run::Open(why) = run {
                println!("  {name}: {why}");
            }
        }
    }
    let failed = count(|r| matches!(r, Run::Failed(_)));
    if failed > 0 {
        println!("Failed:");
        for (name, run) in results {
            if let Run::Failed(why) = run {
                println!("  {name}: {why}");
            }
        }
    }
    println!("{:.1} s", took.as_secs_f64());
    let (passed, skipped) = (
        count(|r| *r == Run::Passed),
        count(|r| matches!(r, Run::Skipped(_))),
    );
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    i32::from(failed > 0)
}

fn one(case: &Case, who: Who, options: &Options, shared: &Shared) -> Run {
    if let Some((only, why)) = case.only.filter(|(only, _)| *only != who) {
        return Run::Skipped(format!("{} only: {why}", only.as_str()));
    }
    if case.net && !shared.private_net {
        return Run::Skipped("needs root, for a network namespace with canary addresses".into());
    }
    if let Some(why) = case.not_in_kernel.filter(|_| options.kernel.is_some()) {
        return Run::Skipped(format!("not in the kernel's wall: {why}"));
    }
    if options.no_wall {
        return without_wall(case, who, options, shared);
    }
    let verdict = with_wall(case, who, options, shared);
    match (case.open, verdict) {
        (Some(why), Err(_)) => Run::Open(why.to_owned()),
        (Some(_), Ok(())) => Run::Passed,
        (None, Ok(())) => Run::Passed,
        (None, Err(why)) => Run::Failed(why),
    }
}

fn with_wall(case: &Case, who: Who, options: &Options, shared: &Shared) -> Result<(), String> {
    let world = World::new(shared, case, who)?;
    let script = world.script_of(case, true, true);
    let argv = world.session_argv(case, &script, true);
    let mut problems = Vec::new();
    let outcome = thread::scope(|s| {
        let beside = case.beside.map(|actor| {
            let world = &world;
            s.spawn(move || actor(world))
        });
        let outcome = world.session(&argv, Duration::from_secs(case.limit));
        match beside.map(thread::ScopedJoinHandle::join) {
            Some(Ok(Err(why))) => problems.push(why),
            Some(Err(_)) => problems.push("the actor on the host panicked".into()),
            None | Some(Ok(Ok(()))) => {}
        }
        outcome
    })?;
    show(case, &outcome, options);
    if outcome.timed_out {
        problems.push(format!("the session did not end within {} s", case.limit));
    }
    if !case.may_die && (!outcome.attack.ran || outcome.attack.status.is_none()) {
        problems.push(format!(
            "the attack did not run to its end (status {}): {}",
            outcome.status,
            brief(&outcome.all())
        ));
    }
    problems.extend(
        judge(&world, &outcome, &case.blocked, true)
            .into_iter()
            .map(|p| format!("not blocked: {p}")),
    );
    problems.extend(universal(&world, case));
    let after = judge(&world, &outcome, &case.allowed, false);
    problems.extend(after.into_iter().map(|p| format!("neighbour: {p}")));
    if let Some(after) = case.after
        && let Err(why) = after(&world, &outcome)
    {
        problems.push(why);
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

/// What must hold after every session with the wall.
fn universal(world: &World, case: &Case) -> Vec<String> {
    let mut out = world.leftovers(Duration::from_secs(3));
    if !case.changes_host {
        out.extend(
            world
                .changes()
                .into_iter()
                .map(|c| format!("the host changed: {c}")),
        );
    }
    if !world.victim_alive() {
        out.push("the process outside is dead".into());
    }
    out
}

fn judge(world: &World, outcome: &Outcome, checks: &[Check], attack: bool) -> Vec<String> {
    let part = if attack {
        &outcome.attack
    } else {
        &outcome.neighbour
    };
    checks
        .iter()
        .filter_map(|c| c.judge(world, outcome, part).err())
        .collect()
}

/// The attack alone must have its effect, and the neighbour alone must work.
fn without_wall(case: &Case, who: Who, options: &Options, shared: &Shared) -> Run {
    match case.native {
        Native::Works | Native::Maybe(_) => {}
        Native::RootOnly(_) if who == Who::Root => {}
        Native::RootOnly(why) | Native::Cannot(why) => {
            return Run::Skipped(format!("cannot work natively: {why}"));
        }
        Native::Unsafe(why) => return Run::Skipped(format!("not tried natively: {why}")),
    }
    let maybe = match case.native {
        Native::Maybe(why) => Some(why),
        _ => None,
    };
    let play = |attack: bool| -> Result<Vec<String>, String> {
        let world = World::new(shared, case, who)?;
        let script = world.script_of(case, attack, !attack);
        let outcome = world.session(
            &world.session_argv(case, &script, false),
            Duration::from_secs(case.limit),
        )?;
        show(case, &outcome, options);
        let checks = if attack { &case.blocked } else { &case.allowed };
        let mut found = judge(&world, &outcome, checks, attack);
        if attack {
            let patience = Duration::from_millis(100);
            found.extend(world.leftovers(patience));
            found.extend(world.changes());
            if !world.victim_alive() {
                found.push("victim dead".into());
            }
        } else {
            world.leftovers(Duration::ZERO);
        }
        if !options.verbose {
            world.clean();
        }
        if attack && found.is_empty() {
            return Err(format!(
                "the attack has no effect even without the wall: {}",
                brief(&outcome.all())
            ));
        }
        Ok(found)
    };
    match play(true) {
        Err(found) => match maybe {
            Some(why) => Run::Skipped(format!("has no effect natively on this host: {why}")),
            None => Run::Failed(found),
        },
        Ok(_) if case.neighbour.contains("{wall}") => Run::Passed,
        Ok(_) => match play(false) {
            Ok(found) if found.is_empty() => Run::Passed,
            Ok(found) => Run::Failed(format!("neighbour without the wall: {}", found.join("; "))),
            Err(why) => Run::Failed(why),
        },
    }
}

fn show(case: &Case, outcome: &Outcome, options: &Options) {
    if options.verbose {
        let indent = |t: &str| t.lines().map(|l| format!("    {l}\n")).collect::<String>();
        println!(
            "--- {} (status {})\n{}{}",
            case.name,
            outcome.status,
            indent(&outcome.stdout),
            indent(&outcome.stderr)
        );
    }
}

/// Kept for cases that start programs of their own.
pub fn silent(cmd: &mut Command) -> &mut Command {
    cmd.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}
