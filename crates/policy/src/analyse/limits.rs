//! Bounds: how much a question may cost before the answer is "not decided".
//!
//! Everything is counted, nothing is timed: the same question ends the same way on every machine.
//! One [`Meter`] belongs to one run; each question in it has a share, and the whole has an end.

use std::fmt;

/// How much analysis may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most states of one search.
    pub states: usize,
    /// Most pattern positions that the states of one search hold together, which bounds its memory to
    /// about four bytes each.
    pub positions: usize,
    /// Most steps of one question: a position moved over a byte, or a rule looked at, is a step. A
    /// question about a rule ([`analyse`](super::analyse)) gets a thirty-second part of the total at most.
    pub steps: u64,
    /// Most steps of all questions together.
    pub total_steps: u64,
    /// Most findings, differences or witnesses of one kind that are kept.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            states: 1 << 19,
            positions: 1 << 25,
            steps: 400_000_000,
            total_steps: 1_000_000_000,
            findings: 10_000,
        }
    }
}

/// A question cost more than its [`Limits`]: it is not decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TooLarge {
    /// Too many states: the patterns combine in too many ways.
    States,
    /// Too many steps: the question has too many cases.
    Steps,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TooLarge::States => "too many states: its patterns combine in too many ways",
            TooLarge::Steps => "too many cases to look at",
        })
    }
}

impl std::error::Error for TooLarge {}

/// What a run has spent.
#[derive(Debug)]
pub(crate) struct Meter {
    pub limits: Limits,
    total: u64,
    question: u64,
}

impl Meter {
    pub fn new(limits: Limits) -> Meter {
        Meter {
            limits,
            total: 0,
            question: 0,
        }
    }

    /// All steps so far.
    pub fn spent(&self) -> u64 {
        self.total
    }

    /// A new question begins.
    pub fn begin(&mut self) {
        self.question = 0;
    }

    /// Pays for steps.
    pub fn pay(&mut self, steps: usize) -> Result<(), TooLarge> {
        let steps = steps as u64;
        self.question = self.question.saturating_add(steps);
        self.total = self.total.saturating_add(steps);
        if self.question > self.limits.steps || self.total > self.limits.total_steps {
            return Err(TooLarge::Steps);
        }
        Ok(())
    }
}
