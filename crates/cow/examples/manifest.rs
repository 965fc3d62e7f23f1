//! Takes the base manifest of a tree once and reads it back: objects, bytes and nanoseconds, as JSON.
//!
//! `cargo run --release --example manifest ROOT FOLDER`; FOLDER gets an upper directory, the manifest
//! lies next to it. The time to take it includes making it durable.

use std::{path::PathBuf, time::Instant};

use agentwall_cow::{Layer, Limits, Manifest, base_timestamp, take};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(root), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: manifest ROOT FOLDER".into());
    };
    let upper = folder.join("upper");
    std::fs::create_dir_all(&upper)?;
    let base = base_timestamp(&folder, None)?;
    let layer = Layer::begin(root.canonicalize()?, upper, folder.join("work"), base)?;
    let start = Instant::now();
    let objects = take(&layer, Limits::default())??;
    let taken = start.elapsed();
    let start = Instant::now();
    let manifest = Manifest::of(&layer)??;
    let read = start.elapsed();
    if manifest.len() != objects {
        return Err("what was read is not what was written".into());
    }
    let bytes = std::fs::metadata(folder.join("upper.manifest"))?.len();
    println!(
        "{{\"objects\": {objects}, \"bytes\": {bytes}, \"take_ns\": {}, \"read_ns\": {}}}",
        taken.as_nanos(),
        read.as_nanos()
    );
    Ok(())
}
