//! The first bytes of a client: which host does it say it talks to?
//!
//! An agent could resolve an allowed name and then name another host in TLS or HTTP, on the shared
//! front end of a content network. [`inspect`] reads the TLS ClientHello's server name (RFC 8446,
//! RFC 6066; of Encrypted ClientHello the outer one) and the HTTP/1 request's Host and absolute
//! target (RFC 9112). It is lenient in what it recognises, as servers are, and strict in what it
//! accepts: a TLS hello that it cannot read to the end is refused, since a server might read it.

/// More than this is not a greeting.
pub(crate) const MAX_GREETING: usize = 64 * 1024;
const MAX_LINE: usize = 16 * 1024;
const METHODS: [&[u8]; 12] = [
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"DELETE",
    b"OPTIONS",
    b"CONNECT",
    b"PATCH",
    b"TRACE",
    b"PROPFIND",
    b"REPORT",
    b"MKCOL",
];

/// What a greeting is, so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// It begins like TLS or HTTP; the rest must be awaited.
    Incomplete,
    /// It may become HTTP with an unusual method, or be another protocol whose client pauses here.
    Undecided,
    /// Complete: the hosts that it names, often one, maybe none.
    Names(Vec<Claim>),
    /// It begins like TLS or HTTP and then breaks the format; the text says where.
    Malformed(&'static str),
    /// Another protocol.
    Other,
}

/// A host that a greeting names: lower-case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim(pub String);

/// Reads the first bytes that a client sent. Never panics. An answer other than
/// [`Greeting::Incomplete`] and [`Greeting::Undecided`] is final: whatever bytes follow, it stays, so
/// that it does not matter in which pieces a greeting arrives.
pub fn inspect(bytes: &[u8]) -> Greeting {
    match bytes {
        [] => Greeting::Undecided,
        [0x16] | [0x16, 0x03, ..] => tls(bytes),
        _ => http(bytes),
    }
}

fn tls(bytes: &[u8]) -> Greeting {
    // A handshake message may span records; headers in between are removed.
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(length) = handshake_length(&message) {
            match message.first() {
                Some(1) => {}
                _ => return Greeting::Malformed("the first TLS message is not a ClientHello"),
            }
            if length > MAX_GREETING {
                return Greeting::Malformed("the TLS ClientHello is too long");
            }
            if let Some(body) = message.get(4..4 + length) {
                return match server_names(body) {
                    Some(names) => Greeting::Names(names),
                    None => Greeting::Malformed("the TLS ClientHello is malformed"),
                };
            }
        }
        let Some(&[kind, major, _, high, low]) = rest.first_chunk::<5>() else {
            return Greeting::Incomplete;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != 0x16 || major != 3 {
            return Greeting::Malformed("a TLS record inside the ClientHello is of another type");
        }
        if length == 0 || length > 16_384 + 256 {
            return Greeting::Malformed("a TLS record has an impossible length");
        }
        let Some(fragment) = rest.get(5..5 + length) else {
            return Greeting::Incomplete;
        };
        message.extend_from_slice(fragment);
        rest = &rest[5 + length..];
    }
}

fn handshake_length(message: &[u8]) -> Option<usize> {
    let &[_, a, b, c] = message.first_chunk::<4>()?;
    Some(u32::from_be_bytes([0, a, b, c]) as usize)
}

/// The server names of a ClientHello body; `None` if it is malformed.
fn server_names(body: &[u8]) -> Option<Vec<Claim>> {
    let mut r = Reader(body);
    r.take(2 + 32)?;
    r.vector8()?;
    let suites = r.vector16()?;
    let compressions = r.vector8()?;
    if suites.0.len() % 2 != 0 || compressions.0.is_empty() {
        return None;
    }
    let mut names = Vec::new();
    if r.0.is_empty() {
        return Some(names);
    }
    let mut extensions = r.vector16()?;
    if !r.0.is_empty() {
        return None;
    }
    let mut seen = false;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = extensions.vector16()?;
        if kind != 0 {
            continue;
        }
        // RFC 8446, section 4.2: no extension twice; RFC 6066, section 3: no name type twice.
        if std::mem::replace(&mut seen, true) {
            return None;
        }
        let mut list = data.vector16()?;
        let name_type = list.take(1)?;
        let name = list.vector16()?;
        if name_type != [0] || !list.0.is_empty() || !data.0.is_empty() {
            return None;
        }
        names.push(server_name(name.0)?);
    }
    Some(names)
}

/// A name of the server name extension: no port, no brackets, no spaces around it (RFC 6066,
/// section 3). A server would take them as part of the name.
fn server_name(name: &[u8]) -> Option<Claim> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    name.iter().all(plain).then(|| claim(name))?
}

/// Bytes that are read from the front, with bounds.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<Reader<'a>> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length).map(Reader)
    }

    fn vector16(&mut self) -> Option<Reader<'a>> {
        let length = usize::from(self.u16()?);
        self.take(length).map(Reader)
    }
}

fn http(bytes: &[u8]) -> Greeting {
    // Servers skip empty lines before a request (RFC 9112, section 2.2), some also spaces.
    let start = bytes.iter().take_while(|b| b"\r\n \t".contains(b)).count();
    let bytes = &bytes[start..];
    let end = bytes.iter().position(|b| *b == b'\n');
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let known = match line.iter().position(is_space) {
        Some(end) => METHODS.iter().any(|m| m.eq_ignore_ascii_case(&line[..end])),
        // Without its end it may become one of them.
        None => METHODS.iter().any(|m| {
            m.get(..line.len())
                .is_some_and(|m| m.eq_ignore_ascii_case(line))
        }),
    };
    if known && line.len() > MAX_LINE {
        return Greeting::Malformed("the HTTP request line is too long");
    }
    let Some(line_end) = end else {
        let method = line.split(is_space).next().unwrap_or_default();
        return match known && !line.is_empty() {
            true => Greeting::Incomplete,
            false if method.iter().all(|b| token(*b)) => Greeting::Undecided,
            false => Greeting::Other,
        };
    };
    let line = trim(line);
    let mut words = line.split(is_space).filter(|w| !w.is_empty());
    let (Some(method), Some(target), Some(version)) =
        (words.next(), words.next(), words.next_back())
    else {
        return Greeting::Other;
    };
    if !version.to_ascii_uppercase().starts_with(b"HTTP/") || !method.iter().all(|b| token(*b)) {
        return Greeting::Other;
    }
    if (method, target, version) == (b"PRI", b"*", b"HTTP/2.0") {
        // The preface of HTTP/2 without TLS (RFC 9113, section 3.4): names are in binary frames.
        return Greeting::Names(Vec::new());
    }
    let mut names = Vec::new();
    if let Some(authority) = authority(method, target) {
        match claim(authority) {
            Some(name) => names.push(name),
            None => return Greeting::Malformed("the HTTP request target names no readable host"),
        }
    }
    let mut rest = &bytes[line_end + 1..];
    let mut after_host = false;
    loop {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return Greeting::Incomplete;
        };
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Greeting::Names(names);
        }
        // Some servers end a line, or the whole head, where others go on: what follows would be read
        // as a header by one of them only (RFC 9112, section 2.2).
        if line.contains(&b'\r') || trim(line).is_empty() {
            return Greeting::Malformed("a line of the HTTP head ends in an unusual way");
        }
        // A folded line (RFC 9112, section 5.2): some servers join it to the one before.
        if std::mem::take(&mut after_host) && line.first().is_some_and(is_space) {
            return Greeting::Malformed("the HTTP Host header is folded");
        }
        if let Some(colon) = line.iter().position(|b| *b == b':')
            && trim(&line[..colon]).eq_ignore_ascii_case(b"host")
        {
            // An empty Host is allowed where the target has no authority.
            after_host = true;
            let value = trim(&line[colon + 1..]);
            match claim(value) {
                Some(name) if !names.contains(&name) => names.push(name),
                None if !value.is_empty() => {
                    return Greeting::Malformed("the HTTP Host header is not a host");
                }
                _ => {}
            }
        }
    }
}

/// The authority of an absolute-form or CONNECT target.
fn authority<'a>(method: &[u8], target: &'a [u8]) -> Option<&'a [u8]> {
    let at = target.windows(3).position(|w| w == b"://");
    let authority = match at {
        Some(at) if !target.starts_with(b"/") && target[..at].iter().all(|b| token(*b)) => {
            &target[at + 3..]
        }
        _ if method.eq_ignore_ascii_case(b"CONNECT") => target,
        _ => return None,
    };
    let end = authority
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'));
    let authority = &authority[..end.unwrap_or(authority.len())];
    let user = authority
        .iter()
        .rposition(|b| *b == b'@')
        .map_or(0, |at| at + 1);
    Some(&authority[user..])
}

/// `host`, `host:port` or `[v6]:port` as a canonical name.
fn claim(text: &[u8]) -> Option<Claim> {
    let text = std::str::from_utf8(text).ok()?;
    let host = if let Some(v6) = text.strip_prefix('[') {
        let (v6, port) = v6.split_once(']')?;
        if !(port.is_empty() || port.starts_with(':')) {
            return None;
        }
        v6
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => text,
        }
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let plausible = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    (!host.is_empty() && host.len() <= 255 && host.bytes().all(plausible))
        .then(|| Claim(host.to_ascii_lowercase()))
}

fn token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Without the white space of HTTP around it: spaces, tabs, and the line's end.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] | [rest @ .., b' ' | b'\t' | b'\r'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello with this server name, in records of at most `fragment` bytes.
    fn hello(name: Option<&str>, fragment: usize) -> Vec<u8> {
        let mut extensions = vec![0x00, 0x2b, 0, 3, 2, 3, 4];
        if let Some(name) = name {
            let n = name.len() as u8;
            extensions.extend([0, 0, 0, n + 5, 0, n + 3, 0, 0, n]);
            extensions.extend(name.as_bytes());
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0, 0, extensions.len() as u8]);
        body.extend(extensions);
        let mut message = vec![1, 0, 0, body.len() as u8];
        message.extend(body);
        let mut out = Vec::new();
        for part in message.chunks(fragment) {
            out.extend([0x16, 3, 1, 0, part.len() as u8]);
            out.extend(part);
        }
        out
    }

    fn names(names: &[&str]) -> Greeting {
        Greeting::Names(names.iter().map(|n| Claim((*n).to_owned())).collect())
    }

    #[test]
    fn server_name_in_any_fragmentation() {
        for fragment in [1, 2, 3, 7, 50, 255] {
            let bytes = hello(Some("Good.Example."), fragment);
            assert_eq!(inspect(&bytes), names(&["good.example"]), "{fragment}");
            for cut in 1..bytes.len() {
                assert_eq!(
                    inspect(&bytes[..cut]),
                    Greeting::Incomplete,
                    "{fragment} {cut}"
                );
            }
            assert_eq!(inspect(&hello(None, fragment)), names(&[]));
        }
        let mut bytes = hello(Some("a.b"), 255);
        let last = bytes.len() - 4;
        bytes[last] = 200;
        assert!(matches!(inspect(&bytes), Greeting::Malformed(_)));
    }

    #[test]
    fn http_hosts() {
        let host = |text: &str| inspect(text.as_bytes());
        assert_eq!(
            host("GET / HTTP/1.1\r\nHost: A.example:80\r\n\r\n"),
            names(&["a.example"])
        );
        assert_eq!(host("get / http/1.1\nhost : a\n\n"), names(&["a"]));
        assert_eq!(
            host("\r\nGET http://u:p@x/y HTTP/1.1\r\nHost: a\r\n\r\n"),
            names(&["x", "a"])
        );
        assert_eq!(
            host("CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"),
            names(&["x"])
        );
        assert_eq!(
            host("GET / HTTP/1.1\r\nHost: [::1]:8\r\n\r\n"),
            names(&["::1"])
        );
        assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), names(&[]));
        assert_eq!(host("GET /http://x/ HTTP/1.0\r\n\r\n"), names(&[]));
        assert_eq!(
            host("WEIRD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            names(&["a", "b"])
        );
        assert!(matches!(
            host("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
            Greeting::Malformed(_)
        ));
        for text in [
            "G",
            "GE",
            "POST /x",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "PRI * HTTP/1.1\r\n",
        ] {
            assert_eq!(host(text), Greeting::Incomplete, "{text}");
        }
        assert_eq!(host("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), names(&[]));
        for text in [
            "SSH-2.0-x\r\n",
            "EHLO x\r\n",
            "PING\r\n",
            "\0\u{1}binary",
            "{\"a\": 1",
        ] {
            assert_eq!(host(text), Greeting::Other, "{text}");
        }
        assert_eq!(host("hello"), Greeting::Undecided);
        assert_eq!(host(""), Greeting::Undecided);
    }

    #[test]
    fn a_final_answer_does_not_depend_on_the_pieces() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_LINE));
        let odd = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(40));
        for text in [
            &long,
            &odd,
            "\tGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            " \x0cGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/ HTTP/1.1\nHost: a\n\n",
            "GETX / HTTP/1.1\nHost: a\n\n",
            "PING\r\n",
        ] {
            let whole = inspect(text.as_bytes());
            for cut in 0..text.len() {
                let part = inspect(&text.as_bytes()[..cut]);
                let open = matches!(part, Greeting::Incomplete | Greeting::Undecided);
                assert!(open || part == whole, "{part:?} of {cut} bytes of {text}");
            }
        }
        assert_eq!(inspect(odd.as_bytes()), names(&["a"]));
    }

    #[test]
    fn what_a_server_would_not_strip_is_not_stripped() {
        for name in ["a.b\r", " a.b", "a.b:443", "[::1]", "a.b\u{a0}", "a.b\0"] {
            let greeting = inspect(&hello(Some(name), 255));
            assert!(matches!(greeting, Greeting::Malformed(_)), "{name:?}");
        }
        for value in [
            "a.b\u{a0}",
            "\u{3000}a.b",
            "a.b\x0c",
            "a.b\r\r\n c",
            "\r\n evil",
        ] {
            let greeting = inspect(format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n").as_bytes());
            assert!(
                matches!(greeting, Greeting::Malformed(_)),
                "{value:?} {greeting:?}"
            );
        }
    }

    #[test]
    fn a_header_that_only_some_servers_see_is_refused() {
        for lines in [
            "X: a\rHost: evil\r\n\r\n",
            "X: a\r\n \r\nHost: evil\r\n\r\n",
            "X: a\r\n\r\r\nHost: evil\r\n\r\n",
            "Host:\r\n \r\n evil\r\n\r\n",
        ] {
            let greeting = inspect(format!("GET / HTTP/1.1\r\n{lines}").as_bytes());
            assert!(
                matches!(greeting, Greeting::Malformed(_)),
                "{lines:?} {greeting:?}"
            );
        }
    }

    #[test]
    fn only_the_preface_of_http_2_has_no_names() {
        let text = "GET / HTTP/2.0\r\nHost: evil.example\r\n\r\n";
        assert_eq!(inspect(text.as_bytes()), names(&["evil.example"]));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            inspect(&bytes);
        }

        #[test]
        fn never_panics_near_tls(at in 0usize..120, value: u8, fragment in 1usize..80) {
            let mut bytes = hello(Some("some.example"), fragment);
            let at = at % bytes.len();
            bytes[at] = value;
            inspect(&bytes);
        }

        #[test]
        fn never_panics_near_http(text in "(GET|P|CONNECT) (/|http://|x:)[a-z@:\\[\\]/]{0,9} HTTP/1.[01]\r?\n(Host:[ -~]{0,20}\r\n){0,3}\r\n") {
            inspect(text.as_bytes());
        }
    }
}
