//! The hunks of a modified text, and the text with some of them.
//!
//! A [`Block`] is a run of lines that differ, the least that can be chosen. Blocks that are near each
//! other are shown as one hunk, as in a patch. Lines end at `\n` alone, so every text is the sum of its
//! lines, and of any choice of blocks:
//!
//! * all blocks give the new text, none the old one;
//! * some blocks, and then the rest of what differs, give the new text.

use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffTag, TextDiff};

/// Time spent on a short diff before a longer one will do.
const PER_FILE: Duration = Duration::from_millis(500);

/// A run of lines that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Lines of the old text that go, counted from 0.
    pub old: Range<usize>,
    /// Lines of the new text that come.
    pub new: Range<usize>,
}

/// A line of a hunk as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'t> {
    /// In both texts; its number in the old one, from 0.
    Same(usize, &'t [u8]),
    /// Goes, with this block.
    Goes(usize, &'t [u8]),
    /// Comes, with this block.
    Comes(usize, &'t [u8]),
}

/// Two texts and where they differ.
#[derive(Debug, Clone)]
pub struct FileHunks {
    old: Vec<Vec<u8>>,
    new: Vec<Vec<u8>>,
    blocks: Vec<Block>,
}

impl FileHunks {
    /// Compares two texts.
    pub fn new(old: &[u8], new: &[u8]) -> FileHunks {
        let lines = |text: &[u8]| -> Vec<Vec<u8>> {
            text.split_inclusive(|b| *b == b'\n')
                .map(<[u8]>::to_vec)
                .collect()
        };
        let (old, new) = (lines(old), lines(new));
        let blocks = blocks(&old, &new);
        FileHunks { old, new, blocks }
    }

    /// The blocks in their order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Blocks with at most twice `context` lines between them belong to one hunk.
    pub fn hunks(&self, context: usize) -> Vec<Range<usize>> {
        let mut hunks: Vec<Range<usize>> = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let near = at > 0 && block.old.start - self.blocks[at - 1].old.end <= 2 * context;
            match hunks.last_mut() {
                Some(last) if near && context > 0 => last.end = at + 1,
                _ => hunks.push(at..at + 1),
            }
        }
        hunks
    }

    /// The head line of a hunk, as in a patch.
    pub fn head(&self, hunk: &Range<usize>, context: usize) -> String {
        let Some((old, new)) = self.range(hunk, context) else {
            return String::new();
        };
        let span = |r: &Range<usize>| match r.len() {
            0 => format!("{},0", r.start),
            1 => format!("{}", r.start + 1),
            n => format!("{},{n}", r.start + 1),
        };
        format!("@@ -{} +{} @@", span(&old), span(&new))
    }

    /// The lines of a hunk with its context.
    pub fn rows(&self, hunk: &Range<usize>, context: usize) -> Vec<Row<'_>> {
        let Some((old, _)) = self.range(hunk, context) else {
            return Vec::new();
        };
        let same = |range: Range<usize>| range.map(|n| Row::Same(n, self.old[n].as_slice()));
        let mut rows = Vec::new();
        let mut at = old.start;
        for index in hunk.clone() {
            let block = &self.blocks[index];
            rows.extend(same(at..block.old.start));
            rows.extend(block.old.clone().map(|n| Row::Goes(index, &self.old[n])));
            rows.extend(block.new.clone().map(|n| Row::Comes(index, &self.new[n])));
            at = block.old.end;
        }
        rows.extend(same(at..old.end));
        rows
    }

    /// The old text with the chosen blocks.
    pub fn with(&self, chosen: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut text = Vec::new();
        let mut at = 0;
        for (index, block) in self.blocks.iter().enumerate() {
            text.extend(self.old[at..block.old.start].iter().flatten());
            match chosen(index) {
                true => text.extend(self.new[block.new.clone()].iter().flatten()),
                false => text.extend(self.old[block.old.clone()].iter().flatten()),
            }
            at = block.old.end;
        }
        text.extend(self.old[at..].iter().flatten());
        text
    }

    /// The lines of both texts that a hunk shows.
    fn range(&self, hunk: &Range<usize>, context: usize) -> Option<(Range<usize>, Range<usize>)> {
        let first = self.blocks.get(hunk.start)?;
        let last = self.blocks.get(hunk.end.checked_sub(1)?)?;
        let before = context.min(first.old.start);
        let after = context.min(self.old.len() - last.old.end);
        Some((
            first.old.start - before..last.old.end + after,
            first.new.start - before..last.new.end + after,
        ))
    }
}

/// Runs of operations that change something.
fn blocks(old: &[Vec<u8>], new: &[Vec<u8>]) -> Vec<Block> {
    let (old, new) = (slices(old), slices(new));
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .deadline(Instant::now() + PER_FILE)
        .diff_slices(&old, &new);
    let mut blocks: Vec<Block> = Vec::new();
    let mut joins = false;
    for op in diff.ops() {
        if op.tag() == DiffTag::Equal {
            joins = false;
            continue;
        }
        match blocks.last_mut() {
            Some(last) if joins => {
                last.old.end = op.old_range().end;
                last.new.end = op.new_range().end;
            }
            _ => blocks.push(Block {
                old: op.old_range(),
                new: op.new_range(),
            }),
        }
        joins = true;
    }
    blocks
}

fn slices(lines: &[Vec<u8>]) -> Vec<&[u8]> {
    lines.iter().map(Vec::as_slice).collect()
}

#[cfg(test)]
#[path = "hunk_tests.rs"]
mod tests;
