//! A log's folder (c2sp.org/tlog-tiles), from the bytes of every entry up to the signed root.
//!
//!     checkpoint                  signed: origin, size, root
//!     tile/entries/<N>[.p/<W>]    256 entries (or W), each after a big-endian uint16 length
//!     tile/<L>/<N>[.p/<W>]        256 hashes (or W), each the root of a subtree of 256^L entries
//!     checkpoint.cosigned         an older checkpoint with cosignatures, if they are kept apart
//!     lock, journal               the writer's own; no part of what is signed
//!
//! One pass over the entries rebuilds the tree and compares each tile when it is complete. In memory are
//! one bundle and at most 256 hashes per level.

use std::{fs, path::Path};

use crate::{Answer, Error, note, note::Checkpoint, note::Trust, read, refuse, tree, tree::Hash};

/// In place of a tile's level: the entries.
const ENTRIES: usize = usize::MAX;
/// The newest checkpoint with cosignatures, where they are kept apart.
const COSIGNED: &str = "checkpoint.cosigned";
/// What else a log's folder has.
const OTHERS: [&str; 4] = ["checkpoint", COSIGNED, "lock", "journal"];

/// Checks everything in `dir`, which `k` witnesses must have cosigned. It must begin with the entries of
/// `former`, an older checkpoint's path, and of the one that has the cosignatures if that is older.
pub fn verify(dir: &Path, trust: &Trust, k: usize, former: Option<&str>) -> Answer<Checkpoint> {
    let apart = dir.join(COSIGNED).exists();
    let here = if apart { 0 } else { k };
    let mut log = open(&dir.join("checkpoint"), "checkpoint", trust, here)?;
    let mut formers = Vec::new();
    if apart {
        formers.push(open(&dir.join(COSIGNED), COSIGNED, trust, k)?);
        log.cosigned = formers[0].cosigned;
    }
    if let Some(file) = former {
        // Whoever kept it has seen it: it needs no witnesses.
        formers.push(open(Path::new(file), file, trust, 0)?);
    }
    if let Some(former) = formers.iter().find(|former| former.size > log.size) {
        let what = format!("{} entries, {} before: put back", log.size, former.size);
        return refuse("checkpoint", what);
    }
    walk(dir, "", log.size)?;
    let mut tree = Rebuilt { dir, formers, count: 0, levels: vec![Vec::new()] };
    tree.compare_former()?;
    let (mut gone, mut minimum) = (0, 0);
    while tree.count < log.size {
        let width = (log.size - tree.count).min(256) as usize;
        let index = tree.count / 256;
        let there =
            gone < tree.count || width < 256 || dir.join(name(ENTRIES, index, 256)).exists();
        // Whether a record allows what is missing is seen when all are read; its hashes stand for it.
        let file = name(if there { ENTRIES } else { 0 }, index, width);
        let bytes = read(&dir.join(&file), &file)?;
        let hashes: Vec<Hash> = if there {
            let entries = split(&bytes, width, &file)?;
            minimum = entries.iter().zip(tree.count..).map(allowed).fold(minimum, u64::max);
            entries.into_iter().map(tree::leaf).collect()
        } else {
            gone += 256;
            bytes.as_chunks::<32>().0.to_vec()
        };
        for hash in hashes {
            tree.count += 1;
            tree.push(0, hash)?;
            tree.compare_former()?;
        }
    }
    if gone > minimum {
        return refuse(&name(ENTRIES, minimum / 256, 256), "missing");
    }
    (0..tree.levels.len()).try_for_each(|level| tree.compare(level))?;
    match tree::edge_root(&tree.levels) == log.root {
        true => Ok(log),
        false => refuse("checkpoint", "its root is not that of the entries"),
    }
}

fn open(path: &Path, file: &str, trust: &Trust, k: usize) -> Answer<Checkpoint> {
    note::checkpoint(&read(path, file)?, trust, k).or_else(|what| refuse(file, what))
}

/// The tree over the entries so far.
struct Rebuilt<'a> {
    dir: &'a Path,
    formers: Vec<Checkpoint>,
    /// Entries so far.
    count: u64,
    /// Per level the hashes that no full tile holds yet.
    levels: Vec<Vec<Hash>>,
}

impl Rebuilt<'_> {
    /// Adds the root of a complete subtree of 256^level entries.
    fn push(&mut self, level: usize, hash: Hash) -> Answer<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(hash);
        if self.levels[level].len() < 256 {
            return Ok(());
        }
        self.compare(level)?;
        let root = tree::root(&self.levels[level]);
        self.levels[level].clear();
        self.push(level + 1, root)
    }

    /// Compares the hashes of a level that no tile was compared with yet with the tile of that width.
    fn compare(&self, level: usize) -> Answer<()> {
        let hashes = &self.levels[level];
        // The tile that the newest subtree of this level is in.
        let (index, width) = (((self.count >> (8 * level)).max(1) - 1) / 256, hashes.len());
        let file = name(level, index, width);
        let tile = if width == 0 { Vec::new() } else { read(&self.dir.join(&file), &file)? };
        if tile.len() != 32 * width {
            return refuse(&file, "not as long as its name says");
        }
        match tile.chunks(32).zip(hashes).position(|(stored, hash)| stored != hash) {
            None => Ok(()),
            Some(i) if level == 0 => {
                let what = format!("entry {} is not what {file} says", index * 256 + i as u64);
                refuse(&name(ENTRIES, index, width), what)
            }
            Some(i) => refuse(&file, format!("hash {i} is not that of the tile below")),
        }
    }

    /// Compares with the former checkpoints that had as many entries.
    fn compare_former(&self) -> Answer<()> {
        let mut formers = self.formers.iter().filter(|former| former.size == self.count);
        match formers.all(|former| former.root == tree::edge_root(&self.levels)) {
            true => Ok(()),
            false => refuse("checkpoint", format!("its first {} were others before", self.count)),
        }
    }
}

/// Below which number entries may be missing, as this entry says: a record of pruning, canonical JSON.
fn allowed((entry, index): (&&[u8], u64)) -> u64 {
    let number = std::str::from_utf8(entry).ok().and_then(|text| {
        let body = text.split_once("\"type\":\"")?.1.strip_prefix("prune\",")?;
        note::number(body.split_once("\"minimum\":")?.1.split(',').next()?)
    });
    number.filter(|n| n % 256 == 0 && *n <= index).unwrap_or(0)
}

/// The entries of a bundle, exactly `width`.
fn split<'a>(mut bytes: &'a [u8], width: usize, file: &str) -> Answer<Vec<&'a [u8]>> {
    let mut entries = Vec::with_capacity(width);
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        match rest.split_at_checked(u16::from_be_bytes(*length).into()) {
            Some((entry, rest)) if entries.len() < width => {
                (bytes, _) = (rest, entries.push(entry))
            }
            _ => break,
        }
    }
    match (entries.len(), bytes.len()) {
        (found, 0) if found == width => Ok(entries),
        (found, left) => refuse(file, format!("{found} entries of {width}, {left} bytes over")),
    }
}

/// The file of a tile: 1234067 is `x001/x234/067`, and a partial one has its width after it.
fn name(level: usize, index: u64, width: usize) -> String {
    let mut number = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        number = format!("x{:03}/{number}", rest % 1000);
        rest /= 1000;
    }
    let folder = if level == ENTRIES { "entries".to_owned() } else { level.to_string() };
    let width = if width == 256 { String::new() } else { format!(".p/{width}") };
    format!("tile/{folder}/{number}{width}")
}

/// Level, index and width of a file's name; `None` unless it is exactly what [`name`] gives.
fn parse(path: &str) -> Option<(usize, u64, usize)> {
    let (folder, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let level =
        if folder == "entries" { ENTRIES } else { folder.parse().ok().filter(|l| *l < 8)? };
    let (number, width) = match rest.split_once(".p/") {
        Some((number, width)) => (number, width.parse().ok().filter(|w| *w < 256)?),
        None => (rest, 256),
    };
    let index = number.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()?;
    (name(level, index, width) == path).then_some((level, index, width))
}

/// Refuses links, devices and files that a log of `size` entries does not have. A partial file that a
/// wider one has replaced may still be there; it must be the beginning of that.
fn walk(dir: &Path, prefix: &str, size: u64) -> Answer<()> {
    let trouble = |e| Error::Trouble(format!("cannot list {:?}: {e}", dir.join(prefix)));
    for item in fs::read_dir(dir.join(prefix)).map_err(trouble)? {
        let item = item.map_err(trouble)?;
        let path = format!("{prefix}{}", item.file_name().to_string_lossy());
        let kind = item.file_type().map_err(trouble)?;
        if kind.is_dir() {
            walk(dir, &format!("{path}/"), size)?;
        } else if !kind.is_file() {
            return refuse(&path, "not a regular file");
        } else if !OTHERS.contains(&path.as_str()) {
            let Some((level, index, width)) = parse(&path) else {
                return refuse(&path, "no file of a log");
            };
            let items = if level == ENTRIES { size } else { size >> (8 * level) };
            let there = items.saturating_sub(index.saturating_mul(256)).min(256) as usize;
            if width > there {
                return refuse(&path, format!("beyond the {size} entries that are signed"));
            }
            if width < there {
                let part = read(&dir.join(&path), &path)?;
                let whole = read(&dir.join(name(level, index, there)), &path)?;
                let bundle = level == ENTRIES && split(&part, width, &path).is_ok();
                let fits = bundle || level != ENTRIES && part.len() == 32 * width;
                if !fits || !whole.starts_with(&part) {
                    return refuse(&path, "not the beginning of what has replaced it");
                }
            }
        }
    }
    Ok(())
}
