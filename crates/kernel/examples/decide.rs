//! Measures one decision in BPF, natively, with 10 to 10,000 rules: what `bench/rows_kernel.py` shows.
//!
//!     decide [--quick] [--json FILE]
//!
//! The rule sets and requests are those of the engines' race, the paths made 64 bytes long where the rules
//! have room. The program reads the clock before and after each decision and once more for the clock
//! itself, whose median is taken off. Every round asks all rule sets in turn. First every answer is
//! compared with the expected one. The kernel's own count of runs shows that the program ran.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/core/asked.rs"]
#[allow(dead_code)]
mod asked;
#[path = "../../../bench/engines/src/race/rules.rs"]
#[allow(dead_code)]
mod rules;

use std::{
    os::fd::{FromRawFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
};

use agentwall_action::Effect;
use agentwall_kernel::abi::{ASKED, Asked};
use agentwall_policy::{Compiled, Layer, Source, Variables, load};
use asked::Core;
use libbpf_rs::query::ProgInfoIter;
use rules::{Mix, Request, Rules};
use serde_json::{Value, json};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const LENGTH: usize = 64;
/// Runs of the program per round and rule set.
const RUNS: usize = 4;
/// The questions that are asked again and again.
const AGAIN: usize = 8;
/// How often each run asks every question, in turn.
const TURNS: usize = 20;

fn main() -> ExitCode {
    let (mut rounds, mut file) = (20, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), &file) {
            ("--quick", _) => rounds = 4,
            ("--json", None) => file = arguments.next(),
            _ => {
                eprintln!("usage: decide [--quick] [--json FILE]");
                return ExitCode::from(2);
            }
        }
    }
    match measure(rounds) {
        Err(error) => {
            eprintln!("decide: {error}");
            ExitCode::FAILURE
        }
        Ok(told) => {
            let written = file.map(|f| std::fs::write(f, told.to_string()));
            if let Some(Err(error)) = written {
                eprintln!("decide: cannot write the result: {error}");
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
    }
}

/// A rule set in a view of its own.
struct Set {
    rules: usize,
    words: usize,
    view: u32,
    questions: Vec<Asked>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    /// The median where a few questions are asked again and again.
    again: Vec<f64>,
}

fn measure(rounds: usize) -> Result<Value, Box<dyn std::error::Error>> {
    let core = Core::load()?;
    let mut sets = Vec::new();
    for (view, count) in (0u32..).zip(SIZES) {
        sets.push(set(&core, view, count)?);
    }
    let _counted = statistics()?;
    let before = runs(&core)?;
    for _ in 0..rounds {
        for set in &mut sets {
            round(&core, set);
        }
    }
    let counted = runs(&core)? - before;
    // Twice in each round and set, and once more each time to warm up.
    let wanted = (rounds * sets.len() * 2 * (RUNS + 1)) as u64;
    if counted != wanted {
        return Err(
            format!("the kernel counted {counted} runs of the program, not {wanted}").into(),
        );
    }
    println!(
        "{:>6} {:>9} {:>8} {:>8}",
        "rules", "words", "p50 ns", "p99 ns"
    );
    for set in &sets {
        let median = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        };
        println!(
            "{:>6} {:>9} {:>8.0} {:>8.0} {:>8.0}",
            set.rules,
            set.words,
            median(&set.p50),
            median(&set.p99),
            median(&set.again)
        );
    }
    let cell = |s: &Set| json!({"rules": s.rules, "words": s.words, "p50": s.p50, "p99": s.p99, "again": s.again});
    let decisions = rounds * sets.len() * 2 * (RUNS * TURNS + 1) * ASKED;
    let cells: Vec<Value> = sets.iter().map(cell).collect();
    Ok(json!({ "sets": cells, "again": AGAIN, "runs": counted, "decisions": decisions }))
}

/// Compiles a rule set, installs it, and checks every answer.
fn set(core: &Core, view: u32, count: usize) -> Result<Set, Box<dyn std::error::Error>> {
    let rules = Rules {
        mix: Mix::Paths,
        count,
    };
    let source = Source::new("rules.yaml", rules.ours(), Layer::User);
    let policy = load(&[source], &Variables::default())?;
    let compiled = Compiled::new(Arc::new(policy), &rules::subject(), &rules::facts());
    let table = compiled.table();
    core.tables.install(view, &table, 1, 0)?;
    let requests: Vec<Request> = rules.requests(ASKED).into_iter().map(lengthened).collect();
    let actions: Vec<_> = requests.iter().map(|r| rules.action(r)).collect();
    let questions: Vec<Asked> = actions
        .iter()
        .filter_map(asked::question)
        .map(|q| {
            let from = q.question.start as usize;
            let text = q.text[from..][..q.question.len as usize].to_vec();
            asked::with_text(q.question, &text, Some(0))
        })
        .collect();
    let answers = core.ask(view, &questions);
    for ((request, action), answer) in requests.iter().zip(&actions).zip(answers) {
        let wanted = table.answer(action).ok_or("not decided by the engine")?;
        let allowed = answer.verdict.effect == Effect::Allow as u32;
        if wanted.effect as u32 != answer.verdict.effect || allowed != request.allowed {
            return Err(format!("{}: wrong answer {:?}", request.text, answer.verdict).into());
        }
    }
    Ok(Set {
        rules: count,
        words: table.words().len(),
        view,
        questions,
        p50: Vec::new(),
        p99: Vec::new(),
        again: Vec::new(),
    })
}

/// The request with one more folder, behind the second, so that it is 64 bytes long; a set of literals has
/// no room for any.
fn lengthened(mut request: Request) -> Request {
    let missing = LENGTH.saturating_sub(request.text.len());
    let second = request.text.match_indices('/').nth(2).map(|(at, _)| at);
    if let (2.., Some(at), false) = (missing, second, request.text.starts_with("/data/")) {
        let folder = format!("/{}", "f".repeat(missing - 1));
        request.text.insert_str(at, &folder);
    }
    request
}

/// Every question some times, then a few more often; the percentiles of this round.
fn round(core: &Core, set: &mut Set) {
    core.fill(&set.questions);
    let (p50, p99) = ask(core, set.view, set.questions.len());
    set.p50.push(p50);
    set.p99.push(p99);
    set.again.push(ask(core, set.view, AGAIN).0);
}

/// The median and the 99th percentile of the first so many questions.
fn ask(core: &Core, view: u32, many: usize) -> (f64, f64) {
    core.run(view, many, ASKED as u32);
    core.times();
    for _ in 0..RUNS {
        core.run(view, many, (ASKED * TURNS) as u32);
    }
    let times = core.times();
    let clock = percentile(&times.clock, 50);
    let of = |percent| percentile(&times.decisions, percent) - clock;
    (of(50), of(99))
}

/// The nanoseconds that so many percent did not exceed.
fn percentile(counts: &[u32], percent: u64) -> f64 {
    let all: u64 = counts.iter().map(|c| u64::from(*c)).sum();
    let mut left = all * percent / 100;
    let at = counts.iter().position(|count| {
        let here = left < u64::from(*count);
        left = left.saturating_sub(u64::from(*count));
        here
    });
    at.unwrap_or(counts.len()) as f64
}

/// Has the kernel count the runs of programs until it is dropped.
fn statistics() -> std::io::Result<OwnedFd> {
    // SAFETY: the call has no memory of ours to touch; it gives a new descriptor or a negative number.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How often the kernel says the program ran.
fn runs(core: &Core) -> Result<u64, String> {
    let id = core.id();
    let found = ProgInfoIter::default().find(|p| p.id == id);
    found
        .map(|p| p.run_cnt)
        .ok_or_else(|| "the program is not there".to_owned())
}
