//! Signed tokens: JWS in compact serialization (RFC 7515, section 7.1), with one spelling.
//!
//! A token is taken apart once. Everything that follows works on what was read here; nothing looks at the text
//! again. The header chooses nothing: it must say `EdDSA` and a known `typ` (RFC 8725, sections 3.1 and 3.11), and the key comes from
//! a record. Extensions (`crit`), keys and addresses of keys in the header (`jwk`, `jku`, `x5u` …) are refused, except the
//! `jwk` of a DPoP proof, whose format has it there (RFC 9449, section 4.2).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{
    json::{self, JsonError},
    key::{KeyError, MAX_KID, PublicKey, SecretKey, clip},
};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 8 << 10;
/// Longest header, in bytes of JSON.
pub const MAX_HEADER: usize = 1 << 10;

/// Why a text is no token of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than any token.
    #[error("a token has at most {MAX_TOKEN} bytes, found {0}")]
    TooLong(usize),
    /// Not three parts.
    #[error("a token has three parts with a '.' between them, found {0}")]
    Parts(usize),
    /// A part in another encoding.
    #[error("the token's {0} is not base64url in its one form, without padding")]
    Encoding(&'static str),
    /// The signature has another length.
    #[error("an Ed25519 signature has 64 bytes, found {0}")]
    SignatureLength(usize),
    /// Header or claims are not an object with one reading.
    #[error("the token's {part}: {source}")]
    Json {
        /// `header` or `claims`.
        part: &'static str,
        /// What is wrong.
        source: JsonError,
    },
    /// Another algorithm.
    #[error("the token's alg must be 'EdDSA', found '{0}'")]
    Algorithm(String),
    /// Another type of token.
    #[error("the token's typ must be {expected}, found '{found}'")]
    Type {
        /// What is expected here.
        expected: &'static str,
        /// What it says.
        found: String,
    },
    /// A member that no token has here.
    #[error("the token's header has '{0}', which is not taken here")]
    Header(&'static str),
    /// A key in the header of a DPoP proof.
    #[error("the proof's key: {0}")]
    Key(#[from] KeyError),
    /// A claim is missing or of another shape.
    #[error("the claim '{claim}' {problem}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What was expected.
        problem: &'static str,
    },
    /// Somebody else is meant.
    #[error(
        "the token is for '{0}', which is not served here; use the issuer or the capability's location as aud"
    )]
    Audience(String),
    /// Made in the future.
    #[error("the token's iat is {0} s ahead of this clock; set the clock right")]
    Future(i64),
    /// Over.
    #[error("the token expired {0} s ago; sign a new one for each request")]
    Expired(i64),
    /// Made for too long.
    #[error("the token is for {0} s; exp is at most 60 s after iat")]
    Lifetime(i64),
    /// The signature is not that key's.
    #[error("the signature is wrong")]
    Signature,
}

/// What a token is for: its `typ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Typ {
    /// `host+jwt`: registration and administration.
    Host,
    /// `agent+jwt`: calls.
    Agent,
    /// `dpop+jwt`: a proof of possession (RFC 9449).
    Dpop,
}

impl Typ {
    /// The header's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Typ::Host => "host+jwt",
            Typ::Agent => "agent+jwt",
            Typ::Dpop => "dpop+jwt",
        }
    }
}

/// A token that was read and is not yet believed.
#[derive(Debug, Clone)]
pub struct Jws {
    typ: Typ,
    kid: Option<String>,
    jwk: Option<PublicKey>,
    claims: Map<String, Value>,
    token: Box<str>,
    signed: usize,
    signature: [u8; 64],
}

impl Jws {
    /// Reads a token of at most [`MAX_TOKEN`] bytes. Nothing is verified.
    pub fn parse(token: &str) -> Result<Self, TokenError> {
        let compact = Compact::split(token)?;
        let signature = compact
            .signature
            .as_slice()
            .try_into()
            .map_err(|_| TokenError::SignatureLength(compact.signature.len()))?;
        let part = |part| move |source| TokenError::Json { part, source };
        let header = json::parse_object(&compact.header, MAX_HEADER).map_err(part("header"))?;
        let (typ, kid, jwk) = read_header(&header)?;
        let claims = json::parse_object(&compact.payload, MAX_TOKEN).map_err(part("claims"))?;
        Ok(Jws {
            typ,
            kid,
            jwk,
            claims,
            token: token.into(),
            signed: compact.signed,
            signature,
        })
    }

    /// What it says it is for.
    pub fn typ(&self) -> Typ {
        self.typ
    }

    /// The header's `kid`. It chooses a key of a JWK set and nothing else.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The key in the header of a DPoP proof.
    pub(crate) fn jwk(&self) -> Option<&PublicKey> {
        self.jwk.as_ref()
    }

    /// The claims, not yet believed.
    pub(crate) fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The text, as it came.
    pub fn as_str(&self) -> &str {
        &self.token
    }

    /// Whether it is of this type.
    pub(crate) fn expect(&self, typ: Typ) -> Result<(), TokenError> {
        if self.typ == typ {
            return Ok(());
        }
        Err(TokenError::Type {
            expected: typ.as_str(),
            found: self.typ.as_str().to_owned(),
        })
    }

    /// Whether `key` signed it.
    pub fn verify(&self, key: &PublicKey) -> Result<(), TokenError> {
        let input = &self.token.as_bytes()[..self.signed];
        match key.verifies(input, &self.signature) {
            true => Ok(()),
            false => Err(TokenError::Signature),
        }
    }
}

fn read_header(
    header: &Map<String, Value>,
) -> Result<(Typ, Option<String>, Option<PublicKey>), TokenError> {
    let word = |name| match header.get(name) {
        Some(Value::String(text)) => text.as_str(),
        _ => "",
    };
    let alg = word("alg");
    if alg != "EdDSA" {
        return Err(TokenError::Algorithm(clip(alg)));
    }
    let typ = match word("typ") {
        "host+jwt" => Typ::Host,
        "agent+jwt" => Typ::Agent,
        "dpop+jwt" => Typ::Dpop,
        other => {
            return Err(TokenError::Type {
                expected: "host+jwt, agent+jwt or dpop+jwt",
                found: clip(other),
            });
        }
    };
    for refused in [
        "crit", "b64", "jku", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc",
    ] {
        if header.contains_key(refused) {
            return Err(TokenError::Header(refused));
        }
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= MAX_KID => Some(kid.clone()),
        Some(_) => return Err(TokenError::Header("kid")),
    };
    let jwk = match (header.get("jwk"), typ) {
        (None, _) => None,
        (Some(Value::Object(jwk)), Typ::Dpop) => Some(PublicKey::from_members(jwk)?),
        (Some(_), _) => return Err(TokenError::Header("jwk")),
    };
    Ok((typ, kid, jwk))
}

/// The three parts of a compact JWS, decoded.
pub(crate) struct Compact {
    pub(crate) header: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// How many bytes of the text are signed: up to the second `.`.
    pub(crate) signed: usize,
}

impl Compact {
    /// Takes a text apart. Each part has one spelling: no padding, no white space, no bits that decode to nothing.
    pub(crate) fn split(token: &str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Parts(token.split('.').count()));
        };
        let decode = |name: &'static str, text: &str| match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(TokenError::Encoding(name)),
        };
        Ok(Compact {
            header: decode("header", header)?,
            payload: decode("claims", payload)?,
            signature: decode("signature", signature)?,
            signed: header.len() + 1 + payload.len(),
        })
    }
}

/// Signs `claims` as a token of the type. `header` is what stands in the header beside `alg` and `typ`.
pub(crate) fn sign(
    key: &SecretKey,
    typ: Typ,
    header: &[(&str, Value)],
    claims: &Map<String, Value>,
) -> String {
    let mut head = Map::new();
    head.insert("alg".to_owned(), "EdDSA".into());
    head.insert("typ".to_owned(), typ.as_str().into());
    for (name, value) in header {
        head.insert((*name).to_owned(), value.clone());
    }
    let encode = |map: &Map<String, Value>| {
        URL_SAFE_NO_PAD.encode(Value::Object(map.clone()).to_string().as_bytes())
    };
    let input = format!("{}.{}", encode(&head), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_seed(&[7; 32]).expect("a key")
    }

    fn token(header: &str, claims: &str) -> String {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = key().sign(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    const HEADER: &str = r#"{"alg":"EdDSA","typ":"agent+jwt"}"#;

    /// The cases of Wycheproof about the form of a token; the algorithm is not ours, so they end at the three parts.
    #[test]
    fn the_form_of_wycheproof() {
        let file: Value =
            serde_json::from_str(include_str!("../vectors/wycheproof_jws.json")).expect("JSON");
        let tests = file["tests"].as_array().expect("a list");
        assert_eq!(tests.len(), 26);
        for test in tests {
            let (jws, name) = (test["jws"].as_str().expect("text"), &test["comment"]);
            // Wycheproof lets a decoder drop characters that base64url does not have. Here a token has one spelling.
            let lenient = name
                .as_str()
                .is_some_and(|n| n.starts_with("InvalidCharacterInserted"));
            let taken = test["result"] == "valid" && !lenient;
            assert_eq!(Compact::split(jws).is_ok(), taken, "{name}");
            assert!(Jws::parse(jws).is_err(), "{name}: none is EdDSA");
        }
    }

    #[test]
    fn every_change_to_a_token_is_refused() {
        let good = token(HEADER, r#"{"sub":"agt_1"}"#);
        let public = key().public().clone();
        let parsed = Jws::parse(&good).expect("a token");
        assert_eq!(parsed.verify(&public), Ok(()));
        let other = SecretKey::from_seed(&[8; 32]).expect("a key");
        assert_eq!(parsed.verify(other.public()), Err(TokenError::Signature));
        for at in 0..good.len() {
            for replacement in [b'A', b'B', b'_', b'.', b'=', b' ', b'\n'] {
                let mut bytes = good.clone().into_bytes();
                if bytes[at] == replacement {
                    continue;
                }
                bytes[at] = replacement;
                let changed = String::from_utf8(bytes).expect("text");
                let taken = Jws::parse(&changed).and_then(|t| t.verify(&public));
                assert!(taken.is_err(), "byte {at} as {}", replacement as char);
            }
            let mut longer = good.clone();
            longer.insert(at, 'A');
            assert!(Jws::parse(&longer).and_then(|t| t.verify(&public)).is_err());
            let mut shorter = good.clone();
            shorter.remove(at);
            assert!(
                Jws::parse(&shorter)
                    .and_then(|t| t.verify(&public))
                    .is_err()
            );
        }
        for wrong in [
            format!("{good}="),
            format!("{good}\n"),
            format!(" {good}"),
            format!("{good}."),
        ] {
            assert!(Jws::parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    /// All are well signed: the header is refused, not the signature.
    #[test]
    fn a_header_chooses_nothing() {
        for fine in [
            HEADER,
            r#"{ "typ":"host+jwt", "alg":"EdDSA", "kid":"k", "more":1 }"#,
        ] {
            assert!(Jws::parse(&token(fine, "{}")).is_ok(), "{fine}");
        }
        let jwk = key().public().to_jwk();
        for (header, wrong) in [
            (r#"{"alg":"none","typ":"agent+jwt"}"#, "alg"),
            (r#"{"alg":"HS256","typ":"agent+jwt"}"#, "alg"),
            (r#"{"alg":"eddsa","typ":"agent+jwt"}"#, "alg"),
            (r#"{"alg":["EdDSA"],"typ":"agent+jwt"}"#, "alg"),
            (r#"{"typ":"agent+jwt"}"#, "alg"),
            (r#"{"alg":"EdDSA"}"#, "typ"),
            (r#"{"alg":"EdDSA","typ":"JWT"}"#, "typ"),
            (r#"{"alg":"EdDSA","typ":"application/agent+jwt"}"#, "typ"),
            (
                r#"{"alg":"EdDSA","typ":"agent+jwt","crit":["exp"],"exp":1}"#,
                "'crit'",
            ),
            (r#"{"alg":"EdDSA","typ":"agent+jwt","b64":false}"#, "'b64'"),
            (
                r#"{"alg":"EdDSA","typ":"agent+jwt","jku":"https://x"}"#,
                "'jku'",
            ),
            (
                r#"{"alg":"EdDSA","typ":"agent+jwt","x5u":"https://x"}"#,
                "'x5u'",
            ),
            (r#"{"alg":"EdDSA","typ":"agent+jwt","kid":7}"#, "'kid'"),
            (
                &format!(r#"{{"alg":"EdDSA","typ":"agent+jwt","jwk":{jwk}}}"#),
                "'jwk'",
            ),
            (
                r#"{"alg":"EdDSA","alg":"EdDSA","typ":"agent+jwt"}"#,
                "twice",
            ),
            (r#"["EdDSA"]"#, "object"),
        ] {
            let found = Jws::parse(&token(header, "{}")).expect_err(header);
            assert!(found.to_string().contains(wrong), "{header}: {found}");
        }
        let proof = format!(r#"{{"alg":"EdDSA","typ":"dpop+jwt","jwk":{jwk}}}"#);
        assert_eq!(
            Jws::parse(&token(&proof, "{}")).expect("a proof").jwk(),
            Some(key().public())
        );
        let private = format!(
            r#"{{"alg":"EdDSA","typ":"dpop+jwt","jwk":{}}}"#,
            key().to_jwk()
        );
        let refused = Jws::parse(&token(&private, "{}"));
        assert!(matches!(
            refused,
            Err(TokenError::Key(KeyError::Private("d")))
        ));
    }

    #[test]
    fn claims_have_one_reading_and_a_token_has_a_length() {
        for claims in [r#"{"a":1,"a":1}"#, "[]", "{} ", "{", "\u{feff}{}"] {
            let taken = Jws::parse(&token(HEADER, claims)).is_ok();
            assert_eq!(taken, claims == "{} ", "{claims}");
        }
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_TOKEN));
        let refused = Jws::parse(&token(HEADER, &long));
        assert!(matches!(refused, Err(TokenError::TooLong(_))));
        let header = format!(
            r#"{{"alg":"EdDSA","typ":"agent+jwt","x":"{}"}}"#,
            "x".repeat(MAX_HEADER)
        );
        assert!(matches!(
            Jws::parse(&token(&header, "{}")),
            Err(TokenError::Json { part: "header", .. })
        ));
    }
}
