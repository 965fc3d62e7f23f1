//! Event streams (HTML, section 9.2.6): taken apart into events, so that each message is looked at before it goes on.
//!
//! Events are written anew: readers differ in where a line ends, so nothing goes on that one of them could take for an end,
//! or for another event. What is not yet a whole event waits; one that grows past the limit ends the stream.

use bytes::{Buf as _, Bytes, BytesMut};

/// What a stream may begin with, and nothing else in it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Takes a stream apart.
#[derive(Debug)]
pub struct Events {
    /// Whether the first event is behind, or its first bytes are known not to be a byte order mark.
    begun: bool,
    waiting: BytesMut,
    /// How much of what waits was looked through for the event's end.
    looked: usize,
    limit: usize,
}

/// An event is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the server is longer than {0} bytes")]
pub struct TooLong(pub usize);

impl Events {
    /// Events of at most `limit` bytes.
    pub fn new(limit: usize) -> Events {
        Events {
            begun: false,
            waiting: BytesMut::new(),
            looked: 0,
            limit,
        }
    }

    /// Takes what came.
    ///
    /// # Errors
    /// More waits than an event may have.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.waiting.extend_from_slice(bytes);
        match self.waiting.len() > self.limit + bytes.len() {
            true => Err(TooLong(self.limit)),
            false => Ok(()),
        }
    }

    /// The next whole event, with the empty line at its end.
    pub fn whole(&mut self) -> Option<Bytes> {
        if !self.begun {
            let mark = self.waiting.len().min(BYTE_ORDER_MARK.len());
            if self.waiting[..mark] != BYTE_ORDER_MARK[..mark] {
                self.begun = true;
            } else if mark == BYTE_ORDER_MARK.len() {
                self.waiting.advance(mark);
                self.begun = true;
            } else {
                return None;
            }
        }
        let end = end_of_event(&self.waiting, self.looked);
        match end {
            Some(end) => {
                self.looked = 0;
                Some(self.waiting.split_to(end).freeze())
            }
            None => {
                // A line's end may be cut in two: the last three bytes are looked at again.
                self.looked = self.waiting.len().saturating_sub(3);
                None
            }
        }
    }

    /// The last event, when nothing comes any more: a CR at the end is no first half of CR LF.
    pub fn last(&mut self) -> Option<Bytes> {
        if !self.waiting.ends_with(b"\r") {
            return None;
        }
        self.waiting.extend_from_slice(b"\n");
        self.whole()
    }
}

/// Behind the first empty line from `from` on. Lines end with CR LF, LF or CR.
fn end_of_event(bytes: &[u8], from: usize) -> Option<usize> {
    // Back to a place where it is known whether a line begins.
    let mut at = from;
    let mut empty = at == 0 || is_end(bytes[at - 1]);
    if at > 0 && bytes[at - 1] == b'\r' && bytes.get(at) == Some(&b'\n') {
        at += 1;
    }
    while at < bytes.len() {
        match bytes[at] {
            b'\r' => {
                let crlf = bytes.get(at + 1) == Some(&b'\n');
                // It may be the first half of CR LF.
                if !crlf && at + 1 == bytes.len() {
                    return None;
                }
                at += if crlf { 2 } else { 1 };
                if empty {
                    return Some(at);
                }
                empty = true;
            }
            b'\n' => {
                at += 1;
                if empty {
                    return Some(at);
                }
                empty = true;
            }
            _ => {
                at += 1;
                empty = false;
            }
        }
    }
    None
}

fn is_end(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n'
}

/// The lines of an event.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = event;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|b| is_end(*b)).unwrap_or(rest.len());
        let line = &rest[..end];
        let skip = match rest.get(end..end + 2) {
            Some(b"\r\n") => 2,
            _ => usize::from(end < rest.len()),
        };
        rest = &rest[end + skip..];
        Some(line)
    })
}

/// A line's value, if it is of that field: one space behind the colon is none of it.
fn field<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name.as_bytes())?;
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// What an event carries: its `data` lines, joined by line ends. Nothing without one.
pub fn data(event: &[u8]) -> Option<Vec<u8>> {
    let mut all: Option<Vec<u8>> = None;
    for value in lines(event).filter_map(|line| field(line, "data")) {
        match &mut all {
            None => all = Some(value.to_vec()),
            Some(all) => {
                all.push(b'\n');
                all.extend_from_slice(value);
            }
        }
    }
    all
}

/// The event as it goes on, with this data: its name, its id and the time to wait, as far as every reader takes them for the
/// same, and the data in one line. Of comments it is left that there was one. Nothing of nothing.
pub fn written(event: &[u8], data: Option<&str>) -> Bytes {
    let mut all = BytesMut::with_capacity(event.len() + 16);
    for name in ["event", "id", "retry"] {
        // The last one counts.
        let value = lines(event).filter_map(|line| field(line, name)).last();
        let value = value.and_then(|value| std::str::from_utf8(value).ok());
        if let Some(value) = value.filter(|value| !value.contains(ends_a_line)) {
            for part in [name, ": ", value, "\n"] {
                all.extend_from_slice(part.as_bytes());
            }
        }
    }
    if let Some(data) = data {
        all.extend_from_slice(b"data: ");
        all.extend_from_slice(in_one_line(data).as_bytes());
        all.extend_from_slice(b"\n");
    }
    if all.is_empty() && lines(event).any(|line| line.starts_with(b":")) {
        all.extend_from_slice(b":\n");
    }
    if !all.is_empty() {
        all.extend_from_slice(b"\n");
    }
    all.freeze()
}

/// What a reader of lines could take for the end of one: all controls, and the separators of lines and paragraphs.
fn ends_a_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// JSON without what ends a line: between its tokens a space does, too, and inside of text there is another spelling.
fn in_one_line(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if ends_a_line(c) => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(events: &mut Events) -> Vec<Bytes> {
        std::iter::from_fn(|| events.whole()).collect()
    }

    #[test]
    fn events_are_found_however_they_come() {
        let stream = b": hello\n\nid: 1\r\ndata: a\r\n\r\ndata: b\rdata:c\r\r\ndata\n\nrest";
        for size in 1..stream.len() {
            let mut events = Events::new(1024);
            let mut found = Vec::new();
            for part in stream.chunks(size) {
                events.push(part).unwrap();
                found.extend(all(&mut events));
            }
            let text: Vec<_> = found.iter().map(|e| data(e)).collect();
            let some = |t: &str| Some(t.as_bytes().to_vec());
            assert_eq!(text, [None, some("a"), some("b\nc"), some("")], "{size}");
            assert_eq!(found.concat(), &stream[..stream.len() - 4], "{size}");
        }
    }

    #[test]
    fn an_event_has_an_end() {
        let mut events = Events::new(10);
        assert_eq!(events.push(b"data: 0123"), Ok(()));
        assert_eq!(events.whole(), None);
        assert_eq!(events.push(b"4"), Ok(()));
        assert_eq!(events.push(b"5"), Err(TooLong(10)));
    }

    #[test]
    fn data_is_exchanged_and_the_rest_stays() {
        let event = b"event: message\nid: 7\ndata: a\ndata: b\n\n";
        let other = written(event, Some("{}"));
        assert_eq!(&other[..], b"event: message\nid: 7\ndata: {}\n\n");
        // Priming (2025-11-25): an id, and nothing yet.
        assert_eq!(
            &written(b"id: 7\ndata:\n\n", Some(""))[..],
            b"id: 7\ndata: \n\n"
        );
        assert_eq!(&written(b"id:\n\n", None)[..], b"id: \n\n");
        assert_eq!(
            &written(b"id: 1\nid: 2\nretry: 5\r\n\r\n", None)[..],
            b"id: 2\nretry: 5\n\n"
        );
    }

    #[test]
    fn nothing_goes_on_that_ends_a_line_for_some_readers() {
        for end in [
            "\u{b}", "\u{c}", "\u{1c}", "\0", "\u{7f}", "\u{85}", "\u{2028}", "\u{2029}",
        ] {
            let inner = format!("x{end}data: {{\"tools\":1}}{end}{end}");
            for line in ["", " ", "other: ", "\u{feff}data: "] {
                let event = format!(":{inner}\n{line}{inner}\ndata: 1\n\n");
                assert_eq!(
                    &written(event.as_bytes(), Some("1"))[..],
                    b"data: 1\n\n",
                    "{event:?}"
                );
            }
            for name in ["event", "id", "retry"] {
                let event = format!("{name}: {inner}\ndata: 1\n\n");
                assert_eq!(
                    &written(event.as_bytes(), Some("1"))[..],
                    b"data: 1\n\n",
                    "{event:?}"
                );
            }
            let data = format!("{{\"a\":\"{end}\",\n \"b\":1}}");
            let code = u32::from(end.chars().next().unwrap());
            let line = format!("data: {{\"a\":\"\\u{code:04x}\",  \"b\":1}}\n\n");
            assert_eq!(written(b"", Some(&data)), line);
        }
        assert_eq!(&written(b": still here\n\n", None)[..], b":\n\n");
        assert_eq!(&written(b"\n", None)[..], b"");
        assert_eq!(&written(b"id: \xff\nother\n\n", None)[..], b"");
    }

    #[test]
    fn a_byte_order_mark_is_one_at_the_begin_of_the_stream_alone() {
        let stream = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n";
        for size in 1..stream.len() {
            let mut events = Events::new(1024);
            let mut found = Vec::new();
            for part in stream.chunks(size) {
                events.push(part).unwrap();
                found.extend(all(&mut events));
            }
            let text: Vec<_> = found.iter().map(|e| data(e)).collect();
            assert_eq!(text, [Some(b"a".to_vec()), None], "{size}");
        }
    }

    #[test]
    fn a_stream_that_ends_in_two_returns_loses_no_event() {
        let mut events = Events::new(1024);
        events.push(b"data: a\r\r").unwrap();
        assert_eq!(events.whole(), None);
        assert_eq!(data(&events.last().unwrap()), Some(b"a".to_vec()));
        events.push(b"data: a\r").unwrap();
        assert_eq!((events.whole(), events.last()), (None, None));
    }

    proptest! {
        /// Nothing is lost, wherever the stream is cut.
        #[test]
        fn nothing_is_lost(stream in prop::collection::vec(prop::sample::select(b"\r\n:ad ".to_vec()), 0..40), cut in 0usize..40) {
            let mut whole = Events::new(1024);
            whole.push(&stream).unwrap();
            let one = all(&mut whole);
            let mut parts = Events::new(1024);
            let (a, b) = stream.split_at(cut.min(stream.len()));
            parts.push(a).unwrap();
            let mut two = all(&mut parts);
            parts.push(b).unwrap();
            two.extend(all(&mut parts));
            prop_assert_eq!(&one, &two);
            prop_assert!(stream.starts_with(&one.concat()));
        }
    }
}
