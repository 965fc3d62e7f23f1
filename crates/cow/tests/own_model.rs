//! Random sessions: an agent and a user work on the same tree, the session is committed, undone, rolled
//! back and dropped in any order. Two things hold at every moment:
//!
//! * a commit or an undo changes no path that somebody else changed since the session began, or since our
//!   own last step at that path;
//! * without anybody else's work nothing is ever a conflict.
//!
//! The oracle knows contents and modes by path alone: nothing of inodes, times, manifests or records.

#![allow(clippy::unwrap_used)]

mod common;
use common::ops::script;
use common::{Session, tree};

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use agentwall_cow::{
    CommitError, CommitOptions, Disposition, Layer, Status, UndoError, UndoOptions, discard,
    discard_all, forget, undo,
};
use proptest::prelude::*;

const SETUP: &str = "mkdir -p d/e o; echo a >a; echo b >b; echo x >d/x; echo y >d/y; echo z >d/e/z
    echo 1 >o/1; echo l >l1; ln l1 l2; ln l1 d/l3; ln -s a s; chmod 640 d/y";

/// A path, most often one that is there.
fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a", "b", "d", "d/x", "d/x", "d/y", "d/e", "d/e/z", "o", "o/1", "l1", "l2", "d/l3", "n",
        "n", "n/x", "n/x", "n/y", "s", "d/n",
    ])
}

/// Work of an agent or a user, as a shell command.
fn work() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec!["one", "two", "six", "longer text"]);
    let mode = prop::sample::select(vec!["700", "711", "750", "755"]);
    (0..16u8, path(), path(), text, mode).prop_map(|(op, p, q, text, mode)| match op {
        0..=3 => format!("[ -L {p} ] || echo {text} >{p}"),
        4 => format!("[ -L {p} ] || echo {text} >>{p}"),
        5 => format!("[ -L {p} ] || {{ echo {text} >t; mv -f -T t {p}; }}; rm -f t"),
        6 | 7 => format!("rm -f {p}"),
        8 => format!("rm -rf {p}"),
        9 => format!("[ -d {q} ] || mv -f -T {p} {q}"),
        10 => format!("[ -e {q} ] || [ -L {q} ] || mv -T {p} {q}"),
        11 => format!("mkdir -p {p}"),
        12 => format!("rm -rf {p}; mkdir -p {p}; echo {text} >{p}/x"),
        13 => format!("[ -d {q} ] || ln -f -P -T {p} {q}"),
        14 => format!("[ -L {p} ] || chmod {mode} {p}"),
        _ => format!("ln -sfn {text} {p}"),
    })
}

#[derive(Debug, Clone)]
enum Step {
    Agent(Vec<String>),
    User(Vec<String>),
    /// All that is no conflict; or only what this number chooses.
    Commit(Option<usize>),
    Undo,
    Forget,
    Checkpoint,
    /// To one of those that there are.
    RollBack(usize),
    /// What this number chooses.
    Discard(usize),
    /// Everything, and back to a checkpoint.
    DiscardAll(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let some = |n| prop::collection::vec(work(), 1..n);
    prop_oneof![
        6 => some(5).prop_map(Step::Agent),
        5 => some(3).prop_map(Step::User),
        5 => Just(Step::Commit(None)),
        2 => any::<usize>().prop_map(|n| Step::Commit(Some(n))),
        4 => Just(Step::Undo),
        1 => Just(Step::Forget),
        2 => Just(Step::Checkpoint),
        2 => any::<usize>().prop_map(Step::RollBack),
        1 => any::<usize>().prop_map(Step::Discard),
        1 => any::<usize>().prop_map(Step::DiscardAll),
    ]
}

/// A session, and what it has seen of the originals.
struct Played {
    s: Session,
    /// At each path: what was there at the base, or what our own last step left; absent: nothing.
    seen: BTreeMap<PathBuf, String>,
    checkpoints: Vec<String>,
    /// Nobody else works in the tree.
    alone: bool,
    /// There is a base manifest. Change times do not tell that somebody took an original away for which
    /// the agent made a new object.
    exact: bool,
}

impl Played {
    fn layers(&self) -> &[Layer] {
        std::slice::from_ref(&self.s.layer)
    }

    /// Does something of ours, and holds it against what somebody else did.
    fn ours(&mut self, what: &str, act: impl FnOnce(&Session)) -> Result<(), TestCaseError> {
        let before = tree(self.s.root());
        act(&self.s);
        let after = tree(self.s.root());
        let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
        for path in paths {
            let (was, is) = (before.get(path), after.get(path));
            if was == is {
                continue;
            }
            let seen = self.seen.get(path).cloned();
            prop_assert!(
                was == seen.as_ref() || (was.is_none() && !self.exact),
                "{what} changed {path:?} to {is:?}; somebody else had changed {seen:?} to {was:?}"
            );
            match is {
                Some(text) => self.seen.insert(path.clone(), text.clone()),
                None => self.seen.remove(path),
            };
        }
        Ok(())
    }

    fn commit(&mut self, chosen: Option<usize>) -> Result<(), TestCaseError> {
        let mut refused = Vec::new();
        self.ours("a commit", |s| {
            let set = s.scan();
            let mut at = 0;
            let report = s.commit_with(&set, |_| {
                at += 1;
                match chosen.is_none_or(|n| (n >> (at % 16)) & 1 == 1) {
                    true => Disposition::Commit,
                    false => Disposition::Hold,
                }
            });
            for outcome in report.outcomes {
                let conflict = &set.get(&outcome.path).unwrap().conflict;
                let failed = match outcome.status {
                    Status::Conflict { .. } => conflict.is_none(),
                    Status::Failed { .. } => true,
                    _ => false,
                };
                if failed {
                    refused.push(outcome);
                }
            }
        })?;
        prop_assert!(refused.is_empty(), "{:#?}", refused);
        Ok(())
    }

    fn undo(&mut self) -> Result<(), TestCaseError> {
        let mut told = None;
        self.ours("an undo", |s| {
            let mut options = UndoOptions::new(CommitOptions::new(s.tmp.path().join("locks")));
            options.partial = true;
            told = loop {
                match undo(std::slice::from_ref(&s.layer), &options) {
                    Err(UndoError::Commit(CommitError::Locked { .. })) => std::thread::yield_now(),
                    Err(UndoError::Nothing(_)) => break None,
                    other => break Some(other.unwrap()),
                }
            };
        })?;
        if let Some(report) = told {
            prop_assert!(report.kept.is_empty(), "{:#?}", report);
            prop_assert!(!self.alone || report.is_complete(), "{:#?}", report);
        }
        Ok(())
    }

    fn roll_back(&mut self, n: usize) {
        let Some(at) = n.checked_rem(self.checkpoints.len()) else {
            return;
        };
        let before = format!("before-{}", self.checkpoints.len());
        self.s.roll_back(&self.checkpoints[at], &before);
        self.checkpoints.push(before);
    }

    fn play(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Agent(work) => drop(self.s.agent(&script(work))),
            Step::User(work) => self.s.user(&script(work)),
            Step::Commit(chosen) => self.commit(*chosen)?,
            Step::Undo => self.undo()?,
            Step::Forget => drop(forget(self.layers()).unwrap()),
            Step::Checkpoint => {
                let name = format!("c{}", self.checkpoints.len());
                self.s.checkpoint(&name);
                self.checkpoints.push(name);
            }
            Step::RollBack(n) => self.roll_back(*n),
            Step::Discard(n) => {
                let (set, mut at) = (self.s.scan(), 0);
                let chosen = |_: &agentwall_cow::Change| {
                    at += 1;
                    (n >> (at % 16)) & 1 == 1
                };
                discard(self.layers(), &set, chosen).unwrap();
            }
            // Without a checkpoint the session would be over.
            Step::DiscardAll(_) if self.checkpoints.is_empty() => {}
            Step::DiscardAll(n) => {
                discard_all(self.layers()).unwrap();
                self.roll_back(*n);
            }
        }
        let set = self.s.scan();
        if self.alone {
            let conflict = set.changes.iter().find(|c| c.conflict.is_some());
            prop_assert!(conflict.is_none(), "{:#?}", conflict);
        }
        Ok(())
    }
}

fn play(s: Session, exact: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    let alone = !steps.iter().any(|step| matches!(step, Step::User(_)));
    let mut played = Played {
        seen: tree(s.root()),
        s,
        checkpoints: Vec::new(),
        alone,
        exact,
    };
    for (at, step) in steps.iter().enumerate() {
        let told = |e: TestCaseError| match e {
            TestCaseError::Fail(why) => TestCaseError::fail(format!("step {at}, {step:?}: {why}")),
            other => other,
        };
        played.play(step).map_err(told)?;
    }
    played.commit(None)?;
    let litter = |p: &&PathBuf| p.to_string_lossy().contains(".agentwall-");
    let found = tree(played.s.root());
    prop_assert_eq!(found.keys().find(litter), None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("AGENTWALL_MODEL_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(60),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_of_somebody_else_is_overwritten(steps in prop::collection::vec(step(), 3..16)) {
        play(Session::new(SETUP), true, &steps)?;
    }

    #[test]
    fn nothing_of_somebody_else_is_overwritten_by_change_times(
        steps in prop::collection::vec(step(), 3..16),
    ) {
        play(Session::by_change_times(SETUP), false, &steps)?;
    }

    #[test]
    fn the_sessions_own_work_is_never_a_conflict(
        mut steps in prop::collection::vec(step(), 3..20),
    ) {
        steps.retain(|step| !matches!(step, Step::User(_)));
        play(Session::new(SETUP), true, &steps)?;
    }
}
