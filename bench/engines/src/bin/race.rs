//! The same rule sets in this engine, Cedar and regorus: time per decision, and to compile.
//!
//!     race [--quick] [--ours] [--mix NAME] [--rules N] [--json FILE]
//!
//! `--ours` leaves the others out, `--mix` and `--rules` pick rule sets: for a look with a profiler.
//! First every engine answers every request, and all answers have to be the expected ones. Then the
//! engines take turns, round by round, so that what else the machine does meets all of them. The table
//! shows medians over the rounds; the file has every round.

use std::{process::ExitCode, time::Duration};

use agentwall_engines::race::{
    clock::{Times, measure, percentile},
    engines::{Cedar, Ours, Rego},
    rules::{Mix, Request, Rules},
};
use serde_json::{Value, json};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const REQUESTS: usize = 512;

/// What to measure, and how long.
#[derive(Debug)]
struct Options {
    rounds: usize,
    budget: Duration,
    peers: bool,
    mix: Option<Mix>,
    rules: Option<usize>,
    file: Option<String>,
}

impl Options {
    /// `None` for wrong usage.
    fn read(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
        let mut options = Options {
            rounds: 5,
            budget: Duration::from_millis(200),
            peers: true,
            mix: None,
            rules: None,
            file: None,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => {
                    (options.rounds, options.budget) = (3, Duration::from_millis(60));
                }
                "--ours" => options.peers = false,
                "--mix" => {
                    let name = arguments.next()?;
                    options.mix = Some(Mix::ALL.into_iter().find(|m| m.name() == name)?);
                }
                "--rules" => {
                    let many = arguments.next()?.parse().ok()?;
                    options.rules = Some(many).filter(|n| *n > 0);
                }
                "--json" => options.file = Some(arguments.next()?),
                _ => return None,
            }
        }
        Some(options)
    }
}

fn main() -> ExitCode {
    let Some(options) = Options::read(std::env::args().skip(1)) else {
        eprintln!("usage: race [--quick] [--ours] [--mix NAME] [--rules N] [--json FILE]");
        return ExitCode::from(2);
    };
    println!(
        "{:<9} {:>6} {:<18} {:>12} {:>12} {:>12} {:>10}",
        "rules", "", "engine", "p50 ns", "p99 ns", "compile ms", "ours is"
    );
    let mut cells = Vec::new();
    let sizes = options.rules.map_or(SIZES.to_vec(), |n| vec![n]);
    for mix in Mix::ALL {
        if options.mix.is_some_and(|only| only != mix) {
            continue;
        }
        for &count in &sizes {
            match race(&Rules { mix, count }, &options) {
                Ok(rows) => cells.extend(rows),
                Err(error) => {
                    eprintln!("{} {count}: {error}", mix.name());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    if let Some(file) = options.file
        && let Err(error) = std::fs::write(&file, Value::from(cells).to_string())
    {
        eprintln!("{file}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// One rule set in all engines; a line and a record for each.
fn race(rules: &Rules, options: &Options) -> Result<Vec<Value>, String> {
    let requests = rules.requests(REQUESTS);
    let ours = Ours::new(rules, &requests)?;
    let with_peers = options.peers && Mix::PEERS.contains(&rules.mix);
    let mut peers = match with_peers {
        true => Some((Cedar::new(rules, &requests)?, Rego::new(rules, &requests)?)),
        false => None,
    };
    agree(&requests, &ours, peers.as_mut())?;

    let mut rounds: Vec<(&str, Vec<Times>, Vec<Duration>)> = Vec::new();
    let mut note =
        |name, times, took: &[Duration]| match rounds.iter_mut().find(|(n, _, _)| *n == name) {
            Some((_, all, _)) => all.push(times),
            None => rounds.push((name, vec![times], took.to_vec())),
        };
    for _ in 0..options.rounds {
        let budget = options.budget;
        note(
            "agentwall",
            measure(REQUESTS, budget, |r| ours.decide(r)),
            &ours.took,
        );
        let Some((cedar, rego)) = &mut peers else {
            continue;
        };
        note(
            "cedar, one policy",
            measure(REQUESTS, budget, |r| cedar.slice(r)),
            &[],
        );
        note(
            "cedar",
            measure(REQUESTS, budget, |r| cedar.decide(r)),
            &[cedar.took],
        );
        note(
            "regorus",
            measure(REQUESTS, budget, |r| rego.interpret(r)),
            &rego.took[..1],
        );
        if rego.has_machine() {
            let times = measure(REQUESTS, budget, |r| rego.decide(r));
            note("regorus vm", times, &rego.took[1..]);
        }
    }

    let median = |times: &[Times], of: fn(&Times) -> f64| {
        percentile(&mut times.iter().map(of).collect::<Vec<_>>(), 50)
    };
    let own = median(&rounds[0].1, |t| t.p50);
    let mut rows = Vec::new();
    for (engine, times, took) in &rounds {
        let (p50, p99) = (median(times, |t| t.p50), median(times, |t| t.p99));
        let took: Vec<f64> = took.iter().map(|t| t.as_secs_f64() * 1e3).collect();
        println!(
            "{:<9} {:>6} {:<18} {:>12.1} {:>12.1} {:>12} {:>9.1}x",
            rules.mix.name(),
            rules.count,
            engine,
            p50,
            p99,
            took.last().map_or(String::new(), |t| format!("{t:.1}")),
            p50 / own,
        );
        rows.push(json!({
            "mix": rules.mix.name(), "rules": rules.count, "engine": engine, "took_ms": took,
            "p50": times.iter().map(|t| t.p50).collect::<Vec<_>>(),
            "p99": times.iter().map(|t| t.p99).collect::<Vec<_>>(),
        }));
    }
    Ok(rows)
}

/// Every engine gives every answer that is expected; else a time would be a time of something else.
fn agree(
    requests: &[Request],
    ours: &Ours,
    mut peers: Option<&mut (Cedar, Rego)>,
) -> Result<(), String> {
    for (index, request) in requests.iter().enumerate() {
        let mut answers = vec![
            ("compiled", Some(ours.decide(index))),
            ("interpreter", Some(ours.interpret(index))),
        ];
        // All rules of a large set take these milliseconds a request: a part of them is enough.
        if let Some((cedar, rego)) = peers.as_mut()
            && (index < 64 || ours.policy.rules().count() <= 1_000)
        {
            if cedar.errors(index) > 0 {
                return Err(format!("Cedar could not evaluate {request:?}"));
            }
            answers.extend([
                ("cedar", Some(cedar.decide(index))),
                ("cedar, one policy", Some(cedar.slice(index))),
                ("regorus", rego.interpret(index)),
            ]);
            if rego.has_machine() {
                answers.push(("regorus vm", rego.decide(index)));
            }
        }
        for (engine, answer) in answers {
            if answer != Some(request.allowed) {
                return Err(format!("{engine} answers {answer:?} to {request:?}"));
            }
        }
    }
    Ok(())
}
