//! Commands with a time limit, and the checks on what they said.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::case::brief;

/// What a case answers.
pub type Verdict = Result<(), String>;

/// How long one command may take. Nothing here waits for it unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// Whether [`run`] prints what it runs and what that says.
pub static VERBOSE: AtomicBool = AtomicBool::new(false);

/// `Err(why)` unless `ok`.
pub fn need(ok: bool, why: impl Into<String>) -> Verdict {
    if ok { Ok(()) } else { Err(why.into()) }
}

/// What a command said.
#[derive(Debug, Default)]
pub struct Said {
    /// Exit status; 128 + n for a signal.
    pub status: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: Vec<u8>,
}

impl Said {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// Both, for a message.
    pub fn brief(&self) -> String {
        format!(
            "status {}: {}",
            self.status,
            brief(&(self.err() + &self.out()))
        )
    }

    /// The status is this one.
    pub fn ended(&self, status: i32) -> Result<&Said, String> {
        need(
            self.status == status,
            format!("expected status {status}, found {}", self.brief()),
        )
        .map(|()| self)
    }

    /// One of the two streams has each of the texts.
    pub fn says(&self, texts: &[&str]) -> Result<&Said, String> {
        let all = self.err() + &self.out();
        for text in texts {
            need(
                all.contains(text),
                format!("expected '{text}', found {}", self.brief()),
            )?;
        }
        Ok(self)
    }

    /// It failed with this status and one message, which has all of the texts: the problem and the
    /// next step. No agent ran, behind a wall or without.
    pub fn refused(&self, status: i32, texts: &[&str]) -> Result<&Said, String> {
        self.ended(status)?;
        need(
            self.err().starts_with("agentwall: "),
            format!("no message: {}", self.brief()),
        )?;
        for text in texts {
            need(
                self.err().contains(text),
                format!("the message does not say '{text}': {}", self.brief()),
            )?;
        }
        need(!self.err().contains("panicked"), self.brief())?;
        need(
            !self.out().contains("AGENT-RAN"),
            format!("the agent ran: {}", self.brief()),
        )?;
        self.harmless()
    }

    /// Nothing that was said can act on a terminal.
    pub fn harmless(&self) -> Result<&Said, String> {
        for (name, bytes) in [("output", &self.out), ("errors", &self.err)] {
            let bad = |c: char| {
                (c.is_control() && !matches!(c, '\n' | '\t'))
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            let text = String::from_utf8_lossy(bytes);
            need(
                std::str::from_utf8(bytes).is_ok(),
                format!("bytes outside UTF-8 in the {name}: {}", self.brief()),
            )?;
            if let Some(c) = text.chars().find(|c| bad(*c)) {
                return Err(format!("a raw {c:?} in the {name}: {}", self.brief()));
            }
        }
        Ok(self)
    }

    /// Standard output is JSON.
    pub fn json(&self) -> Result<serde_json::Value, String> {
        serde_json::from_slice(&self.out).map_err(|e| format!("not JSON: {e}: {}", self.brief()))
    }
}

/// Runs a command to its end.
pub fn run(cmd: &mut Command) -> Result<Said, String> {
    let shown = format!("{:?}", cmd.get_args().collect::<Vec<_>>());
    let mut child = cmd
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{cmd:?}: {e}"))?;
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child)
        .ok_or_else(|| format!("{shown} did not end within {} s", PATIENCE.as_secs()))?;
    let said = Said {
        status,
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
    };
    if VERBOSE.load(Ordering::Relaxed) {
        println!("$ {}", shown.chars().take(400).collect::<String>());
        println!(
            "  {}\n  {}\n  => {}",
            said.out().trim_end(),
            said.err().trim_end(),
            status
        );
    }
    Ok(said)
}

fn drain<R: std::io::Read + Send + 'static>(from: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for a child; kills it, and returns `None`, when it takes too long.
pub fn wait(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return Some(
                    status
                        .code()
                        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
                );
            }
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}
