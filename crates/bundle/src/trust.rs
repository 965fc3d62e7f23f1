//! Trusted keys: a text file with one public key a line.
//!
//! ```text
//! # who may issue policies for this host
//! require-signed
//! example.com/policy+1a2b3c4d+AdYVG8rV…
//! ```
//!
//! Empty lines and lines that begin with `#` say nothing. `require-signed` refuses policies that no
//! bundle vouches for. A line that is anything else is an error: a key that somebody believes to be
//! trusted, and a demand that somebody believes to be made, must not be passed over.

use agentwall_action::escape_text;
use agentwall_ledger::{Verifier, VkeyError};

/// Most keys of one file.
pub const MAX_KEYS: usize = 1000;

/// What trusted-keys files say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedKeys {
    /// The keys.
    pub keys: Vec<Verifier>,
    /// Whether a policy must come in a bundle.
    pub require_signed: bool,
}

impl TrustedKeys {
    /// Reads one file.
    ///
    /// # Errors
    /// The first line that is neither a key, a comment nor `require-signed`.
    pub fn parse(text: &str) -> Result<TrustedKeys, TrustError> {
        let mut trusted = TrustedKeys::default();
        for (number, line) in (1..).zip(text.lines()) {
            match line.trim() {
                "" => {}
                line if line.starts_with('#') => {}
                "require-signed" => trusted.require_signed = true,
                line => {
                    if trusted.keys.len() >= MAX_KEYS {
                        return Err(TrustError::TooMany);
                    }
                    let key = Verifier::parse(line).map_err(|source| TrustError::Line {
                        line: number,
                        found: escape_text(line),
                        source,
                    })?;
                    trusted.keys.push(key);
                }
            }
        }
        Ok(trusted)
    }

    /// Both together: the keys of both, and the stricter demand.
    pub fn extend(&mut self, other: TrustedKeys) {
        self.keys.extend(other.keys);
        self.require_signed |= other.require_signed;
    }
}

/// Why a trusted-keys file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A line that says nothing known.
    #[error(
        "line {line} is '{found}': expected a public key (NAME+ID+KEY, as 'agentwall policy bundle \
         keygen' prints it), 'require-signed' or a comment ({source})"
    )]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The line, escaped.
        found: String,
        /// Why it is no key.
        source: VkeyError,
    },
    /// Too many keys.
    #[error("a trusted-keys file has at most {MAX_KEYS} keys")]
    TooMany,
}
