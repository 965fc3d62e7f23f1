//! Grants: a person's standing answer to a kind of question.

use std::fmt;

use agentwall_action::{Action, Decision, Resource, Verb, VerbFamily};
use agentwall_policy::{Layer, Policy, Source, Variables, load};
use serde::{Deserialize, Serialize};

/// How far an approval reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// This one action, used up by it.
    Once,
    /// The same verb on the same object until the session ends.
    Session,
    /// The same verb on objects that match a resource pattern, until the session ends.
    Pattern(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Once => f.write_str("once"),
            Scope::Session => f.write_str("this session"),
            Scope::Pattern(pattern) => write!(f, "pattern {pattern}"),
        }
    }
}

/// A person's answer that outlives one question.
#[derive(Debug, Clone)]
pub struct Grant {
    verb: Verb,
    matcher: Matcher,
    digest: String,
    /// How far it reaches.
    pub scope: Scope,
}

#[derive(Debug, Clone)]
enum Matcher {
    /// The object and, for a program, its arguments.
    Exact(Box<Resource>, serde_json::Value),
    /// A one-rule policy: patterns mean here exactly what they mean in a policy.
    Pattern(Box<Policy>),
}

/// A pattern that cannot be granted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// `--for once` leaves nothing behind.
    #[error("an approval for once is no grant")]
    Once,
    /// The pattern does not parse for this verb.
    #[error("the pattern '{pattern}' is not a resource pattern for {verb}: {message}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What was asked.
        verb: Verb,
        /// The policy loader's words.
        message: String,
    },
    /// The pattern does not cover the question it is meant to answer.
    #[error("the pattern '{pattern}' does not match {resource}, which is what was asked")]
    Misses {
        /// As given.
        pattern: String,
        /// What was asked.
        resource: String,
    },
    /// The pattern reaches objects that are never granted by pattern.
    #[error(
        "the pattern '{pattern}' is too wide: it covers {example}, which is never granted by a \
         pattern; name a narrower one"
    )]
    TooWide {
        /// As given.
        pattern: String,
        /// One such object.
        example: String,
    },
}

/// Objects no pattern may cover: keys, the metadata service, start-up files, hooks.
const NEVER_COVERED: &[&str] = &[
    "/home/user/.ssh/id_ed25519",
    "/root/.ssh/id_ed25519",
    "/home/user/.aws/credentials",
    "/home/user/.bashrc",
    "/root/.bashrc",
    "/etc/shadow",
    "/etc/passwd",
    "/etc/ld.so.preload",
    "tcp://169.254.169.254:80",
    "tcp://169.254.169.254:443",
];

impl Grant {
    /// A standing answer to the question `action`, which was decided `ask` under `decision`.
    pub fn new(action: &Action, decision: &Decision, scope: Scope) -> Result<Grant, GrantError> {
        let matcher = match &scope {
            Scope::Once => return Err(GrantError::Once),
            Scope::Session => {
                Matcher::Exact(Box::new(action.resource.clone()), action.facts.args.clone())
            }
            Scope::Pattern(pattern) => Matcher::Pattern(Box::new(pattern_policy(action, pattern)?)),
        };
        Ok(Grant {
            verb: action.verb,
            matcher,
            digest: decision.policy.clone(),
            scope,
        })
    }

    /// Whether this answer covers `action`, which was decided `ask` under `decision`.
    pub fn covers(&self, action: &Action, decision: &Decision) -> bool {
        self.verb == action.verb
            && self.digest == decision.policy
            && match &self.matcher {
                Matcher::Exact(resource, args) => {
                    **resource == action.resource && *args == action.facts.args
                }
                Matcher::Pattern(policy) => policy.decide(action).rule.is_some(),
            }
    }
}

fn pattern_policy(action: &Action, pattern: &str) -> Result<Policy, GrantError> {
    let text = serde_json::json!({
        "agentwall": 1,
        "default": "deny",
        "rules": [{
            "id": "grant",
            "action": action.verb.as_str(),
            "resource": pattern,
            "effect": "allow",
        }],
    })
    .to_string();
    let session = &action.facts.session;
    let variables = Variables {
        workspace: Some(session.workspace.clone().into()),
        home: None,
        tmp: None,
        state: None,
    };
    let source = Source {
        name: "pattern".into(),
        text: text.into(),
        layer: Layer::User,
    };
    let policy = load(&[source], &variables).map_err(|e| GrantError::Pattern {
        pattern: pattern.to_owned(),
        verb: action.verb,
        message: e.to_string(),
    })?;
    if policy.decide(action).rule.is_none() {
        return Err(GrantError::Misses {
            pattern: pattern.to_owned(),
            resource: action.resource.to_string(),
        });
    }
    let family = match action.verb.family() {
        VerbFamily::Process | VerbFamily::Device => VerbFamily::File,
        family => family,
    };
    for text in NEVER_COVERED {
        let Ok(resource) = Resource::parse(family, text) else {
            continue;
        };
        let probe = Action {
            resource,
            ..action.clone()
        };
        if policy.decide(&probe).rule.is_some() {
            return Err(GrantError::TooWide {
                pattern: pattern.to_owned(),
                example: (*text).to_owned(),
            });
        }
    }
    Ok(policy)
}
