//! Host names behind the wall in the kernel: what is asked for by name is decided by name, and there is no way past it.
//!
//! The machine has its loopback alone, with two public addresses on it, and a name server of the suite, which only
//! the daemon is to reach. A name that nobody may ask for must not be heard there.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use agentwall_tests::{
    said::{Verdict, need, run},
    servers::{Log, Servers},
};

use crate::{
    case::{Guest, command, sh},
    wall::{Daemon, done, ledger, say, status, wait_for},
};

/// All of them.
pub fn cases() -> Vec<Guest> {
    vec![
        Guest::new("names/decided", decided),
        Guest::new("names/denied", denied),
        Guest::new("names/asked", asked),
        Guest::new("names/door", door),
        Guest::new("names/dead", dead),
    ]
}

/// What everything is tried with.
const NAMED: &str = "  - {id: named, action: net.connect, resource: 'tcp://allowed.agentwall.test:*', effect: allow}\n";
/// Everything but one name.
const ALL_BUT: &str = "  - {id: not-this, priority: 1, action: net.connect, resource: 'tcp://denied.agentwall.test:*', effect: deny, reason: not this host}
  - {id: rest, action: net.connect, resource: 'tcp://*:*', effect: allow}\n";
const ASKED: &str = "  - {id: asked-host, action: net.connect, resource: 'tcp://asked.agentwall.test:80', effect: ask}\n";

/// Addresses, a name server and a server on port 80, as long as this lives.
struct Net {
    log: Log,
    _servers: Servers,
    resolv: Vec<u8>,
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = fs::write("/etc/resolv.conf", &self.resolv);
        for address in ["1.2.3.4/32", "1.2.3.5/32"] {
            let _ = command("ip")
                .args(["addr", "del", address, "dev", "lo"])
                .status();
        }
    }
}

impl Net {
    fn up(folder: &Path) -> Result<Net, String> {
        let resolv = fs::read("/etc/resolv.conf").unwrap_or_default();
        sh(
            folder,
            "ip addr add 1.2.3.4/32 dev lo; ip addr add 1.2.3.5/32 dev lo
            printf 'nameserver 127.0.0.1\\noptions timeout:5 attempts:2\\n' > /etc/resolv.conf",
        )?
        .ended(0)?;
        let log = Log::default();
        let servers = Servers::new(&log);
        for port in [80, 8080] {
            servers.tcp(port).map_err(say("server"))?;
        }
        servers.dns().map_err(say("name server"))?;
        Ok(Net {
            log,
            _servers: servers,
            resolv,
        })
    }

    /// Whether a word reached a server or the name server.
    fn heard(&self, word: &str) -> bool {
        !self.log.find(|s| s.payload.contains(word)).is_empty()
    }

    fn reached(&self, word: &str) -> Verdict {
        need(self.heard(word), format!("{word} did not arrive"))
    }

    fn not_reached(&self, words: &[&str]) -> Verdict {
        (words.iter()).try_for_each(|word| need(!self.heard(word), format!("{word} arrived")))
    }
}

/// A daemon whose policy for `builder` has these rules more.
fn begin<'f>(folder: &'f Path, rules: &str) -> Result<Daemon<'f>, String> {
    let daemon = Daemon::begin(folder)?;
    daemon.swap(rules)?;
    let (_, told) = status()?;
    need(
        told["names"] == true,
        format!("host names are not decided: {}", daemon.log()),
    )?;
    Ok(daemon)
}

fn python(text: &str) -> String {
    format!("/usr/bin/python3 -c '{text}'")
}

/// A question to a name server of one's own choice, by datagram and by connection.
fn question(name: &str) -> String {
    python(&format!(
        "
import socket
def ask(kind):
    q = b\"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\" + b\"\".join(bytes([len(l)]) + l for l in b\"{name}.agentwall.test\".split(b\".\")) + b\"\\0\\0\\1\\0\\1\"
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(20)
    s.connect((\"1.2.3.5\", 53))
    if kind == socket.SOCK_STREAM:
        q = bytes([0, len(q)]) + q
    s.send(q)
    s.recv(512)
    print(\"asked\", s.getpeername()[0])
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    try:
        ask(kind)
    except OSError as e:
        print(e)
"
    ))
}

/// A permitted name works, and the process sees the peer that it asked for; nothing else arrives: another name, the
/// address of the permitted one, a name for an address of one's own choice, another Host, other name servers.
fn decided(folder: &Path) -> Verdict {
    let net = Net::up(folder)?;
    let daemon = begin(folder, NAMED)?;
    let peer = python(
        "
import socket
s = socket.create_connection((\"allowed.agentwall.test\", 80), 20)
s.send(b\"GET /peer HTTP/1.0\\r\\nHost: allowed.agentwall.test\\r\\n\\r\\n\")
print(\"peer\", s.getpeername()[0][:6], s.getpeername()[1], s.recv(99)[:12])
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    u.sendto(b\"datagram\", s.getpeername())
except OSError as e:
    print(\"udp\", e.errno)
",
    );
    let curl = "curl -s --max-time 30";
    let by_curl = daemon.governed(&format!(
        "{curl} http://allowed.agentwall.test/allowed
        {curl} http://other.agentwall.test/other; getent hosts tunnel.allowed.agentwall.test
        {curl} http://1.2.3.4/address
        {curl} --resolve allowed.agentwall.test:80:1.2.3.4 http://allowed.agentwall.test/override
        {curl} -H 'Host: fronted.agentwall.test' http://allowed.agentwall.test/fronted
        {curl} http://allowed.agentwall.test:8080/again"
    ))?;
    by_curl.says(&["HELLO"])?;
    let said = daemon.governed(&format!("{peer}\n{}", question("tunnel")))?;
    net.reached("/allowed")?;
    net.reached("/peer")?;
    net.reached("/again")?;
    net.not_reached(&[
        "/address",
        "/override",
        "/fronted",
        "other",
        "tunnel",
        "datagram",
    ])?;
    said.says(&[
        "peer 198.18 80 b'HTTP/1.0 200'",
        "udp 13",
        "asked 1.2.3.5\nasked 1.2.3.5\n",
    ])?;
    for part in [
        "tcp://allowed.agentwall.test:80",
        "dns:other.agentwall.test",
        "names another host, fronted.agentwall.test",
    ] {
        wait_for(part, || {
            ledger().is_ok_and(|entries| entries.contains(part))
        })?;
    }
    // Who is not governed goes where it likes.
    sh(
        folder,
        "curl -s --max-time 30 http://other.agentwall.test/free",
    )?
    .ended(0)?
    .says(&["HELLO"])?;
    net.reached("/free")
}

/// A denied name has no effect, whatever else is allowed: other names, and addresses.
fn denied(folder: &Path) -> Verdict {
    let net = Net::up(folder)?;
    let daemon = begin(folder, ALL_BUT)?;
    let curl = "curl -s --max-time 30";
    daemon
        .governed(&format!(
            "{curl} http://denied.agentwall.test/denied; {curl} http://DENIED.agentwall.test./spelled
            {curl} http://other.agentwall.test/other; {curl} http://1.2.3.5/address"
        ))?
        .ended(0)?;
    net.reached("/other")?;
    net.reached("/address")?;
    net.not_reached(&["denied", "/spelled"])?;
    // Another network namespace has another loopback: no name leads anywhere there.
    let inside = format!(
        "ip link set lo up; exec \"$AGENTWALL_BIN\" daemon exec --policy builder -- sh -c '{curl} http://other.agentwall.test/elsewhere
        echo through; \"$AGENTWALL_BIN\" why'"
    );
    let said = run(command("unshare")
        .args(["--net", "sh", "-c", &inside])
        .current_dir(folder))?;
    said.says(&["through", "the host's own network alone"])?;
    net.not_reached(&["/elsewhere"])
}

/// A question about a name waits for a person, and the yes is for that name at that address.
fn asked(folder: &Path) -> Verdict {
    let net = Net::up(folder)?;
    let daemon = begin(folder, ASKED)?;
    let curl = "curl -s --max-time 30";
    let governed = daemon.spawn(&format!(
            "{curl} http://asked.agentwall.test/first; touch work/asked; while ! test -e go; do sleep 0.2; done
            {curl} http://asked.agentwall.test/second; {curl} http://asked.agentwall.test/third"
    ))?;
    wait_for("the first refusal", || daemon.path("work/asked").exists())?;
    let id = question_about("asked.agentwall.test")?;
    done(&["approve", &id])?
        .ended(0)?
        .says(&["tcp://asked.agentwall.test:80"])?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    governed.out()?;
    net.reached("/second")?;
    net.not_reached(&["/first", "/third"])
}

/// The question that waits about a host.
fn question_about(host: &str) -> Result<String, String> {
    let said = done(&["pending", "--json"])?;
    let asks: serde_json::Value =
        serde_json::from_slice(&said.out).map_err(|e| format!("{e}: {}", said.brief()))?;
    let asks = asks.as_array().cloned().unwrap_or_default();
    let about = |ask: &&serde_json::Value| ask["action"].to_string().contains(host);
    let found = asks.iter().find(about).and_then(|a| a["id"].as_str());
    found.map(str::to_owned).ok_or(said.brief())
}

/// Ports on which something listens for names on the loopback.
fn doors() -> Result<Vec<u16>, String> {
    let table = fs::read_to_string("/proc/net/tcp").map_err(say("/proc/net/tcp"))?;
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (ip == "0100007F" && fields.get(3) == Some(&"0A") && port >= 61_000).then_some(port)
    };
    Ok(table.lines().filter_map(port).collect())
}

/// Nobody comes to a door but by the kernel's turning: neither another session, whatever it may connect to, nor
/// somebody who is not governed.
fn door(folder: &Path) -> Verdict {
    let net = Net::up(folder)?;
    let daemon = begin(folder, ALL_BUT)?;
    let first = daemon.spawn("touch work/ready; while ! test -e go; do sleep 0.2; done; curl -s --max-time 30 http://other.agentwall.test/mine")?;
    wait_for("the session", || daemon.path("work/ready").exists())?;
    let ports = doors()?;
    need(ports.len() == 2, format!("doors at {ports:?}"))?;
    for port in &ports {
        let served = TcpStream::connect(("127.0.0.1", *port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.read(&mut [0])
        });
        need(!matches!(served, Ok(1)), "the door answered a stranger")?;
    }
    let tries = python(&format!(
        "
import socket
for port in {ports:?} + [80]:
    for host in (\"127.0.0.1\", \"0.0.0.0\", \"::ffff:127.0.0.1\"):
        s = socket.socket(socket.AF_INET6 if \":\" in host else socket.AF_INET)
        try:
            s.connect((host, port))
            print(\"connected\", port)
        except OSError as e:
            print(\"errno\", e.errno)
"
    ));
    let said = daemon.governed(&tries)?;
    need(
        said.out() == "errno 13\n".repeat(6) + &"connected 80\n".repeat(3),
        said.brief(),
    )?;
    fs::write(daemon.path("go"), "").map_err(say("go"))?;
    first.out()?;
    net.reached("/mine")
}

/// Without a daemon nothing goes out by name, and who takes its ports is not taken for it; the next one serves the
/// same session again.
fn dead(folder: &Path) -> Verdict {
    let net = Net::up(folder)?;
    let daemon = begin(folder, NAMED)?;
    let reach = |word: &str| {
        python(&format!(
            "
import socket
def reach(a, word):
    try:
        s = socket.create_connection(a, 30)
        s.send(b\"GET /\" + word + b\" HTTP/1.0\\r\\nHost: allowed.agentwall.test\\r\\n\\r\\n\")
        print(word, s.recv(8))
    except OSError as e:
        print(word, \"errno\", e.errno)
import time, os
a = socket.getaddrinfo(\"allowed.agentwall.test\", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4]
reach(a, b\"{word}-before\")
open(\"work/ready\", \"w\").close()
while not os.path.exists(\"dead\"): time.sleep(0.2)
reach(a, b\"{word}-dead\")
reach((\"allowed.agentwall.test\", 80), b\"{word}-unknown\")
open(\"work/tried\", \"w\").close()
while not os.path.exists(\"again\"): time.sleep(0.2)
reach(a, b\"{word}-stale\")
reach((\"allowed.agentwall.test\", 80), b\"{word}-again\")
"
        ))
    };
    let governed = daemon.spawn(&reach("x"))?;
    wait_for("the first connection", || {
        daemon.path("work/ready").exists()
    })?;
    let ports = doors()?;
    daemon.kill()?;
    let mut others = Vec::new();
    for port in ports {
        let other = TcpListener::bind(("127.0.0.1", port)).map_err(say("the door's port"))?;
        other
            .set_nonblocking(true)
            .map_err(say("the door's port"))?;
        others.push(other);
    }
    need(others.len() == 2, "no doors were found")?;
    fs::write(daemon.path("dead"), "").map_err(say("dead"))?;
    wait_for("the second try", || daemon.path("work/tried").exists())?;
    for other in &others {
        need(
            other.accept().is_err(),
            "the door's port led to somebody else",
        )?;
    }
    drop(others);
    daemon.again()?;
    fs::write(daemon.path("again"), "").map_err(say("again"))?;
    let said = governed.out()?;
    net.reached("/x-before")?;
    net.reached("/x-again")?;
    net.not_reached(&["/x-dead", "/x-unknown", "/x-stale"])?;
    need(said.contains("b'x-dead' errno 111"), said)
}
