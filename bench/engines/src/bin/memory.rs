//! The same rule sets in this engine, Cedar and regorus: memory, counted by the allocator.
//!
//!     memory [--quick] [--json FILE]
//!
//! `kept` is what the loaded rules hold, `peak` the most that was held on the way. It is a program of
//! its own, because counting makes allocating slower.

use std::{process::ExitCode, sync::Arc};

use agentwall_engines::race::{
    engines::{cedar_set, cedar_text, compile, read, rego, rego_machine},
    rules::{Mix, Rules},
};
use allocation_counter::{AllocationInfo, measure};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let mut file = None;
    let mut sizes: &[usize] = &[10, 100, 1_000, 10_000];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => sizes = &sizes[..3],
            "--json" => file = arguments.next(),
            _ => {
                eprintln!("usage: memory [--quick] [--json FILE]");
                return ExitCode::from(2);
            }
        }
    }
    println!(
        "{:<9} {:>6} {:<18} {:>12} {:>12}",
        "rules", "", "engine", "kept KiB", "peak KiB"
    );
    let mut cells = Vec::new();
    for mix in Mix::ALL {
        for count in sizes {
            match weigh(&Rules { mix, count: *count }) {
                Ok(rows) => cells.extend(rows),
                Err(error) => {
                    eprintln!("{} {count}: {error}", mix.name());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    if let Some(file) = file
        && let Err(error) = std::fs::write(&file, Value::from(cells).to_string())
    {
        eprintln!("{file}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn weigh(rules: &Rules) -> Result<Vec<Value>, String> {
    let mut rows = Vec::new();
    let mut note = |engine: &str, info: AllocationInfo| {
        let (kept, peak) = (info.bytes_current, info.bytes_max);
        println!(
            "{:<9} {:>6} {:<18} {:>12.1} {:>12.1}",
            rules.mix.name(),
            rules.count,
            engine,
            kept as f64 / 1024.0,
            peak as f64 / 1024.0
        );
        rows.push(json!({
            "mix": rules.mix.name(), "rules": rules.count, "engine": engine,
            "kept": kept, "peak": peak,
        }));
    };
    let text = rules.ours();
    let (policy, info) = weighed(|| read(&text).map(Arc::new));
    let policy = policy?;
    note("agentwall, read", info);
    let (_compiled, info) = weighed(|| compile(&policy));
    note("agentwall, compiled", info);
    if Mix::PEERS.contains(&rules.mix) {
        let text = cedar_text(rules);
        let (set, info) = weighed(|| cedar_set(&text));
        set?;
        note("cedar", info);
        let files = rules.rego();
        let (made, info) = weighed(|| rego(files));
        let (_engine, policy) = made?;
        note("regorus", info);
        let (machine, info) = weighed(|| rego_machine(&policy));
        if machine?.is_some() {
            note("regorus vm, on top", info);
        }
    }
    Ok(rows)
}

/// What a function gives, still held, and what it took.
fn weighed<T>(make: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut made = None;
    let info = measure(|| made = Some(make()));
    // `measure` runs its function exactly once.
    (made.expect("made"), info)
}
