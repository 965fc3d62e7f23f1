//! Signed bundles: policy sources, or agent signatures, in one file that says who issued them, and in
//! which order.
//!
//! A bundle is a C2SP signed note (c2sp.org/signed-note, Ed25519), the envelope the ledger's
//! checkpoints have, too. Its text is a first line that no other note of the project has, and one
//! canonical JSON object: the sources with their layers, a counter against roll-back, the time of
//! issue. `docs/bundle.md` is the specification, with the test vector of `tests/vector.rs`.
//!
//! Invariants:
//! * A bundle has one spelling and one signature: every byte is signed or determined by what is.
//! * Nothing of the text is looked at before a trusted key has verified it, except by [`inspect`],
//!   whose type says so.
//! * Nothing here touches files, the clock or the state: the caller keeps [`Seen`].

#![forbid(unsafe_code)]

mod error;
mod format;
mod seen;
mod trust;

use agentwall_action::escape_text;
use agentwall_ledger::{Note, Signer, Verifier, hash::sha256_hex};
use agentwall_policy::Source;

pub use error::BundleError;
pub use seen::{RollbackError, Seen, SeenError};
pub use trust::{MAX_KEYS, TrustError, TrustedKeys};

/// The first line of a bundle.
pub const MAGIC: &str = "agentwall-bundle/v1";
/// Longest bundle, in bytes.
pub const MAX_BUNDLE: usize = 16 << 20;
/// Most sources of a bundle.
pub const MAX_SOURCES: usize = 64;
/// Longest name of a bundle, in bytes.
pub const MAX_NAME: usize = 128;
/// Longest name of a source, in bytes.
pub const MAX_SOURCE_NAME: usize = 255;
/// Highest counter: the largest integer that every reader of JSON has (RFC 8259, section 6).
pub const MAX_COUNTER: u64 = (1 << 53) - 1;
/// Latest time of issue, the end of the year 9999, in seconds since the Unix epoch.
pub const MAX_ISSUED: u64 = 253_402_300_799;

/// What the sources of a bundle are.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Policy files, each in its layer.
    #[default]
    Policy,
    /// Signatures of agents (`docs/agents.md`). They have no layers.
    Agents,
}

impl Kind {
    /// The word in the bundle.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Policy => "policy",
            Kind::Agents => "agents",
        }
    }

    /// Whether it is the kind that is not written.
    pub(crate) fn is_policy(&self) -> bool {
        *self == Kind::Policy
    }
}

/// What a bundle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Which of the key's policies it is; may be empty. Counters are compared under one key and name.
    /// ASCII letters, digits, `.`, `_`, `/` and `-`.
    pub name: String,
    /// What its sources are.
    pub kind: Kind,
    /// The version: a host takes no lower one than it has seen. From 1.
    pub counter: u64,
    /// When it was issued: seconds since the Unix epoch. For people; nothing is decided by it.
    pub issued: u64,
    /// The files, in the order in which they were given. The layer of a source that is no policy says
    /// nothing: it is [`Layer::User`](agentwall_policy::Layer).
    pub sources: Vec<Source>,
}

/// A bundle whose signature by a trusted key was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it says.
    pub bundle: Bundle,
    /// The key that signed it.
    pub key: Verifier,
}

/// A bundle that was only read: anybody may have written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    /// What it says.
    pub bundle: Bundle,
    /// The name of the key that it says has signed it, and the key's id.
    pub signer: (String, u32),
}

impl Bundle {
    /// SHA-256 over the sources' layers, contents and names, lower-case hex: equal for bundles with
    /// the same policy. One line per source, in their order:
    /// `<layer> <SHA-256 of the text, lower-case hex> <name>\n`. Other kinds have their word in the place
    /// of the layer, so that no digest is that of a policy.
    pub fn digest(&self) -> String {
        let lines = self.sources.iter().map(|s| {
            let text = sha256_hex(&s.text);
            let layer = match self.kind {
                Kind::Policy => s.layer.as_str(),
                kind => kind.as_str(),
            };
            format!("{layer} {text} {}\n", s.name)
        });
        sha256_hex(lines.collect::<String>().as_bytes())
    }

    /// The signed bundle. Whether the sources make up a policy is the caller's business.
    ///
    /// # Errors
    /// What no bundle may hold, see [`BundleError`].
    pub fn sign(&self, signer: &Signer) -> Result<String, BundleError> {
        let text = format!("{MAGIC}\n{}\n", format::write(self)?);
        let signed = signer.sign(&text)?;
        if signed.len() > MAX_BUNDLE {
            return Err(BundleError::TooLong(signed.len()));
        }
        Ok(signed)
    }
}

/// Whether bytes are meant to be a bundle: they begin with its first line. A policy file never does.
pub fn is_bundle(bytes: &[u8]) -> bool {
    bytes
        .strip_prefix(MAGIC.as_bytes())
        .is_some_and(|rest| rest.first() == Some(&b'\n'))
}

/// Reads a bundle of policies that one of the keys has signed.
///
/// # Errors
/// No signature by one of the keys, another kind, or anything that is not exactly a bundle.
pub fn open(bytes: &[u8], keys: &[Verifier]) -> Result<Opened, BundleError> {
    open_kind(bytes, keys, Kind::Policy)
}

/// Reads a bundle of a kind that one of the keys has signed. The caller says which kind it is for: a
/// signature under one thing must not be used for another.
///
/// # Errors
/// As [`open`].
pub fn open_kind(bytes: &[u8], keys: &[Verifier], kind: Kind) -> Result<Opened, BundleError> {
    let note = note(bytes)?;
    let (name, id) = signer(&note)?;
    let mut by_name = keys.iter().filter(|k| k.name() == name && k.id() == id);
    // Ids are short: several keys may have one. Any that verifies is a trusted one.
    let key = by_name.find(|k| note.verify(k).is_ok());
    let Some(key) = key else {
        let known = keys.iter().any(|k| k.name() == name && k.id() == id);
        let signer = format!("{}+{id:08x}", escape_text(&name));
        return Err(match known {
            true => BundleError::BadSignature { signer },
            false => BundleError::NotTrusted { signer },
        });
    };
    let bundle = format::read(note.text())?;
    if bundle.kind != kind {
        return Err(BundleError::Kind {
            found: bundle.kind,
            expected: kind,
        });
    }
    Ok(Opened {
        bundle,
        key: key.clone(),
    })
}

/// Reads a bundle without asking who signed it: to show it, not to use it.
///
/// # Errors
/// Anything that is not exactly a bundle.
pub fn inspect(bytes: &[u8]) -> Result<Unverified, BundleError> {
    let note = note(bytes)?;
    Ok(Unverified {
        signer: signer(&note)?,
        bundle: format::read(note.text())?,
    })
}

fn note(bytes: &[u8]) -> Result<Note, BundleError> {
    if bytes.len() > MAX_BUNDLE {
        return Err(BundleError::TooLong(bytes.len()));
    }
    if !is_bundle(bytes) {
        return Err(BundleError::NotABundle);
    }
    Ok(Note::parse(bytes)?)
}

/// Name and id of the one key that signed. More signatures than one would be bytes that nobody who
/// is trusted stands for.
fn signer(note: &Note) -> Result<(String, u32), BundleError> {
    match note.signatures() {
        [one] => Ok((one.name.clone(), one.id)),
        more => Err(BundleError::Signatures(more.len())),
    }
}
