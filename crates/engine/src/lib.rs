//! The pipeline that every face asks: `decide(action) -> Decision`.
//!
//! Today it has two stages, policy and grants; identity, budget and risk are further stages of the
//! same function when their crates arrive. It is deterministic in (policy, grants, action), does no
//! I/O and never blocks: an `ask` comes back as [`Effect::Ask`] and the enforcement point waits.
//!
//! Invariants:
//! * A grant answers only an `ask`; it never turns a `deny` into anything else.
//! * A grant is bound to the policy digest under which a person gave it.

#![forbid(unsafe_code)]

mod grant;

use std::sync::{
    Arc, RwLock,
    atomic::{AtomicU64, Ordering},
};

use agentwall_action::{Action, Decision, Effect, Facts, Resource, Subject, Verb};
use agentwall_policy::Policy;

pub use grant::{Grant, GrantError, Scope};

/// The decision core of one session.
#[derive(Debug)]
pub struct Engine {
    policy: RwLock<Arc<Policy>>,
    grants: RwLock<Vec<Grant>>,
    subject: Subject,
    facts: Facts,
    /// Decisions that were a plain allow or isolate, per verb in the order of [`Verb::ALL`].
    plain: Vec<AtomicU64>,
}

impl Engine {
    /// An engine for one subject; `facts` are those that hold for the whole session.
    pub fn new(policy: Arc<Policy>, subject: Subject, facts: Facts) -> Engine {
        Engine {
            policy: RwLock::new(policy),
            grants: RwLock::default(),
            subject,
            facts,
            plain: Verb::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        // A poisoned lock still holds a whole Arc: the swap is a single assignment.
        self.policy
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    /// For whom this engine decides.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The session's facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// An action by this engine's subject with the session's facts.
    pub fn action(&self, verb: Verb, resource: Resource) -> Action {
        Action {
            subject: self.subject.clone(),
            verb,
            resource,
            facts: self.facts.clone(),
        }
    }

    /// Decides one action.
    pub fn decide(&self, action: &Action) -> Decision {
        let mut decision = self.policy().decide(action);
        if decision.effect == Effect::Ask {
            let grants = self.grants.read().unwrap_or_else(|e| e.into_inner());
            if let Some(grant) = grants.iter().find(|g| g.covers(action, &decision)) {
                decision.effect = Effect::Allow;
                decision.reason = format!("approved for {}: {}", grant.scope, decision.reason);
            }
        }
        decision
    }

    /// Decides several aspects of one operation (a rename reads, deletes and creates): the
    /// strictest decision is the operation's. `None` for no aspects.
    pub fn decide_all(&self, actions: Vec<Action>) -> Option<(Action, Decision)> {
        actions
            .into_iter()
            .map(|action| {
                let decision = self.decide(&action);
                (action, decision)
            })
            .reduce(|worst, next| {
                if next.1.effect > worst.1.effect {
                    next
                } else {
                    worst
                }
            })
    }

    /// Counts an action that simply went through.
    pub fn count_plain(&self, verb: Verb) {
        if let Some(index) = Verb::ALL.iter().position(|v| *v == verb) {
            self.plain[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What [`Engine::count_plain`] has counted, verbs with zero left out.
    pub fn plain_counts(&self) -> Vec<(Verb, u64)> {
        Verb::ALL
            .iter()
            .zip(&self.plain)
            .map(|(verb, count)| (*verb, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Adds a person's standing answer.
    pub fn grant(&self, grant: Grant) {
        self.grants
            .write()
            .unwrap_or_else(|e| e.into_inner())
            .push(grant);
    }
}
