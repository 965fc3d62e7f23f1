//! Names, and what they may have in common: the segments that a merge can be made of.
//!
//! Tools draw names: dates, numbers, versions, hashes, temporary names. A name is cut into runs of
//! letters and digits; a run of such a class is abstracted, so that `log-2026-11-21.txt` and
//! `log-2026-12-02.txt` have one shape. A shape is only a reason to look: whether a merge is made is
//! decided by what it costs (see `merge`).

use crate::glob::glob_escape;

/// One segment of a proposed path, or one label of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Segment {
    /// Exactly this name.
    Literal(Vec<u8>),
    /// Names of one shape, as a glob inside one segment.
    Pattern {
        /// The glob.
        glob: String,
        /// How wide it is.
        breadth: Breadth,
    },
    /// Everything below: `**`.
    Below,
}

/// How much a wildcard lets in that was not seen, from the narrowest to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Breadth {
    /// Names of one shape: fixed text around dates, numbers, hashes.
    Shape,
    /// Names of one length.
    Length,
    /// Names with a fixed beginning or end.
    Affix,
    /// Any name.
    Any,
    /// Any path below.
    Below,
}

impl Breadth {
    /// The charge for what is let in unseen, in bits: `B` of the formula in `merge`.
    pub const fn bits(self) -> i64 {
        match self {
            Breadth::Shape => 4,
            Breadth::Length => 8,
            Breadth::Affix => 12,
            Breadth::Any => 24,
            Breadth::Below => 64,
        }
    }

    /// How many different names that did not recur must speak for it.
    pub const fn names(self) -> usize {
        match self {
            Breadth::Shape => 2,
            Breadth::Length | Breadth::Affix => 3,
            Breadth::Any => 4,
            Breadth::Below => 8,
        }
    }
}

impl Segment {
    /// The text in a pattern.
    pub fn text(&self) -> String {
        match self {
            Segment::Literal(name) => glob_escape(name),
            Segment::Pattern { glob, .. } => glob.clone(),
            Segment::Below => "**".into(),
        }
    }

    /// The charge for what it lets in unseen.
    pub const fn breadth_bits(&self) -> i64 {
        match self {
            Segment::Literal(_) => 0,
            Segment::Pattern { breadth, .. } => breadth.bits(),
            Segment::Below => Breadth::Below.bits(),
        }
    }

    /// Whether it is one name.
    pub fn is_literal(&self) -> bool {
        matches!(self, Segment::Literal(_))
    }
}

/// The class of a run of letters and digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Class {
    Digits,
    Hex,
    Random,
}

/// A part of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Text(Vec<u8>),
    Drawn(Class),
}

/// What names of one shape share: equal keys, equal shapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shape(Vec<Part>);

/// The shape of a name, and its drawn runs; `None` if nothing in it looks drawn.
fn cut(name: &[u8]) -> Option<(Shape, Vec<&[u8]>)> {
    let mut parts: Vec<Part> = Vec::new();
    let mut drawn = Vec::new();
    let mut rest = name;
    let mut text = Vec::new();
    while let Some(first) = rest.first() {
        if !first.is_ascii_alphanumeric() {
            text.push(*first);
            rest = &rest[1..];
            continue;
        }
        let length = rest
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric())
            .count();
        let (run, after) = rest.split_at(length);
        match class(run, run.len() == name.len()) {
            Some(class) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Drawn(class));
                drawn.push(run);
            }
            None => text.extend_from_slice(run),
        }
        rest = after;
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    (!drawn.is_empty()).then_some((Shape(parts), drawn))
}

fn class(run: &[u8], whole: bool) -> Option<Class> {
    let count = |f: fn(&u8) -> bool| run.iter().filter(|b| f(b)).count();
    let digits = count(u8::is_ascii_digit);
    let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if whole && run.len() == 2 && run.iter().all(hex) {
        // The fan-out folders of stores by hash.
        return Some(Class::Hex);
    }
    if digits == run.len() {
        return Some(Class::Digits);
    }
    if run.len() >= 7 && digits > 0 && run.iter().all(hex) {
        return Some(Class::Hex);
    }
    let upper = count(u8::is_ascii_uppercase);
    let lower = count(u8::is_ascii_lowercase);
    // Mixed in a way that words are not: digits among the letters, or capitals after the first.
    let inner_capital = run.iter().skip(1).any(u8::is_ascii_uppercase) && lower > 0;
    let digit_inside = digits > 0
        && run.iter().rposition(u8::is_ascii_alphabetic) > run.iter().position(u8::is_ascii_digit);
    let drawn = run.len() >= 6 && (digit_inside || inner_capital && upper + lower > 0);
    drawn.then_some(Class::Random)
}

/// The shape of a name, if something in it looks drawn.
pub(crate) fn shape(name: &[u8]) -> Option<Shape> {
    cut(name).map(|(shape, _)| shape)
}

/// The segment for names of one shape.
pub(crate) fn shape_segment(names: &[&[u8]]) -> Option<Segment> {
    let (shape, first) = cut(names.first()?)?;
    let columns: Vec<Vec<&[u8]>> = (0..first.len())
        .map(|at| {
            let runs = names.iter().filter_map(|n| cut(n)?.1.get(at).copied());
            runs.collect()
        })
        .collect();
    let mut columns = columns.into_iter();
    let mut glob = String::new();
    let mut free = false;
    for part in &shape.0 {
        match part {
            Part::Text(text) => {
                glob.push_str(&glob_escape(text));
                free = false;
            }
            Part::Drawn(class) => {
                let runs = columns.next()?;
                let text = drawn(*class, &runs);
                if !(free && text == "*") {
                    glob.push_str(&text);
                }
                free = text.ends_with('*');
            }
        }
    }
    let wide = glob == "*";
    let breadth = if wide { Breadth::Any } else { Breadth::Shape };
    Some(Segment::Pattern { glob, breadth })
}

/// Longest run that is spelled byte by byte.
const SPELLED: usize = 16;

fn drawn(class: Class, runs: &[&[u8]]) -> String {
    let front = word(common_front(runs));
    let length = runs.first().map_or(0, |r| r.len());
    let even = runs.iter().all(|r| r.len() == length);
    // Numbers of one width mean something when they are padded, or as long as a year.
    let padded = even && (length >= 4 || runs.iter().any(|r| length > 1 && r[0] == b'0'));
    if runs.iter().all(|r| *r == runs[0]) {
        return glob_escape(runs[0]);
    }
    match class {
        Class::Digits if padded && length <= 8 => "[0-9]".repeat(length),
        Class::Hex if even && length <= 4 => "[0-9a-f]".repeat(length),
        Class::Random if even && length - front.len() <= SPELLED => {
            format!("{}{}", glob_escape(front), "?".repeat(length - front.len()))
        }
        Class::Hex if even && length <= SPELLED => "?".repeat(length),
        Class::Random => format!("{}*", glob_escape(front)),
        _ => "*".into(),
    }
}

/// What of a common front of drawn runs was not drawn: letters, as the `tmp` of `tmp3gr8Eo8HxO`. Digits
/// that a few samples share are chance, or the clock.
fn word(front: &[u8]) -> &[u8] {
    let letters = front.iter().take_while(|b| b.is_ascii_lowercase()).count();
    &front[..if letters < 2 { 0 } else { letters }]
}

/// The segment for names of one length with something in common or drawn; at most [`SPELLED`] open
/// bytes.
pub(crate) fn length_segment(names: &[&[u8]]) -> Option<Segment> {
    let length = names.first()?.len();
    let front = common_front(names);
    // As for one run: what is shared behind the last separator counts if it is a word.
    let whole = whole_part(front).len();
    let front = &front[..whole + word(&front[whole..]).len()];
    let back = extension(names.first()?).filter(|e| names.iter().all(|n| n.ends_with(e)));
    let back = back.unwrap_or_default();
    let open = length.checked_sub(front.len() + back.len())?;
    if length < 6 || open > SPELLED || open == 0 || names.iter().any(|n| n.len() != length) {
        return None;
    }
    // `?` is one character of a glob: one byte.
    let glob = format!(
        "{}{}{}",
        glob_escape(front),
        "?".repeat(open),
        glob_escape(back)
    );
    Some(Segment::Pattern {
        glob,
        breadth: Breadth::Length,
    })
}

/// The segment for names with a common front and back, at least one of which says something.
pub(crate) fn affix_segment(names: &[&[u8]]) -> Option<Segment> {
    let front = whole_part(common_front(names));
    let shortest = names.iter().map(|n| n.len()).min()?;
    let back = extension(names.first()?).filter(|e| names.iter().all(|n| n.ends_with(e)));
    let back = back.unwrap_or_default();
    if front.len() + back.len() > shortest || front.len() < 3 && back.len() < 2 {
        return None;
    }
    Some(Segment::Pattern {
        glob: format!("{}*{}", glob_escape(front), glob_escape(back)),
        breadth: Breadth::Affix,
    })
}

/// The front up to the last separator in it: `feature-` of `feature-am`.
fn whole_part(front: &[u8]) -> &[u8] {
    let end = front.iter().rposition(|b| b"-_.+@=".contains(b));
    &front[..end.map_or(0, |e| e + 1)]
}

/// The front of a name up to its first separator, for grouping.
pub(crate) fn first_word(name: &[u8]) -> Option<&[u8]> {
    let end = name.iter().skip(1).position(|b| b"-_.+@=".contains(b))?;
    name.get(..end + 2)
}

/// The extension of a name with its dot, for grouping.
pub(crate) fn extension(name: &[u8]) -> Option<&[u8]> {
    let at = name.iter().rposition(|b| *b == b'.')?;
    let plain = name[at + 1..].iter().all(u8::is_ascii_alphanumeric);
    (at > 0 && plain && (1..=8).contains(&(name.len() - at - 1))).then(|| &name[at..])
}

fn common_front<'n>(names: &[&'n [u8]]) -> &'n [u8] {
    let Some(first) = names.first() else {
        return &[];
    };
    let same = |name: &&[u8]| name.iter().zip(*first).take_while(|(a, b)| a == b).count();
    let length = names.iter().map(same).min().unwrap_or(0);
    &first[..length]
}

/// Numbers of processes below `/proc`: the kernel draws them, however often one recurs.
pub(crate) fn process_segment() -> Segment {
    Segment::Pattern {
        glob: "[0-9]*".into(),
        breadth: Breadth::Shape,
    }
}

/// Any name of a segment.
pub(crate) fn any_segment() -> Segment {
    Segment::Pattern {
        glob: "*".into(),
        breadth: Breadth::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(names: &[&str]) -> String {
        let names: Vec<&[u8]> = names.iter().map(|n| n.as_bytes()).collect();
        shape_segment(&names).map_or("-".into(), |s| s.text())
    }

    #[test]
    fn drawn_names_have_a_shape() {
        for (names, glob) in [
            (
                vec!["log-2026-01-21.txt", "log-2026-12-02.txt"],
                "log-2026-[0-9][0-9]-[0-9][0-9].txt",
            ),
            (vec!["tmp.2E12ZqcJLu", "tmp.3gr8Eo8HxO"], "tmp.??????????"),
            (
                vec!["rustdoctest0kiBUp", "rustdoctestMfUVV1"],
                "rustdoctest??????",
            ),
            (vec!["0d", "45"], "[0-9a-f][0-9a-f]"),
            (
                vec!["libx-0a1b2c3d4e5f6071.rlib", "libx-ffffffffffffff01.rlib"],
                "libx-????????????????.rlib",
            ),
            (vec!["v0.9", "v0.10"], "v0.*"),
            (vec!["v0.7", "v0.3"], "v0.*"),
            (
                vec!["s-hod2g9ewfp-1ple81t", "s-hod2g3sq61-1u88w6s"],
                "s-hod???????-???????",
            ),
        ] {
            let shapes: Vec<_> = names.iter().map(|n| shape(n.as_bytes())).collect();
            assert!(
                shapes[0].is_some() && shapes[0] == shapes[1],
                "{names:?} {shapes:?}"
            );
            assert_eq!(merged(&names), glob);
        }
        for name in [
            "README",
            "main.rs",
            "Makefile",
            "src",
            "Cargo.toml",
            "a",
            "utf8",
        ] {
            assert_eq!(shape(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn affixes_and_lengths() {
        let names = |n: &[&'static str]| n.iter().map(|n| n.as_bytes()).collect::<Vec<_>>();
        let text = |s: Option<Segment>| s.map_or("-".into(), |s| s.text());
        assert_eq!(text(affix_segment(&names(&["a.md", "bcd.md"]))), "*.md");
        assert_eq!(
            text(affix_segment(&names(&["test_a.py", "test_bc.py"]))),
            "test_*.py"
        );
        assert_eq!(
            text(affix_segment(&names(&["feature-ab", "feature-ac"]))),
            "feature-*"
        );
        assert_eq!(text(affix_segment(&names(&["abc", "xyz"]))), "-");
        assert_eq!(
            text(length_segment(&names(&["0hp81ov2", "fjbh85tx"]))),
            "????????"
        );
        assert_eq!(
            text(length_segment(&names(&["aa1aa1.x", "aa1baa.x"]))),
            "aa????.x"
        );
        assert_eq!(text(length_segment(&names(&["short", "other"]))), "-");
    }
}
