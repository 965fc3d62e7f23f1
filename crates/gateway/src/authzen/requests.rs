//! Asking a person about what was denied (AuthZEN Access Request and Approval Profile 1.0, draft).
//!
//! A denial that a person could lift has an `evaluation_id` and an end. With both, who got it can ask: a question is put, bound to
//! subject, action, resource, context, policy and to who asks. When a person has said yes, the same evaluation with the
//! approval's id is decided anew, and permitted once. Denials are kept in memory as a digest; a restart ends them, as it does
//! questions.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use http::{HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Members, Pdp, REQUESTS, evaluation::Evaluation};
use crate::{
    answer::Refusal,
    approvals::{Millis, PATIENCE, Question, State},
    gateway::{now, random},
    judge::Asks,
    protocol::{Answer, json_answer, moment},
};

/// Most denials that can be asked about, of one enforcement point. Further ones can not.
const MAX_DENIALS: usize = 1024;

/// Most idempotency keys, of one enforcement point.
const MAX_KEYS: usize = 1024;

/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 256;

/// How long a denial that is over is known to be, and an idempotency key, in milliseconds.
const REMEMBERED: Millis = 600_000;

/// How long who polls waits, in seconds.
const AGAIN: u64 = 5;

/// Before the profile's errors.
const ERROR: &str = "urn:openid:authzen:access-request:error:";

/// Denials that can be asked about, and what was asked.
#[derive(Debug, Default)]
pub(super) struct Requests {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    denials: HashMap<String, Denial>,
    /// By enforcement point and key.
    keys: HashMap<(String, String), Keyed>,
}

#[derive(Debug)]
struct Denial {
    by: String,
    digest: [u8; 32],
    /// Members of the context that the denial depends on.
    context: Vec<String>,
    expires: Millis,
}

#[derive(Debug, Clone)]
struct Keyed {
    body: [u8; 32],
    ticket: String,
    until: Millis,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Inner {
    fn tidy(&mut self, now: Millis) {
        self.denials
            .retain(|_, denial| now < denial.expires + REMEMBERED);
        self.keys.retain(|_, keyed| now < keyed.until);
    }
}

impl Pdp {
    /// What a denial says about asking a person; nothing where no more denials can be remembered.
    pub(super) fn offer(&self, by: &str, id: &str, evaluation: &Evaluation) -> Option<Value> {
        let now = now();
        let mut inner = self.requests.lock();
        inner.tidy(now);
        if inner
            .denials
            .values()
            .filter(|denial| denial.by == by)
            .count()
            >= MAX_DENIALS
        {
            return None;
        }
        let expires = whole_seconds(now + PATIENCE);
        let denial = Denial {
            by: by.to_owned(),
            digest: evaluation.digest(),
            context: evaluation.context.keys().cloned().collect(),
            expires,
        };
        inner.denials.insert(id.to_owned(), denial);
        Some(json!({ "endpoint": format!("{}{REQUESTS}", self.public), "expires_at": at(expires) }))
    }

    /// `POST /access/v1/requests`.
    pub(super) fn submit(&self, by: &str, parts: &Parts, members: &Members) -> Answer {
        let key = idempotency_key(parts)?;
        let body = serde_json_canonicalizer::to_string(members).unwrap_or_default();
        let body: [u8; 32] = Sha256::digest(body).into();
        if let Some(key) = &key
            && let Some(known) = self.keyed(by, key)
        {
            if known.body != body {
                return Err(problem(
                    "duplicate_request",
                    "the Idempotency-Key came with another request",
                ));
            }
            return self.told(by, &known.ticket, StatusCode::ACCEPTED);
        }
        let mut evaluation =
            Evaluation::read(members).map_err(|e| Refusal::invalid(e.to_string()))?;
        self.bind(by, &mut evaluation, members)?;
        let asked = evaluation
            .asked()
            .map_err(|e| Refusal::invalid(e.to_string()))?;
        let caller = self.caller(by, &evaluation, &asked)?;
        let call = self.call(&evaluation, asked, Asks::Put);
        let question = self
            .gateway
            .judge
            .request(&caller, &call, random(), random, now());
        let question = question.map_err(|refusal| match refusal.code {
            "not_requestable" | "unauthorized" => problem("not_requestable", &refusal.message),
            _ => refusal,
        })?;
        if let Some(key) = key {
            self.remember(by, key, body, &question);
        }
        self.told(by, &question.ticket, StatusCode::ACCEPTED)
    }

    /// `GET /access/v1/requests/TASK`.
    pub(super) fn task(&self, by: &str, task: &str) -> Answer {
        self.told(by, task, StatusCode::OK)
    }

    /// Whether the request is about what was denied, to the same enforcement point, not long ago. What the context has more than
    /// that (a justification) is taken out.
    fn bind(
        &self,
        by: &str,
        evaluation: &mut Evaluation,
        members: &Members,
    ) -> Result<(), Box<Refusal>> {
        let unbound = |text| problem("invalid_denial_binding", text);
        let denial = |name: &str| {
            members
                .get("denial")
                .and_then(|d| d.get(name))
                .and_then(Value::as_str)
        };
        let id = denial("evaluation_id")
            .ok_or_else(|| unbound("'denial.evaluation_id' is missing, or is no text"))?;
        let inner = self.requests.lock();
        let known = inner.denials.get(id).filter(|known| known.by == by);
        let known = known.ok_or_else(|| unbound("no denial of this id can be asked about"))?;
        if known.expires <= now() {
            return Err(problem(
                "expired_denial",
                "the denial is over; ask for a decision again",
            ));
        }
        if denial("expires_at") != Some(at(known.expires).as_str()) {
            return Err(unbound(
                "'denial.expires_at' is not the end that the denial had",
            ));
        }
        evaluation
            .context
            .retain(|name, _| known.context.contains(name));
        match evaluation.digest() == known.digest {
            true => Ok(()),
            false => Err(unbound(
                "subject, action, resource or context are not those of the denial",
            )),
        }
    }

    fn keyed(&self, by: &str, key: &str) -> Option<Keyed> {
        let mut inner = self.requests.lock();
        inner.tidy(now());
        inner.keys.get(&(by.to_owned(), key.to_owned())).cloned()
    }

    /// Without room the key is not remembered: the same request leads to the same question while that waits.
    fn remember(&self, by: &str, key: String, body: [u8; 32], question: &Question) {
        let mut inner = self.requests.lock();
        if inner.keys.keys().filter(|(of, _)| of == by).count() < MAX_KEYS {
            let until = question.expires + REMEMBERED;
            let ticket = question.ticket.clone();
            inner.keys.insert(
                (by.to_owned(), key),
                Keyed {
                    body,
                    ticket,
                    until,
                },
            );
        }
    }

    /// How a question stands, for who put it.
    fn told(&self, by: &str, ticket: &str, status: StatusCode) -> Answer {
        let question = self.gateway.judge.approvals().of_ticket(ticket, now());
        let question = question.filter(|q| q.payload.by.as_deref() == Some(by));
        let question = question.ok_or_else(|| problem("unknown_task", "there is no such task"))?;
        let until = at(question.expires);
        let (word, approved) = match &question.state {
            State::Waiting => ("pending", false),
            State::Approved { .. } | State::Used => ("approved", true),
            State::Rejected { .. } => ("denied", false),
            State::Ended { why } if *why == crate::approvals::LATE => ("expired", false),
            // It was approved, and stays so; that it is of no use any more its end says.
            State::Ended { why } if *why == crate::approvals::UNUSED => ("approved", true),
            State::Ended { .. } => ("cancelled", false),
        };
        let url = format!("{}{REQUESTS}/{ticket}", self.public);
        let mut told = json!({ "task": { "id": ticket, "status": word, "status_endpoint": url, "expires_at": until } });
        if approved {
            told["result"] = json!({ "mode": "reevaluate", "approval": { "id": ticket, "approved_until": until } });
        }
        let mut response = json_answer(status, &told)?;
        let headers = response.headers_mut();
        if let Ok(url) = HeaderValue::from_str(&url) {
            headers.insert(header::LOCATION, url);
        }
        if word == "pending" {
            headers.insert(header::RETRY_AFTER, AGAIN.into());
        }
        Ok(response)
    }
}

fn idempotency_key(parts: &Parts) -> Result<Option<String>, Box<Refusal>> {
    let mut all = parts.headers.get_all("idempotency-key").iter();
    let Some(one) = all.next() else {
        return Ok(None);
    };
    let text = one
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY).contains(&key.len()));
    match (text, all.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Box::new(Refusal::invalid(
            "there is one Idempotency-Key, of 1 to 256 characters",
        ))),
    }
}

/// A moment that is written and read back the same.
fn whole_seconds(at: Millis) -> Millis {
    at / 1000 * 1000
}

fn at(time: Millis) -> String {
    moment((time / 1000).cast_signed())
}

/// An error of the profile.
fn problem(name: &'static str, text: &str) -> Box<Refusal> {
    let status = match name {
        "expired_denial" => StatusCode::GONE,
        "duplicate_request" => StatusCode::CONFLICT,
        "unknown_task" => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut refusal = Refusal::new(status, name, "access-request", text);
    refusal
        .extra
        .insert("type".into(), json!(format!("{ERROR}{name}")));
    Box::new(refusal)
}
