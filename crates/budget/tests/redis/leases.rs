//! Scopes that are wider than a namespace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_budget::{Answer, RedisConfig, Scope, Settled, WideConfig};
use tokio::task::JoinSet;

use crate::{
    PATIENT, ask, config, daily, granted, instance, is_granted,
    server::{NEVER, Server},
    spent,
};

fn wide(server: &Server) -> RedisConfig {
    RedisConfig {
        wide: Some(WideConfig {
            url: server.url(),
            authorities: None,
            namespace: "everybody".into(),
            lease: Duration::from_secs(2),
        }),
        ..config(&server.url())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_never_grant_more_and_need_few_questions() {
    const LIMIT: u64 = 20_000;
    let server = Server::start(NEVER);
    let instances: Vec<_> = (0..3).map(|_| instance(&wide(&server))).collect();
    let everybody = Scope {
        wide: true,
        ..daily("everybody", LIMIT, 1)
    };
    let granted = Arc::new(AtomicU64::new(0));
    let deadline = Instant::now() + PATIENT;
    // Slices that were not used up are there again when they have ended.
    while granted.load(Ordering::Relaxed) < LIMIT {
        let mut tasks = JoinSet::new();
        for task in 0..12 {
            let (counters, granted) = (Arc::clone(&instances[task % 3]), Arc::clone(&granted));
            tasks.spawn(async move {
                while is_granted(&counters, everybody).await {
                    let now = granted.fetch_add(1, Ordering::Relaxed) + 1;
                    assert!(now <= LIMIT, "{now} granted");
                }
            });
        }
        tasks.join_all().await;
        assert!(Instant::now() < deadline, "{granted:?} granted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A tenth is charged call by call; the rest in slices.
    let calls = server.calls();
    assert!(calls < LIMIT / 4, "{calls} questions for {LIMIT} calls");
}

#[tokio::test]
async fn a_wide_scope_without_room_takes_the_other_charges_back() {
    let server = Server::start(NEVER);
    let counters = instance(&wide(&server));
    let scopes = [
        daily("own", 10, 1),
        Scope {
            wide: true,
            ..daily("everybody", 1, 1)
        },
    ];
    assert!(matches!(
        counters.admit(&ask(&scopes)).await.unwrap().answer,
        Answer::Granted(_)
    ));
    let Answer::Limited(why) = counters.admit(&ask(&scopes)).await.unwrap().answer else {
        panic!("the wide one is used up");
    };
    assert_eq!(why.scope, 1);
    assert_eq!(spent(&counters, "own").await, 1);
}

#[tokio::test]
async fn what_an_instance_holds_of_a_slice_can_be_released() {
    let server = Server::start(NEVER);
    let counters = instance(&wide(&server));
    let everybody = |cost| Scope {
        wide: true,
        ..daily("everybody", 10_000, cost)
    };
    // The first call is charged by itself, the second from a slice of a twentieth.
    let (_, first) = granted(&counters, everybody(100)).await;
    let (left, second) = granted(&counters, everybody(100)).await;
    assert_eq!(left, 10_000 - 100 - 495);
    assert_eq!(counters.release(&first).await, Ok(Settled::Now));
    assert_eq!(counters.release(&second).await, Ok(Settled::Now));
    // In the end, everything is there again.
    // The first call of an instance is charged by itself, and so tells what all others hold.
    let deadline = Instant::now() + PATIENT;
    loop {
        let other = instance(&wide(&server));
        let (left, probe) = granted(&other, everybody(1)).await;
        other.release(&probe).await.unwrap();
        if left == 9_999 {
            break;
        }
        assert!(Instant::now() < deadline, "{left} left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
