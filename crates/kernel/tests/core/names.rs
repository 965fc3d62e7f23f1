//! The programs of the root cgroup, attached to a cgroup of the test's own: what a hook would mark is marked here.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use agentwall_kernel::object;
use libbpf_rs::{Link, MapCore as _, MapFlags, Object, ObjectBuilder};
use rustix::net::{AddressFamily, SocketType, connect, getpeername, sendto, socket};

const SESSION: u64 = 77;
const NAME_V4: &str = "198.18.0.9:443";
const NAME_V6: &str = "[fd41:6777::9]:443";

/// A cgroup that this process is in until it is dropped.
struct Group {
    own: PathBuf,
    root: PathBuf,
}

impl Group {
    fn enter() -> Option<Group> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let line = mounts.lines().find(|l| l.starts_with("cgroup2 "))?;
        let root = PathBuf::from(line.split(' ').nth(1)?);
        let own = root.join(format!("agentwall-core-{}", std::process::id()));
        fs::create_dir(&own).ok()?;
        let group = Group { own, root };
        fs::write(group.own.join("cgroup.procs"), "0").ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.root.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.own);
    }
}

struct Programs {
    object: Object,
    _links: Vec<Link>,
    _group: Group,
}

impl Programs {
    fn attach() -> Option<Programs> {
        let group = Group::enter()?;
        let folder = fs::File::open(&group.own).ok()?;
        let opened = ObjectBuilder::default()
            .open_memory(object::NAMES)
            .expect("an object");
        let object = opened.load().expect("the kernel takes the programs");
        let links = object
            .progs_mut()
            .map(|p| p.attach_cgroup(folder.as_raw_fd()).expect("attached"))
            .collect();
        Some(Programs {
            object,
            _links: links,
            _group: group,
        })
    }

    fn put(&self, map: &str, key: &[u8], value: &[u8]) {
        let map = self.object.maps().find(|m| m.name() == map);
        map.expect("the map")
            .update(key, value, MapFlags::ANY)
            .expect("written");
    }

    /// As a hook does it.
    fn mark(&self, socket: &OwnedFd) {
        let mut mark = SESSION.to_ne_bytes().to_vec();
        mark.extend_from_slice(&std::process::id().to_ne_bytes());
        mark.resize(32, 0);
        self.put("marks", &socket.as_raw_fd().to_ne_bytes(), &mark);
    }

    fn owns(&self, listener: &impl std::os::fd::AsRawFd, session: u64) {
        let key = listener.as_raw_fd().to_ne_bytes();
        self.put("listening", &key, &session.to_ne_bytes());
    }

    fn door(&self, tcp: u16, dns: u16) {
        let mut value = 0u32.to_ne_bytes().to_vec();
        value.extend_from_slice(&tcp.to_ne_bytes());
        value.extend_from_slice(&dns.to_ne_bytes());
        self.put("doors", &SESSION.to_ne_bytes(), &value);
    }

    /// The first 16 bytes are the session, the process and the port.
    fn captured(&self, from: SocketAddr, protocol: u16) -> Option<Vec<u8>> {
        let ip = match from {
            SocketAddr::V4(a) => a.ip().to_ipv6_mapped(),
            SocketAddr::V6(a) => *a.ip(),
        };
        let mut key = ip.octets().to_vec();
        key.extend_from_slice(&from.port().to_ne_bytes());
        key.extend_from_slice(&protocol.to_ne_bytes());
        let map = self.object.maps().find(|m| m.name() == "captured");
        map.expect("the map")
            .lookup(&key, MapFlags::ANY)
            .expect("read")
    }
}

fn open(address: &SocketAddr, kind: SocketType) -> OwnedFd {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    socket(family, kind, None).expect("a socket")
}

pub fn names_lead_to_their_door() {
    let Some(programs) = Programs::attach() else {
        println!("no cgroups of version 2 here: nothing was tried");
        return;
    };
    for (name, loopback) in [
        (NAME_V4, "127.0.0.1:0"),
        (NAME_V6, "[::1]:0"),
        ("[::ffff:198.18.0.9]:443", "127.0.0.1:0"),
    ] {
        let listener = TcpListener::bind(loopback).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let wanted: SocketAddr = name.parse().expect("an address");
        programs.door(port, 1);

        let refused = |why: &str| {
            let socket = open(&wanted, SocketType::STREAM);
            programs.mark(&socket);
            let tried = connect(&socket, &wanted);
            assert_eq!(tried, Err(rustix::io::Errno::CONNREFUSED), "{why}");
        };
        refused("the port is somebody's");
        programs.owns(&listener, SESSION + 1);
        refused("the port is another session's");
        programs.owns(&listener, SESSION);

        let socket = open(&wanted, SocketType::STREAM);
        programs.mark(&socket);
        connect(&socket, &wanted).expect("led to the door");
        let (mut end, from) = listener.accept().expect("a connection");
        let peer: SocketAddr = getpeername(&socket)
            .expect("connected")
            .and_then(|a| a.try_into().ok())
            .expect("an address");
        assert_eq!(peer, wanted, "the true peer is what was asked for");
        let told = programs.captured(from, 6).expect("captured");
        assert_eq!(told[..8], SESSION.to_ne_bytes());
        assert_eq!(told[12..14], 443u16.to_ne_bytes());
        let mut client = std::net::TcpStream::from(socket);
        client.write_all(b"x").expect("sent");
        let mut byte = [0];
        end.read_exact(&mut byte).expect("received");

        // The neighbours: a marked socket to an address, and one without a mark to a listener of its own.
        let other = TcpListener::bind(loopback).expect("loopback");
        let address = other.local_addr().expect("bound");
        let plain = open(&address, SocketType::STREAM);
        programs.mark(&plain);
        connect(&plain, &address).expect("an address is left alone");
        let (_, from) = other.accept().expect("a connection");
        assert_eq!(programs.captured(from, 6), None);

        drop(listener);
        refused("nobody listens");
    }
}

pub fn questions_lead_to_their_resolver() {
    let Some(programs) = Programs::attach() else {
        println!("no cgroups of version 2 here: nothing was tried");
        return;
    };
    for (server, loopback, client) in [
        ("192.0.2.1:53", "127.0.0.1:0", "0.0.0.0:0"),
        ("127.0.0.53:53", "127.0.0.1:0", "127.0.0.1:0"),
        ("[2001:db8::1]:53", "[::1]:0", "[::]:0"),
        ("[::ffff:192.0.2.1]:53", "127.0.0.1:0", "[::]:0"),
    ] {
        let resolver = UdpSocket::bind(loopback).expect("loopback");
        let port = resolver.local_addr().expect("bound").port();
        let server: SocketAddr = server.parse().expect("an address");
        programs.door(1, port);
        for connected in [false, true] {
            let socket = UdpSocket::bind(client).expect("a socket");
            let fd = socket.as_fd().try_clone_to_owned().expect("a descriptor");
            programs.mark(&fd);
            let send = || match connected {
                true => socket.connect(server).and_then(|()| socket.send(b"q")),
                false => socket.send_to(b"q", server),
            };
            if connected {
                programs.owns(&resolver, SESSION);
            } else {
                programs.owns(&resolver, SESSION + 1);
                let refused = send().expect_err("the resolver is another session's");
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
                programs.owns(&resolver, SESSION);
            }
            send().expect("sent to the resolver");
            let mut buffer = [0; 8];
            let (n, from) = resolver.recv_from(&mut buffer).expect("a question");
            assert_eq!(&buffer[..n], b"q");
            if !connected {
                assert!(programs.captured(from, 17).is_some(), "{server} {from}");
            }
            resolver.send_to(b"a", from).expect("answered");
            let (_, told) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!(
                told, server,
                "who was asked answers (connected: {connected})"
            );
        }
        // Datagrams to a name go nowhere; asking for a route to it works.
        let name: SocketAddr = if client.starts_with('[') {
            NAME_V6
        } else {
            NAME_V4
        }
        .parse()
        .expect("an address");
        let socket = open(&name, SocketType::DGRAM);
        programs.mark(&socket);
        let sent = sendto(&socket, b"x", rustix::net::SendFlags::empty(), &name);
        assert_eq!(sent, Err(rustix::io::Errno::CONNREFUSED));
        connect(&socket, &name).expect("a route");
    }
}
