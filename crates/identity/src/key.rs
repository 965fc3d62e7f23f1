//! Keys and their names.
//!
//! One kind of key: Ed25519 (RFC 8032) as an octet key pair of RFC 8037. The algorithm follows from the key, never
//! from a token (RFC 8725, section 3.1). A key is named by its thumbprint (RFC 7638, SHA-256, base64url).
//!
//! A public key is taken only in its one canonical encoding and only if it is of large order: with a key of small order one
//! signature fits many messages.

use std::{fmt, str::FromStr};

use agentwall_action::escape_text;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::json::{self, JsonError};

/// Longest JWK, in bytes. Certificates in other members are permitted and ignored.
pub const MAX_JWK: usize = 8 << 10;
/// Longest JWK set, in bytes (Agent Auth, section 8.12).
pub const MAX_JWKS: usize = 1 << 20;
/// Most keys of a JWK set.
pub const MAX_JWKS_KEYS: usize = 20;
/// Longest `kid`, in bytes.
pub const MAX_KID: usize = 256;

/// Why a key is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a JSON object.
    #[error("a JWK is a JSON object: {0}")]
    Json(#[from] JsonError),
    /// A member is missing or of another type.
    #[error("a JWK has a member '{0}' that is a string")]
    Member(&'static str),
    /// Another kind of key.
    #[error("expected a key with kty 'OKP' and crv 'Ed25519', found {0}")]
    Unsupported(String),
    /// A private or symmetric key where a public one belongs.
    #[error("the key has its private member '{0}': it is not secret any more; make a new one")]
    Private(&'static str),
    /// Made for something else.
    #[error("the key's member '{0}' says that it is not for EdDSA signatures")]
    Purpose(&'static str),
    /// Not 32 bytes of canonical base64url.
    #[error("expected 32 bytes in base64url without padding in the member '{0}'")]
    Encoding(&'static str),
    /// No point, not canonical, or of small order.
    #[error("the key is no canonical Ed25519 point of large order")]
    Point,
    /// The private and the public half are of two keys.
    #[error("the members 'd' and 'x' are not of one key")]
    Halves,
    /// A set without keys, or with too many.
    #[error("a JWK set has from 1 to {MAX_JWKS_KEYS} keys, found {0}")]
    Count(usize),
    /// Two keys of one name.
    #[error("the JWK set has two keys with one kid")]
    SameKid,
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Random(String),
}

/// The SHA-256 thumbprint of a key (RFC 7638), shown as 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// The digest of a JWK's required members in lexicographic order, without white space.
    fn of(required: &str) -> Self {
        Thumbprint(Sha256::digest(required).into())
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({self})")
    }
}

impl FromStr for Thumbprint {
    type Err = KeyError;

    /// Reads canonical base64url of 32 bytes.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode32(text)
            .map(Thumbprint)
            .ok_or(KeyError::Encoding("thumbprint"))
    }
}

serde_as_text!(Thumbprint);

/// A public key: a canonical Ed25519 point of large order, and its thumbprint.
#[derive(Clone)]
pub struct PublicKey {
    point: VerifyingKey,
    thumbprint: Thumbprint,
}

impl PublicKey {
    /// Reads a public JWK (RFC 7517, RFC 8037): `kty` is `OKP`, `crv` is `Ed25519`, `x` the point. The private member
    /// `d` is refused; `use`, `key_ops` and `alg` must permit verifying EdDSA if they are there; `kid` and other members mean
    /// nothing.
    pub fn from_jwk(bytes: &[u8]) -> Result<Self, KeyError> {
        Self::from_members(&json::parse_object(bytes, MAX_JWK)?)
    }

    /// As [`PublicKey::from_jwk`], from members that [`parse_json`](crate::parse_json) has read.
    pub fn from_members(jwk: &Map<String, Value>) -> Result<Self, KeyError> {
        for private in ["d", "k"] {
            if jwk.contains_key(private) {
                return Err(KeyError::Private(private));
            }
        }
        Self::public_half(jwk)
    }

    fn public_half(jwk: &Map<String, Value>) -> Result<Self, KeyError> {
        let text = |name| match jwk.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            _ => Err(KeyError::Member(name)),
        };
        let kty = text("kty")?;
        if kty != "OKP" {
            return Err(KeyError::Unsupported(format!("kty '{}'", clip(kty))));
        }
        let crv = text("crv")?;
        if crv != "Ed25519" {
            return Err(KeyError::Unsupported(format!("crv '{}'", clip(crv))));
        }
        if jwk.get("use").is_some_and(|v| v != "sig") {
            return Err(KeyError::Purpose("use"));
        }
        // RFC 9864 names the same algorithm `Ed25519`.
        if jwk
            .get("alg")
            .is_some_and(|v| v != "EdDSA" && v != "Ed25519")
        {
            return Err(KeyError::Purpose("alg"));
        }
        if let Some(operations) = jwk.get("key_ops") {
            let wanted = if jwk.contains_key("d") {
                "sign"
            } else {
                "verify"
            };
            let listed = operations.as_array();
            if !listed.is_some_and(|all| all.iter().any(|v| v == wanted)) {
                return Err(KeyError::Purpose("key_ops"));
            }
        }
        let bytes = decode32(text("x")?).ok_or(KeyError::Encoding("x"))?;
        Self::from_bytes(&bytes)
    }

    /// Reads the 32 bytes of a point (RFC 8032, section 5.1.2).
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let point = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Point)?;
        // The decoder takes y and y + p for one point; RFC 8032, section 5.1.3, wants y < p.
        if point.to_edwards().compress().as_bytes() != bytes || point.is_weak() {
            return Err(KeyError::Point);
        }
        let thumbprint = Thumbprint::of(&jwk_text(bytes));
        Ok(PublicKey { point, thumbprint })
    }

    /// The RFC 7638 thumbprint.
    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// The public JWK: the required members in lexicographic order without white space, which is also what the thumbprint
    /// is made of.
    pub fn to_jwk(&self) -> String {
        jwk_text(self.point.as_bytes())
    }

    /// Whether `signature` is one of this key over `message`. Strict: `S` below the group order, `R` canonical and not of
    /// small order (RFC 8032, section 5.1.7, and more), so that a signature has one spelling.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.point.verify_strict(message, &signature).is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.point.as_bytes() == other.point.as_bytes()
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.thumbprint)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&URL_SAFE_NO_PAD.encode(self.point.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        decode32(&text)
            .ok_or(KeyError::Encoding("x"))
            .and_then(|bytes| Self::from_bytes(&bytes))
            .map_err(serde::de::Error::custom)
    }
}

/// A private key. Its memory is cleared when it is dropped, and `Debug` shows the thumbprint alone.
#[derive(Clone)]
pub struct SecretKey {
    key: SigningKey,
    public: PublicKey,
}

impl SecretKey {
    /// A fresh key from the system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|e| KeyError::Random(e.to_string()))?;
        Self::from_seed(&seed)
    }

    /// The key of a 32-byte seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(key.verifying_key().as_bytes())?;
        Ok(SecretKey { key, public })
    }

    /// Reads a private JWK (RFC 8037, section 2): both halves, which must fit.
    pub fn from_jwk(bytes: &[u8]) -> Result<Self, KeyError> {
        let jwk = json::parse_object(bytes, MAX_JWK)?;
        let public = PublicKey::public_half(&jwk)?;
        let Some(Value::String(text)) = jwk.get("d") else {
            return Err(KeyError::Member("d"));
        };
        let secret = Self::from_seed(&decode32(text).ok_or(KeyError::Encoding("d"))?)?;
        if secret.public != public {
            return Err(KeyError::Halves);
        }
        Ok(secret)
    }

    /// The private JWK. Whoever has it is the host or the agent.
    pub fn to_jwk(&self) -> String {
        let d = URL_SAFE_NO_PAD.encode(self.key.as_bytes());
        let x = URL_SAFE_NO_PAD.encode(self.public.point.as_bytes());
        format!(r#"{{"crv":"Ed25519","d":"{d}","kty":"OKP","x":"{x}"}}"#)
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature over `message`; deterministic.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public.thumbprint)
    }
}

/// The keys of a JWK set (RFC 7517, section 5) that can be used here, by `kid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwks {
    keys: Vec<(String, PublicKey)>,
}

impl Jwks {
    /// Reads a JWK set. It has 1 to [`MAX_JWKS_KEYS`] keys, no symmetric or private one, and no `kid` twice. Keys of other kinds and
    /// keys without a `kid` are passed over (RFC 7517, section 5); a key of our kind that is wrong is an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let set = json::parse_object(bytes, MAX_JWKS)?;
        let Some(Value::Array(listed)) = set.get("keys") else {
            return Err(KeyError::Member("keys"));
        };
        if !(1..=MAX_JWKS_KEYS).contains(&listed.len()) {
            return Err(KeyError::Count(listed.len()));
        }
        let mut keys: Vec<(String, PublicKey)> = Vec::new();
        let mut kids: Vec<&str> = Vec::new();
        for key in listed {
            let jwk = key
                .as_object()
                .ok_or(KeyError::Json(JsonError::NotAnObject))?;
            if jwk.get("kty").is_some_and(|v| v == "oct") {
                return Err(KeyError::Private("k"));
            }
            let kid = match jwk.get("kid") {
                None => None,
                Some(Value::String(kid)) if kid.len() <= MAX_KID => Some(kid.as_str()),
                Some(_) => return Err(KeyError::Member("kid")),
            };
            if let Some(kid) = kid {
                if kids.contains(&kid) {
                    return Err(KeyError::SameKid);
                }
                kids.push(kid);
            }
            match (PublicKey::from_members(jwk), kid) {
                (Ok(key), Some(kid)) => keys.push((kid.to_owned(), key)),
                (Ok(_), None) | (Err(KeyError::Unsupported(_) | KeyError::Purpose(_)), _) => {}
                (Err(e), _) => return Err(e),
            }
        }
        Ok(Jwks { keys })
    }

    /// The key of this name.
    pub fn get(&self, kid: &str) -> Option<&PublicKey> {
        let found = self.keys.iter().find(|(name, _)| name == kid);
        found.map(|(_, key)| key)
    }

    /// The key of this thumbprint.
    pub fn of_thumbprint(&self, thumbprint: Thumbprint) -> Option<&PublicKey> {
        let found = self
            .keys
            .iter()
            .find(|(_, key)| key.thumbprint == thumbprint);
        found.map(|(_, key)| key)
    }
}

/// The JWK of a point, members in lexicographic order (RFC 7638, section 3; RFC 8037, section 2).
fn jwk_text(point: &[u8; 32]) -> String {
    let x = URL_SAFE_NO_PAD.encode(point);
    format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)
}

/// 32 bytes in canonical base64url.
pub(crate) fn decode32(text: &str) -> Option<[u8; 32]> {
    if text.len() != 43 {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// The beginning of a text that somebody else wrote, for a message.
pub(crate) fn clip(text: &str) -> String {
    let begin: String = text.chars().take(40).collect();
    escape_text(&begin)
}

/// Names that somebody else chose, for a message.
pub(crate) fn shown(names: &[String]) -> String {
    let names: Vec<_> = names.iter().take(10).map(|name| clip(name)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7638, section 3.1: the method, on a kind of key that is not taken here.
    #[test]
    fn the_thumbprint_of_rfc_7638() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let text = format!(r#"{{"e":"AQAB","kty":"RSA","n":"{n}"}}"#);
        assert_eq!(
            Thumbprint::of(&text).to_string(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
        let refused = PublicKey::from_jwk(text.as_bytes());
        assert_eq!(refused, Err(KeyError::Unsupported("kty 'RSA'".to_owned())));
    }

    #[test]
    fn points_have_one_encoding_and_a_large_order() {
        // p + 3 and p + 4 (RFC 8032, section 5.1.3): y is not below p. 1 and p - 1: order 1 and 2.
        let mut beyond = [0xff; 32];
        beyond[31] = 0x7f;
        for low in 0xed..=0xffu8 {
            beyond[0] = low;
            assert_eq!(
                PublicKey::from_bytes(&beyond),
                Err(KeyError::Point),
                "{low:x}"
            );
        }
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(PublicKey::from_bytes(&one), Err(KeyError::Point));
        beyond[0] = 0xec;
        assert_eq!(PublicKey::from_bytes(&beyond), Err(KeyError::Point));
        assert_eq!(
            PublicKey::from_bytes(&[0; 32]),
            Err(KeyError::Point),
            "order 4"
        );
        let good = SecretKey::from_seed(&[1; 32]).expect("a key");
        let bytes = good.public.point.to_bytes();
        assert_eq!(PublicKey::from_bytes(&bytes).as_ref(), Ok(good.public()));
    }

    #[test]
    fn a_jwk_is_public_and_for_signatures() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let read = |more: &str| {
            let text = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{more}}}"#);
            PublicKey::from_jwk(text.as_bytes())
        };
        let good = read("").expect("a key");
        for fine in [
            r#","kid":"a name","use":"sig","alg":"EdDSA","key_ops":["verify"]"#,
            r#","alg":"Ed25519","x5c":["anything"],"more":{"a":[1]}"#,
        ] {
            assert_eq!(read(fine).as_ref(), Ok(&good), "{fine}");
        }
        for (more, error) in [
            (r#","d":"x""#, KeyError::Private("d")),
            (r#","k":"x""#, KeyError::Private("k")),
            (r#","use":"enc""#, KeyError::Purpose("use")),
            (r#","alg":"ES256""#, KeyError::Purpose("alg")),
            (r#","key_ops":["sign"]"#, KeyError::Purpose("key_ops")),
            (r#","key_ops":"verify""#, KeyError::Purpose("key_ops")),
        ] {
            assert_eq!(read(more), Err(error), "{more}");
        }
        assert!(
            matches!(read(r#","x":"x""#), Err(KeyError::Json(_))),
            "x twice"
        );
        for (text, error) in [
            (r#"{"kty":"OKP","crv":"Ed25519"}"#, KeyError::Member("x")),
            (
                r#"{"kty":"OKP","crv":"X25519","x":"x"}"#,
                KeyError::Unsupported("crv 'X25519'".to_owned()),
            ),
            (r#"{"kty":1}"#, KeyError::Member("kty")),
            (
                &format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}="}}"#),
                KeyError::Encoding("x"),
            ),
            // The last character has bits that no byte needs.
            (
                &format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}p"}}"#, &x[..42]),
                KeyError::Encoding("x"),
            ),
        ] {
            assert_eq!(PublicKey::from_jwk(text.as_bytes()), Err(error), "{text}");
        }
        let long = format!(r#","more":"{}""#, "x".repeat(MAX_JWK));
        assert!(matches!(
            read(&long),
            Err(KeyError::Json(JsonError::TooLong { .. }))
        ));
    }

    #[test]
    fn a_private_key_is_one_key_and_does_not_show() {
        let key = SecretKey::generate().expect("a key");
        let text = key.to_jwk();
        assert_eq!(
            SecretKey::from_jwk(text.as_bytes())
                .expect("a key")
                .to_jwk(),
            text
        );
        let refused = PublicKey::from_jwk(text.as_bytes());
        assert_eq!(refused, Err(KeyError::Private("d")));
        let other = SecretKey::generate().expect("a key");
        let d = URL_SAFE_NO_PAD.encode(key.key.as_bytes());
        let mixed = other
            .to_jwk()
            .replace(&URL_SAFE_NO_PAD.encode(other.key.as_bytes()), &d);
        assert!(matches!(
            SecretKey::from_jwk(mixed.as_bytes()),
            Err(KeyError::Halves)
        ));
        assert!(!format!("{key:?}").contains(&d));
    }

    #[test]
    fn a_set_has_few_public_keys_of_different_names() {
        let key = |n: u8| {
            SecretKey::from_seed(&[n; 32])
                .expect("a key")
                .public()
                .clone()
        };
        let member = |n: u8, kid: &str| {
            key(n)
                .to_jwk()
                .replace('{', &format!(r#"{{"kid":"{kid}","#))
        };
        let set =
            |keys: &[String]| Jwks::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes());
        let good = set(&[
            member(1, "a"),
            r#"{"kty":"RSA","kid":"r","n":"x","e":"AQAB"}"#.to_owned(),
            member(2, "b"),
            key(3).to_jwk(),
        ])
        .expect("a set");
        assert_eq!(good.get("a"), Some(&key(1)));
        assert_eq!(good.get("b"), Some(&key(2)));
        assert_eq!(good.get("r"), None);
        assert_eq!(good.of_thumbprint(key(2).thumbprint()), Some(&key(2)));
        assert_eq!(
            good.of_thumbprint(key(3).thumbprint()),
            None,
            "it has no name"
        );
        assert_eq!(set(&[]), Err(KeyError::Count(0)));
        let many: Vec<_> = (0..21).map(|n| member(n, &n.to_string())).collect();
        assert!(set(&many[..20]).is_ok());
        assert_eq!(set(&many), Err(KeyError::Count(21)));
        assert_eq!(
            set(&[member(1, "a"), member(2, "a")]),
            Err(KeyError::SameKid)
        );
        let shared = r#"{"kty":"oct","kid":"s","k":"AAAA"}"#.to_owned();
        assert_eq!(set(&[member(1, "a"), shared]), Err(KeyError::Private("k")));
        let private = SecretKey::from_seed(&[1; 32]).expect("a key").to_jwk();
        assert_eq!(set(&[private]), Err(KeyError::Private("d")));
        let wrong = r#"{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"w"}"#.to_owned();
        assert_eq!(set(&[member(1, "a"), wrong]), Err(KeyError::Encoding("x")));
    }
}
