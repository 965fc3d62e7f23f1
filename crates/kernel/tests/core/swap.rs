//! Tables are exchanged while they are asked: every answer is wholly of one of them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use agentwall_action::{Action, Facts, Resource, Subject, Verb};
use agentwall_policy::{CompiledTable, Layer, Source, load};

use crate::{
    asked::{Core, question},
    parity::{compiled, variables},
};

/// A policy in which every object is decided by another rule, and by another effect, than in the other.
fn table(which: usize) -> CompiledTable {
    let effects = [["allow", "deny"], ["deny", "allow"]][which];
    let rules: String = (0..64 + which)
        .map(|i| {
            let place = if i < which { "/nowhere".into() } else { format!("/place{:02}", i - which) };
            let effect = effects[(i + which) % 2];
            format!("- {{id: r{i}, priority: {i}, action: file.read, resource: '{place}/**/x', effect: {effect}}}\n")
        })
        .collect();
    let text = format!("agentwall: 1\nrules:\n{rules}");
    let policy = load(&[Source::new("p.yaml", text, Layer::User)], &variables());
    compiled(policy.expect("a policy"), &Facts::default(), None)
}

pub fn tables_are_exchanged_whole() {
    const RUNS: usize = 3_000;
    let core = Core::load().expect("the core loads");
    let tables = [table(0), table(1)];
    let actions: Vec<Action> = (0..64)
        .map(|i| {
            let path = Resource::path(format!("/place{i:02}/some/where/x"));
            Action::new(Subject("agent:a".into()), Verb::FileRead, path)
        })
        .collect();
    let questions: Vec<_> = actions
        .iter()
        .map(|a| question(a).expect("canonical"))
        .collect();
    let answers: Vec<Vec<_>> = [0, 1]
        .map(|i| {
            actions
                .iter()
                .map(|a| tables[i].answer(a).expect("decided"))
                .collect()
        })
        .into();
    assert!(
        answers[0]
            .iter()
            .zip(&answers[1])
            .all(|(a, b)| a.by != b.by && a.effect != b.effect)
    );

    core.tables.install(0, &tables[0], 0, 0).expect("installed");
    core.fill(&questions);
    let over = AtomicBool::new(false);
    let (of, exchanges) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut of, mut last) = ([0u64; 2], 0);
            for _ in 0..RUNS {
                assert_eq!(core.run(0, 64, 64), 64);
                for (i, action) in actions.iter().enumerate() {
                    let asked = core.read(i);
                    let which = (asked.generation % 2) as usize;
                    let wanted = &answers[which][i];
                    let by = agentwall_policy::By::Rule {
                        layer: 0,
                        rank: asked.verdict.rank,
                    };
                    assert_eq!(
                        by, wanted.by,
                        "{action:?} in generation {}",
                        asked.generation
                    );
                    assert_eq!(asked.verdict.effect, wanted.effect as u32, "{action:?}");
                    assert!(asked.generation >= last, "a table came back");
                    last = asked.generation;
                    of[which] += 1;
                }
            }
            over.store(true, Relaxed);
            of
        });
        let mut generation = 0;
        while !over.load(Relaxed) && !asking.is_finished() {
            generation += 1;
            let table = &tables[(generation % 2) as usize];
            core.tables
                .install(0, table, generation, 0)
                .expect("installed");
        }
        (
            asking.join().expect("every answer belongs to its table"),
            generation,
        )
    });
    let installed = core.tables.installed(0).expect("readable").expect("there");
    assert_eq!(installed.generation, exchanges);
    assert!(of[0] > 0 && of[1] > 0, "both were asked");
    println!(
        "{exchanges} exchanges; {} answers of the one table, {} of the other",
        of[0], of[1]
    );
}
