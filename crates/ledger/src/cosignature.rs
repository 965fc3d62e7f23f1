//! Cosignatures (c2sp.org/tlog-cosignature): a witness says that, at a time, a checkpoint was the largest
//! one it had seen of a log, and that it continues every one before.
//!
//! A cosignature is a signature line of the checkpoint's note whose bytes are `u64be time || signature`.
//! Ed25519 (type 0x04) signs the lines `cosignature/v1` and `time <seconds>` before the checkpoint's text;
//! ML-DSA-44 (type 0x06, FIPS 204) a structure that names the cosigner, too. Both are verified here,
//! only Ed25519 is made: it is what every verifier knows.

use std::fmt;

use agentwall_action::escape_text;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use ml_dsa::{MlDsa44, signature::Verifier as _};

use crate::{
    checkpoint::Checkpoint,
    note::{Note, NoteError, NoteSignature, Signer, Vkey, VkeyError, ed25519_key, key_id, vkey},
};

const ED25519: u8 = 0x04;
const ML_DSA_44: u8 = 0x06;
/// The largest time that a cosignature may carry, in seconds since the Unix epoch.
const MAX_TIME: u64 = i64::MAX as u64;

/// A witness's public key under its name.
#[derive(Clone, PartialEq)]
pub struct CosignerKey {
    name: String,
    key: Key,
}

#[derive(Clone, PartialEq)]
enum Key {
    Ed25519(VerifyingKey),
    MlDsa44(Box<ml_dsa::VerifyingKey<MlDsa44>>),
}

impl Key {
    fn algorithm(&self) -> u8 {
        match self {
            Key::Ed25519(_) => ED25519,
            Key::MlDsa44(_) => ML_DSA_44,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Key::Ed25519(key) => key.as_bytes().to_vec(),
            Key::MlDsa44(key) => key.encode().to_vec(),
        }
    }
}

impl CosignerKey {
    /// Reads a vkey of type 0x04 or 0x06.
    pub fn parse(text: &str) -> Result<Self, VkeyError> {
        let vkey = Vkey::parse(text)?;
        let key = match vkey.algorithm {
            ED25519 => Key::Ed25519(ed25519_key(&vkey.key)?),
            ML_DSA_44 => {
                let encoded = vkey.key.as_slice().try_into().map_err(|_| VkeyError::Key)?;
                Key::MlDsa44(Box::new(ml_dsa::VerifyingKey::decode(&encoded)))
            }
            other => return Err(VkeyError::Algorithm(other)),
        };
        Ok(CosignerKey {
            name: vkey.name.to_owned(),
            key,
        })
    }

    /// The witness's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `SHA-256(name || 0x0A || type || key)[:4]`, big-endian.
    pub fn id(&self) -> u32 {
        key_id(&self.name, self.key.algorithm(), &self.key.bytes())
    }

    /// The key itself: two names with one key are one witness.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.key.bytes()
    }

    /// Whether a signature line is under this key's name and id; it may still be wrong.
    pub fn is_named_by(&self, line: &NoteSignature) -> bool {
        line.name == self.name && line.id == self.id()
    }

    /// When this witness has cosigned the checkpoint that `note` carries, in seconds since the Unix epoch:
    /// the latest time, if it did so more than once, `None` if it did not. A line under its name and id
    /// that does not verify makes the whole note invalid. Lines without a time say nothing of what is the
    /// largest tree, and do not count.
    pub fn cosigned(&self, checkpoint: &Checkpoint, note: &Note) -> Result<Option<u64>, NoteError> {
        let mut latest = None;
        for line in note.signatures().iter().filter(|s| self.is_named_by(s)) {
            let time = self
                .time_of(checkpoint, note.text(), &line.signature)
                .ok_or_else(|| NoteError::BadSignature {
                    name: line.name.clone(),
                    id: line.id,
                })?;
            if time > 0 {
                latest = latest.max(Some(time));
            }
        }
        Ok(latest)
    }

    fn time_of(&self, checkpoint: &Checkpoint, text: &str, blob: &[u8]) -> Option<u64> {
        let (time, signature) = blob.split_first_chunk::<8>()?;
        let time = u64::from_be_bytes(*time);
        let genuine = match &self.key {
            Key::Ed25519(key) => {
                let signature = Signature::from_slice(signature).ok()?;
                key.verify_strict(&ed25519_message(text, time), &signature)
                    .is_ok()
            }
            Key::MlDsa44(key) => {
                let encoded = signature.try_into().ok()?;
                let signature = ml_dsa::Signature::decode(&encoded)?;
                let message = ml_dsa_message(&self.name, time, checkpoint)?;
                key.verify(&message, &signature).is_ok()
            }
        };
        (genuine && time <= MAX_TIME).then_some(time)
    }
}

/// The vkey.
impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey(&self.name, self.key.algorithm(), &self.key.bytes()))
    }
}

/// Name and id.
impl fmt::Debug for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}", escape_text(&self.name), self.id())
    }
}

/// A witness's private key, Ed25519. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Cosigner {
    name: String,
    key: SigningKey,
}

impl Cosigner {
    /// The key of a key file, used for cosignatures. It must sign nothing else: its statement does not
    /// name the cosigner.
    pub fn new(signer: Signer) -> Self {
        let (name, key) = signer.into_parts();
        Cosigner { name, key }
    }

    /// The public half.
    pub fn key(&self) -> CosignerKey {
        CosignerKey {
            name: self.name.clone(),
            key: Key::Ed25519(self.key.verifying_key()),
        }
    }

    /// Cosigns the text of a checkpoint at a time, in seconds since the Unix epoch. Whether it is
    /// consistent with all before is the caller's to know.
    pub(crate) fn cosign(&self, text: &str, time: u64) -> NoteSignature {
        let signature = self.key.sign(&ed25519_message(text, time)).to_bytes();
        NoteSignature {
            name: self.name.clone(),
            id: self.key().id(),
            signature: [&time.to_be_bytes(), signature.as_slice()].concat(),
        }
    }
}

/// Shows the name, never the key.
impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cosigner")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn ed25519_message(text: &str, time: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

/// The structure `cosigned_message` for a whole tree; `None` if a name is too long for it.
fn ml_dsa_message(name: &str, time: u64, checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    let origin = &checkpoint.origin;
    let length = |text: &str| u8::try_from(text.len()).ok();
    let mut message = b"subtree/v1\n\0".to_vec();
    message.push(length(name)?);
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(&time.to_be_bytes());
    message.push(length(origin)?);
    message.extend_from_slice(origin.as_bytes());
    // The subtree from leaf 0 to the size is the tree.
    message.extend_from_slice(&0u64.to_be_bytes());
    message.extend_from_slice(&checkpoint.size.to_be_bytes());
    message.extend_from_slice(&checkpoint.root.0);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{empty_root, leaf_hash};
    use ml_dsa::Keypair as _;

    fn cosigner(name: &str, byte: u8) -> Cosigner {
        let key = SigningKey::from_bytes(&[byte; 32]);
        Cosigner::new(Signer::new(name, key).expect("a name"))
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint::new("log.example/a", 7, leaf_hash(b"x"))
    }

    fn signed(lines: Vec<NoteSignature>) -> Note {
        let signer =
            Signer::new("log.example/a", SigningKey::from_bytes(&[1; 32])).expect("a name");
        let note = checkpoint().sign(&signer).expect("signed");
        let note = Note::parse(note.as_bytes()).expect("a note");
        let mut all = note.signatures().to_vec();
        all.extend(lines);
        note.with_signatures(all).expect("some")
    }

    /// The example of the document: the witness's line has the length, and the time of its text.
    #[test]
    fn the_line_of_the_document() {
        let line = "\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==";
        let line = NoteSignature::parse(line).expect("a signature line");
        assert_eq!(line.signature.len(), 8 + 64);
        assert_eq!(line.signature[..8], 1_679_315_147u64.to_be_bytes());
        let text =
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(
            ed25519_message(text, 1_679_315_147),
            format!("cosignature/v1\ntime 1679315147\n{text}").into_bytes()
        );
    }

    #[test]
    fn ed25519_cosignatures() {
        let witness = cosigner("w.example/1", 2);
        let key = CosignerKey::parse(&witness.key().to_string()).expect("a vkey");
        assert!(key == witness.key());
        assert!(matches!(
            crate::Verifier::parse(&key.to_string()),
            Err(VkeyError::Algorithm(4))
        ));
        let text = checkpoint().to_text();
        let (early, late) = (witness.cosign(&text, 5), witness.cosign(&text, 9));
        let when = |lines: Vec<NoteSignature>| key.cosigned(&checkpoint(), &signed(lines));
        assert_eq!(when(vec![late.clone(), early.clone()]), Ok(Some(9)));
        assert_eq!(when(vec![]), Ok(None));
        // Another's is not looked at, whatever stands in it.
        let mut other = cosigner("w.example/2", 3).cosign(&text, 5);
        other.signature[20] ^= 1;
        assert_eq!(when(vec![other.clone()]), Ok(None));
        assert_eq!(when(vec![other, early.clone()]), Ok(Some(5)));
        // One of its own that is wrong spoils all; so does one of another time or text.
        for at in [0, 7, 8, 71] {
            let mut wrong = early.clone();
            wrong.signature[at] ^= 1;
            assert!(when(vec![late.clone(), wrong]).is_err(), "byte {at}");
        }
        let mut short = early;
        short.signature.pop();
        assert!(when(vec![short]).is_err());
        let elsewhere = witness.cosign(&text.replace('7', "8"), 5);
        assert!(when(vec![elsewhere]).is_err());
        assert!(when(vec![witness.cosign(&text, u64::MAX)]).is_err());
        assert_eq!(when(vec![witness.cosign(&text, 0)]), Ok(None));
    }

    #[test]
    fn ml_dsa_cosignatures() {
        let seed = ml_dsa::Seed::from([7; 32]);
        let secret = ml_dsa::SigningKey::<MlDsa44>::from_seed(&seed);
        let name = "w.example/pq";
        let key = CosignerKey {
            name: name.to_owned(),
            key: Key::MlDsa44(Box::new(secret.verifying_key().clone())),
        };
        let key = CosignerKey::parse(&key.to_string()).expect("a vkey");
        assert_eq!(key.bytes().len(), 1312);
        // By the document, field by field.
        let message = |time: u64, size: u8| {
            let root = checkpoint().root.0;
            let mut m = b"subtree/v1\n\0\x0cw.example/pq".to_vec();
            m.extend(time.to_be_bytes());
            m.extend(b"\x0dlog.example/a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            m.push(size);
            m.extend(root);
            m
        };
        let line = |time: u64, size: u8| {
            let signature = secret
                .expanded_key()
                .sign_deterministic(&message(time, size), &[])
                .expect("signed")
                .encode();
            assert_eq!(signature.len(), 2420);
            NoteSignature {
                name: name.to_owned(),
                id: key.id(),
                signature: [&time.to_be_bytes(), signature.as_slice()].concat(),
            }
        };
        let when = |line| key.cosigned(&checkpoint(), &signed(vec![line]));
        assert_eq!(when(line(5, 7)), Ok(Some(5)));
        assert_eq!(when(line(0, 7)), Ok(None));
        assert!(when(line(5, 8)).is_err());
        let mut wrong = line(5, 7);
        wrong.signature[7] ^= 1;
        assert!(when(wrong).is_err());
        let long = Checkpoint::new(&"o".repeat(256), 0, empty_root());
        assert!(ml_dsa_message(name, 1, &long).is_none());
    }
}
