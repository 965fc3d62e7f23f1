//! What can be wrong with the files of a log. One vocabulary for the writer, which must not sign
//! on top of any of it, for the reader and for the verifier.

use crate::{hash::Hash, note::VkeyError, store::FileError};

/// A defect of the stored log; file names are relative to the log's folder.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// A file that the log's size calls for is not there.
    #[error("{file} is missing: it was removed, or the copy of the log is not complete")]
    Missing {
        /// Which.
        file: String,
    },
    /// A symbolic link, folder, FIFO or device in place of a file.
    #[error("{file} is not a regular file; links are not followed in a log")]
    NotAFile {
        /// Which.
        file: String,
    },
    /// A tile whose length does not fit its name.
    #[error("{file} is {found} bytes long, expected {expected}")]
    Length {
        /// Which.
        file: String,
        /// Bytes expected.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A bundle that ends in the middle of an entry.
    #[error("{file} ends in the middle of entry {index}: the bundle was cut")]
    TornBundle {
        /// Which.
        file: String,
        /// The entry that is not whole.
        index: u64,
    },
    /// A bundle with fewer entries than its name says.
    #[error("{file} holds {found} entries, expected {expected}: entries were removed")]
    EntryCount {
        /// Which.
        file: String,
        /// Entries expected.
        expected: u16,
        /// Entries found.
        found: u16,
    },
    /// A bundle with bytes after its last entry.
    #[error("{file} has {bytes} bytes after its last entry")]
    TrailingBytes {
        /// Which.
        file: String,
        /// How many.
        bytes: usize,
    },
    /// An entry that is not the one that was logged.
    #[error(
        "entry {index} in {file} is not what was logged: its hash is {found}, expected {expected}"
    )]
    EntryChanged {
        /// In which bundle.
        file: String,
        /// The entry.
        index: u64,
        /// The hash in the tree.
        expected: Hash,
        /// The hash of what is stored.
        found: Hash,
    },
    /// A tile that is not the one the tree was built with.
    #[error("{file} was changed{}: its hashes do not lead to the level above", position(.index))]
    TileChanged {
        /// Which.
        file: String,
        /// The first wrong hash in it, from 0, where that can be told.
        index: Option<u16>,
    },
    /// The stored entries give another root than the signed one.
    #[error("the tree of {size} entries has the root {found}, but the checkpoint signs {expected}")]
    Root {
        /// Size of the log.
        size: u64,
        /// The signed root.
        expected: Hash,
        /// The root of what is stored.
        found: Hash,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

fn position(index: &Option<u16>) -> String {
    index.map_or_else(String::new, |i| format!(" at hash {i}"))
}

/// Why a private key file is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A link, folder or device.
    #[error("{path} is not a regular file: a key is never read through a link")]
    NotAFile {
        /// The key file.
        path: std::path::PathBuf,
    },
    /// Something is there already where a new key was to be.
    #[error("{path} exists: a key is never overwritten; name another file, or move that one away")]
    Exists {
        /// The key file.
        path: std::path::PathBuf,
    },
    /// Others may read or write it.
    #[error(
        "{path} has mode {mode:04o}, expected 0600: others could read or replace the key; check who did, then `chmod 600` it or replace the key"
    )]
    Mode {
        /// The key file.
        path: std::path::PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a private key text.
    #[error("{path} is not a private key text ('PRIVATE+KEY+…'): {source}")]
    Text {
        /// The key file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: VkeyError,
    },
    /// A key of another log.
    #[error("{path} holds the key of {found:?}, expected {expected:?}")]
    OtherName {
        /// The key file.
        path: std::path::PathBuf,
        /// The wanted name.
        expected: String,
        /// The name in the file.
        found: String,
    },
    /// The name cannot be a key name.
    #[error(transparent)]
    Name(VkeyError),
    /// The system has no randomness.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}
