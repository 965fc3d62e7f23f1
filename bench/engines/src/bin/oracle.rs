//! Asks cedar-policy for a second opinion on random policies.
//!
//!     oracle [--policies N] [--seed N]
//!
//! The same numbers ask the same questions. Beside the answers it checks that no form of pattern was
//! one-sided, and that faults planted in the translation are found. The last line is `N passed, N
//! failed, 0 skipped`; a failure comes with the shrunk policy in both languages.

use std::{process::ExitCode, time::Instant};

use agentwall_engines::oracle::{Fault, Plan, Tally, run};

/// Policies in which a planted fault has to be found.
const PLANTED: u32 = 4_000;

fn main() -> ExitCode {
    let mut plan = Plan {
        policies: 8_000,
        rules: 8,
        requests: 48,
        seed: 1,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next();
        let number = value.as_ref().and_then(|v| v.parse().ok());
        match (name.as_str(), number) {
            ("--policies", Some(n)) if n <= u64::from(u32::MAX) => plan.policies = n as u32,
            ("--seed", Some(n)) => plan.seed = n,
            _ => {
                eprintln!("usage: oracle [--policies N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    let (mut passed, mut failed) = (0, 0);
    let mut result = |name: &str, outcome: Result<String, String>| {
        match &outcome {
            Ok(text) => println!("ok   {name}: {text}"),
            Err(text) => println!("FAIL {name}: {text}"),
        }
        *(if outcome.is_ok() {
            &mut passed
        } else {
            &mut failed
        }) += 1;
    };
    println!("seed {}", plan.seed);
    let start = Instant::now();
    match run(plan, Fault::None) {
        Err(error) => result("answers", Err(error)),
        Ok(tally) => {
            result("answers", Ok(told(&tally, start)));
            result("forms", both_sides(&tally));
        }
    }
    let plan = Plan {
        policies: PLANTED,
        ..plan
    };
    for fault in [
        Fault::CountGuard,
        Fault::DirectoryClause,
        Fault::DenyIsAllow,
    ] {
        let outcome = match run(plan, fault) {
            Err(_) => Ok("found".to_owned()),
            Ok(_) => Err(format!(
                "not found in {PLANTED} policies, seed {}",
                plan.seed
            )),
        };
        result(&format!("planted {fault:?}"), outcome);
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn told(tally: &Tally, start: Instant) -> String {
    format!(
        "{} policies, {} requests, compiled, interpreted and by Cedar: {} allowed, {} denied by a \
         rule, {} by default; {:.1} s",
        tally.policies,
        tally.pairs,
        tally.allowed,
        tally.denied,
        tally.default,
        start.elapsed().as_secs_f64()
    )
}

/// Every form of pattern led to requests that a rule decided, and to others.
fn both_sides(tally: &Tally) -> Result<String, String> {
    let mut one_sided = Vec::new();
    for (form, (decided, not)) in &tally.forms {
        println!("     {form:<28} {decided:>8} decided {not:>8} not");
        if *decided == 0 || *not == 0 {
            one_sided.push(*form);
        }
    }
    match one_sided.is_empty() {
        true => Ok(format!(
            "{} of patterns, each seen both ways",
            tally.forms.len()
        )),
        false => Err(format!("seen one way only: {}", one_sided.join(", "))),
    }
}
