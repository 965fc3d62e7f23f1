//! When a token is believed.
//!
//! Short-lived (60 s), for one audience of a configured list, each taken once (Agent Auth Protocol v1.0-draft, sections 4.2, 4.3
//! and 10.3). The clocks of two hosts may be 30 s apart.

use std::fmt;

use crate::{
    jws::TokenError,
    key::{Jwks, PublicKey, clip},
};

/// Longest life of a token, `exp - iat`, in seconds.
pub const MAX_LIFETIME: i64 = 60;
/// How far two clocks may be apart, in seconds.
pub const SKEW: i64 = 30;
/// For how long a token that was just made on an equal clock is taken, in seconds: [`MAX_LIFETIME`] and [`SKEW`].
/// One from a clock that goes [`SKEW`] ahead is taken for as much longer, so replay records are kept until
/// [`Once::until`], and not for this long.
pub const WINDOW: i64 = MAX_LIFETIME + SKEW;

/// How far tokens may be from the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// As Agent Auth Protocol v1.0-draft says.
    #[default]
    Strict,
    /// Also what the published clients send. The differences are listed in docs/identity.md, and there are no others:
    /// an agent token may be without `iss`, and a token may be used again for asking after its own execution ([`Poll`]).
    Compat,
}

/// What a token is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    /// Now, in seconds since 1970 (the server's clock).
    pub now: i64,
    /// What `aud` may be: for administration the issuer; for calls the issuer, the default location and the capability's
    /// location. Always configured, never made of a request's Host header.
    pub audiences: &'a [String],
    /// Which deviations are taken.
    pub profile: Profile,
    /// The request that the token came with, for tokens that are bound to one. A bound token without it is refused.
    pub request: Option<Request<'a>>,
    /// An earlier execution that is asked after; `None` for everything else.
    pub poll: Option<Poll<'a>>,
    /// JWK sets that the caller fetched because it was told to ([`AuthError::NeedsKeys`](crate::AuthError::NeedsKeys)).
    pub fetched: &'a [Fetched],
}

impl<'a> Expect<'a> {
    /// The strict profile, without a request.
    pub fn strict(now: i64, audiences: &'a [String]) -> Self {
        Expect {
            now,
            audiences,
            profile: Profile::Strict,
            request: None,
            poll: None,
            fetched: &[],
        }
    }

    /// The key of this name in the set that was fetched from this address.
    pub(crate) fn fetched(&self, url: &str, kid: &str) -> Option<&'a PublicKey> {
        let set = self.fetched.iter().find(|set| set.url == url)?;
        set.keys.get(kid)
    }
}

/// A JWK set and where it was fetched. How often, how large, and from which addresses is the fetcher's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its address.
    pub url: String,
    /// Its keys.
    pub keys: Jwks,
}

/// The request that a token came with.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, as on the wire.
    pub method: &'a str,
    /// The address under which the server is known, with scheme and host of the configuration and the request's path.
    pub url: &'a str,
    /// SHA-256 of the body as it was received.
    pub body: Option<[u8; 32]>,
    /// The value of the one `DPoP` header.
    pub proof: Option<&'a str>,
    /// The nonces that a proof may have. Empty: none is asked for.
    pub nonces: &'a [String],
}

/// An execution whose status is asked for. Published clients send the token again that began it (docs/identity.md, `poll`): in
/// [`Profile::Compat`] that one token, known by its `jti`, is then taken until `until`, whatever its `exp`.
#[derive(Debug, Clone, Copy)]
pub struct Poll<'a> {
    /// The `jti` of the token that began the execution. The caller has recorded it with the agent.
    pub jti: &'a str,
    /// Until when, in seconds since 1970.
    pub until: i64,
}

/// An identifier that must be taken once: the caller records it, in one step that looks and records, after the signature was verified (the crate `budget`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Once {
    /// Whose identifier it is.
    pub identity: String,
    /// The identifier.
    pub jti: String,
    /// Until when its token could be taken again, in seconds since 1970; up to 120 s from now.
    pub until: i64,
}

impl Expect<'_> {
    pub(crate) fn audience(&self, aud: &str) -> Result<(), TokenError> {
        match self.audiences.iter().any(|known| known == aud) {
            true => Ok(()),
            false => Err(TokenError::Audience(clip(aud))),
        }
    }

    /// Whether a token of these times is taken at `now`. All are within [`MAX_MOMENT`], so nothing overflows.
    pub(crate) fn times(
        &self,
        iat: i64,
        exp: i64,
        nbf: Option<i64>,
        now: i64,
    ) -> Result<(), TokenError> {
        if exp <= iat || exp - iat > MAX_LIFETIME {
            return Err(TokenError::Lifetime(exp - iat));
        }
        let begin = nbf.unwrap_or(iat).max(iat);
        if begin > self.now.saturating_add(SKEW) {
            return Err(TokenError::Future(begin.saturating_sub(self.now)));
        }
        if now >= exp + SKEW {
            return Err(TokenError::Expired(now.saturating_sub(exp)));
        }
        Ok(())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Strict => "strict",
            Profile::Compat => "compat",
        })
    }
}
