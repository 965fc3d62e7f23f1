//! Tiles and entry bundles: which files a log of a given size consists of, and their names.
//!
//! C2SP tlog-tiles: `tile/<L>/<N>[.p/<W>]` holds up to 256 hashes, each the root of a complete
//! subtree of `256^L` leaves; `tile/entries/<N>[.p/<W>]` holds up to 256 entries, each after a
//! big-endian `uint16` length. `N` is written in groups of three digits, all but the last prefixed
//! with `x` (1234067 is `x001/x234/067`). A partial file carries its width `W` (1 to 255) in the
//! name, so a file's name fixes how much is in it and no published file is ever changed.
//!
//! Everything here is pure; names are accepted only in the one canonical spelling.

use std::fmt;

use crate::hash::{HASH_LEN, Hash};

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// The longest entry, in bytes (the length prefix is a `uint16`).
pub const MAX_ENTRY: usize = 65_535;
/// Highest tile level that a tree of fewer than 2^64 leaves can have.
pub const MAX_LEVEL: u8 = 7;

/// Which kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// `tile/entries/…`: the entries themselves.
    Entries,
    /// `tile/<L>/…`: roots of subtrees of `256^L` leaves.
    Hashes(u8),
}

impl Level {
    /// The tile level that has as many items: bundles are counted like level 0.
    fn number(self) -> u32 {
        match self {
            Level::Entries => 0,
            Level::Hashes(l) => u32::from(l),
        }
    }

    /// How many items a log of `size` entries has at this level: `floor(size / 256^L)`.
    pub fn items(self, size: u64) -> u64 {
        size.checked_shr(8 * self.number()).unwrap_or(0)
    }

    /// Number of full files at this level; also the index of the partial one, if there is one.
    pub fn full(self, size: u64) -> u64 {
        self.items(size) / u64::from(TILE_WIDTH)
    }

    /// Width of the partial file at this level, 0 when there is none.
    pub fn partial(self, size: u64) -> u16 {
        // Below 256, so it fits.
        (self.items(size) % u64::from(TILE_WIDTH)) as u16
    }

    /// The width that file `index` has in a log of `size`: 256, a partial width, or 0 for none.
    pub fn width(self, index: u64, size: u64) -> u16 {
        let full = self.full(size);
        match index.cmp(&full) {
            std::cmp::Ordering::Less => TILE_WIDTH,
            std::cmp::Ordering::Equal => self.partial(size),
            std::cmp::Ordering::Greater => 0,
        }
    }

    /// Number of files at this level, with the partial one.
    pub fn files(self, size: u64) -> u64 {
        self.full(size) + u64::from(self.partial(size) > 0)
    }

    /// The levels that a log of `size` has: the entries, then hash levels from 0 upwards.
    pub fn all(size: u64) -> impl DoubleEndedIterator<Item = Level> {
        let top = (0..=MAX_LEVEL)
            .take_while(|l| Level::Hashes(*l).items(size) > 0)
            .count();
        let entries = (size > 0).then_some(Level::Entries);
        entries
            .into_iter()
            .chain((0..top).map(|l| Level::Hashes(l as u8)))
    }
}

/// One file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// What is in it.
    pub level: Level,
    /// Its number, from 0.
    pub index: u64,
    /// How many items it holds, 1 to 256; 256 is the full file.
    pub width: u16,
}

impl Tile {
    /// The full file.
    pub fn full(level: Level, index: u64) -> Self {
        Tile {
            level,
            index,
            width: TILE_WIDTH,
        }
    }

    /// The file `index` as a log of `size` has it; `None` when it has none.
    pub fn at(level: Level, index: u64, size: u64) -> Option<Self> {
        let width = level.width(index, size);
        (width > 0).then_some(Tile {
            level,
            index,
            width,
        })
    }

    /// Whether all 256 items are there.
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The directory with the partial forms of this file, relative to the log's folder.
    pub fn partial_dir(&self) -> String {
        format!("{}.p", Tile::full(self.level, self.index))
    }

    /// Reads a path relative to the log's folder. Only canonical spellings are accepted: no
    /// needless `x000` group, no leading zero in a level or width.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let level = match level {
            "entries" => Level::Entries,
            l => Level::Hashes(canonical_number(l).filter(|l| *l < 64)? as u8),
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH),
            Some((n, w)) => (
                n,
                canonical_number(w).filter(|w| (1..256).contains(w))? as u16,
            ),
        };
        let mut index = 0u64;
        let mut groups = number.split('/').peekable();
        let mut first = true;
        while let Some(group) = groups.next() {
            let digits = match groups.peek() {
                Some(_) => group.strip_prefix('x')?,
                None => group,
            };
            if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            if first && groups.peek().is_some() && digits == "000" {
                return None;
            }
            first = false;
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        Some(Tile {
            level,
            index,
            width,
        })
    }
}

/// The path relative to the log's folder.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::Entries => f.write_str("tile/entries/")?,
            Level::Hashes(l) => write!(f, "tile/{l}/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if self.width < TILE_WIDTH {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

/// The bytes of a hash tile.
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|h| h.0).collect()
}

/// Reads a hash tile of exactly `width` hashes; `None` when the length is another.
pub fn decode_hashes(bytes: &[u8], width: u16) -> Option<Vec<Hash>> {
    if bytes.len() != usize::from(width) * HASH_LEN {
        return None;
    }
    bytes.chunks_exact(HASH_LEN).map(Hash::from_slice).collect()
}

/// Appends one entry with its length prefix to a bundle; `false` (and no change) when it is longer
/// than [`MAX_ENTRY`].
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(len) = u16::try_from(entry.len()) else {
        return false;
    };
    bundle.extend_from_slice(&len.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// The entries of a bundle in order. A length that runs past the end is an `Err` with the number
/// of bytes that are left over; nothing follows it.
pub fn split_bundle(mut bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], usize>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let left = bytes.len();
        let entry = bytes.split_first_chunk::<2>().and_then(|(len, rest)| {
            let len = usize::from(u16::from_be_bytes(*len));
            (rest.len() >= len).then(|| rest.split_at(len))
        });
        Some(match entry {
            Some((entry, rest)) => {
                bytes = rest;
                Ok(entry)
            }
            None => {
                bytes = &[];
                Err(left)
            }
        })
    })
}

fn canonical_number(text: &str) -> Option<u64> {
    let canonical = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_specification() {
        let tile = Tile::full(Level::Hashes(3), 1_234_067);
        assert_eq!(tile.to_string(), "tile/3/x001/x234/067");
        let partial = Tile {
            level: Level::Entries,
            index: 0,
            width: 5,
        };
        assert_eq!(partial.to_string(), "tile/entries/000.p/5");
        for tile in [tile, partial, Tile::full(Level::Entries, u64::MAX)] {
            assert_eq!(Tile::parse(&tile.to_string()), Some(tile));
        }
        for wrong in [
            "tile/0/x000/001",
            "tile/00/001",
            "tile/0/1",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/05",
            "tile/64/001",
            "tile/0/x001",
            "tile/0/001/002",
            "tile/data/001",
            "tile/0/001.p/5/",
            "tile/0/x099/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(wrong), None, "{wrong}");
        }
    }

    /// The two sizes that the tlog-tiles document works through.
    #[test]
    fn files_of_the_specification() {
        let count = |l, s| (Level::full(l, s), Level::partial(l, s));
        assert_eq!(count(Level::Hashes(0), 70_000), (273, 112));
        assert_eq!(count(Level::Hashes(1), 70_000), (1, 17));
        assert_eq!(count(Level::Hashes(2), 70_000), (0, 1));
        assert_eq!(Level::all(70_000).count(), 4);
        assert_eq!(count(Level::Hashes(0), 256), (1, 0));
        assert_eq!(count(Level::Hashes(1), 256), (0, 1));
        assert_eq!(Level::all(0).count(), 0);
        assert_eq!(Level::all(u64::MAX).count(), 9);
    }

    #[test]
    fn bundles_split_and_report_a_torn_end() {
        let mut bundle = Vec::new();
        assert!(push_entry(&mut bundle, b"one"));
        assert!(push_entry(&mut bundle, b""));
        assert!(!push_entry(&mut bundle, &vec![0; 65_536]));
        let all: Vec<_> = split_bundle(&bundle).collect();
        assert_eq!(all, vec![Ok(&b"one"[..]), Ok(&b""[..])]);
        bundle.push(0);
        assert_eq!(split_bundle(&bundle).last(), Some(Err(1)));
    }
}
