//! Names of hosts, agents, grants and users.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Longest name, in bytes.
pub const MAX_ID: usize = 128;

/// A text that is no name: 1 to [`MAX_ID`] of `A-Z a-z 0-9 _ - .`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to {MAX_ID} of the characters A-Z a-z 0-9 _ - .")]
pub struct IdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
                match (1..=MAX_ID).contains(&text.len()) && text.bytes().all(known) {
                    true => Ok($name(text.into())),
                    false => Err(IdError),
                }
            }
        }

        serde_as_text!($name);
    };
}

id! {
    /// A host. It stays when the host's key is exchanged.
    HostId
}
id! {
    /// An agent: the `sub` of its tokens.
    AgentId
}
id! {
    /// A grant.
    GrantId
}
id! {
    /// A person on whose behalf agents act, as the control plane names them.
    UserId
}

/// A fresh name that nobody guesses: the prefix, `_`, and 128 random bits in base64url.
pub(crate) fn fresh<T: FromStr<Err = IdError>>(prefix: &str) -> Result<T, getrandom::Error> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits)?;
    let text = format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bits));
    // Letters of base64url behind a prefix of ours are a name.
    Ok(text
        .parse()
        .unwrap_or_else(|_| unreachable!("{text} is a name")))
}
