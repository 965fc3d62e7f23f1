use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentwall_budget::Embedded;
use agentwall_engine::Scope;
use agentwall_identity::Event;
use agentwall_policy::{Layer, Source, Variables, load};

use super::*;
use crate::record::{Ended, Judged};

const NOW: Millis = 1_800_000_000_000;

/// Keeps count, or refuses.
#[derive(Debug, Default)]
struct Records {
    broken: AtomicBool,
    judged: AtomicU64,
}

impl Records {
    fn keep(&self) -> Result<(), RecordError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(RecordError("no space left on device".into()));
        }
        self.judged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Recorder for Records {
    fn judged(&self, _: &Judged<'_>) -> Result<(), RecordError> {
        self.keep()
    }

    fn ended(&self, _: &Ended<'_>) {}

    fn answered(&self, _: &Answered<'_>) -> Result<(), RecordError> {
        self.keep()
    }

    fn principal(&self, _: &Event) -> Result<(), RecordError> {
        self.keep()
    }
}

struct Bench {
    judge: Judge,
    records: Arc<Records>,
}

fn bench(policy: &str) -> Bench {
    let text = format!("agentwall: 1\nname: test\ndefault: deny\n{policy}");
    let source = Source::new("test", text.as_str(), Layer::User);
    let records = Arc::new(Records::default());
    let judge = Judge::new(Parts {
        gateway: "bank".into(),
        session: "s1".into(),
        policy: Arc::new(load(&[source], &Variables::default()).unwrap()),
        counters: Counters::Embedded(Embedded::default()),
        recorder: Arc::clone(&records) as Arc<dyn Recorder>,
        deviations: Vec::new(),
    });
    Bench { judge, records }
}

fn caller(jti: &str) -> Caller {
    let at = seconds(NOW);
    Caller {
        agent: "a1".into(),
        host: "h1".into(),
        name: "one".into(),
        subject: Caller::subject_of("h1", "one"),
        by: None,
        since: at - 30 * 86_400,
        jti: jti.into(),
        once: vec![Once {
            identity: "a1".into(),
            jti: jti.into(),
            until: at + 90,
        }],
    }
}

fn call(capability: &str) -> Call {
    Call {
        verb: Verb::ApiCall,
        resource: Resource::Named(format!("capability:{capability}")),
        arguments: Map::new(),
        capability: capability.into(),
        sensitivity: Sensitivity::Low,
        on_failure: OnFailure::Closed,
        method: "POST".into(),
        url: "https://bank.example/x".into(),
        headers: Bound::new(),
        body_sha256: "00".into(),
        status_base: "https://here/".into(),
        asks: Asks::Put,
        enforced_by: "gateway",
        withheld: None,
    }
}

impl Bench {
    async fn judge(&self, jti: &str, capability: &str) -> Result<Permit, Box<Refusal>> {
        let (caller, call) = (caller(jti), call(capability));
        let ticket = || format!("ticket-{jti}");
        let verdict = self.judge.judge(&caller, &call, jti.into(), ticket, NOW);
        match verdict.await {
            Verdict::Go(permit) => Ok(permit),
            Verdict::Stop(refusal) => Err(refusal),
        }
    }

    fn risk(&self) -> u8 {
        (self.judge).known(&caller(""), NOW, |known| {
            let score = known.history.score(seconds(NOW), Sensitivity::Low);
            score.total()
        })
    }
}

const ALLOW: &str = r#"rules:
  - { id: all, priority: 1, action: api.call, resource: "capability:ok*", effect: allow }
budgets:
  - { action: api.call, resource: "**", minute: 2 }
"#;

const ASK: &str = r#"rules:
  - { id: asks, priority: 1, action: api.call, resource: "capability:ok*", effect: ask }
"#;

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_and_costs_nothing() {
    let bench = bench(ALLOW);
    bench.records.broken.store(true, Ordering::Relaxed);
    for jti in ["1", "2", "3"] {
        let refusal = bench.judge(jti, "ok").await.unwrap_err();
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.message.contains("no space left"), "{refusal:?}");
    }
    bench.records.broken.store(false, Ordering::Relaxed);
    for jti in ["4", "5"] {
        bench.judge(jti, "ok").await.unwrap();
    }
    let refusal = bench.judge("6", "ok").await.unwrap_err();
    assert_eq!(refusal.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_does_not_hold() {
    let bench = bench(ASK);
    assert_eq!(
        bench.judge("1", "ok").await.unwrap_err().status,
        StatusCode::ACCEPTED
    );
    bench.records.broken.store(true, Ordering::Relaxed);
    let answer = bench.judge.approve(1, &Scope::Once, "me", NOW);
    assert!(matches!(answer, Err(AnswerError::Record(_))), "{answer:?}");
    bench.records.broken.store(false, Ordering::Relaxed);
    assert_eq!(
        bench.judge("2", "ok").await.unwrap_err().status,
        StatusCode::ACCEPTED
    );
    bench.judge.approve(1, &Scope::Once, "me", NOW).unwrap();
    bench.judge("3", "ok").await.unwrap();
}

#[tokio::test]
async fn who_replays_a_token_does_not_raise_the_risk_of_its_owner() {
    let bench = bench(ALLOW);
    bench.judge("1", "ok").await.unwrap();
    let before = bench.risk();
    for _ in 0..40 {
        let refusal = bench.judge("1", "ok").await.unwrap_err();
        assert_eq!(refusal.code, "jti_replay");
        let early = bench.judge.refused(&caller("1"), NOW).await;
        assert_eq!(early.unwrap_err().code, "jti_replay");
    }
    assert_eq!(bench.risk(), before);
    // Its own refused attempts do.
    for jti in ["2", "3", "4", "5"] {
        bench.judge(jti, "not-this").await.unwrap_err();
    }
    assert!(bench.risk() > before);
}

#[tokio::test]
async fn a_token_is_used_up_by_a_refusal_before_the_judge() {
    let bench = bench(ALLOW);
    bench.judge.refused(&caller("1"), NOW).await.unwrap();
    let refusal = bench.judge("1", "ok").await.unwrap_err();
    assert_eq!(refusal.code, "jti_replay");
}

#[tokio::test]
async fn what_the_risk_asks_is_approved_once() {
    let bench = bench(&format!("{ALLOW}risk: {{ ask_at: 1 }}\n"));
    for jti in ["1", "2", "3"] {
        bench.judge(jti, "not-this").await.unwrap_err();
    }
    assert_eq!(
        bench.judge("4", "ok").await.unwrap_err().status,
        StatusCode::ACCEPTED
    );
    let answer = bench.judge.approve(1, &Scope::Session, "me", NOW);
    assert!(matches!(answer, Err(AnswerError::Risk)), "{answer:?}");
    bench.judge.approve(1, &Scope::Once, "me", NOW).unwrap();
    bench.judge("5", "ok").await.unwrap();
}

#[tokio::test]
async fn nobody_is_asked_by_a_decision_and_an_answer_is_for_who_names_it() {
    let policy = r#"rules:
  - { id: ask, action: api.call, resource: "capability:ask*", effect: ask }
budgets:
  - { action: api.call, resource: "**", minute: 1 }
"#;
    let bench = bench(policy);
    let asker = |by: &str| Caller {
        by: Some(by.into()),
        once: Vec::new(),
        ..caller("")
    };
    let decide = async |by: &str, named: Option<&str>| {
        let call = Call {
            asks: Asks::Tell(named.map(str::to_owned)),
            ..call("ask")
        };
        let id = || "c".to_owned();
        match bench.judge.judge(&asker(by), &call, id(), id, NOW).await {
            Verdict::Go(_) => "permitted",
            Verdict::Stop(refusal) => refusal.code,
        }
    };
    let request = |by: &str, ticket: &str| {
        let (caller, call) = (asker(by), call("ask"));
        bench
            .judge
            .request(&caller, &call, "c".into(), || ticket.into(), NOW)
    };
    assert_eq!(decide("mesh", None).await, "approval_required");
    assert!(bench.judge.approvals().waiting(NOW).is_empty());
    let question = request("mesh", "t1").unwrap();
    assert_eq!(request("mesh", "t2").unwrap().ticket, "t1");
    assert_eq!(request("other", "t3").unwrap().ticket, "t3");
    assert_eq!(decide("mesh", Some("t1")).await, "approval_unverifiable");
    bench
        .judge
        .approve(question.number, &Scope::Once, "uid:0", NOW)
        .unwrap();
    assert_eq!(
        request("mesh", "t4").unwrap().ticket,
        "t1",
        "the answer is there, and not used up"
    );
    assert_eq!(decide("mesh", None).await, "approval_required");
    assert_eq!(decide("mesh", Some("t3")).await, "approval_unverifiable");
    assert_eq!(decide("other", Some("t1")).await, "approval_unverifiable");
    // Nothing was charged until here: there is room for one.
    assert_eq!(decide("mesh", Some("t1")).await, "permitted");
    assert_eq!(decide("mesh", Some("t1")).await, "approval_expired");
}

#[tokio::test]
async fn a_person_is_asked_only_about_what_a_person_decides() {
    let bench = bench(ALLOW);
    let request = |capability: &str| {
        let (caller, call) = (caller(""), call(capability));
        let asked = bench
            .judge
            .request(&caller, &call, "c".into(), || "t".into(), NOW);
        asked.map(|q| q.number).map_err(|r| r.code)
    };
    assert_eq!(request("ok"), Err("not_requestable"));
    assert_eq!(request("other"), Err("unauthorized"));
    assert!(bench.judge.approvals().waiting(NOW).is_empty());
}

#[tokio::test]
async fn a_token_that_was_over_when_the_body_had_come_is_not_taken_again() {
    let bench = bench(ALLOW);
    bench.judge("1", "ok").await.unwrap();
    // Its record is gone by now.
    let later = NOW + 92_000;
    let (caller, call) = (caller("1"), call("ok"));
    let verdict = bench
        .judge
        .judge(&caller, &call, "x".into(), || "t".into(), later);
    let Verdict::Stop(refusal) = verdict.await else {
        panic!("it went on");
    };
    assert_eq!(refusal.kind, "token-over");
    let early = bench.judge.refused(&caller, later).await;
    assert_eq!(early.unwrap_err().kind, "token-over");
}
