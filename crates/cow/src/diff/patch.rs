//! The text of a patch, as git writes and takes it: sections, hunks, modes and quoted names.
//!
//! Whatever a patch cannot say becomes a `#` line, which `git apply` skips. Lines end at `\n` only, and
//! a name that could be mistaken is quoted as git quotes it.

use std::io::{self, Write};
use std::time::Instant;

use agentwall_action::escape_bytes;
use similar::{Algorithm, ChangeTag, TextDiff};

use super::{DiffOptions, Side};
use crate::dir::{EntryKind, Snapshot};

/// One `diff --git` section, or a note where a patch cannot say it.
pub(super) fn entry(
    out: &mut dyn Write,
    rel: &[u8],
    (old_stat, old): (Option<&Snapshot>, Side),
    (new_stat, new): (Option<&Snapshot>, Side),
    options: &DiffOptions,
) -> io::Result<()> {
    let old_mode = old_stat.and_then(git_mode);
    let new_mode = new_stat.and_then(git_mode);
    if (old_stat.is_some() && old_mode.is_none()) || (new_stat.is_some() && new_mode.is_none()) {
        return node_note(out, rel, old_stat, new_stat);
    }
    let (old, new) = match (old, new) {
        (Side::Text(old), Side::Text(new)) => (old, new),
        (Side::Unreadable(e), _) | (_, Side::Unreadable(e)) => {
            return note(out, rel, &format!("not shown: cannot be read: {e}"));
        }
        (Side::TooLarge(n), _) | (_, Side::TooLarge(n)) => {
            let max = options.max_file;
            return note(
                out,
                rel,
                &format!("cut: {n} bytes, more than the {max} shown"),
            );
        }
        _ => {
            let size = |s: Option<&Snapshot>| s.map_or(0, |s| s.size);
            let text = format!(
                "binary, {} -> {} bytes, not in this patch",
                size(old_stat),
                size(new_stat)
            );
            return note(out, rel, &text);
        }
    };
    let same_mode = old_mode == new_mode;
    if old == new && old_stat.is_some() && new_stat.is_some() && same_mode {
        return node_note(out, rel, old_stat, new_stat);
    }
    let (a, b) = (quoted(b"a/", rel), quoted(b"b/", rel));
    out.write_all(b"diff --git ")?;
    out.write_all(&a)?;
    out.write_all(b" ")?;
    out.write_all(&b)?;
    out.write_all(b"\n")?;
    match (old_mode, new_mode) {
        (None, Some(m)) => writeln!(out, "new file mode {m}")?,
        (Some(m), None) => writeln!(out, "deleted file mode {m}")?,
        (Some(o), Some(n)) if o != n => writeln!(out, "old mode {o}\nnew mode {n}")?,
        _ => {}
    }
    if old == new {
        return Ok(());
    }
    for (sign, name, there) in [("---", a, old_mode), ("+++", b, new_mode)] {
        write!(out, "{sign} ")?;
        match there {
            Some(_) => out.write_all(&name)?,
            None => out.write_all(b"/dev/null")?,
        }
        // A name with a space needs the tab that ends it, as git writes it.
        if there.is_some() && name.contains(&b' ') && !name.starts_with(b"\"") {
            out.write_all(b"\t")?;
        }
        out.write_all(b"\n")?;
    }
    hunks(out, &old, &new, options)
}

/// Writes hunks by hand: lines end at `\n` only, as in git.
fn hunks(out: &mut dyn Write, old: &[u8], new: &[u8], options: &DiffOptions) -> io::Result<()> {
    let (old, new) = (lines(old), lines(new));
    let diff = text_diff(&old, &new, options);
    for group in diff.grouped_ops(options.context) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let olds = first.old_range().start..last.old_range().end;
        let news = first.new_range().start..last.new_range().end;
        writeln!(out, "@@ -{} +{} @@", span(&olds), span(&news))?;
        for op in &group {
            for change in diff.iter_changes(op) {
                let (sign, line): (&[u8], &[u8]) = match change.tag() {
                    ChangeTag::Equal => (b" ", change.value()),
                    ChangeTag::Delete => (b"-", change.value()),
                    ChangeTag::Insert => (b"+", change.value()),
                };
                out.write_all(sign)?;
                out.write_all(line)?;
                if !line.ends_with(b"\n") {
                    out.write_all(b"\n\\ No newline at end of file\n")?;
                }
            }
        }
    }
    Ok(())
}

fn span(range: &std::ops::Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        n => format!("{},{n}", range.start + 1),
    }
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|b| *b == b'\n').collect()
}

fn text_diff<'a>(
    old: &'a [&'a [u8]],
    new: &'a [&'a [u8]],
    options: &DiffOptions,
) -> TextDiff<'a, 'a, [u8]> {
    TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .deadline(Instant::now() + options.per_file)
        .diff_slices(old, new)
}

/// Lines added and removed.
pub(super) fn count(old: &[u8], new: &[u8], options: &DiffOptions) -> (usize, usize) {
    let (old, new) = (lines(old), lines(new));
    let diff = text_diff(&old, &new, options);
    let of = |tag| diff.iter_all_changes().filter(|c| c.tag() == tag).count();
    (of(ChangeTag::Insert), of(ChangeTag::Delete))
}

/// The mode as git stores it; `None` for what git does not store.
fn git_mode(s: &Snapshot) -> Option<&'static str> {
    match s.kind {
        EntryKind::File if s.mode & 0o111 != 0 => Some("100755"),
        EntryKind::File => Some("100644"),
        EntryKind::Symlink => Some("120000"),
        _ => None,
    }
}

/// What a patch cannot say: directories, nodes, and modes that git does not store.
fn node_note(
    out: &mut dyn Write,
    rel: &[u8],
    old: Option<&Snapshot>,
    new: Option<&Snapshot>,
) -> io::Result<()> {
    let show = |s: Option<&Snapshot>| match s {
        Some(s) => format!("{:?} mode {:04o} owner {}:{}", s.kind, s.mode, s.uid, s.gid),
        None => "nothing".to_owned(),
    };
    if let (Some(old), Some(new)) = (old, new)
        && show(Some(old)) == show(Some(new))
        && old.mtime != new.mtime
    {
        let time = |s: &Snapshot| format!("{}.{:09}", s.mtime.sec, s.mtime.nsec);
        let text = format!("modification time {} -> {}", time(old), time(new));
        return note(out, rel, &text);
    }
    note(out, rel, &format!("{} -> {}", show(old), show(new)))
}

/// A line that is not part of a patch.
pub(super) fn note(out: &mut dyn Write, rel: &[u8], text: &str) -> io::Result<()> {
    writeln!(out, "# {}: {}", escape_bytes(rel), text)
}

/// A name as git quotes it with `core.quotePath`: C style in double quotes if it holds control
/// characters, quotes, backslashes or bytes above 0x7f.
fn quoted(prefix: &[u8], rel: &[u8]) -> Vec<u8> {
    let odd = |b: u8| !(0x20..0x7f).contains(&b) || b == b'"' || b == b'\\';
    let mut out = Vec::with_capacity(rel.len() + 4);
    if !rel.iter().any(|b| odd(*b)) {
        out.extend_from_slice(prefix);
        out.extend_from_slice(rel);
        return out;
    }
    out.push(b'"');
    out.extend_from_slice(prefix);
    for &b in rel {
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b if odd(b) => out.extend_from_slice(format!("\\{b:03o}").as_bytes()),
            b => out.push(b),
        }
    }
    out.push(b'"');
    out
}
