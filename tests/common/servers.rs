//! Canary servers on the host: whatever reaches them got out.
//!
//! They listen on every address of the suite's network namespace, so any spelling of any private
//! address lands here when nothing stops it.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// One thing that a server saw.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `tcp`, `udp`, `dns`, `unix`.
    pub what: &'static str,
    /// The local port; 0 for Unix sockets.
    pub port: u16,
    /// What was sent, lossy.
    pub payload: String,
    owner: u64,
}

/// Everything that all servers of the suite saw.
///
/// An entry remembers whose server saw it: the kernel gives the port of a world that has ended to
/// another one.
#[derive(Debug, Clone, Default)]
pub struct Log {
    seen: Arc<Mutex<Vec<Seen>>>,
    owner: u64,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, what: &'static str, port: u16, payload: &[u8]) {
        self.lock().push(Seen {
            what,
            port,
            payload: String::from_utf8_lossy(payload).into_owned(),
            owner: self.owner,
        });
    }

    /// What a server made by a case saw.
    pub fn note(&self, what: &'static str, payload: &[u8]) {
        self.add(what, 0, payload);
    }

    /// The entries for which `f` holds.
    pub fn find(&self, f: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        self.lock().iter().filter(|s| f(s)).cloned().collect()
    }
}

/// Servers that live as long as this value.
#[derive(Debug)]
pub struct Servers {
    log: Log,
    stop: Arc<AtomicBool>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

const PAUSE: Duration = Duration::from_millis(5);

impl Servers {
    /// None yet.
    pub fn new(log: &Log) -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
        let log = Log {
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            ..log.clone()
        };
        Servers {
            log,
            stop: Arc::default(),
        }
    }

    /// Whether it was one of these servers that saw it.
    pub fn saw(&self, seen: &Seen) -> bool {
        seen.owner == self.log.owner
    }

    fn spawn(&self, mut step: impl FnMut(&Log) -> bool + Send + 'static) {
        let (log, stop) = (self.log.clone(), self.stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if !step(&log) {
                    thread::sleep(PAUSE);
                }
            }
        });
    }

    /// A TCP server; answers anything with an HTTP response whose body is `HELLO`. Port 0 chooses.
    pub fn tcp(&self, port: u16) -> std::io::Result<u16> {
        let listener = TcpListener::bind(("::", port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.spawn(move |log| {
            let Ok((mut s, _)) = listener.accept() else {
                return false;
            };
            let log = log.clone();
            thread::spawn(move || {
                let mut buf = [0; 2048];
                let _ = s.set_nonblocking(false);
                let _ = s.set_read_timeout(Some(Duration::from_millis(700)));
                let n = s.read(&mut buf).unwrap_or(0);
                log.add("tcp", port, &buf[..n]);
                let _ = s.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nHELLO\n");
            });
            true
        });
        Ok(port)
    }

    /// A UDP server; answers `HELLO`.
    pub fn udp(&self, port: u16) -> std::io::Result<u16> {
        let socket = UdpSocket::bind(("::", port))?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        self.spawn(move |log| {
            let mut buf = [0; 2048];
            let Ok((n, from)) = socket.recv_from(&mut buf) else {
                return false;
            };
            log.add("udp", port, &buf[..n]);
            let _ = socket.send_to(b"HELLO", from);
            true
        });
        Ok(port)
    }

    /// A name server on port 53 of every address: `*.agentwall.test` has the address `PUBLIC`
    /// (names that begin with `rebind` have 10.0.0.1). Logs every name asked for.
    pub fn dns(&self) -> std::io::Result<()> {
        let socket = UdpSocket::bind(("::", 53))?;
        socket.set_nonblocking(true)?;
        self.spawn(move |log| {
            let mut buf = [0; 1500];
            let Ok((n, from)) = socket.recv_from(&mut buf) else {
                return false;
            };
            let query = &buf[..n];
            let (name, end) = dns_name(query);
            log.add("dns", 53, name.as_bytes());
            if let Some(answer) = dns_answer(query, &name, end) {
                let _ = socket.send_to(&answer, from);
            }
            true
        });
        Ok(())
    }

    /// Listening Unix sockets: an abstract one, and stream and datagram ones in `dir`.
    pub fn unix(&self, dir: &Path, abstract_name: &str) -> std::io::Result<()> {
        let named = SocketAddr::from_abstract_name(abstract_name.as_bytes())?;
        let abstract_dgram =
            SocketAddr::from_abstract_name(format!("{abstract_name}-dgram").as_bytes())?;
        let stream = dir.join("stream.sock");
        let listeners = [
            UnixListener::bind_addr(&named)?,
            UnixListener::bind(&stream)?,
        ];
        for listener in listeners {
            listener.set_nonblocking(true)?;
            self.spawn(move |log| {
                let Ok((mut s, _)) = listener.accept() else {
                    return false;
                };
                let mut buf = [0; 512];
                let _ = s.set_nonblocking(false);
                let _ = s.set_read_timeout(Some(Duration::from_millis(300)));
                let n = s.read(&mut buf).unwrap_or(0);
                log.add("unix", 0, &buf[..n]);
                let _ = s.write_all(b"HELLO");
                true
            });
        }
        let sockets = [
            UnixDatagram::bind(dir.join("dgram.sock"))?,
            UnixDatagram::bind_addr(&abstract_dgram)?,
        ];
        for socket in sockets {
            socket.set_nonblocking(true)?;
            self.spawn(move |log| {
                let mut buf = [0; 512];
                match socket.recv(&mut buf) {
                    Ok(n) => log.add("unix", 0, &buf[..n]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                    Err(_) => return false,
                }
                true
            });
        }
        for name in ["stream.sock", "dgram.sock"] {
            fs::set_permissions(
                dir.join(name),
                std::os::unix::fs::PermissionsExt::from_mode(0o777),
            )?;
        }
        Ok(())
    }
}

/// The address behind every permitted name; only a label here, bound to `lo` of the namespace.
pub const PUBLIC: [u8; 4] = [1, 2, 3, 4];

fn dns_name(query: &[u8]) -> (String, usize) {
    let (mut at, mut name) = (12, String::new());
    while let Some(&len) = query.get(at) {
        at += 1;
        if len == 0 || len > 63 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = query.get(at..at + usize::from(len)).unwrap_or_default();
        name += &String::from_utf8_lossy(label);
        at += usize::from(len);
    }
    (name.to_ascii_lowercase(), at)
}

fn dns_answer(query: &[u8], name: &str, end: usize) -> Option<Vec<u8>> {
    let question = query.get(12..end + 4)?;
    let a = question.get(question.len() - 4..)? == [0, 1, 0, 1];
    let known = name.ends_with(".agentwall.test");
    let mut out = query.get(..2)?.to_vec();
    out.extend([
        0x81,
        if known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(a && known),
        0,
        0,
        0,
        0,
    ]);
    out.extend(question);
    if a && known {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        out.extend(if name.starts_with("rebind") {
            [10, 0, 0, 1]
        } else {
            PUBLIC
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_used_again_does_not_carry_over_what_was_heard_on_it() {
        let log = Log::default();
        let (earlier, later) = (Servers::new(&log), Servers::new(&log));
        let port = earlier.udp(0).expect("a port");
        let sender = UdpSocket::bind(("::", 0)).expect("a socket");
        sender
            .send_to(b"heard", ("::1", port))
            .expect("loopback takes it");
        let seen = loop {
            match log.find(|s| s.port == port).pop() {
                Some(seen) => break seen,
                None => thread::sleep(PAUSE),
            }
        };
        assert!(earlier.saw(&seen));
        assert!(!later.saw(&seen));
    }
}
