//! Netlink messages, written and read by hand (RFC 3549; `linux/netlink.h`).
//!
//! Only what the namespace needs: one message or one nfnetlink batch out, its acknowledgement or
//! first error in. Lengths are fixed up when a message or nest ends, so a built buffer is always
//! well-formed; replies are read with bounds checks only.

use std::io;

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recv, sendto, socket_with, sockopt,
    },
};

pub(super) const REQUEST: u16 = 0x01;
pub(super) const ACK: u16 = 0x04;
pub(super) const DUMP: u16 = 0x300;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// A buffer of messages under construction.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    start: usize,
    seq: u32,
}

impl Messages {
    /// Begins a message with the given family header; returns its sequence number.
    pub(super) fn begin(&mut self, kind: u16, flags: u16, header: &[u8]) -> u32 {
        self.start = self.bytes.len();
        self.seq += 1;
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.seq.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(header);
        self.pad();
        self.seq
    }

    /// Ends the message begun last.
    pub(super) fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// One attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
    }

    /// A big-endian number, as nf_tables wants it.
    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A zero-terminated text.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend(0u16.to_ne_bytes());
        self.bytes.extend((kind | NLA_F_NESTED).to_ne_bytes());
        inner(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A netlink socket of the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
}

/// One received message: its type and its payload.
pub(super) type Reply = (u16, Vec<u8>);

impl Netlink {
    /// Opens a socket; `protocol: None` is `NETLINK_ROUTE`.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // The kernel answers while it handles the send; silence would be a kernel bug, and must
        // not hang the start of a session.
        sockopt::set_socket_timeout(
            &fd,
            sockopt::Timeout::Recv,
            Some(std::time::Duration::from_secs(2)),
        )?;
        Ok(Netlink { fd })
    }

    /// Sends, then reads until the message `last` is acknowledged or a dump ends. Any error that
    /// the kernel reports ends it with that error.
    pub(super) fn exchange(&self, messages: &Messages, last: u32) -> io::Result<Vec<Reply>> {
        sendto(
            &self.fd,
            &messages.bytes,
            SendFlags::empty(),
            &SocketAddrNetlink::new(0, 0),
        )?;
        let mut replies = Vec::new();
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let (length, _) = recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, seq, payload, tail)) = split(rest) {
                rest = tail;
                match kind {
                    NLMSG_ERROR => match number(payload) {
                        Some(0) if seq == last => return Ok(replies),
                        Some(0) => {}
                        Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                        None => return Err(io::ErrorKind::InvalidData.into()),
                    },
                    NLMSG_DONE if seq == last => return Ok(replies),
                    _ => replies.push((kind, payload.to_vec())),
                }
            }
        }
    }
}

/// Splits off the first message: type, sequence number, payload, rest.
pub(crate) fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let seq = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let payload = bytes.get(16..length)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((kind, seq, payload, &bytes[next..]))
}

fn number(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_padding() {
        let mut m = Messages::default();
        let seq = m.begin(7, ACK, &[1, 2, 3, 4]);
        m.nest(2, |m| m.text(1, "ab"));
        m.end();
        let (kind, got, payload, rest) = split(&m.bytes).unwrap();
        assert_eq!((kind, got, rest.len()), (7, seq, 0));
        assert_eq!(
            payload,
            &[1, 2, 3, 4, 12, 0, 2, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0]
        );
        for cut in 0..m.bytes.len() {
            assert!(split(&m.bytes[..cut]).is_none());
        }
    }
}
