//! The agent's bytes on the network: greetings, DNS, and the kernel's netlink messages.

use std::{io, net::IpAddr, sync::Arc};

use agentwall_action::Endpoint;
use agentwall_egress::{Connection, Gate, Greeting, Lookup, Origin, Verdict, fuzzing, inspect};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, RecordType},
};

use crate::input::Bytes;

/// The first bytes of a client. What is final for a prefix is final for the whole, so that it does
/// not matter in which pieces they arrive; TLS records may be cut anywhere.
pub fn greeting(data: &[u8]) {
    let whole = inspect(data);
    check_claims(&whole);
    let step = data.len() / 96 + 1;
    for cut in (0..data.len()).step_by(step) {
        let part = inspect(&data[..cut]);
        let is_final = !matches!(part, Greeting::Incomplete | Greeting::Undecided);
        assert!(
            !is_final || part == whole,
            "{part:?} of {cut} bytes, then {whole:?}"
        );
        if data.starts_with(&[0x16, 3]) && cut >= 2 {
            assert_ne!(part, Greeting::Other);
        }
    }
    if let (Greeting::Names(_), Some(message)) = (&whole, handshake(data)) {
        for size in [1, 7, 1 + usize::from(data[data.len() / 2]), 16_384] {
            assert_eq!(
                inspect(&records(&message, size)),
                whole,
                "records of {size} bytes"
            );
        }
    }
}

/// A ClientHello that is built here: its name is the one that is read, whatever stands around it.
pub fn client_hello(data: &[u8]) {
    let mut bytes = Bytes(data);
    let name = bytes.string();
    let (flags, size) = (bytes.byte(), usize::from(bytes.byte()) + 1);
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        vector16(&mut extensions, body);
    };
    let mut server_name = vec![0];
    vector16(&mut server_name, name);
    let mut list = Vec::new();
    vector16(&mut list, &server_name);
    let twice = flags & 1 != 0;
    let before = bytes.byte() % 4;
    for _ in 0..before {
        let kind = bytes.short().max(1);
        extension(kind, bytes.string());
    }
    extension(0, &list);
    if twice {
        extension(0, &list);
    }
    extension(bytes.short().max(1), bytes.string());
    let mut body = vec![3, 3];
    body.extend([bytes.byte(); 32]);
    vector8(&mut body, bytes.string());
    let suites = bytes.string();
    vector16(&mut body, &suites[..suites.len() & !1]);
    vector8(&mut body, &[0]);
    vector16(&mut body, &extensions);
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).expect("small").to_be_bytes()[1..]);
    message.extend(body);
    match (inspect(&records(&message, size)), host(name)) {
        (Greeting::Names(claims), Some(host)) if !twice => {
            assert_eq!(
                claims.iter().map(|c| c.0.as_str()).collect::<Vec<_>>(),
                [host]
            );
        }
        (Greeting::Malformed(_), None) => {}
        (Greeting::Malformed(_), Some(_)) if twice => {}
        (other, _) => panic!("{other:?} for {:?}", String::from_utf8_lossy(name)),
    }
}

/// The name as it is compared, if it is one.
fn host(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok()?;
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let allowed = "abcdefghijklmnopqrstuvwxyz0123456789-._";
    (!text.is_empty() && text.chars().all(|c| allowed.contains(c))).then_some(text)
}

fn check_claims(greeting: &Greeting) {
    match greeting {
        Greeting::Names(claims) => {
            for name in claims.iter().map(|c| &c.0) {
                assert!((1..=255).contains(&name.len()), "{name:?}");
                assert_eq!(name.to_ascii_lowercase(), *name);
                assert!(
                    name.bytes()
                        .all(|b| b.is_ascii_graphic() && !b"/@[]".contains(&b))
                );
            }
        }
        Greeting::Malformed(why) => assert!(!why.is_empty()),
        _ => {}
    }
}

/// The handshake message inside TLS records, if there is a whole one.
fn handshake(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    while let [0x16, 3, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        message.extend(rest.get(..length)?);
        bytes = &rest[length..];
        if let [_, a, b, c, ..] = message[..] {
            let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if message.len() >= length {
                message.truncate(length);
                return Some(message);
            }
        }
    }
    None
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in message.chunks(size) {
        out.extend([0x16, 3, 1]);
        vector16(&mut out, part);
    }
    out
}

fn vector8(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).expect("a string is below 256 bytes"));
    out.extend(bytes);
}

fn vector16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).expect("small").to_be_bytes());
    out.extend(bytes);
}

/// A gate that refuses what its name says.
struct Names;

impl Gate for Names {
    fn resolve(&self, name: &str) -> Verdict {
        match name.contains("deny") {
            true => Verdict::Deny(format!("no {}", "\u{fc}".repeat(name.len()))),
            false => Verdict::Allow,
        }
    }

    fn connect(&self, _: &Endpoint, _: Origin) -> Verdict {
        Verdict::Deny("names only".into())
    }

    fn finished(&self, _: &Connection) {}
}

fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
    match name.as_bytes().first() {
        Some(b'm') => Err(io::ErrorKind::NotFound.into()),
        Some(b't') => Err(io::ErrorKind::TimedOut.into()),
        Some(b'e') => Ok(Vec::new()),
        _ => Ok(vec![
            IpAddr::from([127, 0, 0, 5]),
            IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1]),
        ]),
    }
}

/// A DNS packet. The answer is readable by the agent's resolver, belongs to the question, fits, and
/// tells no address but the wall's own.
pub fn dns(data: &[u8]) {
    for stream in [false, true] {
        let answer = fuzzing::answer_dns(data, stream, Arc::new(Names), Lookup::new(lookup));
        let Some(answer) = answer else {
            assert!(
                data.len() < 12 || data[2] & 0x80 != 0,
                "a question without an answer"
            );
            continue;
        };
        assert_eq!(answer[..2], data[..2], "another id");
        let read = Message::from_vec(&answer).expect("an answer that can be read");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        assert!(answer.len() <= if stream { 65_535 } else { 1232 });
        assert!(read.answers.len() <= 1);
        let Ok(asked) = Message::from_vec(data) else {
            assert!(read.answers.is_empty());
            continue;
        };
        if read.metadata.response_code == ResponseCode::NoError {
            assert_eq!(read.queries, asked.queries, "another question");
        } else {
            assert!(read.answers.is_empty());
        }
        for record in &read.answers {
            assert_eq!(record.name, asked.queries[0].name);
            match &record.data {
                RData::A(ip) => {
                    assert_eq!(asked.queries[0].query_type, RecordType::A);
                    let [a, b, ..] = ip.0.octets();
                    assert!(ip.0.is_loopback() || a == 198 && b & 0xfe == 18, "{ip}");
                }
                RData::AAAA(ip) => {
                    assert_eq!(asked.queries[0].query_type, RecordType::AAAA);
                    assert!(ip.0.is_loopback() || ip.0.is_unique_local(), "{ip}");
                }
                RData::PTR(_) => assert_eq!(asked.queries[0].query_type, RecordType::PTR),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Netlink messages of the kernel: every byte is in one message or left over.
pub fn netlink(data: &[u8]) {
    let (messages, left) = fuzzing::netlink_messages(data);
    let used: usize = messages
        .iter()
        .map(|(_, _, p)| (16 + p.len()).next_multiple_of(4))
        .sum();
    // The last message may end without padding.
    assert!((data.len()..data.len() + 4).contains(&(used + left)));
}
