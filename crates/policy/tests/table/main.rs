//! The table format: vectors, generated policies, damaged tables, and the questions for the foreign
//! walker (`interop/run.sh`). The format is specified in `docs/policy-table.md`.
//!
//! What a table says by itself is what the interpreter says when all conditions fail. So here every
//! condition that is left reads `args`, and no action has any.

mod damage;
#[path = "../equivalence/generate.rs"]
mod generate;
mod questions;
mod vectors;

use std::{path::PathBuf, sync::Arc};

use agentwall_action::{Action, Facts, Subject};
use agentwall_policy::{By, Compiled, CompiledTable, Policy, Variables, load};
use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};
use serde_json::json;

fn variables() -> Variables {
    Variables {
        workspace: Some("/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some(PathBuf::from("/home/u/.local/state/agentwall")),
    }
}

fn subject() -> Subject {
    Subject("agent:a".into())
}

/// What a table says, in the words of a decision: effect, id of the rule, ids of the marks.
type Told = (String, Option<String>, Vec<String>);

fn told(compiled: &Compiled, table: &CompiledTable, action: &Action) -> Option<Told> {
    let answer = table.answer(action)?;
    let id = |list, rank| {
        let rule = compiled.ranked(list, rank).expect("a rank of the table");
        rule.id.clone()
    };
    let rule = match answer.by {
        By::Rule { layer, rank } => Some(id(layer, rank)),
        By::Default { .. } => None,
    };
    let marks = answer.marks.iter().map(|rank| id(table.layers(), *rank));
    Some((answer.effect.as_str().to_owned(), rule, marks.collect()))
}

/// The same of the interpreter.
fn interpreted(policy: &Policy, action: &Action) -> Told {
    let decision = policy.decide(action);
    (
        decision.effect.as_str().to_owned(),
        decision.rule,
        decision.monitors,
    )
}

/// Compiles, writes, reads.
fn through_a_file(
    policy: &Arc<Policy>,
    session: &Facts,
    states: Option<usize>,
) -> (Compiled, CompiledTable) {
    let compiled = Compiled::with_states(Arc::clone(policy), &subject(), session, states);
    let table = compiled.table();
    let read = CompiledTable::read(table.bytes()).expect("what was compiled can be read");
    assert_eq!(read, table);
    (compiled, read)
}

/// Only conditions that fail here.
fn with_failing_conditions(mut policies: generate::Policies) -> generate::Policies {
    for (_, document) in &mut policies.0 {
        let rules = document["rules"].as_array_mut().expect("rules");
        for rule in rules {
            for key in ["when", "unless"] {
                if rule.get(key).is_some() {
                    rule[key] = json!("args.k > 1");
                }
            }
        }
    }
    policies
}

#[test]
fn a_table_says_what_the_interpreter_says_without_conditions() {
    const POLICIES: u32 = 60;
    const ACTIONS: usize = 100;
    let asked = generate::session().prop_flat_map(|session| {
        let actions = generate::actions(session.clone(), ACTIONS);
        (Just(session), actions)
    });
    let case = (
        generate::policies().prop_map(with_failing_conditions),
        asked,
    );
    let config = ProptestConfig {
        cases: POLICIES,
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let out = questions::Out::from_env();
    let count = std::cell::Cell::new((0usize, 0usize));
    let outcome = runner.run(&case, |(policies, (session, actions))| {
        let Ok(policy) = load(&policies.sources(), &variables()) else {
            return Err(TestCaseError::reject("not a policy"));
        };
        let policy = Arc::new(policy);
        let (files, decided) = count.get();
        // Half of them with so few states that patterns are cut, and what is left is found anywhere.
        let states = (files % 2 == 1).then_some(4);
        let (compiled, table) = through_a_file(&policy, &session, states);
        let mut lines = questions::Lines::default();
        let mut here = 0;
        // Verbs on objects that they do not act on, too: not decided here.
        let misplaced = actions.iter().zip(actions.iter().skip(1));
        let misplaced = misplaced.map(|(a, b)| Action {
            verb: b.verb,
            ..a.clone()
        });
        for mut action in misplaced
            .step_by(4)
            .collect::<Vec<_>>()
            .into_iter()
            .chain(actions)
        {
            action.subject = subject();
            action.facts.args = serde_json::Value::Null;
            lines.add(&table, &action);
            let Some(found) = told(&compiled, &table, &action) else {
                continue;
            };
            here += 1;
            let wanted = interpreted(&policy, &action);
            if found != wanted {
                let wrong = format!("{action:?}\nwanted {wanted:?}\nfound  {found:?}");
                return Err(TestCaseError::fail(wrong));
            }
        }
        out.write(&format!("generated-{files}"), &table, &lines);
        count.set((files + 1, decided + here));
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, (policies, (session, _)))) => {
            panic!("{reason}\nsession {session:?}\n{policies:?}")
        }
        Err(error) => panic!("{error}"),
    }
    let (files, decided) = count.get();
    // Almost everything is decided by tables; if not, nothing was compared.
    assert!(
        decided > files * ACTIONS * 9 / 10,
        "{decided} of {files} policies"
    );
}
