//! Questions of the kernel wall. A program in the kernel waits for nobody: it refuses, the question
//! stands here, and a person's yes becomes a grant for just this object, so that the next try goes through.
//!
//! A question is bound to verb, object by identity, session and policy, as those of other walls are. Who tries
//! again while it waits asks no second one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use agentwall_wall::wire::Event as Told;

pub use agentwall_control::host::{KERNEL_WALL as PREFIX, is_of_kernel_wall as is_ours};

use super::kernel::Grant;
use crate::{
    control::PendingAsk,
    state::now_ms,
    supervisor::{binding, bound_text},
};

/// How long a question waits.
pub const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// How long a yes for once may be used.
pub const ONCE: Duration = Duration::from_secs(10 * 60);
/// How many wait at once: a flood must not bury the one that matters.
const MAX_OPEN: usize = 64;

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    /// The yes that it asks for.
    pub grant: Grant,
    /// The view of the process.
    pub view: u32,
    /// What would be done.
    pub told: Told,
    /// What an answer is bound to.
    pub digest: String,
    since_ms: u64,
    deadline: Instant,
}

impl Question {
    /// Whether it waited too long.
    pub fn is_over(&self, now: Instant) -> bool {
        self.deadline <= now
    }
}

/// Those that wait.
#[derive(Debug)]
pub struct Questions {
    next: u64,
    open: BTreeMap<u64, Question>,
}

/// What became of a question that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It waits, under this number.
    New(u64),
    /// It waits already.
    Again,
    /// Too many wait.
    TooMany,
}

impl Questions {
    /// None yet; the next one has this number.
    pub fn new(next: u64) -> Questions {
        Questions {
            next,
            open: BTreeMap::new(),
        }
    }

    /// The number of the next one.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Puts the question of a refusal under a view, which this yes would answer.
    pub fn ask(&mut self, grant: Grant, view: u32, told: &Told, now: Instant) -> Asked {
        if self.open.values().any(|q| q.grant == grant) {
            return Asked::Again;
        }
        if self.open.len() >= MAX_OPEN {
            return Asked::TooMany;
        }
        let number = self.next;
        self.next += 1;
        let question = Question {
            grant,
            view,
            digest: binding(told),
            told: told.clone(),
            since_ms: now_ms(),
            deadline: now + PATIENCE,
        };
        self.open.insert(number, question);
        Asked::New(number)
    }

    /// Takes one out, by its id.
    pub fn take(&mut self, id: &str) -> Option<(String, Question)> {
        let number = id.strip_prefix(PREFIX)?.strip_prefix('-')?.parse().ok()?;
        let question = self.open.remove(&number)?;
        Some((id_of(number), question))
    }

    /// Puts one back.
    pub fn put_back(&mut self, id: &str, question: Question) {
        let number = id.rsplit('-').next().and_then(|n| n.parse().ok());
        if let Some(number) = number {
            self.open.insert(number, question);
        }
    }

    /// Takes out some.
    pub fn take_those(&mut self, which: impl Fn(&Question) -> bool) -> Vec<(String, Question)> {
        let numbers: Vec<u64> = (self.open.iter())
            .filter(|(_, q)| which(q))
            .map(|(n, _)| *n)
            .collect();
        let taken = numbers.into_iter();
        taken
            .filter_map(|n| Some((id_of(n), self.open.remove(&n)?)))
            .collect()
    }

    /// Those that wait, for a person. `session_of` tells id and name of a session.
    pub fn pending(
        &self,
        now: Instant,
        session_of: impl Fn(u64) -> (String, String),
    ) -> Vec<PendingAsk> {
        let asked = self.open.iter().map(|(number, question)| {
            let (session, name) = session_of(question.grant.session);
            let left = question.deadline.saturating_duration_since(now);
            PendingAsk {
                id: id_of(*number),
                session,
                name,
                action: question.told.action.clone(),
                decision: question.told.decision.clone(),
                exe: question.told.actor.exe.clone(),
                pid: question.told.actor.pid,
                since_ms: question.since_ms,
                expires_ms: now_ms() + u64::try_from(left.as_millis()).unwrap_or(0),
                digest: question.digest.clone(),
                canonical: Some(bound_text(&question.told)),
                risks: Vec::new(),
                before: None,
            }
        });
        asked.collect()
    }
}

fn id_of(number: u64) -> String {
    format!("{PREFIX}-{number}")
}
