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
pub mod risk;

use std::sync::{
    Arc, OnceLock, RwLock,
    atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use agentwall_action::{Action, Decision, Effect, Facts, Resource, Subject, Verb};
use agentwall_policy::{Compiled, Policy};
use arc_swap::{ArcSwap, Guard};

pub use grant::{Grant, GrantError, Scope};

/// Decisions that the interpreter gives before a policy is compiled beside it. A session of a few
/// files is over sooner than its policy would be compiled.
const COMPILE_AFTER: u32 = 256;

/// The highest risk.
const MAX_RISK: u8 = 100;

/// The decision core of one session.
#[derive(Debug)]
pub struct Engine {
    force: ArcSwap<InForce>,
    grants: RwLock<Vec<Grant>>,
    subject: Subject,
    facts: Facts,
    /// The risk of every action is at least this.
    risk: AtomicU8,
    /// Decisions that were a plain allow or isolate, per verb in the order of [`Verb::ALL`].
    plain: Vec<AtomicU64>,
    learning: bool,
}

/// What marks the decisions of a learning engine, in the place of a `monitor` rule's id.
pub const LEARN_MARK: &str = "agentwall:learn";

/// A policy, and what became of compiling it. The two always change together: who decides holds one
/// of these for the whole decision.
#[derive(Debug)]
struct InForce {
    policy: Arc<Policy>,
    compiled: OnceLock<Compiled>,
    interpreted: AtomicU32,
}

impl InForce {
    fn new(policy: Arc<Policy>) -> InForce {
        InForce {
            policy,
            compiled: OnceLock::new(),
            interpreted: AtomicU32::new(0),
        }
    }

    fn compile(&self, subject: &Subject, facts: &Facts) {
        let _ = (self.compiled).get_or_init(|| Compiled::new(self.policy.clone(), subject, facts));
    }
}

/// The policy that was in force at one moment. An operation that takes several decisions takes them
/// all from one of these: between two policies it could get what neither permits.
#[derive(Debug)]
pub struct Held<'a> {
    engine: &'a Engine,
    force: Guard<Arc<InForce>>,
}

impl Held<'_> {
    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.force.policy
    }

    /// Decides one action.
    pub fn decide(&self, action: &Action) -> Decision {
        let mut decision = self.engine.decide_by_policy(&self.force, action);
        if decision.effect == Effect::Ask {
            let grants = self.engine.grants.read().unwrap_or_else(|e| e.into_inner());
            if let Some(grant) = grants.iter().find(|g| g.covers(action, &decision)) {
                decision.effect = Effect::Allow;
                decision.reason = format!("approved for {}: {}", grant.scope, decision.reason);
            }
        }
        if self.engine.learning && decision.effect.proceeds() {
            decision.monitors.push(LEARN_MARK.to_owned());
        }
        decision
    }

    /// Decides several aspects of one operation (a rename reads, deletes and creates): the
    /// strictest decision is the operation's. Gives the index of the first that has it; `None` for
    /// no aspects.
    pub fn strictest(&self, actions: &[Action]) -> Option<(usize, Decision)> {
        let decided = actions.iter().map(|action| self.decide(action));
        decided.enumerate().reduce(|worst, next| {
            if next.1.effect > worst.1.effect {
                next
            } else {
                worst
            }
        })
    }
}

impl Engine {
    /// An engine for one subject; `facts` are those that hold for the whole session.
    pub fn new(policy: Arc<Policy>, subject: Subject, facts: Facts) -> Engine {
        Engine {
            force: ArcSwap::from_pointee(InForce::new(policy)),
            grants: RwLock::default(),
            subject,
            risk: AtomicU8::new(facts.risk.min(MAX_RISK)),
            facts,
            plain: Verb::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            learning: false,
        }
    }

    /// The same engine, which marks everything that goes ahead with [`LEARN_MARK`], as a `monitor`
    /// rule about everything would: what is marked is recorded. It decides what it decided before.
    #[must_use]
    pub fn learning(mut self) -> Engine {
        self.learning = true;
        self
    }

    /// Whether this engine marks what goes ahead.
    pub fn is_learning(&self) -> bool {
        self.learning
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.force.load().policy.clone()
    }

    /// Puts another policy in force. Decisions that are under way finish with the one they began with;
    /// every later one is the new policy's. Nobody waits for the compiler: the interpreter gives the
    /// same answers, and the policy is compiled when it has given some, as the first one is, or by
    /// [`Engine::compile`]. Grants end, also for the case that their policy comes back.
    pub fn replace(&self, policy: Arc<Policy>) {
        self.force.store(Arc::new(InForce::new(policy)));
        let mut grants = self.grants.write().unwrap_or_else(|e| e.into_inner());
        grants.clear();
    }

    /// The policy in force, held for several decisions.
    pub fn hold(&self) -> Held<'_> {
        Held {
            engine: self,
            force: self.force.load(),
        }
    }

    /// Compiles the policy in force now, on this thread.
    pub fn compile(&self) {
        self.force.load_full().compile(&self.subject, &self.facts);
    }

    /// For whom this engine decides.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The facts that the session began with.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The session's facts at this moment.
    pub fn facts_now(&self) -> Facts {
        Facts {
            risk: self.risk(),
            ..self.facts.clone()
        }
    }

    /// The session's risk at this moment, 0 to 100.
    pub fn risk(&self) -> u8 {
        self.risk.load(Ordering::Relaxed)
    }

    /// Raises the risk of all actions from now on to `risk`, at most 100. It never falls.
    pub fn raise_risk(&self, risk: u8) {
        self.risk.fetch_max(risk.min(MAX_RISK), Ordering::Relaxed);
    }

    /// An action by this engine's subject with the session's facts.
    pub fn action(&self, verb: Verb, resource: Resource) -> Action {
        Action {
            subject: self.subject.clone(),
            verb,
            resource,
            facts: self.facts_now(),
        }
    }

    /// Decides one action.
    pub fn decide(&self, action: &Action) -> Decision {
        self.hold().decide(action)
    }

    fn decide_by_policy(&self, force: &Arc<InForce>, action: &Action) -> Decision {
        if let Some(compiled) = force.compiled.get() {
            return compiled.decide(action);
        }
        if force.interpreted.fetch_add(1, Ordering::Relaxed) == COMPILE_AFTER {
            let (force, subject, facts) =
                (Arc::clone(force), self.subject.clone(), self.facts.clone());
            // Without a thread for it, the interpreter goes on: the same answers, later.
            let _ = std::thread::Builder::new()
                .name("compile".into())
                .spawn(move || force.compile(&subject, &facts));
        }
        force.policy.decide(action)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use agentwall_policy::{Layer, Source, Variables, load};

    use super::*;

    fn policy(effect: &str) -> Arc<Policy> {
        let text = format!(
            "agentwall: 1\nrules:\n  - {{ id: {effect}-a, action: file.read, resource: /a/**, \
             effect: {effect} }}\n"
        );
        let source = Source::new("p.yaml", text, Layer::User);
        Arc::new(load(&[source], &Variables::default()).unwrap())
    }

    #[test]
    fn a_raised_risk_reaches_conditions_and_never_falls() {
        let text = "agentwall: 1\nrules:\n  - { id: a, action: file.read, resource: /a/**, effect: allow }\n  \
                    - { id: b, action: file.read, resource: /a/**, effect: ask, when: 'risk >= 40' }\n";
        let source = Source::new("p.yaml", text, Layer::User);
        let policy = Arc::new(load(&[source], &Variables::default()).unwrap());
        let engine = Engine::new(policy, Subject::agent("a"), Facts::default());
        let said = || {
            let interpreted = engine.decide(&engine.action(Verb::FileRead, Resource::path("/a/b")));
            engine.compile();
            let compiled = engine.decide(&engine.action(Verb::FileRead, Resource::path("/a/b")));
            assert_eq!(interpreted, compiled);
            compiled.effect
        };
        assert_eq!(said(), Effect::Allow);
        engine.raise_risk(39);
        assert_eq!(said(), Effect::Allow);
        engine.raise_risk(40);
        assert_eq!(said(), Effect::Ask);
        engine.raise_risk(1);
        assert_eq!((said(), engine.risk()), (Effect::Ask, 40));
        engine.raise_risk(255);
        assert_eq!(engine.risk(), 100);
    }

    #[test]
    fn every_decision_is_of_one_policy_while_policies_change() {
        let policies = ["allow", "deny", "ask"].map(policy);
        let first = Arc::clone(&policies[0]);
        let engine = Engine::new(first, Subject::agent("a"), Facts::default());
        let action = engine.action(Verb::FileRead, Resource::path("/a/b"));
        let known: Vec<_> = policies.iter().map(|p| p.decide(&action)).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = 0u64;
                        while !stop.load(Ordering::Relaxed) || seen < 1000 {
                            let decision = engine.decide(&action);
                            assert!(known.contains(&decision), "{decision:?}");
                            seen += 1;
                        }
                        seen
                    })
                })
                .collect();
            for round in 1..=300 {
                let next = &policies[round % policies.len()];
                engine.replace(Arc::clone(next));
                // Half of them decide by their table.
                if round % 2 == 0 {
                    engine.compile();
                }
                // What is decided after the exchange is the new policy's.
                assert_eq!(engine.decide(&action).policy, next.digest());
            }
            stop.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap() >= 1000);
            }
        });
    }

    /// Each of two policies denies one half of an operation; no mixture of them may permit it.
    #[test]
    fn an_operation_is_decided_by_one_policy() {
        let half = |denied: &str| {
            let text = format!(
                "agentwall: 1\ndefault: allow\nrules:\n  - {{ id: d, action: file.read, \
                 resource: {denied}, effect: deny }}\n"
            );
            let source = Source::new("p.yaml", text, Layer::User);
            Arc::new(load(&[source], &Variables::default()).unwrap())
        };
        let policies = ["/a", "/b"].map(half);
        let engine = Engine::new(policies[0].clone(), Subject::agent("a"), Facts::default());
        let both = ["/a", "/b"].map(|p| engine.action(Verb::FileRead, Resource::path(p)));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) || seen < 1000 {
                    let (_, decision) = engine.hold().strictest(&both).unwrap();
                    assert_eq!(decision.effect, Effect::Deny);
                    seen += 1;
                }
            });
            for round in 0..300 {
                engine.replace(policies[round % 2].clone());
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let held = engine.hold();
        engine.replace(policies[0].clone());
        assert_eq!(held.policy().digest(), policies[1].digest());
        assert_eq!(engine.decide(&both[0]).policy, policies[0].digest());
    }

    #[test]
    fn a_policy_is_compiled_after_some_decisions_and_answers_the_same() {
        let policy = policy("deny");
        let engine = Engine::new(policy.clone(), Subject::agent("a"), Facts::default());
        let action = engine.action(Verb::FileRead, Resource::path("/a/b"));
        let wanted = policy.decide(&action);
        while engine.force.load().compiled.get().is_none() {
            assert_eq!(engine.decide(&action), wanted);
        }
        assert_eq!(engine.decide(&action), wanted);
    }

    #[test]
    fn learning_marks_what_goes_ahead_and_decides_as_before() {
        let text = "agentwall: 1\nrules:\n  - {id: w, action: file.read, resource: /w/**, effect: allow}\n  \
                    - {id: c, action: file.write, resource: /w/**, effect: isolate}\n  \
                    - {id: q, action: file.delete, resource: /w/**, effect: ask}\n";
        let source = Source::new("t", text, Layer::User);
        let policy = Arc::new(load(&[source], &Variables::default()).unwrap());
        let engine = || Engine::new(Arc::clone(&policy), Subject::agent("a"), Facts::default());
        let (plain, learning) = (engine(), engine().learning());
        assert!(learning.is_learning() && !plain.is_learning());
        for verb in [
            Verb::FileRead,
            Verb::FileWrite,
            Verb::FileDelete,
            Verb::FileChmod,
        ] {
            let action = plain.action(verb, Resource::path("/w/x"));
            let (before, after) = (plain.decide(&action), learning.decide(&action));
            assert_eq!((before.effect, &before.rule), (after.effect, &after.rule));
            let marked = after.monitors == [LEARN_MARK];
            assert_eq!(marked, after.effect.proceeds(), "{verb}");
            assert!(before.is_silent());
        }
    }
}
