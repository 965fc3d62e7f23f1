//! Asks cedar-policy for a second opinion on random policies.
//!
//!     oracle [--policies N] [--seed N]
//!
//! The last line is `N passed, N failed, 0 skipped`.

use std::{process::ExitCode, time::Instant};

use agentwall_engines::oracle::{Fault, Plan, run};

fn main() -> ExitCode {
    let mut plan = Plan { policies: 20_000, rules: 8, requests: 24, seed: 1 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|v| v.parse::<u64>().ok());
        match (name.as_str(), value) {
            ("--policies", Some(n)) => plan.policies = n as u32,
            ("--seed", Some(n)) => plan.seed = n,
            _ => {
                eprintln!("usage: oracle [--policies N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    let start = Instant::now();
    match run(plan, Fault::None) {
        Ok(tally) => println!("{tally:#?} {:?}", start.elapsed()),
        Err(e) => println!("{e}"),
    }
    ExitCode::SUCCESS
}
