//! Decides on all CPUs while policies are exchanged: no answer may belong to neither policy.
//!
//!     swap [--decides N] [--json FILE]
//!
//! Two policies answer every object differently, and the rules that decide have different names. One
//! thread per CPU decides through the engine; one more exchanges the policies, as a session does: the
//! interpreter decides until the table is there, then the table does for a moment. Each
//! decision has to be, as a whole, that of the policy whose digest it carries: effect, rule and reason.
//! After an exchange returned, the thread that made it gets answers of the new policy alone. The last
//! line is `N passed, N failed, 0 skipped`.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use agentwall_action::{Action, Decision, Facts, Resource, Subject, Verb};
use agentwall_engine::Engine;
use agentwall_policy::{Layer, Policy, Source, Variables, load};
use serde_json::json;

const OBJECTS: usize = 64;
/// How long a table decides before the next exchange.
const TABLE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let (mut decides, mut file) = (100_000_000u64, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next();
        let number = value.as_ref().and_then(|v| v.parse().ok());
        match (name.as_str(), number) {
            ("--decides", Some(n)) => decides = n,
            ("--json", None) => file = value,
            _ => {
                eprintln!("usage: swap [--decides N] [--json FILE]");
                return ExitCode::from(2);
            }
        }
    }
    match swap(decides) {
        Err(error) => {
            println!("FAIL swap: {error}\n0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
        Ok(told) => {
            println!(
                "{} decisions on {} threads, {} exchanges, {} wrong; {} of the first policy, {} of \
                 the second; {:.0} ns a decision",
                told.decided,
                told.threads,
                told.exchanges,
                told.wrong,
                told.of[0],
                told.of[1],
                told.seconds * 1e9 * told.threads as f64 / told.decided as f64
            );
            if let Some(file) = file {
                let text = json!({
                    "decided": told.decided, "threads": told.threads, "wrong": told.wrong,
                    "exchanges": told.exchanges, "seconds": told.seconds,
                });
                if let Err(error) = std::fs::write(&file, text.to_string()) {
                    eprintln!("{file}: {error}");
                    return ExitCode::FAILURE;
                }
            }
            // A run in which one of the policies never answered says nothing.
            let good = told.wrong == 0 && told.exchanges > 1 && told.of.iter().all(|n| *n > 0);
            println!(
                "{} passed, {} failed, 0 skipped",
                u8::from(good),
                u8::from(!good)
            );
            if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

struct Told {
    decided: u64,
    wrong: u64,
    of: [u64; 2],
    exchanges: u64,
    threads: usize,
    seconds: f64,
}

fn swap(decides: u64) -> Result<Told, String> {
    let policies = [
        policy("first", "allow", "deny")?,
        policy("second", "deny", "ask")?,
    ];
    let actions: Vec<Action> = (0..OBJECTS)
        .map(|i| {
            let path = format!("/srv/app{}/current/src/file{i}.rs", i % 16);
            Action::new(
                Subject::agent("swap"),
                Verb::FileWrite,
                Resource::path(path),
            )
        })
        .collect();
    // What each policy says, by the interpreter, alone.
    let expected = policies.each_ref().map(|p| {
        actions
            .iter()
            .map(|a| p.decide(a))
            .collect::<Vec<Decision>>()
    });
    if expected[0]
        .iter()
        .zip(&expected[1])
        .any(|(a, b)| a.effect == b.effect || a.rule == b.rule)
    {
        return Err("the two policies agree somewhere: an exchange would not show".into());
    }
    let engine = Engine::new(
        policies[0].clone(),
        Subject::agent("swap"),
        Facts::default(),
    );
    engine.compile();

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (wrong, left, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let of = [AtomicU64::new(0), AtomicU64::new(0)];
    let start = Instant::now();
    let exchanges = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (engine, actions, expected) = (&engine, &actions, &expected);
            let (wrong, left, stop, of) = (&wrong, &left, &stop, &of);
            let mine = decides.div_ceil(threads as u64);
            scope.spawn(move || {
                let mut seen = [0u64; 2];
                for n in 0..mine {
                    let index = (n as usize).wrapping_mul(7).wrapping_add(thread) % OBJECTS;
                    let decision = engine.decide(&actions[index]);
                    let whole = expected.iter().position(|e| e[index] == decision);
                    match whole {
                        Some(policy) => seen[policy] += 1,
                        None => {
                            wrong.fetch_add(1, Relaxed);
                        }
                    }
                }
                for (all, mine) in of.iter().zip(seen) {
                    all.fetch_add(mine, Relaxed);
                }
                if left.fetch_add(1, Relaxed) + 1 == threads as u64 {
                    stop.store(true, Relaxed);
                }
            });
        }
        let mut exchanges = 0;
        while !stop.load(Relaxed) {
            let next = (exchanges as usize + 1) % 2;
            // First the interpreter decides, as in a session, then the table, for a while.
            engine.replace(Arc::clone(&policies[next]));
            exchanges += 1;
            let index = exchanges as usize % OBJECTS;
            for compiled in [false, true] {
                if compiled {
                    engine.compile();
                }
                if engine.decide(&actions[index]) != expected[next][index] {
                    wrong.fetch_add(1, Relaxed);
                }
            }
            std::thread::sleep(TABLE);
        }
        exchanges
    });
    Ok(Told {
        decided: decides.div_ceil(threads as u64) * threads as u64,
        wrong: wrong.into_inner(),
        of: of.map(AtomicU64::into_inner),
        exchanges,
        threads,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Sixteen rules; one in two has the first effect.
fn policy(name: &str, one: &str, other: &str) -> Result<Arc<Policy>, String> {
    let mut text = "agentwall: 1\nrules:\n".to_owned();
    for i in 0..16 {
        let effect = if i % 2 == 0 { one } else { other };
        text.push_str(&format!(
            "- {{id: {name}-{i}, action: file.*, resource: /srv/app{i}/**, effect: {effect}, \
             reason: the {name} policy about {i}}}\n"
        ));
    }
    let source = Source::new("swap.yaml", text.as_bytes(), Layer::User);
    let policy = load(&[source], &Variables::default()).map_err(|e| e.to_string())?;
    Ok(Arc::new(policy))
}
