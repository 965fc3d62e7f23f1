//! Durable appends per second with 1 and with 64 writers, and the flushes each commit costs.
//!
//! `cargo run --release --example append_rate [FOLDER] [SECONDS]`; the folder should be on the file
//! system that is of interest, the default is the system's folder for temporary files.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use agentwall_ledger::{
    Log, VerifyOptions,
    entry::{Entry, Gap, Record},
    key, verify,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let base = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = args
        .next()
        .and_then(|s| s.to_str()?.parse().ok())
        .unwrap_or(3);
    let root = base.join(format!("append-rate-{}", std::process::id()));
    std::fs::create_dir_all(&root)?;
    let result = run(&root, Duration::from_secs(seconds));
    std::fs::remove_dir_all(&root)?;
    result
}

fn run(root: &std::path::Path, time: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let dir = root.join("ledger");
    let signer = key::load_or_create(&root.join("ledger.key"), "agentwall.example/bench")?;
    let record = Entry::now("bench", 0, Record::Gap(Gap::default())).to_bytes();
    for writers in [1, 64] {
        let log = Log::open(&dir, signer.clone())?;
        let (done, slowest) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = Instant::now();
        std::thread::scope(|s| {
            for _ in 0..writers {
                s.spawn(|| {
                    while start.elapsed() < time {
                        let before = Instant::now();
                        if let Err(e) = log.append(&record) {
                            eprintln!("{e}");
                            return;
                        }
                        let micros = before.elapsed().as_micros() as u64;
                        slowest.fetch_max(micros, Ordering::Relaxed);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let (done, elapsed) = (done.into_inner(), start.elapsed());
        println!(
            "{writers:>2} writers: {:>7.0} durable appends/s, mean {:.3} ms, slowest {:.1} ms",
            done as f64 / elapsed.as_secs_f64(),
            elapsed.as_secs_f64() * 1e3 * f64::from(writers) / done as f64,
            slowest.into_inner() as f64 / 1e3
        );
    }
    let start = Instant::now();
    let log = Log::open(&dir, signer.clone())?;
    println!("open: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    let entries = vec![record.as_slice(); 10_000];
    let size = log.checkpoint().map_or(0, |c| c.size);
    for _ in size / 10_000..100 {
        log.append_batch(&entries)?;
    }
    log.close()?;
    let start = Instant::now();
    let log = Log::open(&dir, signer.clone())?;
    println!(
        "open a long log: {:.3} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    drop(log);
    let start = Instant::now();
    let report = verify(&dir, &VerifyOptions::new(signer.verifier()))?;
    println!(
        "verify {} entries: {:.2} s",
        report.size,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
