//! What AgentWall logs: one canonical JSON object per entry.
//!
//! `{"v":N,"type":…,"time":…,"session":…,"seq":…, …fields of the type}`, no white space, keys in
//! the order of the structs in [`records`], absent options left out, integers only. Two equal
//! records have equal bytes. `seq` counts the entries of one session from 0, so that a reader sees
//! a gap. `v` is the lowest format that has all fields of the entry: 2 for decisions and session
//! starts, which tell enough to be replayed (see [`Entry::recall`]), 1 for everything else.
//!
//! Writing never fails: text that is too long is cut and says so (see [`clip`]), so that an agent
//! cannot keep an action out of the log by giving it a long name. Reading never loses anything:
//! what this version does not know (a newer `v`, another `type`, more fields) is kept as
//! [`Record::Other`], neither trusted nor refused.
//!
//! What goes into the tree is not the record but its leaf, format 3: see [`commitment`].

pub mod clip;
pub mod commitment;
mod facts;
mod gateway;
mod intent;
mod layers;
mod recall;
pub mod records;
mod redaction;
mod time;
mod upkeep;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::commitment::{Committed, Opening, OpeningError, Seed, Withheld};
pub use self::facts::{FactsText, PolicyAnswer, PolicyBundle, PolicyVariables};
pub use self::gateway::{CallEnd, CallRecord, ConsoleAct, GatewayState, PrincipalEvent};
pub use self::intent::{ActionEnd, ActionStart, Claim, Finding, Intent, KernelSummary, ProcessId};
pub use self::layers::{Export, ForeignCheckpoint, Import};
pub use self::recall::{NotRecallable, Recalled};
pub use self::records::*;
pub use self::redaction::Redaction;
pub use self::time::rfc3339_ms;
pub use self::upkeep::{Access, BaselineChange, ClockJump, Heartbeat, KeyRotation, Prune};

use self::clip::Clip;
use crate::tile::MAX_ENTRY;

/// The newest format of a record that is written and read here; [`commitment::LEAF`] is that of leaves.
pub const VERSION: u64 = 2;

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When it was written: RFC 3339, UTC, milliseconds (`2026-01-02T03:04:05.678Z`).
    pub time: String,
    /// The session it belongs to.
    pub session: String,
    /// Its number in the session, from 0.
    pub seq: u64,
    /// What happened.
    pub record: Record,
}

macro_rules! records {
    ($($(#[$doc:meta])* $variant:ident($body:ty) = $name:literal,)*) => {
        /// What happened.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Record {
            $($(#[$doc])* $variant($body),)*
            /// An entry without its text, which is apart from the log.
            Committed(Committed),
            /// An entry that this version does not know; nothing can be said about it.
            Other(Other),
        }

        impl Record {
            /// The types this version writes, in the order of the documentation.
            pub const TYPES: &'static [&'static str] = &[$($name,)*];

            /// The value of the field `type`.
            pub fn type_name(&self) -> &str {
                match self {
                    $(Record::$variant(_) => $name,)*
                    Record::Committed(committed) => &committed.kind,
                    Record::Other(other) => &other.kind,
                }
            }

            fn clip(&mut self, limit: usize) {
                match self {
                    $(Record::$variant(body) => body.clip(limit),)*
                    Record::Committed(_) | Record::Other(_) => {}
                }
            }
        }

        fn write(entry: &Entry) -> Vec<u8> {
            match &entry.record {
                $(Record::$variant(body) => wire(entry, $name, body),)*
                Record::Committed(Committed { fields, .. }) | Record::Other(Other { fields, .. }) => {
                    serde_json::to_vec(fields).unwrap_or_default()
                }
            }
        }

        fn read_known(kind: &str, bytes: &[u8]) -> Option<Entry> {
            match kind {
                $($name => unwire(bytes, Record::$variant),)*
                _ => None,
            }
        }
    };
}

records! {
    /// A session began.
    SessionStart(SessionStart) = "session_start",
    /// A session ended.
    SessionEnd(SessionEnd) = "session_end",
    /// A decision other than a plain allow.
    Decision(DecisionRecord) = "decision",
    /// A program was started, or refused.
    Exec(Exec) = "exec",
    /// A connection was opened, or refused.
    Connect(Connect) = "connect",
    /// A person answered a question, or nobody did in time.
    Approval(Approval) = "approval",
    /// A policy came into effect.
    Policy(PolicyRecord) = "policy",
    /// Changes were carried to the originals.
    Commit(Commit) = "commit",
    /// Changes were thrown away.
    Discard(Discard) = "discard",
    /// A commit was undone.
    Undo(Undo) = "undo",
    /// What a session's layers were at a moment was kept, or is not kept any longer.
    Checkpoint(Checkpoint) = "checkpoint",
    /// A session's layers were put back to a checkpoint.
    Rollback(Rollback) = "rollback",
    /// Layers were written to an archive.
    Export(Export) = "export",
    /// A session began with the layers of an archive.
    Import(Import) = "import",
    /// A path was hidden from the session when it started.
    Mask(Mask) = "mask",
    /// The wall tried itself.
    Selftest(Selftest) = "selftest",
    /// What went through without an entry of its own.
    Tally(Tally) = "tally",
    /// What became of the wall in the kernel.
    KernelWall(KernelWall) = "kernel_wall",
    /// Records were lost.
    Gap(Gap) = "gap",
    /// An agent said what it is about to do, and why.
    Intent(Intent) = "intent",
    /// An action was let go on.
    ActionStart(ActionStart) = "action_start",
    /// What was seen of an action.
    KernelSummary(KernelSummary) = "kernel_summary",
    /// An action ended.
    ActionEnd(ActionEnd) = "action_end",
    /// Intent and action do not fit.
    Finding(Finding) = "finding",
    /// The host's clock was set.
    Clock(ClockJump) = "clock",
    /// The daemon lives.
    Heartbeat(Heartbeat) = "heartbeat",
    /// Somebody read the ledger.
    Access(Access) = "access",
    /// Old entries were removed.
    Prune(Prune) = "prune",
    /// The log's key was replaced.
    KeyRotation(KeyRotation) = "key_rotation",
    /// What is taken for usual has changed.
    BaselineChange(BaselineChange) = "baseline_change",
    /// Text of the ledger was destroyed.
    Redaction(Redaction) = "redaction",
    /// A gateway began or ended to serve.
    Gateway(GatewayState) = "gateway",
    /// Something became of a host or an agent.
    Principal(PrincipalEvent) = "principal",
    /// A call of an API was judged.
    Call(CallRecord) = "call",
    /// A call of an API ended.
    CallEnd(CallEnd) = "call_end",
    /// Somebody is about to do something by way of the console.
    Console(ConsoleAct) = "console",
}

/// An entry in a form that this version does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct Other {
    /// Its `type`, empty when it has none.
    pub kind: String,
    /// The whole object, `v` and `type` with it.
    pub fields: Map<String, Value>,
}

impl Entry {
    /// An entry written now.
    pub fn now(session: &str, seq: u64, record: Record) -> Self {
        Entry {
            time: rfc3339_ms(std::time::SystemTime::now()),
            session: session.to_owned(),
            seq,
            record,
        }
    }

    /// The canonical bytes, at most 65,535, as is what [`commitment::leaf`] makes of them. Text that is too long is
    /// cut, with a mark.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entry = self.clone();
        // Every halving shortens what can be long; the fixed part of any record is far below the
        // limit, so this ends. `Other` is written as it was read, and that did fit.
        let mut limit = clip::LONGEST;
        loop {
            clip::text(&mut entry.session, 256);
            entry.record.clip(limit);
            let bytes = write(&entry);
            if fits(&bytes) || limit == 0 {
                return bytes;
            }
            limit /= 2;
        }
    }

    /// Reads an entry: a record of any format, or a leaf, whose text is not in it ([`Record::Committed`]).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EntryError> {
        let head: Head<'_> = serde_json::from_slice(bytes).unwrap_or_default();
        if head.v.is_some_and(|v| (1..=VERSION).contains(&v))
            && let Some(entry) = read_known(head.kind.as_deref().unwrap_or_default(), bytes)
            && write(&entry) == bytes
        {
            return Ok(entry);
        }
        if head.v == Some(commitment::LEAF)
            && let Some(entry) = commitment::read(bytes)
        {
            return Ok(entry);
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| EntryError::NotAnObject(e.to_string()))?;
        if serde_json::to_vec(&fields).ok().as_deref() != Some(bytes) {
            return Err(EntryError::NotCanonical);
        }
        let text = |key| fields.get(key).and_then(Value::as_str).unwrap_or_default();
        Ok(Entry {
            time: text("time").to_owned(),
            session: text("session").to_owned(),
            seq: fields.get("seq").and_then(Value::as_u64).unwrap_or(0),
            record: Record::Other(Other {
                kind: text("type").to_owned(),
                fields,
            }),
        })
    }
}

/// Whether a record and its leaf are short enough.
fn fits(bytes: &[u8]) -> bool {
    // A commitment takes the place of a string, which has two quotes and a comma or colon with it: nothing
    // grows by more than this.
    const MOST: usize = 20;
    bytes.len() <= MAX_ENTRY
        && (bytes.len() * MOST <= MAX_ENTRY || commitment::leaf_length(bytes) <= MAX_ENTRY)
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Not a JSON object.
    #[error("an entry is one JSON object: {0}")]
    NotAnObject(String),
    /// White space, repeated keys, needless escapes or another spelling of a number.
    #[error("the entry is not in canonical form")]
    NotCanonical,
}

#[derive(Deserialize, Default)]
struct Head<'a> {
    v: Option<u64>,
    #[serde(rename = "type", borrow)]
    kind: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Serialize)]
struct WireOut<'a, T> {
    v: u64,
    r#type: &'a str,
    time: &'a str,
    session: &'a str,
    seq: u64,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct WireIn<T> {
    time: String,
    session: String,
    seq: u64,
    #[serde(flatten)]
    body: T,
}

fn wire<T: Serialize + records::FormatOf>(entry: &Entry, kind: &str, body: &T) -> Vec<u8> {
    let wire = WireOut {
        v: body.format(),
        r#type: kind,
        time: &entry.time,
        session: &entry.session,
        seq: entry.seq,
        body,
    };
    // Cannot fail: the records are structs of strings, integers and maps with string keys.
    serde_json::to_vec(&wire).unwrap_or_default()
}

fn unwire<T: for<'de> Deserialize<'de>>(bytes: &[u8], make: fn(T) -> Record) -> Option<Entry> {
    let wire: WireIn<T> = serde_json::from_slice(bytes).ok()?;
    Some(Entry {
        time: wire.time,
        session: wire.session,
        seq: wire.seq,
        record: make(wire.body),
    })
}

#[cfg(test)]
pub(crate) mod tests;
