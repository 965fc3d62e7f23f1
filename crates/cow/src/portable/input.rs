//! The bytes of an archive as they come: blocks, heads, contents and what lies between them.
//!
//! What is announced is only a number here: memory is used for what was read. Every byte is counted and
//! summed, so nothing is read past the limit and the digest covers all.

use std::io::{ErrorKind, Read};

use sha2::{Digest as _, Sha256};

use super::format::{BLOCK, Head, Map, decimal, map_bytes};
use super::output::MAX_PIECES;
use super::read::own;
use super::{ArchiveError, MANIFEST};
use crate::content::BLOCK as CONTENT_BLOCK;

const NOT_OWN: &str = "its head is not that of a member of the archive's own";

/// The bytes, counted and summed.
pub(super) struct Input<'a> {
    inner: &'a mut dyn Read,
    at: u64,
    sum: Sha256,
    limit: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(inner: &'a mut dyn Read, limit: u64) -> Input<'a> {
        Input {
            inner,
            at: 0,
            sum: Sha256::new(),
            limit,
        }
    }

    /// Number of bytes that were read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The sum of these.
    pub(super) fn sum(&self) -> Sha256 {
        self.sum.clone()
    }

    /// Fills a buffer from the file, or says that it ended; `false` if it ended at once.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, ArchiveError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.inner.read(&mut buffer[done..]) {
                Ok(0) if done == 0 => return Ok(false),
                Ok(0) => {
                    let at = self.at + done as u64;
                    return Err(ArchiveError::Cut { at });
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    let at = self.at + done as u64;
                    return Err(ArchiveError::Read { at, source });
                }
            }
        }
        self.at += done as u64;
        if self.at > self.limit {
            return Err(ArchiveError::Limit {
                what: "bytes",
                limit: self.limit,
                found: self.at,
            });
        }
        self.sum.update(&*buffer);
        Ok(true)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            true => Ok(block),
            false => Err(ArchiveError::Cut { at: self.at }),
        }
    }

    /// The head of the next member; `None` for a block of zeros.
    pub(super) fn head(&mut self) -> Result<Option<Head>, ArchiveError> {
        let at = self.at;
        let mut header = self.block()?;
        if header.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let mut raw = header.to_vec();
        let pax = match Head::pax_length(at, &header)? {
            None => None,
            Some(length) => {
                let start = raw.len();
                while ((raw.len() - start) as u64) < length {
                    raw.extend(self.block()?);
                }
                header = self.block()?;
                raw.extend(header);
                Some(start..start + length as usize)
            }
        };
        let pax = pax.map(|range| &raw[range]);
        Head::of(at, &header, pax, &raw).map(Some)
    }

    /// One of the archive's own members.
    pub(super) fn own(&mut self, name: &'static str, most: u64) -> Result<Vec<u8>, ArchiveError> {
        let at = self.at;
        let head = self.head()?.ok_or(ArchiveError::Cut { at })?;
        self.rest_of_own(name, most, &head)
    }

    pub(super) fn rest_of_own(
        &mut self,
        name: &'static str,
        most: u64,
        head: &Head,
    ) -> Result<Vec<u8>, ArchiveError> {
        if head.name != name.as_bytes() {
            if name == MANIFEST {
                return Err(ArchiveError::NotOne { expected: name });
            }
            return Err(own(name, "another member is in its place"));
        }
        if *head != Head::own(name, head.size) {
            return Err(own(name, NOT_OWN));
        }
        self.content(head, most)
    }

    /// A member of an archive of plain files.
    pub(super) fn plain(
        &mut self,
        head: &Head,
        at: u64,
        name: &str,
        most: u64,
    ) -> Result<Vec<u8>, ArchiveError> {
        if *head != Head::own(name, head.size) {
            return Err(ArchiveError::Header { at, what: NOT_OWN });
        }
        self.content(head, most)
    }

    fn content(&mut self, head: &Head, most: u64) -> Result<Vec<u8>, ArchiveError> {
        if head.size > most {
            return Err(ArchiveError::Limit {
                what: "bytes in a member of its own",
                limit: most,
                found: head.size,
            });
        }
        let mut out = Vec::new();
        let mut data = Data::of(self, head.size);
        let mut buffer = [0; 1 << 14];
        loop {
            match data.next(&mut buffer)? {
                0 => break,
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
        self.pad()?;
        Ok(out)
    }

    /// The zeros up to the next block.
    pub(super) fn pad(&mut self) -> Result<(), ArchiveError> {
        let over = (self.at % BLOCK as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        let at = self.at;
        let mut rest = vec![0; BLOCK - over];
        match self.fill(&mut rest)? {
            true if rest.iter().all(|b| *b == 0) => Ok(()),
            true => Err(ArchiveError::Extra { at }),
            false => Err(ArchiveError::Cut { at }),
        }
    }

    /// Two blocks of zeros, and then nothing.
    pub(super) fn end(&mut self) -> Result<(), ArchiveError> {
        self.zeros()?;
        self.rest_of_end()
    }

    fn zeros(&mut self) -> Result<(), ArchiveError> {
        let at = self.at;
        match self.block()?.iter().any(|b| *b != 0) {
            true => Err(ArchiveError::Extra { at }),
            false => Ok(()),
        }
    }

    /// The second block of zeros, and then nothing.
    pub(super) fn rest_of_end(&mut self) -> Result<(), ArchiveError> {
        self.zeros()?;
        let at = self.at;
        match self.fill(&mut [0])? {
            true => Err(ArchiveError::Extra { at }),
            false => Ok(()),
        }
    }
}

/// The content of one member.
pub(super) struct Data<'a, 'b> {
    input: &'a mut Input<'b>,
    left: u64,
}

impl<'a, 'b> Data<'a, 'b> {
    pub(super) fn of(input: &'a mut Input<'b>, size: u64) -> Data<'a, 'b> {
        Data { input, left: size }
    }

    /// Fills the buffer as far as there is content; 0 at its end.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let n = self.left.min(buffer.len() as u64) as usize;
        if n == 0 {
            return Ok(0);
        }
        let at = self.input.at;
        if !self.input.fill(&mut buffer[..n])? {
            return Err(ArchiveError::Cut { at });
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// The map before the data of a sparse file.
    pub(super) fn map(&mut self, size: u64) -> Result<Map, ArchiveError> {
        let at = self.input.at;
        let wrong = |what| ArchiveError::Header { at, what };
        let mut raw = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut parsed = 0;
        loop {
            while let Some(end) = raw[parsed..].iter().position(|b| *b == b'\n') {
                let number = decimal(&raw[parsed..parsed + end]);
                numbers.push(number.ok_or(wrong("a number in a map of data is none"))?);
                parsed += end + 1;
                let done = numbers[0].checked_mul(2).map(|n| n.saturating_add(1));
                if done == Some(numbers.len() as u64) {
                    return self.checked(&numbers, &raw, size, at);
                }
            }
            let pieces = numbers.first().copied().unwrap_or_default();
            if pieces > MAX_PIECES as u64 + 1 || raw.len() - parsed > BLOCK {
                return Err(wrong("a map of data is too long"));
            }
            let mut block = [0; BLOCK];
            if self.next(&mut block)? < BLOCK {
                return Err(wrong("a map of data is cut off"));
            }
            raw.extend(block);
        }
    }

    fn checked(
        &self,
        numbers: &[u64],
        raw: &[u8],
        size: u64,
        at: u64,
    ) -> Result<Map, ArchiveError> {
        let wrong = |what| ArchiveError::Header { at, what };
        let mut map = Map::new();
        let mut end = 0;
        for pair in numbers[1..].chunks_exact(2) {
            let (start, length) = (pair[0], pair[1]);
            if (start, length) == (size, 0) {
                continue;
            }
            let next = start.checked_add(length).filter(|next| *next <= size);
            let next = next.ok_or(wrong("a piece of data lies beyond its file"))?;
            let apart = map.is_empty() || start > end;
            let whole = start.is_multiple_of(CONTENT_BLOCK)
                && (length.is_multiple_of(CONTENT_BLOCK) || next == size);
            if !apart || !whole || length == 0 {
                return Err(wrong(
                    "pieces of data are not in order, or not of whole blocks",
                ));
            }
            map.insert(start, length);
            end = next;
        }
        if map.values().sum::<u64>() != self.left {
            return Err(wrong("a map of data does not fit the data"));
        }
        match map_bytes(&map, size) == raw {
            true => Ok(map),
            false => Err(wrong("it is not in the one form that is written")),
        }
    }
}
