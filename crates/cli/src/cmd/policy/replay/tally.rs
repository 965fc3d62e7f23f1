//! What a replay has found: counts, groups of flips with examples, and what could not be replayed.
//! Everything that grows with the ledger is bounded; what is beyond a bound is still counted.

use std::{collections::BTreeMap, fmt};

use agentwall_action::Effect;
use agentwall_ledger::{Entry, Record, entry::NotRecallable};

/// Examples of one group of flips.
pub const EXAMPLES: usize = 3;
/// Entries named for one reason.
pub const NAMED: usize = 10;
/// Groups of flips, and reasons; further ones are counted together.
const MAX_GROUPS: usize = 1000;

/// An answer of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Answer {
    /// The effect; `None` for a loopback port that the policy leaves to the agent's own network: the
    /// host's is out of reach.
    pub effect: Option<Effect>,
    /// The rule; `None` when the default said so.
    pub rule: Option<String>,
}

impl Answer {
    /// The effect in a word.
    pub fn effect_text(&self) -> &'static str {
        self.effect.map_or("own-network", Effect::as_str)
    }
}

/// How an answer changes, for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It went through, at once or after a question; it would not any more.
    NewlyDenied,
    /// It did not go through, or only after a question; it would.
    NewlyAllowed,
    /// A person would be asked.
    NewlyAsked,
    /// It goes through, or not, in another way: `allow` and `isolate`, `deny` and `rate_limit`.
    Otherwise,
}

impl Class {
    /// All, in the order in which they are shown.
    pub const ALL: [Class; 4] = [
        Class::NewlyDenied,
        Class::NewlyAllowed,
        Class::NewlyAsked,
        Class::Otherwise,
    ];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::NewlyDenied => "newly_denied",
            Class::NewlyAllowed => "newly_allowed",
            Class::NewlyAsked => "newly_asked",
            Class::Otherwise => "otherwise",
        }
    }

    /// The class of a change; `None` if the effect stays.
    fn of(old: &Answer, new: &Answer) -> Option<Class> {
        if old.effect == new.effect {
            return None;
        }
        let proceeds = |a: &Answer| a.effect.is_some_and(Effect::proceeds);
        let asks = |a: &Answer| a.effect == Some(Effect::Ask);
        let stops = |a: &Answer| !proceeds(a) && !asks(a);
        Some(if asks(new) {
            Class::NewlyAsked
        } else if proceeds(old) && proceeds(new) || stops(old) && stops(new) {
            Class::Otherwise
        } else if proceeds(new) {
            Class::NewlyAllowed
        } else {
            Class::NewlyDenied
        })
    }
}

/// Why a decision was not made again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unknown {
    /// The entry does not tell all of it.
    Entry(NotRecallable),
    /// The new policy looks at arguments that are not recorded.
    Arguments,
    /// The new policy cannot be loaded with the session's variables.
    Load(String),
    /// An entry of a form that this version does not know.
    Form(String),
}

impl From<NotRecallable> for Unknown {
    fn from(why: NotRecallable) -> Self {
        Unknown::Entry(why)
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Entry(why) => why.fmt(f),
            Unknown::Arguments => {
                f.write_str("the new policy looks at its arguments, which are not recorded in full")
            }
            Unknown::Load(why) => write!(
                f,
                "the new policy cannot be loaded with its session's variables: {}",
                why.lines().next().unwrap_or_default()
            ),
            Unknown::Form(kind) => write!(
                f,
                "an entry of type '{kind}' in a form that this version does not know"
            ),
        }
    }
}

/// What is told about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Another effect.
    Flip {
        /// Of the policy at that time.
        old: Answer,
        /// Of the new one.
        new: Answer,
        /// How it changes.
        class: Class,
    },
    /// It was not made again.
    Unknown(Unknown),
}

/// An entry that stands for its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Its number in the ledger.
    pub index: u64,
    /// Its session.
    pub session: String,
    /// The verb.
    pub verb: String,
    /// The object, escaped.
    pub resource: String,
}

/// Flips from one answer to one other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// Entries that were not replayed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub indices: Vec<u64>,
}

/// Everything that a replay has found.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Sessions that were looked at.
    pub sessions: usize,
    /// Those of them whose end, with its counts, is not in the ledger.
    pub open_sessions: usize,
    /// Decisions that were made again.
    pub replayed: u64,
    /// Those with the same effect, by another rule.
    pub other_rule: u64,
    /// Flips by class.
    pub classes: BTreeMap<Class, u64>,
    /// Flips by class, old and new answer.
    pub groups: BTreeMap<(Class, Answer, Answer), Group>,
    /// Flips beyond the bound on groups.
    pub ungrouped: u64,
    /// Decisions that could not be made again.
    pub unknown: BTreeMap<Unknown, Reason>,
    /// Those beyond the bound on reasons.
    pub unnamed: u64,
    /// Plain allows by verb, which have no entries of their own.
    pub plain: BTreeMap<String, u64>,
    /// Changes that were committed because the policy said nothing against it.
    pub committed: u64,
    /// Records that the ledger says were lost.
    pub lost: u64,
}

impl Tally {
    /// How many decisions flip.
    pub fn flips(&self) -> u64 {
        self.classes.values().sum()
    }

    /// How many decisions could not be made again.
    pub fn not_replayed(&self) -> u64 {
        self.unknown.values().map(|r| r.count).sum::<u64>() + self.unnamed
    }

    /// Books one decision.
    pub fn take(
        &mut self,
        index: u64,
        entry: &Entry,
        answers: Result<(Answer, Answer), Unknown>,
    ) -> Option<Verdict> {
        let (old, new) = match answers {
            Ok(answers) => answers,
            Err(why) => return Some(self.unknown(index, why)),
        };
        self.replayed += 1;
        let Some(class) = Class::of(&old, &new) else {
            self.other_rule += u64::from(old.rule != new.rule);
            return None;
        };
        *self.classes.entry(class).or_default() += 1;
        let key = (class, old.clone(), new.clone());
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            self.ungrouped += 1;
        } else {
            let group = self.groups.entry(key).or_default();
            group.count += 1;
            if group.examples.len() < EXAMPLES {
                group.examples.push(Example::of(index, entry));
            }
        }
        Some(Verdict::Flip { old, new, class })
    }

    fn unknown(&mut self, index: u64, why: Unknown) -> Verdict {
        if self.unknown.len() >= MAX_GROUPS && !self.unknown.contains_key(&why) {
            self.unnamed += 1;
        } else {
            let reason = self.unknown.entry(why.clone()).or_default();
            reason.count += 1;
            if reason.indices.len() < NAMED {
                reason.indices.push(index);
            }
        }
        Verdict::Unknown(why)
    }

    /// An entry of another version, if it is or may be a decision.
    pub fn other(&mut self, index: u64, kind: &str) -> Option<Verdict> {
        let decisions = ["decision", "exec", "connect"];
        if Record::TYPES.contains(&kind) && !decisions.contains(&kind) {
            return None;
        }
        Some(self.unknown(index, Unknown::Form(crate::output::tame(kind))))
    }

    /// The plain allows of a session.
    pub fn plain(&mut self, allowed: &BTreeMap<String, u64>) {
        for (verb, count) in allowed {
            let sum = self.plain.entry(verb.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// The outcome of a commit.
    pub fn committed(&mut self, outcome: &BTreeMap<String, u64>) {
        let count = outcome.get("committed").copied().unwrap_or(0);
        self.committed = self.committed.saturating_add(count);
    }

    /// Records that were lost.
    pub fn lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }
}

impl Example {
    /// What is shown of a decision.
    pub fn of(index: u64, entry: &Entry) -> Example {
        let action = entry.record.decision().map(|d| &d.action);
        Example {
            index,
            session: entry.session.clone(),
            verb: action.map(|a| a.verb.clone()).unwrap_or_default(),
            resource: action.map(|a| a.resource.clone()).unwrap_or_default(),
        }
    }
}
