//! Why a bundle is refused.

use agentwall_ledger::NoteError;

use crate::{Kind, MAGIC, MAX_BUNDLE, MAX_COUNTER, MAX_NAME, MAX_SOURCE_NAME, MAX_SOURCES};

/// Why bytes are not a bundle that can be used, or why something cannot be put into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The first line is another one.
    #[error("expected a signed bundle, which begins with the line '{MAGIC}', found something else")]
    NotABundle,
    /// Larger than any bundle.
    #[error("a bundle has at most {MAX_BUNDLE} bytes, found {0}; split the policy")]
    TooLong(usize),
    /// Not a signed note.
    #[error("the bundle is damaged: {0}; get it again from whoever signed it")]
    Note(#[from] NoteError),
    /// Not exactly one signature.
    #[error("a bundle has one signature, found {0}; get it again from whoever signed it")]
    Signatures(usize),
    /// Signed by a key that is not trusted here.
    #[error(
        "the bundle is signed by {signer}, which is not a trusted key here; if you trust it, put its \
         line (NAME+ID+KEY) into a trusted-keys file or give it with --trust"
    )]
    NotTrusted {
        /// Name and id of the key, escaped.
        signer: String,
    },
    /// The signature by a trusted key is wrong.
    #[error(
        "the signature by {signer} is wrong: the bundle was changed, or another key has its name; \
         get it again from whoever signed it"
    )]
    BadSignature {
        /// Name and id of the key, escaped.
        signer: String,
    },
    /// Signed for something else.
    #[error(
        "the bundle is of the kind '{}', and one of the kind '{}' is expected; {}",
        found.as_str(), expected.as_str(), next(*found)
    )]
    Kind {
        /// What it is.
        found: Kind,
        /// What was to be opened.
        expected: Kind,
    },
    /// A policy source without a layer, or another one with it.
    #[error(
        "in a bundle of the kind '{}' the source '{source_name}' {} a layer",
        kind.as_str(), if kind.is_policy() { "needs" } else { "has no use for" }
    )]
    Layer {
        /// Its name, escaped.
        source_name: String,
        /// The bundle's kind.
        kind: Kind,
    },
    /// The text is not the object that was expected.
    #[error("the bundle's text is not a bundle of version 1: {0}")]
    Json(String),
    /// Another spelling of the same.
    #[error(
        "the bundle's text is not in canonical form: sign it with 'agentwall policy bundle sign'"
    )]
    NotCanonical,
    /// The counter.
    #[error("a bundle's counter is from 1 to {MAX_COUNTER}, found {0}")]
    Counter(u64),
    /// The time of issue.
    #[error(
        "a bundle's time of issue is in seconds since 1970, at most of the year 9999, found {0}"
    )]
    Issued(u64),
    /// The bundle's name.
    #[error(
        "a bundle's name has ASCII letters, digits, '.', '_', '/' and '-', at most {MAX_NAME}, found \
         '{0}'"
    )]
    Name(String),
    /// No source, or too many.
    #[error("a bundle has from 1 to {MAX_SOURCES} sources, found {0}")]
    Sources(usize),
    /// A source's name.
    #[error(
        "the name of a source is 1 to {MAX_SOURCE_NAME} bytes of text without control or invisible \
         characters and backslashes, found '{0}'; rename the file"
    )]
    SourceName(String),
    /// A source's content.
    #[error("the source '{name}' {what}")]
    SourceText {
        /// Its name, escaped.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// Twice the same.
    #[error("the source '{second}' has the same {what} as '{first}'; give each source once")]
    Duplicate {
        /// The first one's name.
        first: String,
        /// The second one's name.
        second: String,
        /// What is the same.
        what: &'static str,
    },
    /// A digest inside does not fit.
    #[error("the bundle says the digest of {of} is {found}, but it is {expected}")]
    Digest {
        /// Of what.
        of: String,
        /// What the bundle says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

/// What a bundle of a kind is for.
fn next(kind: Kind) -> &'static str {
    match kind {
        Kind::Policy => "--policy takes it",
        Kind::Agents => "'agentwall agents update' takes it",
    }
}
