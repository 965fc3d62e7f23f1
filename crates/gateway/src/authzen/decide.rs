//! Decisions: one, or several in a row.

use agentwall_action::Resource;
use agentwall_engine::risk::Sensitivity;
use agentwall_identity::{AgentId, AgentStatus, By, HostStatus};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Members, Pdp, REQUESTS,
    evaluation::{AGENT, Asked, CAPABILITY, Evaluation},
};
use crate::{
    answer::Refusal,
    approvals::{Bound, hex},
    gateway::{caller_of, now, now_s, random},
    judge::{Asks, Call, Caller, Verdict},
    protocol::{Answer, json_answer, moment},
};

/// Most evaluations of one request: each is judged and recorded.
const MAX_EVALUATIONS: usize = 100;

/// When several decisions are enough (section 7.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Semantic {
    All,
    FirstDeny,
    FirstPermit,
}

impl Pdp {
    /// `POST /access/v1/evaluation`.
    pub(super) async fn one(&self, by: &str, members: &Members) -> Answer {
        let evaluation = Evaluation::read(members).map_err(|e| Refusal::invalid(e.to_string()))?;
        let asked = evaluation
            .asked()
            .map_err(|e| Refusal::invalid(e.to_string()))?;
        let decision = self.decide(by, &evaluation, asked).await?;
        json_answer(StatusCode::OK, &decision)
    }

    /// `POST /access/v1/evaluations`.
    pub(super) async fn several(&self, by: &str, members: &Members) -> Answer {
        let items = match members.get("evaluations") {
            None => return self.one(by, members).await,
            Some(Value::Array(items)) if items.is_empty() => return self.one(by, members).await,
            Some(Value::Array(items)) => items,
            Some(_) => return Err(Box::new(Refusal::invalid("'evaluations' is not a list"))),
        };
        if items.len() > MAX_EVALUATIONS {
            let text = format!(
                "at most {MAX_EVALUATIONS} evaluations are decided at once, these are {}",
                items.len()
            );
            return Err(Box::new(Refusal::invalid(text)));
        }
        let semantic = semantic(members)?;
        for name in ["subject", "action", "resource", "context"] {
            if members.get(name).is_some_and(|v| !v.is_object()) {
                return Err(Box::new(Refusal::invalid(format!(
                    "'{name}' is not an object"
                ))));
            }
        }
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            let read = match item {
                Value::Object(own) => Evaluation::with_defaults(own, members)
                    .and_then(|evaluation| Ok((evaluation.asked()?, evaluation)))
                    .map_err(|e| e.to_string()),
                _ => Err("an evaluation is an object".to_owned()),
            };
            let decision = match read {
                Ok((asked, evaluation)) => match self.decide(by, &evaluation, asked).await {
                    Ok(decision) => decision,
                    Err(refusal) => failed(&refusal),
                },
                Err(e) => failed(&Refusal::invalid(e)),
            };
            let permitted = decision["decision"] == true;
            all.push(decision);
            match (semantic, permitted) {
                (Semantic::FirstDeny, false) | (Semantic::FirstPermit, true) => break,
                _ => {}
            }
        }
        json_answer(StatusCode::OK, &json!({ "evaluations": all }))
    }

    /// One decision, as it is answered.
    ///
    /// # Errors
    /// It cannot be judged now.
    async fn decide(
        &self,
        by: &str,
        evaluation: &Evaluation,
        asked: Asked,
    ) -> Result<Value, Box<Refusal>> {
        let id = random();
        let answered = self.judge(by, evaluation, asked, &id).await;
        let mut context = Map::from_iter([("evaluation_id".to_owned(), json!(id))]);
        let refusal = match answered {
            Ok(()) => {
                if let Some(until) = self.approved_until(evaluation) {
                    context.insert("approval".into(), until);
                }
                return Ok(json!({ "decision": true, "context": context }));
            }
            Err(refusal) if refusal.status.is_server_error() => return Err(refusal),
            Err(refusal) => refusal,
        };
        self.explain(&mut context, &refusal);
        let relied = evaluation.approval.is_some();
        let next = match refusal.code {
            "approval_required" | "approval_expired" | "out_of_scope" => {
                if let Some(offer) = self.offer(by, &id, evaluation) {
                    context.insert("access_request".into(), offer);
                }
                "request"
            }
            "rate_limited" => "retry",
            "unauthorized" if relied => {
                context.insert("reason".into(), json!("policy_denied"));
                "none"
            }
            _ => "none",
        };
        if relied {
            context.insert("next_action".into(), json!(next));
        }
        Ok(json!({ "decision": false, "context": context }))
    }

    async fn judge(
        &self,
        by: &str,
        evaluation: &Evaluation,
        asked: Asked,
        id: &str,
    ) -> Result<(), Box<Refusal>> {
        let caller = self.caller(by, evaluation, &asked)?;
        let call = self.call(evaluation, asked, Asks::Tell(evaluation.approval.clone()));
        let judged = self
            .gateway
            .judge
            .judge(&caller, &call, id.to_owned(), random, now());
        match judged.await {
            // What it lets go on is done elsewhere: it stays charged.
            Verdict::Go(_) => Ok(()),
            Verdict::Stop(refusal) => Err(refusal),
        }
    }

    /// Whom it is about. An agent of this gateway is who it is here, and has to be one still.
    pub(super) fn caller(
        &self,
        by: &str,
        evaluation: &Evaluation,
        asked: &Asked,
    ) -> Result<Caller, Box<Refusal>> {
        let subject = &evaluation.subject;
        let by = Some(by.to_owned());
        if subject.kind != AGENT {
            return Ok(Caller {
                agent: subject.to_string(),
                host: String::new(),
                name: subject.id.clone(),
                subject: evaluation.subject(),
                by,
                // Since when it is known, who asks knows.
                since: 0,
                jti: String::new(),
                once: Vec::new(),
            });
        }
        let refused = |code, text: String| {
            Box::new(Refusal::new(
                StatusCode::FORBIDDEN,
                code,
                "not-this-agent",
                text,
            ))
        };
        self.gateway.takes(None)?;
        let directory = &self.gateway.directory;
        let id: Option<AgentId> = subject.id.parse().ok();
        let view = id.and_then(|id| directory.status(By::Operator("pdp"), &id, now_s()).ok());
        let Some(view) = view else {
            return Err(refused(
                "agent_not_found",
                "no such agent is known here".into(),
            ));
        };
        let host = directory.host(&view.agent.host).map(|host| host.status);
        if view.standing != AgentStatus::Active || host != Some(HostStatus::Active) {
            let word = json!(view.standing);
            let word = word.as_str().unwrap_or_default();
            return Err(refused(
                "agent_not_active",
                format!("the agent or its host may not act: it is {word}"),
            ));
        }
        if evaluation.resource.kind == CAPABILITY {
            let grant = view.agent.grants.get(&evaluation.resource.id);
            let Some(grant) = grant.filter(|grant| grant.is_active(now_s())) else {
                return Err(refused(
                    "capability_not_granted",
                    "the agent was not granted this capability".into(),
                ));
            };
            let violations = grant
                .constraints
                .violations(&Value::Object(asked.arguments.clone()));
            if !violations.is_empty() {
                let mut refusal = refused(
                    "constraint_violated",
                    "the arguments are not within the grant".into(),
                );
                refusal.violations = violations.iter().map(|v| json!(v)).collect();
                return Err(refusal);
            }
        }
        Ok(Caller {
            by,
            ..caller_of(view.agent)
        })
    }

    /// The question as the judge sees it.
    pub(super) fn call(&self, evaluation: &Evaluation, asked: Asked, asks: Asks) -> Call {
        let known = (evaluation.resource.kind == CAPABILITY)
            .then(|| self.gateway.catalogue.get(&evaluation.resource.id));
        Call {
            verb: asked.verb,
            url: asked.resource.clone(),
            resource: Resource::Named(asked.resource),
            arguments: asked.arguments,
            capability: evaluation.action.clone(),
            sensitivity: known
                .flatten()
                .map_or(Sensitivity::Medium, |c| c.sensitivity),
            on_failure: self.gateway.config.on_failure,
            method: evaluation.action.clone(),
            headers: Bound::new(),
            body_sha256: hex(&evaluation.digest()),
            status_base: format!("{}{REQUESTS}/", self.public),
            asks,
            enforced_by: "authzen",
            withheld: None,
        }
    }

    /// Why it is refused, as far as that is told.
    fn explain(&self, context: &mut Members, refusal: &Refusal) {
        context.insert("reason".into(), json!(refusal.code));
        let mut body = refusal.body(self.gateway.config.disclosure);
        for name in ["message", "hint", "violations", "retry_after"] {
            if let Some(value) = body.get_mut(name) {
                context.insert(name.to_owned(), value.take());
            }
        }
    }

    /// The approval that the decision relied on, if it was one.
    fn approved_until(&self, evaluation: &Evaluation) -> Option<Value> {
        let id = evaluation.approval.as_deref()?;
        let question = self.gateway.judge.approvals().of_ticket(id, now())?;
        let used = question.state == crate::approvals::State::Used;
        used.then(|| json!({ "id": id, "approved_until": moment((question.expires / 1000).cast_signed()) }))
    }
}

/// One of several could not be decided.
fn failed(refusal: &Refusal) -> Value {
    let error = json!({ "status": refusal.status.as_u16(), "message": refusal.message });
    json!({ "decision": false, "context": { "reason": refusal.code, "error": error } })
}

fn semantic(members: &Members) -> Result<Semantic, Box<Refusal>> {
    let options = match members.get("options") {
        None => return Ok(Semantic::All),
        Some(Value::Object(options)) => options,
        Some(_) => return Err(Box::new(Refusal::invalid("'options' is not an object"))),
    };
    match options.get("evaluations_semantic").map(Value::as_str) {
        None | Some(Some("execute_all")) => Ok(Semantic::All),
        Some(Some("deny_on_first_deny")) => Ok(Semantic::FirstDeny),
        Some(Some("permit_on_first_permit")) => Ok(Semantic::FirstPermit),
        _ => Err(Box::new(Refusal::invalid(
            "'evaluations_semantic' is execute_all, deny_on_first_deny or permit_on_first_permit",
        ))),
    }
}
