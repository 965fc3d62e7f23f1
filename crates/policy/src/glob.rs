//! Globs: the pattern language of subjects, actions, paths, host names and named resources.
//!
//! Patterns match *bytes*, because a Linux file name is bytes. `*` and `?` stay inside one part (a
//! path segment, a host label, a `:` or `/` part of a name), `**` crosses parts, `[a-z]` and `[!a-z]`
//! are byte classes, `{a,b}` are alternatives and may nest, a backslash takes the next character
//! literally. In paths `/**/` also stands for a single `/`, a leading `**/` also for `/`, and a
//! trailing `/**` for everything below, and for the directory itself when it is known to be one.
//!
//! Invariants: alternatives are expanded when the pattern is read, within fixed bounds; what is left
//! is a linear automaton that is simulated state set by state set, so that matching costs at most
//! pattern length times text length, whatever the pattern. `*` matches names that begin with a dot.

use std::fmt;

use crate::nfa::{ByteSet, Nfa, Step};

/// Longest pattern, in bytes, after variables are expanded.
pub const MAX_PATTERN: usize = 4096;
/// Most alternatives that the braces of one pattern may expand to.
pub const MAX_ALTERNATIVES: usize = 1024;
/// Most steps of all alternatives of one pattern together.
pub const MAX_STEPS: usize = 65_536;

/// What a glob is matched against; decides which bytes `*` and `?` do not cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GlobKind {
    /// An absolute canonical path; parts end at `/`.
    Path,
    /// A host name; parts end at `.`.
    Host,
    /// A name such as `capability:transfer:eu` or a URL; parts end at `:` and `/`.
    Text,
    /// A verb such as `file.read`; parts end at `.`.
    Verb,
}

impl GlobKind {
    fn separators(self) -> &'static [u8] {
        match self {
            GlobKind::Path => b"/",
            GlobKind::Host | GlobKind::Verb => b".",
            GlobKind::Text => b":/",
        }
    }
}

/// Why a pattern was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobError {
    /// Byte offset in the pattern text.
    pub offset: usize,
    /// What is wrong with it.
    pub message: String,
    /// What to write instead, if there is a likely candidate.
    pub suggestion: Option<String>,
}

impl GlobError {
    pub(crate) fn new(offset: usize, message: impl Into<String>) -> Self {
        GlobError {
            offset,
            message: message.into(),
            suggestion: None,
        }
    }

    pub(crate) fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

impl fmt::Display for GlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for GlobError {}

/// A parsed pattern: the union of its alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    kind: GlobKind,
    alternatives: Vec<Nfa>,
    /// What every match of every alternative begins with: most texts are told apart by it.
    common: Vec<u8>,
}

impl Glob {
    /// Reads a pattern. Braces are expanded here.
    pub fn new(text: &str, kind: GlobKind) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::new(0, "the pattern is empty"));
        }
        if text.len() > MAX_PATTERN {
            return Err(GlobError::new(
                0,
                format!(
                    "the pattern has {} bytes, more than {MAX_PATTERN}",
                    text.len()
                ),
            ));
        }
        let mut budget = MAX_STEPS;
        let mut alternatives = Vec::new();
        for tokens in expand(text, kind)? {
            budget = budget.checked_sub(tokens.len() + 1).ok_or_else(|| {
                GlobError::new(
                    0,
                    format!("the braces expand to more than {MAX_STEPS} steps"),
                )
            })?;
            let nfa = match kind {
                GlobKind::Path => path_nfa(&tokens)?,
                _ => Nfa::new(tokens.iter().map(|t| t.step(kind)).collect()),
            };
            if !alternatives.contains(&nfa) {
                alternatives.push(nfa);
            }
        }
        Ok(Glob {
            text: text.to_owned(),
            kind,
            common: common_prefix(&alternatives),
            alternatives,
        })
    }

    /// The pattern as it was given, with variables expanded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the pattern is matched against.
    pub fn kind(&self) -> GlobKind {
        self.kind
    }

    /// Whether the pattern matches. `directory` says that a path names a directory, for which
    /// `dir/**` matches `dir` itself.
    pub fn matches(&self, text: &[u8], directory: bool) -> bool {
        text.starts_with(&self.common)
            && self
                .alternatives
                .iter()
                .any(|nfa| nfa.matches(text, directory))
    }

    /// Whether nothing that begins with `prefix` can match, as far as the literal front tells.
    pub(crate) fn is_elsewhere(&self, prefix: &[u8]) -> bool {
        let both = self.common.len().min(prefix.len());
        self.common[..both] != prefix[..both]
    }

    /// Adds alternatives: other spellings of the same objects.
    pub(crate) fn extend(&mut self, more: Vec<Nfa>) {
        for nfa in more {
            if !self.alternatives.contains(&nfa) {
                self.alternatives.push(nfa);
            }
        }
        self.common = common_prefix(&self.alternatives);
    }

    /// The expanded alternatives.
    pub(crate) fn alternatives(&self) -> &[Nfa] {
        &self.alternatives
    }

    /// Whether some text that begins with `prefix` could match.
    pub(crate) fn may_match_prefix(&self, prefix: &[u8]) -> bool {
        self.alternatives
            .iter()
            .any(|nfa| !nfa.after(prefix).is_empty())
    }
}

fn common_prefix(alternatives: &[Nfa]) -> Vec<u8> {
    let mut literals = alternatives.iter().map(Nfa::literal);
    let mut common = literals.next().unwrap_or_default();
    for literal in literals {
        let same = common.iter().zip(literal).take_while(|(a, b)| a == b);
        common = &common[..same.count()];
    }
    common.to_vec()
}

/// Writes `bytes` as a glob that matches exactly them, for any [`GlobKind`].
pub fn glob_escape(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '*' | '?' | '[' | ']' | '{' | '}' | ',' | '\\' | '!' | '$' | '~' => {
                    out.push('\\');
                    out.push(c);
                }
                c if c.is_control() => {
                    let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// One unit of a pattern after brace expansion.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    One,
    Class(Box<ByteSet>),
    Star,
    Any,
}

impl Token {
    fn step(&self, kind: GlobKind) -> Step {
        let part = ByteSet::all_but(kind.separators());
        match self {
            Token::Byte(b) => Step::Byte(ByteSet::single(*b)),
            Token::One => Step::Byte(part),
            Token::Class(set) => Step::Byte(set.and(&part)),
            Token::Star => Step::Loop(part),
            Token::Any => Step::Loop(ByteSet::all()),
        }
    }
}

/// Reads the pattern into the token strings of its alternatives.
fn expand(text: &str, kind: GlobKind) -> Result<Vec<Vec<Token>>, GlobError> {
    let mut reader = Reader {
        bytes: text.as_bytes(),
        text,
        at: 0,
        kind,
    };
    let all = reader.sequence(0)?;
    debug_assert_eq!(reader.at, text.len());
    Ok(all)
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    kind: GlobKind,
}

impl Reader<'_> {
    /// A sequence up to the end of the text or, inside braces, up to `,` or `}`.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Vec<Token>>, GlobError> {
        let mut all: Vec<Vec<Token>> = vec![Vec::new()];
        while let Some(&b) = self.bytes.get(self.at) {
            let token = match b {
                b',' | b'}' if depth > 0 => break,
                b'}' => {
                    return Err(GlobError::new(self.at, "'}' without '{'").suggest("\\}"));
                }
                b']' => {
                    return Err(GlobError::new(self.at, "']' without '['").suggest("\\]"));
                }
                b'{' => {
                    let options = self.braces(depth)?;
                    if all.len().saturating_mul(options.len()) > MAX_ALTERNATIVES {
                        return Err(GlobError::new(
                            self.at.saturating_sub(1),
                            format!("the braces expand to more than {MAX_ALTERNATIVES} patterns"),
                        ));
                    }
                    let total: usize = all.iter().map(|a| a.len() * options.len()).sum::<usize>()
                        + options.iter().map(Vec::len).sum::<usize>() * all.len();
                    if total > MAX_STEPS {
                        return Err(GlobError::new(
                            self.at.saturating_sub(1),
                            format!("the braces expand to more than {MAX_STEPS} steps"),
                        ));
                    }
                    all = all
                        .iter()
                        .flat_map(|head| {
                            options
                                .iter()
                                .map(move |tail| head.iter().chain(tail).cloned().collect())
                        })
                        .collect();
                    continue;
                }
                b'*' => {
                    let start = self.at;
                    while self.bytes.get(self.at) == Some(&b'*') {
                        self.at += 1;
                    }
                    match self.at - start {
                        1 => Token::Star,
                        2 => Token::Any,
                        n => {
                            return Err(
                                GlobError::new(start, format!("{n} stars in a row")).suggest("**")
                            );
                        }
                    }
                }
                b'?' => {
                    self.at += 1;
                    Token::One
                }
                b'[' => self.class()?,
                b'\\' => {
                    let character = self.escape()?;
                    for alternative in &mut all {
                        alternative.extend_from_slice(&character);
                    }
                    continue;
                }
                b => {
                    self.at += 1;
                    Token::Byte(b)
                }
            };
            for alternative in &mut all {
                alternative.push(token.clone());
            }
        }
        Ok(all)
    }

    fn braces(&mut self, depth: usize) -> Result<Vec<Vec<Token>>, GlobError> {
        let open = self.at;
        if depth >= 16 {
            return Err(GlobError::new(open, "braces nest more than 16 deep"));
        }
        self.at += 1;
        let mut options = Vec::new();
        loop {
            options.extend(self.sequence(depth + 1)?);
            if options.len() > MAX_ALTERNATIVES {
                return Err(GlobError::new(
                    open,
                    format!("the braces expand to more than {MAX_ALTERNATIVES} patterns"),
                ));
            }
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                _ => return Err(GlobError::new(open, "'{' is not closed").suggest("\\{")),
            }
        }
        if options.iter().all(Vec::is_empty) {
            return Err(GlobError::new(open, "empty braces").suggest("{a,b}"));
        }
        Ok(options)
    }

    fn escape(&mut self) -> Result<Vec<Token>, GlobError> {
        let start = self.at;
        self.at += 1;
        let Some(c) = self
            .text
            .get(self.at..)
            .and_then(|rest| rest.chars().next())
        else {
            return Err(GlobError::new(start, "a backslash at the end").suggest("\\\\"));
        };
        self.at += c.len_utf8();
        let literal = match c {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'x' => {
                let byte = self
                    .text
                    .get(self.at..self.at + 2)
                    .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                    .ok_or_else(|| {
                        GlobError::new(start, "'\\x' needs two hexadecimal digits").suggest("\\x2f")
                    })?;
                self.at += 2;
                return Ok(vec![Token::Byte(byte)]);
            }
            'u' => {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let (c, len) = rest
                    .strip_prefix('{')
                    .and_then(|r| r.split_once('}'))
                    // The parser of numbers would take a sign, too.
                    .filter(|(hex, _)| hex.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|(hex, _)| Some((u32::from_str_radix(hex, 16).ok()?, hex.len() + 2)))
                    .and_then(|(code, len)| Some((char::from_u32(code)?, len)))
                    .ok_or_else(|| {
                        GlobError::new(start, "'\\u' needs a code point").suggest("\\u{e4}")
                    })?;
                self.at += len;
                c
            }
            c if c.is_ascii_alphanumeric() => {
                return Err(GlobError::new(start, format!("unknown escape '\\{c}'"))
                    .suggest(format!("\\\\{c}")));
            }
            c => c,
        };
        let mut utf8 = [0; 4];
        Ok(literal
            .encode_utf8(&mut utf8)
            .bytes()
            .map(Token::Byte)
            .collect())
    }

    fn class(&mut self) -> Result<Token, GlobError> {
        let open = self.at;
        self.at += 1;
        let negated = match self.bytes.get(self.at) {
            Some(b'!') => {
                self.at += 1;
                true
            }
            Some(b'^') => {
                return Err(
                    GlobError::new(self.at, "a negated class begins with '[!'").suggest("[!")
                );
            }
            _ => false,
        };
        let mut set = ByteSet::none();
        let mut first = true;
        loop {
            let b = self.class_byte(open, first)?;
            let Some(low) = b else { break };
            first = false;
            let mut high = low;
            let at = self.at;
            if self.bytes.get(self.at) == Some(&b'-')
                && self.bytes.get(self.at + 1).is_some_and(|b| *b != b']')
            {
                self.at += 1;
                high = self
                    .class_byte(open, false)?
                    .ok_or_else(|| GlobError::new(open, "'[' is not closed").suggest("\\["))?;
            }
            if high < low {
                return Err(GlobError::new(at, "the range is the wrong way round")
                    .suggest(format!("{}-{}", char::from(high), char::from(low))));
            }
            for b in low..=high {
                set.insert(b);
            }
        }
        Ok(Token::Class(Box::new(if negated {
            set.not()
        } else {
            set
        })))
    }

    /// One byte of a class, `None` at the closing bracket.
    fn class_byte(&mut self, open: usize, first: bool) -> Result<Option<u8>, GlobError> {
        let at = self.at;
        match self.bytes.get(at) {
            None => Err(GlobError::new(open, "'[' is not closed").suggest("\\[")),
            Some(b']') if first => Err(GlobError::new(open, "an empty class").suggest("[a-z]")),
            Some(b']') => {
                self.at += 1;
                Ok(None)
            }
            Some(b'\\') => match self.escape()?.as_slice() {
                [Token::Byte(b)] => Ok(Some(*b)),
                _ => Err(GlobError::new(at, "a class holds single bytes")
                    .suggest("alternatives such as {ä,ö}")),
            },
            Some(b) if self.kind.separators().contains(b) => Err(GlobError::new(
                at,
                format!("a class cannot hold '{}'", char::from(*b)),
            )),
            Some(b) if !b.is_ascii() => Err(GlobError::new(at, "a class holds single bytes")
                .suggest("alternatives such as {ä,ö}")),
            Some(b) => {
                self.at += 1;
                Ok(Some(*b))
            }
        }
    }
}

/// Turns the tokens of one path alternative into an automaton, giving `**` segments their meaning.
fn path_nfa(tokens: &[Token]) -> Result<Nfa, GlobError> {
    let mut segments: Vec<&[Token]> = tokens.split(|t| *t == Token::Byte(b'/')).collect();
    let any: &[Token] = &[Token::Any];
    match segments.first() {
        Some([]) if segments.len() > 1 => {
            segments.remove(0);
        }
        Some(first) if *first == any => {}
        Some([Token::Star, ..] | [Token::Any, ..] | [Token::One, ..]) => {
            return Err(GlobError::new(
                0,
                "a path begins with '/', so that this pattern can never match",
            )
            .suggest("**/ before it"));
        }
        _ => {
            return Err(GlobError::new(0, "a path pattern begins with '/' or '**/'"));
        }
    }
    if segments.len() == 1 && segments[0].is_empty() {
        return Ok(Nfa::new(vec![Step::Byte(ByteSet::single(b'/'))]));
    }
    segments.dedup_by(|b, a| *a == any && *b == any);
    if tokens == any {
        return Ok(Nfa::new(vec![Step::Loop(ByteSet::all())]));
    }
    let dot = Token::Byte(b'.');
    let mut steps = Vec::new();
    let mut slash = true;
    let last = segments.len() - 1;
    for (i, segment) in segments.iter().enumerate() {
        if segment.is_empty() {
            let error = if i == last {
                GlobError::new(0, "canonical paths do not end in '/'")
                    .suggest("/** for everything below a directory")
            } else {
                GlobError::new(0, "canonical paths have no '//'").suggest("/")
            };
            return Err(error);
        }
        if **segment == [dot.clone()] || **segment == [dot.clone(), dot.clone()] {
            return Err(GlobError::new(
                0,
                "canonical paths have no '.' and '..', so that this pattern can never match",
            ));
        }
        if *segment == any && i == last {
            steps.extend([
                Step::BelowOpen,
                Step::BelowFirst,
                Step::Loop(ByteSet::all()),
            ]);
        } else if *segment == any {
            steps.extend([Step::DirsOpen, Step::DirsLoop]);
            slash = false;
        } else {
            if slash {
                steps.push(Step::Byte(ByteSet::single(b'/')));
            }
            steps.extend(segment.iter().map(|t| t.step(GlobKind::Path)));
            slash = true;
        }
    }
    Ok(Nfa::new(steps))
}

#[cfg(test)]
#[path = "glob_tests.rs"]
mod tests;
