//! A host that does not offer what the wall needs.

use std::{
    ffi::OsString,
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use agentwall_tests::{Who, World};

use crate::kit::{Fault, Said, Verdict, next_run_works, run, say, session, session_args};

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
        Fault::new("host/folders-that-come-and-go", folders_that_come_and_go)
            .only(Who::Root, "an ordinary user mounts nothing on the host"),
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

/// A tree with another mount in it has a copy layer for each folder, as `/tmp` with an AppImage. Others
/// make and remove folders there all the time: that ends no session, and hinders no commit.
fn folders_that_come_and_go(w: &World) -> Verdict {
    let work = w.path("work");
    let mount = work.join("mounted");
    fs::create_dir(&mount).map_err(|e| e.to_string())?;
    let call = |program: &str, args: &[&std::ffi::OsStr]| {
        let status = Command::new(program).args(args).status();
        match status.map_err(|e| e.to_string())?.success() {
            true => Ok(()),
            false => Err(format!("{program} failed")),
        }
    };
    call(
        "mount",
        &[
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "none".as_ref(),
            mount.as_ref(),
        ],
    )?;
    let kept = work.join("kept");
    fs::create_dir(&kept).map_err(|e| e.to_string())?;
    let stop = AtomicBool::new(false);
    let verdict = std::thread::scope(|scope| {
        for churn in 0..2 {
            let (work, stop) = (&work, &stop);
            scope.spawn(move || {
                for n in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let dir = work.join(format!("coming-{churn}-{}", n % 50));
                    let _ = fs::create_dir_all(dir.join("a/b"));
                    std::thread::yield_now();
                    let _ = fs::remove_dir_all(&dir);
                }
            });
        }
        let verdict = (0..8).try_for_each(|n| {
            let script = format!("cat {{work}}/readme.txt; echo {n} >{{work}}/kept/f");
            session(w, &script)?
                .ended(0)?
                .says(&["AGENT-RAN", "WORKSPACE-OK"])?;
            let kept = work.join("kept/f");
            say(w, "commit -- kept/f")?.ended(0)?;
            let found = fs::read_to_string(&kept).map_err(|e| e.to_string())?;
            match found.trim() == n.to_string() {
                true => Ok(()),
                false => Err(format!("committed {n}, found {found}")),
            }
        });
        stop.store(true, Ordering::Relaxed);
        verdict
    });
    call("umount", &["-l".as_ref(), mount.as_ref()])?;
    verdict?;
    next_run_works(w)?;
    fs::remove_dir(&mount).map_err(|e| e.to_string())?;
    fs::remove_dir_all(&kept).map_err(|e| e.to_string())
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
