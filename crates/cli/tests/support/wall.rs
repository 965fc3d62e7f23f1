//! Real walls over a workspace: what a script does behind one, and what is there afterwards.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Host, Said};

const POLICY: &str = "agentwall: 1
default: deny
rules:
  - { id: programs, priority: 100, action: process.exec, resource: ['/usr/**', '/bin/**'], effect: allow }
  - { id: system, priority: 100, action: [file.read, file.exec], resource: ['/', '/usr/**', '/bin/**', '/sbin/**', '/lib/**', '/lib64/**', '/etc/**', '/proc/**', '/sys/**'], effect: allow }
  - { id: devices, priority: 100, action: [file.read, file.write, device.open], resource: ['/dev', '/dev/{null,zero,full,random,urandom,tty}'], effect: allow }
  - { id: own-processes, priority: 100, action: [process.signal, process.trace], effect: allow }
  - { id: home, priority: 110, action: file.read, resource: '${home}/**', effect: allow }
  - { id: commit, priority: 150, action: file.commit, resource: '${workspace}/**', effect: allow }
EXTRA
  - { id: work, priority: 200, action: 'file.*', resource: '${workspace}/**', effect: isolate }
";

pub struct Wall {
    pub host: Host,
}

impl Wall {
    pub fn new() -> Wall {
        let host = Host::new();
        fs::write(host.home.join("policy.yaml"), POLICY.replace("EXTRA\n", "")).unwrap();
        Wall { host }
    }

    pub fn policy(&self, name: &str, extra: &str) {
        let text = POLICY.replace("EXTRA", extra);
        fs::write(self.host.home.join(name), text).unwrap();
    }

    pub fn command(&self, options: &[&str], script: &str) -> Command {
        let policy = self.host.home.join("policy.yaml");
        let mut args = vec!["run"];
        if !options.contains(&"--policy") {
            args.extend(["--policy", policy.to_str().unwrap()]);
        }
        args.extend(options);
        args.extend(["--", "/bin/sh", "-c", script]);
        self.host.command(&args)
    }

    /// Runs a script behind the wall, to its end.
    pub fn run(&self, options: &[&str], script: &str) -> Said {
        super::said(&mut self.command(options, script))
    }

    /// Starts one and waits until it has said READY.
    pub fn start(&self, options: &[&str], script: &str) -> Running {
        let out = self.host.home.join("out");
        let file = fs::File::create(&out).unwrap();
        let mut command = self.command(options, script);
        let child = command
            .stdout(file)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let running = Running { child, out };
        wait_for(|| running.said().contains("READY"));
        running
    }

    pub fn sessions(&self) -> Vec<Value> {
        let said = self.host.call(&["sessions", "--all", "--json"]).code(0);
        said.json().as_array().unwrap().clone()
    }

    /// The id of the session that ran last.
    pub fn id(&self) -> String {
        self.sessions()[0]["id"].as_str().unwrap().to_owned()
    }

    pub fn changes(&self, id: &str) -> Vec<(String, bool)> {
        let diff = self.host.call(&["diff", id, "--json"]).code(0).json();
        let all = diff["changes"].as_array().unwrap().clone();
        let work = self.host.work.to_str().unwrap().to_owned() + "/";
        let each = all.iter().map(|c| {
            let path = c["path"].as_str().unwrap().replace(&work, "");
            (path, !c["conflict"].is_null())
        });
        each.collect()
    }
}

pub struct Running {
    pub child: Child,
    pub out: PathBuf,
}

impl Running {
    pub fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    pub fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Generous: a machine that is busy with other tests is slow.
pub fn wait_for(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}
