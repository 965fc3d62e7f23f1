//! The first process of the agent's process namespace.
//!
//! It puts on every restriction, releases the canaries, waits for go, starts the agent, reaps
//! orphans, forwards signals and reports the end. When it exits, the kernel kills whatever is left
//! in the namespace, so nothing outlives the session. It holds no capability and cannot be traced
//! or killed from inside.

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use crate::{
    canary::Canaries,
    landlock_floor::{self, Floor},
    mounts,
    plan::FileView,
    seccomp::{Filter, Traps},
    sys,
};

/// What init takes over from the broker's process.
#[derive(Debug)]
pub struct InitSpec {
    pub control: OwnedFd,
    pub root: OwnedFd,
    pub view: FileView,
    pub command: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub directory: PathBuf,
    pub terminal: Option<OwnedFd>,
    pub replace: [bool; 3],
    pub canaries: Canaries,
    pub traps: Traps,
}

/// The exit status of a command that was found but could not be started, as shells have it.
const CANNOT_START: i32 = 126;
/// The exit status of a command that was not found.
const NOT_FOUND: i32 = 127;

/// Runs init. Does not return.
pub fn main(spec: InitSpec) -> ! {
    let control = match spec.control.try_clone() {
        Ok(control) => control,
        Err(_) => exit(125),
    };
    if let Err(e) = run(spec) {
        let _ = sys::send_fds(&control, format!("!{e}").as_bytes(), &[]);
    }
    exit(125)
}

fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

fn context(what: &str) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("cannot {what}: {e}"))
}

fn run(spec: InitSpec) -> io::Result<()> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    mounts::mount_proc(spec.root.as_fd()).map_err(|e| io::Error::other(e.to_string()))?;
    sys::send_fds(&spec.control, b"p", &[])?;
    let mut buf = [0u8; 16];
    if sys::recv_fds(&spec.control, &mut buf)?.0 == 0 {
        return Err(io::Error::other("the broker is gone"));
    }

    rustix::process::setsid()
        .map_err(io::Error::from)
        .map_err(context("start a session"))?;
    if let Some(terminal) = &spec.terminal {
        rustix::process::ioctl_tiocsctty(terminal)
            .map_err(io::Error::from)
            .map_err(context("take the terminal"))?;
    }
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(context("set no_new_privs"))?;
    let floor = landlock_floor::restrict(&spec.view)
        .map_err(|e| io::Error::other(format!("cannot put on Landlock: {e}")))?;
    sys::drop_capabilities().map_err(context("drop capabilities"))?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    let listener = Filter::new(spec.traps)
        .install()
        .map_err(context("install the filter"))?;
    let word: &[u8] = if floor == Floor::Enforced {
        b"landlock"
    } else {
        b"none"
    };
    sys::send_fds(&spec.control, word, &[listener.as_fd()])?;
    drop(listener);

    let results = release(&spec.canaries)?;
    sys::send_fds(&spec.control, &results, &[])?;
    if sys::recv_fds(&spec.control, &mut buf)?.0 == 0 {
        return Err(io::Error::other("the supervisor said no"));
    }

    let agent = start(&spec)?;
    let control = spec.control.try_clone()?;
    std::thread::spawn(move || forward_signals(&control, agent));
    // Close what only the agent needs, so that its end is seen.
    drop(spec.terminal);
    for fd in 0..3 {
        // SAFETY: init itself uses none of the three; they belong to no Rust object here.
        unsafe { libc::close(fd) };
    }
    reap(&spec.control, agent)
}

/// Runs the canaries in a process of their own: an execve(2) that works must not replace init.
fn release(canaries: &Canaries) -> io::Result<Vec<u8>> {
    let (mut read, write) = io::pipe()?;
    // SAFETY: init has one thread at this point.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(read);
            // Traceable like any process of the agent, so that program starts can be checked.
            let _ = sys::prctl(libc::PR_SET_DUMPABLE, 1);
            let results = canaries.release();
            let _ = io::Write::write_all(
                &mut &write,
                &serde_json::to_vec(&results).unwrap_or_default(),
            );
            exit(0)
        }
        child => {
            drop(write);
            let mut results = Vec::new();
            io::Read::read_to_end(&mut read, &mut results)?;
            let mut status = 0;
            // SAFETY: `status` is a valid place for the wait status.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            let count =
                serde_json::from_slice::<Vec<serde_json::Value>>(&results).map_or(0, |r| r.len());
            if count != canaries.len() {
                return Err(io::Error::other("the canaries did not come back"));
            }
            Ok(results)
        }
    }
}

fn start(spec: &InitSpec) -> io::Result<libc::pid_t> {
    // SAFETY: init has one thread at this point.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        become_agent(spec);
    }
    // Both sides set the group, whoever comes first.
    // SAFETY: integers only.
    unsafe { libc::setpgid(pid, pid) };
    Ok(pid)
}

fn become_agent(spec: &InitSpec) -> ! {
    // SAFETY: integers only.
    let own = unsafe {
        libc::setpgid(0, 0);
        libc::getpid()
    };
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 1);
    if let Some(terminal) = &spec.terminal {
        // SAFETY: blocking SIGTTOU around tcsetpgrp(3), which a background process may not call;
        // plain signal sets on the stack.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTTOU);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::tcsetpgrp(terminal.as_raw_fd(), own);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
        for (fd, replace) in spec.replace.iter().enumerate() {
            if *replace {
                // SAFETY: dup2 onto a standard descriptor that no Rust object owns.
                unsafe { libc::dup2(terminal.as_raw_fd(), fd as i32) };
            }
        }
    }
    // What the caller ignores stays ignored, as under nohup(1); SIGPIPE is ignored by Rust's runtime.
    // SAFETY: the table of dispositions is the process's own, and no handler of ours is in it.
    unsafe {
        for signal in 1..=64 {
            let before = libc::signal(signal, libc::SIG_DFL);
            if before == libc::SIG_IGN && signal != libc::SIGPIPE {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    if rustix::process::chdir(&spec.directory).is_err() {
        let _ = rustix::process::chdir("/");
    }
    let _ = sys::close_from(3);
    let (code, error) = execute(&spec.command, &spec.environment);
    let name = spec
        .command
        .first()
        .map(|c| c.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut text = format!(
        "agentwall: cannot start {}: {error}",
        agentwall_action::escape_text(&name)
    );
    if code == CANNOT_START
        && let Some(refusal) = last_refusal()
    {
        text.push_str("\n  ");
        text.push_str(&refusal);
    }
    text.push('\n');
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    exit(code)
}

/// The newest line of the trail, for a command that could not start.
fn last_refusal() -> Option<String> {
    let text = std::fs::read_to_string(crate::broker::TRAIL_PATH).ok()?;
    let entry: crate::broker::TrailEntry = serde_json::from_str(text.lines().last()?).ok()?;
    Some(format!(
        "{} {}: {}",
        entry.action, entry.resource, entry.decision.reason
    ))
}

/// execvpe(3), with the error that tells most: a file that is there but refused wins over absence.
fn execute(command: &[OsString], environment: &[(OsString, OsString)]) -> (i32, io::Error) {
    let c = |s: &std::ffi::OsStr| CString::new(s.as_bytes()).unwrap_or_default();
    let arguments: Vec<CString> = command.iter().map(|a| c(a)).collect();
    let variables: Vec<CString> = environment
        .iter()
        .map(|(k, v)| {
            let mut pair = k.clone();
            pair.push("=");
            pair.push(v);
            c(&pair)
        })
        .collect();
    let Some(name) = command.first() else {
        return (NOT_FOUND, io::ErrorKind::NotFound.into());
    };
    let candidates: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
        vec![PathBuf::from(name)]
    } else {
        let path = environment
            .iter()
            .find(|(k, _)| k == "PATH")
            .map(|(_, v)| v.clone());
        std::env::split_paths(&path.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .map(|dir| dir.join(name))
            .collect()
    };
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&variables));
    let mut worst = io::Error::from(io::ErrorKind::NotFound);
    for candidate in candidates {
        let is_candidate = std::fs::symlink_metadata(&candidate).is_ok();
        if !is_candidate && name.as_bytes().contains(&b'/') {
            worst = io::Error::from_raw_os_error(libc::ENOENT);
        }
        if !is_candidate {
            continue;
        }
        let path = c(candidate.as_os_str());
        // SAFETY: NUL-terminated strings and null-terminated arrays that outlive the call.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        worst = io::Error::last_os_error();
        if !matches!(worst.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            return (CANNOT_START, worst);
        }
        // There, but the kernel says it is not: its interpreter is missing.
        return (CANNOT_START, worst);
    }
    (NOT_FOUND, worst)
}

fn forward_signals(control: &OwnedFd, agent: libc::pid_t) {
    let mut buf = [0u8; 16];
    while let Ok((n, _)) = sys::recv_fds(control, &mut buf) {
        if n == 0 {
            exit(125);
        }
        if let [b's', signal] = buf[..n] {
            // SAFETY: integers only. The group is the agent's; init itself is not in it.
            unsafe { libc::kill(-agent, i32::from(signal)) };
        }
    }
    exit(125)
}

fn reap(control: &OwnedFd, agent: libc::pid_t) -> io::Result<()> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the wait status.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WUNTRACED) };
        if pid < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return Err(error);
        }
        if pid != agent {
            continue;
        }
        if libc::WIFSTOPPED(status) {
            sys::send_fds(control, b"t", &[])?;
            continue;
        }
        let mut message = vec![b'e'];
        message.extend_from_slice(&status.to_ne_bytes());
        sys::send_fds(control, &message, &[])?;
        exit(0)
    }
}
