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

/// The bytes that [`escape_bytes`] (or [`escape_text`]) showed as this text; `None` for a text that
/// neither of them writes.
pub fn unescape_bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let mut after = rest[at + 1..].chars();
        let kind = after.next()?;
        rest = after.as_str();
        match kind {
            '\\' => out.push(b'\\'),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'u' => {
                let (digits, left) = rest.strip_prefix('{')?.split_once('}')?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = left;
            }
            'x' => {
                let (digits, left) = rest.split_at_checked(2)?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                rest = left;
            }
            _ => return None,
        }
    }
    out.extend_from_slice(rest.as_bytes());
    // One spelling only: what could have been written in another way was not written by us.
    (escape_bytes(&out) == text).then_some(out)
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
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x2800 | 0x3164 | 0xfe00..=0xfe0f
        | 0xfeff | 0xffa0 | 0xfff0..=0xfffc | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff)
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

    /// Braille without dots, controls of shorthand and of music, the mark of an object that is not there.
    #[test]
    fn characters_that_show_nothing_are_visible() {
        for c in [
            '\u{2800}',
            '\u{1bca0}',
            '\u{1bca3}',
            '\u{1d173}',
            '\u{1d17a}',
            '\u{fffc}',
        ] {
            let shown = escape_text(&format!("a{c}b"));
            assert_eq!(shown, format!("a\\u{{{:x}}}b", u32::from(c)));
        }
        for c in [
            '\u{2801}',
            '\u{1bc9f}',
            '\u{1d172}',
            '\u{1d17b}',
            '\u{fffd}',
        ] {
            assert_eq!(escape_text(&c.to_string()), c.to_string());
        }
    }

    #[test]
    fn what_was_escaped_comes_back_and_nothing_else_does() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        // Bytes that mean something to the escaping are frequent.
        let bytes = b"\\nxu{}07f\n\t\xff\xc3\xa9\xe2\x80\xaea/";
        for _ in 0..20_000 {
            let length = next() % 12;
            let text: Vec<u8> = (0..length)
                .map(|_| bytes[next() as usize % bytes.len()])
                .collect();
            let shown = escape_bytes(&text);
            assert_eq!(
                unescape_bytes(&shown).as_deref(),
                Some(&text[..]),
                "{shown}"
            );
            if let Ok(shown) = std::str::from_utf8(&text)
                && let Some(bytes) = unescape_bytes(shown)
            {
                assert_eq!(escape_bytes(&bytes), shown);
            }
        }
        for wrong in [
            "\\", "\\q", "\\x", "\\x6", "\\x61", "\\u{61}", "\\u{zz}", "\\u{", "a\nb", "\\xF0",
        ] {
            assert_eq!(unescape_bytes(wrong), None, "{wrong:?}");
        }
    }
}
