//! The policy: what was loaded, and the reference interpreter that decides with it.
//!
//! The interpreter is the meaning of the language: rules are looked at by priority, the first
//! priority with a match decides, and inside it the strictest effect wins. It is written to be
//! obviously correct rather than fast; a compiled engine is tested against it.
//!
//! Details that follow from "fail closed":
//! * A rule whose condition fails to evaluate never makes the decision more permissive. An allow does
//!   not apply. A deny, ask or isolate is a floor: the rest is decided without it, and the stricter of
//!   the two is the answer.
//! * Several layers are decided one by one, and the strictest answer wins. The uppermost layer always
//!   has an answer (its default); a lower one only if a rule matches or it states a default.
//! * A `file.commit` that no rule of a layer covers is asked: committing is a person's decision.
//! * `monitor` rules mark every action they match, whatever their priority.

use agentwall_action::{Action, Decision, Effect, Resource, Verb};

use crate::{
    detail::{ConditionReport, Nearest},
    document::{Enforcement, LedgerFailure},
    rule::{Layer, Location, Match, Mismatch, Rule, RuleEffect},
    temporal::{Budget, Property, Risk},
};

/// A loaded policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// From the uppermost layer to the lowest; at least one.
    pub(crate) layers: Vec<LayerPolicy>,
    pub(crate) require: Enforcement,
    pub(crate) on_ledger_failure: LedgerFailure,
    pub(crate) inspect: Vec<String>,
    pub(crate) budgets: Vec<Budget>,
    pub(crate) risk: Risk,
    pub(crate) properties: Vec<Property>,
    pub(crate) digest: String,
}

/// The rules of one layer, sorted by priority and id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerPolicy {
    pub layer: Layer,
    /// What it states, if it does.
    pub default: Option<Effect>,
    pub default_location: Option<Location>,
    pub rules: Vec<Rule>,
}

/// How a rule stood to an action.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuleOutcome {
    /// It matched and gave the answer.
    Decided,
    /// It matched, but a stricter rule of the same priority or of another layer decided.
    Overruled,
    /// It would match, but a rule looked at earlier decided.
    TooLate,
    /// It matched; `monitor` only marks.
    Marked,
    /// It does not match.
    NoMatch(Mismatch),
    /// A condition failed to evaluate, and the rule counted in the safe direction.
    Failed(Vec<String>),
}

/// One rule of an [`Explanation`].
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct ExplainedRule {
    /// The rule's id.
    pub id: String,
    /// The rule's priority.
    pub priority: i64,
    /// The rule's effect.
    pub effect: &'static str,
    /// The rule's layer.
    pub layer: Layer,
    /// Where the rule is written.
    pub location: Location,
    /// How it stood to the action.
    pub outcome: RuleOutcome,
    /// Where the subject or the object does not match: the member that came nearest.
    pub nearest: Option<Nearest>,
    /// Where the action, the subject and the object match: what the conditions said.
    pub conditions: Vec<ConditionReport>,
}

/// A decision with the path to it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The decision, the same as [`Policy::decide`] gives.
    pub decision: Decision,
    /// Every rule in the order they are looked at.
    pub rules: Vec<ExplainedRule>,
}

/// The answer of one layer.
pub(crate) struct Answer<'p> {
    pub effect: Effect,
    pub rule: Option<&'p Rule>,
}

impl Policy {
    /// What happens to an action.
    pub fn decide(&self, action: &Action) -> Decision {
        let mut answer: Option<Answer<'_>> = None;
        let mut monitors = Vec::new();
        let mut errors = Vec::new();
        for (depth, layer) in self.layers.iter().enumerate() {
            let (matched, floor) = decide_layer(layer, action, &mut monitors, &mut errors);
            let unmatched = self.unmatched(depth, action.verb);
            let own = matched.or(unmatched.map(|effect| Answer { effect, rule: None }));
            // The floor of failed conditions holds even where the layer has no other opinion.
            for candidate in [own, floor].into_iter().flatten() {
                if answer.as_ref().is_none_or(|a| candidate.effect > a.effect) {
                    answer = Some(candidate);
                }
            }
        }
        // The uppermost layer always answers; without any layer the action is denied.
        let answer = answer.unwrap_or(Answer {
            effect: Effect::Deny,
            rule: None,
        });
        Decision {
            errors,
            ..render(self, answer.effect, answer.rule, action, monitors)
        }
    }

    /// What happens to an action, and how every rule stood to it.
    pub fn explain(&self, action: &Action) -> Explanation {
        let decision = self.decide(action);
        let mut rules = Vec::new();
        for layer in &self.layers {
            let mut decided_at = None;
            for rule in &layer.rules {
                let outcome = match (rule.matches(action), rule.effect) {
                    (Match::No(why), _) => RuleOutcome::NoMatch(why),
                    (Match::Unknown(errors), _) => RuleOutcome::Failed(errors),
                    (Match::Yes, RuleEffect::Monitor) => RuleOutcome::Marked,
                    (Match::Yes, _) if decision.rule.as_ref() == Some(&rule.id) => {
                        decided_at = Some(rule.priority);
                        RuleOutcome::Decided
                    }
                    (Match::Yes, _) => match decided_at {
                        Some(p) if p < rule.priority => RuleOutcome::TooLate,
                        _ => {
                            decided_at.get_or_insert(rule.priority);
                            RuleOutcome::Overruled
                        }
                    },
                };
                let (nearest, conditions) = match &outcome {
                    RuleOutcome::NoMatch(Mismatch::Action) => (None, Vec::new()),
                    RuleOutcome::NoMatch(Mismatch::Subject) => {
                        (rule.nearest_subject(action), Vec::new())
                    }
                    RuleOutcome::NoMatch(Mismatch::Resource) => {
                        (rule.nearest_resource(action), Vec::new())
                    }
                    _ => (None, rule.condition_reports(action)),
                };
                rules.push(ExplainedRule {
                    nearest,
                    conditions,
                    id: rule.id.clone(),
                    priority: rule.priority,
                    effect: rule.effect.as_str(),
                    layer: rule.layer,
                    location: rule.location.clone(),
                    outcome,
                });
            }
        }
        Explanation { decision, rules }
    }

    /// SHA-256 of the policy's canonical form, lower-case hex. It covers everything that can change a
    /// decision, its text or another layer's behaviour, with variables expanded; not comments, tests,
    /// file names or the order of rules.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Every rule: by layer, then in the order they are looked at.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.layers.iter().flat_map(|l| &l.rules)
    }

    /// The rule of this id.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules().find(|r| r.id == id)
    }

    /// What happens to an action that no rule matches, `file.commit` aside.
    pub fn default_effect(&self) -> Effect {
        let stated = (0..self.layers.len()).filter_map(|d| self.unmatched(d, Verb::FileRead));
        stated.max().unwrap_or(Effect::Deny)
    }

    /// The weakest enforcement that any source accepts.
    pub fn require(&self) -> Enforcement {
        self.require
    }

    /// What becomes of a session whose ledger cannot be written any more.
    pub fn on_ledger_failure(&self) -> LedgerFailure {
        self.on_ledger_failure
    }

    /// Names of model APIs to which the wall makes the TLS connection, to read what the models say; sorted.
    pub fn inspect(&self) -> &[String] {
        &self.inspect
    }

    /// The budgets of all sources; every one holds.
    pub fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// The strictest risk thresholds of all sources.
    pub fn risk(&self) -> Risk {
        self.risk
    }

    /// The temporal properties of all sources; every one holds.
    pub fn properties(&self) -> &[Property] {
        &self.properties
    }

    /// Whether a rule for the verb has a condition that reads `args`.
    pub fn uses_args(&self, verb: Verb) -> bool {
        self.rules().any(|rule| {
            let mut conditions = rule.when.iter().chain(&rule.unless);
            rule.verbs.contains(&verb) && conditions.any(crate::condition::Expression::uses_args)
        })
    }

    /// The answer of the layer at this depth when none of its rules matches.
    pub(crate) fn unmatched(&self, depth: usize, verb: Verb) -> Option<Effect> {
        let layer = &self.layers[depth];
        match (verb, depth) {
            (Verb::FileCommit, 0) => Some(Effect::Ask),
            (Verb::FileCommit, _) => None,
            (_, 0) => Some(layer.default.unwrap_or(Effect::Deny)),
            _ => layer.default,
        }
    }
}

/// The answer of a layer's rules, and the strictest rule whose condition failed.
pub(crate) fn decide_layer<'p>(
    layer: &'p LayerPolicy,
    action: &Action,
    monitors: &mut Vec<String>,
    errors: &mut Vec<String>,
) -> (Option<Answer<'p>>, Option<Answer<'p>>) {
    let mut answer: Option<Answer<'p>> = None;
    let mut floor: Option<Answer<'p>> = None;
    for rule in &layer.rules {
        let decided = answer.as_ref().and_then(|a| a.rule).map(|r| r.priority);
        let late = decided.is_some_and(|p| p < rule.priority);
        let effect = match rule.effect {
            RuleEffect::Decide(_) if late => continue,
            RuleEffect::Decide(effect) => Some(effect),
            RuleEffect::Monitor => None,
        };
        let failed = match rule.matches(action) {
            Match::No(_) => continue,
            Match::Yes => false,
            Match::Unknown(why) => {
                errors.extend(why.iter().map(|e| format!("{}: {e}", rule.id)));
                true
            }
        };
        let Some(effect) = effect else {
            monitors.push(rule.id.clone());
            continue;
        };
        let slot = match failed {
            false => &mut answer,
            true if effect == Effect::Allow => continue,
            true => &mut floor,
        };
        if slot.as_ref().is_none_or(|a| effect > a.effect) {
            *slot = Some(Answer {
                effect,
                rule: Some(rule),
            });
        }
    }
    (answer, floor)
}

/// A decision in words.
pub(crate) fn render(
    policy: &Policy,
    effect: Effect,
    rule: Option<&Rule>,
    action: &Action,
    monitors: Vec<String>,
) -> Decision {
    Decision {
        effect,
        rule: rule.map(|r| r.id.clone()),
        reason: match rule {
            Some(rule) => rule_reason(rule, action),
            None => default_reason(effect, action),
        },
        hint: rule.map(|r| r.hint.clone()).unwrap_or_default(),
        monitors,
        errors: Vec::new(),
        policy: policy.digest.clone(),
    }
}

fn rule_reason(rule: &Rule, action: &Action) -> String {
    if let Some(reason) = &rule.reason {
        return reason.clone();
    }
    let verb = match rule.effect {
        RuleEffect::Decide(Effect::Allow) => "allows",
        RuleEffect::Decide(Effect::Isolate) => "isolates",
        RuleEffect::Decide(Effect::Ask) => "asks a person about",
        _ => "denies",
    };
    format!(
        "rule {} {verb} {} of {}",
        rule.id, action.verb, action.resource
    )
}

fn default_reason(effect: Effect, action: &Action) -> String {
    let (verb, resource) = (action.verb, &action.resource);
    if verb == Verb::FileCommit {
        return format!("no commit rule covers {resource}; the person who runs the commit decides");
    }
    match effect {
        Effect::Allow => {
            format!("no rule speaks about {verb} of {resource}; the default allows it")
        }
        Effect::Ask => {
            format!("no rule speaks about {verb} of {resource}; the default asks a person")
        }
        _ => format!(
            "no rule allows {verb} of {resource}; add a rule with action: {verb}, resource: {}, \
             effect: allow",
            as_pattern(resource)
        ),
    }
}

/// The object as a pattern an author can paste.
pub(crate) fn as_pattern(resource: &Resource) -> String {
    let text = match resource {
        Resource::Path(p) => crate::glob::glob_escape(p.as_bytes()),
        other => other.to_string(),
    };
    agentwall_action::escape_text(&text).replace("\\\\", "\\")
}
