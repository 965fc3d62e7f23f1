//! Event streams (HTML, section 9.2.6): taken apart into events, so that each message is looked at before it goes on.
//!
//! An event that is not changed goes on byte for byte, comments and all. What is not yet a whole event waits; one that
//! grows past the limit ends the stream.

use bytes::{Bytes, BytesMut};

/// Takes a stream apart.
#[derive(Debug)]
pub struct Events {
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
    // A stream may begin with a byte order mark.
    let event = event.strip_prefix(b"\xef\xbb\xbf").unwrap_or(event);
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

/// The event with other data: its other lines as they were. `data` has no line end.
pub fn with_data(event: &[u8], data: &[u8]) -> Bytes {
    let mut all = BytesMut::with_capacity(event.len());
    for line in lines(event).filter(|l| !l.is_empty() && field(l, "data").is_none()) {
        all.extend_from_slice(line);
        all.extend_from_slice(b"\n");
    }
    all.extend_from_slice(b"data: ");
    all.extend_from_slice(data);
    all.extend_from_slice(b"\n\n");
    all.freeze()
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
        let other = with_data(event, b"{}");
        assert_eq!(&other[..], b"event: message\nid: 7\ndata: {}\n\n");
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
