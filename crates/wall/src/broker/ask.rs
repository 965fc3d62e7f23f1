//! Questions to a person: the call waits on a worker, and goes on by the answer.
//!
//! A person answers about one action, the strictest of an operation; its others are permitted by the
//! policy that asked. If another policy has come into force meanwhile, the supervisor answers by that
//! one, and then the others have to be permitted by it as well.
//!
//! Invariants:
//! * All actions of an operation that goes ahead are permitted by one policy.
//! * No supervisor is a no.

use agentwall_action::{Action, Decision, Effect};

use super::{Broker, binding_none};
use crate::{
    notify::Call,
    wire::{Binding, Event, Request},
};

/// What was decided about one operation.
#[derive(Debug, Clone)]
pub(super) struct Decided {
    /// The strictest of its actions, which stands for it.
    pub action: Action,
    /// The decision on that.
    pub decision: Decision,
    /// Its other actions.
    pub others: Vec<Action>,
}

impl Decided {
    /// An operation of one action.
    pub fn alone(action: Action, decision: Decision) -> Decided {
        Decided {
            action,
            decision,
            others: Vec::new(),
        }
    }
}

impl Broker {
    /// Waits for a person, then lets `act` carry the operation out or refuses the call.
    pub(super) fn ask(
        &self,
        call: &Call,
        decided: Decided,
        binding: Binding,
        act: impl FnOnce(&Action, &Decision),
    ) {
        let Decided {
            action,
            decision,
            others,
        } = decided;
        let event = Event {
            action: action.clone(),
            decision: decision.clone(),
            actor: self.actor(call.pid),
            binding,
            enforced_by: "broker".to_owned(),
        };
        let asked_by = decision.policy.clone();
        let answer = self.line.ask(Request::Ask(Box::new(event)));
        let answer = answer.unwrap_or_else(|| Decision {
            effect: Effect::Deny,
            reason: format!("{} (nobody can be asked any more)", decision.reason),
            ..decision
        });
        if !answer.effect.proceeds() {
            // The supervisor has it already.
            return self.refuse(call, action, answer, binding_none(), false);
        }
        let same = answer.policy == asked_by;
        match self.objection(&answer, if same { Vec::new() } else { others }) {
            None => act(&action, &answer),
            Some((other, refusal)) => self.refuse(call, other, refusal, binding_none(), true),
        }
    }

    /// What keeps an operation from going ahead by the policy of this answer, if its other actions
    /// were decided by the one before it.
    fn objection(&self, answer: &Decision, others: Vec<Action>) -> Option<(Action, Decision)> {
        let decided = self.decide_by(&self.engine.hold(), others)?;
        let refused = |why: &str| Decision {
            effect: Effect::Deny,
            reason: format!("{why}; try again ({})", decided.decision.reason),
            ..decided.decision.clone()
        };
        let refusal = match decided.decision.effect {
            _ if decided.decision.policy != answer.policy => {
                refused("the policy has changed again while a person was asked")
            }
            Effect::Ask => refused("the policy that is in force by now asks about this, too"),
            effect if effect.proceeds() => return None,
            _ => decided.decision,
        };
        Some((decided.action, refusal))
    }
}
