//! What a gateway in front of an API writes: that it stands, what became of hosts and agents, and each call. And what
//! people and programs did by way of the console.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    clip::{self, Clip},
    records::{DecisionRecord, FormatOf},
};

/// A gateway began or ended to serve.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayState {
    /// `started`, `policy` or `ended`.
    pub outcome: String,
    /// Its name.
    pub name: String,
    /// The URL that agents know it under.
    pub public: String,
    /// The API that it stands before.
    pub upstream: String,
    /// Digest of the policy in force.
    pub policy: String,
    /// The program's version.
    pub version: String,
}

/// Something became of a host or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PrincipalEvent {
    /// What, for example `host.revoked`, `capability.granted`, `token.added`.
    pub event: String,
    /// Its number among the events of these hosts and agents.
    pub number: u64,
    /// The host's id; the id of an API token.
    pub host: String,
    /// The agent's id; the name of an API token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Who did it.
    pub by: String,
}

/// A call was judged. It is passed on only after this.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CallRecord {
    /// The decision.
    #[serde(flatten)]
    pub decision: DecisionRecord,
    /// The call's id, for its end.
    pub call: String,
    /// The agent's id.
    pub agent: String,
    /// Its host's id.
    pub host: String,
    /// The identifier of its token.
    pub jti: String,
    /// Method and URL.
    pub target: String,
    /// SHA-256 of the canonical call (RFC 8785): agent, capability, method, URL, arguments, body and policy; lower-case hex.
    pub payload: String,
    /// 0 to 100.
    pub risk: u64,
    /// What the risk is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub risks: Vec<String>,
    /// What was charged, in micro-units, by the key of the budget.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub charged: BTreeMap<String, u64>,
    /// The counters did not answer, and this is why the answer was found without them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// The question that a person answered, or is to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
}

/// A call ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CallEnd {
    /// Which.
    pub call: String,
    /// The API's status (RFC 9110, section 15); absent without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u64>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Until the head of the answer, in microseconds.
    pub took_us: u64,
}

/// Somebody is about to do something by way of the console. That it was done stands in the record of what it was done
/// to, for example [`Approval`](super::Approval).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleAct {
    /// `enrol`, `login`, `approve`, `reject`, `revoke`, `invite`, `remove`, `token.create` or `token.revoke`.
    pub act: String,
    /// To what: a question, an agent or host, an account, a token.
    pub object: String,
    /// `account:NAME`, `token:NAME` or, at the terminal of the host, `uid:N`.
    pub by: String,
    /// How that was proved: `passkey` (a fresh assertion), `session`, `token`, `invitation`, `terminal`.
    pub proof: String,
    /// Digest of what exactly was answered, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
}

impl FormatOf for GatewayState {}
impl FormatOf for PrincipalEvent {}
impl FormatOf for CallRecord {}
impl FormatOf for CallEnd {}
impl FormatOf for ConsoleAct {}

impl Clip for ConsoleAct {
    fn clip(&mut self, limit: usize) {
        for text in [
            &mut self.act,
            &mut self.object,
            &mut self.by,
            &mut self.proof,
        ] {
            clip::text(text, limit);
        }
        clip::option(&mut self.binding, limit);
    }
}

impl Clip for GatewayState {
    fn clip(&mut self, limit: usize) {
        for text in [
            &mut self.outcome,
            &mut self.name,
            &mut self.public,
            &mut self.upstream,
            &mut self.policy,
            &mut self.version,
        ] {
            clip::text(text, limit);
        }
    }
}

impl Clip for PrincipalEvent {
    fn clip(&mut self, limit: usize) {
        for text in [&mut self.event, &mut self.host, &mut self.by] {
            clip::text(text, limit);
        }
        clip::option(&mut self.agent, limit);
        clip::option(&mut self.capability, limit);
    }
}

impl Clip for CallRecord {
    fn clip(&mut self, limit: usize) {
        self.decision.clip(limit);
        for text in [
            &mut self.call,
            &mut self.agent,
            &mut self.host,
            &mut self.jti,
            &mut self.target,
            &mut self.payload,
        ] {
            clip::text(text, limit);
        }
        clip::marked_list(&mut self.risks, limit);
        clip::counts(&mut self.charged, limit);
        clip::option(&mut self.degraded, limit);
        clip::option(&mut self.ask, limit);
    }
}

impl Clip for CallEnd {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.call, limit);
        clip::option(&mut self.error, limit);
    }
}
