//! The everyday suite: ordinary tools give behind the wall, and after a commit, what they give outside.
//!
//! Every task is a shell script. It runs twice as the same user in the same folder: once with
//! `run` meaning "just do it", once with `run` meaning `agentwall run … --keep --` and a commit. What it says,
//! its status, and the tree it leaves must be the same.

mod semisolates;
mod tasks;

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use agentwall_tests::{
    Case, Options, Run, Who, World,
    case::brief,
    run::{prepare, report},
    tree::{Depth, Tree},
    world::Shared,
};
use tasks::Task;

/// Everything the tools need; the network stays open, the workspace is a copy.
const POLICY: &str = r#"agentwall: 1
default: deny
rules:
  - { id: network, priority: 10, action: [net.connect, net.send, net.listen, dns.resolve, ipc.connect], effect: allow }
  - { id: own-processes, priority: 10, action: [process.exec, process.signal, process.trace], effect: allow }
  - { id: commit, priority: 20, action: file.commit, resource: "${workspace}/**", effect: allow }
  - { id: commit-executed, priority: 10, action: file.commit, resource: "label:host-executed", effect: allow }
  - { id: copies, priority: 30, action: "file.*", resource: ["${workspace}/**", "{home}/**", "/tmp/**", "/dev/shm/**"], effect: isolate }
  - { id: devices, priority: 40, action: [file.read, file.write, device.open], resource: ["/dev", "/dev/{null,zero,full,random,urandom,tty,ptmx}", "/dev/pts/**"], effect: allow }
  - { id: own-proc, priority: 40, action: file.write, resource: "/proc/[0-9]*/**", effect: allow }
  - { id: readable, priority: 50, action: [file.read, file.exec], effect: allow }
"#;

fn main() {
    std::process::exit(suite());
}

fn suite() -> i32 {
    let options = Options::of_this_run();
    let tasks: Vec<Task> = tasks::all()
        .into_iter()
        .chain(semisolates::all())
        .filter(|t| options.wants(t.name))
        .collect();
    if options.list {
        for t in &tasks {
            println!("{}", t.name);
        }
        println!("{} tasks", tasks.len());
        return 0;
    }
    if !options.no_wall && !options.binary.is_file() {
        println!(
            "{} does not exist: build it with `cargo build --release`, or set AGENTWALL_BIN",
            options.binary.display()
        );
        return 2;
    }
    let (shared, _servers) = match prepare("everyday", None, &options) {
        Ok(s) => s,
        Err(why) => {
            println!("the suite cannot start: {why}");
            return 2;
        }
    };
    let rust = rust_toolchain(&shared);
    let begin = Instant::now();
    let jobs: Mutex<VecDeque<(&Task, Who)>> = Mutex::new(
        tasks
            .iter()
            .flat_map(|t| options.who.iter().map(move |w| (t, *w)))
            .collect(),
    );
    let results: Mutex<Vec<(String, Run)>> = Mutex::default();
    std::thread::scope(|s| {
        for _ in 0..options.jobs {
            s.spawn(|| {
                loop {
                    let next = jobs.lock().ok().and_then(|mut j| j.pop_front());
                    let Some((task, who)) = next else { break };
                    let run = one(task, who, &options, &shared, rust.as_deref());
                    let name = format!("everyday/{} [{}]", task.name, who.as_str());
                    match &run {
                        Run::Passed => println!("ok {name}"),
                        Run::Failed(why) => println!("FAIL {name}: {why}"),
                        Run::Open(why) => println!("open({why}) {name}"),
                        Run::Skipped(why) => println!("skip({why}) {name}"),
                    }
                    if let Ok(mut r) = results.lock() {
                        r.push((name, run));
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

/// A toolchain that every user may read: hard links to the one in use. `None` when there is none.
fn rust_toolchain(shared: &Shared) -> Option<PathBuf> {
    let out = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = String::from_utf8(out.stdout).ok()?;
    let to = shared.root.join("rust");
    let copied = ["-al", "-a"].iter().any(|how| {
        let _ = fs::remove_dir_all(&to);
        Command::new("cp")
            .arg(how)
            .arg(sysroot.trim())
            .arg(&to)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    let _ = fs::set_permissions(&to, PermissionsExt::from_mode(0o755));
    copied.then_some(to)
}

/// What one play of a script left.
struct Play {
    said: String,
    status: i32,
    tree: Tree,
}

fn one(
    task: &Task,
    who: Who,
    options: &Options,
    shared: &Shared,
    rust: Option<&std::path::Path>,
) -> Run {
    if let Some(missing) = task.needs.iter().find(|n| **n != "cargo" && !installed(n)) {
        return Run::Skipped(format!("{missing} is not installed"));
    }
    if task.needs.contains(&"cargo") && rust.is_none() {
        return Run::Skipped("cargo is not installed".into());
    }
    match compare(task, who, options, shared, rust) {
        Ok(None) => Run::Passed,
        Ok(Some(why)) => Run::Skipped(why),
        Err(why) => task
            .open
            .map_or(Run::Failed(why), |known| Run::Open(known.to_owned())),
    }
}

fn installed(program: &str) -> bool {
    ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"]
        .iter()
        .any(|d| std::path::Path::new(d).join(program).exists())
}

/// `Ok(Some(why))` when the task cannot work outside either.
fn compare(
    task: &Task,
    who: Who,
    options: &Options,
    shared: &Shared,
    rust: Option<&std::path::Path>,
) -> Result<Option<String>, String> {
    let mut case = Case::new(task.name, "everyday");
    case.policy = Some(POLICY.to_owned());
    let world = World::new(shared, &case, who)?;
    let play = |wall: bool| -> Result<Play, String> {
        for dir in ["work", "home", "out"] {
            let _ = Command::new("/bin/rm")
                .arg("-rf")
                .arg(world.path(dir))
                .status();
            fs::create_dir_all(world.path(dir)).map_err(|e| e.to_string())?;
            world.own(&world.path(dir));
        }
        let script = format!(
            "{}\n{}",
            prelude(&world, wall, rust),
            world.fill(task.script)
        );
        world.script("task.sh", &script);
        let argv = ["/bin/bash".into(), world.path("task.sh").into_os_string()];
        let outcome = world.session(&argv, Duration::from_secs(task.limit))?;
        if options.verbose {
            println!(
                "--- {} ({})\n{}{}",
                task.name,
                if wall { "inside" } else { "outside" },
                outcome.stdout,
                outcome.stderr
            );
        }
        if outcome.timed_out {
            return Err(format!(
                "did not end within {} s; said: {}",
                task.limit,
                brief(&outcome.all())
            ));
        }
        let mut tree = Tree::of(&world.path("work"), Depth::Content);
        tree.0
            .retain(|p, _| !task.ignore.iter().any(|i| p.to_string_lossy().contains(i)));
        if outcome.stderr.contains("agentwall: cannot") {
            return Err(format!("the wall complained: {}", brief(&outcome.stderr)));
        }
        Ok(Play {
            said: normal(&outcome.stdout),
            status: outcome.status,
            tree,
        })
    };
    let outside = play(false)?;
    if !outside.said.contains("task-done") {
        let what = format!("does not work outside either: {}", brief(&outside.said));
        return if task.network {
            Ok(Some(what))
        } else {
            Err(what)
        };
    }
    // Without the wall the second play is outside too: two plays outside must not differ.
    let inside = play(!options.no_wall)?;
    let mut problems = world.leftovers(Duration::from_secs(3));
    if inside.status != outside.status {
        problems.push(format!(
            "status {} outside, {} inside",
            outside.status, inside.status
        ));
    }
    if inside.said != outside.said {
        problems.push(format!(
            "said {}",
            first_difference(&outside.said, &inside.said)
        ));
    }
    problems.extend(
        outside
            .tree
            .diff(&inside.tree)
            .into_iter()
            .take(6)
            .map(|d| format!("tree: {d}")),
    );
    if !options.verbose {
        world.clean();
    }
    if problems.is_empty() {
        Ok(None)
    } else {
        Err(problems.join("; "))
    }
}

/// What a task's script may use: `run CMD …`, `run_and_commit CMD …`, and settings that make results repeatable.
fn prelude(world: &World, wall: bool, rust: Option<&std::path::Path>) -> String {
    let run = if wall {
        // Kept first, then committed: the status of the command comes through.
        world.fill(
            "run() { '{wall}' run --policy '{policy}' --workspace '{work}' --keep -- \"$@\"; local s=$?; \
             '{wall}' commit >&2 </dev/null; return $s; }
             run_and_commit() { '{wall}' run --policy '{policy}' --workspace '{work}' --commit -- \"$@\"; }",
        )
    } else {
        "run() { \"$@\"; }; run_and_commit() { \"$@\"; }".to_owned()
    };
    let rust = rust.map_or_else(String::new, |r| {
        format!("export PATH={}/bin:$PATH\n", r.display())
    });
    format!(
        "umask 022\ncd '{}'\nexport GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org \
         GIT_AUTHOR_DATE='2024-01-02T03:04:05Z' GIT_COMMITTER_DATE='2024-01-02T03:04:05Z' GIT_CONFIG_NOSYSTEM=1 PYTHONDONTWRITEBYTECODE=1 \
         npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false PIP_DISABLE_PIP_VERSION_CHECK=1 CARGO_TERM_COLOR=never SOURCE_DATE_EPOCH=1\n{rust}{run}\n\
         in_wall() {{ run /bin/bash -e -c \"$1\"; }}\n",
        world.path("work").display(),
    )
}

/// Removes what differs between any two runs: durations, process ids, temporary names.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() {
            let mut number = String::from(c);
            while let Some(n) = chars.next_if(|n| n.is_ascii_digit() || *n == '.') {
                number.push(n);
            }
            // "0.52s", "889ms": a number with a unit of time.
            let unit: String = chars.clone().take(2).collect();
            let timed = unit.starts_with('s') || unit == "ms" || unit == " s";
            if timed && unit == "ms" {
                chars.next();
            }
            out += if timed || number.contains('.') && unit.starts_with("s") {
                "N"
            } else {
                &number
            };
        } else {
            out.push(c);
        }
    }
    out
}

fn first_difference(a: &str, b: &str) -> String {
    let pair = a.lines().zip(b.lines()).find(|(x, y)| x != y);
    match pair {
        Some((x, y)) => format!("'{}' outside, '{}' inside", brief(x), brief(y)),
        None => format!(
            "{} lines outside, {} inside: '{}'",
            a.lines().count(),
            b.lines().count(),
            brief(b)
        ),
    }
}
