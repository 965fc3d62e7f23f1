//! Tokens against a real server, without what an instance remembers itself.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::{super::server, *};

async fn duplicates(calls: u64) {
    const TASKS: u64 = 64;
    let server = server::Server::start(server::NEVER);
    let accepted = Arc::new(AtomicU64::new(0));
    let patient = Duration::from_secs(30);
    let shards: Vec<_> = (0..3)
        .map(|_| {
            Arc::new(Shard::new(client(&server.url(), None).unwrap(), "test", patient, 0).unwrap())
        })
        .collect();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (shard, accepted) = (
            Arc::clone(&shards[task as usize % 3]),
            Arc::clone(&accepted),
        );
        tasks.spawn(async move {
            let (window, hold) = (Duration::from_secs(600), Duration::from_secs(900));
            for _ in 0..calls / TASKS {
                match shard.admit("j:the-same", window, hold, &[]).await.unwrap() {
                    Said::Granted(..) => _ = accepted.fetch_add(1, Ordering::Relaxed),
                    said => assert_eq!(said, Said::Replayed),
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    // One more loads the library.
    assert!(server.calls() >= calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_duplicates_one_is_accepted() {
    duplicates(32_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: cargo test --release -p agentwall-budget a_million -- --ignored"]
async fn of_a_million_concurrent_duplicates_one_is_accepted() {
    duplicates(1_000_000).await;
}
