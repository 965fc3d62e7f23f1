//! What the REST interface sends and takes. Times are milliseconds since the Unix epoch.

use agentwall_action::{Verb, escape_text};
use agentwall_engine::Scope;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

use crate::{
    changes::{Change, between},
    host::{LedgerEntry, PendingAsk, is_of_kernel_wall},
    problem::Problem,
};

/// Longest reason of a rejection, in bytes.
const LONGEST_REASON: usize = 1000;
/// Longest pattern, in bytes.
const LONGEST_PATTERN: usize = 2000;

/// How far an answer reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// This one action.
    Once,
    /// The same on the same object, until the session or the gateway ends.
    Session,
    /// The same on what a pattern matches.
    Pattern,
}

/// A question.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Question {
    /// Its id, as `agentwall pending` shows it.
    pub id: String,
    /// Which session, or which gateway.
    pub session: String,
    /// Which agent.
    pub agent: String,
    /// What would be done, such as `api.call`.
    pub verb: String,
    /// To what, escaped.
    pub object: String,
    /// With which arguments.
    #[schema(value_type = Value)]
    pub arguments: Value,
    /// The program, or the call: method and URL. Escaped.
    pub what: String,
    /// The program's process id on the host; absent at gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The rule that asks; absent when it is the default, or the risk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why it is asked.
    pub reason: String,
    /// 0 to 100.
    pub risk: u8,
    /// What the risk is made of.
    pub risks: Vec<String>,
    /// When it was asked.
    pub since_ms: u64,
    /// When nobody's answer becomes a no.
    pub expires_ms: u64,
    /// What an answer is bound to, lower-case hex. An approval repeats it.
    pub digest: String,
    /// The digest of the policy.
    pub policy: String,
    /// Which reaches an approval may have.
    pub scopes: Vec<Reach>,
}

/// A question with everything that an answer is bound to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct QuestionDetail {
    /// What the list has.
    #[serde(flatten)]
    pub question: Question,
    /// The bound text, as it is hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    /// SHA-256 of that text, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_sha256: Option<String>,
    /// The earlier attempt of the same agent, and what is another now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// An earlier attempt.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Before {
    /// That question's id.
    pub id: String,
    /// What differs.
    pub changes: Vec<Change>,
}

/// The questions that wait.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Questions {
    /// The oldest first.
    pub questions: Vec<Question>,
    /// Which gateway or session could not be asked, and why.
    pub trouble: Vec<String>,
}

impl Question {
    /// Of a question of the host.
    pub fn of(ask: &PendingAsk) -> Question {
        Question {
            id: ask.id.clone(),
            session: ask.session.clone(),
            agent: ask.name.clone(),
            verb: ask.action.verb.to_string(),
            object: ask.action.resource.to_string(),
            arguments: ask.action.facts.args.clone(),
            what: escape_text(&ask.exe),
            pid: (ask.pid != 0).then_some(ask.pid),
            rule: ask.decision.rule.clone(),
            reason: ask.decision.reason.clone(),
            risk: ask.action.facts.risk,
            risks: ask.risks.clone(),
            since_ms: ask.since_ms,
            expires_ms: ask.expires_ms,
            digest: ask.digest.clone(),
            policy: ask.decision.policy.clone(),
            scopes: scopes(ask),
        }
    }
}

impl QuestionDetail {
    /// Of a question of the host.
    pub fn of(ask: &PendingAsk) -> QuestionDetail {
        let canonical = ask.canonical.clone();
        let sha = canonical.as_ref().map(|text| {
            let digest = Sha256::digest(text);
            digest.iter().map(|b| format!("{b:02x}")).collect()
        });
        let before = ask.before.as_ref().map(|earlier| Before {
            id: earlier.id.clone(),
            changes: between(&earlier.canonical, canonical.as_deref().unwrap_or_default()),
        });
        QuestionDetail {
            question: Question::of(ask),
            canonical,
            canonical_sha256: sha,
            before,
        }
    }
}

fn scopes(ask: &PendingAsk) -> Vec<Reach> {
    // Who asks to be let in is let in or not; the kernel wall permits one object at a time.
    if ask.action.verb == Verb::CredentialUse {
        return vec![Reach::Once];
    }
    match is_of_kernel_wall(&ask.id) {
        true => vec![Reach::Once, Reach::Session],
        false => vec![Reach::Once, Reach::Session, Reach::Pattern],
    }
}

/// A yes, or what it will be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// The digest of the question that was shown; another one by now is not approved.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub digest: String,
    /// How far it reaches.
    pub scope: Reach,
    /// The resource pattern, for that scope.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 2000)]
    pub pattern: Option<String>,
    /// In a session of a browser: the passkey's answer to the challenge of `assertion` (PublicKeyCredential of WebAuthn
    /// Level 3, as `toJSON()` writes it).
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub assertion: Option<Value>,
}

impl Approve {
    /// How far it reaches, in the engine's words.
    pub fn scope(&self) -> Result<Scope, Problem> {
        match (self.scope, &self.pattern) {
            (Reach::Once, None) => Ok(Scope::Once),
            (Reach::Session, None) => Ok(Scope::Session),
            (Reach::Pattern, Some(text)) if (1..=LONGEST_PATTERN).contains(&text.len()) => {
                Ok(Scope::Pattern(text.clone()))
            }
            (Reach::Pattern, _) => Err(Problem::invalid(format!(
                "the scope 'pattern' has a 'pattern' of 1 to {LONGEST_PATTERN} bytes"
            ))),
            _ => Err(Problem::invalid("'pattern' belongs to the scope 'pattern'")),
        }
    }
}

/// A no.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reject {
    /// Why, for the agent to read.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}

impl Reject {
    /// The reason, if there is one of a length that can be shown.
    pub fn reason(self) -> Result<Option<String>, Problem> {
        let reason = self.reason.filter(|text| !text.trim().is_empty());
        match reason {
            Some(text) if text.len() > LONGEST_REASON => Err(Problem::invalid(format!(
                "a reason has at most {LONGEST_REASON} bytes"
            ))),
            other => Ok(other),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Done {
    /// For a person.
    pub done: String,
}

/// A challenge for a passkey.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Challenge {
    /// PublicKeyCredentialRequestOptions of WebAuthn Level 3, as `parseRequestOptionsFromJSON()` reads it.
    #[serde(rename = "publicKey")]
    #[schema(value_type = Object)]
    pub public_key: Value,
}

/// A pattern to look at.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PatternQuery {
    /// A resource pattern (docs/policy.md).
    #[param(min_length = 1, max_length = 2000)]
    pub pattern: String,
}

/// What a pattern would let through.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PatternPreview {
    /// Whether it can be granted.
    pub valid: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Objects that this agent asked for lately and that it matches, escaped, each once.
    pub matches: Vec<String>,
    /// Objects that this agent asked for lately and that it does not match.
    pub others: Vec<String>,
}

/// The agents of the gateways that run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Agents {
    /// By gateway.
    pub agents: Vec<crate::host::GatewayAgent>,
}

/// The gateways that run.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Gateways {
    /// Their names.
    pub gateways: Vec<String>,
}

/// Which decisions.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DecisionsQuery {
    /// Those before this entry of the ledger: `next` of the page before.
    pub before: Option<u64>,
    /// At most so many, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// Decisions of the ledger, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Decisions {
    /// The entries.
    pub decisions: Vec<DecisionEntry>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// An entry of the ledger.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecisionEntry {
    /// Its number in the ledger.
    pub index: u64,
    /// The entry (docs/ledger.md).
    #[schema(value_type = Object)]
    pub entry: Value,
}

impl From<LedgerEntry> for DecisionEntry {
    fn from(entry: LedgerEntry) -> DecisionEntry {
        DecisionEntry {
            index: entry.index,
            entry: entry.entry,
        }
    }
}

/// How the console is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The program's version.
    pub version: String,
}
