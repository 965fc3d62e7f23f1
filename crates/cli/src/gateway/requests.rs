//! What other commands ask of a gateway, and its answers.

use std::sync::Arc;

use agentwall_action::{Action, Decision, Effect, Hint, Resource, Subject, Verb, escape_text};
use agentwall_control::host::Earlier;
use agentwall_engine::Scope;
use agentwall_gateway::{admin::Applicant, approvals::Question, gateway::Gateway, judge::Judge};
use agentwall_ledger::hash::sha256_hex;

use super::{MARK, tokens::Tokens};
use crate::{
    control::{GatewayAgent, GatewayRequest, PendingAsk, Request, Response},
    state::now_ms,
    supervisor::changed,
};

/// For how long an applicant is shown to wait; it does until somebody answers.
const APPLICANT_MS: u64 = 300_000;

/// Answers one request to a face without agents of its own: its questions alone.
pub fn respond_for(judge: &Judge, name: &str, uid: u32, request: Request) -> Response {
    let by = format!("uid:{uid}");
    match request {
        Request::Pending => {
            let asked = judge.approvals().waiting(now_ms());
            Response::Pending(asked.iter().map(|q| pending_call(judge, name, q)).collect())
        }
        Request::Approve { id, scope, digest } => number(&id).map_or_else(
            || unknown(&id),
            |n| approve_call(judge, n, &scope, digest.as_deref(), &by),
        ),
        Request::Reject { id, reason } => {
            let reason = reason.as_deref();
            number(&id).map_or_else(|| unknown(&id), |n| reject_call(judge, n, reason, &by))
        }
        _ => error("this has no answer to that"),
    }
}

/// Answers one request; `uid` is who asks.
pub fn respond(
    gateway: &Arc<Gateway>,
    tokens: &Tokens,
    uid: u32,
    request: Request,
    reload: &dyn Fn() -> Response,
) -> Response {
    let by = format!("uid:{uid}");
    match request {
        Request::Pending => {
            let name = &gateway.config.name;
            let asked = gateway.questions();
            let calls = asked.iter().map(|q| pending_call(&gateway.judge, name, q));
            let applicants = gateway.applicants();
            let others = applicants.iter().map(|a| pending_applicant(name, a));
            Response::Pending(calls.chain(others).collect())
        }
        Request::Approve { id, scope, digest } => {
            approve(gateway, &id, &scope, digest.as_deref(), uid)
        }
        Request::Reject { id, reason } => reject(gateway, &id, reason.as_deref(), &by),
        Request::Apply { policy: None } => reload(),
        Request::Gateway(GatewayRequest::Agents) => Response::GatewayAgents(
            gateway
                .agents()
                .iter()
                .map(|(h, a)| agent(gateway, h, a))
                .collect(),
        ),
        Request::Gateway(GatewayRequest::Revoke { id }) => match gateway.revoke(&id, &by) {
            Ok(agents) => done(format!(
                "revoked: {id}, {agents} {}",
                if agents == 1 { "agent" } else { "agents" }
            )),
            Err(e) => error(e),
        },
        Request::Gateway(GatewayRequest::Tokens) => Response::GatewayTokens(tokens.all.records()),
        Request::Gateway(GatewayRequest::AddToken { name, uses, days }) => {
            match tokens.add(&name, &uses, days, &by) {
                Ok((secret, about)) => Response::GatewayToken {
                    token: secret.expose().to_owned(),
                    about,
                },
                Err(e) => error(format!("{e:#}")),
            }
        }
        Request::Gateway(GatewayRequest::RemoveToken { which }) => {
            let removed = tokens.remove(&which, &by);
            // Questions that were put with it end, whether its end could be kept or not.
            gateway.end_the_ended();
            match removed {
                Ok(gone) => done(format!("removed: {} ({})", gone.name, gone.id)),
                Err(e) => error(format!("{e:#}")),
            }
        }
        _ => error("a gateway has no answer to that"),
    }
}

fn approve(gateway: &Gateway, id: &str, scope: &Scope, digest: Option<&str>, uid: u32) -> Response {
    let by = &format!("uid:{uid}");
    let is_shown = |bound: &str| digest.is_none_or(|shown| shown == bound);
    let Some(number) = number(id) else {
        let Some(applicant) = applicant(gateway, id) else {
            return unknown(id);
        };
        if *scope != Scope::Once {
            return error("an agent is let in, or not: --for and --pattern are for calls");
        }
        if !is_shown(&sha256_hex(bound_to(&applicant).as_bytes())) {
            return changed(id);
        }
        return match gateway.admit(&applicant, &format!("uid-{uid}"), by) {
            Ok(()) => done(format!(
                "approved: {} with {}",
                escape_text(&applicant.agent.agent.name),
                listed(&applicant.capabilities)
            )),
            Err(e) => error(e),
        };
    };
    approve_call(&gateway.judge, number, scope, digest, by)
}

/// `digest`: what the person was shown, if that is told.
fn approve_call(
    judge: &Judge,
    number: u64,
    scope: &Scope,
    digest: Option<&str>,
    by: &str,
) -> Response {
    // What a number is bound to never changes.
    let asked = judge.approvals().waiting(now_ms());
    let asked = asked.iter().find(|q| q.number == number);
    if asked.is_some_and(|q| digest.is_some_and(|shown| shown != q.binding)) {
        return changed(&number.to_string());
    }
    match judge.approve(number, scope, by, now_ms()) {
        Ok(question) => done(format!(
            "approved for {scope}: {} {}",
            question.payload.method,
            escape_text(&question.payload.url)
        )),
        Err(e) => error(e),
    }
}

fn reject(gateway: &Gateway, id: &str, reason: Option<&str>, by: &str) -> Response {
    let Some(number) = number(id) else {
        let Some(applicant) = applicant(gateway, id) else {
            return unknown(id);
        };
        return match gateway.turn_away(&applicant, reason, by) {
            Ok(()) => done(format!(
                "rejected: {}",
                escape_text(&applicant.agent.agent.name)
            )),
            Err(e) => error(e),
        };
    };
    reject_call(&gateway.judge, number, reason, by)
}

fn reject_call(judge: &Judge, number: u64, reason: Option<&str>, by: &str) -> Response {
    match judge.reject(number, by, reason, now_ms()) {
        Ok(question) => done(format!(
            "rejected: {} {}",
            question.payload.method,
            escape_text(&question.payload.url)
        )),
        Err(e) => error(e),
    }
}

fn number(id: &str) -> Option<u64> {
    id.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| id.parse().ok())?
}

fn applicant(gateway: &Gateway, code: &str) -> Option<Applicant> {
    gateway
        .applicants()
        .into_iter()
        .find(|a| a.code.eq_ignore_ascii_case(code))
}

fn pending_call(judge: &Judge, name: &str, question: &Question) -> PendingAsk {
    let (method, url) = (&question.payload.method, &question.payload.url);
    let mut exe = format!("{} {}", escape_text(method), escape_text(url));
    if let Some(by) = &question.payload.by {
        exe.push_str(&format!(" (asked by {})", escape_text(by)));
    }
    let before = judge.approvals().before(question);
    if let Some(before) = &before {
        exe.push_str(&other_arguments(before, question));
    }
    PendingAsk {
        id: format!("{name}{MARK}{}", question.number),
        session: name.to_owned(),
        name: question.payload.agent.clone(),
        action: question.action.clone(),
        decision: question.decision.clone(),
        exe,
        pid: 0,
        since_ms: question.since,
        expires_ms: question.expires,
        digest: question.binding.clone(),
        canonical: Some(question.payload.canonical()),
        risks: question.risks.clone(),
        before: before.map(|earlier| Earlier {
            id: format!("{name}{MARK}{}", earlier.number),
            canonical: earlier.payload.canonical(),
        }),
    }
}

/// What is another in this question than in the one before.
fn other_arguments(before: &Question, now: &Question) -> String {
    let (old, new) = (&before.payload.arguments, &now.payload.arguments);
    let names = old
        .keys()
        .chain(new.keys())
        .collect::<std::collections::BTreeSet<_>>();
    let other = names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name));
    let other: Vec<&str> = other.map(String::as_str).collect();
    match other.is_empty() {
        true => String::new(),
        false => format!(
            " (question {} had another {})",
            before.number,
            other.join(", ")
        ),
    }
}

fn pending_applicant(name: &str, applicant: &Applicant) -> PendingAsk {
    let agent = &applicant.agent.agent;
    let host = applicant
        .host
        .name
        .as_deref()
        .unwrap_or("a host without a name");
    let key = applicant.host.key.key.thumbprint();
    let reason = agent
        .grants
        .values()
        .find_map(|g| g.reason.as_deref())
        .unwrap_or("no reason given");
    let subject = Subject::agent(&format!("{}/{}", agent.host, agent.name));
    let action = Action::new(
        subject,
        Verb::CredentialUse,
        Resource::Named(listed(&applicant.capabilities)),
    );
    let text = format!(
        "the agent '{}' of '{host}' (key {key}) asks to be let in: {reason}",
        agent.name
    );
    PendingAsk {
        id: format!("{name}{MARK}{}", applicant.code),
        session: name.to_owned(),
        name: agent.name.clone(),
        decision: Decision {
            effect: Effect::Ask,
            rule: None,
            reason: text,
            hint: Hint::default(),
            monitors: Vec::new(),
            errors: Vec::new(),
            policy: String::new(),
        },
        action,
        exe: format!("registration of {}", agent.id),
        pid: 0,
        since_ms: agent.updated_at.unsigned_abs() * 1000,
        expires_ms: now_ms() + APPLICANT_MS,
        digest: sha256_hex(bound_to(applicant).as_bytes()),
        canonical: Some(bound_to(applicant)),
        risks: Vec::new(),
        before: None,
    }
}

/// What letting somebody in is bound to: the agent's id, the key of its host, what it asks for.
fn bound_to(applicant: &Applicant) -> String {
    let key = applicant.host.key.key.thumbprint();
    let capabilities = applicant.capabilities.join("\n");
    format!("{}\n{key}\n{capabilities}", applicant.agent.agent.id)
}

fn listed(capabilities: &[String]) -> String {
    match capabilities {
        [] => "no capability".to_owned(),
        all => all.join(", "),
    }
}

fn agent(
    gateway: &Gateway,
    host: &agentwall_identity::Host,
    view: &agentwall_identity::AgentView,
) -> GatewayAgent {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    GatewayAgent {
        gateway: gateway.config.name.clone(),
        host: host.id.as_str().to_owned(),
        host_name: host.name.clone(),
        host_status: word(serde_json::json!(host.status)),
        agent: view.agent.id.as_str().to_owned(),
        name: view.agent.name.clone(),
        status: word(serde_json::json!(view.standing)),
        capabilities: (view.agent.grants.iter())
            .map(|(name, grant)| (name.clone(), word(serde_json::json!(grant.status))))
            .collect(),
        used_at: view.used_at,
    }
}

fn done(text: String) -> Response {
    Response::Done { text }
}

fn error(text: impl ToString) -> Response {
    Response::Error {
        text: text.to_string(),
    }
}

fn unknown(id: &str) -> Response {
    error(format!(
        "nobody waits under '{}'; 'agentwall pending' lists who does",
        escape_text(id)
    ))
}
