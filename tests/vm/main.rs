//! The suite of the virtual machine: cases that need a kernel of their own, run as root in the guest that
//! `tests/vm/run` boots.
//!
//! Started elsewhere it refuses, since cases attach programs to hooks of the whole kernel. `--list` works
//! anywhere. Kernel, folders and user of the guest: tests/vm/README.md.

mod case;
mod daemon;
mod exchange;
mod hold;
mod machine;
mod names;
mod wall;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use agentwall_tests::{Options, Run, options::am_root, run::report, said::VERBOSE};
use case::Guest;

/// The word of the kernel's command line that only the runner puts there.
const MARK: &str = "agentwall.vm";
/// Where cases have their folders.
const FOLDERS: &str = "/var/tmp/agentwall-vm";

fn cases() -> Vec<Guest> {
    let mut all = machine::cases();
    all.extend(daemon::cases());
    all.extend(names::cases());
    all.extend(exchange::cases());
    all.extend(hold::cases());
    // From here on another wall stands, or none.
    all.extend(exchange::last());
    all.push(daemon::last());
    all
}

fn main() {
    std::process::exit(suite(&Options::of_this_run()));
}

fn suite(options: &Options) -> i32 {
    let all = cases().into_iter().filter(|c| options.wants(c.name));
    if options.list {
        let names: Vec<&str> = all.map(|c| c.name).collect();
        println!("{}\n{} cases", names.join("\n"), names.len());
        return 0;
    }
    if !am_root() || !in_the_machine() {
        println!(
            "this suite runs as root in the virtual machine only, since it attaches programs to the whole \
             kernel: start it with `make vmtest`"
        );
        return 2;
    }
    VERBOSE.store(options.verbose, Ordering::Relaxed);
    let begin = Instant::now();
    let mut results = Vec::new();
    for case in all {
        let run = match one(&case) {
            Ok(()) => Run::Passed,
            Err(why) => Run::Failed(why.replace('\n', " ")),
        };
        match &run {
            Run::Failed(why) => println!("FAIL {}: {why}", case.name),
            _ => println!("ok {}", case.name),
        }
        results.push((case.name.to_owned(), run));
    }
    wall::leave();
    report(&results, begin.elapsed())
}

fn in_the_machine() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word == MARK)
}

/// Plays one case in a folder of its own; a panic is its failure.
fn one(case: &Guest) -> Result<(), String> {
    let folder = PathBuf::from(FOLDERS).join(case.name.replace('/', "-"));
    make(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    catch_unwind(AssertUnwindSafe(|| (case.play)(&folder)))
        .unwrap_or_else(|_| Err("the case panicked".to_owned()))
}

fn make(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, PermissionsExt::from_mode(0o777))
}
