//! The model suite: random work behind the wall, committed, gives the tree that the same work gives
//! natively, and each operation the same answer.
//!
//! Lists of operations come from `operations`, are done by `play.c`, many in one session, and compared by
//! `look`. Where overlayfs cannot but differ (three differences, named in `play.c`), the native side does the
//! same on purpose. A list that differs is made as short as it can be and kept in `kept.txt`, from
//! where it is played first in every later run.
//!
//! `AGENTWALL_MODEL_LISTS` is how many lists each user plays (default 150), `AGENTWALL_MODEL_SEED` a number
//! from which they come (default 1: a run says the same twice; another number looks for more).

mod batch;
mod look;
mod operations;

use std::{fs, io::Write as _, path::PathBuf, time::Instant};

use agentwall_tests::{
    Options, Run,
    run::{prepare, report},
    world::Shared,
};
use batch::Stage;
use proptest::{
    strategy::{Strategy as _, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Lists in one session.
const BATCH: usize = 150;
/// Sessions that making a list shorter may take.
const SHORTER: usize = 60;

fn main() {
    std::process::exit(suite());
}

fn suite() -> i32 {
    let options = Options::of_this_run();
    if options.list {
        println!("model/kept\nmodel/random\n2 cases");
        return 0;
    }
    let (shared, _servers) = match prepare("model", None, &options) {
        Ok(s) => s,
        Err(why) => {
            println!("the suite cannot start: {why}");
            return 2;
        }
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let lists = number("AGENTWALL_MODEL_LISTS").unwrap_or(150) as usize;
    let seed = number("AGENTWALL_MODEL_SEED").unwrap_or(1);
    let (begin, mut results) = (Instant::now(), Vec::new());
    for who in &options.who {
        let name = |what: &str| format!("model/{what} [{}]", who.as_str());
        let stage = match Stage::new(&shared, *who) {
            Ok(stage) => stage,
            Err(why) => {
                results.push((name("stage"), Run::Failed(why)));
                continue;
            }
        };
        results.push((name("kept"), verdict(replay(&stage))));
        let random = format!("{lists} lists, AGENTWALL_MODEL_SEED={seed}");
        let found = random_lists(&stage, lists, seed).map_err(|why| format!("{random}: {why}"));
        println!("{}: {random}", name("random"));
        results.push((name("random"), verdict(found)));
        if !options.verbose {
            stage.clean();
        }
    }
    let code = report(&results, begin.elapsed());
    if !options.verbose {
        remove(&shared);
    }
    code
}

fn remove(shared: &Shared) {
    let _ = std::process::Command::new("/bin/rm")
        .arg("-rf")
        .arg(&shared.root)
        .status();
}

fn verdict(found: Result<(), String>) -> Run {
    found.map_or_else(Run::Failed, |()| Run::Passed)
}

fn kept_file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/model/kept.txt"))
}

/// The lists that once differed.
fn kept() -> Result<Vec<Vec<String>>, String> {
    let text = fs::read_to_string(kept_file()).map_err(|e| format!("kept.txt: {e}"))?;
    let lists = text.split("\n\n").map(|block| {
        let lines = block
            .lines()
            .filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    Ok(lists.filter(|l| !l.is_empty()).collect())
}

fn replay(stage: &Stage) -> Result<(), String> {
    let lists = kept()?;
    for (list, found) in lists.iter().zip(stage.play(&lists)?) {
        if let Some(why) = found {
            return Err(format!("{why}; the list: {}", list.join("; ")));
        }
    }
    Ok(())
}

fn random_lists(stage: &Stage, lists: usize, seed: u64) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = operations::list();
    let mut left = lists;
    while left > 0 {
        let n = left.min(BATCH);
        left -= n;
        let mut trees = Vec::new();
        for _ in 0..n {
            trees.push(strategy.new_tree(&mut runner).map_err(|e| e.to_string())?);
        }
        let all: Vec<Vec<String>> = trees.iter().map(ValueTree::current).collect();
        // A commit that fails fails for all of them: which one it is, the halves tell.
        let found = match stage.play(&all) {
            Ok(found) => found,
            Err(why) => guilty(stage, &all, why)?,
        };
        if let Some(at) = found.iter().position(Option::is_some) {
            return Err(shortest(stage, trees.swap_remove(at), found[at].clone())?);
        }
    }
    Ok(())
}

/// Which list makes the whole session fail.
fn guilty(stage: &Stage, all: &[Vec<String>], why: String) -> Result<Vec<Option<String>>, String> {
    let (mut from, mut to) = (0, all.len());
    let mut why = why;
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        match stage.play(&all[from..middle]) {
            Err(first) => (to, why) = (middle, first),
            Ok(_) => from = middle,
        }
    }
    // The other half may have needed the first: then there is no single one to name.
    stage
        .play(&all[from..to])
        .err()
        .ok_or_else(|| format!("only together: {why}"))?;
    Ok((0..all.len())
        .map(|i| (i == from).then(|| why.clone()))
        .collect())
}

/// The shortest list that still differs, kept for later runs; the message.
fn shortest(
    stage: &Stage,
    mut tree: impl ValueTree<Value = Vec<String>>,
    why: Option<String>,
) -> Result<String, String> {
    let differs = |list: &[String]| match stage.play(&[list.to_vec()]) {
        Ok(found) => found.into_iter().next().flatten(),
        Err(why) => Some(why),
    };
    let (mut best, mut why) = (tree.current(), why.unwrap_or_default());
    println!(
        "found: {why}; the list: {}; making it shorter",
        best.join("; ")
    );
    for _ in 0..SHORTER {
        if !tree.simplify() {
            break;
        }
        loop {
            match differs(&tree.current()) {
                Some(still) => {
                    (best, why) = (tree.current(), still);
                    break;
                }
                None if tree.complicate() => {}
                None => break,
            }
        }
    }
    let text = format!("\n# {}\n{}\n", why.replace('\n', " "), best.join("\n"));
    let file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(kept_file());
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| format!("kept.txt: {e}"))?;
    Ok(format!(
        "{why}; the shortest list, now in kept.txt: {}",
        best.join("; ")
    ))
}
