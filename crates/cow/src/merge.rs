//! Three-way merge of text: what the session did and what somebody else did to the same original.
//!
//! The merge itself is [`diffy`]'s, line by line. Nothing here decides what is committed: a merge that
//! overlaps is a conflict for a person.

use diffy::{ConflictStyle, IncompleteHunkStyle, MergeOptions};

/// How a merge came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// Both sides' changes, none of which touch.
    Clean(Vec<u8>),
    /// They overlap.
    Overlap {
        /// In how many places.
        places: usize,
        /// The text with conflict markers as `git merge-file` writes them: `ours` is the original,
        /// `theirs` the session's copy.
        marked: Vec<u8>,
    },
}

/// Merges two versions of a text whose common ancestor is `base`.
pub fn merge(base: &[u8], original: &[u8], copy: &[u8]) -> Merged {
    let mut options = MergeOptions::new();
    options
        .set_conflict_style(ConflictStyle::Merge)
        .set_incomplete_hunk_style(IncompleteHunkStyle::Git);
    match options.merge_bytes(base, original, copy) {
        Ok(text) => Merged::Clean(text),
        Err(marked) => {
            let places = count(&marked);
            // A text that holds marker lines of its own makes the number larger.
            let own = count(original)
                .max(count(copy))
                .min(places.saturating_sub(1));
            Merged::Overlap {
                places: places - own,
                marked,
            }
        }
    }
}

fn count(text: &[u8]) -> usize {
    let starts = |line: &&[u8]| line.starts_with(b"<<<<<<< ours");
    text.split(|b| *b == b'\n').filter(starts).count()
}
