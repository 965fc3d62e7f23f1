//! Format 3: the leaf of a record, with commitments in place of its text.
//!
//! ```text
//! record  {"v":2,"type":"mask",…,"path":"/home/u/.ssh","rule":"secrets"}
//! leaf    {"v":3,"of":2,"type":"mask",…,"path":{"c":"<base64 of 32 bytes>"},"rule":"secrets"}
//! ```
//!
//! Every string of the record becomes a commitment, unless it stands on the list of what is plain, by
//! type and place. What the list does not know is committed, so a new field is safe until somebody says
//! that it is plain. Keys, numbers and truth values stay; so no key may be chosen by others.
//!
//! ```text
//! commitment = SHA-256("agentwall/commit/v1" || 0x00 || length of the field, u64 big-endian || field
//!                      || salt, 32 bytes || value)
//! salt       = HKDF-Expand-SHA-256(seed, "agentwall/salt/v1" || 0x00 || field, 32)
//! ```
//!
//! The field is the place of the string as a JSON pointer (RFC 6901), the value its UTF-8. The seed, 32
//! random bytes, is kept with the text, never in the log. It gives every salt, no salt gives it: so one field can
//! be opened and the others stay closed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Entry, Record, VERSION};
use crate::hash::Hash;

/// The format of a leaf.
pub const LEAF: u64 = 3;

const COMMIT: &[u8] = b"agentwall/commit/v1\0";
const SALT: &[u8] = b"agentwall/salt/v1\0";

/// Plain in a record of any type.
const HEAD: &[&str] = &["/type", "/time", "/session"];

/// Plain in the records that tell a decision.
const DECISION: &[&str] = &[
    "/action/verb",
    "/effect",
    "/rule",
    "/monitors/*",
    "/policy",
    "/enforced_by",
    "/facts/kind",
    "/said/effect",
    "/said/rule",
    "/action_id",
    "/attribution",
];

/// Plain in a call beside its decision: whose it is, and what ends and answers it.
const CALL: &[&str] = &["/call", "/agent", "/host", "/ask"];

/// What a set of changes tells without its paths and contents.
const CHANGES: &[&str] = &["/files/*/change", "/files/*/entry", "/files/*/mode"];

/// The plain strings of each type; `*` is one step, any key or index.
///
/// Plain are the words of the protocol, ids, rules, digests of policies and programs: nothing that an agent or
/// a person wrote. A digest of what can be guessed (arguments, contents of files, a set of changes) tells as
/// much as the text itself, to whoever guesses: it is committed like text.
const PLAIN: &[(&str, &[&str])] = &[
    (
        "session_start",
        &[
            "/policy",
            "/enforcement/*",
            "/bundles/*/key",
            "/bundles/*/digest",
            "/from",
        ],
    ),
    ("decision", DECISION),
    ("exec", DECISION),
    ("connect", DECISION),
    ("approval", &["/ask", "/verdict", "/scope"]),
    (
        "policy",
        &[
            "/digest",
            "/sources/*/sha256",
            "/replaces",
            "/bundles/*/key",
            "/bundles/*/digest",
        ],
    ),
    ("commit", CHANGES),
    ("undo", CHANGES),
    ("discard", CHANGES),
    ("checkpoint", &["/outcome"]),
    ("rollback", &["/outcome"]),
    // The archive is proved to somebody who has nothing else of this host.
    ("export", &["/archive", "/changes"]),
    (
        "import",
        &[
            "/archive",
            "/changes",
            "/policy",
            "/from",
            "/key",
            "/checkpoint/origin",
            "/checkpoint/root",
        ],
    ),
    ("mask", &["/rule"]),
    ("selftest", &["/canaries/*/name"]),
    ("tally", &["/policy"]),
    ("kernel_wall", &["/outcome", "/programs"]),
    ("gap", &["/from", "/to"]),
    ("redaction", &["/sessions/*"]),
    ("intent", &["/action_id", "/source", "/claims/*/verb"]),
    ("action_start", &["/action_id"]),
    ("kernel_summary", &["/action_id", "/root"]),
    ("action_end", &["/action_id", "/outcome"]),
    ("finding", &["/action_id", "/kind", "/verb"]),
    ("clock", &["/expected"]),
    ("heartbeat", &["/root"]),
    ("access", &["/command"]),
    ("prune", &["/before", "/policy"]),
    ("gateway", &["/outcome", "/policy"]),
    ("principal", &["/event", "/host", "/agent"]),
    ("call", DECISION),
    ("call", CALL),
    ("call_end", &["/call"]),
    ("console", &["/act", "/proof"]),
    ("key_rotation", &["/old", "/new"]),
    (
        "baseline_change",
        &["/outcome", "/baseline", "/replaces", "/key"],
    ),
];

/// What is plain in records of one type.
struct Plain(Vec<&'static str>);

impl Plain {
    fn of(kind: &str) -> Plain {
        let of_kind = PLAIN.iter().filter(|(k, _)| *k == kind);
        let patterns = HEAD.iter().chain(of_kind.flat_map(|(_, fields)| *fields));
        Plain(patterns.copied().collect())
    }

    fn has(&self, field: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, field))
    }
}

fn matches(pattern: &str, field: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == field;
    }
    // In a JSON pointer a slash within a key is escaped.
    let (mut pattern, mut field) = (pattern.split('/'), field.split('/'));
    loop {
        match (pattern.next(), field.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

/// What all salts of an entry come from.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed(pub(crate) [u8; 32]);

impl Seed {
    /// From 32 bytes that are secret and used for one entry alone.
    pub fn new(bytes: [u8; 32]) -> Self {
        Seed(bytes)
    }

    /// The salt of a field.
    pub fn salt(&self, field: &str) -> [u8; 32] {
        self.salts().of(field)
    }

    fn salts(&self) -> Salts {
        // Cannot fail: a key as long as the hash.
        Salts(Hkdf::from_prk(&self.0).ok())
    }
}

/// A seed, ready for many salts.
struct Salts(Option<Hkdf<Sha256>>);

impl Salts {
    fn of(&self, field: &str) -> [u8; 32] {
        let mut salt = [0; 32];
        // Cannot fail: one block of output.
        let done = (self.0.as_ref()).is_some_and(|hkdf| {
            hkdf.expand_multi_info(&[SALT, field.as_bytes()], &mut salt)
                .is_ok()
        });
        assert!(done, "32 bytes are a key and a block of HKDF-SHA-256");
        salt
    }
}

/// Does not show it.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// The commitment to a value.
pub fn commit(field: &str, salt: &[u8; 32], value: &str) -> Hash {
    let hash = Sha256::new()
        .chain_update(COMMIT)
        .chain_update((field.len() as u64).to_be_bytes())
        .chain_update(field)
        .chain_update(salt)
        .chain_update(value);
    Hash(hash.finalize().into())
}

fn committed(hash: Hash) -> Value {
    let mut object = Map::new();
    object.insert("c".to_owned(), Value::String(hash.to_base64()));
    Value::Object(object)
}

/// A leaf, and what of its record decides where the text goes.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: String,
    pub(crate) session: String,
    pub(crate) seq: u64,
}

/// The leaf of a record in its canonical form. `None` for bytes that are no record of a format before this
/// one, in that form.
pub fn leaf(record: &[u8], seed: &Seed) -> Option<Vec<u8>> {
    Some(close_record(record, seed)?.bytes)
}

pub(crate) fn close_record(record: &[u8], seed: &Seed) -> Option<Leaf> {
    let fields: Map<String, Value> = serde_json::from_slice(record).ok()?;
    if serde_json::to_vec(&fields).ok()? != record || fields.contains_key("of") {
        return None;
    }
    let text = |key| Some(fields.get(key)?.as_str()?.to_owned());
    let (kind, session) = (text("type")?, text("session")?);
    let seq = fields.get("seq")?.as_u64()?;
    let mut fields = fields.into_iter();
    let (first, of) = fields.next()?;
    if first != "v" || !of.as_u64().is_some_and(|v| (1..=VERSION).contains(&v)) {
        return None;
    }
    let mut out = Map::new();
    out.insert(first, LEAF.into());
    out.insert("of".to_owned(), of);
    let (plain, salts) = (Plain::of(&kind), seed.salts());
    let mut field = String::new();
    for (key, mut value) in fields {
        at(&mut field, &key, |field| {
            close(&plain, &salts, field, &mut value);
        });
        out.insert(key, value);
    }
    Some(Leaf {
        bytes: serde_json::to_vec(&out).ok()?,
        kind,
        session,
        seq,
    })
}

fn close(plain: &Plain, salts: &Salts, field: &mut String, value: &mut Value) {
    match value {
        Value::String(text) if !plain.has(field) => {
            *value = committed(commit(field, &salts.of(field), text));
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                at(field, &i.to_string(), |field| {
                    close(plain, salts, field, item);
                });
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields.iter_mut() {
                at(field, key, |field| close(plain, salts, field, item));
            }
        }
        _ => {}
    }
}

/// One step of a JSON pointer deeper.
fn at(field: &mut String, key: &str, then: impl FnOnce(&mut String)) {
    let length = field.len();
    field.push('/');
    match key.contains(['~', '/']) {
        true => field.push_str(&key.replace('~', "~0").replace('/', "~1")),
        false => field.push_str(key),
    }
    then(field);
    field.truncate(length);
}

/// The length of the leaf of a record; commitments are as long whatever the seed, so nothing is hashed for it.
pub(super) fn leaf_length(record: &[u8]) -> usize {
    let value: Value = serde_json::from_slice(record).unwrap_or_default();
    let plain = Plain::of(value["type"].as_str().unwrap_or_default());
    let mut more = r#""of":1,"#.len() as isize;
    collect(&mut String::new(), &value, &mut |field, text| {
        if !plain.has(field) {
            more += growth(text);
        }
    });
    record.len().saturating_add_signed(more)
}

/// How many bytes the leaf of a part of a record has more than the part, for each text that is committed.
pub(super) fn growth(text: &str) -> isize {
    // `{"c":"` and 44 characters and `"}`.
    const COMMITTED: isize = 52;
    // Cannot fail: a string.
    COMMITTED - serde_json::to_string(text).map_or(0, |json| json.len() as isize)
}

/// An entry of which only the leaf is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Its `type`.
    pub kind: String,
    /// The whole leaf.
    pub fields: Map<String, Value>,
    /// Why its text is not here.
    pub withheld: Withheld,
}

/// Why the text of an entry is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Withheld {
    /// Nobody has looked: the log has it not.
    #[error("its text is not in the log")]
    Unopened,
    /// It was destroyed on purpose.
    #[error("its text was erased, see entry {by}")]
    Erased {
        /// The number of the entry that tells it.
        by: u64,
    },
    /// It is gone, or never was on this host.
    #[error("its text is not here: {0}")]
    Missing(String),
    /// It cannot be decrypted.
    #[error("its text is damaged, or was encrypted with another key")]
    Damaged,
    /// It is a text, and not the one that the entry has commitments to.
    #[error("the text kept for it is FORGED: it does not fit the entry's commitments")]
    Forged,
}

/// The record of a leaf in which nothing is committed.
pub(crate) fn plain_record(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let of = fields.shift_remove("of")?;
    *fields.get_mut("v")? = of;
    let record = serde_json::to_vec(&fields).ok()?;
    let same = leaf(&record, &Seed([0; 32])).as_deref() == Some(bytes);
    same.then_some(record)
}

/// Reads a leaf. One in which nothing is committed is its record.
pub(super) fn read(bytes: &[u8]) -> Option<Entry> {
    let fields: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    if serde_json::to_vec(&fields).ok()? != bytes {
        return None;
    }
    let of = fields.get("of")?.as_u64()?;
    let leads = fields.keys().map(String::as_str).take(2).eq(["v", "of"]);
    if !leads || fields["v"] != LEAF || !(1..=VERSION).contains(&of) {
        return None;
    }
    let text = |key| Some(fields.get(key)?.as_str()?.to_owned());
    let (kind, time, session) = (text("type")?, text("time")?, text("session")?);
    let seq = fields.get("seq")?.as_u64()?;
    if let Some(record) = plain_record(bytes) {
        return Entry::from_bytes(&record).ok();
    }
    Some(Entry {
        time,
        session,
        seq,
        record: Record::Committed(Committed {
            kind,
            fields,
            withheld: Withheld::Unopened,
        }),
    })
}

/// A field of an entry, opened: what somebody needs who is to see it and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Where it stands in the entry, a JSON pointer.
    pub field: String,
    /// Its salt, 32 bytes in base64.
    pub salt: String,
    /// What is there.
    pub value: String,
}

impl Opening {
    /// Opens the committed fields of a record that `wanted` picks.
    pub fn of(record: &[u8], seed: &Seed, wanted: impl Fn(&str) -> bool) -> Vec<Opening> {
        let mut openings = Vec::new();
        let Ok(Value::Object(fields)) = serde_json::from_slice(record) else {
            return openings;
        };
        let kind = fields.get("type").and_then(Value::as_str);
        let (plain, salts) = (Plain::of(kind.unwrap_or_default()), seed.salts());
        collect(
            &mut String::new(),
            &Value::Object(fields),
            &mut |field, value| {
                if !plain.has(field) && wanted(field) {
                    openings.push(Opening {
                        field: field.to_owned(),
                        salt: STANDARD.encode(salts.of(field)),
                        value: value.to_owned(),
                    });
                }
            },
        );
        openings
    }

    /// Checks that the entry whose leaf this is has a commitment to just this value in this place.
    pub fn check(&self, leaf: &[u8]) -> Result<(), OpeningError> {
        let wrong = |what| OpeningError {
            field: self.field.clone(),
            what,
        };
        let leaf: Value =
            serde_json::from_slice(leaf).map_err(|_| wrong("the entry is not JSON"))?;
        if leaf["v"] != LEAF {
            return Err(wrong("the entry has no commitments: its text stands in it"));
        }
        let there = leaf.pointer(&self.field);
        let there = there.ok_or(wrong("the entry has no such field"))?;
        let salt = STANDARD.decode(&self.salt).ok();
        let salt: [u8; 32] = salt
            .and_then(|salt| salt.try_into().ok())
            .ok_or(wrong("the salt is not 32 bytes in base64"))?;
        match *there == committed(commit(&self.field, &salt, &self.value)) {
            true => Ok(()),
            false => Err(wrong("the value is not the one that the entry commits to")),
        }
    }
}

fn collect(field: &mut String, value: &Value, put: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::String(text) => put(field, text),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                at(field, &i.to_string(), |field| collect(field, item, put));
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                at(field, key, |field| collect(field, item, put));
            }
        }
        _ => {}
    }
}

/// An opening that is not one of this entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the opened field '{field}': {what}")]
pub struct OpeningError {
    /// The field.
    pub field: String,
    /// What is wrong.
    pub what: &'static str,
}

#[cfg(test)]
#[path = "commitment_tests.rs"]
mod tests;
