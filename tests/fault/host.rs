//! A host that does not offer what the wall needs.

use std::{ffi::OsString, fs};

use agentwall_tests::{Who, World};

use crate::kit::{Fault, Said, Verdict, next_run_works, run, session_args};

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("host/no-user-namespaces", no_user_namespaces),
        Fault::new("host/no-network-namespaces", |w| without(w, "net")),
        Fault::new("host/no-mount-namespaces", |w| without(w, "mnt")),
        Fault::new("host/no-process-namespaces", |w| without(w, "pid")),
        Fault::new("host/no-ipc-namespaces", |w| without(w, "ipc")),
        Fault::new("host/no-uts-namespaces", |w| without(w, "uts")),
        Fault::new("host/few-descriptors", few_descriptors),
        Fault::new("host/no-processes", no_processes)
            .only(Who::User, "the limit does not count for the superuser"),
    ]
}

/// A session below a user namespace that may make `count` further namespaces of a kind; the caller
/// keeps its own user and group numbers.
fn limited(w: &World, kind: &str, count: u32, args: &[OsString]) -> Result<Said, String> {
    // Nested: the limit is written as the outer namespace's root, the wall runs in the inner one.
    // An inner namespace counts against the outer one's limit, too.
    let inner = if w.who == Who::Root {
        "--map-root-user"
    } else {
        "--map-user=$(id -u)"
    };
    let script = format!(
        "echo {count} > /proc/sys/user/max_{kind}_namespaces && exec unshare --user {inner} \"$@\""
    );
    let mut cmd = w.as_user("unshare");
    cmd.args(["--user", "--map-root-user", "sh", "-c", &script, "sh"])
        .arg(&w.shared.wall)
        .args(args)
        .stdin(std::process::Stdio::null());
    run(&mut cmd)
}

fn no_user_namespaces(w: &World) -> Verdict {
    limited(w, "user", 1, &session_args(w, ""))?
        .refused(125, &["create a user namespace", "agentwall doctor"])?;
    let doctor = limited(w, "user", 1, &["doctor".into()])?;
    doctor
        .ended(1)?
        .says(&["MISSING", "user namespace"])?
        .harmless()?;
    next_run_works(w)
}

fn without(w: &World, kind: &str) -> Verdict {
    limited(w, kind, 0, &session_args(w, ""))?.refused(125, &["namespace", "agentwall doctor"])?;
    next_run_works(w)
}

/// Whatever the limit, the session is refused or it works; the agent never runs with half a wall.
fn few_descriptors(w: &World) -> Verdict {
    let mut refused = 0;
    for limit in [6, 8, 12, 16, 20, 24] {
        let said = with_limit(w, &format!("-n {limit}"))?;
        if said.status != 0 {
            said.refused(125, &["Too many open files", "ulimit -n"])
                .map_err(|e| format!("{limit} descriptors: {e}"))?;
            refused += 1;
        }
    }
    crate::kit::need(refused > 0, "no limit was low enough")?;
    let left = fs::read_dir(w.path("state/sessions"))
        .into_iter()
        .flatten()
        .count();
    crate::kit::need(
        left == 6 - refused,
        "folders of sessions that never began are left",
    )?;
    next_run_works(w)
}

fn no_processes(w: &World) -> Verdict {
    let said = with_limit(w, "-u 1")?;
    said.refused(125, &["Resource temporarily unavailable"])?;
    next_run_works(w)
}

/// A session under a limit of the shell's `ulimit`.
fn with_limit(w: &World, limit: &str) -> Result<Said, String> {
    let mut cmd = w.as_user("/bin/bash");
    cmd.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"])
        .arg(&w.shared.wall)
        .args(session_args(w, ""))
        .stdin(std::process::Stdio::null());
    run(&mut cmd)
}
