//! The proof of one entry, c2sp.org/tlog-proof@v1, and what such proofs say about the log's key.
//!
//!     c2sp.org/tlog-proof@v1
//!     extra <base64>              may be left out; in the proof of a rotation, the entry
//!     index <number>
//!     <base64 hash>               from the leaf's sibling up, one per line
//!
//!     <checkpoint, verbatim>

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::note::{self, Checkpoint, ED25519, Key, Trust};
use crate::{Answer, read, refuse, tree};

/// Checks that the bytes of the file `entry` are in the log, at the index that the proof names.
pub fn verify(path: &str, entry: &str, trust: &Trust, quorum: usize) -> Answer<Checkpoint> {
    let entry = read(Path::new(entry), entry)?;
    check(path, &parse(path, &read(Path::new(path), path)?)?, &entry, trust, quorum)
}

/// Follows the log's key: `rotation/<n>` in `dir`, from 0, is the proof of an entry that names the old
/// and the new key, under the checkpoint that it is the last entry of, which both have signed. The key
/// that was trusted must be one of them. Gives these checkpoints.
pub fn follow(dir: &Path, trust: &mut Trust) -> Answer<Vec<Checkpoint>> {
    let (known, mut ends) = (trust.log.split_off(0), Vec::new());
    while dir.join(format!("rotation/{}", ends.len())).exists() {
        let file = format!("rotation/{}", ends.len());
        let bytes = read(&dir.join(&file), &file)?;
        let proof = parse(&file, &bytes)?;
        let key = |name| Key::parse(note::text(&proof.0, "key_rotation", name)?, ED25519).ok();
        let (Some(old), Some(new)) = (key("old"), key("new")) else {
            return refuse(&file, "its entry does not name two keys");
        };
        if ends.is_empty() {
            trust.log.push((0, old));
        } else if trust.log[ends.len()].1 != old || trust.log[ends.len()].0 > proof.1 {
            return refuse(&file, "does not follow from the one before it");
        }
        trust.log.push((proof.1.saturating_add(1), new));
        ends.push(check(&file, &proof, &proof.0, trust, 0)?);
        if ends.last().map(|end| end.size) != trust.log.last().map(|(from, _)| *from) {
            return refuse(&file, "the entry is not the last one");
        }
    }
    if ends.is_empty() {
        trust.log = known;
    } else if !trust.log.iter().any(|(_, key)| *key == known[0].1) {
        return refuse("rotation/0", "the trusted key is none of those that followed each other");
    }
    Ok(ends)
}

/// What is brought along, index, hashes and checkpoint.
type Proof<'a> = (Vec<u8>, u64, Vec<tree::Hash>, &'a str);

fn check(file: &str, proof: &Proof, entry: &[u8], trust: &Trust, k: usize) -> Answer<Checkpoint> {
    let (_, index, hashes, text) = proof;
    let log = note::checkpoint(text.as_bytes(), trust, k).or_else(|e| refuse(file, e))?;
    match tree::climb(tree::leaf(entry), *index, log.size, hashes) {
        Some(root) if root == log.root => Ok(log),
        _ => refuse(file, format!("does not prove this entry to be number {index}")),
    }
}

fn parse<'a>(file: &str, bytes: &'a [u8]) -> Answer<Proof<'a>> {
    let parts = || {
        let (head, checkpoint) = std::str::from_utf8(bytes).ok()?.split_once("\n\n")?;
        let mut lines = head.strip_prefix("c2sp.org/tlog-proof@v1\n")?.split('\n').peekable();
        let extra = lines.next_if(|line| line.starts_with("extra ")).map_or("", |line| &line[6..]);
        let index = note::number(lines.next()?.strip_prefix("index ")?)?;
        let hashes = lines.map(note::hash).collect::<Option<_>>()?;
        Some((STANDARD.decode(extra).ok()?, index, hashes, checkpoint))
    };
    parts().map_or_else(|| refuse(file, "not a tlog-proof in its one spelling"), Ok)
}
