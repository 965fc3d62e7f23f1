//! Judging a call: policy, risk, budget, approval - and the record of it, before anything is passed on.
//!
//! Who calls was verified before ([`Directory`](agentwall_identity::Directory)). Here the engine is asked as for every
//! other action, the policy's thresholds weigh the risk, and then one question to the counters records the token and
//! charges the budgets - only what will go ahead is charged. Only [`Judge::judge`] makes a [`Permit`], and only with a
//! permit a call is passed on.

mod round;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use agentwall_action::{Auth, Effect, Facts, Resource, Session, Subject, Verb};
use agentwall_budget::{Answer, Ask, Counters, Jti, OnFailure, Reservation};
use agentwall_engine::{
    Engine, Grant,
    risk::{Deviation, History, Sensitivity, weigh},
};
use agentwall_identity::Once;
use agentwall_policy::{Charge, ChargeError, Policy};
use http::StatusCode;
use serde_json::{Map, Value};

use crate::{
    answer::{Headers, Next, Refusal},
    approvals::{Approvals, Bound, Millis, NoQuestion, Payload, Question},
    record::{Answered, RecordError, Recorder},
};
use round::Round;

/// Most agents whose history and engine are kept. Beyond, those who called least recently are forgotten: they are new
/// again, which raises their risk, and a person's answers for them end.
const MAX_AGENTS: usize = 4096;

/// `auth.method` of those whom an enforcement point has verified. Of agents with tokens of their own it is `jwt`.
const VOUCHED: &str = "pep";

/// Who calls, verified.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The agent's id; of a subject that is no agent here, the subject.
    pub agent: String,
    /// Its host's id; empty for a subject that is no agent here.
    pub host: String,
    /// What its host calls it.
    pub name: String,
    /// Whom rules are about.
    pub subject: Subject,
    /// The enforcement point that asks about it and that has verified who it is; absent when it calls itself.
    pub by: Option<String>,
    /// Since when it is known, in seconds since 1970.
    pub since: i64,
    /// The token's identifier.
    pub jti: String,
    /// What must be taken once: the token, and a proof of possession. Empty for who asks after a call of their own.
    pub once: Vec<Once>,
}

impl Caller {
    /// `agent:HOST/NAME`: the host's id, which nobody chooses, and the name that the host gave, in characters that
    /// patterns can hold. Others become `_`.
    pub fn subject_of(host: &str, name: &str) -> Subject {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name: String = name
            .chars()
            .map(|c| if fits(c) { c } else { '_' })
            .collect();
        Subject::agent(&format!("{host}/{name}"))
    }
}

/// What becomes of a call that a person is asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Asks {
    /// A question is put; the answer to one about the same call is used up.
    #[default]
    Put,
    /// No question is put. The answer to one about the same call is used up if the caller names its ticket.
    Tell(Option<String>),
}

/// A call to be judged.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is asked of the policy.
    pub verb: Verb,
    /// To what.
    pub resource: Resource,
    /// Named arguments.
    pub arguments: Map<String, Value>,
    /// The capability.
    pub capability: String,
    /// How much harm it can do.
    pub sensitivity: Sensitivity,
    /// What happens when the counters give no answer.
    pub on_failure: OnFailure,
    /// Method.
    pub method: String,
    /// Where it goes.
    pub url: String,
    /// The headers that go with it and mean something to the API.
    pub headers: Bound,
    /// SHA-256 of its body, lower-case hex.
    pub body_sha256: String,
    /// Before a question's ticket: where the agent asks how the call stands. Empty where it cannot.
    pub status_base: String,
    /// What becomes of it if a person is asked.
    pub asks: Asks,
    /// Who does what is decided: `gateway`, `authzen` or `ext_authz`.
    pub enforced_by: &'static str,
    /// Why it is refused whatever the policy says.
    pub withheld: Option<String>,
}

/// A call that may be passed on, once.
#[derive(Debug)]
pub struct Permit {
    /// The call's id.
    pub id: String,
    reservation: Option<Reservation>,
    /// What the budgets have left, for the agent.
    pub budgets: Headers,
}

/// What became of a call.
#[derive(Debug)]
pub enum Verdict {
    /// It may be passed on.
    Go(Permit),
    /// It may not, or not yet.
    Stop(Box<Refusal>),
}

/// The decision core of a gateway.
#[derive(Debug)]
pub struct Judge {
    gateway: String,
    /// The run of the gateway, in the record.
    session: String,
    counters: Counters,
    approvals: Approvals,
    recorder: Arc<dyn Recorder>,
    deviations: Vec<Arc<dyn Deviation>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    policy: Arc<Policy>,
    agents: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    engine: Arc<Engine>,
    history: History,
    called: Millis,
}

/// What a judge is made of.
#[derive(Debug)]
pub struct Parts {
    /// The gateway's name.
    pub gateway: String,
    /// The run's id.
    pub session: String,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// Replay and budgets.
    pub counters: Counters,
    /// Who keeps the record.
    pub recorder: Arc<dyn Recorder>,
    /// Signals from elsewhere.
    pub deviations: Vec<Arc<dyn Deviation>>,
}

impl Judge {
    /// A judge without a history.
    pub fn new(parts: Parts) -> Judge {
        Judge {
            gateway: parts.gateway,
            session: parts.session,
            counters: parts.counters,
            approvals: Approvals::default(),
            recorder: parts.recorder,
            deviations: parts.deviations,
            inner: Mutex::new(Inner {
                policy: parts.policy,
                agents: HashMap::new(),
            }),
        }
    }

    /// The questions.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Who keeps the record.
    pub fn recorder(&self) -> &Arc<dyn Recorder> {
        &self.recorder
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.lock().policy)
    }

    /// Puts another policy in force for every call that comes after.
    pub fn replace_policy(&self, policy: Arc<Policy>) {
        let mut inner = self.lock();
        for known in inner.agents.values() {
            known.engine.replace(Arc::clone(&policy));
        }
        inner.policy = policy;
    }

    /// An attempt that is refused before it comes to be judged. Its token is used up all the same, and only its first
    /// use counts against the agent: who replays it is somebody else.
    ///
    /// # Errors
    /// As of [`Judge::use_once`].
    pub async fn refused(&self, caller: &Caller, now: Millis) -> Result<(), Box<Refusal>> {
        self.use_once(&caller.once, now).await?;
        self.known(caller, now, |known| known.history.refused(seconds(now)));
        Ok(())
    }

    /// Tokens that are used for something else than a call are used up all the same.
    ///
    /// # Errors
    /// One was used before, or cannot be remembered.
    pub async fn use_once(&self, all: &[Once], now: Millis) -> Result<(), Box<Refusal>> {
        in_time(all, now)?;
        for once in all {
            let ask = Ask {
                jti: Some(jti(once, now)),
                ..Ask::default()
            };
            match self.counters.admit(&ask).await {
                Ok(admission) if matches!(admission.answer, Answer::Replayed) => {
                    return Err(Box::new(replayed()));
                }
                Ok(_) => {}
                Err(e) => return Err(Box::new(Refusal::unavailable(&e.to_string()))),
            }
        }
        Ok(())
    }

    /// Judges a call, and records what was decided. `id` is for the call, unguessable; `ticket` makes such for a
    /// question.
    pub async fn judge(
        &self,
        caller: &Caller,
        call: &Call,
        id: String,
        ticket: impl FnOnce() -> String,
        now: Millis,
    ) -> Verdict {
        let (mut round, charges) = self.round(caller, call, id, now);
        let charges = match charges {
            Ok(charges) => charges,
            Err(e) => {
                round.decision.effect = Effect::Deny;
                round.decision.rule = None;
                round.decision.reason = e.to_string();
                Vec::new()
            }
        };
        round.go(charges, ticket).await
    }

    /// Asks a person about a call that is not made now, or tells how the question about the same call stands. Nothing is
    /// charged, and no answer is used up.
    ///
    /// # Errors
    /// A person has nothing to decide: it is allowed, or refused; too many questions wait, or the record cannot be kept.
    pub fn request(
        &self,
        caller: &Caller,
        call: &Call,
        id: String,
        ticket: impl FnOnce() -> String,
        now: Millis,
    ) -> Result<Box<Question>, Box<Refusal>> {
        self.round(caller, call, id, now).0.request(ticket)
    }

    /// What policy and risk say to a call, and what it would cost.
    fn round<'a>(
        &'a self,
        caller: &'a Caller,
        call: &'a Call,
        id: String,
        now: Millis,
    ) -> (Round<'a>, Result<Vec<Charge>, ChargeError>) {
        let (engine, mut score) = self.known(caller, now, |known| {
            let score = known.history.score(seconds(now), call.sensitivity);
            (Arc::clone(&known.engine), score)
        });
        for deviation in &self.deviations {
            score
                .reasons
                .extend(deviation.reasons(&caller.agent, &call.capability));
        }
        let mut action = engine.action(call.verb, call.resource.clone());
        action.facts.args = Value::Object(call.arguments.clone());
        action.facts.risk = score.total().max(engine.risk());
        action.facts.time = seconds(now);
        if caller.by.is_some() {
            VOUCHED.clone_into(&mut action.facts.auth.method);
        }
        let held = engine.hold();
        let mut decision = weigh(held.decide(&action), held.policy().risk(), &score);
        let mut charges = held.policy().charges(&action);
        drop(held);
        if let Some(why) = &call.withheld {
            decision.effect = Effect::Deny;
            decision.rule = None;
            decision.reason.clone_from(why);
            charges = Ok(Vec::new());
        }

        let payload = Payload {
            v: 1,
            gateway: self.gateway.clone(),
            agent: caller.agent.clone(),
            capability: call.capability.clone(),
            method: call.method.clone(),
            url: call.url.clone(),
            arguments: call.arguments.clone(),
            headers: call.headers.clone(),
            body_sha256: call.body_sha256.clone(),
            policy: decision.policy.clone(),
            by: caller.by.clone(),
        };
        let round = Round {
            judge: self,
            caller,
            call,
            id,
            action,
            decision,
            score,
            charged: Vec::new(),
            degraded: None,
            question: None,
            digest: payload.digest(),
            payload,
            fresh: false,
            now,
        };
        (round, charges)
    }

    /// A call did not reach the API: what was charged for it is given back.
    pub async fn release(&self, permit: &Permit) {
        if let Some(reservation) = &permit.reservation {
            // Else the charge leaves with its windows.
            let _ = self.counters.release(reservation).await;
        }
    }

    /// A person says yes to a question.
    ///
    /// # Errors
    /// It is not open, the policy was changed since, the scope does not fit it, or the record cannot be kept.
    pub fn approve(
        &self,
        number: u64,
        scope: &agentwall_engine::Scope,
        by: &str,
        now: Millis,
    ) -> Result<Question, AnswerError> {
        let said = match scope {
            agentwall_engine::Scope::Pattern(pattern) => pattern.clone(),
            other => other.to_string(),
        };
        let mut grant = None;
        let question = self.approvals.approve(number, by, now, |question| {
            if question.payload.policy != self.policy().digest() {
                return Err(AnswerError::Policy);
            }
            if *scope != agentwall_engine::Scope::Once {
                if self.policy().decide(&question.action).effect != Effect::Ask {
                    return Err(AnswerError::Risk);
                }
                grant = Some(Grant::new(
                    &question.action,
                    &question.decision,
                    scope.clone(),
                )?);
            }
            self.recorder.answered(&Answered {
                question,
                verdict: "approve",
                by,
                scope: &said,
            })?;
            Ok(())
        })?;
        if let (Some(grant), Some(known)) = (grant, self.lock().agents.get(&question.payload.agent))
        {
            known.engine.grant(grant);
        }
        Ok(question)
    }

    /// A person says no to a question.
    ///
    /// # Errors
    /// It is not open, or the record cannot be kept.
    pub fn reject(
        &self,
        number: u64,
        by: &str,
        reason: Option<&str>,
        now: Millis,
    ) -> Result<Question, AnswerError> {
        self.approvals.reject(number, by, reason, now, |question| {
            self.recorder.answered(&Answered {
                question,
                verdict: "reject",
                by,
                scope: "once",
            })?;
            Ok(())
        })
    }

    fn known<T>(&self, caller: &Caller, now: Millis, use_it: impl FnOnce(&mut Known) -> T) -> T {
        let mut inner = self.lock();
        if !inner.agents.contains_key(&caller.agent) {
            if inner.agents.len() >= MAX_AGENTS {
                inner.forget();
            }
            let facts = Facts {
                auth: Auth {
                    method: "jwt".to_owned(),
                },
                session: Session {
                    id: self.session.clone(),
                    name: caller.name.clone(),
                    ..Session::default()
                },
                ..Facts::default()
            };
            let engine = Engine::new(Arc::clone(&inner.policy), caller.subject.clone(), facts);
            let known = Known {
                engine: Arc::new(engine),
                history: History::since(caller.since),
                called: now,
            };
            inner.agents.insert(caller.agent.clone(), known);
        }
        let known = inner.agents.entry(caller.agent.clone());
        let std::collections::hash_map::Entry::Occupied(mut known) = known else {
            unreachable!("it was put there under the same lock");
        };
        known.get_mut().called = now;
        use_it(known.get_mut())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Inner {
    /// Forgets a quarter, those who called least recently.
    fn forget(&mut self) {
        let mut called: Vec<Millis> = self.agents.values().map(|k| k.called).collect();
        called.sort_unstable();
        if let Some(limit) = called.get(called.len() / 4).copied() {
            self.agents.retain(|_, known| known.called > limit);
        }
    }
}

/// Why an answer does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No such question waits.
    #[error(transparent)]
    NoQuestion(#[from] NoQuestion),
    /// The policy was changed since.
    #[error("the policy was changed since the question was put; the agent has to call again")]
    Policy,
    /// No rule asked, so nothing that holds for longer would answer.
    #[error("the risk of this call asked, not a rule; it can be approved once")]
    Risk,
    /// The scope does not fit.
    #[error(transparent)]
    Grant(#[from] agentwall_engine::GrantError),
    /// The record cannot be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A token is used while it holds: it was verified before the body was read, and a record of its use is kept no longer
/// than that.
fn in_time(all: &[Once], now: Millis) -> Result<(), Box<Refusal>> {
    match all.iter().all(|once| seconds(now) <= once.until) {
        true => Ok(()),
        false => Err(Box::new(late())),
    }
}

fn jti(once: &Once, now: Millis) -> Jti<'_> {
    // Until the end of that second, as the one who verified it counts.
    let left = once
        .until
        .saturating_add(1)
        .saturating_sub(seconds(now))
        .max(1);
    Jti {
        identity: &once.identity,
        value: &once.jti,
        window: Duration::from_secs(left.unsigned_abs()),
    }
}

fn late() -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "invalid_jwt",
        "token-over",
        "the token was over before the request had come as a whole; make a fresh one for each call",
    );
    refusal.next.push(Next::Authenticate);
    refusal
}

fn replayed() -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "jti_replay",
        "token-used-before",
        "this token was used before; make a fresh one for each call",
    );
    refusal.next.push(Next::Authenticate);
    refusal
}

fn seconds(now: Millis) -> i64 {
    (now / 1000).cast_signed()
}

#[cfg(test)]
mod tests;
