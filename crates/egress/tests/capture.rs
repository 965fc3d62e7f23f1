//! Without a network namespace: who captures says whose a connection is, and strangers get nothing.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
};

use agentwall_action::{Endpoint, Protocol};
use agentwall_egress::{
    Capture, Connection, Egress, EgressConfig, Gate, Listeners, Lookup, Origin, Verdict,
};

/// What came from where, and where it was going.
#[derive(Debug, Default)]
struct Known(Mutex<Vec<(SocketAddr, SocketAddr)>>);

impl Known {
    fn add(&self, client: SocketAddr, original: SocketAddr) {
        self.0
            .lock()
            .expect("nobody panicked")
            .push((client, original));
    }
}

impl Capture for Known {
    fn original(&self, client: SocketAddr) -> Option<SocketAddr> {
        let known = self.0.lock().expect("nobody panicked");
        known.iter().find(|(c, _)| *c == client).map(|(_, o)| *o)
    }

    fn may_ask(&self, client: SocketAddr, _: Protocol) -> bool {
        self.original(client).is_some()
    }
}

struct Allow;

impl Gate for Allow {
    fn resolve(&self, _: &str) -> Verdict {
        Verdict::Allow
    }
    fn connect(&self, _: &Endpoint, _: Origin) -> Verdict {
        Verdict::Allow
    }
    fn finished(&self, _: &Connection) {}
}

const QUESTION: &[u8] = b"\x07\x07\x01\0\0\x01\0\0\0\0\0\0\x04name\x07example\0\0\x01\0\x01";

#[test]
fn strangers_are_not_served() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let listeners = Listeners::on_loopback().unwrap();
    let door = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (tcp, dns) = (door(listeners.tcp_port()), door(listeners.dns_port()));
    let known = Arc::new(Known::default());
    let mut config = EgressConfig::default();
    config.lookup = Lookup::new(|_| Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]));
    config.capture = Some(known.clone());
    config.first_name = 40;
    let egress = Egress::start(listeners, Arc::new(Allow), config).unwrap();

    let [friend, stranger] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    known.add(friend.local_addr().unwrap(), dns);
    // Both are heard in this order, and the first question of a name is the slow one.
    for _ in 0..2 {
        stranger.send_to(QUESTION, dns).unwrap();
        friend.send_to(QUESTION, dns).unwrap();
        let mut answer = [0; 512];
        let n = friend.recv(&mut answer).unwrap();
        assert_eq!(answer[n - 4..n], [198, 18, 0, 42], "the 41st name");
    }
    stranger.set_nonblocking(true).unwrap();
    let nothing = stranger.recv(&mut [0; 512]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    assert_eq!(egress.next_name(), 41);

    let mut byte = [0];
    let mut stranger = TcpStream::connect(tcp).unwrap();
    assert!(!matches!(stranger.read(&mut byte), Ok(1..)));
    // The kernel's answer comes before the connection's thread looks, as it does behind the programs.
    let friend = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    friend.bind(&door(0).into()).unwrap();
    let from = friend.local_addr().unwrap().as_socket().unwrap();
    known.add(from, ([198, 18, 0, 42], port).into());
    friend.connect(&tcp.into()).unwrap();
    let mut friend = TcpStream::from(friend);
    friend
        .write_all(b"GET / HTTP/1.1\r\nHost: name.example\r\n\r\n")
        .unwrap();
    let (mut end, _) = server.accept().unwrap();
    end.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"G");
}
