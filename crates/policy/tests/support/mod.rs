//! What the tests of policies share: variables of a usual session, and actions from one line.

#![allow(dead_code, clippy::unwrap_used)]

pub mod hostile;

use agentwall_action::{Action, Effect, Resource, Subject, Verb};
use agentwall_policy::{Diagnostic, Layer, LoadError, Policy, Source, Table, Variables};

/// The folders of a usual session.
pub fn variables() -> Variables {
    Variables {
        workspace: Some("/home/u/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/u/.local/state/agentwall".into()),
    }
}

pub fn source(name: &str, text: impl Into<Vec<u8>>) -> Source {
    Source::new(name, text, Layer::User)
}

pub fn parse(text: impl Into<Vec<u8>>) -> Result<Policy, LoadError> {
    agentwall_policy::load(&[source("p.yaml", text)], &variables())
}

#[track_caller]
pub fn policy(text: &str) -> Policy {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

pub fn parse_table(text: impl Into<Vec<u8>>) -> Result<Table, LoadError> {
    agentwall_policy::load_table(&source("t.yaml", text), &variables())
}

/// What is wrong with it; nothing when it loads.
pub fn errors<T>(result: Result<T, LoadError>) -> Vec<Diagnostic> {
    result.map_or_else(|e| e.diagnostics().to_vec(), |_| Vec::new())
}

/// `VERB RESOURCE`, by the agent `a`.
#[track_caller]
pub fn action(line: &str) -> Action {
    let (verb, resource) = line.split_once(' ').unwrap();
    let verb: Verb = verb.parse().unwrap();
    let resource = Resource::parse(verb.family(), resource).unwrap();
    Action::new(Subject::agent("a"), verb, resource)
}

#[track_caller]
pub fn expect(policy: &Policy, line: &str, effect: Effect) {
    let decision = policy.decide(&action(line));
    assert_eq!(decision.effect, effect, "{line}: {decision:?}");
}

#[track_caller]
pub fn expect_by(policy: &Policy, line: &str, effect: Effect, rule: Option<&str>) {
    let decision = policy.decide(&action(line));
    let found = (decision.effect, decision.rule.as_deref());
    assert_eq!(found, (effect, rule), "{line}: {decision:?}");
}

/// What is wrong with `text` begins here, says this, and suggests that. With a column it is the one error.
#[track_caller]
pub fn expect_error(
    text: &str,
    found: &[Diagnostic],
    (line, column): (usize, usize),
    message: &str,
    suggestion: &str,
) {
    assert!(!found.is_empty(), "accepted: {text}");
    let first = &found[0];
    assert_eq!(first.line, line, "{text}\n{first}");
    if column > 0 {
        assert_eq!(first.column, column, "{text}\n{first}");
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    }
    assert!(first.message.contains(message), "{text}\n{first}");
    let help = first.suggestion.as_deref().unwrap_or_default();
    assert!(help.contains(suggestion), "{text}\n{first}");
}
