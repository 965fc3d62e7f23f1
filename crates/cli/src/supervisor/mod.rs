//! The supervisor: the host's side of one running wall.
//!
//! It owns what the agent must never reach: the ledger and its key, the questions to a person, the
//! way out to the network. The broker reports what it did and asks what it cannot know; this side
//! answers, records, and ends the session when the ledger cannot be written any more.

mod asks;
mod channel;
mod diary;
mod freeze;
mod gate;
pub mod intents;
mod keeper;
mod learned;
mod linker;
mod meant;
pub mod model;
pub mod opening;
mod revise;
mod standing;
mod terminal;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agentwall_action::{Decision, Effect, Verb};
use agentwall_egress::Egress;
use agentwall_engine::Engine;
use agentwall_ledger::{
    AppendError, Hash, Log, Record, Sealed,
    entry::{Connect, DecisionRecord, Exec, PolicyAnswer},
};
use agentwall_policy::LedgerFailure;
use agentwall_wall::wire::{Event, Request, ToBroker, ToSupervisor};

use crate::{answer, control, output, session::Unrecorded};

pub use asks::Asks;
pub(crate) use asks::{binding, bound_text, changed, refusal, unknown};
pub use diary::Diary;

pub use channel::{Peer, serve_control, serve_host, serve_private};
pub use gate::SupervisorGate;
pub(crate) use gate::{complaint, verdict};
pub use keeper::{Keeper, free_name, recorded};
pub use learned::Learned;
pub use revise::Revisions;
pub use terminal::{TerminalRelay, standard_terminals};

/// How the agent ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The agent's exit status as a shell reports it: its own, or 128 + signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Plain allows per verb.
    pub allowed: BTreeMap<String, u64>,
    /// Recorded decisions per effect.
    pub decisions: BTreeMap<String, u64>,
}

/// Shared by all of the supervisor's threads.
pub struct Supervisor {
    pub(crate) engine: Arc<Engine>,
    pub(crate) session: String,
    diary: Diary,
    decisions: Mutex<BTreeMap<String, u64>>,
    out: Mutex<UnixStream>,
    pub(crate) asks: Asks,
    pub(crate) egress: OnceLock<Egress>,
    /// What a learning session has recorded.
    pub learned: Learned,
    /// Changes of policy while the agent runs.
    pub revisions: Revisions,
    /// Checkpoints while the agent runs.
    pub keeper: Keeper,
    /// What the agent says it will do, and what becomes of it.
    intents: intents::Intents,
    failed: AtomicBool,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// A supervisor for a standing wall.
    pub fn new(
        engine: Arc<Engine>,
        session: String,
        log: Arc<Log>,
        first_seq: u64,
        socket: UnixStream,
        ask_timeout: Duration,
    ) -> Arc<Supervisor> {
        Arc::new(Supervisor {
            engine,
            asks: Asks::new(&session, ask_timeout),
            diary: Diary::new(log, &session, first_seq),
            session,
            decisions: Mutex::default(),
            out: Mutex::new(socket),
            egress: OnceLock::new(),
            learned: Learned::default(),
            revisions: Revisions::default(),
            keeper: Keeper::default(),
            intents: intents::Intents::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// Appends a record that must be durable before anything goes on.
    pub fn seal(&self, record: Record) -> Result<(), AppendError> {
        self.diary.seal(record)
    }

    /// Seals a value of which what follows needs the proof; with the entry's number in the session.
    fn seal_as<T: Clone + Into<Record>>(&self, value: T) -> Result<(u64, Sealed<T>), AppendError> {
        self.diary.seal_as(value)
    }

    /// Appends a record of something that has happened; durable within a bounded moment. If the ledger cannot take
    /// it, the session ends, unless the policy says that it goes on: then what is lost becomes a gap.
    pub fn note(&self, record: Record) {
        self.note_numbered(record);
    }

    /// The same; gives the entry's number in the session and its leaf hash, `None` when it is lost.
    fn note_numbered(&self, record: Record) -> (u64, Option<Hash>) {
        let (seq, noted) = self.diary.note(record, || self.on_ledger_failure());
        let leaf = noted.unwrap_or_else(|e| {
            if !self.failed.swap(true, Ordering::SeqCst) {
                let why = output::explain(&e.into());
                eprintln!("agentwall: the ledger cannot be written, ending the session: {why}");
                self.send(&ToBroker::Signal(signal_hook::consts::signal::SIGKILL));
            }
            None
        });
        (seq, leaf)
    }

    /// Brings what is durable to where readers of the ledger see it.
    pub fn publish(&self) -> Result<(), AppendError> {
        self.diary.publish()
    }

    /// What the policy in force says about a ledger that cannot be written.
    fn on_ledger_failure(&self) -> LedgerFailure {
        self.engine.policy().on_ledger_failure()
    }

    /// What no ledger has of a session whose end could not be recorded, if its policy let it go on all the same.
    pub fn unrecorded(&self, error: &AppendError) -> Option<Unrecorded> {
        let open = self.on_ledger_failure() == LedgerFailure::Open && !self.has_failed();
        open.then(|| self.diary.unrecorded(error))
    }

    /// Whether the session was ended because of the ledger.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Sends to the broker; a broker that is gone needs nothing any more.
    pub fn send(&self, message: &ToBroker) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let _ = lock(&self.out).write_all(&line);
        }
    }

    /// Lets the agent read a refusal that the broker has not seen, and records it.
    pub(crate) fn refuse_elsewhere(&self, event: Event) {
        self.send(&ToBroker::Note(Box::new(event.clone())));
        self.record(event);
    }

    /// Writes an event to the ledger in the form its verb has.
    pub fn record(&self, event: Event) {
        *lock(&self.decisions)
            .entry(event.decision.effect.to_string())
            .or_default() += 1;
        if !self.learned.is_news(&event) {
            return;
        }
        self.record_linked(&event);
    }

    /// What the policy alone says about the event's action: without a person's answer, and without
    /// refusals for other reasons.
    fn policy_answer(&self, event: &Event) -> PolicyAnswer {
        let policy = self.engine.policy();
        if policy.digest() != event.decision.policy {
            return PolicyAnswer::default();
        }
        PolicyAnswer::of(&answer::of_policy(&policy, &event.action))
    }

    /// Serves the broker until the agent has ended or the broker is gone.
    pub fn serve(
        self: &Arc<Self>,
        socket: UnixStream,
        mut stopped: impl FnMut(),
    ) -> Result<Ending, String> {
        for line in BufReader::new(socket).lines() {
            let line = line.map_err(|e| format!("lost the wall's broker: {e}"))?;
            let message: ToSupervisor = serde_json::from_str(&line)
                .map_err(|e| format!("the wall's broker sent something unreadable: {e}"))?;
            match message {
                ToSupervisor::Event(event) => self.record(*event),
                ToSupervisor::Question(number, request) => self.answer(number, request),
                ToSupervisor::Revised(number, outcome) => {
                    self.revisions.answered(number, outcome);
                }
                ToSupervisor::Stopped => stopped(),
                ToSupervisor::Settled(number) => self.settled(number),
                ToSupervisor::Ended { status, counts } => {
                    let exited = status & 0x7f == 0;
                    let (code, signal) = if exited {
                        ((status >> 8) & 0xff, None)
                    } else {
                        (128 + (status & 0x7f), Some(status & 0x7f))
                    };
                    return Ok(Ending {
                        code,
                        signal,
                        allowed: counts
                            .into_iter()
                            .map(|(v, n)| (v.to_string(), n))
                            .collect(),
                        decisions: lock(&self.decisions).clone(),
                    });
                }
            }
        }
        Err("the wall's broker ended before the agent".into())
    }

    /// What the request of a person with this user id comes to.
    fn respond(&self, by: u32, request: control::Request) -> control::Response {
        use control::{Request, Response};
        match request {
            Request::Pending => Response::Pending(self.asks.pending(self)),
            Request::Approve { id, scope, digest } => {
                self.asks.approve(self, &id, scope, digest.as_deref())
            }
            Request::Reject { id, reason } => self.asks.reject(self, &id, reason),
            Request::Apply { policy } => self.revisions.apply(self, by, policy),
            Request::Checkpoint { name } => self.keeper.checkpoint(self, name),
            Request::Host(_) | Request::Gateway(_) => Response::Error {
                text: "this is a session; daemon and gateways are asked at their own sockets"
                    .into(),
            },
        }
    }

    fn answer(self: &Arc<Self>, number: u64, request: Request) {
        match request {
            Request::Ask(event) => {
                let me = Arc::clone(self);
                self.asks.ask(self, *event, move |decision| {
                    me.send(&ToBroker::Answer(number, decision));
                });
            }
            Request::Connect { address, actor } => {
                let me = Arc::clone(self);
                gate::decide_connect(self, address, actor, move |decision| {
                    me.send(&ToBroker::Answer(number, decision));
                });
            }
        }
    }
}

/// The entry of an event, in the form its verb has; `said` is what the policy alone says.
pub(crate) fn recorded_as(event: &Event, said: PolicyAnswer) -> Record {
    let mut decision = DecisionRecord::new(&event.action, &event.decision, &event.enforced_by);
    decision.pid = (event.actor.pid != 0).then_some(event.actor.pid);
    decision.exe = (!event.actor.exe.is_empty()).then(|| event.actor.exe.clone());
    let decision = decision.said_by_policy(said);
    match event.action.verb {
        Verb::ProcessExec => {
            let args = event.action.facts.args.as_array().map(Vec::as_slice);
            let words = args.unwrap_or_default().iter().filter_map(|v| v.as_str());
            let argv: Vec<String> = words.map(str::to_owned).collect();
            let mut exec = Exec::new(decision, &argv);
            exec.device = Some(event.binding.device);
            exec.inode = Some(event.binding.inode);
            Record::Exec(exec)
        }
        Verb::NetConnect => {
            let mut connect = Connect::new(&event.action, &event.decision, &event.enforced_by);
            connect.decision = decision;
            Record::Connect(connect)
        }
        _ => Record::Decision(decision),
    }
}

/// An allow that no rule stands behind: what happens inside the agent's own network.
pub(crate) fn inside(engine: &Engine) -> Decision {
    Decision {
        effect: Effect::Allow,
        rule: None,
        reason: "inside the agent's own network".into(),
        hint: Default::default(),
        monitors: Vec::new(),
        errors: Vec::new(),
        policy: engine.policy().digest().to_owned(),
    }
}

/// Each critical section here is one insert, remove or write: data stays whole after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
