//! Scenarios in two processes: the wall (this process, in the host's namespace) and the agent (the
//! same test, run again by `unshare -Urn` as an ordinary user). The agent's side configures its
//! namespace, sends the listeners through its standard input, drops its capabilities and acts.

#![allow(dead_code)]

use std::{
    collections::HashMap,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agentwall_action::Endpoint;
use agentwall_egress::{
    Connection, Egress, EgressConfig, Gate, HostLoopback, Listeners, Lookup, NetPlan, Origin,
    Outcome, Verdict, netns,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

const ROLE: &str = "AGENTWALL_TEST_AGENT";
/// Facts that the wall's side passes to the agent's side.
const FACTS: &str = "AGENTWALL_TEST_FACTS";
const LIMIT: Duration = Duration::from_secs(60);

/// Allows what the test says, records all.
pub struct TestGate {
    pub allowed: Vec<(Option<&'static str>, IpAddr, u16)>,
    pub asked: Mutex<Vec<Endpoint>>,
    pub names: Mutex<Vec<String>>,
    pub ended: Mutex<Vec<Connection>>,
}

impl Gate for TestGate {
    fn resolve(&self, name: &str) -> Verdict {
        self.names.lock().unwrap().push(name.to_owned());
        if name.ends_with(".allowed.test") {
            Verdict::Allow
        } else {
            Verdict::Deny("names outside allowed.test are refused".into())
        }
    }

    fn connect(&self, dest: &Endpoint, _: Origin) -> Verdict {
        self.asked.lock().unwrap().push(dest.clone());
        let known = self.allowed.iter().any(|(host, ip, port)| {
            dest.host.as_deref() == *host && dest.ip == Some(*ip) && dest.port == *port
        });
        if known {
            Verdict::Allow
        } else {
            Verdict::Deny("not on the list".into())
        }
    }

    fn finished(&self, connection: &Connection) {
        self.ended.lock().unwrap().push(connection.clone());
    }
}

/// What the wall's side can look at while and after the agent acts.
pub struct Wall {
    pub egress: Arc<Mutex<Option<Egress>>>,
    pub gate: Arc<TestGate>,
    line: UnixStream,
}

impl Wall {
    /// The line to the agent's side, for [`step`] and [`await_step`].
    pub fn line(&self) -> UnixStream {
        self.line.try_clone().unwrap()
    }

    pub fn with<T>(&self, look: impl FnOnce(&Egress) -> T) -> T {
        look(self.egress.lock().unwrap().as_ref().unwrap())
    }

    /// Waits until so many connections have ended, and gives their records.
    pub fn ended(&self, count: usize) -> Vec<Connection> {
        let start = Instant::now();
        loop {
            let ended = self.gate.ended.lock().unwrap().clone();
            if ended.len() >= count {
                return ended;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "only {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn outcomes(&self, count: usize) -> Vec<Outcome> {
        self.ended(count).into_iter().map(|c| c.outcome).collect()
    }
}

pub struct Scenario {
    pub name: &'static str,
    pub plan: HostLoopback,
    pub allowed: Vec<(Option<&'static str>, IpAddr, u16)>,
    pub lookup: HashMap<&'static str, Vec<&'static str>>,
    pub facts: Vec<u16>,
    pub max_connections: usize,
}

impl Scenario {
    pub fn new(name: &'static str) -> Self {
        Scenario {
            name,
            plan: HostLoopback::none(),
            allowed: Vec::new(),
            lookup: HashMap::new(),
            facts: Vec::new(),
            max_connections: 512,
        }
    }

    /// An allowed name that leads to a host's server; the port becomes the next fact.
    pub fn reach(mut self, host: &'static str, ip: &'static str, port: u16) -> Self {
        self.allowed.push((Some(host), ip.parse().unwrap(), port));
        self.lookup.entry(host).or_default().push(ip);
        self.facts.push(port);
        self
    }

    /// Runs the agent's side in a namespace and `check` beside it, after the agent has ended well.
    pub fn run(self, check: impl FnOnce(&Wall)) {
        self.run_with(|_| {}, check);
    }

    /// Like `run`; `before` is called when the wall stands and the agent waits.
    pub fn run_with(self, before: impl FnOnce(&Wall), check: impl FnOnce(&Wall)) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = if rustix::process::geteuid().is_root() {
            let mut c = Command::new("setpriv");
            c.args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "unshare",
            ]);
            c
        } else {
            Command::new("unshare")
        };
        let facts: Vec<_> = self.facts.iter().map(u16::to_string).collect();
        let mut child = command
            .args(["-Urn", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", self.name, "--nocapture", "--test-threads=1"])
            .env(ROLE, "1")
            .env(FACTS, facts.join(","))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare from util-linux starts");
        // The agent's side first reads which ports the plan names.
        let mut ours = ours;
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let ranges: Vec<_> = self
            .plan
            .ranges()
            .iter()
            .map(|r| format!("{}-{}", r.start(), r.end()))
            .collect();
        writeln!(ours, "{}", ranges.join(",")).unwrap();
        let fds = match receive(&ours) {
            Ok(fds) if !fds.is_empty() => fds,
            other => {
                let _ = child.kill();
                let out = child.wait_with_output().unwrap();
                panic!("no listeners ({other:?}): {}", text(&out));
            }
        };
        let listeners = Listeners::from_owned_fds(fds).unwrap();
        let gate = Arc::new(TestGate {
            allowed: self.allowed,
            asked: Mutex::default(),
            names: Mutex::default(),
            ended: Mutex::default(),
        });
        let mut config = EgressConfig::default();
        let table = self.lookup;
        config.lookup = Lookup::new(move |name| match table.get(name) {
            Some(list) => Ok(list.iter().map(|ip| ip.parse().unwrap()).collect()),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        config.max_connections = self.max_connections;
        let egress = Egress::start(listeners, gate.clone(), config).unwrap();
        let wall = Wall {
            egress: Arc::new(Mutex::new(Some(egress))),
            gate,
            line: ours.try_clone().unwrap(),
        };
        before(&wall);
        ours.write_all(b"!").unwrap();

        let pid = rustix::process::Pid::from_child(&child);
        let (done, waited) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if waited.recv_timeout(LIMIT).is_err() {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
        });
        let out = child.wait_with_output().unwrap();
        let _ = done.send(());
        watchdog.join().unwrap();
        assert!(
            out.status.success(),
            "the agent's side failed: {}",
            text(&out)
        );
        assert!(
            text(&out).contains("1 passed"),
            "the agent's side ran no test: {}",
            text(&out)
        );
        check(&wall);
    }
}

fn text(out: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// The agent's side, or `None` in the wall's process.
pub fn agent() -> Option<Agent> {
    std::env::var_os(ROLE)?;
    let stdin = io::stdin();
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        rustix::io::read(&stdin, &mut byte).unwrap();
        if byte == *b"\n" {
            break;
        }
        line.extend(byte);
    }
    let line = String::from_utf8(line).unwrap();
    let plan = HostLoopback::ports(line.split(',').filter(|r| !r.is_empty()).map(|r| {
        let (a, b) = r.split_once('-').unwrap();
        a.parse().unwrap()..=b.parse().unwrap()
    }));
    let listeners = Listeners::bind(&plan).unwrap();
    let net = listeners.plan(plan);
    let start = Instant::now();
    netns::configure(&net).unwrap();
    let took = start.elapsed();
    send(&stdin, &listeners);
    drop(listeners);
    drop_capabilities();
    rustix::io::read(&stdin, &mut byte).unwrap();
    let facts = std::env::var(FACTS).unwrap();
    let facts = facts
        .split(',')
        .filter(|f| !f.is_empty())
        .map(|f| f.parse().unwrap())
        .collect();
    Some(Agent {
        plan: net,
        took,
        facts,
    })
}

/// Tells the other side that something has happened; the agent's side does so on its standard input.
pub fn step(line: &impl AsFd) {
    assert_eq!(rustix::io::write(line, b"."), Ok(1));
}

/// Waits until the other side tells so.
pub fn await_step(line: &impl AsFd) {
    assert_eq!(
        rustix::io::read(line, &mut [0]),
        Ok(1),
        "the other side ended"
    );
}

pub struct Agent {
    pub plan: NetPlan,
    pub took: Duration,
    pub facts: Vec<u16>,
}

impl Agent {
    /// Resolves through the wall by the C library's own packets: a plain UDP query.
    pub fn resolve(&self, name: &str, kind: u16) -> (u8, Vec<IpAddr>) {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        // Any server address will do: all of them are captured.
        socket.connect("192.0.2.53:53").unwrap();
        socket.send(&query(name, kind)).unwrap();
        let mut buffer = [0; 1500];
        let n = socket.recv(&mut buffer).unwrap();
        parse(&buffer[..n])
    }

    pub fn v4(&self, name: &str) -> IpAddr {
        self.resolve(name, 1).1[0]
    }

    pub fn v6(&self, name: &str) -> IpAddr {
        self.resolve(name, 28).1[0]
    }

    pub fn connect(&self, name: &str, port: u16) -> TcpStream {
        TcpStream::connect((self.v4(name), port)).unwrap()
    }
}

/// A DNS query for a name, with EDNS.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    packet
}

/// Code and addresses of an answer.
pub fn parse(packet: &[u8]) -> (u8, Vec<IpAddr>) {
    let message = hickory_proto::op::Message::from_vec(packet).unwrap();
    assert_eq!(message.metadata.id, 0x1234);
    let addresses = message
        .answers
        .iter()
        .filter_map(|r| r.data.ip_addr())
        .collect();
    (packet[3] & 15, addresses)
}

/// The connection dies by a reset before a byte arrives.
pub fn assert_reset(to: SocketAddr) {
    let error = match TcpStream::connect(to) {
        Err(e) => e,
        Ok(mut stream) => {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            stream
                .read(&mut [0])
                .expect_err("no byte and no orderly end")
        }
    };
    assert_eq!(
        error.kind(),
        io::ErrorKind::ConnectionReset,
        "{to}: {error}"
    );
}

/// A server on the host's loopback; each connection is handled in a thread.
pub fn serve(ip: &str, handle: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            std::thread::spawn(move || handle(stream));
        }
    });
    port
}

/// Reads to the end, then answers with what it read and a full stop.
pub fn echo_after_end(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    if stream.read_to_end(&mut bytes).is_ok() {
        bytes.push(b'.');
        let _ = stream.write_all(&bytes);
    }
}

fn send(to: &impl AsFd, listeners: &Listeners) {
    let fds = listeners.as_fds();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(to, &[IoSlice::new(b"L")], &mut control, SendFlags::empty()).unwrap();
}

fn receive(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(fds)
}

fn drop_capabilities() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
    .unwrap();
}
