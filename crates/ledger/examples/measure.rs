//! Durable appends per second with 1 and with 64 writers, opening and verifying a log of a million
//! entries; beside it what one flush of a new file costs on the same disk at the same time.
//!
//! `cargo run --release --example append_rate [FOLDER] [SECONDS]`; the folder should be on the file
//! system that is of interest, the default is the system's folder for temporary files.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Mutex,
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

fn run(root: &Path, time: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let dir = root.join("ledger");
    let signer = key::load_or_create(&root.join("ledger.key"), "agentwall.example/bench")?;
    println!("one flush of a new file: median {:.3} ms", flush(root)?);
    let record = Entry::now("bench", 0, Record::Gap(Gap::default())).to_bytes();
    for writers in [1, 64] {
        let log = Log::open(&dir, signer.clone())?;
        let times = Mutex::new(Vec::new());
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
                        let took = before.elapsed().as_secs_f64() * 1e3;
                        times.lock().expect("no panic").push(took);
                    }
                });
            }
        });
        let (mut times, elapsed) = (times.into_inner()?, start.elapsed());
        times.sort_by(f64::total_cmp);
        println!(
            "{writers:>2} writers: {:>6.0} durable appends/s, median {:.3} ms, 90 % within {:.3} ms",
            times.len() as f64 / elapsed.as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 9 / 10]
        );
    }
    println!("one flush of a new file: median {:.3} ms", flush(root)?);
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

/// Median time of one flush of a new small file, in ms.
fn flush(root: &Path) -> std::io::Result<f64> {
    let mut times = Vec::new();
    for i in 0..101 {
        let path = root.join(format!("flush-{i}"));
        let mut file = File::create(&path)?;
        file.write_all(&[0; 300])?;
        let before = Instant::now();
        file.sync_all()?;
        times.push(before.elapsed().as_secs_f64() * 1e3);
        std::fs::remove_file(path)?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
