//! The captured network, end to end, in real namespaces of an ordinary user. Each test runs in two
//! processes; see `support`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use agentwall_egress::{HostLoopback, OWN_V4, OWN_V6, Outcome, Target, Ticket};
use sha2::{Digest, Sha256};
use support::{
    Scenario, agent, assert_reset, await_step, echo_after_end, parse, query, serve, step,
};

const NXDOMAIN: u8 = 3;
const FORMERR: u8 = 1;

fn exchange(mut stream: TcpStream, text: &[u8]) -> Vec<u8> {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(text).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn an_allowed_name_reaches_its_server_by_both_families() {
    let Some(agent) = agent() else {
        let four = serve("127.0.0.1", echo_after_end);
        let six = serve("::1", echo_after_end);
        return Scenario::new("an_allowed_name_reaches_its_server_by_both_families")
            .reach("a.allowed.test", "127.0.0.1", four)
            .reach("a.allowed.test", "::1", six)
            .run(|wall| {
                let ended = wall.ended(2);
                assert!(
                    ended.iter().all(|c| c.outcome == Outcome::Closed),
                    "{ended:?}"
                );
                assert_eq!((ended[0].up, ended[0].down), (5, 6));
                assert_eq!(ended[0].dest.host.as_deref(), Some("a.allowed.test"));
                assert_eq!(*wall.gate.names.lock().unwrap(), ["a.allowed.test"]);
                let target = wall
                    .with(|e| e.target_of(ended[0].origin.original.ip(), four))
                    .unwrap();
                assert_eq!(target.host.as_deref(), Some("a.allowed.test"));
            });
    };
    println!("configured in {:?}", agent.took);
    assert_eq!(
        exchange(agent.connect("a.allowed.test", agent.facts[0]), b"hello"),
        b"hello."
    );
    // The C library agrees, with AI_ADDRCONFIG, which wants an address besides loopback.
    let out = std::process::Command::new("getent")
        .args(["ahostsv4", "a.allowed.test"])
        .output();
    let out = String::from_utf8(out.unwrap().stdout).unwrap();
    assert!(
        out.starts_with(&agent.v4("a.allowed.test").to_string()),
        "{out}"
    );
    let v6 = agent.v6("a.ALLOWED.test");
    assert!(v6.is_ipv6());
    let stream = TcpStream::connect((v6, agent.facts[1])).unwrap();
    assert_eq!(exchange(stream, b"six"), b"six.");
}

#[test]
fn refused_names_and_addresses_go_nowhere() {
    let Some(agent) = agent() else {
        let port = serve("127.0.0.1", echo_after_end);
        return Scenario::new("refused_names_and_addresses_go_nowhere")
            .reach("good.allowed.test", "127.0.0.1", port)
            .run(|wall| {
                let ended = wall.ended(5);
                let denied = Outcome::Denied("not on the list".into());
                assert_eq!(
                    ended.iter().filter(|c| c.outcome == denied).count(),
                    3,
                    "{ended:?}"
                );
                let nowhere = |c: &&_| agentwall_nowhere(c);
                assert_eq!(ended.iter().filter(nowhere).count(), 2, "{ended:?}");
            });
    };
    assert_eq!(agent.resolve("evil.test", 1), (NXDOMAIN, vec![]));
    assert_eq!(agent.resolve("missing.allowed.test", 1), (NXDOMAIN, vec![]));
    assert_eq!(agent.resolve("127.0.0.1", 1), (NXDOMAIN, vec![]));
    let good = agent.v4("good.allowed.test");
    // By address; on another port; the metadata service; a synthetic address never given out; the
    // wall's own listener.
    assert_reset("192.0.2.1:443".parse().unwrap());
    assert_reset((good, 9).into());
    assert_reset("169.254.169.254:80".parse().unwrap());
    assert_reset("198.18.77.77:80".parse().unwrap());
    assert_reset((Ipv4Addr::LOCALHOST, agent.plan.tcp_port).into());
    assert_eq!(
        exchange(agent.connect("good.allowed.test", agent.facts[0]), b"x"),
        b"x."
    );
}

fn agentwall_nowhere(connection: &agentwall_egress::Connection) -> bool {
    connection.outcome == Outcome::NoSuchAddress
}

#[test]
fn half_close_and_server_first_and_resets() {
    let Some(agent) = agent() else {
        let echo = serve("127.0.0.1", echo_after_end);
        let banner = serve("127.0.0.1", |mut s| {
            s.write_all(b"220 ready\r\n").unwrap();
            echo_after_end(s);
        });
        let resetting = serve("127.0.0.1", |mut s| {
            s.read_exact(&mut [0; 3]).unwrap();
            rustix::net::sockopt::set_socket_linger(&s, Some(Duration::ZERO)).unwrap();
        });
        return Scenario::new("half_close_and_server_first_and_resets")
            .reach("x.allowed.test", "127.0.0.1", echo)
            .reach("x.allowed.test", "127.0.0.1", banner)
            .reach("x.allowed.test", "127.0.0.1", resetting)
            .run(|wall| {
                let outcomes = wall.outcomes(4);
                let closed = outcomes.iter().filter(|o| **o == Outcome::Closed).count();
                assert_eq!((closed, outcomes.len()), (3, 4), "{outcomes:?}");
                assert!(outcomes.contains(&Outcome::Reset));
            });
    };
    assert_eq!(
        exchange(agent.connect("x.allowed.test", agent.facts[0]), b""),
        b"."
    );
    assert_eq!(
        exchange(agent.connect("x.allowed.test", agent.facts[0]), b"hi"),
        b"hi."
    );
    let mut stream = agent.connect("x.allowed.test", agent.facts[1]);
    let start = Instant::now();
    let mut banner = [0; 11];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
    assert!(
        start.elapsed() < Duration::from_millis(200),
        "the server speaks without delay"
    );
    assert_eq!(exchange(stream, b"quit"), b"quit.");
    let mut stream = agent.connect("x.allowed.test", agent.facts[2]);
    stream.write_all(b"\0\0\0").unwrap();
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

/// A reproducible stream of bytes.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend((state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn send_all_and_hash(mut stream: TcpStream, seed: u64) -> (usize, [u8; 32]) {
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for chunk in pattern(seed, BIG).chunks(100_003) {
            writer.write_all(chunk).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (mut hash, mut total) = (Sha256::new(), 0);
    let mut buffer = vec![0; 70_001];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        if total < 3_000_000 && total % 7 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        total += n;
        hash.update(&buffer[..n]);
    }
    sender.join().unwrap();
    (total, hash.finalize().into())
}

const BIG: usize = 64 << 20;

#[test]
fn sixty_four_mebibytes_both_ways_at_once() {
    let want = |seed| <[u8; 32]>::from(Sha256::digest(pattern(seed, BIG)));
    let Some(agent) = agent() else {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let port = serve("127.0.0.1", move |s| {
            tell.send(send_all_and_hash(s, 2)).unwrap();
        });
        return Scenario::new("sixty_four_mebibytes_both_ways_at_once")
            .reach("big.allowed.test", "127.0.0.1", port)
            .run(move |wall| {
                assert_eq!(told.recv().unwrap(), (BIG, want(1)));
                let ended = wall.ended(1);
                assert_eq!(ended[0].outcome, Outcome::Closed);
                assert_eq!((ended[0].up, ended[0].down), (BIG as u64, BIG as u64));
            });
    };
    let stream = agent.connect("big.allowed.test", agent.facts[0]);
    assert_eq!(send_all_and_hash(stream, 1), (BIG, want(2)));
}

fn hello(name: &str) -> Vec<u8> {
    let n = name.len() as u8;
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([
        0,
        0,
        2,
        0x13,
        1,
        1,
        0,
        0,
        n + 9,
        0,
        0,
        0,
        n + 5,
        0,
        n + 3,
        0,
        0,
        n,
    ]);
    body.extend(name.as_bytes());
    let mut bytes = vec![
        0x16,
        3,
        1,
        0,
        body.len() as u8 + 4,
        1,
        0,
        0,
        body.len() as u8,
    ];
    bytes.extend(body);
    bytes
}

#[test]
fn a_greeting_that_names_another_host_is_refused() {
    let Some(agent) = agent() else {
        let (tell, told) = std::sync::mpsc::channel();
        let port = serve("127.0.0.1", move |mut s| {
            let mut bytes = Vec::new();
            let _ = s.read_to_end(&mut bytes);
            tell.send(bytes.len()).unwrap();
            let _ = s.write_all(b"ok");
        });
        return Scenario::new("a_greeting_that_names_another_host_is_refused")
            .reach("cdn.allowed.test", "127.0.0.1", port)
            .run(move |wall| {
                let outcomes = wall.outcomes(7);
                let contradictions: Vec<_> = outcomes
                    .iter()
                    .filter_map(|o| match o {
                        Outcome::NameContradiction { resolved, claimed } => {
                            assert_eq!(resolved, "cdn.allowed.test");
                            Some(claimed.as_str())
                        }
                        _ => None,
                    })
                    .collect();
                assert_eq!(contradictions, ["evil.test"; 4], "{outcomes:?}");
                let closed = outcomes.iter().filter(|o| **o == Outcome::Closed).count();
                assert_eq!(closed, 2, "{outcomes:?}");
                assert!(
                    matches!(outcomes[6], Outcome::UnreadableGreeting(_)),
                    "{outcomes:?}"
                );
                // Not one byte of a refused greeting arrived.
                let mut lengths: Vec<usize> = (0..7).map(|_| told.recv().unwrap()).collect();
                lengths.sort_unstable();
                assert_eq!(&lengths[..5], [0; 5]);
                assert!(lengths[5] > 0);
            });
    };
    let connect = || agent.connect("cdn.allowed.test", agent.facts[0]);
    let refused = |parts: &[&[u8]]| {
        let mut stream = connect();
        for part in parts {
            stream.write_all(part).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    };
    assert_eq!(exchange(connect(), &hello("CDN.allowed.test")), b"ok");
    refused(&[&hello("evil.test")]);
    let whole = hello("evil.test");
    refused(&[&whole[..1], &whole[1..20], &whole[20..]]);
    let good = b"GET / HTTP/1.1\r\nhost: cdn.allowed.test:80\r\n\r\n";
    assert_eq!(exchange(connect(), good), b"ok");
    refused(&[b"GET / HT", b"TP/1.1\r\nHost: ev", b"il.test\r\n\r\n"]);
    refused(&[b"GET http://evil.test/ HTTP/1.1\r\nHost: cdn.allowed.test\r\n\r\n"]);
    let mut broken = hello("cdn.allowed.test");
    let n = broken.len();
    broken[n - 18] = 0xee;
    refused(&[&broken]);
}

#[test]
fn rebinding_is_judged_by_the_real_address() {
    let Some(agent) = agent() else {
        let secret = serve("127.0.0.1", |mut s| {
            let _ = s.write_all(b"secret");
        });
        let mut scenario = Scenario::new("rebinding_is_judged_by_the_real_address");
        scenario
            .lookup
            .insert("rebind.allowed.test", vec!["127.0.0.1"]);
        scenario.lookup.insert("zero.allowed.test", vec!["0.0.0.0"]);
        scenario
            .lookup
            .insert("mapped.allowed.test", vec!["::ffff:127.0.0.1"]);
        scenario.facts.push(secret);
        return scenario.run(|wall| {
            assert!(
                wall.outcomes(3)
                    .iter()
                    .all(|o| matches!(o, Outcome::Denied(_)))
            );
            for dest in wall.gate.asked.lock().unwrap().iter() {
                assert_eq!(dest.ip, Some("127.0.0.1".parse().unwrap()), "{dest:?}");
                assert!(dest.host.as_deref().unwrap().ends_with(".allowed.test"));
            }
        });
    };
    for name in [
        "rebind.allowed.test",
        "zero.allowed.test",
        "mapped.allowed.test",
    ] {
        assert_reset((agent.v4(name), agent.facts[0]).into());
    }
}

#[test]
fn loopback_is_the_agents_own_unless_the_plan_names_the_port() {
    let Some(agent) = agent() else {
        let named = serve("127.0.0.1", |mut s| {
            let _ = s.write_all(b"host");
        });
        let hidden = serve("127.0.0.1", |mut s| {
            let _ = s.write_all(b"host");
        });
        let mut scenario =
            Scenario::new("loopback_is_the_agents_own_unless_the_plan_names_the_port");
        scenario.plan = HostLoopback::ports([named..=named, 20_000..=20_100]);
        scenario
            .allowed
            .push((None, "127.0.0.1".parse().unwrap(), named));
        scenario.facts = vec![named, hidden];
        return scenario.run(|wall| {
            // The named port once from the host; the unnamed range once, denied; nothing of the
            // agent's own servers.
            let ended = wall.ended(2);
            assert_eq!(ended.len(), 2, "{ended:?}");
            assert!(
                ended
                    .iter()
                    .any(|c| c.outcome == Outcome::Closed && c.dest.port == named)
            );
            assert!(
                ended
                    .iter()
                    .any(|c| matches!(c.outcome, Outcome::Denied(_)))
            );
        });
    };
    let read = |to: SocketAddr| {
        let mut text = String::new();
        TcpStream::connect(to)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    };
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let serve_own = |listener: TcpListener| {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(b"own");
            }
        })
    };
    assert_eq!(read(local(agent.facts[0])), "host");
    let hidden = TcpStream::connect(local(agent.facts[1])).unwrap_err();
    assert_eq!(
        hidden.kind(),
        ErrorKind::ConnectionRefused,
        "not captured, and nobody listens"
    );
    // The agent's own servers: on a port outside the plan, inside it, by every address it has.
    let outside = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    serve_own(outside);
    serve_own(TcpListener::bind("[::1]:8123").unwrap());
    serve_own(TcpListener::bind("0.0.0.0:20005").unwrap());
    assert_eq!(read(local(port)), "own");
    assert_eq!(read((OWN_V4, port).into()), "own");
    assert_eq!(read("[::1]:8123".parse().unwrap()), "own");
    // More often than there are marked sockets: they are used again.
    for _ in 0..100 {
        assert_eq!(read(local(20_005)), "own");
    }
    assert_reset(local(20_006));
    let v6 = TcpListener::bind((OWN_V6, 0)).unwrap();
    let to = v6.local_addr().unwrap();
    serve_own(v6);
    assert_eq!(read(to), "own");
    // The wall's ports are taken.
    let taken = TcpListener::bind(("127.0.0.1", agent.plan.tcp_port)).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
}

#[test]
fn nothing_but_tcp_and_names_gets_out() {
    let Some(agent) = agent() else {
        return Scenario::new("nothing_but_tcp_and_names_gets_out").run(|wall| {
            assert!(wall.gate.ended.lock().unwrap().is_empty());
        });
    };
    let refused = |kind: ErrorKind| {
        matches!(
            kind,
            ErrorKind::PermissionDenied
                | ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
        )
    };
    for to in [
        "8.8.8.8:443",
        "[2001:db8::1]:443",
        "224.0.0.251:5353",
        "198.18.0.9:123",
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let error = UdpSocket::bind(any).unwrap().send_to(b"x", to).unwrap_err();
        assert!(refused(error.kind()), "{to}: {error}");
    }
    // Own datagrams work.
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    a.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .send_to(b"x", a.local_addr().unwrap())
        .unwrap();
    assert_eq!(a.recv(&mut [0; 9]).unwrap(), 1);
    // ICMP needs a raw or a ping socket; whichever can be had must not reach anything.
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
    let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let anywhere: SocketAddr = "8.8.8.8:0".parse().unwrap();
    for kind in [SocketType::RAW, SocketType::DGRAM] {
        if let Ok(ping) = socket(AddressFamily::INET, kind, Some(ipproto::ICMP)) {
            assert!(
                sendto(&ping, &echo, SendFlags::empty(), &anywhere).is_err(),
                "{kind:?}"
            );
        }
    }
    // The mark that passes the capture takes a capability.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let marked = socket2::SockRef::from(&socket).set_mark(agentwall_egress::INSIDE_MARK);
    assert_eq!(marked.unwrap_err().kind(), ErrorKind::PermissionDenied);
    // And so do the rules and the routes.
    assert!(agentwall_egress::netns::configure(&agent.plan).is_err());
}

#[test]
fn dns_over_tcp_and_malformed_packets() {
    let Some(agent) = agent() else {
        return Scenario::new("dns_over_tcp_and_malformed_packets")
            .reach("a.allowed.test", "127.0.0.1", 9)
            .run(|wall| assert_eq!(wall.gate.names.lock().unwrap().len(), 2));
    };
    let mut stream = TcpStream::connect("192.0.2.53:53").unwrap();
    for _ in 0..3 {
        let packet = query("a.allowed.test", 1);
        stream
            .write_all(&(packet.len() as u16).to_be_bytes())
            .unwrap();
        stream.write_all(&packet).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(parse(&answer).1, [agent.v4("a.allowed.test")]);
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.53:53").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut buffer = [0; 1500];
    let mut ask = |packet: &[u8]| {
        socket.send(packet).unwrap();
        socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())
    };
    let good = query("a.allowed.test", 1);
    assert_eq!(ask(&[]), None);
    assert_eq!(ask(&good[..11]), None);
    let cut = ask(&good[..20]).unwrap();
    assert_eq!((&cut[..2], cut[3] & 15), (&[0x12, 0x34][..], FORMERR));
    let mut answer = good.clone();
    answer[2] |= 0x80;
    assert_eq!(ask(&answer), None, "an answer is not a question");
    let mut looping = good[..12].to_vec();
    looping.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(ask(&looping).unwrap()[3] & 15, FORMERR);
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(ask(&two).unwrap()[3] & 15, FORMERR);

    // The case of the name comes back as it was sent.
    let mixed = query("A.aLLowed.tEst", 1);
    let echoed = ask(&mixed).unwrap();
    assert_eq!(echoed[12..28], mixed[12..28]);
    assert_eq!(parse(&echoed).1, [agent.v4("a.allowed.test")]);
    // Other types of an allowed name are empty, not errors.
    for kind in [15, 16, 33, 65, 255, 28] {
        assert_eq!(agent.resolve("a.allowed.test", kind), (0, vec![]), "{kind}");
    }
    assert_eq!(
        agent.resolve("localhost", 1).1,
        ["127.0.0.1".parse::<IpAddr>().unwrap()]
    );
    let blocked = ask(&query("evil.test", 1)).unwrap();
    let ede = b"\x00\x0f\x00\x28\x00\x0fnames outside allowed.test are refused";
    assert!(blocked.windows(ede.len()).any(|w| w == ede), "{blocked:?}");
    let IpAddr::V4(address) = agent.v4("a.allowed.test") else {
        panic!()
    };
    let [a, b, c, d] = address.octets();
    let ptr = ask(&query(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), 12)).unwrap();
    assert!(ptr.windows(9).any(|w| w == b"\x07allowed\x04"), "{ptr:?}");
}

#[test]
fn a_ticket_replaces_one_question() {
    let Some(agent) = agent() else {
        let port = serve("127.0.0.1", echo_after_end);
        let mut scenario = Scenario::new("a_ticket_replaces_one_question");
        scenario.facts.push(port);
        return scenario.run_with(
            |wall| {
                let real: IpAddr = "127.0.0.1".parse().unwrap();
                let original = "203.0.113.7:80".parse().unwrap();
                wall.with(|e| {
                    e.admit(
                        original,
                        Ticket {
                            addresses: vec![real],
                        },
                    )
                });
                let port_seven = SocketAddr::new("203.0.113.7".parse().unwrap(), port);
                wall.with(|e| {
                    e.admit(
                        port_seven,
                        Ticket {
                            addresses: vec![real],
                        },
                    )
                });
                let plain = wall.with(|e| e.target_of(original.ip(), 80));
                assert_eq!(
                    plain,
                    Some(Target {
                        host: None,
                        candidates: vec![original.ip()],
                        port: 80,
                        inspected: false,
                    })
                );
                assert_eq!(
                    wall.with(|e| e.target_of("198.18.9.9".parse().unwrap(), 80)),
                    None
                );
            },
            |wall| {
                // The second may be refused before the end of the first is noticed.
                let outcomes = wall.outcomes(2);
                let denied = |o: &&Outcome| matches!(o, Outcome::Denied(_));
                assert!(outcomes.contains(&Outcome::Closed), "{outcomes:?}");
                assert_eq!(outcomes.iter().filter(denied).count(), 1, "{outcomes:?}");
                assert_eq!(wall.gate.asked.lock().unwrap().len(), 1);
            },
        );
    };
    let to = SocketAddr::new("203.0.113.7".parse().unwrap(), agent.facts[0]);
    assert_eq!(exchange(TcpStream::connect(to).unwrap(), b"t"), b"t.");
    assert_reset(to);
}

#[test]
fn too_many_connections_are_refused_and_the_rest_live() {
    let Some(agent) = agent() else {
        let port = serve("127.0.0.1", echo_after_end);
        let mut scenario = Scenario::new("too_many_connections_are_refused_and_the_rest_live")
            .reach("x.allowed.test", "127.0.0.1", port);
        scenario.max_connections = 8;
        return scenario.run(|wall| {
            wall.ended(9);
            let start = Instant::now();
            while wall.with(agentwall_egress::Egress::connections) > 0 {
                assert!(start.elapsed() < Duration::from_secs(5));
            }
        });
    };
    let ip = agent.v4("x.allowed.test");
    let to = SocketAddr::new(ip, agent.facts[0]);
    let open: Vec<_> = (0..8).map(|_| TcpStream::connect(to).unwrap()).collect();
    // A connection that is open may still be on its way to the proxy: one exchange settles it.
    std::thread::sleep(Duration::from_millis(100));
    assert_reset(to);
    for stream in open {
        assert_eq!(exchange(stream, b"y"), b"y.");
    }
}

#[test]
fn the_end_of_the_session_closes_everything() {
    let Some(agent) = agent() else {
        let (tell, told) = std::sync::mpsc::channel();
        let port = serve("127.0.0.1", move |mut s| {
            s.write_all(b"x").unwrap();
            tell.send(s.read(&mut [0]).map_err(|e| e.kind())).unwrap();
        });
        return Scenario::new("the_end_of_the_session_closes_everything")
            .reach("x.allowed.test", "127.0.0.1", port)
            .run_with(
                |wall| {
                    let (egress, line) = (wall.egress.clone(), wall.line());
                    std::thread::spawn(move || {
                        await_step(&line);
                        drop(egress.lock().unwrap().take());
                    });
                },
                |wall| {
                    assert_eq!(wall.outcomes(1), [Outcome::ShutDown]);
                    assert_eq!(told.recv().unwrap(), Err(ErrorKind::ConnectionReset));
                },
            );
    };
    let mut stream = agent.connect("x.allowed.test", agent.facts[0]);
    let to = stream.peer_addr().unwrap();
    let mut names = TcpStream::connect("192.0.2.53:53").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    step(&std::io::stdin());
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    // The reset came from the end, and the listeners end first: nobody is left who could take a
    // connection, not even into a backlog.
    for to in [to, "192.0.2.53:53".parse().unwrap()] {
        let late = TcpStream::connect(to).unwrap_err();
        assert_eq!(
            late.kind(),
            ErrorKind::ConnectionRefused,
            "nobody listens any more"
        );
    }
    let packet = query("x.allowed.test", 1);
    let length = (packet.len() as u16).to_be_bytes();
    let _ = names.write_all(&[&length[..], &packet].concat());
    assert!(
        !matches!(names.read(&mut [0]), Ok(1)),
        "a question after the end is not answered"
    );
}

#[test]
fn configure_refuses_a_namespace_in_use() {
    // The host's own namespace has an interface that is up; if it has none, this is a sandbox in
    // which the question does not arise, and the loopback step succeeds.
    let up = std::fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .any(|entry| {
            let flags = std::fs::read_to_string(entry.path().join("flags")).unwrap_or_default();
            let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
            entry.file_name() != "lo" && flags & 1 == 1
        });
    let result = agentwall_egress::netns::loopback_up();
    let private = matches!(result, Err(agentwall_egress::NetnsError::NotPrivate { .. }));
    assert_eq!(private, up, "{result:?}");
}
