//! Universes: which texts are canonical objects at all.
//!
//! A pattern may match texts that no face ever hands over (`/a/./b`, an empty host label). Analysis
//! speaks about canonical objects alone, so every search runs inside one of these small automata: the
//! paths of Linux, Unix sockets, host names, named texts, and addresses as their bytes.
//!
//! Invariants: at most 255 states each; state 0 is the beginning; the set of canonical texts is never
//! smaller than what `agentwall_action` promises, with one exception that is stated where it is made
//! ([`Universe::host`]). A universe also knows which bytes read best, for witnesses.

use std::{collections::HashMap, hash::Hash, sync::OnceLock};

/// No way on.
pub(crate) const DEAD: u8 = u8::MAX;

/// A deterministic automaton of canonical texts.
#[derive(Debug)]
pub(crate) struct Universe {
    /// Per state, where each byte leads.
    rows: Vec<[u8; 256]>,
    /// Per state, what kind of canonical text ends here; `None` when none does.
    marks: Vec<Option<u8>>,
    /// All bytes, those that read best first.
    preference: Vec<u8>,
}

impl Universe {
    /// Explores the automaton that `step` describes.
    fn build<S: Copy + Eq + Hash>(
        start: S,
        step: impl Fn(S, u8) -> Option<S>,
        mark: impl Fn(S) -> Option<u8>,
        preference: Vec<u8>,
    ) -> Universe {
        let mut known = HashMap::from([(start, 0u8)]);
        let mut states = vec![start];
        let mut rows = Vec::new();
        while let Some(&state) = states.get(rows.len()) {
            let mut row = [DEAD; 256];
            for byte in 0..=u8::MAX {
                let Some(next) = step(state, byte) else {
                    continue;
                };
                let id = *known.entry(next).or_insert_with(|| {
                    states.push(next);
                    u8::try_from(states.len() - 1).unwrap_or(DEAD)
                });
                row[usize::from(byte)] = id;
            }
            rows.push(row);
        }
        debug_assert!(states.len() < usize::from(DEAD));
        Universe {
            rows,
            marks: states.into_iter().map(mark).collect(),
            preference,
        }
    }

    /// Where each byte leads from a state; [`DEAD`] when nowhere.
    pub fn row(&self, state: u8) -> &[u8; 256] {
        &self.rows[usize::from(state)]
    }

    /// What kind of canonical text ends in a state.
    pub fn mark(&self, state: u8) -> Option<u8> {
        self.marks[usize::from(state)]
    }

    /// All bytes, those that read best first.
    pub fn preference(&self) -> &[u8] {
        &self.preference
    }

    /// Absolute paths without `//`, `.` and `..` segments, NUL, or a `/` at the end; and `/` itself.
    pub fn path() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        UNIVERSE.get_or_init(|| {
            Universe::build(
                Path::Start,
                Path::step,
                |s| s.is_whole().then_some(0),
                readable(),
            )
        })
    }

    /// Unix sockets: a path (mark 0), or `@` and an abstract name (mark 1).
    pub fn unix() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        enum Unix {
            Path(Path),
            At,
            Name,
        }
        let step = |state, byte| match (state, byte) {
            (Unix::Path(Path::Start), b'@') => Some(Unix::At),
            (Unix::Path(path), _) => path.step(byte).map(Unix::Path),
            (_, 0) => None,
            _ => Some(Unix::Name),
        };
        let mark = |state| match state {
            Unix::Path(path) => path.is_whole().then_some(0),
            Unix::At => None,
            Unix::Name => Some(1),
        };
        UNIVERSE.get_or_init(|| Universe::build(Unix::Path(Path::Start), step, mark, readable()))
    }

    /// Host names: lower-case letters, digits, `-` and `_`, in labels that are not empty. A text that
    /// is an IPv4 address in the dotted form has mark 1: as the host of an endpoint it is not
    /// canonical, because an address is kept as an address; all others have mark 0.
    pub fn host() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        let step = |(labels, octet): (u8, Octet), byte: u8| match byte {
            b'.' if octet == Octet::Start && labels == 0 => None,
            b'.' if octet == Octet::Start || octet == Octet::DotName => None,
            b'.' if octet == Octet::Name || labels >= 3 => Some((3, Octet::DotName)),
            b'.' => Some((labels + 1, Octet::Start)),
            b'0'..=b'9' => match octet.digit(byte) {
                Octet::Name => Some((3, Octet::Name)),
                octet => Some((labels, octet)),
            },
            b'a'..=b'z' | b'-' | b'_' => Some((3, Octet::Name)),
            _ => None,
        };
        let mark = |(labels, octet): (u8, Octet)| match octet {
            Octet::Start | Octet::DotName => None,
            Octet::Name => Some(0),
            _ => Some(u8::from(labels == 3)),
        };
        UNIVERSE.get_or_init(|| Universe::build((0, Octet::Start), step, mark, readable()))
    }

    /// Texts: valid UTF-8 that is not empty (Unicode 15, table 3-7).
    pub fn text() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        UNIVERSE.get_or_init(|| {
            let mark = |s| (s == Utf8::Whole).then_some(0);
            Universe::build(Utf8::Start, Utf8::step, mark, readable())
        })
    }

    /// Subjects that a run has: `agent:` and a name of printable ASCII.
    pub fn agent() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        const FRONT: &[u8] = b"agent:";
        let step = |at: usize, byte: u8| match FRONT.get(at) {
            Some(b) => (*b == byte).then_some(at + 1),
            None => byte.is_ascii_graphic().then_some(FRONT.len() + 1),
        };
        UNIVERSE.get_or_init(|| {
            Universe::build(0, step, |at| (at > FRONT.len()).then_some(0), readable())
        })
    }

    /// IPv4 addresses as four bytes.
    pub fn ipv4() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        let step = |at: u8, _| (at < 4).then_some(at + 1);
        let preference = first([1, 0].into());
        UNIVERSE.get_or_init(|| Universe::build(0, step, |at| (at == 4).then_some(0), preference))
    }

    /// IPv6 addresses as sixteen bytes, without those that are IPv4 addresses (`::ffff:0:0/96`).
    pub fn ipv6() -> &'static Universe {
        static UNIVERSE: OnceLock<Universe> = OnceLock::new();
        let step = |(at, mapped): (u8, bool), byte: u8| match at {
            16 => None,
            _ => {
                let wanted = if at < 10 { 0 } else { 0xff };
                let mapped = mapped && (at >= 12 || byte == wanted);
                (!(mapped && at == 11)).then_some((at + 1, mapped))
            }
        };
        let mark = |(at, _): (u8, bool)| (at == 16).then_some(0);
        let preference = first([0, 0x2a, 0x20, 0x26, 1].into());
        UNIVERSE.get_or_init(|| Universe::build((0, true), step, mark, preference))
    }
}

/// Where a path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Path {
    Start,
    Root,
    Slash,
    Dot,
    DotDot,
    Name,
}

impl Path {
    fn step(self, byte: u8) -> Option<Path> {
        match (self, byte) {
            (_, 0) => None,
            (Path::Start, b'/') => Some(Path::Root),
            (Path::Start, _) | (Path::Root | Path::Slash, b'/') => None,
            (Path::Root | Path::Slash, b'.') => Some(Path::Dot),
            (Path::Dot, b'.') => Some(Path::DotDot),
            (Path::Dot | Path::DotDot, b'/') => None,
            (Path::Name, b'/') => Some(Path::Slash),
            _ => Some(Path::Name),
        }
    }

    fn is_whole(self) -> bool {
        matches!(self, Path::Root | Path::Name)
    }
}

/// Where one octet of a dotted address stands, or that the text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Octet {
    /// Before the first digit.
    Start,
    /// No digit may follow.
    Full,
    /// Any one digit may follow.
    OneMore,
    /// A 1: any two digits may follow.
    TwoMore,
    /// A 2.
    Two,
    /// 25: up to 5 may follow.
    UpToFive,
    /// Not an address; inside a label.
    Name,
    /// Not an address; a label must begin.
    DotName,
}

impl Octet {
    fn digit(self, byte: u8) -> Octet {
        match (self, byte) {
            (Octet::Start, b'0') => Octet::Full,
            (Octet::Start, b'1') => Octet::TwoMore,
            (Octet::Start, b'2') => Octet::Two,
            (Octet::Start, _) => Octet::OneMore,
            (Octet::TwoMore, _) | (Octet::Two, b'0'..=b'4') => Octet::OneMore,
            (Octet::Two, b'5') => Octet::UpToFive,
            (Octet::Two | Octet::OneMore, _) | (Octet::UpToFive, b'0'..=b'5') => Octet::Full,
            _ => Octet::Name,
        }
    }
}

/// Where a UTF-8 text stands: how many bytes are missing, and which the next may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Utf8 {
    Start,
    Whole,
    More(u8, u8, u8),
}

impl Utf8 {
    fn step(self, byte: u8) -> Option<Utf8> {
        let lead = |byte| match byte {
            0..=0x7f => Some(Utf8::Whole),
            0xc2..=0xdf => Some(Utf8::More(1, 0x80, 0xbf)),
            0xe0 => Some(Utf8::More(2, 0xa0, 0xbf)),
            0xed => Some(Utf8::More(2, 0x80, 0x9f)),
            0xe1..=0xef => Some(Utf8::More(2, 0x80, 0xbf)),
            0xf0 => Some(Utf8::More(3, 0x90, 0xbf)),
            0xf4 => Some(Utf8::More(3, 0x80, 0x8f)),
            0xf1..=0xf3 => Some(Utf8::More(3, 0x80, 0xbf)),
            _ => None,
        };
        match self {
            Utf8::Start | Utf8::Whole => lead(byte),
            Utf8::More(_, low, high) if byte < low || byte > high => None,
            Utf8::More(1, ..) => Some(Utf8::Whole),
            Utf8::More(n, ..) => Some(Utf8::More(n - 1, 0x80, 0xbf)),
        }
    }
}

/// Letters, digits, then what is still easy to read, then the rest.
fn readable() -> Vec<u8> {
    let letters = (b'a'..=b'z').chain(b'0'..=b'9').chain(b'A'..=b'Z');
    let printable = (0x21..0x7f).filter(|b: &u8| !b.is_ascii_alphanumeric());
    first(letters.chain(*b"-_./:@").chain(printable).collect())
}

/// These bytes, then all others from the greatest to the least, so that control characters are last.
fn first(mut preferred: Vec<u8>) -> Vec<u8> {
    let mut seen = [false; 256];
    preferred.retain(|b| !std::mem::replace(&mut seen[usize::from(*b)], true));
    let rest = (0..=u8::MAX).rev().filter(|b| !seen[usize::from(*b)]);
    let rest: Vec<u8> = rest.collect();
    preferred.extend(rest);
    preferred
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(universe: &Universe, text: &[u8]) -> Option<u8> {
        let mut state = 0;
        for b in text {
            state = universe.row(state)[usize::from(*b)];
            if state == DEAD {
                return None;
            }
        }
        universe.mark(state)
    }

    #[test]
    fn paths_are_canonical() {
        for good in ["/", "/a", "/a/b", "/...", "/.a", "/a/..b", "/a b\u{e4}"] {
            assert_eq!(mark(Universe::path(), good.as_bytes()), Some(0), "{good}");
        }
        for bad in [
            "", "a", "//", "/a/", "/a//b", "/.", "/a/..", "/./a", "/a/../b", "/a\0",
        ] {
            assert_eq!(mark(Universe::path(), bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(mark(Universe::unix(), b"/run/x"), Some(0));
        assert_eq!(mark(Universe::unix(), b"@x/../y"), Some(1));
        assert_eq!(mark(Universe::unix(), b"@"), None);
    }

    #[test]
    fn hosts_tell_addresses_from_names() {
        let addresses = ["0.0.0.0", "255.255.255.255", "10.20.30.40", "199.9.249.1"];
        for text in addresses {
            assert_eq!(mark(Universe::host(), text.as_bytes()), Some(1), "{text}");
        }
        let names = [
            "a",
            "a.b",
            "1",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.1.1.1",
            "1.1.1.260",
            "a.1.2.3.4",
            "1.2.3.4.a",
            "1.2.3.4a",
            "xn--a",
            "1000.1.1.1",
            "1.1.1.1_",
        ];
        for text in names {
            assert_eq!(mark(Universe::host(), text.as_bytes()), Some(0), "{text}");
            assert!(text.parse::<std::net::Ipv4Addr>().is_err());
        }
        for text in ["", ".", "a.", ".a", "a..b", "A", "a:b", "1.", "1..2", "a/b"] {
            assert_eq!(mark(Universe::host(), text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn texts_are_utf8_and_addresses_have_their_length() {
        for text in ["a", "\u{e4}", "\u{20ac}x", "\u{1f600}", "\n"] {
            assert_eq!(mark(Universe::text(), text.as_bytes()), Some(0), "{text}");
        }
        for bytes in [
            &b""[..],
            b"\xff",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"a\xe4",
        ] {
            assert_eq!(mark(Universe::text(), bytes), None, "{bytes:?}");
        }
        assert_eq!(mark(Universe::ipv4(), &[1, 2, 3, 4]), Some(0));
        assert_eq!(mark(Universe::ipv4(), &[1, 2, 3]), None);
        let v6 = |t: &str| {
            mark(
                Universe::ipv6(),
                &t.parse::<std::net::Ipv6Addr>().unwrap().octets(),
            )
        };
        assert_eq!(v6("::1"), Some(0));
        assert_eq!(v6("::ffff:1.2.3.4"), None);
        assert_eq!(v6("::fffe:1.2.3.4"), Some(0));
        assert_eq!(v6("1::ffff:1.2.3.4"), Some(0));
        assert_eq!(mark(Universe::agent(), b"agent:a b"), None);
        assert_eq!(mark(Universe::agent(), b"agent:ab"), Some(0));
    }
}
