//! The rule against roll-back: what a host remembers of the bundles it has used.
//!
//! Per key and name the highest counter, and the digest that came with it. A lower counter is an
//! older policy, put in the place of a newer one; the same counter with another digest is two
//! policies under one version, of which one cannot be the one that was meant.

use agentwall_ledger::hash::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::{Kind, Opened};

/// The newest bundle that a host has used under one key and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    v: u32,
    key: String,
    name: String,
    #[serde(default, skip_serializing_if = "Kind::is_policy")]
    kind: Kind,
    counter: u64,
    digest: String,
}

impl Seen {
    /// The memory of a bundle.
    pub fn of(opened: &Opened) -> Seen {
        Seen {
            v: 1,
            key: opened.key.to_string(),
            name: opened.bundle.name.clone(),
            kind: opened.bundle.kind,
            counter: opened.bundle.counter,
            digest: opened.bundle.digest(),
        }
    }

    /// The name of the file in which the memory for this bundle's key and name belongs: SHA-256 over
    /// the vkey, a newline and the name, lower-case hex; for another kind than policies a newline and its
    /// word follow: each kind has counters of its own.
    pub fn file_name(opened: &Opened) -> String {
        let kind = match opened.bundle.kind {
            Kind::Policy => String::new(),
            kind => format!("\n{}", kind.as_str()),
        };
        sha256_hex(format!("{}\n{}{kind}", opened.key, opened.bundle.name).as_bytes())
    }

    /// The highest counter.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The form it is kept in: one JSON object and a newline.
    pub fn to_text(&self) -> String {
        // Cannot fail: a struct of strings and integers.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads what [`Seen::to_text`] wrote, and nothing else.
    ///
    /// # Errors
    /// Another form, or a memory of something else: it does not say what was seen.
    pub fn parse(text: &str, opened: &Opened) -> Result<Seen, SeenError> {
        let seen: Seen = serde_json::from_str(text).map_err(|_| SeenError)?;
        let bundle = &opened.bundle;
        let ours = (&seen.key, &seen.name, seen.kind)
            == (&opened.key.to_string(), &bundle.name, bundle.kind);
        if seen.v != 1 || !ours || seen.to_text() != text {
            return Err(SeenError);
        }
        Ok(seen)
    }

    /// Whether a bundle of the same key and name may be used; if so, whether it is newer.
    ///
    /// # Errors
    /// It is older, or another one with the same counter.
    pub fn admits(&self, opened: &Opened) -> Result<bool, RollbackError> {
        let (counter, digest) = (opened.bundle.counter, opened.bundle.digest());
        let key = format!("{}+{:08x}", opened.key.name(), opened.key.id());
        let of = match self.name.as_str() {
            "" => key,
            name => format!("{key} ({name})"),
        };
        if counter < self.counter {
            return Err(RollbackError::Older {
                of,
                found: counter,
                seen: self.counter,
                next: self.counter.saturating_add(1),
            });
        }
        if counter == self.counter && digest != self.digest {
            return Err(RollbackError::Twice {
                of,
                counter,
                found: digest,
                seen: self.digest.clone(),
                next: counter.saturating_add(1),
            });
        }
        Ok(counter > self.counter)
    }
}

/// A memory that does not say what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not the memory of a bundle of this key and name")]
pub struct SeenError;

/// A bundle that would take a host back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// A lower counter.
    #[error(
        "the bundle's counter is {found}, but this host has used {seen} of {of} already: it is older; \
         get the newest bundle, or, to go back on purpose, sign the old sources with a counter of at \
         least {next}"
    )]
    Older {
        /// Key and name.
        of: String,
        /// The bundle's counter.
        found: u64,
        /// The highest counter that was used.
        seen: u64,
        /// The lowest counter that is newer.
        next: u64,
    },
    /// Two policies under one counter.
    #[error(
        "the bundle has the counter {counter} of {of}, but another digest ({found}) than the one this \
         host has used with that counter ({seen}): two policies were signed as one version; ask whoever \
         signed it for one with a counter of at least {next}"
    )]
    Twice {
        /// Key and name.
        of: String,
        /// The counter of both.
        counter: u64,
        /// The bundle's digest.
        found: String,
        /// The digest that was used.
        seen: String,
        /// The lowest counter that is newer.
        next: u64,
    },
}
