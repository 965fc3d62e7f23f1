//! One session: its script, its command line, and running it to the end.
//!
//! The script runs the attack and the neighbour in one shell, each between marks, so that both
//! happen behind the same wall. Output is collected in threads: a process that keeps a pipe open
//! after the session cannot hold the suite up.

use std::{
    ffi::OsString,
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use crate::{
    case::{ATTACK, Case, NEIGHBOUR, Outcome, STATUS},
    world::World,
};

impl World {
    /// The session's script: both sections, each marked.
    pub fn script_of(&self, case: &Case, attack: bool, neighbour: bool) -> String {
        let part = |mark: &str, body: &str| {
            format!(
                "echo; echo '{mark}'\n(\n{}\n) 2>&1 </dev/null\nstatus=$?\necho; echo \"{STATUS}$status\"\n",
                self.fill(body)
            )
        };
        let mut parts = Vec::new();
        if attack {
            parts.push(part(ATTACK, &case.attack));
        }
        if neighbour {
            parts.push(part(NEIGHBOUR, &case.neighbour));
        }
        if case.neighbour_first {
            parts.reverse();
        }
        let scratch = self.scratch();
        format!(
            "mkdir -p {}\ncd {}\n{}true\n",
            scratch.display(),
            self.path("work").display(),
            parts.concat()
        )
    }

    /// The command line of a session with the wall, or of the same script without it.
    pub fn session_argv(&self, case: &Case, script: &str, wall: bool) -> Vec<OsString> {
        let mut argv: Vec<OsString> = self
            .fill(&case.wrapper)
            .split_whitespace()
            .map(OsString::from)
            .collect();
        if wall && let Some(kernel) = &self.shared.kernel {
            argv.extend(kernel.argv(self));
            argv.extend(self.drop_to_user());
        } else if wall {
            argv.push(
                case.binary
                    .map_or_else(|| self.shared.wall.clone(), |b| self.path(b))
                    .into(),
            );
            argv.push("run".into());
            argv.push("--policy".into());
            argv.push(self.path("policy.yaml").into());
            argv.push("--workspace".into());
            argv.push(self.path("work").into());
            argv.extend(["--keep", "--"].map(OsString::from));
        }
        argv.extend(["/bin/sh", "-c", script].map(OsString::from));
        argv
    }

    /// Runs a session to its end.
    pub fn session(&self, argv: &[OsString], limit: Duration) -> Result<Outcome, String> {
        let (program, args) = argv.split_first().ok_or("empty command")?;
        let mut cmd = match &self.shared.kernel {
            // Who starts the tool is root; the command behind it is the case's user.
            Some(_) => self.with_environment(Command::new(program)),
            None => self.as_user(program),
        };
        cmd.args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = cmd
            .spawn()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        self.running.store(child.id(), Ordering::SeqCst);
        let out = child.stdout.take().map(collect);
        let err = child.stderr.take().map(collect);
        let end = Instant::now() + limit;
        let mut timed_out = false;
        let status = loop {
            match child.try_wait().map_err(|e| e.to_string())? {
                Some(status) => break status,
                None if Instant::now() > end => {
                    timed_out = true;
                    let _ = child.kill();
                    break child.wait().map_err(|e| e.to_string())?;
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        self.running.store(0, Ordering::SeqCst);
        let text = |t: Option<Collected>| {
            t.map(|t| t.finish(Duration::from_millis(1500)))
                .unwrap_or_default()
        };
        Ok(Outcome {
            stdout: text(out),
            stderr: text(err),
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            timed_out,
            ..Outcome::default()
        }
        .split())
    }
}

/// Collects a stream in a thread, so that a process that keeps it open cannot hold the suite up.
#[derive(Debug)]
struct Collected {
    text: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    thread: thread::JoinHandle<()>,
}

fn collect(mut from: impl Read + Send + 'static) -> Collected {
    let text = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = text.clone();
    let thread = thread::spawn(move || {
        let mut buf = [0; 65536];
        while let Ok(n) = from.read(&mut buf) {
            if n == 0 {
                break;
            }
            if let Ok(mut sink) = sink.lock() {
                let _ = sink.write_all(&buf[..n]);
            }
        }
    });
    Collected { text, thread }
}

impl Collected {
    fn finish(self, patience: Duration) -> String {
        let end = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        self.text
            .lock()
            .map(|t| String::from_utf8_lossy(&t).into_owned())
            .unwrap_or_default()
    }
}
