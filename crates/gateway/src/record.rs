//! What a gateway tells whoever keeps the record. The gateway knows no ledger: the binary has one.

use std::fmt;

use agentwall_action::{Action, Decision};
use agentwall_engine::risk::Score;
use agentwall_identity::Event;

use crate::approvals::Question;

/// A call that was judged.
#[derive(Debug)]
pub struct Judged<'a> {
    /// Unguessable, for the call's end and for who looks for it: the header `AgentWall-Call` has it.
    pub call: &'a str,
    /// The agent's id.
    pub agent: &'a str,
    /// Its host's id.
    pub host: &'a str,
    /// The enforcement point that asked about it; absent for a call of its own.
    pub by: Option<&'a str>,
    /// Who does what was decided: `gateway`, `authzen` or `ext_authz`.
    pub enforced_by: &'a str,
    /// The `jti` of its token.
    pub jti: &'a str,
    /// Method and URL.
    pub target: &'a str,
    /// SHA-256 of the canonical call (RFC 8785), lower-case hex.
    pub payload: &'a str,
    /// What the policy was asked.
    pub action: &'a Action,
    /// What is done.
    pub decision: &'a Decision,
    /// The risk, and what it is made of.
    pub risk: &'a Score,
    /// What was charged, in micro-units, by budget.
    pub charged: &'a [(String, u64)],
    /// The counters did not answer, and the answer was found without them.
    pub degraded: Option<&'a str>,
    /// The question that a person answered, or is to answer.
    pub question: Option<&'a Question>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Which.
    pub call: &'a str,
    /// The API's status; absent without an answer, and where there is no HTTP.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// Until the answer's head, in microseconds.
    pub took_us: u64,
}

/// A person's answer to a question, or its end without one.
#[derive(Debug)]
pub struct Answered<'a> {
    /// The question.
    pub question: &'a Question,
    /// `approve` or `reject`.
    pub verdict: &'a str,
    /// By whom.
    pub by: &'a str,
    /// `once`, `session`, or the pattern.
    pub scope: &'a str,
}

/// The record cannot be kept. Whatever it is of does not happen.
#[derive(Debug, thiserror::Error)]
#[error("the record cannot be kept: {0}")]
pub struct RecordError(pub String);

/// Who keeps the record.
pub trait Recorder: fmt::Debug + Send + Sync {
    /// Before the call is passed on, or refused.
    ///
    /// # Errors
    /// It is not kept; the call is refused.
    fn judged(&self, judged: &Judged<'_>) -> Result<(), RecordError>;

    /// After the call.
    fn ended(&self, ended: &Ended<'_>);

    /// Durable before the answer holds.
    ///
    /// # Errors
    /// It is not; the question waits on.
    fn answered(&self, answered: &Answered<'_>) -> Result<(), RecordError>;

    /// Something became of a host or an agent.
    ///
    /// # Errors
    /// It is not kept.
    fn principal(&self, event: &Event) -> Result<(), RecordError>;
}
