//! A Redis of a test's own: Debian's `redis-server` on a unix socket in a folder that vanishes.

#![allow(dead_code)] // Not every test that includes this needs all of it.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Every change is on the disk before its answer is given.
pub const ALWAYS: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
/// Nothing is kept.
pub const NEVER: &[&str] = &["--appendonly", "no"];

/// A running server.
pub struct Server {
    folder: tempfile::TempDir,
    persistence: &'static [&'static str],
    child: Child,
}

impl Server {
    /// Starts one, and waits until it answers.
    pub fn start(persistence: &'static [&'static str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(&folder, persistence);
        let server = Server {
            folder,
            persistence,
            child,
        };
        server.ready();
        server
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on what it has kept.
    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, self.persistence);
        self.ready();
    }

    /// Stops it without ending it (`false`), or lets it go on: a server that does not answer.
    pub fn running(&self, runs: bool) {
        let signal = if runs { "-CONT" } else { "-STOP" };
        let done = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(done.unwrap().success());
    }

    /// One command in words without spaces, and the first line of its answer.
    pub fn said(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// How often functions were called.
    pub fn calls(&self) -> u64 {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(b"INFO commandstats\r\nQUIT\r\n").unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let mut calls = lines.filter_map(|l| {
            let counts = l.strip_prefix("cmdstat_fcall:calls=")?.to_owned();
            counts.split(',').next()?.parse().ok()
        });
        calls.next().unwrap_or(0)
    }

    fn ready(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() || self.said("PING") != "+PONG" {
            assert!(Instant::now() < end, "redis-server does not answer");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &tempfile::TempDir, persistence: &[&str]) -> Child {
    let socket = folder.path().join("s");
    // A socket of a server that was killed would be taken for one that listens.
    let _ = std::fs::remove_file(&socket);
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--loglevel", "warning"])
        .args(persistence)
        .arg("--dir")
        .arg(folder.path())
        .arg("--unixsocket")
        .arg(socket)
        .stdout(Stdio::null())
        .spawn()
        .expect("these tests need redis-server 7: run `scripts/setup test`")
}

/// A cluster of two nodes, each of which has half of the slots and refuses commands with keys of several.
/// Gives both, and the address of the first.
pub fn cluster() -> ([Server; 2], String) {
    let ports = [0; 4].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let [port, bus, other, other_bus] = ports.map(|p| p.local_addr().unwrap().port());
    let servers = [node(port, bus), node(other, other_bus)];
    assert_eq!(servers[0].said("CLUSTER ADDSLOTSRANGE 0 8191"), "+OK");
    assert_eq!(servers[1].said("CLUSTER ADDSLOTSRANGE 8192 16383"), "+OK");
    let meet = format!("CLUSTER MEET 127.0.0.1 {other} {other_bus}");
    assert_eq!(servers[0].said(&meet), "+OK");
    let end = Instant::now() + Duration::from_secs(30);
    // Each has heard what the other owns when it answers a key of either with a value or a redirection.
    let knows = |server: &Server| {
        ["GET a", "GET b"]
            .map(|c| server.said(c))
            .iter()
            .all(|a| a == "$-1" || a.starts_with("-MOVED"))
    };
    while !servers.iter().all(knows) {
        assert!(Instant::now() < end, "the cluster does not come up");
        sleep(Duration::from_millis(20));
    }
    (servers, format!("redis://127.0.0.1:{port}"))
}

fn node(port: u16, bus: u16) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .args([
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus.to_string(),
        ])
        .args(["--loglevel", "warning", "--unixsocket"])
        .arg(folder.path().join("s"))
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("these tests need redis-server 7: run `scripts/setup test`");
    let server = Server {
        folder,
        persistence: NEVER,
        child,
    };
    server.ready();
    server
}

/// A server that speaks TLS alone, its address, and the certificate that it shows, which is its own authority.
pub fn with_tls() -> (Server, String, Vec<u8>) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-days",
            "2",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "openssl made no certificate");
    let child = Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--tls-port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .args(["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"])
        .args(["--tls-ca-cert-file", "cert.pem", "--tls-auth-clients", "no"])
        .args(["--loglevel", "warning", "--unixsocket", "s"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("these tests need redis-server 7: run `scripts/setup test`");
    let certificate = std::fs::read(folder.path().join("cert.pem")).unwrap();
    let server = Server {
        folder,
        persistence: NEVER,
        child,
    };
    server.ready();
    (server, format!("rediss://localhost:{port}"), certificate)
}
