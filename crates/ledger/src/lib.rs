//! The ledger: an append-only transparency log whose every claim an outsider can check offline.
//!
//! A log is a folder in the C2SP tlog-tiles layout (`checkpoint`, `tile/…`, and a `lock` file):
//! entries in bundles, the RFC 6962 Merkle tree over them in tiles, and a checkpoint, signed with
//! Ed25519 as a C2SP signed note, that names size and root. Many threads and processes append
//! through [`Log`]; [`Reader`] reads entries and makes proofs; [`verify()`] recomputes everything.
//! [`entry`] is the schema of what AgentWall logs, one canonical JSON object per entry.
//! What an agent or a person wrote is not in the tree: [`entry::commitment`] is what stands there instead, and
//! [`text`] how the text itself, encrypted beside the log, is read and erased.
//! [`Witness`] cosigns checkpoints of other logs, [`TrustPolicy`] says how many of whose cosignatures
//! count, [`cosigned`] is what of this log is beyond its owner's reach by them. Nothing here is on a network.
//!
//! Invariants:
//! * A checkpoint is signed only on top of a right edge that was checked against the one before.
//! * An entry is durable before its number is returned, in the journal or in tiles under a checkpoint;
//!   bundles and tiles before the checkpoint.
//! * Every format is read in its one canonical spelling only, and links are never followed.
//!
//! What a log cannot show: that something was never handed to it, and, to somebody without an
//! older checkpoint, that the holder of the key has not written a new history.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cosignature;
pub mod cosigned;
pub mod defect;
pub mod entry;
pub mod erase;
pub mod hash;
pub mod head;
mod journal;
pub mod key;
pub mod log;
pub mod note;
pub mod proof;
pub mod prune;
pub mod read;
pub mod rotation;
pub mod sealed;
pub mod settle;
mod store;
pub mod subject;
pub mod text;
pub mod tile;
pub mod tlog_proof;
pub mod tree;
pub mod trust;
mod values;
pub mod verify;
pub mod witness;
mod writer;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use cosignature::{Cosigner, CosignerKey};
pub use cosigned::{Cosigned, CosignedError};
pub use defect::Defect;
pub use entry::{Entry, EntryError, Record};
pub use erase::EraseError;
pub use hash::Hash;
pub use head::HeadError;
pub use key::KeyError;
pub use log::{AppendError, Log, LogOptions};
pub use note::{Note, NoteError, Signer, Verifier, VkeyError};
pub use prune::{PruneError, prune};
pub use read::{ReadError, Reader};
pub use rotation::{KeyHistory, Rotation, RotationError};
pub use sealed::Sealed;
pub use settle::{NotSettled, settle};
pub use store::FileError;
pub use subject::{SubjectError, Subjects};
pub use text::{Told, Withheld};
pub use tlog_proof::{TlogProof, TlogProofError};
pub use trust::{TrustError, TrustPolicy, UntrustedError, Witnessed};
pub use values::TextFolders;
pub use verify::{Report, VerifyError, VerifyOptions, verify};
pub use witness::{Witness, WitnessError};
pub use writer::OpenError;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod rotation_tests;
