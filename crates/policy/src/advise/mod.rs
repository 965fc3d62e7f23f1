//! What would make an action allowed, computed from the policy itself.
//!
//! Three kinds of answer, each verified before it is given:
//! * [`Policy::nearest_allowed`]: the nearest objects on which the same subject may do the same thing,
//!   built from the patterns of the rules that let something through, each decided with the policy;
//! * facts that would have to be different for a condition to come out the other way, found by
//!   deciding again with them;
//! * a rule to add, or a list to change, found by deciding with the changed policy.
//!
//! Invariants:
//! * Nothing is suggested that was not decided: what is called allowed is allowed by this policy, or by
//!   the policy with the proposed change.
//! * Keys (`label:secret`), metadata services of cloud providers and the wall's own state are never
//!   proposed, neither as an object nor as something to open; [`Advice::never`] says so.
//! * The work is bounded, whatever the policy and the object; past the bound suggestions are left out.
//!
//! It is computed when somebody asks, never on the way of a decision.

mod conditions;
mod guard;
mod near;
mod objects;
mod rules;

use agentwall_action::{Action, Decision, Effect, Resource, Verb};
use serde_json::Value;

use crate::{
    policy::Policy,
    rule::{Layer, Location},
};

pub use guard::{Guard, Never};

/// What would make an action allowed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// Set where the object is one that is never proposed: then there are no conditions, no rules and no
    /// changes, only objects that are allowed already.
    pub never: Option<Never>,
    /// Objects that are allowed already, the nearest first.
    pub nearest: Vec<NearObject>,
    /// Facts that would let the action through under the policy as it is.
    pub conditions: Vec<MetCondition>,
    /// Rules to add, all of them together: one for each layer that says no. Empty if no rule can help.
    pub rules: Vec<NewRule>,
    /// Changes of one list of one rule, each enough by itself.
    pub changes: Vec<Change>,
}

/// An object that the policy lets the same subject use in the same way.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct NearObject {
    /// The object.
    #[serde(skip)]
    pub object: Resource,
    /// The object as shown to people, escaped.
    pub resource: String,
    /// What happens: `allow`, `isolate`, or `ask`.
    pub effect: Effect,
    /// The rule that says so; `None` for the default.
    pub rule: Option<String>,
    /// The pattern it was made from; `None` if it was made from the asked object.
    pub pattern: Option<String>,
    /// How far it is from the asked object: bytes put in, taken out and replaced, and one more for each
    /// part (a path segment, a host label) that is another one or is put in or taken out. A change of
    /// the first folders of a path counts up to three more.
    pub distance: usize,
}

/// Facts under which the policy as it is lets the action through.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct MetCondition {
    /// What has to be true, as an expression.
    pub condition: String,
    /// The facts that were changed to try it.
    pub facts: Vec<FactChange>,
    /// What happens then.
    pub effect: Effect,
    /// The rule that decides then; `None` for the default.
    pub rule: Option<String>,
}

/// One fact that would be different.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct FactChange {
    /// The fact, for example `auth.method`.
    pub fact: String,
    /// What it is now; `None` if it is absent.
    pub now: Option<Value>,
    /// A value with which it was tried.
    pub value: Value,
}

/// A rule that is not there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct NewRule {
    /// The layer it has to stand in.
    pub layer: Layer,
    /// A file of that layer, if it has one.
    pub source: Option<String>,
    /// The rule as one item of a `rules` list, in YAML.
    pub yaml: String,
    /// Its priority.
    pub priority: i64,
    /// The action has arguments that no condition can name: the rule would allow any.
    pub ignores_args: bool,
    /// The rules it would overrule.
    pub overrides: Vec<Overridden>,
}

/// A rule that says no and would not be heard any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Overridden {
    /// The rule.
    pub id: String,
    /// What it says.
    pub effect: &'static str,
    /// Why, in its author's words.
    pub reason: Option<String>,
}

/// How a rule's list could be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// A negative member, so that the rule does not match the object any more.
    Exclude,
    /// A positive member, so that the rule matches the object, too.
    Extend,
}

/// A member to add to the `resource` list of a rule.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The rule.
    pub rule: String,
    /// Where it is written.
    pub location: Location,
    /// What the member does.
    pub kind: ChangeKind,
    /// The member, with its `!` if it is a negative one.
    pub member: String,
    /// What happens then.
    pub effect: Effect,
    /// The rules that would not be heard any more.
    pub overrides: Vec<Overridden>,
}

impl Policy {
    /// What would make an action allowed. An action that goes through already needs nothing: then all
    /// lists are empty. `for_subject` makes proposed rules speak about the action's subject alone.
    pub fn advise(&self, action: &Action, guard: &Guard, for_subject: bool) -> Advice {
        let mut advice = Advice {
            never: guard.never(&action.resource),
            nearest: Vec::new(),
            conditions: Vec::new(),
            rules: Vec::new(),
            changes: Vec::new(),
        };
        if self.answer(action).effect.proceeds() {
            return advice;
        }
        advice.nearest = self.nearest_allowed(action, guard);
        if advice.never.is_none() {
            advice.conditions = conditions::met(self, action);
            advice.rules = rules::to_add(self, action, for_subject);
            advice.changes = rules::to_change(self, action, &advice.nearest);
        }
        advice
    }

    /// What the wall answers to an action: the decision, and for a name whether it is resolved for the
    /// connections that are allowed to it ([`Policy::resolve_name`]).
    pub fn answer(&self, action: &Action) -> Decision {
        match (&action.resource, action.verb) {
            (Resource::Host(host), Verb::DnsResolve) => {
                self.resolve_name(&action.subject, host, &action.facts)
            }
            _ => self.decide(action),
        }
    }

    /// The nearest objects on which the action would go through, at most [`MAX_NEAREST`]; one that is
    /// asked about may stand at the end, and no rule is named twice. Each was decided with this policy.
    /// Empty if the action goes through already. Whether a path exists is not known here.
    pub fn nearest_allowed(&self, action: &Action, guard: &Guard) -> Vec<NearObject> {
        if self.answer(action).effect.proceeds() {
            return Vec::new();
        }
        objects::nearest(self, action, guard)
    }
}

/// At most this many objects are suggested.
pub(crate) const MAX_NEAREST: usize = 3;

/// How many decisions the search for one kind of advice may ask for: a decision costs what the policy
/// has rules.
fn budget(policy: &Policy) -> usize {
    (2_000_000 / policy.rules().count().max(1)).clamp(16, 256)
}
