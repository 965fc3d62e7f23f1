//! Calls that wait for a person, each bound to exactly what was shown.
//!
//! A question holds the call in canonical form (RFC 8785): agent, capability, method and URL, arguments, headers, the
//! digest of the body's bytes, the policy's digest. That text is what a person is shown and what the answer is bound to. The
//! agent asks again with the same call; the answer is used up by it, once, in one step. A call that differs in
//! anything is another question and leaves the first as it was. Nobody's answer in time is a no.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard},
};

use agentwall_action::{Action, Decision};
use agentwall_engine::risk::Score;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// How long a question waits, and how long its answer can be used, in milliseconds.
pub const PATIENCE: Millis = 300_000;

/// Most questions of one agent at a time: a flood must not bury the one that matters.
pub const MAX_OF_AGENT: usize = 16;

/// Most questions at a time.
pub const MAX_OPEN: usize = 256;

/// Why a question ended that nobody answered.
pub(crate) const LATE: &str = "nobody answered in time";

/// Why a question ended whose answer nobody used.
pub(crate) const UNUSED: &str = "it was approved, and not called in time";

/// How long an ended question is remembered, so that the agent can be told, in milliseconds.
const REMEMBERED: Millis = 600_000;

/// The headers of a call that an answer is bound to ([`headers::bound`](crate::headers::bound)), by name.
pub type Bound = BTreeMap<String, Vec<String>>;

/// A call in the form that an answer is bound to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Payload {
    /// Version of the form, 1.
    pub v: u32,
    /// Which gateway.
    pub gateway: String,
    /// The agent's id.
    pub agent: String,
    /// What it calls.
    pub capability: String,
    /// The method.
    pub method: String,
    /// Where it goes, with the query.
    pub url: String,
    /// The named arguments.
    pub arguments: Map<String, Value>,
    /// The headers, those of credentials as a digest.
    pub headers: Bound,
    /// SHA-256 of the body, lower-case hex.
    pub body_sha256: String,
    /// Digest of the policy.
    pub policy: String,
    /// The enforcement point that asks about the agent; absent for a call of the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Payload {
    /// The canonical text: what is shown, and hashed.
    pub fn canonical(&self) -> String {
        // Maps with text keys and values that came from JSON always have a form.
        serde_json_canonicalizer::to_string(self).unwrap_or_default()
    }

    /// SHA-256 of the canonical text, lower-case hex.
    pub fn digest(&self) -> String {
        hex(&self.key())
    }

    fn key(&self) -> Key {
        Sha256::digest(self.canonical()).into()
    }
}

type Key = [u8; 32];

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nobody answered yet.
    Waiting,
    /// A person said yes; the call was not made yet.
    Approved {
        /// Who.
        by: String,
    },
    /// The call was made.
    Used,
    /// A person said no.
    Rejected {
        /// Who.
        by: String,
        /// Why, for the agent.
        reason: String,
    },
    /// Nobody answered, or nobody called, in time; or the agent was revoked.
    Ended {
        /// Which of these.
        why: &'static str,
    },
}

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its number at this gateway.
    pub number: u64,
    /// Unguessable; the agent asks by it how things stand.
    pub ticket: String,
    /// What exactly is asked.
    pub payload: Payload,
    /// Digest of the canonical payload and the time at which the question ends, lower-case hex: what an answer is
    /// recorded with.
    pub binding: String,
    /// The action, as the policy saw it.
    pub action: Action,
    /// Why it is asked.
    pub decision: Decision,
    /// What the risk is made of.
    pub risks: Vec<String>,
    /// The identifier of the token that the call came with.
    pub jti: String,
    /// When it was asked.
    pub since: Millis,
    /// When it ends without an answer, or the answer without a call.
    pub expires: Millis,
    /// What became of it.
    pub state: State,
}

/// What a question is about, beside the call itself.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The action, as the policy saw it.
    pub action: &'a Action,
    /// Why it is asked.
    pub decision: &'a Decision,
    /// What the risk is made of.
    pub risk: &'a Score,
    /// The identifier of the token that the call came with.
    pub jti: &'a str,
}

/// The question cannot be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Of this agent.
    #[error("{MAX_OF_AGENT} calls of this agent wait for a person already")]
    Agent,
    /// Of all.
    #[error("{MAX_OPEN} calls wait for a person already")]
    All,
}

/// The answer is to no open question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such question is open: it was answered, it expired, or the number is wrong")]
pub struct NoQuestion;

/// How a question stands when the agent calls (again).
#[derive(Debug, Clone)]
pub enum Standing {
    /// It was approved, and is used up by this call.
    Approved(Box<Question>),
    /// It waits.
    Waits(Box<Question>),
    /// A person said no to exactly this.
    Rejected(Box<Question>),
}

/// The questions of a gateway.
#[derive(Debug, Default)]
pub struct Approvals {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    all: BTreeMap<u64, Question>,
    /// The newest question about a call.
    by_call: HashMap<Key, u64>,
}

impl Approvals {
    /// Puts a question about a call, or tells how the one about the same call stands. With `take` an approved one is
    /// used up by this: of calls at the same moment one gets it. Without, it is told as one that still waits: who asks
    /// has not paid for the call yet.
    ///
    /// # Errors
    /// Too many wait already.
    pub fn put(
        &self,
        payload: Payload,
        of: Of<'_>,
        ticket: impl FnOnce() -> String,
        take: bool,
        now: Millis,
    ) -> Result<Standing, AskError> {
        let key = payload.key();
        let mut inner = self.lock();
        inner.tidy(now);
        if let Some(number) = inner.by_call.get(&key).copied()
            && let Some(question) = inner.all.get_mut(&number)
        {
            match question.state {
                State::Waiting => return Ok(Standing::Waits(Box::new(question.clone()))),
                State::Rejected { .. } if now < question.expires => {
                    return Ok(Standing::Rejected(Box::new(question.clone())));
                }
                State::Approved { .. } if !take => {
                    return Ok(Standing::Waits(Box::new(question.clone())));
                }
                State::Approved { .. } => {
                    let standing = Standing::Approved(Box::new(question.clone()));
                    question.state = State::Used;
                    return Ok(standing);
                }
                _ => {}
            }
        }
        let open = || inner.all.values().filter(|q| q.state == State::Waiting);
        if open().count() >= MAX_OPEN {
            return Err(AskError::All);
        }
        if open().filter(|q| q.payload.agent == payload.agent).count() >= MAX_OF_AGENT {
            return Err(AskError::Agent);
        }
        inner.next += 1;
        let number = inner.next;
        let expires = now + PATIENCE;
        let mut bound = Sha256::new();
        bound.update(payload.canonical());
        bound.update(expires.to_be_bytes());
        let question = Question {
            number,
            ticket: ticket(),
            payload,
            binding: hex(&bound.finalize()),
            action: of.action.clone(),
            decision: of.decision.clone(),
            risks: of.risk.lines(),
            jti: of.jti.to_owned(),
            since: now,
            expires,
            state: State::Waiting,
        };
        inner.by_call.insert(key, number);
        inner.all.insert(number, question.clone());
        Ok(Standing::Waits(Box::new(question)))
    }

    /// The ticket under which exactly this call was approved, if it was not made yet.
    pub fn approved(&self, payload: &Payload, now: Millis) -> Option<String> {
        let mut inner = self.lock();
        inner.tidy(now);
        let number = inner.by_call.get(&payload.key());
        let question = inner.all.get(number?)?;
        matches!(question.state, State::Approved { .. }).then(|| question.ticket.clone())
    }

    /// A person says yes. It holds from when `record` has made it durable.
    ///
    /// # Errors
    /// No such question waits; or what `record` says, and the question waits on.
    pub fn approve<E: From<NoQuestion>>(
        &self,
        number: u64,
        by: &str,
        now: Millis,
        record: impl FnOnce(&Question) -> Result<(), E>,
    ) -> Result<Question, E> {
        self.answer(number, now, record, || State::Approved {
            by: by.to_owned(),
        })
    }

    /// A person says no; to the same call again, too, until it would have expired.
    ///
    /// # Errors
    /// As of [`Approvals::approve`].
    pub fn reject<E: From<NoQuestion>>(
        &self,
        number: u64,
        by: &str,
        reason: Option<&str>,
        now: Millis,
        record: impl FnOnce(&Question) -> Result<(), E>,
    ) -> Result<Question, E> {
        let reason = reason.unwrap_or("a person said no").to_owned();
        let by = by.to_owned();
        self.answer(number, now, record, || State::Rejected { by, reason })
    }

    fn answer<E: From<NoQuestion>>(
        &self,
        number: u64,
        now: Millis,
        record: impl FnOnce(&Question) -> Result<(), E>,
        state: impl FnOnce() -> State,
    ) -> Result<Question, E> {
        let mut inner = self.lock();
        inner.tidy(now);
        let question = (inner.all.get_mut(&number)).filter(|q| q.state == State::Waiting);
        let question = question.ok_or(NoQuestion)?;
        // Under the lock: two answers to one question would both be recorded.
        record(question)?;
        question.state = state();
        question.expires = now + PATIENCE;
        Ok(question.clone())
    }

    /// The question of that ticket, however it stands.
    pub fn of_ticket(&self, ticket: &str, now: Millis) -> Option<Question> {
        let mut inner = self.lock();
        inner.tidy(now);
        inner.all.values().find(|q| q.ticket == ticket).cloned()
    }

    /// The questions that wait, the oldest first.
    pub fn waiting(&self, now: Millis) -> Vec<Question> {
        let mut inner = self.lock();
        inner.tidy(now);
        let waiting = inner.all.values().filter(|q| q.state == State::Waiting);
        waiting.cloned().collect()
    }

    /// The question that the same agent put before this one about the same capability: what changed since tells a
    /// person what the agent tries.
    pub fn before(&self, question: &Question) -> Option<Question> {
        let inner = self.lock();
        let mut earlier = inner.all.range(..question.number).rev().map(|(_, q)| q);
        earlier
            .find(|q| {
                q.payload.agent == question.payload.agent
                    && q.payload.capability == question.payload.capability
            })
            .cloned()
    }

    /// Ends everything of agents, or of enforcement points, that are no more: what waits, and what was approved and not used.
    pub fn revoke(&self, is_revoked: impl Fn(&Payload) -> bool) -> Vec<Question> {
        let mut inner = self.lock();
        let mut ended = Vec::new();
        for question in inner.all.values_mut() {
            let open = matches!(question.state, State::Waiting | State::Approved { .. });
            if open && is_revoked(&question.payload) {
                question.state = State::Ended {
                    why: "the agent was revoked",
                };
                ended.push(question.clone());
            }
        }
        ended
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Inner {
    /// Ends what is over, and forgets what nobody asks about any more.
    fn tidy(&mut self, now: Millis) {
        for question in self.all.values_mut().filter(|q| q.expires <= now) {
            let why = match question.state {
                State::Waiting => LATE,
                State::Approved { .. } => UNUSED,
                _ => continue,
            };
            question.state = State::Ended { why };
        }
        let gone: Vec<u64> = (self.all.iter())
            .filter(|(_, q)| q.state != State::Waiting && q.expires + REMEMBERED <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            if let Some(question) = self.all.remove(&number) {
                let key = question.payload.key();
                if self.by_call.get(&key) == Some(&number) {
                    self.by_call.remove(&key);
                }
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[cfg(test)]
#[path = "approvals_tests.rs"]
mod tests;
