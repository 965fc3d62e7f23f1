//! The agent's one way to say something to the wall: a socket at which it tells what it is about to do.
//!
//! The broker makes it in the wall's own folder and hands the listening end to the supervisor, which hears
//! it with bounds on number, size and time and answers with nothing that the agent could not learn by
//! trying. Whoever connects is told apart by the kernel (`SCM_CREDENTIALS`), not by what it says: the
//! connection itself is made by the broker, as all are.

use std::{
    fs::Permissions,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
};

use rustix::{
    fs::{Mode, OFlags, openat},
    net::{AddressFamily, sockopt},
};

/// Where the agent finds it.
pub const INTENT_PATH: &str = "/dev/agentwall/intent";

/// Listens in `own`, the wall's folder of the view; `/proc` must be there.
pub(crate) fn listen(own: &OwnedFd) -> io::Result<UnixListener> {
    let path = format!("/proc/self/fd/{}/intent", own.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    // For all users of the session: the folder is in its view alone.
    std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    // What is accepted inherits it.
    sockopt::set_socket_passcred(&listener, true)?;
    Ok(listener)
}

/// Takes the listening end out of the descriptors that came from the broker.
pub(crate) fn take(fds: &mut Vec<OwnedFd>) -> Option<UnixListener> {
    let local = |fd: &OwnedFd| sockopt::socket_domain(fd).is_ok_and(|d| d == AddressFamily::UNIX);
    let at = fds.iter().position(local)?;
    Some(fds.remove(at).into())
}

/// How far a line of ancestors is followed.
const DEEPEST: usize = 64;

/// A process and its ancestors, itself first, up to but without the child of `above`; each with the moment
/// it was started (proc(5), `starttime`: clock ticks since boot), so that a number that is used again is
/// not taken for the process that had it before. Empty when it is gone.
pub fn lineage(proc: BorrowedFd<'_>, pid: u32, above: u32) -> Vec<(u32, u64)> {
    let mut line = Vec::new();
    let mut next = pid;
    while line.len() < DEEPEST
        && let Some((parent, start)) = stat(proc, next)
        && parent != above
        && parent != 0
    {
        line.push((next, start));
        next = parent;
    }
    line
}

/// Parent and start of a process.
fn stat(proc: BorrowedFd<'_>, pid: u32) -> Option<(u32, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(proc, format!("{pid}/stat"), flags, Mode::empty()).ok()?;
    let mut buf = [0u8; 1024];
    let n = rustix::io::read(file.as_fd(), &mut buf).ok()?;
    parse_stat(&buf[..n])
}

/// `ppid` (4) and `starttime` (22) of proc(5) `stat`. The name in brackets is the process's own choice.
fn parse_stat(text: &[u8]) -> Option<(u32, u64)> {
    let end = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some((parent, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_moves_no_field() {
        let text = b"12 (a) 1 (b) S 7 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2 3";
        assert_eq!(parse_stat(text), Some((7, 4711)));
        assert_eq!(parse_stat(b"12 (a) S 7"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_line_ends_below_the_named_ancestor() {
        let proc = openat(
            rustix::fs::CWD,
            "/proc",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let me = std::process::id();
        let whole = lineage(proc.as_fd(), child.id(), 0);
        assert_eq!(whole[0].0, child.id());
        assert_eq!(whole[1].0, me);
        assert!(whole[1].1 <= whole[0].1, "a child is no older: {whole:?}");
        // Without the child of the one above: what is below it only.
        assert_eq!(lineage(proc.as_fd(), child.id(), me), []);
        let parent = whole.get(2).map_or(0, |p| p.0);
        if parent != 0 {
            assert_eq!(lineage(proc.as_fd(), child.id(), parent), whole[..1]);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lineage(proc.as_fd(), child.id(), 0), []);
    }
}
