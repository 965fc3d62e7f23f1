//! One call on its way through the judge.

use std::time::Duration;

use agentwall_action::{Action, Decision, Effect};
use agentwall_budget::{Answer, Ask, Left, Limits, Scope, Window};
use agentwall_engine::risk::Score;
use agentwall_policy::Charge;
use http::StatusCode;

use super::{Asks, Call, Caller, Judge, Permit, Verdict, in_time, jti, replayed, seconds};
use crate::{
    answer::{Headers, Next, Refusal},
    approvals::{AskError, Millis, Of, Payload, Question, Standing, State},
    record::{Judged, RecordError},
};

/// One call on its way through.
pub(super) struct Round<'a> {
    pub(super) judge: &'a Judge,
    pub(super) caller: &'a Caller,
    pub(super) call: &'a Call,
    pub(super) id: String,
    pub(super) action: Action,
    pub(super) decision: Decision,
    pub(super) score: Score,
    pub(super) charged: Vec<(String, u64)>,
    pub(super) degraded: Option<String>,
    pub(super) question: Option<Box<Question>>,
    /// The call as an answer is bound to it, and its digest.
    pub(super) payload: Payload,
    pub(super) digest: String,
    /// Its token was not used before, so it is the agent's own attempt and part of its history.
    pub(super) fresh: bool,
    pub(super) now: Millis,
}

impl Round<'_> {
    pub(super) async fn go(
        mut self,
        charges: Vec<Charge>,
        ticket: impl FnOnce() -> String,
    ) -> Verdict {
        // An approved call goes ahead, so it is charged; the approval is used up only when there is room for it.
        let asks = self.decision.effect == Effect::Ask;
        let answered = || self.judge.approvals.approved(&self.payload, self.now);
        let approved = asks
            && match &self.call.asks {
                Asks::Put => answered().is_some(),
                Asks::Tell(None) => false,
                Asks::Tell(named) => answered() == *named,
            };
        let proceeds = self.decision.effect.proceeds() || approved;
        let scopes: Vec<Scope<'_>> = match proceeds {
            true => charges.iter().map(scope).collect(),
            false => Vec::new(),
        };
        if let Err(refusal) = in_time(&self.caller.once, self.now) {
            return self.refuse(*refusal, Headers::new());
        }
        let (token, others) = match self.caller.once.split_first() {
            Some((token, others)) => (Some(token), others),
            None => (None, &[][..]),
        };
        if let Err(refusal) = self.judge.use_once(others, self.now).await {
            return self.refuse(*refusal, Headers::new());
        }
        let ask = Ask {
            jti: token.map(|token| jti(token, self.now)),
            scopes: &scopes,
            on_failure: self.call.on_failure,
        };
        let admission = match self.judge.counters.admit(&ask).await {
            Ok(admission) => admission,
            Err(e) => return self.refuse(Refusal::unavailable(&e.to_string()), Headers::new()),
        };
        self.degraded = admission.degraded.map(|d| d.why);
        if !matches!(admission.answer, Answer::Replayed) {
            self.fresh = true;
            let now = seconds(self.now);
            (self.judge).known(self.caller, self.now, |known| known.history.called(now));
        }
        let grant = match admission.answer {
            Answer::Granted(grant) => grant,
            Answer::Replayed => return self.refuse(replayed(), Headers::new()),
            Answer::Limited(limited) => {
                let budgets = budgets_of(&charges, &[]);
                let charge = charges.get(limited.scope);
                let refusal =
                    rate_limited(charge, limited.window, limited.retry_after, limited.left);
                self.decision.effect = Effect::RateLimit;
                self.decision.reason.clone_from(&refusal.message);
                return self.refuse(refusal, budgets);
            }
        };
        let budgets = budgets_of(&charges, &grant.left);
        if grant.reservation.is_some() {
            self.charged = charges.iter().map(|c| (c.key.clone(), c.cost)).collect();
        }
        let permit = Permit {
            id: self.id.clone(),
            reservation: grant.reservation,
            budgets: budgets.clone(),
        };
        if let (true, false, Asks::Tell(named)) = (asks, approved, &self.call.asks) {
            let named = named.clone();
            return self.tell(named.as_deref(), budgets);
        }
        if asks {
            let put = self.judge.approvals.put(
                self.payload.clone(),
                self.of(),
                ticket,
                approved,
                self.now,
            );
            match put {
                Ok(Standing::Approved(question)) => {
                    self.decision.effect = Effect::Allow;
                    self.decision.reason = format!("approved: {}", self.decision.reason);
                    self.question = Some(question);
                }
                other => {
                    self.judge.release(&permit).await;
                    self.charged.clear();
                    return Verdict::Stop(self.stood(other, budgets));
                }
            }
        }
        if !self.decision.effect.proceeds() {
            let refusal = Refusal::denied(&self.decision);
            return self.refuse(refusal, budgets);
        }
        match self.record() {
            Ok(()) => Verdict::Go(permit),
            Err(e) => {
                self.judge.release(&permit).await;
                Verdict::Stop(Box::new(Refusal::unavailable(&e.to_string())))
            }
        }
    }

    /// Asks a person about a call that is not made now.
    pub(super) fn request(
        mut self,
        ticket: impl FnOnce() -> String,
    ) -> Result<Box<Question>, Box<Refusal>> {
        if self.decision.effect != Effect::Ask {
            let refusal = match self.decision.effect.proceeds() {
                true => Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "not_requestable",
                    "not-requestable",
                    "nobody has to approve this: it is allowed now",
                ),
                false => Refusal::denied(&self.decision),
            };
            return Err(self.refused(refusal, Headers::new()));
        }
        let put =
            (self.judge.approvals).put(self.payload.clone(), self.of(), ticket, false, self.now);
        match put {
            Ok(
                Standing::Waits(question)
                | Standing::Rejected(question)
                | Standing::Approved(question),
            ) => {
                self.question = Some(question.clone());
                match self.record() {
                    Ok(()) => Ok(question),
                    Err(e) => Err(Box::new(Refusal::unavailable(&e.to_string()))),
                }
            }
            other => Err(self.stood(other, Headers::new())),
        }
    }

    /// A person would have to be asked, and is not by this. `named` is the ticket of the answer that the caller relies on.
    fn tell(self, named: Option<&str>, budgets: Headers) -> Verdict {
        let question = named.map(|ticket| self.judge.approvals.of_ticket(ticket, self.now));
        let code = match question {
            None => "approval_required",
            Some(Some(q)) if q.payload.by != self.payload.by => "approval_unverifiable",
            Some(Some(q)) => match q.state {
                State::Waiting | State::Rejected { .. } => "approval_unverifiable",
                State::Used | State::Ended { .. } => "approval_expired",
                State::Approved { .. } => "out_of_scope",
            },
            Some(None) => "approval_unverifiable",
        };
        let mut refusal = Refusal::new(
            StatusCode::FORBIDDEN,
            code,
            "approval-required",
            format!("a person has to approve this: {}", self.decision.reason),
        );
        refusal.rule.clone_from(&self.decision.rule);
        refusal.next.push(Next::AskPerson);
        refusal.headers = budgets;
        match self.record() {
            Ok(()) => Verdict::Stop(Box::new(refusal)),
            Err(e) => Verdict::Stop(Box::new(Refusal::unavailable(&e.to_string()))),
        }
    }

    /// A question that waits, was answered with no, or cannot be put.
    fn stood(mut self, standing: Result<Standing, AskError>, budgets: Headers) -> Box<Refusal> {
        let refusal = match standing {
            Ok(Standing::Waits(question)) => {
                let base = Some(&self.call.status_base).filter(|base| !base.is_empty());
                let url = base.map(|base| format!("{base}{}", question.ticket));
                let left = Duration::from_millis(question.expires.saturating_sub(self.now));
                let mut refusal =
                    Refusal::pending(&self.decision, &question.ticket, url.as_deref(), left);
                refusal.headers = budgets;
                self.question = Some(question);
                // A question is no refused attempt.
                return match self.record() {
                    Ok(()) => Box::new(refusal),
                    Err(e) => Box::new(Refusal::unavailable(&e.to_string())),
                };
            }
            Ok(Standing::Rejected(question) | Standing::Approved(question)) => {
                self.decision.effect = Effect::Deny;
                if let State::Rejected { reason, .. } = &question.state {
                    self.decision.reason.clone_from(reason);
                }
                let mut refusal = Refusal::denied(&self.decision);
                refusal.kind = "rejected-by-person";
                refusal.next = vec![Next::Change, Next::Stop];
                self.question = Some(question);
                refusal
            }
            Err(e) => {
                self.decision.effect = Effect::Deny;
                self.decision.reason = e.to_string();
                let mut refusal = Refusal::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limited",
                    "too-many-questions",
                    e.to_string(),
                );
                refusal.retry_after = Some(Duration::from_secs(30));
                refusal.next.push(Next::Wait(Duration::from_secs(30)));
                refusal
            }
        };
        self.refused(refusal, budgets)
    }

    fn refuse(self, refusal: Refusal, budgets: Headers) -> Verdict {
        Verdict::Stop(self.refused(refusal, budgets))
    }

    fn refused(mut self, mut refusal: Refusal, budgets: Headers) -> Box<Refusal> {
        refusal.headers = budgets;
        if self.decision.effect.proceeds() || self.decision.effect == Effect::Ask {
            self.decision.effect = Effect::Deny;
            self.decision.reason.clone_from(&refusal.message);
        }
        if self.fresh {
            let now = seconds(self.now);
            (self.judge).known(self.caller, self.now, |known| known.history.refused(now));
        }
        // It is refused whether that can be recorded or not.
        let _ = self.record();
        Box::new(refusal)
    }

    fn of(&self) -> Of<'_> {
        Of {
            action: &self.action,
            decision: &self.decision,
            risk: &self.score,
            jti: &self.caller.jti,
        }
    }

    fn record(&self) -> Result<(), RecordError> {
        let target = format!("{} {}", self.call.method, self.call.url);
        self.judge.recorder.judged(&Judged {
            call: &self.id,
            agent: &self.caller.agent,
            host: &self.caller.host,
            by: self.caller.by.as_deref(),
            enforced_by: self.call.enforced_by,
            jti: &self.caller.jti,
            target: &target,
            payload: &self.digest,
            action: &self.action,
            decision: &self.decision,
            risk: &self.score,
            charged: &self.charged,
            degraded: self.degraded.as_deref(),
            question: self.question.as_deref(),
        })
    }
}

fn scope(charge: &Charge) -> Scope<'_> {
    Scope {
        key: &charge.key,
        limits: Limits {
            minute: charge.minute,
            hour: charge.hour,
            day: charge.day,
        },
        cost: charge.cost,
        wide: false,
    }
}

/// What budgets have left (draft-ietf-httpapi-ratelimit-headers): `"b0-minute";q=60;w=60` and `"b0-minute";r=12;t=31`,
/// where `b0` is the first budget that counts the call. Whole units; what is left is rounded down.
fn budgets_of(charges: &[Charge], left: &[Left]) -> Headers {
    let name = |scope: usize, window: Window| format!("\"b{scope}-{}\"", window_name(window));
    let mut policy = Vec::new();
    for (at, charge) in charges.iter().enumerate() {
        let limits = [
            (Window::Minute, charge.minute, 60),
            (Window::Hour, charge.hour, 3600),
            (Window::Day, charge.day, 86_400),
        ];
        for (window, limit, seconds) in limits {
            let limit = limit.map(|limit| limit / agentwall_budget::UNIT);
            policy.extend(limit.map(|q| format!("{};q={q};w={seconds}", name(at, window))));
        }
    }
    let state = left.iter().map(|l| {
        let units = l.left / agentwall_budget::UNIT;
        format!(
            "{};r={units};t={}",
            name(l.scope, l.window),
            l.resets_in.as_secs()
        )
    });
    let state: Vec<_> = state.collect();
    [("ratelimit-policy", policy), ("ratelimit", state)]
        .into_iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(name, items)| (name, items.join(", ")))
        .collect()
}

fn window_name(window: Window) -> &'static str {
    match window {
        Window::Minute => "minute",
        Window::Hour => "hour",
        Window::Day => "day",
    }
}

fn rate_limited(
    charge: Option<&Charge>,
    window: Window,
    after: Option<Duration>,
    left: u64,
) -> Refusal {
    let window = window_name(window);
    let place = charge.map_or(String::new(), |c| format!(" (the budget at {})", c.budget));
    let units = |micro: u64| micro as f64 / agentwall_budget::UNIT as f64;
    let cost = charge.map_or(0, |c| c.cost);
    let text = format!(
        "the budget of this {window} is used up: the call costs {}, {} is left{place}",
        units(cost),
        units(left)
    );
    let mut refusal = Refusal::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        "budget-used-up",
        text,
    );
    refusal.retry_after = after;
    refusal.next.push(match after {
        Some(after) => Next::Wait(after),
        // It costs more than there ever is.
        None => Next::Change,
    });
    refusal
}
