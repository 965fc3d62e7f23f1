//! The counters against a naive model: a log of calls.

use std::{sync::Barrier, thread, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{Jti, Left, Limits, Scope, Window};

const KEYS: [&str; 3] = ["agent:a", "agent:b", "global"];
const NINETY: Duration = Duration::from_secs(90);

fn state() -> State {
    State {
        seen: Seen::new(100),
        counters: HashMap::new(),
        visits: VecDeque::new(),
    }
}

fn ask<'a>(scopes: &'a [Scope<'a>]) -> Ask<'a> {
    Ask {
        scopes,
        ..Ask::default()
    }
}

fn jti(value: &str) -> Option<Jti<'_>> {
    Some(Jti {
        identity: "host",
        value,
        window: NINETY,
    })
}

fn minute(limit: u64, cost: u64) -> Scope<'static> {
    Scope {
        key: "agent:a",
        limits: Limits {
            minute: Some(limit),
            ..Limits::default()
        },
        cost,
        wide: false,
    }
}

/// What was really spent: when, by which scope, how much.
#[derive(Default)]
struct Log(Vec<(u64, usize, u64)>);

impl Log {
    fn spent(&self, key: usize, now: u64, length: u64) -> u64 {
        let inside = |(at, of, _): &&(u64, usize, u64)| *of == key && at + length > now;
        self.0.iter().filter(inside).map(|(_, _, cost)| cost).sum()
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Time passes.
    Wait(u64),
    /// A call asks for costs of some of the scopes.
    Call([Option<u64>; 3]),
    /// An earlier call is said to have cost this percentage of its estimate.
    Settle(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..3_000).prop_map(Step::Wait),
        1 => (0u64..200_000).prop_map(Step::Wait),
        1 => (0u64..10_000_000).prop_map(Step::Wait),
        8 => prop::array::uniform3(prop::option::of(0u64..40)).prop_map(Step::Call),
        2 => (any::<usize>(), 0u64..150).prop_map(|(which, percent)| Step::Settle(which, percent)),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = |most: u64| prop::option::of(0..most);
    (limit(100), limit(300), limit(600)).prop_map(|(minute, hour, day)| Limits {
        minute,
        hour,
        day,
    })
}

/// One call, judged against the log.
fn call(
    state: &mut State,
    log: &mut Log,
    now: u64,
    limits: &[Limits; 3],
    costs: [Option<u64>; 3],
) -> Option<(Vec<usize>, Reservation)> {
    let keys: Vec<usize> = (0..3).filter(|i| costs[*i].is_some()).collect();
    let scopes: Vec<Scope<'_>> = keys
        .iter()
        .map(|i| Scope {
            key: KEYS[*i],
            limits: limits[*i],
            cost: costs[*i].unwrap(),
            wide: false,
        })
        .collect();
    match state.admit(now, None, &ask(&scopes), 3).unwrap() {
        Answer::Granted(grant) => {
            for (key, scope) in keys.iter().zip(&scopes) {
                log.0.push((now, *key, scope.cost));
                for (window, limit) in Window::ALL.iter().zip(scope.limits.each()) {
                    let length = window.length().as_millis() as u64;
                    let spent = log.spent(*key, now, length);
                    let bound = limit.unwrap_or(u64::MAX);
                    assert!(
                        scope.cost == 0 || spent <= bound,
                        "{spent} spent in a rolling {window}, limit {bound}"
                    );
                }
            }
            for Left {
                scope,
                window,
                left,
                resets_in,
            } in grant.left
            {
                let limit = scopes[scope].limits.each()[window as usize].unwrap();
                let length = window.length().as_millis() as u64;
                let spent = log.spent(keys[scope], now, length);
                assert!(left <= limit.saturating_sub(spent));
                assert!(resets_in <= window.length() + window.bucket());
            }
            grant.reservation.map(|r| (keys, r))
        }
        Answer::Limited(limited) => {
            let scope = &scopes[limited.scope];
            let limit = scope.limits.each()[limited.window as usize].unwrap();
            let longer = limited.window.length() + limited.window.bucket();
            let spent = log.spent(keys[limited.scope], now, longer.as_millis() as u64);
            assert!(
                spent + scope.cost > limit,
                "refused {} where a {} longer by a sub-bucket has {spent} of {limit}",
                scope.cost,
                limited.window
            );
            assert!(limited.left < scope.cost);
            assert_eq!(limited.retry_after.is_none(), scope.cost > limit);
            None
        }
        Answer::Replayed => unreachable!("no token was given"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn never_more_than_the_limit_and_never_less_than_a_longer_window(
        limits in prop::array::uniform3(limits()),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let (mut state, mut log) = (state(), Log::default());
        let mut now = 0;
        let mut open: Vec<(u64, Vec<usize>, Reservation)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Call(costs) => {
                    if let Some((keys, r)) = call(&mut state, &mut log, now, &limits, costs) {
                        open.push((now, keys, r));
                    }
                }
                Step::Settle(which, percent) if !open.is_empty() => {
                    let (at, keys, of) = open.swap_remove(which % open.len());
                    let actual: Vec<u64> = of.costs().iter().map(|c| c * percent / 100).collect();
                    for ((key, cost), actual) in keys.iter().zip(of.costs()).zip(&actual) {
                        if actual > cost {
                            log.0.push((now, *key, actual - cost));
                        } else {
                            let spent = log.0.iter_mut().find(|s| **s == (at, *key, *cost));
                            spent.unwrap().2 = *actual;
                        }
                    }
                    prop_assert_eq!(state.settle(now, &of, &actual), Settled::Now);
                }
                Step::Settle(..) => {}
            }
        }
    }

    #[test]
    fn after_the_time_it_was_told_a_call_is_admitted_and_not_before(
        charges in prop::collection::vec((0u64..100_000, 1u64..30), 1..40),
        limits in limits(),
        cost in 1u64..60,
    ) {
        let mut state = state();
        let mut now = 0;
        let scope = |cost| [Scope { key: KEYS[0], limits, cost, wide: false }];
        for (time, cost) in charges {
            now += time;
            state.admit(now, None, &ask(&scope(cost)), 3).unwrap();
        }
        let answer = state.admit(now, None, &ask(&scope(cost)), 3).unwrap();
        if let Answer::Limited(Limited { retry_after: Some(wait), .. }) = answer {
            let wait = wait.as_millis() as u64;
            let before = state.admit(now + wait - 1, None, &ask(&scope(cost)), 3).unwrap();
            prop_assert!(matches!(before, Answer::Limited(_)));
            let after = state.admit(now + wait, None, &ask(&scope(cost)), 3).unwrap();
            prop_assert!(matches!(after, Answer::Granted(_)));
        }
    }
}

#[test]
fn all_scopes_are_charged_or_none() {
    let counters = Embedded::default();
    let scope = |key, limit| Scope {
        key,
        limits: Limits {
            minute: Some(limit),
            ..Limits::default()
        },
        cost: 1,
        wide: false,
    };
    let both = [scope("wide", 10), scope("narrow", 1)];
    assert!(matches!(
        counters.admit(&ask(&both)).unwrap().answer,
        Answer::Granted(_)
    ));
    let Answer::Limited(limited) = counters.admit(&ask(&both)).unwrap().answer else {
        panic!("the narrow one is used up");
    };
    assert_eq!((limited.scope, limited.window), (1, Window::Minute));
    // The wide one has nine left: it was charged once.
    let Answer::Granted(grant) = counters.admit(&ask(&both[..1])).unwrap().answer else {
        panic!("the wide one has room");
    };
    assert_eq!(grant.left[0].left, 8);
}

#[test]
fn a_token_is_used_once_and_a_replay_is_not_charged() {
    let counters = Embedded::default();
    let scopes = [minute(10, 1)];
    let once = Ask {
        jti: jti("t1"),
        ..ask(&scopes)
    };
    let granted = |ask: &Ask<'_>| match counters.admit(ask).unwrap().answer {
        Answer::Granted(grant) => grant.left.first().map_or(0, |l| l.left),
        other => panic!("{other:?}"),
    };
    assert_eq!(granted(&once), 9);
    assert!(matches!(
        counters.admit(&once).unwrap().answer,
        Answer::Replayed
    ));
    let other = Ask {
        jti: jti("t2"),
        ..once
    };
    assert_eq!(granted(&other), 8);
    // A call that is denied or pending records its token and spends nothing.
    let pending = Ask {
        jti: jti("t3"),
        ..Ask::default()
    };
    assert_eq!(granted(&pending), 0);
    assert!(matches!(
        counters.admit(&pending).unwrap().answer,
        Answer::Replayed
    ));
    assert_eq!(granted(&ask(&scopes)), 7);
}

#[tokio::test]
async fn a_reservation_is_corrected_once() {
    let counters = crate::Counters::Embedded(Embedded::default());
    let scopes = [minute(10, 6)];
    let left = async |cost| {
        let scopes = [minute(10, cost)];
        match counters.admit(&ask(&scopes)).await.unwrap().answer {
            Answer::Granted(grant) => (grant.left[0].left, grant.reservation.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let Answer::Granted(grant) = counters.admit(&ask(&scopes)).await.unwrap().answer else {
        panic!("there is room for six of ten");
    };
    let first = grant.reservation.unwrap();
    assert!(counters.commit(&first, &[1, 2]).await.is_err());
    assert_eq!(counters.commit(&first, &[2]).await, Ok(Settled::Now));
    assert_eq!(counters.release(&first).await, Ok(Settled::Before));
    let (rest, second) = left(3).await;
    assert_eq!(rest, 5);
    assert_eq!(counters.release(&second).await, Ok(Settled::Now));
    assert_eq!(counters.commit(&second, &[3]).await, Ok(Settled::Before));
    let (rest, third) = left(8).await;
    assert_eq!(rest, 0);
    // What was spent beyond the estimate counts, also beyond the limit.
    assert_eq!(counters.commit(&third, &[20]).await, Ok(Settled::Now));
    let answer = counters.admit(&ask(&[minute(20, 1)])).await.unwrap().answer;
    assert!(matches!(answer, Answer::Limited(Limited { left: 0, .. })));
    let (rest, _) = left(0).await;
    assert_eq!(rest, 0);
}

#[test]
fn concurrent_calls_get_exactly_the_limit() {
    let counters = Embedded::default();
    let granted: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let one = [minute(1_000, 1)];
                    let admitted = (0..2_500).filter(|_| {
                        let answer = counters.admit(&ask(&one)).unwrap().answer;
                        matches!(answer, Answer::Granted(_))
                    });
                    admitted.count()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(granted, 1_000);
}

#[test]
fn of_a_million_concurrent_duplicates_one_is_accepted() {
    const THREADS: usize = 8;
    let counters = Embedded::default();
    let start = Barrier::new(THREADS);
    let accepted: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let once = Ask {
                        jti: jti("the same"),
                        ..Ask::default()
                    };
                    let accepted = (0..1_000_000 / THREADS).filter(|_| {
                        let answer = counters.admit(&once).unwrap().answer;
                        matches!(answer, Answer::Granted(_))
                    });
                    accepted.count()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(accepted, 1);
}

#[test]
fn memory_is_bounded_and_comes_back() {
    let mut state = state();
    let mut scope = minute(10, 1);
    scope.key = "a";
    assert!(state.admit(0, None, &ask(&[scope]), 2).is_ok());
    scope.key = "b";
    assert!(state.admit(0, None, &ask(&[scope]), 2).is_ok());
    scope.key = "c";
    let full = state.admit(1, None, &ask(&[scope]), 2);
    assert!(matches!(full, Err(StoreError::Full { most: 2, .. })));
    // Known scopes go on.
    scope.key = "a";
    assert!(state.admit(1, None, &ask(&[scope]), 2).is_ok());
    // A refused call makes no counter, and idle ones make room.
    scope.key = "c";
    scope.cost = 11;
    assert!(matches!(
        state.admit(2, None, &ask(&[scope]), 2),
        Ok(Answer::Limited(_))
    ));
    assert_eq!(state.counters.len(), 2);
    scope.cost = 1;
    let day = 2 * Counter::LIFE + 2;
    assert!(state.admit(day, None, &ask(&[scope]), 2).is_ok());
    let kept: Vec<_> = state.counters.keys().map(|k| &**k).collect();
    assert!(kept.contains(&"c") && state.counters.len() <= 2, "{kept:?}");
}

#[test]
fn questions_that_cannot_be_answered_are_refused() {
    let counters = Embedded::default();
    let scope = minute(10, 1);
    let long = "x".repeat(513);
    let refused = |scopes: &[Scope<'_>]| counters.admit(&ask(scopes)).is_err();
    assert!(refused(&[scope, scope]));
    assert!(refused(&[Scope { key: "", ..scope }]));
    assert!(refused(&[Scope {
        key: &long,
        ..scope
    }]));
    assert!(refused(&[Scope {
        cost: 1 << 53,
        ..scope
    }]));
    for window in [Duration::from_nanos(1), Duration::from_secs(86_401)] {
        let mut once = jti("t").unwrap();
        once.window = window;
        let jti = Some(once);
        assert!(
            counters
                .admit(&Ask {
                    jti,
                    ..Ask::default()
                })
                .is_err()
        );
    }
    let keys: Vec<String> = (0..17).map(|i| i.to_string()).collect();
    let many: Vec<_> = keys.iter().map(|key| Scope { key, ..scope }).collect();
    assert!(refused(&many));
    assert!(!refused(&many[..16]));
}
