use std::sync::atomic::{AtomicUsize, Ordering};

use agentwall_action::{Effect, Hint, Resource, Subject, Verb};
use agentwall_engine::risk::Score;
use serde_json::json;

use super::*;

fn payload(amount: u64) -> Payload {
    Payload {
        v: 1,
        gateway: "bank".into(),
        agent: "a1".into(),
        capability: "transfer".into(),
        method: "POST".into(),
        url: "https://bank.example/transfers".into(),
        arguments: Map::from_iter([("to".into(), json!("x")), ("amount".into(), json!(amount))]),
        headers: Bound::from([("content-type".into(), vec!["application/json".into()])]),
        body_sha256: "00".into(),
        policy: "p1".into(),
        by: None,
    }
}

fn put(approvals: &Approvals, payload: Payload, now: Millis) -> Result<Standing, AskError> {
    let action = Action::new(
        Subject::agent("a"),
        Verb::ApiCall,
        Resource::Named("capability:transfer".into()),
    );
    let decision = Decision {
        effect: Effect::Ask,
        rule: Some("r".into()),
        reason: "why".into(),
        hint: Hint::default(),
        monitors: vec![],
        errors: vec![],
        policy: payload.policy.clone(),
    };
    let ticket = format!("t{now}-{}", payload.canonical().len());
    let of = Of {
        action: &action,
        decision: &decision,
        risk: &Score::default(),
        jti: "j1",
    };
    approvals.put(payload, of, || ticket, true, now)
}

fn waits(standing: Result<Standing, AskError>) -> Question {
    match standing {
        Ok(Standing::Waits(question)) => *question,
        other => panic!("{other:?}"),
    }
}

fn yes(approvals: &Approvals, number: u64, now: Millis) -> Result<Question, NoQuestion> {
    approvals.approve(number, "me", now, |_| Ok(()))
}

#[test]
fn an_approval_is_for_exactly_one_call_of_exactly_this() {
    let approvals = Approvals::default();
    let question = waits(put(&approvals, payload(5), 0));
    assert_eq!(
        waits(put(&approvals, payload(5), 1)).number,
        question.number
    );
    yes(&approvals, question.number, 2).unwrap();
    // Others leave it as it was.
    for other in [
        payload(6),
        Payload {
            agent: "a2".into(),
            ..payload(5)
        },
        Payload {
            policy: "p2".into(),
            ..payload(5)
        },
        Payload {
            body_sha256: "01".into(),
            ..payload(5)
        },
        Payload {
            headers: Bound::default(),
            ..payload(5)
        },
        Payload {
            url: "https://bank.example/transfers?x".into(),
            ..payload(5)
        },
        Payload {
            method: "PUT".into(),
            ..payload(5)
        },
    ] {
        assert_ne!(waits(put(&approvals, other, 3)).number, question.number);
    }
    assert!(
        matches!(put(&approvals, payload(5), 4), Ok(Standing::Approved(q)) if q.number == question.number)
    );
    assert_ne!(
        waits(put(&approvals, payload(5), 5)).number,
        question.number
    );
    assert_eq!(yes(&approvals, question.number, 6).unwrap_err(), NoQuestion);
}

#[test]
fn of_calls_at_once_one_gets_the_approval() {
    let approvals = Approvals::default();
    let question = waits(put(&approvals, payload(5), 0));
    yes(&approvals, question.number, 1).unwrap();
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                if let Ok(Standing::Approved(_)) = put(&approvals, payload(5), 2) {
                    got.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(got.into_inner(), 1);
}

#[test]
fn time_is_a_no() {
    let approvals = Approvals::default();
    let first = waits(put(&approvals, payload(5), 0));
    assert!(yes(&approvals, first.number, PATIENCE).is_err());
    let state = approvals.of_ticket(&first.ticket, PATIENCE).unwrap().state;
    assert_eq!(
        state,
        State::Ended {
            why: "nobody answered in time"
        }
    );
    let second = waits(put(&approvals, payload(5), PATIENCE));
    yes(&approvals, second.number, PATIENCE).unwrap();
    let third = waits(put(&approvals, payload(5), 2 * PATIENCE));
    assert_ne!(third.number, second.number);
    // Nobody asks any more.
    assert!(
        approvals
            .of_ticket(&first.ticket, PATIENCE + REMEMBERED)
            .is_none()
    );
}

#[test]
fn a_no_holds_for_the_same_call() {
    let approvals = Approvals::default();
    let question = waits(put(&approvals, payload(5), 0));
    let said: Result<_, NoQuestion> =
        approvals.reject(question.number, "me", Some("never"), 1, |_| Ok(()));
    said.unwrap();
    let again = put(&approvals, payload(5), 2);
    assert!(
        matches!(again, Ok(Standing::Rejected(q)) if q.state == State::Rejected { by: "me".into(), reason: "never".into() })
    );
    assert_eq!(waits(put(&approvals, payload(5), PATIENCE + 1)).number, 2);
}

#[test]
fn what_is_not_recorded_is_no_answer() {
    #[derive(Debug, PartialEq)]
    struct Full;
    impl From<NoQuestion> for Full {
        fn from(_: NoQuestion) -> Full {
            unreachable!()
        }
    }
    let approvals = Approvals::default();
    let question = waits(put(&approvals, payload(5), 0));
    assert_eq!(
        approvals
            .approve(question.number, "me", 1, |_| Err(Full))
            .unwrap_err(),
        Full
    );
    assert_eq!(
        waits(put(&approvals, payload(5), 2)).number,
        question.number
    );
}

#[test]
fn a_flood_is_bounded_for_each_agent_and_for_all() {
    let approvals = Approvals::default();
    for amount in 0..MAX_OF_AGENT as u64 {
        waits(put(&approvals, payload(amount), 0));
    }
    assert_eq!(
        put(&approvals, payload(99), 0).unwrap_err(),
        AskError::Agent
    );
    for agent in 2..=(MAX_OPEN / MAX_OF_AGENT) {
        for amount in 0..MAX_OF_AGENT as u64 {
            waits(put(
                &approvals,
                Payload {
                    agent: format!("a{agent}"),
                    ..payload(amount)
                },
                0,
            ));
        }
    }
    let one_more = Payload {
        agent: "z".into(),
        ..payload(1)
    };
    assert_eq!(
        put(&approvals, one_more.clone(), 0).unwrap_err(),
        AskError::All
    );
    assert_eq!(approvals.waiting(0).len(), MAX_OPEN);
    assert_eq!(approvals.waiting(PATIENCE).len(), 0);
    waits(put(&approvals, one_more, PATIENCE));
}

#[test]
fn a_revoked_agents_questions_end_and_its_approvals_too() {
    let approvals = Approvals::default();
    let approved = waits(put(&approvals, payload(1), 0));
    let waiting = waits(put(&approvals, payload(2), 0));
    let others = waits(put(
        &approvals,
        Payload {
            agent: "a2".into(),
            ..payload(1)
        },
        0,
    ));
    yes(&approvals, approved.number, 1).unwrap();
    let ended: Vec<_> = approvals
        .revoke(|payload| payload.agent == "a1")
        .iter()
        .map(|q| q.number)
        .collect();
    assert_eq!(ended, [approved.number, waiting.number]);
    assert!(yes(&approvals, waiting.number, 2).is_err());
    assert!(!matches!(
        put(&approvals, payload(1), 2),
        Ok(Standing::Approved(_))
    ));
    yes(&approvals, others.number, 2).unwrap();
}

#[test]
fn the_question_before_tells_what_changed() {
    let approvals = Approvals::default();
    let question = waits(put(&approvals, payload(1), 0));
    assert!(approvals.of_ticket("t", 1).is_none());
    assert_eq!(
        approvals.of_ticket(&question.ticket, 1).unwrap().state,
        State::Waiting
    );
    let next = waits(put(&approvals, payload(2), 1));
    assert_eq!(approvals.before(&next).unwrap().number, question.number);
    assert!(approvals.before(&question).is_none());
}

/// RFC 8785: names in the order of their UTF-16 code units, the shortest form of numbers, no blanks.
#[test]
fn the_form_is_canonical() {
    let mut payload = payload(1);
    payload.arguments =
        serde_json::from_value(json!({ "z": 1.0, "a": [1e30, "é\n"], "\u{1f600}": null })).unwrap();
    let text = payload.canonical();
    assert!(
        text.starts_with("{\"agent\":\"a1\",\"arguments\":{\"a\":[1e+30,\"é\\n\"],\"z\":1,\"\u{1f600}\":null},\"body_sha256\""),
        "{text}"
    );
}

#[test]
fn an_answer_between_the_two_looks_is_kept_for_the_call_that_pays() {
    let approvals = Approvals::default();
    let question = waits(put(&approvals, payload(5), 0));
    assert_eq!(approvals.approved(&payload(5), 1), None);
    yes(&approvals, question.number, 2).unwrap();
    let of = Of {
        action: &question.action,
        decision: &question.decision,
        risk: &Score::default(),
        jti: "j2",
    };
    let standing = approvals.put(payload(5), of, || unreachable!(), false, 3);
    assert_eq!(waits(standing).number, question.number);
    assert!(approvals.approved(&payload(5), 4).is_some());
    assert!(matches!(
        put(&approvals, payload(5), 5),
        Ok(Standing::Approved(_))
    ));
}
