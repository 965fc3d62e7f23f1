//! DPoP: a proof that whoever sends a token has a key (RFC 9449).
//!
//! The proof is a token of its own with the key in its header, made for one method, one address and one access
//! token. It counts for [`MAX_AGE`] seconds, once: the caller records its `jti` as it does the token's.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{
    claims::{Claims, MAX_URL, claim},
    expect::{Once, Request, SKEW},
    jws::{self, Jws, TokenError, Typ},
    key::{SecretKey, Thumbprint, decode32},
};

/// How old a proof may be, in seconds, on an equal clock.
pub const MAX_AGE: i64 = 60;
/// Longest nonce, in bytes.
pub const MAX_NONCE: usize = 256;

/// Verifies the proof (RFC 9449, section 4.3): a `dpop+jwt` signed by the key in its header, whose thumbprint is `jkt`; `htm`,
/// `htu` and `ath` are those of the request and of `token`; `iat` is now; `nonce` is one of those asked for. Returns the
/// identifier that must be taken once.
pub(crate) fn verify(
    proof: &str,
    request: &Request<'_>,
    token: &str,
    jkt: Thumbprint,
    now: i64,
) -> Result<Once, TokenError> {
    let proof = Jws::parse(proof)?;
    proof.expect(Typ::Dpop)?;
    let key = proof.jwk().ok_or(TokenError::Header("no jwk"))?;
    if key.thumbprint() != jkt {
        return Err(claim("cnf", "names another key than the DPoP proof has"));
    }
    let claims = Claims(proof.claims());
    let jti = claims.jti()?;
    let iat = claims.moment("iat")?;
    if claims.text("htm", 32)? != request.method {
        return Err(claim("htm", "is not the request's method"));
    }
    if !same_target(&claims.text("htu", MAX_URL)?, request.url) {
        return Err(claim("htu", "is not the request's address"));
    }
    let ath = decode32(&claims.text("ath", 43)?);
    if ath != Some(Sha256::digest(token).into()) {
        return Err(claim("ath", "is not the digest of the token"));
    }
    let nonce = claims.optional("nonce", MAX_NONCE)?;
    if !request.nonces.is_empty() && !nonce.is_some_and(|n| request.nonces.contains(&n)) {
        return Err(claim("nonce", "is not the one that was given out last"));
    }
    if iat > now.saturating_add(SKEW) {
        return Err(TokenError::Future(iat.saturating_sub(now)));
    }
    let until = iat + MAX_AGE + SKEW;
    if now >= until {
        return Err(TokenError::Expired(now.saturating_sub(iat + MAX_AGE)));
    }
    proof.verify(key)?;
    Ok(Once {
        identity: format!("dpop:{jkt}"),
        jti,
        until,
    })
}

/// Whether two addresses are one target: scheme and host in any case, the default port left out or not, and without query and
/// fragment (RFC 9449, section 4.3, step 9; RFC 3986, sections 6.2.2 and 6.2.3). Paths are compared byte by byte.
pub(crate) fn same_target(a: &str, b: &str) -> bool {
    match (target(a), target(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn target(url: &str) -> Option<(String, String, &str)> {
    let url = url.split(['?', '#']).next()?;
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let scheme = scheme.to_ascii_lowercase();
    let authority = authority.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let authority = authority.strip_suffix(default).unwrap_or(&authority);
    // Who is logged in is no part of a target, and an address that says so is meant to deceive.
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    Some((scheme, authority.to_owned(), path))
}

/// Claims of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofClaims<'a> {
    /// The method of the request.
    pub htm: &'a str,
    /// Its address.
    pub htu: &'a str,
    /// The access token that is sent with it.
    pub token: &'a str,
    /// When it is made, in seconds since 1970.
    pub iat: i64,
    /// Its identifier.
    pub jti: &'a str,
    /// The nonce that the server gave out.
    pub nonce: Option<&'a str>,
}

impl SecretKey {
    /// Signs a DPoP proof (`typ` is `dpop+jwt`), with the public key in its header.
    pub fn sign_proof(&self, proof: &ProofClaims<'_>) -> String {
        let mut all = Map::new();
        let mut put = |name: &str, value: Value| all.insert(name.to_owned(), value);
        put("htm", proof.htm.into());
        put("htu", proof.htu.into());
        let ath = URL_SAFE_NO_PAD.encode(Sha256::digest(proof.token));
        put("ath", ath.into());
        put("iat", proof.iat.into());
        put("jti", proof.jti.into());
        if let Some(nonce) = proof.nonce {
            put("nonce", nonce.into());
        }
        // What `to_jwk` writes is JSON.
        let jwk = serde_json::from_str(&self.public().to_jwk()).unwrap_or(Value::Null);
        jws::sign(self, Typ::Dpop, &[("jwk", jwk)], &all)
    }
}
