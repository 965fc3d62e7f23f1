//! The commands, one module each (`run`, `why`, `doctor` and `selftest` are modules of their own).

pub mod agents;
pub mod approvals;
pub mod checkpoint;
pub mod commit;
pub mod daemon;
pub mod diff;
pub mod discard;
pub mod export;
pub mod gateway;
pub mod gc;
pub mod identity;
pub mod import;
pub mod init;
pub mod ledger;
pub mod manual;
pub mod mcp;
pub mod policy;
pub mod protect;
pub mod review;
pub mod rollback;
pub mod serve;
pub mod sessions;
pub mod undo;
pub mod witness;
pub mod word;
