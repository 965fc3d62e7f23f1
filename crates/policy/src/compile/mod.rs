//! The compiled policy: the same answers as the interpreter, at a cost that does not grow with the
//! number of rules.
//!
//! Compilation happens for a session: subject and session facts are folded into the rules, what is
//! left becomes a table of automata and candidate lists ([`table`]), and an action is looked up in it
//! ([`lookup`], [`walk`]). Order of the work: `fold` drops and simplifies rules, `parts` and `plane` cut
//! patterns into what automata can find, `dfa` and `pack` make the automata, `ranges` the numbers,
//! `build` puts it together.
//!
//! Invariants: for every action the effect, the deciding rule and what is recorded are those of
//! [`Policy::decide`]. Where the table does not speak (another subject, an object no face makes, a
//! table that would be too large) the interpreter is asked; nothing is guessed. A lookup allocates
//! nothing unless the interpreter is asked, or a condition beyond what `direct` evaluates is left.

mod build;
mod check;
mod dfa;
mod fold;
mod image;
mod line;
mod lookup;
mod pack;
mod parts;
mod plane;
mod ranges;
mod runs;
mod table;
mod trie;
mod walk;

use std::sync::Arc;

use agentwall_action::{Action, Auth, Decision, Effect, Facts, Session, Subject, Verb};

pub use build::{AutomatonReport, Report};
pub use check::TableError;
pub use image::{By, CompiledTable, TableAnswer};

use crate::{
    policy::{Policy, render},
    rule::Rule,
};
use fold::Known;
use lookup::{Held, Object, View};
use walk::Found;

/// A policy compiled for a session.
#[derive(Debug, Clone)]
pub struct Compiled {
    policy: Arc<Policy>,
    subject: Subject,
    auth: Auth,
    session: Session,
    /// Whether session facts were folded into the table, so that it speaks for these alone.
    folded: bool,
    table: table::Table,
    ranks: Vec<Vec<(u32, u32)>>,
    report: Report,
}

/// The bare answer: what [`Decision`] says in words, without any.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Verdict<'c> {
    /// What happens.
    pub effect: Effect,
    /// The rule that decided; `None` when a default did.
    pub rule: Option<&'c Rule>,
    /// Whether a `monitor` rule marked the action.
    pub marked: bool,
    /// Whether a condition failed to evaluate.
    pub failed: bool,
}

impl Verdict<'_> {
    /// Whether there is nothing to tell beyond the effect; see [`Decision::is_silent`].
    pub fn is_silent(&self) -> bool {
        !self.marked && !self.failed
    }
}

impl Compiled {
    /// Compiles a policy for the actions of one subject; of `facts`, `auth` and `session` are taken as
    /// those of all its actions. Actions of others are answered by the interpreter.
    pub fn new(policy: Arc<Policy>, subject: &Subject, facts: &Facts) -> Compiled {
        Compiled::with_states(policy, subject, facts, None)
    }

    /// The same with at most so many states for an automaton of patterns with wildcards, instead of
    /// twice as many as they have steps. What does not fit is split off, then narrowed down by what is
    /// literal in it and walked pattern by pattern: the same answers, slower.
    pub fn with_states(
        policy: Arc<Policy>,
        subject: &Subject,
        facts: &Facts,
        states: Option<usize>,
    ) -> Compiled {
        let known = Known {
            subject,
            auth: &facts.auth,
            session: &facts.session,
        };
        let built = build::build(&policy, &known, states);
        let built = image::with_defaults(built, &policy);
        let folded = policy.rules().any(|r| {
            r.is_conditional()
                && r.matches_subject(subject)
                && known.residue(r) != fold::Residue::Sometimes
        });
        Compiled {
            policy,
            subject: subject.clone(),
            auth: facts.auth.clone(),
            session: facts.session.clone(),
            folded,
            table: built.table,
            ranks: built.ranks,
            report: built.report,
        }
    }

    /// The policy it was compiled from.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Sizes, and what could not be compiled.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What happens to an action, and why: the same as [`Policy::decide`] says.
    pub fn decide(&self, action: &Action) -> Decision {
        let mut monitors = Vec::new();
        match self.look(action, |rule| monitors.push(rule.id.clone())) {
            // The words of failures are the interpreter's.
            Some(verdict) if !verdict.failed => {
                render(&self.policy, verdict.effect, verdict.rule, action, monitors)
            }
            _ => self.policy.decide(action),
        }
    }

    /// What happens to an action.
    pub fn verdict(&self, action: &Action) -> Verdict<'_> {
        self.look(action, |_| ()).unwrap_or_else(|| {
            let decision = self.policy.decide(action);
            Verdict {
                effect: decision.effect,
                rule: decision.rule.and_then(|id| self.policy.rule(&id)),
                marked: !decision.monitors.is_empty(),
                failed: !decision.errors.is_empty(),
            }
        })
    }

    /// `None` where the table does not speak.
    #[inline]
    fn look<'c>(&'c self, action: &Action, mut mark: impl FnMut(&'c Rule)) -> Option<Verdict<'c>> {
        let facts = &action.facts;
        let same = action.subject == self.subject
            && (!self.folded || (facts.auth == self.auth && facts.session == self.session));
        if !same {
            return None;
        }
        let object = Object::of(&action.resource)?;
        let view = View::new(&self.table, object.kind)?;
        // A verb of another family has no class here.
        let class = view.class(action.verb as usize)?;
        let mut found = Found::default();
        if !view.look(&object, &action.resource, facts, &mut found) {
            return None;
        }

        let mut verdict: Option<Verdict<'c>> = None;
        let mut failed = false;
        for depth in 0..view.layers() {
            let rule = |rank: u32| self.rule(depth, rank);
            let held = |rank: u32| rule(rank).map_or(Held::Failed, |r| held(r, action));
            let answer = view.decide(depth, class, &object, &found, held)?;
            failed |= answer.failed;
            let own = match answer.decided {
                Some(hit) => Some((hit.effect(), rule(hit.rank()))),
                None => self.policy.unmatched(depth, action.verb).map(|e| (e, None)),
            };
            let floor = answer.floor.map(|hit| (hit.effect(), rule(hit.rank())));
            for (effect, rule) in [own, floor].into_iter().flatten() {
                if verdict.is_none_or(|v| effect > v.effect) {
                    verdict = Some(Verdict {
                        effect,
                        rule,
                        marked: false,
                        failed: false,
                    });
                }
            }
        }
        let mut marked = false;
        let marks = self.ranks.len() - 1;
        let whole = view.marks(class, &object, &found, |hit| {
            let Some(rule) = self.rule(marks, hit.rank()) else {
                return true;
            };
            let held = match hit.conditional() {
                true => held(rule, action),
                false => Held::Yes,
            };
            match held {
                Held::No => return true,
                Held::Yes => {}
                Held::Failed => failed = true,
            }
            marked = true;
            mark(rule);
            true
        });
        let verdict = verdict?;
        whole.then_some(Verdict {
            marked,
            failed,
            ..verdict
        })
    }

    fn rule(&self, list: usize, rank: u32) -> Option<&Rule> {
        let (depth, position) = self.ranks.get(list)?.get(rank as usize)?;
        let layer = self.policy.layers.get(*depth as usize)?;
        layer.rules.get(*position as usize)
    }
}

fn held(rule: &Rule, action: &Action) -> Held {
    match rule.holds(action) {
        Some(true) => Held::Yes,
        Some(false) => Held::No,
        None => Held::Failed,
    }
}

// The table counts verbs by their place in the vocabulary.
const _: () = {
    let mut i = 0;
    while i < Verb::ALL.len() {
        assert!(Verb::ALL[i] as usize == i);
        i += 1;
    }
};
