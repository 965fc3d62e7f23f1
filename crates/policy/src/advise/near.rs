//! The text nearest to a given one that a pattern matches.
//!
//! The distance is that of a person who edits a name: parts (path segments, host labels) are kept
//! whole where the pattern lets them, and only inside a part bytes are put in, taken out or replaced.
//! A search over single bytes alone would be shorter now and then, but it turns `/etc/passwd` into
//! `/work/p/sswd`. Two nested dynamic programs, parts outside and bytes inside; both are bounded.

use crate::nfa::{ByteSet, Nfa, Step};

/// Longest text that is looked at, in bytes.
const MAX_TEXT: usize = 4096;
/// Most pairs of a pattern's part and a text's part.
const MAX_PAIRS: usize = 20_000;
/// Most parts of the text that one part of a pattern with `**` inside may take.
const MAX_JOINED: usize = 8;

/// What one edit of a byte costs inside a part. A byte kept by a `*` costs one: of two ways with as many
/// edits, the one that keeps what the pattern spells out is better. A text has fewer bytes than this.
const EDIT: usize = 1 << 16;

/// How much work is left, in cells of the inner program.
#[derive(Debug)]
pub(super) struct Work(pub usize);

/// One part of a pattern.
#[derive(Debug)]
enum Item {
    /// A part, and whether it may run over separators.
    Part { steps: Vec<Step>, crosses: bool },
    /// Any number of whole parts, also none.
    Any,
    /// One whole part or more.
    Below,
}

/// A part of a pattern with the separator before it.
#[derive(Debug)]
struct Placed {
    before: Option<u8>,
    item: Item,
}

/// How a state of the outer program was reached.
#[derive(Debug, Clone)]
enum Move {
    Start,
    /// Parts `from..to` of the text became this.
    Aligned {
        from: usize,
        output: Vec<u8>,
    },
    /// A part of the text was kept as it is, and the item may take more.
    Kept,
    /// A part of the text was kept as it is, and the item is done.
    KeptLast,
    /// The item was left without text, or made up.
    Made(Vec<u8>),
    /// The item takes nothing.
    Skipped,
    /// A part of the text was left out.
    Dropped,
}

/// The nearest text that `nfa` matches, and its distance from `text`. `separators` end parts. `None`
/// where the bounds do not suffice. The caller decides whether it is what it wants.
pub(super) fn nearest(
    nfa: &Nfa,
    separators: &[u8],
    text: &[u8],
    work: &mut Work,
) -> Option<(usize, Vec<u8>)> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let items = items(nfa, separators);
    let parts = split(text, separators);
    let (rows, columns) = (items.len() + 1, parts.len() + 1);
    if rows.checked_mul(columns)? > MAX_PAIRS {
        return None;
    }
    let at = |i: usize, j: usize| i * columns + j;
    let mut best: Vec<Option<(usize, Move)>> = vec![None; rows * columns];
    best[0] = Some((0, Move::Start));
    for i in 0..rows {
        for j in 0..columns {
            let Some(here) = best[at(i, j)].as_ref().map(|(cost, _)| *cost) else {
                continue;
            };
            let mut offer = |i: usize, j: usize, cost: usize, how: Move| {
                let slot = &mut best[at(i, j)];
                if slot.as_ref().is_none_or(|(old, _)| here + cost < *old) {
                    *slot = Some((here + cost, how));
                }
            };
            let part = parts.get(j).map(|(_, part)| *part);
            if let Some(part) = part {
                // The last part is what the object is called: it is worth more than a folder.
                let weight = if j + 1 == parts.len() { 2 } else { 1 };
                let cost = (part.len() + early(j, separators)) * weight;
                offer(i, j + 1, cost, Move::Dropped);
            }
            let Some(placed) = items.get(i) else {
                continue;
            };
            match &placed.item {
                Item::Any => {
                    offer(i + 1, j, 0, Move::Skipped);
                    if part.is_some_and(|p| j == 0 || !p.is_empty()) {
                        offer(i, j + 1, 0, Move::Kept);
                    }
                }
                Item::Below => {
                    if part.is_some_and(|p| !p.is_empty()) {
                        offer(i, j + 1, 0, Move::Kept);
                        offer(i + 1, j + 1, 0, Move::KeptLast);
                    } else {
                        offer(i + 1, j, 2, Move::Made(b"x".to_vec()));
                    }
                }
                Item::Part { steps, crosses } => {
                    let longest = if *crosses { MAX_JOINED } else { 1 };
                    for taken in 1..=longest.min(parts.len() - j) {
                        let joined = join(&parts[j..j + taken]);
                        let (cost, output) = align(steps, &joined, work)?;
                        let cost = match cost {
                            0 => 0,
                            cost => cost + early(i, separators),
                        };
                        if output.is_empty() && i > 0 {
                            continue;
                        }
                        offer(i + 1, j + taken, cost, Move::Aligned { from: j, output });
                    }
                    let mut made = made(steps);
                    if made.is_empty() && i > 0 {
                        made.push(b'x');
                    }
                    let cost = made.len() + early(i, separators);
                    offer(i + 1, j, cost, Move::Made(made));
                }
            }
        }
    }
    trace(&items, &parts, &best, columns)
}

/// What a changed part costs beside its bytes: one, and in a path more for the first folders, because
/// another place deep down is nearer than another tree.
fn early(item: usize, separators: &[u8]) -> usize {
    match separators {
        [b'/'] => 1 + 4usize.saturating_sub(item),
        _ => 1,
    }
}

/// Follows the moves back from the end, and puts the text together.
fn trace(
    items: &[Placed],
    parts: &[(Option<u8>, &[u8])],
    best: &[Option<(usize, Move)>],
    columns: usize,
) -> Option<(usize, Vec<u8>)> {
    let (mut i, mut j) = (items.len(), parts.len());
    let total = best.get(i * columns + j)?.as_ref()?.0;
    // Pieces from the last to the first, each with the separator before it.
    let mut pieces: Vec<(Option<u8>, Vec<u8>)> = Vec::new();
    loop {
        let (_, how) = best.get(i * columns + j)?.as_ref()?;
        match how {
            Move::Start => break,
            Move::Dropped => j -= 1,
            Move::Skipped => i -= 1,
            Move::Made(output) => {
                i -= 1;
                pieces.push((items[i].before, output.clone()));
            }
            Move::Aligned { from, output } => {
                i -= 1;
                j = *from;
                pieces.push((items[i].before, output.clone()));
            }
            Move::Kept | Move::KeptLast => {
                let done = matches!(how, Move::KeptLast);
                i -= usize::from(done);
                j -= 1;
                let (own, part) = parts[j];
                let before = best.get(i * columns + j)?.as_ref();
                let first = !before.is_some_and(|(_, m)| matches!(m, Move::Kept));
                let own = if first { items[i].before.or(own) } else { own };
                pieces.push((own, part.to_vec()));
            }
        }
    }
    let mut text = Vec::new();
    for (n, (before, piece)) in pieces.iter().rev().enumerate() {
        if n > 0 {
            text.push(before.unwrap_or(b'/'));
        }
        text.extend_from_slice(piece);
    }
    Some((total, text))
}

fn items(nfa: &Nfa, separators: &[u8]) -> Vec<Placed> {
    let literal = nfa
        .literal()
        .iter()
        .map(|b| Step::Byte(ByteSet::single(*b)));
    let steps = literal.chain(nfa.rest().iter().copied());
    let all = ByteSet::all();
    let first = separators.first().copied();
    let mut items = Vec::new();
    let mut part: Vec<Step> = Vec::new();
    let mut before = None;
    // After `/**/` and `/**` the next part has begun already.
    let mut open = true;
    let close = |part: &mut Vec<Step>, before: Option<u8>, items: &mut Vec<Placed>| {
        let steps = std::mem::take(part);
        let item = match steps.as_slice() {
            [Step::Loop(set)] if *set == all => Item::Any,
            steps => Item::Part {
                crosses: steps
                    .iter()
                    .any(|s| matches!(s, Step::Loop(set) if *set == all)),
                steps: steps.to_vec(),
            },
        };
        items.push(Placed { before, item });
    };
    for step in steps {
        match step {
            Step::Byte(set) if set.only().is_some_and(|b| separators.contains(&b)) => {
                close(&mut part, before, &mut items);
                before = set.only();
            }
            Step::DirsOpen | Step::BelowOpen => {
                close(&mut part, before, &mut items);
                before = first;
                open = false;
            }
            Step::DirsLoop => {
                items.push(Placed {
                    before: first,
                    item: Item::Any,
                });
                open = true;
            }
            Step::BelowFirst => items.push(Placed {
                before: first,
                item: Item::Below,
            }),
            // The loop of a trailing `/**`.
            Step::Loop(_) if !open => {}
            other => part.push(other),
        }
    }
    if open {
        close(&mut part, before, &mut items);
    }
    items
}

fn split<'t>(text: &'t [u8], separators: &[u8]) -> Vec<(Option<u8>, &'t [u8])> {
    let mut parts = Vec::new();
    let (mut start, mut before) = (0, None);
    for (at, b) in text.iter().enumerate() {
        if separators.contains(b) {
            parts.push((before, &text[start..at]));
            (start, before) = (at + 1, Some(*b));
        }
    }
    parts.push((before, &text[start..]));
    parts
}

fn join(parts: &[(Option<u8>, &[u8])]) -> Vec<u8> {
    let mut joined = Vec::new();
    for (n, (before, part)) in parts.iter().enumerate() {
        if n > 0 {
            joined.extend(before);
        }
        joined.extend_from_slice(part);
    }
    joined
}

/// The shortest text of a part.
fn made(steps: &[Step]) -> Vec<u8> {
    let byte = |s: &Step| match s {
        Step::Byte(set) => pick(set),
        _ => None,
    };
    steps.iter().filter_map(byte).collect()
}

/// A byte of the set that reads well in a name.
fn pick(set: &ByteSet) -> Option<u8> {
    let liked = (b'x'..=b'z').chain(b'a'..=b'w').chain(b'0'..=b'9');
    liked
        .chain(*b"-_.")
        .chain(1..=u8::MAX)
        .find(|b| set.contains(*b))
}

/// The text nearest to `text` that a part matches, byte by byte.
fn align(steps: &[Step], text: &[u8], work: &mut Work) -> Option<(usize, Vec<u8>)> {
    #[derive(Clone, Copy)]
    enum ByteMove {
        Start,
        Keep,
        Replace(u8),
        Insert(u8),
        KeepInLoop,
        Leave,
        Delete,
    }
    let (rows, columns) = (steps.len() + 1, text.len() + 1);
    let cells = rows.checked_mul(columns)?;
    work.0 = work.0.checked_sub(cells)?;
    let mut best: Vec<(usize, ByteMove)> = vec![(usize::MAX, ByteMove::Start); cells];
    best[0].0 = 0;
    for s in 0..rows {
        for t in 0..columns {
            let here = best[s * columns + t].0;
            if here == usize::MAX {
                continue;
            }
            let mut offer = |s: usize, t: usize, cost: usize, how: ByteMove| {
                let slot = &mut best[s * columns + t];
                if here + cost < slot.0 {
                    *slot = (here + cost, how);
                }
            };
            let byte = text.get(t).copied();
            if byte.is_some() {
                offer(s, t + 1, EDIT, ByteMove::Delete);
            }
            match steps.get(s) {
                Some(Step::Byte(set)) => {
                    if byte.is_some_and(|b| set.contains(b)) {
                        offer(s + 1, t + 1, 0, ByteMove::Keep);
                    }
                    if let Some(new) = pick(set) {
                        if byte.is_some() {
                            offer(s + 1, t + 1, EDIT, ByteMove::Replace(new));
                        }
                        offer(s + 1, t, EDIT, ByteMove::Insert(new));
                    }
                }
                Some(Step::Loop(set)) => {
                    offer(s + 1, t, 0, ByteMove::Leave);
                    if byte.is_some_and(|b| set.contains(b)) {
                        offer(s, t + 1, 1, ByteMove::KeepInLoop);
                    }
                }
                _ => {}
            }
        }
    }
    let (mut s, mut t) = (steps.len(), text.len());
    let total = best[s * columns + t].0;
    if total == usize::MAX {
        return None;
    }
    let mut output = Vec::new();
    loop {
        match best[s * columns + t].1 {
            ByteMove::Start => break,
            ByteMove::Keep => {
                (s, t) = (s - 1, t - 1);
                output.push(text[t]);
            }
            ByteMove::Replace(b) => {
                (s, t) = (s - 1, t - 1);
                output.push(b);
            }
            ByteMove::Insert(b) => {
                s -= 1;
                output.push(b);
            }
            ByteMove::KeepInLoop => {
                t -= 1;
                output.push(text[t]);
            }
            ByteMove::Leave => s -= 1,
            ByteMove::Delete => t -= 1,
        }
    }
    output.reverse();
    Some((total / EDIT, output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::{Glob, GlobKind};

    fn near(pattern: &str, kind: GlobKind, text: &str) -> Option<(usize, String)> {
        let separators: &[u8] = match kind {
            GlobKind::Path => b"/",
            GlobKind::Host | GlobKind::Verb => b".",
            GlobKind::Text => b":/",
        };
        let glob = Glob::new(pattern, kind).unwrap();
        let found = glob
            .alternatives()
            .iter()
            .filter_map(|nfa| nearest(nfa, separators, text.as_bytes(), &mut Work(1 << 20)));
        let (cost, bytes) = found.min()?;
        assert!(glob.matches(&bytes, false), "{pattern} {text} {bytes:?}");
        Some((cost, String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn names_are_kept_where_the_pattern_lets_them() {
        let path = |pattern, text| near(pattern, GlobKind::Path, text).unwrap().1;
        assert_eq!(path("/tmp/*.tmp", "/tmp/foo.txt"), "/tmp/foo.tmp");
        assert_eq!(path("/work/p/**", "/etc/passwd"), "/work/p/passwd");
        assert_eq!(
            path("/work/p/**", "/work/q/src/main.rs"),
            "/work/p/src/main.rs"
        );
        assert_eq!(path("/usr/bin/git", "/usr/bin/gti"), "/usr/bin/git");
        assert_eq!(path("**/*.md", "/a/b/c.txt"), "/a/b/c.md");
        assert_eq!(path("/a/**/x", "/a/b/c/y"), "/a/b/c/x");
        assert_eq!(path("/w/{src,doc}/*", "/w/dcc/x"), "/w/doc/x");
        assert_eq!(path("/w/**", "/w"), "/w/x");
        assert_eq!(path("/**", "/"), "/x");
        assert_eq!(path("**", "/a/b"), "/a/b");
        assert_eq!(path("/a", "/"), "/a");
        let host = |pattern, text| near(pattern, GlobKind::Host, text).unwrap().1;
        assert_eq!(
            host("registry.npmjs.org", "registry.npmjs.com"),
            "registry.npmjs.org"
        );
        assert_eq!(host("*.example.org", "a.example.com"), "a.example.org");
        assert_eq!(host("**.example.org", "a.b.example.org"), "a.b.example.org");
        let name = |pattern, text| near(pattern, GlobKind::Text, text).unwrap().1;
        assert_eq!(
            name("capability:transfer:*", "capability:transfr:eu"),
            "capability:transfer:eu"
        );
    }

    #[test]
    fn the_distance_is_zero_only_for_a_match() {
        assert_eq!(near("/a/*/c", GlobKind::Path, "/a/b/c").unwrap().0, 0);
        assert_eq!(near("/a/*/c", GlobKind::Path, "/a/b/d").unwrap().0, 3);
        assert_eq!(near("/a/*/c", GlobKind::Path, "/x/b/c").unwrap().0, 5);
    }

    #[test]
    fn the_work_is_bounded() {
        let glob = Glob::new("/**/x/**/y", GlobKind::Path).unwrap();
        let long = "/a".repeat(2000);
        let mut work = Work(1000);
        assert_eq!(
            nearest(&glob.alternatives()[0], b"/", long.as_bytes(), &mut work),
            None
        );
        let glob = Glob::new(&"?".repeat(900), GlobKind::Text).unwrap();
        let text = vec![b'a'; 4000];
        assert_eq!(
            nearest(&glob.alternatives()[0], b":/", &text, &mut work),
            None
        );
    }
}
