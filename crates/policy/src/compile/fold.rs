//! Partial evaluation: what the subject and the session's facts say about a rule before any action.
//!
//! A condition is decided here only if every fact that its outcome depends on is known; `&&` and `||`
//! are decided by one side where that is enough, as they are at run time. Everything else, a failing
//! condition too, is left to the moment of the action.

use agentwall_action::{Action, Auth, Facts, Resource, Session, Subject, Verb};

use crate::{condition::Expression, rule::Rule};

/// What is known for a whole session.
#[derive(Debug, Clone)]
pub(crate) struct Known<'a> {
    pub subject: &'a Subject,
    pub auth: &'a Auth,
    pub session: &'a Session,
}

/// What is left of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Residue {
    /// It is about somebody else, or its condition does not hold in this session.
    Never,
    /// It has no condition, or one that holds throughout the session.
    Always,
    /// Its condition is to be asked at each action.
    Sometimes,
}

impl Known<'_> {
    pub(crate) fn residue(&self, rule: &Rule) -> Residue {
        if !rule.matches_subject(self.subject) {
            return Residue::Never;
        }
        let when = rule.when.as_ref().map_or(Some(true), |e| self.fold(e));
        let unless = rule.unless.as_ref().map_or(Some(false), |e| self.fold(e));
        match (when, unless) {
            (Some(false), _) | (_, Some(true)) => Residue::Never,
            (Some(true), Some(false)) => Residue::Always,
            _ => Residue::Sometimes,
        }
    }

    fn fold(&self, expression: &Expression) -> Option<bool> {
        let facts = Facts {
            auth: self.auth.clone(),
            session: self.session.clone(),
            ..Facts::default()
        };
        // Its verb and resource are not read: what depends on them is left open.
        let mut action = Action::new(
            self.subject.clone(),
            Verb::FileRead,
            Resource::Named(String::new()),
        );
        action.facts = facts;
        expression.known(&action, KNOWN)
    }
}

/// The facts of a session.
const KNOWN: &[&str] = &["subject", "auth", "session"];
