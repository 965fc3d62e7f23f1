//! Shared by the tests: logs of small records, and witnesses that are served on loopback.
#![allow(dead_code)] // Each test binary uses its own part.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agentwall_ledger::{
    Cosigner, Log, Reader, Signer, TrustPolicy, Verifier, Witness,
    entry::{Entry, Gap, Record},
};
use agentwall_witness::{Listen, Server, Service, WitnessService, serve};
use ed25519_dalek::SigningKey;

pub const ORIGIN: &str = "log.example/a";
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn signer(name: &str, byte: u8) -> Signer {
    Signer::new(name, SigningKey::from_bytes(&[byte; 32])).expect("a name")
}

pub fn key() -> Verifier {
    signer(ORIGIN, 1).verifier()
}

/// Appends records until the log in `dir` has `size`; those of two histories differ.
pub fn grow(dir: &Path, size: u64, history: &str) {
    let log = Log::open(dir, signer(ORIGIN, 1)).expect("opened");
    let from = log.checkpoint().expect("known").size;
    let record = |i| {
        let mut entry = Entry::now(history, i, Record::Gap(Gap::default()));
        entry.time = "2026-01-02T03:04:05.678Z".into();
        entry.to_bytes()
    };
    let entries: Vec<Vec<u8>> = (from..size).map(record).collect();
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    log.append_batch(&entries).expect("appended");
    log.close().expect("closed");
}

pub fn reader(dir: &Path) -> Reader {
    Reader::open_signed(dir, &key()).expect("readable")
}

pub fn cosigner(byte: u8) -> Cosigner {
    Cosigner::new(signer(&format!("w.example/{byte}"), byte))
}

/// A witness at a port, over and over.
pub struct Place {
    pub dir: PathBuf,
    pub byte: u8,
    at: Listen,
    server: Option<Server>,
}

impl Place {
    /// A witness in `dir` that serves.
    pub fn new(dir: PathBuf, byte: u8) -> Self {
        let at = Listen::Tcp(([127, 0, 0, 1], 0).into());
        let mut place = Place {
            dir,
            byte,
            at,
            server: None,
        };
        place.up();
        place
    }

    pub fn up(&mut self) {
        let witness = Witness::open(&self.dir, cosigner(self.byte), [key()]).expect("opened");
        let service = WitnessService::new(Arc::new(witness), |why| panic!("{why}"));
        let server = serve(&self.at, Arc::new(service)).expect("served");
        self.at = server.at().clone();
        self.server = Some(server);
    }

    pub fn down(&mut self) {
        self.server = None;
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    pub fn address(&self) -> SocketAddr {
        address(&self.at)
    }
}

pub fn address(at: &Listen) -> SocketAddr {
    match at {
        Listen::Tcp(address) => *address,
        Listen::Unix(_) => panic!("not an address"),
    }
}

/// A policy of these witnesses, `k` of whom are a quorum.
pub fn trust(places: &[Place], k: usize) -> TrustPolicy {
    let mut text = format!("log {}\n", key());
    let mut names = String::new();
    for (place, i) in places.iter().zip(1..) {
        let key = cosigner(place.byte).key();
        text += &format!("witness w{i} {key} {}\n", place.url());
        names += &format!(" w{i}");
    }
    text += &format!("group all-of-them {k}{names}\nquorum all-of-them\n");
    TrustPolicy::parse(text.as_bytes()).expect("a policy")
}

pub fn start(service: impl Service) -> Server {
    let any = Listen::Tcp(([127, 0, 0, 1], 0).into());
    serve(&any, Arc::new(service)).expect("served")
}

/// An answer, taken apart by hand: status, head in lower case, body.
pub struct Raw {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}

/// One request and the answer on an open connection.
pub fn ask(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> Raw {
    let length = body.len();
    let request =
        format!("{head} HTTP/1.1\r\nhost: 127.0.0.1:1\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    // A server that has refused does not read the rest.
    let _ = stream.write_all(body);
    let mut got = Vec::new();
    let mut byte = [0];
    while !got.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1, "cut off");
        got.push(byte[0]);
    }
    let text = String::from_utf8(got).expect("text").to_lowercase();
    let (first, rest) = text.split_once("\r\n").expect("lines");
    let status = first.split(' ').nth(1).expect("a status");
    let length = rest
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length = match head.starts_with("HEAD") {
        true => 0,
        false => length.map_or(0, |n| n.parse().expect("a number")),
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    Raw {
        status: status.parse().expect("a number"),
        head: rest.to_owned(),
        body,
    }
}

/// The same on a connection of its own.
pub fn ask_at(at: SocketAddr, head: &str, body: &[u8]) -> Raw {
    let mut stream = TcpStream::connect(at).expect("connected");
    ask(&mut stream, head, body)
}
