//! Signed notes and verifier keys (c2sp.org/signed-note), Ed25519 (type 0x01) only; the keys of witnesses
//! are in [`crate::cosignature`].
//!
//! A note is a text that ends in a newline, an empty line, and signature lines
//! `— <name> <base64(u32be key id || signature)>`. The key id is a hint that binds name, algorithm
//! and key; it is no security boundary. Parsing is strict and canonical: whatever is accepted is
//! byte for byte what [`Note::to_text`] would write, so a note has one spelling only.

use std::fmt;

use agentwall_action::escape_text;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

const ED25519: u8 = 0x01;
/// More signature lines than this are refused (the format asks for at least 16; Go's limit is 100).
const MAX_SIGNATURES: usize = 100;

/// A public key under a name: `<name>+<hex key id>+<base64(type || key)>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    key: VerifyingKey,
}

impl Verifier {
    /// A key under a name.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, VkeyError> {
        if !valid_name(name) {
            return Err(VkeyError::Name(name.to_owned()));
        }
        Ok(Verifier {
            name: name.to_owned(),
            key,
        })
    }

    /// Reads the textual form, called *vkey*. The id inside must fit name and key.
    pub fn parse(vkey: &str) -> Result<Self, VkeyError> {
        let vkey = Vkey::parse(vkey)?;
        if vkey.algorithm != ED25519 {
            return Err(VkeyError::Algorithm(vkey.algorithm));
        }
        Verifier::new(vkey.name, ed25519_key(&vkey.key)?)
    }

    /// The key's name; for a log its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `SHA-256(name || 0x0A || type || key)[:4]`, big-endian.
    pub fn id(&self) -> u32 {
        key_id(&self.name, ED25519, self.key.as_bytes())
    }

    /// The key itself: two names with one key are one signer.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether `signature` over `text` was made with this key.
    fn accepts(&self, text: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(text, &signature).is_ok())
    }
}

/// The vkey.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey(&self.name, ED25519, self.key.as_bytes()))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A private key under a name. The key is wiped from memory when dropped.
#[derive(Clone)]
pub struct Signer {
    name: String,
    key: SigningKey,
}

impl Signer {
    /// A key under a name; for a log the name is its origin, a schema-less URL.
    pub fn new(name: &str, key: SigningKey) -> Result<Self, VkeyError> {
        Verifier::new(name, key.verifying_key())?;
        Ok(Signer {
            name: name.to_owned(),
            key,
        })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public half.
    pub fn verifier(&self) -> Verifier {
        Verifier {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// The key of the journal's tags. It comes from a signature that only this key can make, over a text
    /// that is no checkpoint.
    pub(crate) fn journal_key(&self) -> [u8; 32] {
        let signature = self.key.sign(b"agentwall ledger journal v1").to_bytes();
        Sha256::digest(signature).into()
    }

    /// The private key text, `PRIVATE+KEY+<name>+<hex key id>+<base64(type || seed)>`, as Go's
    /// `sumdb/note` writes it.
    pub(crate) fn private_text(&self) -> String {
        let mut blob = vec![ED25519];
        blob.extend_from_slice(self.key.as_bytes());
        format!(
            "PRIVATE+KEY+{}+{:08x}+{}",
            self.name,
            self.verifier().id(),
            STANDARD.encode(blob)
        )
    }

    /// The name and the key, for signatures of another form.
    pub(crate) fn into_parts(self) -> (String, SigningKey) {
        (self.name, self.key)
    }

    /// Reads the private key text.
    pub(crate) fn parse_private(text: &str) -> Result<Self, VkeyError> {
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or(VkeyError::Shape)?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VkeyError::Shape);
        };
        let blob = STANDARD.decode(key).map_err(|_| VkeyError::Shape)?;
        let seed = match blob.split_first() {
            Some((&ED25519, seed)) => <[u8; 32]>::try_from(seed).map_err(|_| VkeyError::Key)?,
            Some((&other, _)) => return Err(VkeyError::Algorithm(other)),
            None => return Err(VkeyError::Shape),
        };
        let signer = Signer::new(name, SigningKey::from_bytes(&seed))?;
        let expected = format!("{:08x}", signer.verifier().id());
        if id != expected {
            return Err(VkeyError::Id {
                found: escape_text(id),
                expected,
            });
        }
        Ok(signer)
    }

    /// Signs a text and returns the whole note. The text must be one that a note may carry.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        check_text(text)?;
        Ok(format!("{text}\n{}\n", self.line(text)))
    }

    /// The signature line over a text that a note may carry.
    pub(crate) fn line(&self, text: &str) -> NoteSignature {
        NoteSignature {
            name: self.name.clone(),
            id: self.verifier().id(),
            signature: self.key.sign(text.as_bytes()).to_bytes().to_vec(),
        }
    }
}

/// Shows the name, never the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Key name.
    pub name: String,
    /// Key id.
    pub id: u32,
    /// The signature bytes after the id.
    pub signature: Vec<u8>,
}

impl NoteSignature {
    /// Reads a line, without its newline; `None` if it is not in canonical form.
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("\u{2014} ")?;
        let (name, blob) = rest.split_once(' ')?;
        let blob = STANDARD.decode(blob).ok()?;
        let (id, signature) = blob.split_first_chunk::<4>()?;
        (valid_name(name) && !signature.is_empty()).then(|| NoteSignature {
            name: name.to_owned(),
            id: u32::from_be_bytes(*id),
            signature: signature.to_vec(),
        })
    }
}

/// The line, without its newline.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = [&self.id.to_be_bytes(), self.signature.as_slice()].concat();
        write!(f, "\u{2014} {} {}", self.name, STANDARD.encode(blob))
    }
}

/// A parsed note; nothing about it is verified until [`Note::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// Reads a note.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::NotUtf8)?;
        check_characters(all)?;
        let split = all.rfind("\n\n").ok_or(NoteError::NoSignatures)?;
        let (text, block) = (&all[..=split], &all[split + 2..]);
        let block = block.strip_suffix('\n').ok_or(NoteError::NoSignatures)?;
        let mut signatures = Vec::new();
        for (number, line) in block.split('\n').enumerate() {
            if number >= MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let signature = NoteSignature::parse(line);
            signatures.push(signature.ok_or(NoteError::SignatureLine(number + 1))?);
        }
        Ok(Note {
            text: text.to_owned(),
            signatures,
        })
    }

    /// The signed text, with its final newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The note as it is stored.
    pub fn to_text(&self) -> String {
        let mut out = format!("{}\n", self.text);
        for signature in &self.signatures {
            out.push_str(&format!("{signature}\n"));
        }
        out
    }

    /// The same text with other signatures; at least one.
    pub fn with_signatures(&self, signatures: Vec<NoteSignature>) -> Result<Self, NoteError> {
        match signatures.len() {
            0 => Err(NoteError::NoSignatures),
            1..=MAX_SIGNATURES => Ok(Note {
                text: self.text.clone(),
                signatures,
            }),
            _ => Err(NoteError::TooManySignatures),
        }
    }

    /// Succeeds when one of the keys has signed and none of them wrongly, see [`Note::verify`].
    pub fn verify_any<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Verifier>,
    ) -> Result<(), NoteError> {
        let (mut found, mut missing) = (false, Err(NoteError::NoSignatures));
        for key in keys {
            match self.verify(key) {
                Ok(()) => found = true,
                Err(error @ NoteError::ForeignKey { .. }) => missing = Err(error),
                Err(wrong) => return Err(wrong),
            }
        }
        if found { Ok(()) } else { missing }
    }

    /// Succeeds when the key has signed. Signatures by other keys are ignored; one under this
    /// key's name and id that does not verify makes the whole note invalid.
    pub fn verify(&self, key: &Verifier) -> Result<(), NoteError> {
        let mut found = false;
        for s in &self.signatures {
            if s.name == key.name && s.id == key.id() {
                if !key.accepts(self.text.as_bytes(), &s.signature) {
                    return Err(NoteError::BadSignature {
                        name: s.name.clone(),
                        id: s.id,
                    });
                }
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        Err(NoteError::ForeignKey {
            expected: format!("{}+{:08x}", key.name, key.id()),
            found: self
                .signatures
                .iter()
                .map(|s| format!("{}+{:08x}", s.name, s.id))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// Why a note is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Not UTF-8.
    #[error("expected UTF-8 text, found other bytes")]
    NotUtf8,
    /// A control character other than newline.
    #[error("a note has no control characters but newline, found {0:?}")]
    Control(char),
    /// The text does not end in a newline.
    #[error("a note's text ends in a newline")]
    NoNewline,
    /// No empty line followed by signature lines, or no final newline.
    #[error("expected an empty line and signature lines after the text")]
    NoSignatures,
    /// A signature line that is not canonical; lines are counted from 1.
    #[error("signature line {0} is not '\u{2014} <name> <base64>' in canonical form")]
    SignatureLine(usize),
    /// Too many signature lines.
    #[error("more than {MAX_SIGNATURES} signature lines")]
    TooManySignatures,
    /// A signature under the expected name and id is wrong: the text or the signature was changed.
    #[error("the signature by {name}+{id:08x} is wrong: the signed text was changed")]
    BadSignature {
        /// Key name.
        name: String,
        /// Key id.
        id: u32,
    },
    /// The expected key has not signed.
    #[error("not signed by the expected key {expected}, but by {found}")]
    ForeignKey {
        /// Name and id of the expected key.
        expected: String,
        /// Names and ids of the keys that signed.
        found: String,
    },
}

/// Why a key text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VkeyError {
    /// Not three parts joined by `+`, or not base64.
    #[error("expected '<name>+<8 hex digits>+<base64>'")]
    Shape,
    /// A name that is empty or has spaces or `+`.
    #[error("a key name is not empty and has no spaces and no '+', found {0:?}")]
    Name(String),
    /// Another algorithm.
    #[error(
        "this type of key is not taken here: found type {0}; a log's key has type 1 (Ed25519), a witness's type 4 (Ed25519) or 6 (ML-DSA-44)"
    )]
    Algorithm(u8),
    /// Not a key of that algorithm.
    #[error("the key is not one of its type")]
    Key,
    /// The id does not belong to name and key.
    #[error("the key id is {found}, but name and key give {expected}")]
    Id {
        /// What the text says, escaped.
        found: String,
        /// What it should say.
        expected: String,
    },
}

/// The parts of a vkey, whose id fits.
pub(crate) struct Vkey<'a> {
    pub(crate) name: &'a str,
    pub(crate) algorithm: u8,
    pub(crate) key: Vec<u8>,
}

impl<'a> Vkey<'a> {
    pub(crate) fn parse(vkey: &'a str) -> Result<Self, VkeyError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VkeyError::Shape);
        };
        let blob = STANDARD.decode(key).map_err(|_| VkeyError::Shape)?;
        let (&algorithm, key) = blob.split_first().ok_or(VkeyError::Shape)?;
        if !valid_name(name) {
            return Err(VkeyError::Name(name.to_owned()));
        }
        let expected = format!("{:08x}", key_id(name, algorithm, key));
        if id != expected {
            return Err(VkeyError::Id {
                found: escape_text(id),
                expected,
            });
        }
        Ok(Vkey {
            name,
            algorithm,
            key: key.to_vec(),
        })
    }
}

/// The vkey of a key.
pub(crate) fn vkey(name: &str, algorithm: u8, key: &[u8]) -> String {
    let blob = [&[algorithm], key].concat();
    let id = key_id(name, algorithm, key);
    format!("{name}+{id:08x}+{}", STANDARD.encode(blob))
}

/// A key of 32 bytes that is a point of the curve.
pub(crate) fn ed25519_key(bytes: &[u8]) -> Result<VerifyingKey, VkeyError> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| VkeyError::Key)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| VkeyError::Key)
}

/// `SHA-256(name || 0x0A || type || key)[:4]`, big-endian.
pub(crate) fn key_id(name: &str, algorithm: u8, key: &[u8]) -> u32 {
    let mut h = Sha256::new();
    h.update(name.as_bytes());
    h.update([b'\n', algorithm]);
    h.update(key);
    let digest = h.finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    match text.chars().find(|c| *c < ' ' && *c != '\n') {
        Some(c) => Err(NoteError::Control(c)),
        None => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), NoteError> {
    check_characters(text)?;
    if text.ends_with('\n') {
        Ok(())
    } else {
        Err(NoteError::NoNewline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(name: &str, byte: u8) -> Signer {
        Signer::new(name, SigningKey::from_bytes(&[byte; 32])).expect("a valid name")
    }

    /// From golang.org/x/mod/sumdb/note's documentation.
    const GO_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_reference_note_verifies() {
        let key = Verifier::parse(GO_VKEY).expect("a vkey");
        assert_eq!(key.to_string(), GO_VKEY);
        let note = Note::parse(GO_NOTE.as_bytes()).expect("a note");
        assert_eq!(note.to_text(), GO_NOTE);
        assert_eq!(note.verify(&key), Ok(()));
        let other = Note::parse(GO_NOTE.replace("answer", "Answer").as_bytes()).expect("a note");
        assert!(matches!(
            other.verify(&key),
            Err(NoteError::BadSignature { .. })
        ));
        let foreign = signer("PeterNeumann", 1).verifier();
        assert!(matches!(
            note.verify(&foreign),
            Err(NoteError::ForeignKey { .. })
        ));
    }

    #[test]
    fn sign_and_read_back() {
        let signer = signer("agentwall.example/log", 7);
        let text = signer.sign("a\n\nb\n").expect("a note");
        let note = Note::parse(text.as_bytes()).expect("a note");
        assert_eq!(note.text(), "a\n\nb\n");
        assert_eq!(note.verify(&signer.verifier()), Ok(()));
        assert_eq!(signer.sign("no newline"), Err(NoteError::NoNewline));
        assert_eq!(signer.sign("a\tb\n"), Err(NoteError::Control('\t')));
        let again = Signer::parse_private(&signer.private_text()).expect("a key");
        assert_eq!(again.verifier(), signer.verifier());
        assert!(!format!("{signer:?}").contains("key"));
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = signer("log", 1).sign("text\n").expect("a note");
        let cases: Vec<(Vec<u8>, NoteError)> = vec![
            (b"text\n".to_vec(), NoteError::NoSignatures),
            (good.trim_end().into(), NoteError::NoSignatures),
            (format!("{good}\n").into(), NoteError::NoSignatures),
            (b"a\xff\n\n".to_vec(), NoteError::NotUtf8),
            (
                good.replace("text", "te\rxt").into(),
                NoteError::Control('\r'),
            ),
            (
                good.replace("\u{2014} ", "- ").into(),
                NoteError::SignatureLine(1),
            ),
            (
                good.replace(" log ", " log  ").into(),
                NoteError::SignatureLine(1),
            ),
            (
                good.replace(" log ", " l+g ").into(),
                NoteError::SignatureLine(1),
            ),
            (
                good.replace("=\n", "\n").into(),
                NoteError::SignatureLine(1),
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(
                Note::parse(&bytes),
                Err(error),
                "{}",
                String::from_utf8_lossy(&bytes)
            );
        }
        let tail = good.split("\n\n").nth(1).expect("signature lines");
        let many = format!("text\n\n{}", tail.repeat(101));
        assert_eq!(
            Note::parse(many.as_bytes()),
            Err(NoteError::TooManySignatures)
        );
        assert!(matches!(
            Verifier::parse(&GO_VKEY.replace("c74f20a3", "c74f20a4")),
            Err(VkeyError::Id { .. })
        ));
    }
}
