//! A user with a home, a state folder and a workspace, and sessions whose layers are made by hand:
//! what a run leaves behind, without a run.
#![allow(dead_code, clippy::unwrap_used)]

pub mod served;
pub mod wall;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::JoinHandle,
};

use agentwall_cow::{Layer, base_timestamp};
use agentwall_policy::{Layer as PolicyLayer, Source, Variables, load};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const POLICY: &str = "agentwall: 1
default: deny
rules:
  - id: commit-work
    priority: 100
    action: file.commit
    resource: ${workspace}/**
    effect: allow
  - id: hooks-never
    priority: 10
    action: file.commit
    resource: ${workspace}/hooks/**
    effect: deny
    reason: hooks run on your machine
  - id: ci-asks
    priority: 10
    action: file.commit
    resource: ${workspace}/ci/**
    effect: ask
    reason: CI runs with secrets
";

pub struct Host {
    pub tmp: TempDir,
    pub home: PathBuf,
    pub state: PathBuf,
    pub work: PathBuf,
}

pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Fails the test unless it ended like this.
    pub fn code(self, code: i32) -> Said {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.out, self.err
        );
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

impl Host {
    pub fn new() -> Host {
        let tmp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(tmp.path()).unwrap();
        let host = Host {
            home: root.join("home"),
            state: root.join("state"),
            work: root.join("work"),
            tmp,
        };
        for dir in [&host.home, &host.work] {
            fs::create_dir(dir).unwrap();
        }
        host
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentwall"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("AGENTWALL_STATE", &self.state)
            .current_dir(&self.work)
            .stdin(Stdio::null());
        command
    }

    pub fn call(&self, args: &[&str]) -> Said {
        said(&mut self.command(args))
    }

    /// The ledger's entries of a type, in their order.
    pub fn ledger(&self, kind: &str) -> Vec<Value> {
        let said = self.call(&["ledger", "show", "--json", "--type", kind]);
        let lines = said.code(0).out;
        lines
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    /// A file in the original tree.
    pub fn put(&self, name: &str, text: &str) {
        let path = self.work.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.work.join(name)).ok()
    }

    /// A session that ended, with an empty layer over the workspace.
    pub fn session(&self, id: &str, name: &str) -> Made {
        self.call(&["sessions"]).code(0); // makes the state folder
        let dir = self.state.join("sessions").join(id);
        let layers = dir.join("layers");
        let (upper, under) = (layers.join("upper"), layers.join("work"));
        for made in [&dir, &layers, &upper, &under] {
            fs::create_dir(made).unwrap();
        }
        let base = base_timestamp(&self.home, None).unwrap();
        let layer = Layer::begin(&self.work, &upper, &under, base).unwrap();
        let variables = Variables {
            workspace: Some(self.work.clone()),
            home: Some(self.home.clone()),
            tmp: Some("/tmp".into()),
            state: Some(self.state.clone()),
        };
        let source = Source::new("policy.yaml", POLICY, PolicyLayer::User);
        let policy = load(&[source], &variables).unwrap();
        fs::write(dir.join("policy.yaml"), POLICY).unwrap();
        let started = 1_700_000_000_000u64;
        let record = json!({
            "v": 1, "id": id, "name": name, "workspace": self.work, "command": ["agent", "a\x1b[2J"],
            "policy_source": "policy.yaml", "policy_digest": policy.digest(),
            "policies": [{"name": "policy.yaml", "layer": "user", "file": "policy.yaml"}],
            "variables": {"home": self.home, "tmp": "/tmp", "state": self.state},
            "layers": [layer], "started_ms": started, "ended_ms": started + 1000, "exit": 0,
            "supervisor_pid": 1, "outcome": "kept",
        });
        fs::write(dir.join("session.json"), record.to_string()).unwrap();
        Made { dir, upper }
    }
}

/// A session made by hand.
pub struct Made {
    pub dir: PathBuf,
    pub upper: PathBuf,
}

impl Made {
    /// Its layers are over these folders instead of the workspace; the first has the upper folder of
    /// [`Made::write`]. Returns all upper folders.
    pub fn over(&self, roots: &[&Path]) -> Vec<PathBuf> {
        let base = base_timestamp(&self.dir, None).unwrap();
        let file = self.dir.join("session.json");
        let text = fs::read_to_string(&file).unwrap();
        let mut record: Value = serde_json::from_str(&text).unwrap();
        let (mut layers, mut uppers) = (Vec::new(), Vec::new());
        for (n, root) in roots.iter().enumerate() {
            let (upper, under) = match n {
                0 => (self.upper.clone(), self.upper.with_file_name("work")),
                _ => {
                    let at = |name: &str| self.upper.with_file_name(format!("{name}{n}"));
                    let made = (at("upper"), at("work"));
                    fs::create_dir(&made.0).unwrap();
                    fs::create_dir(&made.1).unwrap();
                    made
                }
            };
            layers.push(Layer::begin(*root, &upper, under, base).unwrap());
            uppers.push(upper);
        }
        record["layers"] = json!(layers);
        fs::write(file, record.to_string()).unwrap();
        uppers
    }

    /// The agent wrote a file.
    pub fn write(&self, name: impl AsRef<Path>, text: &str) {
        let path = self.upper.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The agent deleted a file: a whiteout, which since Linux 5.8 any user may make.
    pub fn delete(&self, name: &str) {
        let path = self.upper.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let status = Command::new("mknod")
            .arg(path)
            .args(["c", "0", "0"])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// Plays the supervisor of a session: gives these answers, and returns what was asked.
pub fn supervisor(session: &Made, answers: Vec<Value>) -> (File, JoinHandle<Vec<Value>>) {
    let lock = File::create(session.dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let listener = UnixListener::bind(session.dir.join("control.sock")).unwrap();
    let thread = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            requests.push(serde_json::from_str(&line).unwrap());
            writeln!(stream, "{answer}").unwrap();
        }
        requests
    });
    (lock, thread)
}

pub fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command on a terminal of its own and types `input`; both streams come as one.
pub fn on_terminal(host: &Host, args: &[&str], input: &str) -> Said {
    use std::io::Write as _;
    let line = format!("{} {}", env!("CARGO_BIN_EXE_agentwall"), args.join(" "));
    let command = host.command(&[]);
    let mut script = Command::new("script");
    script
        .args(["-qefc", &line, "/dev/null"])
        .env_clear()
        .current_dir(&host.work);
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap());
    }
    script
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = script.spawn().expect("script(1) is installed");
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap().replace('\r', ""),
        err: String::new(),
    }
}

/// No byte that acts on a terminal.
pub fn harmless(text: &str) {
    let bad = text.chars().find(|c| {
        (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}')
    });
    assert!(bad.is_none(), "{bad:?} reaches the terminal: {text}");
}
