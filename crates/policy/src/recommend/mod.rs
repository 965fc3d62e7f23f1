//! Recommendation: the least rules that explain what was observed.
//!
//! Input are recorded actions with their evidence, and the policy in force. Output are the rules that
//! the policy does not give yet, as a policy file with reasons, tests and evidence, for a person to
//! review; nothing is taken over by itself. The parts: `evidence` says which actions count, `merge`
//! turns paths into patterns, `network` endpoints, `cover` keeps them off the never-cover set, `patterns`
//! gives every action to a pattern, `render` and `examples` write the file, `estimate` says how much was probably not seen.
//!
//! Poisoning: who can act can suggest. So nothing is learned from an action that was refused, asked
//! about or approved, in any session; nothing at all from a session in which a person rejected a
//! question or something of the never-cover set was tried; one session yields only the very objects it
//! used; and a proposed rule is looked at last, so that it never outranks a rule that is there.
//!
//! Invariants, checked before a proposal is handed out (else it is an error, not a proposal): it loads
//! alone and beside the policy in force; its tests pass; every action that counts is let through by the
//! two together; no action that was refused or asked about is, unless the policy in force already does;
//! no rule touches the never-cover set.

mod cover;
mod estimate;
mod evidence;
mod examples;
mod merge;
mod network;
mod never;
mod patterns;
mod render;
mod token;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use agentwall_action::{Effect, Resource, Subject, Verb};
use serde::Serialize;

use crate::{
    diagnostic::LoadError,
    load::{Source, load},
    policy::Policy,
    rule::Layer,
    vars::Variables,
};

pub use estimate::Estimate;

use cover::NeverCover;
use evidence::Evidence;

/// Resolves symlinks of an absolute path on the host; `None` if nothing is there.
pub type RealPath<'a> = dyn Fn(&Path) -> Option<PathBuf> + 'a;

/// How a recorded action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It went ahead under a rule or a default, as `allow` or `isolate`.
    Passed(Effect),
    /// A person was asked, whatever the answer was.
    Asked,
    /// It was refused.
    Refused,
}

/// One recorded action.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The ledger entry.
    pub index: u64,
    /// The session.
    pub session: String,
    /// RFC 3339, UTC.
    pub time: String,
    /// What was done,
    pub verb: Verb,
    /// to what.
    pub resource: Resource,
    /// How it ended.
    pub standing: Standing,
    /// It was not seen itself, but follows from one that was (mapping a library that was opened).
    pub derived: bool,
}

/// A session of the evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSession {
    /// The values it ran with: its paths are told relative to them.
    pub variables: Variables,
    /// Why nothing is learned from it, if so: a person rejected a question.
    pub flagged: Option<String>,
}

/// What a recommendation is made from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// What was recorded, in the order of the ledger.
    pub observations: &'a [Observation],
    /// The sessions the observations name, by id; those of others are left out.
    pub sessions: &'a BTreeMap<String, ObservedSession>,
    /// The policy in force; none asks for a whole policy.
    pub current: &'a [Source],
    /// The values that patterns are written with and compared by. Home and state are needed.
    pub variables: &'a Variables,
    /// For whom.
    pub subject: &'a Subject,
    /// How the host spells paths.
    pub real: Option<&'a RealPath<'a>>,
    /// How much to generalise.
    pub options: Options,
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("observations", &self.observations.len())
            .field("sessions", &self.sessions.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// How much to generalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Different sessions that a pattern with a wildcard needs; at least 2.
    pub min_sessions: usize,
    /// The weight of what a pattern lets in unseen, in percent: more is narrower.
    pub beta: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            min_sessions: 2,
            beta: 100,
        }
    }
}

/// Whether a path names a shared library (`libc.so.6`, `x.so`): what opens one maps it.
pub fn is_library(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let name = path.file_name().unwrap_or_default().as_bytes();
    let Some(at) = name.windows(3).rposition(|w| w == b".so") else {
        return false;
    };
    let version = |b: &u8| b.is_ascii_digit() || *b == b'.';
    match &name[at + 3..] {
        [] => at > 0,
        [b'.', rest @ ..] => at > 0 && !rest.is_empty() && rest.iter().all(version),
        _ => false,
    }
}

/// A proposed rule and what speaks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProposedRule {
    /// Its id.
    pub id: String,
    /// Its actions.
    pub actions: Vec<Verb>,
    /// Its patterns, as written.
    pub resources: Vec<String>,
    /// What is taken out of them, as written, without `!`.
    pub except: Vec<String>,
    /// Its effect.
    pub effect: Effect,
    /// Ledger entries behind it.
    pub entries: Vec<u64>,
    /// Distinct objects.
    pub objects: usize,
    /// Sessions, by id.
    pub sessions: Vec<String>,
    /// Time of the first observation.
    pub first_seen: String,
    /// Time of the last.
    pub last_seen: String,
    /// Observations that only follow from others.
    pub derived: usize,
}

/// Why an action is not proposed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It is in the never-cover set, under this name.
    NeverCover(String),
    /// It was refused, here or in another session.
    Refused,
    /// A person was asked about it; an answer is for once.
    Asked,
    /// Its session gives no evidence, for this reason.
    FlaggedSession(String),
    /// A rule of the policy in force, which a proposal must not outrank, says otherwise.
    DecidedBy(String),
    /// Carrying changes to the originals is decided by a person, each time.
    Commit,
    /// It cannot be written as a pattern.
    NoPattern,
}

/// Actions that are not proposed, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Why.
    pub reason: Reason,
    /// How many distinct actions.
    pub actions: usize,
    /// A few of them, `VERB OBJECT`, escaped.
    pub examples: Vec<String>,
}

/// A proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Proposal {
    /// The rules as a policy file, with evidence as comments.
    #[serde(rename = "policy")]
    pub text: String,
    /// The rules.
    pub rules: Vec<ProposedRule>,
    /// Distinct actions that the policy in force lets through already.
    pub given: usize,
    /// What is not proposed, and why.
    pub left_out: Vec<LeftOut>,
    /// How much was probably not seen.
    pub estimate: Estimate,
    /// The layer the rules belong to.
    #[serde(skip)]
    pub layer: Option<Layer>,
}

/// There is no proposal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecommendError {
    /// The never-cover set needs values that are missing.
    #[error("the never-cover set cannot be read here (it needs a home and a state folder):\n{0}")]
    NeverCover(LoadError),
    /// The policy in force cannot be loaded, or not beside a rule that is looked at last.
    #[error("the policy in force cannot be used:\n{0}")]
    Current(LoadError),
    /// A defect of this module: the proposal broke one of its promises and is withheld.
    #[error("the proposal is withheld, because {0}; this is a defect, please report it")]
    Withheld(String),
}

/// Proposes the rules that the observations need and the policy in force does not give.
///
/// # Errors
/// The policy in force or the variables cannot be used, or the proposal broke a promise (see the
/// module's invariants).
pub fn recommend(input: &Input<'_>) -> Result<Proposal, RecommendError> {
    let never = NeverCover::new(input.variables, input.real)?;
    let evidence = Evidence::gather(input, &never)?;
    let rules = render::rules(input, &evidence, &never);
    let text = render::file(input, &evidence, &rules);
    verify(input, &evidence, &never, &text)?;
    let seen_once = render::seen_once(&rules);
    Ok(Proposal {
        text,
        given: evidence.given,
        left_out: evidence.left_out(),
        estimate: Estimate::new(evidence.actions, evidence.sessions.len(), seen_once),
        layer: Some(evidence.layer),
        rules: rules.into_iter().map(|r| r.proposed).collect(),
    })
}

/// Loads sources with the host's spelling of paths.
fn load_here(sources: &[Source], input: &Input<'_>) -> Result<Policy, LoadError> {
    let policy = load(sources, input.variables)?;
    Ok(match input.real {
        Some(real) => policy.with_real_paths(real),
        None => policy,
    })
}

/// The promises of the module header, checked on the text itself.
fn verify(
    input: &Input<'_>,
    evidence: &Evidence<'_>,
    never: &NeverCover,
    text: &str,
) -> Result<(), RecommendError> {
    let withheld = |why: String| Err(RecommendError::Withheld(why));
    let own = Source::new("the proposal", text, evidence.layer);
    let alone = match load_here(std::slice::from_ref(&own), input) {
        Ok(policy) => policy,
        Err(e) => return withheld(format!("it does not load:\n{e}")),
    };
    let tests = alone.run_tests();
    if !tests.passed() {
        return withheld(format!("its own tests fail:\n{tests}"));
    }
    if let Some((rule, touch)) = alone.rules().find_map(|r| Some((r, never.leak(r)?))) {
        return withheld(format!(
            "rule {} covers {} of the never-cover set ({})",
            rule.id,
            agentwall_action::escape_bytes(&touch.witness),
            touch.entry.id
        ));
    }
    let sources = [input.current, std::slice::from_ref(&own)].concat();
    let both = match load_here(&sources, input) {
        Ok(policy) => policy,
        Err(e) => return withheld(format!("it does not load beside the policy in force:\n{e}")),
    };
    for action in evidence.wanted_actions() {
        if !both.decide(&action).effect.proceeds() {
            return withheld(format!(
                "it does not let {} of {} through",
                action.verb, action.resource
            ));
        }
    }
    for action in evidence.unwanted_actions() {
        let before = evidence.current.as_ref().map(|p| p.decide(&action).effect);
        let let_through = both.decide(&action).effect.proceeds();
        if let_through && !before.is_some_and(Effect::proceeds) {
            return withheld(format!(
                "it lets {} of {} through, which was refused or asked about",
                action.verb, action.resource
            ));
        }
    }
    Ok(())
}
