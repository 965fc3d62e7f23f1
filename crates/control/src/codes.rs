//! Secrets that are shown once and kept as a hash: codes of invitations, tokens of programs, cookies.

use agentwall_store::{Accounts, Invitation, StoreError, Token};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::access::Role;

/// How long an invitation holds, in milliseconds.
const INVITATION_MS: i64 = 30 * 60 * 1000;

/// What tokens begin with, so that scanners for secrets know them.
const TOKEN: &str = "awc_";

/// A secret of 256 random bits.
#[derive(Clone)]
pub struct Code(String);

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Code")
    }
}

impl Code {
    /// A fresh one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> Result<Code, StoreError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| StoreError::Failed(e.to_string()))?;
        Ok(Code(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// To be shown, once.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a secret is known by.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Whether two secrets are the same, in a time that tells nothing about where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    // What is compared is not what a stranger chose, but its digest.
    hash(a) == hash(b)
}

/// Makes an invitation; the code is its secret. It holds for half an hour, once.
///
/// # Errors
/// It cannot be kept.
pub fn invite(accounts: &Accounts, name: &str, role: Role, now: i64) -> Result<Code, StoreError> {
    let code = Code::new()?;
    let to = Invitation {
        name: name.to_owned(),
        role: role.as_str().to_owned(),
    };
    accounts.invite(&hash(code.as_str()), &to, now + INVITATION_MS, now)?;
    Ok(code)
}

/// Makes a token; `None` when there is one of that name.
///
/// # Errors
/// It cannot be kept.
pub fn new_token(
    accounts: &Accounts,
    name: &str,
    role: Role,
    now: i64,
) -> Result<Option<Code>, StoreError> {
    let code = Code(format!("{TOKEN}{}", Code::new()?.as_str()));
    let token = Token {
        name: name.to_owned(),
        role: role.as_str().to_owned(),
        created: now,
    };
    let made = accounts.add_token(&token, &hash(code.as_str()))?;
    Ok(made.then_some(code))
}
