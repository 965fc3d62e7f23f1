//! Taking an input apart, and what every target asserts about text that a person will see.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use agentwall_action::{Action, Facts, Resource, Subject, Verb};
use agentwall_policy::Variables;

/// The parts of an input: what stands between lines `%%`.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(4).position(|w| w == b"\n%%\n") {
        parts.push(&rest[..at]);
        rest = &rest[at + 4..];
    }
    parts.push(rest);
    parts
}

/// The lines of a part that are UTF-8, at most `limit`.
pub fn lines(part: &[u8], limit: usize) -> Vec<&str> {
    part.split(|b| *b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .take(limit)
        .collect()
}

/// A reader of structured inputs: numbers and byte strings from the front; zeros after the end.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn word(&mut self) -> u64 {
        (0..8).fold(0, |n, _| n << 8 | u64::from(self.byte()))
    }

    /// A length byte, then as many bytes as there are.
    pub fn string(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        head
    }
}

/// The variables every policy is loaded with.
pub fn variables() -> Variables {
    Variables {
        workspace: Some(PathBuf::from("/w/p")),
        home: Some(PathBuf::from("/home/u")),
        tmp: Some(PathBuf::from("/tmp")),
        state: Some(PathBuf::from("/home/u/.local/state/agentwall")),
    }
}

/// Reads `VERB RESOURCE`, or `VERB RESOURCE<tab>FACTS` with the facts in JSON.
pub fn action(line: &str) -> Option<Action> {
    let (line, facts) = line.split_once('\t').unwrap_or((line, "{}"));
    let (verb, resource) = line.split_once(' ')?;
    let verb: Verb = verb.parse().ok()?;
    let resource = Resource::parse(verb.family(), resource).ok()?;
    let facts: Facts = serde_json::from_str(facts).ok()?;
    Some(Action {
        facts,
        ..Action::new(Subject::agent("claude"), verb, resource)
    })
}

/// Actions of every family, for policies whose input names none.
pub fn usual_actions() -> Vec<Action> {
    [
        "file.read /w/p/src/main.rs",
        "file.write /w/p/.git/hooks/pre-commit",
        "file.read /home/u/.ssh/id_ed25519",
        "file.commit /w/p/Makefile",
        "process.exec /usr/bin/git\t{\"args\":[\"git\",\"push\",\"--force\"]}",
        "net.connect tcp://registry.npmjs.org:443",
        "net.connect tcp://169.254.169.254:80",
        "net.connect tcp://[::ffff:10.0.0.1]:22\t{\"labels\":[\"secret\"],\"risk\":70}",
        "dns.resolve example.org",
        "ipc.connect unix:/run/docker.sock",
        "tool.call Bash\t{\"args\":{\"command\":\"ls\",\"n\":3},\"time\":1700000000}",
        "credential.use github",
        "device.open /dev/kvm",
    ]
    .iter()
    .filter_map(|line| action(line))
    .collect()
}

/// An address of either family from 17 bytes.
pub fn address(bytes: &mut Bytes<'_>) -> IpAddr {
    match bytes.byte() % 3 {
        0 => Ipv4Addr::from(bytes.word() as u32).into(),
        1 => Ipv6Addr::from(u128::from(bytes.word()) << 64 | u128::from(bytes.word())).into(),
        _ => Ipv4Addr::from(bytes.word() as u32).to_ipv6_mapped().into(),
    }
}

/// The controls of Unicode Standard Annex 9, and the line and paragraph separators.
const REORDER: [char; 14] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}',
    '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

/// Text for a terminal has no control characters but the line's end, and none that reorder text.
#[track_caller]
pub fn assert_shown(text: &str) {
    let bad = text
        .chars()
        .find(|c| c.is_control() && *c != '\n' || REORDER.contains(c));
    assert_eq!(bad, None, "unescaped in {text:?}");
}

/// A value that was written as JSON reads back as itself.
#[track_caller]
pub fn assert_json<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(value).expect("writable");
    assert!(!text.contains('\n'), "one message is one line: {text:?}");
    let again: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(&again, value, "{text}");
}
