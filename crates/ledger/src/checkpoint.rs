//! Checkpoints (c2sp.org/tlog-checkpoint): what a log signs about its size and root.
//!
//! The body is the origin, the size in decimal and the root in base64, one line each; extension
//! lines may follow and are kept but never written here. The origin equals the name of the log's
//! key. A checkpoint is read only in its canonical spelling, so that equal statements have equal
//! bytes.

use crate::{
    hash::Hash,
    note::{Note, NoteError, Signer, Verifier},
};

/// What a log says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, a schema-less URL such as `agentwall.example/host`.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// Lines after the root; not checked by anything, empty in logs written here.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    pub fn new(origin: &str, size: u64, root: Hash) -> Self {
        Checkpoint {
            origin: origin.to_owned(),
            size,
            root,
            extensions: Vec::new(),
        }
    }

    /// The text that is signed.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            self.root.to_base64()
        );
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Reads the text of a checkpoint.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Lines);
        };
        if origin.is_empty() {
            return Err(CheckpointError::Origin);
        }
        let number: u64 = size
            .parse()
            .map_err(|_| CheckpointError::Size(size.to_owned()))?;
        // Also refuses "+1" and "007", which `parse` accepts.
        if number.to_string() != size {
            return Err(CheckpointError::Size(size.to_owned()));
        }
        let root = Hash::from_base64(root).ok_or_else(|| CheckpointError::Root(root.to_owned()))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(CheckpointError::Lines);
        }
        Ok(Checkpoint {
            origin: origin.to_owned(),
            size: number,
            root,
            extensions,
        })
    }

    /// The signed note, as it is stored in the file `checkpoint`.
    pub fn sign(&self, signer: &Signer) -> Result<String, NoteError> {
        signer.sign(&self.to_text())
    }

    /// The same with the signatures of two keys, where one follows the other.
    pub fn sign_both(&self, old: &Signer, new: &Signer) -> Result<String, NoteError> {
        let text = self.to_text();
        Ok(format!("{}{}\n", old.sign(&text)?, new.line(&text)))
    }

    /// Reads a signed note without looking at the signatures.
    pub fn parse_note(bytes: &[u8]) -> Result<(Self, Note), CheckpointError> {
        let note = Note::parse(bytes)?;
        Ok((Checkpoint::parse(note.text())?, note))
    }

    /// Reads a signed note and checks that `key` has signed it and that it is of the log that the
    /// key names.
    pub fn open(bytes: &[u8], key: &Verifier) -> Result<Self, CheckpointError> {
        let (checkpoint, note) = Checkpoint::parse_note(bytes)?;
        note.verify(key)?;
        if checkpoint.origin != key.name() {
            return Err(CheckpointError::OtherLog {
                expected: key.name().to_owned(),
                found: checkpoint.origin,
            });
        }
        Ok(checkpoint)
    }
}

/// Why a checkpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note around it; a wrong or missing signature is one of these.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Not three lines or an empty extension line.
    #[error("expected the lines origin, size and root, each ended by a newline")]
    Lines,
    /// No origin.
    #[error("the origin line is empty")]
    Origin,
    /// The size line.
    #[error("expected the size in decimal without leading zeros, found {0:?}")]
    Size(String),
    /// The root line.
    #[error("expected a root of 32 bytes in canonical base64, found {0:?}")]
    Root(String),
    /// Signed by the key, but for another log.
    #[error("expected the log {expected:?}, found a checkpoint of {found:?}")]
    OtherLog {
        /// The key's name.
        expected: String,
        /// The origin line.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::empty_root;

    #[test]
    fn one_spelling() {
        let cp = Checkpoint::new("log.example", 70_000, empty_root());
        let text = cp.to_text();
        assert_eq!(
            text,
            "log.example\n70000\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        );
        assert_eq!(Checkpoint::parse(&text), Ok(cp.clone()));
        let extended = Checkpoint::parse(&format!("{text}more\n")).expect("an extension line");
        assert_eq!(extended.extensions, ["more"]);
        assert_eq!(extended.to_text(), format!("{text}more\n"));
        let size = |s: &str| CheckpointError::Size(s.to_owned());
        for (bad, error) in [
            (text.replace("70000", "070000"), size("070000")),
            (text.replace("70000", "+70000"), size("+70000")),
            (text.replace("70000", "-1"), size("-1")),
            (
                text.replace("70000", "18446744073709551616"),
                size("18446744073709551616"),
            ),
            (text.replace("log.example", ""), CheckpointError::Origin),
            (text.trim_end().to_owned(), CheckpointError::Lines),
            (format!("{text}\n"), CheckpointError::Lines),
            ("a\n1\n".to_owned(), CheckpointError::Lines),
            (
                text.replace("FU=", "FV="),
                CheckpointError::Root("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=".into()),
            ),
        ] {
            assert_eq!(Checkpoint::parse(&bad), Err(error), "{bad:?}");
        }
    }
}
