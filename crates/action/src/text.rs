//! Showing untrusted text to a person: an agent chooses file names, arguments and host names, and
//! must not be able to move the cursor, hide text or reverse its order in a prompt (Unicode
//! Technical Report 36, section 3; CVE-2021-42574).

use std::fmt::Write as _;

/// Escapes control characters, bidirectional controls, invisible and non-characters as `\u{…}`.
/// Printable text, including non-ASCII letters, stays as it is; a backslash is doubled so that the
/// result is unambiguous.
pub fn escape_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        push(&mut out, c);
    }
    out
}

/// Like [`escape_text`] for bytes that need not be UTF-8; a byte outside UTF-8 becomes `\xNN`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push(&mut out, c);
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

fn push(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c.is_control() || invisible(c) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

fn invisible(c: char) -> bool {
    matches!(u32::from(c),
        0x00ad | 0x034f | 0x061c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f
        | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_and_bidi_controls_are_visible() {
        assert_eq!(escape_text("a\x1b[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
        assert_eq!(escape_text("naïve\\n"), "naïve\\\\n");
        assert_eq!(escape_bytes(b"x\xff\ny"), "x\\xff\\ny");
    }
}
