//! The core answers what the engine's walker answers: on the stored vectors, and on generated policies.

use std::{cell::Cell, fs, path::PathBuf, sync::Arc};

use agentwall_action::{Action, Facts, Resource, Subject, Verb};
use agentwall_kernel::abi::{Asked, MAX_MARKS, NONE, Verdict, kind};
use agentwall_policy::{By, Compiled, CompiledTable, Policy, TableAnswer, Variables, load};
use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};

use crate::asked::{Core, question};

#[path = "../../../policy/tests/equivalence/generate.rs"]
mod generate;

/// Questions for each policy.
const ACTIONS: usize = 500;

pub fn variables() -> Variables {
    Variables {
        workspace: Some("/work".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some(PathBuf::from("/home/u/.local/state/agentwall")),
    }
}

/// A policy's table for the subject of all tests.
pub fn compiled(policy: Policy, session: &Facts, states: Option<usize>) -> CompiledTable {
    let subject = Subject("agent:a".into());
    Compiled::with_states(Arc::new(policy), &subject, session, states).table()
}

/// What the core has to say where the walker says this.
fn wanted(answer: Option<&TableAnswer>, asked: &Asked) -> Verdict {
    let undecided = Verdict {
        effect: NONE,
        rank: NONE,
        ..Verdict::default()
    };
    let question = &asked.question;
    // The addresses behind a name are for user space to find.
    let nowhere =
        question.kind == kind::ENDPOINT && question.has_text == 1 && question.address_len == 0;
    let Some(answer) = answer.filter(|_| !nowhere) else {
        return undecided;
    };
    let (layer, rank) = match answer.by {
        By::Rule { layer, rank } => (layer, rank),
        By::Default { layer } => (layer, NONE),
    };
    let mut mark = [0; MAX_MARKS];
    for (to, from) in mark.iter_mut().zip(&answer.marks) {
        *to = *from;
    }
    Verdict {
        effect: answer.effect as u32,
        layer: layer as u32,
        rank,
        full: 0,
        marks: answer.marks.len() as u32,
        mark,
    }
}

/// What of a verdict has a meaning.
pub fn meant(mut verdict: Verdict) -> Verdict {
    let named = (verdict.marks as usize).min(MAX_MARKS);
    verdict.mark[named..].fill(0);
    if verdict.effect == NONE {
        (verdict.layer, verdict.rank) = (0, NONE);
    }
    verdict
}

/// Compares the core with the walker; how many were decided.
pub fn compare(core: &Core, table: &CompiledTable, actions: &[Action]) -> Result<usize, String> {
    core.tables
        .install(0, table, 1, 0)
        .map_err(|e| e.to_string())?;
    // Labels are in no question of a hook.
    let known = actions.iter().filter(|a| a.facts.labels.is_empty());
    let pairs: Vec<(&Action, Asked)> = known.filter_map(|a| Some((a, question(a)?))).collect();
    let questions: Vec<Asked> = pairs.iter().map(|(_, q)| *q).collect();
    let mut decided = 0;
    for ((action, _), asked) in pairs.iter().zip(core.ask(0, &questions)) {
        let answer = table.answer(action);
        let wanted = wanted(answer.as_ref(), &asked);
        let found = meant(asked.verdict);
        if found != wanted && !(answer.is_none() && found.full == 1) {
            return Err(format!("{action:?}\nwanted {wanted:?}\nfound  {found:?}"));
        }
        decided += usize::from(found.effect != NONE);
    }
    Ok(decided)
}

#[derive(serde::Deserialize)]
struct Case {
    #[serde(default)]
    interactive: bool,
    questions: Vec<Vector>,
}

#[derive(serde::Deserialize)]
struct Vector {
    action: String,
    object: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    answer: Expected,
}

#[derive(serde::Deserialize)]
struct Expected {
    effect: String,
    layer: usize,
    rank: Option<u32>,
    marks: Vec<u32>,
}

impl Vector {
    fn action(&self, interactive: bool) -> Action {
        let verb: Verb = self.action.parse().expect("a verb");
        let mut resource = Resource::parse(verb.family(), &self.object).expect("an object");
        if let (Resource::Endpoint(endpoint), Some(address)) = (&mut resource, &self.address) {
            endpoint.ip = Some(address.parse().expect("an address"));
        }
        let mut action = Action::new(Subject("agent:a".into()), verb, resource);
        action.facts.session.interactive = interactive;
        action.facts.labels = self.labels.iter().cloned().collect();
        action
    }

    fn says(&self, answer: &TableAnswer) -> bool {
        let rank = match answer.by {
            By::Rule { layer, rank } => (layer, Some(rank)),
            By::Default { layer } => (layer, None),
        };
        answer.effect.as_str() == self.answer.effect
            && rank == (self.answer.layer, self.answer.rank)
            && answer.marks == self.answer.marks
    }
}

/// The stored tables and answers of the policy crate.
pub fn vectors_hold() {
    let core = Core::load().expect("the core loads");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policy/vectors");
    let mut decided = 0;
    for entry in fs::read_dir(folder).expect("vectors") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "awpt") {
            continue;
        }
        let table = CompiledTable::read(&fs::read(&path).expect("a table")).expect("a table");
        let text = fs::read(path.with_extension("json")).expect("its questions");
        let case: Case = serde_json::from_slice(&text).expect("well-formed");
        let mut actions = Vec::new();
        for vector in &case.questions {
            let action = vector.action(case.interactive);
            let answer = table.answer(&action).expect("tables speak about vectors");
            assert!(vector.says(&answer), "{action:?}: {answer:?}");
            actions.push(action);
        }
        let here = compare(&core, &table, &actions);
        decided += here.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    println!("{decided} questions of the vectors decided alike");
    assert!(decided > 200, "only {decided} were decided");
}

/// Generated policies and questions, shrunk if they differ.
pub fn generated_questions_agree() {
    let questions: usize = std::env::var("KERNEL_QUESTIONS").map_or(100_000, |n| {
        n.parse().expect("KERNEL_QUESTIONS is a number")
    });
    let core = Core::load().expect("the core loads");
    // Automata that may have next to no states show the ways out of too many.
    let states = prop_oneof![4 => Just(None), 1 => Just(Some(3)), 1 => Just(Some(24))];
    let case = (generate::policies(), generate::session(), states).prop_flat_map(
        |(policies, session, states)| {
            let actions = generate::actions(session.clone(), ACTIONS);
            (Just(policies), Just(session), Just(states), actions)
        },
    );
    let mut runner = TestRunner::new(ProptestConfig {
        cases: questions.div_ceil(ACTIONS) as u32,
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    });
    let counts = Cell::new((0, 0));
    let outcome = runner.run(&case, |(policies, session, states, mut actions)| {
        let Ok(policy) = load(&policies.sources(), &variables()) else {
            return Err(TestCaseError::reject("not a policy"));
        };
        let table = compiled(policy, &session, states);
        // Labels are known to user space alone: only a few keep theirs and are left out.
        for action in actions.iter_mut().step_by(2) {
            action.facts.labels.clear();
        }
        let decided = compare(&core, &table, &actions).map_err(TestCaseError::fail)?;
        let (asked, all) = counts.get();
        counts.set((asked + actions.len(), all + decided));
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, (policies, session, states, _))) => {
            panic!("{reason}\nsession {session:?}\nstates {states:?}\n{policies:?}")
        }
        Err(error) => panic!("{error}"),
    }
    let (asked, decided) = counts.get();
    println!("{asked} generated questions, {decided} decided in the kernel, as by the walker");
    assert!(decided > questions / 2, "only {decided} were decided");
}
