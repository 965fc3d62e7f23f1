//! How long a commit of many small files takes; prints, asserts nothing about time.

#![allow(clippy::unwrap_used)]

mod common;
use common::Session;

use std::time::Instant;

#[test]
#[ignore = "a measurement: --ignored --nocapture"]
fn ten_thousand_small_files() {
    let all = std::env::var("AGENTWALL_PACE_FILES").ok();
    let all: usize = all.and_then(|v| v.parse().ok()).unwrap_or(10_000);
    for round in 0..3 {
        let s = Session::new("mkdir old new");
        for n in 0..all / 2 {
            std::fs::write(s.root().join(format!("old/{n}")), "old\n").unwrap();
        }
        let s = s.begun_now();
        for dir in ["old", "new"] {
            std::fs::create_dir(s.upper().join(dir)).unwrap();
            for n in 0..all / 2 {
                std::fs::write(s.upper().join(format!("{dir}/{n}")), "agent\n").unwrap();
            }
        }
        let set = s.scan();
        assert_eq!(set.changes.len(), all);
        rustix::fs::sync();
        let start = Instant::now();
        let report = s.commit(&set);
        let took = start.elapsed();
        assert!(report.is_complete());
        println!(
            "round {round}: commit of {all} files: {:.3} s",
            took.as_secs_f64()
        );
    }
}
