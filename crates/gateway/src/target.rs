//! Request targets (RFC 9112, section 3.2; RFC 3986): one spelling for each, or a refusal.
//!
//! What rules and the catalogue are asked about is what is sent on, byte for byte. Servers read unusual spellings
//! differently - `%2e%2e`, `//`, `;v=1`, `\` - so that a rule about one path could be passed by another that means the
//! same to the server. Spellings that RFC 3986 calls equivalent are made one (section 6.2.2: unreserved characters
//! decoded, hexadecimal digits in upper case); all that servers are known to disagree about is refused.

use http::{Uri, uri::PathAndQuery};

/// Longest path and query together, in bytes.
pub const MAX_TARGET: usize = 8 << 10;

/// A path and a query, in the one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    path: String,
    query: Option<String>,
}

/// A target that has no one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not `/path`: an absolute URL, an authority or `*`.
    #[error("the request target is not a path; name the host in the Host header alone")]
    Form,
    /// Too long.
    #[error("the path and query are longer than {MAX_TARGET} bytes")]
    Length,
    /// `%` without two hexadecimal digits.
    #[error("a '%' in the path is not followed by two hexadecimal digits")]
    Escape,
    /// A query with a character that no URI has.
    #[error("the query has a character that no URI has; escape it")]
    Query,
    /// A segment `.` or `..`.
    #[error("the path has a '.' or '..' segment; send the path that it leads to")]
    Dots,
    /// `//`.
    #[error("the path has an empty segment ('//')")]
    Empty,
    /// `/`, `\`, `;` or a control character, in the open or escaped.
    #[error("the path has {0}, which servers read differently")]
    Ambiguous(&'static str),
}

impl Target {
    /// Reads the target of a request.
    ///
    /// # Errors
    /// It has no one meaning; see [`TargetError`].
    pub fn of(uri: &Uri) -> Result<Target, TargetError> {
        // HTTP/2 carries scheme and authority beside the path (RFC 9113, section 8.3.1); hyper has them in the URI.
        let Some(both) = uri.path_and_query() else {
            return Err(TargetError::Form);
        };
        Target::parse(both.as_str())
    }

    /// Reads `/path` or `/path?query`.
    ///
    /// # Errors
    /// It has no one meaning; see [`TargetError`].
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        if text.len() > MAX_TARGET {
            return Err(TargetError::Length);
        }
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        let path = canonical(path)?;
        let target = Target {
            path,
            query: query.map(str::to_owned),
        };
        // The one spelling may be longer: what is escaped has three bytes.
        let sent = target.to_text();
        if sent.len() > MAX_TARGET {
            return Err(TargetError::Length);
        }
        // A query is sent on as it came: it has to be one.
        match PathAndQuery::try_from(sent) {
            Ok(read) if read.query() == target.query() => Ok(target),
            _ => Err(TargetError::Query),
        }
    }

    /// The path, beginning with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query without its `?`, as it was sent.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Both, as they are sent on.
    pub fn to_text(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

fn canonical(path: &str) -> Result<String, TargetError> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(TargetError::Form);
    };
    let mut all = String::with_capacity(path.len());
    let last = rest.split('/').count() - 1;
    for (at, segment) in rest.split('/').enumerate() {
        all.push('/');
        // A slash at the end is a path of its own.
        if segment.is_empty() && at != last {
            return Err(TargetError::Empty);
        }
        let start = all.len();
        one(segment, &mut all)?;
        if matches!(&all[start..], "." | "..") {
            return Err(TargetError::Dots);
        }
    }
    Ok(all)
}

fn one(segment: &str, all: &mut String) -> Result<(), TargetError> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => ((high * 16 + low) as u8, true),
                    _ => return Err(TargetError::Escape),
                }
            }
            byte => (byte, false),
        };
        match byte {
            b'/' => return Err(TargetError::Ambiguous("an escaped '/'")),
            b'\\' => return Err(TargetError::Ambiguous("a '\\'")),
            b';' => return Err(TargetError::Ambiguous("a ';'")),
            0..=0x1f | 0x7f => return Err(TargetError::Ambiguous("a control character")),
            b'%' if escaped => return Err(TargetError::Ambiguous("an escaped '%'")),
            b'?' | b'#' if !escaped => return Err(TargetError::Form),
            _ => {}
        }
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        // Sub-delimiters, ':' and '@' may stand in the open, and mean another thing there (section 2.2).
        let open = !escaped && b"!$&'()*+,=:@".contains(&byte);
        if unreserved || open {
            all.push(char::from(byte));
        } else {
            all.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equivalent_spellings_are_one() {
        for (text, one) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%41%2d%7E", "/A-~"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%20b"),
            ("/x:y@z", "/x:y@z"),
            ("/x%3Ay", "/x%3Ay"),
            ("/...", "/..."),
            ("/a?b=%2F..&c=;", "/a?b=%2F..&c=;"),
            ("/a?", "/a?"),
        ] {
            assert_eq!(
                Target::parse(text).map(|t| t.to_text()),
                Ok(one.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_servers_disagree_about_is_refused() {
        for (text, error) in [
            ("", TargetError::Form),
            ("*", TargetError::Form),
            ("http://other/a", TargetError::Form),
            ("/a/../b", TargetError::Dots),
            ("/a/%2e%2E/b", TargetError::Dots),
            ("/.%2e", TargetError::Dots),
            ("/./a", TargetError::Dots),
            ("//a", TargetError::Empty),
            ("/a//b", TargetError::Empty),
            ("/a%2fb", TargetError::Ambiguous("an escaped '/'")),
            ("/a%5cb", TargetError::Ambiguous("a '\\'")),
            ("/a\\b", TargetError::Ambiguous("a '\\'")),
            ("/admin;x", TargetError::Ambiguous("a ';'")),
            ("/admin%3bx", TargetError::Ambiguous("a ';'")),
            ("/a%00", TargetError::Ambiguous("a control character")),
            ("/a%0d%0aX", TargetError::Ambiguous("a control character")),
            ("/%252e%252e/a", TargetError::Ambiguous("an escaped '%'")),
            ("/a?b c", TargetError::Query),
            ("/a?b#c", TargetError::Query),
            ("/a?b\r\nX: y", TargetError::Query),
            ("/a%2", TargetError::Escape),
            ("/a%zz", TargetError::Escape),
            ("/a%é1", TargetError::Escape),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text}");
        }
        let long = format!("/{}", "a".repeat(MAX_TARGET));
        assert_eq!(Target::parse(&long), Err(TargetError::Length));
        let grows = format!("/{}", ">".repeat(MAX_TARGET / 2));
        assert_eq!(Target::parse(&grows), Err(TargetError::Length));
    }

    proptest! {
        /// What is sent on reads back as itself: nothing changes twice.
        #[test]
        fn the_one_spelling_is_stable(text in "/[ -~é]{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                let again = Target::parse(&target.to_text()).unwrap();
                prop_assert_eq!(&again, &target);
                prop_assert!(target.path().is_ascii());
                prop_assert!(!target.path().contains("//") && !target.path().contains(['\\', ';']));
                prop_assert!(target.path().split('/').all(|s| s != ".." && s != "."));
            }
        }
    }
}
