//! Risk of a call: a sum of points, each with its reason, from 0 to 100.
//!
//! Nothing here is learned: what an agent did before is counted ([`History`]), and the same history, call and clock
//! give the same score. A score decides nothing by itself. Conditions read it (`risk`), and a policy's thresholds
//! (`risk: { ask_at, deny_at }`) turn what the policy lets go on into a question or a refusal ([`weigh`]).

use std::{collections::VecDeque, fmt, time::Duration};

use agentwall_action::{Decision, Effect, Hint};
use agentwall_policy::Risk as Thresholds;

use crate::MAX_RISK;

/// A minute, the step in which calls are counted, in seconds.
const MINUTE: i64 = 60;

/// An hour in seconds.
const HOUR: i64 = 3600;

/// Minutes of calls that are remembered: a day.
const MINUTES: i64 = 24 * 60;

/// For how many seconds a refused attempt counts.
const FAILURES_FOR: i64 = 600;

/// Most refused attempts that are remembered; more make no more points.
const MAX_FAILURES: usize = 16;

/// For how many seconds an agent must be known before its hours mean something: three days.
const HOURS_AFTER: i64 = 3 * 24 * HOUR;

/// Fewer calls in a minute are no burst, whatever was usual.
const BURST_FROM: u32 = 30;

/// What raised the risk, and by how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// 1 to 100.
    pub points: u8,
    /// A short stable name: `new-agent`, `burst`, `failed-attempts`, `unusual-hour`, `sensitive`, or a detector's.
    pub code: &'static str,
    /// For a person.
    pub text: String,
}

/// A call's risk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Score {
    /// What it is made of.
    pub reasons: Vec<Reason>,
}

impl Score {
    /// 0 to 100: the sum of the points, cut at 100.
    pub fn total(&self) -> u8 {
        let sum: u32 = self.reasons.iter().map(|r| u32::from(r.points)).sum();
        u8::try_from(sum).map_or(MAX_RISK, |sum| sum.min(MAX_RISK))
    }

    /// Each reason with its points, for people.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.reasons.iter();
        lines
            .map(|r| format!("{} (+{})", r.text, r.points))
            .collect()
    }

    fn add(&mut self, points: u8, code: &'static str, text: String) {
        self.reasons.push(Reason { points, code, text });
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "risk {}", self.total())?;
        for (at, reason) in self.reasons.iter().enumerate() {
            let joint = if at == 0 { ": " } else { ", " };
            write!(f, "{joint}{} (+{})", reason.text, reason.points)?;
        }
        Ok(())
    }
}

/// How much harm a capability can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Sensitivity {
    /// It reads what is no secret.
    #[default]
    Low,
    /// It changes things, or reads secrets.
    Medium,
    /// It moves money, deletes, or gives rights.
    High,
}

/// Signals from elsewhere, such as a behavioural fingerprint.
pub trait Deviation: fmt::Debug + Send + Sync {
    /// What is unlike this agent in a call of `capability`.
    fn reasons(&self, agent: &str, capability: &str) -> Vec<Reason>;
}

/// What an agent did before. Its memory is bounded: a day of minutes, 24 hours, 16 refusals.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// When the agent was first seen, in seconds since the Unix epoch.
    since: Option<i64>,
    /// Minutes in which it called (since the Unix epoch), and how often; the newest last.
    minutes: VecDeque<(i64, u32)>,
    /// In which hours of the day (UTC) it called before the last three days were over.
    hours: [bool; 24],
    /// When it was refused, the newest last.
    failures: VecDeque<i64>,
}

impl History {
    /// An agent that is known since `since`, in seconds since the Unix epoch.
    pub fn since(since: i64) -> History {
        History {
            since: Some(since),
            ..History::default()
        }
    }

    /// Counts a call. Clocks that go back count in the newest minute.
    pub fn called(&mut self, now: i64) {
        self.since.get_or_insert(now);
        let minute = now.div_euclid(MINUTE);
        match self.minutes.back_mut() {
            Some((last, count)) if *last >= minute => *count = count.saturating_add(1),
            _ => self.minutes.push_back((minute, 1)),
        }
        while let Some((first, _)) = self.minutes.front()
            && *first <= minute - MINUTES
        {
            self.minutes.pop_front();
        }
        self.hours[hour(now)] = true;
    }

    /// Counts an attempt that was refused.
    pub fn refused(&mut self, now: i64) {
        self.failures.push_back(now);
        while self.failures.len() > MAX_FAILURES {
            self.failures.pop_front();
        }
    }

    /// The risk of a call at `now`, before it is counted itself.
    pub fn score(&self, now: i64, sensitivity: Sensitivity) -> Score {
        let mut score = Score::default();
        let age = self.since.map_or(0, |since| now.saturating_sub(since));
        match age {
            ..600 => score.add(15, "new-agent", format!("known for {}", span(age))),
            600..86_400 => score.add(5, "new-agent", format!("known for {}", span(age))),
            _ => {}
        }
        self.burst(now, &mut score);
        let failures = (self.failures.iter())
            .filter(|at| now.saturating_sub(**at) < FAILURES_FOR)
            .count();
        match failures {
            0..3 => {}
            3..10 => score.add(
                10,
                "failed-attempts",
                format!("{failures} refused attempts in ten minutes"),
            ),
            _ => score.add(
                25,
                "failed-attempts",
                format!("{failures} or more refused attempts in ten minutes"),
            ),
        }
        if age >= HOURS_AFTER && !self.hours[hour(now)] {
            let text = format!("never seen between {0:02}:00 and {0:02}:59 UTC", hour(now));
            score.add(10, "unusual-hour", text);
        }
        match sensitivity {
            Sensitivity::Low => {}
            Sensitivity::Medium => {
                score.add(10, "sensitive", "a capability that changes things".into())
            }
            Sensitivity::High => score.add(25, "sensitive", "a sensitive capability".into()),
        }
        score
    }

    /// Against its own history: the mean of the minutes in which it called at all, the present one left out.
    fn burst(&self, now: i64, score: &mut Score) {
        let minute = now.div_euclid(MINUTE);
        let present = (self.minutes.back()).map_or(0, |(m, c)| if *m >= minute { *c } else { 0 });
        let before = (self.minutes.iter()).filter(|(m, _)| *m < minute && *m > minute - MINUTES);
        let (minutes, calls) =
            before.fold((0u64, 0u64), |(m, c), (_, n)| (m + 1, c + u64::from(*n)));
        // Five minutes say something about an agent; before them, a fixed measure.
        let usual = if minutes < 5 {
            15
        } else {
            calls.div_ceil(minutes)
        };
        if present < BURST_FROM {
            return;
        }
        let times = u64::from(present) / usual.max(1);
        let points = match times {
            0..4 => return,
            4..10 => 20,
            _ => 35,
        };
        let text = format!("{present} calls in this minute, {usual} are usual");
        score.add(points, "burst", text);
    }
}

/// Puts a policy's thresholds to what it decided: from `ask_at` on a person is asked, from `deny_at` on it is refused.
/// What is refused or asked already stays as it is, unless the risk is above `deny_at`.
pub fn weigh(decision: Decision, thresholds: Thresholds, score: &Score) -> Decision {
    let total = score.total();
    let reaches = |at: Option<u8>| at.filter(|at| total >= *at);
    let (effect, name, at) = match (reaches(thresholds.deny_at), reaches(thresholds.ask_at)) {
        (Some(at), _) if decision.effect < Effect::Deny => (Effect::Deny, "deny_at", at),
        (None, Some(at)) if decision.effect.proceeds() => (Effect::Ask, "ask_at", at),
        _ => return decision,
    };
    let next = match effect {
        Effect::Deny => "wait",
        _ => "ask-user",
    };
    Decision {
        effect,
        rule: None,
        reason: format!("{score}; {name} is {at}"),
        hint: Hint {
            next: Some(next.to_owned()),
            ..Hint::default()
        },
        ..decision
    }
}

fn hour(now: i64) -> usize {
    // 0 to 23.
    (now.rem_euclid(24 * HOUR) / HOUR) as usize
}

/// A time for a person, in its greatest unit.
fn span(seconds: i64) -> String {
    let seconds = Duration::from_secs(seconds.max(0).unsigned_abs()).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
#[path = "risk_tests.rs"]
mod tests;
