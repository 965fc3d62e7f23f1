//! The library against the counters in memory, which are held to a naive model themselves: the same steps, at
//! the same times, have the same answers. For that the library reads its time from a key.

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use redis::Connection;

use super::{
    super::{Redis, RedisConfig, WideConfig, server},
    *,
};
use crate::{
    Answer, Ask, Limits, Scope,
    window::{Counter, NoRoom},
};

/// Some moment after 2020 at which a new sub-bucket of every window begins.
const START: u64 = 1_600_000_200_000 / 1_800_000 * 1_800_000;

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Admit(u64),
    Settle(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u64..3_000).prop_map(Step::Wait),
        1 => (0u64..200_000).prop_map(Step::Wait),
        1 => (0u64..10_000_000).prop_map(Step::Wait),
        8 => (0u64..40).prop_map(Step::Admit),
        3 => (any::<usize>(), 0u64..60).prop_map(|(which, actual)| Step::Settle(which, actual)),
    ];
    prop::collection::vec(step, 1..60)
}

/// The library with another clock, and functions to call it.
struct Clocked {
    link: Connection,
    admit: String,
    settle: String,
}

impl Clocked {
    fn new(server: &server::Server) -> Clocked {
        let client = redis::Client::open(server.url()).unwrap();
        let mut link = client.get_connection().unwrap();
        let source = LIBRARY.source.replace(
            "redis.call('TIME')",
            "{ 0, tonumber(redis.call('GET', 'clock')) * 1000 }",
        );
        assert_ne!(source, LIBRARY.source);
        let loaded = redis::cmd("FUNCTION")
            .arg("LOAD")
            .arg(source)
            .exec(&mut link);
        loaded.unwrap();
        Clocked {
            link,
            admit: LIBRARY.admit.clone(),
            settle: LIBRARY.settle.clone(),
        }
    }

    fn at(&mut self, now: u64) {
        redis::cmd("SET")
            .arg("clock")
            .arg(now)
            .exec(&mut self.link)
            .unwrap();
    }

    fn admit(
        &mut self,
        record: &str,
        key: &str,
        spare: u64,
        cost: u64,
        limits: &Limits,
    ) -> Vec<i64> {
        let mut command = redis::cmd("FCALL");
        command.arg(&self.admit).arg(2).arg(record).arg(key);
        command.arg(0).arg(900_000).arg(spare).arg(cost);
        for limit in limits.each() {
            command.arg(limit.map_or(-1, |l| l as i64));
        }
        command.query(&mut self.link).unwrap()
    }

    fn settle(&mut self, record: &str, key: &str, cost: u64, actual: u64) -> i64 {
        let mut command = redis::cmd("FCALL");
        command.arg(&self.settle).arg(2).arg(record).arg(key);
        command.arg(0).arg(0).arg(cost).arg(actual);
        command.query(&mut self.link).unwrap()
    }
}

#[test]
fn the_library_answers_as_the_counters_in_memory() {
    let server = server::Server::start(server::NEVER);
    let link = std::cell::RefCell::new((Clocked::new(&server), 0));
    let limit = |most: u64| prop::option::of(0..most);
    let limits = (limit(100), limit(300), limit(600));
    let runs = TestRunner::new(Config::with_cases(150)).run(&(limits, steps()), |(l, steps)| {
        let limits = Limits {
            minute: l.0,
            hour: l.1,
            day: l.2,
        };
        let (redis, round) = &mut *link.borrow_mut();
        *round += 1;
        let key = format!("scope-{round}");
        let (mut now, mut calls) = (START, 0);
        let mut counter = Counter::new(now);
        let mut open: Vec<(String, u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Admit(cost) => {
                    calls += 1;
                    let record = format!("{key}-{calls}");
                    redis.at(now);
                    counter.advance(now);
                    let no_room = match cost {
                        0 => None,
                        _ => counter.no_room(now, cost, &limits.each()),
                    };
                    let wanted = match no_room {
                        None => {
                            counter.charge(now, cost);
                            open.push((record.clone(), now, cost));
                            let sums = counter.totals().map(|t| t as i64);
                            [vec![0, now as i64], sums.to_vec()].concat()
                        }
                        Some(NoRoom { window, wait, left }) => vec![
                            2,
                            now as i64,
                            0,
                            window as i64,
                            wait.map_or(-1, |w| w as i64),
                            left as i64,
                        ],
                    };
                    prop_assert_eq!(redis.admit(&record, &key, 0, cost, &limits), wanted);
                }
                Step::Settle(which, actual) if !open.is_empty() => {
                    let (record, at, cost) = open.swap_remove(which % open.len());
                    redis.at(now);
                    counter.advance(now);
                    if actual > cost {
                        counter.charge(now, actual - cost);
                    } else {
                        counter.refund(at, cost - actual);
                    }
                    prop_assert_eq!(redis.settle(&record, &key, cost, actual), 1);
                    prop_assert_eq!(redis.settle(&record, &key, cost, actual), 0);
                }
                Step::Settle(..) => {}
            }
        }
        Ok(())
    });
    runs.unwrap();
}

#[test]
fn a_spare_sub_bucket_counts_two_seconds_longer() {
    let server = server::Server::start(server::NEVER);
    let mut redis = Clocked::new(&server);
    let limits = Limits {
        minute: Some(10),
        ..Limits::default()
    };
    // Charged at the very end of a sub-bucket: a minute and two seconds later it would still be in a window of
    // what was used of a slice up to two seconds after that.
    for (spare, last) in [(0, START + 61_999), (1, START + 63_999)] {
        let key = format!("spare-{spare}");
        redis.at(START + 1_999);
        assert_eq!(
            redis.admit(&format!("{key}-a"), &key, spare, 10, &limits)[0],
            0
        );
        redis.at(last);
        let refused = redis.admit(&format!("{key}-b"), &key, spare, 1, &limits);
        assert_eq!((refused[0], refused[4]), (2, 1), "{refused:?}");
        redis.at(last + 1);
        assert_eq!(
            redis.admit(&format!("{key}-c"), &key, spare, 10, &limits)[0],
            0
        );
    }
}

#[test]
fn the_record_of_a_token_is_corrected_once_and_stays() {
    let server = server::Server::start(server::NEVER);
    let mut redis = Clocked::new(&server);
    redis.at(START);
    let admit = |redis: &mut Clocked| -> Vec<i64> {
        let mut command = redis::cmd("FCALL");
        command.arg(&redis.admit).arg(2).arg("token").arg("scope");
        command
            .arg(90_000)
            .arg(900_000)
            .arg(0)
            .arg(5)
            .arg(-1)
            .arg(-1)
            .arg(-1);
        command.query(&mut redis.link).unwrap()
    };
    let settle = |redis: &mut Clocked| -> i64 {
        let mut command = redis::cmd("FCALL");
        command.arg(&redis.settle).arg(2).arg("token").arg("scope");
        command.arg(90_000).arg(0).arg(5).arg(3);
        command.query(&mut redis.link).unwrap()
    };
    assert_eq!(admit(&mut redis), [0, START as i64, 5, 5, 5]);
    assert_eq!((settle(&mut redis), settle(&mut redis)), (1, 0));
    assert_eq!(admit(&mut redis)[0], 1);
    let life: i64 = redis::cmd("PTTL")
        .arg("token")
        .query(&mut redis.link)
        .unwrap();
    assert!((1..=90_000).contains(&life), "{life}");
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    let server = server::Server::start(server::NEVER);
    let mut redis = Clocked::new(&server);
    let limits = Limits {
        minute: Some(10),
        ..Limits::default()
    };
    redis.at(START + 100_000);
    assert_eq!(redis.admit("a", "key", 0, 10, &limits)[0], 0);
    redis.at(START);
    assert_eq!(redis.admit("b", "key", 0, 1, &limits)[0], 2);
}

#[test]
fn the_name_has_the_version() {
    assert!(LIBRARY.source.starts_with("#!lua name=agentwall_budget_1_"));
    assert!(!LIBRARY.source.contains('@'));
    assert!(
        LIBRARY
            .source
            .contains("{ 2000, 30 }, { 120000, 30 }, { 1800000, 48 }")
    );
    let life = format!("LIFE = {}", Duration::from_secs(90_000).as_millis());
    assert!(LIBRARY.source.contains(&life));
}

#[tokio::test]
async fn wide_scopes_count_the_spare_sub_bucket() {
    let server = server::Server::start(server::NEVER);
    // The library of this name is there already, with the clock of the test.
    let mut redis = Clocked::new(&server);
    let counters = Redis::new(&RedisConfig {
        deadline: Duration::from_secs(30),
        wide: Some(WideConfig {
            url: server.url(),
            authorities: None,
            namespace: "everybody".into(),
            lease: Duration::from_secs(2),
        }),
        ..RedisConfig::new(server.url(), "own")
    })
    .unwrap();
    for (wide, last) in [(false, START + 61_999), (true, START + 63_999)] {
        let scope = [Scope {
            key: "scope",
            limits: Limits {
                minute: Some(10),
                ..Limits::default()
            },
            cost: 10,
            wide,
        }];
        let ask = Ask {
            scopes: &scope,
            ..Ask::default()
        };
        for (now, granted) in [(START + 1_999, true), (last, false), (last + 1, true)] {
            redis.at(now);
            let answer = counters.admit(&ask).await.unwrap().answer;
            assert_eq!(
                matches!(answer, Answer::Granted(_)),
                granted,
                "{wide} {answer:?}"
            );
        }
    }
}
