//! Any choice of blocks, over random texts.

use proptest::prelude::*;

use super::*;

/// A text of few different lines, so that they recur, with or without a newline at the end.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => "[ab]",
        1 => "[a-c]{0,3}",
        1 => Just("\u{202e}\x1b[2J\r".to_owned()),
    ];
    (prop::collection::vec(line, 0..14), any::<bool>()).prop_map(|(lines, end)| {
        let mut text = lines.join("\n").into_bytes();
        if end && !text.is_empty() {
            text.push(b'\n');
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn all_blocks_are_the_new_text_and_none_the_old_one(old in text(), new in text()) {
        let hunks = FileHunks::new(&old, &new);
        prop_assert_eq!(hunks.with(|_| true), new.clone());
        prop_assert_eq!(hunks.with(|_| false), old.clone());
        prop_assert_eq!(hunks.blocks().is_empty(), old == new);
    }

    #[test]
    fn some_blocks_and_then_the_rest_are_the_new_text(
        old in text(), new in text(), choice in any::<u64>()
    ) {
        let hunks = FileHunks::new(&old, &new);
        let part = hunks.with(|n| choice >> (n % 64) & 1 == 1);
        let rest = FileHunks::new(&part, &new);
        prop_assert_eq!(rest.with(|_| true), new);
        // A chosen block brings its lines, one that is not chosen keeps those of the old text.
        let lines: usize = hunks.blocks().iter().enumerate().map(|(n, b)| {
            if choice >> (n % 64) & 1 == 1 { b.new.len() } else { b.old.len() }
        }).sum();
        let same = hunks.old.len() - hunks.blocks().iter().map(|b| b.old.len()).sum::<usize>();
        prop_assert_eq!(part.split_inclusive(|b| *b == b'\n').count(), lines + same);
    }

    #[test]
    fn hunks_show_every_block_once(old in text(), new in text(), context in 0usize..4) {
        let file = FileHunks::new(&old, &new);
        let hunks = file.hunks(context);
        let all: Vec<usize> = hunks.iter().cloned().flatten().collect();
        prop_assert_eq!(all, (0..file.blocks().len()).collect::<Vec<_>>());
        for hunk in &hunks {
            let rows = file.rows(hunk, context);
            let olds = rows.iter().filter(|r| !matches!(r, Row::Comes(..))).count();
            let news = rows.iter().filter(|r| !matches!(r, Row::Goes(..))).count();
            let (a, b) = file.range(hunk, context).unwrap();
            prop_assert_eq!((olds, news), (a.len(), b.len()));
        }
    }
}

#[test]
fn a_hunk_is_headed_as_in_a_patch() {
    let old: Vec<u8> = (1..=20)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let text = String::from_utf8(old.clone()).unwrap();
    let new = text.replace("\n3\n", "\nthree\n").replace("\n18\n", "\n");
    let file = FileHunks::new(&old, new.as_bytes());
    let hunks = file.hunks(3);
    let heads: Vec<String> = hunks.iter().map(|h| file.head(h, 3)).collect();
    assert_eq!(heads, ["@@ -1,6 +1,6 @@", "@@ -15,6 +15,5 @@"]);
    assert_eq!(file.hunks(8).len(), 1);
    let first = file.rows(&hunks[0], 3);
    assert_eq!(first[2], Row::Goes(0, b"3\n"));
    assert_eq!(first[3], Row::Comes(0, b"three\n"));
}
