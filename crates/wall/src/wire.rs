//! What the broker and the supervisor say to each other: JSON, one message a line, over a Unix
//! socket pair that was made before the agent's process existed.
//!
//! The broker lives in the agent's mount and network view and answers system calls; the supervisor
//! lives on the host, owns the ledger, the approvals and the way out to the network.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use agentwall_action::{Action, Decision, Verb};
use serde::{Deserialize, Serialize};

use crate::revise::Revision;

/// Who did it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Process id on the host.
    pub pid: u32,
    /// The program it runs, escaped.
    pub exe: String,
    /// The process and its ancestors inside the wall, as [`crate::lineage`] gives them; only while intents
    /// are traced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<(u32, u64)>,
}

/// The exact object a question or a program start is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Device of the object, 0 if it does not exist yet.
    pub device: u64,
    /// Inode of the object.
    pub inode: u64,
}

/// Something for the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What was asked for.
    pub action: Action,
    /// What was answered.
    pub decision: Decision,
    /// By whom.
    pub actor: Actor,
    /// The object.
    #[serde(default)]
    pub binding: Binding,
    /// Which enforcement point acted: `broker`, `mount`, `egress`, `exec-check`.
    pub enforced_by: String,
}

/// A question the broker cannot answer alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A person has to answer.
    Ask(Box<Event>),
    /// May the agent connect there? The supervisor knows names behind addresses.
    Connect {
        /// Destination address as the agent gave it.
        address: std::net::SocketAddr,
        /// By whom.
        actor: Actor,
    },
}

/// Messages to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSupervisor {
    /// For the ledger; nobody waits.
    Event(Box<Event>),
    /// A question with the number its answer must carry.
    Question(u64, Request),
    /// What became of a [`ToBroker::Prepare`] or [`ToBroker::Enforce`]: the policy's digest, or why
    /// not.
    Revised(u64, Result<String, String>),
    /// The agent was stopped by job control (Ctrl-Z).
    Stopped,
    /// Every event of a call that was answered before [`ToBroker::Settle`] came has been sent.
    Settled(u64),
    /// The agent has ended: a wait status of waitpid(2), and what went through uneventfully.
    Ended {
        /// Raw wait status.
        status: i32,
        /// Plain allows per verb.
        counts: Vec<(Verb, u64)>,
    },
}

/// Messages to the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToBroker {
    /// The answer to a question.
    Answer(u64, Decision),
    /// A decision made elsewhere that the agent may read with `agentwall why`.
    Note(Box<Event>),
    /// Start the agent.
    Go,
    /// A signal for the agent's foreground process group.
    Signal(i32),
    /// Load this policy, so that it can come into force at once. Answered by number.
    Prepare(u64, Box<Revision>),
    /// Say with each event who the ancestors of its process are, from now on.
    Trace,
    /// The risk of the session's actions is at least this, 0 to 100.
    Risk(u8),
    /// Answer by number when the events up to now are sent.
    Settle(u64),
    /// The prepared policy with this digest comes into force. Answered by number.
    Enforce(u64, String),
}

/// The broker's end: sends from any thread, waits for answers.
#[derive(Debug)]
pub struct Line {
    out: Mutex<UnixStream>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Decision>>>,
}

impl Line {
    /// Takes the socket.
    pub fn new(socket: UnixStream) -> Line {
        Line {
            out: Mutex::new(socket),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
        }
    }

    /// Sends a message; blocks while the supervisor is behind, so nothing is lost.
    pub fn send(&self, message: &ToSupervisor) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        lock(&self.out).write_all(&line)
    }

    /// Asks and waits. `None` if the supervisor is gone.
    pub fn ask(&self, request: Request) -> Option<Decision> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        lock(&self.waiting).insert(number, sender);
        if self.send(&ToSupervisor::Question(number, request)).is_err() {
            lock(&self.waiting).remove(&number);
            return None;
        }
        receiver.recv().ok()
    }

    /// Delivers answers until the supervisor closes; other messages go to `other`.
    pub fn pump(&self, socket: UnixStream, mut other: impl FnMut(ToBroker)) {
        for line in BufReader::new(socket).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(ToBroker::Answer(number, decision)) => {
                    if let Some(sender) = lock(&self.waiting).remove(&number) {
                        let _ = sender.send(decision);
                    }
                }
                Ok(message) => other(message),
                Err(_) => break,
            }
        }
        lock(&self.waiting).clear();
    }
}

/// A panic while holding one of this module's locks leaves the data whole: each critical section
/// is a single insert, remove or write.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
