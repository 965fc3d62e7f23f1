//! An export for auditors: one archive with the whole log as it is signed, and the text of the entries that were picked,
//! each with what is needed to check it against its entry.
//!
//! ```text
//! README.txt           how to check it, also without AgentWall
//! log.vkey             the log's key, to be compared with one that came another way
//! ledger/…             checkpoint, cosignatures, rotations, tiles and bundles, as in the log's folder
//! texts/<N>.jsonl      of bundle <N> the picked entries, one a line: index, entry, openings, withheld
//! manifest.note        what it is and what was picked, and the SHA-256 of every file before it; signed by the log's key
//! ```
//!
//! What narrows the export narrows texts alone: a log that lacks entries could not be checked. A line of a text file has the
//! entry with its opened texts in the place of their commitments; putting the texts into the leaf gives the entry.

mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{Unpacked, is_one};
pub use write::main;

const README: &str = "README.txt";
const KEY: &str = "log.vkey";
const MANIFEST: &str = "manifest.note";
const LEDGER: &str = "ledger/";
const TEXTS: &str = "texts/";
/// The first line of the signed manifest: with it no manifest is a checkpoint, which has its log's name there.
const HEAD: &str = "agentwall audit export v1";
/// The longest file of an archive, in bytes: 256 entries with all their openings.
const MAX_FILE: u64 = 256 << 20;

/// What the archive is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    /// The log's origin.
    log: String,
    /// The key that signs it, a vkey.
    key: String,
    /// Number of entries.
    size: u64,
    /// Root of the tree over them, base64.
    root: String,
    /// When the archive was made, RFC 3339.
    made: String,
    /// By which version of AgentWall.
    version: String,
    /// The options that picked the entries whose text is in it, as they were given.
    options: Vec<String>,
    /// How many entries were picked.
    entries: u64,
    /// How many texts of these are in it.
    texts: u64,
    /// Of how many of them text is not.
    withheld: u64,
    /// Which records answer which rule.
    answers: Vec<Answer>,
    /// Every other file, in order.
    files: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    name: String,
    size: u64,
    sha256: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    rule: String,
    records: Vec<String>,
    what: String,
}

/// One line of a text file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    index: u64,
    entry: serde_json::Value,
    openings: Vec<agentwall_ledger::entry::Opening>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    withheld: Option<String>,
}

/// The file of the texts of a bundle; numbers are written as tlog-tiles does.
fn texts_of(bundle: u64) -> String {
    use agentwall_ledger::tile::{Level, Tile};
    let name = Tile::full(Level::Entries, bundle).to_string();
    let number = name.trim_start_matches("tile/entries/");
    format!("{TEXTS}{number}.jsonl")
}

/// Puts the opened texts into a leaf.
fn put(leaf: &mut serde_json::Value, openings: &[agentwall_ledger::entry::Opening]) {
    for opening in openings {
        if let Some(place) = leaf.pointer_mut(&opening.field) {
            *place = opening.value.as_str().into();
        }
    }
}

/// What docs/law.md says, in short.
fn answers() -> Vec<Answer> {
    let rows: [(&str, &[&str], &str); 7] = [
        (
            "EU AI Act, Art. 12",
            &[
                "policy", "intent", "decision", "exec", "connect", "approval", "commit", "undo",
            ],
            "what was in force, what was asked for, decided and done, over the lifetime; 'rule' and 'policy' say by what",
        ),
        (
            "EU AI Act, Art. 19 and 26(6)",
            &["prune", "gap", "heartbeat"],
            "'minimum' and 'before' of each removal; nothing else is missing, or the log does not verify",
        ),
        (
            "EU AI Act, Art. 14 and 26(2)",
            &["approval", "commit"],
            "'verdict', 'scope' and 'by' of each answer of a person; 'reviewed' of each commit",
        ),
        (
            "SOC 2, CC7.2 and CC7.3",
            &["decision", "finding", "gap", "clock"],
            "'effect' and 'rule' of what was refused; what did not fit an intent; where records may be missing",
        ),
        (
            "HIPAA, 45 CFR 164.312(b)",
            &["session_start", "decision", "access"],
            "who acted ('user'), on what, and who read the record of it",
        ),
        (
            "SEC 17a-4(f)(2)(i)(A)",
            &["commit", "undo", "discard"],
            "'files' with digests of each content before and after, 'time', and 'session'",
        ),
        (
            "GDPR, Art. 17",
            &["redaction"],
            "'sessions' or 'entries' whose text was destroyed, when, by whom and on what grounds",
        ),
    ];
    let answer = |(rule, records, what): (&str, &[&str], &str)| Answer {
        rule: rule.to_owned(),
        records: records.iter().map(|&r| r.to_owned()).collect(),
        what: what.to_owned(),
    };
    rows.into_iter().map(answer).collect()
}

const FOR_THE_AUDITOR: &str = "An export of AgentWall's ledger for an auditor
==============================================

What is in ledger/ is a transparency log (c2sp.org/tlog-tiles): every entry that was recorded on that host, whole. Each
entry has commitments in place of the text that people and agents wrote. texts/ has the text of the entries that were
picked, as far as it is told, with what is needed to check it. manifest.note says what was picked.

1. The key. Ask for the log's public key by another way than this archive ('agentwall ledger key' on the host prints
   it) and compare it with log.vkey. Who made this archive could have written any key there.

2. Everything at once, with AgentWall:

       agentwall ledger verify FILE.tar --key VKEY
       agentwall ledger verify FILE.tar --key VKEY --policy WITNESSES     (who has to have cosigned)

3. The log, without AgentWall. Unpack the archive (tar xf FILE.tar), then either of

       agentwall-ledger-verify log ledger --key VKEY [--former CHECKPOINT] [--witness VKEY --quorum 1]

   a program of at most 600 lines that is made to be read (crates/ledger-verify of the sources), or

       GO111MODULE=off GOPATH=/usr/share/gocode go build verify.go
       ./verify log ledger --key VKEY

   crates/ledger/interop/verify.go, on Debian's packages golang-go and golang-golang-x-mod-dev alone.

4. The texts, without AgentWall, from the specification (docs/ledger-entry.md) and Python's standard library:

       python3 crates/ledger/interop/disclosure.py texts .

   By hand: line 'index' of texts/<N>.jsonl is about the entry of that number, in ledger/tile/entries/<N>. For each of its
   'openings' the entry has, where 'field' points (RFC 6901), {\"c\": base64 of SHA-256(\"agentwall/commit/v1\" || 0x00 ||
   length of field, 64 bits big-endian || field || salt || value)}. With each 'value' put in that place the entry is the
   one that stands in the line. 'withheld' says why text is not told.

5. manifest.note is a signed note (c2sp.org/signed-note) by the log's key. Its second line is JSON: 'files' has the SHA-256
   of every other file, 'options' what was picked, 'answers' which records answer which rule.

Keep ledger/checkpoint. Next time it shows that the log only grew (--former).

What it does not show: that something was never handed to the log; that the host's clock was right; to somebody without
an older checkpoint or witnesses, that the holder of the key has not written another history.
";
