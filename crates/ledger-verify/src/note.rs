//! Keys, signed notes, checkpoints and cosignatures: c2sp.org/signed-note, tlog-checkpoint and
//! tlog-cosignature, Ed25519 alone.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{Answer, tree::Hash, usage};

/// Key type of a log: signs the text of a note.
pub const ED25519: u8 = 1;
/// Key type of a witness: signs a time and the text; the time stands before the signature.
pub const COSIGNATURE: u8 = 4;
/// More signature lines are refused.
const MAX_SIGNATURES: usize = 100;

/// Whom to believe.
pub struct Trust {
    /// The log's keys, each with the size from which on it signs; at that size the one before it does, too.
    pub log: Vec<(u64, Key)>,
    pub witnesses: Vec<Key>,
}

/// A public key under a name.
#[derive(PartialEq)]
pub struct Key {
    name: String,
    kind: u8,
    id: u32,
    pub key: VerifyingKey,
}

impl Key {
    /// Reads `<name>+<hex of id>+<base64 of kind and key>`, of the wanted kind.
    pub fn parse(vkey: &str, kind: u8) -> Answer<Self> {
        let parts: Vec<&str> = vkey.splitn(3, '+').collect();
        let [name, hex, blob] = parts[..] else {
            return usage(format!("{vkey:?} is not <name>+<id>+<base64>"));
        };
        let blob = STANDARD.decode(blob).unwrap_or_default();
        let key = blob.strip_prefix(&[kind]).unwrap_or_default();
        let Ok(key) = VerifyingKey::try_from(key) else {
            return usage(format!("{vkey:?} is not an Ed25519 key of type {kind}"));
        };
        let digest = Sha256::digest([name.as_bytes(), b"\n", &blob].concat());
        let id = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        if !is_name(name) || hex != format!("{id:08x}") {
            return usage(format!("{vkey:?}: not the id of this name and key"));
        }
        Ok(Key { name: name.to_owned(), kind, id, key })
    }

    /// Whether the key has signed; `Err` when a signature under its name and id is wrong.
    fn signed(&self, note: &Note) -> Result<bool, String> {
        let own = note.signatures.iter().filter(|s| s.0 == self.name && s.1 == self.id);
        let good: Vec<bool> = own.map(|(_, _, blob)| self.accepts(note.text, blob)).collect();
        match good.contains(&false) {
            true => Err(format!("the signature by {:?} is wrong", self.name)),
            false => Ok(!good.is_empty()),
        }
    }

    fn accepts(&self, text: &str, blob: &[u8]) -> bool {
        let (message, signature) = match (self.kind, blob.split_first_chunk()) {
            (ED25519, _) => (text.to_owned(), blob),
            (_, Some((time, signature))) if time[0] < 0x80 => {
                let time = u64::from_be_bytes(*time);
                (format!("cosignature/v1\ntime {time}\n{text}"), signature)
            }
            _ => return false,
        };
        Signature::from_slice(signature)
            .is_ok_and(|s| self.key.verify_strict(message.as_bytes(), &s).is_ok())
    }
}

/// What the log's key has signed.
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// How many of the trusted witnesses have cosigned, and how many entries.
    pub cosigned: (usize, u64),
}

/// Reads a checkpoint that the log and at least `quorum` of the witnesses must have signed. A wrong
/// signature under the name and id of a known key refuses all of it; those of others are ignored.
pub fn checkpoint(bytes: &[u8], trust: &Trust, quorum: usize) -> Result<Checkpoint, String> {
    let note = Note::parse(bytes).ok_or("not a signed note in its one spelling")?;
    let (origin, size, root) = body(note.text).ok_or("not origin, size and root, spelled so")?;
    let newest = trust.log.iter().rposition(|(from, _)| *from <= size).unwrap_or(0);
    let both = newest > 0 && trust.log[newest].0 == size;
    for (_, key) in &trust.log[newest - usize::from(both)..=newest] {
        if !key.signed(&note)? || origin != key.name {
            let what = format!("of {origin:?}, not signed with {:?}+{:08x}", key.name, key.id);
            return Err(what);
        }
    }
    let mut cosigned = 0;
    for witness in &trust.witnesses {
        cosigned += usize::from(witness.signed(&note)?);
    }
    if cosigned < quorum {
        return Err(format!("cosigned by {cosigned} of {quorum} witnesses"));
    }
    let cosigned = (cosigned, if cosigned > 0 { size } else { 0 });
    Ok(Checkpoint { origin: origin.to_owned(), size, root, cosigned })
}

/// A text, and its signature lines `— <name> <base64>`: name, id, signature.
struct Note<'a> {
    text: &'a str,
    signatures: Vec<(&'a str, u32, Vec<u8>)>,
}

impl<'a> Note<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let all = std::str::from_utf8(bytes).ok()?;
        if all.contains(|c| c < ' ' && c != '\n') {
            return None;
        }
        let (text, lines) = all.split_at(all.rfind("\n\n")? + 1);
        let lines = lines.strip_prefix('\n')?.strip_suffix('\n')?.split('\n');
        let signatures = lines.map(|line| {
            let (name, blob) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            let blob = STANDARD.decode(blob).ok()?;
            let (id, signature) = blob.split_first_chunk()?;
            let named = is_name(name) && !signature.is_empty();
            named.then(|| (name, u32::from_be_bytes(*id), signature.to_vec()))
        });
        let signatures: Vec<_> = signatures.collect::<Option<_>>()?;
        (signatures.len() <= MAX_SIGNATURES).then_some(Note { text, signatures })
    }
}

/// Origin, size and root of a checkpoint; further lines are allowed, empty ones are not.
fn body(text: &str) -> Option<(&str, u64, Hash)> {
    let lines: Vec<&str> = text.strip_suffix('\n')?.split('\n').collect();
    let [origin, size, root, ..] = lines[..] else { return None };
    (!lines.contains(&"")).then_some((origin, number(size)?, hash(root)?))
}

/// A decimal number without sign or leading zeros.
pub fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n: &u64| n.to_string() == text)
}

/// A string or a number of an entry of this type, canonical JSON; nothing before it is text of others.
pub fn text<'a>(entry: &'a [u8], kind: &str, field: &str) -> Option<&'a str> {
    let (_, typed) = std::str::from_utf8(entry).ok()?.split_once("\"type\":\"")?;
    let body = typed.strip_prefix(kind)?.strip_prefix("\",")?;
    let (_, value) = body.split_once(&format!("\"{field}\":"))?;
    value.strip_prefix('"').map_or(value.split(','), |text| text.split('"')).next()
}

/// 32 bytes in padded base64; the decoder refuses any other spelling of the same bytes.
pub fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}
