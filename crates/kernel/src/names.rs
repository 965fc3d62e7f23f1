//! Doors: where a session's questions for names and connections to them go, and what arrives there.
//!
//! The maps are those of `bpf/names.h`, the programs of the root cgroup those of `bpf/names.bpf.c`. They are an
//! object of their own: where they cannot be attached, everything else stands, and names are not decided.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, ObjectBuilder};

use crate::object;
use crate::wall::{Programs, Wall, WallError};

/// The programs, by their names.
pub(crate) const PROGRAMS: [&str; 9] = [
    "aw_connect4",
    "aw_connect6",
    "aw_sendmsg4",
    "aw_sendmsg6",
    "aw_peername4",
    "aw_peername6",
    "aw_recvmsg4",
    "aw_recvmsg6",
    "aw_source",
];

const TCP: u16 = 6;
const UDP: u16 = 17;

/// The listeners of one session, in one network namespace.
#[derive(Debug)]
pub struct Door<'f> {
    /// The session.
    pub session: u64,
    /// The inode number of the network namespace (`/proc/PID/ns/net`).
    pub namespace: u32,
    /// The port of connections to names.
    pub tcp: u16,
    /// The port of questions for names, TCP and UDP.
    pub dns: u16,
    /// All sockets on these ports, on `127.0.0.1` and `::1`.
    pub listeners: Vec<BorrowedFd<'f>>,
}

/// What the programs turned to a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// The session that was under way.
    pub session: u64,
    /// The process.
    pub pid: u32,
    /// Where it wanted to go.
    pub original: SocketAddr,
}

/// How something came to a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// A connection.
    Connection,
    /// A datagram.
    Datagram,
}

/// Loads the programs over the maps of a wall and attaches them to the root cgroup.
pub(crate) fn attach(
    maps: &BTreeMap<String, MapHandle>,
) -> Result<BTreeMap<String, Link>, WallError> {
    let refused = |source| WallError::Names { source };
    let root = root_cgroup().map_err(|e| refused(e.into()))?;
    let mut opened = ObjectBuilder::default()
        .open_memory(object::NAMES)
        .map_err(refused)?;
    for mut map in opened.maps_mut() {
        if let Some(shared) = maps.get(&*map.name().to_string_lossy()) {
            map.reuse_fd(shared.as_fd()).map_err(refused)?;
        }
    }
    let loaded = opened.load().map_err(refused)?;
    loaded
        .progs_mut()
        .map(|program| {
            let name = program.name().to_string_lossy().into_owned();
            let link = program.attach_cgroup(root.as_raw_fd()).map_err(refused)?;
            Ok((name, link))
        })
        .collect()
}

/// The root of the hierarchy of cgroups (version 2), of which every socket is a part.
fn root_cgroup() -> io::Result<File> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let folder = mounts
        .lines()
        .find_map(root_of_mount)
        .filter(|folder| !folder.join("cgroup.type").exists())
        .ok_or_else(|| io::Error::other("the root of the cgroups (version 2) is not mounted"))?;
    File::open(folder)
}

/// The mount point of a line of mountinfo (proc_pid_mountinfo(5)), if it shows the whole hierarchy. Only the root
/// has no file `cgroup.type`.
fn root_of_mount(line: &str) -> Option<PathBuf> {
    let (front, back) = line.split_once(" - ")?;
    let mut fields = front.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    (back.starts_with("cgroup2 ") && root == "/").then(|| Path::new(at).to_owned())
}

impl Wall {
    /// Whether the programs that decide about names are attached.
    pub fn has_names(&self) -> bool {
        PROGRAMS
            .iter()
            .all(|name| self.programs().any(|p| p == *name))
    }

    /// From here on what a session asks for by name comes to these listeners.
    ///
    /// # Errors
    /// A map cannot be changed. The session has no door then.
    pub fn open_door(&self, door: &Door<'_>) -> Result<(), WallError> {
        let session = door.session.to_ne_bytes();
        for listener in &door.listeners {
            let socket = listener.as_raw_fd().to_ne_bytes();
            self.update("listening", &socket, &session)?;
        }
        for port in [door.tcp, door.dns] {
            self.update("door_ports", &door_port(door.namespace, port), &session)?;
        }
        let mut value = door.namespace.to_ne_bytes().to_vec();
        value.extend_from_slice(&door.tcp.to_ne_bytes());
        value.extend_from_slice(&door.dns.to_ne_bytes());
        self.update("doors", &session, &value)
    }

    /// A session has no door any more: what it asks for by name is refused.
    ///
    /// # Errors
    /// A map cannot be changed.
    pub fn close_door(&self, session: u64) -> Result<(), WallError> {
        if self.kind() == Programs::Monitor {
            return Ok(());
        }
        self.delete("doors", &session.to_ne_bytes())?;
        let ports = self.map("door_ports")?;
        let own: Vec<Vec<u8>> = ports
            .keys()
            .filter(|port| {
                let found = ports.lookup(port, MapFlags::ANY);
                found.is_ok_and(|v| v.is_some_and(|v| v == session.to_ne_bytes()))
            })
            .collect();
        own.iter()
            .try_for_each(|port| self.delete("door_ports", port))
    }

    /// Closes the doors of a daemon that is gone.
    ///
    /// # Errors
    /// A map cannot be changed.
    pub fn close_doors(&self) -> Result<(), WallError> {
        for map in ["doors", "door_ports"] {
            let keys: Vec<Vec<u8>> = self.map(map)?.keys().collect();
            keys.iter().try_for_each(|key| self.delete(map, key))?;
        }
        Ok(())
    }

    /// Who is behind what arrived at a door from `source`; `None`: nobody that the programs turned there.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn captured(
        &self,
        source: SocketAddr,
        how: Arrival,
    ) -> Result<Option<Captured>, WallError> {
        let map = "captured";
        let found = self
            .map(map)?
            .lookup(&source_key(source, how), MapFlags::ANY)
            .map_err(|source| WallError::Map { map, source })?;
        Ok(found.as_deref().and_then(Captured::read))
    }

    /// What came from there has ended.
    ///
    /// # Errors
    /// The map cannot be changed.
    pub fn forget_captured(&self, source: SocketAddr, how: Arrival) -> Result<(), WallError> {
        self.delete("captured", &source_key(source, how))
    }
}

fn door_port(namespace: u32, port: u16) -> Vec<u8> {
    let mut key = namespace.to_ne_bytes().to_vec();
    key.extend_from_slice(&port.to_ne_bytes());
    key.extend_from_slice(&[0; 2]);
    key
}

fn source_key(source: SocketAddr, how: Arrival) -> Vec<u8> {
    let mut key = sixteen(source.ip()).octets().to_vec();
    key.extend_from_slice(&source.port().to_ne_bytes());
    let protocol = match how {
        Arrival::Connection => TCP,
        Arrival::Datagram => UDP,
    };
    key.extend_from_slice(&protocol.to_ne_bytes());
    key
}

fn sixteen(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl Captured {
    /// Reads `struct captured`.
    fn read(bytes: &[u8]) -> Option<Captured> {
        let session = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
        let pid = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let port = u16::from_ne_bytes(bytes.get(12..14)?.try_into().ok()?);
        let address: [u8; 16] = bytes.get(16..32)?.try_into().ok()?;
        let ip = IpAddr::V6(address.into()).to_canonical();
        Some(Captured {
            session,
            pid,
            original: (ip, port).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_found_and_no_part_of_it() {
        let line = |root: &str, kind: &str| {
            format!("29 22 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - {kind} cgroup2 rw")
        };
        assert_eq!(
            root_of_mount(&line("/", "cgroup2")).as_deref(),
            Some(Path::new("/sys/fs/cgroup"))
        );
        assert_eq!(root_of_mount(&line("/init.scope", "cgroup2")), None);
        assert_eq!(root_of_mount(&line("/", "cgroup")), None);
    }

    #[test]
    fn what_was_captured_is_read_whole_or_not_at_all() {
        let mut bytes = 7u64.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&9u32.to_ne_bytes());
        bytes.extend_from_slice(&443u16.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&sixteen([198, 18, 0, 2].into()).octets());
        let read = Captured::read(&bytes).unwrap();
        assert_eq!((read.session, read.pid), (7, 9));
        assert_eq!(read.original, "198.18.0.2:443".parse().unwrap());
        assert_eq!(Captured::read(&bytes[..31]), None);
    }
}
