//! Globs against a plain matcher that works on the pattern's tokens by recursion.

use std::collections::HashMap;

use agentwall_policy::{Glob, GlobKind, glob_escape};

use crate::input::lines;

const KINDS: [(GlobKind, &[u8]); 4] = [
    (GlobKind::Path, b"/"),
    (GlobKind::Host, b"."),
    (GlobKind::Text, b":/"),
    (GlobKind::Verb, b"."),
];

/// A pattern in the first line, texts in the others.
pub fn glob(data: &[u8]) {
    // Texts are bytes; only the pattern must be UTF-8.
    let mut all = data.split(|b| *b == b'\n');
    let pattern = all.next().unwrap_or_default();
    let texts: Vec<&[u8]> = all.take(8).collect();
    escaped(pattern, &texts);
    let Some(pattern) = lines(pattern, 1).first().copied() else {
        return;
    };
    // The plain matcher is quadratic and more; the bounds of the real one are tested elsewhere.
    if pattern.len() > 300 {
        return;
    }
    for (kind, separators) in KINDS {
        let glob = match Glob::new(pattern, kind) {
            Ok(glob) => glob,
            Err(error) => {
                assert!(
                    pattern.is_char_boundary(error.offset),
                    "{pattern:?}: {error:?}"
                );
                assert!(!error.message.is_empty());
                continue;
            }
        };
        assert_eq!(glob.as_str(), pattern);
        let alternatives = expand(pattern);
        if alternatives.len() > 64 {
            continue;
        }
        let alternatives: Vec<Vec<Token>> = alternatives
            .iter()
            .map(|p| tokens(p, separators, kind == GlobKind::Path))
            .collect();
        for text in texts.iter().filter(|t| t.len() <= 120) {
            for directory in [false, true] {
                let plain = alternatives.iter().any(|tokens| {
                    Plain {
                        tokens,
                        text,
                        directory,
                        path: kind == GlobKind::Path,
                        known: HashMap::new(),
                    }
                    .matches(0, 0)
                });
                assert_eq!(
                    glob.matches(text, directory),
                    plain,
                    "{kind:?} {pattern:?} {:?} {directory}",
                    String::from_utf8_lossy(text)
                );
            }
        }
    }
}

/// An escaped text is a pattern that matches it and nothing else.
fn escaped(name: &[u8], others: &[&[u8]]) {
    if name.is_empty() || name.len() > 500 {
        return;
    }
    let escaped = glob_escape(name);
    for (kind, _) in KINDS {
        let glob = match Glob::new(&escaped, kind) {
            Ok(glob) => glob,
            // Only canonical paths are path patterns.
            Err(_) if kind == GlobKind::Path => continue,
            Err(error) => panic!("{escaped:?}: {error}"),
        };
        assert!(glob.matches(name, false), "{kind:?} {escaped:?}");
        for other in others {
            assert_eq!(
                glob.matches(other, false),
                *other == name,
                "{kind:?} {escaped:?}"
            );
        }
    }
}

/// The braces of a valid pattern expanded as text.
fn expand(pattern: &str) -> Vec<String> {
    let bytes = pattern.as_bytes();
    let (mut depth, mut open, mut cuts, mut class) = (0, 0, Vec::new(), false);
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += escape_length(&bytes[at..]) - 1,
            b']' => class = false,
            _ if class => {}
            b'[' => class = true,
            b'{' => {
                if depth == 0 {
                    (open, cuts) = (at, vec![at]);
                }
                depth += 1;
            }
            b',' if depth == 1 => cuts.push(at),
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    cuts.push(at);
                    let (head, tail) = (&pattern[..open], &pattern[at + 1..]);
                    let middles: Vec<String> = cuts
                        .windows(2)
                        .flat_map(|c| expand(&pattern[c[0] + 1..c[1]]))
                        .collect();
                    let tails = expand(tail);
                    return middles
                        .iter()
                        .take(65)
                        .flat_map(|m| tails.iter().map(move |t| format!("{head}{m}{t}")))
                        .take(65)
                        .collect();
                }
            }
            _ => {}
        }
        at += 1;
    }
    vec![pattern.to_owned()]
}

/// The length of the escape at the front of a valid pattern.
fn escape_length(bytes: &[u8]) -> usize {
    match bytes.get(1) {
        Some(b'x') => 4,
        Some(b'u') => 1 + bytes.iter().position(|b| *b == b'}').expect("closed"),
        _ => 2,
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// One byte of these.
    One(Vec<u8>),
    /// Any number of bytes of these.
    Star(Vec<u8>),
    /// Any bytes.
    Any,
}

fn tokens(pattern: &str, separators: &[u8], path: bool) -> Vec<Token> {
    let part: Vec<u8> = (0..=255).filter(|b| !separators.contains(b)).collect();
    let mut out = Vec::new();
    let mut rest = pattern.as_bytes();
    while let Some(&first) = rest.first() {
        let length = match first {
            b'*' if rest.starts_with(b"**") => {
                out.push(Token::Any);
                2
            }
            b'*' => {
                out.push(Token::Star(part.clone()));
                1
            }
            b'?' => {
                out.push(Token::One(part.clone()));
                1
            }
            b'[' => {
                let (set, length) = class(rest);
                out.push(Token::One(
                    part.iter()
                        .copied()
                        .filter(|b| set[usize::from(*b)])
                        .collect(),
                ));
                length
            }
            b'\\' => {
                let length = escape_length(rest);
                out.extend(
                    escape(&rest[..length])
                        .into_iter()
                        .map(|b| Token::One(vec![b])),
                );
                length
            }
            b => {
                out.push(Token::One(vec![b]));
                1
            }
        };
        rest = &rest[length..];
    }
    if path { canonical(out) } else { out }
}

/// `**/` at the front means `/**/`, and `/**/**` means `/**`.
fn canonical(tokens: Vec<Token>) -> Vec<Token> {
    let slash = Token::One(vec![b'/']);
    let mut segments: Vec<Vec<Token>> = tokens
        .split(|t| *t == slash)
        .map(<[Token]>::to_vec)
        .collect();
    if segments.len() == 1 {
        return tokens;
    }
    if segments[0] == [Token::Any] {
        segments.insert(0, Vec::new());
    }
    segments.dedup_by(|b, a| *a == [Token::Any] && a == b);
    segments.join(&slash)
}

/// The bytes of an escape.
fn escape(text: &[u8]) -> Vec<u8> {
    let hex =
        |t: &[u8]| u32::from_str_radix(std::str::from_utf8(t).expect("hex"), 16).expect("hex");
    let c = match text[1] {
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'x' => return vec![hex(&text[2..4]) as u8],
        b'u' => char::from_u32(hex(&text[3..text.len() - 1])).expect("a code point"),
        // The first byte of a longer character: the others follow as they are.
        b => return vec![b],
    };
    c.to_string().into_bytes()
}

/// A class at the front: which bytes are in it, and how long it is.
fn class(text: &[u8]) -> ([bool; 256], usize) {
    let mut at = 1;
    let negated = text[at] == b'!';
    at += usize::from(negated);
    let mut set = [negated; 256];
    let one = |at: &mut usize| {
        if text[*at] != b'\\' {
            *at += 1;
            return text[*at - 1];
        }
        let length = escape_length(&text[*at..]);
        let bytes = escape(&text[*at..*at + length]);
        *at += length;
        bytes[0]
    };
    while text[at] != b']' {
        let low = one(&mut at);
        let mut high = low;
        if text[at] == b'-' && text[at + 1] != b']' {
            at += 1;
            high = one(&mut at);
        }
        set[usize::from(low)..=usize::from(high)].fill(!negated);
    }
    (set, at + 1)
}

struct Plain<'a> {
    tokens: &'a [Token],
    text: &'a [u8],
    directory: bool,
    path: bool,
    known: HashMap<(usize, usize), bool>,
}

impl Plain<'_> {
    /// Whether the tokens from `p` match the text from `t`.
    fn matches(&mut self, p: usize, t: usize) -> bool {
        if let Some(known) = self.known.get(&(p, t)) {
            return *known;
        }
        let found = self.look(p, t);
        self.known.insert((p, t), found);
        found
    }

    fn look(&mut self, p: usize, t: usize) -> bool {
        let (tokens, text) = (&self.tokens[p..], &self.text[t..]);
        let slash = Token::One(vec![b'/']);
        match tokens {
            [] => text.is_empty(),
            [a, Token::Any] if self.path && *a == slash => match text {
                [] | [b'/'] => self.directory,
                text => text[0] == b'/',
            },
            [a, Token::Any, b, ..] if self.path && *a == slash && *b == slash => {
                text.first() == Some(&b'/')
                    && (self.matches(p + 3, t + 1)
                        || (t + 1..self.text.len())
                            .any(|i| self.text[i] == b'/' && self.matches(p + 3, i + 1)))
            }
            [Token::One(set), ..] => {
                text.first().is_some_and(|b| set.contains(b)) && self.matches(p + 1, t + 1)
            }
            [Token::Any, ..] => (t..=self.text.len()).any(|i| self.matches(p + 1, i)),
            [Token::Star(set), ..] => {
                let end = text.iter().position(|b| !set.contains(b));
                let end = end.map_or(self.text.len(), |n| t + n);
                (t..=end).any(|i| self.matches(p + 1, i))
            }
        }
    }
}
