//! Is there any way? Some action of a kind that the policy lets through, or a proof that there is none.

use std::{
    collections::BTreeSet,
    fmt,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use agentwall_action::{Decision, Effect, Hint, Verb};

use super::{
    difference::texts,
    limits::{Limits, Meter, TooLarge},
    model::{Model, Truth, verbs_of},
    objects::{AddressCache, Space},
    query::{Query, Unknown},
    witness::{AnalyseError, Witness},
};
use crate::{
    document::{Enforcement, LedgerFailure},
    glob::{Glob, GlobError, GlobKind},
    pattern::{PatternContext, ResourcePattern},
    policy::{LayerPolicy, Policy},
    rule::{Layer, Location, PatternList, Rule, RuleEffect},
    temporal::Risk,
    vars::Variables,
};

/// A kind of action, in the words of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    rule: Rule,
}

/// Why a question cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuestionError {
    /// Which part of the question is wrong, as given.
    pub given: String,
    /// What is wrong with it.
    pub error: GlobError,
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}': {}",
            agentwall_action::escape_text(&self.given),
            self.error
        )?;
        match &self.error.suggestion {
            Some(s) => write!(f, "; write {s}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for QuestionError {}

impl Question {
    /// Actions whose subject, verb and object match one of each list (any, where the list is empty)
    /// and whose object matches none of `outside`. The patterns are those of rules.
    ///
    /// # Errors
    /// [`QuestionError`] for the first pattern that no rule could have, or that no verb has.
    pub fn new(
        subjects: &[String],
        actions: &[String],
        resources: &[String],
        outside: &[String],
        variables: &Variables,
    ) -> Result<Question, QuestionError> {
        let globs = |texts: &[String], kind| -> Result<Vec<Glob>, QuestionError> {
            texts
                .iter()
                .map(|t| Glob::new(t, kind).map_err(|error| wrong(t, error)))
                .collect()
        };
        let subject = globs(subjects, GlobKind::Text)?;
        let action = globs(actions, GlobKind::Verb)?;
        for (glob, text) in action.iter().zip(actions) {
            if !Verb::ALL
                .iter()
                .any(|v| glob.matches(v.as_str().as_bytes(), false))
            {
                let known: Vec<&str> = Verb::ALL.iter().map(|v| v.as_str()).collect();
                let mut error = GlobError::new(0, "no action is called so");
                error.suggestion = crate::diagnostic::did_you_mean(text, &known);
                return Err(wrong(text, error));
            }
        }
        let action = PatternList {
            positive: action,
            negative: Vec::new(),
        };
        let speaks = |v: &&Verb| action.matches(|g| g.matches(v.as_str().as_bytes(), false));
        let verbs: Vec<Verb> = Verb::ALL.iter().filter(speaks).copied().collect();
        let context = PatternContext::new(variables);
        let context = context.for_verbs(&verbs);
        let patterns = |texts: &[String]| -> Result<Vec<ResourcePattern>, QuestionError> {
            texts
                .iter()
                .map(|t| ResourcePattern::parse(t, &context).map_err(|error| wrong(t, error)))
                .collect()
        };
        let resource = PatternList {
            positive: patterns(resources)?,
            negative: patterns(outside)?,
        };
        Ok(Question {
            rule: Rule {
                id: "question".into(),
                priority: 0,
                subject: PatternList {
                    positive: subject,
                    negative: Vec::new(),
                },
                action,
                verbs,
                resource,
                effect: RuleEffect::Monitor,
                when: None,
                unless: None,
                reason: None,
                hint: Hint::default(),
                tests: Vec::new(),
                layer: Layer::User,
                location: Location {
                    source: "question".into(),
                    line: 1,
                },
            },
        })
    }

    /// The same question, its patterns also meaning objects under their real paths: see
    /// [`Policy::with_real_paths`].
    #[must_use]
    pub fn with_real_paths(mut self, real: &dyn Fn(&Path) -> Option<PathBuf>) -> Question {
        let policy = Policy {
            layers: vec![LayerPolicy {
                layer: Layer::User,
                default: None,
                default_location: None,
                rules: vec![self.rule.clone()],
            }],
            require: Enforcement::None,
            on_ledger_failure: LedgerFailure::Closed,
            inspect: Vec::new(),
            budgets: Vec::new(),
            risk: Risk::default(),
            properties: Vec::new(),
            digest: String::new(),
        };
        let resolved = policy.with_real_paths(real);
        if let Some(rule) = resolved.layers.into_iter().flat_map(|l| l.rules).next() {
            self.rule = rule;
        }
        self
    }

    /// The verbs it is about.
    pub fn verbs(&self) -> &[Verb] {
        &self.rule.verbs
    }
}

fn wrong(given: &str, error: GlobError) -> QuestionError {
    QuestionError {
        given: given.to_owned(),
        error,
    }
}

/// What [`can`] found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reach {
    /// There is none, for all subjects, objects, labels and outcomes of conditions.
    Never {
        /// The verbs that were looked at.
        verbs: Vec<Verb>,
        /// Conditions that were taken to be able to hold, to not hold, and to fail.
        open_conditions: Vec<String>,
    },
    /// There is one.
    Possible {
        /// The one with the shortest object.
        witness: Box<Witness>,
        /// What the policy says about it, the assumptions granted.
        decision: Box<Decision>,
    },
    /// Not decided: within the limits none was found, and not everything was looked at.
    Undecided {
        /// The verbs for which it is not decided, and why.
        why: Vec<String>,
    },
}

/// Whether the policy gives one of the effects to any action that the question is about.
///
/// # Errors
/// [`AnalyseError`] when not even the subjects of the rules can be told apart within the limits, or
/// when the analysis contradicts the interpreter.
pub fn can(
    policy: &Policy,
    question: &Question,
    effects: &BTreeSet<Effect>,
    limits: Limits,
) -> Result<Reach, AnalyseError> {
    can_for(policy, question, effects, limits).0
}

/// As [`can`], with the steps that it took.
pub fn can_for(
    policy: &Policy,
    question: &Question,
    effects: &BTreeSet<Effect>,
    limits: Limits,
) -> (Result<Reach, AnalyseError>, u64) {
    let mut meter = Meter::new(limits);
    let reach = reach(policy, question, effects, &mut meter);
    (reach, meter.spent())
}

fn reach(
    policy: &Policy,
    question: &Question,
    effects: &BTreeSet<Effect>,
    meter: &mut Meter,
) -> Result<Reach, AnalyseError> {
    let model = Model::new(&[policy], &[&question.rule], meter)?;
    let mut cache = AddressCache::default();
    // Questions come after all policies.
    let asked = (model.entries.len() - 1) as u32;
    let mut open = BTreeSet::new();
    let mut best: Option<Witness> = None;
    let mut why = Vec::new();
    for space in Space::ALL {
        let bits = model.entries[asked as usize].verbs & verbs_of(space);
        if bits == 0 {
            continue;
        }
        meter.begin();
        let mut found = None;
        let mut search = || -> Result<(), TooLarge> {
            let mut members = model.meeting(asked, meter)?;
            members.retain(|e| {
                matches!(
                    model.entries[*e as usize].rule.effect,
                    RuleEffect::Decide(_)
                )
            });
            members.push(asked);
            let query = Query::new(&model, space, &members, &[&[asked]], bits);
            open.extend(query.open_conditions());
            query.cases(meter, &mut cache, &mut |meter, case| {
                query.branch(meter, &mut |assumed| {
                    if query.stands(case, asked, assumed)? == Truth::No
                        || !effects.contains(&query.decide(case, assumed, 0, None)?.0)
                    {
                        return Ok(ControlFlow::Continue(()));
                    }
                    found = Some(Witness::new(&model, case, assumed));
                    Ok::<_, Unknown>(ControlFlow::Break(()))
                })
            })
        };
        if let Err(e) = search() {
            let verbs: Vec<&str> = super::model::verbs(bits)
                .iter()
                .map(|v| v.as_str())
                .collect();
            why.push(format!("{}: {e}", verbs.join(", ")));
        }
        let length = |w: &Witness| w.action.resource.to_string().len();
        if let Some(witness) = found
            && best.as_ref().is_none_or(|b| length(&witness) < length(b))
        {
            best = Some(witness);
        }
    }
    if let Some(witness) = best {
        let wanted = || {
            let names: Vec<&str> = effects.iter().map(|e| e.as_str()).collect();
            names.join(" or ")
        };
        let decision = witness.confirm(policy, |d| effects.contains(&d.effect), &wanted)?;
        return Ok(Reach::Possible {
            witness: Box::new(witness),
            decision: Box::new(decision),
        });
    }
    if !why.is_empty() {
        return Ok(Reach::Undecided { why });
    }
    Ok(Reach::Never {
        verbs: question.rule.verbs.clone(),
        open_conditions: texts(&model, &open),
    })
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
