//! Counters in a real Redis, asked by several instances.

#![allow(clippy::unwrap_used)]

mod failure;
mod leases;
#[path = "../server/mod.rs"]
mod server;

use std::{sync::Arc, time::Duration};

use agentwall_budget::{
    Answer, Ask, Counters, Jti, Limits, Redis, RedisConfig, Reservation, Scope, Settled,
    StoreError, UNIT, Window,
};
use server::{NEVER, Server};
use tokio::task::JoinSet;

/// Far beyond what a call needs: these tests are about counts, not about time.
const PATIENT: Duration = Duration::from_secs(30);
const NINETY: Duration = Duration::from_secs(90);

fn config(url: &str) -> RedisConfig {
    RedisConfig {
        deadline: PATIENT,
        ..RedisConfig::new(url, "test")
    }
}

fn instance(config: &RedisConfig) -> Arc<Counters> {
    Arc::new(Counters::Redis(Box::new(Redis::new(config).unwrap())))
}

fn daily(key: &str, limit: u64, cost: u64) -> Scope<'_> {
    Scope {
        key,
        limits: Limits {
            day: Some(limit),
            ..Limits::default()
        },
        cost,
        wide: false,
    }
}

fn jti(value: &str) -> Option<Jti<'_>> {
    Some(Jti {
        identity: "agent",
        value,
        window: NINETY,
    })
}

fn ask<'a>(scopes: &'a [Scope<'a>]) -> Ask<'a> {
    Ask {
        scopes,
        ..Ask::default()
    }
}

/// What is left after a granted call, and its reservation.
async fn granted(counters: &Counters, scope: Scope<'_>) -> (u64, Reservation) {
    match counters.admit(&ask(&[scope])).await.unwrap().answer {
        Answer::Granted(grant) => (grant.left[0].left, grant.reservation.unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn is_granted(counters: &Counters, scope: Scope<'_>) -> bool {
    let answer = counters.admit(&ask(&[scope])).await.unwrap().answer;
    matches!(answer, Answer::Granted(_))
}

/// What is spent of a limit that is far away.
async fn spent(counters: &Counters, key: &str) -> u64 {
    let limit = 1_000_000 * UNIT;
    limit - granted(counters, daily(key, limit, 0)).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_grant_exactly_the_limit() {
    let server = Server::start(NEVER);
    let instances: Vec<_> = (0..3).map(|_| instance(&config(&server.url()))).collect();
    let mut calls = JoinSet::new();
    for call in 0..20_000 {
        let counters = Arc::clone(&instances[call % 3]);
        calls.spawn(async move { is_granted(&counters, daily("global", 1_000, 1)).await });
    }
    let granted = calls.join_all().await.into_iter().filter(|g| *g).count();
    assert_eq!(granted, 1_000);
}

#[tokio::test]
async fn all_scopes_are_charged_or_none_and_a_replay_spends_nothing() {
    let server = Server::start(NEVER);
    let (one, two) = (
        instance(&config(&server.url())),
        instance(&config(&server.url())),
    );
    let both = [daily("wide", 10, 1), daily("narrow", 1, 1)];
    let once = Ask {
        jti: jti("t1"),
        ..ask(&both)
    };
    assert!(matches!(
        one.admit(&once).await.unwrap().answer,
        Answer::Granted(_)
    ));
    for other in [&one, &two] {
        assert!(matches!(
            other.admit(&once).await.unwrap().answer,
            Answer::Replayed
        ));
    }
    let limited = Ask {
        jti: jti("t2"),
        ..once
    };
    let Answer::Limited(why) = one.admit(&limited).await.unwrap().answer else {
        panic!("the narrow one is used up");
    };
    assert_eq!((why.scope, why.window, why.left), (1, Window::Day, 0));
    assert!(why.retry_after.unwrap() > Window::Day.length() - Duration::from_secs(60));
    // A token is used up by any answer.
    assert!(matches!(
        two.admit(&limited).await.unwrap().answer,
        Answer::Replayed
    ));
    assert_eq!(
        (spent(&two, "wide").await, spent(&two, "narrow").await),
        (1, 1)
    );
}

#[tokio::test]
async fn a_reservation_is_corrected_once_and_not_after_its_store_has_lost_it() {
    let server = Server::start(NEVER);
    let counters = instance(&config(&server.url()));
    let (left, first) = granted(&counters, daily("a", 10, 6)).await;
    assert_eq!(left, 4);
    assert_eq!(counters.commit(&first, &[2]).await, Ok(Settled::Now));
    assert_eq!(counters.commit(&first, &[0]).await, Ok(Settled::Before));
    assert_eq!(spent(&counters, "a").await, 2);
    let (_, second) = granted(&counters, daily("a", 10, 3)).await;
    assert_eq!(counters.commit(&second, &[20]).await, Ok(Settled::Now));
    assert_eq!(spent(&counters, "a").await, 22);
    let (_, third) = granted(&counters, daily("b", 10, 3)).await;
    assert_eq!(counters.release(&third).await, Ok(Settled::Now));
    assert_eq!(spent(&counters, "b").await, 0);
    // The charge is lost with its record: giving back would take what others have spent since.
    let (_, lost) = granted(&counters, daily("c", 10, 4)).await;
    assert_eq!(server.said("FLUSHALL"), "+OK");
    let (_, _others) = granted(&counters, daily("c", 10, 5)).await;
    assert_eq!(counters.release(&lost).await, Ok(Settled::Before));
    assert_eq!(spent(&counters, "c").await, 5);
}

#[tokio::test]
async fn a_token_with_a_reservation_stays_known_when_that_is_settled() {
    let server = Server::start(NEVER);
    let one = instance(&config(&server.url()));
    let two = instance(&config(&server.url()));
    let scopes = [daily("a", 10, 1)];
    let once = Ask {
        jti: jti("t"),
        ..ask(&scopes)
    };
    let Answer::Granted(grant) = one.admit(&once).await.unwrap().answer else {
        panic!("there is room");
    };
    let reservation = grant.reservation.unwrap();
    assert_eq!(one.release(&reservation).await, Ok(Settled::Now));
    assert!(matches!(
        two.admit(&once).await.unwrap().answer,
        Answer::Replayed
    ));
}

#[tokio::test]
async fn all_keys_of_a_question_are_in_one_slot_of_a_cluster_whichever_server_has_it() {
    let (servers, url) = server::cluster();
    // Slots 15495 and 3300: one of the second server, one of the first.
    for (namespace, owner) in [("a", 1), ("b", 0)] {
        let counters = instance(&RedisConfig {
            namespace: namespace.into(),
            ..config(&url)
        });
        let scopes = ["agent:a", "host:h", "everybody"].map(|key| daily(key, 10, 1));
        let once = Ask {
            jti: jti("t"),
            ..ask(&scopes)
        };
        let Answer::Granted(grant) = counters.admit(&once).await.unwrap().answer else {
            panic!("there is room");
        };
        let reservation = grant.reservation.unwrap();
        assert_eq!(counters.release(&reservation).await, Ok(Settled::Now));
        assert_eq!(servers[owner].said("DBSIZE"), ":4");
    }
}

#[tokio::test]
async fn a_server_without_a_certificate_that_is_trusted_is_not_asked() {
    let (server, url, certificate) = server::with_tls();
    let trusting = instance(&RedisConfig {
        authorities: Some(certificate.clone()),
        ..config(&url)
    });
    assert_eq!(granted(&trusting, daily("a", 10, 1)).await.0, 9);
    let by_address = RedisConfig {
        authorities: Some(certificate.clone()),
        ..config(&url.replace("localhost", "127.0.0.1"))
    };
    for untrusted in [config(&url), by_address] {
        let refused = instance(&untrusted).admit(&ask(&[daily("a", 10, 1)])).await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable(_))),
            "{refused:?}"
        );
    }
    assert_eq!(spent(&trusting, "a").await, 1);
    let plain = RedisConfig {
        authorities: Some(certificate),
        ..config(&server.url())
    };
    assert!(Redis::new(&plain).is_err());
}
