//! Witnesses: actions that show an answer, each confirmed by the interpreter.
//!
//! A witness may rest on assumptions: that a condition holds, does not hold or cannot be evaluated.
//! [`Policy::decide`] cannot be asked about those, so it is asked about the policy in which the
//! assumption has been written into the rules: a rule whose condition holds has none, one whose
//! condition does not hold is gone, one whose condition fails has one that always fails. Rules that do
//! not match the action's subject, verb and object cannot matter and are left out then.

use std::{fmt, sync::OnceLock};

use agentwall_action::{Action, Decision, ObjectKind, Resource, Subject, escape_text};

use super::{
    limits::TooLarge,
    model::{Model, Truth},
    query::{Assumed, Case, Unknown},
};
use crate::{
    condition::{Expression, Wanted},
    policy::Policy,
    rule::Rule,
};

/// What a condition is taken to come to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Assumption {
    /// The condition as written.
    pub condition: String,
    /// What it comes to.
    pub is: Truth,
    /// The rules that have it.
    pub rules: Vec<String>,
}

/// An action that shows an answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Witness {
    /// The action; its facts name labels and nothing else.
    pub action: Action,
    /// What it rests on.
    pub assumptions: Vec<Assumption>,
}

/// The analysis itself is wrong, or cannot be made.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AnalyseError {
    /// The interpreter does not confirm a witness: a defect of the analysis, never of the policy.
    /// Please report it with the policy.
    Unconfirmed {
        /// The witness.
        witness: Box<Witness>,
        /// What the search says.
        expected: String,
        /// What [`Policy::decide`] says.
        found: String,
    },
    /// The rules cannot be read into the form that questions need.
    TooLarge(TooLarge),
}

impl fmt::Display for AnalyseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnalyseError::Unconfirmed {
                witness,
                expected,
                found,
            } => write!(
                f,
                "the analysis is wrong about '{witness}': expected {expected}, the interpreter says \
                 {found}; please report this with the policy"
            ),
            AnalyseError::TooLarge(e) => {
                write!(
                    f,
                    "not decided: {e}; the subjects of the rules alone are too many"
                )
            }
        }
    }
}

impl std::error::Error for AnalyseError {}

impl From<TooLarge> for AnalyseError {
    fn from(e: TooLarge) -> Self {
        AnalyseError::TooLarge(e)
    }
}

/// `VERB OBJECT`, with what else belongs to it; escaped.
impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Action {
            subject,
            verb,
            resource,
            facts,
        } = &self.action;
        write!(f, "{verb} {resource}")?;
        match resource {
            Resource::Path(p) if p.kind == ObjectKind::Directory && p.as_bytes() != b"/" => {
                f.write_str("/")?;
            }
            Resource::Endpoint(e) => {
                if let (Some(_), Some(ip)) = (&e.host, e.ip) {
                    write!(f, " at {ip}")?;
                }
            }
            _ => {}
        }
        if !facts.labels.is_empty() {
            let labels: Vec<String> = facts.labels.iter().map(|l| escape_text(l)).collect();
            write!(f, " labelled {}", labels.join(", "))?;
        }
        if subject.as_str() != "agent:agent" {
            write!(f, " by {}", escape_text(subject.as_str()))?;
        }
        for (n, assumption) in self.assumptions.iter().enumerate() {
            let word = if n == 0 { " if" } else { " and" };
            let is = match assumption.is {
                Truth::Yes => "holds",
                Truth::No => "does not hold",
                Truth::Fails => "cannot be evaluated",
            };
            write!(
                f,
                "{word} '{}' (rule {}) {is}",
                escape_text(&assumption.condition),
                escape_text(&assumption.rules.join(", "))
            )?;
        }
        Ok(())
    }
}

impl serde::Serialize for Witness {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut out = s.serialize_struct("Witness", 7)?;
        let Action {
            subject,
            verb,
            resource,
            facts,
        } = &self.action;
        out.serialize_field("subject", subject)?;
        out.serialize_field("action", verb)?;
        out.serialize_field("resource", &resource.to_string())?;
        let directory = matches!(resource, Resource::Path(p) if p.kind == ObjectKind::Directory);
        out.serialize_field("directory", &directory)?;
        let address = match resource {
            Resource::Endpoint(e) => e.ip,
            _ => None,
        };
        out.serialize_field("address", &address)?;
        out.serialize_field("labels", &facts.labels)?;
        out.serialize_field("assumptions", &self.assumptions)?;
        out.end()
    }
}

impl Witness {
    /// The case as an action. Of the verbs that are alike, the first.
    pub(crate) fn new(model: &Model<'_>, case: &Case<'_>, assumed: &Assumed) -> Witness {
        let subject = Subject(case.subject.text.clone());
        let mut action = Action::new(subject, case.verb, case.resource.clone());
        let mut assumptions = Vec::new();
        for (unknown, truth) in assumed {
            match unknown {
                Unknown::Label(label) if *truth == Truth::Yes => {
                    let name = model.labels[*label as usize];
                    action.facts.labels.insert(name.to_owned());
                }
                Unknown::Label(_) => {}
                Unknown::Condition(condition) => {
                    let condition = &model.conditions[*condition as usize];
                    let mut rules: Vec<String> =
                        condition.rules.iter().map(|r| (*r).to_owned()).collect();
                    rules.dedup();
                    assumptions.push(Assumption {
                        condition: condition.text.to_owned(),
                        is: *truth,
                        rules,
                    });
                }
            }
        }
        Witness {
            action,
            assumptions,
        }
    }

    /// Whether the rule's verbs, subjects and objects mean the action, whatever its conditions.
    pub(crate) fn is_meant_by(&self, rule: &Rule) -> bool {
        rule.verbs.contains(&self.action.verb)
            && rule.matches_subject(&self.action.subject)
            && (rule.resource).matches(|p| p.matches(&self.action.resource, &self.action.facts))
    }

    /// What the policy says about it, the assumptions granted.
    pub fn decision(&self, policy: &Policy) -> Decision {
        let matters = |rule: &&Rule| self.is_meant_by(rule);
        if !policy.rules().filter(matters).any(Rule::is_conditional) {
            return policy.decide(&self.action);
        }
        let mut assumed = Policy {
            layers: Vec::new(),
            inspect: Vec::new(),
            budgets: Vec::new(),
            properties: Vec::new(),
            digest: policy.digest.clone(),
            ..*policy
        };
        for layer in &policy.layers {
            let rules = layer.rules.iter().filter(matters);
            let rules = rules.filter_map(|rule| self.granted(rule)).collect();
            assumed.layers.push(crate::policy::LayerPolicy {
                layer: layer.layer,
                default: layer.default,
                default_location: None,
                rules,
            });
        }
        assumed.decide(&self.action)
    }

    /// The rule with its conditions replaced by what they are taken to come to. What nothing is
    /// assumed about does not matter to the answer, and is taken not to hold.
    fn granted(&self, rule: &Rule) -> Option<Rule> {
        let verbs = std::slice::from_ref(&self.action.verb);
        let truth = |condition: &Option<Expression>, absent: Truth| {
            let Some(condition) = condition else {
                return absent;
            };
            match condition.constant(verbs) {
                Some(Ok(true)) => return Truth::Yes,
                Some(Ok(false)) => return Truth::No,
                Some(Err(_)) => return Truth::Fails,
                None => {}
            }
            let known = self
                .assumptions
                .iter()
                .find(|a| a.condition == condition.as_str());
            known.map_or(Truth::No, |a| a.is)
        };
        let (when, unless) = (
            truth(&rule.when, Truth::Yes),
            truth(&rule.unless, Truth::No),
        );
        if when == Truth::No || unless == Truth::Yes {
            return None;
        }
        let mut rule = rule.clone();
        (rule.when, rule.unless) = (None, None);
        if when == Truth::Fails || unless == Truth::Fails {
            rule.when = Some(failing()?.clone());
        }
        Some(rule)
    }

    /// An error unless the interpreter says so, too.
    pub(crate) fn confirm(
        &self,
        policy: &Policy,
        holds: impl Fn(&Decision) -> bool,
        expected: &dyn Fn() -> String,
    ) -> Result<Decision, AnalyseError> {
        let decision = self.decision(policy);
        if holds(&decision) {
            return Ok(decision);
        }
        Err(AnalyseError::Unconfirmed {
            witness: Box::new(self.clone()),
            expected: expected(),
            found: format!(
                "{} by {}",
                decision.effect,
                decision.rule.as_deref().unwrap_or("the default")
            ),
        })
    }
}

/// A condition that fails: a witness has no arguments.
fn failing() -> Option<&'static Expression> {
    static FAILING: OnceLock<Option<Expression>> = OnceLock::new();
    let made = FAILING.get_or_init(|| Expression::compile("args.x == 1", Wanted::Boolean).ok());
    made.as_ref()
}
