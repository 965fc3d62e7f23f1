//! Walls that have to stand although the policy hides something they need.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::{
    said,
    wall::{Wall, wait_for},
};

/// The program is shown at its own path under every policy, so the folders above it are not empty:
/// a proof that takes one of them for a hidden place fails a wall that holds.
#[test]
fn the_program_may_lie_where_the_policy_hides_everything() {
    let wall = Wall::new();
    let place = wall.host.home.join("tools");
    fs::create_dir_all(place.join("bin")).unwrap();
    fs::write(place.join("notes"), "not for the agent").unwrap();
    let program = place.join("bin/agentwall");
    fs::copy(env!("CARGO_BIN_EXE_agentwall"), &program).unwrap();
    // Nothing else is hidden: only a few hidden places are tried before a start.
    let rules = "  - { id: no-tools, priority: 10, action: file.read, resource: ['PLACE', 'PLACE/**'], effect: deny }
  - { id: the-rest, priority: 300, action: file.read, resource: '/**', effect: allow }";
    wall.policy(
        "policy.yaml",
        &rules.replace("PLACE", place.to_str().unwrap()),
    );

    let script = format!(
        "cat {0}/notes; ls {0}; agentwall why --help >/dev/null && echo HELP",
        place.display()
    );
    let there = wall.command(&[], &script);
    let mut command = Command::new(&program);
    command.args(there.get_args());
    command.env_clear();
    command.envs(there.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.current_dir(there.get_current_dir().unwrap());
    let ran = said(&mut command).code(0);

    assert_eq!(ran.out, "bin\nHELP\n", "{}", ran.err);
}

/// The supervisor waits for the ledger when the rest of the wall has been forked off. Then it is left so
/// few descriptors that it fails at each of its later steps in turn, the last one before the agent
/// starts, and those after it, included.
#[test]
fn a_start_fails_before_the_agent_or_its_session_stays() {
    let wall = Wall::new();
    let host = &wall.host;
    wall.run(&["--discard"], "true").code(0);
    host.call(&["gc"]).code(0);
    let ledger = fs::File::open(host.state.join("ledger/lock")).unwrap();
    let mut last_step = false;
    for spare in 0.. {
        ledger.lock().unwrap();
        let mut command = wall.command(&["--keep"], "echo one > made; echo STARTED");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for(|| waits_for_a_lock(child.id()));
        leave_descriptors(child.id(), spare);
        ledger.unlock().unwrap();
        let output = child.wait_with_output().unwrap();
        let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        if err.contains("cannot share the line") {
            assert!(out.is_empty(), "{spare} spare: it had started: {err}");
            last_step = true;
        }
        if out == b"STARTED\n" {
            let id = wall.id();
            let made = [("made".to_owned(), false)];
            assert_eq!(wall.changes(&id), made, "{spare} spare: {err}");
            host.call(&["discard", &id, "-y"]).code(0);
        }
        if output.status.success() {
            break;
        }
    }
    assert!(last_step, "the last step before the agent did not fail");
}

/// Whether a process is blocked by a lock that another holds (proc_locks(5)).
fn waits_for_a_lock(pid: u32) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let mut lines = locks
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    lines.any(|l| l.get(1) == Some(&"->") && l.get(5) == Some(&pid.to_string().as_str()))
}

/// Lets a process open descriptors below its first free number and this many more, if they are free.
fn leave_descriptors(pid: u32, spare: u64) {
    let open = Path::new("/proc").join(pid.to_string()).join("fd");
    let free = (0..).find(|n: &u64| open.join(n.to_string()).symlink_metadata().is_err());
    let limit = free.map(|n| n + spare);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let new = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(pid, Resource::Nofile, new).unwrap();
}
