//! The wall's DNS server inside the agent's namespace (RFC 1035, EDNS of RFC 6891).
//!
//! It answers from [`Names`] only: nothing of the agent's packet ever goes to another server, so
//! record types, options and unknown names are no channel to the outside. A refused name is
//! NXDOMAIN with an Extended DNS Error "Blocked" (RFC 8914): tools give up at once with their usual
//! message. Types other than addresses have empty answers. A packet that cannot be read gets FORMERR
//! if it is a query at all, else silence.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agentwall_action::Protocol;
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, opt::EdnsOption},
    },
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    addresses::{Kind, canonical, kind},
    egress::{Shared, ThreadBody},
    names::{Answer, Names, valid},
};

/// Seconds. Synthetic addresses never change; the value bounds how long real ones stay pinned.
const TTL: u32 = 30;
const MAX_WORKERS: usize = 64;
const MAX_STREAMS: usize = 32;
const STREAM_IDLE: Duration = Duration::from_secs(10);
const STACK: usize = 1024 * 1024;
const MAX_UDP: usize = 1232;
const MAX_REASON: usize = 160;
/// Extended DNS Error: option code and the info code "Blocked" (RFC 8914).
const EDE: u16 = 15;
const EDE_BLOCKED: u16 = 15;

/// The thread body that answers datagrams.
pub(crate) fn udp_loop(shared: Arc<Shared>, sockets: Vec<UdpSocket>) -> io::Result<ThreadBody> {
    for socket in &sockets {
        socket.set_nonblocking(true)?;
    }
    let sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
    Ok(Box::new(move || {
        let workers = Arc::new(AtomicUsize::new(0));
        let mut buffer = vec![0; 4096];
        while wait(&shared, &sockets) {
            for socket in &sockets {
                // Bounded, so that one busy socket does not starve the other.
                for _ in 0..64 {
                    // An ICMP error of an earlier answer surfaces here; it ends nothing.
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                        break;
                    };
                    if !shared.may_ask(from, Protocol::Udp) {
                        continue;
                    }
                    datagram(&shared, socket, &workers, &buffer[..length], from);
                }
            }
        }
    }))
}

fn datagram(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    workers: &Arc<AtomicUsize>,
    packet: &[u8],
    from: SocketAddr,
) {
    let question = match Question::read(packet) {
        Ok(question) => question,
        Err(answer) => {
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from);
            }
            return;
        }
    };
    if let Some(answer) = question.answer_now(&shared.names) {
        let _ = socket.send_to(&answer, from);
        return;
    }
    // Beyond the limit the packet is dropped: the client sends it again.
    let Some(slot) = Slot::take(workers, MAX_WORKERS) else {
        return;
    };
    let (shared, socket) = (shared.clone(), socket.clone());
    spawn("egress-dns-ask", move || {
        let _slot = slot;
        let _ = socket.send_to(&question.answer(&shared.names), from);
    });
}

/// The answer to one packet without a socket: `limit` as over TCP when `stream`, else as over UDP.
#[cfg(feature = "fuzzing")]
pub(crate) fn answer_packet(packet: &[u8], stream: bool, names: &Names) -> Option<Vec<u8>> {
    match Question::read(packet) {
        Ok(mut question) => {
            if stream {
                question.limit = usize::from(u16::MAX);
            }
            Some(question.answer(names))
        }
        Err(answer) => answer,
    }
}

/// The thread body that answers DNS over TCP.
pub(crate) fn tcp_loop(shared: Arc<Shared>, listeners: Vec<TcpListener>) -> io::Result<ThreadBody> {
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok(Box::new(move || {
        let streams = Arc::new(AtomicUsize::new(0));
        while wait(&shared, &listeners) {
            for listener in &listeners {
                while let Ok((stream, from)) = listener.accept() {
                    if !shared.may_ask(from, Protocol::Tcp) {
                        continue;
                    }
                    let Some(slot) = Slot::take(&streams, MAX_STREAMS) else {
                        continue;
                    };
                    let shared = shared.clone();
                    spawn("egress-dns-tcp", move || {
                        let _slot = slot;
                        let _ = serve(&shared, stream);
                    });
                }
            }
        }
    }))
}

/// One TCP connection: length-prefixed questions, answered in order.
fn serve(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STREAM_IDLE))?;
    stream.set_write_timeout(Some(STREAM_IDLE))?;
    let mut packet = Vec::new();
    while !shared.stopped() {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        packet.resize(u16::from_be_bytes(length).into(), 0);
        stream.read_exact(&mut packet)?;
        if shared.stopped() {
            break;
        }
        let answer = match Question::read(&packet) {
            Ok(mut question) => {
                question.limit = usize::from(u16::MAX);
                question.answer(&shared.names)
            }
            Err(Some(answer)) => answer,
            Err(None) => return Ok(()),
        };
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        stream.write_all(&framed)?;
    }
    Ok(())
}

/// Waits for input; `false` when the session ended.
fn wait<S: rustix::fd::AsFd>(shared: &Shared, sockets: &[S]) -> bool {
    let mut fds: Vec<_> = sockets
        .iter()
        .map(|s| PollFd::new(s, PollFlags::IN))
        .collect();
    fds.push(PollFd::new(&shared.stop_fd, PollFlags::IN));
    let _ = poll(&mut fds, None);
    !shared.stopped()
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    // Without a thread the question stays unanswered, and the client tries again.
    let _ = std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(body);
}

/// One of a bounded number of threads.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let slot = Slot(count.clone());
        (count.fetch_add(1, Ordering::SeqCst) < limit).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A readable question.
#[derive(Debug)]
struct Question {
    query: Query,
    metadata: Metadata,
    edns: bool,
    limit: usize,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    /// A name that may exist, lower-case.
    Name(String),
    /// The name of an address.
    Address(std::net::IpAddr),
    /// Not a host name: an IP address as text, or labels that no host has.
    Nonsense,
}

impl Question {
    /// Reads a packet. The error is the packet to answer with, `None` for silence.
    fn read(packet: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        // The header of RFC 1035: id, then the flags with QR as the top bit.
        let [id_high, id_low, flags, ..] = *packet else {
            return Err(None);
        };
        if packet.len() < 12 || flags & 0x80 != 0 {
            return Err(None);
        }
        let id = u16::from_be_bytes([id_high, id_low]);
        let refuse = |code| Err(Message::error_msg(id, OpCode::Query, code).to_vec().ok());
        if flags & 0x78 != 0 {
            return refuse(ResponseCode::NotImp);
        }
        let Ok(message) = Message::from_vec(packet) else {
            return refuse(ResponseCode::FormErr);
        };
        let [query] = message.queries.as_slice() else {
            return refuse(ResponseCode::FormErr);
        };
        if message.metadata.message_type != MessageType::Query || !message.answers.is_empty() {
            return refuse(ResponseCode::FormErr);
        }
        if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY) {
            return refuse(ResponseCode::Refused);
        }
        if message.edns.as_ref().is_some_and(|e| e.version() != 0) {
            return refuse(ResponseCode::NotImp);
        }
        let asked = match host_name(&query.name) {
            _ if query.query_type == RecordType::PTR => match query.name.parse_arpa_name() {
                Ok(net) if net.prefix_len() == net.max_prefix_len() => Asked::Address(net.addr()),
                _ => Asked::Nonsense,
            },
            Some(name) => Asked::Name(name),
            None => Asked::Nonsense,
        };
        let edns = message.edns.is_some();
        let limit = usize::from(message.max_payload()).clamp(512, MAX_UDP);
        Ok(Question {
            query: query.clone(),
            metadata: Metadata::response_from_request(&message.metadata),
            edns,
            limit,
            asked,
        })
    }

    /// The answer if nothing has to be asked or looked up.
    fn answer_now(&self, names: &Names) -> Option<Vec<u8>> {
        match &self.asked {
            Asked::Name(name) => names.known(name).map(|answer| self.render(&answer)),
            Asked::Address(_) | Asked::Nonsense => Some(self.answer(names)),
        }
    }

    /// The answer; may block.
    fn answer(&self, names: &Names) -> Vec<u8> {
        match &self.asked {
            Asked::Name(name) => self.render(&names.resolve(name)),
            Asked::Nonsense => self.render(&Answer::NotFound),
            Asked::Address(ip) => {
                let ip = canonical(*ip);
                let name = match kind(ip) {
                    Kind::Loopback | Kind::Own => Some("localhost".into()),
                    Kind::Synthetic(number) => names.name(number),
                    _ => None,
                };
                let name = name.and_then(|n| Name::from_ascii(format!("{n}.")).ok());
                match name {
                    Some(name) => {
                        self.message(ResponseCode::NoError, Some(RData::PTR(PTR(name))), None)
                    }
                    None => self.message(ResponseCode::NXDomain, None, None),
                }
            }
        }
    }

    fn render(&self, answer: &Answer) -> Vec<u8> {
        match answer {
            Answer::Addresses { v4, v6 } => {
                let data = match self.query.query_type {
                    RecordType::A => v4.map(|ip| RData::A(A(ip))),
                    RecordType::AAAA => v6.map(|ip| RData::AAAA(AAAA(ip))),
                    _ => None,
                };
                self.message(ResponseCode::NoError, data, None)
            }
            Answer::Blocked(reason) => self.message(ResponseCode::NXDomain, None, Some(reason)),
            Answer::NotFound => self.message(ResponseCode::NXDomain, None, None),
            Answer::Unavailable => self.message(ResponseCode::ServFail, None, None),
        }
    }

    fn message(&self, code: ResponseCode, data: Option<RData>, blocked: Option<&str>) -> Vec<u8> {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = self.metadata;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if let Some(data) = data {
            message.add_answer(Record::from_rdata(self.query.name.clone(), TTL, data));
        }
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP as u16);
            if let Some(reason) = blocked {
                let mut end = reason.len().min(MAX_REASON);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                let mut option = EDE_BLOCKED.to_be_bytes().to_vec();
                option.extend(&reason.as_bytes()[..end]);
                edns.options_mut().insert(EdnsOption::Unknown(EDE, option));
            }
            message.set_edns(edns);
        }
        let bytes = message.to_vec().unwrap_or_default();
        if bytes.len() <= self.limit {
            bytes
        } else {
            message.truncate().to_vec().unwrap_or_default()
        }
    }
}

/// The name as lower-case text without a trailing dot, if it is a host name.
fn host_name(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        if label.contains(&b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(std::str::from_utf8(label).ok()?);
    }
    text.make_ascii_lowercase();
    valid(&text).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &[u8], kind: u16) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(name);
        packet.extend(kind.to_be_bytes());
        packet.extend([0, 1]);
        packet
    }

    #[test]
    fn names_are_read_strictly() {
        let asked = |name: &[u8]| match Question::read(&query(name, 1)).unwrap().asked {
            Asked::Name(name) => Some(name),
            _ => None,
        };
        assert_eq!(asked(b"\x01A\x02bC\0").as_deref(), Some("a.bc"));
        // A dot or a zero inside a label would be another name in text.
        assert_eq!(asked(b"\x03a.b\x01c\0"), None);
        assert_eq!(asked(b"\x03a\0b\0"), None);
        assert_eq!(asked(b"\x03\xc3\xa4x\0"), None);
        assert_eq!(asked(b"\0"), None);
        assert_eq!(asked(b"\x03127\x010\x010\x011\0"), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Question::read(&bytes);
        }

        #[test]
        fn never_panics_near_a_question(at in 0usize..40, value: u8, kind: u16) {
            let mut packet = query(b"\x03www\x07example\x03org\0", kind);
            let at = at % packet.len();
            packet[at] = value;
            if let Ok(question) = Question::read(&packet) {
                let answer = question.render(&Answer::Blocked("no".into()));
                prop_assert!(!answer.is_empty() && answer.len() <= 512);
                prop_assert_eq!(&answer[..2], &packet[..2]);
            }
        }
    }
}
