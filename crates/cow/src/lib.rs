//! x
#![forbid(unsafe_code)]
mod apply; mod bytes; mod change; mod clock; mod commit; mod content; mod dir; mod discard; mod layer; mod record; mod scan; mod upper;
pub use change::*; pub use clock::base_timestamp; pub use dir::{EntryKind, Snapshot}; pub use layer::*; pub use scan::{ScanError, ScanOptions, scan, scan_with};
pub use commit::{CommitError, CommitOptions, CommitReport, Disposition, HoldReason, Outcome, Status, commit}; pub use discard::{DiscardError, discard, discard_all};
