//! The ledger of a gateway.

use std::sync::{Arc, Mutex};

use agentwall_gateway::record::{Answered, Ended, Judged, RecordError, Recorder};
use agentwall_identity::{ApiToken, Event};
use agentwall_ledger::{
    Log, Record,
    entry::{Approval, CallEnd, CallRecord, DecisionRecord, GatewayState, PrincipalEvent},
};
use agentwall_policy::LedgerFailure;

use crate::supervisor::Diary;

/// Writes what a gateway tells.
#[derive(Debug)]
pub struct Book {
    diary: Diary,
    name: String,
    /// What the policy says about a ledger that cannot be written.
    on_failure: Mutex<LedgerFailure>,
}

impl Book {
    /// The entries of one run.
    pub fn new(log: Arc<Log>, session: &str, name: &str, on_failure: LedgerFailure) -> Book {
        Book {
            diary: Diary::new(log, session, 0),
            name: name.to_owned(),
            on_failure: Mutex::new(on_failure),
        }
    }

    /// Another policy is in force.
    pub fn on_failure(&self, on_failure: LedgerFailure) {
        *self.on_failure.lock().unwrap_or_else(|e| e.into_inner()) = on_failure;
    }

    /// Records that it began or ended, durably.
    pub fn state(&self, state: GatewayState) -> Result<(), RecordError> {
        self.seal(Record::Gateway(state))
    }

    /// Records, durably, what became of an API token.
    pub fn token(&self, event: &str, token: &ApiToken, by: &str) -> Result<(), RecordError> {
        self.seal(Record::Principal(PrincipalEvent {
            event: event.to_owned(),
            host: token.id.clone(),
            agent: Some(token.name.clone()),
            by: by.to_owned(),
            ..PrincipalEvent::default()
        }))
    }

    /// Records a durable fact.
    pub fn seal(&self, record: Record) -> Result<(), RecordError> {
        self.diary
            .seal(record)
            .map_err(|e| RecordError(e.to_string()))
    }

    fn note(&self, record: Record) -> Result<(), RecordError> {
        let said = || *self.on_failure.lock().unwrap_or_else(|e| e.into_inner());
        let (_, noted) = self.diary.note(record, said);
        noted.map(drop).map_err(|e| RecordError(e.to_string()))
    }
}

impl Recorder for Book {
    fn judged(&self, judged: &Judged<'_>) -> Result<(), RecordError> {
        let ask = judged
            .question
            .map(|q| format!("{}{}{}", self.name, super::MARK, q.number));
        self.note(Record::Call(CallRecord {
            decision: DecisionRecord::new(judged.action, judged.decision, judged.enforced_by),
            call: judged.call.to_owned(),
            agent: judged.agent.to_owned(),
            host: judged.by.unwrap_or(judged.host).to_owned(),
            jti: judged.jti.to_owned(),
            target: judged.target.to_owned(),
            payload: judged.payload.to_owned(),
            risk: judged.risk.total().into(),
            risks: judged.risk.lines(),
            charged: judged.charged.iter().cloned().collect(),
            degraded: judged.degraded.map(str::to_owned),
            ask,
        }))
    }

    fn ended(&self, ended: &Ended<'_>) {
        // What was done is done; that its end is not recorded shows in the numbers of the session's entries.
        let _ = self.note(Record::CallEnd(CallEnd {
            call: ended.call.to_owned(),
            status: ended.status.map(u64::from),
            error: ended.error.map(str::to_owned),
            took_us: ended.took_us,
        }));
    }

    fn answered(&self, answered: &Answered<'_>) -> Result<(), RecordError> {
        let pattern = !matches!(answered.scope, "once" | "this session");
        self.seal(Record::Approval(Approval {
            ask: format!("{}{}{}", self.name, super::MARK, answered.question.number),
            verdict: answered.verdict.to_owned(),
            scope: match answered.scope {
                "once" => "once".to_owned(),
                "this session" => "session".to_owned(),
                _ => "pattern".to_owned(),
            },
            pattern: pattern.then(|| answered.scope.to_owned()),
            by: answered.by.to_owned(),
            binding: answered.question.binding.clone(),
        }))
    }

    fn principal(&self, event: &Event) -> Result<(), RecordError> {
        // Its kinds have names in JSON.
        let kind = serde_json::to_value(event.kind).ok();
        self.seal(Record::Principal(PrincipalEvent {
            event: kind
                .and_then(|k| k.as_str().map(str::to_owned))
                .unwrap_or_default(),
            number: event.number,
            host: event.host.as_str().to_owned(),
            agent: event.agent.as_ref().map(|a| a.as_str().to_owned()),
            capability: event.capability.clone(),
            by: event.by.clone(),
        }))
    }
}
