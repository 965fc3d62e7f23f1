//! What is wrong with a policy file: where, the offending text, and what to write instead.
//!
//! Loading collects as many diagnostics as it can, so that an author mends a file in one pass. The
//! text form shows the line with a caret below the offending text; the structured form serialises
//! for `--json`. File content is untrusted (a repository's own file is read, too), so everything
//! shown is escaped.

use std::fmt;

use agentwall_action::escape_text;
use serde::Serialize;

/// Most diagnostics that one load reports; the rest is counted.
pub const MAX_DIAGNOSTICS: usize = 50;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The name of the source.
    pub source: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; at least 1.
    pub length: usize,
    /// What was expected and what was found.
    pub message: String,
    /// The offending line, without its end; of a very long line the part around the place.
    pub text: String,
    /// The column of the first character of `text`; 1 unless the line is very long.
    pub text_column: usize,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show("error", f)
    }
}

impl Diagnostic {
    /// The text form under a heading: `error`, `warning`.
    pub(crate) fn show(&self, heading: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{heading}: {}", escape_text(&self.message))?;
        writeln!(
            f,
            "{margin}--> {}:{}:{}",
            escape_text(&self.source),
            self.line,
            self.column
        )?;
        // A window of the line around the place, so that a huge line stays readable.
        let column = self.column.saturating_sub(self.text_column);
        let from = column.saturating_sub(60);
        let before: String = self.text.chars().skip(from).take(column - from).collect();
        let rest: Vec<char> = self.text.chars().skip(column).take(60).collect();
        let meant: String = rest.iter().take(self.length).collect();
        let after: String = rest.iter().skip(self.length).collect();
        let shown = |t: &str| escape_text(t).replace("\\\\", "\\");
        let (before, meant, after) = (shown(&before), shown(&meant), shown(&after));
        let dots = if from > 0 || self.text_column > 1 {
            "..."
        } else {
            ""
        };
        writeln!(f, "{number} | {dots}{before}{meant}{after}")?;
        let indent = " ".repeat(dots.len() + before.chars().count());
        let carets = "^".repeat(meant.chars().count().max(1));
        writeln!(f, "{margin} | {indent}{carets}")?;
        if let Some(suggestion) = &self.suggestion {
            writeln!(f, "{margin} = help: {}", escape_text(suggestion))?;
        }
        Ok(())
    }
}

/// Diagnostics while they are collected: bounded, so that a hostile file costs neither memory nor time.
#[derive(Debug, Default)]
pub struct Found(Vec<Diagnostic>);

impl Found {
    /// Adds one, unless there are enough.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.is_full() {
            self.0.push(diagnostic);
        }
    }

    /// Whether there is no point in looking on.
    pub fn is_full(&self) -> bool {
        self.0.len() >= 2 * MAX_DIAGNOSTICS
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_error(self) -> LoadError {
        LoadError::new(self.0)
    }

    /// The error of another kind of file than a policy.
    pub(crate) fn into_error_of(self, what: &'static str) -> LoadError {
        LoadError {
            what,
            ..LoadError::new(self.0)
        }
    }
}

/// Why a policy, or a table of test cases, was not loaded. `Display` is the complete report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    diagnostics: Vec<Diagnostic>,
    total: usize,
    what: &'static str,
}

impl LoadError {
    fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics
            .sort_by(|a, b| (&a.source, a.line, a.column).cmp(&(&b.source, b.line, b.column)));
        diagnostics.dedup();
        let total = diagnostics.len();
        diagnostics.truncate(MAX_DIAGNOSTICS);
        LoadError {
            diagnostics,
            total,
            what: "policy",
        }
    }

    /// What is wrong, by source, line and column.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(f, "{diagnostic}")?;
        }
        let more = self.total - self.diagnostics.len();
        if more > 0 {
            writeln!(f, "and {more} more")?;
        }
        let s = if self.total == 1 { "" } else { "s" };
        let what = self.what;
        write!(f, "the {what} was not loaded: {} error{s}", self.total)
    }
}

/// The candidate nearest to `text` by edit distance, if it is near enough to be a likely slip.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if text.len() > 64 {
        return None;
    }
    let lower = text.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (distance(&lower, &c.to_lowercase()), c))
        .filter(|(d, c)| *d <= 1 + c.chars().count() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// `did you mean 'X'?` for the nearest candidate, else the list of candidates.
pub(crate) fn did_you_mean(text: &str, candidates: &[&str]) -> Option<String> {
    match nearest(text, candidates.iter().copied()) {
        Some(c) => Some(format!("did you mean '{c}'?")),
        None if candidates.is_empty() => None,
        None => Some(format!("one of {}", candidates.join(", "))),
    }
}

/// Optimal string alignment distance: insert, delete, replace, swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        assert_eq!(nearest("effct", ["effect", "id"]), Some("effect"));
        assert_eq!(nearest("Dney", ["deny", "allow"]), Some("deny"));
        assert_eq!(nearest("zebra", ["effect", "id"]), None);
        assert_eq!(distance("raed", "read"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_huge_or_hostile_line_is_shown_as_a_window() {
        let d = Diagnostic {
            source: "p.yaml".into(),
            line: 7,
            column: 1001,
            length: 3,
            message: "bad \x1b[2J".into(),
            text_column: 1,
            text: format!("{}bad{}", "x".repeat(1000), "\u{202e}y".repeat(1000)),
            suggestion: None,
        };
        let shown = d.to_string();
        assert!(shown.lines().all(|l| l.chars().count() < 800), "{shown}");
        assert!(!shown.contains('\x1b') && !shown.contains('\u{202e}'));
        let lines: Vec<&str> = shown.lines().collect();
        let at = lines[3].find('^').unwrap();
        assert_eq!(&lines[2][at..at + 3], "bad");
    }
}
