//! x
#![forbid(unsafe_code)]
mod bytes; mod change; mod clock; mod content; mod dir; mod layer; mod record; mod scan;
pub use change::*; pub use clock::base_timestamp; pub use dir::{EntryKind, Snapshot}; pub use layer::*; pub use scan::{ScanError, ScanOptions, scan, scan_with};
