//! Exact answers about policies: proofs and counterexamples, never samples.
//!
//! * [`analyse`]: which rules never match, never decide or change nothing, and which conflict.
//! * [`diff`]: is one policy stricter than another over all actions, and what shows it.
//! * [`can`]: is there any action of a kind that a policy lets through.
//! * [`Language`]: what globs have in common, and whether one is inside another.
//!
//! The meaning is [`Policy::decide`](crate::Policy::decide); every action that is shown has been
//! confirmed by it. Objects are the canonical ones that faces hand over. Conditions are opaque: any
//! may hold, not hold or fail, the same text alike, and answers that rest on that say so. Labels that
//! the facts may name are free, too.
//!
//! How: patterns are automata (`product.rs`) inside automata of canonical objects (`universe.rs`), walked
//! breadth first; addresses are byte strings (`addresses.rs`), ports intervals (`objects.rs`); rules by
//! number (`model.rs`) with an index of which may meet (`index.rs`); cases and unknowns (`query.rs`). Everything is
//! bounded by [`Limits`]: what costs more is "not decided", never a guess.

mod addresses;
mod difference;
mod findings;
mod index;
mod language;
mod limits;
mod model;
mod objects;
mod product;
mod query;
mod reach;
mod shortcuts;
mod universe;
mod witness;

pub use difference::{Change, Difference, MarkChange, Verdict, diff};
pub use findings::{Analysis, Finding, FindingKind, Level, analyse};
pub use language::{Language, Member};
pub use limits::{Limits, TooLarge};
pub use model::Truth;
pub use reach::{Question, QuestionError, Reach, can, can_for};
pub use witness::{AnalyseError, Assumption, Witness};

#[cfg(test)]
mod samples;
