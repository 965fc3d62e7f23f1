//! What reaches the terminal: colour only where a person looks, tables, and no text that an agent
//! chose without escaping. Results go to standard output, everything else to standard error.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use agentwall_action::escape_bytes;
use anyhow::{Context as _, Result};

/// Exit status: done.
pub const OK: u8 = 0;
/// Exit status: failed, or a defect was found.
pub const FAILED: u8 = 1;
/// Exit status: wrong usage.
pub const USAGE: u8 = 2;
/// Exit status: some changes could not be committed.
pub const CONFLICTS: u8 = 3;
/// Exit status: the wall itself failed.
pub const WALL_FAILED: u8 = 125;

/// An error that the person's command line is to blame for; exit status 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A colour or weight, by its SGR number (ECMA-48).
#[derive(Debug, Clone, Copy)]
pub enum Style {
    /// Refused, conflicting, lost.
    Red,
    /// Done.
    Green,
    /// Waiting.
    Yellow,
    /// Less important.
    Dim,
    /// More important.
    Bold,
}

/// Whether standard output shows colours.
pub fn colours() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// The text in a style, if standard output shows colours. The text is escaped already.
pub fn paint(style: Style, text: &str) -> String {
    if !colours() {
        return text.to_owned();
    }
    let code = match style {
        Style::Red => 31,
        Style::Green => 32,
        Style::Yellow => 33,
        Style::Dim => 2,
        Style::Bold => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Writes text to standard output.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write the output")
}

/// An error with its causes, each said once, and what to do about what this host lacks.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    if let Some(next) = next_step(&text) {
        text.push_str("; ");
        text.push_str(next);
    }
    text
}

/// What to do about a cause that the system names and that can come up anywhere, unless the message
/// says it already. Libraries hand some causes on as text, so the text is looked at.
pub fn next_step(text: &str) -> Option<&'static str> {
    let has = |cause: &str| text.contains(cause);
    // ENOSPC and EAGAIN of a namespace are limits of the host, not a disk or a person's processes.
    let (said, next) = if has("namespace") {
        let refused = has("(os error 28)") || has("(os error 11)") || has("(os error 1)");
        (
            !refused || has("agentwall doctor"),
            "'agentwall doctor' tells what this host lacks",
        )
    } else if has("put a copy layer over") {
        (
            has("AGENTWALL_STATE"),
            "copies need a state folder on a disk of this host that overlayfs can use (set \
             AGENTWALL_STATE to one, not inside a container's own root)",
        )
    } else if has("(os error 28)") || has("(os error 122)") {
        (
            has("make room"),
            "the disk is full: make room, then try again",
        )
    } else if has("(os error 24)") {
        (
            has("ulimit"),
            "more open files are needed: raise the limit, for example 'ulimit -n 1024'",
        )
    } else {
        return None;
    };
    (!said).then_some(next)
}

/// Whether an error is that a disk is full.
pub fn disk_is_full(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("(os error 28)") || text.contains("(os error 122)")
}

/// Writes a JSON value to standard output, indented.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = ascii_controls(&serde_json::to_string_pretty(value)?);
    text.push('\n');
    print(&text)
}

/// Writes a JSON value as one line.
pub fn print_json_line(value: &impl serde::Serialize) -> Result<()> {
    let mut text = ascii_controls(&serde_json::to_string(value)?);
    text.push('\n');
    print(&text)
}

/// JSON leaves some characters that act on terminals as they are (DEL, C1 and bidirectional
/// controls, invisible ones); they occur only inside strings, where `\u` means the same.
fn ascii_controls(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        let acts =
            !c.is_ascii() && agentwall_action::escape_text(c.encode_utf8(&mut [0; 4])).is_ascii();
        if acts || c == '\x7f' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Text that was escaped once already, and text that may not have been, made safe alike: control
/// and invisible characters are shown by number, backslashes stay as they are.
pub fn tame(text: &str) -> String {
    agentwall_action::escape_text(text).replace("\\\\", "\\")
}

/// A message for the person, on standard error.
pub fn note(text: &str) {
    // Standard error may be closed; there is nobody to tell then.
    let _ = writeln!(io::stderr(), "agentwall: {text}");
}

/// Columns of text, aligned; the last one is not padded. Cells are escaped already.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|c| visible(c))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if n + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[n] - visible(cell) + 2));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Characters that are seen: escape sequences of [`paint`] are not.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut inside = false;
    for c in text.chars() {
        match c {
            '\x1b' => inside = true,
            'm' if inside => inside = false,
            _ if inside => {}
            _ => count += 1,
        }
    }
    count
}

/// A path below a folder by its relative name, else whole; escaped.
pub fn path_below(path: &Path, folder: &Path) -> String {
    let short = path
        .strip_prefix(folder)
        .ok()
        .filter(|p| !p.as_os_str().is_empty());
    escape_bytes(short.unwrap_or(path).as_os_str().as_bytes())
}

/// How long ago, in the largest fitting unit.
pub fn ago(ms: u64) -> String {
    let seconds = crate::state::now_ms().saturating_sub(ms) / 1000;
    format!("{} ago", span(seconds))
}

/// Seconds in the largest fitting unit.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `1 change`, `2 changes`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_whatever_is_painted() {
        let rows = [
            vec!["\x1b[31mab\x1b[0m".into(), "x".into()],
            vec!["abcd".into(), "y".into()],
        ];
        assert_eq!(table(&rows), "\x1b[31mab\x1b[0m    x\nabcd  y\n");
        assert_eq!(
            ascii_controls("\"é\u{202e}\u{7f}\u{e0001}\""),
            "\"é\\u202e\\u007f\\udb40\\udc01\""
        );
        assert_eq!(tame("a\\n\x1b\n"), "a\\n\\u{1b}\\n");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(7300), "2 h");
    }

    #[test]
    fn a_shortage_is_said_once_with_its_next_step() {
        let os = |n| io::Error::from_raw_os_error(n);
        let full = anyhow::Error::from(os(28)).context(format!("cannot write /x: {}", os(28)));
        assert_eq!(
            explain(&full),
            "cannot write /x: No space left on device (os error 28); the disk is full: make room, \
             then try again"
        );
        assert!(disk_is_full(&full));
        let said = anyhow::anyhow!("{}; the disk is full: make room", os(28));
        assert_eq!(explain(&said).matches("make room").count(), 1);
        let limit = anyhow::Error::from(os(28)).context("cannot start the process namespace");
        assert!(explain(&limit).ends_with("'agentwall doctor' tells what this host lacks"));
        let files = explain(&anyhow::Error::from(os(24)).context("cannot listen"));
        assert!(files.contains("ulimit -n"), "{files}");
        let other = anyhow::Error::from(os(2)).context("cannot read /x");
        assert_eq!(explain(&other), format!("cannot read /x: {}", os(2)));
    }
}
