//! What `/proc` tells of a process: whose it is, what it runs, where it works.
//!
//! A number is only a name for a while: who looks twice compares the time of the start.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use agentwall_action::escape_bytes;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The real user.
    pub uid: u32,
    /// Its program; a deleted one has the kernel's mark behind it.
    pub exe: PathBuf,
    /// Its parent.
    pub parent: u32,
    /// When it began, in clock ticks since boot.
    pub started: u64,
}

/// A process that is there. Threads of the kernel have no program and are none.
pub fn process(pid: u32) -> io::Result<Process> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read(folder.join("status"))?;
    let stat = fs::read(folder.join("stat"))?;
    let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
    Ok(Process {
        pid,
        uid: uid(&status).ok_or_else(unreadable)?,
        exe: fs::read_link(folder.join("exe"))?,
        parent: field(&stat, 4)
            .and_then(|n| n.try_into().ok())
            .ok_or_else(unreadable)?,
        started: field(&stat, 22).ok_or_else(unreadable)?,
    })
}

/// A process and those above it, the nearest first.
pub fn line_of(pid: u32) -> Vec<u32> {
    let mut line = vec![pid];
    let mut at = pid;
    // A line that changes while it is walked ends all the same.
    while let Some(parent) = parent_of(at).filter(|p| *p != 0 && !line.contains(p)) {
        line.push(parent);
        at = parent;
    }
    line
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    field(&stat, 4)?.try_into().ok()
}

/// The arguments it was started with, escaped.
pub fn command_of(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    bytes.split(|b| *b == 0).map(escape_bytes).collect()
}

/// All processes that can be looked at.
pub fn processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) {
            found.extend(process(pid));
        }
    }
    Ok(found)
}

/// The folder it works in.
pub fn folder_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The program of a process, escaped; what it calls itself if it has ended meanwhile.
pub fn program(pid: u32, comm: &[u8]) -> String {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => escape_bytes(path.as_os_str().as_bytes()),
        Err(_) => format!("({})", escape_bytes(comm)),
    }
}

/// A user's number and home folder, by name or number, from a file like `/etc/passwd` (passwd(5)).
pub fn user(passwd: &[u8], wanted: &str) -> Option<(u32, PathBuf)> {
    passwd.split(|b| *b == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let [name, _, uid, _, _, home, _] = fields[..] else {
            return None;
        };
        let number = std::str::from_utf8(uid).ok()?;
        (name == wanted.as_bytes() || number == wanted).then(|| {
            let home = Path::new(std::ffi::OsStr::from_bytes(home)).to_owned();
            Some((number.parse().ok()?, home))
        })?
    })
}

/// The home folder of a user.
pub fn home_of(uid: u32) -> Option<PathBuf> {
    let passwd = fs::read("/etc/passwd").ok()?;
    let (_, home) = user(&passwd, &uid.to_string())?;
    home.is_absolute().then_some(home)
}

fn uid(status: &[u8]) -> Option<u32> {
    let line = status
        .split(|b| *b == b'\n')
        .find_map(|l| l.strip_prefix(b"Uid:"))?;
    let text = std::str::from_utf8(line).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// A numeric field behind the name, counted as in proc_pid_stat(5); the name in parentheses may hold anything.
fn field(stat: &[u8], number: usize) -> Option<u64> {
    let behind = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(stat.get(behind..)?).ok()?;
    let mut after_name = text.split_ascii_whitespace();
    after_name.nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_what_is_damaged_is_not_believed() {
        let me = process(std::process::id()).unwrap();
        assert_eq!(me.exe, std::env::current_exe().unwrap());
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        assert!(processes().unwrap().contains(&me));
        assert_eq!(field(b"1 (a) b) S 7 2", 4), Some(7));
        assert_eq!(field(b"1 (a) b) S 7 2", 22), None);
        assert_eq!(line_of(std::process::id()).last(), Some(&1));
        assert_eq!(uid(b"Name:\tx\nUid:\t7\t8\t9\t10\n"), Some(7));
        assert_eq!(uid(b"Name:\tUid: 7\n"), None);
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad:x:1\nci:x:990:990::/srv/ci:/bin/sh\n";
        assert_eq!(user(passwd, "ci"), Some((990, "/srv/ci".into())));
        assert_eq!(user(passwd, "0"), Some((0, "/root".into())));
        assert_eq!(user(passwd, "bad"), None);
        assert_eq!(user(passwd, "x"), None);
    }
}
