//! What host and agent tokens say (Agent Auth Protocol v1.0-draft, sections 4.2 and 4.3).
//!
//! Claims that are not known are ignored, claims that are known must have their shape.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{
    dpop,
    expect::{Expect, Once, Poll, Profile, Request, SKEW},
    id::AgentId,
    jws::{self, Jws, TokenError, Typ},
    key::{MAX_KID, PublicKey, SecretKey, Thumbprint, decode32},
};

/// Longest `jti`, in bytes.
pub const MAX_JTI: usize = 256;
/// Most names in the claim `capabilities`.
pub const MAX_CAPABILITIES: usize = 128;
/// Longest name of a capability, in bytes.
pub const MAX_CAPABILITY: usize = 256;
/// Longest address of an audience or of a JWK set, in bytes.
pub const MAX_URL: usize = 2048;
/// The end of the year 9999. Later moments are no moments.
const MAX_MOMENT: i64 = 253_402_300_799;

/// Where a public key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// It stands in the token.
    Inline(PublicKey),
    /// In a JWK set at an address, under a name.
    Jwks {
        /// The address; `https`. Nothing is fetched here.
        url: String,
        /// The key's name. A host's stands in the header of its tokens.
        kid: String,
    },
}

/// Claims of an agent token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentClaims {
    /// The host's thumbprint.
    pub iss: Option<Thumbprint>,
    /// The agent.
    pub sub: AgentId,
    /// Whom it is for.
    pub aud: String,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// Its identifier.
    pub jti: String,
    /// What it may be used for at most; `None`: all that is granted.
    pub capabilities: Option<BTreeSet<String>>,
    /// The key of the DPoP proofs that it needs (`cnf.jkt`, RFC 9449, section 6).
    pub jkt: Option<Thumbprint>,
    /// The request that it is for.
    pub request: Option<RequestBinding>,
}

/// The request an agent token is bound to (an extension of the published implementation).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestBinding {
    /// The method.
    pub htm: Option<String>,
    /// The address, without query and fragment.
    pub htu: Option<String>,
    /// SHA-256 of the body.
    pub ath: Option<[u8; 32]>,
}

/// Claims of a host token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostClaims {
    /// The thumbprint of the key that signs.
    pub iss: Thumbprint,
    /// Whom it is for: the issuer.
    pub aud: String,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// Its identifier.
    pub jti: String,
    /// The host's key.
    pub host_key: KeySource,
    /// The key of the agent to be registered.
    pub agent_key: Option<KeySource>,
    /// What the host calls itself; at most 200 characters.
    pub host_name: Option<String>,
}

impl AgentClaims {
    /// Reads the claims of an agent token. Shapes alone; who signed, and when, is not looked at.
    pub fn read(jws: &Jws) -> Result<Self, TokenError> {
        jws.expect(Typ::Agent)?;
        let claims = Claims(jws.claims());
        let capabilities = match claims.0.get("capabilities") {
            None => None,
            Some(listed) => Some(names(listed)?),
        };
        let jkt = match claims.0.get("cnf") {
            None => None,
            // A confirmation that cannot be checked here is one that does not hold.
            Some(Value::Object(cnf)) if cnf.len() == 1 => match cnf.get("jkt") {
                Some(Value::String(jkt)) => Some(thumbprint("cnf", jkt)?),
                _ => return Err(claim("cnf", "has a confirmation other than jkt")),
            },
            Some(_) => return Err(claim("cnf", "is an object with the one member jkt")),
        };
        let binding = RequestBinding {
            htm: claims.optional("htm", 32)?,
            htu: claims.optional("htu", MAX_URL)?,
            ath: match claims.optional("ath", 43)? {
                None => None,
                Some(ath) => Some(
                    decode32(&ath)
                        .ok_or_else(|| claim("ath", "is a SHA-256 digest in base64url"))?,
                ),
            },
        };
        Ok(AgentClaims {
            iss: match claims.optional("iss", 43)? {
                None => None,
                Some(iss) => Some(thumbprint("iss", &iss)?),
            },
            sub: claims
                .text("sub", 128)?
                .parse()
                .map_err(|_| claim("sub", "is the id of an agent"))?,
            aud: claims.text("aud", MAX_URL)?,
            iat: claims.moment("iat")?,
            exp: claims.moment("exp")?,
            jti: claims.jti()?,
            capabilities,
            jkt,
            request: (binding != RequestBinding::default()).then_some(binding),
        })
    }

    /// Whether it is in time. In [`Profile::Compat`] the token of an execution that is asked after has no end of its own.
    pub(crate) fn in_time(&self, jws: &Jws, expect: &Expect<'_>) -> Result<(), TokenError> {
        let end = match self.is_poll(expect) {
            true => self.exp.min(expect.now),
            false => expect.now,
        };
        expect.times(self.iat, self.exp, not_before(jws)?, end)
    }

    fn is_poll(&self, expect: &Expect<'_>) -> bool {
        let compat = expect.profile == Profile::Compat;
        let asked = |poll: Poll<'_>| poll.jti == self.jti && expect.now < poll.until;
        compat && expect.poll.is_some_and(asked)
    }

    /// Compares what it is bound to with the request: `htm`, `htu`, `ath`, and the DPoP proof for `cnf.jkt`. Returns what must be
    /// taken once. For tokens whose signature was verified.
    pub(crate) fn bound(&self, jws: &Jws, expect: &Expect<'_>) -> Result<Vec<Once>, TokenError> {
        let request = expect.request.as_ref();
        if let Some(bound) = &self.request {
            bound.holds(request)?;
        }
        let mut once = Vec::new();
        if !self.is_poll(expect) {
            once.push(Once {
                identity: format!("agent:{}", self.sub),
                jti: self.jti.clone(),
                until: self.exp + SKEW,
            });
        }
        match (self.jkt, request.and_then(|r| r.proof.map(|p| (r, p)))) {
            (None, None) => {}
            (Some(jkt), Some((request, proof))) => {
                once.push(dpop::verify(proof, request, jws.as_str(), jkt, expect.now)?);
            }
            (Some(_), None) => return Err(claim("cnf", "wants a DPoP proof with the request")),
            (None, Some(_)) => {
                return Err(claim("cnf", "is missing, and the request has a DPoP proof"));
            }
        }
        Ok(once)
    }

    fn members(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let mut put = |name: &str, value: Value| all.insert(name.to_owned(), value);
        if let Some(iss) = self.iss {
            put("iss", iss.to_string().into());
        }
        put("sub", self.sub.as_str().into());
        put("aud", self.aud.as_str().into());
        put("iat", self.iat.into());
        put("exp", self.exp.into());
        put("jti", self.jti.as_str().into());
        if let Some(names) = &self.capabilities {
            put("capabilities", names.iter().cloned().collect());
        }
        if let Some(jkt) = self.jkt {
            put("cnf", serde_json::json!({ "jkt": jkt.to_string() }));
        }
        let bound = self.request.clone().unwrap_or_default();
        if let Some(htm) = bound.htm {
            put("htm", htm.into());
        }
        if let Some(htu) = bound.htu {
            put("htu", htu.into());
        }
        if let Some(ath) = bound.ath {
            put("ath", URL_SAFE_NO_PAD.encode(ath).into());
        }
        all
    }
}

impl RequestBinding {
    fn holds(&self, request: Option<&Request<'_>>) -> Result<(), TokenError> {
        let Some(request) = request else {
            return Err(claim(
                "htm",
                "binds the token to a request, and there is none",
            ));
        };
        if self.htm.as_ref().is_some_and(|m| m != request.method) {
            return Err(claim("htm", "is not the request's method"));
        }
        if let Some(htu) = &self.htu
            && !dpop::same_target(htu, request.url)
        {
            return Err(claim("htu", "is not the request's address"));
        }
        if self.ath.is_some() && self.ath != request.body {
            return Err(claim("ath", "is not the digest of the request's body"));
        }
        Ok(())
    }
}

impl HostClaims {
    /// Reads the claims of a host token. Shapes alone; who signed, and when, is not looked at.
    pub fn read(jws: &Jws) -> Result<Self, TokenError> {
        jws.expect(Typ::Host)?;
        let claims = Claims(jws.claims());
        let iss = claims.text("iss", 43)?;
        if claims.0.get("sub").is_some_and(|sub| *sub != iss) {
            return Err(claim("sub", "is that of iss, or not there"));
        }
        let host_key = claims
            .key("host_public_key", "host_jwks_url", jws.kid())?
            .ok_or_else(|| claim("host_public_key", "or host_jwks_url is missing"))?;
        let kid = claims.optional("agent_kid", MAX_KID)?;
        let agent_key = claims.key("agent_public_key", "agent_jwks_url", kid.as_deref())?;
        if let (KeySource::Jwks { url: host, .. }, Some(KeySource::Jwks { url: agent, .. })) =
            (&host_key, &agent_key)
            && host == agent
        {
            return Err(claim(
                "agent_jwks_url",
                "is that of the host; use another one",
            ));
        }
        Ok(HostClaims {
            iss: thumbprint("iss", &iss)?,
            aud: claims.text("aud", MAX_URL)?,
            iat: claims.moment("iat")?,
            exp: claims.moment("exp")?,
            jti: claims.jti()?,
            host_key,
            agent_key,
            host_name: claims.optional("host_name", 800)?,
        })
    }

    /// Whether it is in time.
    pub(crate) fn in_time(&self, jws: &Jws, expect: &Expect<'_>) -> Result<(), TokenError> {
        expect.times(self.iat, self.exp, not_before(jws)?, expect.now)
    }

    /// What must be taken once.
    pub(crate) fn once(&self) -> Vec<Once> {
        vec![Once {
            identity: format!("host:{}", self.iss),
            jti: self.jti.clone(),
            until: self.exp + SKEW,
        }]
    }

    fn members(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let mut put = |name: &str, value: Value| all.insert(name.to_owned(), value);
        put("iss", self.iss.to_string().into());
        put("aud", self.aud.as_str().into());
        put("iat", self.iat.into());
        put("exp", self.exp.into());
        put("jti", self.jti.as_str().into());
        match &self.host_key {
            KeySource::Inline(key) => put("host_public_key", jwk(key)),
            KeySource::Jwks { url, .. } => put("host_jwks_url", url.as_str().into()),
        };
        match &self.agent_key {
            None => {}
            Some(KeySource::Inline(key)) => {
                put("agent_public_key", jwk(key));
            }
            Some(KeySource::Jwks { url, kid }) => {
                put("agent_jwks_url", url.as_str().into());
                put("agent_kid", kid.as_str().into());
            }
        }
        if let Some(name) = &self.host_name {
            put("host_name", name.as_str().into());
        }
        all
    }
}

impl SecretKey {
    /// Signs a host token (`typ` is `host+jwt`).
    pub fn sign_host(&self, claims: &HostClaims) -> String {
        let header = match &claims.host_key {
            KeySource::Inline(_) => Vec::new(),
            KeySource::Jwks { kid, .. } => vec![("kid", kid.as_str().into())],
        };
        jws::sign(self, Typ::Host, &header, &claims.members())
    }

    /// Signs an agent token (`typ` is `agent+jwt`).
    pub fn sign_agent(&self, claims: &AgentClaims) -> String {
        jws::sign(self, Typ::Agent, &[], &claims.members())
    }
}

pub(crate) fn claim(claim: &'static str, problem: &'static str) -> TokenError {
    TokenError::Claim { claim, problem }
}

fn not_before(jws: &Jws) -> Result<Option<i64>, TokenError> {
    let claims = Claims(jws.claims());
    match claims.0.contains_key("nbf") {
        true => claims.moment("nbf").map(Some),
        false => Ok(None),
    }
}

fn thumbprint(name: &'static str, text: &str) -> Result<Thumbprint, TokenError> {
    text.parse()
        .map_err(|_| claim(name, "is a SHA-256 thumbprint in base64url"))
}

fn jwk(key: &PublicKey) -> Value {
    // What `to_jwk` writes is JSON.
    serde_json::from_str(&key.to_jwk()).unwrap_or(Value::Null)
}

/// A list of names of capabilities, each once.
fn names(listed: &Value) -> Result<BTreeSet<String>, TokenError> {
    let wrong = || claim("capabilities", "is a list of at most 128 names");
    let listed = listed.as_array().ok_or_else(wrong)?;
    if listed.len() > MAX_CAPABILITIES {
        return Err(wrong());
    }
    let name = |value: &Value| match value {
        Value::String(name) if is_capability_name(name) => Ok(name.clone()),
        _ => Err(wrong()),
    };
    listed.iter().map(name).collect()
}

/// Whether a text may name a capability: 1 to [`MAX_CAPABILITY`] bytes without white space and control characters. Names are
/// opaque and compared byte by byte.
pub fn is_capability_name(name: &str) -> bool {
    (1..=MAX_CAPABILITY).contains(&name.len())
        && !name.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// The claims of a token, read by type.
pub(crate) struct Claims<'a>(pub(crate) &'a Map<String, Value>);

impl Claims<'_> {
    /// A string that is there and not empty.
    pub(crate) fn text(&self, name: &'static str, limit: usize) -> Result<String, TokenError> {
        match self.0.get(name) {
            Some(Value::String(text)) if !text.is_empty() && text.len() <= limit => {
                Ok(text.clone())
            }
            Some(Value::String(_)) => Err(claim(name, "is empty or too long")),
            Some(_) => Err(claim(name, "is a string")),
            None => Err(claim(name, "is missing")),
        }
    }

    /// A string, if there is a member of the name.
    pub(crate) fn optional(
        &self,
        name: &'static str,
        limit: usize,
    ) -> Result<Option<String>, TokenError> {
        match self.0.contains_key(name) {
            true => self.text(name, limit).map(Some),
            false => Ok(None),
        }
    }

    /// A moment in whole seconds since 1970. Fractions, which RFC 7519 permits and nobody sends, are refused.
    pub(crate) fn moment(&self, name: &'static str) -> Result<i64, TokenError> {
        match self.0.get(name).map(Value::as_i64) {
            Some(Some(at)) if (0..=MAX_MOMENT).contains(&at) => Ok(at),
            Some(_) => Err(claim(name, "is in whole seconds since 1970")),
            None => Err(claim(name, "is missing")),
        }
    }

    pub(crate) fn jti(&self) -> Result<String, TokenError> {
        self.text("jti", MAX_JTI)
    }

    fn key(
        &self,
        inline: &'static str,
        url: &'static str,
        kid: Option<&str>,
    ) -> Result<Option<KeySource>, TokenError> {
        match (self.0.get(inline), self.optional(url, MAX_URL)?) {
            (None, None) => Ok(None),
            (Some(Value::Object(jwk)), None) => {
                Ok(Some(KeySource::Inline(PublicKey::from_members(jwk)?)))
            }
            (Some(_), None) => Err(claim(inline, "is a JWK")),
            (Some(_), Some(_)) => Err(claim(url, "stands beside a key; give one of them")),
            (None, Some(at)) => {
                if !at.starts_with("https://") || !at.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(claim(url, "is an https address"));
                }
                let kid = kid.ok_or_else(|| claim(url, "needs the name of a key (kid)"))?;
                Ok(Some(KeySource::Jwks {
                    url: at,
                    kid: kid.to_owned(),
                }))
            }
        }
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
