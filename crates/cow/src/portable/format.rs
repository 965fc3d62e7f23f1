//! The bytes of a member's head: a POSIX pax header where one is needed, and a ustar header.
//!
//! There is one encoding of each head. The reader takes the fields out of what it finds, writes them
//! again and compares: every other spelling (another checksum field, a number with blanks, an unused
//! field that is not zero, a pax record nobody needs) is refused without a rule of its own.
//!
//! Sources: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "Storing Sparse Files", PAX format 1.0; star(5) for `SCHILY.xattr.`.

use std::collections::BTreeMap;

use tar::Header;

use super::ArchiveError;
use crate::content::Xattrs;
use crate::layer::Timestamp;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// Longest pax header: room for every attribute a file may have.
pub(super) const MAX_PAX: u64 = 1 << 20;

const PAX: u8 = b'x';
const XATTR: &[u8] = b"SCHILY.xattr.";
/// What an octal field of twelve bytes holds.
const MAX_TWELVE: u64 = 0o77_777_777_777;
/// What one of eight bytes holds.
const MAX_EIGHT: u32 = 0o777_7777;

/// The kind of a member, by its typeflag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Link,
    Symlink,
    Directory,
    Fifo,
}

impl Type {
    const ALL: [Type; 5] = [
        Type::File,
        Type::Link,
        Type::Symlink,
        Type::Directory,
        Type::Fifo,
    ];

    const fn flag(self) -> u8 {
        match self {
            Type::File => b'0',
            Type::Link => b'1',
            Type::Symlink => b'2',
            Type::Directory => b'5',
            Type::Fifo => b'6',
        }
    }
}

/// What stands before the content of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Its name in the archive; that of a directory ends in `/`.
    pub name: Vec<u8>,
    pub kind: Type,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes that follow, without padding.
    pub size: u64,
    pub mtime: Timestamp,
    /// Target of a link.
    pub link: Vec<u8>,
    pub xattrs: Xattrs,
    /// The length of a file of which only the data is stored, with a map before it.
    pub sparse: Option<u64>,
}

impl Head {
    /// The head of a plain file of the archive's own.
    pub(super) fn own(name: &str, size: u64) -> Head {
        Head {
            name: name.as_bytes().to_vec(),
            kind: Type::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            mtime: Timestamp { sec: 0, nsec: 0 },
            link: Vec::new(),
            xattrs: Xattrs::new(),
            sparse: None,
        }
    }

    /// The head as it is written: whole blocks.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let records = self.records();
        if !records.is_empty() {
            let mut own = Head::own("././@PaxHeader", records.len() as u64);
            own.mode = 0;
            out.extend(own.ustar(PAX));
            out.extend(&records);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.extend(self.ustar(self.kind.flag()));
        out
    }

    fn ustar(&self, flag: u8) -> [u8; BLOCK] {
        let mut header = Header::new_ustar();
        let ustar = header.as_old_mut();
        let shown = self.shown_name();
        let name = &shown[..shown.len().min(100)];
        ustar.name[..name.len()].copy_from_slice(name);
        let link = &self.link[..self.link.len().min(100)];
        ustar.linkname[..link.len()].copy_from_slice(link);
        ustar.linkflag = [flag];
        header.set_mode(self.mode);
        header.set_uid(fitting(self.uid, MAX_EIGHT).into());
        header.set_gid(fitting(self.gid, MAX_EIGHT).into());
        header.set_size(fitting(self.size, MAX_TWELVE));
        header.set_mtime(fitting(seconds(self.mtime), MAX_TWELVE));
        header.set_cksum();
        *header.as_bytes()
    }

    /// The name in the ustar header: for a sparse file one that shows, where nobody knows the map,
    /// that it is none of its own.
    fn shown_name(&self) -> Vec<u8> {
        if self.sparse.is_none() {
            return self.name.clone();
        }
        let at = self.name.iter().rposition(|b| *b == b'/');
        let last = &self.name[at.map_or(0, |at| at + 1)..];
        [b"GNUSparseFile.0/".as_slice(), last].concat()
    }

    /// The pax records, in their one order; empty when none is needed.
    fn records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |key: &[u8], value: &[u8]| out.extend(record(key, value));
        if self.sparse.is_none() && self.name.len() > 100 {
            put(b"path", &self.name);
        }
        if self.link.len() > 100 {
            put(b"linkpath", &self.link);
        }
        if self.size > MAX_TWELVE {
            put(b"size", self.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > MAX_EIGHT {
                put(key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if self.mtime.nsec != 0 || seconds(self.mtime) > MAX_TWELVE {
            put(b"mtime", time_text(self.mtime).as_bytes());
        }
        if let Some(real) = self.sparse {
            put(b"GNU.sparse.major", b"1");
            put(b"GNU.sparse.minor", b"0");
            put(b"GNU.sparse.name", &self.name);
            put(b"GNU.sparse.realsize", real.to_string().as_bytes());
        }
        for (name, value) in &self.xattrs {
            put(&[XATTR, name].concat(), value);
        }
        out
    }

    /// Takes the head out of its blocks: `pax` is the content of a pax header before it. `raw` are
    /// all blocks, which must be what [`Head::to_bytes`] gives.
    pub(super) fn of(
        at: u64,
        header: &[u8; BLOCK],
        pax: Option<&[u8]>,
        raw: &[u8],
    ) -> Result<Head, ArchiveError> {
        let wrong = |what| ArchiveError::Header { at, what };
        let header = Header::from_byte_slice(header);
        let number = |n: std::io::Result<u64>| n.map_err(|_| wrong("a number is none"));
        let narrow = |n: u64| u32::try_from(n).map_err(|_| wrong("a number does not fit 32 bits"));
        let flag = header.as_old().linkflag[0];
        let kind = Type::ALL.into_iter().find(|t| t.flag() == flag);
        let kind = kind.ok_or(wrong(
            "a type that a layer does not have (files, links, directories and FIFOs are taken)",
        ))?;
        let seconds = i64::try_from(number(header.mtime())?).unwrap_or(0);
        let mut head = Head {
            name: text(&header.as_old().name).to_vec(),
            kind,
            mode: header.mode().map_err(|_| wrong("a mode is none"))?,
            uid: narrow(number(header.uid())?)?,
            gid: narrow(number(header.gid())?)?,
            size: number(header.entry_size())?,
            mtime: Timestamp {
                sec: seconds,
                nsec: 0,
            },
            link: text(&header.as_old().linkname).to_vec(),
            xattrs: Xattrs::new(),
            sparse: None,
        };
        for (key, value) in records(pax.unwrap_or_default()).ok_or(wrong("a pax record is none"))? {
            let decimal = || decimal(value).ok_or(wrong("a number of a pax record is none"));
            match key {
                b"path" | b"GNU.sparse.name" => head.name = value.to_vec(),
                b"linkpath" => head.link = value.to_vec(),
                b"size" => head.size = decimal()?,
                b"uid" => head.uid = narrow(decimal()?)?,
                b"gid" => head.gid = narrow(decimal()?)?,
                b"mtime" => {
                    head.mtime = time_of(value).ok_or(wrong("a time of a pax record is none"))?;
                }
                b"GNU.sparse.realsize" => head.sparse = Some(decimal()?),
                // Their values are compared below.
                b"GNU.sparse.major" | b"GNU.sparse.minor" => {}
                _ => match key.strip_prefix(XATTR) {
                    Some(name) => {
                        head.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                    None => return Err(wrong("a pax record that a layer does not have")),
                },
            }
        }
        if head.to_bytes() != raw {
            return Err(wrong("it is not in the one form that is written"));
        }
        Ok(head)
    }

    /// Whether a header block announces a pax header, and how long that is.
    pub(super) fn pax_length(at: u64, header: &[u8; BLOCK]) -> Result<Option<u64>, ArchiveError> {
        let header = Header::from_byte_slice(header);
        if header.as_old().linkflag[0] != PAX {
            return Ok(None);
        }
        let length = header.entry_size().map_err(|_| ArchiveError::Header {
            at,
            what: "a number is none",
        })?;
        if length > MAX_PAX {
            return Err(ArchiveError::Limit {
                what: "bytes in a pax header",
                limit: MAX_PAX,
                found: length,
            });
        }
        Ok(Some(length))
    }
}

/// A value for an octal field: what does not fit is in a pax record.
fn fitting<T: Ord + Default>(value: T, most: T) -> T {
    if value > most { T::default() } else { value }
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.sec).unwrap_or(u64::MAX)
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut out = length.to_string().into_bytes();
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

/// A pax record: key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of a pax header. Values hold any bytes, so their lengths alone end them.
fn records(mut bytes: &[u8]) -> Option<Vec<Record<'_>>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
        let whole = bytes.get(..length)?;
        let body = whole.get(blank + 1..)?.strip_suffix(b"\n")?;
        let equals = body.iter().position(|b| *b == b'=')?;
        out.push((&body[..equals], &body[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(out)
}

/// A number in decimal digits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds, and the fraction without zeros at its end. The fraction counts away from zero.
fn time_text(time: Timestamp) -> String {
    let (sign, sec, nsec) = match (time.sec < 0, time.nsec) {
        (false, n) => ("", time.sec.unsigned_abs(), n),
        (true, 0) => ("-", time.sec.unsigned_abs(), 0),
        (true, n) => ("-", time.sec.unsigned_abs() - 1, 1_000_000_000 - n),
    };
    match nsec {
        0 => format!("{sign}{sec}"),
        n => format!("{sign}{sec}.{n:09}")
            .trim_end_matches('0')
            .to_owned(),
    }
}

fn time_of(text: &[u8]) -> Option<Timestamp> {
    let (negative, rest) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = rest.iter().position(|b| *b == b'.');
    let sec = i64::try_from(decimal(&rest[..point.unwrap_or(rest.len())])?).ok()?;
    let nsec = match point {
        None => 0,
        Some(at) => {
            let digits = &rest[at + 1..];
            let scale = 9u32.checked_sub(u32::try_from(digits.len()).ok()?)?;
            u32::try_from(decimal(digits)?).ok()? * 10u32.pow(scale)
        }
    };
    Some(match (negative, nsec) {
        (false, nsec) => Timestamp { sec, nsec },
        (true, 0) => Timestamp { sec: -sec, nsec },
        (true, n) => Timestamp {
            sec: -sec - 1,
            nsec: 1_000_000_000 - n,
        },
    })
}

/// A map of data in a sparse file: offset and length.
pub(super) type Map = BTreeMap<u64, u64>;

/// A map as it stands before the data: whole blocks. A hole at the end is shown by a piece of no
/// length there.
pub(super) fn map_bytes(map: &Map, size: u64) -> Vec<u8> {
    let ends = map.iter().next_back().map_or(0, |(at, n)| at + n);
    let tail = (ends < size).then_some((size, 0));
    let count = map.len() + usize::from(tail.is_some());
    let mut out = format!("{count}\n");
    for (at, length) in map.iter().map(|(a, n)| (*a, *n)).chain(tail) {
        out.push_str(&format!("{at}\n{length}\n"));
    }
    let mut out = out.into_bytes();
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
