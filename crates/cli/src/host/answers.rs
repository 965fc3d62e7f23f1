//! A person's answers to the questions of the kernel wall.
//!
//! The answer is durable in the ledger before the kernel is told. It is a yes to the question as the policy in
//! force puts it: where that decides by itself by now, the answer changes nothing.

use std::time::Instant;

use agentwall_action::Effect;
use agentwall_engine::Scope;
use agentwall_ledger::{Record, entry::Approval};
use agentwall_wall::wire::Event as Told;
use anyhow::Result;

use super::{
    boot_ns,
    daemon::{Daemon, Inner},
    questions::{ONCE, Question},
    trail,
};
use crate::{
    control::{PendingAsk, Response},
    supervisor::{binding, changed, lock, refusal, unknown},
};

impl Daemon {
    /// The questions that wait.
    pub(super) fn pending(&self) -> Vec<PendingAsk> {
        let inner = lock(&self.inner);
        inner.questions.pending(Instant::now(), |number| {
            let session = inner.sessions.get(&number);
            let view = session.and_then(|s| inner.views.get(&s.note.view));
            (
                session.map_or_else(|| format!("{number}"), |s| s.note.id.clone()),
                view.map_or_else(|| "unknown".to_owned(), |v| v.name.clone()),
            )
        })
    }

    /// A person says yes.
    pub(super) fn approve(
        &self,
        id: &str,
        scope: Scope,
        digest: Option<&str>,
        by: u32,
    ) -> Response {
        let mut inner = lock(&self.inner);
        let Some((id, mut question)) = inner.questions.take(id) else {
            return unknown(id);
        };
        if let Scope::Pattern(_) = scope {
            inner.questions.put_back(&id, question);
            return error(
                "the kernel wall permits one object at a time: approve for once or for the session, or \
                 change the policy and 'agentwall daemon reload' it",
            );
        }
        if let Some(text) = put_again(&inner, &mut question) {
            inner.let_on(|grant| *grant == question.grant);
            let said = self.record(&mut inner, &id, &question, "policy", &Scope::Once, by);
            return error(&said.err().map_or(text, |e| format!("{e:#}")));
        }
        if digest.is_some_and(|shown| shown != question.digest) {
            inner.questions.put_back(&id, question);
            return changed(&id);
        }
        let (until, uses) = match scope {
            Scope::Once => (boot_ns() + ONCE.as_nanos() as u64, 1),
            _ => (0, 0),
        };
        let object = question.told.action.resource.to_string();
        let granted = self
            .record(&mut inner, &id, &question, "approve", &scope, by)
            .and_then(|()| Ok(self.kernel.grant(&question.grant, until, uses)?))
            .and_then(|()| {
                inner.grants.retain(|g| *g != question.grant);
                inner.grants.push(question.grant);
                self.save(&inner)
            });
        let held = inner.let_on(|grant| *grant == question.grant);
        match granted {
            Ok(()) => Response::Done {
                text: match held {
                    0 => format!("approved for {scope}: {object}; the next try goes through"),
                    _ => format!("approved for {scope}: {object}; it goes on"),
                },
            },
            Err(e) => error(&format!("{e:#}; nothing was permitted")),
        }
    }

    /// A person says no. The agent reads that.
    pub(super) fn reject(&self, id: &str, reason: Option<String>, by: u32) -> Response {
        let mut inner = lock(&self.inner);
        let Some((id, question)) = inner.questions.take(id) else {
            return unknown(id);
        };
        if let Err(e) = self.record(&mut inner, &id, &question, "reject", &Scope::Once, by) {
            inner.questions.put_back(&id, question);
            return error(&format!("{e:#}"));
        }
        inner.turn_away(&question.grant);
        let why = reason.as_deref().unwrap_or("a person said no");
        let told = Told {
            decision: refusal(&question.told.decision, why),
            ..question.told
        };
        // It stands in the ledger all the same.
        let _ = trail::note(&self.places, question.grant.session, &told);
        Response::Done {
            text: format!("rejected: {}", told.action.resource),
        }
    }

    /// Ends questions without an answer.
    pub(super) fn expire(&self, inner: &mut Inner, which: impl Fn(&Question) -> bool) {
        for (id, question) in inner.questions.take_those(which) {
            inner.let_on(|grant| *grant == question.grant);
            let said = self.record(inner, &id, &question, "timeout", &Scope::Once, 0);
            if let Err(e) = said {
                inner.trouble.insert(format!("{e:#}"));
            }
        }
    }

    fn record(
        &self,
        inner: &mut Inner,
        id: &str,
        question: &Question,
        verdict: &str,
        scope: &Scope,
        by: u32,
    ) -> Result<()> {
        let approval = Approval {
            ask: id.to_owned(),
            verdict: verdict.to_owned(),
            scope: match scope {
                Scope::Session => "session".to_owned(),
                _ => "once".to_owned(),
            },
            pattern: None,
            by: format!("uid:{by}"),
            binding: question.digest.clone(),
        };
        self.seal(
            inner,
            Some(question.grant.session),
            Record::Approval(approval),
        )
    }
}

/// Decides again if another policy has come into force since. If it asks as well, the question is its own now;
/// else this is what it says.
fn put_again(inner: &Inner, question: &mut Question) -> Option<String> {
    if !inner.sessions.contains_key(&question.grant.session) {
        return Some("the session has ended".to_owned());
    }
    let ready = &inner.views.get(&question.view)?.ready;
    if ready.digest() == question.told.decision.policy {
        return None;
    }
    let decision = ready.compiled.decide(&question.told.action);
    let object = &question.told.action.resource;
    match decision.effect {
        Effect::Ask => {
            question.told.decision = decision;
            question.digest = binding(&question.told);
            None
        }
        Effect::Allow => Some(format!(
            "the policy that is in force by now allows it: {object}"
        )),
        _ => Some(format!(
            "the policy that is in force by now denies it: {object}; approving cannot change that"
        )),
    }
}

fn error(text: &str) -> Response {
    Response::Error { text: text.into() }
}
