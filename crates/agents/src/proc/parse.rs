//! The text of `/proc` (proc(5)), from bytes that processes choose in part.
//!
//! Pure. What cannot be understood is `None`, or left out of a list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most names of one environment.
pub const MAX_NAMES: usize = 4096;
/// Longest name, in bytes; longer ones are left out.
pub const MAX_NAME: usize = 256;
/// Most arguments.
pub const MAX_ARGS: usize = 1024;

/// What is taken from `stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process id.
    pub pid: u32,
    /// The name, which may hold any byte, brackets and spaces, too.
    pub comm: Vec<u8>,
    /// The state's letter.
    pub state: u8,
    /// The parent's id.
    pub parent: u32,
    /// The kernel's flags.
    pub flags: u64,
    /// The start, in clock ticks since the host's.
    pub started: u64,
}

impl Stat {
    /// Whether it is a thread of the kernel (`PF_KTHREAD`, include/linux/sched.h).
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }

    /// Whether it has ended and only waits to be asked how.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads `stat`. The name ends at the last `)`: it may hold others.
pub fn stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes
        .iter()
        .rposition(|b| *b == b')')
        .filter(|c| *c > open)?;
    let rest = std::str::from_utf8(&bytes[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first one is field 3.
    let field = |n: usize| fields.get(n - 3).copied();
    Some(Stat {
        pid: decimal(bytes[..open].trim_ascii())?,
        comm: bytes[open + 1..close].to_vec(),
        state: field(3)?.bytes().next()?,
        parent: decimal(field(4)?.as_bytes())?,
        flags: field(9)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

/// A number as the kernel writes it: digits alone, without sign or leading zeros.
pub fn decimal(digits: &[u8]) -> Option<u32> {
    let plain = digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    let text = std::str::from_utf8(digits).ok().filter(|_| plain)?;
    text.parse().ok()
}

/// The real user id of `status` (proc_pid_status(5)).
pub fn uid(status: &[u8]) -> Option<u32> {
    let mut lines = status.split(|b| *b == b'\n');
    let line = lines.find_map(|line| line.strip_prefix(b"Uid:"))?;
    let mut ids = line
        .split(u8::is_ascii_whitespace)
        .filter(|id| !id.is_empty());
    decimal(ids.next()?)
}

/// The arguments of `cmdline`: separated by NUL. A process that wrote over them with a title has one,
/// padded with NUL.
pub fn cmdline(bytes: &[u8]) -> Vec<Vec<u8>> {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    // Empty arguments at the end cannot be told from padding, those in between can.
    let whole = &bytes[..end];
    if whole.is_empty() {
        return Vec::new();
    }
    whole
        .split(|b| *b == 0)
        .take(MAX_ARGS)
        .map(<[u8]>::to_vec)
        .collect()
}

/// Collects the names of an `environ`, in pieces of any size. A value is not kept for longer than the
/// piece that it came in.
#[derive(Debug, Clone, Default)]
pub struct Names {
    names: Vec<Vec<u8>>,
    name: Vec<u8>,
    /// In a value, or in a name that is too long to be one.
    skipping: bool,
}

impl Names {
    /// Takes the next piece.
    pub fn take(&mut self, piece: &[u8]) {
        for byte in piece {
            match byte {
                0 => {
                    // Without '=' it is none.
                    self.name.clear();
                    self.skipping = false;
                }
                _ if self.skipping => {}
                b'=' => {
                    let name = std::mem::take(&mut self.name);
                    if !name.is_empty() && self.names.len() < MAX_NAMES {
                        self.names.push(name);
                    }
                    self.skipping = true;
                }
                _ if self.name.len() == MAX_NAME => {
                    self.name.clear();
                    self.skipping = true;
                }
                byte => self.name.push(*byte),
            }
        }
    }

    /// The names, in their order.
    pub fn finish(self) -> Vec<Vec<u8>> {
        self.names
    }
}

/// The path of the control group in `cgroup`: that of version 2, else the first one (cgroups(7)).
pub fn cgroup(bytes: &[u8]) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    let second = lines.iter().find_map(|line| line.strip_prefix(b"0::"));
    let first = || {
        lines
            .iter()
            .find_map(|line| line.splitn(3, |b| *b == b':').nth(2))
    };
    second.or_else(first).map(<[u8]>::to_vec)
}

/// The inode of a link such as `pipe:[4026531836]`.
pub fn inode(link: &[u8], kind: &str) -> Option<u64> {
    let digits = link
        .strip_prefix(kind.as_bytes())?
        .strip_prefix(b":[")?
        .strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The path of a link to a file, without the kernel's mark for one that is gone.
pub fn file(link: &[u8]) -> Option<Vec<u8>> {
    let path = link.strip_suffix(b" (deleted)").unwrap_or(link);
    path.starts_with(b"/").then(|| path.to_vec())
}

/// When the host was started: `btime` of `/proc/stat`, in seconds since the Unix epoch.
pub fn boot(bytes: &[u8]) -> Option<u64> {
    let mut lines = bytes.split(|b| *b == b'\n');
    let digits = lines.find_map(|line| line.strip_prefix(b"btime "))?;
    std::str::from_utf8(digits.trim_ascii()).ok()?.parse().ok()
}

/// One socket of `net/tcp` or `net/tcp6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its inode.
    pub inode: u64,
    /// The port on this side.
    pub port: u16,
    /// The far end, if it is connected; `None` if it listens.
    pub far: Option<SocketAddr>,
}

/// The established and listening sockets of `net/tcp` and `net/tcp6` (proc_pid_net(5); states by
/// include/net/tcp_states.h). Lines of another form are left out.
pub fn sockets(bytes: &[u8]) -> Vec<Socket> {
    let lines = bytes.split(|b| *b == b'\n').skip(1);
    lines
        .filter_map(|line| socket(std::str::from_utf8(line).ok()?))
        .collect()
}

fn socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (near, far, state) = (fields.get(1)?, fields.get(2)?, *fields.get(3)?);
    let far = match state {
        "01" => Some(end(far)?),
        "0A" => None,
        _ => return None,
    };
    Some(Socket {
        inode: fields.get(9)?.parse().ok()?,
        port: end(near)?.port(),
        far,
    })
}

/// `0100007F:01BB`: the words of the address in this machine's order, the port in hexadecimal.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |n: usize| u32::from_str_radix(address.get(8 * n..8 * n + 8)?, 16).ok();
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut octets = [0; 16];
            for n in 0..4 {
                octets[4 * n..4 * n + 4].copy_from_slice(&word(n)?.to_ne_bytes());
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The `name` of a `package.json`.
pub fn package_name(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
    }
    let package: Package = serde_json::from_slice(bytes).ok()?;
    (!package.name.is_empty() && package.name.len() <= 214).then_some(package.name)
}

/// The module that a script made by an installer of Python packages runs: of its first line
/// `from MODULE import …` (packaging.python.org, "Entry points specification").
pub fn entry_module(script: &[u8]) -> Option<&[u8]> {
    script.split(|b| *b == b'\n').find_map(|line| {
        let rest = line.strip_prefix(b"from ")?;
        let module = rest.split(|b| *b == b' ').next()?;
        (!module.is_empty() && module[0] != b'_').then_some(module)
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
