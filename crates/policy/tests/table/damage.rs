//! Damaged tables: each is refused, or every lookup in it ends.

use std::sync::Arc;

use agentwall_action::{Action, Facts};
use agentwall_policy::{CompiledTable, TableError, load};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

use crate::{generate, subject, variables, vectors};

/// Tables with everything that a table can have, and questions about it.
fn tables() -> Vec<(Vec<u8>, Vec<Action>)> {
    vectors::all()
        .iter()
        .map(vectors::Case::table_and_actions)
        .collect()
}

/// Words that are likely to be taken for something.
fn word(length: u32) -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0..=length + 2,
        Just(u32::MAX),
        Just(1 << 31),
        (0..=length).prop_map(|n| n | 1 << 31),
        (0..=length).prop_map(|n| n | 1 << 30),
        0x20_0000..0x20_0005u32,
    ]
}

#[test]
fn a_damaged_table_is_refused_or_its_lookups_end() {
    let tables = tables();
    let count = std::cell::Cell::new((0u32, 0u32));
    let change = (any::<Index>(), any::<Index>(), 0..4u8, any::<u32>());
    let case = (any::<Index>(), prop::collection::vec(change, 1..4));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 6_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&case, |(which, changes)| {
        let (bytes, actions) = which.get(&tables);
        let mut words: Vec<u32> = (bytes.as_chunks::<4>().0.iter())
            .map(|w| u32::from_ne_bytes(*w))
            .collect();
        for (at, other, how, any) in changes {
            let (from, to) = (other.index(words.len()), at.index(words.len()));
            words[to] = match how {
                // What stands elsewhere is likely to be an offset or a number of the right size.
                0 => words[from],
                1 => words[to] ^ 1 << (any % 32),
                2 => words[to].wrapping_add(any % 5).wrapping_sub(2),
                _ => any % (words.len() as u32 + 2),
            };
        }
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let (accepted, refused) = count.get();
        match CompiledTable::read(&bytes) {
            Err(error) => {
                prop_assert!(error.to_string().len() < 300, "{error}");
                count.set((accepted, refused + 1));
            }
            Ok(table) => {
                for action in actions {
                    let _ = table.answer(action);
                }
                count.set((accepted + 1, refused));
            }
        }
        Ok(())
    });
    outcome.expect("no damage makes a lookup fail");
    let (accepted, refused) = count.get();
    assert!(
        accepted > 100 && refused > 100,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn a_single_word_of_any_value_is_refused_or_lookups_end() {
    let (bytes, actions) = tables().swap_remove(0);
    let words = (bytes.len() / 4) as u32;
    let case = (0..words, word(words));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 6_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&case, |(at, word)| {
        let mut bytes = bytes.clone();
        bytes[at as usize * 4..][..4].copy_from_slice(&word.to_ne_bytes());
        if let Ok(table) = CompiledTable::read(&bytes) {
            for action in &actions {
                let _ = table.answer(action);
            }
        }
        Ok(())
    });
    outcome.expect("no word makes a lookup fail");
}

#[test]
fn a_cut_or_longer_table_is_refused() {
    for (bytes, _) in tables() {
        for length in (0..bytes.len()).step_by(3) {
            CompiledTable::read(&bytes[..length]).expect_err("cut");
        }
        let longer = [bytes.as_slice(), &[0; 4]].concat();
        let error = CompiledTable::read(&longer).expect_err("longer");
        assert!(matches!(error, TableError::Length { .. }), "{error}");
        CompiledTable::read(&bytes).expect("whole");
    }
}

#[test]
fn what_is_no_table_is_named() {
    let (bytes, _) = tables().swap_remove(0);
    let changed = |at: usize, word: u32| {
        let mut bytes = bytes.clone();
        bytes[at * 4..][..4].copy_from_slice(&word.to_ne_bytes());
        CompiledTable::read(&bytes).expect_err("damaged")
    };
    assert!(matches!(
        CompiledTable::read(b""),
        Err(TableError::Size { found: 0, .. })
    ));
    assert!(matches!(changed(0, 7), TableError::Magic { .. }));
    let swapped = changed(1, 2u32.swap_bytes());
    assert!(
        matches!(swapped, TableError::Version { expected: 2, .. }),
        "{swapped}"
    );
    assert!(swapped.to_string().contains("byte order"), "{swapped}");
    assert!(matches!(
        changed(2, 99),
        TableError::Length { stated: 99, .. }
    ));
    assert!(matches!(changed(3, 1), TableError::Outside { .. }));
    assert!(matches!(changed(4, u32::MAX), TableError::Outside { .. }));
    assert!(matches!(
        changed(10, 23),
        TableError::Number { found: 23, .. }
    ));
    assert!(matches!(
        changed(12, 5),
        TableError::Number {
            found: 5,
            most: 4,
            ..
        }
    ));
}

#[test]
fn a_large_policy_can_be_read_back() {
    let rules: Vec<String> = (0..3000)
        .map(|i| {
            format!(
                "  - {{id: r{i}, effect: {}, action: 'file.*', resource: ['/srv/{i}/**', \
                 '**/x{i}/*.k{}', '!/srv/{i}/no']}}",
                ["allow", "deny", "ask"][i % 3],
                i % 7
            )
        })
        .collect();
    let text = format!("agentwall: 1\nrules:\n{}\n", rules.join("\n"));
    let source = agentwall_policy::Source::new("big", text, agentwall_policy::Layer::User);
    let policy = Arc::new(load(&[source], &variables()).expect("a policy"));
    let facts = Facts::default();
    let (compiled, table) = crate::through_a_file(&policy, &facts, None);
    for path in [
        "/srv/7/a",
        "/srv/8/no",
        "/a/x12/b.k5",
        "/srv/13/x13/c.k6",
        "/",
    ] {
        let resource = agentwall_action::Resource::path(path);
        let action = Action::new(subject(), agentwall_action::Verb::FileWrite, resource);
        let found = crate::told(&compiled, &table, &action);
        assert_eq!(found, Some(crate::interpreted(&policy, &action)), "{path}");
    }
}

/// Damage to generated tables.
#[test]
fn generated_tables_can_be_damaged_too() {
    let asked = generate::session().prop_flat_map(|session| {
        let actions = generate::actions(session.clone(), 20);
        (Just(session), actions)
    });
    let changes = prop::collection::vec((any::<Index>(), any::<Index>()), 200);
    let states = prop::option::of(0..9usize);
    let changes = (changes, states);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(
        &(generate::policies(), asked, changes),
        |(p, (s, a), (changes, states))| {
            let Ok(policy) = load(&p.sources(), &variables()) else {
                return Err(TestCaseError::reject("not a policy"));
            };
            let (_, table) = crate::through_a_file(&Arc::new(policy), &s, states);
            for (to, from) in changes {
                let mut words = table.words().to_vec();
                let (to, from) = (to.index(words.len()), from.index(words.len()));
                words[to] = words[from];
                let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
                if let Ok(table) = CompiledTable::read(&bytes) {
                    for action in &a {
                        let _ = table.answer(action);
                    }
                }
            }
            Ok(())
        },
    );
    outcome.expect("no damage makes a lookup fail");
}
