//! The race: the same rule sets and requests in every engine.

pub mod clock;
pub mod engines;
pub mod rules;
