//! Keeps the originals of a tree by reflink once, as beside a session: files, and nanoseconds from the
//! start until they are durable, the head start of a session included, as JSON.
//!
//! `cargo run --release --example originals ROOT FOLDER`; FOLDER gets an upper directory, the originals
//! lie next to it. Both on one file system with reflink, or it fails.

use std::{path::PathBuf, thread::sleep, time::Duration, time::Instant};

use agentwall_cow::{KeepLimits, Layer, Limits, Taker, base_timestamp, keeps_originals};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: originals ROOT FOLDER".into());
    };
    let upper = folder.join("upper");
    std::fs::create_dir_all(&upper)?;
    let base = base_timestamp(&folder, None)?;
    let layer = Layer::begin(root.canonicalize()?, &upper, folder.join("work"), base)?;
    let start = Instant::now();
    let taker = Taker::keeping(
        vec![layer.clone()],
        Vec::new(),
        Limits::default(),
        KeepLimits::default(),
    );
    while !keeps_originals(&layer) {
        if start.elapsed() > Duration::from_secs(90) {
            let why = taker.finish().pop().map(|t| t.originals);
            return Err(format!("no originals are kept: {why:?}").into());
        }
        sleep(Duration::from_millis(1));
    }
    let kept = start.elapsed();
    let files = std::fs::read_dir(folder.join("upper.originals"))?.count();
    println!("{{\"files\": {files}, \"keep_ns\": {}}}", kept.as_nanos());
    Ok(())
}
