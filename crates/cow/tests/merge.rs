//! Against `git merge-file`, and what a merge has to be by itself. A process of its own: a child that is
//! being started holds the locks of commits beside it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use agentwall_cow::{Merged, merge};
use proptest::prelude::*;

/// An edit of a line of the base: nothing, other text, gone, or a line after it.
#[derive(Debug, Clone)]
enum Edit {
    No,
    Other(u8),
    Gone,
    After(u8),
}

fn edits(n: usize) -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        8 => Just(Edit::No),
        1 => (0u8..4).prop_map(Edit::Other),
        1 => Just(Edit::Gone),
        1 => (0u8..4).prop_map(Edit::After),
    ];
    prop::collection::vec(edit, n)
}

fn edited(base: &[String], edits: &[Edit]) -> Vec<u8> {
    let mut out = String::new();
    for (line, edit) in base.iter().zip(edits) {
        match edit {
            Edit::No => out.push_str(&format!("{line}\n")),
            Edit::Other(n) => out.push_str(&format!("{line} other {n}\n")),
            Edit::Gone => {}
            Edit::After(n) => out.push_str(&format!("{line}\nafter {line} {n}\n")),
        }
    }
    out.into_bytes()
}

fn base() -> Vec<String> {
    // A blank line and a brace recur, as in programs.
    let line = |n: usize| match n % 5 {
        3 => String::new(),
        4 => "}".to_owned(),
        _ => format!("line {n}"),
    };
    (0..24).map(line).collect()
}

/// What git makes of it: the text, if it merges cleanly.
fn git(base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("base", base), ("ours", ours), ("theirs", theirs)] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let out = Command::new("git")
        .args(["merge-file", "-p", "ours", "base", "theirs"])
        .current_dir(dir.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .expect("git is installed");
    out.status.success().then_some(out.stdout)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_clean_merge_is_that_of_git(ours in edits(24), theirs in edits(24)) {
        let base = base();
        let none = vec![Edit::No; base.len()];
        let (b, o, t) = (edited(&base, &none), edited(&base, &ours), edited(&base, &theirs));
        if let (Merged::Clean(found), Some(expected)) = (merge(&b, &o, &t), git(&b, &o, &t)) {
            prop_assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected));
        }
    }

    #[test]
    fn a_side_that_did_nothing_leaves_the_other(ours in edits(24)) {
        let base = base();
        let b = edited(&base, &vec![Edit::No; base.len()]);
        let o = edited(&base, &ours);
        prop_assert_eq!(merge(&b, &o, &b), Merged::Clean(o.clone()));
        prop_assert_eq!(merge(&b, &b, &o), Merged::Clean(o.clone()));
        prop_assert_eq!(merge(&b, &o, &o), Merged::Clean(o));
    }

    #[test]
    fn a_merge_that_was_committed_merges_to_itself(ours in edits(24), theirs in edits(24)) {
        let base = base();
        let b = edited(&base, &vec![Edit::No; base.len()]);
        let (o, t) = (edited(&base, &ours), edited(&base, &theirs));
        if let Merged::Clean(both) = merge(&b, &o, &t)
            && let Merged::Clean(again) = merge(&b, &both, &t)
        {
            prop_assert_eq!(both, again);
        }
    }
}

#[test]
fn what_overlaps_is_counted_and_marked() {
    let base = b"1\n2\n3\n4\n5\n6\n7\n";
    let ours = b"one\n2\n3\n4\n5\n6\nseven\n";
    let theirs = b"ein\n2\n3\n4\n5\n6\nsieben\n";
    let Merged::Overlap { places, marked } = merge(base, ours, theirs) else {
        panic!("they overlap");
    };
    assert_eq!(places, 2);
    let text = String::from_utf8(marked).unwrap();
    assert!(
        text.starts_with("<<<<<<< ours\none\n=======\nein\n>>>>>>> theirs\n2\n"),
        "{text}"
    );
}
