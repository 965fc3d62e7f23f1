//! Decisions: what the engine answers, and what an enforcement point renders.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What happens to an action, ordered from the most permissive to the strictest:
/// `allow < isolate < ask < rate_limit < deny`. Inside one priority the greatest effect wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It happens.
    Allow,
    /// It happens to a copy; the original stays untouched until a commit.
    Isolate,
    /// It waits for a person.
    Ask,
    /// It does not happen now; a budget is used up.
    RateLimit,
    /// It does not happen.
    Deny,
}

impl Effect {
    /// The textual form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Isolate => "isolate",
            Effect::Ask => "ask",
            Effect::RateLimit => "rate_limit",
            Effect::Deny => "deny",
        }
    }

    /// Whether the agent may go on at once (on the original or on the copy).
    pub const fn proceeds(self) -> bool {
        matches!(self, Effect::Allow | Effect::Isolate)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Effect {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Ok(match s {
            "allow" => Effect::Allow,
            "isolate" => Effect::Isolate,
            "ask" => Effect::Ask,
            "rate_limit" => Effect::RateLimit,
            "deny" => Effect::Deny,
            _ => return Err(format!("unknown effect '{s}'")),
        })
    }
}

/// What the agent may do instead; written by the rule's author or computed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// A short machine-readable next step, for example `authenticate`, `use-path`, `ask-user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What to do it with: a command, a path, a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// A sentence for the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Hint {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.next.is_none() && self.with.is_none() && self.text.is_none()
    }
}

/// The answer to one action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What happens.
    pub effect: Effect,
    /// The id of the rule that decided; `None` when the policy's default did.
    pub rule: Option<String>,
    /// The rule's reason, or a sentence about the default.
    pub reason: String,
    /// What the agent may do instead.
    #[serde(default, skip_serializing_if = "Hint::is_empty")]
    pub hint: Hint,
    /// Ids of `monitor` rules that matched: they never decide, they mark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<String>,
    /// Conditions that failed to evaluate, as `rule-id: message`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// SHA-256 of the effective policy, lower-case hex.
    pub policy: String,
}

impl Decision {
    /// Whether there is nothing to tell beyond the effect: no monitor marked the action, and no
    /// condition failed.
    pub fn is_silent(&self) -> bool {
        self.monitors.is_empty() && self.errors.is_empty()
    }
}
