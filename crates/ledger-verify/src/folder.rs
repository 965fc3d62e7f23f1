//! A log's folder (c2sp.org/tlog-tiles), from the bytes of every entry up to the signed root.
//!
//!     checkpoint                  signed: origin, size, root
//!     tile/entries/<N>[.p/<W>]    256 entries (or W), each after a big-endian uint16 length
//!     tile/<L>/<N>[.p/<W>]        256 hashes (or W), each the root of a subtree of 256^L entries
//!     checkpoint.cosigned         an older checkpoint with cosignatures, if they are kept apart
//!     rotation/<N>                proves that the log's key was replaced, see proof.rs
//!     lock, journal               the writer's own; no part of what is signed
//!
//! Every entry is compared with its hash in level 0, every level with the one below, and the root of all
//! hashes with the signed one. The hashes of all entries are in memory, 32 bytes each.

use std::{fs, path::Path};

use crate::note::{self, Checkpoint, Trust};
use crate::{Answer, proof, read, refuse, tree, tree::Hash};

/// In place of a tile's level: the entries.
const ENTRIES: usize = usize::MAX;
/// The newest checkpoint with cosignatures, where they are kept apart.
const COSIGNED: &str = "checkpoint.cosigned";
/// What else a log's folder has.
const OTHERS: [&str; 4] = ["checkpoint", COSIGNED, "lock", "journal"];

/// Checks everything in `dir`, which `k` witnesses must have cosigned. It must begin with the entries of
/// `former`, an older checkpoint's path, of the one that has the cosignatures if that is older, and of
/// those under which the key was replaced.
pub fn verify(dir: &Path, mut trust: Trust, k: usize, former: Option<&str>) -> Answer<Checkpoint> {
    let mut formers = proof::follow(dir, &mut trust)?;
    let (trust, rotations) = (&trust, formers.len() as u64);
    let apart = dir.join(COSIGNED).exists();
    let here = if apart { 0 } else { k };
    let mut log = open(&dir.join("checkpoint"), "checkpoint", trust, here)?;
    if apart {
        let cosigned = open(&dir.join(COSIGNED), COSIGNED, trust, k)?;
        log.cosigned = cosigned.cosigned;
        formers.push(cosigned);
    }
    if let Some(file) = former {
        // Whoever kept it has seen it: it needs no witnesses.
        formers.push(open(Path::new(file), file, trust, 0)?);
    }
    if let Some(former) = formers.iter().find(|former| former.size > log.size) {
        let what = format!("{} entries, {} before: put back", log.size, former.size);
        return refuse("checkpoint", what);
    }
    walk(dir, "", log.size, rotations)?;
    let (mut leaves, mut gone, mut minimum) = (Vec::new(), 0, 0);
    for first in (0..log.size).step_by(256) {
        let width = (log.size - first).min(256) as usize;
        let bundle = name(ENTRIES, first / 256, width);
        leaves.extend(tile(dir, 0, first / 256, width)?);
        if gone == first && width == 256 && !dir.join(&bundle).exists() {
            // Whether a record allows what is missing is seen when all are read; its hashes stand for it.
            gone += 256;
            continue;
        }
        for (n, entry) in (first..).zip(split(&read(&dir.join(&bundle), &bundle)?, width, &bundle)?)
        {
            if tree::leaf(entry) != leaves[n as usize] {
                return refuse(&bundle, format!("entry {n} is not what its tile of level 0 says"));
            }
            let number = note::text(entry, "prune", "minimum").and_then(note::number);
            minimum =
                number.filter(|m| m % 256 == 0 && *m <= n).map_or(minimum, |m| minimum.max(m));
            let replaced = note::text(entry, "key_rotation", "new").is_some();
            if replaced && !trust.log.iter().any(|(from, _)| *from == n + 1) {
                return refuse(&format!("rotation/{rotations}"), format!("missing, see entry {n}"));
            }
        }
    }
    if gone > minimum {
        return refuse(&name(ENTRIES, minimum / 256, 256), "missing");
    }
    let roots = |of: &[Hash]| of.chunks_exact(256).map(tree::root).collect::<Vec<_>>();
    let (mut level, mut hashes) = (1, roots(&leaves));
    while !hashes.is_empty() {
        for (index, hashes) in (0..).zip(hashes.chunks(256)) {
            if tile(dir, level, index, hashes.len())? != hashes {
                let file = name(level, index, hashes.len());
                return refuse(&file, "a hash is not that of the tile below");
            }
        }
        (level, hashes) = (level + 1, roots(&hashes));
    }
    for former in formers {
        if tree::root(&leaves[..former.size as usize]) != former.root {
            return refuse("checkpoint", format!("its first {} were others before", former.size));
        }
    }
    match tree::root(&leaves) == log.root {
        true => Ok(log),
        false => refuse("checkpoint", "its root is not that of the entries"),
    }
}

fn open(path: &Path, file: &str, trust: &Trust, k: usize) -> Answer<Checkpoint> {
    note::checkpoint(&read(path, file)?, trust, k).or_else(|what| refuse(file, what))
}

/// The hashes of a tile.
fn tile(dir: &Path, level: usize, index: u64, width: usize) -> Answer<Vec<Hash>> {
    let file = name(level, index, width);
    let bytes = read(&dir.join(&file), &file)?;
    match bytes.len() == 32 * width {
        true => Ok(bytes.as_chunks::<32>().0.to_vec()),
        false => refuse(&file, "not as long as its name says"),
    }
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
fn walk(dir: &Path, prefix: &str, size: u64, rotations: u64) -> Answer<()> {
    let trouble = |e| (2, format!("cannot list {:?}: {e}", dir.join(prefix)));
    for item in fs::read_dir(dir.join(prefix)).map_err(trouble)? {
        let item = item.map_err(trouble)?;
        let path = format!("{prefix}{}", item.file_name().to_string_lossy());
        let kind = item.file_type().map_err(trouble)?;
        if kind.is_dir() {
            walk(dir, &format!("{path}/"), size, rotations)?;
        } else if !kind.is_file() {
            return refuse(&path, "not a regular file");
        } else if !OTHERS.contains(&path.as_str())
            && path.strip_prefix("rotation/").and_then(note::number).is_none_or(|n| n >= rotations)
        {
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
