//! The compiled policy and the interpreter give the same decision, the same deciding rule and the same
//! marks, for generated policies and actions.
//!
//! `EQUIVALENCE_PAIRS` is how many (policy, action) pairs are compared; the suite runs ten million of
//! them in an optimised build. A failure is shrunk; what it shrinks to belongs into `corpus.rs`.

mod corpus;
mod generate;

use std::{path::PathBuf, sync::Arc};

use agentwall_action::{Action, Decision, Facts, Subject};
use agentwall_policy::{Compiled, Policy, Variables, load};
use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};

/// Actions for each policy.
const ACTIONS: usize = 500;

fn variables() -> Variables {
    Variables {
        workspace: Some("/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some(PathBuf::from("/home/u/.local/state/agentwall")),
    }
}

/// Compares one action; the error names what differs.
fn compare(policy: &Policy, compiled: &Compiled, action: &Action) -> Result<(), String> {
    let wanted = policy.decide(action);
    let found = compiled.decide(action);
    if wanted != found {
        return Err(differs(action, &wanted, &found));
    }
    let verdict = compiled.verdict(action);
    let same = verdict.effect == wanted.effect
        && verdict.rule.map(|r| &r.id) == wanted.rule.as_ref()
        && verdict.marked != wanted.monitors.is_empty()
        && verdict.failed != wanted.errors.is_empty();
    if !same {
        return Err(differs(action, &wanted, &verdict));
    }
    Ok(())
}

fn differs(action: &Action, wanted: &Decision, found: &dyn std::fmt::Debug) -> String {
    let action = serde_json::to_string(action).unwrap_or_default();
    format!("{action}\nwanted {wanted:?}\nfound  {found:?}")
}

fn compiled(policy: &Arc<Policy>, session: &Facts, states: Option<usize>) -> Compiled {
    let subject = Subject("agent:a".into());
    Compiled::with_states(Arc::clone(policy), &subject, session, states)
}

#[test]
fn compiled_and_interpreted_decide_alike() {
    let pairs: usize = std::env::var("EQUIVALENCE_PAIRS").ok().map_or(50_000, |n| {
        n.parse().expect("EQUIVALENCE_PAIRS is a number")
    });
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = pairs.div_ceil(threads);
    let (policies, actions) = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| compare_pairs(share)))
            .collect();
        let counts = parts
            .into_iter()
            .map(|p| p.join().expect("they decide alike"));
        counts.fold((0, 0), |(p, a), (q, b)| (p + q, a + b))
    });
    assert!(actions >= pairs, "only {actions} pairs were compared");
    println!("{actions} pairs of {policies} policies decided alike");
}

/// Compares so many pairs; how many policies and pairs they were.
fn compare_pairs(pairs: usize) -> (usize, usize) {
    // Automata that may have next to no states show the ways out of too many.
    let states = prop_oneof![4 => Just(None), 1 => Just(Some(3)), 1 => Just(Some(24))];
    let case = (generate::policies(), generate::session(), states).prop_flat_map(
        |(policies, session, states)| {
            let actions = generate::actions(session.clone(), ACTIONS);
            (Just(policies), Just(session), Just(states), actions)
        },
    );
    let mut runner = TestRunner::new(ProptestConfig {
        cases: u32::try_from(pairs.div_ceil(ACTIONS)).expect("a sensible number"),
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    });
    let counts = std::cell::Cell::new((0usize, 0usize));
    let outcome = runner.run(&case, |(policies, session, states, actions)| {
        // Some patterns can never match, some lower rules loosen: those policies do not load.
        let Ok(policy) = load(&policies.sources(), &variables()) else {
            return Err(TestCaseError::reject("not a policy"));
        };
        let policy = Arc::new(policy);
        let compiled = compiled(&policy, &session, states);
        for action in &actions {
            compare(&policy, &compiled, action).map_err(TestCaseError::fail)?;
        }
        let (p, a) = counts.get();
        counts.set((p + 1, a + actions.len()));
        Ok(())
    });
    match outcome {
        Ok(()) => counts.get(),
        Err(TestError::Fail(reason, (policies, session, states, _))) => {
            // In the form that `corpus.json` has; the action is the first line.
            let case = serde_json::json!({
                "name": "", "policies": policies.0, "session": session, "states": states,
            });
            panic!("{reason}\n{case}")
        }
        Err(error) => panic!("{error}"),
    }
}
