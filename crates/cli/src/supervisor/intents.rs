//! Hears what the agent says it will do, seals it in the ledger, and answers with what the policy says of it.
//!
//! The intent is durable before anything is answered, and the answer that lets an action go on cannot be
//! made without it ([`Sealed`]). Nothing that is said here permits anything: the answer is what the same
//! engine would say when the action comes, and it is asked again then. Whoever speaks is known by what the
//! kernel says of the sender, by number and moment of start.

use std::{
    io::{self, IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use agentwall_action::{Action, Decision, Effect, Resource, Verb, escape_text};
use agentwall_ledger::{
    Record, Sealed,
    entry::{ActionStart, Claim, Finding, Intent, ProcessId, argv_sha256},
};
use agentwall_wall::wire::{Actor, Binding, Event, ToBroker};
use anyhow::{Result, bail};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    time::{ClockId, clock_gettime},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Supervisor,
    channel::{Place, Timed},
    linker::{self, Begun, Linker, Process, write_link},
    lock, model, recorded_as,
};
use crate::{
    intent::{Answer, Ended, Ending, Failure, Statement, http, message::SOURCES},
    state::random_text,
};

/// Peers that are heard at a time.
const MAX_PEERS: usize = 32;
/// How long a peer may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an end waits for the events that came before it.
const SETTLING: Duration = Duration::from_secs(1);
/// Most claims of one intent.
const MAX_CLAIMS: usize = 256;
/// Clock ticks of proc(5) a second, on every architecture (`USER_HZ`).
const TICKS: u64 = 100;

/// A session's intents and what became of them.
#[derive(Debug, Default)]
pub struct Intents {
    linker: Mutex<Linker>,
    /// Who waits until the events so far are recorded.
    settling: Mutex<Vec<(u64, mpsc::Sender<()>)>>,
    next: AtomicU64,
    /// The broker tells the ancestors of processes.
    traced: AtomicBool,
}

impl Supervisor {
    /// Lets the agent start: its command was sealed before.
    pub fn go(&self, sealed: &Sealed<Intent>, tells_intents: bool) {
        let mut linker = lock(&self.intents.linker);
        linker.command(sealed.get());
        if tells_intents {
            linker.capture();
            self.intents.traced.store(true, Ordering::SeqCst);
            self.send(&ToBroker::Trace);
        }
        drop(linker);
        self.send(&ToBroker::Go);
    }

    /// Writes an event to the ledger, with the action that it belongs to.
    pub(super) fn record_linked(&self, event: &Event) {
        let mut record = recorded_as(event, self.policy_answer(event));
        // Held until it is queued: the order of the log is the order of the links.
        let mut linker = lock(&self.intents.linker);
        let link = linker.link(event);
        write_link(&mut record, &link);
        let (seq, leaf) = self.note_numbered(record);
        if let Some(mut finding) = linker.recorded(&link, event, seq, leaf) {
            self.find(&mut linker, &mut finding);
        }
    }

    /// Records a finding, and raises the risk by it. Gives the number of its entry in the session.
    fn find(&self, linker: &mut Linker, finding: &mut Finding) -> u64 {
        let risk = self.engine.risk().saturating_add(linker::weight(finding));
        self.engine.raise_risk(risk);
        finding.risk = self.engine.risk();
        self.send(&ToBroker::Risk(finding.risk));
        let (seq, _) = self.note_numbered(Record::Finding(finding.clone()));
        if let Some(id) = &finding.action_id {
            linker.wrote(id, seq);
        }
        seq
    }

    /// Ends what is still open; the session has ended.
    pub fn end_actions(&self) {
        let mut linker = lock(&self.intents.linker);
        for id in linker.still_open() {
            self.end_action(&mut linker, &id, "open", None);
        }
    }

    fn end_action(
        &self,
        linker: &mut Linker,
        id: &str,
        outcome: &str,
        exit: Option<i32>,
    ) -> Option<Ended> {
        let mut ended = linker.end(id, outcome, exit)?;
        let mut previous = ended.previous;
        if let Some(finding) = &mut ended.finding {
            finding.previous = Some(previous);
            previous = self.find(linker, finding);
        }
        ended.summary.previous = previous;
        let (events, root) = (ended.summary.events, ended.summary.root.clone());
        let (seq, _) = self.note_numbered(Record::KernelSummary(ended.summary));
        ended.end.previous = seq;
        self.note(Record::ActionEnd(ended.end));
        Some(Ended {
            id: id.to_owned(),
            events,
            root,
            finding: ended.finding,
            risk: self.engine.risk(),
        })
    }

    /// The broker has sent every event of before it was asked.
    pub(super) fn settled(&self, number: u64) {
        lock(&self.intents.settling).retain(|(waiting, sender)| {
            if *waiting == number {
                let _ = sender.send(());
            }
            *waiting != number
        });
    }

    /// Waits until the events of calls that were answered are recorded, or for a second.
    fn settle(&self) {
        let number = self.intents.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        lock(&self.intents.settling).push((number, sender));
        self.send(&ToBroker::Settle(number));
        let _ = receiver.recv_timeout(SETTLING);
        lock(&self.intents.settling).retain(|(waiting, _)| *waiting != number);
    }

    /// Answers one request of a process.
    fn hear(&self, request: &http::Request, speaker: &Speaker) -> Reply {
        if request.method != "POST" {
            return Reply::failure(405, "use POST");
        }
        let ends = request
            .path
            .strip_prefix("/v1/intent/")
            .and_then(|rest| rest.strip_suffix("/end"));
        let answer = match ends {
            Some(id) => parse(&request.body).and_then(|ending| self.end(id, &ending)),
            None if request.path == "/v1/intent" => {
                parse(&request.body).and_then(|statement| self.state(statement, speaker))
            }
            None => Err(Reply::failure(
                404,
                "the resources are /v1/intent and /v1/intent/ID/end",
            )),
        };
        answer.unwrap_or_else(|reply| reply)
    }

    /// Seals what was said.
    fn state(&self, statement: Statement, speaker: &Speaker) -> Result<Reply, Reply> {
        let wrong = |error: anyhow::Error| Reply::failure(400, &format!("{error:#}"));
        if statement.source.as_deref() == Some(model::SOURCE) {
            return Err(Reply::failure(
                400,
                "'model' is for what the wall reads itself",
            ));
        }
        let actions = self.actions_of(&statement).map_err(wrong)?;
        // The agent tells itself what its model told it.
        if let Some(call) = &statement.call {
            let mut linker = lock(&self.intents.linker);
            if let Some(id) = linker.find_of(model::SOURCE, call) {
                self.end_action(&mut linker, &id, "told", None);
            }
        }
        let sealed = self.seal_statement(statement, &actions, speaker)?;
        let decided = self.engine.hold().strictest(&actions);
        let decided = decided.map(|(at, decision)| (actions[at].clone(), decision));
        Ok(match decided {
            Some((action, decision)) if !goes_on(decision.effect) => {
                self.refuse(&sealed, action, decision, speaker)
            }
            decided => self.permit(&sealed, decided),
        })
    }

    /// Seals what a model told the agent to do, before the agent has it.
    ///
    /// # Errors
    /// It is not sealed; the text says why.
    pub(super) fn model_says(&self, mut statement: Statement, broker: u32) -> Result<(), String> {
        // Claims that are none of the policy's vocabulary claim nothing.
        let actions = self.actions_of(&statement).unwrap_or_else(|_| {
            statement.does.clear();
            Vec::new()
        });
        let first = lock(&self.intents.linker).first();
        let speaker = first.map_or_else(Speaker::default, |pid| Speaker {
            line: Vec::new(),
            agent: Speaker::of(pid, broker).line.first().copied(),
        });
        match self.seal_statement(statement, &actions, &speaker) {
            Ok(sealed) => {
                self.permit(&sealed, None);
                Ok(())
            }
            Err(reply) => Err(String::from_utf8_lossy(&reply.body).into_owned()),
        }
    }

    /// What the agent sends to its model has the results of tool calls in it: those have ended. APIs without ids of
    /// calls have them all in the next request.
    pub(super) fn model_hears(&self, body: &[u8]) {
        let open = lock(&self.intents.linker).open_of(model::SOURCE);
        if open.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(body);
        let over = open
            .into_iter()
            .filter(|(_, call)| call.as_ref().is_none_or(|call| text.contains(call)));
        let over: Vec<String> = over.map(|(id, _)| id).collect();
        if !over.is_empty() {
            self.settle();
        }
        let mut linker = lock(&self.intents.linker);
        for id in over {
            self.end_action(&mut linker, &id, "done", None);
        }
    }

    fn seal_statement(
        &self,
        statement: Statement,
        actions: &[Action],
        speaker: &Speaker,
    ) -> Result<Sealed<Intent>, Reply> {
        let wrong = |error: anyhow::Error| Reply::failure(400, &format!("{error:#}"));
        let commanded = statement.source.as_deref() == Some("command");
        let line = statement.does.iter().find_map(|d| match d.argv.as_slice() {
            [_, flag, line] if flag == "-c" => Some(line.clone()),
            _ => None,
        });
        let intent = self.intent_of(statement, actions, speaker).map_err(wrong)?;
        // Before the first is answered, so that the first of its events can be linked.
        if !self.intents.traced.swap(true, Ordering::SeqCst) {
            self.send(&ToBroker::Trace);
            self.settle();
        }
        let (seq, sealed) = self
            .seal_as(intent)
            .map_err(|e| Reply::failure(503, &format!("the intent cannot be sealed: {e}")))?;
        let begun = Begun {
            intent: sealed.get().clone(),
            // What 'act' runs is its own tree, and nothing beside it.
            agent: speaker.agent.filter(|_| !commanded),
            own: speaker.line.first().copied().filter(|_| commanded),
            since: now_in_ticks(),
            line,
            previous: seq,
        };
        let mut linker = lock(&self.intents.linker);
        if let Some(oldest) = linker.begin(begun) {
            self.end_action(&mut linker, &oldest, "open", None);
        }
        Ok(sealed)
    }

    /// What the policy refuses does not begin. The agent can read why.
    fn refuse(
        &self,
        sealed: &Sealed<Intent>,
        action: Action,
        decision: Decision,
        speaker: &Speaker,
    ) -> Reply {
        let answer = Answer::new(sealed, Some((&action, &decision)));
        self.refuse_elsewhere(Event {
            action,
            decision,
            actor: Actor {
                pid: speaker.line.first().map_or(0, |p| p.0),
                exe: String::new(),
                lineage: speaker.line.clone(),
            },
            binding: Binding::default(),
            enforced_by: "intent".into(),
        });
        let mut linker = lock(&self.intents.linker);
        self.end_action(&mut linker, &answer.id, "denied", None);
        Reply::json(403, &answer)
    }

    /// Lets an action go on, as far as the policy will let it when it comes: its intent is sealed.
    fn permit(&self, sealed: &Sealed<Intent>, decided: Option<(Action, Decision)>) -> Reply {
        let answer = Answer::new(sealed, decided.as_ref().map(|(a, d)| (a, d)));
        let mut linker = lock(&self.intents.linker);
        if let Some(previous) = linker.previous(&answer.id) {
            let (seq, _) = self.note_numbered(Record::ActionStart(ActionStart {
                action_id: answer.id.clone(),
                previous,
                intent: sealed.index(),
            }));
            linker.wrote(&answer.id, seq);
        }
        Reply::json(200, &answer)
    }

    fn end(&self, id: &str, ending: &Ending) -> Result<Reply, Reply> {
        let unknown = || {
            let text = format!("no action '{}' is open", escape_text(id));
            Reply::failure(404, &text)
        };
        let id = lock(&self.intents.linker).find(id).ok_or_else(unknown)?;
        self.settle();
        let outcome = if ending.failed { "failed" } else { "done" };
        let mut linker = lock(&self.intents.linker);
        let ended = self.end_action(&mut linker, &id, outcome, ending.exit);
        Ok(Reply::json(200, &ended.ok_or_else(unknown)?))
    }

    /// What is claimed, in the policy's vocabulary.
    fn actions_of(&self, statement: &Statement) -> Result<Vec<Action>> {
        if statement.does.len() > MAX_CLAIMS {
            bail!("an intent has at most {MAX_CLAIMS} claims");
        }
        let each = statement.does.iter().map(|does| {
            let verb: Verb = does.verb.parse()?;
            let resource = Resource::parse(verb.family(), &does.resource)?;
            let mut action = self.engine.action(verb, resource);
            if verb == Verb::ProcessExec {
                action.facts.args = does.argv.iter().cloned().map(Value::String).collect();
            } else if verb == Verb::ToolCall && statement.parameters.is_object() {
                action.facts.args = statement.parameters.clone();
            }
            Ok(action)
        });
        each.collect()
    }

    fn intent_of(
        &self,
        statement: Statement,
        actions: &[Action],
        speaker: &Speaker,
    ) -> Result<Intent> {
        let source = statement.source.unwrap_or_else(|| "api".into());
        if !SOURCES.contains(&source.as_str()) {
            bail!("'source' is one of {}", SOURCES.join(", "));
        }
        let claims = actions
            .iter()
            .zip(&statement.does)
            .map(|(action, does)| Claim {
                verb: action.verb.as_str().to_owned(),
                resource: action.resource.to_string(),
                argv_sha256: (!does.argv.is_empty()).then(|| argv_sha256(&does.argv)),
            });
        let parameters = match statement.parameters {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Intent {
            action_id: random_text(16)?,
            agent: self.engine.facts().session.name.clone(),
            source,
            tool: statement.tool.map(|t| escape_text(&t)),
            call: statement.call.map(|c| escape_text(&c)),
            why: escape_text(&statement.why),
            parameters: escape_text(&parameters),
            claims: claims.collect(),
            process: speaker
                .line
                .first()
                .map(|&(pid, start)| ProcessId { pid, start }),
            ..Intent::default()
        })
    }
}

/// Whether an agent that asks before it acts may go on: a question is asked when the action comes.
fn goes_on(effect: Effect) -> bool {
    effect.proceeds() || effect == Effect::Ask
}

impl Answer {
    fn new(sealed: &Sealed<Intent>, decided: Option<(&Action, &Decision)>) -> Answer {
        Answer {
            id: sealed.get().action_id.clone(),
            index: sealed.index(),
            leaf: sealed.leaf().to_base64(),
            about: decided.map_or_else(String::new, |(a, _)| format!("{} {}", a.verb, a.resource)),
            decision: decided.map(|(_, d)| d.clone()),
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    serde_json::from_slice(body)
        .map_err(|e| Reply::failure(400, &format!("the body is not as documented: {e}")))
}

/// The time as proc(5) tells when a process was started.
fn now_in_ticks() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * TICKS + nanos * TICKS / 1_000_000_000
}

/// An answer to a request.
#[derive(Debug)]
struct Reply {
    status: u16,
    body: Vec<u8>,
}

impl Reply {
    fn json(status: u16, body: &impl Serialize) -> Reply {
        // Cannot fail: structs of strings and numbers.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Reply { status, body }
    }

    fn failure(status: u16, error: &str) -> Reply {
        let error = error.to_owned();
        Reply::json(status, &Failure { error })
    }
}

/// Who says something.
#[derive(Debug, Default)]
struct Speaker {
    /// The process and its ancestors, itself first.
    line: Vec<Process>,
    /// The agent it speaks for: its nearest ancestor that is no shell, as hooks are run by one.
    agent: Option<Process>,
}

impl Speaker {
    /// The process with this number, which waits for an answer.
    fn of(pid: u32, broker: u32) -> Speaker {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(proc) = openat(CWD, "/proc", flags, Mode::empty()) else {
            return Speaker::default();
        };
        let line = agentwall_wall::lineage(proc.as_fd(), pid, broker);
        let above = line.get(1..).unwrap_or_default();
        let agent = above.iter().find(|(pid, _)| !is_shell(*pid));
        let agent = agent.or(above.last()).or(line.first()).copied();
        Speaker { line, agent }
    }
}

fn is_shell(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["sh", "bash", "dash", "zsh", "ash", "fish"].contains(&name.trim_end())
}

/// Serves the intent socket of a session until the process ends.
pub fn serve_intents(supervisor: &Arc<Supervisor>, listener: UnixListener, broker: u32) {
    let supervisor = Arc::downgrade(supervisor);
    let peers = Arc::default();
    // Without a thread nobody is heard, and nothing is let go on that asks first.
    let _ = std::thread::Builder::new()
        .name("intents".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), Some(supervisor)) = (stream, supervisor.upgrade()) else {
                    // Out of descriptors or memory: the peer waits in the backlog.
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let Some(place) = Place::take(&peers, MAX_PEERS) else {
                    let reply = Reply::failure(503, "too many at once; try again in a moment");
                    let _ = stream.set_nonblocking(true);
                    let _ = http::write_response(&stream, reply.status, &reply.body);
                    continue;
                };
                // If there is no thread to be had, dropping the closure closes the connection.
                let _ = std::thread::Builder::new()
                    .name("intent".into())
                    .spawn(move || {
                        let _place = place;
                        converse(&supervisor, &stream, broker);
                    });
            }
        });
}

fn converse(supervisor: &Arc<Supervisor>, stream: &UnixStream, broker: u32) {
    let reply = match sender(stream) {
        Ok((pid, first)) => {
            let rest = Timed::new(stream, PATIENCE);
            match http::read_request(first.as_slice().chain(rest)) {
                Ok(request) => supervisor.hear(&request, &Speaker::of(pid, broker)),
                Err(error) => match error.status() {
                    Some(status) => Reply::failure(status, &error.to_string()),
                    None => return,
                },
            }
        }
        Err(_) => return,
    };
    let to = Timed::new(stream, PATIENCE);
    let _ = http::write_response(to, reply.status, &reply.body);
}

/// The first bytes of a request, and the process that sent them: the kernel's word (unix(7),
/// `SCM_CREDENTIALS`).
fn sender(stream: &UnixStream) -> io::Result<(u32, Vec<u8>)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sent = control.drain().find_map(|item| match item {
        RecvAncillaryMessage::ScmCredentials(sender) => {
            Some(sender.pid.as_raw_nonzero().get().cast_unsigned())
        }
        _ => None,
    });
    bytes.truncate(message.bytes);
    let unknown = || io::Error::other("the sender is unknown");
    Ok((sent.ok_or_else(unknown)?, bytes))
}
