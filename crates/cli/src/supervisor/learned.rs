//! The trail of a learning session (`agentwall run --learn`): every distinct action that went ahead,
//! once.
//!
//! A learning engine marks what goes ahead ([`LEARN_MARK`]), so that the broker reports it; a compiler
//! opens the same header ten thousand times, and once is enough to know that it needs it. What has
//! another reason to be in the ledger (a refusal, a question, a rule's own `monitor`, a program start,
//! a connection) is never left out. The memory is bounded; what did not fit is counted and told as a
//! gap of the session, so that nobody takes the trail for complete.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use agentwall_action::{Effect, Resource, Verb, VerbFamily};
use agentwall_engine::LEARN_MARK;
use agentwall_ledger::entry::Gap;
use agentwall_wall::wire::Event;

use super::lock;

/// Most distinct actions that one session records.
pub const MAX_LEARNED: usize = 100_000;

/// What has been recorded, and how much was not.
#[derive(Debug, Default)]
pub struct Learned {
    seen: Mutex<HashSet<(Verb, Resource, Effect)>>,
    dropped: AtomicU64,
}

impl Learned {
    /// Whether the event is to be recorded: it is no mere trail, or it is the first of its kind.
    pub fn is_news(&self, event: &Event) -> bool {
        let only_marked = event.decision.monitors.as_slice() == [LEARN_MARK]
            && event.decision.errors.is_empty()
            && event.decision.effect.proceeds();
        let family = event.action.verb.family();
        if !only_marked || matches!(family, VerbFamily::Process | VerbFamily::Net) {
            return true;
        }
        let key = (
            event.action.verb,
            event.action.resource.clone(),
            event.decision.effect,
        );
        let mut seen = lock(&self.seen);
        if seen.contains(&key) {
            return false;
        }
        if seen.len() >= MAX_LEARNED {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        seen.insert(key)
    }

    /// What did not fit, for the ledger.
    pub fn gap(&self) -> Option<Gap> {
        let lost = self.dropped.load(Ordering::Relaxed);
        (lost > 0).then(|| Gap {
            lost,
            reason: format!("the trail of a learning session holds {MAX_LEARNED} distinct actions"),
            ..Gap::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Action, Decision, Subject};
    use agentwall_wall::wire::{Actor, Binding};

    use super::*;

    fn event(path: &str, effect: Effect, monitors: &[&str]) -> Event {
        let action = Action::new(Subject::agent("a"), Verb::FileRead, Resource::path(path));
        Event {
            action,
            decision: Decision {
                effect,
                rule: None,
                reason: String::new(),
                hint: Default::default(),
                monitors: monitors.iter().map(ToString::to_string).collect(),
                errors: Vec::new(),
                policy: String::new(),
            },
            actor: Actor::default(),
            binding: Binding::default(),
            enforced_by: "broker".into(),
        }
    }

    #[test]
    fn each_action_once_and_nothing_else_is_left_out() {
        let learned = Learned::default();
        let marked = event("/x", Effect::Allow, &[LEARN_MARK]);
        assert!(learned.is_news(&marked) && !learned.is_news(&marked));
        assert!(learned.is_news(&event("/y", Effect::Allow, &[LEARN_MARK])));
        assert!(learned.is_news(&event("/x", Effect::Isolate, &[LEARN_MARK])));
        for other in [
            event("/x", Effect::Deny, &[]),
            event("/x", Effect::Ask, &[]),
            event("/x", Effect::Allow, &["own-monitor", LEARN_MARK]),
            event("/x", Effect::Allow, &[]),
        ] {
            assert!(learned.is_news(&other) && learned.is_news(&other));
        }
        assert!(learned.gap().is_none());
    }
}
