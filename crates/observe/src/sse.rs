//! Server-sent events (WHATWG HTML, section 9.2.6), as far as model APIs use them: the data of each event.

/// The longest event, in bytes.
pub(crate) const MAX_EVENT: usize = 4 << 20;

/// Takes bytes as they come, in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    /// The event has a `data` field, which may be empty.
    has_data: bool,
    /// The last byte was a carriage return: a line feed after it ends no second line.
    after_return: bool,
}

/// An event is longer than [`MAX_EVENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Events {
    /// Calls `found` with the data of each event that ends within `bytes`.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        found: &mut dyn FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        for &byte in bytes {
            let second = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if second => {}
                b'\n' | b'\r' => self.end_of_line(found),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT {
                return Err(TooLong);
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self, found: &mut dyn FnMut(&[u8])) {
        if self.line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                found(&self.data);
            }
            self.data.clear();
            return;
        }
        if let Some(value) = self.line.strip_prefix(b"data") {
            let value = match value {
                [] => Some(value),
                [b':', b' ', rest @ ..] | [b':', rest @ ..] => Some(rest),
                _ => None,
            };
            if let Some(value) = value {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8], pieces: usize) -> Vec<String> {
        let mut events = Events::default();
        let mut found = Vec::new();
        for piece in text.chunks(pieces.max(1)) {
            events
                .push(piece, &mut |data| {
                    found.push(String::from_utf8_lossy(data).into_owned());
                })
                .unwrap();
        }
        found
    }

    #[test]
    fn fields_and_ends_of_lines() {
        for text in [
            ": comment\nevent: x\ndata: one\ndata:two\n\ndata\n\nid: 4\n\n",
            ": comment\r\nevent: x\r\ndata: one\r\ndata:two\r\n\r\ndata\r\n\r\nid: 4\r\n\r\n",
            ": comment\revent: x\rdata: one\rdata:two\r\rdata\r\rid: 4\r\r",
        ] {
            for pieces in 1..12 {
                assert_eq!(read(text.as_bytes(), pieces), ["one\ntwo", ""], "{text:?}");
            }
        }
        // Another field that only begins alike, and an event that does not end.
        assert!(read(b"dataset: x\n\ndata: y\n", 3).is_empty());
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let mut events = Events::default();
        let line = [b'x'; 1 << 16];
        let ended = (0..100).try_for_each(|_| events.push(&line, &mut |_| {}));
        assert_eq!(ended, Err(TooLong));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[data: \r\nx]{0,80}", pieces in 1usize..20) {
            prop_assert_eq!(read(text.as_bytes(), pieces), read(text.as_bytes(), 1000));
        }
    }
}
