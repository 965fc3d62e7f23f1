//! Kills and restarts, of servers and of instances, and a server that does not answer.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agentwall_budget::{
    Admission, Answer, Ask, Counters, OnFailure, RedisConfig, Scope, StoreError,
};
use tokio::task::JoinSet;

use crate::{
    ask, config, daily, granted, instance, jti,
    server::{ALWAYS, NEVER, Server},
    spent,
};

#[tokio::test]
async fn the_library_is_loaded_again_after_a_restart_without_it() {
    let mut server = Server::start(NEVER);
    let counters = instance(&config(&server.url()));
    assert_eq!(granted(&counters, daily("a", 10, 1)).await.0, 9);
    assert_eq!(server.said("FUNCTION FLUSH"), "+OK");
    assert_eq!(granted(&counters, daily("a", 10, 1)).await.0, 8);
    server.kill();
    assert!(counters.admit(&ask(&[daily("a", 10, 1)])).await.is_err());
    server.restart();
    // Nothing was kept, which is what was asked for.
    assert_eq!(granted(&counters, daily("a", 10, 1)).await.0, 9);
}

/// Until the limit is reached, a server that syncs each change is killed and started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_loses_no_charge_and_no_token() {
    const LIMIT: u64 = 4_000;
    let mut server = Server::start(ALWAYS);
    let instances: Vec<_> = (0..3).map(|_| instance(&config(&server.url()))).collect();
    let (granted, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..24 {
        let counters = Arc::clone(&instances[task % 3]);
        let (granted, unknown) = (Arc::clone(&granted), Arc::clone(&unknown));
        tasks.spawn(async move {
            let mut tokens = Vec::new();
            for call in 0.. {
                let token = format!("{task}-{call}");
                let scopes = [daily("global", LIMIT, 1)];
                let once = Ask {
                    jti: jti(&token),
                    ..ask(&scopes)
                };
                match counters.admit(&once).await.map(|a| a.answer) {
                    Ok(Answer::Granted(_)) => {
                        granted.fetch_add(1, Ordering::Relaxed);
                        tokens.push(token);
                    }
                    Ok(Answer::Limited(_)) => return tokens,
                    Ok(Answer::Replayed) => panic!("{token} was used once"),
                    // It may have been charged.
                    Err(StoreError::Unavailable(_)) => {
                        unknown.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            tokens
        });
    }
    for part in 1..4 {
        while granted.load(Ordering::Relaxed) < part * LIMIT / 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        server.restart();
    }
    let tokens = tasks.join_all().await.concat();
    let (granted, unknown) = (
        granted.load(Ordering::Relaxed),
        unknown.load(Ordering::Relaxed),
    );
    assert!(
        granted <= LIMIT && granted + unknown >= LIMIT,
        "{granted} granted, {unknown} unknown"
    );
    assert!(unknown > 0, "no call met a kill");
    let fresh = instance(&config(&server.url()));
    assert_eq!(spent(&fresh, "global").await, LIMIT);
    for token in &tokens {
        let again = Ask {
            jti: jti(token),
            ..Ask::default()
        };
        let answer = fresh.admit(&again).await.unwrap().answer;
        assert!(
            matches!(answer, Answer::Replayed),
            "{token} was accepted twice"
        );
    }
}

const CHILD: &str = "AGENTWALL_BUDGET_TEST_URL";

/// An instance as a process of its own: it admits until there is no room, and tells each grant.
#[tokio::test]
#[ignore = "started by other tests as an instance"]
async fn an_instance() {
    let Ok(url) = std::env::var(CHILD) else {
        panic!("{CHILD} is not set: other tests start this");
    };
    let counters = instance(&config(&url));
    let mut calls = 0;
    loop {
        let token = format!("{}-{calls}", std::process::id());
        calls += 1;
        let scopes = [daily("global", 3_000, 1)];
        let once = Ask {
            jti: jti(&token),
            ..ask(&scopes)
        };
        match counters.admit(&once).await.unwrap().answer {
            Answer::Granted(_) => println!("granted {token}"),
            _ => return,
        }
    }
}

fn child(url: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "failure::an_instance",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_instances_lose_no_charge_and_hold_nothing_back() {
    let server = Server::start(NEVER);
    let mut children: Vec<_> = (0..3).map(|_| child(&server.url())).collect();
    let readers: Vec<_> = children
        .iter_mut()
        .map(|child| {
            let told = BufReader::new(child.stdout.take().unwrap());
            std::thread::spawn(move || {
                let lines = told.lines().map_while(Result::ok);
                let grants = lines.filter_map(|l| l.split("granted ").nth(1).map(str::to_owned));
                grants.collect::<Vec<_>>()
            })
        })
        .collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let counters = instance(&config(&server.url()));
    let spent = || runtime.block_on(spent(&counters, "global"));
    while spent() < 1_000 {
        std::thread::yield_now();
    }
    children[0].kill().unwrap();
    while spent() < 2_000 {
        std::thread::yield_now();
    }
    children[1].kill().unwrap();
    let told: Vec<String> = readers
        .into_iter()
        .flat_map(|r| r.join().unwrap())
        .collect();
    for mut child in children {
        child.wait().unwrap();
    }
    assert_eq!(spent(), 3_000);
    // Each of the two had at most one call that it could not tell of any more.
    let told_of = told.len();
    assert!((2_998..=3_000).contains(&told_of), "{told_of} grants");
    let different: std::collections::HashSet<_> = told.iter().collect();
    assert_eq!(different.len(), told_of);
}

async fn admitted(
    counters: &Counters,
    scope: Scope<'_>,
    how: OnFailure,
) -> Result<Admission, StoreError> {
    let scopes = [scope];
    let ask = Ask {
        on_failure: how,
        ..ask(&scopes)
    };
    counters.admit(&ask).await
}

#[tokio::test]
async fn without_its_store_a_call_is_answered_as_its_capability_says() {
    let mut server = Server::start(ALWAYS);
    let counters = instance(&RedisConfig {
        instances: 3.try_into().unwrap(),
        ..config(&server.url())
    });
    // 60 are left, a third of which is this instance's.
    granted(&counters, daily("a", 100, 40)).await;
    let (_, under_way) = granted(&counters, daily("d", 100, 10)).await;
    let (_, cheap) = granted(&counters, daily("d", 100, 10)).await;
    let used = Ask {
        jti: jti("used before"),
        on_failure: OnFailure::Open,
        ..Ask::default()
    };
    counters.admit(&used).await.unwrap();
    server.kill();

    let one = daily("a", 100, 1);
    let closed = admitted(&counters, one, OnFailure::Closed).await;
    assert!(
        matches!(closed, Err(StoreError::Unavailable(_))),
        "{closed:?}"
    );
    let mut alone = 0;
    loop {
        let admission = admitted(&counters, one, OnFailure::Local).await.unwrap();
        assert_eq!(admission.degraded.unwrap().how, OnFailure::Local);
        match admission.answer {
            Answer::Granted(_) => alone += 1,
            _ => break,
        }
    }
    assert_eq!(alone, 20);
    // What it has not heard of it does not grant.
    let unheard = admitted(&counters, daily("b", 100, 1), OnFailure::Local).await;
    assert!(matches!(unheard, Err(StoreError::Unavailable(_))));
    let open = admitted(&counters, daily("b", 1, 7), OnFailure::Open)
        .await
        .unwrap();
    assert!(matches!(open.answer, Answer::Granted(_)));
    assert_eq!(open.degraded.unwrap().how, OnFailure::Open);
    // A token that this instance has seen is known also now.
    let answer = counters.admit(&used).await.unwrap().answer;
    assert!(matches!(answer, Answer::Replayed));

    // What was spent beyond an estimate is not lost; what was not spent stays charged.
    assert!(counters.commit(&under_way, &[15]).await.is_err());
    assert!(counters.commit(&cheap, &[1]).await.is_err());

    server.restart();
    // As soon as it is asked again, it is told what was granted without it.
    let mut back = admitted(&counters, daily("c", 1, 0), OnFailure::Closed).await;
    while back.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        back = admitted(&counters, daily("c", 1, 0), OnFailure::Closed).await;
    }
    assert_eq!(back.unwrap().degraded, None);
    assert_eq!(
        (spent(&counters, "a").await, spent(&counters, "b").await),
        (60, 7)
    );
    assert_eq!(spent(&counters, "d").await, 25);
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up_and_found_again() {
    let server = Server::start(NEVER);
    let counters = instance(&RedisConfig {
        deadline: Duration::from_millis(50),
        ..config(&server.url())
    });
    let one = daily("a", 100, 1);
    // The first call may take longer than its deadline on a busy machine; a later one finds the library.
    while admitted(&counters, one, OnFailure::Closed).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.running(false);
    let mut reasons = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let Err(StoreError::Unavailable(why)) = admitted(&counters, one, OnFailure::Closed).await
        else {
            panic!("a stopped server has answered");
        };
        reasons.insert(why);
    }
    // Three waited for their deadline; the others were spared it.
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    server.running(true);
    while admitted(&counters, one, OnFailure::Closed).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
