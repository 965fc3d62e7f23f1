//! `agentwall policy apply`: another policy for the session while its agent runs.
//!
//! What was planned at the start cannot change, so the new policy is loaded and planned as `run` would,
//! and compared with what stands (`agentwall_wall::live`). One that the standing wall cannot enforce
//! exactly is refused and nothing changes. Else, in this order: the broker prepares it; the session
//! keeps its text; the ledger has the change, durably; the session's record names it; the broker
//! enforces it and says so; this side enforces it. The session's own files are durable before the command
//! ends.
//!
//! Invariants:
//! * Each decision is one policy's, and so is each operation: for a moment the broker decides by the new
//!   policy and this side by the former, and a question that crosses it is put to the person (`asks`).
//! * Until the broker has prepared the policy nothing has happened; from then on only the end of the
//!   session keeps it from coming into force, or what could not be written, which takes it back.
//! * One change at a time.

use std::{
    collections::HashMap,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    time::{Duration, Instant},
};

use agentwall_wall::{Revision, wire::ToBroker};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{Supervisor, lock, standing::Standing};
use crate::{
    control::{Applied, PolicyText, Response},
    policies::Origin,
    prepare::Prepared,
    session::Session,
};

/// How long the broker may take to load a policy. Nothing has happened before.
const PATIENCE: Duration = Duration::from_secs(60);

/// The changes of policy of one session.
#[derive(Default)]
pub struct Revisions {
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    standing: OnceLock<Mutex<Standing>>,
}

/// Who waits for which answer of the broker.
#[derive(Default)]
struct Waiting {
    /// No answer comes any more.
    gone: bool,
    answers: HashMap<u64, Sender<Result<String, String>>>,
}

impl Revisions {
    /// The wall stands; from here on its policy may change.
    pub fn begin(&self, prepared: Prepared, origin: Origin, session: Session) {
        let standing = Standing::new(prepared, origin, session);
        let _ = self.standing.set(Mutex::new(standing));
    }

    /// The broker is gone. `session` gets the policy that it is decided by from here on.
    pub fn end(&self, session: &mut Session) {
        {
            let mut waiting = lock(&self.waiting);
            waiting.gone = true;
            waiting.answers.clear();
        }
        // A change under way ends now.
        if let Some(standing) = self.standing.get() {
            session.adopt_policy(lock(standing).session());
        }
    }

    /// The broker has answered.
    pub(super) fn answered(&self, number: u64, outcome: Result<String, String>) {
        if let Some(sender) = lock(&self.waiting).answers.remove(&number) {
            let _ = sender.send(outcome);
        }
    }

    /// Puts a policy in force: the given one, or the session's own, read again. `by` is the user id
    /// of who asks for it.
    pub(super) fn apply(
        &self,
        supervisor: &Supervisor,
        by: u32,
        given: Option<PolicyText>,
    ) -> Response {
        self.change(supervisor, by, given)
            .unwrap_or_else(|e| Response::Error {
                text: format!("{e:#}"),
            })
    }

    fn change(
        &self,
        supervisor: &Supervisor,
        by: u32,
        given: Option<PolicyText>,
    ) -> Result<Response> {
        let begun = Instant::now();
        let elapsed = || u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let standing = self.standing.get();
        let mut standing = lock(standing.context("the session is only starting; try again")?);
        if lock(&self.waiting).gone {
            bail!("the session has ended; 'agentwall sessions' lists those that run");
        }
        let engine = &supervisor.engine;
        let old = engine.policy();
        let next = standing.read(given)?;
        let digest = next.policy.digest().to_owned();
        let mut applied = Applied {
            session: standing.session().id().to_owned(),
            old: old.digest().to_owned(),
            new: digest.clone(),
            rules: next.policy.rules().count(),
            sources: next.sources.iter().map(|s| s.name.clone()).collect(),
            ..Applied::default()
        };
        if applied.old == applied.new {
            return Ok(Response::Applied(applied));
        }
        let found = standing.differences(&next)?;
        if !found.is_empty() {
            return Ok(Response::Differs(found));
        }
        applied.planned_us = elapsed();

        self.prepare(supervisor, standing.revision(&next, &old), &digest)?;
        applied.prepared_us = elapsed();

        let former = standing.record(supervisor, &next, &applied.old, by)?;
        applied.recorded_us = elapsed();
        let kept = standing.session().clone();
        let durable = std::thread::spawn(move || kept.sync());

        // However long it takes: it is prepared, recorded, and on its way.
        let enforced = self
            .ask(supervisor, |n| ToBroker::Enforce(n, digest.clone()))
            .and_then(|answer| Ok(answer.recv()?))
            .map_err(|_| {
                anyhow!(
                    "the session ended before the policy was in force; its changes will be \
                     committed by it"
                )
            })?;
        if let Err(why) = enforced {
            standing.take_back(supervisor, former, &digest, by);
            bail!("{why}; nothing was changed");
        }
        applied.acknowledged_us = elapsed();
        engine.replace(next.policy);
        if let Some(egress) = supervisor.egress.get() {
            egress.policy_changed();
        }
        match durable.join() {
            Ok(Ok(())) => Ok(Response::Applied(applied)),
            failed => bail!(
                "the policy is in force, but the session's record of it may not outlive a power \
                 failure: {}",
                failed.map_or_else(|_| "no thread".to_owned(), |e| format!("{e:?}"))
            ),
        }
    }

    /// The broker makes the policy ready.
    fn prepare(&self, supervisor: &Supervisor, revision: Revision, digest: &str) -> Result<()> {
        let answer = self.ask(supervisor, |n| ToBroker::Prepare(n, Box::new(revision)))?;
        let prepared = answer.recv_timeout(PATIENCE);
        match prepared.context("the wall's broker does not answer; nothing was changed")? {
            Ok(theirs) if theirs == digest => Ok(()),
            Ok(theirs) => bail!(
                "the wall's broker read another policy ({theirs}, expected {digest}); nothing was \
                 changed"
            ),
            Err(why) => bail!("{why}; nothing was changed. A new session can be started under it"),
        }
    }

    /// Sends a numbered message to the broker; the answer comes over the channel, which closes when
    /// the broker is gone.
    fn ask(
        &self,
        supervisor: &Supervisor,
        message: impl FnOnce(u64) -> ToBroker,
    ) -> Result<mpsc::Receiver<Result<String, String>>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.gone {
                bail!("the session has ended");
            }
            waiting.answers.insert(number, sender);
        }
        supervisor.send(&message(number));
        Ok(receiver)
    }
}
