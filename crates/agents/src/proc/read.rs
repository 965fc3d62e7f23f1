//! One look at all processes.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use super::{
    ProcError, Snapshot,
    parse::{self, Names, Socket, Stat},
    root,
};
use crate::process::{Descriptor, Process, Target};

/// Most processes that are looked at.
pub const MAX_PROCESSES: usize = 65_536;
/// Most descriptors of one process that are looked at.
pub const MAX_DESCRIPTORS: usize = 1024;
/// Most bytes of `stat`, `status` and `cgroup`.
const MAX_TEXT: u64 = 16 << 10;
/// Most bytes of `cmdline`.
const MAX_CMDLINE: u64 = 32 << 10;
/// Most bytes of `environ`: names behind that are not seen. The kernel's own bound for one string
/// is 128 KiB.
const MAX_ENVIRON: u64 = 1 << 20;
/// Most bytes of `net/tcp` and `net/tcp6`.
const MAX_SOCKETS: u64 = 8 << 20;
/// Most network namespaces whose sockets are looked at.
const MAX_NAMESPACES: usize = 256;

/// The sockets of a network namespace, by inode.
type Sockets = HashMap<u64, Socket>;

pub(super) fn snapshot(root: &Path) -> Result<Snapshot, ProcError> {
    let list = |source| ProcError::List {
        path: root.to_owned(),
        source,
    };
    let mut pids: Vec<u32> = Vec::new();
    let mut cut = false;
    for entry in fs::read_dir(root).map_err(list)? {
        let name = entry.map_err(list)?.file_name();
        let Some(pid) = parse::decimal(name.as_bytes()).filter(|pid| *pid > 0) else {
            continue;
        };
        cut = pids.len() == MAX_PROCESSES;
        if cut {
            break;
        }
        pids.push(pid);
    }
    pids.sort_unstable();
    let mut shot = Snapshot {
        cut,
        boot: text(&root.join("stat"), MAX_SOCKETS)
            .ok()
            .and_then(|t| parse::boot(&t))
            .unwrap_or(0),
        // USER_HZ, the unit in which the kernel shows times (time(7)): the same on every architecture
        // that the project is built for.
        ticks: 100,
        ..Snapshot::default()
    };
    let mut namespaces: HashMap<u64, Sockets> = HashMap::new();
    for pid in pids {
        match process(&root.join(pid.to_string()), pid, &mut namespaces) {
            Seen::Process { process, closed } => {
                shot.closed += usize::from(closed);
                shot.processes.push(*process);
            }
            Seen::Vanished => shot.vanished += 1,
            Seen::None => {}
        }
    }
    Ok(shot)
}

enum Seen {
    Process {
        process: Box<Process>,
        closed: bool,
    },
    Vanished,
    /// A thread of the kernel, or a process that has ended.
    None,
}

fn process(folder: &Path, pid: u32, namespaces: &mut HashMap<u64, Sockets>) -> Seen {
    let Some(before) = stat(folder).filter(|s| s.pid == pid) else {
        return Seen::Vanished;
    };
    if before.is_kernel_thread() || before.has_ended() {
        return Seen::None;
    }
    let exe = fs::read_link(folder.join("exe"));
    let closed = matches!(&exe, Err(e) if e.kind() == ErrorKind::PermissionDenied);
    let bytes = |name: &str, most| text(&folder.join(name), most).ok();
    let target = |name: &str| {
        let link = fs::read_link(folder.join(name)).ok()?;
        Some(link.as_os_str().as_bytes().to_vec())
    };
    let mut process = Process {
        pid,
        parent: before.parent,
        started: before.started,
        uid: bytes("status", MAX_TEXT).and_then(|t| parse::uid(&t)),
        comm: before.comm.clone(),
        exe: exe
            .ok()
            .and_then(|link| parse::file(link.as_os_str().as_bytes())),
        args: parse::cmdline(&bytes("cmdline", MAX_CMDLINE).unwrap_or_default()),
        cwd: target("cwd").and_then(|link| parse::file(&link)),
        cgroup: bytes("cgroup", MAX_TEXT).and_then(|t| parse::cgroup(&t)),
        env: names(&folder.join("environ")).ok(),
        descriptors: descriptors(&folder.join("fd")).ok(),
        pid_namespace: target("ns/pid").and_then(|link| parse::inode(&link, "pid")),
        ..Process::default()
    };
    if process.is_interpreter() {
        root::look(&mut process, folder);
    }
    connect(&mut process, folder, target("ns/net"), namespaces);
    // Another process may have its number by now: then nothing fits together.
    match stat(folder) {
        Some(after) if after.started == before.started => Seen::Process {
            process: Box::new(process),
            closed,
        },
        _ => Seen::Vanished,
    }
}

fn stat(folder: &Path) -> Option<Stat> {
    parse::stat(&text(&folder.join("stat"), MAX_TEXT).ok()?)
}

/// At most `most` bytes of a file.
fn text(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut file = File::open(path)?.take(MAX_ENVIRON);
    let mut names = Names::default();
    let mut piece = [0; 4096];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(names.finish()),
            Ok(n) => names.take(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn descriptors(folder: &Path) -> io::Result<Vec<Descriptor>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_DESCRIPTORS) {
        let entry = entry?;
        let Some(number) = parse::decimal(entry.file_name().as_bytes()) else {
            continue;
        };
        // It may be closed meanwhile.
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let link = link.as_os_str().as_bytes();
        let target = parse::file(link).map(Target::Path);
        let pipe = || parse::inode(link, "pipe").map(Target::Pipe);
        let socket = || parse::inode(link, "socket").map(Target::Socket);
        all.push(Descriptor {
            number,
            target: target
                .or_else(pipe)
                .or_else(socket)
                .unwrap_or(Target::Other),
        });
    }
    all.sort_by_key(|d| d.number);
    Ok(all)
}

/// Finds the connections among the process's sockets.
fn connect(
    process: &mut Process,
    folder: &Path,
    namespace: Option<Vec<u8>>,
    namespaces: &mut HashMap<u64, Sockets>,
) {
    let inodes: HashSet<u64> = process
        .descriptors
        .iter()
        .flatten()
        .filter_map(|d| match d.target {
            Target::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    let Some(namespace) = namespace.and_then(|link| parse::inode(&link, "net")) else {
        return;
    };
    if inodes.is_empty()
        || (namespaces.len() >= MAX_NAMESPACES && !namespaces.contains_key(&namespace))
    {
        return;
    }
    let sockets = namespaces.entry(namespace).or_insert_with(|| {
        let files = ["net/tcp", "net/tcp6"].iter();
        let texts = files.filter_map(|name| text(&folder.join(name), MAX_SOCKETS).ok());
        texts
            .flat_map(|t| parse::sockets(&t))
            .map(|s| (s.inode, s))
            .collect()
    });
    let mut own: Vec<Socket> = inodes
        .iter()
        .filter_map(|i| sockets.get(i))
        .copied()
        .collect();
    own.sort_by_key(|s| (s.port, s.inode));
    process.connections = own.iter().filter_map(|s| s.far).collect();
    process.listening = own
        .iter()
        .filter(|s| s.far.is_none())
        .map(|s| s.port)
        .collect();
}
