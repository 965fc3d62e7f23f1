//! Tokens of programs that ask a server about others: enforcement points, servers that introspect.
//!
//! A token is `awt_` and 256 random bits in base64url. What is kept of it is its SHA-256: who reads the record cannot use it.
//! A slow hash would protect nothing more, since there is nothing to guess (unlike a password). It is a bearer token
//! (RFC 6750): it is for a local network or TLS, has an end, and is for named uses alone.

use std::{
    collections::HashMap,
    fmt,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Before every token, so that scanners of repositories find lost ones.
const PREFIX: &str = "awt_";

/// Most tokens of one server.
pub const MAX_TOKENS: usize = 1024;

/// Longest name of a token, in characters.
const MAX_NAME: usize = 64;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiUse {
    /// Asking for decisions about others.
    Decide,
    /// Asking whom an agent's token belongs to.
    Introspect,
    /// Making calls that were permitted, with the API's credentials.
    Proxy,
}

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Names the token, opens nothing.
    pub id: String,
    /// For people and the record; unique.
    pub name: String,
    /// SHA-256 of the token, base64url.
    pub digest: String,
    /// What it is for.
    pub uses: Vec<ApiUse>,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// Its end, in seconds since 1970.
    pub expires_at: i64,
}

/// A token in clear. It is shown once, to who asked for it.
pub struct Secret(String);

impl Secret {
    /// The token.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Without the token.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A token cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiTokenError {
    /// Its name.
    #[error("a token's name has 1 to {MAX_NAME} letters, digits, '_', '-' and '.'")]
    Name,
    /// Another one has the name.
    #[error("there is a token named '{0}' already; remove it first")]
    Taken(String),
    /// For nothing.
    #[error("a token is for at least one use")]
    Useless,
    /// Its end is past.
    #[error("a token's end is later than now")]
    Over,
    /// Too many.
    #[error("there are {MAX_TOKENS} tokens already")]
    TooMany,
    /// No randomness.
    #[error("the kernel gives no random bytes")]
    Random,
    /// A record that was kept is none.
    #[error("the token '{0}' has no digest, or that of another one")]
    Record(String),
}

/// The tokens of one server, by digest: the time of looking one up tells nothing that could be used.
#[derive(Debug, Default)]
pub struct ApiTokens {
    all: RwLock<HashMap<Digest, ApiToken>>,
}

type Digest = [u8; 32];

impl ApiTokens {
    /// Those that were kept.
    ///
    /// # Errors
    /// A record is none, or two are of one token or name.
    pub fn new(records: Vec<ApiToken>) -> Result<ApiTokens, ApiTokenError> {
        let mut all = HashMap::new();
        for record in records {
            let wrong = || ApiTokenError::Record(record.name.clone());
            let digest = URL_SAFE_NO_PAD.decode(&record.digest).ok();
            let digest: Digest = digest.and_then(|d| d.try_into().ok()).ok_or_else(wrong)?;
            if all.values().any(|t: &ApiToken| t.name == record.name) {
                return Err(ApiTokenError::Taken(record.name));
            }
            match all.entry(digest) {
                std::collections::hash_map::Entry::Occupied(_) => return Err(wrong()),
                std::collections::hash_map::Entry::Vacant(free) => free.insert(record),
            };
        }
        Ok(ApiTokens {
            all: RwLock::new(all),
        })
    }

    /// Makes a token. It can be used from when it is returned: the caller keeps [`ApiTokens::records`] first, and removes it if it
    /// cannot.
    ///
    /// # Errors
    /// As named.
    pub fn add(
        &self,
        name: &str,
        uses: &[ApiUse],
        now: i64,
        expires_at: i64,
    ) -> Result<(Secret, ApiToken), ApiTokenError> {
        let known = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(known) {
            return Err(ApiTokenError::Name);
        }
        if uses.is_empty() {
            return Err(ApiTokenError::Useless);
        }
        if expires_at <= now {
            return Err(ApiTokenError::Over);
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| ApiTokenError::Random)?;
        let secret = Secret(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)));
        let digest = digest(&secret.0);
        let encoded = URL_SAFE_NO_PAD.encode(digest);
        let record = ApiToken {
            id: format!("tok_{}", &encoded[..12]),
            name: name.to_owned(),
            digest: encoded,
            uses: uses.to_vec(),
            created_at: now,
            expires_at,
        };
        let mut all = self.write();
        all.retain(|_, token| token.expires_at > now);
        if all.values().any(|t| t.name == name) {
            return Err(ApiTokenError::Taken(name.to_owned()));
        }
        if all.len() >= MAX_TOKENS {
            return Err(ApiTokenError::TooMany);
        }
        all.insert(digest, record.clone());
        Ok((secret, record))
    }

    /// Ends a token, by its id or name.
    pub fn remove(&self, which: &str) -> Option<ApiToken> {
        let mut all = self.write();
        let found = all.iter();
        let found = found.filter(|(_, t)| t.id == which || t.name == which);
        let digest = found.map(|(digest, _)| *digest).next()?;
        all.remove(&digest)
    }

    /// The token, if it is one, is for that use, and is not over.
    pub fn authenticate(&self, token: &str, wanted: ApiUse, now: i64) -> Option<ApiToken> {
        let found = self.read();
        let found = found.get(&digest(token))?;
        (found.uses.contains(&wanted) && now < found.expires_at).then(|| found.clone())
    }

    /// Whether a token of that name may be used.
    pub fn stands(&self, name: &str, now: i64) -> bool {
        let all = self.read();
        all.values().any(|t| t.name == name && now < t.expires_at)
    }

    /// What is to be kept, by name.
    pub fn records(&self) -> Vec<ApiToken> {
        let mut all: Vec<ApiToken> = self.read().values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Digest, ApiToken>> {
        self.all.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Digest, ApiToken>> {
        self.all.write().unwrap_or_else(|e| e.into_inner())
    }
}

fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_token_is_for_its_use_until_its_end() {
        let tokens = ApiTokens::default();
        let (secret, record) = (tokens.add("mesh", &[ApiUse::Decide], NOW, NOW + 60)).unwrap();
        let ask = |text: &str, wanted, now| tokens.authenticate(text, wanted, now).map(|t| t.name);
        assert_eq!(
            ask(secret.expose(), ApiUse::Decide, NOW),
            Some("mesh".into())
        );
        assert_eq!(ask(secret.expose(), ApiUse::Introspect, NOW), None);
        assert_eq!(ask(secret.expose(), ApiUse::Decide, NOW + 60), None);
        for other in [
            "",
            "awt_",
            &record.digest,
            &record.id,
            &secret.expose()[1..],
        ] {
            assert_eq!(ask(other, ApiUse::Decide, NOW), None, "{other}");
        }
        assert!(tokens.stands("mesh", NOW) && !tokens.stands("mesh", NOW + 60));
        assert_eq!(tokens.remove("mesh"), Some(record));
        assert_eq!(ask(secret.expose(), ApiUse::Decide, NOW), None);
    }

    #[test]
    fn what_is_kept_opens_nothing_and_comes_back() {
        let tokens = ApiTokens::default();
        let (secret, _) = (tokens.add("a", &[ApiUse::Introspect], NOW, NOW + 60)).unwrap();
        let kept = serde_json::to_string(&tokens.records()).unwrap();
        assert!(
            !kept.contains(&secret.expose()[PREFIX.len()..])
                && !format!("{secret:?}").contains("awt_")
        );
        let read: Vec<ApiToken> = serde_json::from_str(&kept).unwrap();
        let again = ApiTokens::new(read.clone()).unwrap();
        assert!(
            again
                .authenticate(secret.expose(), ApiUse::Introspect, NOW)
                .is_some()
        );
        let twice = vec![read[0].clone(), read[0].clone()];
        assert!(ApiTokens::new(twice).is_err());
        let mut wrong = read[0].clone();
        wrong.digest = "x".into();
        assert!(ApiTokens::new(vec![wrong]).is_err());
    }

    #[test]
    fn what_is_no_token_is_not_made() {
        let tokens = ApiTokens::default();
        let add = |name: &str, uses: &[ApiUse], end| tokens.add(name, uses, NOW, end).map(drop);
        assert_eq!(
            add("", &[ApiUse::Decide], NOW + 1),
            Err(ApiTokenError::Name)
        );
        assert_eq!(
            add("a b", &[ApiUse::Decide], NOW + 1),
            Err(ApiTokenError::Name)
        );
        assert_eq!(add("a", &[], NOW + 1), Err(ApiTokenError::Useless));
        assert_eq!(add("a", &[ApiUse::Decide], NOW), Err(ApiTokenError::Over));
        assert_eq!(add("a", &[ApiUse::Decide], NOW + 1), Ok(()));
        assert_eq!(
            add("a", &[ApiUse::Decide], NOW + 1),
            Err(ApiTokenError::Taken("a".into()))
        );
    }
}
