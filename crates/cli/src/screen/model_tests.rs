//! Keys and what they come to.

use std::collections::HashMap;

use super::*;

/// Texts by index: the original and the session's copy; everything else is a note.
#[derive(Default)]
pub(crate) struct Fake(pub HashMap<usize, (&'static str, &'static str)>);

impl Texts for Fake {
    fn body(&self, index: usize) -> Body {
        match self.0.get(&index) {
            Some((old, new)) => Body::Hunks(FileHunks::new(old.as_bytes(), new.as_bytes())),
            None => Body::Lines(vec![patch_row(b"-gone")]),
        }
    }

    fn merge(&self, _: usize) -> Result<(Amendment, FileHunks), String> {
        Err("not merged: both sides changed the same lines in 1 place".into())
    }
}

pub(crate) const OLD: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n";
pub(crate) const NEW: &str = "one\n2\n3\n4\n5\n6\n7\n8\nnine\n10\neleven\n12\n13\n14\n15\n";

/// A deletion, a modified text, an addition, and one of each group.
pub(crate) fn model(texts: &Fake) -> Model {
    let of = |n, letter, path: &str, group| Item::new(n, letter, path.to_owned(), group);
    let items = vec![
        of(4, "D", "gone.txt", Group::Committed),
        of(1, "M", "src/text.rs", Group::Committed),
        of(2, "A", "src/new.rs", Group::Committed),
        of(3, "A", "ci/Build.yaml", Group::Held),
        of(0, "A", "hooks/evil", Group::Denied),
        of(5, "M", "src/both.rs", Group::Conflict),
    ];
    Model::new("agentwall review k3f9".into(), items, texts)
}

pub(crate) fn fake() -> Fake {
    Fake([(1, (OLD, NEW)), (5, (OLD, NEW))].into())
}

/// Types these characters; `\n` is Enter, `\t` Tab, `^` Escape, `>` Down in the list.
pub(crate) fn types(model: &mut Model, texts: &Fake, keys: &str) -> After {
    let mut after = After::GoOn;
    for c in keys.chars() {
        let key = match c {
            '\n' => Key::Enter,
            '\t' => Key::Tab,
            '^' => Key::Esc,
            '>' => Key::Down,
            c => Key::Char(c),
        };
        after = model.key(key, texts);
    }
    after
}

fn decided(after: After) -> Decision {
    match after {
        After::Do(decision) => *decision,
        other => panic!("{other:?}"),
    }
}

#[test]
fn marks_are_done_only_after_the_question() {
    let texts = fake();
    let mut m = model(&texts);
    assert!(matches!(types(&mut m, &texts, "a>>r"), After::GoOn));
    assert!(matches!(types(&mut m, &texts, "c"), After::GoOn));
    assert_eq!(m.stage, Stage::Commit);
    // No, and nothing is lost.
    types(&mut m, &texts, "n");
    assert_eq!((m.stage, m.count(Mark::Accept)), (Stage::Marking, 1));
    // Dropping is asked apart, and can be refused.
    types(&mut m, &texts, "cy");
    assert_eq!(m.stage, Stage::Drop);
    let decision = decided(types(&mut m, &texts, "n"));
    assert_eq!((decision.accept, decision.reject), (vec![4], vec![]));
    let mut m = model(&texts);
    let decision = decided(types(&mut m, &texts, "a>>rcyy"));
    assert_eq!((decision.accept, decision.reject), (vec![4], vec![2]));
    // A rejection alone asks about that alone.
    let mut m = model(&texts);
    types(&mut m, &texts, "rc");
    assert_eq!(m.stage, Stage::Drop);
    types(&mut m, &texts, "n");
    assert_eq!(m.stage, Stage::Marking);
    assert_eq!(decided(types(&mut m, &texts, "cy")).reject, [4]);
}

#[test]
fn the_end_without_a_mark_does_nothing() {
    let texts = fake();
    for keys in ["q", "Q", "a>aQ"] {
        let mut m = model(&texts);
        assert!(
            matches!(types(&mut m, &texts, keys), After::Leave),
            "{keys}"
        );
    }
    let mut m = model(&texts);
    assert!(matches!(types(&mut m, &texts, "c"), After::GoOn));
    assert_eq!(m.stage, Stage::Marking);
    types(&mut m, &texts, "a");
    for (key, leaves) in [(Key::Ctrl('c'), true), (Key::Ctrl('z'), false)] {
        let after = m.key(key, &texts);
        assert_eq!(matches!(after, After::Leave), leaves);
        assert_eq!(matches!(after, After::Suspend), !leaves);
    }
}

#[test]
fn what_the_policy_denies_or_somebody_edited_is_not_accepted() {
    let texts = fake();
    let mut m = model(&texts);
    types(&mut m, &texts, "A");
    let accepted: Vec<&str> = (m.items.iter().filter(|i| i.mark == Mark::Accept))
        .map(|i| i.path.as_str())
        .collect();
    assert_eq!(accepted, ["gone.txt", "src/text.rs", "src/new.rs"]);
    // What is held wants its own name, and takes it.
    types(&mut m, &texts, ">>>a");
    assert_eq!(m.current().unwrap().mark, Mark::Accept);
    for _ in 0..2 {
        types(&mut m, &texts, ">a");
        assert_eq!(m.current().unwrap().mark, Mark::Leave);
        assert!(!m.message.is_empty());
    }
    types(&mut m, &texts, "m");
    assert!(m.message.contains("same lines"), "{}", m.message);
    assert_eq!(m.current().unwrap().mark, Mark::Leave);
    types(&mut m, &texts, "r");
    assert_eq!(m.current().unwrap().mark, Mark::Reject);
    // Not by its hunks either.
    m.cursor = 4;
    types(&mut m, &texts, "\t ");
    assert_eq!(m.current().unwrap().mark, Mark::Leave);
}

#[test]
fn hunks_are_chosen_one_by_one() {
    let texts = fake();
    let mut m = model(&texts);
    types(&mut m, &texts, ">\t");
    assert_eq!(m.current().unwrap().hunks(), [0..1, 1..3]);
    // The first hunk; the cursor goes on to the second.
    types(&mut m, &texts, " ");
    assert_eq!((m.current().unwrap().mark, m.hunk), (Mark::Part, 1));
    let part = &m.decision().parts[0];
    assert_eq!((part.0, part.2, part.3), (1, 1, 2));
    assert_eq!(part.1, OLD.replacen('1', "one", 1).into_bytes());
    // Every place by itself.
    types(&mut m, &texts, "snn ");
    assert_eq!(m.current().unwrap().hunks().len(), 3);
    let part = m.decision().parts.remove(0);
    let text = String::from_utf8(part.1).unwrap();
    assert!(
        text.contains("\neleven\n") && !text.contains("nine"),
        "{text}"
    );
    // All of them are the file.
    types(&mut m, &texts, "sn ");
    assert_eq!(m.current().unwrap().mark, Mark::Accept, "{:?}", m.current());
    assert_eq!(m.decision().accept, [1]);
    // None of them is nothing.
    types(&mut m, &texts, "p n ");
    assert_eq!(m.current().unwrap().mark, Mark::Leave);
    assert!(m.decision().parts.is_empty() && m.decision().accept.is_empty());
    // Over an edited original all hunks are still a choice of hunks.
    types(&mut m, &texts, "\t>>>>\t  ");
    assert_eq!(m.current().unwrap().path, "src/both.rs");
    assert_eq!(m.current().unwrap().mark, Mark::Part);
    assert_eq!(m.decision().parts[0].1, NEW.as_bytes());
}

#[test]
fn the_list_is_filtered_and_the_patch_searched() {
    let texts = fake();
    let mut m = model(&texts);
    types(&mut m, &texts, "/SRC\n");
    assert_eq!(m.visible.len(), 0);
    types(&mut m, &texts, "/src\n");
    assert_eq!(m.visible.len(), 3);
    // Marks of what is not listed stay, and "all" means what is listed.
    types(&mut m, &texts, "A");
    assert_eq!(m.count(Mark::Accept), 2);
    types(&mut m, &texts, "^");
    assert_eq!((m.visible.len(), m.count(Mark::Accept)), (6, 2));
    types(&mut m, &texts, "/build\n");
    assert_eq!(m.current().unwrap().path, "ci/Build.yaml");
    types(&mut m, &texts, "^>\t/nine\n");
    let item = m.current().unwrap();
    assert!(item.lines()[m.scroll].text.contains("nine"));
    types(&mut m, &texts, "/nowhere\n");
    assert!(m.message.contains("not found"), "{}", m.message);
}

#[test]
fn any_keys_in_any_order_do_no_harm() {
    use proptest::prelude::*;
    let keys = prop::collection::vec(0u8..24, 0..60);
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&keys, |keys| {
            let texts = fake();
            let mut m = model(&texts);
            let all = [
                Key::Up,
                Key::Down,
                Key::Left,
                Key::Right,
                Key::PageUp,
                Key::PageDown,
                Key::Home,
                Key::End,
                Key::Enter,
                Key::Esc,
                Key::Tab,
                Key::Backspace,
                Key::Char('a'),
                Key::Char('r'),
                Key::Char('u'),
                Key::Char(' '),
                Key::Char('A'),
                Key::Char('m'),
                Key::Char('s'),
                Key::Char('n'),
                Key::Char('p'),
                Key::Char('/'),
                Key::Char('?'),
                Key::Char('c'),
            ];
            for key in keys {
                // Without a y nothing is ever done.
                let after = m.key(all[usize::from(key)], &texts);
                let harmless = match &after {
                    After::Do(done) => m.stage == Stage::Drop && done.reject.is_empty(),
                    other => matches!(other, After::GoOn),
                };
                prop_assert!(harmless);
            }
            let decision = m.decision();
            for item in &m.items {
                let accepted = decision.accept.contains(&item.index);
                let may = matches!(item.group, Group::Committed | Group::Held);
                prop_assert!(!accepted || may);
            }
            Ok(())
        })
        .unwrap();
}
