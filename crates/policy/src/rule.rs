//! Rules: one statement of a policy, checked and ready to match.
//!
//! A rule matches an action when its verbs contain the action's verb, its subject and resource lists
//! match, `when` is true and `unless` is not. An expression that fails to evaluate counts in the safe
//! direction: the rule may only make the decision stricter.

use agentwall_action::{Action, Effect, Hint, Resource, Subject, Verb};

use crate::{condition::Expression, glob::Glob, pattern::ResourcePattern};

/// The priority of a rule that does not say one.
pub const DEFAULT_PRIORITY: i64 = 1000;

/// Who wrote a source. A lower layer (a greater value) can only tighten an upper one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The organisation's policy.
    Organisation,
    /// The user's policy; the only layer on a laptop.
    User,
    /// A repository's own file, which comes from whoever wrote the repository.
    Repository,
    /// What every policy has: see [`Policy::with_commit_rule`](crate::Policy::with_commit_rule).
    BuiltIn,
}

impl Layer {
    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Layer::Organisation => "organisation",
            Layer::User => "user",
            Layer::Repository => "repository",
            Layer::BuiltIn => "built-in",
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleEffect {
    /// It decides.
    Decide(Effect),
    /// It marks the ledger and decides nothing.
    Monitor,
}

impl RuleEffect {
    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            RuleEffect::Decide(effect) => effect.as_str(),
            RuleEffect::Monitor => "monitor",
        }
    }
}

/// A place in a source.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Location {
    /// The name of the source.
    pub source: String,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}",
            agentwall_action::escape_text(&self.source),
            self.line
        )
    }
}

/// A list of patterns. It matches when a positive member does (or there is none) and no negative one.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternList<P> {
    /// Members without `!`.
    pub positive: Vec<P>,
    /// Members with `!`.
    pub negative: Vec<P>,
}

impl<P> Default for PatternList<P> {
    fn default() -> Self {
        PatternList {
            positive: Vec::new(),
            negative: Vec::new(),
        }
    }
}

impl<P> PatternList<P> {
    /// Whether the list matches what `one` says about a single member.
    pub fn matches(&self, one: impl Fn(&P) -> bool) -> bool {
        (self.positive.is_empty() || self.positive.iter().any(&one))
            && !self.negative.iter().any(&one)
    }

    /// Whether nothing was said, so that anything matches.
    pub fn is_any(&self) -> bool {
        self.positive.is_empty() && self.negative.is_empty()
    }
}

/// An in-file test: `VERB RESOURCE`, which the rule must or must not match.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleTest {
    /// The text of the line.
    pub text: String,
    /// The verb.
    pub verb: Verb,
    /// The resource.
    pub resource: Resource,
    /// Whether the rule must match.
    pub expect: bool,
    /// The line in the rule's source.
    pub line: usize,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rule {
    /// Unique in the whole policy.
    pub id: String,
    /// Lower numbers are looked at first.
    pub priority: i64,
    /// Who; globs over the subject's text.
    pub subject: PatternList<Glob>,
    /// The actions, as written.
    pub action: PatternList<Glob>,
    /// The verbs that `action` means. For `isolate` only those that can be done to a copy.
    pub verbs: Vec<Verb>,
    /// To what.
    pub resource: PatternList<ResourcePattern>,
    /// What happens.
    pub effect: RuleEffect,
    /// Only when this is true.
    pub when: Option<Expression>,
    /// Not when this is true.
    pub unless: Option<Expression>,
    /// Why, for people and agents.
    pub reason: Option<String>,
    /// What the agent may do instead.
    pub hint: Hint,
    /// The in-file tests.
    pub tests: Vec<RuleTest>,
    /// Who wrote it.
    pub layer: Layer,
    /// Where it is written.
    pub location: Location,
}

/// Verbs that `isolate` can be said about: those that can be done to a copy.
pub const ISOLATABLE: &[Verb] = &[
    Verb::FileRead,
    Verb::FileWrite,
    Verb::FileCreate,
    Verb::FileDelete,
    Verb::FileRename,
    Verb::FileChmod,
];

/// How a rule stands to an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    Yes,
    /// The action, subject or resource is another one, or a condition is not met.
    No(Mismatch),
    /// A condition failed to evaluate; the texts say why.
    Unknown(Vec<String>),
}

/// Why a rule does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mismatch {
    /// The rule is about other actions.
    Action,
    /// The rule is about other subjects.
    Subject,
    /// The rule is about other objects.
    Resource,
    /// `when` is false.
    When,
    /// `unless` is true.
    Unless,
}

impl Rule {
    /// Whether the rule's subject list matches.
    pub fn matches_subject(&self, subject: &Subject) -> bool {
        let text = subject.as_str().as_bytes();
        self.subject.matches(|glob| glob.matches(text, false))
    }

    /// Whether the rule has a condition.
    pub fn is_conditional(&self) -> bool {
        self.when.is_some() || self.unless.is_some()
    }

    pub(crate) fn matches(&self, action: &Action) -> Match {
        if !self.verbs.contains(&action.verb) {
            return Match::No(Mismatch::Action);
        }
        if !self.matches_subject(&action.subject) {
            return Match::No(Mismatch::Subject);
        }
        let resource = |p: &ResourcePattern| p.matches(&action.resource, &action.facts);
        if !self.resource.matches(resource) {
            return Match::No(Mismatch::Resource);
        }
        self.conditions(action)
    }

    /// How `when` and `unless` stand to the action, whatever its verb and object.
    pub(crate) fn conditions(&self, action: &Action) -> Match {
        let mut errors = Vec::new();
        if let Some(when) = &self.when {
            match when.test(action) {
                Ok(true) => {}
                Ok(false) => return Match::No(Mismatch::When),
                Err(error) => errors.push(format!("when: {error}")),
            }
        }
        if let Some(unless) = &self.unless {
            match unless.test(action) {
                Ok(true) => return Match::No(Mismatch::Unless),
                Ok(false) => {}
                Err(error) => errors.push(format!("unless: {error}")),
            }
        }
        if errors.is_empty() {
            Match::Yes
        } else {
            Match::Unknown(errors)
        }
    }

    /// Whether the rule's conditions hold, `None` if one fails: what [`Rule::conditions`] says, without
    /// its words.
    pub(crate) fn holds(&self, action: &Action) -> Option<bool> {
        let when = self.when.as_ref().map_or(Some(true), |e| e.truth(action));
        if when == Some(false) {
            return Some(false);
        }
        let unless = self
            .unless
            .as_ref()
            .map_or(Some(false), |e| e.truth(action));
        match (when, unless) {
            (_, Some(true)) => Some(false),
            (Some(_), Some(false)) => Some(true),
            _ => None,
        }
    }

    /// Whether the rule's own patterns match, whatever the subject and the conditions: the meaning
    /// of an in-file test.
    pub fn matches_object(&self, verb: Verb, resource: &Resource) -> bool {
        let facts = agentwall_action::Facts::default();
        self.verbs.contains(&verb) && self.resource.matches(|p| p.matches(resource, &facts))
    }
}
