//! A server that is a program: its client speaks with it over standard input and output, one message a line, and every
//! line goes through here.
//!
//! The client is a program of the same user, so there is no token: the agent is `agent:local/NAME`. A carriage return in
//! a line is refused in both directions: readers that take it for a line's end would find other messages in it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use agentwall_budget::OnFailure;
use http::HeaderMap;
use serde_json::Value;

use super::{Asked, Server, asked, filter::FilterError, reply, rpc::Message};
use crate::{
    answer::{Disclosure, Refusal},
    gateway::{now, random},
    judge::{Caller, Judge, Permit, Verdict},
    record::Ended,
};

/// Longest line of a client, in bytes.
pub const MAX_LINE: usize = 4 << 20;

/// Most calls whose answers are waited for; the ends of more are not recorded.
const MAX_OPEN: usize = 4096;

/// A server that is a program, and its client.
#[derive(Debug)]
pub struct Wrapped {
    server: Server,
    judge: Judge,
    caller: Caller,
    /// What the program was started as, for people and the record.
    command: String,
    disclosure: Disclosure,
    /// Calls that were passed on, by the id of their message.
    open: Mutex<HashMap<String, (String, Instant)>>,
}

/// What becomes of a line of the client.
#[derive(Debug)]
pub enum Step {
    /// It goes on. The permit is given back if it cannot.
    On(Permit),
    /// It does not, and the client is told so.
    Answer(Value),
    /// It does not, and wants no answer.
    Dropped(String),
}

/// In the place of a host's id: the client is a program of this host's user.
const LOCAL: &str = "local";

impl Wrapped {
    /// The program that was started as `command`, used by the agent that the client calls itself.
    pub fn new(server: Server, judge: Judge, agent: &str, command: String) -> Wrapped {
        Wrapped {
            server,
            judge,
            caller: Caller {
                agent: agent.to_owned(),
                host: LOCAL.to_owned(),
                subject: Caller::subject_of(LOCAL, agent),
                name: agent.to_owned(),
                by: None,
                since: 0,
                jti: String::new(),
                once: Vec::new(),
            },
            command,
            disclosure: Disclosure::Full,
            open: Mutex::default(),
        }
    }

    /// Who decides.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// A line of the client, without its end.
    pub async fn of_client(&self, line: &[u8]) -> Step {
        let read = match line.contains(&b'\r') {
            true => Err((None, -32700, "a line has a carriage return".to_owned())),
            false => Message::read(line, MAX_LINE).map_err(|e| (None, e.code(), e.to_string())),
        };
        let read = read.and_then(|message| match asked(&message) {
            Ok(what) => Ok((message, what)),
            Err(e) => Err((message.id, e.code(), e.to_string())),
        });
        let (message, what) = match read {
            Ok(read) => read,
            Err((id, code, text)) => return Step::Answer(reply::error(id.as_ref(), code, &text)),
        };
        let call = self.server.call(
            &message,
            &what,
            (&self.command, &HeaderMap::new()),
            OnFailure::Closed,
            String::new(),
        );
        let verdict = self
            .judge
            .judge(&self.caller, &call, random(), random, now());
        match verdict.await {
            Verdict::Go(permit) => {
                if let (Some(id), true) = (&message.id, message.wants_answer()) {
                    let mut open = self.open();
                    if open.len() < MAX_OPEN {
                        open.insert(id.to_string(), (permit.id.clone(), Instant::now()));
                    }
                }
                Step::On(permit)
            }
            Verdict::Stop(refusal) => self.refused(&message, &what, &refusal),
        }
    }

    fn refused(&self, message: &Message, what: &Asked, refusal: &Refusal) -> Step {
        match &message.id {
            Some(id) if message.wants_answer() => {
                Step::Answer(reply::refusal(id, what, refusal, self.disclosure))
            }
            _ => Step::Dropped(refusal.message.clone()),
        }
    }

    /// The line could not be passed on: what was charged is given back.
    pub async fn not_sent(&self, permit: &Permit) {
        self.judge.release(permit).await;
        self.ended(
            permit.id.clone(),
            Instant::now(),
            Some("the server has ended"),
        );
    }

    /// A line of the server, without its end: what goes on in its place, or nothing if it goes on as it came.
    ///
    /// # Errors
    /// It is no message, or cannot be looked at. It does not go on.
    pub fn of_server(&self, line: &[u8]) -> Result<Option<Vec<u8>>, FilterError> {
        if line.contains(&b'\r') {
            return Err(FilterError::Message(
                "a line has a carriage return".to_owned(),
            ));
        }
        let filter = self.server.filter(
            self.judge.policy(),
            self.caller.subject.clone(),
            true,
            now(),
        );
        let other = filter.message(line)?;
        self.answered(line);
        Ok(other)
    }

    /// A call ended, if the line is its answer.
    fn answered(&self, line: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Head {
            id: Option<Value>,
            method: Option<String>,
        }
        let Ok(head) = serde_json::from_slice::<Head>(line) else {
            return;
        };
        let id = head.id.filter(|_| head.method.is_none());
        let call = id.and_then(|id| self.open().remove(&id.to_string()));
        if let Some((call, began)) = call {
            self.ended(call, began, None);
        }
    }

    fn ended(&self, call: String, began: Instant, error: Option<&str>) {
        self.judge.recorder().ended(&Ended {
            call: &call,
            status: None,
            error,
            took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// The server ended: calls that it did not answer have no answer.
    pub fn over(&self) {
        let open: Vec<_> = self.open().drain().collect();
        for (_, (call, began)) in open {
            self.ended(call, began, Some("the server ended before it answered"));
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, (String, Instant)>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }
}
