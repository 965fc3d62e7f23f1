//! The policy engine beside other engines: a second opinion, and a race.
//!
//! [`oracle`] asks cedar-policy and this project the same questions, on the part of the language that
//! both can say, and shrinks every difference. The race (`src/bin/race.rs`) measures deciding,
//! compiling and memory on the same rule sets. The crate is a workspace of its own, so that the other
//! engines are no part of the product's build; what is measured is the release profile.

#![forbid(unsafe_code)]

pub mod oracle;
#[cfg(feature = "race")]
pub mod race;
